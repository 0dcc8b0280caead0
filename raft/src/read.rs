//! Read barriers: one round to a majority for all reads that wait, on every node. A node that does
//! not lead asks the leader, once for all of its own reads.
//!
//! A read that comes while a question is under way waits for the next one: the answer only covers
//! what was committed when it was asked. Under load questions are spaced out, so that the rounds, and
//! with them the work of the other voters, do not grow with the reads.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::ReadError;
use crate::handle::Node;

/// Over what time the load is judged.
const WINDOW: Duration = Duration::from_millis(20);
/// So many reads in one window are load (1,000 a second).
const BUSY_READS: usize = 20;
/// Under load a question waits until so many reads share it ...
const SHARED_ENOUGH: usize = 16;
/// ... or until the last one is so long ago. It is the latency that load may add to a read.
const SPACING: Duration = Duration::from_millis(4);

pub(crate) type Waiter = oneshot::Sender<Result<u64, ReadError>>;

/// The reads that wait for the next question.
#[derive(Default)]
pub(crate) struct Barriers {
    waiting: Mutex<Vec<Waiter>>,
    arrived: Notify,
}

impl Barriers {
    /// Waits for an index that covers everything committed before this call.
    pub(crate) async fn wait(&self) -> Result<u64, ReadError> {
        let (waiter, answer) = oneshot::channel();
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(waiter);
            waiting.len()
        };
        // In between nobody has to wake up.
        if waiting == 1 || waiting == SHARED_ENOUGH {
            self.arrived.notify_one();
        }
        answer.await.unwrap_or(Err(ReadError::Closed))
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those who wait now; who drops them tells them that the node is closed.
    pub(crate) fn take(&self) -> Vec<Waiter> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks, again and again, for as long as the node lives.
    pub(crate) async fn run(self: Arc<Self>, node: Weak<Node>) {
        let mut load = Load::new();
        loop {
            while self.waiting() == 0 {
                self.arrived.notified().await;
            }
            if let Some(until) = load.next_question() {
                while self.waiting() < SHARED_ENOUGH {
                    if timeout_at(until, self.arrived.notified()).await.is_err() {
                        break;
                    }
                }
            }
            let waiting = self.take();
            load.asked(waiting.len());
            let Some(node) = node.upgrade() else { return };
            let answer = node.remote_read_index().await;
            drop(node);
            for waiter in waiting {
                // Whoever has given up waiting needs no answer.
                drop(waiter.send(answer.clone()));
            }
        }
    }
}

/// How many reads came lately, and when the last question was asked.
struct Load {
    window: Instant,
    reads: usize,
    is_busy: bool,
    asked: Instant,
}

impl Load {
    fn new() -> Self {
        let now = Instant::now();
        Self { window: now, reads: 0, is_busy: false, asked: now }
    }

    /// Until when reads gather before the next question; at once when there is no load.
    fn next_question(&self) -> Option<Instant> {
        self.is_busy.then(|| self.asked + SPACING)
    }

    fn asked(&mut self, reads: usize) {
        self.asked = Instant::now();
        self.reads += reads;
        let elapsed = self.asked - self.window;
        if elapsed >= WINDOW {
            let windows = elapsed.as_micros() / WINDOW.as_micros();
            self.is_busy = self.reads as u128 >= BUSY_READS as u128 * windows;
            self.window = self.asked;
            self.reads = 0;
        }
    }
}
