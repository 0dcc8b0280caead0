//! The log: vote and entries, in one database whose write-ahead log is synced before anything is
//! acknowledged. Entries are opaque here; raft knows what is in them.
//!
//! ```text
//! append ──▶ readable ──▶ sync (one for all who wait) ──▶ durable ──▶ purge
//!                └── truncate_after (a newer leader knows better)
//! ```
//!
//! Each record carries a checksum over itself and its index, and the digest of the record before it,
//! so that damage, a gap, or a record from another history is found at open.
//!
//! Invariant: records lie gapless from `last_purged + 1` (in a new log from 0 or 1) to `last`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use crate::bytes_io::{Reader, checked, len_u32, put_bytes, put_checksum};
use crate::datadir::Datadir;
use crate::engine::{Batch, Counters, Durability, Engine, Profile};
use crate::error::Fault;
use crate::failpoint::{FailPoints, SeededBug};
use crate::marker::{Held, Marker, Progress, Standing, StorageId, Verdict, opens};

/// Most bytes of recent entries kept in memory, so that replication does not read the disk.
pub const CACHE_BYTES_MAX: usize = 64 << 20;

const VERSION: u8 = 1;

// Keys of the log database. All values end with a CRC-32C.
// b"\x01"                   vote:      version | votes saved (u64) | vote
const VOTE: &[u8] = &[0x01];
// b"\x02"                   purge:     version | index (u64) | digest (16) | log id
const PURGE: &[u8] = &[0x02];
// b"\x03"                   committed: version | log id
const COMMITTED: &[u8] = &[0x03];
// b"\x04" | node id (u64)   what is remembered of a peer: see marker::Standing
const PEER: u8 = 0x04;
const PEERS_END: &[u8] = &[0x05];
// b"\x10" | index (u64)     record:    version | crc32c of index and what follows | digest of the
//                                      previous record (16) | log id (u32 length) | payload
const RECORD: u8 = 0x10;
const RECORDS_END: &[u8] = &[0x11];

/// First bytes of the SHA-256 of a stored record.
type Digest = [u8; 16];

/// One entry of the log. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub index: u64,
    /// Raft's id of the entry, opaque here.
    pub log_id: Bytes,
    /// The entry, opaque here.
    pub payload: Bytes,
}

impl Record {
    fn bytes(&self) -> usize {
        self.log_id.len() + self.payload.len()
    }
}

/// What was found when the log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecovery {
    /// Identifies the data folder.
    pub storage: StorageId,
    /// How often it has been opened, this time included.
    pub opens: u64,
    /// Index and log id of the last entry (or of the last purged one).
    pub last: Option<(u64, Bytes)>,
    /// Entries held.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The log of one node. Clones share it.
#[derive(Clone)]
pub struct LogStore(Arc<Inner>);

struct Inner {
    engine: Arc<dyn Engine>,
    datadir: Datadir,
    storage: StorageId,
    generation: u64,
    tail: Mutex<Tail>,
    marker: Mutex<Marker>,
    peers: Mutex<BTreeMap<u64, Peer>>,
    /// Set by the first failure that leaves memory and disk apart.
    stopped: AtomicBool,
    /// For [`SeededBug::AckBeforeFlush`] only.
    flush_owed: AtomicBool,
}

struct Peer {
    remembered: Standing,
    saved: Standing,
}

/// What memory knows of the log.
struct Tail {
    vote: Option<Bytes>,
    votes: u64,
    purged: Option<(u64, Bytes)>,
    last: u64,
    last_log_id: Option<Bytes>,
    last_digest: Digest,
    /// The newest records, contiguous, ending at `last`.
    cache: VecDeque<Record>,
    cache_bytes: usize,
    /// Moves with every truncation, so that a sync under way does not vouch for what was cut off.
    cuts: u64,
}

