//! Clients of a load balancer: a fixed number of connections, requests that fall due at a fixed rate
//! whatever the answers do, and a second try where the first one failed.
//!
//! A latency counts from the moment at which the request was to be sent, so that a stall is seen by
//! all who would have come meanwhile. A request that is tried again carries the same idempotency key:
//! it is one operation of the history, from its first try to its last answer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::{Answer, Bearers, Door, NoAnswer};
use crate::history::{Call, History, NEVER, Operation, Outcome, Promise};
use crate::rng::Rng;
use crate::workload::{Active, RunClock, outcome, request};

/// First pause before another try; each next one is twice as long.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause before another try.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Between two looks at what is done with.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How the clients ask.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Writes a second.
    pub writes: u32,
    /// Reads a second, of the latest and by version.
    pub reads: u32,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// How long one try waits for its answer.
    pub deadline: Duration,
    /// How long after its moment a request is still tried again.
    pub patience: Duration,
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Asking {
    /// When it was to be sent.
    pub intended: u64,
    /// Whether it sets a secret; else it reads one.
    pub is_write: bool,
    /// Why the first try failed; none when it succeeded.
    pub first_failure: Option<String>,
    /// When it succeeded, at whatever try; none when it never did.
    pub done: Option<u64>,
}

/// What became of many requests.
#[derive(Debug, Default)]
pub struct Tried {
    /// How many there were.
    pub requests: u64,
    /// Those whose first try failed.
    pub failed_first: u64,
    /// Those that failed for good.
    pub failed: u64,
    /// What first tries said, and how many said it.
    failures: Vec<(String, u64)>,
}

impl Tried {
    /// Counts one request.
    pub fn add(&mut self, asking: &Asking) {
        self.requests += 1;
        self.failed += u64::from(asking.done.is_none());
        let Some(failure) = &asking.first_failure else { return };
        self.failed_first += 1;
        match self.failures.iter_mut().find(|(text, _)| text == failure) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((failure.clone(), 1)),
        }
    }

    /// What first tries said most, most frequent first.
    pub fn words(mut self) -> Vec<String> {
        self.failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        self.failures.iter().take(8).map(|(text, count)| format!("{count} times: {text}")).collect()
    }
}

/// The longest time between two moments of which the later came at or after `began`. The last one before
/// that counts, too, so that a gap is seen whole.
pub fn longest_gap(mut moments: Vec<u64>, began: u64) -> Option<u64> {
    moments.sort_unstable();
    let first = moments.partition_point(|moment| *moment < began).saturating_sub(1);
    moments[first..].windows(2).map(|pair| pair[1] - pair[0]).max()
}

/// A request that has fallen due.
struct Due {
    number: u64,
    intended: u64,
    secret: Arc<str>,
    call: Call,
}

/// Clients at work.
pub struct Clients {
    shared: Arc<Shared>,
    pacer: JoinHandle<()>,
    senders: Vec<JoinHandle<()>>,
}

struct Shared {
    door: Door,
    bearers: Bearers,
    clock: RunClock,
    pace: Pace,
    stop: AtomicBool,
    seen: Mutex<(History, Vec<Asking>)>,
    /// Requests that are due and not done with, by their moment.
    pending: Mutex<BTreeSet<(u64, u64)>>,
    /// The latest moment for which an acknowledged write was intended.
    acknowledged: watch::Sender<u64>,
}

impl Clients {
    /// Starts asking at that door. The secrets must exist and have no versions.
    pub fn start(
        door: &Door,
        bearers: impl Into<Bearers>,
        secrets: Vec<Arc<str>>,
        pace: Pace,
        clock: RunClock,
        rng: Rng,
    ) -> Self {
        let shared = Arc::new(Shared {
            door: door.renamed(door.node),
            bearers: bearers.into(),
            clock,
            pace,
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
            pending: Mutex::default(),
            acknowledged: watch::Sender::new(0),
        });
        let (due, queue) = mpsc::unbounded_channel();
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let pacer = tokio::spawn(Arc::clone(&shared).pace(Active::new(secrets), due, rng));
        let senders = (0..pace.connections)
            .map(|_| tokio::spawn(Arc::clone(&shared).send_due(Arc::clone(&queue))))
            .collect();
        Self { shared, pacer, senders }
    }

