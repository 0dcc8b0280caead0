//! Version 1 of the peer messages. Bytes are fixed by the golden files in `tests/golden`.
//!
//! ```text
//! message  = version (u8 = 1) | tag (u8) | fields
//! log id   = term (u64) | index (u64)
//! vote     = term (u64) | node (u64) | committed (bool)
//! option   = 0 | 1 value          list = count (u32) items          bytes = length (u32) bytes
//! ```

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Writer, len_u32};
use crate::types::{NODE_INFO_BYTES_MIN, NodeInfo};

/// The version written by this module.
pub(crate) const VERSION: u8 = 1;
/// Most entries accepted in one append.
const ENTRIES_MAX: usize = 65_536;
/// Most members accepted in one list.
const MEMBERS_MAX: usize = 4_096;

/// A place in the log and the term that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// A vote, or once committed a leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

/// What a log entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Blank,
    Command(Bytes),
    Membership(Bytes),
}

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: LogId,
    pub(crate) payload: Payload,
}

/// Entries for a member to append; without entries a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Append {
    pub(crate) vote: Vote,
    pub(crate) previous: Option<LogId>,
    pub(crate) commit: Option<LogId>,
    /// Milliseconds since the leader last knew that a majority follows it. A member that is level
    /// with this leader is at most this much older than it looks.
    pub(crate) quorum_age_ms: u32,
    pub(crate) entries: Vec<Entry>,
}

/// The answer to one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendReply {
    Matched(Option<LogId>),
    Conflict(LogId),
    HigherVote(Vote),
}

/// A call for votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub(crate) vote: Vote,
    pub(crate) last: Option<LogId>,
    pub(crate) transfer: bool,
}

/// A question that has one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Vote(Ballot),
    PreVote(Ballot),
    Transfer { from: Vote, to: u64, last: Option<LogId> },
    Forward { hops_left: u8, command: Bytes },
    ReadIndex,
    Members,
    Service { kind: u8, body: Bytes },
}

/// Why a question got no answer. None of these has changed anything, except [`Refusal::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// This node is not the leader and knows no better one.
    NoLeader,
    /// Too many bytes in flight.
    Overloaded,
    /// The command is longer than allowed.
    TooLarge,
    /// It may have happened or may yet.
    Unknown,
    /// The node is stopping or has failed.
    Stopped,
    /// The caller may not ask this.
    Forbidden,
    /// There is nobody here who answers this kind of call.
    NoService,
    /// The service itself said no.
    Failed,
}

impl Refusal {
    const ALL: [Self; 8] = [
        Self::NoLeader,
        Self::Overloaded,
        Self::TooLarge,
        Self::Unknown,
        Self::Stopped,
        Self::Forbidden,
        Self::NoService,
        Self::Failed,
    ];

    fn tag(self) -> u8 {
        match self {
            Self::NoLeader => 1,
            Self::Overloaded => 2,
            Self::TooLarge => 3,
            Self::Unknown => 4,
            Self::Stopped => 5,
            Self::Forbidden => 6,
            Self::NoService => 7,
            Self::Failed => 8,
        }
    }
}

/// How a request to take over leadership was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferReply {
    Accepted,
    VoteChanged { expected: Vote, actual: Vote },
    LogNotFlushed { expected: Option<LogId>, actual: Option<LogId> },
}

/// One row of a member list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRow {
    pub(crate) id: u64,
    pub(crate) voter: bool,
    pub(crate) info: NodeInfo,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Response {
    Vote { vote: Vote, granted: bool, last: Option<LogId> },
    Transfer(TransferReply),
    Committed { index: u64, reply: Bytes },
    ReadIndex { index: u64 },
    Members { log_index: u64, rows: Vec<MemberRow> },
    Service { body: Bytes },
    Refused { refusal: Refusal, text: String },
}

