//! Storms over a cluster of five voters and three followers with HAProxy in front, each in a network
//! namespace of its own: joins, removals, partitions, one-way cuts, loss, narrow and flapping links, kills
//! and restarts come in any order and at the same time, under a light load. When all is healed, every
//! member must be level, with one state hash, in [`CONVERGED_WITHIN`]; and then no restart of a standby or of
//! a follower may cause an election.
//!
//! A storm has three fronts. On each one trouble follows another, drawn from the seed and from who is a
//! member at that moment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave::admin::client::ask;
use conclave::admin::protocol::Request;
use conclave::exit::Exit;
use conclave::seed::SeedRole;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::probe::TermWatch;
use super::report::{Milliseconds, Report};
use super::{Options, finish, fresh_secrets, highest_term, judge_on};
use crate::checker::{Violation, convergence};
use crate::client::Door;
use crate::clients::{Clients, Pace};
use crate::process::cluster::{Cluster, Footing, Shape, admit};
use crate::process::network::Hurdle;
use crate::process::node::Program;
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::{RunClock, secrets_needed};

/// How long a storm lasts.
const STORM: Duration = Duration::from_secs(15);
/// How many troubles there are at a time, at most.
const FRONTS: usize = 3;
/// How often the storm is looked after.
const TICK: Duration = Duration::from_millis(20);
/// Within this after the last fault all members must be level.
const CONVERGED_WITHIN: Duration = Duration::from_secs(15);
/// How long is waited to see how late they are if they are late.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one try of a join or a removal may take.
const CHANGE_PATIENCE: Duration = Duration::from_secs(20);
/// So many voters and followers at least, and at most.
const VOTERS_MIN: usize = 3;
const VOTERS_MAX: usize = 7;
const FOLLOWERS_MIN: usize = 1;
const FOLLOWERS_MAX: usize = 5;
/// Numbers in the network: those of voters, which the balancer knows, and those of followers.
const VOTER_NUMBERS: Range<u8> = 1..6;
const MORE_VOTER_NUMBERS: Range<u8> = 11..15;
const MORE_FOLLOWER_NUMBERS: Range<u8> = 21..27;

/// A join or a removal under way.
type Asked = JoinHandle<Result<(), HarnessError>>;

/// A join or a removal that was asked for.
struct Change {
    name: String,
    is_join: bool,
    /// None when it failed: it is asked for again when all is calm.
    task: Option<Asked>,
}

/// How one trouble ends.
enum End {
    Lift(Vec<Hurdle>),
    /// Pulled out and put back so many times more.
    Flap(u8, u32),
    /// Restored one by one, in this order.
    Swizzle(Vec<Hurdle>),
    Start(String),
    /// A join or removal was asked for; nothing to end.
    Nothing,
}

/// One front of a storm: the trouble that is on, if any, and when that changes.
struct Front {
    next: Instant,
    end: Option<End>,
}

struct Storm<'a> {
    cluster: &'a mut Cluster,
    watch: &'a TermWatch,
    rng: Rng,
    changes: Vec<Change>,
    /// Hurdles that are there.
    hurdles: Vec<Hurdle>,
    names: u32,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs the drill: a storm, and what must follow, in each trial.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let shape = Shape { voters: 5, followers: 3, footing: Footing::Namespaces, ..Shape::default() };
    let mut cluster = Cluster::found(shape).await?;
    let numbers: Vec<u8> = VOTER_NUMBERS.chain(MORE_VOTER_NUMBERS).collect();
    let balancer = cluster.balancer_of(&numbers).await?;
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let door = cluster.door(0)?.elsewhere(0, balancer.address());
    let clock = RunClock::start();
    let mut times = Vec::new();
    for number in 0..options.trials {
        let rng = Rng::new(options.seed).fork(&format!("storm {number}"));
        match trial(&mut cluster, &watch, &door, clock, number, rng, report).await {
            Ok(time) => {
                let ms = time.as_millis();
                eprintln!("converge {}/{}: level after {ms} ms", number + 1, options.trials);
                times.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
            Err(error) => {
                report.unclear(format!("storm {number}: {error}"));
                break;
            }
        }
        report.trials += 1;
    }
    let terms = watch.stop().await;
    report.elections = terms.last_term().saturating_sub(first_term);
    report.broken(terms.into_violations());
    report.converged_ms = Milliseconds::of(times);
    drop(balancer);
    finish(cluster, options, report);
    Ok(())
}

