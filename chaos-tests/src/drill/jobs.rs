//! Operators' jobs under load, one after the other, as `node/docs/operations.md` lists them, with HAProxy in front
//! of the voters: what clients saw of each.
//!
//! A request that falls due while a job is done, or just after, counts for it. After retries none may fail. Jobs after
//! which all nodes are still there may not even fail a first try; that is judged of release builds, since the balancer cuts
//! off a node whose answers to its checks come late.

use std::path::PathBuf;
use std::time::Duration;

use conclave::admin::client::ask;
use conclave::admin::protocol::{PrivateText, Request, Response, Status};
use conclave::certificates::inventory::Row;
use conclave::seed::SeedRole;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::certificates::{newest, rows, wait_settled};
use super::logins;
use super::probe::TermWatch;
use super::report::{Milliseconds, Report};
use super::upgrade::pace;
use super::{Options, RECOVERY_PATIENCE, finish, fresh_secrets, highest_term, judge};
use crate::checker::Violation;
use crate::clients::{Asking, Clients, Tried};
use crate::process::authority::Authority;
use crate::process::balancer::Balancer;
use crate::process::cluster::{Cluster, HEALTH_PATIENCE, admit, conclave};
use crate::process::node::Program;
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::{RunClock, secrets_needed};

/// Seconds of load that there are secrets for.
const SECONDS_MAX: u64 = 240;
/// Between two jobs.
const BETWEEN: Duration = Duration::from_millis(500);
/// How long after its end a job counts, in nanoseconds: half of the pause. What a quick one has changed the next
/// requests see.
const AFTERMATH: u64 = 250_000_000;
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long a job may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// A node's master key at first, and the one that it changes to.
const KEY: &str = "master.key";
const OTHER_KEY: &str = "another.key";
/// Numbers in the network of the standby and the follower that are added, and of the cluster that is restored.
const STANDBY: (u8, &str) = (5, "n5");
const FOLLOWER: (u8, &str) = (6, "f6");
const RESTORED: (u8, &str) = (7, "restored");

/// One of the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    AddStandby,
    AddFollower,
    RemoveFollower,
    RemoveStandby,
    HandOver,
    LeaderFails,
    ReplaceDead,
    RollingRestart,
    RotateLeaf,
    RotateIntermediate,
    RotateRoot,
    ImportCertificate,
    RemoveCertificate,
    RenameBalancer,
    SendAudit,
    RotateKeys,
    RewrapKeys,
    BackUp,
    Restore,
}

/// In the order in which they are done. The root comes last: the load's clients trust the first one.
const JOBS: [Job; 19] = [
    Job::AddStandby,
    Job::AddFollower,
    Job::RemoveFollower,
    Job::RemoveStandby,
    Job::HandOver,
    Job::LeaderFails,
    Job::ReplaceDead,
    Job::RollingRestart,
    Job::RotateLeaf,
    Job::RotateIntermediate,
    Job::ImportCertificate,
    Job::RemoveCertificate,
    Job::RenameBalancer,
    Job::SendAudit,
    Job::RotateKeys,
    Job::RewrapKeys,
    Job::BackUp,
    Job::Restore,
    Job::RotateRoot,
];

impl Job {
    /// As the table of jobs calls it.
    fn name(self) -> &'static str {
        match self {
            Self::AddStandby => "add a standby",
            Self::AddFollower => "add a follower",
            Self::RemoveFollower => "remove a follower",
            Self::RemoveStandby => "remove a standby",
            Self::HandOver => "hand over",
            Self::LeaderFails => "a leader fails and comes back",
            Self::ReplaceDead => "replace a dead node",
            Self::RollingRestart => "restart one after the other",
            Self::RotateLeaf => "renew what nodes present",
            Self::RotateIntermediate => "renew an intermediate",
            Self::RotateRoot => "rotate the root",
            Self::ImportCertificate => "import a certificate",
            Self::RemoveCertificate => "remove an imported certificate",
            Self::RenameBalancer => "change the load balancer's name",
            Self::SendAudit => "send audit records out",
            Self::RotateKeys => "rotate the data key",
            Self::RewrapKeys => "change a master key",
            Self::BackUp => "back up",
            Self::Restore => "restore beside",
        }
    }

    /// Whether it takes a node away that requests may be at.
    fn takes_a_node(self) -> bool {
        matches!(self, Self::LeaderFails | Self::ReplaceDead | Self::RollingRestart)
    }
}

