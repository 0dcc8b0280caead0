//! What can be asked over the admin socket, and what is answered. Both sides are the same program,
//! so the shapes carry no version; fields are only ever added.

use std::fmt;

use conclave_domain::audit::{AuditHead, AuditRecord, hex, unhex};
use conclave_domain::records::Digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::backup::Description;
use crate::certificates::inventory::{Clock, Row};
use crate::config::Reloaded;
use crate::exit::{Exit, Failure};
use crate::jobs::{ResealingStatus, RotationStatus};
use crate::seed::{Seed, SeedRole};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Where this node and its cluster stand.
    Status,
    /// Issues a seed for one node.
    Seed {
        /// The name the node must take.
        name: String,
        /// The part it will play.
        role: SeedRole,
        /// Its life in seconds.
        life_s: u32,
        /// A follower's group, by the name of its load balancer; its own name without one.
        #[serde(default)]
        group: Option<String>,
        /// More names under which clients reach a follower.
        #[serde(default)]
        names: Vec<String>,
        /// Addresses from which the node may join; from anywhere without.
        #[serde(default)]
        cidr: Vec<String>,
    },
    /// Removes a member, by name or id.
    Remove {
        /// Which.
        member: String,
    },
    /// Hands leadership to another voter, by name or id; to any when none is named.
    TransferLeader {
        /// To whom.
        to: Option<String>,
    },
    /// Takes this node out of service, or back into it: load balancers and leadership turn away.
    Drain {
        /// Back into it.
        undo: bool,
    },
    /// Creates an account.
    CreateAccount {
        /// Its name.
        name: String,
    },
    /// Deletes an account with all that is in it.
    DeleteAccount {
        /// Its name.
        name: String,
    },
    /// The names of all accounts.
    Accounts,
    /// Digest of everything this node has applied.
    StateHash,
    /// Makes a snapshot now.
    Snapshot,
    /// Puts the next data key into the keyring.
    RotateKeys,
    /// Under which data key values are sealed.
    Keys,
    /// Reads the configuration file anew.
    Reload,
    /// What opens a node that waits for its passphrase.
    Unseal {
        /// The passphrase.
        passphrase: PrivateText,
    },
    /// Seals the node's own files under another master key, as its configuration file says now.
    Rewrap {
        /// What only the asker can read: a passphrase, or what lies behind a credential or descriptor.
        secret: Option<PrivateText>,
    },
    /// Records of the audit chain.
    Audit {
        /// Number of the first.
        from: u64,
    },
    /// A row for each certificate.
    Certificates,
    /// Issues a certificate anew; the root, too.
    RenewCertificate {
        /// Its name.
        name: String,
    },
    /// The roots to trust.
    TrustBundle,
    /// Puts a certificate from outside in force for the names in it.
    ImportCertificate {
        /// What it is to be called.
        name: String,
        /// It and what leads to a root, PEM, in any order.
        chain_pem: String,
        /// Its key, PEM.
        key_pem: PrivateText,
        /// Roots that are not in the chain, PEM.
        roots_pem: String,
    },
    /// Makes a request for an authority outside to sign the cluster's intermediate.
    RequestAuthority,
    /// Brings what it has made of the request.
    ImportAuthority {
        /// It and what leads to a root, PEM, in any order.
        chain_pem: String,
        /// The root, PEM, where the chain does not hold it.
        roots_pem: String,
    },
    /// Forgets a certificate from outside, or a root that another has followed.
    RemoveCertificate {
        /// Its name.
        name: String,
        /// Which generation; the newest without one.
        generation: Option<u32>,
    },
    /// Makes a backup; its blocks follow the answer.
    Backup,
}

/// A private key, or another secret, on its way over the socket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateText(String);

impl PrivateText {
    /// Takes a secret as it stands in a file, or was typed.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateText")
    }
}

