//! The open vault of an unsealed node: seals and opens values of resources and labelled blobs, and
//! takes fingerprints.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hmac;
use conclave_domain::id::ResourceId;
use conclave_domain::records::{Fingerprint, Sealed, Version};
use zeroize::Zeroizing;

use super::aead::{SealingKey, label_aad};
use super::{Keyring, RootKey, Secret};
use crate::bytes_io::Reader;
use crate::error::Fault;

const VERSION: u8 = 1;

/// How many values one node seals under one generation before it asks for a rotation. Keys and
/// nonces are derived for each record, so nothing breaks there; it bounds what one data key guards.
pub const SEALS_PER_GENERATION_MAX: u64 = 1 << 32;

/// Tells the keyring in force, for a vault that meets a data key it does not know yet.
pub type NewerKeyring = Box<dyn Fn() -> Option<Keyring> + Send + Sync>;

/// Seals and opens. Built anew when the keyring in force changes.
pub struct Vault {
    keys: BTreeMap<u32, SealingKey>,
    generation: u32,
    sealed: AtomicU64,
    fingerprints: hmac::Key,
    rotations: hmac::Key,
    tags: hmac::Key,
    newer: Option<NewerKeyring>,
}

/// Bytes that look random to whoever lacks the root key, and are the same for the same resource,
/// version and seed on every node.
pub struct RotationBytes<'a> {
    key: &'a hmac::Key,
    info: Vec<u8>,
    block: Option<hmac::Tag>,
    blocks: u32,
    place: usize,
}

impl RotationBytes<'_> {
    /// The next one; they do not end.
    pub fn next_byte(&mut self) -> u8 {
        let block = match &self.block {
            Some(block) if self.place < block.as_ref().len() => block,
            _ => {
                let mut context = hmac::Context::with_key(self.key);
                context.update(&self.blocks.to_be_bytes());
                context.update(&self.info);
                self.blocks = self.blocks.wrapping_add(1);
                self.place = 0;
                self.block.insert(context.sign())
            }
        };
        let byte = block.as_ref().get(self.place).copied().unwrap_or_default();
        self.place += 1;
        byte
    }
}

impl Vault {
    /// A vault with the keys of a keyring.
    pub fn new(root: &RootKey, keyring: &Keyring) -> Self {
        let keys = keyring.keys().map(|(generation, key)| (generation, SealingKey::new(key)));
        Self {
            keys: keys.collect(),
            generation: keyring.generation(),
            sealed: AtomicU64::new(0),
            fingerprints: hmac::Key::new(
                hmac::HMAC_SHA256,
                &root.subkey("conclave fingerprint v1")[..],
            ),
            rotations: hmac::Key::new(hmac::HMAC_SHA256, &root.subkey("conclave rotation v1")[..]),
            tags: hmac::Key::new(hmac::HMAC_SHA256, &root.subkey("conclave tag v1")[..]),
            newer: None,
        }
    }

    /// The same, with somebody to ask for the keyring in force when something is sealed under a data
    /// key that came after this vault was built: nothing that is in the state is unreadable in the
    /// moment of a rotation.
    #[must_use]
    pub fn asking(mut self, newer: NewerKeyring) -> Self {
        self.newer = Some(newer);
        self
    }

    /// The generation that seals.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// How many values this vault has sealed.
    pub fn sealed_count(&self) -> u64 {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Seals a value for one resource.
    ///
    /// # Errors
    /// [`Fault::Key`] when the data key has sealed enough and must be rotated.
    // version | generation (u32) | as in aead.rs
    pub fn seal(&self, resource: &ResourceId, secret: &Secret) -> Result<Sealed, Fault> {
        self.seal_with(&resource_aad(resource), secret)
    }

    /// Opens a value of that resource.
    ///
    /// # Errors
    /// [`Fault::Unsealable`] when it is not the resource's, or was changed; [`Fault::Key`] when its
    /// data key is not in the keyring; [`Fault::TooNew`].
    pub fn open(&self, resource: &ResourceId, sealed: &Sealed) -> Result<Secret, Fault> {
        // The id is no secret; the text of a fault may name it.
        self.open_with(&resource_aad(resource), sealed, &|| format!("the value of {resource}"))
    }

    /// Seals something that is no resource's value (a cluster key, a token-signing key): `label`
    /// says what, and must be said again to open it.
    ///
    /// # Errors
    /// As [`Vault::seal`].
    pub fn seal_labelled(&self, label: &str, secret: &Secret) -> Result<Sealed, Fault> {
        self.seal_with(&label_aad(VERSION, label), secret)
    }

    /// Opens what [`Vault::seal_labelled`] made under the same label.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn open_labelled(&self, label: &str, sealed: &Sealed) -> Result<Secret, Fault> {
        self.open_with(&label_aad(VERSION, label), sealed, &|| format!("the {label}"))
    }

