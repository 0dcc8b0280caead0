//! The log on a simulated disk and on RocksDB: one suite for both.

use bytes::Bytes;
use conclave_storage::marker::{Progress, Standing, Verdict};
use conclave_storage::memory::SimDisk;
use conclave_storage::{Datadir, Fault, LogStore, Record};

use crate::fixtures::{real, record, records, simulated};

fn on_both(check: impl Fn(&dyn Fn() -> Datadir)) {
    let disk = SimDisk::new(1);
    check(&|| simulated(&disk).0);
    let folder = tempfile::tempdir().unwrap();
    check(&|| real(folder.path()));
}

fn indexes(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.index).collect()
}

#[test]
fn what_was_appended_is_read_back_after_reopening() {
    on_both(|datadir| {
        let (log, found) = LogStore::open(&datadir()).unwrap();
        assert_eq!((found.last, found.opens), (None, 1));
        assert_eq!(log.vote(), None);
        log.save_vote(b"term 1").unwrap();
        log.append(&records(0..=4)).unwrap();
        log.append(&records(5..=9)).unwrap();
        assert_eq!(log.read(0..100, usize::MAX).unwrap(), records(0..=9));
        log.save_committed(b"id-7").unwrap();
        log.sync().unwrap();
        drop(log);
        let (log, found) = LogStore::open(&datadir()).unwrap();
        assert_eq!((found.entries, found.opens), (10, 2));
        assert_eq!(log.last(), Some((9, Bytes::from("id-9"))));
        assert_eq!(log.vote(), Some(Bytes::from("term 1")));
        assert_eq!(log.read_committed().unwrap(), Some(Bytes::from("id-7")));
        assert_eq!(log.read(3..6, usize::MAX).unwrap(), records(3..=5));
    });
}

#[test]
fn entries_out_of_order_are_refused() {
    on_both(|datadir| {
        let (log, _) = LogStore::open(&datadir()).unwrap();
        assert!(matches!(log.append(&[record(2)]), Err(Fault::Order(_))));
        log.append(&[record(1)]).unwrap();
        assert!(matches!(log.append(&[record(3)]), Err(Fault::Order(_))));
        assert!(matches!(log.append(&[record(2), record(4)]), Err(Fault::Order(_))));
        assert_eq!(indexes(&log.read(0..9, usize::MAX).unwrap()), [1]);
    });
}

#[test]
fn reads_are_bounded_by_bytes_and_give_at_least_one() {
    on_both(|datadir| {
        let (log, _) = LogStore::open(&datadir()).unwrap();
        log.append(&records(1..=9)).unwrap();
        assert_eq!(indexes(&log.read(2..9, 1).unwrap()), [2]);
        assert_eq!(indexes(&log.read(2..9, 40).unwrap()), [2, 3]);
        assert_eq!(indexes(&log.read(9..9, 40).unwrap()), [0_u64; 0]);
    });
}

#[test]
fn a_truncated_log_goes_on_from_where_it_was_cut() {
    on_both(|datadir| {
        let (log, _) = LogStore::open(&datadir()).unwrap();
        log.append(&records(0..=9)).unwrap();
        log.sync().unwrap();
        log.truncate_after(Some(5)).unwrap();
        let other = Record { payload: Bytes::from("another history"), ..record(6) };
        log.append(std::slice::from_ref(&other)).unwrap();
        log.sync().unwrap();
        drop(log);
        let (log, found) = LogStore::open(&datadir()).unwrap();
        assert_eq!(found.last, Some((6, Bytes::from("id-6"))));
        assert_eq!(log.read(6..7, usize::MAX).unwrap(), [other]);
        log.truncate_after(None).unwrap();
        assert_eq!(log.last(), None);
        log.append(&records(0..=2)).unwrap();
        drop(log);
        let (log, _) = LogStore::open(&datadir()).unwrap();
        assert_eq!(indexes(&log.read(0..9, usize::MAX).unwrap()), [0, 1, 2]);
    });
}

#[test]
fn the_log_is_purged_only_as_far_as_a_snapshot_is_on_disk() {
    let disk = SimDisk::new(1);
    let (datadir, points) = simulated(&disk);
    let (log, _) = LogStore::open(&datadir).unwrap();
    log.append(&records(0..=9)).unwrap();
    assert!(matches!(log.purge_upto(5, b"id-5"), Err(Fault::Order(_))));
    assert_eq!(log.last_purged(), None);
    points.arm("bug=purge_before_snapshot").unwrap();
    log.purge_upto(5, b"id-5").unwrap();
    assert_eq!(log.last_purged(), Some((5, Bytes::from("id-5"))));
    assert_eq!(indexes(&log.read(0..20, usize::MAX).unwrap()), [6, 7, 8, 9]);
    assert!(matches!(log.check_reaches(Some(4)), Err(Fault::OldDisk { .. })));
    assert!(matches!(log.check_reaches(None), Err(Fault::OldDisk { .. })));
    log.check_reaches(Some(5)).unwrap();
    log.truncate_after(Some(5)).unwrap();
    log.append(&records(6..=7)).unwrap();
    // A snapshot from the leader lets the log jump ahead.
    log.purge_upto(100, b"id-100").unwrap();
    assert_eq!(log.last(), Some((100, Bytes::from("id-100"))));
    log.append(&records(101..=103)).unwrap();
    log.sync().unwrap();
    disk.crash(3);
    let (log, _) = LogStore::open(&simulated(&disk).0).unwrap();
    assert_eq!(indexes(&log.read(0..200, usize::MAX).unwrap()), [101, 102, 103]);
    assert_eq!(log.last_purged(), Some((100, Bytes::from("id-100"))));
}

