//! Bytes of an [`Event`] in history: a version byte, then bincode of that version's types.
//!
//! History holds no ciphertext and no password hash, for it outlives keys: values of secrets are
//! written as absent, sealed API keys, signing keys and keyrings as empty, hashes as an empty text.
//! Inside a command (see [`crate::command::codec`]) events keep all of that.
//!
//! To add a version: copy `v1.rs` to `v2.rs`, change the copy, let [`encode`] write it and [`decode`]
//! read both, raise [`VERSION`], and bless golden bytes for the new version beside the old ones
//! (`tests/golden.rs` says how). The old module and its golden bytes stay as they are.

use super::Event;
use super::v1::{Ciphertext, EventV1};
use crate::codec;
pub use crate::codec::DecodeError;

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;
const WHAT: &str = "an event";

/// Bytes of an event for history.
pub fn encode(event: &Event) -> Vec<u8> {
    codec::encode(VERSION, &EventV1::new(event, Ciphertext::Dropped))
}

/// Reads an event back, as history holds it.
///
/// # Errors
/// [`DecodeError`] when the bytes are of a newer version, malformed, or too many.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let (_version, body) = codec::split_version(WHAT, VERSION, bytes)?;
    codec::decode_body::<EventV1>(WHAT, body)?.try_into()
}
