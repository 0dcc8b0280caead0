//! Group commit: one fsync for all appends that wait for one.
//!
//! Appends queue their completion here and go on. The flusher takes all that have queued up, syncs
//! the log once, and completes them together; whatever arrives meanwhile shares the next sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{FaultHook, fatal};
use crate::types::TypeConfig;
use conclave_storage::LogStore;

type Completion = IOFlushed<TypeConfig>;

/// How long the simulated disk takes for its next sync.
pub(crate) type FsyncDelay = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Hands completions to whoever syncs. Cloned into every log handle; ends with the last of them.
#[derive(Clone)]
pub(crate) struct Flusher {
    queue: mpsc::UnboundedSender<(Completion, Instant)>,
    oldest_wait_ms: Arc<AtomicU64>,
    synced: Arc<watch::Sender<Synced>>,
}

/// How much of the log is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Synced {
    /// Up to this entry.
    index: u64,
    /// Where the log was cut since the sync under way began; what it held beyond is not what it holds
    /// there now.
    cut: u64,
}

impl Synced {
    fn begin(&mut self) {
        self.cut = u64::MAX;
    }

    fn cut_after(&mut self, last: u64) {
        self.index = self.index.min(last);
        self.cut = self.cut.min(last);
    }

    fn end(&mut self, reached: u64) {
        self.index = self.index.max(reached.min(self.cut));
    }

    fn at(index: u64) -> watch::Sender<Self> {
        watch::Sender::new(Self { index, cut: u64::MAX })
    }
}

impl Flusher {
    /// A flusher on a thread of its own: an fsync blocks, and must hold up nobody else.
    pub(crate) fn thread(log: Arc<LogStore>, hook: FaultHook) -> std::io::Result<Self> {
        let (queue, mut incoming) = mpsc::unbounded_channel();
        let oldest_wait_ms = Arc::new(AtomicU64::new(0));
        let gauge = Arc::clone(&oldest_wait_ms);
        // What the log held when it was opened was found on the disk.
        let synced = Arc::new(Synced::at(last_index(&log)));
        let told = Arc::clone(&synced);
        std::thread::Builder::new().name("raft-log-sync".to_owned()).spawn(move || {
            let mut batch = Vec::new();
            while let Some(first) = incoming.blocking_recv() {
                take_all(first, &mut incoming, &mut batch);
                note_wait(&gauge, &batch);
                let result = sync(&log, &told).map_err(|fault| fatal(&hook, fault));
                complete(&mut batch, &result);
            }
        })?;
        Ok(Self { queue, oldest_wait_ms, synced })
    }

    /// A flusher for simulated time: a task, which sleeps as long as the simulated disk takes.
    pub(crate) fn task(log: Arc<LogStore>, hook: FaultHook, delay: FsyncDelay) -> Self {
        let (queue, mut incoming) = mpsc::unbounded_channel();
        let oldest_wait_ms = Arc::new(AtomicU64::new(0));
        let gauge = Arc::clone(&oldest_wait_ms);
        let synced = Arc::new(Synced::at(last_index(&log)));
        let told = Arc::clone(&synced);
        drop(tokio::spawn(async move {
            let mut batch = Vec::new();
            while let Some(first) = incoming.recv().await {
                take_all(first, &mut incoming, &mut batch);
                tokio::time::sleep(delay()).await;
                note_wait(&gauge, &batch);
                let result = sync(&log, &told).map_err(|fault| fatal(&hook, fault));
                complete(&mut batch, &result);
            }
        }));
        Self { queue, oldest_wait_ms, synced }
    }

    /// A flusher that syncs nothing and calls everything synced.
    #[cfg(test)]
    pub(crate) fn vouching() -> Self {
        let (queue, _) = mpsc::unbounded_channel();
        let synced = Arc::new(Synced::at(u64::MAX));
        Self { queue, oldest_wait_ms: Arc::default(), synced }
    }

    /// Queues a completion. Whatever it stands for was written before this call.
    pub(crate) fn push(&self, completion: Completion) -> std::io::Result<()> {
        self.queue
            .send((completion, Instant::now()))
            .map_err(|_| std::io::Error::other("the log's sync thread has ended"))
    }

    /// Waits until this node's own disk holds the log up to `index`. A majority may have an entry
    /// before this node has: what it showed of it, it would forget with its power.
    pub(crate) async fn wait_synced(&self, index: u64) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as this.
        drop(synced.wait_for(|synced| synced.index >= index).await);
    }

    /// The log ends at `last` from now on: what comes after it is not on the disk.
    pub(crate) fn truncated(&self, last: u64) {
        self.synced.send_modify(|synced| synced.cut_after(last));
    }

    /// How long the oldest append of the last sync had waited for it.
    pub(crate) fn oldest_wait(&self) -> Duration {
        Duration::from_millis(self.oldest_wait_ms.load(Ordering::Relaxed))
    }
}

type Waiting = (Completion, Instant);

fn last_index(log: &LogStore) -> u64 {
    log.last().map_or(0, |(index, _)| index)
}

/// Syncs the log, and tells how far: what was appended before the sync began is on the disk.
fn sync(log: &LogStore, synced: &watch::Sender<Synced>) -> Result<(), conclave_storage::Fault> {
    synced.send_modify(Synced::begin);
    let reached = last_index(log);
    log.sync()?;
    synced.send_modify(|synced| synced.end(reached));
    Ok(())
}

fn take_all(
    first: Waiting,
    incoming: &mut mpsc::UnboundedReceiver<Waiting>,
    batch: &mut Vec<Waiting>,
) {
    batch.push(first);
    while let Ok(next) = incoming.try_recv() {
        batch.push(next);
    }
}

fn note_wait(gauge: &AtomicU64, batch: &[Waiting]) {
    let oldest = batch.first().map_or(Duration::ZERO, |(_, since)| since.elapsed());
    gauge.store(u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn complete(batch: &mut Vec<Waiting>, result: &std::io::Result<()>) {
    for (completion, _) in batch.drain(..) {
        completion.io_completed(match result {
            Ok(()) => Ok(()),
            Err(error) => Err(std::io::Error::new(error.kind(), error.to_string())),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_after_a_cut_is_not_taken_for_synced() {
        let mut synced = Synced { index: 80, cut: u64::MAX };
        synced.begin();
        synced.end(100);
        assert_eq!(synced.index, 100);
        // Cut while a sync that began with 120 entries is under way.
        synced.begin();
        synced.cut_after(90);
        synced.end(120);
        assert_eq!(synced.index, 90);
        // Cut to below what no sync had reached yet.
        synced.begin();
        synced.end(95);
        synced.cut_after(85);
        assert_eq!(synced.index, 85);
        synced.begin();
        synced.end(86);
        assert_eq!(synced.index, 86);
    }
}
