//! Backups: what was written is read back into the same state, and whatever was done to the file
//! meanwhile is noticed.

use std::sync::OnceLock;

use conclave_domain::time::Timestamp;
use conclave_storage::StateStore;
use conclave_storage::backup::{
    BackupError, BackupHeader, BackupOrigin, BackupReader, BackupWriter,
};
use conclave_storage::memory::SimDisk;
use conclave_storage::seal::{MasterKey, RootKey, Secret};
use conclave_storage::state::StateHash;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixtures::{found, issue_token, real, simulated};

/// Bytes of one sealed chunk.
const CHUNK: usize = (64 << 10) + 16;

fn master(byte: u8) -> MasterKey {
    MasterKey::from_secret(&Secret::new(vec![byte; 32])).unwrap()
}

fn origin() -> BackupOrigin {
    BackupOrigin {
        cluster: [7; 16],
        made_at: Timestamp(1_700_000_000_000),
        node: "n1".to_owned(),
        node_id: 1,
        program: "0.1.0".to_owned(),
        sealing: Some("by key".to_owned()),
    }
}

struct Made {
    bytes: Vec<u8>,
    header: usize,
    hash: StateHash,
}

fn make(store: &StateStore) -> Made {
    make_as(store, origin())
}

fn make_as(store: &StateStore, origin: BackupOrigin) -> Made {
    let snapshot = store.snapshot_build().unwrap();
    let root = RootKey::from_secret(&Secret::new(vec![9; 32])).unwrap();
    let mut writer = BackupWriter::new(origin, snapshot, &root, &master(1)).unwrap();
    let promised = writer.bytes();
    let mut bytes = writer.next_block().unwrap().unwrap();
    let header = bytes.len();
    while let Some(block) = writer.next_block().unwrap() {
        bytes.extend_from_slice(&block);
    }
    assert_eq!(bytes.len() as u64, promised);
    Made { bytes, header, hash: store.state_hash().unwrap() }
}

/// A backup of several chunks.
fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let store = StateStore::open(&simulated(&SimDisk::new(1)).0).unwrap();
        found(&store);
        store.apply(&(4..3000).map(issue_token).collect::<Vec<_>>()).unwrap();
        let made = make(&store);
        assert!(made.bytes.len() > made.header + 3 * CHUNK, "{}", made.bytes.len());
        made
    })
}

fn verify(bytes: &[u8]) -> Result<u64, BackupError> {
    BackupReader::open(bytes, &master(1))?.verify(|_| {})
}

#[test]
fn a_backup_becomes_the_same_state_on_another_disk() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = StateStore::open(&real(one.path())).unwrap();
    found(&store);
    store.apply(&(4..500).map(issue_token).collect::<Vec<_>>()).unwrap();
    let made = make(&store);
    let size = made.bytes.len() as u64;
    let mut read = 0;
    let mut reader = BackupReader::open(made.bytes.as_slice(), &master(1)).unwrap();
    assert_eq!(reader.verify(|bytes| read += bytes as u64).unwrap(), size);

    let mut reader = BackupReader::open(made.bytes.as_slice(), &master(1)).unwrap();
    assert_eq!((reader.header().cluster, reader.header().node.as_str()), ([7; 16], "n1"));
    let contents = reader.contents();
    assert_eq!((contents.node_id, contents.manifest.mark.index), (1, 499));
    assert_eq!(read, contents.manifest.bytes());
    assert!(contents.root_key.to_secret().matches(&[9; 32]));
    let other = StateStore::open(&real(two.path())).unwrap();
    reader.install(&other, |_| {}).unwrap();
    assert_eq!(other.state_hash().unwrap(), made.hash);
    drop(other);
    let again = StateStore::open(&real(two.path())).unwrap();
    assert_eq!(again.state_hash().unwrap(), made.hash);
}

#[test]
fn nothing_of_what_is_in_it_shows() {
    let Made { bytes, .. } = made();
    let plain: [&[u8]; 5] = [b"sealed 3", b"acme", b"node-77", &[9; 32], &[1; 32]];
    for canary in plain {
        assert!(!bytes.windows(canary.len()).any(|window| window == canary));
    }
    // Two backups of one state have no chunk in common.
    let store = StateStore::open(&simulated(&SimDisk::new(2)).0).unwrap();
    found(&store);
    let (one, two) = (make(&store), make(&store));
    assert_eq!(one.hash, two.hash);
    assert!(one.bytes[one.header..] != two.bytes[two.header..]);
}

