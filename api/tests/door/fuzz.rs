//! Bounded fuzzing of what strangers send: policy texts, ids, URLs and tokens.
//!
//! Each target starts from a corpus (`corpus/`, and the texts of the other tests), changes its entries
//! at random from a fixed seed, and holds what comes out against a property. An input that breaks one
//! is printed as a byte string; put it into the corpus with its repair. `FUZZ_RUNS` makes more of
//! them, `FUZZ_SEED` others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use conclave_api::router::named;
use conclave_domain::command::LoadMode;
use conclave_domain::id::{AccountName, Id};
use conclave_domain::policy::{self, LoadRequest, Rules};
use http::{Method, Request, Uri};
use tower::ServiceExt;

use super::harness::{House, header_of};

/// Randomness that is the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// One of the corpus, changed in one to four places.
fn mutate(dice: &mut Dice, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = dice.pick(corpus).clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let until = (at + dice.below(12)).min(input.len());
        match dice.below(7) {
            0 => input.insert(at, u8::try_from(dice.below(256)).unwrap()),
            1 => drop(input.drain(at..until)),
            2 => {
                let piece = input[at..until].to_vec();
                for _ in 0..=dice.below(6) {
                    input.splice(at..at, piece.iter().copied());
                }
            }
            3 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
            4 => {
                let other = dice.pick(corpus);
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = dice.pick(words).as_bytes();
                input.splice(at..until, word.iter().copied());
            }
        }
    }
    input.truncate(20_000);
    input
}

/// Runs a property on many inputs; the first that breaks it is printed.
fn try_all(
    name: &str,
    runs: usize,
    corpus: &[Vec<u8>],
    words: &[&str],
    mut property: impl FnMut(&[u8]),
) {
    let number = |variable: &str| std::env::var_os(variable)?.to_str()?.parse::<u64>().ok();
    let seed = number("FUZZ_SEED").unwrap_or(0x5eed);
    let runs = number("FUZZ_RUNS").map_or(runs, |runs| usize::try_from(runs).unwrap());
    let mut dice = Dice(seed);
    assert!(!corpus.is_empty(), "{name}: no corpus");
    for run in 0..corpus.len() + runs {
        let input = corpus.get(run).cloned().unwrap_or_else(|| mutate(&mut dice, corpus, words));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(&input))) {
            eprintln!("{name}: seed {seed}, run {run}, broken by b\"{}\"", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/door"))
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    lines.map(|line| line.as_bytes().to_vec()).collect()
}

/// The policy texts of the rules' own tests, and some more.
fn policies() -> Vec<Vec<u8>> {
    let own = std::fs::read_to_string(folder().join("corpus/policies.txt")).unwrap();
    let mut corpus: Vec<Vec<u8>> = own.split("\n====\n").map(Into::into).collect();
    let rules = folder().join("../../../storage/domain/tests/policy");
    let mut files: Vec<_> =
        std::fs::read_dir(rules).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "txt")) {
        let text = std::fs::read_to_string(file).unwrap();
        for step in text.split("\n> ").skip(1) {
            let (head, rest) = step.split_once('\n').unwrap_or((step, ""));
            if ["append ", "update ", "replace "].iter().any(|word| head.starts_with(word)) {
                let text = rest.split("\n----").next().unwrap();
                corpus.push(text.into());
            }
        }
    }
    corpus
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_texts_are_planned_or_refused_and_always_alike() {
    let house = House::new();
    house.load("demo", "- !policy {id: app, body: [!group g, !variable v]}\n- !user bob\n").await;
    let words = [
        "!user",
        "!policy",
        "!grant",
        "!permit",
        "!delete",
        "!host-factory",
        "!member",
        "- ",
        "&a ",
        "*a",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "? ",
        "|\n",
        ">-\n",
        "---\n",
        "...\n",
        "'",
        "\"",
        "id: ",
        "body:\n",
        "owner: ",
        "annotations: ",
        "restricted_to: ",
        "../",
        "/",
        "@",
        "\t",
        "\n  ",
        "<<: ",
        "!!str ",
        "%YAML 1.1\n",
        "# ",
        "null",
        "yes",
        "0x1F",
        "1e400",
        "2001-01-01",
        "10.0.0.0/8",
        "::/0",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
    ];
    let root: Id = "demo:policy:root".parse().unwrap();
    let app: Id = "demo:policy:app".parse().unwrap();
    let admin: Id = "demo:user:admin".parse().unwrap();
    try_all("policies", 600, &policies(), &words, |input| {
        let text = String::from_utf8_lossy(input);
        house.state.read(|view| {
            for (policy, mode) in
                [(&root, LoadMode::Append), (&app, LoadMode::Update), (&app, LoadMode::Replace)]
            {
                let rules = Rules::default();
                let request = LoadRequest { policy, mode, text: &text, actor: &admin, rules };
                let first = policy::plan(view.state, &request);
                let second = policy::plan(view.state, &request);
                match (&first, &second) {
                    (Ok(first), Ok(second)) => {
                        assert_eq!(format!("{first:?}"), format!("{second:?}"));
                    }
                    (Err(first), Err(second)) => {
                        assert_eq!(first.to_string(), second.to_string());
                        assert!(!first.to_string().is_empty());
                    }
                    _ => panic!("planned once and refused once"),
                }
            }
        });
    });
}

