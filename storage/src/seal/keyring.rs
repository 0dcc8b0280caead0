//! The root key of a cluster, and the keyring under it: one data key for each generation, the newest
//! seals, all open. The keyring lies wrapped in the replicated state, the root key under each node's
//! master key.

use std::collections::BTreeMap;

use conclave_domain::records::{Sealed, WrappedKeyring};
use zeroize::Zeroizing;

use super::aead::{SealingKey, label_aad, subkey};
use super::{MasterKey, Secret};
use crate::bytes_io::{Reader, hex, len_u32};
use crate::error::Fault;

const VERSION: u8 = 1;
const ROOT_LABEL: &str = "root key";
const KEYRING_LABEL: &str = "keyring";

/// The cluster's root key.
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    /// What it is sealed for under a master key.
    pub const LABEL: &str = ROOT_LABEL;

    /// A new random root key, for a new cluster.
    ///
    /// # Errors
    /// [`Fault::Key`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, Fault> {
        Self::from_secret(&Secret::random(32)?)
    }

    /// A root key from its bytes, as a joining node gets it.
    ///
    /// # Errors
    /// [`Fault::Key`] for any length but 32.
    pub fn from_secret(secret: &Secret) -> Result<Self, Fault> {
        Ok(Self(secret.key("the root key")?))
    }

    /// The key's bytes, for the seed of a joining node.
    pub fn to_secret(&self) -> Secret {
        Secret::new(self.0.to_vec())
    }

    /// A name for the key that gives nothing away: 16 hex digits.
    pub fn id(&self) -> String {
        hex(&self.subkey("conclave root key id v1")[..8])
    }

    /// The bytes of `root.key`.
    ///
    /// # Errors
    /// [`Fault::Key`].
    pub fn wrap(&self, master: &MasterKey) -> Result<Vec<u8>, Fault> {
        master.seal(ROOT_LABEL, &self.to_secret())
    }

    /// Reads the bytes of `root.key`.
    ///
    /// # Errors
    /// [`Fault::Key`] when another master key wrapped it, saying what to do; [`Fault::Unsealable`].
    pub fn unwrap(wrapped: &[u8], master: &MasterKey) -> Result<Self, Fault> {
        Self::from_secret(&master.open(ROOT_LABEL, wrapped)?)
    }

    pub(super) fn subkey(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        subkey(&self.0, purpose)
    }
}

/// Data keys by generation. Generations begin at 1 and grow by one with each rotation.
pub struct Keyring {
    keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
}

impl Keyring {
    /// A keyring with its first data key.
    ///
    /// # Errors
    /// [`Fault::Key`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, Fault> {
        let mut keyring = Self { keys: BTreeMap::new() };
        keyring.rotate()?;
        Ok(keyring)
    }

    /// Adds a data key, which seals from now on.
    ///
    /// # Errors
    /// [`Fault::Key`] when the system has no randomness to give.
    pub fn rotate(&mut self) -> Result<u32, Fault> {
        let generation = self.generation() + 1;
        self.keys.insert(generation, Secret::random(32)?.key("a data key")?);
        Ok(generation)
    }

    /// Drops the data keys before a generation; what they sealed can no longer be opened.
    pub fn retire_before(&mut self, generation: u32) {
        self.keys = self.keys.split_off(&generation.min(self.generation()));
    }

    /// The generations of all its data keys, the oldest first.
    pub fn generations(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    /// The newest generation.
    pub fn generation(&self) -> u32 {
        self.keys.last_key_value().map_or(0, |(generation, _)| *generation)
    }

    /// The keyring as it lies in the replicated state.
    ///
    /// # Errors
    /// [`Fault::Key`].
    // plain: count (u32) | each: generation (u32), key (32);   sealed: version | as in aead.rs
    pub fn wrap(&self, root: &RootKey) -> Result<WrappedKeyring, Fault> {
        let mut plain = Zeroizing::new(Vec::with_capacity(4 + self.keys.len() * 36));
        plain.extend_from_slice(&len_u32(self.keys.len()).to_be_bytes());
        for (generation, key) in &self.keys {
            plain.extend_from_slice(&generation.to_be_bytes());
            plain.extend_from_slice(&key[..]);
        }
        let key = SealingKey::new(&root.subkey(KEYRING_PURPOSE));
        let wrapped = key.seal(vec![VERSION], &label_aad(VERSION, KEYRING_LABEL), &plain)?;
        Ok(WrappedKeyring { generation: self.generation(), wrapped: Sealed(wrapped) })
    }

    /// Reads a wrapped keyring.
    ///
    /// # Errors
    /// [`Fault::Unsealable`] when another root key wrapped it; [`Fault::TooNew`];
    /// [`Fault::Corrupt`].
    pub fn unwrap(wrapped: &WrappedKeyring, root: &RootKey) -> Result<Self, Fault> {
        const WHAT: &str = "the keyring";
        let mut reader = Reader::new(&wrapped.wrapped.0, WHAT);
        reader.version(VERSION)?;
        let key = SealingKey::new(&root.subkey(KEYRING_PURPOSE));
        let plain =
            key.open(reader.rest(), &label_aad(VERSION, KEYRING_LABEL), &|| WHAT.to_owned())?;
        let mut reader = Reader::new(plain.expose_secret(), WHAT);
        let mut keys = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let generation = reader.u32()?;
            keys.insert(generation, Zeroizing::new(reader.array()?));
        }
        reader.end()?;
        let keyring = Self { keys };
        if keyring.generation() != wrapped.generation || wrapped.generation == 0 {
            return Err(Fault::corrupt(WHAT, "its newest generation is not the one it names"));
        }
        Ok(keyring)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, &[u8; 32])> {
        self.keys.iter().map(|(generation, key)| (*generation, &**key))
    }
}

const KEYRING_PURPOSE: &str = "conclave keyring v1";
