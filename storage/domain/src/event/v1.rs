//! Version 1 of an event's bytes. Never edited: a change of shape is a new module beside this one.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Event;
use crate::audit::{AuditCheckpoint, AuditTexts};
use crate::certificates::{Certificate, CertificateKey, Condition, Origin};
use crate::codec::{Bytes, DecodeError};
use crate::id::{AccountName, ResourceId, RoleId};
use crate::records::{
    Annotation, Digest, Fingerprint, IssuerKey, JoinToken, Member, MemberRole, MembershipKey,
    NewApiKey, PermissionKey, Resealed, Sealed, SealedAt, SigningKey, Version, WrappedKeyring,
};
use crate::time::Timestamp;

/// What becomes of ciphertext when an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ciphertext {
    /// Written: the event is part of a command.
    Kept,
    /// Left out: the event goes into history, which outlives keys.
    Dropped,
}

impl Ciphertext {
    fn bytes(self, sealed: &Sealed) -> Bytes {
        match self {
            Self::Kept => Bytes(sealed.0.clone()),
            Self::Dropped => Bytes::default(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum EventV1 {
    KeyringInstalled {
        keyring: KeyringV1,
    },
    AccountCreated {
        account: AccountName,
        signing_key: SigningKeyV1,
        admin_key: NewApiKeyV1,
    },
    RoleAdded {
        role: RoleId,
        policy: Option<ResourceId>,
    },
    RoleRemoved {
        role: RoleId,
    },
    ResourceAdded {
        resource: ResourceId,
        owner: RoleId,
        policy: Option<ResourceId>,
    },
    OwnerChanged {
        resource: ResourceId,
        owner: RoleId,
    },
    ResourceRemoved {
        resource: ResourceId,
    },
    MembershipAdded {
        key: MembershipKeyV1,
        admin_option: bool,
        policy: Option<ResourceId>,
    },
    MembershipRemoved {
        key: MembershipKeyV1,
    },
    PermissionAdded {
        key: PermissionKeyV1,
        policy: Option<ResourceId>,
    },
    PermissionRemoved {
        key: PermissionKeyV1,
    },
    AnnotationSet {
        resource: ResourceId,
        name: String,
        value: String,
        policy: Option<ResourceId>,
    },
    AnnotationRemoved {
        resource: ResourceId,
        name: String,
    },
    CredentialCreated {
        role: RoleId,
        key: NewApiKeyV1,
        restricted_to: Vec<String>,
    },
    RestrictionChanged {
        role: RoleId,
        restricted_to: Vec<String>,
    },
    ApiKeyRotated {
        role: RoleId,
        key: NewApiKeyV1,
    },
    PasswordChanged {
        role: RoleId,
        password_hash: String,
    },
    PolicyLoaded {
        policy: ResourceId,
        version: u32,
        role: RoleId,
        client_ip: String,
        text: String,
        text_sha256: String,
    },
    SecretVersionAdded {
        resource: ResourceId,
        version: u32,
        fingerprint: [u8; 16],
        value: Option<Bytes>,
    },
    SecretExpired {
        resource: ResourceId,
    },
    JoinTokenIssued {
        digest: [u8; 32],
        token: JoinTokenV1,
    },
    MemberAdmitted {
        node: u64,
        member: MemberV1,
        token: Option<[u8; 32]>,
    },
    MemberRemoved {
        node: u64,
    },
    AccountDeleted {
        account: AccountName,
    },
    HostFactoryTokensIssued {
        factory: ResourceId,
        tokens: Vec<NewApiKeyV1>,
        cidr: Vec<String>,
        expires_at: Timestamp,
    },
    HostFactoryTokenRevoked {
        digest: [u8; 32],
    },
    HostFactoryTokensExpired {
        digests: Vec<[u8; 32]>,
    },
    AuthenticatorToggled {
        webservice: ResourceId,
        enabled: bool,
    },
    IssuerSet {
        account: AccountName,
        issuer: String,
        kind: String,
        max_ttl: u32,
        data: Option<Bytes>,
    },
    IssuerRemoved {
        account: AccountName,
        issuer: String,
    },
    SecretRotated {
        resource: ResourceId,
        version: u32,
        fingerprint: [u8; 16],
        value: Option<Bytes>,
        expires_at: Timestamp,
    },
    AuditAppended {
        node: u64,
        first: u64,
        lost: u64,
        records: Vec<String>,
    },
    AuditCheckpointed {
        checkpoint: AuditCheckpointV1,
    },
    AuditTrimmed {
        first: u64,
        base: [u8; 32],
    },
    CertificatesInstalled {
        certificates: Vec<CertificateV1>,
    },
    CertificateMarked {
        key: CertificateKeyV1,
        condition: ConditionV1,
    },
    CertificateRetired {
        key: CertificateKeyV1,
    },
    Resealed {
        values: Vec<ResealedV1>,
    },
    ClusterRefounded {
        node: u64,
        member: MemberV1,
    },
    LevelRaised {
        level: u32,
    },
    /// [`Event::JoinTokenIssued`] for a node that must come from certain addresses.
    BoundJoinTokenIssued {
        digest: [u8; 32],
        token: JoinTokenV1,
        cidr: Vec<String>,
    },
    /// [`Event::HostFactoryTokensIssued`] for a number of uses.
    LimitedHostFactoryTokensIssued {
        factory: ResourceId,
        tokens: Vec<NewApiKeyV1>,
        cidr: Vec<String>,
        expires_at: Timestamp,
        uses: u32,
    },
    HostFactoryTokenUsed {
        digest: [u8; 32],
    },
}

impl EventV1 {
    pub(crate) fn new(event: &Event, ciphertext: Ciphertext) -> Self {
        match event {
            Event::KeyringInstalled { keyring } => {
                Self::KeyringInstalled { keyring: KeyringV1::new(keyring, ciphertext) }
            }
            Event::AccountCreated { account, signing_key, admin_key } => Self::AccountCreated {
                account: account.clone(),
                signing_key: SigningKeyV1::new(signing_key, ciphertext),
                admin_key: NewApiKeyV1::new(admin_key, ciphertext),
            },
            Event::RoleAdded { role, policy } => {
                Self::RoleAdded { role: role.clone(), policy: policy.clone() }
            }
            Event::RoleRemoved { role } => Self::RoleRemoved { role: role.clone() },
            Event::ResourceAdded { resource, owner, policy } => Self::ResourceAdded {
                resource: resource.clone(),
                owner: owner.clone(),
                policy: policy.clone(),
            },
            Event::OwnerChanged { resource, owner } => {
                Self::OwnerChanged { resource: resource.clone(), owner: owner.clone() }
            }
            Event::ResourceRemoved { resource } => {
                Self::ResourceRemoved { resource: resource.clone() }
            }
            Event::MembershipAdded { key, admin_option, policy } => Self::MembershipAdded {
                key: key.into(),
                admin_option: *admin_option,
                policy: policy.clone(),
            },
            Event::MembershipRemoved { key } => Self::MembershipRemoved { key: key.into() },
            Event::PermissionAdded { key, policy } => {
                Self::PermissionAdded { key: key.into(), policy: policy.clone() }
            }
            Event::PermissionRemoved { key } => Self::PermissionRemoved { key: key.into() },
            Event::AnnotationSet { resource, name, annotation } => Self::AnnotationSet {
                resource: resource.clone(),
                name: name.clone(),
                value: annotation.value.clone(),
                policy: annotation.policy.clone(),
            },
            Event::AnnotationRemoved { resource, name } => {
                Self::AnnotationRemoved { resource: resource.clone(), name: name.clone() }
            }
            Event::CredentialCreated { role, key, restricted_to } => Self::CredentialCreated {
                role: role.clone(),
                key: NewApiKeyV1::new(key, ciphertext),
                restricted_to: texts(restricted_to),
            },
            Event::RestrictionChanged { role, restricted_to } => {
                Self::RestrictionChanged { role: role.clone(), restricted_to: texts(restricted_to) }
            }
            Event::ApiKeyRotated { role, key } => {
                Self::ApiKeyRotated { role: role.clone(), key: NewApiKeyV1::new(key, ciphertext) }
            }
            Event::PasswordChanged { role, password_hash } => Self::PasswordChanged {
                role: role.clone(),
                password_hash: match ciphertext {
                    Ciphertext::Kept => password_hash.clone(),
                    Ciphertext::Dropped => String::new(),
                },
            },
            Event::PolicyLoaded { policy, version, role, client_ip, text, text_sha256 } => {
                Self::PolicyLoaded {
                    policy: policy.clone(),
                    version: *version,
                    role: role.clone(),
                    client_ip: client_ip.clone(),
                    text: text.clone(),
                    text_sha256: text_sha256.clone(),
                }
            }
            Event::SecretVersionAdded { resource, version, fingerprint, value } => {
                let kept = value.as_ref().filter(|_| ciphertext == Ciphertext::Kept);
                Self::SecretVersionAdded {
                    resource: resource.clone(),
                    version: version.0,
                    fingerprint: fingerprint.0,
                    value: kept.map(|value| Bytes(value.0.clone())),
                }
            }
            Event::SecretExpired { resource } => Self::SecretExpired { resource: resource.clone() },
            Event::JoinTokenIssued { digest, token } if token.cidr.is_empty() => {
                Self::JoinTokenIssued { digest: digest.0, token: token.into() }
            }
            Event::JoinTokenIssued { digest, token } => Self::BoundJoinTokenIssued {
                digest: digest.0,
                token: token.into(),
                cidr: texts(&token.cidr),
            },
            Event::MemberAdmitted { node, member, token } => Self::MemberAdmitted {
                node: *node,
                member: member.into(),
                token: token.map(|digest| digest.0),
            },
            Event::MemberRemoved { node } => Self::MemberRemoved { node: *node },
            Event::AccountDeleted { account } => Self::AccountDeleted { account: account.clone() },
            Event::HostFactoryTokensIssued { factory, tokens, cidr, expires_at, uses } => {
                let (factory, expires_at) = (factory.clone(), *expires_at);
                let tokens = tokens.iter().map(|token| NewApiKeyV1::new(token, ciphertext));
                let (tokens, cidr) = (tokens.collect(), texts(cidr));
                if let Some(uses) = *uses {
                    Self::LimitedHostFactoryTokensIssued { factory, tokens, cidr, expires_at, uses }
                } else {
                    Self::HostFactoryTokensIssued { factory, tokens, cidr, expires_at }
                }
            }
            Event::HostFactoryTokenUsed { digest } => {
                Self::HostFactoryTokenUsed { digest: digest.0 }
            }
            Event::HostFactoryTokenRevoked { digest } => {
                Self::HostFactoryTokenRevoked { digest: digest.0 }
            }
            Event::HostFactoryTokensExpired { digests } => Self::HostFactoryTokensExpired {
                digests: digests.iter().map(|digest| digest.0).collect(),
            },
            Event::AuthenticatorToggled { webservice, enabled } => {
                Self::AuthenticatorToggled { webservice: webservice.clone(), enabled: *enabled }
            }
            Event::IssuerSet { key, kind, max_ttl, data } => {
                let kept = data.as_ref().filter(|_| ciphertext == Ciphertext::Kept);
                Self::IssuerSet {
                    account: key.account.clone(),
                    issuer: key.issuer.clone(),
                    kind: kind.clone(),
                    max_ttl: *max_ttl,
                    data: kept.map(|data| Bytes(data.0.clone())),
                }
            }
            Event::IssuerRemoved { key } => {
                Self::IssuerRemoved { account: key.account.clone(), issuer: key.issuer.clone() }
            }
            Event::SecretRotated { resource, version, fingerprint, value, expires_at } => {
                let kept = value.as_ref().filter(|_| ciphertext == Ciphertext::Kept);
                Self::SecretRotated {
                    resource: resource.clone(),
                    version: version.0,
                    fingerprint: fingerprint.0,
                    value: kept.map(|value| Bytes(value.0.clone())),
                    expires_at: *expires_at,
                }
            }
            Event::AuditAppended { node, first, lost, texts } => Self::AuditAppended {
                node: *node,
                first: *first,
                lost: *lost,
                records: texts.iter().map(str::to_owned).collect(),
            },
            Event::AuditCheckpointed { checkpoint } => {
                Self::AuditCheckpointed { checkpoint: checkpoint.into() }
            }
            Event::AuditTrimmed { first, base } => {
                Self::AuditTrimmed { first: *first, base: base.0 }
            }
            Event::CertificatesInstalled { certificates } => Self::CertificatesInstalled {
                certificates: CertificateV1::list(certificates, ciphertext),
            },
            Event::CertificateMarked { key, condition } => {
                Self::CertificateMarked { key: key.into(), condition: condition.into() }
            }
            Event::CertificateRetired { key } => Self::CertificateRetired { key: key.into() },
            Event::Resealed { values } => Self::Resealed {
                values: values.iter().map(|value| ResealedV1::new(value, ciphertext)).collect(),
            },
            Event::ClusterRefounded { node, member } => {
                Self::ClusterRefounded { node: *node, member: member.into() }
            }
            Event::LevelRaised { level } => Self::LevelRaised { level: *level },
        }
    }
}

impl TryFrom<EventV1> for Event {
    type Error = DecodeError;

    fn try_from(event: EventV1) -> Result<Self, DecodeError> {
        Ok(match event {
            EventV1::KeyringInstalled { keyring } => {
                Self::KeyringInstalled { keyring: keyring.into() }
            }
            EventV1::AccountCreated { account, signing_key, admin_key } => Self::AccountCreated {
                account,
                signing_key: signing_key.into(),
                admin_key: admin_key.into(),
            },
            EventV1::RoleAdded { role, policy } => Self::RoleAdded { role, policy },
            EventV1::RoleRemoved { role } => Self::RoleRemoved { role },
            EventV1::ResourceAdded { resource, owner, policy } => {
                Self::ResourceAdded { resource, owner, policy }
            }
            EventV1::OwnerChanged { resource, owner } => Self::OwnerChanged { resource, owner },
            EventV1::ResourceRemoved { resource } => Self::ResourceRemoved { resource },
            EventV1::MembershipAdded { key, admin_option, policy } => {
                Self::MembershipAdded { key: key.into(), admin_option, policy }
            }
            EventV1::MembershipRemoved { key } => Self::MembershipRemoved { key: key.into() },
            EventV1::PermissionAdded { key, policy } => {
                Self::PermissionAdded { key: key.into(), policy }
            }
            EventV1::PermissionRemoved { key } => Self::PermissionRemoved { key: key.into() },
            EventV1::AnnotationSet { resource, name, value, policy } => {
                Self::AnnotationSet { resource, name, annotation: Annotation { value, policy } }
            }
            EventV1::AnnotationRemoved { resource, name } => {
                Self::AnnotationRemoved { resource, name }
            }
            EventV1::CredentialCreated { role, key, restricted_to } => Self::CredentialCreated {
                role,
                key: key.into(),
                restricted_to: nets(&restricted_to)?,
            },
            EventV1::RestrictionChanged { role, restricted_to } => {
                Self::RestrictionChanged { role, restricted_to: nets(&restricted_to)? }
            }
            EventV1::ApiKeyRotated { role, key } => Self::ApiKeyRotated { role, key: key.into() },
            EventV1::PasswordChanged { role, password_hash } => {
                Self::PasswordChanged { role, password_hash }
            }
            EventV1::PolicyLoaded { policy, version, role, client_ip, text, text_sha256 } => {
                Self::PolicyLoaded { policy, version, role, client_ip, text, text_sha256 }
            }
            EventV1::SecretVersionAdded { resource, version, fingerprint, value } => {
                Self::SecretVersionAdded {
                    resource,
                    version: Version(version),
                    fingerprint: Fingerprint(fingerprint),
                    value: value.map(|bytes| Sealed(bytes.0)),
                }
            }
            EventV1::SecretExpired { resource } => Self::SecretExpired { resource },
            EventV1::JoinTokenIssued { digest, token } => {
                Self::JoinTokenIssued { digest: Digest(digest), token: token.bound_to(Vec::new()) }
            }
            EventV1::BoundJoinTokenIssued { digest, token, cidr } => Self::JoinTokenIssued {
                digest: Digest(digest),
                token: token.bound_to(nets(&cidr)?),
            },
            EventV1::MemberAdmitted { node, member, token } => {
                Self::MemberAdmitted { node, member: member.into(), token: token.map(Digest) }
            }
            EventV1::MemberRemoved { node } => Self::MemberRemoved { node },
            EventV1::AccountDeleted { account } => Self::AccountDeleted { account },
            EventV1::HostFactoryTokensIssued { factory, tokens, cidr, expires_at } => {
                Self::HostFactoryTokensIssued {
                    factory,
                    tokens: tokens.into_iter().map(Into::into).collect(),
                    cidr: nets(&cidr)?,
                    expires_at,
                    uses: None,
                }
            }
            EventV1::LimitedHostFactoryTokensIssued { factory, tokens, cidr, expires_at, uses } => {
                Self::HostFactoryTokensIssued {
                    factory,
                    tokens: tokens.into_iter().map(Into::into).collect(),
                    cidr: nets(&cidr)?,
                    expires_at,
                    uses: Some(uses),
                }
            }
            EventV1::HostFactoryTokenUsed { digest } => {
                Self::HostFactoryTokenUsed { digest: Digest(digest) }
            }
            EventV1::HostFactoryTokenRevoked { digest } => {
                Self::HostFactoryTokenRevoked { digest: Digest(digest) }
            }
            EventV1::HostFactoryTokensExpired { digests } => Self::HostFactoryTokensExpired {
                digests: digests.into_iter().map(Digest).collect(),
            },
            EventV1::AuthenticatorToggled { webservice, enabled } => {
                Self::AuthenticatorToggled { webservice, enabled }
            }
            EventV1::IssuerSet { account, issuer, kind, max_ttl, data } => Self::IssuerSet {
                key: IssuerKey { account, issuer },
                kind,
                max_ttl,
                data: data.map(|bytes| Sealed(bytes.0)),
            },
            EventV1::IssuerRemoved { account, issuer } => {
                Self::IssuerRemoved { key: IssuerKey { account, issuer } }
            }
            EventV1::SecretRotated { resource, version, fingerprint, value, expires_at } => {
                Self::SecretRotated {
                    resource,
                    version: Version(version),
                    fingerprint: Fingerprint(fingerprint),
                    value: value.map(|bytes| Sealed(bytes.0)),
                    expires_at,
                }
            }
            EventV1::AuditAppended { node, first, lost, records } => {
                Self::AuditAppended { node, first, lost, texts: AuditTexts::plain(&records) }
            }
            EventV1::AuditCheckpointed { checkpoint } => {
                Self::AuditCheckpointed { checkpoint: checkpoint.try_into()? }
            }
            EventV1::AuditTrimmed { first, base } => {
                Self::AuditTrimmed { first, base: Digest(base) }
            }
            EventV1::CertificatesInstalled { certificates } => Self::CertificatesInstalled {
                certificates: certificates.into_iter().map(Into::into).collect(),
            },
            EventV1::CertificateMarked { key, condition } => {
                Self::CertificateMarked { key: key.into(), condition: condition.into() }
            }
            EventV1::CertificateRetired { key } => Self::CertificateRetired { key: key.into() },
            EventV1::Resealed { values } => {
                Self::Resealed { values: values.into_iter().map(Into::into).collect() }
            }
            EventV1::ClusterRefounded { node, member } => {
                Self::ClusterRefounded { node, member: member.into() }
            }
            EventV1::LevelRaised { level } => Self::LevelRaised { level },
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditCheckpointV1 {
    number: u64,
    hash: [u8; 32],
    at: Timestamp,
    key: [u8; 32],
    /// 64 bytes.
    signature: Bytes,
}

impl From<&AuditCheckpoint> for AuditCheckpointV1 {
    fn from(checkpoint: &AuditCheckpoint) -> Self {
        Self {
            number: checkpoint.number,
            hash: checkpoint.hash.0,
            at: checkpoint.at,
            key: checkpoint.key,
            signature: Bytes(checkpoint.signature.to_vec()),
        }
    }
}

impl TryFrom<AuditCheckpointV1> for AuditCheckpoint {
    type Error = DecodeError;

    fn try_from(checkpoint: AuditCheckpointV1) -> Result<Self, DecodeError> {
        let signature = checkpoint.signature.0.try_into().map_err(|_| DecodeError::Malformed {
            what: "a checkpoint",
            why: "its signature is not 64 bytes long".to_owned(),
        })?;
        Ok(Self {
            number: checkpoint.number,
            hash: Digest(checkpoint.hash),
            at: checkpoint.at,
            key: checkpoint.key,
            signature,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyringV1 {
    generation: u32,
    wrapped: Bytes,
}

impl KeyringV1 {
    pub(crate) fn new(keyring: &WrappedKeyring, ciphertext: Ciphertext) -> Self {
        Self { generation: keyring.generation, wrapped: ciphertext.bytes(&keyring.wrapped) }
    }
}

impl From<KeyringV1> for WrappedKeyring {
    fn from(keyring: KeyringV1) -> Self {
        Self { generation: keyring.generation, wrapped: Sealed(keyring.wrapped.0) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum SealedAtV1 {
    SigningKey(AccountName, String),
    ApiKey(RoleId, [u8; 32]),
    Secret(ResourceId, u32, [u8; 16]),
    HostFactoryToken([u8; 32]),
    /// Account, issuer, what lay there.
    Issuer(AccountName, String, Bytes),
    /// Which, what lay there.
    Certificate(CertificateKeyV1, Bytes),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResealedV1 {
    at: SealedAtV1,
    sealed: Bytes,
}

impl ResealedV1 {
    pub(crate) fn new(value: &Resealed, ciphertext: Ciphertext) -> Self {
        let at = match &value.at {
            SealedAt::SigningKey(account, id) => {
                SealedAtV1::SigningKey(account.clone(), id.clone())
            }
            SealedAt::ApiKey(role, digest) => SealedAtV1::ApiKey(role.clone(), digest.0),
            SealedAt::Secret(resource, version, fingerprint) => {
                SealedAtV1::Secret(resource.clone(), version.0, fingerprint.0)
            }
            SealedAt::HostFactoryToken(digest) => SealedAtV1::HostFactoryToken(digest.0),
            SealedAt::Issuer(key, before) => {
                let before = ciphertext.bytes(before);
                SealedAtV1::Issuer(key.account.clone(), key.issuer.clone(), before)
            }
            SealedAt::Certificate(key, before) => {
                SealedAtV1::Certificate(key.into(), ciphertext.bytes(before))
            }
        };
        Self { at, sealed: ciphertext.bytes(&value.sealed) }
    }
}

impl From<ResealedV1> for Resealed {
    fn from(value: ResealedV1) -> Self {
        let at = match value.at {
            SealedAtV1::SigningKey(account, id) => SealedAt::SigningKey(account, id),
            SealedAtV1::ApiKey(role, digest) => SealedAt::ApiKey(role, Digest(digest)),
            SealedAtV1::Secret(resource, version, fingerprint) => {
                SealedAt::Secret(resource, Version(version), Fingerprint(fingerprint))
            }
            SealedAtV1::HostFactoryToken(digest) => SealedAt::HostFactoryToken(Digest(digest)),
            SealedAtV1::Issuer(account, issuer, before) => {
                SealedAt::Issuer(IssuerKey { account, issuer }, Sealed(before.0))
            }
            SealedAtV1::Certificate(key, before) => {
                SealedAt::Certificate(key.into(), Sealed(before.0))
            }
        };
        Self { at, sealed: Sealed(value.sealed.0) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SigningKeyV1 {
    id: String,
    public: Bytes,
    private: Bytes,
}

impl SigningKeyV1 {
    pub(crate) fn new(key: &SigningKey, ciphertext: Ciphertext) -> Self {
        Self {
            id: key.id.clone(),
            public: Bytes(key.public.clone()),
            private: ciphertext.bytes(&key.private),
        }
    }
}

impl From<SigningKeyV1> for SigningKey {
    fn from(key: SigningKeyV1) -> Self {
        Self { id: key.id, public: key.public.0, private: Sealed(key.private.0) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewApiKeyV1 {
    sealed: Bytes,
    digest: [u8; 32],
}

impl NewApiKeyV1 {
    pub(crate) fn new(key: &NewApiKey, ciphertext: Ciphertext) -> Self {
        Self { sealed: ciphertext.bytes(&key.sealed), digest: key.digest.0 }
    }
}

impl From<NewApiKeyV1> for NewApiKey {
    fn from(key: NewApiKeyV1) -> Self {
        Self { sealed: Sealed(key.sealed.0), digest: Digest(key.digest) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MembershipKeyV1 {
    role: RoleId,
    member: RoleId,
    ownership: bool,
}

impl From<&MembershipKey> for MembershipKeyV1 {
    fn from(key: &MembershipKey) -> Self {
        Self { role: key.role.clone(), member: key.member.clone(), ownership: key.ownership }
    }
}

impl From<MembershipKeyV1> for MembershipKey {
    fn from(key: MembershipKeyV1) -> Self {
        Self { role: key.role, member: key.member, ownership: key.ownership }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PermissionKeyV1 {
    resource: ResourceId,
    role: RoleId,
    privilege: String,
}

impl From<&PermissionKey> for PermissionKeyV1 {
    fn from(key: &PermissionKey) -> Self {
        Self {
            resource: key.resource.clone(),
            role: key.role.clone(),
            privilege: key.privilege.clone(),
        }
    }
}

impl From<PermissionKeyV1> for PermissionKey {
    fn from(key: PermissionKeyV1) -> Self {
        Self { resource: key.resource, role: key.role, privilege: key.privilege }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum MemberRoleV1 {
    Voter,
    Follower,
}

impl From<MemberRole> for MemberRoleV1 {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Voter => Self::Voter,
            MemberRole::Follower => Self::Follower,
        }
    }
}

impl From<MemberRoleV1> for MemberRole {
    fn from(role: MemberRoleV1) -> Self {
        match role {
            MemberRoleV1::Voter => Self::Voter,
            MemberRoleV1::Follower => Self::Follower,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinTokenV1 {
    name: String,
    role: MemberRoleV1,
    expires_at: Timestamp,
}

impl From<&JoinToken> for JoinTokenV1 {
    fn from(token: &JoinToken) -> Self {
        Self { name: token.name.clone(), role: token.role.into(), expires_at: token.expires_at }
    }
}

impl JoinTokenV1 {
    /// The token, for a node at these addresses.
    pub(crate) fn bound_to(self, cidr: Vec<IpNet>) -> JoinToken {
        let Self { name, role, expires_at } = self;
        JoinToken { name, role: role.into(), expires_at, cidr }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MemberV1 {
    name: String,
    role: MemberRoleV1,
    node_key: [u8; 32],
    peer_address: String,
    api_url: String,
}

impl From<&Member> for MemberV1 {
    fn from(member: &Member) -> Self {
        Self {
            name: member.name.clone(),
            role: member.role.into(),
            node_key: member.node_key,
            peer_address: member.peer_address.clone(),
            api_url: member.api_url.clone(),
        }
    }
}

impl From<MemberV1> for Member {
    fn from(member: MemberV1) -> Self {
        Self {
            name: member.name,
            role: member.role.into(),
            node_key: member.node_key,
            peer_address: member.peer_address,
            api_url: member.api_url,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CertificateKeyV1 {
    name: String,
    generation: u32,
}

impl From<&CertificateKey> for CertificateKeyV1 {
    fn from(key: &CertificateKey) -> Self {
        Self { name: key.name.clone(), generation: key.generation }
    }
}

impl From<CertificateKeyV1> for CertificateKey {
    fn from(key: CertificateKeyV1) -> Self {
        Self { name: key.name, generation: key.generation }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CertificateV1 {
    key: CertificateKeyV1,
    origin: OriginV1,
    issuer: Option<CertificateKeyV1>,
    chain_pem: String,
    private: Bytes,
    names: Vec<String>,
    configured: Vec<String>,
    nodes: Vec<String>,
    holders: Vec<u64>,
    not_before: Timestamp,
    not_after: Timestamp,
    renew_at: Timestamp,
}

impl CertificateV1 {
    pub(crate) fn list(
        certificates: &[(CertificateKey, Certificate)],
        ciphertext: Ciphertext,
    ) -> Vec<Self> {
        let body = |(key, one): &(CertificateKey, Certificate)| Self {
            key: key.into(),
            origin: one.origin.into(),
            issuer: one.issuer.as_ref().map(Into::into),
            chain_pem: one.chain_pem.clone(),
            private: ciphertext.bytes(&one.key),
            names: one.names.clone(),
            configured: one.configured.clone(),
            nodes: one.nodes.clone(),
            holders: one.holders.clone(),
            not_before: one.not_before,
            not_after: one.not_after,
            renew_at: one.renew_at,
        };
        certificates.iter().map(body).collect()
    }
}

impl From<CertificateV1> for (CertificateKey, Certificate) {
    fn from(one: CertificateV1) -> Self {
        let certificate = Certificate {
            origin: one.origin.into(),
            issuer: one.issuer.map(Into::into),
            chain_pem: one.chain_pem,
            key: Sealed(one.private.0),
            names: one.names,
            configured: one.configured,
            nodes: one.nodes,
            holders: one.holders,
            not_before: one.not_before,
            not_after: one.not_after,
            renew_at: one.renew_at,
        };
        (one.key.into(), certificate)
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum OriginV1 {
    Internal,
    Imported,
}

impl From<Origin> for OriginV1 {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Internal => Self::Internal,
            Origin::Imported => Self::Imported,
        }
    }
}

impl From<OriginV1> for Origin {
    fn from(origin: OriginV1) -> Self {
        match origin {
            OriginV1::Internal => Self::Internal,
            OriginV1::Imported => Self::Imported,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ConditionV1 {
    Ready,
    Issuing,
    Failed { reason: String, attempts: u32, next_try: Timestamp },
}

impl From<&Condition> for ConditionV1 {
    fn from(condition: &Condition) -> Self {
        match condition {
            Condition::Ready => Self::Ready,
            Condition::Issuing => Self::Issuing,
            Condition::Failed { reason, attempts, next_try } => {
                Self::Failed { reason: reason.clone(), attempts: *attempts, next_try: *next_try }
            }
        }
    }
}

impl From<ConditionV1> for Condition {
    fn from(condition: ConditionV1) -> Self {
        match condition {
            ConditionV1::Ready => Self::Ready,
            ConditionV1::Issuing => Self::Issuing,
            ConditionV1::Failed { reason, attempts, next_try } => {
                Self::Failed { reason, attempts, next_try }
            }
        }
    }
}

pub(crate) fn texts(nets: &[IpNet]) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}

pub(crate) fn nets(texts: &[String]) -> Result<Vec<IpNet>, DecodeError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| DecodeError::Malformed {
            what: "an event",
            why: format!("{text:?} is no address range"),
        })
    };
    texts.iter().map(parse).collect()
}
