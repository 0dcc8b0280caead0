//! What deciding answers: an [`Outcome`] that goes back to the asker, or a [`Rejection`], a business
//! "no" that changed nothing. Faults (disk, corruption) are no part of the rules.

use crate::id::{ResourceId, RoleId};
use crate::records::{Digest, Revision, Version};

/// What a committed command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; nothing more to say.
    Done,
    /// A secret's current version, and whether this command added it.
    SecretSet {
        /// The version now current.
        version: Version,
        /// False when the value was the same and nothing was added.
        added: bool,
    },
    /// A policy's new version.
    PolicyLoaded {
        /// Counts the loads of that policy.
        version: u32,
    },
    /// The id of the admitted node.
    MemberAdmitted {
        /// Its node id.
        node: u64,
    },
    /// The host factory tokens that now are.
    HostFactoryTokensIssued {
        /// SHA-256 of each.
        digests: Vec<Digest>,
    },
    /// How far the audit chain has a node's records.
    AuditAppended {
        /// Number of the last that it has; the next batch has to follow it.
        last: u64,
    },
}

/// A business "no": data for the client, nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The resource is not there, or the actor may not know that it is.
    #[error("{resource} not found")]
    NotFound {
        /// What was asked for.
        resource: ResourceId,
    },
    /// The actor sees the resource and lacks the privilege.
    #[error("{role} may not {privilege} {resource}")]
    Forbidden {
        /// Who asked.
        role: RoleId,
        /// What it lacks.
        privilege: String,
        /// On what.
        resource: ResourceId,
    },
    /// The proof of identity no longer holds.
    #[error("the credentials have changed since they were checked")]
    Unauthenticated,
    /// The role holds no credentials.
    #[error("{role} holds no credentials")]
    NoCredentials {
        /// Which.
        role: RoleId,
    },
    /// The plan was made from an older state; plan again.
    #[error("planned at revision {planned:?}, now at {current:?}")]
    Stale {
        /// The revision in the plan.
        planned: Revision,
        /// The revision in force.
        current: Revision,
    },
    /// Something of that name is there already.
    #[error("{what} \"{id}\" already exists")]
    Exists {
        /// What sort of thing.
        what: String,
        /// Its name.
        id: String,
    },
    /// The command contradicts the rules; the text says how.
    #[error("{0}")]
    Invalid(String),
    /// A join token is unknown, used, expired, or for another node.
    #[error("join token refused: {0}")]
    JoinTokenRefused(String),
}

/// What a command was answered with: stored beside its request id, sent back to the proposer.
pub type Reply = Result<Outcome, Rejection>;

pub mod codec;
mod v1;
