//! A simulated disk for deterministic tests: files and databases in memory, whose writes are pending
//! until synced. A crash keeps, of each file and database by itself, a random beginning of what was
//! pending, and may tear the first write that is lost.
//!
//! A [`SimDisk`] survives the crash of its user: handles opened before the crash fail from then on,
//! and a store opened on the disk afterwards finds what the crash left. Everything is drawn from the
//! seed. Single writes can be made to fail.
//!
//! The model: content becomes durable with the file's own sync, names (creation, renaming, removal)
//! with the sync of any file or folder after them, as on a journalling file system. Databases keep
//! a list of pending batches; a torn batch counts as absent, as a write-ahead log's checksum makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bytes_io::{Reader, put_bytes};
use crate::disk::{Disk, DiskFile};
use crate::engine::{Batch, BatchWrite, Counters, Durability, Engine, Profile, Visit};
use crate::error::Fault;

/// The file that a simulated database's checkpoint consists of.
const CHECKPOINT_FILE: &str = "DATA";

/// How many changes stay pending at most.
const PENDING_MAX: usize = 8192;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Simulated>>);

struct Simulated {
    seed: u64,
    /// Moves with every crash; handles from before it are dead.
    epoch: u64,
    live: Tree,
    durable: Tree,
    /// What the durable tree lacks, oldest first.
    pending: Vec<Change>,
    counters: Counters,
    fail_writes_in: Option<u32>,
    fail_syncs_in: Option<u32>,
}

#[derive(Clone, Default)]
struct Tree {
    files: BTreeMap<PathBuf, Vec<u8>>,
    databases: BTreeMap<PathBuf, Rows>,
}

