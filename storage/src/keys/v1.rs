//! Version 1 of the rows: bodies in bincode's standard configuration, borrowing on both ways so that
//! a row is copied once. Ids are text, times are milliseconds, addresses are text. Never edit this
//! module; see [`super`].

use std::borrow::Cow;

use bincode::config::{Configuration, Limit, standard};
use conclave_domain::audit::{AuditBlock, AuditHead, AuditTexts};
use conclave_domain::certificates::{
    Certificate, CertificateKey, CertificateRecord, Condition, Origin,
};
use conclave_domain::effect::Row;
use conclave_domain::id::{AccountName, Id, ResourceId};
use conclave_domain::records::{
    Account, Annotation, Answered, AuthenticatorConfig, Credential, Digest, Fingerprint,
    HostFactoryToken, Issuer, IssuerKey, JoinToken, Member, MemberRole, Membership, MembershipKey,
    Permission, PermissionKey, PolicyVersion, RequestId, Resource, Revision, Role, Sealed,
    SecretVersion, SigningKey, Version, WrappedKeyring,
};
use conclave_domain::time::{LogIndex, Timestamp};
use serde::{Deserialize, Serialize};

use super::Table;
use crate::error::Fault;

pub(super) const VERSION: u8 = 1;

/// Longest body read, so that damaged lengths cannot ask for memory.
const BODY_BYTES_MAX: usize = 64 << 20;

fn config()
-> Configuration<bincode::config::LittleEndian, bincode::config::Varint, Limit<BODY_BYTES_MAX>> {
    standard().with_limit::<BODY_BYTES_MAX>()
}

#[derive(Serialize, Deserialize)]
struct AccountV1<'a> {
    created_at: i64,
    revision: u64,
    key_id: &'a str,
    key_public: &'a [u8],
    key_private: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct RoleV1<'a> {
    created_at: i64,
    #[serde(borrow)]
    policy: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct ResourceV1<'a> {
    #[serde(borrow)]
    owner: Cow<'a, str>,
    created_at: i64,
    #[serde(borrow)]
    policy: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct MembershipV1<'a> {
    admin_option: bool,
    #[serde(borrow)]
    policy: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct PermissionV1<'a> {
    #[serde(borrow)]
    policy: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct AnnotationV1<'a> {
    value: &'a str,
    #[serde(borrow)]
    policy: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct CredentialV1<'a> {
    api_key: &'a [u8],
    api_key_digest: [u8; 32],
    rotated_at: i64,
    password_hash: Option<&'a str>,
    restricted_to: Vec<String>,
}

/// Of before [`super::v2`]; read, and not written any more.
#[derive(Deserialize)]
struct SecretVersionV1 {
    fingerprint: [u8; 16],
    expires_at: Option<i64>,
    created_at: i64,
}

#[derive(Serialize, Deserialize)]
struct PolicyVersionV1<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    created_at: i64,
    finished_at: i64,
    client_ip: &'a str,
    policy_text: &'a str,
    policy_sha256: &'a str,
}

#[derive(Serialize, Deserialize)]
struct KeyringV1<'a> {
    generation: u32,
    wrapped: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct JoinTokenV1<'a> {
    name: &'a str,
    role: u8,
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
struct MemberV1<'a> {
    name: &'a str,
    role: u8,
    node_key: [u8; 32],
    peer_address: &'a str,
    api_url: &'a str,
}

#[derive(Serialize, Deserialize)]
struct HostFactoryTokenV1<'a> {
    #[serde(borrow)]
    factory: Cow<'a, str>,
    sealed: &'a [u8],
    cidr: Vec<String>,
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
struct AuthenticatorConfigV1 {
    enabled: bool,
}

#[derive(Serialize, Deserialize)]
struct IssuerV1<'a> {
    kind: &'a str,
    max_ttl: u32,
    data: &'a [u8],
    created_at: i64,
    modified_at: i64,
}

