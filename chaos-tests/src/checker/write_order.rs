//! I1, first pass: the final version list *is* the order of the writes; does it explain what
//! clients saw?
//!
//! Source: `fault-model` I1. Each operation tells something about how many versions there were at
//! the moment it took effect: a write of version `p` made them `p`, a read of the latest that saw
//! version `p` found exactly `p`, a read of version `n` found at least `n`, or fewer when it found
//! none. When one operation returned before another was sent, the count known from the first must
//! not exceed what the second allows. With the order of writes given, these pairwise conditions
//! are all there is to linearizability, and one sweep over time checks them all. Real-time order of
//! writes, stale reads and read-your-writes are cases of it.

use std::collections::HashMap;

use super::Violation;
use crate::history::{Call, FinalVersions, Operation, Outcome, Value};

const INVARIANT: &str = "I1 order of versions";

/// The counts of versions between which an operation can have taken effect.
struct Bounds {
    /// Versions that there are once it has returned, at least.
    after_min: u32,
    /// Versions that there were before it took effect, at most.
    before_max: u32,
}

/// Checks the operations on one secret against the versions found in the end.
pub fn check(operations: &[Operation], found: &FinalVersions) -> Vec<Violation> {
    let position: HashMap<&Value, u32> = found.values.iter().zip(found.first..).collect();
    let violation = |detail: String| Violation { invariant: INVARIANT, detail };
    let mut violations = Vec::new();
    let mut bounded: Vec<(&Operation, Bounds)> = Vec::new();
    for operation in operations.iter().filter(|operation| operation.counts()) {
        match bounds(operation, found, &position) {
            Ok(Some(bounds)) => bounded.push((operation, bounds)),
            Ok(None) => {}
            Err(detail) => violations.push(violation(detail)),
        }
    }

    // Events in time; at equal times what is sent comes first: such operations are concurrent.
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * bounded.len());
    for (at, (operation, _)) in bounded.iter().enumerate() {
        events.push((operation.invoked, false, at));
        events.push((operation.returned, true, at));
    }
    events.sort_unstable();
    // The largest count known so far, and the operation that showed it.
    let mut known: (u32, Option<usize>) = (0, None);
    for (_, is_return, at) in events {
        let (operation, bounds) = &bounded[at];
        if is_return {
            if bounds.after_min > known.0 {
                known = (bounds.after_min, Some(at));
            }
        } else if known.0 > bounds.before_max
            && let Some(earlier) = known.1
        {
            violations.push(violation(format!(
                "{}: {} although {} had returned",
                operation.secret,
                describe(operation),
                describe(bounded[earlier].0),
            )));
        }
    }
    violations
}