/// What travels on a snapshot stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotFrame {
    /// Sender: what is coming, as storage's manifest describes it.
    Header { vote: Vote, manifest: Bytes },
    /// Receiver: file and offset from which it wants bytes; none when it has them all.
    Next(Option<(u32, u64)>),
    /// Sender: bytes of one file.
    Chunk { file: u32, offset: u64, bytes: Bytes },
    /// Sender: that was all.
    Done,
    /// Receiver: installed, or refused for a higher vote, which is this one.
    Installed(Vote),
    /// Receiver: not installed.
    Refused { refusal: Refusal, text: String },
}

impl Append {
    pub(crate) fn encode(&self) -> Bytes {
        let size: usize = self.entries.iter().map(|entry| 24 + entry.payload.len()).sum();
        let mut out = Writer::with_capacity(size + 80);
        out.u8(VERSION);
        put_vote(&mut out, &self.vote);
        out.option(self.previous.as_ref(), put_log_id);
        out.option(self.commit.as_ref(), put_log_id);
        out.u32(self.quorum_age_ms);
        out.u32(len_u32(self.entries.len()));
        for entry in &self.entries {
            put_log_id(&mut out, &entry.id);
            put_payload(&mut out, &entry.payload);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let vote = vote(&mut input)?;
        let previous = input.option(log_id)?;
        let commit = input.option(log_id)?;
        let quorum_age_ms = input.u32()?;
        let count = input.count("entries", ENTRIES_MAX, 17)?;
        let mut entries = Vec::with_capacity(count);
        // The consensus engine takes for granted that entries follow each other without a gap.
        let mut next = previous.map_or(0, |id| id.index.saturating_add(1));
        for _ in 0..count {
            let id = log_id(&mut input)?;
            if id.index != next {
                return Err(DecodeError::Inconsistent { what: "order of entries" });
            }
            next = next.saturating_add(1);
            entries.push(Entry { id, payload: payload(&mut input)? });
        }
        input.finish()?;
        Ok(Self { vote, previous, commit, quorum_age_ms, entries })
    }
}

impl AppendReply {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(24);
        out.u8(VERSION);
        match self {
            Self::Matched(id) => out.u8(1).option(id.as_ref(), put_log_id),
            Self::Conflict(id) => {
                put_log_id(out.u8(2), id);
                &mut out
            }
            Self::HigherVote(vote) => {
                put_vote(out.u8(3), vote);
                &mut out
            }
        };
        out.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let reply = match input.u8()? {
            1 => Self::Matched(input.option(log_id)?),
            2 => Self::Conflict(log_id(&mut input)?),
            3 => Self::HigherVote(vote(&mut input)?),
            tag => return Err(DecodeError::Tag { what: "append reply", tag }),
        };
        input.finish()?;
        Ok(reply)
    }
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(64);
        out.u8(VERSION);
        match self {
            Self::Vote(ballot) => put_ballot(out.u8(1), ballot),
            Self::PreVote(ballot) => put_ballot(out.u8(2), ballot),
            Self::Transfer { from, to, last } => {
                put_vote(out.u8(3), from);
                out.u64(*to).option(last.as_ref(), put_log_id);
            }
            Self::Forward { hops_left, command } => {
                out.u8(4).u8(*hops_left).bytes(command);
            }
            Self::ReadIndex => {
                out.u8(5);
            }
            Self::Members => {
                out.u8(6);
            }
            Self::Service { kind, body } => {
                out.u8(7).u8(*kind).bytes(body);
            }
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let request = match input.u8()? {
            1 => Self::Vote(ballot(&mut input)?),
            2 => Self::PreVote(ballot(&mut input)?),
            3 => Self::Transfer {
                from: vote(&mut input)?,
                to: input.u64()?,
                last: input.option(log_id)?,
            },
            4 => Self::Forward { hops_left: input.u8()?, command: input.bytes()? },
            5 => Self::ReadIndex,
            6 => Self::Members,
            7 => Self::Service { kind: input.u8()?, body: input.bytes()? },
            tag => return Err(DecodeError::Tag { what: "request", tag }),
        };
        input.finish()?;
        Ok(request)
    }
}

