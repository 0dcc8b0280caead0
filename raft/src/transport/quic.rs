//! Peers over QUIC: one endpoint a node, one connection for each peer and lane.
//!
//! ```text
//! dial ─▶ TLS 1.3, both certificates ─▶ hello / proof on the first stream ─▶ ready
//! ready ─▶ closed by the peer, by time-outs in a row, or because the peer is no member any more
//! ```
//!
//! A stream starts with one byte: 1 for a single request and answer, 2 for a pipe. Then come frames.
//! A dial belongs to the connection's slot, not to the caller who wanted it: callers with short
//! deadlines come and go while it proceeds.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::identity::{
    EXPORTER_LABEL, Identity, IdentityError, PROOF_BYTES_MAX, check_hello, check_proof, hello,
    proof,
};
use super::tls::{SNI, Tls, TlsError, agreed, is_follower_certificate};
use super::{
    Attempt, Lane, Peer, PeerIdentity, PeerServer, Pipe, Refused, Transport, Unfit, Urgency, Who,
};
use crate::error::CallError;
use crate::members::Members;
use crate::wire::latest::{Refusal, Request, Response};
use crate::wire::{FRAME_BYTES_MAX, Versions};

/// Application close codes; the reason goes with them in words.
mod code {
    pub(super) const SHUTDOWN: u32 = 1;
    pub(super) const REFUSED: u32 = 2;
    pub(super) const REMOVED: u32 = 3;
    pub(super) const SILENT: u32 = 4;
    /// Said by a dialler to an acceptor that has proven itself, and by nobody else.
    pub(super) const WRONG_DISK: u32 = 5;
}

/// First byte of a stream that carries one request and its answer.
const STREAM_CALL: u8 = 1;
/// First byte of a stream that carries frames both ways.
const STREAM_PIPE: u8 = 2;
/// How long an accepted connection may take to prove who it is, and a request to arrive.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest payload of a datagram that is tried and taken: what jumbo frames carry over IPv6 (9,000
/// bytes less the headers of IP and UDP). What a path really carries is found out (RFC 8899).
const DATAGRAM_BYTES_MAX: u16 = 8_952;
/// How long a connection must have been silent before time-outs in a row condemn it.
const SILENCE_MIN: Duration = Duration::from_millis(250);
/// Connections that may be proving themselves at a time; beyond, addresses must be validated.
const HANDSHAKES_MAX: usize = 256;

/// Where and how to speak QUIC.
#[derive(Debug, Clone)]
pub struct QuicSettings {
    /// UDP address to bind.
    pub listen: SocketAddr,
    /// Secret of this data folder, from which the reset and connection-id keys derive. It must stay
    /// the same across restarts: only then do peers notice a restart at once.
    pub reset_secret: [u8; 32],
    /// How long a dial may take, handshake and proof included.
    pub dial_timeout: Duration,
    /// After this long without a packet a connection is dead.
    pub idle_timeout: Duration,
    /// Round trip assumed before one is measured. A lost first packet costs three times as much.
    pub initial_rtt: Duration,
    /// Versions of the protocol to offer. All that this program knows, but where a test or a careful
    /// operator wants fewer.
    pub versions: Versions,
}

impl QuicSettings {
    /// The defaults, on an address.
    pub fn new(listen: SocketAddr, reset_secret: [u8; 32]) -> Self {
        Self {
            listen,
            reset_secret,
            dial_timeout: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(3),
            initial_rtt: Duration::from_millis(10),
            versions: Versions::OURS,
        }
    }
}

/// Why the endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The address cannot be bound.
    #[error("cannot bind UDP {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Peers over QUIC. Clones share the endpoint.
#[derive(Clone)]
pub struct Quic(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    identity: ArcSwap<Identity>,
    client: quinn::ClientConfig,
    settings: QuicSettings,
    node: OnceLock<Node>,
    dialled: Mutex<HashMap<(Peer, Lane), Arc<Slot>>>,
    accepted: Mutex<HashMap<usize, (u64, Connection)>>,
}

/// Whom the transport serves; known once the node runs.
struct Node {
    server: Arc<dyn PeerServer>,
    members: Arc<Members>,
}

