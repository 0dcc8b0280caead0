//! How a node comes by its master key: from a file, a systemd credential or an open descriptor, from a
//! passphrase, or from an HSM. The configuration says the way ([`UnsealConfig`]); `unseal.json` in the
//! data folder says what that way needs beside its secret ([`Sealing`]).
//!
//! ```text
//! key         the secret is the key itself
//! passphrase  the secret and the salt of unseal.json lead to the key (Argon2id)
//! pkcs11      a key in the HSM opens the sealed key of unseal.json; the secret is the PIN
//! ```
//!
//! Without its master key a node has neither node key nor certificate, so it cannot speak with its
//! peers: it waits ([`wait`]), and says so to whoever asks.

mod backup;
mod door;
mod hsm;
mod rewrap;
mod source;
mod wait;

pub use backup::{BackupKey, key_of_backup};
pub use rewrap::rewrap;
pub use wait::{master_key, master_key_now};

use conclave_storage::seal::{MasterKey, PASSPHRASE_CHARS_MIN, Secret, Stretching};
use serde::{Deserialize, Serialize};

use crate::config::{Config, SecretSource, UnsealConfig};
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, hex, unhex};
use hsm::HsmError;

/// The version of `unseal.json` that this program writes; others are refused.
const VERSION: u32 = 1;

/// `unseal.json`: how a data folder is sealed. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    version: u32,
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase", deny_unknown_fields)]
enum Way {
    Key,
    Passphrase {
        /// Hex.
        salt: String,
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    },
    Pkcs11 {
        /// The master key as the HSM sealed it, hex.
        wrapped: String,
    },
}

impl Way {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Passphrase { .. } => "passphrase",
            Self::Pkcs11 { .. } => "pkcs11",
        }
    }
}

impl Sealing {
    /// That of a folder without `unseal.json`.
    pub fn by_key() -> Self {
        Self { version: VERSION, way: Way::Key }
    }

    /// The way in one word, as [`UnsealConfig::by`] has it.
    pub const fn by(&self) -> &'static str {
        self.way.as_str()
    }

    /// Reads the text of `unseal.json`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        serde_json::from_str(text).map_err(damaged)
    }
}

/// Why `unseal.json` cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another version of it.
    #[error("version {0} is not known here, only {VERSION}; start a newer conclave")]
    Version(u32),
    /// What is wrong with it, in words.
    #[error("{0}")]
    Damaged(String),
}

/// Why there is no master key.
#[derive(Debug)]
pub enum NoKey {
    /// It may come yet: a person types it, or the HSM is back.
    Waits {
        /// For whoever asks.
        what: &'static str,
        /// For the operator.
        why: String,
    },
    /// Somebody has to put something right.
    Failed(Failure),
}

impl From<Failure> for NoKey {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<HsmError> for NoKey {
    fn from(error: HsmError) -> Self {
        match error {
            HsmError::Away(why) => Self::Waits { what: "its HSM does not answer", why },
            HsmError::Wrong(why) => Self::Failed(Failure::new(Exit::Configuration, why)),
        }
    }
}

impl From<NoKey> for Failure {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Waits { why, .. } => Self::new(Exit::Unavailable, why),
            NoKey::Failed(failure) => failure,
        }
    }
}

/// Opens the master key of a folder, and makes sure that it is that folder's. `typed` is what a person
/// has typed. Takes a while: not for the reactor.
///
/// # Errors
/// [`NoKey`]; a wrong secret is a failure that says what to do.
pub fn open(
    config: &UnsealConfig,
    folder: &Folder,
    typed: Option<&Secret>,
) -> Result<MasterKey, NoKey> {
    folder.finish_resealing()?;
    let sealing = folder.sealing()?;
    let master = opened(config, &sealing, typed)?.ok_or_else(|| {
        let (said, found) = (config.by(), sealing.by());
        let text = format!(
            "unseal.by = {said:?} is not how this data folder is sealed, which is {found:?}: put \
             [unseal] back as it was and start the node, then change it and run conclave keys rewrap"
        );
        Failure::new(Exit::Configuration, text)
    })?;
    folder.check_master_key(&master, config.by())?;
    Ok(master)
}

/// The master key that a way leads to; none where the way is another. `given` is the secret, where
/// somebody has brought it already.
fn opened(
    config: &UnsealConfig,
    sealing: &Sealing,
    given: Option<&Secret>,
) -> Result<Option<MasterKey>, NoKey> {
    let read;
    let secret = |what: &str| match given {
        Some(_) => Ok(None),
        None => config.source().line(what).map(Some),
    };
    let master = match (config, &sealing.way) {
        (UnsealConfig::Key(SecretSource::File(path)), Way::Key) if given.is_none() => {
            MasterKey::load(path).context(Exit::Fault, "master key")?
        }
        (UnsealConfig::Key(source), Way::Key) => {
            read = secret("master key")?;
            key_of(given.or(read.as_ref()), source)?
        }
        (UnsealConfig::Passphrase(source), Way::Passphrase { salt, memory_kib, passes, lanes }) => {
            if *source == SecretSource::Typed && given.is_none() {
                return Err(NoKey::Waits {
                    what: "it waits for its passphrase",
                    why: "it waits for its passphrase: run conclave unseal".to_owned(),
                });
            }
            read = secret("passphrase")?;
            let passphrase = given.or(read.as_ref()).ok_or_else(|| missing("passphrase"))?;
            let salt = unhex(salt).ok_or_else(|| damaged("salt is not 32 hex digits"))?;
            let (memory_kib, passes, lanes) = (*memory_kib, *passes, *lanes);
            let stretching = Stretching { salt, memory_kib, passes, lanes };
            stretching.master_key(passphrase).context(Exit::Fault, "unseal.json")?
        }
        (UnsealConfig::Pkcs11(config), Way::Pkcs11 { wrapped }) => {
            let wrapped = unhex_all(wrapped).ok_or_else(|| damaged("wrapped is not hex"))?;
            read = secret("PIN")?;
            let pin = given.or(read.as_ref()).ok_or_else(|| missing("PIN"))?;
            let key = hsm::open(config, pin, &wrapped)?;
            MasterKey::from_secret(&key).context(Exit::Fault, "master key")?
        }
        _ => return Ok(None),
    };
    Ok(Some(master))
}

