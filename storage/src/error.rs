//! Faults: disk, corruption, a format too new. A fault stops the node; its text says what to do.

use std::path::{Path, PathBuf};

/// Something under the rules went wrong. Whoever gets one stops using the store that gave it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused a file operation.
    #[error(
        "{action} {path}: check the disk (space, permissions, kernel log), then start the node again"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database refused an operation.
    #[error(
        "database {path}: {message}; the node stops and verifies its data at the next start. If it fails again, check the disk and rebuild the node from the cluster"
    )]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What the database said.
        message: String,
    },
    /// An earlier write failed, so nothing more may be written.
    #[error("{path} stopped after an earlier write error; restart the node")]
    Stopped {
        /// The database's folder.
        path: PathBuf,
    },
    /// Bytes at rest are not what was written.
    #[error(
        "{what} is damaged: {detail}. Do not use this copy: remove the node from the cluster, empty its data folder and join it again"
    )]
    Corrupt {
        /// Which bytes.
        what: String,
        /// How it shows.
        detail: String,
    },
    /// The disk holds less than this node is known to have had: an old copy was put back, or synced
    /// data went missing.
    #[error(
        "the data folder is older than what this node had already promised: {detail}. It must not vote: remove the node from the cluster, empty its data folder and join it again"
    )]
    OldDisk {
        /// What is missing.
        detail: String,
    },
    /// Written by a newer version.
    #[error(
        "{what} has format {found}, this program knows up to {known}: start a newer version of conclave on this data folder"
    )]
    TooNew {
        /// Which bytes.
        what: String,
        /// Their version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Another process holds the data folder.
    #[error(
        "{path} is in use by another process: stop that one first, or choose another data folder"
    )]
    Locked {
        /// The data folder.
        path: PathBuf,
    },
    /// Asked for log entries that are not there.
    #[error("log entries {from}..{to} are not all there (the log holds {first}..={last})")]
    Missing {
        /// First index asked for.
        from: u64,
        /// One past the last index asked for.
        to: u64,
        /// First index held.
        first: u64,
        /// Last index held.
        last: u64,
    },
    /// The caller broke the order that the store relies on.
    #[error("{0}")]
    Order(String),
    /// A key, or ciphertext, was refused; the text says what to do.
    #[error("{0}")]
    Key(String),
    /// Ciphertext did not open.
    #[error(
        "{what} does not open: it was changed, moved from elsewhere, or sealed under another key. Put the right one back; failing that, remove the node from the cluster, empty its data folder and join it again"
    )]
    Unsealable {
        /// What was to be opened.
        what: String,
    },
    /// A committed command has bytes that this program cannot read.
    #[error(
        "log entry {index} holds a command that cannot be read: {detail}. If the cluster is being upgraded, upgrade this node too; otherwise rebuild it from the cluster"
    )]
    Command {
        /// Its index.
        index: u64,
        /// Why.
        detail: String,
    },
    /// Made up by an armed fail point.
    #[error("injected at fail point {0}")]
    Injected(String),
}

impl Fault {
    /// An operating-system error on a path.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Damage found in `what`.
    pub fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.into() }
    }
}
