//! A whole cluster on one machine: real child processes of this very program, on loopback or in
//! network namespaces. [`DevCluster`] is what `conclave dev`, the drills and the benchmarks use.

mod cluster;
mod command;
mod layout;

pub use cluster::{ClusterOptions, DevCluster, NodeOptions, NodeSnapshot, Reexec};
pub use command::{CommandOptions, command};
pub use layout::Timing;
