//! Each kind of drill and the simulation, once and small. The long runs are made by hand with the
//! same commands and larger numbers.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod drills;
mod simulation;
