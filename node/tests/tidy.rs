//! Rules about the code itself: the arrows of dependency, words that belong to one room only, files
//! that say what they are for, and an ARCHITECTURE.md that does not lie.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("node lies in the workspace").to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `.rs` file below the rooms, relative to the root, without build output.
fn sources() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for room in ["node", "raft", "storage", "api", "chaos-tests", "bench"] {
        walk(&root().join(room), &mut found);
    }
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(root()).expect("below the root").display().to_string())
        .collect();
    names.sort();
    names
}

fn is_product(source: &str) -> bool {
    source.contains("/src/") && !source.starts_with("storage/bindgen/")
}

#[test]
fn arrows_of_dependency_never_point_back() {
    // Package, its folder, and the packages of ours that it may name (test dependencies included).
    let rooms: [(&str, &str, &[&str]); 7] = [
        ("conclave-domain", "storage/domain", &[]),
        ("conclave-storage", "storage", &["conclave-domain"]),
        ("conclave-raft", "raft", &["conclave-storage", "conclave-domain"]),
        ("conclave-api", "api", &["conclave-raft", "conclave-storage", "conclave-domain"]),
        (
            "conclave",
            "node",
            &["conclave-api", "conclave-raft", "conclave-storage", "conclave-domain"],
        ),
        (
            "conclave-chaos",
            "chaos-tests",
            &["conclave", "conclave-api", "conclave-raft", "conclave-storage", "conclave-domain"],
        ),
        (
            "conclave-bench",
            "bench",
            &["conclave", "conclave-api", "conclave-raft", "conclave-storage", "conclave-domain"],
        ),
    ];
    for (package, folder, allowed) in rooms {
        let manifest: toml::Table =
            read(format!("{folder}/Cargo.toml")).parse().expect("a manifest is TOML");
        assert_eq!(manifest["package"]["name"].as_str(), Some(package));
        if package == "conclave-raft" {
            // Commands pass through unopened; only its tests make real ones.
            assert!(
                manifest["dependencies"].get("conclave-domain").is_none(),
                "raft opens nothing"
            );
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for name in dependencies.keys().filter(|name| name.starts_with("conclave")) {
                // A package may name itself, to switch a feature on for its own tests.
                assert!(
                    allowed.contains(&name.as_str()) || name == package,
                    "{folder}/Cargo.toml: {package} may not depend on {name}"
                );
            }
        }
    }
}

#[test]
fn each_library_is_named_in_one_room_only() {
    // A word of code, and the folders whose sources may hold it.
    let homes: [(&str, &[&str]); 6] = [
        ("rocksdb::", &["storage/src/"]),
        ("openraft", &["raft/"]),
        ("quinn", &["raft/"]),
        ("axum::", &["api/"]),
        // An authority of authn-k8s is a secret of policy, which the door opens like any other.
        ("rcgen::", &["node/", "bench/", "raft/tests/", "api/tests/", "api/src/authn/k8s/"]),
        ("clap::", &["node/", "chaos-tests/", "bench/"]),
    ];
    for source in sources().iter().filter(|source| source.as_str() != "node/tests/tidy.rs") {
        for (number, line) in read(source).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, folders) in homes {
                assert!(
                    !code.contains(word) || folders.iter().any(|folder| source.starts_with(folder)),
                    "{source}:{}: `{word}` belongs to {folders:?}",
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_rules_stay_pure() {
    let manifest: toml::Table = read("storage/domain/Cargo.toml").parse().expect("TOML");
    let allowed: BTreeSet<&str> = [
        "aws-lc-rs",
        "bincode",
        "hashbrown",
        "ipnet",
        "lz4_flex",
        "saphyr-parser",
        "serde",
        "thiserror",
        "zeroize",
    ]
    .into();
    for name in manifest["dependencies"].as_table().expect("a table").keys() {
        assert!(allowed.contains(name.as_str()), "the rules may not depend on {name}");
    }
    let impure = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::thread",
        "std::process",
        "std::env",
        "SystemTime",
        "aws_lc_rs::rand",
        "Instant",
        "async fn",
        ".await",
        "println!",
        "eprintln!",
    ];
    for source in sources().iter().filter(|source| source.starts_with("storage/domain/src/")) {
        for (number, line) in read(source).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in impure {
                assert!(!code.contains(word), "{source}:{}: `{word}` is not pure", number + 1);
            }
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    for source in sources() {
        assert!(read(&source).starts_with("//!"), "{source} does not open with a `//!` line");
    }
}

#[test]
fn no_unfinished_marks_and_no_ignored_tests() {
    // Written in pieces, so that this file does not find itself.
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
        concat!("FIX", "ME"),
        concat!("#[all", "ow("),
    ];
    for source in sources() {
        for (number, line) in read(&source).lines().enumerate() {
            for mark in marks {
                assert!(!line.contains(mark), "{source}:{}: {mark}", number + 1);
            }
        }
    }
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let agreed: BTreeSet<&str> = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "api",
        "bench",
        "chaos-tests",
        "node",
        "raft",
        "storage",
        "target",
    ]
    .into();
    for entry in fs::read_dir(root()).expect("the root is readable") {
        let name = entry.expect("a readable entry").file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || agreed.contains(name.as_str()), "stray entry {name}");
    }
}