impl Response {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(64);
        out.u8(VERSION);
        match self {
            Self::Vote { vote, granted, last } => {
                put_vote(out.u8(1), vote);
                out.bool(*granted).option(last.as_ref(), put_log_id);
            }
            Self::Transfer(TransferReply::Accepted) => {
                out.u8(2).u8(0);
            }
            Self::Transfer(TransferReply::VoteChanged { expected, actual }) => {
                put_vote(out.u8(2).u8(1), expected);
                put_vote(&mut out, actual);
            }
            Self::Transfer(TransferReply::LogNotFlushed { expected, actual }) => {
                out.u8(2).u8(2).option(expected.as_ref(), put_log_id);
                out.option(actual.as_ref(), put_log_id);
            }
            Self::Committed { index, reply } => {
                out.u8(3).u64(*index).bytes(reply);
            }
            Self::ReadIndex { index } => {
                out.u8(4).u64(*index);
            }
            Self::Members { log_index, rows } => {
                out.u8(5).u64(*log_index).u32(len_u32(rows.len()));
                for row in rows {
                    out.u64(row.id).bool(row.voter);
                    row.info.write(&mut out);
                }
            }
            Self::Service { body } => {
                out.u8(6).bytes(body);
            }
            Self::Refused { refusal, text } => {
                out.u8(7).u8(refusal.tag()).text(text);
            }
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let response = match input.u8()? {
            1 => Self::Vote {
                vote: vote(&mut input)?,
                granted: input.bool()?,
                last: input.option(log_id)?,
            },
            2 => Self::Transfer(match input.u8()? {
                0 => TransferReply::Accepted,
                1 => TransferReply::VoteChanged {
                    expected: vote(&mut input)?,
                    actual: vote(&mut input)?,
                },
                2 => TransferReply::LogNotFlushed {
                    expected: input.option(log_id)?,
                    actual: input.option(log_id)?,
                },
                tag => return Err(DecodeError::Tag { what: "transfer reply", tag }),
            }),
            3 => Self::Committed { index: input.u64()?, reply: input.bytes()? },
            4 => Self::ReadIndex { index: input.u64()? },
            5 => {
                let log_index = input.u64()?;
                let count = input.count("members", MEMBERS_MAX, 9 + NODE_INFO_BYTES_MIN)?;
                let mut rows = Vec::with_capacity(count);
                for _ in 0..count {
                    rows.push(MemberRow {
                        id: input.u64()?,
                        voter: input.bool()?,
                        info: NodeInfo::read(&mut input)?,
                    });
                }
                Self::Members { log_index, rows }
            }
            6 => Self::Service { body: input.bytes()? },
            7 => Self::Refused { refusal: refusal(&mut input)?, text: input.text()? },
            tag => return Err(DecodeError::Tag { what: "response", tag }),
        };
        input.finish()?;
        Ok(response)
    }
}

impl Response {
    /// The body of a service's answer, or why there is none.
    pub(crate) fn into_service(self) -> Result<Vec<u8>, String> {
        if let Self::Service { body } = self {
            Ok(body.to_vec())
        } else if let Self::Refused { text, .. } = self {
            Err(text)
        } else {
            Err("the answer was to another question".to_owned())
        }
    }
}

