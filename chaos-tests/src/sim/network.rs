//! The simulated network: delay, loss, duplication, cuts in one or both directions, and nodes that
//! are not there. Everything is drawn from the seed.
//!
//! It carries what QUIC carries: requests with an answer, and ordered pipes. On a pipe loss is a
//! late retransmission; a pipe whose peer stays out of reach breaks at both ends. A request may
//! arrive twice, as when its sender tried again; a proposal never does, for QUIC delivers what is
//! sent once at most and nobody passes a proposal on twice.
//!
//! What a node promises to others shows on the wire: see [`Network::promised`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conclave_raft::sim::CallKind;
use conclave_raft::{
    CallError, Lane, Members, Peer, PeerIdentity, PeerServer, Pipe, Transport, Unfit, Urgency, Who,
    sim as raft_sim,
};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::trace::Trace;
use crate::rng::Rng;

/// How long a pipe holds frames for a peer out of reach before it breaks.
const PIPE_PATIENCE: Duration = Duration::from_millis(1500);
/// Between two tries to get a frame of a pipe through.
const RETRANSMIT_EVERY: Duration = Duration::from_millis(40);

/// What the network is like at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Messages lost, of a thousand.
    pub loss: u64,
    /// Requests that arrive twice, of a thousand.
    pub duplicates: u64,
    /// Shortest way, in microseconds.
    pub delay_min_us: u64,
    /// Longest way, in microseconds.
    pub delay_max_us: u64,
}

impl Weather {
    /// Nothing is lost, everything takes a fraction of a millisecond.
    pub const FAIR: Self = Self { loss: 0, duplicates: 0, delay_min_us: 100, delay_max_us: 900 };
}

/// The network of one simulation. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Inner>>);

struct Inner {
    rng: Rng,
    weather: Weather,
    /// Directions in which nothing passes.
    cut: BTreeSet<(u64, u64)>,
    attached: BTreeMap<u64, Attached>,
    /// Pairs of lives that have shown each other their disks.
    greeted: BTreeSet<[(u64, u64); 2]>,
    /// The highest term that each node has promised.
    promised: BTreeMap<u64, u64>,
    start: Instant,
    trace: Trace,
}

#[derive(Clone)]
struct Attached {
    life: u64,
    server: Arc<dyn PeerServer>,
    members: Arc<Members>,
    standing: Bytes,
}

