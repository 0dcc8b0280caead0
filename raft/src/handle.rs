//! What the other rooms hold of consensus: propose, read barriers, members, leadership, status.
//!
//! Proposals are made in [`crate::propose`]. Reads that must be linearizable ask for a barrier: on
//! the leader the engine confirms the leadership once for all that wait; elsewhere the leader is
//! asked once for all that wait, and the answer is waited for until it is applied here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use conclave_storage::{LogStore, StateStore};
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{ChangeMembers, ReadPolicy, ServerState};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::adapter::{
    Applied, FaultHook, Flusher, FsyncDelay, Log, Network, StateMachine, convert,
};
use crate::config::{Config, ConfigError, KnownMember};
use crate::error::{CallError, ChangeError, Fault, ProposeError, ReadError};
use crate::level::{self, Level};
use crate::members::{MemberList, Members};
use crate::propose::{Groups, HOPS_MAX};
use crate::quorum::Quorum;
use crate::read::Barriers;
use crate::server::Server;
use crate::service::{Service, ServiceError};
use crate::standing;
use crate::status::{MemberStatus, NodeState, Status};
use crate::transport::{Peer, PeerIdentity, Refused, Transport, Urgency};
use crate::types::{Engine, EngineLogId, NodeInfo, NodeRole, TypeConfig, place};
use crate::wire::latest::{Request, Response};

/// How long a proposal may still be answered here after this node stopped to lead.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How long a hand-over waits for the heir to have what this node's log has at first.
const HEIR_CATCHES_UP: Duration = Duration::from_secs(2);
/// How often other members may be asked for their list.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// What a member is built from.
pub struct Parts {
    /// Timings, bounds, and the members known so far.
    pub config: Config,
    /// The open log.
    pub log: LogStore,
    /// The open state.
    pub state: StateStore,
    /// The way to the peers. Not yet serving.
    pub transport: Arc<dyn Transport>,
    /// Told once when this node's storage has failed; the process must then end.
    pub on_fault: FaultHook,
}

/// What only a simulation changes.
#[derive(Default, Clone)]
pub(crate) struct Tweaks {
    /// The log is synced by a task that first sleeps this long, instead of by a thread.
    pub(crate) fsync: Option<FsyncDelay>,
    /// Seeded bug: the assent of this peer is taken for granted.
    pub(crate) phantom: Option<u64>,
    /// Seeded bug: a leader answers reads without asking whether it still leads.
    pub(crate) stale_reads: bool,
    /// Seeded bug: a node takes itself for level from its start.
    pub(crate) always_level: bool,
}

/// Why a member could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is on disk cannot be used.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The engine refuses what it found on disk, or a thread could not be started.
    #[error("{0}")]
    Engine(String),
}

/// A committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log; the first entry of a cluster is 1.
    pub index: u64,
    /// The encoded reply, the same on every member.
    pub reply: Vec<u8>,
}

/// Who leads, and since which election, as far as a member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// The term.
    pub term: u64,
    /// Its leader; none while nobody is known to have won.
    pub leader: Option<u64>,
}

/// A running member. Clones share it; it runs until [`Handle::shutdown`].
#[derive(Clone)]
pub struct Handle(Arc<Node>);

/// The shared inside of a [`Handle`].
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) members: Arc<Members>,
    pub(crate) log: Arc<LogStore>,
    pub(crate) state: StateStore,
    pub(crate) applied: Arc<Applied>,
    pub(crate) level: Level,
    pub(crate) service: ArcSwapOption<Registered>,
    /// Held while a snapshot is received.
    pub(crate) importing: tokio::sync::Mutex<()>,
    raft: OnceLock<Engine>,
    transport: Arc<dyn Transport>,
    flusher: Flusher,
    quorum: Arc<Quorum>,
    pub(crate) budget: Arc<Semaphore>,
    pub(crate) groups: Arc<Groups>,
    barriers: Arc<Barriers>,
    failure: OnceLock<String>,
    on_fault: FaultHook,
    is_closed: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    tweaks: Tweaks,
}

/// A registered service; sized, so that it can be swapped.
pub(crate) struct Registered(Arc<dyn Service>);

impl Registered {
    pub(crate) fn call(
        &self,
        from: PeerIdentity,
        kind: u8,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        self.0.call(from, kind, body)
    }

    pub(crate) fn refused(&self, refused: Refused) {
        self.0.refused(refused);
    }
}

