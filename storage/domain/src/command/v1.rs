//! Version 1 of a command's bytes. Never edited: a change of shape is a new module beside this one.

use serde::{Deserialize, Serialize};

use super::{Actor, Command, Envelope, LoadMode, Need, Proof};
use crate::audit::AuditTexts;
use crate::codec::{Bytes, DecodeError};
use crate::event::v1::{
    AuditCheckpointV1, CertificateKeyV1, CertificateV1, Ciphertext, ConditionV1, EventV1,
    JoinTokenV1, KeyringV1, MemberV1, NewApiKeyV1, ResealedV1, SigningKeyV1, nets, texts,
};
use crate::id::{AccountName, ResourceId, RoleId};
use crate::records::{Digest, Fingerprint, RequestId, Revision, Sealed, Version};
use crate::time::Timestamp;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EnvelopeV1 {
    request_id: [u8; 16],
    /// None is the node itself.
    actor: Option<RoleId>,
    at: Timestamp,
    client_ip: String,
    body: CommandV1,
}

#[derive(Debug, Serialize, Deserialize)]
enum LoadModeV1 {
    Append,
    Update,
    Replace,
}

#[derive(Debug, Serialize, Deserialize)]
enum ProofV1 {
    Credentials([u8; 32]),
    Token,
}

#[derive(Debug, Serialize, Deserialize)]
enum CommandV1 {
    InstallKeyring {
        keyring: KeyringV1,
    },
    CreateAccount {
        account: AccountName,
        signing_key: SigningKeyV1,
        admin_key: NewApiKeyV1,
    },
    LoadPolicy {
        policy: ResourceId,
        mode: LoadModeV1,
        text: String,
        text_sha256: String,
        changes: Vec<EventV1>,
        based_on: u64,
    },
    SetSecret {
        resource: ResourceId,
        value: Bytes,
        fingerprint: [u8; 16],
    },
    ExpireSecret {
        resource: ResourceId,
    },
    RotateApiKey {
        role: RoleId,
        key: NewApiKeyV1,
        proof: ProofV1,
    },
    ChangePassword {
        role: RoleId,
        password_hash: String,
        proof: ProofV1,
    },
    AddMember {
        role: RoleId,
        member: RoleId,
    },
    RemoveMember {
        role: RoleId,
        member: RoleId,
    },
    IssueJoinToken {
        digest: [u8; 32],
        token: JoinTokenV1,
    },
    AdmitMember {
        token: Option<[u8; 32]>,
        member: MemberV1,
    },
    RemoveMemberNode {
        node: u64,
    },
    DeleteAccount {
        account: AccountName,
    },
    CreateHostFactoryTokens {
        factory: ResourceId,
        tokens: Vec<NewApiKeyV1>,
        cidr: Vec<String>,
        expires_at: Timestamp,
    },
    RevokeHostFactoryToken {
        digest: [u8; 32],
    },
    EnrolHost {
        token: [u8; 32],
        host: RoleId,
        key: NewApiKeyV1,
        annotations: Vec<(String, String)>,
    },
    SweepHostFactoryTokens,
    ToggleAuthenticator {
        webservice: ResourceId,
        enabled: bool,
    },
    ChangeAccount {
        account: AccountName,
        /// Privilege and resource.
        needs: Vec<(String, ResourceId)>,
        changes: Vec<EventV1>,
        based_on: u64,
    },
    RotateSecret {
        resource: ResourceId,
        after: u32,
        value: Bytes,
        fingerprint: [u8; 16],
        expires_at: Timestamp,
    },
    AppendAudit {
        node: u64,
        first: u64,
        lost: u64,
        records: Vec<String>,
    },
    CheckpointAudit {
        checkpoint: AuditCheckpointV1,
    },
    TrimAudit {
        first: u64,
        base: [u8; 32],
    },
    InstallCertificates {
        certificates: Vec<CertificateV1>,
    },
    MarkCertificate {
        key: CertificateKeyV1,
        condition: ConditionV1,
    },
    RetireCertificate {
        key: CertificateKeyV1,
    },
    Reseal {
        values: Vec<ResealedV1>,
    },
    ChainAudit {
        node: u64,
        first: u64,
        lost: u64,
        texts: Bytes,
    },
    RefoundCluster {
        node: u64,
        member: MemberV1,
    },
    RaiseLevel {
        level: u32,
    },
    /// [`Command::IssueJoinToken`] for a node that must come from certain addresses.
    IssueBoundJoinToken {
        digest: [u8; 32],
        token: JoinTokenV1,
        cidr: Vec<String>,
    },
    /// [`Command::CreateHostFactoryTokens`] for a number of uses.
    CreateLimitedHostFactoryTokens {
        factory: ResourceId,
        tokens: Vec<NewApiKeyV1>,
        cidr: Vec<String>,
        expires_at: Timestamp,
        uses: u32,
    },
}

