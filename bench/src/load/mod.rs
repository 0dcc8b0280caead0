//! Two ways of asking: in a closed loop each client sends as soon as it has its answer, which finds the peak; in
//! an open loop requests start at a fixed rate whatever the answers do, and a latency counts from the moment the
//! request should have started, so that a stall is seen by all who would have come meanwhile.
//!
//! The generator runs on threads of its own, each with a single-threaded runtime, apart from the set-up code.

mod pacer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Fault;
use crate::histogram::Histogram;
use crate::wire::{Connection, Endpoint, Protocol, Reply, Request};

use pacer::Queue;
pub use pacer::Schedule;

/// How long the last answers may take once no more requests start.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What one client sends, over and over, on a connection of its own.
#[derive(Clone)]
pub struct Client {
    /// Where to.
    pub endpoint: Endpoint,
    /// How.
    pub protocol: Protocol,
    /// In turn. Never empty.
    pub requests: Vec<Request>,
}

/// When requests start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// As soon as the client has its answer.
    Closed,
    /// At this many a second altogether, evenly spaced.
    Open(f64),
}

/// A load to run.
#[derive(Clone)]
pub struct Plan {
    /// One connection each.
    pub clients: Vec<Client>,
    /// Closed or open loop.
    pub arrivals: Arrivals,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
    /// Generator threads.
    pub threads: usize,
}

/// What a load observed in its measured part.
pub struct Observed {
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that failed.
    pub failed: u64,
    /// What the first failure said.
    pub first_failure: Option<String>,
    /// Of the requests that succeeded.
    pub latencies: Histogram,
    /// The length of the measured part.
    pub elapsed: Duration,
}

impl Observed {
    /// Successes per second.
    pub fn rate(&self) -> f64 {
        self.succeeded as f64 / self.elapsed.as_secs_f64()
    }
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const STOPPED: u8 = 2;

/// The part of the run that all threads look at.
#[derive(Default)]
struct Phase(AtomicU8);

impl Phase {
    fn now(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn enter(&self, phase: u8) {
        self.0.store(phase, Ordering::Release);
    }
}

/// Counts of one client; merged at the end.
#[derive(Default)]
struct Tally {
    latencies: Histogram,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn count(&mut self, reply: Reply, latency: Duration) {
        match reply {
            Reply::Success => self.latencies.record(latency),
            Reply::Failure(text) => {
                self.failed += 1;
                self.first_failure.get_or_insert(text);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        self.failed += other.failed;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
    }
}

/// Runs a load. `at_edges` is called when the measured part begins and when it ends.
///
/// # Errors
/// A connection that breaks ends the run; refused requests are only counted.
pub async fn run(plan: Plan, mut at_edges: impl AsyncFnMut()) -> Result<Observed, Fault> {
    let phase = Arc::new(Phase::default());
    let stamps = Arc::new(AtomicU64::new(1));
    let threads = plan.threads.clamp(1, plan.clients.len().max(1));
    let mut shares: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, client) in plan.clients.into_iter().enumerate() {
        shares[number % threads].push(client);
    }
    let mut readies = Vec::new();
    let mut handles: Vec<JoinHandle<Result<Tally, Fault>>> = Vec::new();
    for (number, share) in shares.into_iter().enumerate() {
        let (ready, is_ready) = oneshot::channel();
        readies.push(is_ready);
        let part = Part {
            clients: share,
            schedule: match plan.arrivals {
                Arrivals::Closed => None,
                Arrivals::Open(rate) => Some((rate / threads as f64, number as f64 / rate)),
            },
            phase: Arc::clone(&phase),
            stamps: Arc::clone(&stamps),
        };
        let builder = std::thread::Builder::new().name(format!("load-{number}"));
        let handle =
            builder.spawn(move || part.run(ready)).map_err(Fault::io("cannot start a thread"))?;
        handles.push(handle);
    }
    // A thread that fails drops its sender: go on, its error is collected below.
    let mut connected = true;
    for ready in readies {
        connected &= ready.await.is_ok();
    }
    let mut elapsed = Duration::ZERO;
    if connected {
        tokio::time::sleep(plan.warm_up).await;
        at_edges().await;
        let start = Instant::now();
        phase.enter(MEASURING);
        tokio::time::sleep(plan.measured).await;
        elapsed = start.elapsed();
        phase.enter(STOPPED);
        at_edges().await;
    } else {
        phase.enter(STOPPED);
    }
    let mut tally = Tally::default();
    for handle in handles {
        let part = tokio::task::spawn_blocking(move || handle.join()).await;
        match part {
            Ok(Ok(outcome)) => tally.merge(outcome?),
            _ => return Err(Fault::Usage("a generator thread panicked".to_owned())),
        }
    }
    Ok(Observed {
        succeeded: tally.latencies.len(),
        failed: tally.failed,
        first_failure: tally.first_failure,
        latencies: tally.latencies,
        elapsed,
    })
}

/// The clients of one generator thread.
struct Part {
    clients: Vec<Client>,
    /// Rate per second and offset in seconds of this thread's share.
    schedule: Option<(f64, f64)>,
    phase: Arc<Phase>,
    stamps: Arc<AtomicU64>,
}

impl Part {
    fn run(self, ready: oneshot::Sender<()>) -> Result<Tally, Fault> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Fault::io("cannot build a runtime"))?
            .block_on(self.drive(ready))
    }

