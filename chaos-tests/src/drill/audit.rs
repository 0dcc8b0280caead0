//! G5 and G6: every answer that released a secret, or a token, or took a value, is in the audit chain,
//! once. Nodes are killed under load in the mode `os`, where a record is written before the answer
//! leaves; in `disk`, where it is synced, and in `quorum`, where it is in the chain, their power is
//! cut, too.
//!
//! Each client notes the request id of every answer with a 2xx. When all nodes are back the whole chain is
//! read from every node and compared, and `conclave audit verify` must find it intact.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave::admin::client::ask;
use conclave::admin::protocol::{AuditPage, Request, Response};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::report::Report;
use super::{Options, finish, fresh_secrets, put};
use crate::checker::Violation;
use crate::client::{Asked, Door, Login};
use crate::process::cluster::{ACCOUNT, Cluster, Footing, Shape, conclave};
use crate::process::node::Program;
use crate::process::shell::HarnessError;
use crate::rng::Rng;

/// Clients at a time.
const CLIENTS: usize = 8;
/// Requests with one token, and then another login.
const REQUESTS_PER_LOGIN: usize = 20;
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a record may be on its way into the chain once all is well.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the chain.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Fewer answers for each fault prove nothing.
const ANSWERS_PER_FAULT_MIN: usize = 20;

/// When a record counts as kept, with what nodes have to survive.
#[derive(Debug, Clone, Copy)]
struct Mode {
    name: &'static str,
    settings: &'static str,
    power_cuts: bool,
}

const MODES: [Mode; 3] = [
    Mode { name: "os", settings: "\n[audit]\ndurability = \"os\"\n", power_cuts: false },
    Mode { name: "disk", settings: "\n[audit]\ndurability = \"disk\"\n", power_cuts: true },
    Mode { name: "quorum", settings: "\n[audit]\ndurability = \"quorum\"\n", power_cuts: true },
];

/// What was found in one mode.
#[derive(Debug, Clone, Serialize)]
pub struct Audited {
    /// `audit.durability`.
    pub durability: &'static str,
    /// Nodes killed.
    pub kills: u64,
    /// Nodes whose power was cut.
    pub power_cuts: u64,
    /// Answers that released a secret or a token, or took a value.
    pub answers: usize,
    /// Those of them that are not in the chain.
    pub missing: usize,
    /// Those that are in it more than once.
    pub repeated: usize,
    /// Records in the chain.
    pub records: u64,
}

/// What a client was answered: the request, and what the record of it says was done.
type Answered = (String, &'static str);

/// Runs the drill: so many faults in each mode.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    for mode in MODES {
        let rng = Rng::new(options.seed).fork(mode.name);
        let found = in_mode(mode, options, rng, report)
            .await
            .map_err(|error| HarnessError(format!("durability {}: {error}", mode.name)))?;
        eprintln!("audit: {found:?}");
        report.audited.push(found);
    }
    Ok(())
}

async fn in_mode(
    mode: Mode,
    options: &Options,
    mut rng: Rng,
    report: &mut Report,
) -> Result<Audited, HarnessError> {
    let footing = if mode.power_cuts { Footing::OwnDisks } else { Footing::Loopback };
    let mut cluster =
        Cluster::found(Shape { footing, settings: mode.settings, ..Shape::default() }).await?;
    let secret = fresh_secrets("audit", 1).remove(0);
    cluster.declare(&[Arc::clone(&secret)]).await?;
    put(&cluster, &secret, "released only with a record").await?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let doors = (0..cluster.nodes.len()).map(|at| cluster.door(at));
        let doors = doors.collect::<Result<Vec<_>, _>>()?;
        let voters = cluster.voters().len();
        let login = Login::new(ACCOUNT, "admin", cluster.login.expose_api_key());
        let rng = rng.fork(&format!("client {number}"));
        clients.push(Client::start(&doors, voters, login, Arc::clone(&secret), rng));
    }
    let mut found = Audited {
        durability: mode.name,
        kills: 0,
        power_cuts: 0,
        answers: 0,
        missing: 0,
        repeated: 0,
        records: 0,
    };
    for _ in 0..options.trials {
        cluster.wait_healthy_under_load().await?;
        sleep(Duration::from_millis(rng.between(500, 1_500))).await;
        strike(&mut cluster, mode, &mut rng, &mut found, report).await?;
        report.trials += 1;
    }
    cluster.wait_healthy_under_load().await?;
    sleep(Duration::from_millis(rng.between(200, 600))).await;
    let mut told: HashMap<Answered, usize> = HashMap::new();
    for client in clients {
        for answered in client.stop().await {
            *told.entry(answered).or_default() += 1;
        }
    }
    found.answers = told.len();
    if found.answers < ANSWERS_PER_FAULT_MIN * options.trials as usize {
        report.unclear(format!("{}: only {} answers came", mode.name, found.answers));
    }
    cluster.wait_healthy().await?;
    compare(&cluster, mode, &told, &mut found, report).await?;
    for node in &cluster.nodes {
        let config = node.place.config();
        let verify = ["audit", "verify", "--config", &config.to_string_lossy()];
        if let Err(error) = conclave(&node.place, &Program::this()?, &verify).await {
            let detail = format!("{}, {}: {error}", mode.name, node.place.name);
            report.broken([Violation { invariant: "I5 the chain is whole", detail }]);
        }
    }
    finish(cluster, options, report);
    Ok(found)
}