async fn trial(
    cluster: &mut Cluster,
    watch: &TermWatch,
    door: &Door,
    clock: RunClock,
    number: u32,
    mut rng: Rng,
    report: &mut Report,
) -> Result<Duration, HarnessError> {
    cluster.wait_healthy().await?;
    let pace = Pace {
        writes: 20,
        reads: 20,
        connections: 16,
        deadline: Duration::from_secs(4),
        patience: Duration::from_secs(4),
    };
    let secrets = fresh_secrets(&format!("s{number}"), secrets_needed(pace.writes, 90));
    cluster.declare(&secrets).await?;
    let login = Arc::clone(&cluster.login);
    let clients = Clients::start(door, login, secrets, pace, clock, rng.fork("load"));

    let mut storm = Storm {
        watch,
        rng: rng.fork("storm"),
        changes: Vec::new(),
        hurdles: Vec::new(),
        names: number * 100,
        counts: BTreeMap::new(),
        cluster,
    };
    storm.rage().await?;
    eprintln!("storm {number}: {:?}", storm.counts);
    for (kind, count) in &storm.counts {
        *report.troubles.entry((*kind).to_owned()).or_default() += count;
    }
    storm.heal()?;
    let healed = (Instant::now(), clock.now());
    storm.finish_changes(healed.0).await?;
    let is_back = clients.acknowledges_after(healed.1, PATIENCE).await;
    let (history, _) = clients.stop().await;
    let time = level(cluster, healed.0).await?;
    if !is_back || time > CONVERGED_WITHIN {
        let detail = format!(
            "storm {number}: level {time:?} after the last fault, writes {}; {CONVERGED_WITHIN:?} \
             are promised",
            if is_back { "succeed" } else { "do not succeed" }
        );
        report.broken([Violation { invariant: "I10 convergence in time", detail }]);
    }
    judge_on(cluster, &history, report, 0..1).await?;
    report.broken(convergence::check(&cluster.holdings().await?));
    no_election(cluster, number, &mut rng, report).await?;
    Ok(time)
}

/// Waits until all members are level, with one state hash; how long that took from then on.
async fn level(cluster: &mut Cluster, from: Instant) -> Result<Duration, HarnessError> {
    cluster.wait_healthy().await?;
    match convergence::check(&cluster.holdings().await?).first() {
        Some(broken) => Err(HarnessError(broken.to_string())),
        None => Ok(from.elapsed()),
    }
}

/// Ends and starts a standby and a follower, by SIGKILL and in good order: the term must stay.
async fn no_election(
    cluster: &mut Cluster,
    number: u32,
    rng: &mut Rng,
    report: &mut Report,
) -> Result<(), HarnessError> {
    let turns =
        [SeedRole::Voter, SeedRole::Follower].into_iter().flat_map(|r| [(r, true), (r, false)]);
    for (role, kill) in turns {
        let before = highest_term(&cluster.wait_healthy().await?);
        let leader = cluster.wait_leader(None).await?;
        let others: Vec<usize> = (0..cluster.nodes.len())
            .filter(|at| *at != leader && cluster.nodes[*at].place.role == role)
            .collect();
        let Some(at) = rng.pick(&others).copied() else { continue };
        let node = &mut cluster.nodes[at];
        if kill {
            node.kill().await?;
        } else {
            node.stop().await?;
        }
        sleep(Duration::from_millis(rng.between(0, 1_000))).await;
        cluster.nodes[at].start()?;
        let after = highest_term(&cluster.wait_healthy().await?);
        report.restarts += 1;
        if after != before {
            let name = &cluster.nodes[at].place.name;
            let detail = format!(
                "storm {number}: the restart of {name} ({role:?}) brought term {after} after {before}"
            );
            report.broken([Violation { invariant: "no false election", detail }]);
        }
    }
    Ok(())
}

