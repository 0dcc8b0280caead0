//! What has happened, in the past tense. Events are what history keeps and what streams show.
//!
//! Their bytes are in [`codec`]; what becomes of the state is in [`crate::evolve`]. An event that is
//! read back from history carries no ciphertext and no password hash.

pub mod codec;
pub(crate) mod v1;

use ipnet::IpNet;

use crate::audit::{AuditCheckpoint, AuditTexts};
use crate::certificates::{Certificate, CertificateKey, Condition};
use crate::id::{AccountName, ResourceId, RoleId};
use crate::records::{
    Annotation, Digest, Fingerprint, IssuerKey, JoinToken, Member, MembershipKey, NewApiKey,
    PermissionKey, Resealed, Sealed, SigningKey, Version, WrappedKeyring,
};
use crate::time::Timestamp;

/// Something that has happened. Where `policy` stands, it is the policy whose load did it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the records that they become")]
pub enum Event {
    /// A keyring came into force.
    KeyringInstalled { keyring: WrappedKeyring },
    /// An account came to be. Its `admin` role and resource and their credential come with it.
    AccountCreated { account: AccountName, signing_key: SigningKey, admin_key: NewApiKey },
    /// A role (not its resource) came to be. Where its resource is there already, so is then the
    /// owner's membership.
    RoleAdded { role: RoleId, policy: Option<ResourceId> },
    /// A role went, and with it its resource, its memberships, permissions and credentials, and what
    /// it owned; see [`crate::evolve`] for all that goes.
    RoleRemoved { role: RoleId },
    /// A resource came to be. Where a role of that id is there, the owner becomes its member.
    ResourceAdded { resource: ResourceId, owner: RoleId, policy: Option<ResourceId> },
    /// A resource changed hands, and so did the ownership membership of the role of that id.
    OwnerChanged { resource: ResourceId, owner: RoleId },
    /// A resource went, and with it the role of that id, its permissions, annotations, secrets and
    /// policy versions, and, of a policy, the rows that it declared; see [`crate::evolve`].
    ResourceRemoved { resource: ResourceId },
    /// A membership row came to be, or its admin option changed.
    MembershipAdded { key: MembershipKey, admin_option: bool, policy: Option<ResourceId> },
    /// A membership row went.
    MembershipRemoved { key: MembershipKey },
    /// A permission row came to be.
    PermissionAdded { key: PermissionKey, policy: Option<ResourceId> },
    /// A permission row went.
    PermissionRemoved { key: PermissionKey },
    /// An annotation came to be or changed.
    AnnotationSet { resource: ResourceId, name: String, annotation: Annotation },
    /// An annotation went.
    AnnotationRemoved { resource: ResourceId, name: String },
    /// A user or host got its first API key.
    CredentialCreated { role: RoleId, key: NewApiKey, restricted_to: Vec<IpNet> },
    /// The addresses a role may authenticate from changed.
    RestrictionChanged { role: RoleId, restricted_to: Vec<IpNet> },
    /// An API key was replaced.
    ApiKeyRotated { role: RoleId, key: NewApiKey },
    /// A password was replaced.
    PasswordChanged { role: RoleId, password_hash: String },
    /// A policy load was committed.
    PolicyLoaded {
        policy: ResourceId,
        version: u32,
        role: RoleId,
        client_ip: String,
        text: String,
        text_sha256: String,
    },
    /// A secret got a version. `value` is absent when the event is read back from history: only the
    /// versions that the state retains keep theirs.
    SecretVersionAdded {
        resource: ResourceId,
        version: Version,
        fingerprint: Fingerprint,
        value: Option<Sealed>,
    },
    /// All versions of a secret became due for rotation.
    SecretExpired { resource: ResourceId },
    /// A join token was issued.
    JoinTokenIssued { digest: Digest, token: JoinToken },
    /// A node was admitted; its id is the log index of the entry.
    MemberAdmitted { node: u64, member: Member, token: Option<Digest> },
    /// A node was struck off.
    MemberRemoved { node: u64 },
    /// An account went, and with it its signing key, all that was in it, and what its roles owned in
    /// other accounts.
    AccountDeleted { account: AccountName },
    /// A host factory got tokens.
    HostFactoryTokensIssued {
        factory: ResourceId,
        tokens: Vec<NewApiKey>,
        cidr: Vec<IpNet>,
        expires_at: Timestamp,
        /// How often each may be used; absent means any number of times.
        uses: Option<u32>,
    },
    /// A host factory token that is good for a number of uses was used.
    HostFactoryTokenUsed { digest: Digest },
    /// A host factory token was made void.
    HostFactoryTokenRevoked { digest: Digest },
    /// Host factory tokens whose time was over were forgotten.
    HostFactoryTokensExpired { digests: Vec<Digest> },
    /// An authenticator was switched on or off.
    AuthenticatorToggled { webservice: ResourceId, enabled: bool },
    /// An issuer came to be or changed. `data` is absent where it stays as it was, and when the event
    /// is read back from history.
    IssuerSet { key: IssuerKey, kind: String, max_ttl: u32, data: Option<Sealed> },
    /// An issuer went.
    IssuerRemoved { key: IssuerKey },
    /// A rotation gave a secret a version; `value` as with [`Event::SecretVersionAdded`].
    SecretRotated {
        resource: ResourceId,
        version: Version,
        fingerprint: Fingerprint,
        value: Option<Sealed>,
        expires_at: Timestamp,
    },
    /// Records of a node came to the audit chain, and before them, where it has lost some, a gap.
    AuditAppended { node: u64, first: u64, lost: u64, texts: AuditTexts },
    /// A checkpoint came to the audit chain.
    AuditCheckpointed { checkpoint: AuditCheckpoint },
    /// The audit chain's oldest records were forgotten.
    AuditTrimmed { first: u64, base: Digest },
    /// Certificates came into force.
    CertificatesInstalled { certificates: Vec<(CertificateKey, Certificate)> },
    /// The renewal of a certificate was asked for, or failed.
    CertificateMarked { key: CertificateKey, condition: Condition },
    /// A root is trusted no longer, or what stood at the edge is gone.
    CertificateRetired { key: CertificateKey },
    /// What was sealed under older data keys lies under the newest now.
    Resealed { values: Vec<Resealed> },
    /// A node became all there is of the cluster.
    ClusterRefounded { node: u64, member: Member },
    /// All members know what belongs to this feature level; it may be used from now on.
    LevelRaised { level: u32 },
}

impl Event {
    /// Whether history has nothing to remember of it: the audit chain remembers itself, and what was
    /// sealed anew is what it was.
    pub fn leaves_no_history(&self) -> bool {
        matches!(
            self,
            Self::AuditAppended { .. }
                | Self::AuditCheckpointed { .. }
                | Self::AuditTrimmed { .. }
                | Self::Resealed { .. }
        )
    }
}