    /// The generation under which something is sealed; none when its header cannot be read.
    pub fn generation_of(sealed: &Sealed) -> Option<u32> {
        let mut reader = Reader::new(&sealed.0, "a sealed value");
        reader.version(VERSION).ok()?;
        reader.u32().ok()
    }

    /// A keyed digest of a value, bound to its resource: tells changed from equal, nothing more.
    pub fn fingerprint(&self, resource: &ResourceId, secret: &Secret) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.fingerprints);
        context.update(resource.to_string().as_bytes());
        context.update(&[0]);
        context.update(secret.expose_secret());
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&context.sign().as_ref()[..16]);
        Fingerprint(fingerprint)
    }

    /// HMAC-SHA256 of some parts, for one purpose: whoever lacks the root key can make none, and every node makes the
    /// same.
    pub fn tag(&self, purpose: &str, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut context = hmac::Context::with_key(&self.tags);
        // Each with its length in front: no two inputs are alike.
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = Zeroizing::new([0; 32]);
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// Bytes for the value that a rotation puts after `version` of a resource. Whoever leads can make
    /// the same ones, so a rotation that was cut off can be taken up again.
    pub fn rotation_bytes(
        &self,
        resource: &ResourceId,
        version: Version,
        seed: &[u8],
    ) -> RotationBytes<'_> {
        let mut info = version.0.to_be_bytes().to_vec();
        // The seed goes last and the id before it has its length in front: no two inputs are alike.
        let id = resource.to_string();
        info.extend_from_slice(&(id.len() as u64).to_be_bytes());
        info.extend_from_slice(id.as_bytes());
        info.extend_from_slice(seed);
        RotationBytes { key: &self.rotations, info, block: None, blocks: 0, place: 0 }
    }

    fn seal_with(&self, aad: &[u8], secret: &Secret) -> Result<Sealed, Fault> {
        if self.sealed.fetch_add(1, Ordering::Relaxed) >= SEALS_PER_GENERATION_MAX {
            let generation = self.generation;
            return Err(Fault::Key(format!(
                "data key {generation} has sealed as much as one key may: run `conclave keys rotate`"
            )));
        }
        let Some(key) = self.keys.get(&self.generation) else {
            return Err(Fault::Key("the keyring holds no data key".to_owned()));
        };
        let mut header = Vec::with_capacity(5 + 40 + secret.len());
        header.push(VERSION);
        header.extend_from_slice(&self.generation.to_be_bytes());
        key.seal(header, aad, secret.expose_secret()).map(Sealed)
    }

    fn open_with(
        &self,
        aad: &[u8],
        sealed: &Sealed,
        what: &dyn Fn() -> String,
    ) -> Result<Secret, Fault> {
        let mut reader = Reader::new(&sealed.0, "a sealed value");
        reader.version(VERSION)?;
        let generation = reader.u32()?;
        if let Some(key) = self.keys.get(&generation) {
            return key.open(reader.rest(), aad, what);
        }
        match self.newer_key(generation) {
            Some(key) => key.open(reader.rest(), aad, what),
            None => Err(Fault::Key(format!(
                "{} is sealed under data key {generation}, which is not in the keyring: this node \
                 may be behind, or the key was retired too early",
                what()
            ))),
        }
    }

    fn newer_key(&self, generation: u32) -> Option<SealingKey> {
        let newer = self.newer.as_ref().filter(|_| generation > self.generation)?()?;
        let mut keys = newer.keys();
        keys.find(|(known, _)| *known == generation).map(|(_, key)| SealingKey::new(key))
    }
}

/// Associated data of a resource's value: the format byte and the full id.
fn resource_aad(resource: &ResourceId) -> Vec<u8> {
    let mut aad = vec![VERSION];
    aad.extend_from_slice(resource.to_string().as_bytes());
    aad
}
