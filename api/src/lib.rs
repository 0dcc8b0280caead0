//! The door: untrusted bytes in, decisions and replies out. The only crate that names axum.
//!
//! Read in this order: [`mod@router`] (all routes in one table), [`door`] (what every request goes
//! through), `context` (one request on its way), `routes` (what each does), `authn` and `token` (who
//! asks), `authz` (whether it may), `read` (which view it gets), `command` (how it becomes a change),
//! [`audit`] (what is recorded of it), [`error`] (the one table from refusals to statuses).
//! [`ports`] is what the door needs from outside, [`settings`] what can be set, [`server`] the
//! listener, [`limits`] and [`metrics`] what they say, [`openapi`] the interface for tools.
//!
//! Invariants: no answer leaves before its audit record is written; token, permission and value of a
//! read come from one view; a value is plain only between the vault and the body that carries it,
//! and never in an error, log or record; nothing here decides for good, since the log decides again;
//! what may not be known of is answered in the same bytes as what is not there.

pub mod audit;
mod authn;
mod authz;
mod client;
mod client_certificates;
mod command;
mod context;
pub mod credentials;
pub mod door;
pub mod error;
pub mod ldap_sync;
pub mod limits;
pub mod local;
pub mod metrics;
pub mod openapi;
pub mod ports;
mod read;
pub mod resealing;
pub mod router;
mod routes;
mod sealed;
pub mod server;
pub mod settings;
mod token;
mod wire;

pub use audit::{Durability, Spool};
pub use door::{Door, DoorError, Parts};
pub use router::{health_router, router};
pub use sealed::{SealedReason, sealed_router};
pub use server::{Certificates, Peer, ServerTls, key_holders, serve, serve_plain};
pub use settings::Settings;
