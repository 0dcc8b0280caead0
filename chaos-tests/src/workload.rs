//! The recorded load: secret writes, and reads by version and of the latest, through any node,
//! at a fixed rate whether or not the servers keep up.
//!
//! The loop is open: each operation has its planned moment, and a slow answer delays no other.
//! Values are unique and name their run, their number and random bits. A secret gets no more
//! writes than versions are kept, so the final versions are the whole truth; fresh secrets take
//! over from full ones. Nothing is retried: one operation, one request, one outcome.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_domain::records::SECRET_VERSIONS_KEPT;
use http::StatusCode;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{Answer, Asked, Bearers, Door, Login, NoAnswer};
use crate::history::{Call, History, NEVER, Operation, Outcome, Promise, Value};
use crate::rng::Rng;

/// Operations in flight at most. Beyond it operations are left out and counted as skipped: the
/// load generator must not become the bottleneck that it measures.
const IN_FLIGHT_MAX: u64 = 1_000;
/// Writes that one secret gets: below the versions kept, so that retention evicts nothing.
pub const WRITES_PER_SECRET: usize = SECRET_VERSIONS_KEPT - 2;
/// Secrets that are written side by side.
const ACTIVE_SECRETS: usize = 8;

/// The clock of a run: nanoseconds since it began, monotonic.
#[derive(Debug, Clone, Copy)]
pub struct RunClock(Instant);

impl RunClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// The same for another moment; 0 for those before the start.
    pub fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.duration_since(self.0).as_nanos()).unwrap_or(NEVER - 1)
    }
}

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Writes a second.
    pub writes: u32,
    /// Reads a second, of the latest and by version.
    pub reads: u32,
    /// How long a client waits for an answer.
    pub deadline: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Self { writes: 120, reads: 120, deadline: Duration::from_secs(3) }
    }
}

/// A node to ask, and what it promises.
#[derive(Clone)]
pub struct Target {
    /// Its door.
    pub door: Arc<Door>,
    /// Voters answer linearizably, followers with a prefix.
    pub promise: Promise,
}

/// How many secrets a load of that length with so many writes a second needs.
pub fn secrets_needed(writes: u32, seconds: u64) -> usize {
    let writes = usize::try_from(u64::from(writes) * seconds).unwrap_or(usize::MAX);
    writes / WRITES_PER_SECRET + ACTIVE_SECRETS + 1
}

/// A load that is running.
pub struct Load {
    shared: Arc<Shared>,
    generator: JoinHandle<()>,
}

struct Shared {
    bearers: Bearers,
    clock: RunClock,
    deadline: Duration,
    history: Mutex<History>,
    in_flight: AtomicU64,
    skipped: AtomicU64,
    /// When the most recently sent of the acknowledged writes was sent.
    acknowledged: AtomicU64,
    /// The secrets most recently written, newest last.
    recent: Mutex<VecDeque<Arc<str>>>,
    changed: Notify,
    stop: AtomicBool,
}

impl Load {
    /// Starts asking. The secrets must exist and have no versions; see [`secrets_needed`].
    pub fn start(
        targets: Vec<Target>,
        bearers: impl Into<Bearers>,
        secrets: Vec<Arc<str>>,
        rates: Rates,
        clock: RunClock,
        rng: Rng,
    ) -> Self {
        let shared = Arc::new(Shared {
            bearers: bearers.into(),
            clock,
            deadline: rates.deadline,
            history: Mutex::default(),
            in_flight: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            recent: Mutex::default(),
            changed: Notify::new(),
            stop: AtomicBool::new(false),
        });
        let generator = Generator { targets, secrets: Active::new(secrets), rates, rng };
        let generator = tokio::spawn(generator.run(Arc::clone(&shared)));
        Self { shared, generator }
    }

    /// Waits until a write sent at or after that time is acknowledged; false when none is in time.
    pub async fn acknowledges_after(&self, time: u64, patience: Duration) -> bool {
        let acknowledged = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.shared.acknowledged.load(Ordering::SeqCst) >= time {
                    return;
                }
                changed.await;
            }
        };
        timeout(patience, acknowledged).await.is_ok()
    }

    /// The secrets with the most recent acknowledged writes: where a stale read would show.
    pub fn recent(&self) -> Vec<Arc<str>> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().cloned().collect()
    }

    /// How many writes have been acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner).acknowledged()
    }

    /// Adds operations that something else recorded, such as probes.
    pub fn record(&self, operations: impl IntoIterator<Item = Operation>) {
        let mut history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        for operation in operations {
            history.push(operation);
        }
    }

    /// Stops asking, waits for what is in flight, and hands over the history and how many
    /// operations were left out because too many were in flight.
    pub async fn stop(self) -> (History, u64) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The generator ends by itself; a panic in it has been reported where it happened.
        self.generator.await.ok();
        while self.shared.in_flight.load(Ordering::SeqCst) > 0 {
            let changed = self.shared.changed.notified();
            if self.shared.in_flight.load(Ordering::SeqCst) > 0 {
                timeout(Duration::from_millis(100), changed).await.ok();
            }
        }
        let mut history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut *history), self.shared.skipped.load(Ordering::SeqCst))
    }
}

