//! Proof that Conclave keeps its promises when things break.
//!
//! - [`history`]: what clients asked and were told; [`checker`]: the judges of it, one invariant a file
//! - [`workload`]: the recorded load on real nodes; [`client`]: the HTTPS client that never retries;
//!   [`clients`]: those of a load balancer, who do
//! - [`process`]: real nodes as child processes, and the ways to hurt them; [`drill`]: what is done
//!   with them, and the report
//! - [`sim`]: whole clusters in one thread, with simulated network, disks and time
//! - [`rng`]: the seed of every run
//!
//! Words: a *drill* breaks real processes, a *simulation* breaks simulated ones; a *trial* is one
//! fault with what follows. A verdict is *valid*, *invalid* (an invariant broke) or *unknown* (the
//! fault had no effect, or too little was seen); unknown is not a pass.

pub mod checker;
pub mod client;
pub mod clients;
pub mod drill;
pub mod history;
pub mod process;
pub mod rng;
pub mod sim;
pub mod stopwatch;
pub mod workload;
