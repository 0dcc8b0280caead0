//! Policy texts and what becomes of them, as the files of `policy/` tell it.
//!
//! A file holds scenarios (`=== name`), each in a world of its own; a scenario holds steps:
//! - `> append|update|replace POLICY`, then a policy text, then `----`, then what is expected: an
//!   event a line, what was ignored, and warnings; or `refused CODE at LINE:COLUMN: MESSAGE`, with `(hint: …)`;
//!   `parser` before the place says that a real load answers it too;
//! - `> member ROLE MEMBER`: adds a member through the API;
//! - `> rules`, then `users-in-root-only`, `hosts-ask-for-api-keys`, `dynamic-secrets`: what the operator
//!   allows;
//! - `> as ROLE`: who asks for the loads from here on; `> issuer NAME MAX_TTL` makes an issuer;
//! - `> value VARIABLE TEXT`: sets a secret;
//! - `> effective POLICY`, then `----`, then the policy in force; `depth N` or `limit N` bound it;
//! - `> rows`, then `----`, then the rows of the state.
//!
//! Escapes in texts: `\t` a tab, `\e` nothing (to end a line in spaces), `\-` at the start of a line
//! nothing. After a change of mind, `BLESS=1 cargo test -p conclave-domain --test policy_loads` writes
//! what is the case into the files; read the difference.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use conclave_domain::command::{Actor, Command};
use conclave_domain::id::Id;
use conclave_domain::policy::Rules;
use conclave_domain::policy::effective::{Bounds, effective, to_yaml};
use conclave_domain::records::Sealed;

use super::world::{World, event_line, fingerprint, id, mode};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The file with every expectation replaced by what is the case.
fn replayed(file: &str) -> String {
    let mut out = String::new();
    let mut world = World::new();
    let mut lines = file.lines().peekable();
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").unwrap();
        if line.starts_with("=== ") {
            world = World::new();
        }
        let Some(step) = line.strip_prefix("> ") else { continue };
        let words: Vec<&str> = step.split(' ').collect();
        let result = match words[..] {
            ["rows"] => {
                while let Some(line) = lines.next_if(|line| *line != "----") {
                    assert!(line.is_empty(), "text after '> rows': {line:?}");
                }
                world.rows()
            }
            ["effective", policy, ref bounds @ ..] => {
                while let Some(line) = lines.next_if(|line| *line != "----") {
                    assert!(line.is_empty(), "text after '> effective': {line:?}");
                }
                let policy = id(&format!("policy:{policy}"));
                rendered(&world, &policy, bounds)
            }
            ["rules", ref names @ ..] => {
                world.rules = Rules {
                    users_in_root_only: names.contains(&"users-in-root-only"),
                    hosts_ask_for_api_keys: names.contains(&"hosts-ask-for-api-keys"),
                    dynamic_secrets: names.contains(&"dynamic-secrets"),
                };
                continue;
            }
            ["as", role] => {
                world.actor = id(role);
                continue;
            }
            ["issuer", name, max_ttl] => {
                world.issuer(name, max_ttl.parse().unwrap());
                continue;
            }
            ["member", role, member] => {
                let command = Command::AddMember { role: id(role), member: id(member) };
                world.execute(Actor::Role(id("user:admin")), command).unwrap();
                continue;
            }
            ["value", variable, value] => {
                let command = Command::SetSecret {
                    resource: id(variable),
                    value: Sealed(value.as_bytes().to_vec()),
                    fingerprint: fingerprint(value),
                };
                world.execute(Actor::Role(id("user:admin")), command).unwrap();
                continue;
            }
            [how, policy] => {
                let mut text = String::new();
                while let Some(line) = lines.next_if(|line| *line != "----") {
                    writeln!(out, "{line}").unwrap();
                    let line = line.strip_prefix("\\-").unwrap_or(line);
                    writeln!(text, "{}", line.replace("\\t", "\t").replace("\\e", "")).unwrap();
                }
                load(&mut world, how, policy, &text)
            }
            _ => panic!("no such step: {step:?}"),
        };
        assert_eq!(lines.next(), Some("----"), "a step without expectation: {step:?}");
        writeln!(out, "----").unwrap();
        for line in result {
            writeln!(out, "{line}").unwrap();
        }
        // What was expected makes way; the blank lines before the next step stay.
        let mut blank = 0;
        while let Some(line) =
            lines.next_if(|line| !line.starts_with("> ") && !line.starts_with("=== "))
        {
            blank = if line.is_empty() { blank + 1 } else { 0 };
        }
        for _ in 0..blank {
            writeln!(out).unwrap();
        }
    }
    out
}

/// A policy in force as YAML, within `depth N` or `limit N`.
fn rendered(world: &World, policy: &Id, words: &[&str]) -> Vec<String> {
    let mut bounds = Bounds::default();
    match words {
        [] => {}
        ["depth", depth] => bounds.depth = depth.parse().unwrap(),
        ["limit", rows] => bounds.rows = rows.parse().unwrap(),
        other => panic!("no such bounds: {other:?}"),
    }
    match effective(&world.state, policy, bounds) {
        Ok(nodes) => to_yaml(&nodes).lines().map(str::to_owned).collect(),
        Err(exceeded) => vec![format!("refused: {exceeded}")],
    }
}

fn load(world: &mut World, how: &str, policy: &str, text: &str) -> Vec<String> {
    let policy = id(&format!("policy:{policy}"));
    match world.load(&policy, mode(how), text) {
        Ok((plan, events)) => {
            let mut lines: Vec<String> = events.iter().map(event_line).collect();
            lines.extend(plan.ignored.iter().map(|ignored| format!("ignored: {ignored}")));
            lines.extend(plan.warnings.iter().map(|warning| format!("warning: {warning}")));
            lines
        }
        Err(error) => {
            let mut line = format!("refused {}", error.code().as_str());
            if let Some(place) = error.place() {
                let parser = if error.parser_place().is_some() { "parser " } else { "" };
                write!(line, " at {parser}{place}").unwrap();
            }
            write!(line, ": {error}").unwrap();
            if !error.advice().is_empty() {
                write!(line, " (hint: {})", error.advice()).unwrap();
            }
            vec![line]
        }
    }
}

#[test]
fn policy_texts_lead_to_what_the_files_say() {
    for path in files() {
        let file = fs::read_to_string(&path).unwrap();
        let replayed = replayed(&file);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, replayed).unwrap();
            continue;
        }
        let mut scenario = "";
        for (number, (expected, actual)) in file.lines().zip(replayed.lines()).enumerate() {
            if expected.starts_with("=== ") {
                scenario = expected;
            }
            assert_eq!(expected, actual, "{}:{} {scenario}", path.display(), number + 1);
        }
        assert_eq!(file.lines().count(), replayed.lines().count(), "{}", path.display());
    }
}
