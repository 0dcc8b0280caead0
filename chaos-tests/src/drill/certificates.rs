//! Rotations of the root, the intermediate and what nodes present, in turn, with the leader killed at
//! a random point of each. Meanwhile every node that is up must take new connections of clients that
//! trust what was trusted when the trial began; members must take each other; and in the end all
//! present the new certificate and the old root is gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave::admin::client::ask;
use conclave::admin::protocol::{Request, Response};
use conclave::certificates::inventory::Row;
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::probe::TermWatch;
use super::report::{Milliseconds, Report};
use super::{Options, finish, highest_term};
use crate::checker::Violation;
use crate::client::{Door, Login, NoAnswer};
use crate::process::cluster::{Cluster, Shape};
use crate::process::shell::HarnessError;
use crate::rng::Rng;

/// What is rotated, in turn.
const ROTATED: [&str; 3] = ["root", "cluster-ca", "cluster"];
/// How long a rotation may take, with a leader that is killed on the way and comes back.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two connections to one node.
const CONNECT_EVERY: Duration = Duration::from_millis(60);
/// How long an answer may take. What it says does not matter here.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The latest moment after the start of a rotation at which the leader is killed.
const KILL_WITHIN_MS: u64 = 3_000;
/// Between two looks at the certificates.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs the drill: a rotation and a kill in each trial.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut cluster = Cluster::found(Shape::default()).await?;
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let mut times = Vec::new();
    for number in 0..options.trials {
        let rng = Rng::new(options.seed).fork(&format!("trial {number}"));
        match trial(&mut cluster, number, rng, report).await {
            Ok(time) => {
                eprintln!(
                    "{} {}/{}: rotated in {} ms",
                    report.drill,
                    number + 1,
                    options.trials,
                    time.as_millis()
                );
                times.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
            Err(error) => {
                report.unclear(format!("trial {number}: {error}"));
                break;
            }
        }
        report.trials += 1;
    }
    let terms = watch.stop().await;
    report.elections = terms.last_term().saturating_sub(first_term);
    report.broken(terms.into_violations());
    report.rotation_ms = Milliseconds::of(times);
    report.broken(refused_among_members(&cluster));
    finish(cluster, options, report);
    Ok(())
}

async fn trial(
    cluster: &mut Cluster,
    number: u32,
    mut rng: Rng,
    report: &mut Report,
) -> Result<Duration, HarnessError> {
    cluster.wait_healthy().await?;
    let name = ROTATED[number as usize % ROTATED.len()];
    let before = wait_settled(cluster, name, 0).await?;
    let bundle = ask(&cluster.nodes[0].place.data(), &Request::TrustBundle).await?;
    let Response::TrustBundle { pem: roots } = bundle else {
        return Err(HarnessError::new("the node tells no roots"));
    };
    let mut callers = Vec::new();
    for position in 0..cluster.nodes.len() {
        // One that comes late on a busy machine has not been refused.
        let door = cluster.door_trusting(position, &roots)?.patient(ANSWER_DEADLINE);
        callers.push(Caller::start(door, Arc::clone(&cluster.login)));
    }
    let leader = cluster.wait_leader(None).await?;
    let start = Instant::now();
    // A standby is asked: it outlives the leader.
    let data = cluster.nodes[(leader + 1) % cluster.voters().len()].place.data();
    let request = Request::RenewCertificate { name: name.to_owned() };
    let asked = tokio::spawn(async move { ask(&data, &request).await });
    sleep(Duration::from_millis(rng.between(0, KILL_WITHIN_MS))).await;
    callers[leader].spare(true);
    cluster.nodes[leader].kill().await?;
    cluster.wait_leader(Some(leader)).await?;
    sleep(Duration::from_millis(rng.between(0, 1_000))).await;
    cluster.nodes[leader].start()?;
    cluster.wait_healthy().await?;
    callers[leader].spare(false);
    let answer = asked.await.map_err(|error| HarnessError(error.to_string()))?;
    if let Err(failure) = answer {
        // As an operator would: whether it took is seen, and if not, it is asked for again.
        let newest = newest(&rows(cluster).await?, name);
        if newest <= before {
            let data = cluster.nodes[leader].place.data();
            let request = Request::RenewCertificate { name: name.to_owned() };
            ask(&data, &request)
                .await
                .map_err(|again| HarnessError(format!("{name}: {failure}, then {again}")))?;
        }
    }
    let settled = wait_settled(cluster, name, before).await;
    let time = start.elapsed();
    for (caller, node) in callers.into_iter().zip(&cluster.nodes) {
        let (tried, refused) = caller.stop().await;
        report.connections += tried;
        report.connections_refused += refused.len() as u64;
        report.broken(refused.into_iter().take(3).map(|reason| Violation {
            invariant: "certificates: no refused connection",
            detail: format!("trial {number}, {name}, {}: {reason}", node.place.name),
        }));
    }
    settled.map(|_| time)
}

