//! G7: a follower's answers are a prefix of history: old at worst, never mixed, never from the
//! future, and never rolled back.
//!
//! Source: `fault-model` G7. Real time binds such reads in one direction only: a value cannot be
//! read before its write was sent, and what one node has shown it shows to later readers.

use std::collections::HashMap;

use super::Violation;
use crate::history::{Call, FinalVersions, Operation, Outcome, Promise, Value};

/// Checks the reads on one secret that promise a prefix.
pub fn check(secret: &str, operations: &[Operation], found: &FinalVersions) -> Vec<Violation> {
    let position: HashMap<&Value, u32> = found.values.iter().zip(found.first..).collect();
    // At the position of each version: when the first moment was that it can have existed.
    let mut sent: HashMap<u32, u64> = HashMap::new();
    for operation in operations {
        if let Call::Write(value) = &operation.call
            && let Some(place) = position.get(value)
        {
            sent.insert(*place, operation.invoked);
        }
    }
    let violation = |detail: String| Violation { invariant: "G7 prefix", detail };
    let mut violations = Vec::new();
    let mut reads: Vec<(&Operation, u32)> = Vec::new();
    for operation in operations.iter().filter(|operation| operation.promise == Promise::Prefix) {
        let shown = match (&operation.call, &operation.outcome) {
            (Call::ReadLatest, Outcome::Read(None)) => Some(0),
            (Call::ReadLatest, Outcome::Read(Some(value))) => position.get(value).copied(),
            (Call::ReadVersion(number), Outcome::Read(Some(value))) => {
                if position.get(value).is_some_and(|place| place != number) {
                    violations.push(violation(format!(
                        "{secret}: node {} showed {value} as version {number}",
                        operation.node
                    )));
                }
                None
            }
            _ => None,
        };
        let Some(shown) = shown else { continue };
        if sent.get(&shown).is_some_and(|sent| *sent > operation.returned) {
            violations.push(violation(format!(
                "{secret}: node {} showed version {shown} before it was sent",
                operation.node
            )));
        }
        reads.push((operation, shown));
    }

    // Per node, in time: what a read returned earlier is a lower bound for reads sent later.
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * reads.len());
    for (at, (operation, _)) in reads.iter().enumerate() {
        events.push((operation.invoked, false, at));
        events.push((operation.returned, true, at));
    }
    events.sort_unstable();
    let mut known: HashMap<u64, u32> = HashMap::new();
    for (_, is_return, at) in events {
        let (operation, shown) = reads[at];
        let known = known.entry(operation.node).or_default();
        if is_return {
            *known = shown.max(*known);
        } else if shown < *known {
            violations.push(violation(format!(
                "{secret}: node {} went back from version {known} to {shown}",
                operation.node
            )));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::history::build::{r, rv, w};
    use crate::history::{FinalVersions, Operation, Promise};

    fn follower(mut read: Operation) -> Operation {
        read.promise = Promise::Prefix;
        read
    }

    #[test]
    fn old_answers_are_fine_and_rollbacks_are_not() {
        let found = FinalVersions::complete(vec!["a".into(), "b".into()]);
        let good = [
            w(1, 2, "a"),
            w(3, 4, "b"),
            follower(r(5, 6, "")),
            follower(r(7, 8, "a")),
            follower(rv(7, 8, 1, "a")),
            follower(r(9, 10, "b")),
        ];
        assert_eq!(check("s", &good, &found), []);
        let back = [w(1, 2, "a"), w(3, 4, "b"), follower(r(5, 6, "b")), follower(r(7, 8, "a"))];
        assert_eq!(check("s", &back, &found).len(), 1);
        let future = [follower(r(1, 2, "a")), w(3, 4, "a")];
        assert_eq!(check("s", &future, &found).len(), 1);
        let mixed = [w(1, 2, "a"), w(3, 4, "b"), follower(rv(5, 6, 1, "b"))];
        assert_eq!(check("s", &mixed, &found).len(), 1);
    }
}
