//! The state machine at rest: the domain's state in memory, its rows in a database, and both moved
//! by the same entries. Effects, history and the applied mark of all entries of one call lie in one
//! batch, unsynced: after a crash the database is merely older, and the log replays the rest.
//!
//! ```text
//! state/CURRENT            names the generation in force
//! state/<generation>/      its database
//! ```
//!
//! Invariant: the mark in the database names exactly the entries whose effects are in it. Invariant:
//! memory equals the rows of the generation in force, secret values aside.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use conclave_domain::audit::AuditRecord;
use conclave_domain::command::{self, Actor, Envelope};
use conclave_domain::effect::{Effect, Row};
use conclave_domain::event::{self, Event};
use conclave_domain::evolve::execute;
use conclave_domain::id::{ResourceId, RoleId};
use conclave_domain::outcome;
use conclave_domain::records::{RequestId, Sealed, Version};
use conclave_domain::state::State;
use conclave_domain::time::{LogIndex, Timestamp};

use crate::bytes_io::{Reader, checked, len_u32, put_bytes, put_checksum};
use crate::datadir::Datadir;
use crate::engine::{Batch, Counters, Durability, Engine, Profile};
use crate::error::Fault;
use crate::failpoint::{FailPoints, SeededBug};
use crate::keys::{self, Table};
use crate::snapshot::{self, SnapshotFiles, SnapshotImport};

const MARK_VERSION: u8 = 1;
const HISTORY_VERSION: u8 = 1;
/// Rows are renewed so many bytes at a time.
const RENEWED_BYTES_TARGET: usize = 1 << 20;

/// A committed entry to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub index: u64,
    /// Raft's id of it, opaque here.
    pub log_id: Bytes,
    /// What it holds.
    pub kind: EntryKind,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// An encoded [`Envelope`].
    Command(Bytes),
    /// Raft's membership as of this entry, opaque here.
    Membership(Bytes),
    /// Nothing; a new leader's first entry.
    Blank,
}

/// The last entry whose effects are in the state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppliedMark {
    /// Its index.
    pub index: u64,
    /// Raft's id of it.
    pub log_id: Bytes,
    /// The membership last applied, with whatever raft keeps beside it; empty when there was none.
    pub membership: Bytes,
}

impl AppliedMark {
    // version | index (u64) | log id | membership | crc32c
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![MARK_VERSION];
        out.extend_from_slice(&self.index.to_be_bytes());
        put_bytes(&mut out, &self.log_id);
        put_bytes(&mut out, &self.membership);
        put_checksum(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        const WHAT: &str = "the applied mark";
        let mut reader = Reader::new(checked(bytes, WHAT)?, WHAT);
        reader.version(MARK_VERSION)?;
        let index = reader.u64()?;
        let log_id = Bytes::copy_from_slice(reader.bytes()?);
        let membership = Bytes::copy_from_slice(reader.bytes()?);
        reader.end()?;
        Ok(Self { index, log_id, membership })
    }
}

/// What one entry made happen, as history keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The entry's index.
    pub index: u64,
    /// When it was asked for.
    pub at: Timestamp,
    /// Who asked; none for a node.
    pub role: Option<RoleId>,
    /// Under which request id.
    pub request_id: RequestId,
    /// From which address.
    pub client_ip: String,
    /// What happened, in order; secret values are left out.
    pub events: Vec<Event>,
}

/// A digest of every row of the state at one moment; equal on all nodes at equal index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// The last entry in it.
    pub index: u64,
    /// SHA-256 over all rows in order.
    pub hash: [u8; 32],
}

/// The state as of one moment, for as long as a read lasts.
pub struct View<'a> {
    /// All but secret values.
    pub state: &'a State,
    /// The last entry applied.
    pub applied: LogIndex,
    engine: &'a dyn Engine,
}

