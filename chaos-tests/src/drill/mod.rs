//! Drills: a cluster of real processes is founded once, hurt in trial after trial under a recorded
//! load, and judged.
//!
//! - [`fault`]: the faults; [`probe`]: what is watched beside the load; [`turnover`]: what is
//!   changed beside it; [`logins`]: who logs in beside it, by every way, which [`proofs`] prove;
//!   [`report`]: the verdict
//! - [`audit`], [`canary`], [`certificates`], [`converge`], [`disk_faults`], [`failover`], [`garbage`],
//!   [`jobs`], [`upgrade`]: drills of another shape
//!
//! A trial: health → fresh secrets → load → fault → recovery → healing → health → final scan of
//! all versions on all nodes → judgement. Each wait is for a condition, with an end.

pub mod audit;
pub mod canary;
pub mod certificates;
pub mod converge;
pub mod disk_faults;
pub mod failover;
pub mod fault;
pub mod garbage;
pub mod jobs;
pub mod logins;
pub mod probe;
pub mod processors;
mod proofs;
pub mod report;
pub mod turnover;
pub mod upgrade;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conclave::admin::protocol::Status;
use futures::StreamExt as _;
use futures::stream;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use crate::checker::{self, Violation, convergence, versions};
use crate::client::Door;
use crate::history::{FinalVersions, History, Value};
use crate::process::cluster::{Cluster, Footing, Shape};
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::{
    Load, Rates, RunClock, WRITES_PER_SECRET, first_acknowledged_after, secrets_needed,
};
use fault::{Fault, Scene};
use logins::Mixed;
use probe::{FollowerProbe, TermWatch};
use processors::Processors;
use report::{Milliseconds, Report};
use turnover::Turnover;

/// I11: writes must succeed again within this after a fault.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(15);
/// Seconds of load that a trial's secrets are enough for.
const TRIAL_SECONDS_MAX: u64 = 30;
/// Fewer acknowledged writes before a fault prove nothing.
const WARM_WRITES_MIN: u64 = 20;
/// Reads in flight during a final scan.
const SCAN_CONCURRENCY: usize = 16;
/// Seconds between fresh secrets in a calm drill.
const CALM_SLICE_SECONDS: u64 = 20;
/// A connected follower must have heard of a revocation within this, in 99 of 100 cases.
const REVOKED_WITHIN_MS: f64 = 500.0;
/// Under this all secrets of drills are declared.
const SECRET_PREFIX: &str = "chaos";

/// What is asked of a drill.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many faults.
    pub trials: u32,
    /// Names the run.
    pub seed: u64,
    /// How long, for drills that are measured in time.
    pub seconds: u64,
    /// Writes a second, for drills behind a load balancer.
    pub rate: u32,
    /// Which faults, for drills that know several; all when none is named.
    pub faults: Vec<String>,
    /// The program that the nodes of an upgrade run at first; without it, this one.
    pub old_binary: Option<PathBuf>,
    /// Whether the load logs in by every way, and so do others beside it.
    pub mixed_logins: bool,
    /// Whether all cores are kept busy meanwhile.
    pub busy: bool,
    /// Whether logs stay on disk when the verdict is not valid.
    pub keep: bool,
    /// The command that runs the same again.
    pub replay: String,
}

/// Every drill by its name.
pub const NAMES: [&str; 17] = [
    "leader-kill",
    "leader-pause",
    "leader-isolate",
    "restart-all",
    "power-cut",
    "calm",
    "revocation",
    "canary",
    "disk-faults",
    "garbage",
    "certificates",
    "failover",
    "hand-over",
    "upgrade",
    "converge",
    "audit",
    "jobs",
];

