//! Whole members in one process, over real QUIC on loopback and real storage.

mod identity;
mod lifecycle;
mod support;
