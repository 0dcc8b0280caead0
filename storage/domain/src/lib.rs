//! The rules of Conclave, pure: no async, clock, randomness, files, sockets or database.
//!
//! Read in this order: [`id`] and [`time`] (names and places), [`records`] (what state is made of),
//! [`state`] (the state in memory, and the questions it answers), [`rbac`] (who may do what),
//! [`command`] (what may be asked), [`decide`] (command to events, or a rejection), [`event`] (what
//! happened), [`evolve`] (event to effects), [`host_factory`] (hosts that enrol themselves), [`effect`] (writes), [`policy`] (policy text to events), [`audit`] (the chain of audit records).
//! What the byte formats share is in [`codec`].
//!
//! Invariants: deciding and evolving depend on nothing but their arguments, so every node that
//! applies the same log holds the same state; a rejected command changes nothing; the actor's
//! permission is checked again here, whatever the door said.

pub mod audit;
pub mod certificates;
pub mod codec;
pub mod command;
pub mod decide;
pub mod duration;
pub mod effect;
pub mod event;
pub mod evolve;
pub mod host_factory;
pub mod id;
pub mod level;
pub mod outcome;
pub mod policy;
pub mod rbac;
pub mod records;
pub mod state;
pub mod time;