impl Handle {
    /// Starts a member on its data folder. It answers peers when this returns.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        Self::start_with(parts, Tweaks::default()).await
    }

    pub(crate) async fn start_with(parts: Parts, tweaks: Tweaks) -> Result<Self, StartError> {
        let Parts { config, log, state, transport, on_fault } = parts;
        let engine_config = Arc::new(config.engine()?);
        let log = Arc::new(log);
        bridge_hole(&log, &state)?;

        let applied = Arc::new(Applied::new(0));
        let quorum = Arc::new(Quorum::default());
        let flusher = match &tweaks.fsync {
            Some(delay) => {
                Flusher::task(Arc::clone(&log), Arc::clone(&on_fault), Arc::clone(delay))
            }
            None => Flusher::thread(Arc::clone(&log), Arc::clone(&on_fault))
                .map_err(|error| StartError::Engine(error.to_string()))?,
        };
        let engine_log = Log::new(Arc::clone(&log), flusher.clone(), Arc::clone(&on_fault));
        let machine = StateMachine::new(
            state.clone(),
            Arc::clone(&applied),
            flusher.clone(),
            Arc::clone(&on_fault),
        );
        let network = Network {
            node_id: config.node_id,
            transport: Arc::clone(&transport),
            quorum: Arc::clone(&quorum),
            snapshot_stall: config.snapshot_stall,
            acknowledged: note_acknowledged(Arc::clone(&log), Arc::clone(&on_fault)),
            #[cfg(feature = "simulation")]
            phantom: tweaks.phantom,
        };

        let mut engine_config = (*engine_config).clone();
        if tweaks.phantom.is_some() {
            engine_config.allow_log_reversion = Some(true);
        }
        let node_id = config.node_id;
        let raft = Engine::build(node_id, Arc::new(engine_config), network, engine_log, machine)
            .await
            .map_err(|error| StartError::Engine(error.to_string()))?;
        quorum.watch(raft.metrics());
        // Not earlier: the engine has only now brought the log up to an installed snapshot, which
        // was acknowledged, perhaps, just before a crash.
        let standing = standing::of(&log).map_err(|error| StartError::Engine(error.to_string()))?;

        let node = Arc::new(Node {
            members: Members::new(config.node_id, MemberList::from_known(&config.known_members)),
            budget: Arc::new(Semaphore::new(config.bytes_in_flight)),
            config,
            log,
            state,
            applied,
            level: Level::default(),
            service: ArcSwapOption::empty(),
            importing: tokio::sync::Mutex::new(()),
            raft: OnceLock::new(),
            transport: Arc::clone(&transport),
            flusher,
            quorum,
            groups: Arc::default(),
            barriers: Arc::default(),
            failure: OnceLock::new(),
            on_fault,
            is_closed: AtomicBool::new(false),
            tasks: Mutex::default(),
            tweaks,
        });
        if node.raft.set(raft.clone()).is_err() {
            return Err(StartError::Engine("started twice".to_owned()));
        }
        node.take_own_members(&raft);
        raft.run();
        node.spawn(watch_members(Arc::downgrade(&node), raft.clone()));
        node.spawn(watch_health(Arc::downgrade(&node), raft.clone()));
        node.spawn(watch_applied(Arc::downgrade(&node)));
        node.spawn(watch_pauses(Arc::downgrade(&node)));
        node.spawn(refresh_members(Arc::downgrade(&node)));
        node.spawn(Arc::clone(&node.barriers).run(Arc::downgrade(&node)));
        node.spawn(Arc::clone(&node.groups).run(Arc::downgrade(&node)));
        transport.serve(Server::new(&node), Arc::clone(&node.members), standing);
        Ok(Self(node))
    }

    /// Founds a cluster with this node as its first and only voter. Does nothing to a node that
    /// belongs to one already.
    ///
    /// # Errors
    /// [`ChangeError::Closed`], [`ChangeError::Refused`].
    pub async fn initialize(&self, me: NodeInfo) -> Result<(), ChangeError> {
        let raft = self.0.raft().ok_or(ChangeError::Closed)?;
        match raft.initialize(BTreeMap::from([(self.0.config.node_id, me)])).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(ChangeError::Refused(error.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(ChangeError::Closed),
        }
    }

    /// Whether this node's log holds anything at all.
    pub fn is_initialized(&self) -> bool {
        self.0.log.last().is_some()
    }

    /// Proposes a command and waits until it is applied by the leader.
    ///
    /// # Errors
    /// [`ProposeError`]; all but [`ProposeError::Unknown`] mean that it did not happen.
    pub async fn propose(&self, command: Vec<u8>) -> Result<Committed, ProposeError> {
        self.0.propose(command.into(), HOPS_MAX).await
    }

    /// Waits until everything that was committed anywhere before this call is applied here.
    /// Returns an index that is now applied.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        let node = &self.0;
        node.raft().ok_or(ReadError::Closed)?;
        let index = node.barriers.wait().await?;
        self.wait_applied(index, node.config.read_timeout).await
    }

    /// Waits until this node has applied `index`. Returns what is applied by then.
    ///
    /// # Errors
    /// [`ReadError::Behind`] when that is not so within the time.
    pub async fn wait_applied(&self, index: u64, within: Duration) -> Result<u64, ReadError> {
        let mut applied = self.0.applied.subscribe();
        let reached = *applied.borrow_and_update();
        if reached >= index {
            return Ok(reached);
        }
        let reached = applied.wait_for(|applied| *applied >= index);
        match tokio::time::timeout(within, reached).await {
            Ok(Ok(reached)) => Ok(*reached),
            Ok(Err(_)) => Err(ReadError::Closed),
            Err(_) => Err(ReadError::Behind { applied: *self.0.applied.borrow(), wanted: index }),
        }
    }

    /// Index of the last entry applied here; 0 in a new node.
    pub fn applied_index(&self) -> u64 {
        *self.0.applied.borrow()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<u64> {
        self.0.leader()
    }

    /// Whether this node leads, as far as it knows. Another may have been elected meanwhile.
    pub fn leads(&self) -> bool {
        self.0.leads()
    }

    /// Waits until `condition` holds of who leads, and returns that.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] when that is not so within the time; [`ReadError::Closed`].
    pub async fn wait_leader(
        &self,
        within: Duration,
        condition: impl Fn(Option<u64>) -> bool,
    ) -> Result<Option<u64>, ReadError> {
        let raft = self.0.raft().ok_or(ReadError::Closed)?;
        let mut metrics = raft.server_metrics();
        let wait = async {
            loop {
                let leader = metrics.borrow_and_update().current_leader;
                if condition(leader) {
                    return Ok(leader);
                }
                metrics.changed().await.map_err(|_| ReadError::Closed)?;
            }
        };
        match tokio::time::timeout(within, wait).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::NoLeader { leader: self.0.leader() }),
        }
    }

    /// Who leads now, as far as this node knows.
    pub fn reign(&self) -> Reign {
        self.0.reign()
    }

    /// Waits until this node knows a leader, and of another reign than that one. Whoever was given
    /// [`ProposeError::NoLeader`] or [`ReadError::NoLeader`] need not try again before, but for a leader that
    /// is not heard from and not replaced: look again after a while in any case.
    pub async fn next_reign(&self, than: Reign) {
        let Some(raft) = self.0.raft() else { return };
        let mut metrics = raft.server_metrics();
        loop {
            let reign = Reign::of(&metrics.borrow_and_update());
            if (reign.leader.is_some() && reign != than) || metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Time since this node's state was known to be level; none until it was so in this life.
    pub fn age(&self) -> Option<Duration> {
        self.0.age()
    }

    /// This node's account of itself.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// The version of the peer protocol that is spoken with each member that there is a connection with.
    pub fn protocols(&self) -> BTreeMap<u64, u8> {
        self.0.transport.versions()
    }

    /// Who belongs to the cluster, as far as this node knows.
    pub fn members(&self) -> Arc<MemberList> {
        self.0.members.list()
    }

    /// Tells whenever the list of members has changed.
    pub fn watch_members(&self) -> watch::Receiver<u64> {
        self.0.members.changes()
    }

    /// Adds a member without a vote, and returns once the log says so. It catches up by itself.
    ///
    /// # Errors
    /// [`ChangeError`]; only the leader can do it.
    pub async fn add_follower(&self, id: u64, info: NodeInfo) -> Result<u64, ChangeError> {
        if self.0.members.get(id).is_some() {
            return Err(ChangeError::AlreadyAMember(id));
        }
        self.0.change(ChangeMembers::AddNodes(BTreeMap::from([(id, info)]))).await
    }

    /// Changes what the log knows of a member: its address, or the part it is meant to play.
    ///
    /// # Errors
    /// [`ChangeError`]; only the leader can do it.
    pub async fn update(&self, id: u64, info: NodeInfo) -> Result<u64, ChangeError> {
        let old = self.0.members.get(id).ok_or(ChangeError::NotAMember(id))?;
        if old.info.node_key != info.node_key {
            let text = format!("the key of node {id} cannot change: join it anew");
            return Err(ChangeError::Refused(text));
        }
        self.0.change(ChangeMembers::SetNodes(BTreeMap::from([(id, info)]))).await
    }

    /// Waits until a member has caught up with the log as it is now, and gives it a vote.
    ///
    /// # Errors
    /// [`ChangeError::NotCaughtUp`] when it has not within the time; else as
    /// [`Handle::add_follower`].
    pub async fn promote(&self, id: u64, within: Duration) -> Result<u64, ChangeError> {
        let member = self.0.members.get(id).ok_or(ChangeError::NotAMember(id))?;
        if member.voter {
            return Err(ChangeError::AlreadyAMember(id));
        }
        self.wait_caught_up(id, within).await?;
        let add = ChangeMembers::AddVoterIds([id].into());
        if member.info.role == NodeRole::Voter {
            return self.0.change(add).await;
        }
        let info = NodeInfo { role: NodeRole::Voter, ..member.info };
        let set = ChangeMembers::SetNodes(BTreeMap::from([(id, info)]));
        self.0.change(ChangeMembers::Batch(vec![set, add])).await
    }

    /// Waits until a member has everything that the leader's log has at the moment of the call.
    ///
    /// # Errors
    /// [`ChangeError::NotCaughtUp`], [`ChangeError::NotLeader`], [`ChangeError::Closed`].
    pub async fn wait_caught_up(&self, id: u64, within: Duration) -> Result<(), ChangeError> {
        let raft = self.0.raft().ok_or(ChangeError::Closed)?;
        let mut metrics = raft.metrics();
        let last = metrics.borrow_watched().last_log_index.map_or(0, place);
        let deadline = Instant::now() + within;
        loop {
            let matched = {
                let metrics = metrics.borrow_and_update();
                if metrics.state != ServerState::Leader {
                    return Err(ChangeError::NotLeader { leader: metrics.current_leader });
                }
                metrics
                    .replication
                    .as_ref()
                    .and_then(|progress| progress.get(&id))
                    .and_then(|matched| matched.map(|log_id| place(log_id.index)))
            };
            if matched.is_some_and(|matched| matched >= last) {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ChangeError::Closed),
                Err(_) => {
                    return Err(ChangeError::NotCaughtUp { id, matched, last, waited: within });
                }
            }
        }
    }

    /// Takes a member out of the cluster, with its vote if it has one. From then on no member that
    /// knows of it talks to that node, and its id is never used again. A leader that removes itself
    /// hands over first.
    ///
    /// # Errors
    /// [`ChangeError`]; only the leader can do it.
    pub async fn remove(&self, id: u64) -> Result<u64, ChangeError> {
        let list = self.0.members.list();
        let member = list.members.get(&id).ok_or(ChangeError::NotAMember(id))?;
        if !member.voter {
            return self.0.change(ChangeMembers::RemoveNodes([id].into())).await;
        }
        if list.members.values().filter(|member| member.voter).count() < 2 {
            return Err(ChangeError::LastVoter(id));
        }
        self.0.change(ChangeMembers::RemoveVoters([id].into())).await
    }

    /// Takes a member's vote and leaves it in the cluster as a follower.
    ///
    /// # Errors
    /// [`ChangeError`]; only the leader can do it.
    pub async fn demote(&self, id: u64) -> Result<u64, ChangeError> {
        let list = self.0.members.list();
        let member = list.members.get(&id).ok_or(ChangeError::NotAMember(id))?;
        if list.members.values().filter(|member| member.voter).count() < 2 {
            return Err(ChangeError::LastVoter(id));
        }
        let raft = self.0.raft().ok_or(ChangeError::Closed)?;
        let voters: std::collections::BTreeSet<u64> = list
            .members
            .values()
            .filter(|other| other.voter && other.id != id)
            .map(|m| m.id)
            .collect();
        let changed = raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await;
        self.0.changed(changed)?;
        let info = NodeInfo { role: NodeRole::Follower, ..member.info.clone() };
        self.0.change(ChangeMembers::SetNodes(BTreeMap::from([(id, info)]))).await
    }

    /// Hands leadership over: to the member given, or to the standby that has most of the log and is
    /// there. Returns who leads then. Proposals meanwhile are given back as "no leader" and lose nothing.
    ///
    /// From the order on, this node takes no proposals, and the heir waits for the end of this node's log.
    /// So the order is only given once the heir is almost level.
    ///
    /// # Errors
    /// [`ChangeError::NotLeader`], [`ChangeError::NotAMember`]; [`ChangeError::NotCaughtUp`] when the heir is
    /// not there or too far behind: then nothing has changed; [`ChangeError::Unknown`] when no hand-over was
    /// seen in time.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, ChangeError> {
        let node = &self.0;
        let raft = node.raft().ok_or(ChangeError::Closed)?;
        let me = node.config.node_id;
        if !node.leads() {
            return Err(ChangeError::NotLeader { leader: node.leader() });
        }
        let status = node.status();
        let candidates = || status.members.iter().filter(|member| member.voter && member.id != me);
        let target = match to {
            Some(id) if id == me => return Ok(me),
            Some(id) => candidates().find(|member| member.id == id),
            None => candidates().max_by_key(|member| {
                let is_there =
                    member.silent_for.is_some_and(|time| time < node.config.election_min);
                (is_there, member.matched)
            }),
        };
        let Some(target) = target.map(|member| member.id) else {
            return Err(to.map_or_else(
                || ChangeError::Refused("there is no other voter".to_owned()),
                ChangeError::NotAMember,
            ));
        };
        self.wait_caught_up(target, HEIR_CATCHES_UP).await?;
        raft.trigger().transfer_leader(target).await.map_err(|_| ChangeError::Closed)?;
        let wait = node.config.election_max * 5;
        match self.wait_leader(wait, |leader| leader.is_some_and(|id| id != me)).await {
            Ok(Some(leader)) => Ok(leader),
            Ok(None) | Err(_) => Err(ChangeError::Unknown),
        }
    }

    /// Has a snapshot made now, and waits until it is on this node's disk.
    ///
    /// # Errors
    /// [`ChangeError::Closed`]; [`ChangeError::Unknown`] when it was not done in time.
    pub async fn snapshot(&self, within: Duration) -> Result<u64, ChangeError> {
        /// A request while another snapshot is being made is ignored, so it is repeated.
        const AGAIN: Duration = Duration::from_millis(200);
        let raft = self.0.raft().ok_or(ChangeError::Closed)?;
        let wanted = self.applied_index();
        let mut metrics = raft.metrics();
        let wait = async {
            loop {
                let made = metrics.borrow_and_update().snapshot.map(|log_id| place(log_id.index));
                if let Some(made) = made.filter(|made| *made >= wanted) {
                    return Ok(made);
                }
                raft.trigger().snapshot().await.map_err(|_| ChangeError::Closed)?;
                let again = Instant::now() + AGAIN;
                while let Ok(changed) = tokio::time::timeout_at(again, metrics.changed()).await {
                    changed.map_err(|_| ChangeError::Closed)?;
                    let made = metrics.borrow_watched().snapshot;
                    if made.is_some_and(|log_id| place(log_id.index) >= wanted) {
                        break;
                    }
                }
            }
        };
        tokio::time::timeout(within, wait).await.unwrap_or(Err(ChangeError::Unknown))
    }

    /// Has this node call an election now. For tests and for operators who know why.
    ///
    /// # Errors
    /// [`ChangeError::Closed`].
    pub async fn elect(&self) -> Result<(), ChangeError> {
        let raft = self.0.raft().ok_or(ChangeError::Closed)?;
        raft.trigger().elect(true).await.map_err(|_| ChangeError::Closed)
    }

    /// Registers who answers node-level calls here; replaces an earlier one.
    pub fn set_service(&self, service: Arc<dyn Service>) {
        self.0.service.store(Some(Arc::new(Registered(service))));
    }

    /// Makes a node-level call to a member.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(
        &self,
        id: u64,
        kind: u8,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let request = Request::Service { kind, body: body.into() };
        let peer = self.0.peer(id)?;
        let answer = self.0.ask(&peer, Urgency::Low, &request, within).await?;
        answer
            .into_service()
            .map_err(|reason| CallError::Refused { peer: peer.to_string(), reason })
    }

    /// How long the oldest append of the last sync had waited for it: a measure of the log's disk.
    pub fn fsync_wait(&self) -> Duration {
        self.0.flusher.oldest_wait()
    }

    /// Why this node has failed, where it has.
    pub fn failure(&self) -> Option<String> {
        self.0.failure()
    }

    /// Stops this member. Proposals under way are given back as unknown; what is committed stays.
    pub async fn shutdown(&self) {
        let node = &self.0;
        if node.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        node.transport.close().await;
        if let Some(raft) = node.raft.get()
            && let Err(error) = raft.shutdown().await
        {
            tracing::warn!(%error, "the engine did not end in order");
        }
        for task in node.tasks().drain(..) {
            task.abort();
        }
        // Nobody asks for them any more.
        drop(node.barriers.take());
        drop(node.groups.take());
        if node.failure.get().is_none() {
            let log = Arc::clone(&node.log);
            match crate::runtime::blocking(move || log.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => tracing::error!(%fault, "the log was not closed in order"),
                Err(error) => tracing::error!(%error, "the log was not closed in order"),
            }
        }
    }
}