impl Network {
    /// A network in fair weather without nodes. Must be made inside the simulation's runtime.
    pub fn new(rng: Rng, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng,
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            attached: BTreeMap::new(),
            greeted: BTreeSet::new(),
            promised: BTreeMap::new(),
            start: Instant::now(),
            trace,
        })))
    }

    /// The transport of one life of a node.
    pub fn transport(&self, node: u64, life: u64) -> Arc<dyn Transport> {
        Arc::new(Line { network: self.clone(), node, life })
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Lets nothing pass in one direction.
    pub fn cut(&self, from: u64, to: u64) {
        self.lock().cut.insert((from, to));
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// Takes a node off the network: its process is gone.
    pub fn detach(&self, node: u64) {
        self.lock().attached.remove(&node);
    }

    /// The highest term in which a node has granted a vote, led, or taken a leader's entries. It
    /// must know of that term whatever happens to it.
    pub fn promised(&self, node: u64) -> u64 {
        self.lock().promised.get(&node).copied().unwrap_or(0)
    }

    fn note_promise(&self, node: u64, term: u64) {
        let mut inner = self.lock();
        let promised = inner.promised.entry(node).or_default();
        *promised = term.max(*promised);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a message takes; none when it does not arrive.
    fn way(&self, from: u64, to: u64) -> Option<Duration> {
        let mut inner = self.lock();
        let Weather { loss, delay_min_us, delay_max_us, .. } = inner.weather;
        let delay = inner.rng.between(delay_min_us, delay_max_us);
        let is_lost = inner.rng.chance(loss);
        let arrives = !is_lost && !inner.cut.contains(&(from, to));
        arrives.then(|| Duration::from_micros(delay))
    }

    /// Carries one message: returns when it has arrived, never when it does not.
    async fn carry(&self, from: u64, to: u64, what: &str, bytes: &[u8]) {
        match self.way(from, to) {
            Some(delay) => sleep(delay).await,
            None => std::future::pending().await,
        }
        let inner = self.lock();
        let at = u64::try_from(inner.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        inner.trace.event(at, what, &[from, to], bytes);
    }

    fn find(&self, node: u64) -> Option<Attached> {
        self.lock().attached.get(&node).cloned()
    }

    /// Whether both are still the processes that they were.
    fn live(&self, ends: [(u64, u64); 2]) -> bool {
        let inner = self.lock();
        ends.iter().all(|(node, life)| inner.attached.get(node).is_some_and(|at| at.life == *life))
    }

    /// Both ends show each other their disks and check membership, once for each pair of lives.
    async fn greet(&self, from: (u64, u64), peer: &Peer) -> Result<Attached, CallError> {
        let unreachable = |reason: &str| CallError::Unreachable {
            peer: peer.to_string(),
            reason: reason.to_owned(),
        };
        let target = self.find(peer.id).ok_or_else(|| unreachable("nobody listens there"))?;
        let ours = self
            .find(from.0)
            .filter(|ours| ours.life == from.1)
            .ok_or_else(|| unreachable("this process is gone"))?;
        if target.members.get(from.0).is_none() {
            target.members.note_doubt();
            return Err(unreachable("not a member there"));
        }
        let ends = [from, (peer.id, target.life)];
        if !self.lock().greeted.contains(&ends) {
            let refused = |unfit: Unfit| unreachable(&format!("refused: {unfit}"));
            target.server.admit(from.0, ours.standing.clone()).await.map_err(refused)?;
            ours.server.admit(peer.id, target.standing.clone()).await.map_err(refused)?;
            self.lock().greeted.insert(ends);
        }
        Ok(target)
    }
}

/// One life of one node on the network.
struct Line {
    network: Network,
    node: u64,
    life: u64,
}

impl Line {
    fn identity(&self) -> PeerIdentity {
        PeerIdentity { who: Who::Member(self.node), follower_certificate: false, address: None }
    }
}

impl Transport for Line {
    fn serve(&self, server: Arc<dyn PeerServer>, members: Arc<Members>, standing: Bytes) {
        let attached = Attached { life: self.life, server, members, standing };
        self.network.lock().attached.insert(self.node, attached);
    }

    fn call(
        &self,
        to: &Peer,
        _urgency: Urgency,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (network, from, identity) =
            (self.network.clone(), (self.node, self.life), self.identity());
        let to = to.clone();
        let peer = to.to_string();
        let exchange = async move {
            network.carry(from.0, to.id, "ask", &request).await;
            let target = network.greet(from, &to).await?;
            let kind = raft_sim::call_kind(&request);
            let again = {
                let mut inner = network.lock();
                let duplicates = inner.weather.duplicates;
                inner.rng.chance(duplicates)
            };
            if again && kind != CallKind::Proposal {
                let (server, request) = (Arc::clone(&target.server), request.clone());
                let (network, to) = (network.clone(), to.id);
                tokio::spawn(async move {
                    network.carry(from.0, to, "ask again", &request).await;
                    // Whoever sent it twice hears only one answer.
                    drop(server.call(identity, request).await);
                });
            }
            // The answering node works on even when the asking one has given up.
            let server = Arc::clone(&target.server);
            let answering = tokio::spawn(async move { server.call(identity, request).await });
            let broken = |reason: &str| CallError::Broken {
                peer: to.to_string(),
                reason: reason.to_owned(),
            };
            let answer = answering.await.map_err(|error| broken(&error.to_string()))?;
            if let CallKind::Vote(term) = kind
                && raft_sim::grants(&answer)
            {
                network.note_promise(to.id, term);
            }
            network.carry(to.id, from.0, "answer", &answer).await;
            if network.live([from, (to.id, target.life)]) {
                Ok(answer)
            } else {
                Err(broken("a process is gone"))
            }
        };
        Box::pin(async move {
            let late = CallError::Timeout { peer, waited: within };
            timeout(within, exchange).await.unwrap_or(Err(late))
        })
    }

    fn open(&self, to: &Peer, lane: Lane) -> BoxFuture<'static, Result<Pipe, CallError>> {
        let (network, from, identity) =
            (self.network.clone(), (self.node, self.life), self.identity());
        let to = to.clone();
        Box::pin(async move {
            let shake = async {
                network.carry(from.0, to.id, "open", &[]).await;
                let target = network.greet(from, &to).await?;
                network.carry(to.id, from.0, "opened", &[]).await;
                Ok(target)
            };
            let too_late = CallError::Timeout { peer: to.to_string(), waited: PIPE_PATIENCE };
            let target = timeout(PIPE_PATIENCE, shake).await.unwrap_or(Err(too_late))?;
            let ends = [from, (to.id, target.life)];
            let (near, far) = pipe(&network, ends, lane);
            tokio::spawn(async move { target.server.pipe(identity, lane, far).await });
            Ok(near)
        })
    }

    fn note_timeout(&self, _to: &Peer, _lane: Lane) {
        // Connections here never go stale: a new life is a new greeting.
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let mut inner = self.network.lock();
        if inner.attached.get(&self.node).is_some_and(|attached| attached.life == self.life) {
            inner.attached.remove(&self.node);
        }
        Box::pin(async {})
    }
}

/// What the frames of one pipe promise.
#[derive(Clone)]
struct Promises {
    lane: Lane,
    /// Who opened the pipe: a leader, where it carries appends.
    leader: u64,
    /// Terms of the appends that are not yet answered, in order.
    asked: Arc<Mutex<VecDeque<u64>>>,
}

impl Promises {
    fn note(&self, network: &Network, from: u64, frame: &Bytes) {
        if !matches!(self.lane, Lane::Control | Lane::Append) {
            return;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if from == self.leader {
            let Some(term) = raft_sim::leader_term(frame) else { return };
            network.note_promise(from, term);
            asked.push_back(term);
        } else if let Some(term) = asked.pop_front()
            && raft_sim::takes_entries(frame)
        {
            network.note_promise(from, term);
        }
    }
}

/// Two ends of one pipe, and the tasks that carry frames between them.
fn pipe(network: &Network, ends: [(u64, u64); 2], lane: Lane) -> (Pipe, Pipe) {
    let (near_out, from_near) = mpsc::channel(Pipe::DEPTH);
    let (far_out, from_far) = mpsc::channel(Pipe::DEPTH);
    let (to_near, near_in) = mpsc::channel(Pipe::DEPTH);
    let (to_far, far_in) = mpsc::channel(Pipe::DEPTH);
    let broken = Arc::new(watch::Sender::new(false));
    let [near, far] = ends;
    let promises = Promises { lane, leader: near.0, asked: Arc::default() };
    for (frames, deliver, ends) in
        [(from_near, to_far, [near, far]), (from_far, to_near, [far, near])]
    {
        let (stamped, arriving) = mpsc::channel(Pipe::DEPTH);
        let sent = (frames, promises.clone());
        tokio::spawn(send_frames(network.clone(), ends, sent, stamped, Arc::clone(&broken)));
        tokio::spawn(deliver_frames(network.clone(), ends, arriving, deliver, Arc::clone(&broken)));
    }
    (Pipe { outgoing: near_out, incoming: near_in }, Pipe { outgoing: far_out, incoming: far_in })
}

/// Gives each frame its time of arrival, never before that of the frame ahead of it.
async fn send_frames(
    network: Network,
    ends: [(u64, u64); 2],
    (mut frames, promises): (mpsc::Receiver<Bytes>, Promises),
    stamped: mpsc::Sender<(Instant, Bytes)>,
    broken: Arc<watch::Sender<bool>>,
) {
    let [from, to] = ends;
    let mut last = Instant::now();
    while let Some(frame) = frames.recv().await {
        promises.note(&network, from.0, &frame);
        let first_try = Instant::now();
        let delay = loop {
            if let Some(delay) = network.way(from.0, to.0) {
                break delay;
            }
            if first_try.elapsed() > PIPE_PATIENCE || !network.live(ends) {
                broken.send_replace(true);
                return;
            }
            sleep(RETRANSMIT_EVERY).await;
        };
        last = last.max(Instant::now() + delay);
        if stamped.send((last, frame)).await.is_err() {
            return;
        }
    }
}

/// Hands frames over when they arrive; tells the receiver when the pipe has broken.
async fn deliver_frames(
    network: Network,
    ends: [(u64, u64); 2],
    mut arriving: mpsc::Receiver<(Instant, Bytes)>,
    deliver: mpsc::Sender<Result<Bytes, CallError>>,
    broken: Arc<watch::Sender<bool>>,
) {
    let [from, to] = ends;
    let mut breaks = broken.subscribe();
    loop {
        let next = tokio::select! {
            biased;
            _ = breaks.wait_for(|broken| *broken) => None,
            next = arriving.recv() => next.map(Ok).or(Some(Err(()))),
        };
        match next {
            Some(Ok((at, frame))) => {
                sleep_until(at).await;
                if !network.live(ends) {
                    broken.send_replace(true);
                    continue;
                }
                {
                    let inner = network.lock();
                    let now = u64::try_from(inner.start.elapsed().as_millis()).unwrap_or(u64::MAX);
                    inner.trace.event(now, "frame", &[from.0, to.0], &frame);
                }
                if deliver.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            // The sending half was dropped: the stream has ended in order.
            Some(Err(())) => return,
            None => {
                let reason = "out of reach".to_owned();
                let error = CallError::Broken { peer: format!("node {}", from.0), reason };
                // The receiver may be gone itself.
                deliver.send(Err(error)).await.ok();
                return;
            }
        }
    }
}
