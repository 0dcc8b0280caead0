//! What can go wrong in a benchmark. Every kind ends the run: a number from a broken run is worse than none.

use std::io;
use std::path::PathBuf;

/// Why a run ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A server under test ended, or was not ready in time.
    #[error("{name} {what}; the end of its log:\n{log}")]
    Server {
        /// Which server.
        name: String,
        /// What it did.
        what: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// A server answered what the benchmark did not ask for.
    #[error("{name}: {request} was answered {status}: {body}")]
    Answer {
        /// Which server.
        name: String,
        /// Method and path.
        request: String,
        /// The status of the answer.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// A package is missing and could not be installed.
    #[error("{package} is missing and could not be installed: {why}")]
    Install {
        /// The package, by its name in its registry.
        package: String,
        /// What the installer said.
        why: String,
    },
    /// The workload cannot be run against that peer, or the arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// TLS material could not be made or used.
    #[error("TLS material: {0}")]
    Tls(String),
    /// The load had failures, so that its rate says nothing.
    #[error("{name}: {failed} of {sent} requests failed; the first: {first}")]
    Failures {
        /// Which server.
        name: String,
        /// How many failed.
        failed: u64,
        /// How many were sent.
        sent: u64,
        /// The first failure.
        first: String,
    },
}

impl Fault {
    /// Names what was tried when `source` happened; for `map_err`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The same for something about a file or folder.
    pub fn path(verb: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("cannot {verb} {}", path.into().display()))
    }

    /// The text with every cause after it, for the last line that a person reads.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }
}