impl Reign {
    fn of(metrics: &openraft::metrics::RaftServerMetrics<TypeConfig>) -> Self {
        Self { term: convert::term(&metrics.vote), leader: metrics.current_leader }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle(node {})", self.0.config.node_id)
    }
}

/// Ends some time after this node has stopped to lead: what it has in flight is then another's.
pub(crate) async fn deposed(raft: &Engine) {
    let mut metrics = raft.server_metrics();
    let mut led = false;
    loop {
        let leads = metrics.borrow_and_update().state == ServerState::Leader;
        if led && !leads {
            break;
        }
        led |= leads;
        if metrics.changed().await.is_err() {
            break;
        }
    }
    tokio::time::sleep(AFTERMATH).await;
}

impl Node {
    /// The engine; none once the node is closed.
    pub(crate) fn raft(&self) -> Option<&Engine> {
        if self.is_closed.load(Ordering::Acquire) { None } else { self.raft.get() }
    }

    /// Ends this node: what it holds cannot be trusted.
    pub(crate) fn fail(&self, failure: &str) {
        tracing::error!(%failure, "this node must stop");
        if self.failure.set(failure.to_owned()).is_ok() {
            (self.on_fault)(failure);
        }
    }

    /// Why this node has failed, where it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft()?.server_metrics().borrow_watched().current_leader
    }

    fn reign(&self) -> Reign {
        let none = Reign { term: 0, leader: None };
        self.raft().map_or(none, |raft| Reign::of(&raft.server_metrics().borrow_watched()))
    }

    /// Waits, not for long, until a majority has followed this node as leader of late, or it leads no more. The
    /// engine refuses proposals before, as it must: a new leader's first round may still be under way.
    pub(crate) async fn followed(&self) {
        let Some(raft) = self.raft() else { return };
        let mut metrics = raft.metrics();
        let lease = self.config.election_max;
        let followed = async {
            loop {
                {
                    let now = metrics.borrow_and_update();
                    let since = now.last_quorum_acked.map(|at| openraft::Instant::elapsed(&*at));
                    if now.state != ServerState::Leader || since.is_some_and(|time| time < lease) {
                        return;
                    }
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        // Late or not, the engine decides.
        drop(tokio::time::timeout(lease, followed).await);
    }

    pub(crate) fn leads(&self) -> bool {
        self.raft()
            .is_some_and(|raft| raft.server_metrics().borrow_watched().state == ServerState::Leader)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks().push(tokio::spawn(task).abort_handle());
    }

    /// Ends when this node learns that `id` does not lead any more.
    pub(crate) async fn leader_is_not(&self, id: u64) {
        let Some(raft) = self.raft() else { return };
        let mut metrics = raft.server_metrics();
        while metrics.borrow_and_update().current_leader == Some(id) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    // ---- reads ----

    /// Confirms with a majority that this node leads, and gives the index that a read must see.
    pub(crate) async fn leader_read_index(&self) -> Result<u64, ReadError> {
        let raft = self.raft().ok_or(ReadError::Closed)?;
        if self.tweaks.stale_reads {
            return Ok(*self.applied.borrow());
        }
        let no_leader = || ReadError::NoLeader { leader: self.leader() };
        let (Some(term), since) = (self.quorum.term_led(), Instant::now()) else {
            return Err(no_leader());
        };
        let confirmed = async {
            let index = match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
                Ok((read_log_id, _)) => place(read_log_id.index()),
                Err(RaftError::APIError(_)) => return Err(no_leader()),
                Err(RaftError::Fatal(_)) => return Err(ReadError::Closed),
            };
            // The engine has asked the others, and takes their word for more than it is worth.
            self.quorum.followed_since(term, since).await;
            Ok(index)
        };
        tokio::select! {
            biased;
            confirmed = tokio::time::timeout(self.config.read_timeout, confirmed) => {
                confirmed.unwrap_or_else(|_late| Err(no_leader()))
            }
            // Nobody will confirm that any more.
            () = self.leader_is_not(self.config.node_id) => Err(no_leader()),
        }
    }

    /// Asks whoever leads for the index that a read must see.
    pub(crate) async fn remote_read_index(&self) -> Result<u64, ReadError> {
        let leader = self.leader();
        let no_leader = ReadError::NoLeader { leader };
        let Some(id) = leader else { return Err(no_leader) };
        if id == self.config.node_id {
            return self.leader_read_index().await;
        }
        let Ok(peer) = self.peer(id) else { return Err(no_leader) };
        let ask = self.ask(&peer, Urgency::Normal, &Request::ReadIndex, self.config.read_timeout);
        let answer = tokio::select! {
            biased;
            answer = ask => answer,
            () = self.leader_is_not(id) => return Err(no_leader),
        };
        match answer {
            Ok(Response::ReadIndex { index }) => Ok(index),
            Ok(_) | Err(_) => Err(no_leader),
        }
    }

    // ---- members ----

    async fn change(&self, change: ChangeMembers<u64, NodeInfo>) -> Result<u64, ChangeError> {
        let raft = self.raft().ok_or(ChangeError::Closed)?;
        self.changed(raft.change_membership(change, false).await)
    }

    fn changed(
        &self,
        result: Result<
            openraft::raft::ClientWriteResponse<TypeConfig>,
            RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
        >,
    ) -> Result<u64, ChangeError> {
        use openraft::errors::ChangeMembershipError as Error;
        match result {
            Ok(response) => {
                if let Some(raft) = self.raft() {
                    self.take_own_members(raft);
                }
                Ok(place(response.log_id.index))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ChangeError::NotLeader { leader: forward.leader_id })
            }
            Err(
                RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) | RaftError::Fatal(_),
            ) => Err(ChangeError::Unknown),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(match error {
                    Error::InProgress(_) | Error::UncommittedLeaderLog(_) => {
                        ChangeError::InProgress
                    }
                    Error::LearnerNotFound(missing) => ChangeError::NotAMember(missing.node_id),
                    Error::EmptyMembership(_)
                    | Error::UnsupportedMembershipTransition(_)
                    | Error::NodeMetadataChanged(_) => ChangeError::Refused(error.to_string()),
                })
            }
            Err(RaftError::APIError(ClientWriteError::PreconditionFailed(error))) => {
                Err(ChangeError::Refused(error.to_string()))
            }
        }
    }

    fn take_own_members(&self, raft: &Engine) {
        let metrics = raft.server_metrics();
        let list = MemberList::from_engine(&metrics.borrow_watched().membership_config);
        if list.log_index.is_some() {
            self.members.set_own(list);
        }
    }

    /// The list that is certain to stay: what this node vouches for to others.
    pub(crate) fn committed_members(&self) -> MemberList {
        match self.raft() {
            Some(raft) => MemberList::from_engine(
                &raft.server_metrics().borrow_watched().committed_membership_config,
            ),
            None => MemberList::default(),
        }
    }

    pub(crate) fn peer(&self, id: u64) -> Result<Peer, CallError> {
        match self.members.get(id) {
            Some(member) => Ok(Peer { id, address: member.info.peer_address }),
            None => Err(CallError::Nobody(format!("node {id} is not a member"))),
        }
    }

    pub(crate) async fn ask(
        &self,
        peer: &Peer,
        urgency: Urgency,
        request: &Request,
        within: Duration,
    ) -> Result<Response, CallError> {
        let answer = self.transport.call(peer, urgency, request.encode(), within).await?;
        Response::decode(answer).map_err(|error| CallError::Malformed {
            peer: peer.to_string(),
            reason: error.to_string(),
        })
    }

    /// Asks the voters we know for their list, in case ours is behind.
    async fn refresh(&self) {
        let list = self.members.list();
        let me = self.config.node_id;
        for id in list.members.keys().copied().filter(|id| *id != me && list.may_vote(*id)) {
            let Ok(peer) = self.peer(id) else { continue };
            let answer = self.ask(&peer, Urgency::Low, &Request::Members, REFRESH_EVERY).await;
            if let Ok(Response::Members { log_index, rows }) = answer {
                let members = rows
                    .into_iter()
                    .map(|row| {
                        (row.id, KnownMember { id: row.id, info: row.info, voter: row.voter })
                    })
                    .collect();
                self.members.set_vouched(MemberList { log_index: Some(log_index), members });
            }
        }
    }

    // ---- status ----

    fn age(&self) -> Option<Duration> {
        if self.tweaks.always_level {
            return Some(Duration::ZERO);
        }
        if self.leads() { self.quorum.age() } else { self.level.age() }
    }

    fn status(&self) -> Status {
        let node_id = self.config.node_id;
        let list = self.members.list();
        let raft = self.raft.get();
        let metrics = raft.map(|raft| raft.metrics().borrow_watched().clone());
        let index = |id: &Option<EngineLogId>| id.map(|id| place(id.index));
        let engine_state = metrics.as_ref().map(|metrics| metrics.state);
        let leads = engine_state == Some(ServerState::Leader);
        let last_log = metrics.as_ref().and_then(|metrics| metrics.last_log_index.map(place));
        let members = list
            .members
            .values()
            .map(|member| {
                let progress = metrics
                    .as_ref()
                    .and_then(|metrics| metrics.replication.as_ref())
                    .and_then(|progress| progress.get(&member.id));
                let matched = if member.id == node_id {
                    last_log
                } else {
                    progress.and_then(|matched| matched.map(|id| place(id.index)))
                };
                let silent_for = metrics
                    .as_ref()
                    .and_then(|metrics| metrics.heartbeat.as_ref())
                    .and_then(|heartbeat| heartbeat.get(&member.id).copied().flatten())
                    .map(|heard| openraft::Instant::elapsed(&*heard));
                MemberStatus {
                    id: member.id,
                    role: member.info.role,
                    info: member.info.clone(),
                    voter: member.voter,
                    matched,
                    lag: if leads || member.id == node_id {
                        last_log.map(|last| last.saturating_sub(matched.unwrap_or(0)))
                    } else {
                        None
                    },
                    silent_for: silent_for.filter(|_| leads && member.id != node_id),
                }
            })
            .collect();
        let is_running = !self.is_closed.load(Ordering::Acquire) && self.failure.get().is_none();
        let state = match engine_state {
            _ if !is_running => NodeState::Stopped,
            None | Some(ServerState::Shutdown) => NodeState::Stopped,
            Some(ServerState::Leader) => NodeState::Leader,
            Some(ServerState::Candidate) => NodeState::Candidate,
            Some(ServerState::Follower) => NodeState::Standby,
            Some(ServerState::Learner) if list.members.contains_key(&node_id) => {
                NodeState::Follower
            }
            Some(ServerState::Learner) => NodeState::Joining,
        };
        Status {
            node_id,
            state,
            term: metrics.as_ref().map_or(0, |metrics| metrics.current_term),
            leader: metrics.as_ref().and_then(|metrics| metrics.current_leader),
            last_log,
            committed: metrics.as_ref().and_then(|metrics| index(&metrics.local_committed)),
            applied: Some(*self.applied.borrow()).filter(|applied| *applied > 0),
            snapshot: metrics.as_ref().and_then(|metrics| index(&metrics.snapshot)),
            purged: metrics.as_ref().and_then(|metrics| index(&metrics.purged)),
            members,
            since_quorum: self.quorum.age(),
            age: self.age(),
            failure: self.failure.get().cloned(),
        }
    }
}

