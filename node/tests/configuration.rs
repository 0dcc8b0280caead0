//! The configuration file and the command line: the sample parses, unknown keys and wrong values are
//! refused with the key, the value and the way out, and no text makes the parser panic.

#![expect(clippy::expect_used, reason = "helpers of tests fail loudly")]

use std::ffi::OsString;
use std::path::Path;

use conclave::config::environment::ServerEnvironment;
use conclave::config::{Config, ConfigError};
use conclave::seed::Seed;
use proptest::prelude::*;

const SAMPLE: &str = include_str!("../deploy/conclave.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/conclave/conclave.toml"))
}

/// The sample with one line replaced.
fn with(before: &str, after: &str) -> String {
    assert!(SAMPLE.contains(before), "the sample lacks {before:?}");
    SAMPLE.replacen(before, after, 1)
}

/// The sample's error text after one line was replaced.
fn error_with(before: &str, after: &str) -> String {
    parse(&with(before, after)).expect_err("it should be refused").to_string()
}

#[test]
fn sample_parses_and_shows_the_defaults() {
    let sample = parse(SAMPLE).unwrap();
    assert_eq!(sample.node.name, "n1");
    assert_eq!(sample.peer.listen.port(), 7443);
    let spelled_out: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => rest,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    assert_ne!(spelled_out, SAMPLE);
    let explicit = parse(&spelled_out).unwrap();
    assert_eq!(format!("{explicit:?}"), format!("{sample:?}"), "the sample's comments are stale");
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let config = parse(&with("data = \"/var/lib/conclave\"", "data = \"data\"")).unwrap();
    assert_eq!(config.node.data, Path::new("/etc/conclave/data"));
}

