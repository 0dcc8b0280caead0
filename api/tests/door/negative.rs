//! What must be refused, as `tables/negative.txt` lists it; and refusals that must look and cost alike.

use std::collections::HashMap;

use http::Method;

use super::harness::{House, Reply, basic};

/// Never to be seen in a refusal.
const CANARY: &str = "canary-4711";
/// Nor what an issuer's credentials are.
const ISSUER_SECRET: &str = "canary4711+canary4711+canary4711+canary4";

const WORLD: &str = r#"
- !user nobody
- !user
  id: reader
  public_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI laptop"]
- !user executor
- !user updater
- !user creator
- !user changer
- !user owner
- !group team
- !variable secret
- !policy
  id: app
  owner: !user owner
  body:
  - !variable pw
  - !variable empty
  - !variable {id: theirs, owner: !group /team}
  - !host web
  - !host {id: fenced, restricted_to: [10.1.0.0/16]}
  - !webservice
  - !layer machines
  - !group crew
  - !policy inner
  - !host-factory {id: hf, layers: [!layer machines]}
  - !permit {role: !user /reader, privileges: [read], resources: [!variable pw, !host web, !group crew, !host-factory hf]}
  - !permit {role: !user /executor, privileges: [execute], resources: [!variable pw, !variable empty]}
  - !permit {role: !user /updater, privileges: [update], resource: !variable pw}
- !permit {role: !user reader, privileges: [read], resource: !policy app}
- !permit {role: !user creator, privileges: [create], resource: !policy app}
- !permit {role: !user changer, privileges: [update], resource: !policy app}
"#;

const ISSUERS: &str = "
- !permit {role: !user reader, privileges: [read], resource: !policy conjur/issuers}
- !permit {role: !user creator, privileges: [create], resource: !policy conjur/issuers}
- !permit {role: !user executor, privileges: [use], resource: !policy conjur/issuers/aws}
- !variable {id: data/dynamic/x, annotations: {dynamic/issuer: aws}}
- !permit {role: !user executor, privileges: [execute], resource: !variable data/dynamic/x}
- !permit {role: !user updater, privileges: [update], resource: !variable data/dynamic/x}
- !policy
  id: data/own
  body:
  - !permit {role: !user /executor, privileges: [create], resource: !policy}
  - !permit {role: !user /creator, privileges: [create], resource: !policy}
";

async fn world() -> House {
    let house = House::with(|settings| {
        settings.failures_max = u32::MAX;
        settings.request_time_max = std::time::Duration::from_mins(1);
        settings.dynamic_secrets_enabled = true;
    });
    house.load("demo", WORLD).await;
    let issuer = format!(
        r#"{{"id": "aws", "type": "aws", "max_ttl": 3000, "data":
           {{"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "{ISSUER_SECRET}"}}}}"#
    );
    let reply = house.send_as("demo/admin", &Method::POST, "/issuers/demo", issuer).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    house.load("demo", ISSUERS).await;
    for variable in ["app%2Fpw", "app%2Ftheirs", "secret"] {
        let uri = format!("/secrets/demo/variable/{variable}");
        let reply = house.send_as("demo/admin", &Method::POST, &uri, CANARY).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let password = basic("reader", &house.key("demo/reader"));
    let headers = [("authorization", password.as_str())];
    let reply = house.send(&Method::PUT, "/authn/demo/password", &headers, "Correct-HORSE-1").await;
    assert_eq!(reply.status, 204, "{}", reply.text());
    for (name, cidr) in [("hf", ""), ("hf-fenced", "&cidr[]=10.1.0.0/16")] {
        let uri = format!(
            "/host_factory_tokens?host_factory=demo:host_factory:app/hf&expiration=2050-12-31{cidr}"
        );
        let reply = house.send_as("demo/admin", &Method::POST, &uri, "").await;
        let token = reply.json()[0]["token"].as_str().unwrap().to_owned();
        house.keys.lock().unwrap().insert(name.to_owned(), token);
    }
    house
}

struct Case<'a> {
    line: usize,
    text: &'a str,
    status: u16,
    method: Method,
    uri: String,
    who: Vec<String>,
    headers: Vec<(String, String)>,
    peer: String,
    body: Vec<u8>,
    wanted: Option<&'a str>,
}

/// `{{key WHO}}` and `{{N*TEXT}}`, filled in.
fn fill(house: &House, text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (directive, left) = after.split_once("}}").unwrap();
        if let Some(who) =
            directive.strip_prefix("key").and_then(|rest| rest.strip_prefix([' ', ':']))
        {
            out.push_str(&house.key(who));
        } else {
            let (count, repeated) = directive.split_once('*').unwrap();
            out.push_str(&repeated.repeat(count.parse().unwrap()));
        }
        rest = left;
    }
    out + rest
}

/// Escapes in bodies.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next().unwrap() {
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("what is \\{}?", char::from(other)),
        });
    }
    out
}