/// Why somebody who dialled us was not let in.
struct Turned {
    reason: String,
    member: Option<u64>,
    in_doubt: bool,
    /// Whether it was our judgement, and not the line that failed or this node that was not ready.
    is_told: bool,
}

impl Turned {
    /// For what went wrong before the peer could say who it is.
    fn away(error: &ConnectionError, speaks: Versions) -> Self {
        let is_told = matches!(error, ConnectionError::TransportError(_));
        Self { reason: explained(error, speaks), member: None, in_doubt: false, is_told }
    }
}

impl From<IdentityError> for Turned {
    fn from(error: IdentityError) -> Self {
        let (member, in_doubt) = match error {
            IdentityError::Unknown(id) => (Some(id), true),
            IdentityError::WrongKey(id) => (Some(id), false),
            // Addresses move from node to node; nobody meant any harm.
            IdentityError::WrongNode { .. } => (None, true),
            IdentityError::Key
            | IdentityError::Malformed(_)
            | IdentityError::WrongCluster
            | IdentityError::Lane(_)
            | IdentityError::Standing(_) => (None, false),
        };
        let is_told = !matches!(error, IdentityError::WrongNode { .. });
        Self { reason: error.to_string(), member, in_doubt, is_told }
    }
}

/// What the line said.
impl From<String> for Turned {
    fn from(reason: String) -> Self {
        Self { reason, member: None, in_doubt: false, is_told: false }
    }
}

impl From<&str> for Turned {
    fn from(reason: &str) -> Self {
        Self::from(reason.to_owned())
    }
}

/// The connection to one peer in one lane.
struct Slot {
    state: watch::Sender<SlotState>,
    timeouts: Mutex<Timeouts>,
}

#[derive(Clone)]
enum SlotState {
    Idle,
    Dialling,
    Ready(Connection),
    Failed(String),
}

/// Deadlines that passed in a row without a single packet from the peer.
#[derive(Default)]
struct Timeouts {
    count: u32,
    datagrams: u64,
    since: Option<Instant>,
}

impl Quic {
    /// Binds the endpoint. Peers are answered from [`Transport::serve`] on.
    ///
    /// # Errors
    /// [`QuicError`].
    pub fn bind(settings: QuicSettings, tls: &Tls, identity: Identity) -> Result<Self, QuicError> {
        let (inner, _) = Inner::bind(settings, tls, identity)?;
        Ok(Self(inner))
    }

    /// The address that was bound; tells the port where 0 was asked for.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// Closes every connection to and from other nodes; they are made anew as they are needed.
    /// After certificates were revoked this makes sure that nobody lives on the old ones.
    pub fn close_connections(&self) {
        for (_, slot) in self.0.dialled().drain() {
            slot.close(code::SHUTDOWN, b"reconnect");
        }
        for (_, (_, connection)) in self.0.accepted().drain() {
            connection.close(VarInt::from_u32(code::SHUTDOWN), b"reconnect");
        }
    }
}

/// Asks the first of `peers` that answers for membership: one service call of kind
/// [`crate::service::SERVICE_JOIN`] from a node that is no member yet. `identity.node_id` is 0.
///
/// # Errors
/// The last peer's error, when none has answered.
pub async fn join_call(
    tls: &Tls,
    identity: Identity,
    peers: &[String],
    body: Vec<u8>,
    within: Duration,
) -> Result<Vec<u8>, CallError> {
    let listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret)
        .map_err(|_| CallError::Nobody("no randomness from the system".to_owned()))?;
    let settings = QuicSettings {
        dial_timeout: within.min(Duration::from_secs(3)),
        ..QuicSettings::new(listen, secret)
    };
    let (inner, _) = Inner::bind(settings, tls, identity)
        .map_err(|error| CallError::Nobody(error.to_string()))?;
    let request = Request::Service { kind: crate::service::SERVICE_JOIN, body: body.into() };
    let request = request.encode();
    let mut last = CallError::Nobody("no peer given".to_owned());
    for address in peers {
        let peer = Peer { id: 0, address: address.clone() };
        let call = Arc::clone(&inner).call(
            peer.clone(),
            Lane::Join,
            Urgency::Normal,
            request.clone(),
            within,
        );
        let reason = match call.await {
            Ok(bytes) => match Response::decode(bytes) {
                Ok(Response::Service { body }) => return Ok(body.to_vec()),
                Ok(Response::Refused { refusal, text }) => {
                    let error = CallError::Refused { peer: peer.to_string(), reason: text };
                    // Only a refusal by the service itself is the cluster's last word.
                    if refusal == Refusal::Failed {
                        return Err(error);
                    }
                    error
                }
                Ok(_) => CallError::Malformed {
                    peer: peer.to_string(),
                    reason: "an answer to another question".to_owned(),
                },
                Err(error) => {
                    CallError::Malformed { peer: peer.to_string(), reason: error.to_string() }
                }
            },
            Err(error) => error,
        };
        last = reason;
    }
    inner.endpoint.close(VarInt::from_u32(code::SHUTDOWN), b"done");
    Err(last)
}

