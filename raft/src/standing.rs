//! What a node shows of its disk, and what it thinks of what others show: an old copy of a disk
//! must not vote. The judgement is storage's; here are only the bytes in between.

use bytes::Bytes;
use conclave_storage::marker::{Progress, Standing, StorageId, Verdict};
use conclave_storage::{Fault, LogStore};

use crate::adapter::convert;
use crate::transport::Unfit;
use crate::types::{EngineLogId, place};
use crate::wire::DecodeError;
use crate::wire::codec::{Reader, Writer};

const VERSION: u8 = 1;

/// What this node shows, as of the moment its log was opened.
pub(crate) fn of(log: &LogStore) -> Result<Bytes, DecodeError> {
    let vote_term = match log.vote() {
        Some(bytes) => convert::term(&convert::decode_vote(&bytes)?),
        None => 0,
    };
    let last = log.last().map(|(_, id)| convert::decode_log_id(&id)).transpose()?;
    let standing = Standing {
        storage: log.storage_id(),
        generation: log.generation(),
        progress: progress(vote_term, last),
    };
    let mut out = Writer::with_capacity(64);
    let Progress { vote_term, last_term, last_index } = standing.progress;
    out.u8(VERSION).raw(&standing.storage.0).u64(standing.generation);
    out.u64(vote_term).u64(last_term).u64(last_index);
    Ok(out.finish())
}

pub(crate) fn progress(vote_term: u64, last: Option<EngineLogId>) -> Progress {
    Progress {
        vote_term,
        last_term: last.map_or(0, |id| convert::log_id(&id).term),
        last_index: last.map_or(0, |id| place(id.index)),
    }
}

fn decode(bytes: Bytes) -> Result<Standing, DecodeError> {
    let mut input = Reader::new(bytes);
    match input.u8()? {
        VERSION => {}
        found => return Err(DecodeError::Version { what: "standing", found, known: VERSION }),
    }
    let storage = StorageId(input.array()?);
    let generation = input.u64()?;
    let progress =
        Progress { vote_term: input.u64()?, last_term: input.u64()?, last_index: input.u64()? };
    input.finish()?;
    Ok(Standing { storage, generation, progress })
}

/// Judges what a peer shows, and remembers it. May wait for the disk.
///
/// # Errors
/// When this node's own log has failed; the node must then end.
pub(crate) fn judge(log: &LogStore, id: u64, shown: &Bytes) -> Result<Result<(), Unfit>, Fault> {
    let shown = match decode(shown.clone()) {
        Ok(shown) => shown,
        Err(error) => return Ok(Err(Unfit::Unjudged(error.to_string()))),
    };
    Ok(match log.meet_peer(id, shown)? {
        Verdict::Current => Ok(()),
        Verdict::OldDisk { .. } => Err(Unfit::Disk(format!(
            "node {id} came back with an older disk than it had; remove it from the cluster, empty \
             its data folder and join it again"
        ))),
        Verdict::OtherStorage { .. } => Err(Unfit::Disk(format!(
            "another data folder uses the id of node {id}; remove it from the cluster, empty its \
             data folder and join it again"
        ))),
    })
}
