//! I4: the versions of a secret grow by one, never repeat a value, and are the same on every node.
//!
//! Source: `fault-model` G4 and I4. Values are unique in a run, so a value that stands in two
//! versions was applied twice.

use std::collections::HashMap;

use super::Violation;
use crate::history::{FinalVersions, Value};

const INVARIANT: &str = "I4 versions";

/// Checks that no value stands in two versions of a secret.
pub fn check_list(secret: &str, found: &FinalVersions) -> Vec<Violation> {
    let mut seen: HashMap<&Value, u32> = HashMap::new();
    let mut violations = Vec::new();
    for (value, version) in found.values.iter().zip(found.first..) {
        if let Some(earlier) = seen.insert(value, version) {
            let detail = format!("{secret}: {value} is both version {earlier} and {version}");
            violations.push(Violation { invariant: INVARIANT, detail });
        }
    }
    violations
}

/// Builds the list of versions from what one node shows, refusing gaps.
///
/// # Errors
/// The gap.
pub fn list(
    secret: &str,
    node: u64,
    versions: Vec<(u32, Value)>,
) -> Result<FinalVersions, Violation> {
    let first = versions.first().map_or(0, |(version, _)| *version);
    let gap = versions.iter().zip(first..).find(|((version, _), expected)| version != expected);
    if let Some(((version, _), expected)) = gap {
        let detail =
            format!("{secret}: node {node} shows version {version} where {expected} follows");
        return Err(Violation { invariant: INVARIANT, detail });
    }
    Ok(FinalVersions { first, values: versions.into_iter().map(|(_, value)| value).collect() })
}

/// Checks that two nodes show the same versions.
pub fn check_same(
    secret: &str,
    (one, ours): (u64, &FinalVersions),
    (other, theirs): (u64, &FinalVersions),
) -> Option<Violation> {
    (ours != theirs).then(|| {
        let place = ours.values.iter().zip(&theirs.values).position(|(a, b)| a != b);
        let detail = format!(
            "{secret}: node {one} shows {}..={}, node {other} shows {}..={}, first difference at {place:?}",
            ours.first,
            ours.last(),
            theirs.first,
            theirs.last()
        );
        Violation { invariant: INVARIANT, detail }
    })
}

#[cfg(test)]
mod tests {
    use super::{check_list, check_same, list};
    use crate::history::FinalVersions;

    #[test]
    fn a_repeated_value_is_named() {
        assert_eq!(check_list("s", &FinalVersions::complete(vec!["a".into(), "b".into()])), []);
        let twice = FinalVersions::complete(vec!["a".into(), "b".into(), "a".into()]);
        assert_eq!(check_list("s", &twice).len(), 1);
    }

    #[test]
    fn gaps_and_differences_are_named() {
        let found = list("s", 1, vec![(2, "b".into()), (3, "c".into())]).expect("no gap");
        assert_eq!((found.first, found.last()), (2, 3));
        assert!(list("s", 1, vec![(2, "b".into()), (4, "d".into())]).is_err());
        assert!(list("s", 1, vec![(2, "b".into()), (2, "d".into())]).is_err());
        assert_eq!(check_same("s", (1, &found), (2, &found)), None);
        assert!(check_same("s", (1, &found), (2, &FinalVersions::default())).is_some());
    }
}
