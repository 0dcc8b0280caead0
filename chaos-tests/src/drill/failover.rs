//! Failover as clients of a load balancer see it: HAProxy before three voters, requests in an open
//! loop, and in trial after trial a leader that is killed, paused or cut off, or that hands over.
//!
//! Every request has its planned moment, and its latency counts from there. Beside the load the
//! follower is asked for logins and reads, of which none may fail. In the end every voter is
//! killed, and the follower must go on until its `max_staleness`, and then say why it does not.
//!
//! Each cluster serves some rounds of all faults; then another one is founded, so that a long run needs no
//! more disk than a short one.

use std::sync::Arc;
use std::time::Duration;

use conclave::admin::client::ask;
use conclave::admin::protocol::{Request, Status};
use http::StatusCode;
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::logins::{self, Mixed};
use super::probe::{FollowerProbe, TermWatch};
use super::report::{Milliseconds, Report};
use super::{Options, RECOVERY_PATIENCE, finish, fresh_secrets, highest_term, judge_on, put};
use crate::checker::Violation;
use crate::client::{Bearers, Door};
use crate::clients::{Asking, Clients, Pace, Tried, longest_gap};
use crate::history::History;
use crate::process::balancer::Balancer;
use crate::process::cluster::{Cluster, Footing, HEALTH_PATIENCE, Shape};
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::{RunClock, secrets_needed};

/// Rounds of all faults before another cluster is founded.
const ROUNDS_PER_CLUSTER: u32 = 25;
/// Seconds of load that a trial has secrets for.
const TRIAL_SECONDS_MAX: u64 = 12;
/// Clients' connections to the balancer.
const CONNECTIONS: usize = 64;
/// By then the clients must have been answered a third of a second's worth.
const WARM_WITHIN: Duration = Duration::from_secs(5);
/// Figures of fewer trials say nothing about a target.
const TRIALS_TO_JUDGE: usize = 20;
/// The follower's limit in this drill, as `settings` has it.
const MAX_STALENESS: Duration = Duration::from_secs(8);
/// The follower has heard of a leader a little before that is killed.
const HEARD_BEFORE: Duration = Duration::from_millis(500);
/// By then it must have noticed that it is too old.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at the follower when it is alone.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// How long it may take to answer.
const FOLLOWER_DEADLINE: Duration = Duration::from_secs(1);

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// SIGKILL; it is started again.
    Kill,
    /// SIGSTOP, SIGCONT later.
    Pause,
    /// It is cut off: from its peers only, or from everybody, in turn.
    Isolate,
    /// `cluster transfer-leader`.
    HandOver,
}

/// The planned one.
pub const HAND_OVER: &str = "hand-over";
/// Every blow by its name.
pub const BLOWS: [&str; 4] = ["kill", "pause", "isolate", HAND_OVER];

impl Blow {
    fn all() -> [Self; 4] {
        [Self::Kill, Self::Pause, Self::Isolate, Self::HandOver]
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kill => BLOWS[0],
            Self::Pause => BLOWS[1],
            Self::Isolate => BLOWS[2],
            Self::HandOver => HAND_OVER,
        }
    }
}