/// Runs a drill. What goes wrong in the harness ends in the report, too, as unknown.
///
/// # Errors
/// When there is no drill of that name, or it does not know what is asked of it.
pub async fn run(name: &str, options: Options) -> Result<Report, HarnessError> {
    if options.mixed_logins && !logins::DRILLS.contains(&name) {
        let names = logins::DRILLS.join(", ");
        return Err(HarnessError(format!("mixed logins are for the drills {names}")));
    }
    let is_mixed = options.mixed_logins;
    let start = Instant::now();
    let mut report = Report::new(name, options.seed, options.replay.clone());
    let done = match name {
        "leader-kill" => trials(Fault::LeaderKill, &options, &mut report).await,
        "leader-pause" => trials(Fault::LeaderPause, &options, &mut report).await,
        "leader-isolate" => trials(Fault::LeaderIsolate, &options, &mut report).await,
        "restart-all" => trials(Fault::RestartAll, &options, &mut report).await,
        "power-cut" => trials(Fault::PowerCut, &options, &mut report).await,
        "calm" => calm(&options, &mut report).await,
        "revocation" => revocation(&options, &mut report).await,
        "canary" => canary::run(&options, &mut report).await,
        "disk-faults" => disk_faults::run(&options, &mut report).await,
        "garbage" => garbage::run(&options, &mut report).await,
        "certificates" => certificates::run(&options, &mut report).await,
        "audit" => audit::run(&options, &mut report).await,
        "converge" => converge::run(&options, &mut report).await,
        "failover" => failover::run(&options, &mut report).await,
        "hand-over" => {
            let options = Options { faults: vec![failover::HAND_OVER.to_owned()], ..options };
            failover::run(&options, &mut report).await
        }
        "jobs" => jobs::run(&options, &mut report).await,
        "upgrade" => upgrade::run(&options, &mut report).await,
        _ => {
            let names = NAMES.join(", ");
            return Err(HarnessError(format!("no drill {name:?}; there are: {names}")));
        }
    };
    if let Err(error) = done {
        report.unclear(format!("the harness failed: {error}"));
    }
    if is_mixed {
        for doubt in logins::doubts(&report.logins) {
            report.unclear(doubt);
        }
    }
    report.seconds = start.elapsed().as_secs();
    Ok(report)
}

/// Runs trial after trial of one fault on one cluster.
async fn trials(fault: Fault, options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let shape = Shape { footing: fault.footing(), ..logins::shape(options) };
    let mut cluster = Cluster::found(shape).await?;
    let mixed = logins::set_up(options, &mut cluster).await?;
    let clock = RunClock::start();
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let mut recoveries = Vec::new();
    for number in 0..options.trials {
        let rng = Rng::new(options.seed).fork(&format!("trial {number}"));
        match trial((&mut cluster, mixed.as_ref()), fault, number, clock, rng, report).await {
            Ok(recovery) => recoveries.extend(recovery),
            Err(error) => {
                report.unclear(format!("trial {number}: {error}"));
                break;
            }
        }
        report.trials += 1;
        eprintln!(
            "{} {}/{}: recovered in {} ms",
            report.drill,
            number + 1,
            options.trials,
            recoveries.last().map_or(0, |time| time / 1_000_000)
        );
    }
    let terms = watch.stop().await;
    report.elections = terms.last_term().saturating_sub(first_term);
    report.broken(terms.into_violations());
    report.recovery_ms = Milliseconds::of(recoveries);
    drop(mixed);
    finish(cluster, options, report);
    Ok(())
}

/// What every drill ends with: no panics, and the logs kept when there is something to look for.
fn finish(mut cluster: Cluster, options: &Options, report: &mut Report) {
    let panics = cluster.panics();
    report.broken(panics.into_iter().map(|detail| Violation { invariant: "I13 no panic", detail }));
    if options.keep && report.verdict != report::Verdict::Valid {
        let folder = cluster.keep_folder();
        report.reasons.push(format!("logs and data: {}", folder.display()));
    }
}