/// The state may be ahead of the log after a power cut: entries are applied when a majority has
/// them, this node's own log not counted. The engine then gives up the log's rest, for which a
/// snapshot must cover what is applied. Ahead is meant by term first: a log may have lost that its
/// tail had been cut off, and then ends, in an older term, behind what is applied.
fn bridge_hole(log: &LogStore, state: &StateStore) -> Result<(), Fault> {
    let mark = state.applied();
    log.check_reaches(mark.as_ref().map(|mark| mark.index))?;
    let Some(mark) = mark else { return Ok(()) };
    let id = |bytes: &[u8]| {
        convert::decode_log_id(bytes)
            .map_err(|error| Fault::corrupt("a log id at rest", error.to_string()))
    };
    let held = log.last();
    let last = held.as_ref().map(|(_, bytes)| id(bytes)).transpose()?;
    if last >= Some(id(&mark.log_id)?) {
        return Ok(());
    }
    let applied = mark.index;
    let last = held.map_or(0, |(index, _)| index);
    tracing::warn!(applied, last, "the state is ahead of the log");
    if state.current_snapshot().is_none_or(|snapshot| snapshot.mark().index < applied) {
        drop(state.snapshot_build()?);
    }
    if last >= applied {
        log.purge_upto(applied, &mark.log_id)?;
    }
    Ok(())
}

