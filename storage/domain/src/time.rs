//! Instants and positions: wall-clock milliseconds as the door stamped them, and places in the log.

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC, as stamped by the node that took the request.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// A place in the replicated log; the first entry has index 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct LogIndex(pub u64);

/// Where the rules read the wall clock from. Only the door and the jobs hold one; deciding never does.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time now.
    fn now(&self) -> Timestamp;
}