impl SnapshotFrame {
    pub(crate) fn encode(&self) -> Bytes {
        let size = if let Self::Chunk { bytes, .. } = self { bytes.len() + 24 } else { 256 };
        let mut out = Writer::with_capacity(size);
        out.u8(VERSION);
        match self {
            Self::Header { vote, manifest } => {
                put_vote(out.u8(1), vote);
                out.bytes(manifest);
            }
            Self::Next(next) => {
                out.u8(2).option(next.as_ref(), |out, (file, offset)| {
                    out.u32(*file).u64(*offset);
                });
            }
            Self::Chunk { file, offset, bytes } => {
                out.u8(3).u32(*file).u64(*offset).bytes(bytes);
            }
            Self::Done => {
                out.u8(4);
            }
            Self::Installed(vote) => put_vote(out.u8(5), vote),
            Self::Refused { refusal, text } => {
                out.u8(6).u8(refusal.tag()).text(text);
            }
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let frame = match input.u8()? {
            1 => Self::Header { vote: vote(&mut input)?, manifest: input.bytes()? },
            2 => Self::Next(input.option(|input| Ok((input.u32()?, input.u64()?)))?),
            3 => Self::Chunk { file: input.u32()?, offset: input.u64()?, bytes: input.bytes()? },
            4 => Self::Done,
            5 => Self::Installed(vote(&mut input)?),
            6 => Self::Refused { refusal: refusal(&mut input)?, text: input.text()? },
            tag => return Err(DecodeError::Tag { what: "snapshot frame", tag }),
        };
        input.finish()?;
        Ok(frame)
    }
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::Blank => 1,
            Self::Command(bytes) | Self::Membership(bytes) => bytes.len() + 5,
        }
    }

    /// The payload alone, as a log record keeps it.
    pub(crate) fn encode_record(&self) -> Bytes {
        let mut out = Writer::with_capacity(self.len() + 1);
        put_payload(out.u8(VERSION), self);
        out.finish()
    }

    /// Reads what [`Payload::encode_record`] wrote.
    pub(crate) fn decode_record(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let payload = payload(&mut input)?;
        input.finish()?;
        Ok(payload)
    }
}

fn version(input: &mut Reader) -> Result<(), DecodeError> {
    match input.u8()? {
        VERSION => Ok(()),
        found => Err(DecodeError::Version { what: "peer message", found, known: VERSION }),
    }
}

pub(crate) fn put_log_id(out: &mut Writer, id: &LogId) {
    out.u64(id.term).u64(id.index);
}

pub(crate) fn log_id(input: &mut Reader) -> Result<LogId, DecodeError> {
    Ok(LogId { term: input.u64()?, index: input.u64()? })
}

pub(crate) fn put_vote(out: &mut Writer, vote: &Vote) {
    out.u64(vote.term).u64(vote.node).bool(vote.committed);
}

pub(crate) fn vote(input: &mut Reader) -> Result<Vote, DecodeError> {
    Ok(Vote { term: input.u64()?, node: input.u64()?, committed: input.bool()? })
}

fn put_ballot(out: &mut Writer, ballot: &Ballot) {
    put_vote(out, &ballot.vote);
    out.option(ballot.last.as_ref(), put_log_id).bool(ballot.transfer);
}

fn ballot(input: &mut Reader) -> Result<Ballot, DecodeError> {
    Ok(Ballot { vote: vote(input)?, last: input.option(log_id)?, transfer: input.bool()? })
}

fn put_payload(out: &mut Writer, payload: &Payload) {
    match payload {
        Payload::Blank => out.u8(0),
        Payload::Command(bytes) => out.u8(1).bytes(bytes),
        Payload::Membership(bytes) => out.u8(2).bytes(bytes),
    };
}

fn payload(input: &mut Reader) -> Result<Payload, DecodeError> {
    match input.u8()? {
        0 => Ok(Payload::Blank),
        1 => Ok(Payload::Command(input.bytes()?)),
        2 => Ok(Payload::Membership(input.bytes()?)),
        tag => Err(DecodeError::Tag { what: "payload", tag }),
    }
}

fn refusal(input: &mut Reader) -> Result<Refusal, DecodeError> {
    let tag = input.u8()?;
    Refusal::ALL
        .into_iter()
        .find(|refusal| refusal.tag() == tag)
        .ok_or(DecodeError::Tag { what: "refusal", tag })
}
