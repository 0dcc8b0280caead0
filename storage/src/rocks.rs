//! RocksDB as an [`Engine`]. One keyspace, one write-ahead log a database.
//!
//! Recovery tolerates a torn tail and nothing else: a damaged record with whole ones after it, a
//! missing write-ahead log, a block whose checksum fails, are errors. Background errors are never
//! resumed from: after the first failed write the engine is stopped and the node with it; the next
//! start verifies what is there.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, ErrorKind, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::engine::{Batch, BatchWrite, Counters, Durability, Engine, Profile, Visit};
use crate::error::Fault;

/// Bytes of decompressed blocks of the state kept in memory.
const STATE_CACHE_BYTES: usize = 128 << 20;
/// Bytes of fresh rows of the state held in memory before they are written out.
const STATE_MEMTABLE_BYTES: usize = 64 << 20;
/// As above, for the log: what is purged before that never becomes a table file.
const LOG_MEMTABLE_BYTES: usize = 64 << 20;
const LOG_CACHE_BYTES: usize = 8 << 20;

/// What the crate has no setter for. A row is sought from where the last one of its table, which is its
/// key's first byte, was put: many tables grow at their end only.
const MORE_OPTIONS: &str =
    "max_bgerror_resume_count=0;memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.1";

/// One open RocksDB.
pub struct Rocks {
    db: DB,
    folder: PathBuf,
    stopped: AtomicBool,
    writes: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Rocks {
    /// Opens the database in a folder, made when absent.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when files are damaged or missing, [`Fault::Database`] otherwise.
    pub fn open(folder: &Path, profile: Profile) -> Result<Self, Fault> {
        let fault = |error| fault(folder, &error);
        let options = options(profile).map_err(fault)?;
        let db = DB::open(&options, folder).map_err(fault)?;
        Ok(Self {
            db,
            folder: folder.to_owned(),
            stopped: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        })
    }

    fn check_running(&self) -> Result<(), Fault> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Fault::Stopped { path: self.folder.clone() });
        }
        Ok(())
    }

    fn stop(&self, error: &rocksdb::Error) -> Fault {
        self.stopped.store(true, Ordering::Release);
        fault(&self.folder, error)
    }
}

impl Engine for Rocks {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.db.get(key).map_err(|error| fault(&self.folder, &error))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_readahead_size(1 << 20);
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if visit(key, value)? == ControlFlow::Break(()) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|error| fault(&self.folder, &error))
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), Fault> {
        self.check_running()?;
        let mut writes = WriteBatch::with_capacity_bytes(batch.bytes() + 16 * batch.len() + 16);
        for write in batch.iter() {
            match write {
                BatchWrite::Put(key, value) => writes.put(key, value),
                BatchWrite::Delete(key) => writes.delete(key),
                BatchWrite::DeleteRange(from, to) => writes.delete_range(from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(writes, &options).map_err(|error| self.stop(&error))?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        if durability == Durability::Synced {
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Fault> {
        self.check_running()?;
        self.db.flush_wal(true).map_err(|error| self.stop(&error))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint(&self, folder: &Path) -> Result<(), Fault> {
        self.check_running()?;
        // The checkpoint flushes the memtable first: with it, the database itself is durable up to
        // at least the moment of the copy.
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(folder))
            .map_err(|error| self.stop(&error))
    }

    fn counters(&self) -> Counters {
        Counters {
            writes: self.writes.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
        }
    }
}

/// The value of one key of the database in a folder, opened read-only for that.
pub(crate) fn peek(folder: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let fault = |error| fault(folder, &error);
    let options = options(Profile::State).map_err(fault)?;
    let db = DB::open_for_read_only(&options, folder, false).map_err(fault)?;
    db.get(key).map_err(fault)
}

fn options(profile: Profile) -> Result<Options, rocksdb::Error> {
    // Options from text come first: what they return starts from the defaults they were given.
    let mut options = Options::default().get_options_from_string(MORE_OPTIONS)?;
    options.create_if_missing(true);
    // After a power cut both must be a prefix of what was written, and no more. The tail of the log
    // can be torn in the middle of a record that is there in full length, which no other mode forgives.
    // That all that was synced is in that prefix, the marker knows (`crate::marker`); the state is not
    // synced, and what follows a hole would move the applied mark past effects that are lost.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(512);

    let mut blocks = BlockBasedOptions::default();
    blocks.set_format_version(6);
    blocks.set_block_size(16 << 10);
    match profile {
        Profile::Log => {
            blocks.set_block_cache(&Cache::new_lru_cache(LOG_CACHE_BYTES));
            options.set_write_buffer_size(LOG_MEMTABLE_BYTES);
            options.set_max_write_buffer_number(3);
            options.set_compression_type(DBCompressionType::None);
        }
        Profile::State => {
            blocks.set_block_cache(&Cache::new_lru_cache(STATE_CACHE_BYTES));
            blocks.set_bloom_filter(10.0, false);
            options.set_write_buffer_size(STATE_MEMTABLE_BYTES);
            options.set_max_write_buffer_number(3);
            options.set_compression_type(DBCompressionType::Lz4);
        }
    }
    options.set_block_based_table_factory(&blocks);
    Ok(options)
}

fn fault(folder: &Path, error: &rocksdb::Error) -> Fault {
    if error.kind() == ErrorKind::Corruption {
        return Fault::corrupt(format!("database {}", folder.display()), error.to_string());
    }
    Fault::Database { path: folder.to_owned(), message: error.to_string() }
}
