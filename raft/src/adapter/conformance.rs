//! The engine's own suite for storages, over RocksDB on a real disk and over the simulated disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use conclave_storage::memory::SimDisk;
use conclave_storage::{Datadir, FailPoints, LogStore, SeededBug, StateStore};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

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
    let applied = Arc::new(super::Applied::new(0));
    let log = Log::new(log, flusher, Arc::clone(&hook)).counting_from_0();
    // The suite applies entries that it never appended.
    let synced = Flusher::vouching();
    (log, StateMachine::new(state, applied, synced, hook))
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
        // All on one disk: the suite hands a snapshot's folder from one node to another.
        static DISK: LazyLock<SimDisk> = LazyLock::new(|| SimDisk::new(1));
        static NODES: AtomicU64 = AtomicU64::new(0);
        let disk = DISK.clone();
        let root = format!("/node-{}", NODES.fetch_add(1, Ordering::Relaxed));
        let datadir = Datadir::on_disk(Arc::new(disk.clone()), Path::new(&root), points()).unwrap();
        let (log, machine) = stores(&datadir);
        Ok((disk, log, machine))
    }
}

/// Runs every test of the suite on stores of its own. Some write histories that no cluster can
/// have: a log that begins at 2, entries left out, a purge before anything was applied. The
/// engine's contract forbids them, storage refuses them, and of those the refusal is accepted.
macro_rules! run_suite {
    ($builder:ident, $guard:ty, [$($test:ident),* $(,)?]) => {{
        type Tests = Suite<TypeConfig, Log, StateMachine, $builder, $guard>;
        let mut refused = Vec::new();
        let mut failed = Vec::new();
        $(
            let (guard, log, machine) = $builder.build().await.unwrap();
            match Tests::$test(log, machine).await {
                Ok(()) => {}
                Err(error) if is_refusal(&error.to_string()) => refused.push(stringify!($test)),
                Err(error) => failed.push((stringify!($test), error.to_string())),
            }
            drop(guard);
        )*
        assert!(failed.is_empty(), "{failed:#?}");
        refused
    }};
}

fn is_refusal(text: &str) -> bool {
    [
        "was appended to a log that ends at",
        "was to be applied where",
        "nothing has been applied yet, so no snapshot",
    ]
    .iter()
    .any(|refusal| text.contains(refusal))
}

macro_rules! all_of_it {
    ($builder:ident, $guard:ty) => {
        run_suite!(
            $builder,
            $guard,
            [
                last_membership_in_log_initial,
                last_membership_in_log,
                last_membership_in_log_multi_step,
                get_membership_initial,
                get_membership_from_log_and_empty_sm,
                get_membership_from_empty_log_and_sm,
                get_membership_from_log_le_sm_last_applied,
                get_membership_from_log_gt_sm_last_applied_1,
                get_membership_from_log_gt_sm_last_applied_2,
                get_initial_state_without_init,
                get_initial_state_membership_from_empty_log_and_sm,
                get_initial_state_membership_from_sm_inlog_is_smaller,
                get_initial_state_membership_from_log_insm_is_smaller,
                get_initial_state_with_state,
                get_initial_state_last_log_gt_sm,
                get_initial_state_last_log_lt_sm,
                get_initial_state_inverted_log_order,
                get_initial_state_conflict_at_same_index,
                get_initial_state_log_ids,
                get_initial_state_re_apply_committed,
                save_vote,
                get_log_entries,
                limited_get_log_entries,
                leader_bounded_stream,
                entries_stream,
                try_get_log_entry,
                log_reader_reads_new_entries,
                initial_logs,
                get_log_state,
                get_log_id,
                last_id_in_log,
                last_applied_state,
                purge_logs_upto_0,
                purge_logs_upto_5,
                purge_logs_upto_20,
                delete_logs_after_11,
                delete_logs_after_5,
                delete_logs_after_0,
                delete_logs_after_none,
                append_to_log,
                snapshot_meta,
                snapshot_meta_optional,
                apply_single,
                apply_multiple,
            ]
        )
    };
}

/// The suite's tests that write impossible histories.
const IMPOSSIBLE: [&str; 6] = [
    "get_initial_state_last_log_lt_sm",
    "get_initial_state_inverted_log_order",
    "get_initial_state_conflict_at_same_index",
    "get_initial_state_log_ids",
    "get_initial_state_re_apply_committed",
    "last_applied_state",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rocksdb_passes_the_engines_suite() {
    let refused = all_of_it!(OnRocks, tempfile::TempDir);
    assert_eq!(refused, IMPOSSIBLE);
    Suite::<TypeConfig, Log, StateMachine, OnRocks, _>::transfer_snapshot(&OnRocks).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulated_disk_passes_the_engines_suite() {
    let refused = all_of_it!(InMemory, SimDisk);
    assert_eq!(refused, IMPOSSIBLE);
    Suite::<TypeConfig, Log, StateMachine, InMemory, _>::transfer_snapshot(&InMemory)
        .await
        .unwrap();
}
