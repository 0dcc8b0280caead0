//! Group commit: one fsync for all appends that wait for one.
//!
//! Appends queue their completion here and go on. The flusher takes all that have queued up, syncs
//! the log once, and completes them together; whatever arrives meanwhile shares the next sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::mpsc;
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
}

impl Flusher {
    /// A flusher on a thread of its own: an fsync blocks, and must hold up nobody else.
    pub(crate) fn thread(log: Arc<LogStore>, hook: FaultHook) -> std::io::Result<Self> {
        let (queue, mut incoming) = mpsc::unbounded_channel();
        let oldest_wait_ms = Arc::new(AtomicU64::new(0));
        let gauge = Arc::clone(&oldest_wait_ms);
        std::thread::Builder::new().name("raft-log-sync".to_owned()).spawn(move || {
            let mut batch = Vec::new();
            while let Some(first) = incoming.blocking_recv() {
                take_all(first, &mut incoming, &mut batch);
                note_wait(&gauge, &batch);
                let result = log.sync().map_err(|fault| fatal(&hook, fault));
                complete(&mut batch, &result);
            }
        })?;
        Ok(Self { queue, oldest_wait_ms })
    }

    /// A flusher for simulated time: a task, which sleeps as long as the simulated disk takes.
    pub(crate) fn task(log: Arc<LogStore>, hook: FaultHook, delay: FsyncDelay) -> Self {
        let (queue, mut incoming) = mpsc::unbounded_channel();
        let oldest_wait_ms = Arc::new(AtomicU64::new(0));
        let gauge = Arc::clone(&oldest_wait_ms);
        drop(tokio::spawn(async move {
            let mut batch = Vec::new();
            while let Some(first) = incoming.recv().await {
                take_all(first, &mut incoming, &mut batch);
                tokio::time::sleep(delay()).await;
                note_wait(&gauge, &batch);
                let result = log.sync().map_err(|fault| fatal(&hook, fault));
                complete(&mut batch, &result);
            }
        }));
        Self { queue, oldest_wait_ms }
    }

    /// Queues a completion. Whatever it stands for was written before this call.
    pub(crate) fn push(&self, completion: Completion) -> std::io::Result<()> {
        self.queue
            .send((completion, Instant::now()))
            .map_err(|_| std::io::Error::other("the log's sync thread has ended"))
    }

    /// How long the oldest append of the last sync had waited for it.
    pub(crate) fn oldest_wait(&self) -> Duration {
        Duration::from_millis(self.oldest_wait_ms.load(Ordering::Relaxed))
    }
}

type Waiting = (Completion, Instant);

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
