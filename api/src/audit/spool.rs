//! The spool: a node's own file of audit records, written before the answer leaves.
//!
//! ```text
//! <data>/audit/spool-<start ms>-<number>.jsonl     one JSON object a line: {"seq":N,"node":ID,…}
//! ```
//! Requests hand their lines to one writer thread and wait until the batch that holds them is
//! written, with one system call for all that came in meanwhile; a second thread makes them durable.
//! With [`Durability::Os`] the wait ends at the write, and the fsync follows within
//! 100 ms; with [`Durability::Disk`] it ends at the fsync, shared by all who wait; with
//! [`Durability::Quorum`] it ends when the record is in the cluster's audit chain.
//!
//! Whoever ships records to the chain ([`super::SpoolReader`] reads them back) says how far it has
//! come with [`Spool::chained`]. Only records that are fsynced are shipped: a number that the chain
//! has seen is then never given to another record, whatever a power cut takes.
//!
//! A failed write or fsync is for good: nothing is answered after it until the node restarts, since
//! nobody knows what the file then holds.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use conclave_domain::time::Timestamp;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Record;
use super::reader::{files, line_number};

/// Longest time between a write and its fsync.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// A file is ended once it holds this much.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How long an answer waits for its records to be in the audit chain.
const CHAIN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Lines waiting for the writer; beyond it requests are refused.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// When a record counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Handed to the operating system; survives the process, fsynced within 100 ms.
    #[default]
    Os,
    /// Fsynced; survives the machine.
    Disk,
    /// In the audit chain, on the disks of a majority; survives the loss of the node.
    Quorum,
}

/// Why a record was not kept. The request it belongs to is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// The disk cannot keep up with the records.
    #[error("audit records wait for the disk")]
    Overloaded,
    /// The file could not be written; the node must be restarted when the disk is well again.
    #[error("audit records cannot be written")]
    Failed,
    /// The record is on this node's disk, and did not reach the audit chain in time.
    #[error("audit records do not reach the cluster's audit chain")]
    Unchained,
}

/// How the spool stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Number of the last record handed in.
    pub last: u64,
    /// Number of the last record written.
    pub written: u64,
    /// Number of the last record fsynced.
    pub synced: u64,
    /// Number of the last record in the audit chain, as far as this node has heard.
    pub chained: u64,
    /// What went wrong for good.
    pub failure: Option<String>,
}

/// Keeps audit records on this node. Dropping it writes and syncs what is left.
pub struct Spool {
    shared: Arc<Shared>,
    durability: Durability,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    filled: Condvar,
    written: watch::Sender<u64>,
    synced: watch::Sender<u64>,
    chained: watch::Sender<u64>,
    /// What the syncer has to sync: the open file, and the files ended since the last fsync.
    unsynced: Mutex<Unsynced>,
    /// Wakes the syncer.
    dirty: Condvar,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    /// For the metrics: fsyncs done.
    fsyncs: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    last: u64,
    idle: bool,
    closed: bool,
}

#[derive(Default)]
struct Unsynced {
    files: Vec<Arc<File>>,
    written: u64,
    closed: bool,
}

