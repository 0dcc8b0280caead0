//! Version 1 of a reply's bytes. Never edited: a change of shape is a new module beside this one.

use serde::{Deserialize, Serialize};

use super::{Outcome, Rejection, Reply};
use crate::id::{ResourceId, RoleId};
use crate::records::{Digest, Revision, Version};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ReplyV1 {
    Done,
    SecretSet { version: u32, added: bool },
    PolicyLoaded { version: u32 },
    MemberAdmitted { node: u64 },
    NotFound { resource: ResourceId },
    Forbidden { role: RoleId, privilege: String, resource: ResourceId },
    Unauthenticated,
    NoCredentials { role: RoleId },
    Stale { planned: u64, current: u64 },
    Exists { what: String, id: String },
    Invalid(String),
    JoinTokenRefused(String),
    HostFactoryTokensIssued { digests: Vec<[u8; 32]> },
    AuditAppended { last: u64 },
}

impl From<&Reply> for ReplyV1 {
    fn from(reply: &Reply) -> Self {
        match reply {
            Ok(Outcome::Done) => Self::Done,
            Ok(Outcome::SecretSet { version, added }) => {
                Self::SecretSet { version: version.0, added: *added }
            }
            Ok(Outcome::PolicyLoaded { version }) => Self::PolicyLoaded { version: *version },
            Ok(Outcome::MemberAdmitted { node }) => Self::MemberAdmitted { node: *node },
            Ok(Outcome::HostFactoryTokensIssued { digests }) => Self::HostFactoryTokensIssued {
                digests: digests.iter().map(|digest| digest.0).collect(),
            },
            Ok(Outcome::AuditAppended { last }) => Self::AuditAppended { last: *last },
            Err(Rejection::NotFound { resource }) => Self::NotFound { resource: resource.clone() },
            Err(Rejection::Forbidden { role, privilege, resource }) => Self::Forbidden {
                role: role.clone(),
                privilege: privilege.clone(),
                resource: resource.clone(),
            },
            Err(Rejection::Unauthenticated) => Self::Unauthenticated,
            Err(Rejection::NoCredentials { role }) => Self::NoCredentials { role: role.clone() },
            Err(Rejection::Stale { planned, current }) => {
                Self::Stale { planned: planned.0, current: current.0 }
            }
            Err(Rejection::Exists { what, id }) => {
                Self::Exists { what: what.clone(), id: id.clone() }
            }
            Err(Rejection::Invalid(why)) => Self::Invalid(why.clone()),
            Err(Rejection::JoinTokenRefused(why)) => Self::JoinTokenRefused(why.clone()),
        }
    }
}

impl From<ReplyV1> for Reply {
    fn from(reply: ReplyV1) -> Self {
        match reply {
            ReplyV1::Done => Ok(Outcome::Done),
            ReplyV1::SecretSet { version, added } => {
                Ok(Outcome::SecretSet { version: Version(version), added })
            }
            ReplyV1::PolicyLoaded { version } => Ok(Outcome::PolicyLoaded { version }),
            ReplyV1::MemberAdmitted { node } => Ok(Outcome::MemberAdmitted { node }),
            ReplyV1::HostFactoryTokensIssued { digests } => {
                let digests = digests.into_iter().map(Digest).collect();
                Ok(Outcome::HostFactoryTokensIssued { digests })
            }
            ReplyV1::AuditAppended { last } => Ok(Outcome::AuditAppended { last }),
            ReplyV1::NotFound { resource } => Err(Rejection::NotFound { resource }),
            ReplyV1::Forbidden { role, privilege, resource } => {
                Err(Rejection::Forbidden { role, privilege, resource })
            }
            ReplyV1::Unauthenticated => Err(Rejection::Unauthenticated),
            ReplyV1::NoCredentials { role } => Err(Rejection::NoCredentials { role }),
            ReplyV1::Stale { planned, current } => {
                Err(Rejection::Stale { planned: Revision(planned), current: Revision(current) })
            }
            ReplyV1::Exists { what, id } => Err(Rejection::Exists { what, id }),
            ReplyV1::Invalid(why) => Err(Rejection::Invalid(why)),
            ReplyV1::JoinTokenRefused(why) => Err(Rejection::JoinTokenRefused(why)),
        }
    }
}