#[test]
fn unknown_keys_are_refused_by_name() {
    let text = error_with("name = \"n1\"", "name = \"n1\"\ncolour = \"red\"");
    assert!(text.contains("colour") && text.contains("conclave.toml"), "{text}");
    let text = error_with("[raft]", "[rafts]");
    assert!(text.contains("rafts"), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_key_its_line_and_the_way_out() {
    let name = "name = \"n1\"";
    let cases = [
        (name, "name = 5", "node.name = 5", "write it as text, in quotes"),
        ("[raft]", "[raft]\nheartbeat_ms = \"50\"", "raft.heartbeat_ms = \"50\"", "whole number"),
        ("[raft]", "[raft]\nheartbeat_ms = -5", "raft.heartbeat_ms = -5", "whole number"),
        ("[raft]", "[[audit.output]]\nto = 7\n[raft]", "audit.output.to = 7", "in quotes"),
        ("[reads]", "[reads]\nforward_writes = 1", "reads.forward_writes = 1", "true or false"),
    ];
    for (before, after, what, fix) in cases {
        let text = with(before, after);
        let line =
            text.lines().position(|line| what.ends_with(line) && line.contains('=')).unwrap();
        let error = parse(&text).expect_err("it should be refused").to_string();
        assert!(error.contains(what) && error.contains(fix), "{error}");
        assert!(error.contains(&format!("conclave.toml, line {}: ", line + 1)), "{error}");
    }
    for section in ["node", "unseal", "tls"] {
        let error = parse(&format!("{section} = 5\n")).expect_err("it is no section").to_string();
        let expected = format!("line 1: {section} = 5 is not valid: write [{section}] on a line");
        assert!(error.contains(&expected) && !error.contains("Raw"), "{error}");
    }
}

#[test]
fn clouds_are_asked_by_https_and_the_environment_wins() {
    let clouds =
        |text: &str| parse(&with("# sts_uri = \"\"", text)).map(|config| config.api.clouds);
    let usual = clouds("").unwrap();
    assert_eq!((usual.sts_uri, usual.ca_file), (None, None));
    assert_eq!(usual.google_uri, "https://accounts.google.com");
    let text = "sts_uri = \"https://sts.example.com\"\nclouds_ca_file = \"ca.pem\"";
    let set = clouds(text).unwrap();
    assert_eq!(set.sts_uri.as_deref(), Some("https://sts.example.com"));
    assert_eq!(set.ca_file.as_deref(), Some(Path::new("/etc/conclave/ca.pem")));
    for bad in
        ["http://sts.example.com", "sts.example.com", "https://", "https://a@b", "https://a b"]
    {
        let text = clouds(&format!("sts_uri = \"{bad}\"")).expect_err("it is no URL").to_string();
        assert!(text.contains("api.sts_uri") && text.contains(bad), "{text}");
    }
    let said = ServerEnvironment {
        sts_uri: Some("https://other.example.com".to_owned()),
        google_uri: Some("https://google.example.com".to_owned()),
        ..ServerEnvironment::default()
    };
    let config = parse(&with("# sts_uri = \"\"", text)).unwrap().overlaid(said).unwrap();
    assert_eq!(config.api.clouds.sts_uri.as_deref(), Some("https://other.example.com"));
    assert_eq!(config.api.clouds.google_uri, "https://google.example.com");
    assert_eq!(config.api.clouds.ca_file.as_deref(), Some(Path::new("/etc/conclave/ca.pem")));
    let said =
        ServerEnvironment { google_uri: Some("x".to_owned()), ..ServerEnvironment::default() };
    let text = parse(SAMPLE).unwrap().overlaid(said).expect_err("it is no URL").to_string();
    assert!(text.contains("CONCLAVE_GOOGLE_URI"), "{text}");
}

#[test]
fn authenticators_of_the_environment_come_in_place_of_the_files() {
    let said = |list: &str| ServerEnvironment {
        authenticators: Some(list.to_owned()),
        ..ServerEnvironment::default()
    };
    let file = || parse(&with("[api]", "[api]\nauthenticators = [\"authn-gcp\"]")).unwrap();
    assert_eq!(file().api.authenticators, ["authn-gcp"]);
    let list = "authn, authn-jwt/ci,authn-ldap/corp";
    let config = file().overlaid(said(list)).unwrap();
    assert_eq!(config.api.authenticators, ["authn", "authn-jwt/ci", "authn-ldap/corp"]);
}

#[test]
fn audit_outputs_have_what_they_need_and_nothing_else() {
    let output = |text: &str| {
        let output = format!("[[audit.output]]\n{text}\n[policy]");
        parse(&with("[policy]", &output)).map(|config| config.audit.outputs)
    };
    let files = "ca_file = \"a.pem\"\ncertificate_file = \"/n.pem\"\nkey_file = \"n.key\"";
    let syslog = format!("to = \"syslog\"\naddress = \"siem:6514\"\n{files}");
    let shown = format!("{:?}", output(&syslog).unwrap());
    assert!(shown.contains("/etc/conclave/a.pem") && shown.contains("siem:6514"), "{shown}");
    assert!(output("to = \"stdout\"").is_ok());
    assert!(output("to = \"file\"\npath = \"x.log\"").is_ok());
    for (text, named) in [
        ("to = \"mail\"", "audit.output.to"),
        ("to = \"file\"", "audit.output.path"),
        ("to = \"stdout\"\npath = \"x\"", "audit.output.to"),
        ("to = \"syslog\"\naddress = \"siem\"", "audit.output.address"),
        ("to = \"syslog\"\naddress = \"siem:1\"", "audit.output.ca_file"),
        ("to = \"stdout\"\n[[audit.output]]\nto = \"stdout\"", "audit.output"),
    ] {
        let error = output(text).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn wrong_values_are_refused_with_key_value_and_fix() {
    let cases = [
        ("name = \"n1\"", "name = \"a b\"", "node.name", "letters"),
        ("listen = \"0.0.0.0:7443\"", "listen = \"somewhere\"", "peer.listen", "port"),
        ("advertise = \"n1.conclave.example.com:7443\"", "", "peer.advertise", "host:port"),
        (
            "trusted_proxies = []",
            "trusted_proxies = [\"10.0.0.0/99\"]",
            "api.trusted_proxies",
            "10.",
        ),
        ("# durability = \"os\"", "durability = \"maybe\"", "audit.durability", "disk"),
        ("# format = \"text\"", "format = \"xml\"", "log.format", "json"),
        ("# heartbeat_ms = 50", "heartbeat_ms = 190", "raft", "190"),
        ("# election_max_ms = 300", "election_max_ms = 100000000", "raft.election_max_ms", "60000"),
        ("/etc/conclave/master.key", "/var/lib/conclave/m.key", "node.master_key_file", "outside"),
        ("# health_listen = \"\"", "health_listen = \"8444\"", "api.health_listen", "port"),
        (
            "# health_ok_for = [\"leader\", \"standby\", \"follower\"]",
            "health_ok_for = [\"boss\"]",
            "api.health_ok_for",
            "standby",
        ),
        (
            "# health_ok_for = [\"leader\", \"standby\", \"follower\"]",
            "health_ok_for = []",
            "api.health_ok_for",
            "at least one",
        ),
        ("https://n1.conclave", "http://n1.conclave", "api.url", "https"),
    ];
    for (before, after, key, fix) in cases {
        let text = error_with(before, after);
        assert!(text.contains(key) && text.contains(fix), "{before} → {after}: {text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let number = |text: &str| SAMPLE.lines().position(|line| line == text).unwrap() + 1;
    let text = error_with("name = \"n1\"", "name = \"a b\"");
    assert!(text.contains(&format!("conclave.toml, line {}", number("name = \"n1\""))), "{text}");
    let text = error_with("# format = \"text\"", "format = \"xml\"");
    assert!(
        text.contains(&format!(", line {}: log.format", number("# format = \"text\""))),
        "{text}"
    );
}

/// The sections that say where a master key comes from, in place of `node.master_key_file`.
fn unseal(section: &str) -> Result<Config, ConfigError> {
    let text = with("master_key_file = \"/etc/conclave/master.key\"", "");
    parse(&text.replacen("[peer]", &format!("[unseal]\n{section}\n[peer]"), 1))
}

#[test]
fn the_ways_to_unseal_have_what_they_need_and_nothing_else() {
    let hsm = "by = \"pkcs11\"\nmodule = \"/usr/lib/hsm.so\"\ntoken = \"t\"\nfile = \"pin\"";
    for (section, shown) in [
        ("by = \"key\"\nfile = \"m.key\"", "key: file /etc/conclave/m.key"),
        ("by = \"key\"\ncredential = \"m\"", "key: credential m"),
        ("by = \"passphrase\"", "passphrase: typed"),
        ("by = \"passphrase\"\ndescriptor = \"FD\"", "the descriptor that FD names"),
        (hsm, "token \"t\", key \"conclave\", PIN: file /etc/conclave/pin"),
    ] {
        let config = unseal(section).unwrap();
        assert!(config.unseal.to_string().contains(shown), "{section}: {}", config.unseal);
    }
    for (section, key, fix) in [
        ("by = \"magic\"", "unseal.by = \"magic\"", "passphrase"),
        ("by = \"key\"", "unseal.by", "credential"),
        ("by = \"key\"\nfile = \"/var/lib/conclave/k\"", "unseal.file", "outside"),
        ("by = \"key\"\nfile = \"a\"\ncredential = \"b\"", "unseal", "one of"),
        ("by = \"key\"\nfile = \"a\"\ntoken = \"t\"", "unseal.token", "pkcs11"),
        ("by = \"passphrase\"\ncredential = \"../x\"", "unseal.credential", "name"),
        ("by = \"passphrase\"\ndescriptor = \"a b\"", "unseal.descriptor", "variable"),
        ("by = \"pkcs11\"\nmodule = \"/x.so\"\ntoken = \"t\"", "unseal.by", "PIN"),
        (&hsm.replace("/usr/lib/hsm.so", "hsm.so"), "unseal.module", "whole path"),
        (&hsm.replace("\"t\"", "\"\""), "unseal.token", "label"),
    ] {
        let text = unseal(section).unwrap_err().to_string();
        assert!(text.contains(key) && text.contains(fix), "{section}: {text}");
    }
    let both = SAMPLE.replacen("[peer]", "[unseal]\nby = \"passphrase\"\n[peer]", 1);
    assert!(parse(&both).unwrap_err().to_string().contains("node.master_key_file"));
    let none = error_with("master_key_file = \"/etc/conclave/master.key\"", "");
    assert!(none.contains("node.master_key_file") && none.contains("[unseal]"), "{none}");
}

#[test]
fn every_key_of_the_sample_is_known_to_a_reload() {
    let known = conclave::config::key_names(&parse(SAMPLE).unwrap());
    let mut section = "";
    for line in SAMPLE.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) else {
            continue;
        };
        let name = format!("{section}.{key}");
        assert!(name == "node.master_key_file" || known.contains(&&*name), "{name} is not known");
    }
}

#[test]
fn a_reload_tells_what_changes_and_what_wants_a_restart() {
    let old = parse(SAMPLE).unwrap();
    for (before, after, key, live) in [
        ("# level = \"info\"", "level = \"debug\"", "log.level", true),
        ("trusted_proxies = []", "trusted_proxies = [\"10.0.0.7\"]", "api.trusted_proxies", true),
        ("# authenticators = []", "authenticators = [\"authn\"]", "api.authenticators", true),
        ("# max_staleness_s = 300", "max_staleness_s = 60", "reads.max_staleness_s", true),
        ("    \"n3.conclave.example.com\",", "", "tls.names", true),
        ("# load_wait_s = 5", "load_wait_s = 7", "policy.load_wait_s", true),
        ("[policy]", "[[audit.output]]\nto = \"stdout\"\n[policy]", "audit.output", true),
        ("# durability = \"os\"", "durability = \"disk\"", "audit.durability", false),
        ("# format = \"text\"", "format = \"json\"", "log.format", false),
        ("# heartbeat_ms = 50", "heartbeat_ms = 40", "raft.heartbeat_ms", false),
        ("0.0.0.0:8443", "0.0.0.0:9443", "api.listen", false),
        ("# forward_writes = false", "forward_writes = true", "reads.forward_writes", false),
        ("/etc/conclave/master.key", "/etc/conclave/other.key", "unseal", false),
    ] {
        let new = parse(&with(before, after)).unwrap();
        let reloaded = old.changes(&new);
        let (this, other) = if live {
            (&reloaded.applied, &reloaded.needs_restart)
        } else {
            (&reloaded.needs_restart, &reloaded.applied)
        };
        assert!(this.len() == 1 && this[0].key == key && other.is_empty(), "{key}: {reloaded:?}");
        assert_ne!(this[0].from, this[0].to);
        // What is merged is what was told, no less and no more.
        let merged = old.with_live_values_of(&new);
        assert_eq!(old.changes(&merged).applied, reloaded.applied);
        assert_eq!(old.changes(&merged).needs_restart, []);
        assert_eq!(merged.changes(&new).applied, []);
        assert_eq!(merged.changes(&new).needs_restart, reloaded.needs_restart);
    }
}

#[test]
fn seeds_of_other_versions_are_refused() {
    let error = Seed::parse("{\"version\": 2}").err().unwrap();
    assert!(error.contains("version 2"), "{error}");
    assert!(Seed::parse("{}").is_err());
    assert!(Seed::parse("").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_configuration_panic(text in ".{0,400}") {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn no_value_makes_the_configuration_panic(
        line in 0_usize..60,
        value in "[ -~]{0,40}",
    ) {
        let garbled: Vec<String> = SAMPLE
            .lines()
            .enumerate()
            .map(|(number, text)| match text.split_once(" = ") {
                Some((key, _)) if number == line => {
                    format!("{} = {value:?}", key.trim_start_matches("# "))
                }
                _ => text.to_owned(),
            })
            .collect();
        // Accepted or refused: either is an answer.
        drop(parse(&garbled.join("\n")));
    }

    #[test]
    fn no_command_line_makes_the_parser_panic(words in prop::collection::vec("[ -~]{0,12}", 0..6)) {
        let args = std::iter::once("conclave".to_owned()).chain(words).map(OsString::from);
        drop(conclave::cli::parse(args));
    }

    #[test]
    fn no_text_makes_a_seed_panic(text in "\\PC{0,200}") {
        drop(Seed::parse(&text));
    }

    #[test]
    fn no_text_makes_a_conjurrc_or_netrc_panic(text in "(\\PC|\n){0,200}") {
        drop(conclave::client::settings::Conjurrc::parse(&text));
        drop(conclave::client::netrc::find(&text, "https://h/authn"));
        let without = conclave::client::netrc::without(&text, "https://h/authn");
        prop_assert!(without.len() <= text.len());
    }
}

#[test]
fn every_command_has_help() {
    for words in [
        vec![],
        vec!["server"],
        vec!["cluster"],
        vec!["cluster", "init"],
        vec!["cluster", "seed"],
        vec!["account", "create"],
        vec!["dev"],
        vec!["login"],
        vec!["policy", "load"],
        vec!["variable", "set"],
    ] {
        let mut args = vec!["conclave"];
        args.extend(&words);
        args.push("--help");
        let error = conclave::cli::parse(args.into_iter().map(OsString::from)).err().unwrap();
        assert_eq!(error.exit_code(), 0, "{words:?}: {error}");
    }
    let error = conclave::cli::parse(["conclave", "frobnicate"].map(OsString::from).into_iter());
    assert_eq!(error.err().unwrap().exit_code(), 2);
}
