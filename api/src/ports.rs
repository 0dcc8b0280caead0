//! What the door needs from the outside, as small traits: somewhere to propose, something to open
//! sealed values with. The real ones are implemented here too; tests bring their own.
//!
//! The clock is the domain's [`Clock`]; state is read from storage's [`StateStore`] directly, since
//! it runs in memory as well as on disk.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use ipnet::IpNet;
use zeroize::Zeroizing;

use conclave_domain::id::RoleId;
use conclave_domain::outcome::Rejection;
pub use conclave_domain::time::Clock;
pub use conclave_raft::Reign;
use conclave_raft::{Handle, NodeRole, NodeState};
pub use conclave_storage::seal::{Secret, Vault};
pub use conclave_storage::{StateStore, View};

/// A member that a leader has not heard from for longer than this counts as silent.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a member may take to say how it is.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// A command that is in the log and applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log.
    pub index: u64,
    /// The encoded [`conclave_domain::outcome::Reply`].
    pub reply: Vec<u8>,
}

/// Why a proposal brought no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader is known; the command did not happen and may be proposed again.
    #[error("no leader is known")]
    NoLeader,
    /// The queue of proposals is full; the command did not happen.
    #[error("the queue of proposals is full")]
    Overloaded,
    /// The command may or may not happen, now or later.
    #[error("the fate of the write is not known")]
    Unknown,
    /// The command is larger than the log takes; it did not happen.
    #[error("the write is larger than the log takes")]
    TooLarge,
    /// The node has met a fault and takes no more proposals.
    #[error("this node has stopped")]
    Stopped,
}

/// Why the log's order could not be confirmed for a read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader could confirm how far the log goes.
    #[error("no leader could confirm the read")]
    NoLeader,
    /// This node has not come that far in the time given.
    #[error("this node has not reached the index asked for")]
    Behind,
    /// The node has met a fault.
    #[error("this node has stopped")]
    Stopped,
}

/// What part this node plays now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The elected voter.
    Leader,
    /// A voter that follows the leader.
    Standby,
    /// A voter that seeks election, or knows no leader.
    Candidate,
    /// A read-only node.
    Follower,
    /// Not a member yet, or a voter to be that has yet to be given its vote: what it keeps may be far behind.
    Joining,
    /// Shut down, or its storage has failed.
    Stopped,
}

impl Part {
    /// The word used in health, metrics and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Candidate => "candidate",
            Self::Follower => "follower",
            Self::Joining => "joining",
            Self::Stopped => "stopped",
        }
    }
}

/// Where the cluster stands, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// This node.
    pub node_id: u64,
    /// What part it plays.
    pub part: Part,
    /// The Raft term.
    pub term: u64,
    /// The leader's node id, where one is known.
    pub leader: Option<u64>,
    /// URL of the leader's API, where one is known.
    pub leader_url: Option<String>,
    /// Index of the last entry in this node's log.
    pub last_log: u64,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// How many members vote.
    pub voters: usize,
    /// How many members follow.
    pub followers: usize,
    /// How many members a leader has not heard from for some seconds; others do not know.
    pub silent: Option<usize>,
    /// Time since this node was known to be level with a leader that had its quorum.
    pub age: Option<Duration>,
}

impl ClusterStatus {
    /// Entries known to be committed and not applied here.
    pub const fn lag_entries(&self) -> u64 {
        self.committed.saturating_sub(self.applied)
    }
}

/// Agreement, as far as the door needs it.
pub trait Proposer: Send + Sync + 'static {
    /// Proposes an encoded envelope, and answers when it is applied on this node's leader.
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<Committed, ProposeError>>;

    /// Confirms how far the log goes and waits until this node has applied that far. Reads made
    /// after it are linearizable. Answers the index reached.
    fn read_barrier(&self) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Who leads now, as far as this node knows. Cheap: asked at every write.
    fn reign(&self) -> Reign;

    /// Waits until this node knows a leader, and of another reign than that one. May never end.
    fn next_reign(&self, than: Reign) -> BoxFuture<'_, ()>;

    /// Waits, so long at most, until this node has applied `index`.
    fn wait_applied(&self, index: u64, within: Duration) -> BoxFuture<'_, Result<(), ReadError>>;

    /// What part this node plays. Cheap: asked at every request.
    fn part(&self) -> Part;

    /// Time since this node was known to be level with the leader. Cheap: asked at every request.
    fn age(&self) -> Option<Duration>;

    /// Everything `/health` and `/info` tell.
    fn status(&self) -> ClusterStatus;

    /// Asks a member by its name how it is.
    ///
    /// # Errors
    /// [`HealthError`].
    fn health_of<'a>(&'a self, member: &'a str) -> BoxFuture<'a, Result<Health, HealthError>>;
}

