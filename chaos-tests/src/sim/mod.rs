//! Seeded simulation: whole clusters in one thread, with the real rules, the real state machine and
//! the real consensus, over a simulated network, simulated disks and simulated time.
//!
//! - [`network`]: delay, loss, duplication, cuts; [`machine`]: a disk and the processes on it
//! - [`client`]: the load, recorded; [`faults`]: what goes wrong, and when
//! - [`bug`]: known bugs to put back; [`trace`]: two runs of a seed must be one
//!
//! A seed draws everything: size, weather, faults, load. Each has two phases: faults under load;
//! then all faults off, and the cluster must converge, serve, and hold all that it acknowledged.

#![expect(clippy::format_push_string, reason = "a report is written once, for people")]

pub mod bug;
pub mod client;
pub mod faults;
pub mod machine;
pub mod network;
pub mod trace;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_domain::command::{Actor, Command, Envelope, LoadMode, codec as command_codec};
use conclave_domain::id::{AccountName, Id, Kind, RoleId};
use conclave_domain::outcome;
use conclave_domain::policy::{LoadRequest, Rules, plan};
use conclave_domain::records::{Digest, NewApiKey, RequestId, Sealed, SigningKey};
use conclave_domain::time::Timestamp;
use conclave_raft::{ChangeError, NodeRole, sim as raft_sim};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::checker::convergence::Holding;
use crate::checker::terms::Terms;
use crate::checker::{self, Violation, convergence, versions};
use crate::drill::report::{Verdict, commit};
use crate::history::{FinalVersions, History};
use crate::rng::Rng;
use bug::Bug;
use client::World;
use machine::Machine;
use network::{Network, Weather};
use trace::Trace;

/// How many secrets a simulation declares: enough for all writes of one.
const SECRETS: usize = 80;
/// Simulated time for a healed cluster to become one again. Far longer than it takes.
const HEAL_PATIENCE: Duration = Duration::from_mins(1);
/// A seed with fewer acknowledged writes has proved nothing.
const ACKNOWLEDGED_MIN: u64 = 20;
/// A violation that blames the simulation itself.
const HARNESS: &str = "harness";
/// Between two tries of a change of members.
const CHANGE_AGAIN: Duration = Duration::from_millis(20);
/// Between two looks at all terms.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);

/// What came of many seeds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many seeds were run.
    pub seeds: u64,
    /// The first of them.
    pub from: u64,
    /// Operations of all clients.
    pub operations: u64,
    /// Acknowledged writes among them.
    pub acknowledged: u64,
    /// Faults injected.
    pub faults: u64,
    /// How many promises were broken.
    pub violations: u64,
    /// Digest of all that happened in all seeds, in hex.
    pub trace_hash: String,
    /// The bug that was put in, if any.
    pub bug: Option<String>,
    /// The seeds that broke a promise, each with what it broke first.
    pub failures: Vec<Failure>,
    /// The commit that was tried.
    pub commit: String,
    /// Seconds that it took.
    pub seconds: u64,
    /// With a bug, valid means that it was found.
    pub verdict: Verdict,
}

/// A seed that broke a promise.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// The promises broken.
    pub violations: Vec<String>,
    /// The command that runs it again.
    pub replay: String,
}

impl Report {
    /// The report for people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "sim: {:?}: {} seeds from {}, {} operations, {} acknowledged writes, {} faults, \
             {} violations in {} s\ntrace hash {} (commit {})\n",
            self.verdict,
            self.seeds,
            self.from,
            self.operations,
            self.acknowledged,
            self.faults,
            self.violations,
            self.seconds,
            self.trace_hash,
            self.commit
        );
        if let Some(bug) = &self.bug {
            text.push_str(&match self.failures.first() {
                Some(failure) => format!("bug {bug} was found by seed {}\n", failure.seed),
                None => format!("bug {bug} was NOT found\n"),
            });
        }
        for failure in self.failures.iter().take(5) {
            text += &format!("seed {}:\n", failure.seed);
            for violation in failure.violations.iter().take(4) {
                text += &format!("  - {violation}\n");
            }
            text += &format!("  again: {}\n", failure.replay);
        }
        text
    }
}