impl View<'_> {
    /// The sealed value of a secret's version, where it is retained.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], also for a version that is known and whose row is not there: the write that
    /// made it has failed, and the node is about to end. [`Fault::Database`].
    pub fn secret_value(
        &self,
        resource: &ResourceId,
        version: Version,
    ) -> Result<Option<Sealed>, Fault> {
        let row = self.engine.get(&keys::secret_value_key(resource, version))?;
        let value = row.map(|row| keys::secret_value(&row, version)).transpose()?.flatten();
        let is_known = || {
            let secret = self.state.secret(resource);
            secret.is_some_and(|secret| secret.versions.contains_key(&version))
        };
        if value.is_none() && is_known() {
            return Err(Fault::corrupt("a secret's version", "its value is missing"));
        }
        Ok(value)
    }
}

/// The state of one node. Clones share it.
#[derive(Clone)]
pub struct StateStore(Arc<Inner>);

struct Inner {
    datadir: Datadir,
    held: RwLock<Held>,
    applied: AtomicU64,
    /// Held by whoever moves the state (apply, install); the batch is kept for its memory.
    turn: Mutex<Batch>,
    /// Held by whoever builds a snapshot, and guards the newest.
    snapshot: Mutex<Option<Arc<SnapshotFiles>>>,
    building: Mutex<()>,
    stopped: AtomicBool,
}

struct Held {
    state: State,
    mark: Option<AppliedMark>,
    generation: Arc<Generation>,
}

struct Generation {
    number: u64,
    engine: Option<Arc<dyn Engine>>,
    folder: PathBuf,
    datadir: Datadir,
    obsolete: AtomicBool,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.engine = None;
        if self.obsolete.load(Ordering::Acquire)
            && let Err(fault) = self.datadir.disk().remove(&self.folder)
        {
            tracing::warn!(%fault, "an old generation of the state stays until the next start");
        }
    }
}

impl Generation {
    fn open(datadir: &Datadir, number: u64) -> Result<Self, Fault> {
        let folder = generation_folder(datadir, number);
        datadir.disk().create_folder(&folder)?;
        let engine = Some(datadir.disk().engine(&folder, Profile::State)?);
        let obsolete = AtomicBool::new(false);
        Ok(Self { number, engine, folder, datadir: datadir.clone(), obsolete })
    }

    #[expect(clippy::expect_used, reason = "the engine is taken out in drop only")]
    fn engine(&self) -> &Arc<dyn Engine> {
        self.engine.as_ref().expect("the engine is there until drop")
    }
}

/// Reads every block once, secret values and history included, so that damage is found before this
/// node serves, and not by the first who asks for what is damaged.
fn read_all(engine: &dyn Engine) -> Result<(), Fault> {
    engine.scan(&[], &[0xff], &mut |_, _| Ok(ControlFlow::Continue(())))
}

impl StateStore {
    /// Opens the state of a data folder and rebuilds memory from its rows.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::TooNew`], [`Fault::Database`].
    pub fn open(datadir: &Datadir) -> Result<Self, Fault> {
        let disk = datadir.disk();
        disk.create_folder(&datadir.state())?;
        disk.create_folder(&datadir.snapshots())?;
        let number = if let Some(number) = read_pointer(datadir)? {
            number
        } else {
            write_pointer(datadir, 1)?;
            1
        };
        for name in disk.list(&datadir.state())? {
            if name != POINTER && name != generation_name(number) {
                disk.remove(&datadir.state().join(name))?;
            }
        }
        let folder = generation_folder(datadir, number);
        if number > 1 && disk.list(&folder)?.is_empty() {
            return Err(Fault::corrupt(folder.display().to_string(), "it is missing"));
        }
        let generation = Generation::open(datadir, number)?;
        disk.sync_folder(&datadir.state())?;
        disk.sync_folder(datadir.root())?;
        read_all(&**generation.engine())?;
        let (state, mark) = load(&**generation.engine())?;
        let snapshot = snapshot::newest(datadir)?.map(Arc::new);
        let applied = mark.as_ref().map_or(0, |mark| mark.index);
        let ahead = snapshot.clone().filter(|snapshot| snapshot.mark().index > applied);
        let store = Self(Arc::new(Inner {
            datadir: datadir.clone(),
            held: RwLock::new(Held { state, mark, generation: Arc::new(generation) }),
            applied: AtomicU64::new(applied),
            turn: Mutex::new(Batch::new()),
            snapshot: Mutex::new(snapshot),
            building: Mutex::new(()),
            stopped: AtomicBool::new(false),
        }));
        if let Some(snapshot) = ahead {
            // A crash came between the end of an import and its installation.
            store.snapshot_install(&snapshot)?;
        }
        Ok(store)
    }