impl From<&Envelope> for EnvelopeV1 {
    fn from(envelope: &Envelope) -> Self {
        Self {
            request_id: envelope.request_id.0,
            actor: match &envelope.actor {
                Actor::Role(role) => Some(role.clone()),
                Actor::Node => None,
            },
            at: envelope.at,
            client_ip: envelope.client_ip.clone(),
            body: (&envelope.body).into(),
        }
    }
}

impl TryFrom<EnvelopeV1> for Envelope {
    type Error = DecodeError;

    fn try_from(envelope: EnvelopeV1) -> Result<Self, DecodeError> {
        Ok(Self {
            request_id: RequestId(envelope.request_id),
            actor: envelope.actor.map_or(Actor::Node, Actor::Role),
            at: envelope.at,
            client_ip: envelope.client_ip,
            body: envelope.body.try_into()?,
        })
    }
}

impl From<&Command> for CommandV1 {
    fn from(command: &Command) -> Self {
        let kept = Ciphertext::Kept;
        match command {
            Command::InstallKeyring { keyring } => {
                Self::InstallKeyring { keyring: KeyringV1::new(keyring, kept) }
            }
            Command::CreateAccount { account, signing_key, admin_key } => Self::CreateAccount {
                account: account.clone(),
                signing_key: SigningKeyV1::new(signing_key, kept),
                admin_key: NewApiKeyV1::new(admin_key, kept),
            },
            Command::LoadPolicy { policy, mode, text, text_sha256, changes, based_on } => {
                Self::LoadPolicy {
                    policy: policy.clone(),
                    mode: (*mode).into(),
                    text: text.clone(),
                    text_sha256: text_sha256.clone(),
                    changes: changes.iter().map(|event| EventV1::new(event, kept)).collect(),
                    based_on: based_on.0,
                }
            }
            Command::SetSecret { resource, value, fingerprint } => Self::SetSecret {
                resource: resource.clone(),
                value: Bytes(value.0.clone()),
                fingerprint: fingerprint.0,
            },
            Command::ExpireSecret { resource } => Self::ExpireSecret { resource: resource.clone() },
            Command::RotateApiKey { role, key, proof } => Self::RotateApiKey {
                role: role.clone(),
                key: NewApiKeyV1::new(key, kept),
                proof: proof.into(),
            },
            Command::ChangePassword { role, password_hash, proof } => Self::ChangePassword {
                role: role.clone(),
                password_hash: password_hash.clone(),
                proof: proof.into(),
            },
            Command::AddMember { role, member } => {
                Self::AddMember { role: role.clone(), member: member.clone() }
            }
            Command::RemoveMember { role, member } => {
                Self::RemoveMember { role: role.clone(), member: member.clone() }
            }
            Command::IssueJoinToken { digest, token } if token.cidr.is_empty() => {
                Self::IssueJoinToken { digest: digest.0, token: token.into() }
            }
            Command::IssueJoinToken { digest, token } => Self::IssueBoundJoinToken {
                digest: digest.0,
                token: token.into(),
                cidr: texts(&token.cidr),
            },
            Command::AdmitMember { token, member } => {
                Self::AdmitMember { token: token.map(|digest| digest.0), member: member.into() }
            }
            Command::RemoveMemberNode { node } => Self::RemoveMemberNode { node: *node },
            Command::DeleteAccount { account } => Self::DeleteAccount { account: account.clone() },
            Command::CreateHostFactoryTokens { factory, tokens, cidr, expires_at, uses } => {
                let (factory, expires_at) = (factory.clone(), *expires_at);
                let tokens = tokens.iter().map(|token| NewApiKeyV1::new(token, kept)).collect();
                let cidr = texts(cidr);
                if let Some(uses) = *uses {
                    Self::CreateLimitedHostFactoryTokens { factory, tokens, cidr, expires_at, uses }
                } else {
                    Self::CreateHostFactoryTokens { factory, tokens, cidr, expires_at }
                }
            }
            Command::RevokeHostFactoryToken { digest } => {
                Self::RevokeHostFactoryToken { digest: digest.0 }
            }
            Command::EnrolHost { token, host, key, annotations } => Self::EnrolHost {
                token: token.0,
                host: host.clone(),
                key: NewApiKeyV1::new(key, kept),
                annotations: annotations.clone(),
            },
            Command::SweepHostFactoryTokens => Self::SweepHostFactoryTokens,
            Command::ToggleAuthenticator { webservice, enabled } => {
                Self::ToggleAuthenticator { webservice: webservice.clone(), enabled: *enabled }
            }
            Command::ChangeAccount { account, needs, changes, based_on } => {
                let needs =
                    needs.iter().map(|need| (need.privilege.clone(), need.resource.clone()));
                Self::ChangeAccount {
                    account: account.clone(),
                    needs: needs.collect(),
                    changes: changes.iter().map(|event| EventV1::new(event, kept)).collect(),
                    based_on: based_on.0,
                }
            }
            Command::RotateSecret { resource, after, value, fingerprint, expires_at } => {
                Self::RotateSecret {
                    resource: resource.clone(),
                    after: after.0,
                    value: Bytes(value.0.clone()),
                    fingerprint: fingerprint.0,
                    expires_at: *expires_at,
                }
            }
            Command::AppendAudit { node, first, lost, records } => Self::AppendAudit {
                node: *node,
                first: *first,
                lost: *lost,
                records: records.clone(),
            },
            Command::CheckpointAudit { checkpoint } => {
                Self::CheckpointAudit { checkpoint: checkpoint.into() }
            }
            Command::TrimAudit { first, base } => Self::TrimAudit { first: *first, base: base.0 },
            Command::InstallCertificates { certificates } => {
                Self::InstallCertificates { certificates: CertificateV1::list(certificates, kept) }
            }
            Command::MarkCertificate { key, condition } => {
                Self::MarkCertificate { key: key.into(), condition: condition.into() }
            }
            Command::RetireCertificate { key } => Self::RetireCertificate { key: key.into() },
            Command::ChainAudit { node, first, lost, texts } => Self::ChainAudit {
                node: *node,
                first: *first,
                lost: *lost,
                texts: Bytes(texts.as_bytes().to_vec()),
            },
            Command::Reseal { values } => Self::Reseal {
                values: values.iter().map(|value| ResealedV1::new(value, kept)).collect(),
            },
            Command::RefoundCluster { node, member } => {
                Self::RefoundCluster { node: *node, member: member.into() }
            }
            Command::RaiseLevel { level } => Self::RaiseLevel { level: *level },
        }
    }
}

