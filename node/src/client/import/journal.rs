//! What an import has done so far, kept beside it, so that one that was cut off goes on where it was.
//!
//! One JSON object a line: first whose journal it is, then each thing done. It holds no value and no
//! digest of one; whether the file of values is still the same is told by its length and time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Context, Exit, Failure};

/// The version of the lines.
const VERSION: u32 = 1;

/// Whose journal it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The version of the lines.
    version: u32,
    /// The server.
    pub(super) url: String,
    /// The account.
    pub(super) account: String,
    /// Length and time of the file of values, where there is one.
    pub(super) values: Option<Stamp>,
}

impl Header {
    /// For an import into an account of a server.
    pub(super) fn new(url: &str, account: &str, values: Option<Stamp>) -> Self {
        Self { version: VERSION, url: url.to_owned(), account: account.to_owned(), values }
    }
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    modified_ns: u128,
}

impl Stamp {
    /// Of a file as it is now.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        let metadata = fs::metadata(path).context(Exit::Configuration, path.display())?;
        let modified = metadata.modified().context(Exit::Configuration, path.display())?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Self { bytes: metadata.len(), modified_ns: since.as_nanos() })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Import(Header),
    Policy { name: String, branch: String, sha256: String },
    Value(String),
}

/// The journal of one import.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    policies: BTreeMap<(String, String), String>,
    values: BTreeSet<String>,
}

impl Journal {
    /// Opens the journal, or starts it.
    ///
    /// # Errors
    /// When it belongs to another import, or is none.
    pub(super) fn open(path: &Path, header: &Header) -> Result<Self, Failure> {
        let before = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(Exit::Configuration, path.display()),
        };
        let mut policies = BTreeMap::new();
        let mut values = BTreeSet::new();
        let mut known: Option<Header> = None;
        // A line without an end was being written when the import was cut off.
        let whole = before.rfind('\n').map_or("", |at| &before[..=at]);
        for (number, text) in whole.lines().enumerate() {
            let line: Line = serde_json::from_str(text).map_err(|error| {
                let number = number + 1;
                Failure::new(
                    Exit::Configuration,
                    format!("{}:{number}: not a journal of an import: {error}", path.display()),
                )
            })?;
            match line {
                Line::Import(header) => known = Some(header),
                Line::Policy { name, branch, sha256 } => {
                    policies.insert((name, branch), sha256);
                }
                Line::Value(id) => {
                    values.insert(id);
                }
            }
        }
        if let Some(known) = &known {
            if (known.version, &known.url, &known.account)
                != (VERSION, &header.url, &header.account)
            {
                return Err(Failure::new(
                    Exit::Configuration,
                    format!(
                        "{} is the journal of an import into account {} of {}; name another with \
                         --journal, or delete it",
                        path.display(),
                        known.account,
                        known.url
                    ),
                ));
            }
            if known.values != header.values {
                // Another file of values: what stands on the server is compared again.
                values.clear();
            }
        }
        let is_fresh = known.as_ref() != Some(header);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .context(Exit::Configuration, path.display())?;
        file.set_len(whole.len() as u64).context(Exit::Configuration, path.display())?;
        let mut journal = Self { path: path.to_owned(), file, policies, values };
        if is_fresh {
            // Read back, only the lines after the newest such line count for values.
            journal.rewrite(header)?;
        }
        Ok(journal)
    }

    /// Starts the file anew with what still counts.
    fn rewrite(&mut self, header: &Header) -> Result<(), Failure> {
        self.file.set_len(0).context(Exit::Configuration, self.path.display())?;
        self.write(&Line::Import(header.clone()))?;
        let policies: Vec<_> = self.policies.clone().into_iter().collect();
        for ((name, branch), sha256) in policies {
            self.write(&Line::Policy { name, branch, sha256 })?;
        }
        let values: Vec<_> = self.values.iter().cloned().collect();
        for id in values {
            self.write(&Line::Value(id))?;
        }
        self.sync()
    }

    /// Whether this text is in this branch already.
    pub(super) fn has_policy(&self, name: &str, branch: &str, sha256: &str) -> bool {
        let key = (name.to_owned(), branch.to_owned());
        self.policies.get(&key).is_some_and(|known| known == sha256)
    }

    /// Whether this variable has its value already.
    pub(super) fn has_value(&self, id: &str) -> bool {
        self.values.contains(id)
    }

    /// Remembers a text that is in.
    pub(super) fn policy_done(
        &mut self,
        name: &str,
        branch: &str,
        sha256: &str,
    ) -> Result<(), Failure> {
        let (name, branch, sha256) = (name.to_owned(), branch.to_owned(), sha256.to_owned());
        self.write(&Line::Policy { name, branch, sha256 })?;
        self.sync()
    }

    /// Remembers a value that is in.
    pub(super) fn value_done(&mut self, id: &str) -> Result<(), Failure> {
        self.write(&Line::Value(id.to_owned()))
    }

    /// Makes everything remembered so far outlive a crash of the machine.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        self.file.sync_data().context(Exit::Configuration, self.path.display())
    }

    /// Removes the journal: everything is in.
    pub(super) fn finish(self) -> Result<(), Failure> {
        fs::remove_file(&self.path).context(Exit::Configuration, self.path.display())
    }

    fn write(&mut self, line: &Line) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(line).context(Exit::Failed, "journal")?;
        text.push(b'\n');
        self.file.write_all(&text).context(Exit::Configuration, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(url: &str, bytes: u64) -> Header {
        Header::new(url, "dev", Some(Stamp { bytes, modified_ns: 1 }))
    }

    #[test]
    fn what_was_done_is_known_again_and_half_a_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path, &header("https://a", 1)).unwrap();
        journal.policy_done("a.yml", "root", "00").unwrap();
        journal.value_done("x").unwrap();
        drop(journal);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"value\":\"y");
        fs::write(&path, text).unwrap();
        let mut journal = Journal::open(&path, &header("https://a", 1)).unwrap();
        assert!(journal.has_policy("a.yml", "root", "00") && journal.has_value("x"));
        assert!(!journal.has_policy("a.yml", "root", "01") && !journal.has_value("y"));
        journal.value_done("z").unwrap();
        drop(journal);
        // Other values: those done before say nothing, policies do.
        let journal = Journal::open(&path, &header("https://a", 2)).unwrap();
        assert!(journal.has_policy("a.yml", "root", "00") && !journal.has_value("z"));
        drop(journal);
        assert!(!Journal::open(&path, &header("https://a", 1)).unwrap().has_value("x"));
        let message = Journal::open(&path, &header("https://b", 1)).err().unwrap().message;
        assert!(message.contains("--journal"), "{message}");
    }
}
