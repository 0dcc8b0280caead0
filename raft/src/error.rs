//! What can go wrong for those who hold a [`crate::Handle`], by what they can do about it.

use std::time::Duration;

pub use conclave_storage::Fault;

/// Why a proposal gave no reply. All but [`ProposeError::Unknown`] mean that it did not happen and
/// never will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader could be reached. Retry shortly.
    #[error("no leader at the moment; it did not happen, retry shortly")]
    NoLeader {
        /// Who led last, as far as this node knows.
        leader: Option<u64>,
    },
    /// Too many bytes wait for agreement already. Retry later.
    #[error("{in_flight} bytes wait for agreement, at most {most} may; it did not happen")]
    Overloaded {
        /// Bytes in flight when it was refused.
        in_flight: usize,
        /// The bound.
        most: usize,
    },
    /// The command is longer than any may be.
    #[error("a command of {found} bytes, at most {most} are allowed; it did not happen")]
    TooLarge {
        /// Its length.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The leader takes no proposals from this node: it is a follower. Ask at a voter.
    #[error("a follower may not change the cluster; ask at a voter; it did not happen")]
    Forbidden,
    /// It was handed to the log and no answer came: it may have happened, or may yet. Retry with
    /// the same request id, or report it as unknown; never as a failure.
    #[error("proposed, but its fate is not known")]
    Unknown,
    /// This node's storage failed earlier; the process is on its way out.
    #[error("this node's storage has failed: {0}")]
    Fault(String),
    /// This node is shut down.
    #[error("this node is shut down")]
    Closed,
}

/// Why a linearizable read cannot be served now. Retrying is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader could confirm what is committed.
    #[error("no leader could confirm what is committed; retry shortly, or read locally")]
    NoLeader {
        /// Who led last, as far as this node knows.
        leader: Option<u64>,
    },
    /// The leader answered, but this node has not applied that much in time.
    #[error("has applied up to {applied}, waited for {wanted}")]
    Behind {
        /// What is applied here.
        applied: u64,
        /// What was waited for.
        wanted: u64,
    },
    /// This node is shut down or has failed.
    #[error("this node is shut down")]
    Closed,
}

/// Why a change of members or leadership was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader can do it.
    #[error("this node does not lead{}", leader.map_or(String::new(), |id| format!("; node {id} does")))]
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<u64>,
    },
    /// There is no such member.
    #[error("node {0} is not a member")]
    NotAMember(u64),
    /// The id is taken, or was: ids are never used twice.
    #[error("node {0} is a member already")]
    AlreadyAMember(u64),
    /// The last voter cannot go.
    #[error("node {0} is the only voter")]
    LastVoter(u64),
    /// The member has not caught up within the time given.
    #[error(
        "node {id} has not caught up within {waited:?}: it has {matched:?}, the log ends at {last}"
    )]
    NotCaughtUp {
        /// Who.
        id: u64,
        /// How far it has come.
        matched: Option<u64>,
        /// How far it had to come.
        last: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// Another change is under way.
    #[error("another change of members is under way")]
    InProgress,
    /// Refused for another reason, given in words.
    #[error("refused: {0}")]
    Refused(String),
    /// Asked for, but it is not known whether it was done; look at the status.
    #[error("asked for, but its fate is not known")]
    Unknown,
    /// This node is shut down or has failed.
    #[error("this node is shut down")]
    Closed,
}

/// Why a call to a peer failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection; nothing was sent.
    #[error("no connection to {peer}: {reason}")]
    Unreachable {
        /// Whom it was for.
        peer: String,
        /// Why there is none.
        reason: String,
    },
    /// Sent, and no answer in time.
    #[error("no answer from {peer} within {waited:?}")]
    Timeout {
        /// Whom it was for.
        peer: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke after something was sent.
    #[error("connection to {peer} broke: {reason}")]
    Broken {
        /// Whom it was for.
        peer: String,
        /// How.
        reason: String,
    },
    /// The peer understood and refused.
    #[error("{peer} refused: {reason}")]
    Refused {
        /// Who.
        peer: String,
        /// Its words.
        reason: String,
    },
    /// The peer's bytes are no answer.
    #[error("{peer} sent an answer that is none: {reason}")]
    Malformed {
        /// Who.
        peer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No member of that id, or no leader to ask.
    #[error("nobody to call: {0}")]
    Nobody(String),
}

impl CallError {
    /// Whether it is certain that the peer never got the call.
    pub fn never_sent(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Nobody(_))
    }
}
