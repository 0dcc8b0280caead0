//! Real nodes as child processes of the drill, and the ways to hurt them.
//!
//! - [`cluster`]: founds a cluster through the public command line, starts and stops nodes, waits
//!   for health; [`node`]: one node's process
//! - [`network`]: namespaces on a bridge, so that a node can be cut off; [`disk`]: a file system of
//!   its own for each node, so that its power can be cut
//! - [`balancer`]: HAProxy before the voters; [`directory`]: OpenLDAP's server, which they may ask;
//!   [`authority`]: certificates made on the spot
//! - [`shell`]: commands of the system, and undoing what they did, whatever happens
//!
//! Safety: traffic goes to loopback or to namespaces made here; only processes started here are
//! signalled, by their own id; every mount, loop device and namespace is undone on drop.

pub mod authority;
pub mod balancer;
pub mod cluster;
pub mod directory;
pub mod disk;
pub mod network;
pub mod node;
pub mod shell;
