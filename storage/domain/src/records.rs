//! The records that state is made of. Each is plain data; what may happen to them is in
//! [`crate::decide`], what then becomes of them in [`crate::evolve`].

use std::net::IpAddr;

use ipnet::IpNet;
use zeroize::Zeroize;

use crate::certificates::CertificateKey;
use crate::id::{AccountName, ResourceId, RoleId};
use crate::time::{LogIndex, Timestamp};

/// Ciphertext with its header, opaque to the rules. Only `conclave-storage` makes and opens it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// A keyed digest of a secret value: equal values of one resource have equal fingerprints, and
/// without the root key nothing else can be learned from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// SHA-256 of an API key or a join token. Those have 256 random bits, so a plain digest is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// The number of a secret's version: the first is 1, each next one more, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// The version whose place this one takes: the one [`SECRET_VERSIONS_KEPT`] before it, if there
    /// can be one.
    pub fn displaced(self) -> Option<Self> {
        let kept = u32::try_from(SECRET_VERSIONS_KEPT).unwrap_or(u32::MAX);
        self.0.checked_sub(kept).filter(|number| *number > 0).map(Self)
    }
}

/// Moves with every change to an account's roles, resources, grants or annotations: it is the log
/// index of the last such change (or one more than before, should that be greater). A policy plan
/// names the revision that it was made from, and is refused when the account has moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

/// How many versions of a secret are kept.
pub const SECRET_VERSIONS_KEPT: usize = 20;
/// How many versions of a policy's text are kept.
pub const POLICY_VERSIONS_KEPT: usize = 20;

/// A tenant: its own roles, resources and token-signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// When it was created.
    pub created_at: Timestamp,
    /// Moves with every change to roles, resources or grants of the account.
    pub revision: Revision,
    /// The key that signs its access tokens.
    pub signing_key: SigningKey,
}

/// An RSA-2048 token-signing key. The private half rests sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Hex SHA-256 of the DER `SubjectPublicKeyInfo`; the `kid` of tokens.
    pub id: String,
    /// DER `SubjectPublicKeyInfo`.
    pub public: Vec<u8>,
    /// Sealed PKCS#8 private key.
    pub private: Sealed,
}

/// Somebody who may do things, or a collection of such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// When it was created.
    pub created_at: Timestamp,
    /// The policy whose load declared it; none when it came through the API.
    pub policy: Option<ResourceId>,
}

/// Something that things are done to. Every role has a resource of the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The role that holds every privilege on it.
    pub owner: RoleId,
    /// When it was created.
    pub created_at: Timestamp,
    /// The policy whose load declared it; none when it came through the API.
    pub policy: Option<ResourceId>,
}

/// Names one membership row: `role` is granted to `member`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MembershipKey {
    /// The role that is held.
    pub role: RoleId,
    /// Who holds it.
    pub member: RoleId,
    /// Whether the row exists because `member` owns `role`.
    pub ownership: bool,
}

/// What a membership row says beyond its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Whether the member may grant the role on. Recorded and shown, not enforced.
    pub admin_option: bool,
    /// The policy whose load declared it.
    pub policy: Option<ResourceId>,
}

/// Names one permission row: `role` may do `privilege` to `resource`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermissionKey {
    /// What it is done to.
    pub resource: ResourceId,
    /// Who may.
    pub role: RoleId,
    /// What may be done; free text.
    pub privilege: String,
}

/// What a permission row says beyond its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The policy whose load declared it.
    pub policy: Option<ResourceId>,
}

/// One annotation of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Its value.
    pub value: String,
    /// The policy whose load declared it.
    pub policy: Option<ResourceId>,
}

/// The credentials of a user or host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The API key, sealed, since a login hands the current one out.
    pub api_key: Sealed,
    /// Its digest, for comparison in constant time without opening anything.
    pub api_key_digest: Digest,
    /// When the key was made.
    pub rotated_at: Timestamp,
    /// PHC string of the password hash, where the user has a password.
    pub password_hash: Option<String>,
    /// Addresses from which the role may authenticate; empty means any.
    pub restricted_to: Vec<IpNet>,
}

/// An API key fresh from the door: sealed for keeping, digested for comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    /// The sealed key.
    pub sealed: Sealed,
    /// SHA-256 of the key.
    pub digest: Digest,
}

/// A host factory token. Whoever presents it may enrol hosts for the factory until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFactoryToken {
    /// The factory whose hosts it enrols.
    pub factory: ResourceId,
    /// The token, sealed, since those who may hand tokens out are shown it again.
    pub sealed: Sealed,
    /// Addresses from which it may be used; empty means any.
    pub cidr: Vec<IpNet>,
    /// From this instant on it is void.
    pub expires_at: Timestamp,
    /// How often it may still be used; absent means any number of times. Used up it is kept until it expires, so
    /// that a repeated request can be answered as it was.
    pub uses_left: Option<u32>,
}

impl HostFactoryToken {
    /// Whether the token has been used as often as it may be.
    pub fn is_used_up(&self) -> bool {
        self.uses_left == Some(0)
    }

    /// Whether the token is good at an instant for a client at an address, both as the door saw them, if it is not
    /// used up.
    pub fn admits(&self, at: Timestamp, client: Option<IpAddr>) -> bool {
        let from_there =
            || client.is_some_and(|client| self.cidr.iter().any(|range| range.contains(&client)));
        at < self.expires_at && (self.cidr.is_empty() || from_there())
    }
}

/// Whether an authenticator's webservice is enabled by those who administer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticatorConfig {
    /// Switched on.
    pub enabled: bool,
}

/// Names an issuer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerKey {
    /// Its account.
    pub account: AccountName,
    /// Its name there.
    pub issuer: String,
}