impl LogStore {
    /// Opens the log of a data folder and verifies every record in it.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] for damage, [`Fault::OldDisk`] when synced data is missing,
    /// [`Fault::TooNew`], [`Fault::Database`].
    pub fn open(datadir: &Datadir) -> Result<(Self, LogRecovery), Fault> {
        let folder = datadir.log();
        datadir.disk().create_folder(&folder)?;
        datadir.disk().sync_folder(datadir.root())?;
        let engine = datadir.disk().engine(&folder, Profile::Log)?;
        // A process that ended before a sync leaves what it had written in the system's memory. Nobody
        // may hear of it before it is on the disk.
        engine.sync()?;

        let mut tail = Tail {
            vote: None,
            votes: 0,
            purged: None,
            last: 0,
            last_log_id: None,
            last_digest: Digest::default(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            cuts: 0,
        };
        if let Some(bytes) = engine.get(VOTE)? {
            const WHAT: &str = "the saved vote";
            let mut reader = Reader::new(checked(&bytes, WHAT)?, WHAT);
            reader.version(VERSION)?;
            tail.votes = reader.u64()?;
            tail.vote = Some(Bytes::copy_from_slice(reader.rest()));
        }
        if let Some(bytes) = engine.get(PURGE)? {
            const WHAT: &str = "the log's purge mark";
            let mut reader = Reader::new(checked(&bytes, WHAT)?, WHAT);
            reader.version(VERSION)?;
            tail.last = reader.u64()?;
            tail.last_digest = reader.array()?;
            tail.last_log_id = Some(Bytes::copy_from_slice(reader.rest()));
            tail.purged = tail.last_log_id.clone().map(|log_id| (tail.last, log_id));
        }
        let mut is_new = tail.vote.is_none() && tail.purged.is_none();
        engine.scan(&[RECORD], RECORDS_END, &mut |_, _| {
            is_new = false;
            Ok(ControlFlow::Break(()))
        })?;
        let (marker, held) = Marker::open(datadir, is_new)?;
        let mut digest_at_held = None;
        let (mut entries, mut bytes) = (0, 0);
        engine.scan(&[RECORD], RECORDS_END, &mut |key, value| {
            let index = index_of(key)?;
            if !tail.is_next(index) {
                let detail = format!("entry {index} follows entry {}", tail.last);
                return Err(Fault::corrupt("the log", detail));
            }
            let (record, previous) = decode_record(index, value)?;
            if previous != tail.last_digest {
                let detail = format!("entry {index} was not written after the entry before it");
                return Err(Fault::corrupt("the log", detail));
            }
            tail.last_digest = digest_of(value);
            if index == held.last_index {
                digest_at_held = Some(tail.last_digest);
            }
            entries += 1;
            bytes += value.len() as u64;
            tail.push(record);
            Ok(ControlFlow::Continue(()))
        })?;
        check_held(&tail, &held, digest_at_held)?;

        let mut peers = BTreeMap::new();
        engine.scan(&[PEER], PEERS_END, &mut |key, value| {
            let standing = Standing::decode(value)?;
            peers.insert(index_of(key)?, Peer { remembered: standing, saved: standing });
            Ok(ControlFlow::Continue(()))
        })?;

        let recovery = LogRecovery {
            storage: marker.storage(),
            opens: opens(marker.generation()),
            last: tail.last(),
            entries,
            bytes,
        };
        let store = Self(Arc::new(Inner {
            engine,
            datadir: datadir.clone(),
            storage: marker.storage(),
            generation: marker.generation(),
            tail: Mutex::new(tail),
            marker: Mutex::new(marker),
            peers: Mutex::new(peers),
            stopped: AtomicBool::new(false),
            flush_owed: AtomicBool::new(false),
        }));
        Ok((store, recovery))
    }

    /// Identifies this node's data folder.
    pub fn storage_id(&self) -> StorageId {
        self.0.storage
    }

    /// Which opening of the data folder this is; see [`crate::marker`].
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// The vote last saved.
    pub fn vote(&self) -> Option<Bytes> {
        self.tail().vote.clone()
    }

    /// Saves a vote; on the disk on return, with every append before it.
    ///
    /// # Errors
    /// [`Fault::Database`], [`Fault::Stopped`].
    pub fn save_vote(&self, vote: &[u8]) -> Result<(), Fault> {
        self.points().hit("vote.save.before")?;
        let mut tail = self.tail();
        let votes = tail.votes + 1;
        let mut value = vec![VERSION];
        value.extend_from_slice(&votes.to_be_bytes());
        value.extend_from_slice(vote);
        put_checksum(&mut value);
        let mut batch = Batch::new();
        batch.put(VOTE, &value);
        let skip = self.points().has_bug(SeededBug::SkipVoteSync);
        self.write(&batch, if skip { Durability::Buffered } else { Durability::Synced })?;
        tail.vote = Some(Bytes::copy_from_slice(vote));
        tail.votes = votes;
        drop(tail);
        if !skip {
            self.stop_on_error(self.marker().vote_is_durable(votes))?;
        }
        self.points().hit("vote.save.after")
    }

    /// Appends records that follow the last one; readable on return, durable after the next
    /// [`LogStore::sync`].
    ///
    /// # Errors
    /// [`Fault::Order`] when the records do not follow the last one; [`Fault::Database`].
    pub fn append(&self, records: &[Record]) -> Result<(), Fault> {
        self.points().hit("log.append.before")?;
        let mut tail = self.tail();
        let mut digest = tail.last_digest;
        let mut batch = Batch::new();
        let Some(first) = records.first().map(|record| record.index) else { return Ok(()) };
        if !tail.is_next(first) {
            let last = tail.last;
            let text = format!("entry {first} was appended to a log that ends at {last}");
            return Err(Fault::Order(text));
        }
        for (record, expected) in records.iter().zip(first..) {
            if record.index != expected {
                let found = record.index;
                let text = format!("entry {found} was appended where {expected} belongs");
                return Err(Fault::Order(text));
            }
            batch.put_with(
                |key| key.extend_from_slice(&key_of(RECORD, record.index)),
                |value| {
                    let start = value.len();
                    encode_record(value, record, &digest);
                    digest = digest_of(&value[start..]);
                    Ok::<(), Fault>(())
                },
            )?;
        }
        self.write(&batch, Durability::Buffered)?;
        tail.last_digest = digest;
        for record in records {
            tail.push(record.clone());
        }
        drop(tail);
        self.points().hit("log.append.after")
    }

    /// Makes everything appended before this call durable: one sync, however many wait for it.
    /// Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`Fault::Database`]; a failed sync is never tried again, the store is stopped.
    pub fn sync(&self) -> Result<(), Fault> {
        self.points().hit("log.sync.before")?;
        let (last, digest, cuts) = {
            let tail = self.tail();
            (tail.last, tail.last_digest, tail.cuts)
        };
        if self.points().has_bug(SeededBug::SkipLogSync) {
            return Ok(());
        }
        if self.points().has_bug(SeededBug::AckBeforeFlush) {
            // What is acknowledged now is flushed by the next call.
            if !self.0.flush_owed.fetch_xor(true, Ordering::AcqRel) {
                return Ok(());
            }
        }
        self.check_running()?;
        match self.stop_on_error(self.0.engine.sync()) {
            Err(_) if self.points().has_bug(SeededBug::FsyncErrorIgnored) => return Ok(()),
            synced => synced?,
        }
        self.points().hit("log.sync.after")?;
        let mut marker = self.marker();
        // Invariant: the marker never vouches for an entry that has been cut off since.
        if self.tail().cuts == cuts && last >= marker.last_index() {
            self.stop_on_error(marker.entries_are_durable(last, digest))?;
        }
        Ok(())
    }

    /// Cuts off every entry after the given one; `None` leaves nothing. On the disk before any later
    /// append is.
    ///
    /// # Errors
    /// [`Fault::Order`] when that would cut into what is purged; [`Fault::Database`].
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), Fault> {
        self.points().hit("log.truncate.before")?;
        let mut marker = self.marker();
        let mut tail = self.tail();
        if tail.last_log_id.is_none() || last.is_some_and(|index| index >= tail.last) {
            return Ok(());
        }
        let (log_id, digest) = self.end_at(&tail, last)?;
        if self.points().has_bug(SeededBug::IgnoreTruncate) {
            tail.cut(last, log_id, digest);
            return Ok(());
        }
        // The marker first: it must not vouch for entries that are about to go.
        if last.is_none_or(|index| marker.last_index() > index) {
            self.stop_on_error(marker.set_end(last.unwrap_or(0), digest))?;
        }
        self.points().hit("log.truncate.marked")?;
        let mut batch = Batch::new();
        let from = key_of(RECORD, last.map_or(0, |index| index + 1));
        batch.delete_range(&from..RECORDS_END);
        self.write(&batch, Durability::Buffered)?;
        tail.cut(last, log_id, digest);
        drop(tail);
        self.points().hit("log.truncate.after")
    }

