//! Bytes that rest on disks and travel between nodes, pinned.
//!
//! `golden/<what>-v<version>.txt` holds one line for each variant: its name and its bytes in hex. Every
//! file must decode to today's sample, whatever its version; today's version must also encode to it.
//!
//! To pin a new variant or a new version, add its sample to `support/mod.rs` and run
//! `BLESS=1 cargo test -p conclave-domain --test golden`. It adds lines that are missing
//! and never touches one that is there: bytes once written do not change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use conclave_domain::codec::DecodeError;
use conclave_domain::command::Command;
use conclave_domain::event::Event;
use conclave_domain::{command, event, outcome};
use support::{
    COMMANDS, EVENTS, OUTCOMES, REJECTIONS, as_history, command_name, envelopes, event_name,
    events, load_of, replies, reply_name,
};

/// Variants of the bytes that are no variants of what they stand for.
const BOUND_COMMAND: &str = "IssueBoundJoinToken";
const BOUND_EVENT: &str = "BoundJoinTokenIssued";
const LIMITED_COMMAND: &str = "CreateLimitedHostFactoryTokens";
const LIMITED_EVENT: &str = "LimitedHostFactoryTokensIssued";

/// Whose bytes a command has.
fn command_bytes(body: &Command) -> &'static str {
    if matches!(body, Command::IssueJoinToken { token, .. } if !token.cidr.is_empty()) {
        BOUND_COMMAND
    } else if matches!(body, Command::CreateHostFactoryTokens { uses: Some(_), .. }) {
        LIMITED_COMMAND
    } else {
        command_name(body)
    }
}

/// Whose bytes an event has.
fn event_bytes(event: &Event) -> &'static str {
    if matches!(event, Event::JoinTokenIssued { token, .. } if !token.cidr.is_empty()) {
        BOUND_EVENT
    } else if matches!(event, Event::HostFactoryTokensIssued { uses: Some(_), .. }) {
        LIMITED_EVENT
    } else {
        event_name(event)
    }
}

/// One family of bytes.
struct Family<T: 'static> {
    what: &'static str,
    version: u8,
    names: Vec<&'static str>,
    samples: Vec<(&'static str, T)>,
    encode: fn(&T) -> Vec<u8>,
    decode: fn(&[u8]) -> Result<T, DecodeError>,
}

fn commands() -> Family<command::Envelope> {
    Family {
        what: "command",
        version: command::codec::VERSION,
        names: [COMMANDS, &[BOUND_COMMAND, LIMITED_COMMAND]].concat(),
        samples: envelopes().into_iter().map(|one| (command_bytes(&one.body), one)).collect(),
        encode: command::codec::encode,
        decode: command::codec::decode,
    }
}

/// Events as they stand in a command, with all their ciphertext.
fn changes() -> Family<event::Event> {
    Family {
        what: "change",
        version: command::codec::VERSION,
        names: [EVENTS, &[BOUND_EVENT, LIMITED_EVENT]].concat(),
        samples: events().into_iter().map(|one| (event_bytes(&one), one)).collect(),
        encode: |event| command::codec::encode(&load_of(event.clone())),
        decode: |bytes| {
            command::codec::decode(bytes).map(|envelope| {
                let command::Command::LoadPolicy { mut changes, .. } = envelope.body else {
                    panic!("{envelope:?} where a load was written");
                };
                changes.remove(0)
            })
        },
    }
}

fn history() -> Family<event::Event> {
    Family {
        what: "event",
        version: event::codec::VERSION,
        names: [EVENTS, &[BOUND_EVENT, LIMITED_EVENT]].concat(),
        samples: events().iter().map(|one| (event_bytes(one), as_history(one))).collect(),
        encode: event::codec::encode,
        decode: event::codec::decode,
    }
}

fn answers() -> Family<outcome::Reply> {
    Family {
        what: "reply",
        version: outcome::codec::VERSION,
        names: [OUTCOMES, REJECTIONS].concat(),
        samples: replies().into_iter().map(|one| (reply_name(&one), one)).collect(),
        encode: outcome::codec::encode,
        decode: outcome::codec::decode,
    }
}

