//! What may be asked of the state: the commands that the log replicates.
//!
//! A command carries everything that deciding may not ask for: who asks, the time, random bytes,
//! ciphertext. Its bytes are in [`codec`]; what it leads to is in [`crate::decide`].

pub mod codec;
mod v1;

use ipnet::IpNet;

use crate::audit::{AuditCheckpoint, AuditTexts};
use crate::certificates::{Certificate, CertificateKey, Condition};
use crate::event::Event;
use crate::id::{AccountName, ResourceId, RoleId};
use crate::records::{
    Digest, Fingerprint, JoinToken, Member, NewApiKey, RequestId, Resealed, Revision, Sealed,
    SigningKey, Version, WrappedKeyring,
};
use crate::time::Timestamp;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A role, proven by an access token or by its credentials.
    Role(RoleId),
    /// A node of the cluster acting for itself or for the operator on its machine.
    Node,
}

/// A command with who, when and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Makes a retry of the same request answer as the first try did.
    pub request_id: RequestId,
    /// Who asks.
    pub actor: Actor,
    /// Wall clock of the node that took the request.
    pub at: Timestamp,
    /// Address of the client as text; empty for the operator.
    pub client_ip: String,
    /// What is asked.
    pub body: Command,
}

/// How a policy text is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// POST: adds, never changes or removes.
    Append,
    /// PATCH: adds and changes, removes only what `!delete`, `!deny` and `!revoke` name.
    Update,
    /// PUT: what this policy declared before and does not declare now goes.
    Replace,
}

/// How the caller of a credential change proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// By HTTP Basic with the role's own credentials; the digest is of the API key in force when the
    /// proof was checked. Refused when the key has changed since.
    Credentials(Digest),
    /// By an access token; the caller needs `update` on the target.
    Token,
}