/// One fault and what follows. Gives the nanoseconds from the fault to the first acknowledgement.
async fn trial(
    (cluster, mixed): (&mut Cluster, Option<&Mixed>),
    fault: Fault,
    number: u32,
    clock: RunClock,
    mut rng: Rng,
    report: &mut Report,
) -> Result<Option<u64>, HarnessError> {
    cluster.wait_healthy().await?;
    let rates = Rates::default();
    let secrets =
        fresh_secrets(&format!("t{number}"), secrets_needed(rates.writes, TRIAL_SECONDS_MAX));
    cluster.declare(&secrets).await?;
    let bearers = logins::bearers(mixed, cluster, &secrets).await?;
    let watched = Arc::clone(&secrets[secrets.len() - 1]);
    put(cluster, &watched, "always there").await?;

    let targets = cluster.targets()?;
    let doors: Vec<_> = targets.iter().map(|target| (&*target.door, Duration::ZERO)).collect();
    let logins = mixed.map(|mixed| mixed.start(&doors, clock, rng.fork("logins")));
    let loaded = secrets[..secrets.len() - 1].to_vec();
    let load = Load::start(targets.clone(), bearers, loaded, rates, clock, rng.fork("load"));
    let turnover = Turnover::start(cluster, false, rng.fork("turnover")).await?;
    sleep(Duration::from_millis(rng.between(700, 1500))).await;
    if load.acknowledged() < WARM_WRITES_MIN {
        report.unclear(format!("trial {number}: hardly any write succeeded before the fault"));
    }

    let mut scene = Scene { cluster, load: &load, clock, rng: rng.fork("fault") };
    let follower = scene.cluster.follower();
    let probe = match follower {
        Some(follower) => {
            let door = scene.cluster.door(follower)?;
            let login = Arc::clone(&scene.cluster.login);
            Some((follower, FollowerProbe::start(&door, login, watched)))
        }
        None => None,
    };
    let injected = scene.inject(fault).await?;
    let (began, at) = (injected.began, injected.at);
    // A follower that was itself hurt owes nothing.
    let spared = probe.as_ref().is_some_and(|(follower, _)| !injected.hurt.contains(follower));
    let effect = scene.heal(injected, RECOVERY_PATIENCE).await;
    let recovered = load.acknowledges_after(at, RECOVERY_PATIENCE).await;
    if let Some((_, probe)) = probe {
        let (tried, failures) = probe.stop().await;
        if spared {
            report.follower_probes += tried;
            report.follower_read_failures += failures.len() as u64;
            report.broken(failures.into_iter().take(3).map(|failure| Violation {
                invariant: "G7 followers serve",
                detail: format!("trial {number}: {failure}"),
            }));
        }
    }
    let effect = effect?;
    report.old_leader_probes += effect.probes;
    for doubt in effect.doubts {
        report.unclear(format!("trial {number}: {doubt}"));
    }
    if !recovered {
        let detail =
            format!("trial {number}: no write within {RECOVERY_PATIENCE:?} after the fault");
        report.broken([Violation { invariant: "I11 liveness", detail }]);
    }
    sleep(Duration::from_millis(rng.between(200, 600))).await;
    report.turned(turnover.stop().await);
    if let Some(logins) = logins {
        // Before the fault all nodes owe an answer; from then on a follower does that was spared.
        let follower = follower.filter(|_| spared).map(|position| cluster.nodes[position].id);
        let owed = |node: u64, ended: u64| ended < began || Some(node) == follower;
        logins.stop().await.report(&format!("trial {number}"), owed, report);
    }
    let (history, skipped) = load.stop().await;
    report.skipped += skipped;
    let recovery = first_acknowledged_after(&history, at).map(|back| back.saturating_sub(began));
    judge(cluster, &history, report).await?;
    Ok(recovery)
}

/// Waits for health, scans all versions of the history's secrets on all nodes, and judges.
async fn judge(
    cluster: &mut Cluster,
    history: &History,
    report: &mut Report,
) -> Result<(), HarnessError> {
    let all = 0..cluster.nodes.len();
    judge_on(cluster, history, report, all).await
}