    /// The last entry applied; none in a new node.
    pub fn applied(&self) -> Option<AppliedMark> {
        self.held().mark.clone()
    }

    /// Index of the last entry applied; 0 in a new node. Costs nothing.
    pub fn applied_index(&self) -> u64 {
        self.0.applied.load(Ordering::Acquire)
    }

    /// Applies entries in order and gives the encoded reply of each command (empty for other
    /// entries). All of it is in one batch; readers see all of it or nothing.
    ///
    /// # Errors
    /// Any: the store is stopped then, and the node with it.
    pub fn apply(&self, entries: &[Entry]) -> Result<Vec<Vec<u8>>, Fault> {
        self.points().hit("state.apply.before")?;
        let mut batch = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_running()?;
        // Reading commands needs no state, and takes long for a large one: readers do not wait for it.
        let commands = self.stop_on_error(entries.iter().map(decode_command).collect())?;
        let mut held = self.held_mut();
        let applied = self.apply_to(&mut held, &mut batch, entries, commands);
        let applied = self.stop_on_error(applied)?;
        drop(held);
        drop(batch);
        self.points().hit("state.apply.after")?;
        Ok(applied)
    }

    fn apply_to(
        &self,
        held: &mut Held,
        batch: &mut Batch,
        entries: &[Entry],
        commands: Vec<Option<Envelope>>,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        let mut expected = held.mark.as_ref().map(|mark| mark.index + 1);
        let mut membership = None;
        let mut replies = Vec::with_capacity(entries.len());
        batch.clear();
        for (entry, command) in entries.iter().zip(commands) {
            if expected.is_some_and(|expected| entry.index != expected) {
                let (index, expected) = (entry.index, expected.unwrap_or_default());
                let text = format!("entry {index} was to be applied where {expected} is next");
                return Err(Fault::Order(text));
            }
            expected = Some(entry.index + 1);
            replies.push(match &entry.kind {
                EntryKind::Command(_) => match command {
                    Some(envelope) => {
                        apply_command(&mut held.state, batch, entry.index, &envelope)?
                    }
                    None => Vec::new(),
                },
                EntryKind::Membership(bytes) => {
                    membership = Some(bytes.clone());
                    Vec::new()
                }
                EntryKind::Blank => Vec::new(),
            });
        }
        let membership = membership
            .or_else(|| held.mark.as_ref().map(|mark| mark.membership.clone()))
            .unwrap_or_default();
        let mark = AppliedMark { index: last.index, log_id: last.log_id.clone(), membership };
        let engine = held.generation.engine();
        if self.points().has_bug(SeededBug::AppliedIndexInSeparateWrite) {
            let mut alone = Batch::new();
            alone.put(&[Table::Mark as u8], &mark.encode());
            engine.write(&alone, Durability::Buffered)?;
        } else {
            batch.put(&[Table::Mark as u8], &mark.encode());
        }
        match engine.write(batch, Durability::Buffered) {
            Err(_) if self.points().has_bug(SeededBug::WriteErrorSwallowed) => {}
            written => written?,
        }
        held.mark = Some(mark);
        self.0.applied.store(last.index, Ordering::Release);
        Ok(replies)
    }

