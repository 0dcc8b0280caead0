//! Scenarios as text: requests, and what they are answered.
//!
//! ```text
//! # a remark
//! === what the requests from here on show; failures name it
//! & follower              from here on this node is a follower; `& leader` ends it
//! > GET /secrets/demo/variable/x as demo/host/app/web [name: value; name: value]
//! | a line of the body
//! * 20 a line that stands in the body 20 times; {n} counts from 1
//! < 200
//! = the exact body; a body of several lines takes as many
//! ~ part of the body
//! ! part of a header line, as `name: value`
//! ^ what the body must not hold
//! + 3 /json/pointer       how many items the list there has; without a pointer, the body
//! $ /json/pointer TEXT    the text there, taken for standard base64, holds TEXT; without a pointer, the body
//! % part of one of the records that it left, each written as
//!   `<priority> msgid operation result user [subject] message`
//! @ NAME /json/pointer    keeps a text of the body, as {{NAME}}; `key WHO` keeps an API key
//! @ NAME key WHO          keeps the API key of that role under another name
//! ```
//! Instead of `as WHO` stands nothing, `basic demo LOGIN PASSWORD` or `key LOGIN` (HTTP Basic with the
//! API key of that role). In bodies `{{key WHO}}` stands for an API key.
//!
//! `quirks.txt` and `worked.txt` have one title for each number of the interface description's
//! sections 11 and 13. The folder `clauses` walks its other sections clause by clause: a file for
//! each, every title begins with the number of its section.

use std::time::Duration;

use base64::Engine;
use conclave_api::ports::Part;
use http::Method;
use serde_json::Value;

use super::harness::{House, Reply, basic};

const SCENARIOS: &[&str] = &[
    "errors",
    "audit",
    "secrets",
    "credentials",
    "policies",
    "effective_policy",
    "accounts",
    "public_keys",
    "roles",
    "quirks",
    "worked",
    "host_factories",
    "authenticators",
    "v2",
    "issuers",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/door/scenarios");
    let mut problems = Vec::new();
    for name in SCENARIOS {
        let text = std::fs::read_to_string(format!("{folder}/{name}.txt")).unwrap();
        run(name, &text, &mut problems).await;
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n\n"));
}

/// The sections of the interface description that are walked clause by clause.
const WALKED: &[&str] = &[
    "1", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.8", "2.9", "2.10", "2.11", "2.12", "2.13",
    "2.14", "2.16", "2.17", "2.18", "3", "4",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_clause_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/door/scenarios/clauses");
    let mut problems = Vec::new();
    for section in WALKED {
        let text = std::fs::read_to_string(format!("{folder}/{section}.txt")).unwrap();
        let titles: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("=== ")).collect();
        let own = |title: &&str| {
            let rest = title.strip_prefix(section).unwrap_or_default();
            rest.starts_with(' ') || rest.starts_with('.')
        };
        assert!(!titles.is_empty() && titles.iter().all(own), "{section}: {titles:#?}");
        run(&format!("clauses/{section}"), &text, &mut problems).await;
    }
    let files = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(files, WALKED.len(), "a file that nobody reads");
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n\n"));
}

/// The quirk list and the worked exchanges: one title for each number, and requests under each.
#[test]
fn every_quirk_and_every_worked_exchange_has_its_scenario() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/door/scenarios");
    let quirks = (1..=28).map(|number| format!("{number}. ")).collect::<Vec<_>>();
    let worked = (1..=5).map(|number| format!("13.{number} ")).collect::<Vec<_>>();
    for (name, numbers) in [("quirks", quirks), ("worked", worked)] {
        let text = std::fs::read_to_string(format!("{folder}/{name}.txt")).unwrap();
        let parts: Vec<&str> = text.split("\n=== ").skip(1).collect();
        for number in &numbers {
            let mut named = parts.iter().filter(|part| part.starts_with(number));
            let part =
                named.next().unwrap_or_else(|| panic!("{name}.txt: {number}has no scenario"));
            assert!(part.contains("\n> ") && part.contains("\n< "), "{name}.txt: {number}is empty");
            assert!(named.next().is_none(), "{name}.txt: {number}stands twice");
        }
        assert_eq!(parts.len(), numbers.len(), "{name}.txt: a title without its number");
    }
}

struct Step {
    line: usize,
    title: String,
    part: Part,
    request: String,
    body: Vec<String>,
    expected: Vec<(char, String)>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut title, mut part) = (String::new(), Part::Leader);
    for (at, line) in text.lines().enumerate() {
        if let Some(named) = line.strip_prefix("=== ") {
            named.clone_into(&mut title);
            continue;
        }
        let Some(mark) = line.chars().next() else { continue };
        let rest = line[1..].strip_prefix(' ').unwrap_or(&line[1..]).to_owned();
        match mark {
            '#' => {}
            '&' => {
                part = match rest.as_str() {
                    "follower" => Part::Follower,
                    "leader" => Part::Leader,
                    other => panic!("line {}: what part is {other:?}?", at + 1),
                };
            }
            '>' => steps.push(Step {
                line: at + 1,
                title: title.clone(),
                part,
                request: rest,
                body: Vec::new(),
                expected: Vec::new(),
            }),
            '|' => steps.last_mut().unwrap().body.push(rest),
            '*' => {
                let (times, line) = rest.split_once(' ').unwrap();
                let times = 1..=times.parse::<usize>().unwrap();
                let lines = times.map(|n| line.replace("{n}", &n.to_string()));
                steps.last_mut().unwrap().body.extend(lines);
            }
            '<' | '=' | '~' | '!' | '^' | '+' | '$' | '%' | '@' => {
                let expected = &mut steps.last_mut().unwrap().expected;
                match expected.last_mut() {
                    Some(('=', text)) if mark == '=' => *text = format!("{text}\n{rest}"),
                    Some(_) | None => expected.push((mark, rest)),
                }
            }
            other => panic!("line {}: what is {other:?}?", at + 1),
        }
    }
    steps
}

