//! The section `[unseal]`: the way in which the node comes by its master key.

use std::fmt;
use std::path::{Path, PathBuf};

use super::checked::{ConfigError, invalid, path_in};
use super::raw::RawUnseal;

/// The way to the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnsealConfig {
    /// The secret is the key.
    Key(SecretSource),
    /// The secret is a passphrase.
    Passphrase(SecretSource),
    /// The secret is the PIN of an HSM that opens the key.
    Pkcs11(Pkcs11Config),
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that only its owner may read.
    File(PathBuf),
    /// What systemd puts into the folder that `CREDENTIALS_DIRECTORY` names, under this name.
    Credential(String),
    /// An open descriptor, whose number the environment variable of this name holds.
    Descriptor(String),
    /// A person types it.
    Typed,
}

/// An HSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The library that speaks with it.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The label of the AES key in it.
    pub key: String,
    /// Where the PIN comes from.
    pub pin: SecretSource,
}

impl UnsealConfig {
    /// The way in one word.
    pub const fn by(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Passphrase(_) => "passphrase",
            Self::Pkcs11(_) => "pkcs11",
        }
    }

    /// Where its secret comes from.
    pub const fn source(&self) -> &SecretSource {
        match self {
            Self::Key(source) | Self::Passphrase(source) => source,
            Self::Pkcs11(config) => &config.pin,
        }
    }
}

impl fmt::Display for UnsealConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(source) => write!(f, "key: {source}"),
            Self::Passphrase(source) => write!(f, "passphrase: {source}"),
            Self::Pkcs11(config) => {
                let Pkcs11Config { token, key, pin, .. } = config;
                write!(f, "pkcs11: token {token:?}, key {key:?}, PIN: {pin}")
            }
        }
    }
}

/// The label of the key in the HSM where none is given.
const KEY_LABEL: &str = "conclave";

/// Checks the section, or what stands in its place: `node.master_key_file`.
pub(super) fn checked(
    raw: Option<RawUnseal>,
    master_key_file: Option<&str>,
    data: &Path,
    folder: &Path,
) -> Result<UnsealConfig, ConfigError> {
    let (raw, file_key) = match (raw, master_key_file) {
        (Some(_), Some(file)) => {
            let fix = "take it out, since [unseal] says where the master key comes from";
            return Err(invalid("node.master_key_file", file, fix));
        }
        (None, None) => {
            let fix = "name the file of the master key, or write a section [unseal]";
            return Err(invalid("node.master_key_file", "", fix));
        }
        (None, Some(file)) => {
            let raw = RawUnseal {
                by: "key".to_owned(),
                file: Some(file.to_owned()),
                ..RawUnseal::default()
            };
            (raw, "node.master_key_file")
        }
        (Some(raw), None) => (raw, "unseal.file"),
    };
    let source = source(&raw, file_key, data, folder)?;
    let hsm =
        [("unseal.module", &raw.module), ("unseal.token", &raw.token), ("unseal.key", &raw.key)];
    if raw.by != "pkcs11"
        && let Some((key, Some(value))) = hsm.into_iter().find(|(_, value)| value.is_some())
    {
        return Err(invalid(key, value, "take it out, or write unseal.by = \"pkcs11\""));
    }
    match (raw.by.as_str(), source) {
        ("key", SecretSource::Typed) => {
            let fix = "say where the key is: file, credential or descriptor";
            Err(invalid("unseal.by", "key", fix))
        }
        ("key", source) => Ok(UnsealConfig::Key(source)),
        ("passphrase", source) => Ok(UnsealConfig::Passphrase(source)),
        ("pkcs11", SecretSource::Typed) => {
            let fix = "say where the PIN is: file, credential or descriptor";
            Err(invalid("unseal.by", "pkcs11", fix))
        }
        ("pkcs11", pin) => {
            let module = raw.module.unwrap_or_default();
            if !Path::new(&module).is_absolute() {
                let fix = "write the whole path of the HSM's PKCS#11 library, such as \
                           \"/usr/lib/softhsm/libsofthsm2.so\"";
                return Err(invalid("unseal.module", module, fix));
            }
            let token = raw.token.unwrap_or_default();
            if token.is_empty() {
                return Err(invalid("unseal.token", "", "write the label of the HSM's token"));
            }
            let key = raw.key.unwrap_or_else(|| KEY_LABEL.to_owned());
            if key.is_empty() {
                return Err(invalid("unseal.key", "", "write the label of a key in the token"));
            }
            Ok(UnsealConfig::Pkcs11(Pkcs11Config { module: module.into(), token, key, pin }))
        }
        (other, _) => {
            Err(invalid("unseal.by", other, "write \"key\", \"passphrase\" or \"pkcs11\""))
        }
    }
}

fn source(
    raw: &RawUnseal,
    file_key: &'static str,
    data: &Path,
    folder: &Path,
) -> Result<SecretSource, ConfigError> {
    let named = [&raw.file, &raw.credential, &raw.descriptor];
    if named.iter().filter(|one| one.is_some()).count() > 1 {
        let fix = "name one of file, credential and descriptor";
        return Err(invalid("unseal", "several sources", fix));
    }
    if let Some(text) = &raw.file {
        let file = path_in(folder, file_key, text)?;
        if file.starts_with(data) {
            let fix = "keep it outside node.data, so that a copy of the data alone opens nothing";
            return Err(invalid(file_key, file.display(), fix));
        }
        return Ok(SecretSource::File(file));
    }
    if let Some(name) = &raw.credential {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(fits) {
            let fix = "write a name as it stands in LoadCredential= of the unit";
            return Err(invalid("unseal.credential", name, fix));
        }
        return Ok(SecretSource::Credential(name.clone()));
    }
    if let Some(variable) = &raw.descriptor {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if variable.is_empty() || !variable.chars().all(fits) {
            let fix =
                "write the name of an environment variable that holds the descriptor's number";
            return Err(invalid("unseal.descriptor", variable, fix));
        }
        return Ok(SecretSource::Descriptor(variable.clone()));
    }
    Ok(SecretSource::Typed)
}