    /// Forgets every entry up to `index`, whose log id is given; entries need not reach that far
    /// (after a snapshot was installed). Where another entry lies at `index` all are forgotten: the
    /// one given was committed, so what follows the other never will be.
    ///
    /// # Errors
    /// [`Fault::Order`] when no durable snapshot covers `index`; [`Fault::Database`].
    pub fn purge_upto(&self, index: u64, log_id: &[u8]) -> Result<(), Fault> {
        self.points().hit("log.purge.before")?;
        let covered = self.0.datadir.durable_snapshot_index();
        if index > covered && !self.points().has_bug(SeededBug::PurgeBeforeSnapshot) {
            return Err(Fault::Order(format!(
                "purge up to {index} refused: the newest snapshot on disk ends at {covered}"
            )));
        }
        let mut marker = self.marker();
        let mut tail = self.tail();
        if tail.purged.as_ref().is_some_and(|(purged, _)| index <= *purged) {
            return Ok(());
        }
        let mut held = None;
        if tail.last_log_id.is_some() && index <= tail.last {
            let (found, digest) = self.end_at(&tail, Some(index))?;
            held = found.filter(|found| found[..] == *log_id).map(|_| digest);
        }
        let beyond = held.is_none();
        let purge_digest = held.unwrap_or_else(|| digest_of(log_id));
        if beyond && marker.last_index() > index {
            self.stop_on_error(marker.set_end(0, Digest::default()))?;
        }
        let mut value = vec![VERSION];
        value.extend_from_slice(&index.to_be_bytes());
        value.extend_from_slice(&purge_digest);
        value.extend_from_slice(log_id);
        put_checksum(&mut value);
        let mut batch = Batch::new();
        batch.put(PURGE, &value);
        let next = key_of(RECORD, index + 1);
        let end: &[u8] = if beyond { RECORDS_END } else { &next };
        batch.delete_range(&[RECORD]..end);
        // A log that jumps ahead is synced before the marker may vouch for it.
        self.write(&batch, if beyond { Durability::Synced } else { Durability::Buffered })?;
        let log_id = Bytes::copy_from_slice(log_id);
        tail.purged = Some((index, log_id.clone()));
        while tail.cache.front().is_some_and(|record| beyond || record.index <= index) {
            tail.evict();
        }
        if beyond {
            tail.last = index;
            tail.last_log_id = Some(log_id);
            tail.last_digest = purge_digest;
            tail.cuts += 1;
            self.stop_on_error(marker.set_end(index, purge_digest))?;
        }
        drop(tail);
        self.points().hit("log.purge.after")
    }