#[derive(Clone)]
enum Change {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Resize(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    OpenDatabase(PathBuf, Rows),
    Batch(PathBuf, Batch),
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Simulated {
            seed,
            epoch: 0,
            live: Tree::default(),
            durable: Tree::default(),
            pending: Vec::new(),
            counters: Counters::default(),
            fail_writes_in: None,
            fail_syncs_in: None,
        })))
    }

    /// Power cut: of what was pending a random beginning stays, the rest is gone. Every handle open
    /// now fails from here on. The same seed and history give the same disk.
    pub fn crash(&self, seed: u64) {
        let mut disk = self.lock();
        disk.seed ^= seed;
        let pending = std::mem::take(&mut disk.pending);
        let mut draw = |bound: usize| {
            let drawn = below(&mut disk.seed, bound as u64 + 1);
            usize::try_from(drawn).unwrap_or(bound)
        };
        let names_kept = draw(pending.len());
        let mut kept: BTreeMap<&Path, usize> = BTreeMap::new();
        for change in pending.iter().filter(|change| !change.is_name()) {
            kept.entry(change.path()).or_insert_with(|| draw(pending.len()));
        }
        // The system writes pages of different files back in any order, and names in theirs.
        let mut survives = Vec::new();
        let mut lost_names: Vec<&Change> = Vec::new();
        let mut torn: BTreeSet<&Path> = BTreeSet::new();
        for (at, change) in pending.iter().enumerate() {
            let path = change.path();
            if change.is_name() {
                if at < names_kept {
                    survives.push(change.clone());
                } else {
                    lost_names.push(change);
                }
            } else if lost_names.iter().any(|name| name.concerns(path)) {
                // It was written to what that name stood for only afterwards.
            } else if at < kept.get(path).copied().unwrap_or(0) {
                survives.push(change.clone());
            } else if let Change::Write(_, offset, bytes) = change
                && torn.insert(path)
            {
                let bytes = bytes[..draw(bytes.len())].to_vec();
                survives.push(Change::Write(path.to_owned(), *offset, bytes));
            }
        }
        for change in &survives {
            disk.durable.change(change);
        }
        disk.live = disk.durable.clone();
        disk.epoch += 1;
        disk.fail_writes_in = None;
        disk.fail_syncs_in = None;
    }

    /// Process kill: nothing is lost, but every handle open now fails from here on.
    pub fn kill(&self) {
        self.lock().epoch += 1;
    }

    /// Makes the n-th write from now fail (1 is the next), as on a full disk.
    pub fn fail_write(&self, nth: u32) {
        self.lock().fail_writes_in = Some(nth.max(1));
    }

    /// Makes the n-th sync from now fail (1 is the next); what it should have synced stays pending.
    pub fn fail_sync(&self, nth: u32) {
        self.lock().fail_syncs_in = Some(nth.max(1));
    }

    /// Flips one bit somewhere in the content of files and databases under a path. Gives whether
    /// there was any.
    pub fn corrupt(&self, under: &Path, seed: u64) -> bool {
        let mut disk = self.lock();
        disk.seed ^= seed;
        let mut seed = disk.seed;
        let mut contents: Vec<&mut Vec<u8>> = Vec::new();
        let live = &mut disk.live;
        contents.extend(
            live.files.iter_mut().filter(|(path, _)| path.starts_with(under)).map(|(_, v)| v),
        );
        contents.extend(
            live.databases
                .iter_mut()
                .filter(|(path, _)| path.starts_with(under))
                .flat_map(|(_, rows)| rows.values_mut()),
        );
        contents.retain(|content| !content.is_empty());
        if contents.is_empty() {
            return false;
        }
        let chosen = usize::try_from(below(&mut seed, contents.len() as u64)).unwrap_or(0);
        let content = &mut *contents[chosen];
        let at = usize::try_from(below(&mut seed, content.len() as u64)).unwrap_or(0);
        content[at] ^= 1 << below(&mut seed, 8);
        disk.durable = disk.live.clone();
        disk.pending.clear();
        disk.seed = seed;
        true
    }

    /// A copy of what is durable now, as taken by an operator who copies the disk's image.
    #[must_use]
    pub fn image(&self, seed: u64) -> Self {
        let copy = Self::new(seed);
        {
            let disk = self.lock();
            let mut target = copy.lock();
            target.durable = disk.durable.clone();
            target.live = disk.durable.clone();
        }
        copy
    }

    fn lock(&self) -> MutexGuard<'_, Simulated> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn engine(&self, folder: &Path, _profile: Profile) -> Result<Arc<dyn Engine>, Fault> {
        let mut disk = self.lock();
        if !disk.live.databases.contains_key(folder) {
            let rows = match disk.live.files.get(&folder.join(CHECKPOINT_FILE)) {
                Some(bytes) => read_rows(bytes)?,
                None => Rows::new(),
            };
            disk.change(Change::OpenDatabase(folder.to_owned(), rows));
        }
        let epoch = disk.epoch;
        Ok(Arc::new(SimEngine { disk: self.clone(), folder: folder.to_owned(), epoch }))
    }

    fn peek(&self, folder: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let disk = self.lock();
        let Some(bytes) = disk.live.files.get(&folder.join(CHECKPOINT_FILE)) else {
            return Ok(None);
        };
        Ok(read_rows(bytes)?.remove(key))
    }

    fn file(&self, path: &Path, create: bool) -> Result<Option<Box<dyn DiskFile>>, Fault> {
        let mut disk = self.lock();
        if !disk.live.files.contains_key(path) {
            if !create {
                return Ok(None);
            }
            disk.change(Change::Create(path.to_owned()));
        }
        let epoch = disk.epoch;
        Ok(Some(Box::new(SimFile { disk: self.clone(), path: path.to_owned(), epoch })))
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Fault> {
        let disk = self.lock();
        let paths = disk.live.files.keys().chain(disk.live.databases.keys());
        let mut names: Vec<String> = paths
            .filter_map(|path| path.strip_prefix(folder).ok()?.components().next())
            .map(|name| name.as_os_str().to_string_lossy().into_owned())
            .collect();
        if disk.live.databases.contains_key(folder) {
            names.push("CURRENT".to_owned());
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn create_folder(&self, _folder: &Path) -> Result<(), Fault> {
        // Folders exist by what is in them.
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        self.lock().change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        let mut disk = self.lock();
        let Some(bytes) = disk.live.files.get(from).cloned() else {
            return Err(Fault::io("link", from, std::io::ErrorKind::NotFound.into()));
        };
        disk.change(Change::Create(to.to_owned()));
        disk.change(Change::Write(to.to_owned(), 0, bytes));
        disk.sync_content(to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Fault> {
        self.lock().change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> Result<(), Fault> {
        let mut disk = self.lock();
        disk.take_sync_failure(folder)?;
        disk.sync_names();
        Ok(())
    }

    fn random(&self, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut disk = self.lock();
        for byte in buffer {
            *byte = u8::try_from(below(&mut disk.seed, 256)).unwrap_or(0);
        }
        Ok(())
    }
}

struct SimEngine {
    disk: SimDisk,
    folder: PathBuf,
    epoch: u64,
}

impl SimEngine {
    fn live(&self) -> Result<MutexGuard<'_, Simulated>, Fault> {
        let disk = self.disk.lock();
        if disk.epoch == self.epoch {
            Ok(disk)
        } else {
            Err(Fault::Stopped { path: self.folder.clone() })
        }
    }
}

impl Engine for SimEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let disk = self.live()?;
        Ok(disk.live.databases.get(&self.folder).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault> {
        if from >= to {
            return Ok(());
        }
        let rows: Vec<(Vec<u8>, Vec<u8>)> = {
            let disk = self.live()?;
            let bounds = (Bound::Included(from), Bound::Excluded(to));
            let Some(rows) = disk.live.databases.get(&self.folder) else { return Ok(()) };
            rows.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        for (key, value) in rows {
            if visit(&key, &value)? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), Fault> {
        let mut disk = self.live()?;
        disk.take_write_failure(&self.folder)?;
        disk.change(Change::Batch(self.folder.clone(), batch.clone()));
        disk.counters.writes += 1;
        disk.counters.bytes += batch.bytes() as u64;
        if durability == Durability::Synced {
            disk.take_sync_failure(&self.folder)?;
            disk.sync_content(&self.folder);
            disk.counters.syncs += 1;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fault> {
        let mut disk = self.live()?;
        disk.take_sync_failure(&self.folder)?;
        disk.sync_content(&self.folder);
        disk.counters.syncs += 1;
        Ok(())
    }

    fn checkpoint(&self, folder: &Path) -> Result<(), Fault> {
        let mut disk = self.live()?;
        disk.take_sync_failure(&self.folder)?;
        disk.sync_content(&self.folder);
        let mut bytes = Vec::new();
        for (key, value) in disk.live.databases.get(&self.folder).into_iter().flatten() {
            put_bytes(&mut bytes, key);
            put_bytes(&mut bytes, value);
        }
        let path = folder.join(CHECKPOINT_FILE);
        disk.change(Change::Create(path.clone()));
        disk.change(Change::Write(path, 0, bytes));
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.disk.lock().counters
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    epoch: u64,
}

impl SimFile {
    fn live(&self) -> Result<MutexGuard<'_, Simulated>, Fault> {
        let disk = self.disk.lock();
        if disk.epoch == self.epoch && disk.live.files.contains_key(&self.path) {
            Ok(disk)
        } else {
            Err(Fault::Stopped { path: self.path.clone() })
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Fault> {
        let disk = self.live()?;
        let content = disk.live.files.get(&self.path).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let len = buffer.len().min(content.len() - from);
        buffer[..len].copy_from_slice(&content[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut disk = self.live()?;
        disk.take_write_failure(&self.path)?;
        disk.change(Change::Write(self.path.clone(), offset, bytes.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Fault> {
        self.live()?.change(Change::Resize(self.path.clone(), len));
        Ok(())
    }

    fn len(&self) -> Result<u64, Fault> {
        let disk = self.live()?;
        Ok(disk.live.files.get(&self.path).map_or(0, Vec::len) as u64)
    }

    fn sync(&self) -> Result<(), Fault> {
        let mut disk = self.live()?;
        disk.take_sync_failure(&self.path)?;
        disk.sync_content(&self.path);
        Ok(())
    }
}

impl Simulated {
    fn change(&mut self, change: Change) {
        self.live.change(&change);
        self.pending.push(change);
        if self.pending.len() > PENDING_MAX {
            // The system writes old pages back on its own.
            for change in self.pending.drain(..PENDING_MAX / 2) {
                self.durable.change(&change);
            }
        }
    }

    /// Makes durable the content of one file or database, and all names before it.
    fn sync_content(&mut self, path: &Path) {
        self.sync_where(|change| change.is_name() || change.path() == path);
    }

    fn sync_names(&mut self) {
        self.sync_where(Change::is_name);
    }

    fn sync_where(&mut self, mut synced: impl FnMut(&Change) -> bool) {
        // Content pending under a name that is about to be renamed or removed goes with it: the
        // order of changes to one path is kept.
        let mut rest = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            if synced(&change) {
                if let Change::Rename(from, to) = &change {
                    for earlier in &mut rest {
                        rename_change(earlier, from, to);
                    }
                } else if let Change::Remove(path) = &change {
                    rest.retain(|earlier: &Change| !earlier.path().starts_with(path));
                }
                self.durable.change(&change);
            } else {
                rest.push(change);
            }
        }
        self.pending = rest;
    }

    fn take_write_failure(&mut self, path: &Path) -> Result<(), Fault> {
        if countdown(&mut self.fail_writes_in) {
            return Err(Fault::io("write", path, std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn take_sync_failure(&mut self, path: &Path) -> Result<(), Fault> {
        if countdown(&mut self.fail_syncs_in) {
            return Err(Fault::io("sync", path, std::io::Error::other("injected")));
        }
        Ok(())
    }
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Create(path)
            | Self::Write(path, ..)
            | Self::Resize(path, _)
            | Self::Rename(path, _)
            | Self::Remove(path)
            | Self::OpenDatabase(path, _)
            | Self::Batch(path, _) => path,
        }
    }

    /// Whether a change of names touches what lies at a path.
    fn concerns(&self, path: &Path) -> bool {
        match self {
            Self::Rename(from, to) => path.starts_with(from) || path.starts_with(to),
            Self::Create(_)
            | Self::Write(..)
            | Self::Resize(..)
            | Self::Remove(_)
            | Self::OpenDatabase(..)
            | Self::Batch(..) => path.starts_with(self.path()),
        }
    }

    fn is_name(&self) -> bool {
        matches!(
            self,
            Self::Create(_) | Self::Rename(..) | Self::Remove(_) | Self::OpenDatabase(..)
        )
    }
}

impl Tree {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Create(path) => {
                self.files.entry(path.clone()).or_default();
            }
            Change::Write(path, offset, bytes) => {
                let Some(content) = self.files.get_mut(path) else { return };
                let start = usize::try_from(*offset).unwrap_or(usize::MAX);
                let end = start + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(bytes);
            }
            Change::Resize(path, len) => {
                if let Some(content) = self.files.get_mut(path) {
                    content.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0);
                }
            }
            Change::Rename(from, to) => {
                rename_keys(&mut self.files, from, to);
                rename_keys(&mut self.databases, from, to);
            }
            Change::Remove(path) => {
                self.files.retain(|file, _| !file.starts_with(path));
                self.databases.retain(|folder, _| !folder.starts_with(path));
            }
            Change::OpenDatabase(folder, rows) => {
                self.databases.entry(folder.clone()).or_insert_with(|| rows.clone());
            }
            Change::Batch(folder, batch) => {
                let Some(rows) = self.databases.get_mut(folder) else { return };
                for write in batch.iter() {
                    match write {
                        BatchWrite::Put(key, value) => {
                            rows.insert(key.to_vec(), value.to_vec());
                        }
                        BatchWrite::Delete(key) => {
                            rows.remove(key);
                        }
                        BatchWrite::DeleteRange(from, to) => {
                            let range = (Bound::Included(from), Bound::Excluded(to));
                            let keys = rows.range::<[u8], _>(range).map(|(key, _)| key.clone());
                            for key in keys.collect::<Vec<_>>() {
                                rows.remove(&key);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rename_keys<T>(entries: &mut BTreeMap<PathBuf, T>, from: &Path, to: &Path) {
    let moved: Vec<PathBuf> =
        entries.keys().filter(|path| path.starts_with(from)).cloned().collect();
    for path in moved {
        if let (Some(entry), Some(target)) = (entries.remove(&path), renamed(&path, from, to)) {
            entries.insert(target, entry);
        }
    }
}

fn rename_change(change: &mut Change, from: &Path, to: &Path) {
    if let Change::Write(path, ..) | Change::Resize(path, _) | Change::Batch(path, _) = change
        && let Some(target) = renamed(path, from, to)
    {
        *path = target;
    }
}

fn renamed(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

fn read_rows(bytes: &[u8]) -> Result<Rows, Fault> {
    let mut reader = Reader::new(bytes, "a simulated checkpoint");
    let mut rows = Rows::new();
    while !reader.is_empty() {
        let key = reader.bytes()?.to_vec();
        rows.insert(key, reader.bytes()?.to_vec());
    }
    Ok(rows)
}

/// True at the moment the count runs out.
fn countdown(count: &mut Option<u32>) -> bool {
    match count {
        Some(1) => {
            *count = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

/// A number below `bound` from a splitmix64 sequence.
fn below(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % bound.max(1)
}