/// Ends a node, the leader as often as any other one, or all of them, and starts them again.
async fn strike(
    cluster: &mut Cluster,
    mode: Mode,
    rng: &mut Rng,
    found: &mut Audited,
    report: &mut Report,
) -> Result<(), HarnessError> {
    let struck = if rng.chance(200) {
        (0..cluster.nodes.len()).collect()
    } else if rng.chance(400) {
        vec![cluster.wait_leader(None).await?]
    } else {
        vec![rng.index(cluster.nodes.len())]
    };
    let cut = mode.power_cuts && rng.chance(700);
    for at in &struck {
        if cut {
            cluster.cut_power(*at).await?;
        } else {
            cluster.nodes[*at].signal(rustix::process::Signal::KILL)?;
        }
    }
    for at in &struck {
        cluster.nodes[*at].reap().await?;
    }
    sleep(Duration::from_millis(rng.between(0, 800))).await;
    for at in struck {
        if cut {
            found.power_cuts += 1;
            let canary = cluster.disks[at].restore_power()?;
            if !canary.synced_is_there || !canary.unsynced_is_gone {
                report.unclear(format!("{}: the power cut did not cut: {canary:?}", mode.name));
            }
        } else {
            found.kills += 1;
        }
        cluster.nodes[at].start()?;
    }
    Ok(())
}

/// Reads the chain from every node until all that was answered is in it, and counts.
async fn compare(
    cluster: &Cluster,
    mode: Mode,
    told: &HashMap<Answered, usize>,
    found: &mut Audited,
    report: &mut Report,
) -> Result<(), HarnessError> {
    for node in &cluster.nodes {
        let deadline = Instant::now() + PATIENCE;
        let (counts, missing) = loop {
            let (counts, records) = chain(&node.place.data(), told).await?;
            found.records = found.records.max(records);
            let missing: Vec<&Answered> =
                told.keys().filter(|answered| !counts.contains_key(*answered)).collect();
            if missing.is_empty() || Instant::now() > deadline {
                break (counts, missing);
            }
            sleep(LOOK_EVERY).await;
        };
        let repeated: Vec<&Answered> =
            counts.iter().filter(|(_, count)| **count > 1).map(|(answered, _)| answered).collect();
        found.missing = found.missing.max(missing.len());
        found.repeated = found.repeated.max(repeated.len());
        for (invariant, bad) in
            [("G5 audit before the answer", missing), ("G6 audit once", repeated)]
        {
            let Some(first) = bad.first() else { continue };
            let detail = format!(
                "{}, {}: {} of {} answers, such as {first:?}",
                mode.name,
                node.place.name,
                bad.len(),
                told.len()
            );
            report.broken([Violation { invariant, detail }]);
        }
    }
    Ok(())
}

/// How often each of what was answered is in the chain that a node holds, and how many records that has.
async fn chain(
    data: &std::path::Path,
    told: &HashMap<Answered, usize>,
) -> Result<(HashMap<Answered, usize>, u64), HarnessError> {
    let mut counts = HashMap::new();
    let (mut from, mut records) = (1, 0);
    loop {
        let Response::Audit(answer) = ask(data, &Request::Audit { from }).await? else {
            return Err(HarnessError::new("the node shows no audit chain"));
        };
        let page = AuditPage::try_from(*answer)?;
        let Some((last, _)) = page.records.last() else { return Ok((counts, records)) };
        from = last + 1;
        for (_, record) in &page.records {
            records += 1;
            let text: serde_json::Value = serde_json::from_str(&record.text)
                .map_err(|error| HarnessError(error.to_string()))?;
            let field = |name: &str| text.get(name).and_then(serde_json::Value::as_str);
            let (Some(id), Some(operation)) = (field("request_id"), field("operation")) else {
                continue;
            };
            let known = OPERATIONS.into_iter().find(|known| *known == operation);
            let Some(operation) = known else { continue };
            let answered = (id.to_owned(), operation);
            if told.contains_key(&answered) {
                *counts.entry(answered).or_default() += 1;
            }
        }
    }
}

/// What clients do, as records name it.
const OPERATIONS: [&str; 3] = ["authenticate", "fetch", "update"];

/// Logs in, reads and sometimes writes, at whatever node answers, and notes what it was answered.
struct Client {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Answered>>>,
    task: JoinHandle<()>,
}

impl Client {
    fn start(
        doors: &[Arc<Door>],
        voters: usize,
        login: Login,
        secret: Arc<str>,
        mut rng: Rng,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let doors: Vec<Door> = doors.iter().map(|door| door.renamed(door.node)).collect();
        let (stopped, notes) = (Arc::clone(&stop), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            for turn in 0_usize.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let logs_in = turn.is_multiple_of(REQUESTS_PER_LOGIN);
                // Followers take no writes.
                let writes = !logs_in && rng.chance(100);
                let among = if writes { voters } else { doors.len() };
                let door = &doors[rng.index(among)];
                let (asked, operation): (Asked, _) = if logs_in {
                    (login.authenticate(), OPERATIONS[0])
                } else if writes {
                    (login.write(&secret, format!("value {turn}")), OPERATIONS[2])
                } else {
                    (login.read(&secret, None), OPERATIONS[1])
                };
                if let Ok(answer) = door.send(asked, DEADLINE, || {}).await
                    && answer.status.is_success()
                {
                    if logs_in {
                        login.keep(&answer);
                    }
                    let id = answer.request_id.unwrap_or_default();
                    notes.lock().unwrap_or_else(PoisonError::into_inner).push((id, operation));
                }
                sleep(PAUSE).await;
            }
        });
        Self { stop, answered, task }
    }

    async fn stop(self) -> Vec<Answered> {
        self.stop.store(true, Ordering::SeqCst);
        // A panic in it has been reported where it happened.
        self.task.await.ok();
        std::mem::take(&mut *self.answered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