/// Of before [`super::v2`]; read, and not written any more.
#[derive(Deserialize)]
struct AuditRecordV1<'a> {
    node: u64,
    sequence: u64,
    hash: [u8; 32],
    text: &'a str,
}

#[derive(Serialize, Deserialize)]
struct AuditHeadV1 {
    first: u64,
    base: [u8; 32],
    last: u64,
    hash: [u8; 32],
    checkpointed: u64,
}

#[derive(Serialize, Deserialize)]
struct AuditSourceV1 {
    last: u64,
}

#[derive(Serialize, Deserialize)]
struct LevelV1 {
    level: u32,
}

#[derive(Serialize, Deserialize)]
struct CertificateV1<'a> {
    origin: OriginV1,
    #[serde(borrow)]
    issuer: Option<(&'a str, u32)>,
    chain_pem: &'a str,
    key: &'a [u8],
    #[serde(borrow)]
    names: Vec<&'a str>,
    #[serde(borrow)]
    configured: Vec<&'a str>,
    #[serde(borrow)]
    nodes: Vec<&'a str>,
    holders: Vec<u64>,
    not_before: i64,
    not_after: i64,
    renew_at: i64,
    installed_at: i64,
    #[serde(borrow)]
    condition: ConditionV1<'a>,
}

#[derive(Serialize, Deserialize)]
enum OriginV1 {
    Internal,
    Imported,
}

#[derive(Serialize, Deserialize)]
enum ConditionV1<'a> {
    Ready,
    Issuing,
    Failed { reason: &'a str, attempts: u32, next_try: i64 },
}