    /// Waits until a write that was intended at or after that time is acknowledged; false when none
    /// is in time.
    pub async fn acknowledges_after(&self, time: u64, patience: Duration) -> bool {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|intended| *intended >= time);
        matches!(timeout(patience, reached).await, Ok(Ok(_)))
    }

    /// Waits until so many requests are done with; false when they are not in time.
    pub async fn answers(&self, count: usize, patience: Duration) -> bool {
        self.comes_true(patience, || self.answered() >= count).await
    }

    /// Waits until every request that fell due before that time is done with, those that hang on a hurt node
    /// too; false when they are not in time.
    pub async fn done_before(&self, time: u64, patience: Duration) -> bool {
        let done = || self.shared.pending().first().is_none_or(|(due, _)| *due >= time);
        self.comes_true(patience, done).await
    }

    async fn comes_true(&self, patience: Duration, condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !condition() {
            if start.elapsed() > patience {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }

    /// How many requests are done with so far.
    pub fn answered(&self) -> usize {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).1.len()
    }

    /// Asks nothing more, waits for what is under way, and gives the history and what became of
    /// each request.
    pub async fn stop(self) -> (History, Vec<Asking>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // A panic in one of them has been reported where it happened.
        self.pacer.await.ok();
        for sender in self.senders {
            sender.await.ok();
        }
        std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets requests fall due until told to stop.
    async fn pace(
        self: Arc<Self>,
        mut secrets: Active,
        due: mpsc::UnboundedSender<Due>,
        mut rng: Rng,
    ) {
        let per_second = u64::from(self.pace.writes + self.pace.reads).max(1);
        let start = Instant::now();
        for number in 0_u64.. {
            let moment = start + Duration::from_nanos(number * 1_000_000_000 / per_second);
            sleep_until(moment).await;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let is_write = rng.below(per_second) < u64::from(self.pace.writes);
            let Some((secret, call)) = secrets.plan(is_write, number, &mut rng) else { continue };
            let intended = self.clock.at(moment);
            self.pending().insert((intended, number));
            if due.send(Due { number, intended, secret, call }).is_err() {
                return;
            }
        }
    }

    /// One connection: takes what is due until nothing more will be.
    async fn send_due(
        self: Arc<Self>,
        queue: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Due>>>,
    ) {
        let door = self.door.renamed(self.door.node);
        loop {
            let next = queue.lock().await.recv().await;
            let Some(due) = next else { return };
            let place = (due.intended, due.number);
            let (operation, asking) = self.pursue(&door, due).await;
            self.pending().remove(&place);
            if asking.is_write && asking.done.is_some() {
                self.acknowledged.send_if_modified(|latest| {
                    let is_later = asking.intended > *latest;
                    *latest = asking.intended.max(*latest);
                    is_later
                });
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.push(operation);
            seen.1.push(asking);
        }
    }

    /// Tries until there is an answer, a refusal, or no patience left.
    async fn pursue(&self, door: &Door, due: Due) -> (Operation, Asking) {
        let Due { intended, secret, call, .. } = due;
        let mut asked = request(self.bearers.whose_turn(), &secret, &call);
        if let Call::Write(value) = &call {
            asked = asked.repeatable(value.to_string());
        }
        let mut asking = Asking {
            intended,
            is_write: matches!(call, Call::Write(_)),
            first_failure: None,
            done: None,
        };
        let mut invoked = None;
        let mut perhaps = false;
        let mut pause = PAUSE_FIRST;
        let result = loop {
            let sent = || {
                invoked.get_or_insert_with(|| self.clock.now());
            };
            let answer = door.send(asked.clone(), self.pace.deadline, sent).await;
            let refused = answer.as_ref().is_ok_and(|answer| answer.status.is_client_error());
            let words = words(&answer);
            let result = outcome(&call, answer);
            if matches!(result, Outcome::Written(_) | Outcome::Read(_)) {
                asking.done = Some(self.clock.now());
                break result;
            }
            asking.first_failure.get_or_insert(words);
            perhaps |= result == Outcome::Unknown;
            let waited = Duration::from_nanos(self.clock.now().saturating_sub(intended));
            if refused || waited + pause > self.pace.patience {
                break if perhaps { Outcome::Unknown } else { Outcome::Failed };
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        let now = self.clock.now();
        let operation = Operation {
            secret,
            node: door.node,
            call,
            returned: if result == Outcome::Unknown { NEVER } else { asking.done.unwrap_or(now) },
            outcome: result,
            promise: Promise::Linearizable,
            invoked: invoked.unwrap_or(now),
        };
        (operation, asking)
    }
}

fn words(answer: &Result<Answer, NoAnswer>) -> String {
    match answer {
        Ok(answer) => answer.words(),
        Err(error) => error.to_string(),
    }
}
