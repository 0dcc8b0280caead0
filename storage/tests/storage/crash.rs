//! Crashes at every durable step, with every outcome of what was pending: what was acknowledged is
//! there, what is there is whole, and replaying the log gives the state it gave before. And the
//! seeded bugs, each of which these checks must find.

use std::sync::Arc;

use conclave_storage::failpoint::{Action, POINTS};
use conclave_storage::memory::SimDisk;
use conclave_storage::state::StateHash;
use conclave_storage::{
    Datadir, Entry, EntryKind, FailPoints, Fault, LogStore, Record, SeededBug, SnapshotImport,
    StateStore,
};

use crate::fixtures::{founding_entries, issue_token, set_secret, simulated};

/// What the user of the node was promised.
#[derive(Default, Clone)]
struct Promised {
    vote: u64,
    durable: Option<u64>,
    purged: Option<u64>,
}

/// The history that every run applies.
struct History {
    entries: Vec<Entry>,
    hashes: Vec<StateHash>,
}

impl History {
    fn new(len: u64) -> Self {
        let mut entries = founding_entries();
        for index in entries.len() as u64..len {
            entries.push(if index % 3 == 0 { set_secret(index) } else { issue_token(index) });
        }
        let disk = SimDisk::new(9);
        let store = StateStore::open(&simulated(&disk).0).unwrap();
        let hashes = entries
            .iter()
            .map(|entry| {
                store.apply(std::slice::from_ref(entry)).unwrap();
                store.state_hash().unwrap()
            })
            .collect();
        Self { entries, hashes }
    }

    fn record(&self, index: usize) -> Record {
        let entry = &self.entries[index];
        let payload = match &entry.kind {
            EntryKind::Command(bytes) | EntryKind::Membership(bytes) => bytes.clone(),
            EntryKind::Blank => bytes::Bytes::new(),
        };
        Record { index: entry.index, log_id: entry.log_id.clone(), payload }
    }
}

fn stray(index: u64) -> Record {
    Record { index, log_id: "x".into(), payload: "stray".into() }
}

fn is_stray(record: &Record) -> bool {
    *record == stray(record.index)
}

/// Opens a node after a crash, checks every promise, and brings its state level with its log.
fn recover(
    datadir: &Datadir,
    history: &History,
    promised: &Promised,
) -> Result<(LogStore, StateStore), String> {
    let (log, _) = LogStore::open(datadir).map_err(|fault| fault.to_string())?;
    let state = StateStore::open(datadir).map_err(|fault| fault.to_string())?;
    let vote = log.vote().map_or(0, |vote| u64::from_be_bytes(vote[..].try_into().unwrap()));
    if vote < promised.vote {
        return Err(format!("vote {} was saved, {vote} is there", promised.vote));
    }
    let last = log.last().map(|(index, _)| index);
    if last < promised.durable {
        return Err(format!("{:?} was durable, the log ends at {last:?}", promised.durable));
    }
    let applied = state.applied().map(|mark| mark.index);
    log.check_reaches(applied).map_err(|fault| fault.to_string())?;
    // The state may be older or newer than the log; both must be a beginning of history.
    if let Some(applied) = applied {
        let hash = state.state_hash().map_err(|fault| fault.to_string())?;
        if hash != history.hashes[usize::try_from(applied).unwrap()] {
            return Err(format!("the state at {applied} is not what it was"));
        }
    }
    let from = applied.map_or(0, |applied| applied + 1);
    let replay = log.read(from..u64::MAX, usize::MAX).map_err(|fault| fault.to_string())?;
    for record in replay {
        let index = usize::try_from(record.index).unwrap();
        if is_stray(&record) && Some(record.index) > promised.durable {
            // Its truncation had not reached the disk; a leader would cut it off again.
            log.truncate_after(record.index.checked_sub(1)).map_err(|fault| fault.to_string())?;
            break;
        }
        if record != history.record(index) {
            return Err(format!("log entry {index} is not what was appended"));
        }
        state.apply(&history.entries[index..=index]).map_err(|fault| fault.to_string())?;
        if state.state_hash().map_err(|fault| fault.to_string())? != history.hashes[index] {
            return Err(format!("replay up to {index} gave another state"));
        }
    }
    Ok((log, state))
}

/// One node's life until the first fault: votes, appends, truncations, applies, snapshots, purges.
fn live(datadir: &Datadir, history: &History, promised: &mut Promised) -> Result<(), Fault> {
    let (log, _) = LogStore::open(datadir)?;
    let state = StateStore::open(datadir)?;
    let mut next = log.last().map_or(0, |(index, _)| index + 1);
    let end = history.entries.len() as u64;
    for round in 0.. {
        let vote = promised.vote + 1;
        log.save_vote(&vote.to_be_bytes())?;
        promised.vote = vote;
        // What another leader appended and this one does not know, cut off again.
        if round % 3 == 1 && next > 0 && next < end {
            let strays: Vec<Record> = (next..next + 5).map(stray).collect();
            log.append(&strays)?;
            log.sync()?;
            log.truncate_after(Some(next - 1))?;
        }
        let upto = (next + 3).min(end);
        let records: Vec<Record> =
            (next..upto).map(|index| history.record(usize::try_from(index).unwrap())).collect();
        log.append(&records)?;
        next = upto;
        log.sync()?;
        promised.durable = Some(next - 1);
        let applied = state.applied().map_or(0, |mark| mark.index + 1);
        let (from, to) = (usize::try_from(applied).unwrap(), usize::try_from(next).unwrap());
        state.apply(&history.entries[from..to])?;
        if round % 2 == 1 {
            let snapshot = state.snapshot_build()?;
            let mark = snapshot.mark();
            log.purge_upto(mark.index, &mark.log_id)?;
            promised.purged = Some(mark.index);
        }
        if next == end {
            return Ok(());
        }
    }
    Ok(())
}