/// Appends a row's body.
pub(super) fn put_body(out: &mut Vec<u8>, row: &Row) -> Result<(), Fault> {
    match row {
        Row::Account(_, account) => put(
            out,
            &AccountV1 {
                created_at: account.created_at.0,
                revision: account.revision.0,
                key_id: &account.signing_key.id,
                key_public: &account.signing_key.public,
                key_private: &account.signing_key.private.0,
            },
        ),
        Row::Role(_, role) => put(
            out,
            &RoleV1 { created_at: role.created_at.0, policy: policy_text(role.policy.as_ref()) },
        ),
        Row::Resource(_, resource) => put(
            out,
            &ResourceV1 {
                owner: resource.owner.to_string().into(),
                created_at: resource.created_at.0,
                policy: policy_text(resource.policy.as_ref()),
            },
        ),
        Row::Membership(_, membership) => put(
            out,
            &MembershipV1 {
                admin_option: membership.admin_option,
                policy: policy_text(membership.policy.as_ref()),
            },
        ),
        Row::Permission(_, permission) => {
            put(out, &PermissionV1 { policy: policy_text(permission.policy.as_ref()) })
        }
        Row::Annotation(_, _, annotation) => put(
            out,
            &AnnotationV1 {
                value: &annotation.value,
                policy: policy_text(annotation.policy.as_ref()),
            },
        ),
        Row::Credential(_, credential) => put(
            out,
            &CredentialV1 {
                api_key: &credential.api_key.0,
                api_key_digest: credential.api_key_digest.0,
                rotated_at: credential.rotated_at.0,
                password_hash: credential.password_hash.as_deref(),
                restricted_to: credential.restricted_to.iter().map(ToString::to_string).collect(),
            },
        ),
        Row::PolicyVersion(_, _, version) => put(
            out,
            &PolicyVersionV1 {
                role: version.role.to_string().into(),
                created_at: version.created_at.0,
                finished_at: version.finished_at.0,
                client_ip: &version.client_ip,
                policy_text: &version.policy_text,
                policy_sha256: &version.policy_sha256,
            },
        ),
        Row::Keyring(keyring) => {
            put(out, &KeyringV1 { generation: keyring.generation, wrapped: &keyring.wrapped.0 })
        }
        Row::JoinToken(_, token) => put(
            out,
            &JoinTokenV1 {
                name: &token.name,
                role: member_role_byte(token.role),
                expires_at: token.expires_at.0,
            },
        ),
        Row::Member(_, member) => put(
            out,
            &MemberV1 {
                name: &member.name,
                role: member_role_byte(member.role),
                node_key: member.node_key,
                peer_address: &member.peer_address,
                api_url: &member.api_url,
            },
        ),
        Row::Answered(_, answered) => {
            out.extend_from_slice(&answered.reply);
            Ok(())
        }
        Row::HostFactoryToken(_, token) => put(
            out,
            &HostFactoryTokenV1 {
                factory: token.factory.to_string().into(),
                sealed: &token.sealed.0,
                cidr: token.cidr.iter().map(ToString::to_string).collect(),
                expires_at: token.expires_at.0,
            },
        ),
        Row::AuthenticatorConfig(_, config) => {
            put(out, &AuthenticatorConfigV1 { enabled: config.enabled })
        }
        Row::Issuer(_, issuer) => put(
            out,
            &IssuerV1 {
                kind: &issuer.kind,
                max_ttl: issuer.max_ttl,
                data: &issuer.data.0,
                created_at: issuer.created_at.0,
                modified_at: issuer.modified_at.0,
            },
        ),
        // Version 2 has what is written of them.
        Row::AuditBlock(..) | Row::SecretVersion(..) | Row::SecretValue(..) => {
            Err(Fault::corrupt("a row to be written", "it has a later version"))
        }
        Row::AuditHead(head) => put(
            out,
            &AuditHeadV1 {
                first: head.first,
                base: head.base.0,
                last: head.last,
                hash: head.hash.0,
                checkpointed: head.checkpointed,
            },
        ),
        Row::AuditSource(_, last) => put(out, &AuditSourceV1 { last: *last }),
        Row::Level(level) => put(out, &LevelV1 { level: *level }),
        Row::Certificate(_, record) => {
            let one = &record.certificate;
            put(
                out,
                &CertificateV1 {
                    origin: match one.origin {
                        Origin::Internal => OriginV1::Internal,
                        Origin::Imported => OriginV1::Imported,
                    },
                    issuer: one.issuer.as_ref().map(|key| (key.name.as_str(), key.generation)),
                    chain_pem: &one.chain_pem,
                    key: &one.key.0,
                    names: one.names.iter().map(String::as_str).collect(),
                    configured: one.configured.iter().map(String::as_str).collect(),
                    nodes: one.nodes.iter().map(String::as_str).collect(),
                    holders: one.holders.clone(),
                    not_before: one.not_before.0,
                    not_after: one.not_after.0,
                    renew_at: one.renew_at.0,
                    installed_at: record.installed_at.0,
                    condition: match &record.condition {
                        Condition::Ready => ConditionV1::Ready,
                        Condition::Issuing => ConditionV1::Issuing,
                        Condition::Failed { reason, attempts, next_try } => ConditionV1::Failed {
                            reason,
                            attempts: *attempts,
                            next_try: next_try.0,
                        },
                    },
                },
            )
        }
    }
}