/// Remembers what peers have acknowledged, to know an old disk when one comes back.
fn note_acknowledged(
    log: Arc<LogStore>,
    hook: FaultHook,
) -> Arc<dyn Fn(u64, u64, EngineLogId) + Send + Sync> {
    Arc::new(move |peer, vote_term, matched| {
        if let Err(fault) = log.note_peer(peer, standing::progress(vote_term, Some(matched))) {
            tracing::error!(%fault, peer, "what the peer acknowledged was not noted");
            hook(&fault.to_string());
        }
    })
}

async fn watch_members(node: Weak<Node>, raft: Engine) {
    let mut metrics = raft.server_metrics();
    let mut led_by = None;
    while metrics.changed().await.is_ok() {
        let Some(node) = node.upgrade() else { return };
        let (leader, term) = {
            let now = metrics.borrow_and_update();
            (now.current_leader, convert::term(&now.vote))
        };
        if let Some(leader) = leader
            && led_by != Some((leader, term))
        {
            led_by = Some((leader, term));
            let here = leader == node.config.node_id;
            tracing::info!(node = node.config.node_id, leader, term, here, "leader.elected");
        }
        let before = node.members.list();
        node.take_own_members(&raft);
        let after = node.members.list();
        for id in before.members.keys().filter(|id| !after.members.contains_key(id)) {
            if let Err(fault) = node.log.forget_peer(*id) {
                node.fail(&fault.to_string());
            }
        }
    }
}