    /// Index and log id of the last entry, or of the last purged one when no entry is left.
    pub fn last(&self) -> Option<(u64, Bytes)> {
        self.tail().last()
    }

    /// Checks that the log begins no later than right after `applied`, so that nothing is missing
    /// between the state and the log. To be called when both are open.
    ///
    /// # Errors
    /// [`Fault::OldDisk`].
    pub fn check_reaches(&self, applied: Option<u64>) -> Result<(), Fault> {
        match &self.tail().purged {
            Some((purged, _)) if applied.is_none_or(|applied| applied < *purged) => {
                let detail = match applied {
                    Some(applied) => {
                        format!("the state ends at {applied}, the log begins after {purged}")
                    }
                    None => format!("the state is empty, the log begins after {purged}"),
                };
                Err(Fault::OldDisk { detail })
            }
            _ => Ok(()),
        }
    }

    /// Index and log id of the last purged entry.
    pub fn last_purged(&self) -> Option<(u64, Bytes)> {
        self.tail().purged.clone()
    }

    /// Reads entries of a range in order, at least one where there is one, and no more once
    /// `bytes_max` is reached. Entries already purged or not yet written are left out.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::Database`].
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Record>, Fault> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let range = {
            let tail = self.tail();
            let first = tail.purged.as_ref().map_or(0, |(index, _)| index + 1);
            let range = range.start.max(first)..range.end.min(tail.last + 1);
            if range.is_empty() || tail.last_log_id.is_none() {
                return Ok(records);
            }
            if let Some(front) = tail.cache.front()
                && front.index <= range.start
            {
                let skip = usize::try_from(range.start - front.index).unwrap_or(usize::MAX);
                for record in tail.cache.iter().skip(skip) {
                    bytes += record.bytes();
                    if record.index >= range.end || (bytes > bytes_max && !records.is_empty()) {
                        break;
                    }
                    records.push(record.clone());
                }
                return Ok(records);
            }
            range
        };
        let (from, to) = (key_of(RECORD, range.start), key_of(RECORD, range.end));
        self.0.engine.scan(&from, &to, &mut |key, value| {
            let (record, _) = decode_record(index_of(key)?, value)?;
            bytes += record.bytes();
            if bytes > bytes_max && !records.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            records.push(record);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(records)
    }

    /// Notes how far the log is known to be committed; durable with the next sync. Only a hint.
    ///
    /// # Errors
    /// [`Fault::Database`].
    pub fn save_committed(&self, log_id: &[u8]) -> Result<(), Fault> {
        let mut value = vec![VERSION];
        value.extend_from_slice(log_id);
        put_checksum(&mut value);
        let mut batch = Batch::new();
        batch.put(COMMITTED, &value);
        self.write(&batch, Durability::Buffered)
    }

    /// What [`LogStore::save_committed`] last kept, possibly older than last saved.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::Database`].
    pub fn read_committed(&self) -> Result<Option<Bytes>, Fault> {
        const WHAT: &str = "the committed mark";
        let Some(bytes) = self.0.engine.get(COMMITTED)? else { return Ok(None) };
        let mut reader = Reader::new(checked(&bytes, WHAT)?, WHAT);
        reader.version(VERSION)?;
        Ok(Some(Bytes::copy_from_slice(reader.rest())))
    }

    /// Judges what a peer shows of its disk, and remembers it when it is in order (on the disk on
    /// return). See [`crate::marker`].
    ///
    /// # Errors
    /// [`Fault::Database`].
    pub fn meet_peer(&self, node: u64, shown: Standing) -> Result<Verdict, Fault> {
        let mut peers = self.peers();
        // What it shows beyond that was not acknowledged, so it may be cut off by a leader under
        // the same vote. To come back without it is then no sign of an old disk.
        let vote_term = shown.progress.vote_term;
        let mut progress = Progress { vote_term, ..Progress::default() };
        if let Some(peer) = peers.get(&node) {
            let verdict = Standing::judge(&peer.remembered, &shown);
            if verdict != Verdict::Current {
                return Ok(verdict);
            }
            progress = progress.max(peer.remembered.progress);
        }
        let remembered = Standing { progress, ..shown };
        if peers.get(&node).is_none_or(|peer| peer.saved != remembered) {
            self.save_peer(node, &remembered, Durability::Synced)?;
        }
        peers.insert(node, Peer { remembered, saved: remembered });
        Ok(Verdict::Current)
    }

    /// Remembers what a peer has acknowledged as durable. Kept in memory, written now and then.
    ///
    /// # Errors
    /// [`Fault::Database`].
    pub fn note_peer(&self, node: u64, progress: Progress) -> Result<(), Fault> {
        /// Entries between two writes of a peer's progress.
        const STEP: u64 = 1024;
        // Whoever meets a peer holds the lock over a sync. The caller keeps a leader in office and
        // must not wait; the peer's next acknowledgement says as much.
        let Ok(mut peers) = self.0.peers.try_lock() else { return Ok(()) };
        let Some(peer) = peers.get_mut(&node) else { return Ok(()) };
        if progress <= peer.remembered.progress {
            return Ok(());
        }
        peer.remembered.progress = progress;
        let saved = peer.saved.progress;
        if progress.vote_term == saved.vote_term && progress.last_index < saved.last_index + STEP {
            return Ok(());
        }
        let remembered = peer.remembered;
        peer.saved = remembered;
        self.save_peer(node, &remembered, Durability::Buffered)
    }

    /// Forgets a peer that was removed; its id is never used again.
    ///
    /// # Errors
    /// [`Fault::Database`].
    pub fn forget_peer(&self, node: u64) -> Result<(), Fault> {
        self.peers().remove(&node);
        let mut batch = Batch::new();
        batch.delete(&key_of(PEER, node));
        self.write(&batch, Durability::Buffered)
    }

    /// Syncs log and marker before a planned stop.
    ///
    /// # Errors
    /// As [`LogStore::sync`].
    pub fn close(&self) -> Result<(), Fault> {
        self.sync()?;
        let mut marker = self.marker();
        let (last, digest) = {
            let tail = self.tail();
            (tail.last, tail.last_digest)
        };
        marker.set_end(last, digest)
    }

    /// Batches, bytes and syncs since the log was opened.
    pub fn counters(&self) -> Counters {
        self.0.engine.counters()
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.0.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked before the tail where both are needed.
    fn marker(&self) -> MutexGuard<'_, Marker> {
        self.0.marker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<u64, Peer>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn points(&self) -> &FailPoints {
        self.0.datadir.fail_points()
    }

    fn check_running(&self) -> Result<(), Fault> {
        if self.0.stopped.load(Ordering::Acquire) {
            return Err(Fault::Stopped { path: self.0.datadir.log() });
        }
        Ok(())
    }

    fn stop_on_error<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        if result.is_err() {
            self.0.stopped.store(true, Ordering::Release);
        }
        result
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), Fault> {
        self.check_running()?;
        match self.0.engine.write(batch, durability) {
            Err(_) if self.points().has_bug(SeededBug::WriteErrorSwallowed) => Ok(()),
            written => self.stop_on_error(written),
        }
    }

    fn save_peer(&self, node: u64, standing: &Standing, how: Durability) -> Result<(), Fault> {
        let mut batch = Batch::new();
        batch.put(&key_of(PEER, node), &standing.encode());
        self.write(&batch, how)
    }

    /// Log id and digest that the log ends with when `last` is its last entry.
    fn end_at(&self, tail: &Tail, last: Option<u64>) -> Result<(Option<Bytes>, Digest), Fault> {
        let purged = tail.purged.as_ref();
        let refused = |(purged, _): &(u64, Bytes)| {
            Fault::Order(format!("the log cannot end at {last:?}: it is purged up to {purged}"))
        };
        let Some(index) = last else {
            return purged.map_or(Ok((None, Digest::default())), |purged| Err(refused(purged)));
        };
        if index == tail.last {
            return Ok((tail.last_log_id.clone(), tail.last_digest));
        }
        match purged {
            Some(purged) if index < purged.0 => Err(refused(purged)),
            Some(purged) if index == purged.0 => {
                // The first record after the purge names the digest before it.
                let (_, previous) = decode_record(index + 1, &self.record_bytes(index + 1)?)?;
                Ok((Some(purged.1.clone()), previous))
            }
            _ => {
                let value = self.record_bytes(index)?;
                let (record, _) = decode_record(index, &value)?;
                Ok((Some(record.log_id), digest_of(&value)))
            }
        }
    }

    fn record_bytes(&self, index: u64) -> Result<Vec<u8>, Fault> {
        let value = self.0.engine.get(&key_of(RECORD, index))?;
        value.ok_or_else(|| Fault::corrupt("the log", format!("entry {index} is missing")))
    }
}

impl Tail {
    fn last(&self) -> Option<(u64, Bytes)> {
        self.last_log_id.clone().map(|log_id| (self.last, log_id))
    }