/// The rows as any node tells them.
pub(super) async fn rows(cluster: &Cluster) -> Result<Vec<Row>, HarnessError> {
    let asked = cluster.nodes.iter().map(|node| {
        let data = node.place.data();
        async move { ask(&data, &Request::Certificates).await }
    });
    for answer in join_all(asked).await {
        if let Ok(Response::Certificates { rows, .. }) = answer {
            return Ok(rows);
        }
    }
    Err(HarnessError::new("no node tells its certificates"))
}

/// The newest generation of that name; 0 when there is none.
pub(super) fn newest(rows: &[Row], name: &str) -> u32 {
    rows.iter().filter(|row| row.name == name).map(|row| row.revision).max().unwrap_or_default()
}

/// Waits until that name is past that generation, nothing is under way, what nodes present hangs on the
/// newest of everything, all have loaded it, and one root is left. Gives the generation.
pub(super) async fn wait_settled(
    cluster: &Cluster,
    name: &str,
    past: u32,
) -> Result<u32, HarnessError> {
    let start = Instant::now();
    loop {
        let found = rows(cluster).await;
        let why = match &found {
            Ok(rows) => unsettled(rows, name, past),
            Err(error) => Some(error.to_string()),
        };
        match (why, found) {
            (None, Ok(rows)) => return Ok(newest(&rows, name)),
            (why, _) if start.elapsed() > PATIENCE => {
                let why = why.unwrap_or_default();
                return Err(HarnessError(format!("{name} not rotated in {PATIENCE:?}: {why}")));
            }
            (Some(_) | None, _) => sleep(LOOK_EVERY).await,
        }
    }
}

/// What is still to happen, if anything.
fn unsettled(rows: &[Row], name: &str, past: u32) -> Option<String> {
    if newest(rows, name) <= past {
        return Some(format!("no generation after {past}"));
    }
    let roots = rows.iter().filter(|row| row.name == "root").count();
    if roots != 1 {
        return Some(format!("{roots} roots"));
    }
    rows.iter().find_map(|row| {
        if row.state != "Ready" {
            return Some(format!("{} is {}: {:?}", row.name, row.state, row.reason));
        }
        let issuer = row.issuer.split(',').next().unwrap_or_default();
        let wanted = format!("{issuer}, generation {}", newest(rows, issuer));
        if row.issuer != wanted {
            return Some(format!("{} is of {}, not of {wanted}", row.name, row.issuer));
        }
        let without = row.consumers.iter().find(|consumer| !consumer.loaded)?;
        Some(format!("{} has not loaded {}", without.node, row.name))
    })
}

/// What members said of each other's certificates that they should not have had to.
fn refused_among_members(cluster: &Cluster) -> Vec<Violation> {
    let mut found = Vec::new();
    for node in &cluster.nodes {
        let log = std::fs::read(node.place.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let refused = log.lines().filter(|line| {
            line.contains("peer refused")
                && (line.contains("certificate") || line.contains("cryptographic handshake"))
        });
        found.extend(refused.take(3).map(|line| Violation {
            invariant: "certificates: members take each other",
            detail: format!("{}: {line}", node.place.name),
        }));
    }
    found
}

/// Connects to one node again and again, each time anew.
struct Caller {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Odd while the node is down.
    turns: AtomicU64,
    tried: AtomicU64,
    refused: Mutex<Vec<String>>,
}

impl Caller {
    fn start(door: Door, login: Arc<Login>) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(Arc::clone(&shared).run(door, login));
        Self { shared, task }
    }

    /// Whether the node is down and owes no connection.
    fn spare(&self, down: bool) {
        let before = self.shared.turns.fetch_add(1, Ordering::SeqCst);
        debug_assert_eq!(before.is_multiple_of(2), down);
    }

    /// How many connections were tried, and why those that were refused were.
    async fn stop(self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The task ends by itself within one deadline.
        self.task.await.ok();
        let mut refused = self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
        (self.shared.tried.load(Ordering::SeqCst), std::mem::take(&mut *refused))
    }
}

impl Shared {
    async fn run(self: Arc<Self>, door: Door, login: Arc<Login>) {
        while !self.stop.load(Ordering::SeqCst) {
            sleep(CONNECT_EVERY).await;
            let turn = self.turns.load(Ordering::SeqCst);
            door.hang_up();
            let answer = door.send(login.authenticate(), ANSWER_DEADLINE, || {}).await;
            if !turn.is_multiple_of(2) || turn != self.turns.load(Ordering::SeqCst) {
                continue;
            }
            self.tried.fetch_add(1, Ordering::SeqCst);
            // An answer without a leader is another promise's business; a connection is this one's.
            if let Err(NoAnswer::NotSent(reason)) = answer {
                self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(reason);
            }
        }
    }
}
