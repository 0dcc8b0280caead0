//! Feature levels: how members of different versions get along. What a version brings that older ones do not
//! know, in commands or in how they are decided, belongs to a level. The state holds the level that the
//! cluster has reached; the leader raises it once every member offers the next.
//!
//! To add to the log: give what is new the next level here, let [`needed`] name it, and have deciding ask
//! [`crate::state::State::level`] where an old command is to be answered otherwise. Nothing of a level is
//! proposed below it, so no member ever meets what it does not know.

use crate::command::{Actor, Command, Envelope};

/// The newest level that this version knows.
pub const NEWEST: u32 = 3;

/// From this level on a role may let followers join, by its account's seed service; and the level itself
/// can be raised.
pub const SEED_SERVICE: u32 = 1;

/// From this level on nodes ship their audit records packed.
pub const PACKED_AUDIT: u32 = 1;

/// From this level on a seed may be bound to the addresses that its node comes from.
pub const BOUND_SEEDS: u32 = 2;

/// From this level on a host factory token may be good for a number of uses.
pub const LIMITED_TOKENS: u32 = 3;

/// The level that the cluster must have reached before a command may be proposed. That which raises the level
/// needs none: it is proposed once all members offer the level.
pub fn needed(envelope: &Envelope) -> u32 {
    match (&envelope.body, &envelope.actor) {
        (Command::IssueJoinToken { token, .. }, _) if !token.cidr.is_empty() => BOUND_SEEDS,
        (Command::CreateHostFactoryTokens { uses: Some(_), .. }, _) => LIMITED_TOKENS,
        (Command::IssueJoinToken { .. }, Actor::Role(_)) => SEED_SERVICE,
        (Command::ChainAudit { .. }, _) => PACKED_AUDIT,
        _ => 0,
    }
}