fn parse<'a>(house: &House, line: usize, text: &'a str) -> Case<'a> {
    let (rest, wanted) = match text.rsplit_once(" => ") {
        Some((rest, wanted)) => (rest, Some(wanted)),
        None => (text, None),
    };
    let (rest, body) = rest.split_once(" < ").unwrap_or((rest, ""));
    let block = rest.match_indices(" {").find(|(at, _)| !rest[at + 2..].starts_with('{'));
    let (request, block) = match block {
        Some((at, _)) => (&rest[..at], rest[at + 2..].strip_suffix('}').unwrap()),
        None => (rest, ""),
    };
    let mut headers: Vec<(String, String)> = block
        .split("; ")
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once(':').unwrap();
            (name.to_owned(), fill(house, value.trim()))
        })
        .collect();
    let peer = headers.iter().position(|(name, _)| name == "peer");
    let peer = peer.map_or("192.0.2.7".to_owned(), |at| headers.remove(at).1);
    let mut words = request.split(' ');
    Case {
        line,
        text,
        status: words.next().unwrap().parse().unwrap(),
        method: words.next().unwrap().parse().unwrap(),
        uri: fill(house, words.next().unwrap()),
        who: words.map(str::to_owned).collect(),
        headers,
        peer,
        body: unescape(&fill(house, body)),
        wanted,
    }
}