/// Reads a row from its key (after the table byte) and body.
pub(super) fn row(table: Table, key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let parser = Parser { table };
    Ok(match table {
        Table::Mark | Table::History => return Err(parser.damaged("it is no row")),
        Table::Account => {
            let name = AccountName::new(parser.text(key)?).map_err(|e| parser.damaged(e))?;
            let AccountV1 { created_at, revision, key_id, key_public, key_private } =
                parser.body(body)?;
            Row::Account(
                name,
                Account {
                    created_at: Timestamp(created_at),
                    revision: Revision(revision),
                    signing_key: SigningKey {
                        id: key_id.to_owned(),
                        public: key_public.to_vec(),
                        private: Sealed(key_private.to_vec()),
                    },
                },
            )
        }
        Table::Role => {
            let RoleV1 { created_at, policy } = parser.body(body)?;
            let policy = parser.policy(policy)?;
            Row::Role(parser.id(key)?, Role { created_at: Timestamp(created_at), policy })
        }
        Table::Resource => {
            let ResourceV1 { owner, created_at, policy } = parser.body(body)?;
            Row::Resource(
                parser.id(key)?,
                Resource {
                    owner: parser.id(owner.as_bytes())?,
                    created_at: Timestamp(created_at),
                    policy: parser.policy(policy)?,
                },
            )
        }
        Table::Membership => {
            let (role, rest) = parser.split(key)?;
            let (member, rest) = parser.split(rest)?;
            let ownership = match rest {
                [0] => false,
                [1] => true,
                _ => return Err(parser.damaged("its key does not end as it should")),
            };
            let MembershipV1 { admin_option, policy } = parser.body(body)?;
            Row::Membership(
                MembershipKey { role: parser.id(role)?, member: parser.id(member)?, ownership },
                Membership { admin_option, policy: parser.policy(policy)? },
            )
        }
        Table::Permission => {
            let (resource, rest) = parser.split(key)?;
            let (role, privilege) = parser.split(rest)?;
            let PermissionV1 { policy } = parser.body(body)?;
            let key = PermissionKey {
                resource: parser.id(resource)?,
                role: parser.id(role)?,
                privilege: parser.text(privilege)?.to_owned(),
            };
            Row::Permission(key, Permission { policy: parser.policy(policy)? })
        }
        Table::Annotation => {
            let (resource, name) = parser.split(key)?;
            let AnnotationV1 { value, policy } = parser.body(body)?;
            let annotation = Annotation { value: value.to_owned(), policy: parser.policy(policy)? };
            Row::Annotation(parser.id(resource)?, parser.text(name)?.to_owned(), annotation)
        }
        Table::Credential => {
            let body: CredentialV1<'_> = parser.body(body)?;
            let restricted_to = body.restricted_to.iter().map(|net| net.parse());
            Row::Credential(
                parser.id(key)?,
                Credential {
                    api_key: Sealed(body.api_key.to_vec()),
                    api_key_digest: Digest(body.api_key_digest),
                    rotated_at: Timestamp(body.rotated_at),
                    password_hash: body.password_hash.map(str::to_owned),
                    restricted_to: restricted_to
                        .collect::<Result<_, _>>()
                        .map_err(|_| parser.damaged("it holds no address where one belongs"))?,
                },
            )
        }
        Table::Secret => {
            let (id, number) = parser.numbered(key)?;
            let SecretVersionV1 { fingerprint, expires_at, created_at } = parser.body(body)?;
            Row::SecretVersion(
                id,
                Version(number),
                SecretVersion {
                    fingerprint: Fingerprint(fingerprint),
                    expires_at: expires_at.map(Timestamp),
                    created_at: Timestamp(created_at),
                },
            )
        }
        Table::SecretValueV1 => {
            let (id, number) = parser.numbered(key)?;
            Row::SecretValue(id, Version(number), Sealed(body.to_vec()))
        }
        Table::PolicyVersion => {
            let (id, number) = parser.numbered(key)?;
            let body: PolicyVersionV1<'_> = parser.body(body)?;
            Row::PolicyVersion(
                id,
                number,
                PolicyVersion {
                    role: parser.id(body.role.as_bytes())?,
                    created_at: Timestamp(body.created_at),
                    finished_at: Timestamp(body.finished_at),
                    client_ip: body.client_ip.to_owned(),
                    policy_text: body.policy_text.to_owned(),
                    policy_sha256: body.policy_sha256.to_owned(),
                },
            )
        }
        Table::Keyring => {
            let KeyringV1 { generation, wrapped } = parser.body(body)?;
            Row::Keyring(WrappedKeyring { generation, wrapped: Sealed(wrapped.to_vec()) })
        }
        Table::JoinToken => {
            let JoinTokenV1 { name, role, expires_at } = parser.body(body)?;
            Row::JoinToken(
                Digest(parser.array(key)?),
                JoinToken {
                    name: name.to_owned(),
                    role: parser.member_role(role)?,
                    expires_at: Timestamp(expires_at),
                    cidr: Vec::new(),
                },
            )
        }
        Table::Member => {
            let body: MemberV1<'_> = parser.body(body)?;
            Row::Member(
                u64::from_be_bytes(parser.array(key)?),
                Member {
                    name: body.name.to_owned(),
                    role: parser.member_role(body.role)?,
                    node_key: body.node_key,
                    peer_address: body.peer_address.to_owned(),
                    api_url: body.api_url.to_owned(),
                },
            )
        }
        Table::Answered => {
            let (index, request) = key
                .split_first_chunk::<8>()
                .ok_or_else(|| parser.damaged("its key is too short"))?;
            let index = LogIndex(u64::from_be_bytes(*index));
            let answered = Answered { index, reply: body.to_vec() };
            Row::Answered(RequestId(parser.array(request)?), answered)
        }
        Table::HostFactoryToken => {
            let body: HostFactoryTokenV1<'_> = parser.body(body)?;
            let cidr = body.cidr.iter().map(|net| net.parse());
            Row::HostFactoryToken(
                Digest(parser.array(key)?),
                HostFactoryToken {
                    factory: parser.id(body.factory.as_bytes())?,
                    sealed: Sealed(body.sealed.to_vec()),
                    cidr: cidr
                        .collect::<Result<_, _>>()
                        .map_err(|_| parser.damaged("it holds no address where one belongs"))?,
                    expires_at: Timestamp(body.expires_at),
                    uses_left: None,
                },
            )
        }
        Table::AuthenticatorConfig => {
            let AuthenticatorConfigV1 { enabled } = parser.body(body)?;
            Row::AuthenticatorConfig(parser.id(key)?, AuthenticatorConfig { enabled })
        }
        Table::Issuer => {
            let (account, issuer) = parser.split(key)?;
            let account = AccountName::new(parser.text(account)?);
            let body: IssuerV1<'_> = parser.body(body)?;
            Row::Issuer(
                IssuerKey {
                    account: account.map_err(|error| parser.damaged(error))?,
                    issuer: parser.text(issuer)?.to_owned(),
                },
                Issuer {
                    kind: body.kind.to_owned(),
                    max_ttl: body.max_ttl,
                    data: Sealed(body.data.to_vec()),
                    created_at: Timestamp(body.created_at),
                    modified_at: Timestamp(body.modified_at),
                },
            )
        }
        Table::AuditBlock => {
            let body: AuditRecordV1<'_> = parser.body(body)?;
            let block = AuditBlock {
                node: body.node,
                sequence: body.sequence,
                hashes: vec![Digest(body.hash)],
                texts: AuditTexts::plain(&[body.text]),
            };
            Row::AuditBlock(u64::from_be_bytes(parser.array(key)?), block)
        }
        Table::AuditHead => {
            let body: AuditHeadV1 = parser.body(body)?;
            Row::AuditHead(AuditHead {
                first: body.first,
                base: Digest(body.base),
                last: body.last,
                hash: Digest(body.hash),
                checkpointed: body.checkpointed,
            })
        }
        Table::AuditSource => {
            let AuditSourceV1 { last } = parser.body(body)?;
            Row::AuditSource(u64::from_be_bytes(parser.array(key)?), last)
        }
        Table::Certificate => {
            let (name, generation) = parser.split(key)?;
            let key = CertificateKey {
                name: parser.text(name)?.to_owned(),
                generation: u32::from_be_bytes(parser.array(generation)?),
            };
            Row::Certificate(key, certificate(parser.body(body)?))
        }
        Table::Level => {
            let LevelV1 { level } = parser.body(body)?;
            Row::Level(level)
        }
    })
}

