//! Founding anew: a log and a state become the beginning of another cluster, of which one node is all
//! there is. For a state from a backup, and for a survivor of a lost majority.
//!
//! ```text
//! state ─ entries of the log that it lacks ─▶ all that this disk has
//!       ─ mark: a later place, a later term, membership [me] ─▶ snapshot ─▶ the log is empty up to there
//! ```
//!
//! Places leap ahead, so that no place, and with it no node id, means two things: clients may remember
//! places that this disk never heard of, and the old cluster may still give out some.

use std::collections::{BTreeMap, BTreeSet};

use conclave_storage::{AppliedMark, LogStore, StateStore};

use crate::adapter::{convert, storage_entry};
use crate::error::Fault;
use crate::types::{EngineLogId, EngineMembership, EngineStoredMembership, NodeInfo};
use crate::wire::{DecodeError, latest as wire};

/// How far places leap.
pub const LEAP: u64 = 1_000_000_000;
/// Bytes of entries applied at a time.
const BATCH_BYTES: usize = 4 << 20;

/// Makes a node all there is of a cluster, and answers its id: the one given, or without one the place
/// that the log leaps to. Entries of the log that the state lacks are applied, whether a majority had
/// them or not. Everything is on the disk on return; cut off in between, it can be done again.
///
/// # Errors
/// [`Fault`] when log and state do not belong together, or as the disk gives.
pub fn refound(
    log: &LogStore,
    state: &StateStore,
    id: Option<u64>,
    me: NodeInfo,
) -> Result<u64, Fault> {
    let applied = state.applied();
    log.check_reaches(applied.as_ref().map(|mark| mark.index))?;
    let marked = applied.as_ref().map(|mark| engine_id(&mark.log_id)).transpose()?;
    let last = log.last().map(|(_, bytes)| engine_id(&bytes)).transpose()?;
    // Behind what is applied by term, the log's tail has been cut off by a majority, and lost that.
    if last > marked {
        apply_rest(log, state)?;
    }
    let Some(mark) = state.applied() else {
        return Err(Fault::Order("this disk holds nothing that could be founded anew".to_owned()));
    };
    let voted = log
        .vote()
        .map(|bytes| convert::decode_vote(&bytes).map_err(|error| damaged(&error)))
        .transpose()?;
    let ids = [marked, last].into_iter().flatten();
    let terms = ids.map(|id| convert::log_id(&id).term);
    let term = terms.chain(voted.iter().map(convert::term)).max().unwrap_or(0) + 1;
    let place = mark.index.max(log.last().map_or(0, |(index, _)| index)) + LEAP;
    let id = id.unwrap_or(place);

    let log_id = convert::engine_log_id(wire::LogId { term, index: place - 1 });
    let members = EngineMembership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, me)]))
        .map_err(|error| Fault::Order(error.to_string()))?;
    let stored = EngineStoredMembership::new(Some(log_id), members);
    let vote = convert::engine_vote(wire::Vote { term, node: id, committed: false });
    let log_id = convert::encode_log_id(&log_id);
    log.save_vote(&convert::encode_vote(&vote))?;
    for other in peers(&mark)?.into_iter().filter(|other| *other != id) {
        log.forget_peer(other)?;
    }
    state.move_mark(AppliedMark {
        index: place,
        log_id: log_id.clone().into(),
        membership: convert::encode_stored_membership(&stored).into(),
    })?;
    drop(state.snapshot_build()?);
    log.save_committed(&log_id)?;
    log.purge_upto(place, &log_id)?;
    log.sync()?;
    Ok(id)
}

/// Applies what the log has beyond the state.
fn apply_rest(log: &LogStore, state: &StateStore) -> Result<(), Fault> {
    let end = log.last().map_or(0, |(index, _)| index) + 1;
    loop {
        let records = log.read(state.applied_index() + 1..end, BATCH_BYTES)?;
        if records.is_empty() {
            return Ok(());
        }
        let entries = records.into_iter().map(|record| {
            let id = engine_id(&record.log_id)?;
            let payload =
                wire::Payload::decode_record(record.payload).map_err(|error| damaged(&error))?;
            let entry = wire::Entry { id: convert::log_id(&id), payload };
            Ok(storage_entry(&convert::engine_entry(entry).map_err(|error| damaged(&error))?))
        });
        state.apply(&entries.collect::<Result<Vec<_>, Fault>>()?)?;
    }
}

/// The members as of a mark.
fn peers(mark: &AppliedMark) -> Result<Vec<u64>, Fault> {
    let stored =
        convert::decode_stored_membership(&mark.membership).map_err(|error| damaged(&error))?;
    Ok(stored.membership().nodes().map(|(id, _)| *id).collect())
}

fn engine_id(bytes: &[u8]) -> Result<EngineLogId, Fault> {
    convert::decode_log_id(bytes).map_err(|error| damaged(&error))
}

fn damaged(error: &DecodeError) -> Fault {
    Fault::corrupt("the log at rest", error.to_string())
}
