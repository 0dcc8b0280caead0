//! From the engine's types to bytes and to the peer messages, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Vote};

use crate::types::{
    EngineEntry, EngineLogId, EngineMembership, EngineStoredMembership, EngineVote, NodeInfo,
    Opaque, TypeConfig,
};
use crate::wire::codec::{Reader, Writer, len_u32};
use crate::wire::{DecodeError, latest as wire};

/// Version of the bytes made here: log ids, votes and memberships at rest.
const VERSION: u8 = 1;
/// Most voter sets in a membership (two, while a change is under way).
const CONFIGS_MAX: usize = 8;
/// Most members.
const NODES_MAX: usize = 4_096;

pub(crate) fn log_id(id: &EngineLogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn engine_log_id(id: wire::LogId) -> EngineLogId {
    EngineLogId::new(id.term.into(), id.index)
}

pub(crate) fn vote(vote: &EngineVote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn engine_vote(vote: wire::Vote) -> EngineVote {
    let mut engine = Vote::new(vote.term, vote.node);
    engine.committed = vote.committed;
    engine
}

pub(crate) fn entry(entry: &EngineEntry) -> wire::Entry {
    wire::Entry { id: log_id(&entry.log_id), payload: payload(entry) }
}

pub(crate) fn payload(entry: &EngineEntry) -> wire::Payload {
    match &entry.payload {
        EntryPayload::Blank => wire::Payload::Blank,
        EntryPayload::Normal(command) => wire::Payload::Command(command.0.clone()),
        EntryPayload::Membership(membership) => {
            wire::Payload::Membership(encode_membership(membership))
        }
    }
}

pub(crate) fn engine_entry(entry: wire::Entry) -> Result<EngineEntry, DecodeError> {
    let payload = match entry.payload {
        wire::Payload::Blank => EntryPayload::Blank,
        wire::Payload::Command(bytes) => EntryPayload::Normal(Opaque(bytes)),
        wire::Payload::Membership(bytes) => EntryPayload::Membership(decode_membership(&bytes)?),
    };
    Ok(EngineEntry::new(engine_log_id(entry.id), payload))
}

pub(crate) fn append(
    request: &AppendEntriesRequest<TypeConfig>,
    quorum_age_ms: u32,
) -> wire::Append {
    wire::Append {
        vote: vote(&request.vote),
        previous: request.prev_log_id.as_ref().map(log_id),
        commit: request.leader_commit.as_ref().map(log_id),
        quorum_age_ms,
        entries: request.entries.iter().map(entry).collect(),
    }
}

pub(crate) fn engine_append(
    append: wire::Append,
) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    Ok(AppendEntriesRequest {
        vote: engine_vote(append.vote),
        prev_log_id: append.previous.map(engine_log_id),
        leader_commit: append.commit.map(engine_log_id),
        entries: append.entries.into_iter().map(engine_entry).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn append_reply(result: &StreamAppendResult<TypeConfig>) -> wire::AppendReply {
    match result {
        Ok(matched) => wire::AppendReply::Matched(matched.as_ref().map(log_id)),
        Err(StreamAppendError::Conflict(id)) => wire::AppendReply::Conflict(log_id(id)),
        Err(StreamAppendError::HigherVote(higher)) => wire::AppendReply::HigherVote(vote(higher)),
    }
}

pub(crate) fn engine_append_reply(reply: wire::AppendReply) -> StreamAppendResult<TypeConfig> {
    match reply {
        wire::AppendReply::Matched(matched) => Ok(matched.map(engine_log_id)),
        wire::AppendReply::Conflict(id) => Err(StreamAppendError::Conflict(engine_log_id(id))),
        wire::AppendReply::HigherVote(vote) => {
            Err(StreamAppendError::HigherVote(engine_vote(vote)))
        }
    }
}

pub(crate) fn ballot(request: &VoteRequest<TypeConfig>) -> wire::Ballot {
    wire::Ballot {
        vote: vote(&request.vote),
        last: request.last_log_id.as_ref().map(log_id),
        transfer: request.leadership_transfer,
    }
}

pub(crate) fn engine_ballot(ballot: wire::Ballot) -> VoteRequest<TypeConfig> {
    let mut request = VoteRequest::new(engine_vote(ballot.vote), ballot.last.map(engine_log_id));
    request.leadership_transfer = ballot.transfer;
    request
}

pub(crate) fn vote_response(response: &VoteResponse<TypeConfig>) -> wire::Response {
    wire::Response::Vote {
        vote: vote(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id),
    }
}

pub(crate) fn transfer(request: &TransferLeaderRequest<TypeConfig>) -> wire::Request {
    wire::Request::Transfer {
        from: vote(request.from_leader()),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id),
    }
}

pub(crate) fn transfer_reply(
    result: &Result<(), TransferLeaderError<TypeConfig>>,
) -> wire::TransferReply {
    match result {
        Ok(()) => wire::TransferReply::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            wire::TransferReply::VoteChanged { expected: vote(expected), actual: vote(actual) }
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            wire::TransferReply::LogNotFlushed {
                expected: expected.as_ref().map(log_id),
                actual: actual.as_ref().map(log_id),
            }
        }
    }
}

pub(crate) fn engine_transfer_reply(
    reply: wire::TransferReply,
) -> Result<(), TransferLeaderError<TypeConfig>> {
    match reply {
        wire::TransferReply::Accepted => Ok(()),
        wire::TransferReply::VoteChanged { expected, actual } => {
            Err(TransferLeaderError::VoteChanged {
                expected: engine_vote(expected),
                actual: engine_vote(actual),
            })
        }
        wire::TransferReply::LogNotFlushed { expected, actual } => {
            Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(engine_log_id),
                actual: actual.map(engine_log_id),
            })
        }
    }
}

