//! The engine's state machine over [`StateStore`]: many entries at a time, one batch for all of
//! them, replies after the batch.

use std::io;
use std::sync::Arc;

use conclave_storage::{Entry, EntryKind, StateStore};
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::convert::{self, damaged};
use super::snapshot::{EngineSnapshot, SnapshotFolder, describe};
use super::{FaultHook, Flusher, fatal};
use crate::runtime::blocking;
use crate::types::{
    EngineEntry, EngineLogId, EngineSnapshotMeta, EngineStoredMembership, Opaque, TypeConfig, place,
};

/// Most entries in one batch.
const BATCH_ENTRIES_MAX: usize = 512;
/// A batch is closed when it holds this many bytes.
const BATCH_BYTES_TARGET: usize = 1024 * 1024;
/// Batches up to this size are applied in place: handing them to another thread would cost more.
const IN_PLACE: (usize, usize) = (32, 64 * 1024);

/// Index of the last entry applied, counted from 1, for everybody who waits for one.
#[cfg(not(feature = "simulation"))]
pub(crate) type Applied = tokio::sync::watch::Sender<u64>;
/// Index of the last entry applied; waiters are woken in order.
#[cfg(feature = "simulation")]
pub(crate) type Applied = crate::watch::Sender<u64>;

/// The state machine of one node.
pub(crate) struct StateMachine {
    store: StateStore,
    applied: Arc<Applied>,
    flusher: Flusher,
    hook: FaultHook,
}

impl StateMachine {
    pub(crate) fn new(
        store: StateStore,
        applied: Arc<Applied>,
        flusher: Flusher,
        hook: FaultHook,
    ) -> Self {
        applied.send_replace(store.applied_index());
        Self { store, applied, flusher, hook }
    }

    async fn apply_batch(&self, batch: Vec<Entry>) -> Result<Vec<Vec<u8>>, io::Error> {
        let Some(last) = batch.last().map(|entry| entry.index) else { return Ok(Vec::new()) };
        self.flusher.wait_synced(last).await;
        let bytes: usize = batch.iter().map(entry_bytes).sum();
        let result = if batch.len() <= IN_PLACE.0 && bytes <= IN_PLACE.1 {
            self.store.apply(&batch)
        } else {
            let store = self.store.clone();
            blocking(move || store.apply(&batch)).await?
        };
        let replies = result.map_err(|fault| fatal(&self.hook, fault))?;
        self.applied.send_replace(last);
        Ok(replies)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.kind {
        EntryKind::Command(bytes) | EntryKind::Membership(bytes) => bytes.len(),
        EntryKind::Blank => 0,
    }
}

/// An entry as the state takes it.
pub(crate) fn storage_entry(entry: &EngineEntry) -> Entry {
    let kind = match &entry.payload {
        EntryPayload::Blank => EntryKind::Blank,
        EntryPayload::Normal(command) => EntryKind::Command(command.0.clone()),
        EntryPayload::Membership(membership) => {
            let stored = EngineStoredMembership::new(Some(entry.log_id), membership.clone());
            EntryKind::Membership(convert::encode_stored_membership(&stored).into())
        }
    };
    Entry {
        index: place(entry.log_id.index),
        log_id: convert::encode_log_id(&entry.log_id).into(),
        kind,
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFolder;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<EngineLogId>, EngineStoredMembership), io::Error> {
        let Some(mark) = self.store.applied() else {
            return Ok((None, EngineStoredMembership::default()));
        };
        let decode = || {
            let id = convert::decode_log_id(&mark.log_id)?;
            Ok((Some(id), convert::decode_stored_membership(&mark.membership)?))
        };
        decode().map_err(|error| fatal(&self.hook, damaged("applied mark", &error)))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut is_done = false;
        while !is_done {
            let (mut batch, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
            while batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_TARGET {
                let Some(item) = entries.next().await else {
                    is_done = true;
                    break;
                };
                let (entry, responder) = item?;
                let entry = storage_entry(&entry);
                bytes += entry_bytes(&entry);
                batch.push(entry);
                responders.push(responder);
            }
            let replies = self.apply_batch(batch).await?;
            for (reply, responder) in replies.into_iter().zip(responders) {
                if let Some(responder) = responder {
                    responder.send(Opaque(reply.into()));
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), hook: Arc::clone(&self.hook) }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &EngineSnapshotMeta,
        snapshot: SnapshotFolder,
    ) -> Result<(), io::Error> {
        let (store, files) = (self.store.clone(), snapshot.0);
        let index = files.mark().index;
        blocking(move || store.snapshot_install(&files))
            .await?
            .map_err(|fault| fatal(&self.hook, fault))?;
        self.applied.send_replace(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<EngineSnapshot>, io::Error> {
        self.store
            .current_snapshot()
            .map(|files| {
                describe(files).map_err(|error| fatal(&self.hook, damaged("snapshot", &error)))
            })
            .transpose()
    }
}

/// Builds one snapshot. What it holds is told by itself afterwards: applying goes on meanwhile.
pub(crate) struct Builder {
    store: StateStore,
    hook: FaultHook,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFolder;

    async fn build_snapshot(&mut self) -> Result<EngineSnapshot, io::Error> {
        let store = self.store.clone();
        let files = blocking(move || store.snapshot_build())
            .await?
            .map_err(|fault| fatal(&self.hook, fault))?;
        describe(files).map_err(|error| fatal(&self.hook, damaged("snapshot", &error)))
    }
}