    /// Reads from one moment: nothing is applied while `read` runs, so keep it short.
    pub fn read<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        let held = self.held();
        let applied = LogIndex(held.mark.as_ref().map_or(0, |mark| mark.index));
        read(&View { state: &held.state, applied, engine: &**held.generation.engine() })
    }

    /// As [`StateStore::read`], unless it would have to wait: then what was to be done is given back.
    ///
    /// # Errors
    /// `read` itself, not called.
    pub fn try_read<R, F: FnOnce(&View<'_>) -> R>(&self, read: F) -> Result<R, F> {
        let held = match self.0.held.try_read() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(read),
        };
        let applied = LogIndex(held.mark.as_ref().map_or(0, |mark| mark.index));
        Ok(read(&View { state: &held.state, applied, engine: &**held.generation.engine() }))
    }

    /// Builds a snapshot of the state and keeps it as the newest. Blocks for as long as the disk
    /// takes; applying goes on meanwhile. On return the snapshot is on the disk, and so is the state
    /// itself up to its mark.
    ///
    /// # Errors
    /// [`Fault::Order`] when nothing has been applied yet; else as the disk gives.
    pub fn snapshot_build(&self) -> Result<Arc<SnapshotFiles>, Fault> {
        let _one_at_a_time = self.0.building.lock().unwrap_or_else(PoisonError::into_inner);
        let datadir = &self.0.datadir;
        let points = self.points();
        points.hit("snapshot.build.before")?;
        if self.applied().is_none() {
            return Err(Fault::Order("nothing has been applied yet, so no snapshot".to_owned()));
        }
        let engine = self.engine();
        let (_, data) = snapshot::building_folder(datadir)?;
        engine.checkpoint(&data)?;
        points.hit("snapshot.build.checkpointed")?;
        // The moment that the checkpoint shows is known only to itself.
        let mark = datadir.disk().peek(&data, &[Table::Mark as u8])?;
        let mark = mark.ok_or_else(|| Fault::corrupt("a checkpoint", "it has no applied mark"))?;
        let mark = AppliedMark::decode(&mark)?;
        let sealed = Arc::new(snapshot::seal_built(datadir, mark)?);
        self.keep_newest(&sealed);
        Ok(sealed)
    }

    /// The newest snapshot on this node's disk.
    pub fn current_snapshot(&self) -> Option<Arc<SnapshotFiles>> {
        self.newest().clone()
    }

    /// Begins to receive a snapshot; see [`SnapshotImport::begin`].
    ///
    /// # Errors
    /// As there.
    pub fn snapshot_import(&self, manifest: &[u8]) -> Result<SnapshotImport, Fault> {
        SnapshotImport::begin(&self.0.datadir, manifest)
    }

    /// Puts a snapshot in the state's place: its files are verified, copied into a new generation,
    /// opened, and pointed to; memory is rebuilt. After a crash at any point the node has the old
    /// state or the new one. Applying waits; readers go on until the swap.
    ///
    /// # Errors
    /// [`Fault::Order`] when the state is already newer; [`Fault::Corrupt`].
    pub fn snapshot_install(&self, snapshot: &Arc<SnapshotFiles>) -> Result<(), Fault> {
        let datadir = &self.0.datadir;
        let (disk, points) = (datadir.disk(), self.points());
        points.hit("snapshot.install.before")?;
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_running()?;
        let applied = self.applied_index();
        let index = snapshot.mark().index;
        if index < applied && !points.has_bug(SeededBug::InstallOverNewer) {
            let text = format!("a snapshot at {index} was to replace the state at {applied}");
            return Err(Fault::Order(text));
        }
        snapshot.verify()?;
        let number = self.held().generation.number + 1;
        let folder = generation_folder(datadir, number);
        disk.remove(&folder)?;
        disk.create_folder(&folder)?;
        for file in &snapshot.manifest().files {
            let (from, to) = (snapshot.data_folder().join(&file.name), folder.join(&file.name));
            if to.extension().is_some_and(|extension| extension == "sst") {
                disk.link(&from, &to)?;
            } else {
                // The database goes on writing to these.
                copy(datadir, &from, &to)?;
            }
        }
        disk.sync_folder(&folder)?;
        disk.sync_folder(&datadir.state())?;
        points.hit("snapshot.install.copied")?;
        let generation = Generation::open(datadir, number)?;
        let (state, mark) = load(&**generation.engine())?;
        if mark.as_ref() != Some(snapshot.mark()) {
            return Err(Fault::corrupt("a snapshot", "its mark is not the one in its manifest"));
        }
        write_pointer(datadir, number)?;
        points.hit("snapshot.install.pointed")?;
        let old = {
            let mut held = self.held_mut();
            let new = Held { state, mark, generation: Arc::new(generation) };
            self.0.applied.store(index, Ordering::Release);
            std::mem::replace(&mut *held, new)
        };
        old.generation.obsolete.store(true, Ordering::Release);
        drop(old);
        self.keep_newest(snapshot);
        points.hit("snapshot.install.after")
    }

    /// Moves the mark on to a later place of another log, with its membership; no row changes. On the
    /// disk after the next snapshot is built.
    ///
    /// # Errors
    /// [`Fault::Order`] for a place that is not later; else as the disk gives.
    pub fn move_mark(&self, mark: AppliedMark) -> Result<(), Fault> {
        let mut batch = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_running()?;
        let mut held = self.held_mut();
        if held.mark.as_ref().is_none_or(|before| mark.index <= before.index) {
            let text = format!("the mark was to move to {}, which is not later", mark.index);
            return Err(Fault::Order(text));
        }
        batch.clear();
        batch.put(&[Table::Mark as u8], &mark.encode());
        let written = held.generation.engine().write(&batch, Durability::Buffered);
        self.stop_on_error(written)?;
        self.0.applied.store(mark.index, Ordering::Release);
        held.mark = Some(mark);
        Ok(())
    }

    /// Digest of every row of every table, history and applied mark included, as of one moment. Of the audit
    /// chain it takes record by record: how many lie in a row depends on the version that wrote it, and members
    /// that came from different versions hold the same. Reads the whole database.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::Database`].
    pub fn state_hash(&self) -> Result<StateHash, Fault> {
        let engine = self.engine();
        let skips = self.points().has_bug(SeededBug::StateHashSkipsTable);
        loop {
            let first = audit_first(&*engine)?;
            if let Some(hash) = hash_of_rows(&*engine, first, skips)? {
                return Ok(hash);
            }
            // The chain was trimmed in between, which is seldom.
        }
    }

    /// History of the entries from `from` on, at most `limit` of those that made something happen.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::TooNew`], [`Fault::Database`].
    pub fn history(&self, from: u64, limit: usize) -> Result<Vec<History>, Fault> {
        let mut history = Vec::new();
        if limit == 0 {
            return Ok(history);
        }
        let engine = self.engine();
        let (_, end) = Table::History.bounds();
        engine.scan(&keys::history_key(from), &end, &mut |key, value| {
            history.push(decode_history(key, value)?);
            let is_full = history.len() >= limit;
            Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(history)
    }

    /// Records of the audit chain from number `from` on, as many as are there, at most `limit` and at
    /// most some `bytes` of text, yet at least one. Not to be called from within a view.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::TooNew`], [`Fault::Database`].
    pub fn audit_records(
        &self,
        from: u64,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(u64, AuditRecord)>, Fault> {
        let mut records = Vec::new();
        let mut room = bytes;
        if limit == 0 {
            return Ok(records);
        }
        let from = from.max(self.read(|view| view.state.audit_head().first));
        let (_, end) = Table::AuditBlock.bounds();
        // A row is found under the number of its last record: the first one may begin before `from`.
        self.engine().scan(&keys::audit_block_key(from), &end, &mut |key, value| {
            let Row::AuditBlock(last, block) = keys::row(key, value)? else {
                return Err(Fault::corrupt("audit records", "another row stands in their place"));
            };
            for (number, record) in block.records(last).filter(|(number, _)| *number >= from) {
                let size = record.text.len();
                if records.len() >= limit || !records.is_empty() && size > room {
                    return Ok(ControlFlow::Break(()));
                }
                room = room.saturating_sub(size);
                records.push((number, record));
            }
            let is_full = records.len() >= limit;
            Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(records)
    }

    /// Batches and bytes written to the generation in force since it was opened.
    pub fn counters(&self) -> Counters {
        self.engine().counters()
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(self.held().generation.engine())
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_mut(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> MutexGuard<'_, Option<Arc<SnapshotFiles>>> {
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_newest(&self, snapshot: &Arc<SnapshotFiles>) {
        let mut newest = self.newest();
        if newest.as_ref().is_some_and(|held| held.folder() == snapshot.folder()) {
            return;
        }
        if let Some(old) = newest.replace(Arc::clone(snapshot)) {
            old.supersede();
        }
    }

    fn points(&self) -> &FailPoints {
        self.0.datadir.fail_points()
    }

    fn check_running(&self) -> Result<(), Fault> {
        if self.0.stopped.load(Ordering::Acquire) {
            return Err(Fault::Stopped { path: self.0.datadir.state() });
        }
        Ok(())
    }

    fn stop_on_error<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        if result.is_err() {
            self.0.stopped.store(true, Ordering::Release);
        }
        result
    }
}

/// Carries one command out in memory and adds its writes to the batch. Gives the encoded reply.
/// The command of an entry that holds one.
fn decode_command(entry: &Entry) -> Result<Option<Envelope>, Fault> {
    let EntryKind::Command(bytes) = &entry.kind else { return Ok(None) };
    let envelope = command::codec::decode(bytes)
        .map_err(|error| Fault::Command { index: entry.index, detail: error.to_string() })?;
    Ok(Some(envelope))
}

fn apply_command(
    state: &mut State,
    batch: &mut Batch,
    index: u64,
    envelope: &Envelope,
) -> Result<Vec<u8>, Fault> {
    let execution = execute(state, LogIndex(index), envelope);
    for effect in &execution.effects {
        match effect {
            Effect::Put(row) => batch.put_with(
                |key| keys::put_row_key(key, row),
                |value| keys::put_row_value(value, row),
            )?,
            Effect::Delete(key) => batch.delete_with(|out| keys::put_key(out, key)),
        }
    }
    // The audit chain remembers what came to it: history would only keep it twice.
    let is_history = |event: &Event| !event.leaves_no_history();
    if execution.events.iter().any(is_history) {
        batch.put(&keys::history_key(index), &encode_history(envelope, &execution.events));
    }
    Ok(outcome::codec::encode(&execution.reply))
}

// version | at (i64) | request id (16) | role (text, empty for a node) | client address (text)
// | count (u32) | events | crc32c
fn encode_history(envelope: &Envelope, events: &[Event]) -> Vec<u8> {
    let mut out = vec![HISTORY_VERSION];
    out.extend_from_slice(&envelope.at.0.to_be_bytes());
    out.extend_from_slice(&envelope.request_id.0);
    match &envelope.actor {
        Actor::Role(role) => put_bytes(&mut out, role.to_string().as_bytes()),
        Actor::Node => put_bytes(&mut out, &[]),
    }
    put_bytes(&mut out, envelope.client_ip.as_bytes());
    out.extend_from_slice(&len_u32(events.len()).to_be_bytes());
    for event in events {
        put_bytes(&mut out, &event::codec::encode(event));
    }
    put_checksum(&mut out);
    out
}

fn decode_history(key: &[u8], value: &[u8]) -> Result<History, Fault> {
    const WHAT: &str = "an entry of history";
    let damaged = |detail: String| Fault::corrupt(WHAT, detail);
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|error| damaged(error.to_string()))
    };
    let mut key = Reader::new(key, WHAT);
    key.u8()?;
    let index = key.u64()?;
    let mut reader = Reader::new(checked(value, WHAT)?, WHAT);
    reader.version(HISTORY_VERSION)?;
    let at = Timestamp(i64::from_be_bytes(reader.array()?));
    let request_id = RequestId(reader.array()?);
    let role = match reader.bytes()? {
        [] => None,
        bytes => {
            let id = RoleId::parse(&text(bytes)?, None);
            Some(id.map_err(|error| damaged(error.to_string()))?)
        }
    };
    let client_ip = text(reader.bytes()?)?;
    let mut events = Vec::new();
    for _ in 0..reader.u32()? {
        let event = event::codec::decode(reader.bytes()?);
        events.push(event.map_err(|error| damaged(error.to_string()))?);
    }
    reader.end()?;
    Ok(History { index, at, role, request_id, client_ip, events })
}

/// Writes rows of an earlier version anew where today's have other keys. A crash leaves some of either
/// kind, and the next start goes on: while any are left, some are left in the last of the tables.
fn renew(engine: &dyn Engine) -> Result<(), Fault> {
    let [.., last] = keys::RENEWED;
    let (from, end) = last.bounds();
    let mut has_old = false;
    engine.scan(&from, &end, &mut |_, _| {
        has_old = true;
        Ok(ControlFlow::Break(()))
    })?;
    if !has_old {
        return Ok(());
    }
    for table in keys::RENEWED {
        let (from, end) = table.bounds();
        let mut from = from.to_vec();
        loop {
            let (mut batch, mut next) = (Batch::new(), None);
            engine.scan(&from, &end, &mut |key, value| {
                if batch.bytes() > RENEWED_BYTES_TARGET {
                    next = Some(key.to_vec());
                    return Ok(ControlFlow::Break(()));
                }
                if let Some(row) = keys::renewed(key, value)? {
                    batch.delete(key);
                    batch.put_with(
                        |key| keys::put_row_key(key, &row),
                        |value| keys::put_row_value(value, &row),
                    )?;
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if !batch.is_empty() {
                engine.write(&batch, Durability::Buffered)?;
            }
            let Some(next) = next else { break };
            from = next;
        }
    }
    Ok(())
}

/// Rebuilds memory from the rows of a database, which are renewed where need be. Secret values and
/// audit records are not read.
fn load(engine: &dyn Engine) -> Result<(State, Option<AppliedMark>), Fault> {
    renew(engine)?;
    let mut state = State::new();
    for table in Table::ROWS.into_iter().filter(|table| table.is_in_memory()) {
        let (from, to) = table.bounds();
        engine.scan(&from, &to, &mut |key, value| {
            if !keys::is_secret_value(key) {
                state.apply(&Effect::Put(Box::new(keys::row(key, value)?)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok((state, read_mark(engine)?))
}

/// Number of the oldest audit record kept; 0 in a state that has had none.
fn audit_first(engine: &dyn Engine) -> Result<u64, Fault> {
    let key = [Table::AuditHead as u8];
    let value = engine.get(&key)?;
    match value.map(|value| keys::row(&key, &value)).transpose()? {
        Some(Row::AuditHead(head)) => Ok(head.first),
        Some(_) | None => Ok(0),
    }
}

/// Digest of all rows of a state whose audit chain begins with record `first`; none when it began with another
/// one at the moment of the digest.
fn hash_of_rows(engine: &dyn Engine, first: u64, skips: bool) -> Result<Option<StateHash>, Fault> {
    let mut context = Context::new(&SHA256);
    let (mut mark, mut first_then) = (None, 0);
    // Lengths go in, so that no two lists of rows make one digest.
    let add = |context: &mut Context, bytes: &[u8]| {
        context.update(&len_u32(bytes.len()).to_be_bytes());
        context.update(bytes);
    };
    // Every key there can be: a table added later cannot be forgotten here.
    engine.scan(&[], &[0xff; 1], &mut |key, value| {
        if skips && keys::is_secret_value(key) {
            return Ok(ControlFlow::Continue(()));
        }
        if key.first() == Some(&(Table::AuditBlock as u8)) {
            let Row::AuditBlock(last, block) = keys::row(key, value)? else {
                return Err(Fault::corrupt("audit records", "another row stands in their place"));
            };
            // A row goes with its last record: those before it may have gone from the chain.
            for (number, record) in block.records(last).filter(|(number, _)| *number >= first) {
                add(&mut context, &keys::audit_block_key(number));
                for number in [record.node, record.sequence] {
                    context.update(&number.to_be_bytes());
                }
                context.update(&record.hash.0);
                add(&mut context, record.text.as_bytes());
            }
            return Ok(ControlFlow::Continue(()));
        }
        if key == [Table::Mark as u8] {
            mark = Some(AppliedMark::decode(value)?);
        }
        if let [table] = key
            && *table == Table::AuditHead as u8
            && let Row::AuditHead(head) = keys::row(key, value)?
        {
            first_then = head.first;
        }
        add(&mut context, key);
        add(&mut context, value);
        Ok(ControlFlow::Continue(()))
    })?;
    if first_then != first {
        return Ok(None);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Ok(Some(StateHash { index: mark.map_or(0, |mark| mark.index), hash }))
}

fn read_mark(engine: &dyn Engine) -> Result<Option<AppliedMark>, Fault> {
    engine.get(&[Table::Mark as u8])?.as_deref().map(AppliedMark::decode).transpose()
}

/// The file that names the generation in force.
const POINTER: &str = "CURRENT";

fn generation_name(number: u64) -> String {
    format!("{number:020}")
}

fn generation_folder(datadir: &Datadir, number: u64) -> PathBuf {
    datadir.state().join(generation_name(number))
}

fn read_pointer(datadir: &Datadir) -> Result<Option<u64>, Fault> {
    let path = datadir.state().join(POINTER);
    let Some(bytes) = datadir.disk().read(&path, 64)? else {
        // The first pointer is written before the first generation is made.
        let names = datadir.disk().list(&datadir.state())?;
        if !names.iter().any(|name| name.parse::<u64>().is_ok()) {
            return Ok(None);
        }
        return Err(Fault::corrupt(path.display().to_string(), "it is missing beside data"));
    };
    let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Fault::corrupt(path.display().to_string(), "it names no generation"))
}

fn write_pointer(datadir: &Datadir, number: u64) -> Result<(), Fault> {
    let name = format!("{}\n", generation_name(number));
    datadir.disk().replace(&datadir.state().join(POINTER), name.as_bytes())
}

/// Copies a small file, content durable.
fn copy(datadir: &Datadir, from: &std::path::Path, to: &std::path::Path) -> Result<(), Fault> {
    let disk = datadir.disk();
    let (Some(source), Some(target)) = (disk.file(from, false)?, disk.file(to, true)?) else {
        return Err(Fault::io("copy", from, std::io::ErrorKind::NotFound.into()));
    };
    let mut chunk = vec![0; snapshot::CHUNK_BYTES_MAX];
    let mut offset = 0;
    loop {
        let read = source.read_at(offset, &mut chunk)?;
        if read == 0 {
            return target.sync();
        }
        target.write_at(offset, &chunk[..read])?;
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes_io::hex;
    use conclave_domain::command::Command;
    use conclave_domain::id::AccountName;

    #[test]
    fn an_applied_mark_has_the_bytes_it_always_had() {
        let mark = AppliedMark {
            index: 258,
            log_id: Bytes::from("id"),
            membership: Bytes::from("members"),
        };
        let bytes = mark.encode();
        assert_eq!(hex(&bytes), "010000000000000102000000026964000000076d656d62657273253b1a19");
        assert_eq!(AppliedMark::decode(&bytes).unwrap(), mark);
        for len in 0..bytes.len() {
            assert!(AppliedMark::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn history_has_the_bytes_it_always_had() {
        let account = AccountName::new("acme").unwrap();
        let admin = RoleId::from_login(&account, "admin").unwrap();
        let envelope = Envelope {
            request_id: RequestId([9; 16]),
            actor: Actor::Role(admin.clone()),
            at: Timestamp(1_700_000_000_123),
            client_ip: "192.0.2.1".to_owned(),
            body: Command::RemoveMemberNode { node: 7 },
        };
        let events = [Event::MemberRemoved { node: 7 }];
        let value = encode_history(&envelope, &events);
        // The event's own bytes are the domain's business.
        let event = event::codec::encode(&events[0]);
        let head = "010000018bcfe5687b090909090909090909090909090909090000000f\
                    61636d653a757365723a61646d696e000000093139322e302e322e3100000001";
        assert!(hex(&value).starts_with(head), "{}", hex(&value));
        assert_eq!(value.len(), head.len() / 2 + 4 + event.len() + 4);
        assert_eq!(value[head.len() / 2 + 4..value.len() - 4], event);
        let read = decode_history(&keys::history_key(258), &value).unwrap();
        assert_eq!((read.index, read.at), (258, envelope.at));
        assert_eq!((read.role, read.client_ip), (Some(admin), envelope.client_ip));
        assert_eq!(read.events, events);
        for len in 0..value.len() {
            assert!(decode_history(&keys::history_key(258), &value[..len]).is_err());
        }
    }
}
