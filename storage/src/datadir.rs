//! A node's data folder: where everything lies, that only one process uses it, and that this
//! program knows its format. What is in `node.json` is the node's own business.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, RealDisk};
use crate::error::Fault;
use crate::failpoint::FailPoints;
use crate::format;

/// A data folder held open by this process. Clones share it; the lock goes with the last.
#[derive(Clone)]
pub struct Datadir(Arc<Inner>);

struct Inner {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    points: FailPoints,
    /// Log index of the newest snapshot that is durable here; the log may be purged up to it.
    snapshot_index: AtomicU64,
    _lock: Option<File>,
}

impl Datadir {
    /// Takes a folder (made with mode 0700 when absent), upgrades its format where needed.
    ///
    /// # Errors
    /// [`Fault::Locked`] when another process holds it; [`Fault::TooNew`]; [`Fault::Io`].
    pub fn open(root: &Path, points: FailPoints) -> Result<Self, Fault> {
        RealDisk.create_folder(root)?;
        let root = fs::canonicalize(root).map_err(|error| Fault::io("find", root, error))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Fault::io("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Fault::Locked { path: root }),
            Err(TryLockError::Error(error)) => return Err(Fault::io("lock", &path, error)),
        }
        Self::with(root, Arc::new(RealDisk), points, Some(lock))
    }

    /// Takes a folder on a given disk, without a lock: for simulation.
    ///
    /// # Errors
    /// As [`Datadir::open`].
    pub fn on_disk(disk: Arc<dyn Disk>, root: &Path, points: FailPoints) -> Result<Self, Fault> {
        disk.create_folder(root)?;
        Self::with(root.to_owned(), disk, points, None)
    }

    fn with(
        root: PathBuf,
        disk: Arc<dyn Disk>,
        points: FailPoints,
        lock: Option<File>,
    ) -> Result<Self, Fault> {
        let snapshot_index = AtomicU64::new(0);
        let datadir = Self(Arc::new(Inner { root, disk, points, snapshot_index, _lock: lock }));
        format::bring_up_to_date(&datadir)?;
        Ok(datadir)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The file system it is on.
    pub fn disk(&self) -> &dyn Disk {
        &*self.0.disk
    }

    /// The fail points of whoever uses this folder.
    pub fn fail_points(&self) -> &FailPoints {
        &self.0.points
    }

    /// `log/`: vote and entries.
    pub fn log(&self) -> PathBuf {
        self.0.root.join("log")
    }

    /// `state/`: generations of the state database, and which is in force.
    pub fn state(&self) -> PathBuf {
        self.0.root.join("state")
    }

    /// `snapshots/`: the newest snapshot, and those under way.
    pub fn snapshots(&self) -> PathBuf {
        self.0.root.join("snapshots")
    }

    /// `marker`: see [`crate::marker`].
    pub fn marker(&self) -> PathBuf {
        self.0.root.join("marker")
    }

    /// `format`: see [`crate::format`].
    pub fn format(&self) -> PathBuf {
        self.0.root.join("format")
    }

    /// `root.key`: the root key under this node's master key.
    pub fn root_key(&self) -> PathBuf {
        self.0.root.join("root.key")
    }

    /// `node.key`: this node's own key under its master key.
    pub fn node_key(&self) -> PathBuf {
        self.0.root.join("node.key")
    }

    /// `node.json`: who this node is.
    pub fn node_json(&self) -> PathBuf {
        self.0.root.join("node.json")
    }

    /// `tls/`: certificates on this node.
    pub fn tls(&self) -> PathBuf {
        self.0.root.join("tls")
    }

    /// `audit/`: the spool.
    pub fn audit(&self) -> PathBuf {
        self.0.root.join("audit")
    }

    /// `admin.sock`: where the operator on this machine speaks to the node.
    pub fn admin_socket(&self) -> PathBuf {
        self.0.root.join("admin.sock")
    }

    /// Log index up to which a snapshot is durable here; 0 when there is none.
    pub fn durable_snapshot_index(&self) -> u64 {
        self.0.snapshot_index.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot_is_durable(&self, index: u64) {
        self.0.snapshot_index.fetch_max(index, Ordering::AcqRel);
    }
}