async fn run(name: &str, text: &str, problems: &mut Vec<String>) {
    let house = House::with(|settings| {
        settings.dynamic_secrets_enabled = true;
        // How fast this machine is, is not what scenarios are about.
        settings.request_time_max = Duration::from_mins(1);
    });
    for step in steps(text) {
        let before = house.records().len();
        let reply = perform(&house, &step).await;
        let left: Vec<String> = house.records()[before..].iter().map(record).collect();
        let place = format!("{name}.txt:{}: {}\n{}", step.line, step.title, step.request);
        for (mark, wanted) in &step.expected {
            if *mark == '@' {
                keep(&house, wanted, &reply);
                continue;
            }
            let wanted = fill(&house, wanted);
            let ok = match mark {
                '<' => reply.status.as_u16().to_string() == wanted,
                '=' => reply.text() == wanted,
                '~' => reply.text().contains(&wanted),
                '^' => !reply.text().contains(&wanted),
                '%' => left.iter().any(|record| record.contains(&wanted)),
                '+' => {
                    let (count, pointer) = wanted.split_once(' ').unwrap_or((&wanted, ""));
                    let document = reply.json();
                    let items = document.pointer(pointer).and_then(|there| there.as_array());
                    items.map(|items| items.len().to_string()).as_deref() == Some(count)
                }
                '$' => {
                    let (there, part) = match wanted.split_once(' ') {
                        Some((pointer, part)) if pointer.starts_with('/') => {
                            let document = reply.json();
                            let there = document.pointer(pointer).and_then(|there| there.as_str());
                            (there.unwrap_or_default().to_owned(), part)
                        }
                        Some(_) | None => (reply.text(), wanted.as_str()),
                    };
                    let decoded = base64::engine::general_purpose::STANDARD.decode(there);
                    decoded.is_ok_and(|text| String::from_utf8_lossy(&text).contains(part))
                }
                _ => reply.headers.iter().any(|(name, value)| {
                    format!("{name}: {}", value.to_str().unwrap()).contains(&wanted)
                }),
            };
            if !ok {
                problems.push(format!(
                    "{place}\nwanted {mark} {wanted}\ngot {} {:?}\n{}\nrecords {left:#?}",
                    reply.status,
                    reply.headers,
                    reply.text()
                ));
            }
        }
        house.keep_keys(&reply);
    }
}

/// An audit record as one line.
fn record(record: &Value) -> String {
    let text = |name: &str| record[name].as_str().unwrap_or("-");
    let subject = record["subject"].as_object().unwrap().iter();
    let subject: Vec<String> =
        subject.map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
    format!(
        "<{}> {} {} {} {} [{}] {}",
        record["priority"],
        text("msgid"),
        text("operation"),
        text("result"),
        text("user"),
        subject.join(" "),
        text("message")
    )
}

/// Keeps what a later step needs, among the keys.
fn keep(house: &House, what: &str, reply: &Reply) {
    let words: Vec<&str> = what.split(' ').collect();
    let (name, kept) = match words[..] {
        [name, "key", who] => (name, house.key(who)),
        [name, pointer] | ["key", name, pointer] => {
            let document = reply.json();
            let text = document.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"));
            (name, text.as_str().unwrap().to_owned())
        }
        _ => panic!("what is {what:?} to keep?"),
    };
    house.keys.lock().unwrap().insert(name.to_owned(), kept);
}

fn fill(house: &House, text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.find("{{") {
        let end = start + text[start..].find("}}").unwrap();
        let name = &text[start + 2..end];
        let key = house.key(name.strip_prefix("key ").unwrap_or(name));
        text.replace_range(start..end + 2, &key);
    }
    text
}

async fn perform(house: &House, step: &Step) -> Reply {
    *house.proposer.part.lock().unwrap() = step.part;
    *house.proposer.age.lock().unwrap() = Some(Duration::from_secs(1));
    let (request, extra) = match step.request.split_once(" [") {
        Some((request, extra)) => (request, extra.trim_end_matches(']')),
        None => (step.request.as_str(), ""),
    };
    let words: Vec<&str> = request.split(' ').collect();
    let method = Method::from_bytes(words[0].as_bytes()).unwrap();
    let mut headers: Vec<(String, String)> = extra
        .split("; ")
        .filter_map(|pair| pair.split_once(": "))
        .map(|(name, value)| (name.to_owned(), fill(house, value)))
        .collect();
    match words[2..] {
        [] => {}
        ["as", who] => headers.push(("authorization".into(), house.token(who).await)),
        ["basic", login, password] => {
            headers.push(("authorization".into(), basic(login, password)));
        }
        ["key", who] => {
            let login = who.split_once('/').unwrap().1;
            headers.push(("authorization".into(), basic(login, &house.key(who))));
        }
        _ => panic!("line {}: who asks?", step.line),
    }
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = fill(house, &step.body.join("\n"));
    house.send(&method, &fill(house, words[1]), &headers, body).await
}
