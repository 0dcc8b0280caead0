//! An upgrade under load, one node after the other, as operators do it: drained, left by HAProxy, stopped, and
//! started by the next program; the followers first and the leader last.
//!
//! Clients send through HAProxy and try again what failed: nothing may fail for good. While voters are upgraded
//! the follower is asked for logins and reads, of which none may fail at all. No feature level is reached before
//! every node knows it, and in the end all hold the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave::admin::client::ask;
use conclave::admin::protocol::{Request, Status};
use conclave_domain::level;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::probe::{FollowerProbe, TermWatch};
use super::report::{Milliseconds, Report};
use super::{Options, RECOVERY_PATIENCE, finish, fresh_secrets, highest_term, judge, put};
use crate::checker::Violation;
use crate::clients::{Asking, Clients, Pace, Tried, longest_gap};
use crate::process::balancer::Balancer;
use crate::process::cluster::{Cluster, HEALTH_PATIENCE, Shape};
use crate::process::node::Program;
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::{RunClock, secrets_needed};

/// Writes a second at most: enough to hit every moment, and few enough to judge all of them in the end.
const RATE_MAX: u32 = 100;
/// Seconds of load that there are secrets for.
const SECONDS_MAX: u64 = 180;
/// Clients' connections to the balancer.
const CONNECTIONS: usize = 16;
/// How long the feature level may take to rise once all members know it.
const LEVEL_PATIENCE: Duration = Duration::from_secs(15);
/// How long a node runs before the next one is taken.
const BETWEEN: Duration = Duration::from_millis(500);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What clients of a load balancer saw of an upgrade.
#[derive(Debug, Clone, Serialize)]
pub struct Upgraded {
    /// The program that all nodes ran at first.
    pub from: PathBuf,
    /// How many nodes went over to the new one.
    pub nodes: usize,
    /// The feature level at first.
    pub level_before: u32,
    /// The feature level in the end.
    pub level_after: u32,
    /// The longest time without any acknowledgement of a write, by node.
    pub gap_ms: Option<Milliseconds>,
    /// Requests that were sent.
    pub requests: u64,
    /// Those whose first try failed.
    pub failed_without_retry: u64,
    /// Those that failed although they were tried again.
    pub failed_after_retry: u64,
    /// What the first failures said, and how many said it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// What is known once all nodes run the new program.
struct Rolled {
    level_before: u32,
    level_after: u32,
    /// When each node was taken, and when it was back.
    turns: Vec<(u64, u64)>,
}

/// Runs the drill.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let old = match &options.old_binary {
        Some(path) => Program::conclave(path.clone()),
        None => Program::this()?,
    };
    let from = old.path().to_owned();
    let mut cluster = Cluster::found_with(Shape::default(), old).await?;
    let balancer = cluster.balancer().await?;
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let pace = pace(options);
    let mut secrets = fresh_secrets("u", secrets_needed(pace.writes, SECONDS_MAX) + 1);
    cluster.declare(&secrets).await?;
    let watched = secrets.pop().ok_or_else(|| HarnessError::new("no secret was declared"))?;
    put(&cluster, &watched, "always there").await?;
    let clock = RunClock::start();
    let door = cluster.door(0)?.elsewhere(0, balancer.address());
    let rng = Rng::new(options.seed).fork("load");
    let clients = Clients::start(&door, Arc::clone(&cluster.login), secrets, pace, clock, rng);
    let rolled = roll(&mut cluster, &balancer, &clients, clock, watched, report).await;
    let (history, askings) = clients.stop().await;
    let terms = watch.stop().await;
    report.elections = terms.last_term().saturating_sub(first_term);
    report.broken(terms.into_violations());
    match rolled {
        Ok(rolled) => {
            report.trials = u32::try_from(rolled.turns.len()).unwrap_or(u32::MAX);
            conclude(&rolled, from, &askings, report);
            judge(&mut cluster, &history, report).await?;
        }
        Err(error) => report.unclear(error.to_string()),
    }
    drop(balancer);
    finish(cluster, options, report);
    Ok(())
}

/// How clients ask while operators work: half as many reads as writes.
pub(super) fn pace(options: &Options) -> Pace {
    let writes = options.rate.clamp(1, RATE_MAX);
    Pace {
        writes,
        reads: writes / 2,
        connections: CONNECTIONS,
        deadline: Duration::from_secs(5),
        patience: RECOVERY_PATIENCE,
    }
}

