//! What a member can tell about itself and the others.

use std::time::Duration;

use crate::types::{NodeInfo, NodeRole};

/// What a node is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Elected, and takes writes.
    Leader,
    /// A voter that follows the leader.
    Standby,
    /// A voter that has lost its leader and calls an election.
    Candidate,
    /// Replicates without a vote.
    Follower,
    /// Not in any list of members that it knows: has yet to join, or was removed.
    Joining,
    /// Shut down, or its storage has failed.
    Stopped,
}

impl NodeState {
    /// The word for logs, metrics and the API.
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

/// One member, seen from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// What the log knows of it.
    pub info: NodeInfo,
    /// The part it is meant to play.
    pub role: NodeRole,
    /// Whether it has a vote.
    pub voter: bool,
    /// Last entry known to be in its log. Only a leader knows of others.
    pub matched: Option<u64>,
    /// How many entries it lacks. Only a leader knows of others.
    pub lag: Option<u64>,
    /// Since when the leader has heard nothing from it. Only a leader knows.
    pub silent_for: Option<Duration>,
}

/// A member's account of itself. All places in the log are indexes; none means nothing yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// What it is at the moment.
    pub state: NodeState,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// Last entry in its log.
    pub last_log: Option<u64>,
    /// Last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// Last entry that its state holds.
    pub applied: Option<u64>,
    /// Last entry in its newest snapshot.
    pub snapshot: Option<u64>,
    /// Last entry that its log has given up.
    pub purged: Option<u64>,
    /// The members, by id.
    pub members: Vec<MemberStatus>,
    /// Leader: time since a majority last followed it.
    pub since_quorum: Option<Duration>,
    /// Time since it was known to be level with a leader that had a majority; for a leader the same
    /// as `since_quorum`. None if that was never so since its start.
    pub age: Option<Duration>,
    /// Why it has stopped, where it has.
    pub failure: Option<String>,
}
