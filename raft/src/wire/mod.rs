//! What nodes say to each other, by version.
//!
//! A frame on a stream is a length (u32, big-endian, at most [`FRAME_BYTES_MAX`]) and as many
//! bytes; the first of them is the version of the message that follows. To change a message: copy
//! `v1.rs` to `v2.rs`, change that, raise [`Versions::OURS`], send it where the connection has agreed on
//! it, and convert the older one on receipt. Never edit a version that was released: `tests` hold its
//! golden bytes.

pub(crate) mod codec;
#[cfg(test)]
mod tests;
pub(crate) mod v1;

pub use codec::DecodeError;
pub(crate) use v1 as latest;

/// The versions of the peer protocol that a node speaks, both ends included. The newest that both ends
/// of a connection speak is agreed on in its handshake; what a version brings is sent to those who
/// speak it only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

impl Versions {
    /// What this program speaks.
    pub const OURS: Self = Self { oldest: 1, newest: v1::VERSION };

    /// Newest first, as they are offered.
    pub fn offered(self) -> impl Iterator<Item = u8> {
        (self.oldest..=self.newest).rev()
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// Longest frame accepted from a peer. One append frame holds at most [`APPEND_BYTES_TARGET`] of
/// entries, or a single longer one.
pub const FRAME_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Longest command accepted into the log.
pub const COMMAND_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many bytes of entries are gathered into one append frame.
pub(crate) const APPEND_BYTES_TARGET: usize = 1024 * 1024;
/// How many bytes of a file one snapshot frame carries.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