fn arm_crash(points: &FailPoints, disk: &SimDisk, point: &str, nth: u32, seed: u64) {
    let disk = disk.clone();
    points.arm_action(point, nth, Action::Call(Arc::new(move || disk.crash(seed))));
}

#[test]
fn acknowledged_writes_survive_a_crash_at_every_point() {
    let history = History::new(40);
    for point in POINTS {
        for seed in 0..12_u64 {
            let disk = SimDisk::new(seed);
            let (datadir, points) = simulated(&disk);
            let nth = 1 + u32::try_from(seed % 6).unwrap();
            arm_crash(&points, &disk, point, nth, seed);
            let mut promised = Promised::default();
            let lived = live(&datadir, &history, &mut promised);
            if lived.is_ok() {
                disk.crash(seed);
            }
            // The node comes back, lives on to the end, and crashes once more.
            let (datadir, _) = simulated(&disk);
            recover(&datadir, &history, &promised).unwrap_or_else(|wrong| {
                panic!("crash at {point}, hit {nth}, seed {seed}: {wrong}")
            });
            live(&datadir, &history, &mut promised).unwrap();
            disk.crash(seed + 100);
            let (datadir, _) = simulated(&disk);
            let (_, state) = recover(&datadir, &history, &promised).unwrap();
            assert_eq!(&state.state_hash().unwrap(), history.hashes.last().unwrap());
        }
    }
}

#[test]
fn an_install_leaves_the_old_state_or_the_new_at_every_point() {
    let history = History::new(30);
    let source = SimDisk::new(1);
    let leader = StateStore::open(&simulated(&source).0).unwrap();
    leader.apply(&history.entries).unwrap();
    let snapshot = leader.snapshot_build().unwrap();
    let manifest = snapshot.manifest().encode();
    for point in POINTS.iter().filter(|point| point.contains("import") || point.contains("install"))
    {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            let (datadir, points) = simulated(&disk);
            let state = StateStore::open(&datadir).unwrap();
            state.apply(&history.entries[..10]).unwrap();
            state.snapshot_build().unwrap();
            arm_crash(&points, &disk, point, 1, seed);
            let installed = receive(&datadir, &snapshot, &manifest)
                .and_then(|received| state.snapshot_install(&received));
            assert!(installed.is_err(), "{point} is not passed");
            drop(state);
            let state = StateStore::open(&simulated(&disk).0).unwrap();
            let index = usize::try_from(state.applied_index()).unwrap();
            assert!(index == 9 || index == 29, "{point}: {index}");
            assert_eq!(state.state_hash().unwrap(), history.hashes[index], "{point}");
            state.apply(&history.entries[index + 1..]).unwrap();
            assert_eq!(&state.state_hash().unwrap(), history.hashes.last().unwrap());
        }
    }
}

/// Copies a snapshot the way a peer sends it.
pub(crate) fn receive(
    datadir: &Datadir,
    snapshot: &conclave_storage::SnapshotFiles,
    manifest: &[u8],
) -> Result<Arc<conclave_storage::SnapshotFiles>, Fault> {
    let mut import = SnapshotImport::begin(datadir, manifest)?;
    while let Some((file, offset)) = import.next() {
        let chunk = snapshot.read_chunk(file, offset, 1000)?;
        import.write_chunk(file, offset, &chunk)?;
    }
    import.finish()
}

/// Lives with a bug, crashes, and gives what recovery finds wrong.
fn found_with(bug: SeededBug) -> Option<String> {
    let history = History::new(40);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let (datadir, points) = simulated(&disk);
        points.seed_bug(bug);
        let nth = 8 + u32::try_from(seed % 40).unwrap();
        if bug == SeededBug::FsyncErrorIgnored {
            disk.fail_sync(nth);
        } else if bug == SeededBug::WriteErrorSwallowed {
            disk.fail_write(nth);
        }
        let at = ["log.append.before", "state.apply.before", "vote.save.before"];
        let at = at[usize::try_from(seed % 3).unwrap()];
        arm_crash(&points, &disk, at, 1 + u32::try_from(seed % 11).unwrap(), seed);
        let mut promised = Promised::default();
        drop(live(&datadir, &history, &mut promised));
        disk.crash(seed);
        let (datadir, _) = simulated(&disk);
        if let Err(wrong) = recover(&datadir, &history, &promised) {
            return Some(wrong);
        }
    }
    None
}

#[test]
fn seeded_bugs_are_caught() {
    for bug in [
        SeededBug::SkipVoteSync,
        SeededBug::SkipLogSync,
        SeededBug::AckBeforeFlush,
        SeededBug::AppliedIndexInSeparateWrite,
        SeededBug::IgnoreTruncate,
        SeededBug::FsyncErrorIgnored,
        SeededBug::WriteErrorSwallowed,
    ] {
        assert!(found_with(bug).is_some(), "{bug:?} was not caught");
    }
}
