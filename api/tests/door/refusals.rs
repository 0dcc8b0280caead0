//! How many logins these tests see refused, each with its reason in a record: as many as
//! `node/docs/authentication.md` says, over all authenticators and by each.

use std::path::Path;

use super::harness::House;

const DOCUMENT: &str = include_str!("../../../node/docs/authentication.md");
/// So many are promised over all authenticators.
const ALL: usize = 300;

/// Tests and the number of refusals that the document's table says each sees at least.
fn documented() -> Vec<(&'static str, usize)> {
    let (_, section) = DOCUMENT.split_once("\n## What is refused\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, number, test] = cells[..] else { panic!("{row}") };
        (test.trim_matches('`'), number.parse().unwrap())
    })
    .collect()
}

/// Looks at all attempts of a test's house that failed: none without a reason, and as many as are documented.
pub(crate) fn count(house: &House, test: &str) {
    let mut found = 0;
    for record in house.records() {
        let message = record["message"].as_str().unwrap();
        if record["result"] == "failure" && message.contains(" with authenticator authn") {
            let (_, reason) = message.split_once(": ").unwrap_or_default();
            assert!(!reason.is_empty(), "no reason: {record}");
            found += 1;
        }
    }
    let (_, promised) = documented().into_iter().find(|(name, _)| *name == test).unwrap();
    assert!(found >= promised, "{test} saw {found} logins refused, {promised} are documented");
    println!("{test} saw {found} logins refused");
}

#[test]
fn as_many_are_refused_as_is_documented() {
    let documented = documented();
    for (test, _) in &documented {
        let (file, name) = test.split_once("::").unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, body) = text.split_once(&format!("async fn {name}()")).unwrap();
        let body = body.split("\n}\n").next().unwrap();
        assert!(
            body.contains(&format!("\"{test}\"")),
            "{test} does not count what it sees refused"
        );
    }
    let all: usize = documented.iter().map(|(_, number)| number).sum();
    assert!(all >= ALL, "{all} refusals are documented");
}
