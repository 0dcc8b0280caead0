//! The faults that a trial can inject, how each is undone, and how it is proved that it took effect.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::client::{Door, Login};
use crate::history::{Call, Operation, Promise};
use crate::process::cluster::{Cluster, Footing};
use crate::process::node::API_PORT;
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::{Load, RunClock, Target, operate};

/// Reads that wait in the sockets of a paused leader when it wakes.
const QUEUED_PROBES: usize = 16;
/// How long the probes of an old leader go on once it is back.
const PROBE_TIME: Duration = Duration::from_millis(700);
/// How long one of them waits for its answer.
const PROBE_DEADLINE: Duration = Duration::from_millis(300);

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the leader; it is started again (N1).
    LeaderKill,
    /// SIGSTOP to the leader, SIGCONT later (N2).
    LeaderPause,
    /// The leader is cut off from all peers, clients still reach it (N3).
    LeaderIsolate,
    /// SIGKILL to all nodes at once; all are started again (N1).
    RestartAll,
    /// The power of the leader, or of all nodes, is cut: what was not synced is gone (N11).
    PowerCut,
}

impl Fault {
    /// What the nodes have to stand on.
    pub fn footing(self) -> Footing {
        match self {
            Self::LeaderKill | Self::LeaderPause | Self::RestartAll => Footing::Loopback,
            Self::LeaderIsolate => Footing::Namespaces,
            Self::PowerCut => Footing::OwnDisks,
        }
    }
}

/// A fault that is on.
pub struct Injected {
    fault: Fault,
    /// Position of the node that led.
    leader: usize,
    /// Positions of the nodes that were hurt.
    pub hurt: Vec<usize>,
    /// When its injection began: recovery is counted from here.
    pub began: u64,
    /// When it was fully on: only what was sent after this can prove a recovery.
    pub at: u64,
    term: u64,
    pids: Vec<Option<u32>>,
    /// For a pause: a door of its own with open connections, made before the pause.
    queued: Option<Arc<Door>>,
}

/// What came of a fault.
#[derive(Debug, Default)]
pub struct Effect {
    /// Why it cannot be held to have had its effect; empty when it had.
    pub doubts: Vec<String>,
    /// How many reads were sent straight to the old leader.
    pub probes: u64,
}

/// What a fault needs to know of the trial it is part of.
pub struct Scene<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// The load that is on.
    pub load: &'a Load,
    /// The run's clock.
    pub clock: RunClock,
    /// Chance of this trial.
    pub rng: Rng,
}