#[test]
fn another_key_is_refused_with_what_to_do() {
    let refused = BackupReader::open(made().bytes.as_slice(), &master(2)).err().unwrap();
    assert!(matches!(refused, BackupError::OtherKey { .. }));
    let text = refused.to_string();
    assert!(text.contains("bring the master key of n1"), "{text}");
    assert!(text.contains(&master(1).id()) && text.contains(&master(2).id()), "{text}");
}

#[test]
fn chunks_that_were_moved_left_out_repeated_or_cut_off_are_noticed() {
    let Made { bytes, header, .. } = made();
    let chunk = |number: usize| header + number * CHUNK..header + (number + 1) * CHUNK;
    let damaged = |bytes: &[u8], why: &str| {
        let text = verify(bytes).unwrap_err().to_string();
        assert!(text.contains(why) && text.contains("not intact"), "{text}");
    };
    let mut swapped = bytes.clone();
    swapped[chunk(1)].copy_from_slice(&bytes[chunk(2)]);
    swapped[chunk(2)].copy_from_slice(&bytes[chunk(1)]);
    damaged(&swapped, "chunk 1 was changed");
    let mut shorter = bytes.clone();
    shorter.drain(chunk(1));
    damaged(&shorter, "chunk 1 was changed");
    let mut longer = bytes.clone();
    longer.splice(chunk(1).start..chunk(1).start, bytes[chunk(0)].iter().copied());
    damaged(&longer, "chunk 1 was changed");
    damaged(&bytes[..chunk(2).start], "it breaks off");
    damaged(&bytes[..chunk(0).start], "it breaks off");
    damaged(&bytes[..header - 1], "it breaks off");
    damaged(&bytes[..chunk(2).start + 100], "chunk 2 was changed, cut off");
    damaged(&[&bytes[..], &[0]].concat(), "was changed");
    let rest = (bytes.len() - header) / CHUNK;
    let whole = [&bytes[..], &bytes[chunk(0)]].concat();
    damaged(&whole, &format!("chunk {rest} was changed"));
    // The header of another backup, or another node's name in this one's.
    let store = StateStore::open(&simulated(&SimDisk::new(3)).0).unwrap();
    found(&store);
    let other = make(&store);
    damaged(&[&other.bytes[..other.header], &bytes[*header..]].concat(), "chunk 0 was changed");
    let mut read = BackupHeader::read(&mut bytes.as_slice()).unwrap();
    read.node = "n2".to_owned();
    damaged(&[&read.encode()[..], &bytes[*header..]].concat(), "chunk 0 was changed");
}

#[test]
fn a_backup_of_the_first_version_opens_as_ever() {
    let store = StateStore::open(&simulated(&SimDisk::new(5)).0).unwrap();
    found(&store);
    let made = make_as(&store, BackupOrigin { sealing: None, ..origin() });
    assert_eq!(made.bytes[4], 1);
    verify(&made.bytes).unwrap();
    let reader = BackupReader::open(made.bytes.as_slice(), &master(1)).unwrap();
    assert_eq!(reader.header().sealing, None);
}

#[test]
fn what_is_no_backup_is_told_apart() {
    for noise in [&b""[..], b"CVB", b"not a backup at all", b"CVBK\0\0\0\0\x01x"] {
        assert!(matches!(verify(noise), Err(BackupError::NotABackup)), "{noise:?}");
    }
    let newer = verify(b"CVBK\x05\0\0\0\x01xxxxx").unwrap_err().to_string();
    assert!(newer.contains("format 5, this program knows up to 2"), "{newer}");
    assert!(matches!(verify(b"CVBK\x01\xff\xff\xff\xff"), Err(BackupError::Damaged(_))));
}

#[test]
fn a_damaged_backup_is_never_installed() {
    let mut bytes = made().bytes.clone();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    let store = StateStore::open(&simulated(&SimDisk::new(4)).0).unwrap();
    let mut reader = BackupReader::open(bytes.as_slice(), &master(1)).unwrap();
    assert!(matches!(reader.install(&store, |_| {}), Err(BackupError::Damaged(_))));
    assert_eq!(store.applied(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_bit_or_a_cut_anywhere_is_noticed(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = made().bytes.clone();
        let at = at.index(bytes.len());
        prop_assert!(verify(&bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(verify(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(noise in vec(any::<u8>(), 0..400), keep in 0_usize..300) {
        let start = &made().bytes[..keep];
        prop_assert!(verify(&[start, &noise[..]].concat()).is_err());
        prop_assert!(verify(&noise).is_err());
    }
}