/// The texts between backticks in a Markdown file, with their line numbers.
fn code_spans(markdown: &str) -> Vec<(usize, String)> {
    let mut spans = Vec::new();
    let mut fenced = false;
    for (number, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        for (position, span) in line.split('`').enumerate() {
            if position % 2 == 1 {
                spans.push((number + 1, span.to_owned()));
            }
        }
    }
    spans
}

fn looks_like_a_path(span: &str) -> bool {
    let rooms = ["node/", "raft/", "storage/", "api/", "chaos-tests/", "bench/", ".ci/"];
    rooms.iter().any(|room| span.starts_with(room)) && !span.contains([' ', '*', '{', '<'])
}

#[test]
fn the_documents_name_only_what_exists() {
    let mut documents = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for entry in fs::read_dir(root().join("node/docs")).expect("node/docs is readable") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents
                .push(path.strip_prefix(root()).expect("below the root").display().to_string());
        }
    }
    for document in documents {
        for (line, span) in code_spans(&read(&document)) {
            if !looks_like_a_path(&span) {
                continue;
            }
            // `file.rs::name` promises that the file defines that function, type or module.
            let (path, item) = span
                .split_once("::")
                .map_or((span.as_str(), None), |(path, item)| (path, Some(item)));
            assert!(root().join(path).exists(), "{document}:{line}: {path} does not exist");
            if let Some(item) = item {
                let text = read(path);
                let defined = ["fn", "struct", "enum", "trait", "mod", "const", "type"]
                    .iter()
                    .any(|word| text.contains(&format!("{word} {item}")));
                assert!(defined, "{document}:{line}: {path} defines no {item}");
            }
        }
    }
}

#[test]
fn every_module_is_on_the_map() {
    let map = read("ARCHITECTURE.md");
    let named: BTreeSet<String> = code_spans(&map)
        .into_iter()
        .filter(|(_, span)| looks_like_a_path(span))
        .map(|(_, span)| span.split("::").next().unwrap_or_default().to_owned())
        .collect();
    // A folder on the map covers the files directly in it.
    let covered = |source: &str| {
        named.contains(source)
            || Path::new(source)
                .parent()
                .is_some_and(|folder| named.contains(&format!("{}/", folder.display())))
    };
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources().into_iter().filter(|source| is_product(source)) {
        if !covered(&source) {
            let folder = Path::new(&source).parent().expect("a folder").display().to_string();
            missing.entry(folder).or_default().push(source);
        }
    }
    assert!(missing.is_empty(), "not on the map of ARCHITECTURE.md: {missing:#?}");
}

/// What operators are told that a test shows, a test of that name shows.
#[test]
fn the_tests_that_operators_are_told_of_exist() {
    let mut defined = BTreeSet::new();
    for file in sources() {
        for line in read(&file).lines() {
            let line = line.trim_start().trim_start_matches("async ");
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('('))
            {
                defined.insert(name.to_owned());
            }
        }
    }
    let document = "node/docs/operations.md";
    let is_test = |span: &str| {
        span.matches('_').count() >= 3 && span.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let named: Vec<_> =
        code_spans(&read(document)).into_iter().filter(|(_, span)| is_test(span)).collect();
    assert!(named.len() > 40, "{named:?}");
    for (line, name) in named {
        assert!(defined.contains(&name), "{document}:{line}: there is no test {name}");
    }
}

#[test]
fn the_walks_pass_through_real_places_in_order() {
    let map = read("ARCHITECTURE.md");
    for (title, places_min) in [("## A write walks", 8), ("## A read walks", 5)] {
        let walk = map.split(title).nth(1).unwrap_or_else(|| panic!("no section {title:?}"));
        let walk = walk.split("\n## ").next().unwrap_or_default();
        let places =
            code_spans(walk).into_iter().filter(|(_, span)| span.contains(".rs::")).count();
        assert!(places >= places_min, "{title} names only {places} places as `file.rs::item`");
    }
}

#[test]
fn a_newcomer_finds_the_read_of_a_secret_in_two_hops() {
    let readme = read("README.md");
    assert!(readme.contains("(ARCHITECTURE.md)"), "README links to ARCHITECTURE.md");
    let map = read("ARCHITECTURE.md");
    assert!(
        code_spans(&map).iter().any(|(_, span)| span.starts_with("api/src/routes/secrets/get.rs")),
        "ARCHITECTURE.md names the file of the route"
    );
}
