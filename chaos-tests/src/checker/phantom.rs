//! I3: every value read, and every value found in the end, was written by a known attempt.
//!
//! Source: `fault-model` I3. Values name their client, their number and random bits, so a value
//! that no attempt of this run wrote was made up by the servers, or belongs to another secret.
//! A refused write is no attempt: it never happened.

use std::collections::HashSet;

use super::Violation;
use crate::history::{Call, FinalVersions, Operation, Outcome, Value};

/// Names every value on one secret that nobody wrote. Refused operations must have been left out.
pub fn check(secret: &str, operations: &[Operation], found: &FinalVersions) -> Vec<Violation> {
    let attempts: HashSet<&Value> = operations
        .iter()
        .filter_map(|operation| match &operation.call {
            Call::Write(value) if operation.counts() => Some(value),
            Call::Write(_) | Call::ReadLatest | Call::ReadVersion(_) => None,
        })
        .collect();
    let phantom = |value: &Value, place: String| Violation {
        invariant: "I3 no phantom",
        detail: format!("{secret}: {value}, {place}, was written by no known attempt"),
    };
    let read = operations.iter().filter_map(|operation| match &operation.outcome {
        Outcome::Read(Some(value)) if !attempts.contains(value) => {
            Some(phantom(value, format!("read from node {}", operation.node)))
        }
        Outcome::Read(_) | Outcome::Written(_) | Outcome::Failed | Outcome::Unknown => None,
    });
    let rested = found
        .values
        .iter()
        .zip(found.first..)
        .filter(|(value, _)| !attempts.contains(value))
        .map(|(value, version)| phantom(value, format!("found as version {version}")));
    read.chain(rested).collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::history::build::{r, rv, u, w};
    use crate::history::{FinalVersions, Outcome};

    #[test]
    fn a_value_without_a_writer_is_named() {
        let none = FinalVersions::default();
        assert_eq!(
            check("s", &[w(1, 2, "a"), u(1, "b"), r(3, 4, "a"), rv(3, 4, 2, "b")], &none),
            []
        );
        assert_eq!(check("s", &[w(1, 2, "a"), r(3, 4, "ghost")], &none).len(), 1);
        assert_eq!(check("s", &[], &FinalVersions::complete(vec!["ghost".into()])).len(), 1);
        let mut refused = w(1, 2, "a");
        refused.outcome = Outcome::Failed;
        assert_eq!(check("s", &[refused, r(3, 4, "a")], &none).len(), 1);
    }
}
