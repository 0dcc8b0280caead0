//! Whole members in one process, over real QUIC on loopback and real storage.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a failure is a panic, and ids are small"
)]

mod identity;
mod lifecycle;
mod refusals;
mod support;
mod versions;