async fn send(house: &House, case: &Case<'_>, tokens: &mut HashMap<String, String>) -> Reply {
    let mut headers = case.headers.clone();
    let words: Vec<&str> = case.who.iter().map(String::as_str).collect();
    match words[..] {
        [] => {}
        ["as", who] => {
            if !tokens.contains_key(who) {
                tokens.insert(who.to_owned(), house.token(who).await);
            }
            headers.push(("authorization".into(), tokens[who].clone()));
        }
        ["basic", login, password] => {
            headers.push(("authorization".into(), basic(login, &fill(house, password))));
        }
        ["key", who] => {
            let login = who.split_once('/').unwrap().1;
            headers.push(("authorization".into(), basic(login, &house.key(who))));
        }
        _ => panic!("line {}: who asks?", case.line),
    }
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    house.send_from(&case.peer, &case.method, &case.uri, &headers, case.body.clone()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_refused_is_refused_changes_nothing_and_is_recorded() {
    let house = world().await;
    let mut tokens = HashMap::new();
    let mut problems = Vec::new();
    let mut count = 0;
    let table = include_str!("tables/negative.txt");
    for (at, line) in table.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        count += 1;
        let case = parse(&house, at + 1, line);
        if let [word, who] = &case.who[..]
            && word == "as"
            && !tokens.contains_key(who)
        {
            tokens.insert(who.clone(), house.token(who).await);
        }
        let before = house.state.state_hash().unwrap().hash;
        let records = house.records().len();
        let reply = send(&house, &case, &mut tokens).await;
        let fresh = house.records().split_off(records);
        let mut problem = |what: String| {
            let text: String = case.text.chars().take(160).collect();
            problems.push(format!("negative.txt:{}: {text}\n    {what}", case.line));
        };
        let shown: String = reply.text().chars().take(300).collect();
        if reply.status != case.status {
            problem(format!("got {} {shown}", reply.status));
        }
        if let Some(wanted) = case.wanted
            && !reply.text().contains(wanted)
        {
            problem(format!("wanted {wanted:?}, got {shown}"));
        }
        if reply.text().contains(ISSUER_SECRET) || format!("{fresh:?}").contains(ISSUER_SECRET) {
            problem("shows an issuer's credentials".to_owned());
        }
        if reply.text().contains(CANARY) || format!("{:?}", reply.headers).contains(CANARY) {
            problem("shows the canary".to_owned());
        }
        if reply.headers.keys().any(|name| name.as_str().contains("evil")) {
            problem(format!("a header was injected: {:?}", reply.headers));
        }
        if house.state.state_hash().unwrap().hash != before {
            problem("the state has changed".to_owned());
        }
        // What finds no route, or cannot be read at all, decides nothing and is logged only.
        let (path, query) = case.uri.split_once('?').unwrap_or((&case.uri, ""));
        let routed = conclave_api::router::named(&case.method, path, query).is_some();
        let unread = case.status == 414 || case.status == 400 && fresh.is_empty();
        if routed && !unread && fresh.is_empty() {
            problem("left no record".to_owned());
        }
        if fresh.iter().any(|record| record["result"] != "failure") {
            problem(format!("recorded as {fresh:?}"));
        }
        if format!("{fresh:?}").contains(CANARY) && !case.text.contains(CANARY) {
            problem("the canary is in the record".to_owned());
        }
    }
    assert!(count >= 150, "{count} cases");
    assert!(problems.is_empty(), "{} of {count}:\n{}", problems.len(), problems.join("\n"));
}

/// A reply without what differs from request to request: status, headers and body.
type Essence = (u16, Vec<(String, Vec<u8>)>, Vec<u8>);

fn essence(reply: &Reply) -> Essence {
    let mut headers: Vec<_> = reply
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "x-conclave-index", "date"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    headers.sort();
    (reply.status.as_u16(), headers, reply.body.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_wrong_are_answered_alike() {
    let house = world().await;
    let attempts = async |uris: &[&str], body: &'static str| {
        let mut seen = Vec::new();
        for uri in uris {
            seen.push(essence(&house.send(&Method::POST, uri, &[], body).await));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{uris:?}: {seen:?}");
    };
    let uris = [
        "/authn/demo/reader/authenticate",
        "/authn/demo/ghost/authenticate",
        "/authn/nowhere/reader/authenticate",
        "/authn/demo/group%2Fteam/authenticate",
        "/authn/demo/host%2Fapp%2Ffenced/authenticate",
        "/authn-jwt/nothing/demo/reader/authenticate",
    ];
    attempts(&uris, "wrong").await;
    attempts(&uris, "").await;
    // The right key from the wrong place looks like a wrong key.
    let key = house.key("demo/host/app/fenced");
    let right = house.send(&Method::POST, uris[4], &[], key).await;
    assert_eq!(essence(&right), essence(&house.send(&Method::POST, uris[4], &[], "wrong").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_wrong_passwords_cost_one_hash_each() {
    // No password may wait for a hash here, so a login that wants one is answered 503.
    let house = House::with(|settings| settings.hashing_queue_max = 0);
    house.load("demo", "- !user reader\n- !group team\n- !host h\n").await;
    let login = async |account: &str, who: &str, password: &str| {
        let header = basic(who, password);
        let uri = format!("/authn/{account}/login");
        house.send(&Method::GET, &uri, &[("authorization", &header)], "").await.status.as_u16()
    };
    for (account, who) in [
        ("demo", "reader"),
        ("demo", "ghost"),
        ("nowhere", "reader"),
        ("demo", "group/team"),
        ("demo", "group/ghost"),
        ("demo", "nokind/x"),
        ("demo", "host/h"),
        ("demo", "admin"),
    ] {
        assert_eq!(login(account, who, "Wrong-PASSWORD-1").await, 503, "{account}/{who}");
        // What cannot be a password costs nobody a hash.
        assert_eq!(login(account, who, &"x".repeat(513)).await, 401, "{account}/{who}");
    }
    assert_eq!(login("demo", "reader", &house.key("demo/reader")).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_hides_what_its_caller_may_not_see() {
    let house = world().await;
    let body = "- !group fresh\n- !grant {role: !group fresh, member: !group /team}\n\
                - !permit {role: !group /team, privilege: read, resource: !variable pw}\n";
    let uri = "/policies/demo/policy/app?dryRun=true";
    let reply = house.send_as("demo/creator", &Method::POST, uri, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for hidden in ["demo:group:team", "demo:variable:app/pw", "demo:user:owner", CANARY] {
        assert!(!reply.text().contains(hidden), "shows {hidden}: {}", reply.text());
    }
    assert!(reply.text().contains("[REDACTED]"), "{}", reply.text());
    // Who sees it all is shown it all, and nothing was done.
    let reply = house.send_as("demo/admin", &Method::POST, uri, body).await;
    assert!(reply.text().contains("demo:group:team"), "{}", reply.text());
    assert!(!reply.text().contains("REDACTED"), "{}", reply.text());
    let reply = house.send_as("demo/admin", &Method::GET, "/resources/demo/group/app%2Ffresh", "");
    assert_eq!(reply.await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_media_type_cannot_make_headers() {
    let house = House::new();
    let policy = "- !variable {id: a, mime_type: \"text/html\\r\\nset-cookie: a=b\"}\n\
                  - !variable {id: b, mime_type: text/plain}\n";
    house.load("demo", policy).await;
    for (name, media) in [("a", "application/octet-stream"), ("b", "text/plain")] {
        let uri = format!("/secrets/demo/variable/{name}");
        house.send_as("demo/admin", &Method::POST, &uri, "<script>").await;
        let reply = house.send_as("demo/admin", &Method::GET, &uri, "").await;
        assert_eq!(reply.header("content-type"), media);
        assert_eq!(reply.header("set-cookie"), "");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("content-disposition"), "attachment");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_that_could_forge_a_line_are_replaced() {
    let house = House::new();
    let long = "a".repeat(256);
    for id in ["", "a b", "a\tb", "\"]\u{e9}", long.as_str()] {
        let reply = house.send(&Method::GET, "/whoami", &[("x-request-id", id)], "").await;
        let given = reply.header("x-request-id");
        assert!(given != id && given.len() == 36, "{id:?} became {given:?}");
    }
    let reply = house.send(&Method::GET, "/whoami", &[("x-request-id", "mine-1")], "").await;
    assert_eq!(reply.header("x-request-id"), "mine-1");
    assert_eq!(house.records().pop().unwrap()["request_id"], "mine-1");
}