impl Transport for Quic {
    fn serve(&self, server: Arc<dyn PeerServer>, members: Arc<Members>, standing: Bytes) {
        let inner = &self.0;
        let identity = Identity { standing, ..(**inner.identity.load()).clone() };
        inner.identity.store(Arc::new(identity));
        let changes = members.changes();
        if inner.node.set(Node { server, members }).is_err() {
            tracing::error!("the transport serves a node already");
            return;
        }
        drop(tokio::spawn(Arc::clone(inner).accept_all()));
        drop(tokio::spawn(shut_out_strangers(Arc::downgrade(inner), changes)));
    }

    fn call(
        &self,
        to: &Peer,
        urgency: Urgency,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(Arc::clone(&self.0).call(to.clone(), Lane::Control, urgency, request, within))
    }

    fn open(&self, to: &Peer, lane: Lane) -> BoxFuture<'static, Result<Pipe, CallError>> {
        Box::pin(Arc::clone(&self.0).open(to.clone(), lane))
    }

    fn versions(&self) -> BTreeMap<u64, u8> {
        let dialled = self.0.dialled();
        let ready = dialled.iter().filter_map(|((peer, _), slot)| match &*slot.state.borrow() {
            SlotState::Ready(connection) => Some((peer.id, agreed(connection)?)),
            SlotState::Idle | SlotState::Dialling | SlotState::Failed(_) => None,
        });
        let mut versions: BTreeMap<u64, u8> = ready.collect();
        drop(dialled);
        for (id, connection) in self.0.accepted().values() {
            versions.extend(agreed(connection).map(|version| (*id, version)));
        }
        versions
    }

    fn note_timeout(&self, to: &Peer, lane: Lane) {
        let slot = self.0.dialled().get(&(to.clone(), lane)).map(Arc::clone);
        if let Some(slot) = slot
            && slot.note_timeout()
        {
            tracing::debug!(peer = %to, ?lane, "connection is silent; dialling anew");
            slot.close(code::SILENT, b"silent");
        }
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            inner.endpoint.close(VarInt::from_u32(code::SHUTDOWN), b"shutdown");
            // Give the close frames a moment to leave; peers then need not wait for time-outs.
            let idle = inner.endpoint.wait_idle();
            if tokio::time::timeout(Duration::from_millis(500), idle).await.is_err() {
                tracing::debug!("connections were still closing");
            }
        })
    }
}

impl Inner {
    fn bind(
        settings: QuicSettings,
        tls: &Tls,
        identity: Identity,
    ) -> Result<(Arc<Self>, SocketAddr), QuicError> {
        let transport = Arc::new(transport_config(&settings));
        let mut server = tls.server_config(settings.versions)?;
        server.transport_config(Arc::clone(&transport));
        server.max_incoming(HANDSHAKES_MAX * 4);
        let mut client = tls.client_config(settings.versions)?;
        client.transport_config(transport);

        let address = settings.listen;
        let bind = || -> std::io::Result<(Endpoint, SocketAddr)> {
            let socket = std::net::UdpSocket::bind(address)?;
            let local = socket.local_addr()?;
            let endpoint = Endpoint::new(
                endpoint_config(&settings.reset_secret),
                Some(server),
                socket,
                Arc::new(quinn::TokioRuntime),
            )?;
            Ok((endpoint, local))
        };
        let (endpoint, local) = bind().map_err(|source| QuicError::Bind { address, source })?;
        let inner = Self {
            endpoint,
            identity: ArcSwap::from_pointee(identity),
            client,
            settings,
            node: OnceLock::new(),
            dialled: Mutex::default(),
            accepted: Mutex::default(),
        };
        Ok((Arc::new(inner), local))
    }