#[test]
fn a_purge_into_another_history_forgets_all_of_it() {
    let disk = SimDisk::new(1);
    let (datadir, points) = simulated(&disk);
    points.arm("bug=purge_before_snapshot").unwrap();
    let (log, _) = LogStore::open(&datadir).unwrap();
    log.append(&records(0..=9)).unwrap();
    log.sync().unwrap();
    log.purge_upto(5, b"of another leader").unwrap();
    assert_eq!(log.last(), Some((5, Bytes::from("of another leader"))));
    assert_eq!(indexes(&log.read(0..20, usize::MAX).unwrap()), [0; 0]);
    log.append(&records(6..=7)).unwrap();
    log.sync().unwrap();
    disk.crash(3);
    let (log, _) = LogStore::open(&simulated(&disk).0).unwrap();
    assert_eq!(indexes(&log.read(0..20, usize::MAX).unwrap()), [6, 7]);
}

#[test]
fn entries_beyond_the_cache_come_from_the_disk() {
    on_both(|datadir| {
        let (log, _) = LogStore::open(&datadir()).unwrap();
        let large = |index| Record { payload: vec![7; 9 << 20].into(), ..record(index) };
        for index in 1..=9 {
            log.append(&[large(index)]).unwrap();
        }
        assert_eq!(log.read(1..3, usize::MAX).unwrap(), [large(1), large(2)]);
        log.truncate_after(Some(2)).unwrap();
        assert_eq!(log.last(), Some((2, Bytes::from("id-2"))));
        log.append(&[large(3)]).unwrap();
        assert_eq!(indexes(&log.read(1..9, usize::MAX).unwrap()), [1, 2, 3]);
    });
}

#[test]
fn a_failed_sync_is_never_reported_as_done_nor_tried_again() {
    let disk = SimDisk::new(1);
    let (log, _) = LogStore::open(&simulated(&disk).0).unwrap();
    log.append(&records(1..=2)).unwrap();
    disk.fail_sync(1);
    assert!(matches!(log.sync(), Err(Fault::Io { .. })));
    assert!(matches!(log.sync(), Err(Fault::Stopped { .. })));
    assert!(matches!(log.append(&[record(3)]), Err(Fault::Stopped { .. })));
    assert!(matches!(log.save_vote(b"x"), Err(Fault::Stopped { .. })));
}

#[test]
fn a_full_disk_stops_the_log() {
    let disk = SimDisk::new(1);
    let (log, _) = LogStore::open(&simulated(&disk).0).unwrap();
    disk.fail_write(1);
    assert!(matches!(log.append(&[record(1)]), Err(Fault::Io { .. })));
    assert!(matches!(log.append(&[record(1)]), Err(Fault::Stopped { .. })));
    assert_eq!(log.last(), None);
}

#[test]
fn peers_remember_across_restarts_and_refuse_a_disk_put_back() {
    let disk = SimDisk::new(1);
    let (log, _) = LogStore::open(&simulated(&disk).0).unwrap();
    let progress = |last_index| Progress { vote_term: 1, last_term: 1, last_index };
    let storage = log.storage_id();
    let shown = Standing { storage, generation: 3 << 32, progress: progress(10) };
    assert_eq!(log.meet_peer(7, shown).unwrap(), Verdict::Current);
    log.note_peer(7, progress(5000)).unwrap();
    log.sync().unwrap();
    disk.crash(5);
    let (log, _) = LogStore::open(&simulated(&disk).0).unwrap();
    let back = Standing { generation: 4 << 32, ..shown };
    let remembered = Standing { progress: progress(5000), ..shown };
    assert_eq!(log.meet_peer(7, back).unwrap(), Verdict::OldDisk { remembered });
    let current = Standing { generation: 4 << 32, progress: progress(5000), ..shown };
    assert_eq!(log.meet_peer(7, current).unwrap(), Verdict::Current);
    log.forget_peer(7).unwrap();
    assert_eq!(log.meet_peer(7, back).unwrap(), Verdict::Current);
}