/// What came of all trials with one blow.
#[derive(Debug, Clone, Serialize)]
pub struct Failover {
    /// What happened to the leader.
    pub fault: &'static str,
    /// How often.
    pub trials: usize,
    /// From the beginning of the fault to the first acknowledgement of a write that was to be sent
    /// once it was fully on.
    pub writes_again_ms: Option<Milliseconds>,
    /// The longest time without any acknowledgement, from the beginning of the fault on.
    pub gap_ms: Option<Milliseconds>,
    /// The longest that a request took from its planned moment, tries included.
    pub slowest_ms: Option<Milliseconds>,
    /// Requests that were to be sent from the beginning of the fault on.
    pub requests: u64,
    /// Those whose first try failed.
    pub failed_without_retry: u64,
    /// Those that failed although they were tried again.
    pub failed_after_retry: u64,
    /// What the first failures said, and how many said it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// How long the follower served with every voter down.
#[derive(Debug, Clone, Serialize)]
pub struct Outlasted {
    /// How old its state may be before it refuses to vouch for anybody.
    pub max_staleness_ms: u64,
    /// Logins and reads until then.
    pub asked: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// When the first login was refused, from the voters' death.
    pub refused_after_ms: u64,
    /// What it said then.
    pub answer: String,
}

/// The figures of one blow as they come together.
struct Tally {
    blow: Blow,
    again: Vec<u64>,
    gaps: Vec<u64>,
    slowest: Vec<u64>,
    tried: Tried,
}

/// What is at hand in a trial.
struct Stage {
    mixed: Option<Mixed>,
    cluster: Cluster,
    balancer: Balancer,
    door: Door,
    clock: RunClock,
    pace: Pace,
    /// Declared, and without versions.
    secrets: Vec<Arc<str>>,
    declared: usize,
}

/// Runs the drill.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut tallies: Vec<Tally> = Blow::all()
        .into_iter()
        .filter(|blow| options.faults.is_empty() || options.faults.iter().any(|f| f == blow.name()))
        .map(Tally::new)
        .collect();
    let mut round = 0;
    while round < options.trials && report.reasons.len() < 100 {
        let rounds = ROUNDS_PER_CLUSTER.min(options.trials - round);
        let done = rounds_on_one(options, round..round + rounds, &mut tallies, report).await;
        round += rounds;
        if let Err(error) = done {
            report.unclear(format!("rounds until {round}: {error}"));
            break;
        }
    }
    for tally in tallies {
        report.broken(tally.targets_missed());
        report.failovers.push(tally.figures());
    }
    Ok(())
}

/// Founds a cluster and hurts it so many rounds.
async fn rounds_on_one(
    options: &Options,
    rounds: std::ops::Range<u32>,
    tallies: &mut [Tally],
    report: &mut Report,
) -> Result<(), HarnessError> {
    let shape = Shape {
        footing: Footing::Namespaces,
        snapshot_every: 5_000,
        settings: "\n[reads]\nmax_staleness_s = 8\n",
        ..logins::shape(options)
    };
    let mut cluster = Cluster::found(shape).await?;
    let mixed = logins::set_up(options, &mut cluster).await?;
    let balancer = cluster.balancer().await?;
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let pace = Pace {
        writes: options.rate,
        reads: options.rate / 10,
        connections: CONNECTIONS,
        deadline: Duration::from_secs(5),
        patience: RECOVERY_PATIENCE,
    };
    let door = cluster.door(0)?.elsewhere(0, balancer.address());
    let clock = RunClock::start();
    let mut stage =
        Stage { mixed, cluster, balancer, door, clock, pace, secrets: Vec::new(), declared: 0 };
    for round in rounds {
        for tally in &mut *tallies {
            let rng = Rng::new(options.seed).fork(&format!("round {round} {}", tally.blow.name()));
            stage.trial(tally, round, rng, report).await.map_err(|error| {
                HarnessError(format!("round {round}, {}: {error}", tally.blow.name()))
            })?;
            report.trials += 1;
            eprintln!(
                "failover {}/{} {}: writes again after {} ms, no acknowledgement for {} ms",
                round + 1,
                options.trials,
                tally.blow.name(),
                tally.again.last().map_or(0, |time| time / 1_000_000),
                tally.gaps.last().map_or(0, |time| time / 1_000_000),
            );
        }
    }
    let terms = watch.stop().await;
    report.elections += terms.last_term().saturating_sub(first_term);
    report.broken(terms.into_violations());
    if report.all_voters_down.is_none() {
        report.all_voters_down = Some(outlast(&mut stage.cluster, report).await?);
    }
    drop((stage.balancer, stage.mixed));
    finish(stage.cluster, options, report);
    Ok(())
}

