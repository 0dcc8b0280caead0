//! What a node does by itself, in the background: opens the vault when the keyring arrives
//! ([`unseal`]), and as leader makes Raft's members those of the log ([`membership`]),
//! forgets what has expired ([`sweep`]) and rotates values that are due (`rotation`).

mod membership;
mod rotation;
mod sweep;
mod unseal;

pub use membership::membership;
pub(crate) use rotation::rotation;
pub use rotation::{RotationStatus, Rotations};
pub use sweep::sweep;
pub use unseal::unseal;