/// Takes one node after the other.
async fn roll(
    cluster: &mut Cluster,
    balancer: &Balancer,
    clients: &Clients,
    clock: RunClock,
    watched: Arc<str>,
    report: &mut Report,
) -> Result<Rolled, HarnessError> {
    let new = Program::this()?;
    sleep(BETWEEN).await;
    if clients.answered() == 0 {
        report.unclear("no request was answered before the upgrade".to_owned());
    }
    let level_before = highest_level(&cluster.statuses().await);
    let followers = cluster.voters().end..cluster.nodes.len();
    let mut turns = Vec::new();
    for position in followers {
        turns.push(replace(cluster, None, position, &new, clock).await?);
    }
    let follower = cluster.follower().ok_or_else(|| HarnessError::new("no follower"))?;
    let login = Arc::clone(&cluster.login);
    let probe = FollowerProbe::start(&*cluster.door(follower)?, login, watched);
    let leader = cluster.wait_leader(None).await?;
    let standbys = cluster.voters().filter(|position| *position != leader);
    let order: Vec<usize> = standbys.chain([leader]).collect();
    for (done, position) in order.iter().copied().enumerate() {
        turns.push(replace(cluster, Some(balancer), position, &new, clock).await?);
        let reached = highest_level(&cluster.statuses().await);
        if done + 1 < order.len() && reached > level_before {
            let name = &cluster.nodes[order[done + 1]].place.name;
            let detail = format!("level {reached} while {name} runs the old program");
            report.broken([Violation { invariant: "nothing new before all know it", detail }]);
        }
    }
    let (tried, failures) = probe.stop().await;
    report.follower_probes += tried;
    report.follower_read_failures += failures.len() as u64;
    report.broken(
        failures
            .into_iter()
            .take(3)
            .map(|detail| Violation { invariant: "G7 followers serve", detail }),
    );
    let level_after = wait_for_level(cluster).await;
    if level_after < level::NEWEST {
        let detail = format!("{level_after} of {} after {LEVEL_PATIENCE:?}", level::NEWEST);
        report.broken([Violation { invariant: "the level rises", detail }]);
    }
    Ok(Rolled { level_before, level_after, turns })
}

/// Takes one node out of service, and brings it back with another program; when that began and ended.
async fn replace(
    cluster: &mut Cluster,
    balancer: Option<&Balancer>,
    position: usize,
    new: &Program,
    clock: RunClock,
) -> Result<(u64, u64), HarnessError> {
    let began = clock.now();
    let (data, name) =
        (cluster.nodes[position].place.data(), cluster.nodes[position].place.name.clone());
    match (ask(&data, &Request::Drain { undo: false }).await, balancer) {
        (Ok(_), Some(balancer)) => {
            balancer.wait_gone(&name, HEALTH_PATIENCE).await?;
            // Whoever is drained hands over.
            cluster.wait_leader(Some(position)).await?;
        }
        (Ok(_), None) => {}
        // Programs from before there was such an order leave service when they are stopped.
        (Err(failure), _) => {
            eprintln!("upgrade: {name} is stopped without being drained: {failure}");
        }
    }
    cluster.nodes[position].stop().await?;
    cluster.nodes[position].run_by(new.clone());
    cluster.nodes[position].start()?;
    cluster.wait_healthy_under_load().await?;
    if let Some(balancer) = balancer {
        balancer.wait_up(cluster.voters().len(), HEALTH_PATIENCE).await?;
    }
    let ended = clock.now();
    eprintln!("upgrade: {name} took {} ms", (ended - began) / 1_000_000);
    sleep(BETWEEN).await;
    Ok((began, ended))
}

fn highest_level(statuses: &[Option<Status>]) -> u32 {
    statuses.iter().flatten().map(|status| status.level).max().unwrap_or(0)
}

/// Waits until every node is at the newest feature level; the lowest that there is in the end.
async fn wait_for_level(cluster: &Cluster) -> u32 {
    let start = Instant::now();
    loop {
        let statuses = cluster.statuses().await;
        let levels = statuses.iter().map(|status| status.as_ref().map_or(0, |known| known.level));
        let lowest = levels.min().unwrap_or(0);
        if lowest >= level::NEWEST || start.elapsed() > LEVEL_PATIENCE {
            return lowest;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn conclude(rolled: &Rolled, from: PathBuf, askings: &[Asking], report: &mut Report) {
    let mut tried = Tried::default();
    for asking in askings {
        tried.add(asking);
    }
    if tried.failed > 0 {
        let detail = format!("{} of {} failed after retries", tried.failed, tried.requests);
        report.broken([Violation { invariant: "no request fails", detail }]);
    }
    let writes: Vec<u64> =
        askings.iter().filter(|asking| asking.is_write).filter_map(|asking| asking.done).collect();
    let gaps = rolled.turns.iter().filter_map(|(began, ended)| {
        longest_gap(writes.iter().copied().filter(|done| done <= ended).collect(), *began)
    });
    report.upgraded = Some(Upgraded {
        from,
        nodes: rolled.turns.len(),
        level_before: rolled.level_before,
        level_after: rolled.level_after,
        gap_ms: Milliseconds::of(gaps.collect()),
        requests: tried.requests,
        failed_without_retry: tried.failed_first,
        failed_after_retry: tried.failed,
        failures: tried.words(),
    });
}
