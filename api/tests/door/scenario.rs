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
            '<' | '=' | '~' | '!' => steps.last_mut().unwrap().expected.push((mark, rest)),
            other => panic!("line {}: what is {other:?}?", at + 1),
        }
    }
    steps
}

async fn run(name: &str, text: &str) {
    let house = House::new();
    for step in steps(text) {
        let reply = perform(&house, &step).await;
        let place = format!("{name}.txt:{}: {}", step.line, step.request);
        for (mark, wanted) in &step.expected {
            let wanted = fill(&house, wanted);
            let ok = match mark {
                '<' => reply.status.as_u16().to_string() == wanted,
                '=' => reply.text() == wanted,
                '~' => reply.text().contains(&wanted),
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

fn fill(house: &House, text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.find("{{key ") {
        let end = start + text[start..].find("}}").unwrap();
        let key = house.key(&text[start + 6..end]);
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
    house.send(&method, words[1], &headers, body).await
}
