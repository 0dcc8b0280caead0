//! Read barriers on nodes that do not lead: one question to the leader for all reads that wait.
//!
//! A read that comes while a question is under way waits for the next one: the leader's answer only
//! covers what was committed when it was asked.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Notify, oneshot};

use crate::error::ReadError;
use crate::handle::Node;

type Waiter = oneshot::Sender<Result<u64, ReadError>>;

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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waiter);
        self.arrived.notify_one();
        answer.await.unwrap_or(Err(ReadError::Closed))
    }

    fn take(&self) -> Vec<Waiter> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks, again and again, for as long as the node lives.
    pub(crate) async fn run(self: Arc<Self>, node: Weak<Node>) {
        loop {
            let waiting = self.take();
            if waiting.is_empty() {
                self.arrived.notified().await;
                continue;
            }
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