    fn dialled(&self) -> MutexGuard<'_, HashMap<(Peer, Lane), Arc<Slot>>> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self) -> MutexGuard<'_, HashMap<usize, (u64, Connection)>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- dialling ----

    async fn call(
        self: Arc<Self>,
        peer: Peer,
        lane: Lane,
        urgency: Urgency,
        request: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let started = Instant::now();
        let deadline = started + within;
        let connection = match tokio::time::timeout_at(deadline, self.connection(&peer, lane)).await
        {
            Ok(connection) => connection?,
            Err(_) => {
                return Err(CallError::Unreachable {
                    peer: peer.to_string(),
                    reason: format!("not connected within {within:?}"),
                });
            }
        };
        let exchange = async {
            let (mut send, recv) = connection.open_bi().await.map_err(|error| {
                CallError::Unreachable { peer: peer.to_string(), reason: error.to_string() }
            })?;
            let broken = |reason: String| CallError::Broken { peer: peer.to_string(), reason };
            // A stream that was closed meanwhile shows it at the write.
            drop(send.set_priority(urgency.priority()));
            let header = [&[STREAM_CALL][..], &frame_header(&request)].concat();
            let mut chunks = [Bytes::from(header), request];
            send.write_all_chunks(&mut chunks).await.map_err(|error| broken(error.to_string()))?;
            send.finish().map_err(|error| broken(error.to_string()))?;
            let mut frames = Frames::new(recv, FRAME_BYTES_MAX);
            match frames.next().await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => Err(broken("no answer".to_owned())),
                Err(reason) => Err(broken(reason)),
            }
        };
        match tokio::time::timeout_at(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Timeout { peer: peer.to_string(), waited: started.elapsed() }),
        }
    }

    async fn open(self: Arc<Self>, peer: Peer, lane: Lane) -> Result<Pipe, CallError> {
        let connection = self.connection(&peer, lane).await?;
        let unreachable =
            |reason: String| CallError::Unreachable { peer: peer.to_string(), reason };
        let (mut send, recv) =
            connection.open_bi().await.map_err(|error| unreachable(error.to_string()))?;
        drop(send.set_priority(Urgency::High.priority()));
        send.write_all(&[STREAM_PIPE]).await.map_err(|error| unreachable(error.to_string()))?;
        Ok(pipe(send, recv, peer.to_string()))
    }

    /// The connection to a peer in a lane: the one there is, or a new one.
    async fn connection(
        self: &Arc<Self>,
        peer: &Peer,
        lane: Lane,
    ) -> Result<Connection, CallError> {
        let slot = {
            let mut dialled = self.dialled();
            let slot = dialled.entry((peer.clone(), lane)).or_insert_with(Slot::new);
            Arc::clone(slot)
        };
        let mut state = slot.state.subscribe();
        let mut must_dial = false;
        slot.state.send_if_modified(|state| {
            must_dial = match state {
                SlotState::Ready(connection) => connection.close_reason().is_some(),
                SlotState::Idle | SlotState::Failed(_) => true,
                SlotState::Dialling => false,
            };
            if must_dial {
                *state = SlotState::Dialling;
            }
            must_dial
        });
        if must_dial {
            let (inner, peer, slot) = (Arc::clone(self), peer.clone(), Arc::clone(&slot));
            drop(tokio::spawn(async move {
                let dial = inner.dial(&peer, lane);
                let outcome = match tokio::time::timeout(inner.settings.dial_timeout, dial).await {
                    Ok(Ok(connection)) => SlotState::Ready(connection),
                    Ok(Err(reason)) => SlotState::Failed(reason),
                    Err(_) => SlotState::Failed("dialling took too long".to_owned()),
                };
                slot.reset_timeouts();
                slot.state.send_replace(outcome);
            }));
        }
        let settled = state.wait_for(|state| !matches!(state, SlotState::Dialling)).await;
        let unreachable =
            |reason: String| CallError::Unreachable { peer: peer.to_string(), reason };
        match settled.as_deref() {
            Ok(SlotState::Ready(connection)) => Ok(connection.clone()),
            Ok(SlotState::Failed(reason)) => Err(unreachable(reason.clone())),
            Ok(SlotState::Idle | SlotState::Dialling) | Err(_) => {
                Err(unreachable("connection was closed".to_owned()))
            }
        }
    }

    async fn dial(&self, peer: &Peer, lane: Lane) -> Result<Connection, String> {
        let address = self.resolve(&peer.address).await?;
        let connection = self
            .endpoint
            .connect_with(self.client.clone(), address, SNI)
            .map_err(|error| error.to_string())?
            .await
            .map_err(|error| explained(&error, self.settings.versions))?;
        match self.introduce(&connection, peer, lane).await {
            Ok(()) => Ok(connection),
            Err(reason) => {
                // What the peer said at closing explains more than what we saw of it.
                let reason = match connection.close_reason() {
                    Some(ConnectionError::ApplicationClosed(close)) => {
                        String::from_utf8_lossy(&close.reason).into_owned()
                    }
                    Some(other) => explained(&other, self.settings.versions),
                    None => reason,
                };
                connection.close(VarInt::from_u32(code::REFUSED), reason.as_bytes());
                Err(reason)
            }
        }
    }

    /// Proves who we are, and has the peer prove who it is.
    async fn introduce(
        &self,
        connection: &Connection,
        peer: &Peer,
        lane: Lane,
    ) -> Result<(), String> {
        let identity = self.identity.load_full();
        let key = self.node.get().and_then(|node| node.members.node_key(peer.id));
        if lane != Lane::Join && key.is_none() {
            return Err(IdentityError::Unknown(peer.id).to_string());
        }
        let exporter = exporter(connection)?;
        let (mut send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let greeting = hello(&identity, peer.id, lane, &exporter);
        let mut chunks = [Bytes::copy_from_slice(&frame_header(&greeting)), greeting];
        send.write_all_chunks(&mut chunks).await.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        let answer = Frames::new(recv, PROOF_BYTES_MAX)
            .next()
            .await?
            .ok_or_else(|| "the peer gave no proof of identity".to_owned())?;
        let standing = check_proof(&identity, answer, lane, &exporter, (peer.id, key))
            .map_err(|error| error.to_string())?;
        match self.node.get() {
            Some(node) if lane != Lane::Join => {
                node.server.admit(peer.id, standing).await.map_err(|unfit| {
                    let reason = unfit.to_string();
                    if matches!(unfit, Unfit::Disk(_)) {
                        connection.close(VarInt::from_u32(code::WRONG_DISK), reason.as_bytes());
                    }
                    reason
                })
            }
            _ => Ok(()),
        }
    }

    async fn resolve(&self, address: &str) -> Result<SocketAddr, String> {
        let wants_v4 = self.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
        let mut found = tokio::net::lookup_host(address)
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        found
            .find(|candidate| !wants_v4 || candidate.is_ipv4())
            .ok_or_else(|| format!("{address} has no address of the family listened on"))
    }

    // ---- accepting ----

    async fn accept_all(self: Arc<Self>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        while let Some(incoming) = self.endpoint.accept().await {
            let permit = Arc::clone(&handshakes).try_acquire_owned();
            let Ok(permit) = permit else {
                // Under a flood, make strangers prove their address before they cost anything.
                if incoming.remote_address_validated() {
                    incoming.refuse();
                } else if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "no retry sent");
                }
                continue;
            };
            let inner = Arc::clone(&self);
            drop(tokio::spawn(async move {
                let from = incoming.remote_address();
                let introduction = async {
                    let connection = incoming
                        .await
                        .map_err(|error| Turned::away(&error, inner.settings.versions))?;
                    inner.welcome(&connection).await.map(|identity| (identity, connection))
                };
                let result = tokio::time::timeout(ACCEPT_TIMEOUT, introduction).await;
                drop(permit);
                match result {
                    Ok(Ok(((identity, lane), connection))) => {
                        inner.serve_connection(connection, identity, lane).await;
                    }
                    Ok(Err(turned)) => inner.tell_refused(from, turned),
                    Err(_) => tracing::debug!(%from, "peer did not introduce itself in time"),
                }
            }));
        }
    }

    fn tell_refused(&self, from: SocketAddr, turned: Turned) {
        let Turned { reason, member, in_doubt, is_told } = turned;
        tracing::warn!(%from, %reason, "peer refused");
        if let Some(node) = self.node.get().filter(|_| is_told) {
            let (address, attempt) = (Some(from), Attempt::Connect);
            node.server.refused(Refused { member, address, attempt, reason, in_doubt });
        }
    }

    /// Checks who dialled us, and proves who we are.
    async fn welcome(&self, connection: &Connection) -> Result<(PeerIdentity, Lane), Turned> {
        match self.believe(connection).await {
            Ok(believed) => Ok(believed),
            Err(turned) => {
                connection.close(VarInt::from_u32(code::REFUSED), turned.reason.as_bytes());
                Err(turned)
            }
        }
    }

    async fn believe(&self, connection: &Connection) -> Result<(PeerIdentity, Lane), Turned> {
        let node = self.node.get().ok_or("not serving yet")?;
        let exporter = exporter(connection)?;
        let (mut send, recv) = connection.accept_bi().await.map_err(|error| error.to_string())?;
        let greeting = Frames::new(recv, PROOF_BYTES_MAX)
            .next()
            .await?
            .ok_or("the peer gave no proof of identity")?;
        let identity = self.identity.load_full();
        let checked = check_hello(&identity, greeting, &exporter, |id| node.members.node_key(id));
        let proven = match checked {
            Ok(proven) => proven,
            Err(error) => {
                if matches!(error, IdentityError::Unknown(_)) {
                    node.members.note_doubt();
                }
                return Err(Turned::from(error));
            }
        };
        let who = if proven.lane == Lane::Join {
            Who::Joiner(proven.node_key)
        } else {
            let admitted = node.server.admit(proven.from, proven.standing.clone()).await;
            admitted.map_err(|unfit| Turned {
                reason: unfit.to_string(),
                member: Some(proven.from),
                in_doubt: false,
                is_told: matches!(unfit, Unfit::Disk(_)),
            })?;
            Who::Member(proven.from)
        };
        let answer = proof(&identity, &proven, &exporter);
        let mut chunks = [Bytes::copy_from_slice(&frame_header(&answer)), answer];
        send.write_all_chunks(&mut chunks).await.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        let follower_certificate = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .and_then(|chain| chain.first().map(is_follower_certificate))
            .unwrap_or(true);
        let address = Some(connection.remote_address());
        Ok((PeerIdentity { who, follower_certificate, address }, proven.lane))
    }

    async fn serve_connection(
        self: Arc<Self>,
        connection: Connection,
        identity: PeerIdentity,
        lane: Lane,
    ) {
        let Some(node) = self.node.get() else { return };
        let stable_id = connection.stable_id();
        if let Who::Member(id) = identity.who {
            self.accepted().insert(stable_id, (id, connection.clone()));
            // Removed since it was welcomed: the change was told before it could be found here.
            if node.members.get(id).is_none() {
                let reason = IdentityError::Unknown(id).to_string();
                connection.close(VarInt::from_u32(code::REMOVED), reason.as_bytes());
            }
        }
        while let Ok((send, recv)) = connection.accept_bi().await {
            let server = Arc::clone(&node.server);
            drop(tokio::spawn(async move {
                if let Err(reason) = serve_stream(&*server, identity, lane, send, recv).await {
                    tracing::debug!(?identity, %reason, "stream ended");
                }
            }));
        }
        self.accepted().remove(&stable_id);
        if let Some(ConnectionError::ApplicationClosed(close)) = connection.close_reason()
            && close.error_code == VarInt::from_u32(code::WRONG_DISK)
        {
            node.server.condemned(identity, &String::from_utf8_lossy(&close.reason));
        }
    }

    /// Closes the connections of those who are no members any more.
    fn shut_out_strangers(&self) {
        let Some(node) = self.node.get() else { return };
        let list = node.members.list();
        let is_stranger = |id: u64| !list.members.contains_key(&id);
        for (id, connection) in self.accepted().values() {
            if is_stranger(*id) {
                let reason = IdentityError::Unknown(*id).to_string();
                connection.close(VarInt::from_u32(code::REMOVED), reason.as_bytes());
                let (member, address) = (Some(*id), Some(connection.remote_address()));
                let (attempt, in_doubt) = (Attempt::Connect, false);
                node.server.refused(Refused { member, address, attempt, reason, in_doubt });
            }
        }
        self.dialled().retain(|(peer, _), slot| {
            let keep = !is_stranger(peer.id);
            if !keep {
                slot.close(code::REMOVED, b"no member any more");
            }
            keep
        });
    }
}