/// The same, with a scan of the nodes at some positions only: the others' state hashes must be the same.
async fn judge_on(
    cluster: &mut Cluster,
    history: &History,
    report: &mut Report,
    positions: std::ops::Range<usize>,
) -> Result<(), HarnessError> {
    cluster.wait_healthy().await?;
    let secrets: Vec<Arc<str>> = history.by_secret().into_keys().collect();
    let mut finals: Option<BTreeMap<Arc<str>, FinalVersions>> = None;
    for position in positions {
        let node = &cluster.nodes[position];
        let door = cluster.door(position)?;
        let found = scan(cluster, &door, &secrets).await?;
        let mut lists = BTreeMap::new();
        for (secret, versions) in found {
            match versions::list(&secret, node.id, versions) {
                Ok(list) => drop(lists.insert(secret, list)),
                Err(gap) => report.broken([gap]),
            }
        }
        let Some(first) = &finals else {
            finals = Some(lists);
            continue;
        };
        for (secret, ours) in first {
            let theirs = lists.get(secret).cloned().unwrap_or_default();
            let first = cluster.nodes[0].id;
            report.broken(versions::check_same(secret, (first, ours), (node.id, &theirs)));
        }
    }
    report.judged(checker::judge(history, &finals.unwrap_or_default()));
    report.broken(convergence::check(&cluster.holdings().await?));
    Ok(())
}

/// The versions of each secret that a node itself holds: one beyond those that can be is asked for, too.
async fn scan(
    cluster: &Cluster,
    door: &Arc<Door>,
    secrets: &[Arc<str>],
) -> Result<BTreeMap<Arc<str>, Vec<(u32, Value)>>, HarnessError> {
    let last = u32::try_from(WRITES_PER_SECRET + 1).unwrap_or(u32::MAX);
    let wanted = secrets.iter().flat_map(|secret| (1..=last).map(move |version| (secret, version)));
    let reads = stream::iter(wanted).map(|(secret, version)| async move {
        let answer = door
            .ask(cluster.login.read(secret, Some(version)).local())
            .await
            .map_err(|error| HarnessError(format!("scan of {secret}: {error}")))?;
        match answer.status {
            StatusCode::OK => Ok((Arc::clone(secret), version, Some(Value::from(answer.text())))),
            StatusCode::NOT_FOUND => Ok((Arc::clone(secret), version, None)),
            status => Err(HarnessError(format!("scan of {secret}: {status} {}", answer.text()))),
        }
    });
    let mut found: BTreeMap<Arc<str>, Vec<(u32, Value)>> = BTreeMap::new();
    let mut reads = reads.buffer_unordered(SCAN_CONCURRENCY);
    while let Some(read) = reads.next().await {
        let (secret, version, value) = read?;
        let versions = found.entry(secret).or_default();
        versions.extend(value.map(|value| (version, value)));
    }
    for versions in found.values_mut() {
        versions.sort_unstable_by_key(|(version, _)| *version);
    }
    Ok(found)
}