impl Storm<'_> {
    /// Troubles come and go until the storm is over.
    async fn rage(&mut self) -> Result<(), HarnessError> {
        let start = Instant::now();
        let mut fronts: Vec<Front> =
            (0..FRONTS).map(|_| Front { next: start + self.pause(0, 800), end: None }).collect();
        while start.elapsed() < STORM {
            for front in &mut fronts {
                if Instant::now() < front.next {
                    continue;
                }
                *front = match front.end.take() {
                    Some(end) => self.calm(end)?,
                    None => self.trouble().await?,
                };
            }
            self.collect().await?;
            sleep(TICK).await;
        }
        Ok(())
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.rng.between(from_ms, to_ms))
    }

    /// Starts one trouble.
    async fn trouble(&mut self) -> Result<Front, HarnessError> {
        let numbers: Vec<u8> = self.cluster.numbers();
        let mut mixed = numbers.clone();
        self.rng.shuffle(&mut mixed);
        let (one, other) = (mixed[0], mixed[1]);
        let (kind, end) = match self.rng.below(12) {
            0 => ("isolated", End::Lift(apart(&[one], &mixed[1..]))),
            1 => {
                let (left, right) = mixed.split_at(mixed.len() / 2);
                ("split in halves", End::Lift(apart(left, right)))
            }
            2 => {
                // Two parts, and one that both still reach.
                let (left, right) = mixed[1..].split_at((mixed.len() - 1) / 2);
                ("split around a bridge", End::Lift(apart(left, right)))
            }
            3 => ("deaf to one", End::Lift(vec![Hurdle::Deaf { node: one, to: other }])),
            4 => {
                let all = mixed[1..].iter().map(|to| Hurdle::Deaf { node: one, to: *to });
                ("deaf to all", End::Lift(all.collect()))
            }
            5 => ("flapping", End::Flap(one, u32::try_from(self.rng.between(1, 3)).unwrap_or(1))),
            6 => {
                let per_cent = u8::try_from(self.rng.between(5, 40)).unwrap_or(5);
                ("lossy", End::Lift(vec![Hurdle::Lossy { node: one, per_cent }]))
            }
            7 if !self.hurdles.contains(&Hurdle::Narrow { node: one }) => {
                ("narrow", End::Lift(vec![Hurdle::Narrow { node: one }]))
            }
            8 => {
                let cut = &mixed[..=self.rng.index(mixed.len() / 2)];
                let cut = cut.iter().flat_map(|node| apart(&[*node], &mixed)).collect();
                ("swizzled", End::Swizzle(cut))
            }
            9 => (if self.join()? { "joined" } else { "" }, End::Nothing),
            10 => (if self.remove() { "removed" } else { "" }, End::Nothing),
            _ => match self.kill().await? {
                Some(name) => ("killed", End::Start(name)),
                None => ("", End::Nothing),
            },
        };
        match &end {
            End::Lift(hurdles) | End::Swizzle(hurdles) => self.put(hurdles)?,
            End::Flap(node, _) => self.put(&[Hurdle::Unplugged { node: *node }])?,
            End::Start(_) | End::Nothing => {}
        }
        if !kind.is_empty() {
            *self.counts.entry(kind).or_default() += 1;
        }
        let time = match end {
            End::Flap(..) => self.pause(300, 1_500),
            End::Start(_) => self.pause(0, 3_000),
            End::Nothing => self.pause(100, 500),
            End::Lift(_) | End::Swizzle(_) => self.pause(300, 4_000),
        };
        Ok(Front { next: Instant::now() + time, end: Some(end) })
    }

    /// Ends a trouble, or takes the next step towards that.
    fn calm(&mut self, end: End) -> Result<Front, HarnessError> {
        let mut again = None;
        match end {
            End::Lift(hurdles) => self.lift(&hurdles)?,
            End::Swizzle(mut hurdles) => {
                self.rng.shuffle(&mut hurdles);
                if let Some(hurdle) = hurdles.pop() {
                    self.lift(&[hurdle])?;
                }
                again = (!hurdles.is_empty()).then_some(End::Swizzle(hurdles));
            }
            End::Flap(node, left) => {
                let hurdle = Hurdle::Unplugged { node };
                if self.hurdles.contains(&hurdle) {
                    self.lift(&[hurdle])?;
                    again = (left > 0).then_some(End::Flap(node, left.saturating_sub(1)));
                } else {
                    self.put(&[hurdle])?;
                    again = Some(End::Flap(node, left));
                }
            }
            End::Start(name) => self.start(&name)?,
            End::Nothing => {}
        }
        let time = match again {
            Some(End::Swizzle(_)) => self.pause(50, 300),
            Some(_) => self.pause(300, 1_500),
            None => self.pause(100, 1_000),
        };
        Ok(Front { next: Instant::now() + time, end: again })
    }

    fn put(&mut self, hurdles: &[Hurdle]) -> Result<(), HarnessError> {
        for hurdle in hurdles {
            self.cluster.network()?.put(*hurdle)?;
            self.hurdles.push(*hurdle);
        }
        Ok(())
    }

    fn lift(&mut self, hurdles: &[Hurdle]) -> Result<(), HarnessError> {
        for hurdle in hurdles {
            let Some(at) = self.hurdles.iter().position(|there| there == hurdle) else { continue };
            self.cluster.network()?.lift(*hurdle)?;
            self.hurdles.swap_remove(at);
        }
        Ok(())
    }

    async fn kill(&mut self) -> Result<Option<String>, HarnessError> {
        let at = self.rng.index(self.cluster.nodes.len());
        let node = &mut self.cluster.nodes[at];
        if node.pid().is_none() {
            return Ok(None);
        }
        let name = node.place.name.clone();
        node.kill().await?;
        Ok(Some(name))
    }

    fn start(&mut self, name: &str) -> Result<(), HarnessError> {
        let node = self.cluster.nodes.iter_mut().find(|node| node.place.name == name);
        // It may have been removed meanwhile.
        node.filter(|node| node.pid().is_none()).map_or(Ok(()), crate::process::node::Node::start)
    }

    /// Members and those on their way in, of one part.
    fn count(&self, role: SeedRole) -> usize {
        self.cluster.nodes.iter().filter(|node| node.place.role == role).count()
    }

    /// Where something may be asked for: a voter that runs, whatever it can reach.
    fn asked(&mut self) -> Option<PathBuf> {
        let voters = self.cluster.nodes.iter().filter(|node| node.place.role == SeedRole::Voter);
        let running = voters.filter(|node| node.pid().is_some());
        let folders: Vec<PathBuf> = running.map(|node| node.place.data()).collect();
        self.rng.pick(&folders).cloned()
    }

    /// Lets one more node join, if there is room and somebody to ask.
    fn join(&mut self) -> Result<bool, HarnessError> {
        let role = if self.rng.chance(500) { SeedRole::Voter } else { SeedRole::Follower };
        let (most, numbers) = match role {
            SeedRole::Voter => (VOTERS_MAX, MORE_VOTER_NUMBERS),
            SeedRole::Follower => (FOLLOWERS_MAX, MORE_FOLLOWER_NUMBERS),
        };
        let taken = self.cluster.numbers();
        let number = numbers.into_iter().find(|number| !taken.contains(number));
        let (Some(number), Some(asked)) = (number, self.asked()) else { return Ok(false) };
        if self.count(role) >= most {
            return Ok(false);
        }
        self.names += 1;
        let name = format!("j{}", self.names);
        self.cluster.add(number, &name, role)?;
        let task = Some(self.ask_join(&name, asked)?);
        self.changes.push(Change { name, is_join: true, task });
        Ok(true)
    }

    fn ask_join(&self, name: &str, asked: PathBuf) -> Result<Asked, HarnessError> {
        let at = self.position(name).ok_or_else(|| HarnessError::new("nobody of that name"))?;
        let (place, program) = (self.cluster.nodes[at].place.clone(), Program::this()?);
        Ok(tokio::spawn(async move {
            timeout(CHANGE_PATIENCE, admit(&place, &program, &asked))
                .await
                .map_err(|_| HarnessError::new("no join in time"))?
        }))
    }

    /// Removes a member, if enough are left and there is somebody to ask.
    fn remove(&mut self) -> bool {
        let at = self.rng.index(self.cluster.nodes.len());
        let place = &self.cluster.nodes[at].place;
        let (name, role) = (place.name.clone(), place.role);
        let least = match role {
            SeedRole::Voter => VOTERS_MIN,
            SeedRole::Follower => FOLLOWERS_MIN,
        };
        // All that are coming or going may be of this part.
        if self.is_changing(&name) || self.count(role) <= least + self.changes.len() {
            return false;
        }
        let Some(asked) = self.asked() else { return false };
        let task = Some(ask_removal(&name, asked));
        self.changes.push(Change { name, is_join: false, task });
        true
    }

    fn is_changing(&self, name: &str) -> bool {
        self.changes.iter().any(|change| change.name == name)
    }

    /// Takes in what has become of joins and removals.
    async fn collect(&mut self) -> Result<(), HarnessError> {
        for mut change in std::mem::take(&mut self.changes) {
            let Some(task) = change.task.take_if(|task| task.is_finished()) else {
                self.changes.push(change);
                continue;
            };
            let done = task.await.map_err(|error| HarnessError(error.to_string()))?;
            let Some(at) = self.position(&change.name) else { continue };
            match done {
                Ok(()) if change.is_join => {
                    self.cluster.nodes[at].start()?;
                    self.watch.also(self.cluster.nodes[at].place.data());
                }
                Ok(()) => self.cluster.forget(at),
                Err(error) => {
                    let what = if change.is_join { "join" } else { "removal" };
                    eprintln!("storm: {what} of {}: {error}", change.name);
                    self.changes.push(change);
                }
            }
        }
        Ok(())
    }

    /// Lifts every hurdle, and starts whoever is down and belongs to the cluster.
    fn heal(&mut self) -> Result<(), HarnessError> {
        let hurdles = self.hurdles.clone();
        self.lift(&hurdles)?;
        for at in 0..self.cluster.nodes.len() {
            let joins = |change: &Change| {
                change.is_join && change.name == self.cluster.nodes[at].place.name
            };
            if !self.changes.iter().any(joins) && self.cluster.nodes[at].pid().is_none() {
                self.cluster.nodes[at].start()?;
            }
        }
        Ok(())
    }

    /// Asks again for what failed in the storm, until it is done.
    async fn finish_changes(&mut self, healed: Instant) -> Result<(), HarnessError> {
        loop {
            self.collect().await?;
            if self.changes.is_empty() {
                return Ok(());
            }
            if healed.elapsed() > PATIENCE {
                let names: Vec<&str> = self.changes.iter().map(|change| &*change.name).collect();
                return Err(HarnessError(format!("{names:?} neither came nor went")));
            }
            let leader = self.cluster.wait_leader(None).await?;
            let node = &self.cluster.nodes[leader];
            let (name, data) = (node.place.name.clone(), node.place.data());
            for at in 0..self.changes.len() {
                let Change { name: changing, is_join, task } = &self.changes[at];
                if task.is_some() {
                    continue;
                }
                let task = if *is_join {
                    self.ask_join(changing, data.clone())?
                } else {
                    if *changing == name {
                        // Who leads hands over before it goes.
                        ask(&data, &Request::TransferLeader { to: None }).await.ok();
                        continue;
                    }
                    ask_removal(changing, data.clone())
                };
                self.changes[at].task = Some(task);
            }
            sleep(TICK).await;
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.cluster.nodes.iter().position(|node| node.place.name == name)
    }
}

fn ask_removal(name: &str, asked: PathBuf) -> Asked {
    let member = name.to_owned();
    tokio::spawn(async move {
        let request = Request::Remove { member };
        let removed = timeout(CHANGE_PATIENCE, ask(&asked, &request))
            .await
            .map_err(|_| HarnessError::new("no removal in time"))?;
        match removed {
            // An earlier try whose answer was lost.
            Err(failure) if failure.exit == Exit::NotFound => Ok(()),
            removed => removed.map(drop).map_err(HarnessError::from),
        }
    })
}

/// Hurdles by which no node of one part hears one of the other, nor the other way round.
fn apart(left: &[u8], right: &[u8]) -> Vec<Hurdle> {
    let pairs = left.iter().flat_map(|one| right.iter().map(move |other| (*one, *other)));
    pairs
        .filter(|(one, other)| one != other)
        .flat_map(|(one, other)| {
            [Hurdle::Deaf { node: one, to: other }, Hurdle::Deaf { node: other, to: one }]
        })
        .collect()
}
