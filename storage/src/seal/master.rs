//! The master key: 32 bytes that wrap the root key at rest and seal what belongs to this node alone. In a
//! file that only its owner may read it is 64 hex digits on one line; it may come from elsewhere, too.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::Secret;
use super::aead::{SealingKey, label_aad, subkey};
use crate::bytes_io::{Reader, hex};
use crate::disk::read_small;
use crate::error::Fault;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;

/// A node's master key.
pub struct MasterKey {
    key: SealingKey,
    id: [u8; KEY_ID_BYTES],
}

impl MasterKey {
    /// Makes a new key file with mode 0600; an existing one is never overwritten.
    ///
    /// # Errors
    /// [`Fault::Io`] when the file exists already or cannot be written.
    pub fn create(path: &Path) -> Result<Self, Fault> {
        let secret = Secret::random(32)?;
        let digits = Zeroizing::new(hex(secret.expose_secret()));
        let text = Zeroizing::new(format!("{}\n", *digits));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| Fault::io("create", path, error))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| Fault::io("write", path, error))?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| Fault::io("sync", folder, error))?;
        }
        Self::from_secret(&secret)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`Fault::Key`] when others may read or write the file, or it holds no key; [`Fault::Io`].
    pub fn load(path: &Path) -> Result<Self, Fault> {
        let shown = path.display();
        let meta = std::fs::metadata(path).map_err(|error| Fault::io("open", path, error))?;
        if !meta.is_file() {
            return Err(Fault::Key(format!("master key {shown} is not a file")));
        }
        if meta.mode() & 0o077 != 0 {
            let mode = meta.mode() & 0o777;
            return Err(Fault::Key(format!(
                "master key {shown} is open to others (mode {mode:03o}): run chmod 600 {shown}, and \
                 if others could have read it, make a new one and rotate the keys"
            )));
        }
        let text = Zeroizing::new(read_small(path, 1024)?);
        Self::from_text(&text, &format!("master key {shown}"))
    }

    /// A key from the text of a key file, which `what` calls by name.
    ///
    /// # Errors
    /// [`Fault::Key`] when it is no key.
    pub fn from_text(text: &[u8], what: &str) -> Result<Self, Fault> {
        let key = decode_hex(text.trim_ascii())
            .ok_or_else(|| Fault::Key(format!("{what} does not hold 64 hex digits on one line")))?;
        Self::from_secret(&key)
    }

    /// A key from its 32 bytes (from a key store, say).
    ///
    /// # Errors
    /// [`Fault::Key`] for any other length.
    pub fn from_secret(secret: &Secret) -> Result<Self, Fault> {
        let key = secret.key("the master key")?;
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&subkey(&key, "conclave master key id")[..KEY_ID_BYTES]);
        Ok(Self { key: SealingKey::new(&subkey(&key, "conclave master seal v1")), id })
    }

    /// A short name of the key that tells nothing about it.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// The short name of the key that sealed something; none when it does not say.
    pub fn id_of(sealed: &[u8]) -> Option<String> {
        Some(hex(sealed.get(1..=KEY_ID_BYTES)?))
    }

    /// Seals something that belongs to this node: `label` says what, and must be said again to open it.
    ///
    /// # Errors
    /// [`Fault::Key`].
    // version | id of the master key (8) | sealed
    pub fn seal(&self, label: &str, secret: &Secret) -> Result<Vec<u8>, Fault> {
        let mut header = vec![VERSION];
        header.extend_from_slice(&self.id);
        self.key.seal(header, &label_aad(VERSION, label), secret.expose_secret())
    }

    /// Opens what [`MasterKey::seal`] made under the same label.
    ///
    /// # Errors
    /// [`Fault::Key`] when it was sealed under another master key, saying which;
    /// [`Fault::Unsealable`]; [`Fault::TooNew`].
    pub fn open(&self, label: &str, sealed: &[u8]) -> Result<Secret, Fault> {
        let mut reader = Reader::new(sealed, "a blob sealed by the master key");
        reader.version(VERSION)?;
        let id: [u8; KEY_ID_BYTES] = reader.array()?;
        if id != self.id {
            let (sealed_by, ours) = (hex(&id), self.id());
            return Err(Fault::Key(format!(
                "the {label} was sealed by master key {sealed_by}, this is master key {ours}: point \
                 the node at the master key file, passphrase or HSM that it was set up with"
            )));
        }
        self.key.open(reader.rest(), &label_aad(VERSION, label), &|| format!("the {label}"))
    }
}

fn decode_hex(text: &[u8]) -> Option<Secret> {
    if text.len() != 64 {
        return None;
    }
    let mut key = Zeroizing::new(Vec::with_capacity(32));
    for pair in text.chunks_exact(2) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        key.push(u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?);
    }
    Some(Secret::new(std::mem::take(&mut *key)))
}