/// Shuts out those who were removed as soon as the list of members says so.
async fn shut_out_strangers(inner: Weak<Inner>, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else { return };
        inner.shut_out_strangers();
    }
}

impl Slot {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(SlotState::Idle), timeouts: Mutex::default() })
    }

    fn close(&self, code: u32, reason: &[u8]) {
        self.reset_timeouts();
        self.state.send_if_modified(|state| {
            if let SlotState::Ready(connection) = state {
                connection.close(VarInt::from_u32(code), reason);
                *state = SlotState::Idle;
                true
            } else {
                false
            }
        });
    }

    fn timeouts(&self) -> MutexGuard<'_, Timeouts> {
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset_timeouts(&self) {
        *self.timeouts() = Timeouts::default();
    }

    /// Counts a time-out; true when the connection is to be given up.
    fn note_timeout(&self) -> bool {
        let datagrams = match &*self.state.borrow() {
            SlotState::Ready(connection) => connection.stats().udp_rx.datagrams,
            SlotState::Idle | SlotState::Dialling | SlotState::Failed(_) => return false,
        };
        let mut timeouts = self.timeouts();
        if timeouts.count > 0 && timeouts.datagrams == datagrams {
            timeouts.count += 1;
        } else {
            *timeouts = Timeouts { count: 1, datagrams, since: Some(Instant::now()) };
        }
        timeouts.count >= 2 && timeouts.since.is_some_and(|since| since.elapsed() >= SILENCE_MIN)
    }
}

