//! How a command ends: the exit codes that scripts may rely on, and the one error type of the
//! command line. Inner rooms know neither.

use std::fmt;
use std::process::ExitCode;

/// What an exit code means. The numbers are part of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that none of the others names.
    Failed = 1,
    /// The command line itself is wrong.
    Usage = 2,
    /// A configuration, seed or credentials file is wrong or missing.
    Configuration = 3,
    /// Not logged in, or the credentials were refused (401).
    Unauthenticated = 4,
    /// Logged in, and not allowed (403).
    Forbidden = 5,
    /// Not there, or not visible to the caller (404).
    NotFound = 6,
    /// The server refused the request as it stands (other 4xx).
    Refused = 7,
    /// No server answered, or it cannot serve now (503, time-out); worth a retry.
    Unavailable = 8,
    /// The node met a fault (disk, corruption, wrong key) and stopped itself.
    Fault = 70,
    /// Whoever read the output closed it before its end, as `head` does. Nothing is said about it, and
    /// the code is the one that a shell shows for other programs then.
    Unread = 141,
}

/// The table of exit codes, as `--help` shows it.
pub const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 usage; 3 configuration or file; \
4 not authenticated; 5 forbidden; 6 not found; 7 refused by the server; 8 unavailable, try again; \
70 the node stopped on a fault; 141 the output was not read to its end.";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do its work: a code for scripts, a text for people.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub exit: Exit,
    /// One line that names the fault and, where there is one, the way out.
    pub message: String,
}

impl Failure {
    /// Builds a failure from a code and anything that has a text.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Puts a code and a few words in front of an inner error.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] with `exit`, its text led by `what`.
    ///
    /// # Errors
    /// The failure.
    fn context(self, exit: Exit, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Context<T> for Result<T, E> {
    fn context(self, exit: Exit, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, format!("{what}: {}", chain(&error))))
    }
}

/// An error and its sources in one line; a source that repeats the text before it is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
