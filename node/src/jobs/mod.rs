//! What a node does by itself, in the background: opens the vault when the keyring arrives
//! ([`unseal`]), ships its audit records to the cluster's chain ([`ship`]), and as leader makes Raft's
//! members those of the log ([`membership`]), forgets what has expired ([`sweep`]), rotates values that
//! are due (`rotation`) and vouches for the audit chain ([`tend`]).

mod audit;
mod membership;
mod rotation;
mod sweep;
mod unseal;

pub use audit::{ship, tend};
pub use membership::membership;
pub(crate) use rotation::rotation;
pub use rotation::{RotationStatus, Rotations};
pub use sweep::sweep;
pub use unseal::unseal;
