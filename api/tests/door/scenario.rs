//! Scenarios as text: requests, and what they are answered.
//!
//! ```text
//! # a remark
//! > GET /secrets/demo/variable/x as demo/host/app/web [name: value; name: value]
//! | a line of the body
//! < 200
//! = the exact body
//! ~ part of the body
//! ! part of a header line, as `name: value`
//! ^ what the body must not hold
//! @ NAME /json/pointer    keeps a text of the body, as {{NAME}}; `key WHO` keeps an API key
//! @ NAME key WHO          keeps the API key of that role under another name
//! ```
//! Instead of `as WHO` stands nothing, `basic demo LOGIN PASSWORD` or `key LOGIN` (HTTP Basic with the
//! API key of that role). In bodies `{{key WHO}}` stands for an API key.

use http::Method;

use super::harness::{House, Reply, basic};

const SCENARIOS: &[&str] = &[
    "errors",
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
    for name in SCENARIOS {
        let text = std::fs::read_to_string(format!("{folder}/{name}.txt")).unwrap();
        run(name, &text).await;
    }
}

struct Step {
    line: usize,
    request: String,
    body: Vec<String>,
    expected: Vec<(char, String)>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some(mark) = line.chars().next() else { continue };
        let rest = line[1..].strip_prefix(' ').unwrap_or(&line[1..]).to_owned();
        match mark {
            '#' => {}
            '>' => steps.push(Step {
                line: at + 1,
                request: rest,
                body: Vec::new(),
                expected: Vec::new(),
            }),
            '|' => steps.last_mut().unwrap().body.push(rest),
            '<' | '=' | '~' | '!' | '^' | '@' => {
                steps.last_mut().unwrap().expected.push((mark, rest));
            }
            other => panic!("line {}: what is {other:?}?", at + 1),
        }
    }
    steps
}

async fn run(name: &str, text: &str) {
    let house = House::with(|settings| settings.dynamic_secrets_enabled = true);
    for step in steps(text) {
        let reply = perform(&house, &step).await;
        let place = format!("{name}.txt:{}: {}", step.line, step.request);
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
                _ => reply.headers.iter().any(|(name, value)| {
                    format!("{name}: {}", value.to_str().unwrap()).contains(&wanted)
                }),
            };
            assert!(
                ok,
                "{place}\nwanted {mark} {wanted}\ngot {} {:?}\n{}",
                reply.status,
                reply.headers,
                reply.text()
            );
        }
        house.keep_keys(&reply);
    }
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
