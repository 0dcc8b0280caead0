//! Load generator of Conclave and of the peers it is measured against.
//!
//! One run starts a server on loopback (Conclave's own development cluster, or a peer with the same
//! durability, TLS and value size), drives it with the same generator, and reports medians and ratios
//! together with what the machine could do in the same minute.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the arguments, and the run from start to exit code |
//! | [`wire`] | one keep-alive connection: HTTP/1.1, or gRPC over HTTP/2, with requests built beforehand |
//! | [`load`] | closed loop (the peak) and open loop (latency from the intended start) |
//! | [`subject`] | what is measured: `conclave`, `etcd`, `openbao`, `nginx`, each started and stopped here |
//! | [`contest`] | rounds A/B/A/B of two subjects |
//! | [`calibrate`] | fsync latency and RSA signing rate of this machine, now |
//! | [`usage`] | processor time and bytes written of server processes, and of the machine as a whole |
//! | [`report`] | medians, ratios and limits, as text and as JSON |
//! | [`layers`] | single layers without network |
//! | [`scale`] | growth over three decades of secrets and roles |
//! | [`histogram`] | latencies in buckets of under one per cent |
//! | [`process`], [`tls`], [`install`], [`scratch`] | child processes, certificates, packages, folders |
//!
//! What is absent: no assertion about speed. A report states; `results/README.md` says how to read it.

#![expect(
    clippy::cast_precision_loss,
    reason = "counts and times of a run stay far below 2^52, where a float is exact"
)]

pub mod calibrate;
pub mod cli;
pub mod contest;
pub mod fault;
pub mod histogram;
pub mod install;
pub mod layers;
pub mod load;
pub mod process;
pub mod report;
pub mod scale;
pub mod scratch;
pub mod subject;
pub mod tls;
pub mod usage;
pub mod wire;

pub use fault::Fault;