/// Where dynamic secrets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// What sort of issuer; `aws` is the only one known.
    pub kind: String,
    /// Longest life of a secret that it issues, in seconds.
    pub max_ttl: u32,
    /// Its credentials, a JSON text, sealed.
    pub data: Sealed,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub modified_at: Timestamp,
}

/// A place in the state where something sealed lies, with what tells that it is still the one meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedAt {
    /// The private half of an account's signing key, by the key's id.
    SigningKey(AccountName, String),
    /// The API key of a role, by its digest.
    ApiKey(RoleId, Digest),
    /// A kept version of a secret, by its fingerprint.
    Secret(ResourceId, Version, Fingerprint),
    /// A host factory token, by its digest.
    HostFactoryToken(Digest),
    /// The credentials of an issuer, by how they are sealed so far.
    Issuer(IssuerKey, Sealed),
    /// The private key of one of the cluster's certificates, by how it is sealed so far.
    Certificate(CertificateKey, Sealed),
}

/// What lies at a place, sealed under another data key; what it opens to is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Where.
    pub at: SealedAt,
    /// What lies there from now on.
    pub sealed: Sealed,
}

/// What is kept of one version of a secret beside its sealed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretVersion {
    /// Tells equal values apart from changed ones.
    pub fingerprint: Fingerprint,
    /// When the value is due for rotation.
    pub expires_at: Option<Timestamp>,
    /// When it was set.
    pub created_at: Timestamp,
}

/// The retained versions of one secret, without values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Secret {
    /// By version number; never empty once the secret has been set.
    pub versions: SecretVersions,
}

/// Versions by number, ascending. At most [`SECRET_VERSIONS_KEPT`] in the long run and mostly one,
/// so they lie in a vector without room to spare: a tree would cost ten times the memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretVersions(Vec<(Version, SecretVersion)>);

impl SecretVersions {
    /// The version of that number.
    pub fn get(&self, version: &Version) -> Option<&SecretVersion> {
        self.place(*version).ok().map(|at| &self.0[at].1)
    }

    /// Whether there is a version of that number.
    pub fn contains_key(&self, version: &Version) -> bool {
        self.place(*version).is_ok()
    }

    /// The oldest version.
    pub fn first_key_value(&self) -> Option<(&Version, &SecretVersion)> {
        self.0.first().map(|(version, record)| (version, record))
    }

    /// The current version.
    pub fn last_key_value(&self) -> Option<(&Version, &SecretVersion)> {
        self.0.last().map(|(version, record)| (version, record))
    }

    /// All versions, ascending.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&Version, &SecretVersion)> + ExactSizeIterator {
        self.0.iter().map(|(version, record)| (version, record))
    }

    /// All version numbers, ascending.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Version> + ExactSizeIterator {
        self.0.iter().map(|(version, _)| version)
    }

    /// All records, by ascending version number.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &SecretVersion> + ExactSizeIterator {
        self.0.iter().map(|(_, record)| record)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Inserts or overwrites.
    pub(crate) fn insert(&mut self, version: Version, record: SecretVersion) {
        match self.place(version) {
            Ok(at) => self.0[at].1 = record,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (version, record));
            }
        }
    }

    /// Removes, if it is there.
    pub(crate) fn remove(&mut self, version: Version) {
        if let Ok(at) = self.place(version) {
            self.0.remove(at);
        }
    }

    fn place(&self, version: Version) -> Result<usize, usize> {
        self.0.binary_search_by_key(&version, |(number, _)| *number)
    }
}

/// One loaded text of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// Who loaded it.
    pub role: RoleId,
    /// When the load was asked for.
    pub created_at: Timestamp,
    /// When the load was committed; the same clock reading as `created_at`.
    pub finished_at: Timestamp,
    /// Where the request came from.
    pub client_ip: String,
    /// The text as it was sent.
    pub policy_text: String,
    /// Hex SHA-256 of the text.
    pub policy_sha256: String,
}

/// The data keys, wrapped by the root key; see `conclave-storage`'s `seal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKeyring {
    /// Generation of the newest data key.
    pub generation: u32,
    /// The keyring's bytes under the root key.
    pub wrapped: Sealed,
}

/// What part a member plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberRole {
    /// Votes, and may lead.
    Voter,
    /// Replicates and answers reads; never votes.
    Follower,
}

/// Id of the node that founds a cluster: the log's first entry makes it the first member. No later
/// node can get it, since their ids are the indexes of later entries.
pub const FOUNDER: u64 = 1;

/// A node of the cluster, as the log knows it. Its id is the log index that admitted it; that of the
/// first is [`FOUNDER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique among members in force.
    pub name: String,
    /// Voter or follower.
    pub role: MemberRole,
    /// Ed25519 public key that only this node can sign for.
    pub node_key: [u8; 32],
    /// Host and UDP port where it speaks to its peers.
    pub peer_address: String,
    /// URL of its API.
    pub api_url: String,
}

/// Permission for one node to join once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The name that the node must take.
    pub name: String,
    /// The part it will play.
    pub role: MemberRole,
    /// After this it is void.
    pub expires_at: Timestamp,
    /// Addresses from which the node may join; empty means any.
    pub cidr: Vec<IpNet>,
}

/// What a request id was answered with, kept for a while so that a retry is answered alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The log index that holds the command.
    pub index: LogIndex,
    /// The encoded outcome (see [`crate::outcome::codec`]).
    pub reply: Vec<u8>,
}

/// Identifies one request across retries; 16 random bytes, or a digest of a client's idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Zeroize)]
pub struct RequestId(pub [u8; 16]);

/// Names an account's record in errors.
pub type AccountId = AccountName;
