//! Bytes of a [`Reply`]: a version byte, then bincode of that version's types.
//!
//! To add a version: copy `v1.rs` to `v2.rs`, change the copy, let [`encode`] write it and [`decode`]
//! read both, raise [`VERSION`], and bless golden bytes for the new version beside the old ones
//! (`tests/golden.rs` says how). The old module and its golden bytes stay as they are.

use super::Reply;
use super::v1::ReplyV1;
use crate::codec;
pub use crate::codec::DecodeError;

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;
const WHAT: &str = "a reply";

/// Bytes of a reply.
pub fn encode(reply: &Reply) -> Vec<u8> {
    codec::encode(VERSION, &ReplyV1::from(reply))
}

/// Reads a reply back.
///
/// # Errors
/// [`DecodeError`] when the bytes are of a newer version, malformed, or too many.
pub fn decode(bytes: &[u8]) -> Result<Reply, DecodeError> {
    let (_version, body) = codec::split_version(WHAT, VERSION, bytes)?;
    Ok(codec::decode_body::<ReplyV1>(WHAT, body)?.into())
}