    async fn drive(self, ready: oneshot::Sender<()>) -> Result<Tally, Fault> {
        let mut opened = Vec::with_capacity(self.clients.len());
        for client in self.clients {
            let connection = Connection::open(&client.endpoint, client.protocol)
                .await
                .map_err(Fault::io(format!("cannot connect to {}", client.endpoint.address)))?;
            opened.push((connection, client.requests));
        }
        if ready.send(()).is_err() {
            return Ok(Tally::default());
        }
        let queue = Arc::new(Queue::default());
        let mut tasks = JoinSet::new();
        for (connection, requests) in opened {
            let sender = Sender {
                connection,
                requests,
                turn: 0,
                stamps: Arc::clone(&self.stamps),
                phase: Arc::clone(&self.phase),
            };
            if self.schedule.is_some() {
                tasks.spawn(sender.open_loop(Arc::clone(&queue)));
            } else {
                tasks.spawn(sender.closed_loop());
            }
        }
        if let Some((rate, offset)) = self.schedule {
            let schedule = Schedule::new(Instant::now() + Duration::from_secs_f64(offset), rate);
            let phase = &self.phase;
            pacer::feed(schedule, &queue, || phase.now() == STOPPED)
                .await
                .map_err(Fault::io("cannot pace requests"))?;
        }
        let mut all = Tally::default();
        let collect = async {
            while let Some(outcome) = tasks.join_next().await {
                match outcome {
                    Ok(tally) => all.merge(tally.map_err(Fault::io("a connection broke"))?),
                    Err(error) => return Err(Fault::Usage(format!("a client ended: {error}"))),
                }
                if self.phase.now() == STOPPED {
                    break;
                }
            }
            Ok(())
        };
        collect.await?;
        // The first client that ended after the stop begins the drain of the others.
        let drain = async {
            while let Some(outcome) = tasks.join_next().await {
                if let Ok(tally) = outcome {
                    all.merge(tally.map_err(Fault::io("a connection broke"))?);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(DRAIN_MAX, drain).await {
            Ok(done) => done.map(|()| all),
            Err(_) => {
                Err(Fault::Usage("answers were still missing 10 s after the load".to_owned()))
            }
        }
    }
}

/// One client at work.
struct Sender {
    connection: Connection,
    requests: Vec<Request>,
    turn: usize,
    stamps: Arc<AtomicU64>,
    phase: Arc<Phase>,
}

impl Sender {
    async fn send(&mut self) -> std::io::Result<Reply> {
        let turn = self.turn % self.requests.len();
        self.turn += 1;
        let request = &mut self.requests[turn];
        request.stamp(self.stamps.fetch_add(1, Ordering::Relaxed));
        self.connection.exchange(request).await
    }

    async fn closed_loop(mut self) -> std::io::Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let start = Instant::now();
            let reply = self.send().await?;
            match self.phase.now() {
                WARMING => {}
                MEASURING => tally.count(reply, start.elapsed()),
                _ => return Ok(tally),
            }
        }
    }

    /// Takes due requests until the queue is closed and empty: what was due is sent, however late.
    async fn open_loop(mut self, queue: Arc<Queue>) -> std::io::Result<Tally> {
        let mut tally = Tally::default();
        while let Some(intended) = queue.next().await {
            let measured = self.phase.now() != WARMING;
            let reply = self.send().await?;
            if measured {
                tally.count(reply, intended.elapsed());
            }
        }
        Ok(tally)
    }
}