impl Spool {
    /// Opens a spool in a folder, which is made if need be. Numbers go on after the last record that
    /// the folder holds; a torn last line is left as it is, and the next file starts clean.
    ///
    /// # Errors
    /// When the folder or its first file cannot be made or read.
    pub fn open(folder: &Path, durability: Durability, now: Timestamp) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let last = last_number(folder)?;
        // A killed process may have left records written and not fsynced, and only what is fsynced is
        // shipped.
        for (_, path) in files(folder)? {
            File::open(path)?.sync_data()?;
        }
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { last, ..Queue::default() }),
            filled: Condvar::new(),
            written: watch::Sender::new(last),
            synced: watch::Sender::new(last),
            chained: watch::Sender::new(0),
            unsynced: Mutex::new(Unsynced { written: last, ..Unsynced::default() }),
            dirty: Condvar::new(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            fsyncs: AtomicU64::new(0),
        });
        let mut sink = Sink { folder: folder.to_owned(), start: now, next: last + 1, open: None };
        sink.rotate()?;
        let writer = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("audit-write".into())
                .spawn(move || write_loop(&shared, sink))?
        };
        let syncer = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("audit-sync".into())
                .spawn(move || sync_loop(&shared, durability))?
        };
        Ok(Self { shared, durability, threads: vec![writer, syncer] })
    }

    /// Keeps the records, as one piece and in order. When this returns well they are kept as far as
    /// the spool's [`Durability`] promises.
    ///
    /// # Errors
    /// [`SpoolError`]; the caller then refuses the request.
    pub async fn append(&self, records: &[Record]) -> Result<(), SpoolError> {
        if records.is_empty() {
            return Ok(());
        }
        self.check()?;
        let mut bodies = Vec::with_capacity(512 * records.len());
        let mut ends = Vec::with_capacity(records.len());
        for record in records {
            // The record's own text without its opening brace: the number goes in front.
            let start = bodies.len();
            serde_json::to_writer(&mut bodies, record).map_err(|_broken| SpoolError::Failed)?;
            bodies[start] = b',';
            ends.push(bodies.len());
        }
        let mine = {
            let mut queue = lock(&self.shared.queue);
            if queue.lines.len() > WAITING_BYTES_MAX {
                return Err(SpoolError::Overloaded);
            }
            let mut start = 0;
            for end in ends {
                queue.last += 1;
                let number = queue.last;
                // Writing to memory cannot fail.
                let _infallible = write!(queue.lines, "{{\"seq\":{number}");
                queue.lines.extend_from_slice(&bodies[start..end]);
                queue.lines.push(b'\n');
                start = end;
            }
            if queue.idle {
                self.shared.filled.notify_one();
            }
            queue.last
        };
        let reached = match self.durability {
            Durability::Os => &self.shared.written,
            Durability::Disk => &self.shared.synced,
            Durability::Quorum => &self.shared.chained,
        };
        let mut reached = reached.subscribe();
        let waited = reached.wait_for(|number| *number >= mine || self.is_failed());
        let waited = if self.durability == Durability::Quorum {
            timeout(CHAIN_WAIT_MAX, waited).await.map_err(|_elapsed| SpoolError::Unchained)?
        } else {
            waited.await
        };
        if waited.is_err() || self.is_failed() { Err(SpoolError::Failed) } else { Ok(()) }
    }

    /// Hears that the audit chain has this node's records up to number `last`.
    pub fn chained(&self, last: u64) {
        self.shared.chained.send_if_modified(|known| {
            let is_news = last > *known;
            *known = last.max(*known);
            is_news
        });
    }

    /// The number of the last record fsynced, as it grows.
    pub fn synced(&self) -> watch::Receiver<u64> {
        self.shared.synced.subscribe()
    }

    /// Gives no number up to `last` to another record. The audit chain may have more records of this
    /// node than the folder still holds, and would take new ones of the same numbers for repeats.
    pub fn start_after(&self, last: u64) {
        let mut queue = lock(&self.shared.queue);
        if queue.last < last {
            queue.last = last;
            if queue.lines.is_empty() {
                self.shared.written.send_modify(|number| *number = last.max(*number));
                self.shared.synced.send_modify(|number| *number = last.max(*number));
            }
        }
    }

    /// Whether records can be kept; asked before a request is begun.
    ///
    /// # Errors
    /// [`SpoolError::Failed`].
    pub fn check(&self) -> Result<(), SpoolError> {
        if self.is_failed() { Err(SpoolError::Failed) } else { Ok(()) }
    }

    /// How the spool stands.
    pub fn status(&self) -> SpoolStatus {
        SpoolStatus {
            last: lock(&self.shared.queue).last,
            written: *self.shared.written.borrow(),
            synced: *self.shared.synced.borrow(),
            chained: *self.shared.chained.borrow(),
            failure: lock(&self.shared.failure).clone(),
        }
    }

    /// How many fsyncs were done.
    pub fn fsyncs(&self) -> u64 {
        self.shared.fsyncs.load(Ordering::Relaxed)
    }

    fn is_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.filled.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("audit.spool thread panicked");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn fail(&self, what: &str, error: &io::Error) {
        tracing::error!(%error, what, "audit.spool failed; requests are refused from here on");
        *lock(&self.failure) = Some(format!("{what}: {error}"));
        self.failed.store(true, Ordering::Release);
        // Wakes all who wait, so that they see the failure.
        self.written.send_modify(|_| {});
        self.synced.send_modify(|_| {});
        self.chained.send_modify(|_| {});
    }
}

/// The files that records go to.
struct Sink {
    folder: PathBuf,
    start: Timestamp,
    next: u64,
    open: Option<(Arc<File>, u64)>,
}

