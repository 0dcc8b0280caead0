//! One simulated machine: a disk that survives, and the lives of the process that runs on it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_raft::sim::{self as raft_sim, Tweaks};
use conclave_raft::{Config, Handle, KnownMember, NodeInfo, NodeRole, Parts};
use conclave_storage::datadir::Datadir;
use conclave_storage::failpoint::{Action, FailPoints, POINTS};
use conclave_storage::log::LogStore;
use conclave_storage::memory::SimDisk;
use conclave_storage::state::StateStore;

use super::bug::Bug;
use super::network::Network;
use crate::checker::terms::Sample;

/// Where the data folder stands on every simulated disk.
const ROOT: &str = "/conclave";

/// The process of one life.
#[derive(Clone)]
pub struct Running {
    /// Consensus.
    pub handle: Handle,
    /// The state that it serves reads from.
    pub state: StateStore,
    /// What its storage reported as failed, where it did.
    fault: Arc<Mutex<Option<String>>>,
    /// Set when the process was ended from outside.
    is_over: Arc<AtomicBool>,
    /// Whether its disk held a vote when it started: the engine then reports a term before long.
    had_voted: bool,
}

impl Running {
    /// The first storage fault that nobody injected by ending the process.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A machine.
pub struct Machine {
    /// Its node id.
    pub id: u64,
    /// The part its node plays.
    pub role: NodeRole,
    /// Its disk.
    pub disk: SimDisk,
    /// The fail points and seeded bugs of its store.
    pub points: FailPoints,
    /// How far its wall clock is off, in milliseconds.
    pub skew_ms: i64,
    /// Its process, while there is one.
    pub running: Option<Running>,
    life: u64,
    tweaks: Tweaks,
    /// Whom this node knows before its log says more, as its join answer told.
    founder: Option<KnownMember>,
}

impl Machine {
    /// A machine that is off.
    pub fn new(id: u64, role: NodeRole, disk_seed: u64, voters: u64, bug: Option<Bug>) -> Self {
        let points = FailPoints::new();
        let mut tweaks =
            Tweaks { fsync_delay: Some(Duration::from_millis(1)), ..Tweaks::default() };
        match bug {
            Some(Bug::Storage(bug)) => points.seed_bug(bug),
            Some(Bug::StaleLeaderRead) => tweaks.stale_reads = true,
            Some(Bug::AnswerBeforeLevel) => tweaks.always_level = true,
            // Each takes the next voter's assent for granted.
            Some(Bug::QuorumOffByOne) => tweaks.phantom = Some(id % voters + 1),
            None => {}
        }
        let disk = SimDisk::new(disk_seed);
        Self { id, role, disk, points, skew_ms: 0, running: None, life: 0, tweaks, founder: None }
    }

    /// What the log knows of this node.
    pub fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("n{}", self.id),
            role: self.role,
            node_key: [u8::try_from(self.id).unwrap_or(0); 32],
            peer_address: format!("n{}:7443", self.id),
            api_url: format!("https://n{}:8443", self.id),
        }
    }

    /// Tells this node who founded the cluster that it is to join.
    pub fn introduce(&mut self, founder: &Self) {
        self.founder = Some(KnownMember { id: founder.id, info: founder.info(), voter: true });
    }

    /// Starts the process on what the disk holds.
    ///
    /// # Errors
    /// Why it refuses, in words.
    pub async fn start(&mut self, network: &Network) -> Result<(), String> {
        self.life += 1;
        let words = |error: &dyn std::fmt::Display| format!("node {} refuses: {error}", self.id);
        let disk = Arc::new(self.disk.clone());
        let datadir = Datadir::on_disk(disk, Path::new(ROOT), self.points.clone())
            .map_err(|error| words(&error))?;
        let (log, _) = LogStore::open(&datadir).map_err(|error| words(&error))?;
        let state = StateStore::open(&datadir).map_err(|error| words(&error))?;
        let had_voted = log.vote().is_some();
        let fault = Arc::new(Mutex::new(None));
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, over) = (Arc::clone(&fault), Arc::clone(&is_over));
        let (line, id) = (network.clone(), self.id);
        let parts = Parts {
            config: config(self.id, self.founder.clone()),
            log,
            state: state.clone(),
            transport: network.transport(self.id, self.life),
            on_fault: Arc::new(move |text: &str| {
                if !over.load(Ordering::SeqCst) {
                    // A process whose storage has failed ends at once.
                    line.detach(id);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.get_or_insert_with(|| text.to_owned());
                }
            }),
        };
        let handle =
            raft_sim::start(parts, self.tweaks.clone()).await.map_err(|error| words(&error))?;
        self.running = Some(Running { handle, state, fault, is_over, had_voted });
        Ok(())
    }

    /// Takes back the failures that are armed and have not struck.
    pub fn disarm(&self) {
        self.disk.fail_sync(u32::MAX);
        self.disk.fail_write(u32::MAX);
        for point in POINTS {
            self.points.arm_action(point, u32::MAX, Action::Error);
        }
    }

    /// Ends the process at once. With a seed the machine loses its power, too: what was not synced
    /// may be gone.
    pub fn crash(&mut self, network: &Network, power: Option<u64>) {
        network.detach(self.id);
        if let Some(running) = &self.running {
            running.is_over.store(true, Ordering::SeqCst);
        }
        match power {
            Some(seed) => self.disk.crash(seed),
            None => self.disk.kill(),
        }
        if let Some(running) = self.running.take() {
            // What is left of it in memory can reach neither disk nor network any more.
            tokio::spawn(async move { running.handle.shutdown().await });
        }
    }

    /// What the process says of its term, beside what it has promised on the network.
    pub fn sample(&self, network: &Network) -> Option<Sample> {
        let running = self.running.as_ref()?;
        let status = running.handle.status();
        if running.had_voted && status.term == 0 {
            // The engine has not yet said anything in this life.
            return None;
        }
        Some(Sample {
            node: self.id,
            life: self.life,
            term: status.term,
            promised: network.promised(self.id),
            leads: status.leader == Some(self.id),
            applied: status.applied.unwrap_or(0),
        })
    }
}

/// Snapshots every few dozen entries, so that they really happen.
fn config(node: u64, founder: Option<KnownMember>) -> Config {
    Config {
        known_members: founder.into_iter().collect(),
        snapshot_every: 60,
        entries_kept: 20,
        lag_for_snapshot: 90,
        propose_timeout: Duration::from_secs(3),
        read_timeout: Duration::from_secs(1),
        ..Config::new(node)
    }
}