impl TryFrom<CommandV1> for Command {
    type Error = DecodeError;

    fn try_from(command: CommandV1) -> Result<Self, DecodeError> {
        Ok(match command {
            CommandV1::InstallKeyring { keyring } => {
                Self::InstallKeyring { keyring: keyring.into() }
            }
            CommandV1::CreateAccount { account, signing_key, admin_key } => Self::CreateAccount {
                account,
                signing_key: signing_key.into(),
                admin_key: admin_key.into(),
            },
            CommandV1::LoadPolicy { policy, mode, text, text_sha256, changes, based_on } => {
                let changes = changes.into_iter().map(TryInto::try_into);
                Self::LoadPolicy {
                    policy,
                    mode: mode.into(),
                    text,
                    text_sha256,
                    changes: changes.collect::<Result<_, _>>()?,
                    based_on: Revision(based_on),
                }
            }
            CommandV1::SetSecret { resource, value, fingerprint } => Self::SetSecret {
                resource,
                value: Sealed(value.0),
                fingerprint: Fingerprint(fingerprint),
            },
            CommandV1::ExpireSecret { resource } => Self::ExpireSecret { resource },
            CommandV1::RotateApiKey { role, key, proof } => {
                Self::RotateApiKey { role, key: key.into(), proof: proof.into() }
            }
            CommandV1::ChangePassword { role, password_hash, proof } => {
                Self::ChangePassword { role, password_hash, proof: proof.into() }
            }
            CommandV1::AddMember { role, member } => Self::AddMember { role, member },
            CommandV1::RemoveMember { role, member } => Self::RemoveMember { role, member },
            CommandV1::IssueJoinToken { digest, token } => {
                Self::IssueJoinToken { digest: Digest(digest), token: token.bound_to(Vec::new()) }
            }
            CommandV1::IssueBoundJoinToken { digest, token, cidr } => {
                Self::IssueJoinToken { digest: Digest(digest), token: token.bound_to(nets(&cidr)?) }
            }
            CommandV1::AdmitMember { token, member } => {
                Self::AdmitMember { token: token.map(Digest), member: member.into() }
            }
            CommandV1::RemoveMemberNode { node } => Self::RemoveMemberNode { node },
            CommandV1::DeleteAccount { account } => Self::DeleteAccount { account },
            CommandV1::CreateHostFactoryTokens { factory, tokens, cidr, expires_at } => {
                Self::CreateHostFactoryTokens {
                    factory,
                    tokens: tokens.into_iter().map(Into::into).collect(),
                    cidr: nets(&cidr)?,
                    expires_at,
                    uses: None,
                }
            }
            CommandV1::CreateLimitedHostFactoryTokens {
                factory,
                tokens,
                cidr,
                expires_at,
                uses,
            } => Self::CreateHostFactoryTokens {
                factory,
                tokens: tokens.into_iter().map(Into::into).collect(),
                cidr: nets(&cidr)?,
                expires_at,
                uses: Some(uses),
            },
            CommandV1::RevokeHostFactoryToken { digest } => {
                Self::RevokeHostFactoryToken { digest: Digest(digest) }
            }
            CommandV1::EnrolHost { token, host, key, annotations } => {
                Self::EnrolHost { token: Digest(token), host, key: key.into(), annotations }
            }
            CommandV1::SweepHostFactoryTokens => Self::SweepHostFactoryTokens,
            CommandV1::ToggleAuthenticator { webservice, enabled } => {
                Self::ToggleAuthenticator { webservice, enabled }
            }
            CommandV1::ChangeAccount { account, needs, changes, based_on } => {
                let need = |(privilege, resource)| Need { privilege, resource };
                let changes = changes.into_iter().map(TryInto::try_into);
                Self::ChangeAccount {
                    account,
                    needs: needs.into_iter().map(need).collect(),
                    changes: changes.collect::<Result<_, _>>()?,
                    based_on: Revision(based_on),
                }
            }
            CommandV1::RotateSecret { resource, after, value, fingerprint, expires_at } => {
                Self::RotateSecret {
                    resource,
                    after: Version(after),
                    value: Sealed(value.0),
                    fingerprint: Fingerprint(fingerprint),
                    expires_at,
                }
            }
            CommandV1::AppendAudit { node, first, lost, records } => {
                Self::AppendAudit { node, first, lost, records }
            }
            CommandV1::CheckpointAudit { checkpoint } => {
                Self::CheckpointAudit { checkpoint: checkpoint.try_into()? }
            }
            CommandV1::TrimAudit { first, base } => Self::TrimAudit { first, base: Digest(base) },
            CommandV1::InstallCertificates { certificates } => Self::InstallCertificates {
                certificates: certificates.into_iter().map(Into::into).collect(),
            },
            CommandV1::MarkCertificate { key, condition } => {
                Self::MarkCertificate { key: key.into(), condition: condition.into() }
            }
            CommandV1::RetireCertificate { key } => Self::RetireCertificate { key: key.into() },
            CommandV1::ChainAudit { node, first, lost, texts } => Self::ChainAudit {
                node,
                first,
                lost,
                texts: AuditTexts::from_bytes(texts.0).map_err(|bad| DecodeError::Malformed {
                    what: "command",
                    why: bad.to_string(),
                })?,
            },
            CommandV1::Reseal { values } => {
                Self::Reseal { values: values.into_iter().map(Into::into).collect() }
            }
            CommandV1::RefoundCluster { node, member } => {
                Self::RefoundCluster { node, member: member.into() }
            }
            CommandV1::RaiseLevel { level } => Self::RaiseLevel { level },
        })
    }
}

impl From<LoadMode> for LoadModeV1 {
    fn from(mode: LoadMode) -> Self {
        match mode {
            LoadMode::Append => Self::Append,
            LoadMode::Update => Self::Update,
            LoadMode::Replace => Self::Replace,
        }
    }
}

impl From<LoadModeV1> for LoadMode {
    fn from(mode: LoadModeV1) -> Self {
        match mode {
            LoadModeV1::Append => Self::Append,
            LoadModeV1::Update => Self::Update,
            LoadModeV1::Replace => Self::Replace,
        }
    }
}

impl From<&Proof> for ProofV1 {
    fn from(proof: &Proof) -> Self {
        match proof {
            Proof::Credentials(digest) => Self::Credentials(digest.0),
            Proof::Token => Self::Token,
        }
    }
}

impl From<ProofV1> for Proof {
    fn from(proof: ProofV1) -> Self {
        match proof {
            ProofV1::Credentials(digest) => Self::Credentials(Digest(digest)),
            ProofV1::Token => Self::Token,
        }
    }
}
