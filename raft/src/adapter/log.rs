//! The engine's log over [`LogStore`].
//!
//! The engine counts entries from 0, storage and everybody outside this crate from 1; the shift is
//! made here and in [`crate::types::place`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use conclave_storage::{LogStore, Record};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::convert::{self, damaged};
use super::{FaultHook, Flusher, fatal};
use crate::runtime::blocking;
use crate::types::{EngineEntry, EngineLogId, EngineVote, TypeConfig, place};
use crate::wire::APPEND_BYTES_TARGET;
use crate::wire::latest as wire;

/// One handle on the log; clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    store: Arc<LogStore>,
    flusher: Flusher,
    hook: FaultHook,
    /// What the engine's entry 0 is called outside.
    first: u64,
}

impl Log {
    pub(crate) fn new(store: Arc<LogStore>, flusher: Flusher, hook: FaultHook) -> Self {
        Self { store, flusher, hook, first: place(0) }
    }

    /// A log that counts as the engine does: its own test suite leaves out entry 0 now and then.
    #[cfg(test)]
    pub(crate) fn counting_from_0(self) -> Self {
        Self { first: 0, ..self }
    }

    fn place(&self, engine_index: u64) -> u64 {
        engine_index.saturating_add(self.first)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<EngineEntry>> {
        self.store
            .read(range, bytes_max)
            .map_err(|fault| fatal(&self.hook, fault))?
            .into_iter()
            .map(|record| self.entry(record))
            .collect()
    }

    fn entry(&self, record: Record) -> io::Result<EngineEntry> {
        let decode = || {
            let id = convert::decode_log_id(&record.log_id)?;
            let payload = wire::Payload::decode_record(record.payload)?;
            convert::engine_entry(wire::Entry { id: convert::log_id(&id), payload })
        };
        decode().map_err(|error| fatal(&self.hook, damaged("log entry", &error)))
    }

    fn log_id(&self, bytes: &[u8]) -> io::Result<EngineLogId> {
        convert::decode_log_id(bytes).map_err(|error| fatal(&self.hook, damaged("log id", &error)))
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EngineEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(&index) => self.place(index),
            Bound::Excluded(&index) => self.place(index).saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => self.place(index).saturating_add(1),
            Bound::Excluded(&index) => self.place(index),
            Bound::Unbounded => u64::MAX,
        };
        self.read(start..end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<EngineVote>, io::Error> {
        let decode = |bytes: bytes::Bytes| {
            convert::decode_vote(&bytes).map_err(|error| fatal(&self.hook, damaged("vote", &error)))
        };
        self.store.vote().map(decode).transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EngineEntry>, io::Error> {
        self.read(self.place(start)..self.place(end), APPEND_BYTES_TARGET)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id =
            self.store.last_purged().map(|(_, id)| self.log_id(&id)).transpose()?;
        let last_log_id = self.store.last().map(|(_, id)| self.log_id(&id)).transpose()?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &EngineVote) -> Result<(), io::Error> {
        let (store, bytes) = (Arc::clone(&self.store), convert::encode_vote(vote));
        blocking(move || store.save_vote(&bytes)).await?.map_err(|fault| fatal(&self.hook, fault))
    }

    async fn save_committed(&mut self, committed: Option<EngineLogId>) -> Result<(), io::Error> {
        match committed {
            Some(id) => self
                .store
                .save_committed(&convert::encode_log_id(&id))
                .map_err(|fault| fatal(&self.hook, fault)),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<EngineLogId>, io::Error> {
        let saved = self.store.read_committed().map_err(|fault| fatal(&self.hook, fault))?;
        let Some(bytes) = saved else { return Ok(None) };
        let committed = self.log_id(&bytes)?;
        // The mark is only a hint, and after a power cut it may name an entry that went with it.
        // What is left is then committed too if the same leader wrote it, else nobody knows.
        let last = self.store.last().map(|(_, id)| self.log_id(&id)).transpose()?;
        let is_known = |last: &EngineLogId| {
            committed <= *last || convert::log_id(&committed).term == convert::log_id(last).term
        };
        Ok(last.filter(is_known).map(|last| committed.min(last)))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EngineEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<Record> = entries
            .into_iter()
            .map(|entry| Record {
                index: self.place(entry.log_id.index),
                log_id: convert::encode_log_id(&entry.log_id).into(),
                payload: convert::payload(&entry).encode_record(),
            })
            .collect();
        self.store.append(&records).map_err(|fault| fatal(&self.hook, fault))?;
        self.flusher.push(callback)
    }

    async fn truncate_after(&mut self, last: Option<EngineLogId>) -> Result<(), io::Error> {
        let (store, last) = (Arc::clone(&self.store), last.map(|id| self.place(id.index)));
        blocking(move || store.truncate_after(last))
            .await?
            .map_err(|fault| fatal(&self.hook, fault))?;
        self.flusher.truncated(last.unwrap_or(0));
        Ok(())
    }

    async fn purge(&mut self, upto: EngineLogId) -> Result<(), io::Error> {
        let (store, id) = (Arc::clone(&self.store), convert::encode_log_id(&upto));
        let place = self.place(upto.index);
        blocking(move || store.purge_upto(place, &id))
            .await?
            .map_err(|fault| fatal(&self.hook, fault))
    }
}
