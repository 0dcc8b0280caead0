//! What an operator does with one node, on a real process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backup;
mod node;
#[path = "../support/package.rs"]
mod package;
mod reload;
mod unit;
mod unseal;
