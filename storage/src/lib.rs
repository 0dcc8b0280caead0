//! The keeping: the log, the state, snapshots, and the cipher. The only room that names RocksDB or
//! the cipher library.
//!
//! The map, in reading order:
//!
//! - [`error`]: one type of [`Fault`]; a fault stops the node, it is never a business answer.
//! - [`disk`] and [`engine`]: what a file system and a database must do here. [`rocks`] is the real
//!   one; [`memory`] is a simulated one that can lose what was not synced.
//! - [`failpoint`]: named points around every durable step, and seeded bugs; compiled in only with
//!   the feature `failpoints`.
//! - [`datadir`], [`format`](mod@format), [`marker`]: a node's data folder, its on-disk version, and the small
//!   file that tells an old disk from a current one.
//! - [`keys`]: every table, key shape and value encoding of the state, in one place.
//! - [`log`]: vote and entries, one fsync for all who wait.
//! - [`state`]: the state machine; effects, history and applied mark in one atomic batch.
//! - [`snapshot`]: checkpoints with checksums; export, resumable import, crash-safe install.
//! - [`seal`]: plaintext to ciphertext and back.
//! - [`backup`]: a snapshot as one encrypted file.
//!
//! Invariants: what [`log::LogStore::sync`] and [`log::LogStore::save_vote`] returned for survives
//! any crash; the state on disk is at every moment the result of a whole number of entries; nothing
//! that fails its checksum is ever used; after the first write error nothing more is written.

pub mod backup;
pub mod datadir;
pub mod disk;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod format;
pub mod keys;
pub mod log;
pub mod marker;
pub mod memory;
pub mod rocks;
pub mod seal;
pub mod snapshot;
pub mod state;

mod bytes_io;

pub use datadir::Datadir;
pub use error::Fault;
pub use failpoint::{FailPoints, SeededBug};
pub use log::{LogRecovery, LogStore, Record};
pub use snapshot::{Manifest, SnapshotFiles, SnapshotImport};
pub use state::{AppliedMark, Entry, EntryKind, StateStore, View};