async fn serve_stream(
    server: &dyn PeerServer,
    identity: PeerIdentity,
    lane: Lane,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), String> {
    let mut kind = [0];
    recv.read_exact(&mut kind).await.map_err(|error| error.to_string())?;
    match kind[0] {
        STREAM_CALL => {
            let mut frames = Frames::new(recv, FRAME_BYTES_MAX);
            let request = tokio::time::timeout(ACCEPT_TIMEOUT, frames.next())
                .await
                .map_err(|_| "the request did not arrive in time".to_owned())??
                .ok_or("no request")?;
            let answer = server.call(identity, request).await;
            let mut chunks = [Bytes::copy_from_slice(&frame_header(&answer)), answer];
            send.write_all_chunks(&mut chunks).await.map_err(|error| error.to_string())?;
            send.finish().map_err(|error| error.to_string())
        }
        STREAM_PIPE if lane != Lane::Join => {
            drop(send.set_priority(Urgency::High.priority()));
            server.pipe(identity, lane, pipe(send, recv, format!("{:?}", identity.who))).await;
            Ok(())
        }
        other => Err(format!("unknown kind of stream {other} in lane {lane:?}")),
    }
}

/// Joins a stream to the two channels of a pipe.
fn pipe(mut send: SendStream, recv: RecvStream, peer: String) -> Pipe {
    let (outgoing, mut to_send) = mpsc::channel::<Bytes>(Pipe::DEPTH);
    let (received, incoming) = mpsc::channel(Pipe::DEPTH);
    drop(tokio::spawn(async move {
        while let Some(frame) = to_send.recv().await {
            let mut chunks = vec![Bytes::copy_from_slice(&frame_header(&frame)), frame];
            while chunks.len() < 2 * Pipe::DEPTH
                && let Ok(frame) = to_send.try_recv()
            {
                chunks.extend([Bytes::copy_from_slice(&frame_header(&frame)), frame]);
            }
            if send.write_all_chunks(&mut chunks).await.is_err() {
                // The reading half tells why.
                return;
            }
        }
        drop(send.finish());
    }));
    drop(tokio::spawn(async move {
        let mut frames = Frames::new(recv, FRAME_BYTES_MAX);
        loop {
            let next = tokio::select! {
                biased;
                () = received.closed() => return,
                next = frames.next() => next,
            };
            let item = match next {
                Ok(Some(frame)) => Ok(frame),
                Ok(None) => return,
                Err(reason) => Err(CallError::Broken { peer: peer.clone(), reason }),
            };
            let is_last = item.is_err();
            if received.send(item).await.is_err() || is_last {
                return;
            }
        }
    }));
    Pipe { outgoing, incoming }
}

