//! Snapshots on RocksDB and on the simulated disk: built, sent, resumed, installed, superseded.

use std::sync::Arc;

use conclave_domain::records::{Sealed, Version};
use conclave_storage::memory::SimDisk;
use conclave_storage::{Datadir, Fault, LogStore, SnapshotImport, StateStore};

use crate::crash::receive;
use crate::fixtures::{found, real, record, set_secret, simulated, variable};

fn on_both(check: impl Fn(&Datadir, &Datadir)) {
    let (one, two) = (SimDisk::new(1), SimDisk::new(2));
    check(&simulated(&one).0, &simulated(&two).0);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    check(&real(one.path()), &real(two.path()));
}

fn filled(datadir: &Datadir, upto: u64) -> StateStore {
    let store = StateStore::open(datadir).unwrap();
    found(&store);
    store.apply(&(4..=upto).map(set_secret).collect::<Vec<_>>()).unwrap();
    store
}

#[test]
fn a_snapshot_travels_and_becomes_the_same_state() {
    on_both(|one, two| {
        let leader = filled(one, 500);
        let snapshot = leader.snapshot_build().unwrap();
        assert_eq!(Some(snapshot.mark()), leader.applied().as_ref());
        assert_eq!(one.durable_snapshot_index(), 500);
        snapshot.verify().unwrap();
        // Applying goes on after the checkpoint and is not in it.
        leader.apply(&[set_secret(501)]).unwrap();

        let learner = StateStore::open(two).unwrap();
        let received = receive(two, &snapshot, &snapshot.manifest().encode()).unwrap();
        learner.snapshot_install(&received).unwrap();
        assert_eq!(learner.applied_index(), 500);
        learner.apply(&[set_secret(501)]).unwrap();
        assert_eq!(learner.state_hash().unwrap(), leader.state_hash().unwrap());
        let newest = learner.current_snapshot().unwrap();
        assert_eq!(newest.manifest(), snapshot.manifest());
        newest.verify().unwrap();
        drop((learner, newest, received));

        let learner = StateStore::open(two).unwrap();
        assert_eq!(learner.state_hash().unwrap(), leader.state_hash().unwrap());
        assert_eq!(two.durable_snapshot_index(), 500);
        let value = learner.read(|view| view.secret_value(&variable(), Version(499)).unwrap());
        assert_eq!(value, Some(Sealed(b"sealed 501".to_vec())));
    });
}

#[test]
fn an_import_is_resumed_where_it_stopped() {
    on_both(|one, two| {
        let snapshot = filled(one, 300).snapshot_build().unwrap();
        let manifest = snapshot.manifest().encode();
        let mut import = SnapshotImport::begin(two, &manifest).unwrap();
        let (file, offset) = import.next().unwrap();
        let chunk = snapshot.read_chunk(file, offset, 100).unwrap();
        assert!(matches!(import.write_chunk(file, 1, &chunk), Err(Fault::Order(_))));
        import.write_chunk(file, offset, &chunk).unwrap();
        let reached = import.next();
        drop(import);
        let import = SnapshotImport::begin(two, &manifest).unwrap();
        assert_eq!(import.next(), reached);
        assert!(matches!(import.finish(), Err(Fault::Order(_))));
        receive(two, &snapshot, &manifest).unwrap();
    });
}

#[test]
fn a_damaged_chunk_is_found_and_the_import_thrown_away() {
    on_both(|one, two| {
        let snapshot = filled(one, 300).snapshot_build().unwrap();
        let manifest = snapshot.manifest().encode();
        let mut import = SnapshotImport::begin(two, &manifest).unwrap();
        let mut first = true;
        while let Some((file, offset)) = import.next() {
            let mut chunk = snapshot.read_chunk(file, offset, 1000).unwrap();
            if std::mem::take(&mut first) {
                chunk[0] ^= 1;
            }
            import.write_chunk(file, offset, &chunk).unwrap();
        }
        assert!(matches!(import.finish(), Err(Fault::Corrupt { .. })));
        receive(two, &snapshot, &manifest).unwrap();
    });
}

#[test]
fn an_older_snapshot_is_not_installed() {
    on_both(|one, two| {
        let snapshot = filled(one, 100).snapshot_build().unwrap();
        let newer = filled(two, 200);
        let received = receive(two, &snapshot, &snapshot.manifest().encode()).unwrap();
        assert!(matches!(newer.snapshot_install(&received), Err(Fault::Order(_))));
        assert_eq!(newer.applied_index(), 200);
    });
}

#[test]
fn an_older_snapshot_installed_by_a_seeded_bug_is_noticed() {
    let (one, two) = (SimDisk::new(1), SimDisk::new(2));
    let snapshot = filled(&simulated(&one).0, 100).snapshot_build().unwrap();
    let (datadir, points) = simulated(&two);
    let newer = filled(&datadir, 200);
    points.arm("bug=install_over_newer").unwrap();
    let received = receive(&datadir, &snapshot, &snapshot.manifest().encode()).unwrap();
    newer.snapshot_install(&received).unwrap();
    assert!(newer.applied_index() < 200, "the applied index went back");
}

#[test]
fn only_the_newest_snapshot_is_kept_and_readers_are_not_disturbed() {
    on_both(|one, _| {
        let store = filled(one, 50);
        let old = store.snapshot_build().unwrap();
        store.apply(&[set_secret(51)]).unwrap();
        let new = store.snapshot_build().unwrap();
        let file = old.manifest().files.iter().position(|file| file.len > 0).unwrap();
        assert!(!old.read_chunk(file, 0, 10).unwrap().is_empty());
        drop(old);
        let names = one.disk().list(&one.snapshots()).unwrap();
        assert_eq!(names, [new.folder().file_name().unwrap().to_str().unwrap()]);
        assert_eq!(Arc::strong_count(&new), 2);
    });
}

#[test]
fn the_log_is_purged_up_to_the_snapshot() {
    on_both(|one, _| {
        let (log, _) = LogStore::open(one).unwrap();
        for index in 0..=50 {
            log.append(&[record(index)]).unwrap();
        }
        log.sync().unwrap();
        let store = filled(one, 50);
        let snapshot = store.snapshot_build().unwrap();
        log.purge_upto(40, b"id-40").unwrap();
        assert!(matches!(log.purge_upto(60, b"id-60"), Err(Fault::Order(_))));
        log.purge_upto(snapshot.mark().index, &snapshot.mark().log_id).unwrap();
        log.check_reaches(Some(50)).unwrap();
    });
}
