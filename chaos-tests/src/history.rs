//! What clients asked and what they were told: the evidence that the checkers judge.
//!
//! All times are nanoseconds of one monotonic clock. Values are unique in a run, so that a value
//! read names the one write that it came from. The rules for outcomes: a success happened, a
//! refusal (4xx, or a connection that never came to be) did not, and anything else (time-out,
//! reset, 5xx) may have happened, then or later.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A secret's value as clients see it; unique in a run.
pub type Value = Arc<str>;

/// The return time of an operation whose fate is not known: it stays open to the end.
pub const NEVER: u64 = u64::MAX;

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Add this value as the next version.
    Write(Value),
    /// Read the current version.
    ReadLatest,
    /// Read the version of this number.
    ReadVersion(u32),
}

/// What the client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The write happened; with the version it got, where the answer says so.
    Written(Option<u32>),
    /// The value read, or that there is none.
    Read(Option<Value>),
    /// Refused: it did not happen.
    Failed,
    /// Not known: it may have happened, or may yet.
    Unknown,
}

/// What the answering node promises about a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// In one order with all other such operations, consistent with real time.
    Linearizable,
    /// Some prefix of that order (a follower's own view).
    Prefix,
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which secret it was about.
    pub secret: Arc<str>,
    /// Which node was asked.
    pub node: u64,
    /// What was asked.
    pub call: Call,
    /// What was told.
    pub outcome: Outcome,
    /// What the asked node promises.
    pub promise: Promise,
    /// When it was sent.
    pub invoked: u64,
    /// When the answer was there; [`NEVER`] when the outcome is unknown.
    pub returned: u64,
}

impl Operation {
    /// Whether the operation can have had an effect or shown one: false for refusals and for
    /// reads that brought nothing back.
    pub fn counts(&self) -> bool {
        match (&self.call, &self.outcome) {
            (_, Outcome::Failed) | (Call::ReadLatest | Call::ReadVersion(_), Outcome::Unknown) => {
                false
            }
            (_, Outcome::Written(_) | Outcome::Read(_)) | (Call::Write(_), Outcome::Unknown) => {
                true
            }
        }
    }

    /// The acknowledged value, where this is an acknowledged write.
    pub fn acknowledged(&self) -> Option<&Value> {
        match (&self.call, &self.outcome) {
            (Call::Write(value), Outcome::Written(_)) => Some(value),
            _ => None,
        }
    }
}

/// The versions of one secret as found when all was over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinalVersions {
    /// Number of the oldest retained version; older ones were superseded by retention. 1 when
    /// nothing was evicted; of no meaning when there are no versions.
    pub first: u32,
    /// The values, from that version on, without gaps.
    pub values: Vec<Value>,
}

impl FinalVersions {
    /// The list of a secret that lost none of its versions to retention.
    pub fn complete(values: Vec<Value>) -> Self {
        Self { first: 1, values }
    }

    /// Number of the newest version; 0 when there is none.
    pub fn last(&self) -> u32 {
        let count = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        if count == 0 { 0 } else { self.first + (count - 1) }
    }
}

/// All that clients saw in one run.
#[derive(Debug, Clone, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// Adds an operation; any order will do.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Adds all operations of another history.
    pub fn append(&mut self, other: &mut Self) {
        self.operations.append(&mut other.operations);
    }

    /// All operations, in no particular order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.operations.iter().filter(|operation| operation.acknowledged().is_some()).count() as u64
    }

    /// How many writes have an unknown outcome.
    pub fn unknown(&self) -> u64 {
        let unknown = |operation: &&Operation| {
            matches!((&operation.call, &operation.outcome), (Call::Write(_), Outcome::Unknown))
        };
        self.operations.iter().filter(unknown).count() as u64
    }

    /// The operations of each secret that count, sorted by the time they were sent.
    pub fn by_secret(&self) -> BTreeMap<Arc<str>, Vec<Operation>> {
        let mut secrets: BTreeMap<Arc<str>, Vec<Operation>> = BTreeMap::new();
        for operation in self.operations.iter().filter(|operation| operation.counts()) {
            secrets.entry(Arc::clone(&operation.secret)).or_default().push(operation.clone());
        }
        for operations in secrets.values_mut() {
            operations.sort_by_key(|operation| (operation.invoked, operation.returned));
        }
        secrets
    }
}

/// Small histories for tests, written as `w(1, 2, "a")`.
#[cfg(test)]
pub(crate) mod build {
    use super::{Call, NEVER, Operation, Outcome, Promise};

    fn operation(call: Call, outcome: Outcome, invoked: u64, returned: u64) -> Operation {
        let promise = Promise::Linearizable;
        Operation { secret: "s".into(), node: 1, call, outcome, promise, invoked, returned }
    }

    /// An acknowledged write.
    pub(crate) fn w(invoked: u64, returned: u64, value: &str) -> Operation {
        operation(Call::Write(value.into()), Outcome::Written(None), invoked, returned)
    }

    /// An acknowledged write that says its version.
    pub(crate) fn wv(invoked: u64, returned: u64, value: &str, version: u32) -> Operation {
        operation(Call::Write(value.into()), Outcome::Written(Some(version)), invoked, returned)
    }

    /// A write of unknown fate.
    pub(crate) fn u(invoked: u64, value: &str) -> Operation {
        operation(Call::Write(value.into()), Outcome::Unknown, invoked, NEVER)
    }

    /// A read of the current version; the empty text stands for none.
    pub(crate) fn r(invoked: u64, returned: u64, value: &str) -> Operation {
        operation(Call::ReadLatest, Outcome::Read(text(value)), invoked, returned)
    }

    /// A read of one version; the empty text stands for none.
    pub(crate) fn rv(invoked: u64, returned: u64, version: u32, value: &str) -> Operation {
        operation(Call::ReadVersion(version), Outcome::Read(text(value)), invoked, returned)
    }

    fn text(value: &str) -> Option<super::Value> {
        (!value.is_empty()).then(|| value.into())
    }
}