/// Ends the node when the engine ends by itself.
async fn watch_health(node: Weak<Node>, raft: Engine) {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_and_update().running_state.clone();
        let Some(node) = node.upgrade() else { return };
        let failure = match state {
            Ok(()) => None,
            Err(Fatal::Stopped) => return,
            Err(fatal) => Some(fatal.to_string()),
        };
        if let Some(failure) = failure {
            tracing::error!(%failure, "consensus has stopped on this node");
            if node.failure.set(failure.clone()).is_ok() {
                (node.on_fault)(&failure);
            }
            return;
        }
        drop(node);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_applied(node: Weak<Node>) {
    let Some(mut applied) = node.upgrade().map(|node| node.applied.subscribe()) else { return };
    while applied.changed().await.is_ok() {
        let Some(node) = node.upgrade() else { return };
        let index = *applied.borrow_and_update();
        node.level.applied(index);
    }
}

/// Shows [`Level`] that this process runs.
async fn watch_pauses(node: Weak<Node>) {
    while let Some(strong) = node.upgrade() {
        strong.level.tick();
        drop(strong);
        tokio::time::sleep(level::TICK).await;
    }
}

/// Asks others for their member list when a peer was refused, or no leader is heard for long.
async fn refresh_members(node: Weak<Node>) {
    loop {
        let Some(strong) = node.upgrade() else { return };
        let members = Arc::clone(&strong.members);
        let quiet = strong.config.election_max * 10;
        drop(strong);
        let is_doubted = tokio::time::timeout(quiet, members.doubted()).await.is_ok();
        let Some(strong) = node.upgrade() else { return };
        if is_doubted || strong.leader().is_none() {
            strong.refresh().await;
        }
        drop(strong);
        tokio::time::sleep(REFRESH_EVERY).await;
    }
}