fn certificate(body: CertificateV1<'_>) -> CertificateRecord {
    let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
    CertificateRecord {
        certificate: Certificate {
            origin: match body.origin {
                OriginV1::Internal => Origin::Internal,
                OriginV1::Imported => Origin::Imported,
            },
            issuer: body
                .issuer
                .map(|(name, generation)| CertificateKey { name: name.to_owned(), generation }),
            chain_pem: body.chain_pem.to_owned(),
            key: Sealed(body.key.to_vec()),
            names: owned(body.names),
            configured: owned(body.configured),
            nodes: owned(body.nodes),
            holders: body.holders,
            not_before: Timestamp(body.not_before),
            not_after: Timestamp(body.not_after),
            renew_at: Timestamp(body.renew_at),
        },
        installed_at: Timestamp(body.installed_at),
        condition: match body.condition {
            ConditionV1::Ready => Condition::Ready,
            ConditionV1::Issuing => Condition::Issuing,
            ConditionV1::Failed { reason, attempts, next_try } => Condition::Failed {
                reason: reason.to_owned(),
                attempts,
                next_try: Timestamp(next_try),
            },
        },
    }
}

pub(super) fn put<T: Serialize>(out: &mut Vec<u8>, body: &T) -> Result<(), Fault> {
    bincode::serde::encode_into_std_write(body, out, config())
        .map(drop)
        .map_err(|error| Fault::corrupt("a row to be written", error.to_string()))
}