/// A privilege that a command's actor must hold on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What it must be allowed to do.
    pub privilege: String,
    /// To what.
    pub resource: ResourceId,
}

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Puts the first keyring in force. Once per cluster.
    InstallKeyring {
        /// The keyring under the root key.
        keyring: WrappedKeyring,
    },
    /// Creates an account with its signing key, its `admin` user and its root policy.
    CreateAccount {
        /// Its name.
        account: AccountName,
        /// Signs its tokens.
        signing_key: SigningKey,
        /// First API key of `user:admin`.
        admin_key: NewApiKey,
    },
    /// Loads a policy that the door has planned.
    LoadPolicy {
        /// The policy to load into; `account:policy:root` is made on first touch.
        policy: ResourceId,
        /// How to apply it.
        mode: LoadMode,
        /// The text as sent.
        text: String,
        /// Hex SHA-256 of the text.
        text_sha256: String,
        /// What the load changes, in order, as planned at `based_on`. Carries no
        /// [`Event::PolicyLoaded`]; deciding adds it.
        changes: Vec<Event>,
        /// The account's revision that the plan was made from.
        based_on: Revision,
    },
    /// Adds a version to a secret, unless its current value is the same.
    SetSecret {
        /// The variable or public key.
        resource: ResourceId,
        /// Its new value, sealed for this resource.
        value: Sealed,
        /// Fingerprint of the plain value.
        fingerprint: Fingerprint,
    },
    /// Makes every version of a secret due for rotation.
    ExpireSecret {
        /// The variable.
        resource: ResourceId,
    },
    /// Replaces an API key.
    RotateApiKey {
        /// Whose.
        role: RoleId,
        /// The new key.
        key: NewApiKey,
        /// What entitles the actor.
        proof: Proof,
    },
    /// Replaces a user's password.
    ChangePassword {
        /// Whose; the actor itself.
        role: RoleId,
        /// PHC string of the new password's hash.
        password_hash: String,
        /// What entitles the actor.
        proof: Proof,
    },
    /// Adds a member to a role outside any policy.
    AddMember {
        /// The role to be held.
        role: RoleId,
        /// Who will hold it.
        member: RoleId,
    },
    /// Removes a member from a role.
    RemoveMember {
        /// The role held.
        role: RoleId,
        /// Who holds it.
        member: RoleId,
    },
    /// Lets one node join once.
    IssueJoinToken {
        /// SHA-256 of the token.
        digest: Digest,
        /// What the token is good for.
        token: JoinToken,
    },
    /// Consumes a join token and admits a member, whose id is the index of this very entry.
    AdmitMember {
        /// SHA-256 of the token presented; none for the first member, admitted by `cluster init`.
        token: Option<Digest>,
        /// The member.
        member: Member,
    },
    /// Strikes a member off the list.
    RemoveMemberNode {
        /// Its node id.
        node: u64,
    },
    /// Deletes an account with everything in it, and what its roles own elsewhere.
    DeleteAccount {
        /// Its name.
        account: AccountName,
    },
    /// Makes tokens of a host factory. The actor needs `execute` on it.
    CreateHostFactoryTokens {
        /// The factory.
        factory: ResourceId,
        /// The tokens, sealed and digested.
        tokens: Vec<NewApiKey>,
        /// Addresses from which they may be used; empty means any.
        cidr: Vec<IpNet>,
        /// When they become void.
        expires_at: Timestamp,
        /// How often each may be used; absent means any number of times.
        uses: Option<u32>,
    },
    /// Makes a host factory token void. The actor needs `update` on its factory.
    RevokeHostFactoryToken {
        /// SHA-256 of the token.
        digest: Digest,
    },
    /// Creates a host for the bearer of a host factory token, or gives the host that the factory has
    /// already a new API key. The actor is the factory.
    EnrolHost {
        /// SHA-256 of the token presented.
        token: Digest,
        /// The host.
        host: RoleId,
        /// Its new key.
        key: NewApiKey,
        /// Names and values, for a host that is created.
        annotations: Vec<(String, String)>,
    },
    /// Forgets host factory tokens that have expired by the time of the command.
    SweepHostFactoryTokens,
    /// Switches an authenticator on or off. The actor needs `update` on its webservice.
    ToggleAuthenticator {
        /// The webservice.
        webservice: ResourceId,
        /// On or off.
        enabled: bool,
    },
    /// Changes an account through the API, outside any policy load, in steps that the door planned.
    ChangeAccount {
        /// The account.
        account: AccountName,
        /// What the actor must be allowed; a role needs at least one.
        needs: Vec<Need>,
        /// The changes, in order, as planned at `based_on`.
        changes: Vec<Event>,
        /// The account's revision that the plan was made from.
        based_on: Revision,
    },
    /// Adds the version that a rotation has put in force elsewhere. Refused when the secret has moved
    /// on since.
    RotateSecret {
        /// The variable.
        resource: ResourceId,
        /// The version that was in force when the rotation began.
        after: Version,
        /// Its new value, sealed for this resource.
        value: Sealed,
        /// Fingerprint of the plain value.
        fingerprint: Fingerprint,
        /// When the next rotation is due.
        expires_at: Timestamp,
    },
    /// Appends records of one node to the audit chain, as [`Command::ChainAudit`] does, and cuts off what
    /// the chain has already. Proposed only while there may be members that do not know the other.
    AppendAudit {
        /// The node that made them.
        node: u64,
        /// Number of the first in that node's spool.
        first: u64,
        /// How many right before the first the node has lost for good.
        lost: u64,
        /// Their texts, in order.
        records: Vec<String>,
    },
    /// Appends a checkpoint to the audit chain.
    CheckpointAudit {
        /// What the cluster vouches for.
        checkpoint: AuditCheckpoint,
    },
    /// Forgets the oldest records of the audit chain.
    TrimAudit {
        /// Number of the oldest record to keep.
        first: u64,
        /// Hash of the record before it, from which the rest can be verified.
        base: Digest,
    },
    /// Puts certificates in force, each the next generation of its name, issuers first.
    InstallCertificates {
        /// The certificates.
        certificates: Vec<(CertificateKey, Certificate)>,
    },
    /// Says where the renewal of a certificate stands.
    MarkCertificate {
        /// Its newest generation.
        key: CertificateKey,
        /// Where it stands.
        condition: Condition,
    },
    /// Forgets a root that nothing hangs on any more, which is trusted no longer, or what stands at the
    /// edge.
    RetireCertificate {
        /// Which.
        key: CertificateKey,
    },
    /// Puts what was sealed under an older data key back under the newest. What has changed meanwhile
    /// is passed over.
    Reseal {
        /// Most of them [`crate::decide::RESEALED_AT_ONCE_MAX`].
        values: Vec<Resealed>,
    },
    /// Appends records of one node to the audit chain. What does not begin right after what the chain
    /// has of the node changes nothing; the answer says what it has.
    ChainAudit {
        /// The node that made them.
        node: u64,
        /// Number of the first in that node's spool.
        first: u64,
        /// How many right before the first the node has lost for good.
        lost: u64,
        /// Their texts, in order.
        texts: AuditTexts,
    },
    /// Makes one node all there is of the cluster: all other members are struck off, join tokens become
    /// void, and what followers present is forgotten. For a node that goes on alone under another
    /// cluster id: from a backup, or after the majority was lost.
    RefoundCluster {
        /// The node's id.
        node: u64,
        /// The node; a voter.
        member: Member,
    },
    /// Raises the cluster's feature level: all its members know what belongs to it.
    RaiseLevel {
        /// The new level; see [`crate::level`].
        level: u32,
    },
}