/// None when the operation says nothing about the order; an error when it contradicts the list.
fn bounds(
    operation: &Operation,
    found: &FinalVersions,
    position: &HashMap<&Value, u32>,
) -> Result<Option<Bounds>, String> {
    let evicted = found.first > 1;
    let exact = |count| Bounds { after_min: count, before_max: count };
    let bounds = match (&operation.call, &operation.outcome) {
        (Call::Write(value), outcome) => {
            let place = position.get(value).copied();
            let told = if let Outcome::Written(told) = outcome { *told } else { None };
            if let (Some(place), Some(told)) = (place, told)
                && place != told
            {
                return Err(format!(
                    "{}: {} was told version {told} and is version {place}",
                    operation.secret,
                    describe(operation)
                ));
            }
            // None: lost (I2 says so), superseded, or of unknown fate and not there.
            let bounds =
                |place: u32| Bounds { after_min: place, before_max: place.saturating_sub(1) };
            place.or(told).map(bounds)
        }
        (Call::ReadLatest, Outcome::Read(None)) => Some(exact(0)),
        (Call::ReadLatest, Outcome::Read(Some(value))) => match position.get(value) {
            Some(place) => Some(exact(*place)),
            None if evicted => Some(Bounds { after_min: 1, before_max: found.first - 1 }),
            None => {
                return Err(format!(
                    "{}: {} is in no version",
                    operation.secret,
                    describe(operation)
                ));
            }
        },
        (Call::ReadVersion(number), Outcome::Read(Some(value))) => {
            match position.get(value) {
                Some(place) if place != number => {
                    return Err(format!(
                        "{}: {} which is version {place}",
                        operation.secret,
                        describe(operation)
                    ));
                }
                None if *number >= found.first || !evicted => {
                    return Err(format!(
                        "{}: {} which is in no version",
                        operation.secret,
                        describe(operation)
                    ));
                }
                Some(_) | None => {}
            }
            Some(Bounds { after_min: *number, before_max: u32::MAX })
        }
        // With eviction, a version may also be gone because it is too old.
        (Call::ReadVersion(_), Outcome::Read(None)) if evicted => None,
        (Call::ReadVersion(number), Outcome::Read(None)) => {
            Some(Bounds { after_min: 0, before_max: number.saturating_sub(1) })
        }
        (
            Call::ReadLatest | Call::ReadVersion(_),
            Outcome::Written(_) | Outcome::Failed | Outcome::Unknown,
        ) => None,
    };
    Ok(bounds)
}

