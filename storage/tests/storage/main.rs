//! What the keeping promises, tried on the simulated disk and on RocksDB: golden bytes, crashes at
//! every durable step, damaged files, snapshots, keys.

mod crash;
mod damage;
mod decoders;
mod fixtures;
mod golden;
mod log;
mod seal;
mod snapshots;
mod state;
