//! The client side of the command line: the verbs that Conjur users know, over the public API.
//! Settings come from the environment and `.conjurrc` ([`settings`]), credentials from the
//! environment and `.netrc` ([`netrc`]); [`api`] speaks HTTPS.

pub mod api;
mod commands;
pub mod netrc;
pub mod settings;

pub use commands::{
    AuthenticateArgs, InitArgs, ListArgs, LoginArgs, PolicyCommand, PolicyLoadArgs,
    VariableCommand, VariableGetArgs, VariableSetArgs, authenticate, init, list, login, logout,
    policy, variable, whoami,
};