/// An operation in a few words, with its times in microseconds.
fn describe(operation: &Operation) -> String {
    let value =
        |value: &Option<Value>| value.as_deref().map_or("nothing".to_owned(), str::to_owned);
    let what = match (&operation.call, &operation.outcome) {
        (Call::Write(written), _) => format!("write of {written}"),
        (Call::ReadLatest, Outcome::Read(read)) => {
            format!("read of the latest saw {}", value(read))
        }
        (Call::ReadVersion(number), Outcome::Read(read)) => {
            format!("read of version {number} saw {}", value(read))
        }
        (call, outcome) => format!("{call:?} {outcome:?}"),
    };
    let (node, sent, back) = (operation.node, operation.invoked / 1000, operation.returned / 1000);
    format!("{what} (node {node}, sent {sent} us, back {back} us)")
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checker::linearizable::{self, Linearizability};
    use crate::history::build::{r, rv, u, w, wv};
    use crate::history::{Call, FinalVersions, NEVER, Operation, Outcome, Promise};
    use crate::rng::Rng;

    fn versions(values: &[&str]) -> FinalVersions {
        FinalVersions::complete(values.iter().map(|value| (*value).into()).collect())
    }

    fn accepts(operations: &[Operation], values: &[&str]) {
        assert_eq!(check(operations, &versions(values)), []);
    }

    fn refuses(operations: &[Operation], values: &[&str]) {
        assert_ne!(check(operations, &versions(values)), [], "{operations:#?}");
    }

    #[test]
    fn good_histories_are_accepted() {
        accepts(
            &[w(1, 2, "a"), r(3, 4, "a"), w(5, 9, "b"), r(6, 7, "a"), r(6, 8, "b")],
            &["a", "b"],
        );
        accepts(&[u(1, "x"), w(2, 3, "a"), r(4, 5, "a"), r(6, 7, "x")], &["a", "x"]);
        accepts(&[u(1, "x"), w(2, 3, "a"), rv(4, 5, 2, ""), rv(4, 5, 1, "a")], &["a"]);
        accepts(&[wv(1, 9, "a", 2), wv(1, 9, "b", 1)], &["b", "a"]);
    }

    #[test]
    fn bad_histories_are_refused() {
        // Stale reads, by latest and by version.
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), r(5, 6, "a")], &["a", "b"]);
        refuses(&[w(1, 2, "a"), r(3, 4, "")], &["a"]);
        refuses(&[w(1, 2, "a"), rv(3, 4, 1, "")], &["a"]);
        refuses(&[w(1, 2, "a"), w(3, 20, "b"), r(5, 6, "b"), r(7, 8, "a")], &["a", "b"]);
        refuses(&[w(1, 2, "a"), w(3, 20, "b"), rv(5, 6, 2, "b"), r(7, 8, "a")], &["a", "b"]);
        // Writes against real time, the unknown included.
        refuses(&[w(1, 2, "a"), w(3, 4, "b")], &["b", "a"]);
        refuses(&[w(1, 2, "a"), u(3, "x")], &["x", "a"]);
        // Read before it was sent; a version that moved; a value that is nowhere.
        refuses(&[r(1, 2, "a"), w(3, 4, "a")], &["a"]);
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), rv(5, 6, 1, "b")], &["a", "b"]);
        refuses(&[w(1, 2, "a"), rv(3, 4, 1, "z")], &["a"]);
        refuses(&[w(1, 2, "a"), r(3, 4, "z")], &["a"]);
        refuses(&[wv(1, 2, "a", 2)], &["a"]);
    }

    #[test]
    fn evicted_versions_are_no_offence() {
        let found = FinalVersions { first: 3, values: vec!["c".into(), "d".into()] };
        let good =
            [w(1, 2, "a"), r(2, 3, "a"), w(4, 5, "b"), w(6, 7, "c"), rv(8, 9, 1, ""), w(8, 9, "d")];
        assert_eq!(check(&good, &found), []);
        assert_ne!(check(&[w(1, 2, "a"), w(3, 4, "c"), r(5, 6, "a")], &found), []);
    }

    /// With the final list added as reads, the search and this pass must say the same.
    #[test]
    fn agrees_with_the_search_on_random_histories() {
        let (mut yes, mut no) = (0, 0);
        for seed in 0..5_000 {
            let mut rng = Rng::new(seed);
            let writes = rng.between(1, 5);
            let name = |n: u64| format!("v{n}");
            let mut order: Vec<u64> = (1..=writes).collect();
            if rng.chance(500) {
                rng.shuffle(&mut order);
            }
            let mut operations: Vec<Operation> = Vec::new();
            for n in 1..=writes {
                let invoked = n * 6 + rng.below(12);
                operations.push(w(invoked, invoked + rng.below(12), &name(n)));
            }
            if rng.chance(500) {
                let last = operations.last_mut().expect("at least one write");
                (last.outcome, last.returned) = (Outcome::Unknown, NEVER);
                if rng.chance(500) {
                    order.retain(|n| *n != writes);
                }
            }
            for _ in 0..rng.between(0, 5) {
                let invoked = rng.below(40);
                let value = (rng.below(writes + 1), rng.below(4));
                let call = match value.1 {
                    0..=1 => Call::ReadLatest,
                    number => Call::ReadVersion(u32::try_from(number - 1).unwrap()),
                };
                let read = (value.0 > 0).then(|| name(value.0).as_str().into());
                operations.push(Operation {
                    secret: "s".into(),
                    node: 1,
                    call,
                    outcome: Outcome::Read(read),
                    promise: Promise::Linearizable,
                    invoked,
                    returned: invoked + rng.below(10),
                });
            }
            let finals: Vec<String> = order.iter().map(|n| name(*n)).collect();
            let finals: Vec<&str> = finals.iter().map(String::as_str).collect();
            let first_pass = check(&operations, &versions(&finals)).is_empty();
            for (value, number) in finals.iter().zip(1..) {
                operations.push(rv(1000, 1001, number, value));
            }
            let beyond = u32::try_from(finals.len() + 1).unwrap();
            operations.push(rv(1000, 1001, beyond, ""));
            let searched = linearizable::check(&operations) == Linearizability::Yes;
            assert_eq!(first_pass, searched, "seed {seed} {finals:?}: {operations:#?}");
            *(if searched { &mut yes } else { &mut no }) += 1;
        }
        assert!(yes > 500 && no > 500, "both kinds are tried: {yes} good, {no} bad");
    }
}