/// A seed that a role asks for, so that a follower can join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedOrder {
    /// Who asks; the log looks again whether it may.
    pub role: RoleId,
    /// From where.
    pub client_ip: String,
    /// The name that the follower must take.
    pub name: String,
    /// The name of the load balancer that its group stands behind; its own name without one.
    pub group: Option<String>,
    /// More names under which clients reach it.
    pub names: Vec<String>,
    /// Addresses from which the follower may join; from anywhere without.
    pub cidr: Vec<IpNet>,
    /// How long the seed is good.
    pub life: Duration,
}

/// Why no seed was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedRefusal {
    /// The log refused it.
    #[error("{0}")]
    Rejected(Rejection),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be issued now; it may have been issued all the same, and is then good for nobody.
    #[error("{0}")]
    Unavailable(String),
}

/// Issues seeds. The node that serves the door does.
pub trait Seeds: Send + Sync + 'static {
    /// The bytes of a seed file, good once.
    ///
    /// # Errors
    /// [`SeedRefusal`].
    fn issue(&self, order: SeedOrder) -> BoxFuture<'_, Result<Zeroizing<Vec<u8>>, SeedRefusal>>;
}

/// The kind of call between nodes that asks for [`Health`].
pub const SERVICE_HEALTH: u8 = 4;

/// Version of [`Health`]'s bytes.
const HEALTH_VERSION: u8 = 1;

/// A member's own account of how it is, as its `/health` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it may serve.
    pub ok: bool,
    /// The JSON document.
    pub document: Vec<u8>,
}

impl Health {
    /// For the way between nodes: version, ok as 0 or 1, document.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![HEALTH_VERSION, u8::from(self.ok)];
        bytes.extend_from_slice(&self.document);
        bytes
    }

    /// Reads what [`Health::encode`] wrote; nothing when it is something else, or newer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [HEALTH_VERSION, ok @ (0 | 1), document @ ..] => {
                Some(Self { ok: *ok == 1, document: document.to_vec() })
            }
            _ => None,
        }
    }
}

/// Why a member's health is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// No member has that name.
    #[error("no member has that name")]
    NoMember,
    /// It is this node itself.
    #[error("it is this node")]
    Myself,
    /// It could not be asked, or gave no answer that is understood.
    #[error("{0}")]
    Unreachable(String),
}

/// Opens and seals values, once the keyring is open.
pub trait VaultSource: Send + Sync + 'static {
    /// The vault, or nothing while this node is sealed.
    fn vault(&self) -> Option<Arc<Vault>>;
}

impl VaultSource for ArcSwapOption<Vault> {
    fn vault(&self) -> Option<Arc<Vault>> {
        self.load_full()
    }
}

/// The real agreement, behind the port.
pub struct Agreement {
    handle: Handle,
    node_id: u64,
}

impl Agreement {
    /// Wraps a running member.
    pub fn new(handle: Handle) -> Self {
        let node_id = handle.status().node_id;
        Self { handle, node_id }
    }
}

/// The part of a member that has no vote. One that came to be a voter is none of the followers, whose answers
/// may be out of date: its clients are those of voters, and are to see no older state there. Nor is it a standby
/// yet, since it may still be without the accounts whose keys tell good tokens from bad ones.
const fn part_without_vote(role: NodeRole) -> Part {
    match role {
        NodeRole::Voter => Part::Joining,
        NodeRole::Follower => Part::Follower,
    }
}

impl Proposer for Agreement {
    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<Committed, ProposeError>> {
        Box::pin(async move {
            let committed = self.handle.propose(command).await?;
            Ok(Committed { index: committed.index, reply: committed.reply })
        })
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(async move { Ok(self.handle.read_barrier().await?) })
    }

    fn reign(&self) -> Reign {
        self.handle.reign()
    }

