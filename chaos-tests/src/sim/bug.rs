//! Known bugs that can be put back, to prove that the suite finds them.
//!
//! Source: `fault-model` section 6, "The suite must catch these seeded bugs, each on its own"; the last
//! one is ours: a power-cut drill had found it.

use conclave_storage::failpoint::SeededBug;

/// A bug that a simulation can run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// One in the store.
    Storage(SeededBug),
    /// A leader answers reads without asking a quorum whether it still leads.
    StaleLeaderRead,
    /// The assent of one peer is taken for granted.
    QuorumOffByOne,
    /// A follower answers as soon as it has started, with what it then finds on its disk.
    AnswerBeforeLevel,
}

/// Every bug by its name.
pub const NAMES: [&str; 7] = [
    "skip-vote-fsync",
    "skip-log-fsync",
    "acknowledge-before-flush",
    "applied-index-in-separate-write",
    "stale-leader-read",
    "quorum-off-by-one",
    "answer-before-level",
];

impl Bug {
    /// The bug of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "skip-vote-fsync" => Self::Storage(SeededBug::SkipVoteSync),
            "skip-log-fsync" => Self::Storage(SeededBug::SkipLogSync),
            "acknowledge-before-flush" => Self::Storage(SeededBug::AckBeforeFlush),
            "applied-index-in-separate-write" => {
                Self::Storage(SeededBug::AppliedIndexInSeparateWrite)
            }
            "stale-leader-read" => Self::StaleLeaderRead,
            "quorum-off-by-one" => Self::QuorumOffByOne,
            "answer-before-level" => Self::AnswerBeforeLevel,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Bug, NAMES};

    #[test]
    fn every_name_names_a_bug() {
        assert!(NAMES.iter().all(|name| Bug::parse(name).is_some()));
        assert_eq!(Bug::parse("none such"), None);
    }
}