impl Stage {
    /// One blow and what follows.
    async fn trial(
        &mut self,
        tally: &mut Tally,
        round: u32,
        mut rng: Rng,
        report: &mut Report,
    ) -> Result<(), HarnessError> {
        self.cluster.wait_healthy().await?;
        let voters = self.cluster.voters().len();
        self.balancer.wait_up(voters, HEALTH_PATIENCE).await?;
        let (watched, bearers) = self.prepare().await?;
        let secrets = self.secrets.clone();
        let clients =
            Clients::start(&self.door, bearers, secrets, self.pace, self.clock, rng.fork("load"));
        let follower = self.cluster.follower().ok_or_else(|| HarnessError::new("no follower"))?;
        let follower = self.cluster.door(follower)?;
        let doors = [(&self.door, RECOVERY_PATIENCE), (&*follower, Duration::ZERO)];
        let mixed = self.mixed.as_ref();
        let logins = mixed.map(|mixed| mixed.start(&doors, self.clock, rng.fork("logins")));
        let warm = usize::try_from(self.pace.writes / 3).unwrap_or(usize::MAX);
        let is_warm = clients.answers(warm, WARM_WITHIN).await;
        sleep(Duration::from_millis(rng.between(100, 400))).await;
        if !is_warm {
            report.unclear(format!("round {round}: hardly any request succeeded before the fault"));
        }
        let login = Arc::clone(&self.cluster.login);
        let probe = FollowerProbe::start(&follower, login, watched);

        let leader = self.cluster.wait_leader(None).await?;
        let term = self.term_of(leader).await;
        let cut_from_all = round % 2 == 1;
        let began = self.clock.now();
        self.strike(tally.blow, leader, cut_from_all).await?;
        let at = self.clock.now();
        let is_back = clients.acknowledges_after(at, RECOVERY_PATIENCE).await;
        // What of the clients hangs on the hurt node must show, too; healing would free it.
        clients.done_before(self.clock.now(), RECOVERY_PATIENCE).await;
        sleep(Duration::from_millis(rng.between(100, 400))).await;
        let moved = self.others_lead(leader, term).await;
        self.mend(tally.blow, leader)?;
        sleep(Duration::from_millis(rng.between(100, 400))).await;

        let (tried, failures) = probe.stop().await;
        report.follower_probes += tried;
        report.follower_read_failures += failures.len() as u64;
        report.broken(failures.into_iter().take(3).map(|failure| Violation {
            invariant: "G7 followers serve",
            detail: format!("round {round}, {}: {failure}", tally.blow.name()),
        }));
        if let Some(logins) = logins {
            let shown = logins.stop().await;
            // Neither a spared follower nor a load balancer that is asked again owes less than an answer.
            let when = format!("round {round}, {}", tally.blow.name());
            shown.report(&when, |_, _| true, report);
            if tally.blow == Blow::HandOver && shown.shown_again() > 0 {
                let detail = format!("{when}: {} logins were tried again", shown.shown_again());
                report.broken([Violation { invariant: "failover in time", detail }]);
            }
        }
        let (history, askings) = clients.stop().await;
        if !is_back {
            let detail = format!(
                "round {round}, {}: no write within {RECOVERY_PATIENCE:?}",
                tally.blow.name()
            );
            report.broken([Violation { invariant: "I11 liveness", detail }]);
        }
        if !moved {
            report.unclear(format!("round {round}, {}: nobody else led", tally.blow.name()));
        }
        tally.take(&askings, began, at);
        self.forget_used(&history);
        judge_on(&mut self.cluster, &history, report, 0..1).await
    }

    /// Gets fresh tokens, and declares secrets until there are enough for a trial. Gives one that has a
    /// value, and who may use the others.
    async fn prepare(&mut self) -> Result<(Arc<str>, Bearers), HarnessError> {
        let needed = secrets_needed(self.pace.writes, TRIAL_SECONDS_MAX);
        let missing = needed.saturating_sub(self.secrets.len());
        let mut fresh = fresh_secrets(&format!("f{}", self.declared), missing + 1);
        self.cluster.declare(&fresh).await?;
        self.declared += fresh.len();
        let watched = fresh.pop().ok_or_else(|| HarnessError::new("no secret was declared"))?;
        let bearers = logins::bearers(self.mixed.as_ref(), &self.cluster, &fresh).await?;
        self.secrets.extend(fresh);
        put(&self.cluster, &watched, "always there").await?;
        Ok((watched, bearers))
    }

    fn forget_used(&mut self, history: &History) {
        let used = history.by_secret();
        self.secrets.retain(|secret| !used.contains_key(secret));
    }

    async fn strike(
        &mut self,
        blow: Blow,
        leader: usize,
        cut_from_all: bool,
    ) -> Result<(), HarnessError> {
        match blow {
            Blow::Kill => self.cluster.nodes[leader].kill().await,
            Blow::Pause => self.cluster.nodes[leader].signal(Signal::STOP),
            Blow::Isolate if cut_from_all => self.cluster.network()?.cut_off(number(leader)),
            Blow::Isolate => self.cluster.network()?.isolate(number(leader)),
            Blow::HandOver => {
                let data = self.cluster.nodes[leader].place.data();
                ask(&data, &Request::TransferLeader { to: None }).await?;
                Ok(())
            }
        }
    }

