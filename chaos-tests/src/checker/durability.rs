//! I2: every acknowledged write is in the final versions, or was validly superseded by retention.
//!
//! Source: `fault-model` G1, I2 and style rule "Unknown is never reported as did not happen".

use std::collections::HashSet;

use super::Violation;
use crate::history::{Call, FinalVersions, Operation, Outcome, Value};

/// Names every acknowledged write on one secret that is gone.
pub fn check(operations: &[Operation], found: &FinalVersions) -> Vec<Violation> {
    let kept: HashSet<&Value> = found.values.iter().collect();
    // Retention evicts what came before the oldest retained version: a write can only have been
    // evicted when it was sent before that version's own write was acknowledged.
    let evicted_before = found.values.first().filter(|_| found.first > 1).map(|oldest| {
        operations
            .iter()
            .find(|operation| matches!(&operation.call, Call::Write(value) if value == oldest))
            .map_or(u64::MAX, |operation| operation.returned)
    });
    operations
        .iter()
        .filter_map(|operation| {
            let value = operation.acknowledged()?;
            let told = if let Outcome::Written(told) = operation.outcome { told } else { None };
            let superseded = evicted_before.is_some_and(|limit| match told {
                Some(version) => version < found.first,
                None => operation.invoked < limit,
            });
            if kept.contains(value) || superseded {
                return None;
            }
            let detail = format!(
                "{}: {value} was acknowledged by node {} and is not among the versions {}..={}",
                operation.secret,
                operation.node,
                found.first,
                found.last()
            );
            Some(Violation { invariant: "I2 no lost write", detail })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::history::FinalVersions;
    use crate::history::build::{u, w, wv};

    #[test]
    fn a_lost_acknowledged_write_is_named() {
        let found = FinalVersions::complete(vec!["a".into()]);
        assert_eq!(check(&[w(1, 2, "a"), u(3, "b")], &found), []);
        assert_eq!(check(&[w(1, 2, "a"), w(3, 4, "b")], &found).len(), 1);
        assert_eq!(check(&[w(1, 2, "a")], &FinalVersions::default()).len(), 1);
    }

    #[test]
    fn only_what_retention_can_have_evicted_is_excused() {
        let found = FinalVersions { first: 2, values: vec!["b".into(), "c".into()] };
        assert_eq!(check(&[w(1, 2, "a"), w(3, 4, "b"), w(5, 6, "c")], &found), []);
        assert_eq!(
            check(&[w(1, 2, "a"), w(3, 4, "b"), w(5, 6, "d"), w(7, 8, "c")], &found).len(),
            1
        );
        assert_eq!(check(&[wv(1, 2, "a", 1), w(3, 4, "b")], &found), []);
        assert_eq!(check(&[wv(1, 2, "a", 3), w(3, 4, "b")], &found).len(), 1);
    }
}
