//! The bytes of every message are those of the golden file; and whatever bytes come, decoding gives
//! a message or an error, and a message decodes to what was encoded.

use std::fmt::Write as _;

use bytes::Bytes;
use proptest::prelude::*;

use super::codec::DecodeError;
use super::v1::*;
use crate::types::{NodeInfo, NodeRole};

/// One message a line: name, and bytes in hex.
const GOLDEN: &str = include_str!("../../tests/golden/wire-v1.txt");

fn info() -> NodeInfo {
    NodeInfo {
        name: "alpha".to_owned(),
        role: NodeRole::Voter,
        node_key: [0xab; 32],
        peer_address: "10.0.0.1:9443".to_owned(),
        api_url: "https://alpha".to_owned(),
    }
}

const VOTE: Vote = Vote { term: 7, node: 3, committed: true };
const ID: LogId = LogId { term: 7, index: 1000 };

fn samples() -> Vec<(&'static str, Bytes)> {
    let bytes = Bytes::from_static;
    let ballot = Ballot { vote: VOTE, last: Some(ID), transfer: true };
    let refused = |refusal| Response::Refused { refusal, text: "no".to_owned() }.encode();
    let append = Append {
        vote: VOTE,
        previous: Some(LogId { term: 6, index: 999 }),
        commit: Some(LogId { term: 6, index: 998 }),
        quorum_age_ms: 12,
        entries: vec![
            Entry { id: ID, payload: Payload::Blank },
            Entry {
                id: LogId { term: 7, index: 1001 },
                payload: Payload::Command(bytes(b"command")),
            },
            Entry {
                id: LogId { term: 7, index: 1002 },
                payload: Payload::Membership(bytes(b"members")),
            },
        ],
    };
    let heartbeat = Append { previous: None, commit: None, entries: Vec::new(), ..append.clone() };
    vec![
        ("append", append.encode()),
        ("append.heartbeat", heartbeat.encode()),
        ("append-reply.matched", AppendReply::Matched(Some(ID)).encode()),
        ("append-reply.matched-nothing", AppendReply::Matched(None).encode()),
        ("append-reply.conflict", AppendReply::Conflict(ID).encode()),
        ("append-reply.higher-vote", AppendReply::HigherVote(VOTE).encode()),
        ("request.vote", Request::Vote(ballot).encode()),
        ("request.pre-vote", Request::PreVote(Ballot { last: None, ..ballot }).encode()),
        ("request.transfer", Request::Transfer { from: VOTE, to: 2, last: Some(ID) }.encode()),
        ("request.forward", Request::Forward { hops_left: 1, command: bytes(b"command") }.encode()),
        ("request.read-index", Request::ReadIndex.encode()),
        ("request.members", Request::Members.encode()),
        ("request.service", Request::Service { kind: 1, body: bytes(b"body") }.encode()),
        ("response.vote", Response::Vote { vote: VOTE, granted: true, last: Some(ID) }.encode()),
        ("response.transfer.accepted", Response::Transfer(TransferReply::Accepted).encode()),
        (
            "response.transfer.vote-changed",
            Response::Transfer(TransferReply::VoteChanged { expected: VOTE, actual: VOTE })
                .encode(),
        ),
        (
            "response.transfer.log-not-flushed",
            Response::Transfer(TransferReply::LogNotFlushed { expected: Some(ID), actual: None })
                .encode(),
        ),
        ("response.committed", Response::Committed { index: 9, reply: bytes(b"reply") }.encode()),
        ("response.read-index", Response::ReadIndex { index: 9 }.encode()),
        (
            "response.members",
            Response::Members {
                log_index: 4,
                rows: vec![MemberRow { id: 1, voter: true, info: info() }],
            }
            .encode(),
        ),
        ("response.service", Response::Service { body: bytes(b"body") }.encode()),
        ("response.refused.no-leader", refused(Refusal::NoLeader)),
        ("response.refused.overloaded", refused(Refusal::Overloaded)),
        ("response.refused.too-large", refused(Refusal::TooLarge)),
        ("response.refused.unknown", refused(Refusal::Unknown)),
        ("response.refused.stopped", refused(Refusal::Stopped)),
        ("response.refused.forbidden", refused(Refusal::Forbidden)),
        ("response.refused.no-service", refused(Refusal::NoService)),
        ("response.refused.failed", refused(Refusal::Failed)),
        (
            "snapshot.header",
            SnapshotFrame::Header { vote: VOTE, manifest: bytes(b"manifest") }.encode(),
        ),
        ("snapshot.next", SnapshotFrame::Next(Some((2, 4096))).encode()),
        ("snapshot.next-nothing", SnapshotFrame::Next(None).encode()),
        (
            "snapshot.chunk",
            SnapshotFrame::Chunk { file: 2, offset: 4096, bytes: bytes(b"chunk") }.encode(),
        ),
        ("snapshot.done", SnapshotFrame::Done.encode()),
        ("snapshot.installed", SnapshotFrame::Installed(VOTE).encode()),
        (
            "snapshot.refused",
            SnapshotFrame::Refused { refusal: Refusal::Failed, text: "no".to_owned() }.encode(),
        ),
        ("record.command", Payload::Command(bytes(b"command")).encode_record()),
        ("record.blank", Payload::Blank.encode_record()),
        ("node-info", info().encode().into()),
    ]
}

