//! One way to seal: AES-256-GCM under a key and nonce derived for this record alone, from the parent
//! key and 24 random bytes that lie in the clear before the ciphertext. So the parent key never
//! meets a nonce, and the bound of 2^32 random nonces a key is out of reach.
//!
//! ```text
//! sealed = header | salt (24) | ciphertext | tag (16)
//! key (32) | nonce (12) = first bytes of HMAC-SHA-512(parent, "conclave record v1" | salt)
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Secret, fill_random};
use crate::error::Fault;

pub(super) const SALT_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const PURPOSE: &[u8] = b"conclave record v1";

/// A key that records are sealed under, ready for use.
pub(super) struct SealingKey(hmac::Key);

impl SealingKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA512, key))
    }

    /// Appends salt, ciphertext and tag to the header in `out`.
    pub(super) fn seal(
        &self,
        mut out: Vec<u8>,
        aad: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        let (key, nonce) = self.derive(&salt)?;
        out.reserve_exact(SALT_BYTES + plain.len() + TAG_BYTES);
        out.extend_from_slice(&salt);
        let start = out.len();
        out.extend_from_slice(plain);
        let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[start..]);
        if let Ok(tag) = sealed {
            out.extend_from_slice(tag.as_ref());
            return Ok(out);
        }
        out.zeroize();
        Err(Fault::Key("the cipher refused to seal: the value is too long".to_owned()))
    }

    /// Opens what follows the header.
    pub(super) fn open(
        &self,
        body: &[u8],
        aad: &[u8],
        what: &dyn Fn() -> String,
    ) -> Result<Secret, Fault> {
        let unsealable = || Fault::Unsealable { what: what() };
        let (salt, ciphertext) = body.split_first_chunk::<SALT_BYTES>().ok_or_else(unsealable)?;
        let (key, nonce) = self.derive(salt)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plain = key.open_in_place(nonce, Aad::from(aad), &mut buffer);
        let len = plain.map_err(|_| unsealable())?.len();
        buffer.truncate(len);
        Ok(Secret::new(std::mem::take(&mut *buffer)))
    }

    fn derive(&self, salt: &[u8; SALT_BYTES]) -> Result<(LessSafeKey, Nonce), Fault> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(PURPOSE);
        context.update(salt);
        let tag = context.sign();
        let (key, rest) = tag.as_ref().split_at(32);
        let nonce = Nonce::try_assume_unique_for_key(&rest[..NONCE_LEN]);
        let key = UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new);
        match (key, nonce) {
            (Ok(key), Ok(nonce)) => Ok((key, nonce)),
            _ => Err(Fault::Key("the cipher refused its key".to_owned())),
        }
    }
}

/// A key for one purpose, from a parent key.
pub(super) fn subkey(parent: &[u8; 32], purpose: &str) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, parent), purpose.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(tag.as_ref());
    key
}

/// Associated data of something named by a label: no id begins with NUL.
pub(super) fn label_aad(version: u8, label: &str) -> Vec<u8> {
    let mut aad = vec![version, 0];
    aad.extend_from_slice(label.as_bytes());
    aad
}