/// What clients saw of one job, over all trials.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Done {
    /// Which.
    pub job: &'static str,
    /// How often it was done.
    pub times: u32,
    /// How long it took.
    pub took_ms: Option<Milliseconds>,
    /// Requests that fell due meanwhile, or just after.
    pub requests: u64,
    /// Those whose first try failed.
    pub failed_without_retry: u64,
    /// Those that failed although they were tried again.
    pub failed_after_retry: u64,
    /// What the first failures said, and how many said it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// When a job began and ended.
type Turn = (Job, u64, u64);

/// Runs the drill: all jobs in each trial, on a cluster of its own.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut turns: Vec<(Vec<Turn>, Vec<Asking>)> = Vec::new();
    for number in 0..options.trials {
        match trial(number, options, report).await {
            Ok(found) => turns.push(found),
            Err(error) => {
                report.unclear(format!("trial {number}: {error}"));
                break;
            }
        }
        report.trials += 1;
    }
    for job in JOBS {
        let done = count(job, &turns);
        let detail = |failed: u64| format!("{}: {failed} of {} requests", done.job, done.requests);
        if done.failed_after_retry > 0 {
            let detail = detail(done.failed_after_retry);
            report.broken([Violation { invariant: "no request fails for good", detail }]);
        }
        let is_judged = !job.takes_a_node() && !cfg!(debug_assertions);
        if done.failed_without_retry > 0 && is_judged {
            let detail = format!("{}: {:?}", detail(done.failed_without_retry), done.failures);
            report.broken([Violation { invariant: "no request fails", detail }]);
        }
        if done.requests == 0 && done.times > 0 {
            report.unclear(format!("no request was due during: {}", done.job));
        }
        report.jobs.push(done);
    }
    Ok(())
}

fn count(job: Job, turns: &[(Vec<Turn>, Vec<Asking>)]) -> Done {
    let (mut tried, mut took) = (Tried::default(), Vec::new());
    for (turns, askings) in turns {
        for (_, began, ended) in turns.iter().filter(|(of, ..)| *of == job) {
            took.push(ended - began);
            let due = |asking: &&Asking| (*began..*ended + AFTERMATH).contains(&asking.intended);
            askings.iter().filter(due).for_each(|asking| tried.add(asking));
        }
    }
    Done {
        job: job.name(),
        times: u32::try_from(took.len()).unwrap_or(u32::MAX),
        took_ms: Milliseconds::of(took),
        requests: tried.requests,
        failed_without_retry: tried.failed_first,
        failed_after_retry: tried.failed,
        failures: tried.words(),
    }
}

async fn trial(
    number: u32,
    options: &Options,
    report: &mut Report,
) -> Result<(Vec<Turn>, Vec<Asking>), HarnessError> {
    let mut cluster = Cluster::found(logins::shape(options)).await?;
    let mixed = logins::set_up(options, &mut cluster).await?;
    let balancer = cluster.balancer().await?;
    let watch = TermWatch::start(&cluster);
    let first_term = highest_term(&cluster.wait_healthy().await?);
    let pace = pace(options);
    let secrets = fresh_secrets(&format!("j{number}"), secrets_needed(pace.writes, SECONDS_MAX));
    cluster.declare(&secrets).await?;
    let clock = RunClock::start();
    let door = cluster.door(0)?.elsewhere(0, balancer.address());
    let rng = Rng::new(options.seed).fork(&format!("trial {number}"));
    let bearers = logins::bearers(mixed.as_ref(), &cluster, &secrets).await?;
    let asked = [(&door, RECOVERY_PATIENCE)];
    let logins = mixed.as_ref().map(|mixed| mixed.start(&asked, clock, rng.fork("logins")));
    let clients = Clients::start(&door, bearers, secrets, pace, clock, rng);
    let mut operator = Operator { cluster: &mut cluster, balancer: &balancer, watch: &watch };
    let mut turns = Vec::new();
    let mut failed = None;
    sleep(BETWEEN).await;
    for job in JOBS {
        let began = clock.now();
        if let Err(error) = operator.do_job(job).await {
            failed = Some(HarnessError(format!("{}: {error}", job.name())));
            break;
        }
        let ended = clock.now();
        eprintln!("jobs {number}: {} took {} ms", job.name(), (ended - began) / 1_000_000);
        turns.push((job, began, ended));
        sleep(BETWEEN).await;
    }
    if let Some(logins) = logins {
        logins.stop().await.report(&format!("trial {number}"), |_, _| true, report);
    }
    let (history, askings) = clients.stop().await;
    let terms = watch.stop().await;
    report.elections += terms.last_term().saturating_sub(first_term);
    report.broken(terms.into_violations());
    if let Some(error) = failed {
        finish(cluster, options, report);
        return Err(error);
    }
    judge(&mut cluster, &history, report).await?;
    drop((balancer, mixed));
    finish(cluster, options, report);
    Ok((turns, askings))
}