/// Load without faults: counts elections, which there must be none of, and refused operations.
async fn calm(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut cluster =
        Cluster::found(Shape { footing: Footing::Loopback, ..Shape::default() }).await?;
    let clock = RunClock::start();
    let _busy = options.busy.then(Busy::start);
    let processors = Processors::now();
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let rates = Rates { writes: 40, reads: 40, ..Rates::default() };
    for slice in 0_u64.. {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let secrets =
            fresh_secrets(&format!("c{slice}"), secrets_needed(rates.writes, CALM_SLICE_SECONDS));
        cluster.declare(&secrets).await?;
        let (targets, login) = (cluster.targets()?, Arc::clone(&cluster.login));
        let rng = Rng::new(options.seed).fork(&format!("slice {slice}"));
        let load = Load::start(targets, login, secrets, rates, clock, rng);
        sleep(left.min(Duration::from_secs(CALM_SLICE_SECONDS))).await;
        let (history, skipped) = load.stop().await;
        report.skipped += skipped;
        judge(&mut cluster, &history, report).await?;
        report.trials += 1;
    }
    let terms = watch.stop().await;
    report.elections = terms.last_term().saturating_sub(first_term);
    report.processors_busy =
        processors.and_then(|earlier| Processors::now().map(|later| later.busy_since(earlier)));
    report.broken(terms.into_violations());
    if report.elections > 0 {
        let detail = format!("{} elections although nothing was wrong", report.elections);
        report.broken([Violation { invariant: "no false election", detail }]);
    }
    if report.unknown > 0 {
        let detail = format!("{} writes had no clear answer", report.unknown);
        report.broken([Violation { invariant: "I11 liveness", detail }]);
    }
    finish(cluster, options, report);
    Ok(())
}

/// Nothing is broken; roles are revoked, and the follower must follow. A trial is a revocation.
async fn revocation(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut cluster = Cluster::found(Shape::default()).await?;
    let clock = RunClock::start();
    let rates = Rates { writes: 40, reads: 40, ..Rates::default() };
    let end = Instant::now() + Duration::from_secs(u64::from(options.trials).max(20) * 3);
    let secrets =
        fresh_secrets("r", secrets_needed(rates.writes, u64::from(options.trials).max(20) * 3));
    cluster.declare(&secrets).await?;
    let rng = Rng::new(options.seed);
    let (targets, login) = (cluster.targets()?, Arc::clone(&cluster.login));
    let load = Load::start(targets, login, secrets, rates, clock, rng.fork("load"));
    let turnover = Turnover::start(&cluster, true, rng.fork("turnover")).await?;
    while turnover.revocations() < u64::from(options.trials) && Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
    }
    let lags = report.turned(turnover.stop().await);
    report.trials = u32::try_from(lags.len()).unwrap_or(u32::MAX);
    report.revocation_on_follower_ms = Milliseconds::of(lags);
    let (history, skipped) = load.stop().await;
    report.skipped += skipped;
    judge(&mut cluster, &history, report).await?;
    match report.revocation_on_follower_ms {
        Some(lag) if lag.p99 > REVOKED_WITHIN_MS => {
            let detail = format!("p99 {:.0} ms, {REVOKED_WITHIN_MS} are promised", lag.p99);
            report.broken([Violation { invariant: "revocation on a follower", detail }]);
        }
        Some(_) if report.trials >= options.trials => {}
        Some(_) | None => {
            let found = report.trials;
            report.unclear(format!("{found} revocations, {} were wanted", options.trials));
        }
    }
    finish(cluster, options, report);
    Ok(())
}

fn highest_term(statuses: &[Status]) -> u64 {
    statuses.iter().map(|status| status.term).max().unwrap_or(0)
}

fn fresh_secrets(part: &str, count: usize) -> Vec<Arc<str>> {
    (0..count).map(|number| format!("{SECRET_PREFIX}/{part}/{number}").as_str().into()).collect()
}

/// Sets a secret outside the recorded load.
async fn put(cluster: &Cluster, secret: &str, value: &str) -> Result<(), HarnessError> {
    cluster.ask_leader(secret, || cluster.login.write(secret, value.to_owned())).await?;
    // The follower has it when it is level.
    cluster
        .wait_for("all nodes to be level", |statuses| {
            let last = statuses.iter().flatten().map(|status| status.last_log).max();
            statuses.iter().all(|status| status.as_ref().map(|status| status.applied) == last)
        })
        .await
        .map(drop)
}

/// Threads that keep every core busy until dropped.
struct Busy {
    stop: Arc<AtomicBool>,
}

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..cores {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self { stop }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