/// When, in nanoseconds of the run's clock, the first write sent at or after that time was
/// acknowledged.
pub fn first_acknowledged_after(history: &History, time: u64) -> Option<u64> {
    history
        .operations()
        .iter()
        .filter(|operation| operation.acknowledged().is_some() && operation.invoked >= time)
        .map(|operation| operation.returned)
        .min()
}

/// The secrets of a load: a few in use, those before them full, those behind them fresh.
pub(crate) struct Active {
    secrets: Vec<Arc<str>>,
    /// Index into `secrets` and writes so far.
    window: Vec<(usize, usize)>,
    next: usize,
}

impl Active {
    pub(crate) fn new(secrets: Vec<Arc<str>>) -> Self {
        let next = ACTIVE_SECRETS.min(secrets.len());
        Self { window: (0..next).map(|at| (at, 0)).collect(), secrets, next }
    }

    /// What the operation of that number is to be; none when all secrets are full.
    pub(crate) fn plan(
        &mut self,
        is_write: bool,
        number: u64,
        rng: &mut Rng,
    ) -> Option<(Arc<str>, Call)> {
        if is_write {
            let bits = rng.next_u64();
            let value = format!("value-{number}-{bits:016x}").as_str().into();
            return self.for_write(rng).map(|secret| (secret, Call::Write(value)));
        }
        let (secret, writes) = self.for_read(rng)?;
        let latest = rng.chance(600);
        let version = u32::try_from(rng.between(1, writes.max(1) as u64)).unwrap_or(1);
        Some((secret, if latest { Call::ReadLatest } else { Call::ReadVersion(version) }))
    }

    /// A secret to write to; none when all are full.
    fn for_write(&mut self, rng: &mut Rng) -> Option<Arc<str>> {
        while !self.window.is_empty() {
            let at = rng.index(self.window.len());
            let (secret, writes) = &mut self.window[at];
            if *writes < WRITES_PER_SECRET {
                *writes += 1;
                return Some(Arc::clone(&self.secrets[*secret]));
            }
            if self.next < self.secrets.len() {
                self.window[at] = (self.next, 0);
                self.next += 1;
            } else {
                self.window.swap_remove(at);
            }
        }
        None
    }

    /// A secret to read and the number of writes that it has seen at most.
    fn for_read(&self, rng: &mut Rng) -> Option<(Arc<str>, usize)> {
        let (secret, writes) = if self.window.is_empty() || rng.chance(250) {
            (rng.index(self.next), WRITES_PER_SECRET)
        } else {
            self.window[rng.index(self.window.len())]
        };
        Some((Arc::clone(self.secrets.get(secret)?), writes))
    }
}

struct Generator {
    targets: Vec<Target>,
    secrets: Active,
    rates: Rates,
    rng: Rng,
}