#[test]
fn ids_are_read_back_as_they_are_written() {
    let corpus = lines(&std::fs::read_to_string(folder().join("corpus/ids.txt")).unwrap());
    let words = [":", "::", "/", "user", "host", "host_factory", "!", "@", " ", "\0", "é", "a:b:c"];
    let account = AccountName::new("demo").unwrap();
    try_all("ids", 20_000, &corpus, &words, |input| {
        let text = String::from_utf8_lossy(input);
        if let Ok(id) = Id::parse(&text, Some(&account)) {
            assert_eq!(Id::parse(&id.to_string(), None), Ok(id.clone()));
            assert!(!id.account().as_str().contains([':', '/', ' ', '\0']));
            assert!(!id.identifier().is_empty() && !id.identifier().contains('\0'));
            if id.kind().is_role() {
                let back = Id::from_login(id.account(), &id.to_login());
                assert_eq!(back.as_ref(), Ok(&id), "login {:?}", id.to_login());
            }
        }
        if let Ok(id) = Id::from_login(&account, &text) {
            assert_eq!(Id::from_login(&account, &id.to_login()), Ok(id.clone()));
            assert!(id.kind().is_role());
        }
    });
}

/// The URLs of every other table here, and some more.
fn urls() -> Vec<Vec<u8>> {
    let mut corpus = lines(&std::fs::read_to_string(folder().join("corpus/urls.txt")).unwrap());
    let table = std::fs::read_to_string(folder().join("tables/negative.txt")).unwrap();
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.contains("{{")) {
        corpus.extend(line.split(' ').nth(2).map(|url| url.as_bytes().to_vec()));
    }
    corpus
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_find_one_route_or_none_and_never_another_account() {
    let house = House::new();
    house.load("demo", "- !variable app/pw\n- !user bob\n").await;
    let token = house.token("demo/bob").await;
    let uri = "/secrets/demo/variable/app%2Fpw";
    house.send_as("demo/admin", &Method::POST, uri, "canary-4711").await;
    let words = [
        "/",
        "//",
        "%2F",
        "%252F",
        "%00",
        "%ff",
        "%c0%af",
        "..",
        ".",
        ";",
        "?",
        "&",
        "=",
        "+",
        "%20",
        "check",
        "privilege=read",
        "role=",
        "demo",
        "other",
        "!",
        "variable",
        "secrets",
        "api",
        "limit=1",
        "count=true",
        "members",
        "authenticate",
        "authn",
        "authn-x",
        "[]",
        "%5B%5D",
    ];
    let mut requests = Vec::new();
    let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD];
    let mut turn = 0;
    try_all("urls", 20_000, &urls(), &words, |input| {
        let Ok(uri) = String::from_utf8_lossy(input).parse::<Uri>() else { return };
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        turn += 1;
        let method = &methods[turn % methods.len()];
        let name = named(method, path, query);
        // What a trailing slash and the prefix name is what is named without.
        if path.starts_with('/') {
            assert_eq!(named(method, &format!("{path}/"), query), name, "{path}");
            assert_eq!(named(method, &format!("/{path}"), query), name, "{path}");
        }
        if turn % 40 == 0 && path.starts_with('/') {
            requests.push((method.clone(), uri));
        }
    });
    for (method, uri) in requests {
        let reads = method == Method::GET || method == Method::HEAD;
        let request = Request::builder()
            .method(if reads { method } else { Method::GET })
            .uri(&uri)
            .header("authorization", &token)
            .body(axum::body::Body::empty())
            .unwrap();
        let response = house.router.clone().oneshot(request).await.unwrap();
        assert_ne!(response.status().as_u16(), 500, "{uri}");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains("canary-4711"), "{uri} shows a secret to bob");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_tokens_say_what_they_said_or_nothing() {
    let house = House::new();
    house.load("demo", "- !user bob\n").await;
    let whole = async |header: &str| {
        let Ok(header) = http::HeaderValue::from_bytes(header.as_bytes()) else { return None };
        let request = Request::builder()
            .uri("/whoami")
            .header("authorization", header)
            .body(axum::body::Body::empty())
            .unwrap();
        let response = house.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        assert!(matches!(status, 200 | 401), "{status}");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (status == 200).then(|| String::from_utf8_lossy(&body).into_owned())
    };
    let mut corpus = Vec::new();
    let mut honest = Vec::new();
    for who in ["demo/bob", "demo/admin", "other/admin"] {
        let token = house.token(who).await;
        honest.push(whole(&token).await.unwrap());
        let inside = token.strip_prefix("Token token=\"").unwrap().trim_end_matches('"');
        corpus.push(STANDARD.decode(inside).unwrap());
    }
    corpus.extend(lines(&std::fs::read_to_string(folder().join("corpus/tokens.txt")).unwrap()));
    let words = [
        "\"",
        "{",
        "}",
        ",",
        ":",
        "\"protected\":",
        "\"payload\":",
        "\"signature\":",
        "e30=",
        "=",
        "-",
        "_",
        "null",
        "[",
        "eyJhbGciOiJub25lIn0=",
        "\\u0000",
        "\\n",
        " ",
        "\n",
    ];
    let mut headers = Vec::new();
    try_all("tokens", 3000, &corpus, &words, |input| headers.push(header_of(input)));
    for header in headers {
        if let Some(said) = whole(&header).await {
            assert!(honest.contains(&said), "{header} is taken for {said}");
        }
    }
}