/// `version | term | index`
pub(crate) fn encode_log_id(id: &EngineLogId) -> Vec<u8> {
    let mut out = Writer::with_capacity(17);
    wire::put_log_id(out.u8(VERSION), &log_id(id));
    out.finish().to_vec()
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<EngineLogId, DecodeError> {
    let mut input = versioned(bytes, "log id")?;
    let id = wire::log_id(&mut input)?;
    input.finish()?;
    Ok(engine_log_id(id))
}

/// `version | term | node | committed`
pub(crate) fn encode_vote(engine: &EngineVote) -> Vec<u8> {
    let mut out = Writer::with_capacity(18);
    wire::put_vote(out.u8(VERSION), &vote(engine));
    out.finish().to_vec()
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<EngineVote, DecodeError> {
    let mut input = versioned(bytes, "vote")?;
    let vote = wire::vote(&mut input)?;
    input.finish()?;
    Ok(engine_vote(vote))
}

/// `version | list of voter sets (each a list of ids) | list of (id, node info)`
pub(crate) fn encode_membership(membership: &EngineMembership) -> Bytes {
    let mut out = Writer::default();
    out.u8(VERSION);
    put_membership(&mut out, membership);
    out.finish()
}

pub(crate) fn decode_membership(bytes: &Bytes) -> Result<EngineMembership, DecodeError> {
    let mut input = versioned(bytes, "membership")?;
    let membership = membership(&mut input)?;
    input.finish()?;
    Ok(membership)
}

/// `version | option of log id | membership`
pub(crate) fn encode_stored_membership(stored: &EngineStoredMembership) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION);
    out.option(stored.log_id().as_ref(), |out, id| wire::put_log_id(out, &log_id(id)));
    put_membership(&mut out, stored.membership());
    out.finish().to_vec()
}

pub(crate) fn decode_stored_membership(
    bytes: &[u8],
) -> Result<EngineStoredMembership, DecodeError> {
    if bytes.is_empty() {
        return Ok(EngineStoredMembership::default());
    }
    let mut input = versioned(bytes, "membership")?;
    let id = input.option(wire::log_id)?.map(engine_log_id);
    let membership = membership(&mut input)?;
    input.finish()?;
    Ok(EngineStoredMembership::new(id, membership))
}

fn put_membership(out: &mut Writer, membership: &EngineMembership) {
    let configs = membership.get_joint_config();
    out.u32(len_u32(configs.len()));
    for voters in configs {
        out.u32(len_u32(voters.len()));
        for id in voters {
            out.u64(*id);
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.u32(len_u32(nodes.len()));
    for (id, info) in nodes {
        out.u64(*id);
        info.write(out);
    }
}

fn membership(input: &mut Reader) -> Result<EngineMembership, DecodeError> {
    let mut configs = Vec::new();
    for _ in 0..input.count("voter sets", CONFIGS_MAX, 4)? {
        let mut voters = BTreeSet::new();
        for _ in 0..input.count("voters", NODES_MAX, 8)? {
            voters.insert(input.u64()?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..input.count("nodes", NODES_MAX, 8)? {
        let id = input.u64()?;
        nodes.insert(id, NodeInfo::read(input)?);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(EngineMembership::default());
    }
    EngineMembership::new(configs, nodes)
        .map_err(|_| DecodeError::Inconsistent { what: "membership" })
}

fn versioned(bytes: &[u8], what: &'static str) -> Result<Reader, DecodeError> {
    let mut input = Reader::new(Bytes::copy_from_slice(bytes));
    match input.u8()? {
        VERSION => Ok(input),
        found => Err(DecodeError::Version { what, found, known: VERSION }),
    }
}

/// A decoding error at rest is damage, and as fatal as any.
pub(crate) fn damaged(what: &str, error: &DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {error}"))
}

/// The term of a vote.
pub(crate) fn term(vote: &EngineVote) -> u64 {
    vote.leader_id.term()
}