impl Drop for PrivateText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// An answer.
#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Seed`].
    Seed(Box<Seed>),
    /// To [`Request::CreateAccount`].
    Account(Account),
    /// To [`Request::Accounts`].
    Accounts {
        /// Their names, in order.
        names: Vec<String>,
    },
    /// To [`Request::StateHash`].
    StateHash(StateHash),
    /// To [`Request::TransferLeader`].
    Leader {
        /// The leader now.
        leader: Option<u64>,
    },
    /// To [`Request::RotateKeys`], [`Request::Keys`] and [`Request::Rewrap`].
    Keys(KeysStatus),
    /// To [`Request::Reload`].
    Reloaded(Reloaded),
    /// To [`Request::Audit`].
    Audit(Box<AuditAnswer>),
    /// To [`Request::Certificates`].
    Certificates {
        /// By name and generation.
        rows: Vec<Row>,
        /// Members whose clocks are off.
        clocks: Vec<Clock>,
    },
    /// To [`Request::RenewCertificate`].
    Renewed {
        /// The generation that is in force now.
        revision: u32,
    },
    /// To [`Request::RequestAuthority`].
    Requested {
        /// The request, PEM.
        pem: String,
    },
    /// To [`Request::ImportCertificate`] and [`Request::ImportAuthority`].
    Imported {
        /// Its name among the cluster's certificates.
        name: String,
        /// Its generation.
        revision: u32,
        /// The host names that it answers for now.
        names: Vec<String>,
        /// The subject of the root that it leads to.
        root: String,
    },
    /// To [`Request::Backup`].
    Backup(Box<Description>),
    /// To [`Request::TrustBundle`].
    TrustBundle {
        /// PEM.
        pem: String,
    },
    /// Done; nothing more to say.
    Done,
    /// It was not done.
    Refused {
        /// The exit code it should end in.
        exit: u8,
        /// Why.
        message: String,
    },
}

impl Response {
    /// The answer that reports a failure.
    pub fn refused(failure: &Failure) -> Self {
        Self::Refused { exit: failure.exit as u8, message: failure.message.clone() }
    }

    /// The failure that an answer of the wrong kind, or a refusal, stands for.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Refused { exit, message } => Failure::new(
                match exit {
                    code if code == Exit::Unavailable as u8 => Exit::Unavailable,
                    code if code == Exit::Refused as u8 => Exit::Refused,
                    code if code == Exit::NotFound as u8 => Exit::NotFound,
                    code if code == Exit::Fault as u8 => Exit::Fault,
                    code if code == Exit::Usage as u8 => Exit::Usage,
                    code if code == Exit::Configuration as u8 => Exit::Configuration,
                    _ => Exit::Failed,
                },
                message,
            ),
            Self::Status(_)
            | Self::Seed(_)
            | Self::Account(_)
            | Self::Accounts { .. }
            | Self::StateHash(_)
            | Self::Leader { .. }
            | Self::Keys(_)
            | Self::Reloaded(_)
            | Self::Audit(_)
            | Self::Certificates { .. }
            | Self::Renewed { .. }
            | Self::Imported { .. }
            | Self::Requested { .. }
            | Self::Backup(_)
            | Self::TrustBundle { .. }
            | Self::Done => Failure::new(Exit::Failed, "the node answered something else"),
        }
    }
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its cluster.
    pub cluster_id: String,
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// `leader`, `standby`, `candidate`, `follower` or `joining`; `sealed` without a master key.
    pub part: String,
    /// The Raft term.
    pub term: u64,
    /// The leader's node id, where one is known.
    pub leader: Option<u64>,
    /// Index of the last entry in the log.
    pub last_log: u64,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Index of the last snapshot.
    pub snapshot: u64,
    /// Milliseconds since a follower was level with the leader, or a leader heard its quorum.
    pub age_ms: Option<u64>,
    /// Whether it waits for its master key or for the keyring, and can neither seal nor open anything.
    pub sealed: bool,
    /// For what.
    #[serde(default)]
    pub sealed_reason: Option<String>,
    /// Fsyncs of the log since the start of the process.
    pub log_fsyncs: u64,
    /// Bytes written to the log since the start of the process.
    pub log_bytes_written: u64,
    /// Process id.
    pub pid: u32,
    /// URL of its API.
    pub api_url: String,
    /// Version of the program.
    pub version: String,
    /// Everybody, as the log knows them.
    pub members: Vec<MemberStatus>,
    /// How rotations stand; only the leader knows.
    #[serde(default)]
    pub rotations: Vec<RotationStatus>,
    /// Whether the operator has taken this node out of service.
    #[serde(default)]
    pub draining: bool,
    /// The feature level that the cluster has reached.
    #[serde(default)]
    pub level: u32,
    /// The newest that this node is ready for.
    #[serde(default)]
    pub level_max: u32,
    /// After so many seconds of silence this node, while it leads, removes a member.
    #[serde(default)]
    pub remove_dead_after_s: Option<u64>,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `voter` or `follower`, as it was admitted.
    pub role: SeedRole,
    /// Whether it votes already.
    pub votes: bool,
    /// Entries it is behind the leader; only the leader knows.
    pub lag: Option<u64>,
    /// Where it speaks to its peers.
    pub peer_address: String,
    /// URL of its API.
    pub api_url: String,
    /// The version of the peer protocol that this node speaks with it.
    #[serde(default)]
    pub protocol: Option<u8>,
    /// What it says of itself; only the leader has asked.
    #[serde(default)]
    pub seen: Option<SeenMember>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenMember {
    /// Version of its program; empty while it has said nothing.
    pub version: String,
    /// The newest feature level that it is ready for.
    pub level: u32,
    /// Why it may not serve now; nothing when it may.
    pub obstacle: Option<String>,
    /// Milliseconds since it last said something.
    pub silent_ms: u64,
}