    fn push(&mut self, record: Record) {
        self.last = record.index;
        self.last_log_id = Some(record.log_id.clone());
        self.cache_bytes += record.bytes();
        self.cache.push_back(record);
        while self.cache_bytes > CACHE_BYTES_MAX {
            self.evict();
        }
    }

    fn evict(&mut self) {
        if let Some(record) = self.cache.pop_front() {
            self.cache_bytes -= record.bytes();
        }
    }

    /// Whether an entry of that index may come next. A new log begins at 0 or 1.
    fn is_next(&self, index: u64) -> bool {
        if self.last_log_id.is_some() { index == self.last + 1 } else { index <= 1 }
    }

    fn cut(&mut self, last: Option<u64>, log_id: Option<Bytes>, digest: Digest) {
        while self.cache.back().is_some_and(|record| Some(record.index) > last) {
            if let Some(record) = self.cache.pop_back() {
                self.cache_bytes -= record.bytes();
            }
        }
        self.last = last.unwrap_or(0);
        self.last_log_id = log_id;
        self.last_digest = digest;
        self.cuts += 1;
    }
}

/// Refuses a log that lacks what its marker vouches for.
fn check_held(tail: &Tail, held: &Held, digest_at_held: Option<Digest>) -> Result<(), Fault> {
    if tail.votes < held.votes {
        let detail = format!("{} votes were saved, the log knows of {}", held.votes, tail.votes);
        return Err(Fault::OldDisk { detail });
    }
    let nothing_held = held.last_digest == Digest::default();
    if nothing_held || tail.purged.as_ref().is_some_and(|(index, _)| held.last_index <= *index) {
        return Ok(());
    }
    match digest_at_held {
        None => {
            let (held, last) = (held.last_index, tail.last);
            let detail = format!("entries up to {held} were durable, the log ends at {last}");
            Err(Fault::OldDisk { detail })
        }
        Some(digest) if digest != held.last_digest => {
            let detail = format!("entry {} is not the one that was durable", held.last_index);
            Err(Fault::OldDisk { detail })
        }
        Some(_) => Ok(()),
    }
}

fn key_of(table: u8, number: u64) -> [u8; 9] {
    let mut key = [table; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Result<u64, Fault> {
    let number = key.get(1..).and_then(|bytes| bytes.try_into().ok());
    number
        .map(u64::from_be_bytes)
        .ok_or_else(|| Fault::corrupt("the log", "a key has the wrong length"))
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut first = Digest::default();
    first.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..16]);
    first
}

const CHECKSUM: Range<usize> = 1..5;

fn encode_record(out: &mut Vec<u8>, record: &Record, previous: &Digest) {
    let start = out.len();
    out.reserve(25 + record.bytes());
    out.push(VERSION);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(previous);
    put_bytes(out, &record.log_id);
    out.extend_from_slice(&record.payload);
    let sum = record_checksum(record.index, &out[start + CHECKSUM.end..]);
    out[start + CHECKSUM.start..start + CHECKSUM.end].copy_from_slice(&sum.to_be_bytes());
    debug_assert!(len_u32(out.len() - start) < u32::MAX);
}

fn record_checksum(index: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.to_be_bytes()), body)
}

