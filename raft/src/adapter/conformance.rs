//! The engine's own suite for storages, over RocksDB on a real disk and over the simulated disk.

use std::path::Path;
use std::sync::Arc;

use conclave_storage::memory::SimDisk;
use conclave_storage::{Datadir, FailPoints, LogStore, SeededBug, StateStore};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::watch;

use super::{FaultHook, Flusher, Log, StateMachine};
use crate::types::{NodeInfo, NodeRole, TypeConfig};

impl Default for NodeInfo {
    fn default() -> Self {
        Self {
            name: String::new(),
            role: NodeRole::Voter,
            node_key: [0; 32],
            peer_address: String::new(),
            api_url: String::new(),
        }
    }
}

fn stores(datadir: &Datadir) -> (Log, StateMachine) {
    let hook: FaultHook = Arc::new(|text| eprintln!("fault: {text}"));
    let (log, _) = LogStore::open(datadir).unwrap();
    let log = Arc::new(log);
    let flusher = Flusher::thread(Arc::clone(&log), Arc::clone(&hook)).unwrap();
    let state = StateStore::open(datadir).unwrap();
    let applied = Arc::new(watch::Sender::new(0));
    let log = Log::new(log, flusher, Arc::clone(&hook)).counting_from_0();
    (log, StateMachine::new(state, applied, hook))
}

/// The suite purges without a snapshot, which storage rightly refuses; let it.
fn points() -> FailPoints {
    let points = FailPoints::new();
    points.seed_bug(SeededBug::PurgeBeforeSnapshot);
    points
}

struct OnRocks;

impl StoreBuilder<TypeConfig, Log, StateMachine, tempfile::TempDir> for OnRocks {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, Log, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let datadir = Datadir::open(folder.path(), points()).unwrap();
        let (log, machine) = stores(&datadir);
        Ok((folder, log, machine))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, Log, StateMachine, SimDisk> for InMemory {
    async fn build(&self) -> Result<(SimDisk, Log, StateMachine), StorageError<TypeConfig>> {
        let disk = SimDisk::new(1);
        let datadir =
            Datadir::on_disk(Arc::new(disk.clone()), Path::new("/node"), points()).unwrap();
        let (log, machine) = stores(&datadir);
        Ok((disk, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rocksdb_passes_the_engines_suite() {
    Suite::test_all(OnRocks).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulated_disk_passes_the_engines_suite() {
    Suite::test_all(InMemory).await.unwrap();
}
