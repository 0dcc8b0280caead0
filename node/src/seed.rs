//! The seed file: what a node needs to join. A JSON file, mode 0600, versioned; it holds the
//! cluster's key and a one-use token, so it is as secret as a master key until it has been used.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exit::{Context, Exit, Failure};

/// The version this program writes; others are refused.
const SEED_VERSION: u32 = 1;
/// A seed is a few kilobytes; more is not one.
const SEED_BYTES_MAX: u64 = 1 << 20;

/// The contents of a seed file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Format version.
    pub version: u32,
    /// The cluster it is good for.
    pub cluster_id: String,
    /// The name that the joining node must take.
    pub name: String,
    /// `voter` or `follower`.
    pub role: SeedRole,
    /// One-use token, base64.
    pub token: String,
    /// Peer addresses of the voters at the time of issue.
    pub peers: Vec<String>,
    /// Roots of the cluster's authority, PEM.
    pub root_pem: String,
    /// What the node presents until it has the state, with what leads to a root, PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
}

/// The part that the joining node will play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SeedRole {
    /// Votes, and may lead.
    Voter,
    /// Replicates and answers reads; never votes.
    Follower,
}

impl From<SeedRole> for conclave_domain::records::MemberRole {
    fn from(role: SeedRole) -> Self {
        match role {
            SeedRole::Voter => Self::Voter,
            SeedRole::Follower => Self::Follower,
        }
    }
}

impl From<conclave_domain::records::MemberRole> for SeedRole {
    fn from(role: conclave_domain::records::MemberRole) -> Self {
        match role {
            conclave_domain::records::MemberRole::Voter => Self::Voter,
            conclave_domain::records::MemberRole::Follower => Self::Follower,
        }
    }
}

impl SeedRole {
    /// The role as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Follower => "follower",
        }
    }
}

impl Seed {
    /// The current format version.
    pub const VERSION: u32 = SEED_VERSION;

    /// Reads a seed file. It must be readable by its owner only.
    ///
    /// # Errors
    /// When the file is absent, open to others, of another version, or no seed.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let what = format!("seed file {}", path.display());
        let metadata = std::fs::metadata(path).context(Exit::Configuration, &what)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(Failure::new(
                Exit::Configuration,
                format!(
                    "{what} can be read by others than its owner; run: chmod 600 {}",
                    path.display()
                ),
            ));
        }
        if metadata.len() > SEED_BYTES_MAX {
            return Err(Failure::new(
                Exit::Configuration,
                format!("{what} is too large for a seed"),
            ));
        }
        let text = zeroize::Zeroizing::new(
            std::fs::read_to_string(path).context(Exit::Configuration, &what)?,
        );
        Self::parse(&text)
            .map_err(|message| Failure::new(Exit::Configuration, format!("{what}: {message}")))
    }

    /// Parses the text of a seed file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } =
            serde_json::from_str(text).map_err(|error| format!("not a seed: {error}"))?;
        if version != SEED_VERSION {
            return Err(format!(
                "version {version} is not known here, only {SEED_VERSION}; use the conclave that issued it"
            ));
        }
        serde_json::from_str(text).map_err(|error| format!("not a seed: {error}"))
    }

    /// Writes a seed file that only its owner can read. Refuses to overwrite.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let what = format!("seed file {}", path.display());
        let text =
            zeroize::Zeroizing::new(serde_json::to_vec_pretty(self).context(Exit::Failed, &what)?);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .context(Exit::Configuration, &what)?;
        file.write_all(&text).context(Exit::Configuration, &what)?;
        file.sync_all().context(Exit::Configuration, &what)
    }
}