/// Whoever does the jobs.
struct Operator<'a> {
    cluster: &'a mut Cluster,
    balancer: &'a Balancer,
    watch: &'a TermWatch,
}

impl Operator<'_> {
    async fn do_job(&mut self, job: Job) -> Result<(), HarnessError> {
        match job {
            Job::AddStandby => self.add(STANDBY, SeedRole::Voter).await,
            Job::AddFollower => self.add(FOLLOWER, SeedRole::Follower).await,
            Job::RemoveFollower => self.remove(FOLLOWER.1).await,
            Job::RemoveStandby => {
                // Whoever leads hands over first; here a standby is to go.
                if self.leader().await? == self.position(STANDBY.1)? {
                    self.hand_over().await?;
                }
                self.remove(STANDBY.1).await
            }
            Job::HandOver => self.hand_over().await,
            Job::LeaderFails => self.leader_fails().await,
            Job::ReplaceDead => self.replace_dead().await,
            Job::RollingRestart => self.rolling_restart().await,
            Job::RotateLeaf => self.renew("cluster").await,
            Job::RotateIntermediate => self.renew("cluster-ca").await,
            Job::RotateRoot => self.renew("root").await,
            Job::ImportCertificate => self.import().await,
            Job::RemoveCertificate => self.forget_import().await,
            Job::RenameBalancer => self.rename().await,
            Job::SendAudit => self.send_audit().await,
            Job::RotateKeys => self.rotate_keys().await,
            Job::RewrapKeys => self.rewrap().await,
            Job::BackUp => self.back_up().await,
            Job::Restore => self.restore().await,
        }
    }

    fn position(&self, name: &str) -> Result<usize, HarnessError> {
        let found = self.cluster.nodes.iter().position(|node| node.place.name == name);
        found.ok_or_else(|| HarnessError(format!("no node {name}")))
    }

    async fn leader(&self) -> Result<usize, HarnessError> {
        self.cluster.wait_leader(None).await
    }

    async fn leader_data(&self) -> Result<PathBuf, HarnessError> {
        Ok(self.data(self.leader().await?))
    }

    fn data(&self, position: usize) -> PathBuf {
        self.cluster.nodes[position].place.data()
    }

    fn voters(&self) -> Vec<usize> {
        let nodes = self.cluster.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.place.role == SeedRole::Voter).map(|(at, _)| at).collect()
    }

    fn followers(&self) -> Vec<usize> {
        let voters = self.voters();
        (0..self.cluster.nodes.len()).filter(|at| !voters.contains(at)).collect()
    }

    /// Waits until the leader's list of members fulfils a condition.
    async fn wait_members(
        &self,
        what: &str,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<(), HarnessError> {
        let by_leader = |statuses: &[Option<Status>]| {
            statuses.iter().flatten().any(|status| status.part == "leader" && holds(status))
        };
        self.cluster.wait_for(what, by_leader).await.map(drop)
    }

    async fn add(
        &mut self,
        (number, name): (u8, &str),
        role: SeedRole,
    ) -> Result<(), HarnessError> {
        let asked = self.leader_data().await?;
        let at = self.cluster.add(number, name, role)?;
        admit(&self.cluster.nodes[at].place.clone(), &Program::this()?, &asked).await?;
        self.cluster.nodes[at].start()?;
        self.watch.also(self.data(at));
        let votes = role == SeedRole::Voter;
        self.wait_members("a joining node to play its part", |leader| {
            leader.members.iter().any(|member| member.name == name && member.votes == votes)
        })
        .await?;
        self.cluster.wait_healthy_under_load().await
    }

    async fn remove(&mut self, name: &str) -> Result<(), HarnessError> {
        let request = Request::Remove { member: name.to_owned() };
        ask(&self.leader_data().await?, &request).await?;
        self.cluster.forget(self.position(name)?);
        let is_gone = |leader: &Status| leader.members.iter().all(|member| member.name != name);
        self.wait_members("a member to be gone", is_gone).await
    }

    async fn hand_over(&mut self) -> Result<(), HarnessError> {
        let old = self.leader().await?;
        ask(&self.data(old), &Request::TransferLeader { to: None }).await?;
        self.cluster.wait_leader(Some(old)).await.map(drop)
    }

    async fn leader_fails(&mut self) -> Result<(), HarnessError> {
        let old = self.leader().await?;
        self.cluster.nodes[old].kill().await?;
        self.cluster.wait_leader(Some(old)).await?;
        self.cluster.nodes[old].start()?;
        self.all_back().await
    }

    /// A standby is lost with its disk; another one takes its place, at the same address.
    async fn replace_dead(&mut self) -> Result<(), HarnessError> {
        let leader = self.leader().await?;
        let voters = self.voters();
        let dead = voters.into_iter().find(|at| *at != leader);
        let dead = dead.ok_or_else(|| HarnessError::new("no standby"))?;
        let place = self.cluster.nodes[dead].place.clone();
        self.cluster.nodes[dead].kill().await?;
        self.remove(&place.name).await?;
        let name = format!("r{}", place.number());
        self.add((place.number(), &name), SeedRole::Voter).await?;
        self.all_back().await
    }

    async fn all_back(&self) -> Result<(), HarnessError> {
        self.cluster.wait_healthy_under_load().await?;
        self.balancer.wait_up(self.voters().len(), HEALTH_PATIENCE).await
    }

    /// Followers first, the leader last; each is drained, and the voters left by the balancer.
    async fn rolling_restart(&mut self) -> Result<(), HarnessError> {
        let leader = self.leader().await?;
        let standbys = self.voters().into_iter().filter(|at| *at != leader);
        let order: Vec<usize> =
            self.followers().into_iter().chain(standbys).chain([leader]).collect();
        for at in order {
            ask(&self.data(at), &Request::Drain { undo: false }).await?;
            if self.voters().contains(&at) {
                // The balancer calls its servers by their numbers.
                let server = format!("n{}", self.cluster.nodes[at].place.number());
                self.balancer.wait_gone(&server, HEALTH_PATIENCE).await?;
                self.cluster.wait_leader(Some(at)).await?;
            }
            self.cluster.nodes[at].stop().await?;
            self.cluster.nodes[at].start()?;
            self.all_back().await?;
        }
        Ok(())
    }

    async fn renew(&mut self, name: &str) -> Result<(), HarnessError> {
        let before = newest(&rows(self.cluster).await?, name);
        let request = Request::RenewCertificate { name: name.to_owned() };
        ask(&self.leader_data().await?, &request).await?;
        wait_settled(self.cluster, name, before).await.map(drop)
    }

    /// Waits until the inventory fulfils a condition.
    async fn wait_rows(
        &self,
        what: &str,
        holds: impl Fn(&[Row]) -> bool,
    ) -> Result<(), HarnessError> {
        let start = Instant::now();
        loop {
            let rows = rows(self.cluster).await?;
            if holds(&rows) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                let text = |row: &Row| format!("{} {} {:?}", row.name, row.revision, row.names);
                let rows: Vec<String> = rows.iter().map(text).collect();
                return Err(HarnessError(format!("{what} within {PATIENCE:?}: {rows:?}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// A company's certificate.
    async fn import(&mut self) -> Result<(), HarnessError> {
        let company = Authority::create("A company's root")?;
        let extensions = ["subjectAltName=DNS:edge.test", "extendedKeyUsage=serverAuth"];
        let leaf = company.issue("edge.test", &extensions)?;
        let request = Request::ImportCertificate {
            name: "edge".to_owned(),
            chain_pem: std::fs::read_to_string(&leaf.certificate)?,
            key_pem: PrivateText::new(std::fs::read_to_string(&leaf.key)?),
            roots_pem: company.pem()?,
        };
        ask(&self.leader_data().await?, &request).await?;
        self.wait_rows("the imported certificate is not loaded by all", |rows| {
            rows.iter().any(|row| {
                row.name == "edge/edge"
                    && row.state == "Ready"
                    && row.consumers.iter().all(|consumer| consumer.loaded)
            })
        })
        .await
    }

    async fn forget_import(&mut self) -> Result<(), HarnessError> {
        let request = Request::RemoveCertificate { name: "edge/edge".to_owned(), generation: None };
        ask(&self.leader_data().await?, &request).await?;
        self.wait_rows("the imported certificate stays", |rows| {
            rows.iter().all(|row| row.name != "edge/edge")
        })
        .await
    }

    /// Changes the configuration of some nodes, and has them take it in.
    async fn reload(
        &self,
        positions: Vec<usize>,
        edit: impl Fn(&str) -> String,
    ) -> Result<(), HarnessError> {
        for at in positions {
            let place = &self.cluster.nodes[at].place;
            let text = std::fs::read_to_string(place.config())?;
            std::fs::write(place.config(), edit(&text))?;
            let Response::Reloaded(reloaded) = ask(&place.data(), &Request::Reload).await? else {
                return Err(HarnessError::new("a reload was answered by something else"));
            };
            if reloaded.applied.is_empty() {
                return Err(HarnessError(format!("{} took nothing of its new file", place.name)));
            }
        }
        Ok(())
    }

    async fn rename(&mut self) -> Result<(), HarnessError> {
        let before = newest(&rows(self.cluster).await?, "cluster");
        let edit = |text: &str| text.replace("names = [", "names = [\"secrets.test\", ");
        self.reload(self.voters(), edit).await?;
        wait_settled(self.cluster, "cluster", before).await?;
        self.wait_rows("no certificate with the new name", |rows| {
            let newest = rows.iter().rev().find(|row| row.name == "cluster");
            newest.is_some_and(|row| row.subject.contains("CN=secrets.test"))
        })
        .await
    }

    async fn send_audit(&mut self) -> Result<(), HarnessError> {
        let all = (0..self.cluster.nodes.len()).collect();
        let target =
            |place: &str| format!("\n[[audit.output]]\nto = \"file\"\npath = \"{place}\"\n");
        let file = self.cluster.nodes[0].place.folder.with_extension("audit");
        let shown = file.to_string_lossy().into_owned();
        self.reload(all, |text| text.to_owned() + &target(&shown)).await?;
        let start = Instant::now();
        while std::fs::metadata(&file).map_or(0, |found| found.len()) == 0 {
            if start.elapsed() > PATIENCE {
                return Err(HarnessError(format!("no audit record within {PATIENCE:?}")));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn rotate_keys(&mut self) -> Result<(), HarnessError> {
        ask(&self.leader_data().await?, &Request::RotateKeys).await?;
        let start = Instant::now();
        loop {
            let Response::Keys(keys) = ask(&self.leader_data().await?, &Request::Keys).await?
            else {
                return Err(HarnessError::new(
                    "a question for keys was answered by something else",
                ));
            };
            let is_done = keys.resealing.as_ref().is_some_and(|resealing| resealing.complete);
            if keys.generation > 1 && is_done {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(HarnessError(format!("{keys:?} after {PATIENCE:?}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The leader's own: another file, and another key in it.
    async fn rewrap(&mut self) -> Result<(), HarnessError> {
        let place = self.cluster.nodes[self.leader().await?].place.clone();
        let new = place.folder.join(OTHER_KEY);
        let text = std::fs::read_to_string(place.config())?;
        std::fs::write(place.config(), text.replace(KEY, OTHER_KEY))?;
        let config = place.config();
        let words = ["keys", "rewrap", "--config", &config.to_string_lossy()];
        conclave(&place, &Program::this()?, &words).await?;
        if !new.exists() {
            return Err(HarnessError(format!("no {}", new.display())));
        }
        Ok(())
    }

    fn backup_file(&self) -> PathBuf {
        self.cluster.nodes[0].place.folder.with_extension("backup")
    }

    async fn back_up(&mut self) -> Result<(), HarnessError> {
        let place = self.cluster.nodes[0].place.clone();
        let (config, file) = (place.config(), self.backup_file());
        let (config, file) = (config.to_string_lossy(), file.to_string_lossy());
        let program = Program::this()?;
        let words = ["backup", "create", "--config", &config, "--out", &file];
        conclave(&place, &program, &words).await?;
        let words = ["backup", "verify", "--config", &config, &file];
        conclave(&place, &program, &words).await.map(drop)
    }

    /// Another cluster, of what was backed up; this one goes on.
    async fn restore(&mut self) -> Result<(), HarnessError> {
        let source = self.cluster.nodes[0].place.clone();
        let at = self.cluster.add(RESTORED.0, RESTORED.1, SeedRole::Voter)?;
        let place = self.cluster.nodes[at].place.clone();
        let (config, file) = (place.config(), self.backup_file());
        let keys = [OTHER_KEY, KEY].map(|name| source.folder.join(name));
        let key = keys.iter().find(|key| key.exists()).unwrap_or(&keys[1]);
        let words = [
            "restore",
            &file.to_string_lossy(),
            "--config",
            &config.to_string_lossy(),
            "--backup-key-file",
            &key.to_string_lossy(),
        ];
        let restored = conclave(&place, &Program::this()?, &words).await;
        let restored = match restored {
            Ok(_) => self.cluster.nodes[at].start(),
            Err(error) => Err(error),
        };
        let start = Instant::now();
        let served = loop {
            let status = crate::process::cluster::status(place.data()).await;
            if restored.is_err() || status.is_some_and(|status| status.part == "leader") {
                break restored;
            }
            if start.elapsed() > PATIENCE {
                break Err(HarnessError::new("the restored cluster does not serve"));
            }
            sleep(LOOK_EVERY).await;
        };
        self.cluster.forget(at);
        served
    }
}
