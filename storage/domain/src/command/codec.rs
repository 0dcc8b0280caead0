//! Bytes of an [`Envelope`] in the log: a version byte, then bincode of that version's types.
//!
//! To add a version: copy `v1.rs` to `v2.rs`, change the copy, let [`encode`] write it and [`decode`]
//! read both, raise [`VERSION`], and bless golden bytes for the new version beside the old ones
//! (`tests/golden.rs` says how). The old module and its golden bytes stay as they are.

use super::Envelope;
use super::v1::EnvelopeV1;
use crate::codec;
pub use crate::codec::DecodeError;

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;
const WHAT: &str = "a command";

/// Bytes of a command for the log.
pub fn encode(envelope: &Envelope) -> Vec<u8> {
    codec::encode(VERSION, &EnvelopeV1::from(envelope))
}

/// Reads a command back.
///
/// # Errors
/// [`DecodeError`] when the bytes are of a newer version, malformed, or too many.
pub fn decode(bytes: &[u8]) -> Result<Envelope, DecodeError> {
    let (_version, body) = codec::split_version(WHAT, VERSION, bytes)?;
    codec::decode_body::<EnvelopeV1>(WHAT, body)?.try_into()
}
