//! The consensus engine's traits over our storage and transport. All its names stay in here, in
//! [`crate::types`] and in [`crate::handle`].

#[cfg(test)]
mod conformance;
pub(crate) mod convert;
mod flusher;
mod log;
mod network;
mod snapshot;
mod state_machine;

pub(crate) use flusher::{Flusher, FsyncDelay};
pub(crate) use log::Log;
pub(crate) use network::Network;
pub(crate) use snapshot::receive_snapshot;
pub(crate) use state_machine::{Applied, StateMachine, storage_entry};

use std::fmt::Display;
use std::io;
use std::sync::Arc;

/// What is done about a fault: told once, before the engine stops. The process must then end.
pub type FaultHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Reports a fault and turns it into the engine's form.
fn fatal(hook: &FaultHook, fault: impl Display) -> io::Error {
    let text = fault.to_string();
    hook(&text);
    io::Error::other(text)
}