impl Generator {
    async fn run(mut self, shared: Arc<Shared>) {
        let per_second = u64::from(self.rates.writes + self.rates.reads).max(1);
        let writers: Vec<Target> = self
            .targets
            .iter()
            .filter(|target| target.promise == Promise::Linearizable)
            .cloned()
            .collect();
        let start = Instant::now();
        for number in 0_u64.. {
            sleep_until(start + Duration::from_nanos(number * 1_000_000_000 / per_second)).await;
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let is_write = self.rng.below(per_second) < u64::from(self.rates.writes);
            let among = if is_write { &writers } else { &self.targets };
            let Some(target) = self.rng.pick(among).cloned() else { return };
            let planned = self.secrets.plan(is_write, number, &mut self.rng);
            let Some((secret, call)) = planned else { continue };
            if shared.in_flight.fetch_add(1, Ordering::SeqCst) >= IN_FLIGHT_MAX {
                shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                shared.skipped.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            tokio::spawn(shared.clone().perform(target, secret, call));
        }
    }
}

impl Shared {
    async fn perform(self: Arc<Self>, target: Target, secret: Arc<str>, call: Call) {
        let login = self.bearers.whose_turn();
        let operation = operate(&target, login, secret, call, self.clock, self.deadline).await;
        if operation.acknowledged().is_some() {
            self.acknowledged.fetch_max(operation.invoked, Ordering::SeqCst);
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.retain(|secret| *secret != operation.secret);
            if recent.len() >= ACTIVE_SECRETS {
                recent.pop_front();
            }
            recent.push_back(Arc::clone(&operation.secret));
        }
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

/// Performs one operation and records it.
pub async fn operate(
    target: &Target,
    login: &Login,
    secret: Arc<str>,
    call: Call,
    clock: RunClock,
    deadline: Duration,
) -> Operation {
    let request = request(login, &secret, &call);
    let mut invoked = clock.now();
    let answer = target.door.send(request, deadline, || invoked = clock.now()).await;
    let returned = clock.now();
    let outcome = outcome(&call, answer);
    let returned = if outcome == Outcome::Unknown { NEVER } else { returned };
    let (node, promise) = (target.door.node, target.promise);
    Operation { secret, node, call, outcome, promise, invoked, returned }
}

/// The request of a call.
pub(crate) fn request(login: &Login, secret: &str, call: &Call) -> Asked {
    match call {
        Call::Write(value) => login.write(secret, value.as_bytes().to_vec()),
        Call::ReadLatest => login.read(secret, None),
        Call::ReadVersion(version) => login.read(secret, Some(*version)),
    }
}

/// What an answer means: the outcome rules of the fault model.
pub(crate) fn outcome(call: &Call, answer: Result<Answer, NoAnswer>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer::NotSent(_)) => return Outcome::Failed,
        Err(NoAnswer::Unknown(_)) => return Outcome::Unknown,
    };
    let is_write = matches!(call, Call::Write(_));
    if answer.status.is_success() && is_write {
        Outcome::Written(None)
    } else if answer.status.is_success() {
        match std::str::from_utf8(&answer.body) {
            Ok(text) => Outcome::Read(Some(Value::from(text))),
            // No client wrote such bytes: the phantom checker will name them.
            Err(_) => Outcome::Read(Some(Value::from(format!("{:?}", answer.body)))),
        }
    } else if answer.status == StatusCode::NOT_FOUND && !is_write {
        Outcome::Read(None)
    } else if answer.status.is_client_error() {
        Outcome::Failed
    } else {
        Outcome::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::{Active, WRITES_PER_SECRET, outcome};
    use crate::client::{Answer, NoAnswer};
    use crate::history::{Call, Outcome};
    use crate::rng::Rng;
    use http::StatusCode;

    #[test]
    fn no_secret_outgrows_retention_and_all_are_used() {
        let secrets: Vec<_> = (0..20).map(|n| n.to_string().as_str().into()).collect();
        let mut active = Active::new(secrets);
        let mut rng = Rng::new(3);
        let mut writes = std::collections::HashMap::new();
        while let Some(secret) = active.for_write(&mut rng) {
            *writes.entry(secret).or_insert(0_usize) += 1;
            assert!(active.for_read(&mut rng).is_some());
        }
        assert_eq!(writes.len(), 20);
        assert!(writes.values().all(|count| *count == WRITES_PER_SECRET));
    }

    #[test]
    fn outcomes_follow_the_rules() {
        let answer = |status, body: &'static str| {
            Ok(Answer { status, body: body.into(), request_id: None, reason: None })
        };
        let write = Call::Write("v".into());
        assert_eq!(outcome(&write, answer(StatusCode::CREATED, "")), Outcome::Written(None));
        assert_eq!(outcome(&write, answer(StatusCode::NOT_FOUND, "")), Outcome::Failed);
        assert_eq!(outcome(&write, answer(StatusCode::BAD_GATEWAY, "")), Outcome::Unknown);
        assert_eq!(outcome(&write, Err(NoAnswer::NotSent(String::new()))), Outcome::Failed);
        assert_eq!(outcome(&write, Err(NoAnswer::Unknown(String::new()))), Outcome::Unknown);
        let read = Call::ReadLatest;
        assert_eq!(outcome(&read, answer(StatusCode::OK, "v")), Outcome::Read(Some("v".into())));
        assert_eq!(outcome(&read, answer(StatusCode::NOT_FOUND, "")), Outcome::Read(None));
        assert_eq!(outcome(&read, answer(StatusCode::UNAUTHORIZED, "")), Outcome::Failed);
        assert_eq!(outcome(&read, answer(StatusCode::SERVICE_UNAVAILABLE, "")), Outcome::Unknown);
    }
}