#[test]
fn commands_keep_their_bytes() {
    check(&commands());
}

#[test]
fn changes_in_commands_keep_their_bytes() {
    check(&changes());
}

#[test]
fn events_keep_their_bytes() {
    check(&history());
}

#[test]
fn replies_keep_their_bytes() {
    check(&answers());
}

#[test]
fn history_forgets_ciphertext() {
    for event in events() {
        let bytes = event::codec::encode(&event);
        assert_eq!(event::codec::decode(&bytes), Ok(as_history(&event)));
    }
}

#[test]
fn newer_versions_are_refused_with_advice() {
    let mut bytes = command::codec::encode(&envelopes()[0]);
    bytes[0] = 2;
    let error = command::codec::decode(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a command has format version 2, and this program knows none above 1: upgrade this node"
    );
    assert!(matches!(event::codec::decode(&[9]), Err(DecodeError::TooNew { found: 9, .. })));
    assert!(matches!(outcome::codec::decode(&[9]), Err(DecodeError::TooNew { found: 9, .. })));
    assert!(matches!(outcome::codec::decode(&[0]), Err(DecodeError::NoSuchVersion { .. })));
    assert!(matches!(outcome::codec::decode(&[]), Err(DecodeError::Empty { .. })));
}

#[test]
fn trailing_and_missing_bytes_are_refused() {
    for envelope in envelopes() {
        let mut bytes = command::codec::encode(&envelope);
        for end in 0..bytes.len() {
            assert!(command::codec::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert!(matches!(
            command::codec::decode(&bytes),
            Err(DecodeError::Trailing { bytes: 1, .. })
        ));
    }
}

#[test]
fn lengths_beyond_the_limit_are_refused_before_memory_is_taken() {
    // A reply of variant `Invalid` that claims a text of 2^63 bytes.
    let mut bytes = vec![1, 10, 253];
    bytes.extend((1_u64 << 63).to_le_bytes());
    assert!(matches!(outcome::codec::decode(&bytes), Err(DecodeError::Malformed { .. })));
}

/// With `BLESS` set, writes the lines that are missing before anything is compared.
fn bless<T: PartialEq + Debug>(family: &Family<T>) {
    if std::env::var_os("BLESS").is_some() {
        pin(family);
    }
}

fn check<T: PartialEq + Debug>(family: &Family<T>) {
    bless(family);
    let sampled: Vec<&str> = family.samples.iter().map(|(name, _)| *name).collect();
    for name in &family.names {
        assert!(sampled.contains(name), "{} {name} has no sample", family.what);
    }
    for version in 1..=family.version {
        let golden = read(&path(family.what, version));
        for (name, sample) in &family.samples {
            let Some(hex) = golden.get(*name) else {
                assert!(version < family.version, "{} {name} has no golden bytes", family.what);
                continue;
            };
            let decoded = (family.decode)(&from_hex(hex));
            assert_eq!(decoded.as_ref(), Ok(sample), "{} {name} v{version}", family.what);
            if version == family.version {
                let encoded = to_hex(&(family.encode)(sample));
                assert_eq!(encoded, *hex, "{} {name} is encoded differently", family.what);
            }
        }
    }
}

fn pin<T>(family: &Family<T>) {
    let path = path(family.what, family.version);
    let mut golden = read(&path);
    for (name, sample) in &family.samples {
        golden.entry((*name).to_owned()).or_insert_with(|| to_hex(&(family.encode)(sample)));
    }
    let mut text = String::new();
    for (name, hex) in golden {
        writeln!(text, "{name} {hex}").unwrap();
    }
    fs::write(path, text).unwrap();
}

fn path(what: &str, version: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{what}-v{version}.txt"))
}

fn read(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(name, hex)| (name.to_owned(), hex.to_owned())).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}