/// Splits a stream into frames.
struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
    most: usize,
}

impl Frames {
    fn new(stream: RecvStream, most: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), most }
    }

    /// The next frame; none at the end of the stream.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(header) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*header) as usize;
                if length > self.most {
                    return Err(format!("frame of {length} bytes, at most {}", self.most));
                }
                if self.buffer.len() >= 4 + length {
                    let mut frame = self.buffer.split_to(4 + length);
                    return Ok(Some(frame.split_off(4).freeze()));
                }
            }
            // Memory grows with what has arrived, not with what a header announces.
            match self.stream.read_chunk(64 * 1024, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err("stream ended inside a frame".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// What went wrong in a handshake, in words for those who see to it.
fn explained(error: &ConnectionError, speaks: Versions) -> String {
    /// TLS alert `no_application_protocol` (RFC 7301 section 3.2).
    const NOTHING_IN_COMMON: u8 = 120;
    let code = match error {
        ConnectionError::TransportError(error) => Some(error.code),
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => None,
    };
    if code == Some(quinn::TransportErrorCode::crypto(NOTHING_IN_COMMON)) {
        return format!(
            "no version of the peer protocol in common: this node speaks {speaks}; upgrade the \
             older of the two"
        );
    }
    error.to_string()
}

fn frame_header(frame: &Bytes) -> [u8; 4] {
    crate::wire::codec::len_u32(frame.len()).to_be_bytes()
}

fn exporter(connection: &Connection) -> Result<[u8; 32], String> {
    let mut value = [0; 32];
    connection
        .export_keying_material(&mut value, EXPORTER_LABEL, b"")
        .map_err(|_| "no TLS exporter value".to_owned())?;
    Ok(value)
}

fn transport_config(settings: &QuicSettings) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    let idle = quinn::IdleTimeout::try_from(settings.idle_timeout).ok();
    // Most of what an append costs, it costs for each packet.
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    config
        .mtu_discovery_config(Some(discovery))
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(settings.idle_timeout / 4))
        .initial_rtt(settings.initial_rtt)
        .max_concurrent_bidi_streams(VarInt::from_u32(1024))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(8 * 1024 * 1024))
        .receive_window(VarInt::from_u32(32 * 1024 * 1024))
        .send_window(32 * 1024 * 1024);
    config
}

/// Reset and connection-id keys that survive a restart: a peer's packets to the process before us
/// are then recognised and answered with a reset, and the peer dials anew at once.
#[expect(clippy::expect_used, reason = "a constant within the bounds of the call")]
fn endpoint_config(secret: &[u8; 32]) -> quinn::EndpointConfig {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, b"connection ids");
    let mut cid_key = [0; 8];
    cid_key.copy_from_slice(&tag.as_ref()[..8]);
    let cid_key = u64::from_be_bytes(cid_key);
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(DATAGRAM_BYTES_MAX)
        .expect("it is more than the 1,200 bytes that RFC 9000 asks for");
    config.reset_key(Arc::new(key)).cid_generator(move || {
        Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key))
    });
    config
}
