//! The door, tried from outside: a router over the real rules and the real state store, in memory,
//! with agreement played by one thread.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod compatibility;
mod fuzz;
mod harness;
mod load;
<<<<<<< HEAD
mod matrix;
mod negative;
mod openapi;
=======
mod policies;
>>>>>>> 7f0f6b2 (Loads of one account take turns, compare with the state in small pieces, keep the operator's rules and can say what an append left alone)
mod properties;
mod scenario;
mod server;
mod tokens;
mod walk;
