//! The judges: each takes what clients saw and what was found in the end, and says which promise
//! was broken. One invariant a file, each with its source. [`judge`] asks them all.
//!
//! - [`linearizable`]: some order explains all (I1, by search)
//! - [`write_order`]: the order of the final versions explains all (I1, in linear time)
//! - [`durability`]: no acknowledged write is lost (I2)
//! - [`phantom`]: nothing is read that nobody wrote (I3)
//! - [`versions`]: versions grow by one and are the same everywhere (I4)
//! - [`prefix`]: a follower's answers are a prefix of history (G7)
//! - [`convergence`]: all members end in the same state (I10)
//! - [`terms`]: one leader a term, nothing goes back (I6)
//!
//! A judge never guesses: what it cannot decide it reports as undecided, and undecided is no pass.

pub mod convergence;
pub mod durability;
pub mod linearizable;
pub mod phantom;
pub mod prefix;
pub mod terms;
pub mod versions;
pub mod write_order;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::history::{Call, FinalVersions, History, NEVER, Operation, Outcome, Promise};
use linearizable::Linearizability;

/// Longest history of one secret that the search is given; longer ones have the first pass only.
pub const SEARCH_OPERATIONS_MAX: usize = 2_000;

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant, by its name in the fault model, such as `I2 no lost write`.
    pub invariant: &'static str,
    /// What happened, with ids and both values.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// What all judges together say about one run.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes of unknown fate.
    pub unknown: u64,
    /// Acknowledged writes that are gone.
    pub lost: u64,
    /// Secrets whose history no order explains.
    pub nonlinearizable: u64,
    /// Secrets whose history was too hard to decide.
    pub undecided: u64,
    /// Every promise broken, those counted above included.
    pub violations: Vec<Violation>,
}

impl Judgement {
    /// Adds the counts and violations of another run.
    pub fn absorb(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.lost += other.lost;
        self.nonlinearizable += other.nonlinearizable;
        self.undecided += other.undecided;
        self.violations.extend(other.violations);
    }
}

/// Judges a history against the versions found when all was over.
pub fn judge(history: &History, finals: &BTreeMap<Arc<str>, FinalVersions>) -> Judgement {
    let mut judgement = Judgement {
        acknowledged: history.acknowledged(),
        unknown: history.unknown(),
        ..Judgement::default()
    };
    let nothing = FinalVersions::default();
    let mut secrets = history.by_secret();
    for secret in finals.keys() {
        secrets.entry(Arc::clone(secret)).or_default();
    }
    for (secret, operations) in &secrets {
        let found = finals.get(secret).unwrap_or(&nothing);
        let lost = durability::check(operations, found);
        judgement.lost += lost.len() as u64;
        judgement.violations.extend(lost);
        judgement.violations.extend(phantom::check(secret, operations, found));
        judgement.violations.extend(versions::check_list(secret, found));
        judgement.violations.extend(prefix::check(secret, operations, found));

        let strict: Vec<Operation> = operations
            .iter()
            .filter(|operation| operation.promise == Promise::Linearizable)
            .cloned()
            .collect();
        let disorder = write_order::check(&strict, found);
        let searched = if strict.len() > SEARCH_OPERATIONS_MAX {
            Linearizability::Yes
        } else {
            search(&strict, found)
        };
        if searched == Linearizability::No {
            let detail = format!("{secret}: no order of its {} operations exists", strict.len());
            judgement.violations.push(Violation { invariant: "I1 linearizable", detail });
        }
        if searched == Linearizability::No || !disorder.is_empty() {
            judgement.nonlinearizable += 1;
        }
        judgement.undecided += u64::from(searched == Linearizability::Undecided);
        judgement.violations.extend(disorder);
    }
    judgement
}

/// Searches for an order without knowing the final versions: an opinion of its own. A history that
/// is too hard that way, many writes of unknown fate side by side, is searched again with the
/// final versions as reads at its end, which pin every write. What that proves is no less.
fn search(operations: &[Operation], found: &FinalVersions) -> Linearizability {
    let first = linearizable::check(operations);
    if first == Linearizability::Undecided {
        return linearizable::check(&with_final_reads(operations, found));
    }
    first
}

/// The operations, and after them a read of each final version and of the one beyond the last.
fn with_final_reads(operations: &[Operation], found: &FinalVersions) -> Vec<Operation> {
    let Some(sample) = operations.first() else { return Vec::new() };
    let times = operations.iter().flat_map(|operation| [operation.invoked, operation.returned]);
    let end = times.filter(|time| *time != NEVER).max().unwrap_or(0);
    let values = found.values.iter().cloned().map(Some).chain([None]);
    let reads = values.zip(found.first.max(1)..).map(|(value, version)| Operation {
        call: Call::ReadVersion(version),
        outcome: Outcome::Read(value),
        invoked: end + 1,
        returned: end + 2,
        ..sample.clone()
    });
    operations.iter().cloned().chain(reads).collect()
}

#[cfg(test)]
mod tests {
    use super::{Linearizability, judge, linearizable, search};
    use crate::history::build::{r, u, w};
    use crate::history::{FinalVersions, History};

    #[test]
    fn a_hard_history_is_decided_by_its_final_versions() {
        let names: Vec<String> = (0..40).map(|number| format!("v{number}")).collect();
        let mut operations: Vec<_> = names.iter().map(|name| w(1, 1000, name)).collect();
        operations.push(r(2000, 2001, "v0"));
        let short = linearizable::check_within(&operations, 100_000);
        assert_eq!(short, Linearizability::Undecided);
        let last = |last: &str| {
            let mut values: Vec<&str> = names.iter().map(String::as_str).collect();
            values.retain(|name| *name != last);
            values.push(last);
            FinalVersions::complete(values.into_iter().map(Into::into).collect())
        };
        assert_eq!(search(&operations, &last("v0")), Linearizability::Yes);
        assert_eq!(search(&operations, &last("v1")), Linearizability::No);
    }

    #[test]
    fn a_run_is_judged_as_a_whole() {
        let mut history = History::default();
        for operation in [w(1, 2, "a"), u(3, "b"), r(5, 6, "a"), w(7, 8, "c")] {
            history.push(operation);
        }
        let finals = |values: &[&str]| {
            let values = values.iter().map(|value| (*value).into()).collect();
            [("s".into(), FinalVersions::complete(values))].into()
        };
        let good = judge(&history, &finals(&["a", "b", "c"]));
        assert_eq!((good.acknowledged, good.unknown), (2, 1));
        assert!(good.violations.is_empty(), "{:?}", good.violations);

        let bad = judge(&history, &finals(&["a", "b"]));
        assert_eq!((bad.lost, bad.nonlinearizable), (1, 0), "{:?}", bad.violations);

        let bad = judge(&history, &finals(&["b", "a", "c"]));
        assert_eq!((bad.lost, bad.nonlinearizable), (0, 1), "{:?}", bad.violations);
    }
}
