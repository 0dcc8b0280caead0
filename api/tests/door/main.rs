//! The door, tried from outside: a router over the real rules and the real state store, in memory,
//! with agreement played by one thread.

mod harness;
mod load;
mod properties;
mod scenario;
mod tokens;
mod walk;
