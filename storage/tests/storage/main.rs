//! What the keeping promises, tried on the simulated disk and on RocksDB: golden bytes, crashes at
//! every durable step, damaged files, snapshots, keys.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::format_collect,
    reason = "a test that cannot go on has failed, and hexadecimal text is short"
)]

mod backups;
mod crash;
mod damage;
mod decoders;
mod fixtures;
mod golden;
mod log;
mod seal;
mod snapshots;
mod state;
