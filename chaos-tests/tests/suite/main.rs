//! Each kind of drill and the simulation, once and small. The long runs are made by hand with the
//! same commands and larger numbers.

mod drills;
mod simulation;
