//! Agreement: a replicated log of opaque commands, and the way between the nodes that keep it. This
//! room never opens a command, and is the only one that names the consensus engine and QUIC.
//!
//! The map:
//!
//! - [`handle`]: what other rooms hold. Propose, read barriers, members, leadership, status.
//! - [`config`], [`status`], [`error`]: settings in, accounts out, and what can go wrong.
//! - [`transport`]: frames between nodes. QUIC with mutual TLS; each end proves its node key.
//! - [`members`]: the list that every connection is checked against.
//! - [`service`]: calls between nodes that are no business of consensus.
//! - [`wire`]: the messages, by version.
//! - `propose`: proposals, passed on and gathered into groups. `read`: shared read barriers.
//! - `server`: who is answered what. `level`: how old the state is.
//! - `standing`: what a node shows of its disk. `refound`: a disk becomes the beginning of another cluster.
//! - `adapter`, `types`, `runtime`: the engine's traits over storage and transport.
//! - `sim` (feature `simulation`): whole clusters in one thread, under simulated time and faults.
//!   `watch`: watched values whose waiters are woken in order, so that a seed decides everything.
//!
//! Invariants: nothing is acknowledged before a majority has it on disk; a linearizable read never
//! rests on a leadership that was not confirmed after the read came; a peer is never believed to be
//! a node that it has not proven to be; places in the log are counted from 1 outside the engine.

mod adapter;
pub mod config;
pub mod error;
pub mod handle;
mod level;
pub mod members;
pub mod metrics;
mod propose;
mod quorum;
mod read;
mod refound;
mod runtime;
mod server;
pub mod service;
#[cfg(feature = "simulation")]
pub mod sim;
mod standing;
pub mod status;
pub mod transport;
mod types;
#[cfg(feature = "simulation")]
mod watch;
pub mod wire;

pub use adapter::FaultHook;
pub use config::{Config, ConfigError, KnownMember};
pub use error::{CallError, ChangeError, Fault, ProposeError, ReadError};
pub use handle::{Committed, Handle, Parts, Reign, StartError};
pub use members::{MemberList, Members};
pub use refound::{LEAP, refound};
pub use service::{SERVICE_JOIN, Service, ServiceError};
pub use status::{MemberStatus, NodeState, Status};
pub use transport::{
    Attempt, Identity, Lane, NodeKey, Peer, PeerIdentity, PeerServer, Pipe, Quic, QuicError,
    QuicSettings, Refused, Tls, TlsError, TlsMaterial, Transport, Unfit, Urgency, Who, join_call,
};
pub use types::{NodeInfo, NodeRole};
pub use wire::Versions;