/// Makes a master key for a folder that is to be sealed in the configured way, or takes the one that is
/// there. `given` is the secret, where somebody has brought it already. Takes a while: not for the
/// reactor.
///
/// # Errors
/// What is missing, and how to bring it.
pub fn make(
    config: &UnsealConfig,
    given: Option<&Secret>,
) -> Result<(MasterKey, Sealing), Failure> {
    let read;
    let secret = |what: &str| match given {
        Some(_) => Ok(None),
        None => config.source().line(what).map(Some),
    };
    let (master, way) = match config {
        UnsealConfig::Key(SecretSource::File(path)) if given.is_none() => {
            let master =
                if path.exists() { MasterKey::load(path) } else { MasterKey::create(path) };
            (master.context(Exit::Configuration, "master key")?, Way::Key)
        }
        UnsealConfig::Key(source) => {
            read = secret("master key")?;
            (key_of(given.or(read.as_ref()), source)?, Way::Key)
        }
        UnsealConfig::Passphrase(_) => {
            read = secret("passphrase")?;
            let (master, stretching) = of_passphrase(given.or(read.as_ref()))?;
            let Stretching { salt, memory_kib, passes, lanes } = stretching;
            (master, Way::Passphrase { salt: hex(&salt), memory_kib, passes, lanes })
        }
        UnsealConfig::Pkcs11(hsm) => {
            let key = Secret::random(32).context(Exit::Fault, "master key")?;
            read = secret("PIN")?;
            let pin = given.or(read.as_ref()).ok_or_else(|| missing("PIN"))?;
            let wrapped = hsm::seal(hsm, pin, &key)?;
            let master = MasterKey::from_secret(&key).context(Exit::Fault, "master key")?;
            (master, Way::Pkcs11 { wrapped: hex(&wrapped) })
        }
    };
    Ok((master, Sealing { version: VERSION, way }))
}

/// [`make`], off the reactor.
///
/// # Errors
/// As that.
pub async fn make_for(
    config: &Config,
    given: Option<Secret>,
) -> Result<(MasterKey, Sealing), Failure> {
    let unseal = config.unseal.clone();
    let making = tokio::task::spawn_blocking(move || make(&unseal, given.as_ref()));
    making.await.context(Exit::Failed, "master key")?
}

/// A key with a fresh salt; too short a passphrase is refused.
fn of_passphrase(passphrase: Option<&Secret>) -> Result<(MasterKey, Stretching), Failure> {
    let passphrase = passphrase.ok_or_else(|| missing("passphrase"))?;
    let text = std::str::from_utf8(passphrase.expose_secret());
    let chars = text.map_or(passphrase.len(), |text| text.chars().count());
    if chars < PASSPHRASE_CHARS_MIN {
        let text = format!(
            "the passphrase has {chars} characters; use at least {PASSPHRASE_CHARS_MIN}: who has a copy \
             of the disk may guess for as long as he likes"
        );
        return Err(Failure::new(Exit::Refused, text));
    }
    let stretching = Stretching::new().context(Exit::Fault, "salt")?;
    let master = stretching.master_key(passphrase).context(Exit::Fault, "passphrase")?;
    Ok((master, stretching))
}

fn key_of(text: Option<&Secret>, source: &SecretSource) -> Result<MasterKey, Failure> {
    let text = text.ok_or_else(|| missing("master key"))?;
    MasterKey::from_text(text.expose_secret(), &source.to_string())
        .context(Exit::Configuration, "master key")
}

fn missing(what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("no {what} was given"))
}

fn damaged(what: &str) -> Failure {
    let text = format!("unseal.json is damaged: {what}; restore it from a backup");
    Failure::new(Exit::Fault, text)
}

fn unhex_all(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_folder_is_sealed_reads_back_and_newer_ways_are_refused() {
        for text in [
            r#"{"version":1,"way":{"by":"key"}}"#,
            r#"{"version":1,"way":{"by":"passphrase","salt":"00","memory_kib":65536,"passes":3,"lanes":1}}"#,
            r#"{"version":1,"way":{"by":"pkcs11","wrapped":"00ff"}}"#,
        ] {
            let sealing = Sealing::parse(text).unwrap();
            assert_eq!(serde_json::to_string(&sealing).unwrap(), text);
        }
        assert_eq!(Sealing::parse(r#"{"version":1,"way":{"by":"key"}}"#), Ok(Sealing::by_key()));
        let newer = Sealing::parse(r#"{"version":2,"way":{"by":"thought"}}"#).unwrap_err();
        let newer = newer.to_string();
        assert!(newer.contains("version 2") && newer.contains("newer conclave"), "{newer}");
        for damaged in ["", "{}", r#"{"version":1,"way":{"by":"thought"}}"#] {
            assert!(Sealing::parse(damaged).is_err(), "{damaged}");
        }
        assert_eq!(unhex_all("00ff"), Some(vec![0, 255]));
        assert!(unhex_all("0").is_none() && unhex_all("0g").is_none() && unhex_all("é").is_none());
    }
}
