//! Damaged, missing, old and foreign files: each is noticed at open, with a text that says what to do.

use std::fs;
use std::path::{Path, PathBuf};

use conclave_storage::{Datadir, FailPoints, Fault, LogStore, StateStore};

use crate::fixtures::{found, real, records, set_secret};

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .collect();
    found.sort();
    found
}

fn log_with(root: &Path, upto: u64) {
    let (log, _) = LogStore::open(&real(root)).unwrap();
    for index in 1..=upto {
        log.append(&records(index..=index)).unwrap();
    }
    log.sync().unwrap();
}

fn newest_wal(root: &Path) -> PathBuf {
    let logs = files(&root.join("log"), "log");
    logs.into_iter().rfind(|path| fs::metadata(path).unwrap().len() > 0).unwrap()
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = usize::try_from(at).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_the_write_ahead_log_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    log_with(folder.path(), 200);
    let wal = newest_wal(folder.path());
    flip(&wal, fs::metadata(&wal).unwrap().len() / 2);
    let fault = LogStore::open(&real(folder.path())).err().expect("damage must be noticed");
    assert!(matches!(fault, Fault::Corrupt { .. } | Fault::OldDisk { .. }), "{fault}");
    assert!(fault.to_string().contains("remove the node from the cluster"), "{fault}");
}

#[test]
fn a_torn_tail_that_was_never_synced_is_tolerated() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (log, _) = LogStore::open(&real(folder.path())).unwrap();
        log.append(&records(1..=10)).unwrap();
        log.sync().unwrap();
        for index in 11..=20 {
            log.append(&records(index..=index)).unwrap();
        }
    }
    let wal = newest_wal(folder.path());
    let len = fs::metadata(&wal).unwrap().len();
    fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(len - 7).unwrap();
    let (log, found) = LogStore::open(&real(folder.path())).unwrap();
    assert_eq!(found.last.map(|(index, _)| index), Some(19));
    log.append(&records(20..=25)).unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, _) = LogStore::open(&real(folder.path())).unwrap();
    assert_eq!(log.read(1..99, usize::MAX).unwrap(), records(1..=25));
}

#[test]
fn a_tail_that_was_never_synced_may_be_torn_within_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let synced = {
        let (log, _) = LogStore::open(&real(folder.path())).unwrap();
        log.append(&records(1..=10)).unwrap();
        log.sync().unwrap();
        let synced = fs::metadata(newest_wal(folder.path())).unwrap().len();
        for index in 11..=20 {
            log.append(&records(index..=index)).unwrap();
        }
        synced
    };
    let wal = newest_wal(folder.path());
    let len = fs::metadata(&wal).unwrap().len();
    flip(&wal, synced + (len - synced) / 2);
    let (log, found) = LogStore::open(&real(folder.path())).unwrap();
    let last = found.last.map(|(index, _)| index).unwrap();
    assert!((10..20).contains(&last), "{last}");
    log.append(&records(last + 1..=25)).unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, _) = LogStore::open(&real(folder.path())).unwrap();
    assert_eq!(log.read(1..99, usize::MAX).unwrap(), records(1..=25));
}

#[test]
fn a_tail_that_was_synced_and_is_gone_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    log_with(folder.path(), 20);
    let wal = newest_wal(folder.path());
    let len = fs::metadata(&wal).unwrap().len();
    fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(len - 7).unwrap();
    let fault = LogStore::open(&real(folder.path())).err().expect("loss must be noticed");
    assert!(matches!(fault, Fault::OldDisk { .. }), "{fault}");
    assert!(fault.to_string().contains("must not vote"), "{fault}");
}

#[test]
fn a_log_folder_put_back_alone_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let aside = tempfile::tempdir().unwrap();
    log_with(folder.path(), 5);
    copy_all(&folder.path().join("log"), &aside.path().join("log"));
    {
        let (log, _) = LogStore::open(&real(folder.path())).unwrap();
        log.save_vote(b"newer").unwrap();
    }
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    copy_all(&aside.path().join("log"), &folder.path().join("log"));
    let fault = LogStore::open(&real(folder.path())).err().expect("an old log must be noticed");
    assert!(matches!(fault, Fault::OldDisk { .. }), "{fault}");
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    let fault = LogStore::open(&real(folder.path())).err().expect("a lost log must be noticed");
    assert!(matches!(fault, Fault::OldDisk { .. }), "{fault}");
}

#[test]
fn a_lost_marker_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    log_with(folder.path(), 5);
    fs::remove_file(folder.path().join("marker")).unwrap();
    let fault = LogStore::open(&real(folder.path())).err().expect("a lost marker must be noticed");
    assert!(matches!(fault, Fault::OldDisk { .. }), "{fault}");
}

#[test]
fn a_flipped_bit_in_a_table_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let generation = {
        let datadir = real(folder.path());
        let store = StateStore::open(&datadir).unwrap();
        found(&store);
        store.apply(&(4..200).map(set_secret).collect::<Vec<_>>()).unwrap();
        // Building a snapshot writes the rows out to a table file; the snapshot itself then goes.
        store.snapshot_build().unwrap();
        datadir.state().join(format!("{:020}", 1))
    };
    fs::remove_dir_all(folder.path().join("snapshots")).unwrap();
    let table = files(&generation, "sst").pop().unwrap();
    for at in [100, fs::metadata(&table).unwrap().len() / 2] {
        flip(&table, at);
    }
    let opened = StateStore::open(&real(folder.path()));
    let fault = match opened {
        Err(fault) => fault,
        Ok(store) => store.state_hash().expect_err("damage must be noticed"),
    };
    assert!(matches!(fault, Fault::Corrupt { .. }), "{fault}");
}

#[test]
fn a_missing_pointer_or_generation_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    drop(StateStore::open(&real(folder.path())).unwrap());
    fs::remove_file(folder.path().join("state/CURRENT")).unwrap();
    assert!(matches!(StateStore::open(&real(folder.path())), Err(Fault::Corrupt { .. })));
    fs::write(folder.path().join("state/CURRENT"), "00000000000000000005\n").unwrap();
    assert!(matches!(StateStore::open(&real(folder.path())), Err(Fault::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_refused_and_an_unknown_one_too() {
    let folder = tempfile::tempdir().unwrap();
    drop(real(folder.path()));
    let open = || Datadir::open(folder.path(), FailPoints::new());
    fs::write(folder.path().join("format"), "conclave data format 2\n").unwrap();
    assert!(matches!(open(), Err(Fault::TooNew { found: 2, known: 1, .. })));
    for text in ["conclave data format 0\n", "conclave data format 1", "", "x\n"] {
        fs::write(folder.path().join("format"), text).unwrap();
        assert!(matches!(open(), Err(Fault::Corrupt { .. })), "{text:?}");
    }
}

#[test]
fn a_folder_without_format_is_refused_when_it_holds_data() {
    let folder = tempfile::tempdir().unwrap();
    log_with(folder.path(), 1);
    fs::remove_file(folder.path().join("format")).unwrap();
    let opened = Datadir::open(folder.path(), FailPoints::new());
    assert!(matches!(opened, Err(Fault::Corrupt { .. })));
}

#[test]
fn two_processes_cannot_use_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = real(folder.path());
    let second = Datadir::open(folder.path(), FailPoints::new());
    assert!(matches!(second, Err(Fault::Locked { .. })));
    drop(first);
    drop(real(folder.path()));
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