    fn mend(&mut self, blow: Blow, leader: usize) -> Result<(), HarnessError> {
        match blow {
            Blow::Kill => self.cluster.nodes[leader].start(),
            Blow::Pause => self.cluster.nodes[leader].signal(Signal::CONT),
            Blow::Isolate => self.cluster.network()?.heal(number(leader)),
            Blow::HandOver => Ok(()),
        }
    }

    async fn term_of(&self, position: usize) -> u64 {
        let statuses = self.cluster.statuses().await;
        statuses.into_iter().nth(position).flatten().map_or(0, |status| status.term)
    }

    /// Whether another node leads a later term: the blow had its effect.
    async fn others_lead(&self, leader: usize, term: u64) -> bool {
        let leads = |(position, status): (usize, &Option<Status>)| {
            position != leader
                && status
                    .as_ref()
                    .is_some_and(|status| status.part == "leader" && status.term > term)
        };
        self.cluster
            .wait_for("another leader", |statuses| statuses.iter().enumerate().any(leads))
            .await
            .is_ok()
    }
}

impl Tally {
    fn new(blow: Blow) -> Self {
        let (again, gaps, slowest) = (Vec::new(), Vec::new(), Vec::new());
        Self { blow, again, gaps, slowest, tried: Tried::default() }
    }

    /// Takes in a trial whose fault began at one time and was fully on at another.
    fn take(&mut self, askings: &[Asking], began: u64, at: u64) {
        let writes = || askings.iter().filter(|asking| asking.is_write);
        let again =
            writes().filter(|asking| asking.intended >= at).filter_map(|asking| asking.done);
        self.again.extend(again.min().map(|done| done.saturating_sub(began)));
        self.gaps.extend(longest_gap(writes().filter_map(|asking| asking.done).collect(), began));
        let after = || askings.iter().filter(|asking| asking.intended >= began);
        let latencies =
            after().filter_map(|asking| Some(asking.done?.saturating_sub(asking.intended)));
        self.slowest.extend(latencies.max());
        // What was under way when the fault came counts, too.
        let touched = askings.iter().filter(|asking| asking.done.is_none_or(|done| done >= began));
        touched.for_each(|asking| self.tried.add(asking));
    }

    fn figures(self) -> Failover {
        Failover {
            fault: self.blow.name(),
            trials: self.gaps.len(),
            writes_again_ms: Milliseconds::of(self.again),
            gap_ms: Milliseconds::of(self.gaps),
            slowest_ms: Milliseconds::of(self.slowest),
            requests: self.tried.requests,
            failed_without_retry: self.tried.failed_first,
            failed_after_retry: self.tried.failed,
            failures: self.tried.words(),
        }
    }

    /// The promises about this blow that were not kept.
    fn targets_missed(&self) -> Vec<Violation> {
        let mut missed = Vec::new();
        let mut judge = |what: &str, found: f64, most: f64| {
            if found > most {
                let blow = self.blow.name();
                let detail = format!("{blow}: {what} is {found:.0}, {most:.0} is promised");
                missed.push(Violation { invariant: "failover in time", detail });
            }
        };
        let count = |number: u64| u32::try_from(number).map_or(f64::MAX, f64::from);
        judge("requests that failed after retries", count(self.tried.failed), 0.0);
        if self.blow == Blow::HandOver {
            judge("requests that failed at the first try", count(self.tried.failed_first), 0.0);
        }
        if self.gaps.len() < TRIALS_TO_JUDGE {
            return missed;
        }
        let again = Milliseconds::of(self.again.clone()).unwrap_or_default();
        let gap = Milliseconds::of(self.gaps.clone()).unwrap_or_default();
        match self.blow {
            Blow::Kill => {
                judge("p50 of writes_again_ms", again.p50, 600.0);
                judge("p99 of writes_again_ms", again.p99, 1_200.0);
                judge("max of writes_again_ms", again.max, 2_500.0);
            }
            Blow::Pause | Blow::Isolate => judge("p99 of writes_again_ms", again.p99, 1_500.0),
            Blow::HandOver => judge("p99 of gap_ms", gap.p99, 100.0),
        }
        missed
    }
}