/// Decodes by the name's first part and encodes again.
fn again(name: &str, bytes: Bytes) -> Result<Bytes, DecodeError> {
    match name.split('.').next().unwrap_or_default() {
        "append" => Append::decode(bytes).map(|message| message.encode()),
        "append-reply" => AppendReply::decode(bytes).map(|message| message.encode()),
        "request" => Request::decode(bytes).map(|message| message.encode()),
        "response" => Response::decode(bytes).map(|message| message.encode()),
        "snapshot" => SnapshotFrame::decode(bytes).map(|message| message.encode()),
        "record" => Payload::decode_record(bytes).map(|message| message.encode_record()),
        "node-info" => NodeInfo::decode(&bytes).map(|info| info.encode().into()),
        other => panic!("no decoder for {other}"),
    }
}

#[test]
fn version_1_has_the_golden_bytes() {
    let mut written = String::new();
    for (name, bytes) in samples() {
        write!(written, "{name} ").unwrap();
        bytes.iter().for_each(|byte| write!(written, "{byte:02x}").unwrap());
        writeln!(written).unwrap();
    }
    assert_eq!(written, GOLDEN, "bytes have changed; a released version never does:\n{written}");
}

#[test]
fn what_was_encoded_decodes_to_itself() {
    for (name, bytes) in samples() {
        assert_eq!(again(name, bytes.clone()).as_ref(), Ok(&bytes), "{name}");
    }
}

#[test]
fn newer_versions_cut_messages_and_trailing_bytes_are_refused() {
    for (name, bytes) in samples() {
        let mut newer = bytes.to_vec();
        newer[0] = 2;
        assert!(
            matches!(again(name, newer.into()), Err(DecodeError::Version { found: 2, .. })),
            "{name}"
        );
        for cut in 0..bytes.len() {
            assert!(again(name, bytes.slice(..cut)).is_err(), "{name} cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(again(name, longer.into()).is_err(), "{name} with a byte more");
    }
}

#[test]
fn a_lie_about_a_count_reserves_no_memory() {
    let mut bytes =
        Append { vote: VOTE, previous: None, commit: None, quorum_age_ms: 0, entries: Vec::new() }
            .encode()
            .to_vec();
    let length = bytes.len();
    bytes[length - 4..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(Append::decode(bytes.into()), Err(DecodeError::Bound { .. })));
}

#[test]
fn entries_with_a_gap_are_refused() {
    let mut append = Append {
        vote: VOTE,
        previous: Some(LogId { term: 1, index: 4 }),
        commit: None,
        quorum_age_ms: 0,
        entries: vec![Entry { id: LogId { term: 1, index: 5 }, payload: Payload::Blank }],
    };
    assert!(Append::decode(append.encode()).is_ok());
    append.entries.push(Entry { id: LogId { term: 1, index: 7 }, payload: Payload::Blank });
    assert!(matches!(Append::decode(append.encode()), Err(DecodeError::Inconsistent { .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for name in
            ["append", "append-reply", "request", "response", "snapshot", "record", "node-info"]
        {
            // Half of the time with a good version byte, to get further in.
            for version in [None, Some(1)] {
                let mut bytes = bytes.clone();
                if let (Some(version), Some(first)) = (version, bytes.first_mut()) {
                    *first = version;
                }
                if let Ok(encoded) = again(name, bytes.clone().into()) {
                    prop_assert_eq!(&encoded[..], &bytes[..], "{} has two encodings", name);
                }
            }
        }
    }

    #[test]
    fn damaged_messages_never_panic(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (name, bytes) in samples() {
            let mut bytes = bytes.to_vec();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            drop(again(name, bytes.into()));
        }
    }
}