fn decode_record(index: u64, value: &[u8]) -> Result<(Record, Digest), Fault> {
    const WHAT: &str = "a log entry";
    let mut reader = Reader::new(value, WHAT);
    reader.version(VERSION)?;
    let sum = reader.u32()?;
    if record_checksum(index, &value[CHECKSUM.end..]) != sum {
        let detail = "its checksum does not match";
        return Err(Fault::corrupt(format!("log entry {index}"), detail));
    }
    let previous = reader.array()?;
    let log_id = Bytes::copy_from_slice(reader.bytes()?);
    let payload = Bytes::copy_from_slice(reader.rest());
    Ok((Record { index, log_id, payload }, previous))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes_io::hex;

    fn record() -> Record {
        Record { index: 258, log_id: Bytes::from("id"), payload: Bytes::from("payload") }
    }

    #[test]
    fn a_record_has_the_bytes_it_always_had() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, &record(), &[0xab; 16]);
        assert_eq!(
            hex(&bytes),
            "01a734774cabababababababababababababababab0000000269647061796c6f6164"
        );
        assert_eq!(decode_record(258, &bytes).unwrap(), (record(), [0xab; 16]));
        assert_eq!(hex(&digest_of(&bytes)), "ca2a42a96f7052990f8f74e76deaf970");
        assert_eq!(hex(&key_of(RECORD, 258)), "100000000000000102");
    }

    #[test]
    fn a_record_is_refused_when_damaged_moved_or_newer() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, &record(), &[0xab; 16]);
        assert!(matches!(decode_record(259, &bytes), Err(Fault::Corrupt { .. })));
        for at in 1..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(matches!(decode_record(258, &damaged), Err(Fault::Corrupt { .. })), "{at}");
        }
        for len in 0..bytes.len() {
            assert!(decode_record(258, &bytes[..len]).is_err());
        }
        bytes[0] = VERSION + 1;
        assert!(matches!(decode_record(258, &bytes), Err(Fault::TooNew { .. })));
    }
}
