//! The state machine at rest.

use conclave_domain::effect::Row;
use conclave_domain::outcome::{self, Outcome};
use conclave_domain::records::{RequestId, Sealed, Version};
use conclave_storage::engine::{Batch, Durability, Profile};
use conclave_storage::keys;
use conclave_storage::memory::SimDisk;
use conclave_storage::{Datadir, Fault, StateStore};

use crate::fixtures::{
    append_audit, found, issue_token, membership, only_member, real, set_secret, simulated,
    variable,
};

#[test]
fn a_view_shows_state_and_value_of_one_moment() {
    let disk = SimDisk::new(1);
    let store = StateStore::open(&simulated(&disk).0).unwrap();
    found(&store);
    let replies = store.apply(&[set_secret(4)]).unwrap();
    let reply = outcome::codec::decode(&replies[0]).unwrap();
    assert_eq!(reply, Ok(Outcome::SecretSet { version: Version(2), added: true }));
    store.read(|view| {
        assert_eq!(view.applied.0, 4);
        let value = |version| view.secret_value(&variable(), Version(version)).unwrap();
        assert_eq!(value(1), Some(Sealed(b"sealed 3".to_vec())));
        assert_eq!(value(2), Some(Sealed(b"sealed 4".to_vec())));
        assert_eq!(value(3), None);
    });
}

#[test]
fn a_value_that_the_disk_refused_is_a_fault_and_never_absent() {
    let disk = SimDisk::new(1);
    let store = StateStore::open(&simulated(&disk).0).unwrap();
    found(&store);
    disk.fail_write(1);
    store.apply(&[set_secret(4)]).unwrap_err();
    // Until the node has ended, memory may know of a version whose row was never written.
    store.read(|view| {
        let known = view.state.secret(&variable()).unwrap().versions.keys().copied().max();
        let newest = known.unwrap();
        let value = view.secret_value(&variable(), newest);
        assert!(newest == Version(1) || matches!(value, Err(Fault::Corrupt { .. })), "{value:?}");
    });
}

#[test]
fn versions_go_round_and_only_those_kept_have_a_value() {
    let disk = SimDisk::new(1);
    let store = StateStore::open(&simulated(&disk).0).unwrap();
    found(&store);
    store.apply(&(4..48).map(set_secret).collect::<Vec<_>>()).unwrap();
    store.read(|view| {
        for version in 1..=46 {
            let value = view.secret_value(&variable(), Version(version)).unwrap();
            let expected = Sealed(format!("sealed {}", version + 2).into_bytes());
            assert_eq!(value, (26..=45).contains(&version).then_some(expected), "{version}");
        }
    });
}