fn policy_text(policy: Option<&ResourceId>) -> Option<Cow<'static, str>> {
    policy.map(|id| id.to_string().into())
}

pub(super) fn member_role_byte(role: MemberRole) -> u8 {
    match role {
        MemberRole::Voter => 1,
        MemberRole::Follower => 2,
    }
}

pub(super) struct Parser {
    pub(super) table: Table,
}

impl Parser {
    pub(super) fn damaged(&self, detail: impl std::fmt::Display) -> Fault {
        Fault::corrupt(format!("a row of table {:?}", self.table), format!("{detail}"))
    }

    pub(super) fn body<'a, T: Deserialize<'a>>(&self, bytes: &'a [u8]) -> Result<T, Fault> {
        let (body, read) = bincode::serde::borrow_decode_from_slice(bytes, config())
            .map_err(|error| self.damaged(error))?;
        if read == bytes.len() { Ok(body) } else { Err(self.damaged("bytes follow its end")) }
    }

    fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, Fault> {
        std::str::from_utf8(bytes).map_err(|error| self.damaged(error))
    }

    pub(super) fn id(&self, bytes: &[u8]) -> Result<Id, Fault> {
        Id::parse(self.text(bytes)?, None).map_err(|error| self.damaged(error))
    }

    fn policy(&self, text: Option<Cow<'_, str>>) -> Result<Option<Id>, Fault> {
        text.map(|text| self.id(text.as_bytes())).transpose()
    }

    pub(super) fn split<'a>(&self, key: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Fault> {
        let end = key.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| self.damaged("its key lacks a part"))?;
        Ok((&key[..end], &key[end + 1..]))
    }

    fn numbered(&self, key: &[u8]) -> Result<(Id, u32), Fault> {
        let (id, number) = self.split(key)?;
        Ok((self.id(id)?, u32::from_be_bytes(self.array(number)?)))
    }

    pub(super) fn array<const N: usize>(&self, bytes: &[u8]) -> Result<[u8; N], Fault> {
        bytes.try_into().map_err(|_| self.damaged("a part of its key has the wrong length"))
    }

    pub(super) fn member_role(&self, byte: u8) -> Result<MemberRole, Fault> {
        match byte {
            1 => Ok(MemberRole::Voter),
            2 => Ok(MemberRole::Follower),
            _ => Err(self.damaged("its member role is unknown")),
        }
    }
}
