//! How frames get from one member to another. [`quic`] is the real way; the simulator has another.
//!
//! A transport knows who speaks (it has checked the peer's node key against [`Members`]) and carries
//! opaque frames in lanes; what the frames mean is in [`crate::wire`], what a peer may ask for in
//! [`crate::server`].

pub mod identity;
pub mod quic;
pub mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::error::CallError;
use crate::members::Members;

pub use identity::{Identity, NodeKey};
pub use quic::{Quic, QuicError, QuicSettings, join_call};
pub use tls::{Tls, TlsError, TlsMaterial};

/// What a connection is for. Each lane of each peer has a connection of its own, so that neither
/// entries nor snapshots can stand before a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, forwarded proposals, read indexes and service calls.
    Control,
    /// Log entries.
    Append,
    /// Snapshots.
    Snapshot,
    /// A node that is no member yet, and may only ask to become one.
    Join,
}

impl Lane {
    pub(crate) const ALL: [Self; 4] = [Self::Control, Self::Append, Self::Snapshot, Self::Join];

    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Append => 2,
            Self::Snapshot => 3,
            Self::Join => 4,
        }
    }

    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.tag() == tag)
    }
}

/// How urgent a call is among those of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Service calls: joining, audit batches.
    Low,
    /// Proposals and reads on their way to the leader.
    Normal,
    /// Whatever keeps a leader in office.
    High,
}

impl Urgency {
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Low => -10,
            Self::Normal => 0,
            Self::High => 10,
        }
    }
}

/// Whom to reach, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The member's id.
    pub id: u64,
    /// Its `host:port`.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.id, self.address)
    }
}

/// Who is at the other end of an accepted connection, proven by its node key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Member or joiner.
    pub who: Who,
    /// The certificate says "follower": such a peer never acts as a voter, whatever its id.
    pub follower_certificate: bool,
    /// Where the connection comes from; none in simulations.
    pub address: Option<SocketAddr>,
}

/// See [`PeerIdentity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A member.
    Member(u64),
    /// Holds the cluster's certificate and this node key, and wants to join.
    Joiner([u8; 32]),
}

/// What somebody wanted of this node and was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attempt {
    /// A connection.
    Connect,
    /// A vote, or the promise of one.
    Vote,
    /// Leadership handed over.
    TakeOver,
    /// Entries taken into the log.
    Append,
    /// A snapshot installed.
    Snapshot,
    /// A command proposed.
    Propose,
    /// Anything else that members may ask.
    Ask,
}

impl Attempt {
    /// The word for records and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Vote => "vote",
            Self::TakeOver => "take-over",
            Self::Append => "append",
            Self::Snapshot => "snapshot",
            Self::Propose => "propose",
            Self::Ask => "ask",
        }
    }
}

/// Somebody was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The member that it is, or says that it is; none where it did not come so far.
    pub member: Option<u64>,
    /// Where it came from; none in simulations.
    pub address: Option<SocketAddr>,
    /// What it wanted.
    pub attempt: Attempt,
    /// Why it was refused.
    pub reason: String,
    /// This node does not know the peer, or not as a voter: perhaps the node is behind, and the peer
    /// in the right.
    pub in_doubt: bool,
}

/// An ordered two-way stream of frames. Dropping a half ends it.
#[derive(Debug)]
pub struct Pipe {
    /// Frames to the peer. Full when the peer is slow: that is the backpressure.
    pub outgoing: mpsc::Sender<Bytes>,
    /// Frames from the peer. An error is the last item; so is the end.
    pub incoming: mpsc::Receiver<Result<Bytes, CallError>>,
}

impl Pipe {
    /// How many frames may wait in each direction inside this process.
    pub const DEPTH: usize = 16;
}

/// Why a proven member is shut out, in words for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its disk is not the one that it made promises on. It must stop.
    #[error("{0}")]
    Disk(String),
    /// It could not be judged now.
    #[error("{0}")]
    Unjudged(String),
}

/// What a node does with what its peers send.
pub trait PeerServer: Send + Sync + 'static {
    /// Judges what a proven member shows of its disk; an error shuts it out.
    fn admit(&self, id: u64, standing: Bytes) -> BoxFuture<'_, Result<(), Unfit>>;

    /// Hears that a proven peer has shut this node out for its disk.
    fn condemned(&self, by: PeerIdentity, reason: &str);

    /// Hears that the transport has refused somebody.
    fn refused(&self, refused: Refused);

    /// Answers one request.
    fn call(&self, from: PeerIdentity, request: Bytes) -> BoxFuture<'_, Bytes>;

    /// Serves one pipe until it ends.
    fn pipe(&self, from: PeerIdentity, lane: Lane, pipe: Pipe) -> BoxFuture<'_, ()>;
}

/// A way to reach peers and be reached by them.
pub trait Transport: Send + Sync + 'static {
    /// Starts to answer peers, and to check them against `members` from now on; `standing` is what
    /// this node shows of its disk. Called once.
    fn serve(&self, server: Arc<dyn PeerServer>, members: Arc<Members>, standing: Bytes);

    /// Sends one request and waits for its answer.
    fn call(
        &self,
        to: &Peer,
        urgency: Urgency,
        request: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Opens a pipe.
    fn open(&self, to: &Peer, lane: Lane) -> BoxFuture<'static, Result<Pipe, CallError>>;

    /// Says that the peer let a deadline pass on that lane; after some in a row the connection is
    /// taken for dead and made anew.
    fn note_timeout(&self, to: &Peer, lane: Lane);

    /// The version of the protocol that is spoken with each member that there is a connection with.
    fn versions(&self) -> BTreeMap<u64, u8> {
        BTreeMap::new()
    }

    /// Ends all connections and stops to answer.
    fn close(&self) -> BoxFuture<'static, ()>;
}