/// Puts back rows of secrets as version 1 had them, a table for the values, and numbers for keys: so
/// many records and so many values, since those are the last to be renewed.
fn age_secrets(datadir: &Datadir, records: usize, values: usize) {
    let folder = datadir.state().join(format!("{:020}", 1));
    let engine = datadir.disk().engine(&folder, Profile::State).unwrap();
    let (from, to) = keys::Table::Secret.bounds();
    let mut batch = Batch::new();
    let mut left = [records, values];
    engine
        .scan(&from, &to, &mut |key, value| {
            let left = &mut left[usize::from(key[key.len() - 1])];
            if *left == 0 {
                return Ok(std::ops::ControlFlow::Continue(()));
            }
            *left -= 1;
            let id = &key[1..key.len() - 2];
            let row = keys::row(key, value)?;
            let (table, number, body) = if let Row::SecretVersion(_, number, _) = row {
                // Version 2 begins with the number, which is small here: one byte.
                (0x17, number, &value[2..])
            } else if let Row::SecretValue(_, number, _) = row {
                (0x18, number, &value[5..])
            } else {
                panic!("{row:?} among secrets");
            };
            batch.delete(key);
            let key = [&[table], id, &number.0.to_be_bytes()].concat();
            batch.put(&key, &[&[1], body].concat());
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
    engine.write(&batch, Durability::Synced).unwrap();
}

#[test]
fn secrets_of_version_1_are_renewed_at_the_start_even_in_part() {
    for (records, values) in [(20, 20), (7, 20), (0, 20), (0, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let before = {
            let store = StateStore::open(&real(folder.path())).unwrap();
            found(&store);
            store.apply(&(4..48).map(set_secret).collect::<Vec<_>>()).unwrap();
            (store.read(|view| view.state.rows()), store.state_hash().unwrap())
        };
        age_secrets(&real(folder.path()), records, values);
        let store = StateStore::open(&real(folder.path())).unwrap();
        assert!(before.0 == store.read(|view| view.state.rows()), "memory differs");
        assert_eq!(before.1, store.state_hash().unwrap());
        let value = store.read(|view| view.secret_value(&variable(), Version(45)).unwrap());
        assert_eq!(value, Some(Sealed(b"sealed 47".to_vec())));
        store.apply(&[set_secret(48)]).unwrap();
        let value = store.read(|view| view.secret_value(&variable(), Version(26)).unwrap());
        assert_eq!(value, None);
    }
}

#[test]
fn reopening_rebuilds_the_same_state() {
    let folder = tempfile::tempdir().unwrap();
    let before = {
        let store = StateStore::open(&real(folder.path())).unwrap();
        found(&store);
        store.apply(&(4..100).map(set_secret).collect::<Vec<_>>()).unwrap();
        let rows = store.read(|view| view.state.rows());
        (rows, store.state_hash().unwrap(), store.applied())
    };
    let store = StateStore::open(&real(folder.path())).unwrap();
    let after =
        (store.read(|view| view.state.rows()), store.state_hash().unwrap(), store.applied());
    assert_eq!(before.1, after.1);
    assert_eq!(before.2, after.2);
    assert!(before.0 == after.0, "memory differs after reopening");
    assert_eq!(&after.2.unwrap().membership[..], b"members at 0");
}

#[test]
fn history_keeps_who_when_and_what() {
    let disk = SimDisk::new(1);
    let store = StateStore::open(&simulated(&disk).0).unwrap();
    found(&store);
    store.apply(&[issue_token(4), membership(5), set_secret(6)]).unwrap();
    let history = store.history(0, 100).unwrap();
    let indexes: Vec<u64> = history.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, [1, 2, 3, 4, 6]);
    let set = &history[4];
    assert_eq!(set.role.as_ref().unwrap().to_string(), "acme:user:admin");
    assert_eq!(set.client_ip, "192.0.2.7");
    assert_eq!(set.at.0, 1_700_000_000_006);
    assert_eq!(set.events.len(), 1);
    assert_eq!(history[3].role, None);
    assert_eq!(store.history(3, 1).unwrap()[0].index, 3);
    assert_eq!(history[4].request_id, RequestId([0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn entries_are_applied_once_and_in_order() {
    let disk = SimDisk::new(1);
    let store = StateStore::open(&simulated(&disk).0).unwrap();
    found(&store);
    assert!(matches!(store.apply(&[set_secret(3)]), Err(Fault::Order(_))));
    assert!(matches!(store.apply(&[set_secret(4)]), Err(Fault::Stopped { .. })));
}

#[test]
fn the_hash_covers_secret_values() {
    let hash = |bug: bool| {
        let disk = SimDisk::new(1);
        let (datadir, points) = simulated(&disk);
        if bug {
            points.arm("bug=state_hash_skips_table").unwrap();
        }
        let store = StateStore::open(&datadir).unwrap();
        found(&store);
        store.state_hash().unwrap()
    };
    assert_ne!(hash(false), hash(true));
}

/// Puts the audit chain into rows as version 1 had them: one for each record.
fn age_audit(datadir: &Datadir) {
    let folder = datadir.state().join(format!("{:020}", 1));
    let engine = datadir.disk().engine(&folder, Profile::State).unwrap();
    let (from, to) = keys::Table::AuditBlock.bounds();
    let mut batch = Batch::new();
    engine
        .scan(&from, &to, &mut |key, value| {
            let Row::AuditBlock(last, block) = keys::row(key, value)? else {
                panic!("another row among audit records");
            };
            batch.delete(key);
            for (number, record) in block.records(last) {
                // All numbers and lengths are small here: one byte each.
                let byte = |number: u64| u8::try_from(number).unwrap();
                let mut body = vec![1, byte(record.node), byte(record.sequence)];
                body.extend_from_slice(&record.hash.0);
                body.push(byte(record.text.len() as u64));
                body.extend_from_slice(record.text.as_bytes());
                batch.put(&[&[0x21], &number.to_be_bytes()[..]].concat(), &body);
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
    engine.write(&batch, Durability::Synced).unwrap();
}

#[test]
fn the_hash_of_the_audit_chain_does_not_tell_how_many_records_lie_in_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let look = |store: &StateStore| {
        (store.audit_records(0, 9, 1 << 20).unwrap(), store.state_hash().unwrap())
    };
    let before = {
        let store = StateStore::open(&real(folder.path())).unwrap();
        found(&store);
        let short = store.apply(&[only_member(4)]).map(|_| store.state_hash().unwrap()).unwrap();
        store.apply(&[append_audit(5, &["one", "two", "three"])]).unwrap();
        assert_ne!(short.hash, store.state_hash().unwrap().hash);
        look(&store)
    };
    assert_eq!(before.0.len(), 3);
    age_audit(&real(folder.path()));
    assert!(before == look(&StateStore::open(&real(folder.path())).unwrap()));
}

#[test]
fn an_unreadable_command_stops_the_store() {
    let disk = SimDisk::new(1);
    let store = StateStore::open(&simulated(&disk).0).unwrap();
    let mut entry = issue_token(0);
    entry.kind = conclave_storage::EntryKind::Command(vec![250, 1, 2].into());
    let fault = store.apply(&[entry]).unwrap_err();
    assert!(matches!(fault, Fault::Command { index: 0, .. }), "{fault}");
}