    fn next_reign(&self, than: Reign) -> BoxFuture<'_, ()> {
        Box::pin(self.handle.next_reign(than))
    }

    fn wait_applied(&self, index: u64, within: Duration) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            self.handle.wait_applied(index, within).await?;
            Ok(())
        })
    }

    fn part(&self) -> Part {
        if self.handle.leads() {
            return Part::Leader;
        }
        let members = self.handle.members();
        match members.members.get(&self.node_id) {
            Some(me) if me.voter && self.handle.leader().is_some() => Part::Standby,
            Some(me) if me.voter => Part::Candidate,
            Some(me) => part_without_vote(me.info.role),
            None => Part::Joining,
        }
    }

    fn age(&self) -> Option<Duration> {
        self.handle.age()
    }

    fn status(&self) -> ClusterStatus {
        let status = self.handle.status();
        let leader = status.leader.and_then(|id| {
            status.members.iter().find(|member| member.id == id).map(|member| &member.info)
        });
        ClusterStatus {
            node_id: status.node_id,
            part: match status.state {
                NodeState::Leader => Part::Leader,
                NodeState::Standby => Part::Standby,
                NodeState::Candidate => Part::Candidate,
                NodeState::Follower => {
                    let mut members = status.members.iter();
                    let me = members.find(|member| member.id == status.node_id);
                    let role = me.map_or(NodeRole::Follower, |me| me.info.role);
                    part_without_vote(role)
                }
                NodeState::Joining => Part::Joining,
                NodeState::Stopped => Part::Stopped,
            },
            term: status.term,
            leader_url: leader.map(|info| info.api_url.clone()),
            leader: status.leader,
            last_log: status.last_log.unwrap_or(0),
            committed: status.committed.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            voters: status.members.iter().filter(|member| member.voter).count(),
            followers: status.members.iter().filter(|member| !member.voter).count(),
            silent: (status.state == NodeState::Leader).then(|| {
                let silent = status.members.iter().filter_map(|member| member.silent_for);
                silent.filter(|silent| *silent > SILENCE).count()
            }),
            age: status.age,
        }
    }

    fn health_of<'a>(&'a self, member: &'a str) -> BoxFuture<'a, Result<Health, HealthError>> {
        Box::pin(async move {
            let members = self.handle.members();
            let found = members.members.iter().find(|(_, known)| known.info.name == member);
            let (&id, _) = found.ok_or(HealthError::NoMember)?;
            if id == self.node_id {
                return Err(HealthError::Myself);
            }
            let answer = self.handle.call(id, SERVICE_HEALTH, Vec::new(), HEALTH_PATIENCE).await;
            let bytes = answer.map_err(|error| HealthError::Unreachable(error.to_string()))?;
            Health::decode(&bytes).ok_or_else(|| {
                HealthError::Unreachable("its answer is not one that this version knows".to_owned())
            })
        })
    }
}

impl From<conclave_raft::ProposeError> for ProposeError {
    fn from(error: conclave_raft::ProposeError) -> Self {
        use conclave_raft::ProposeError as Raft;
        match error {
            Raft::NoLeader { .. } | Raft::Forbidden => Self::NoLeader,
            Raft::Overloaded { .. } => Self::Overloaded,
            Raft::TooLarge { .. } => Self::TooLarge,
            Raft::Unknown => Self::Unknown,
            Raft::Fault(_) | Raft::Closed => Self::Stopped,
        }
    }
}

impl From<conclave_raft::ReadError> for ReadError {
    fn from(error: conclave_raft::ReadError) -> Self {
        use conclave_raft::ReadError as Raft;
        match error {
            Raft::NoLeader { .. } => Self::NoLeader,
            Raft::Behind { .. } => Self::Behind,
            Raft::Closed => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_the_golden_bytes_of_version_1_and_others_are_refused() {
        let health = Health { ok: true, document: b"{}".to_vec() };
        assert_eq!(health.encode(), b"\x01\x01{}");
        assert_eq!(Health::decode(b"\x01\x01{}"), Some(health));
        assert_eq!(Health::decode(b"\x01\x00"), Some(Health { ok: false, document: Vec::new() }));
        for strange in [&b""[..], b"\x01", b"\x01\x02{}", b"\x02\x01{}"] {
            assert_eq!(Health::decode(strange), None, "{strange:?}");
        }
    }

    #[test]
    fn who_came_to_be_a_voter_is_passed_by_until_it_has_its_vote_and_is_no_follower() {
        assert_eq!(part_without_vote(NodeRole::Voter), Part::Joining);
        assert_eq!(part_without_vote(NodeRole::Follower), Part::Follower);
    }
}