/// Kills every voter, and asks the follower until it refuses a login.
async fn outlast(cluster: &mut Cluster, report: &mut Report) -> Result<Outlasted, HarnessError> {
    cluster.wait_healthy().await?;
    let watched = fresh_secrets("alone", 1).remove(0);
    cluster.declare(&[Arc::clone(&watched)]).await?;
    put(cluster, &watched, "always there").await?;
    let follower = cluster.follower().ok_or_else(|| HarnessError::new("no follower"))?;
    let door = cluster.door(follower)?;
    let login = Arc::clone(&cluster.login);
    for node in &cluster.nodes[cluster.voters()] {
        node.signal(Signal::KILL)?;
    }
    let dead = Instant::now();
    for position in cluster.voters() {
        cluster.nodes[position].reap().await?;
    }
    let mut found = Outlasted {
        max_staleness_ms: u64::try_from(MAX_STALENESS.as_millis()).unwrap_or(u64::MAX),
        asked: 0,
        failed: 0,
        refused_after_ms: 0,
        answer: String::new(),
    };
    let mut failures = Vec::new();
    while dead.elapsed() < MAX_STALENESS + NOTICED_WITHIN {
        let asked = dead.elapsed();
        let read = door.send(login.read(&watched, None), FOLLOWER_DEADLINE, || {}).await;
        let token = door.send(login.authenticate(), FOLLOWER_DEADLINE, || {}).await;
        let refused = token.as_ref().ok().filter(|answer| answer.status != StatusCode::OK);
        if let Some(refused) = refused
            && asked + HEARD_BEFORE >= MAX_STALENESS
        {
            found.refused_after_ms = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
            found.answer = refused.words();
            break;
        }
        for (what, answer) in [("read", read), ("login", token)] {
            found.asked += 1;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => {}
                other => {
                    failures.push(format!("{what} {asked:?} after the voters' death: {other:?}"));
                }
            }
        }
        sleep(LOOK_EVERY).await;
    }
    found.failed = failures.len() as u64;
    let broken = |detail| Violation { invariant: "G7 followers serve alone", detail };
    report.broken(failures.into_iter().take(3).map(broken));
    if found.answer.is_empty() {
        let detail = format!("it still vouched {:?} after the voters' death", dead.elapsed());
        report.broken([Violation { invariant: "G7 max_staleness", detail }]);
    } else if !found.answer.contains("out of touch") {
        let detail = format!("it refused without the reason: {}", found.answer);
        report.broken([Violation { invariant: "G7 max_staleness", detail }]);
    }
    for position in cluster.voters() {
        cluster.nodes[position].start()?;
    }
    cluster.wait_healthy().await?;
    Ok(found)
}

/// Networks count nodes from 1.
fn number(position: usize) -> u8 {
    u8::try_from(position + 1).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Blow, Tally};
    use crate::clients::Asking;

    const MS: u64 = 1_000_000;

    fn write(intended: u64, done: Option<u64>, first_failure: Option<&str>) -> Asking {
        let (intended, done) = (intended * MS, done.map(|done| done * MS));
        Asking { intended, is_write: true, first_failure: first_failure.map(str::to_owned), done }
    }

    #[test]
    fn a_gap_is_seen_whole_and_latency_counts_from_the_planned_moment() {
        let mut tally = Tally::new(Blow::Kill);
        let askings = [
            write(80, Some(90), None),
            write(95, Some(700), Some("reset")),
            write(105, Some(720), None),
            write(110, None, Some("reset")),
            write(730, Some(740), None),
        ];
        // The fault begins at 100 ms and is fully on at 104 ms.
        tally.take(&askings, 100 * MS, 104 * MS);
        assert_eq!(tally.again, [620 * MS]);
        assert_eq!(tally.gaps, [610 * MS]);
        assert_eq!(tally.slowest, [615 * MS]);
        let tried = &tally.tried;
        assert_eq!((tried.requests, tried.failed_first, tried.failed), (4, 2, 1));
        assert_eq!(tally.targets_missed().len(), 1, "one request failed for good");
        let figures = tally.figures();
        assert_eq!(figures.failures, ["2 times: reset"]);
    }

    #[test]
    fn a_hand_over_fails_nothing_at_the_first_try() {
        let mut tally = Tally::new(Blow::HandOver);
        tally.take(
            &[write(99, Some(100), None), write(101, Some(102), Some("503"))],
            100 * MS,
            101 * MS,
        );
        assert_eq!(tally.targets_missed().len(), 1);
    }
}
