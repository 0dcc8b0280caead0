//! What a node does by itself, in the background: opens the vault when the keyring arrives
//! ([`unseal`]), and as leader makes Raft's members those of the log ([`membership`])
//! and forgets what has expired ([`sweep`]).

mod membership;
mod sweep;
mod unseal;

pub use membership::membership;
pub use sweep::sweep;
pub use unseal::unseal;