impl Sink {
    fn rotate(&mut self) -> io::Result<Arc<File>> {
        let name = format!("spool-{:015}-{:012}.jsonl", self.start.0, self.next);
        let file = OpenOptions::new().create(true).append(true).open(self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()?;
        let file = Arc::new(file);
        self.open = Some((file.clone(), 0));
        Ok(file)
    }

    /// Writes whole lines, whose last is number `last`; the file may be ended first.
    fn write(&mut self, lines: &[u8], last: u64) -> io::Result<Arc<File>> {
        let (file, bytes) = match self.open.take() {
            Some((file, bytes)) if bytes < FILE_BYTES_MAX => (file, bytes),
            Some(_) | None => (self.rotate()?, 0),
        };
        (&*file).write_all(lines)?;
        self.next = last + 1;
        self.open = Some((file.clone(), bytes + lines.len() as u64));
        Ok(file)
    }
}

fn write_loop(shared: &Shared, mut sink: Sink) {
    let mut lines = Vec::new();
    loop {
        let last = {
            let mut queue = lock(&shared.queue);
            while queue.lines.is_empty() && !queue.closed {
                queue.idle = true;
                queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle = false;
            if queue.lines.is_empty() {
                break;
            }
            std::mem::swap(&mut queue.lines, &mut lines);
            queue.last
        };
        if shared.failed.load(Ordering::Acquire) {
            break;
        }
        match sink.write(&lines, last) {
            Ok(file) => {
                let was_clean = {
                    let mut unsynced = lock(&shared.unsynced);
                    let was_clean = unsynced.files.is_empty();
                    if !unsynced.files.iter().any(|known| Arc::ptr_eq(known, &file)) {
                        unsynced.files.push(file);
                    }
                    unsynced.written = last;
                    was_clean
                };
                // A syncer that has files to sync already is awake, or waits for its interval.
                if was_clean {
                    shared.dirty.notify_one();
                }
                shared.written.send_replace(last);
            }
            Err(error) => {
                shared.fail("write", &error);
                break;
            }
        }
        lines.clear();
    }
    lock(&shared.unsynced).closed = true;
    shared.dirty.notify_all();
}

fn sync_loop(shared: &Shared, durability: Durability) {
    loop {
        let (files, written, closed) = {
            let mut unsynced = lock(&shared.unsynced);
            while unsynced.files.is_empty() && !unsynced.closed {
                unsynced = shared.dirty.wait(unsynced).unwrap_or_else(PoisonError::into_inner);
            }
            if durability == Durability::Os && !unsynced.closed {
                // Lets records gather: one fsync for all of an interval.
                drop(unsynced);
                unsynced = wait_interval(shared);
            }
            (std::mem::take(&mut unsynced.files), unsynced.written, unsynced.closed)
        };
        for file in &files {
            if let Err(error) = file.sync_data() {
                shared.fail("fsync", &error);
                return;
            }
            shared.fsyncs.fetch_add(1, Ordering::Relaxed);
        }
        shared.synced.send_replace(written);
        if closed && lock(&shared.unsynced).files.is_empty() {
            return;
        }
    }
}

/// Waits an interval, or less when the spool closes.
fn wait_interval(shared: &Shared) -> MutexGuard<'_, Unsynced> {
    // Each write notifies; only closing ends the wait early.
    let unsynced = lock(&shared.unsynced);
    let (unsynced, _timed_out) = shared
        .dirty
        .wait_timeout_while(unsynced, SYNC_INTERVAL, |unsynced| !unsynced.closed)
        .unwrap_or_else(PoisonError::into_inner);
    unsynced
}

/// The number of the last whole record in the newest files of a folder.
fn last_number(folder: &Path) -> io::Result<u64> {
    let files = files(folder)?;
    for (_, path) in files.iter().rev() {
        let bytes = std::fs::read(path)?;
        // What a power cut tore need not be at the end: a page before it may be missing.
        let last = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .rev()
            .filter(|line| line.ends_with(b"\n"))
            .find_map(line_number);
        if let Some(last) = last {
            return Ok(last);
        }
    }
    Ok(files.last().map_or(0, |(first, _)| first.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, Severity};
    use super::*;

    fn record(message: &str) -> Record {
        Record {
            at: Timestamp(0),
            request_id: "r".into(),
            message_id: "fetch",
            operation: "fetch".into(),
            outcome: Outcome::Success,
            severity: Severity::Info,
            user: None,
            authenticator: None,
            service: None,
            subject: Vec::new(),
            client_ip: "::1".into(),
            policy: None,
            message: message.into(),
        }
    }

    fn lines(folder: &Path) -> Vec<serde_json::Value> {
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let whole = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>()
        };
        files.iter().flat_map(whole).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn numbers_have_no_gap_and_go_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let spool = Spool::open(folder.path(), Durability::Os, Timestamp(7 - round)).unwrap();
            let spool = Arc::new(spool);
            let writers: Vec<_> = (0..20)
                .map(|n| {
                    let spool = spool.clone();
                    tokio::spawn(async move {
                        spool.append(&[record("one"), record(&format!("two {n}"))]).await
                    })
                })
                .collect();
            for writer in writers {
                writer.await.unwrap().unwrap();
            }
            assert_eq!(spool.status().written, spool.status().last);
        }
        let mut numbers: Vec<u64> =
            lines(folder.path()).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=120).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn disk_durability_waits_for_the_fsync_and_a_torn_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        {
            let spool = Spool::open(folder.path(), Durability::Disk, Timestamp(1)).unwrap();
            spool.append(&[record("a")]).await.unwrap();
            assert!(spool.status().synced >= 1 && spool.fsyncs() >= 1);
        }
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"{\"seq\":2,\"at\"").unwrap();
        let spool = Spool::open(folder.path(), Durability::Disk, Timestamp(2)).unwrap();
        spool.append(&[record("b")]).await.unwrap();
        assert_eq!(spool.status().last, 2);
        assert_eq!(lines(folder.path()).len(), 2);
    }

    #[tokio::test]
    async fn no_number_is_given_twice_where_the_last_line_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        {
            let spool = Spool::open(folder.path(), Durability::Disk, Timestamp(1)).unwrap();
            spool.append(&[record("a"), record("b")]).await.unwrap();
        }
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"\0\0\0\0 the rest of it\"}\n").unwrap();
        let spool = Spool::open(folder.path(), Durability::Disk, Timestamp(2)).unwrap();
        assert_eq!(spool.status().last, 2);
    }
}