/// What came of one seed.
#[derive(Debug, Default)]
pub struct Simulated {
    /// Operations of all clients.
    pub operations: u64,
    /// Acknowledged writes among them.
    pub acknowledged: u64,
    /// Faults injected.
    pub faults: u64,
    /// The promises broken.
    pub violations: Vec<Violation>,
    /// Digest of all that happened.
    pub trace_hash: u64,
}

impl Simulated {
    /// Whether the system under test broke a promise. A failure of the simulation itself is none.
    pub fn broke_a_promise(&self) -> bool {
        self.violations.iter().any(|violation| violation.invariant != HARNESS)
    }
}

/// Runs so many seeds from one on, with a bug if one is named; then it stops at the first seed that
/// finds it.
///
/// # Errors
/// When there is no bug of that name, or a thread cannot be started.
pub fn run(from: u64, seeds: u64, bug: Option<&str>) -> Result<Report, String> {
    let name = bug;
    let bug = match name {
        Some(name) => Some(Bug::parse(name).ok_or_else(|| format!("no bug {name:?}"))?),
        None => None,
    };
    let stopwatch = crate::stopwatch::Stopwatch::start();
    let next = AtomicU64::new(0);
    let done: Mutex<BTreeMap<u64, Simulated>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= seeds {
                        return;
                    }
                    let simulated = simulate(from + number, bug);
                    let found = simulated.broke_a_promise();
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(from + number, simulated);
                    drop(done);
                    if bug.is_some() && found {
                        next.store(seeds, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if bug.is_some() {
        // Other threads were ahead by chance; the first seed that finds the bug ends the run.
        let first = done.iter().find(|(_, simulated)| simulated.broke_a_promise());
        if let Some(first) = first.map(|(seed, _)| *seed) {
            done.retain(|seed, _| *seed <= first);
        }
    }

    let is_broken = done.values().any(Simulated::broke_a_promise);
    let trace = Trace::default();
    let mut report = Report {
        seeds: done.len() as u64,
        from,
        operations: 0,
        acknowledged: 0,
        faults: 0,
        violations: 0,
        trace_hash: String::new(),
        bug: name.map(str::to_owned),
        failures: Vec::new(),
        commit: commit(),
        seconds: stopwatch.seconds(),
        verdict: Verdict::Valid,
    };
    for (seed, simulated) in done {
        trace.event(seed, "seed", &[simulated.trace_hash], b"");
        report.operations += simulated.operations;
        report.acknowledged += simulated.acknowledged;
        report.faults += simulated.faults;
        report.violations += simulated.violations.len() as u64;
        if !simulated.violations.is_empty() {
            let option = name.map_or_else(String::new, |name| format!(" --bug {name}"));
            report.failures.push(Failure {
                seed,
                violations: simulated.violations.iter().map(ToString::to_string).collect(),
                replay: format!(
                    "cargo run --release -p conclave-chaos -- sim --seeds 1 --from {seed}{option}"
                ),
            });
        }
    }
    report.trace_hash = format!("{:016x}", trace.hash());
    if is_broken != bug.is_some() {
        report.verdict = Verdict::Invalid;
    } else if bug.is_none() && !report.failures.is_empty() {
        report.verdict = Verdict::Unknown;
    }
    Ok(report)
}

/// Runs one seed to its end, in this thread.
pub fn simulate(seed: u64, bug: Option<Bug>) -> Simulated {
    raft_sim::seed(Some(seed));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let simulated = match runtime {
        Ok(runtime) => {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, simulation(seed, bug))
        }
        Err(error) => harness_failure(&error.to_string()),
    };
    raft_sim::seed(None);
    simulated
}

fn harness_failure(detail: &str) -> Simulated {
    let violation = Violation { invariant: HARNESS, detail: detail.to_owned() };
    Simulated { violations: vec![violation], ..Simulated::default() }
}

async fn simulation(seed: u64, bug: Option<Bug>) -> Simulated {
    let rng = Rng::new(seed);
    let trace = Trace::default();
    let network = Network::new(rng.fork("network"), trace.clone());
    match Box::pin(founded(&rng, bug, &network, trace)).await {
        Ok(world) => Box::pin(phases(world, rng, network)).await,
        Err(error) => harness_failure(&error),
    }
}

/// Founds the cluster in fair weather: members, an account, secrets.
async fn founded(
    rng: &Rng,
    bug: Option<Bug>,
    network: &Network,
    trace: Trace,
) -> Result<Rc<World>, String> {
    let mut shape = rng.fork("shape");
    let voters: u64 = if shape.chance(300) { 5 } else { 3 };
    let followers = u64::from(shape.chance(400));
    let mut machines: Vec<Machine> = (1..=voters + followers)
        .map(|id| {
            let role = if id <= voters { NodeRole::Voter } else { NodeRole::Follower };
            Machine::new(id, role, shape.next_u64(), voters, bug)
        })
        .collect();
    if let Some((founder, others)) = machines.split_first_mut() {
        for machine in others {
            machine.introduce(founder);
        }
    }
    for machine in &mut machines {
        machine.skew_ms = i64::try_from(shape.below(10_000_000)).unwrap_or(0) - 5_000_000;
        machine.start(network).await?;
    }
    let process = |at: usize| machines[at].running.clone().ok_or("a machine is off".to_owned());
    let first = process(0)?.handle;
    first.initialize(machines[0].info()).await.map_err(|error| error.to_string())?;
    let leads = |leader| leader == Some(1);
    first.wait_leader(HEAL_PATIENCE, leads).await.map_err(|error| error.to_string())?;
    for machine in &machines[1..] {
        settled(async || first.add_follower(machine.id, machine.info()).await)
            .await
            .map_err(|error| format!("adding {}: {error}", machine.id))?;
        if machine.role == NodeRole::Voter {
            settled(async || first.promote(machine.id, HEAL_PATIENCE).await)
                .await
                .map_err(|error| format!("promoting {}: {error}", machine.id))?;
        }
    }

    let admin = admin().ok_or("an id is wrong")?;
    let mut keys = rng.fork("keys");
    let secrets: Vec<(Arc<str>, usize)> =
        (0..SECRETS).map(|number| (format!("s{number}").as_str().into(), 0)).collect();
    let mut propose = async |body| {
        let envelope = Envelope {
            request_id: RequestId(keys.bytes()),
            actor: Actor::Node,
            at: Timestamp(1),
            client_ip: String::new(),
            body,
        };
        let reply = first.propose(command_codec::encode(&envelope)).await;
        let reply = reply.map_err(|error| error.to_string())?.reply;
        match outcome::codec::decode(&reply) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(rejection)) => Err(rejection.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let signing_key = SigningKey { id: "k".to_owned(), public: vec![1], private: Sealed(vec![2]) };
    let admin_key = || NewApiKey { sealed: Sealed(vec![3]), digest: Digest([4; 32]) };
    let account = admin.account().clone();
    propose(Command::CreateAccount { account, signing_key, admin_key: admin_key() }).await?;
    let load = load_policy(&process(0)?.state, &admin, &secrets, admin_key)?;
    let load = Envelope {
        request_id: RequestId([7; 16]),
        actor: Actor::Role(admin.clone()),
        at: Timestamp(2),
        client_ip: String::new(),
        body: load,
    };
    let loaded = first.propose(command_codec::encode(&load)).await;
    let loaded = loaded.map_err(|error| error.to_string())?.reply;
    if let Ok(Err(rejection)) = outcome::codec::decode(&loaded) {
        return Err(rejection.to_string());
    }
    Ok(Rc::new(World {
        machines: RefCell::new(machines),
        history: RefCell::new(History::default()),
        secrets: RefCell::new(secrets),
        admin,
        start: Instant::now(),
        trace,
    }))
}

/// Makes one change of members, again and again while an earlier one is still under way.
async fn settled(change: impl AsyncFn() -> Result<u64, ChangeError>) -> Result<(), ChangeError> {
    let deadline = Instant::now() + HEAL_PATIENCE;
    loop {
        match change().await {
            Ok(_) | Err(ChangeError::AlreadyAMember(_)) => return Ok(()),
            Err(ChangeError::InProgress | ChangeError::NotCaughtUp { .. })
                if Instant::now() < deadline =>
            {
                sleep(CHANGE_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn admin() -> Option<RoleId> {
    Id::new(AccountName::new("sim").ok()?, Kind::User, "admin").ok()
}

/// The load of a policy that declares the secrets, planned as the door plans it.
fn load_policy(
    state: &conclave_storage::state::StateStore,
    admin: &RoleId,
    secrets: &[(Arc<str>, usize)],
    key: impl Fn() -> NewApiKey,
) -> Result<Command, String> {
    let root = Id::new(admin.account().clone(), Kind::Policy, "root").map_err(|e| e.to_string())?;
    let lines: Vec<String> =
        secrets.iter().map(|(name, _)| format!("- !variable {name}\n")).collect();
    let text = lines.concat();
    let rules = Rules::default();
    let mode = LoadMode::Append;
    let request = LoadRequest { policy: &root, mode, text: &text, actor: admin, rules };
    let plan = state.read(|view| plan(view.state, &request)).map_err(|error| error.to_string())?;
    let based_on = plan.based_on;
    Ok(Command::LoadPolicy {
        policy: root,
        mode: LoadMode::Append,
        text_sha256: "0".repeat(64),
        changes: plan.into_changes(|_| key()),
        text,
        based_on,
    })
}

/// Faults under load, then healing and judgement.
async fn phases(world: Rc<World>, rng: Rng, network: Network) -> Simulated {
    let stop = Rc::new(RefCell::new(false));
    let terms = Rc::new(RefCell::new(Terms::default()));
    let mut tasks = Vec::new();
    let clients = rng.fork("shape of load").between(3, 8);
    for number in 0..clients {
        let rng = rng.fork(&format!("client {number}"));
        let client = client::run(Rc::clone(&world), rng, number, Rc::clone(&stop));
        tasks.push(tokio::task::spawn_local(client));
    }
    let (watched, seen, over) = (Rc::clone(&world), Rc::clone(&terms), Rc::clone(&stop));
    let line = network.clone();
    tasks.push(tokio::task::spawn_local(async move {
        while !*over.borrow() {
            observe(&watched, &line, &seen);
            sleep(SAMPLE_EVERY).await;
        }
    }));

    let mut faults = faults::Faults::new(Rc::clone(&world), network.clone(), rng.fork("faults"));
    let mut violations = faults.rage(&terms).await;
    network.heal();
    network.set_weather(Weather::FAIR);
    faults.disarm();
    violations.extend(faults.restart_all().await);
    // The load goes on for a while: healing happens under traffic.
    sleep(Duration::from_secs(2)).await;
    stop.replace(true);
    for task in tasks {
        if let Err(error) = task.await {
            violations.push(Violation { invariant: "I13 no panic", detail: error.to_string() });
        }
    }
    violations.extend(faults.restart_all().await);
    violations.extend(converge(&world).await);
    // I11: the healed cluster takes a write, and all nodes get it.
    if !client::prove(&world, rng.fork("proof")).await {
        let detail = "the healed cluster refuses a write".to_owned();
        violations.push(Violation { invariant: "I11 service", detail });
    }
    violations.extend(converge(&world).await);
    observe(&world, &network, &terms);
    violations.extend(terms.take().into_violations());
    let history = world.history.take();
    violations.extend(judge(&world, &history));
    let acknowledged = history.acknowledged();
    if acknowledged < ACKNOWLEDGED_MIN {
        let detail = format!("only {acknowledged} writes were acknowledged");
        violations.push(Violation { invariant: HARNESS, detail });
    }
    Simulated {
        operations: history.operations().len() as u64,
        acknowledged,
        faults: faults.injected(),
        violations,
        trace_hash: world.trace.hash(),
    }
}

/// Looks at the terms of all machines.
pub(crate) fn observe(world: &World, network: &Network, terms: &RefCell<Terms>) {
    let mut terms = terms.borrow_mut();
    world
        .machines
        .borrow()
        .iter()
        .filter_map(|machine| machine.sample(network))
        .for_each(|sample| terms.observe(sample));
}

/// Waits until all nodes have one leader and have applied the same, and one more write succeeds.
async fn converge(world: &World) -> Option<Violation> {
    let deadline = Instant::now() + HEAL_PATIENCE;
    let mut proof = 0;
    loop {
        let handles: Vec<_> = {
            let machines = world.machines.borrow();
            machines
                .iter()
                .filter_map(|machine| Some(machine.running.as_ref()?.handle.clone()))
                .collect()
        };
        let statuses: Vec<_> = handles.iter().map(conclave_raft::Handle::status).collect();
        let everybody = statuses.len() == world.machines.borrow().len();
        let leader = statuses.iter().find(|status| status.leader == Some(status.node_id));
        let is_level = leader.is_some_and(|leader| {
            everybody
                && statuses.iter().all(|status| {
                    status.leader == Some(leader.node_id) && status.applied == leader.last_log
                })
        });
        if is_level && proof > 0 {
            return None;
        }
        if is_level {
            // A read barrier on every node proves reads.
            let mut served = true;
            for handle in &handles {
                served &= handle.read_barrier().await.is_ok();
            }
            proof += u64::from(served);
        }
        if Instant::now() > deadline {
            let detail = statuses
                .iter()
                .map(|status| {
                    let (id, state, term) = (status.node_id, status.state.as_str(), status.term);
                    let failure = status.failure.clone().unwrap_or_default();
                    format!(
                        "node {id} {state} term {term} log {:?} applied {:?} {failure}",
                        status.last_log, status.applied
                    )
                })
                .collect::<Vec<_>>()
                .join("; ");
            let detail =
                format!("not one cluster within {HEAL_PATIENCE:?} after healing: {detail}");
            return Some(Violation { invariant: "I10 convergence", detail });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Scans all nodes and asks all judges.
fn judge(world: &World, history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut holdings = Vec::new();
    let mut finals: Option<(u64, BTreeMap<Arc<str>, FinalVersions>)> = None;
    for machine in world.machines.borrow().iter() {
        let Some(running) = &machine.running else { continue };
        if let Some(fault) = running.fault() {
            let detail = format!("node {}: {fault}", machine.id);
            violations.push(Violation { invariant: "no fault without cause", detail });
        }
        match running.state.state_hash() {
            Ok(hash) => holdings.push(Holding {
                node: machine.id,
                applied: hash.index,
                state_hash: hash.hash,
            }),
            Err(error) => {
                let detail = format!("node {}: {error}", machine.id);
                violations.push(Violation { invariant: "I10 convergence", detail });
            }
        }
        let mut lists = BTreeMap::new();
        for (secret, _) in world.secrets.borrow().iter() {
            let id = client::variable(&world.admin, secret);
            let shown: Vec<_> = running.state.read(|view| {
                let versions = view.state.secret(&id).into_iter().flat_map(|s| s.versions.keys());
                versions
                    .map(|version| {
                        let value = view.secret_value(&id, *version).ok().flatten();
                        let value =
                            value.map_or("version without value".into(), |v| client::text(&v));
                        (version.0, value)
                    })
                    .collect()
            });
            match versions::list(secret, machine.id, shown) {
                Ok(list) => drop(lists.insert(Arc::clone(secret), list)),
                Err(gap) => violations.push(gap),
            }
        }
        match &finals {
            None => finals = Some((machine.id, lists)),
            Some((first, ours)) => {
                violations.extend(ours.iter().filter_map(|(secret, ours)| {
                    let theirs = lists.get(secret).cloned().unwrap_or_default();
                    versions::check_same(secret, (*first, ours), (machine.id, &theirs))
                }));
            }
        }
    }
    violations.extend(convergence::check(&holdings));
    let judgement = checker::judge(history, &finals.map(|(_, lists)| lists).unwrap_or_default());
    if judgement.undecided > 0 {
        let detail = format!("{} histories were too hard to judge", judgement.undecided);
        violations.push(Violation { invariant: HARNESS, detail });
    }
    violations.extend(judgement.violations);
    violations
}