/// A digest of the state at an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The node asked.
    pub node_id: u64,
    /// The index that the digest was taken at.
    pub applied: u64,
    /// Hex SHA-256 over all rows.
    pub state_hash: String,
}

/// A new account.
#[derive(Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub account: String,
    /// Its administrator's login.
    pub login: String,
    /// The administrator's API key: shown this once.
    pub api_key: String,
}

/// How the keys stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysStatus {
    /// Where this node has its master key from.
    #[serde(default)]
    pub unseal: String,
    /// Which master key that is; every node has its own.
    #[serde(default)]
    pub master_key: String,
    /// Which root key this node has; the same on all members.
    pub root_key: String,
    /// The data key that seals.
    pub generation: u32,
    /// The data keys that open.
    pub generations: Vec<u32>,
    /// How far older values are sealed anew; only the leader knows.
    pub resealing: Option<ResealingStatus>,
}

/// A page of the audit chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// The cluster.
    pub cluster_id: String,
    /// The key that signs its checkpoints.
    pub key: [u8; 32],
    /// Where the chain begins and ends.
    pub head: AuditHead,
    /// A checkpoint's text, signed just now, for the head.
    pub end: String,
    /// Records with their numbers, in order; none when there are no more.
    pub records: Vec<(u64, AuditRecord)>,
}

/// An [`AuditPage`] as it travels: hashes in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnswer {
    cluster_id: String,
    key: String,
    first: u64,
    base: String,
    last: u64,
    hash: String,
    checkpointed: u64,
    end: String,
    records: Vec<AuditLine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AuditLine {
    number: u64,
    node: u64,
    sequence: u64,
    hash: String,
    text: String,
}

impl From<AuditPage> for AuditAnswer {
    fn from(page: AuditPage) -> Self {
        let line = |(number, record): (u64, AuditRecord)| AuditLine {
            number,
            node: record.node,
            sequence: record.sequence,
            hash: hex(&record.hash.0),
            text: record.text,
        };
        Self {
            cluster_id: page.cluster_id,
            key: hex(&page.key),
            first: page.head.first,
            base: hex(&page.head.base.0),
            last: page.head.last,
            hash: hex(&page.head.hash.0),
            checkpointed: page.head.checkpointed,
            end: page.end,
            records: page.records.into_iter().map(line).collect(),
        }
    }
}

impl TryFrom<AuditAnswer> for AuditPage {
    type Error = Failure;

    fn try_from(answer: AuditAnswer) -> Result<Self, Failure> {
        let no_hash = || Failure::new(Exit::Failed, "the node answered a hash that is none");
        let digest = |text: &str| unhex(text).map(Digest).ok_or_else(no_hash);
        let record = |line: AuditLine| -> Result<(u64, AuditRecord), Failure> {
            let hash = digest(&line.hash)?;
            let (node, sequence) = (line.node, line.sequence);
            Ok((line.number, AuditRecord { node, sequence, text: line.text, hash }))
        };
        Ok(Self {
            cluster_id: answer.cluster_id,
            key: unhex(&answer.key).ok_or_else(no_hash)?,
            head: AuditHead {
                first: answer.first,
                base: digest(&answer.base)?,
                last: answer.last,
                hash: digest(&answer.hash)?,
                checkpointed: answer.checkpointed,
            },
            end: answer.end,
            records: answer.records.into_iter().map(record).collect::<Result<_, Failure>>()?,
        })
    }
}