impl Scene<'_> {
    /// Injects a fault.
    ///
    /// # Errors
    /// When the harness cannot.
    pub async fn inject(&mut self, fault: Fault) -> Result<Injected, HarnessError> {
        let leader = self.cluster.wait_leader(None).await?;
        let status = self.cluster.statuses().await.into_iter().nth(leader).flatten();
        let term = status.map_or(0, |status| status.term);
        let pids = self.cluster.nodes.iter().map(crate::process::node::Node::pid).collect();
        let everybody = || (0..self.cluster.nodes.len()).collect::<Vec<_>>();
        let hurt = match fault {
            Fault::RestartAll => everybody(),
            Fault::PowerCut if self.rng.chance(400) => everybody(),
            Fault::LeaderKill | Fault::LeaderPause | Fault::LeaderIsolate | Fault::PowerCut => {
                vec![leader]
            }
        };
        let queued = match fault {
            Fault::LeaderPause => Some(Arc::new(self.warm_door(leader).await?)),
            Fault::LeaderKill | Fault::LeaderIsolate | Fault::RestartAll | Fault::PowerCut => None,
        };
        if fault == Fault::LeaderIsolate && !self.reaches_a_peer(leader)? {
            return Err(HarnessError::new("the leader reaches nobody before it is cut off"));
        }

        let began = self.clock.now();
        match fault {
            Fault::LeaderKill => self.cluster.nodes[leader].kill().await?,
            Fault::LeaderPause => self.cluster.nodes[leader].signal(Signal::STOP)?,
            Fault::LeaderIsolate => self.cluster.network()?.isolate(number(leader))?,
            Fault::RestartAll => {
                for node in &self.cluster.nodes {
                    node.signal(Signal::KILL)?;
                }
                for node in &mut self.cluster.nodes {
                    node.reap().await?;
                }
            }
            Fault::PowerCut => {
                for position in &hurt {
                    self.cluster.cut_power(*position).await?;
                }
                for position in &hurt {
                    self.cluster.nodes[*position].reap().await?;
                }
            }
        }
        let at = self.clock.now();
        Ok(Injected { fault, leader, hurt, began, at, term, pids, queued })
    }

    /// Undoes a fault, probes the old leader for stale reads, and finds out whether the fault had
    /// its effect. `recovered` runs in between: it waits for the first write that is acknowledged
    /// without the hurt nodes, where the fault leaves a majority.
    ///
    /// # Errors
    /// When the harness cannot.
    pub async fn heal(
        &mut self,
        injected: Injected,
        patience: Duration,
    ) -> Result<Effect, HarnessError> {
        let mut effect = Effect::default();
        let Injected { fault, leader, .. } = injected;
        let majority_left = injected.hurt.len() == 1;
        // A quarter of the killed leaders comes back before the others have noticed.
        let at_once = fault == Fault::LeaderKill && self.rng.chance(250);
        if majority_left && !at_once && !self.load.acknowledges_after(injected.at, patience).await {
            effect.doubts.push(format!("no write was acknowledged within {patience:?}"));
        }
        let linger = Duration::from_millis(self.rng.between(0, 500));
        match fault {
            Fault::LeaderKill | Fault::RestartAll => {
                sleep(linger).await;
                for position in &injected.hurt {
                    self.cluster.nodes[*position].start()?;
                }
                self.probe(leader, &mut effect).await?;
            }
            Fault::PowerCut => {
                for position in &injected.hurt {
                    let canary = self.cluster.disks[*position].restore_power()?;
                    if !canary.synced_is_there || !canary.unsynced_is_gone {
                        effect.doubts.push(format!("the power cut did not cut: {canary:?}"));
                    }
                    self.cluster.nodes[*position].start()?;
                }
                self.probe(leader, &mut effect).await?;
            }
            Fault::LeaderPause => {
                sleep(linger).await;
                let probes = self.queue_probes(&injected);
                // The requests are in the sockets once the tasks have run; nothing tells when.
                sleep(Duration::from_millis(50)).await;
                self.cluster.nodes[leader].signal(Signal::CONT)?;
                self.probe(leader, &mut effect).await?;
                for probe in probes {
                    let operation = probe.await.map_err(|error| HarnessError(error.to_string()))?;
                    effect.probes += 1;
                    self.load.record([operation]);
                }
            }
            Fault::LeaderIsolate => {
                if self.reaches_a_peer(leader)? {
                    effect.doubts.push("the cut leader still reaches a peer".to_owned());
                }
                self.probe(leader, &mut effect).await?;
                self.cluster.network()?.heal(number(leader))?;
                self.probe(leader, &mut effect).await?;
                if !self.reaches_a_peer(leader)? {
                    return Err(HarnessError::new("the network did not heal"));
                }
            }
        }
        self.prove(&injected, &mut effect).await?;
        Ok(effect)
    }

    /// Whether processes were replaced or leadership moved, as the fault should have made it.
    async fn prove(&self, injected: &Injected, effect: &mut Effect) -> Result<(), HarnessError> {
        match injected.fault {
            Fault::LeaderKill | Fault::RestartAll | Fault::PowerCut => {
                for position in &injected.hurt {
                    if self.cluster.nodes[*position].pid() == injected.pids[*position] {
                        effect.doubts.push("a killed node has its old process id".to_owned());
                    }
                }
            }
            Fault::LeaderPause | Fault::LeaderIsolate => {}
        }
        let statuses = self
            .cluster
            .wait_for("a leader after the fault", |statuses| {
                statuses
                    .iter()
                    .flatten()
                    .any(|status| status.part == "leader" && status.term > injected.term)
            })
            .await;
        if statuses.is_err() {
            effect.doubts.push("no new term followed the fault".to_owned());
        }
        Ok(())
    }

    /// Reads the newest secrets straight from the old leader, again and again.
    async fn probe(&self, leader: usize, effect: &mut Effect) -> Result<(), HarnessError> {
        let door = self.cluster.door(leader)?;
        let target =
            Target { door: Arc::new(door.renamed(door.node)), promise: Promise::Linearizable };
        let login = &self.cluster.login;
        let start = Instant::now();
        while start.elapsed() < PROBE_TIME {
            let reads = self.load.recent().into_iter().rev().take(3).map(|secret| {
                operate(&target, login, secret, Call::ReadLatest, self.clock, PROBE_DEADLINE)
            });
            let operations = join_all(reads).await;
            effect.probes += operations.len() as u64;
            self.load.record(operations);
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// A door to a node with many connections open.
    async fn warm_door(&self, position: usize) -> Result<Door, HarnessError> {
        let door = self.cluster.door(position)?;
        let door = door.renamed(door.node);
        let secret =
            self.load.recent().pop().ok_or_else(|| HarnessError::new("nothing was written"))?;
        let login: &Login = &self.cluster.login;
        let reads = (0..QUEUED_PROBES).map(|_| door.ask(login.read(&secret, None)));
        for answer in join_all(reads).await {
            answer.map_err(|error| HarnessError(format!("warming up a door: {error}")))?;
        }
        Ok(door)
    }

    /// Sends reads to a paused node; it finds them in its sockets when it wakes.
    fn queue_probes(&self, injected: &Injected) -> Vec<tokio::task::JoinHandle<Operation>> {
        let Some(door) = &injected.queued else { return Vec::new() };
        let recent = self.load.recent();
        let newest = recent.into_iter().rev().cycle().take(QUEUED_PROBES);
        newest
            .map(|secret| {
                let target = Target { door: Arc::clone(door), promise: Promise::Linearizable };
                let (login, clock) = (Arc::clone(&self.cluster.login), self.clock);
                let deadline = Duration::from_secs(5);
                tokio::spawn(async move {
                    operate(&target, &login, secret, Call::ReadLatest, clock, deadline).await
                })
            })
            .collect()
    }

    fn reaches_a_peer(&self, position: usize) -> Result<bool, HarnessError> {
        Ok(self.cluster.network()?.reaches_a_peer(number(position), API_PORT))
    }
}

/// Networks count nodes from 1.
fn number(position: usize) -> u8 {
    u8::try_from(position + 1).unwrap_or(u8::MAX)
}
