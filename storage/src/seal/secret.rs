//! Secret bytes in memory: wiped when dropped, compared in constant time, never shown or copied by
//! accident.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use crate::error::Fault;

/// Plaintext. Has neither `Debug` nor `Clone` nor `Serialize`, on purpose.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes into custody; they are wiped when the secret is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A secret of `len` random bytes.
    ///
    /// # Errors
    /// [`Fault::Key`] when the system has no randomness to give.
    pub fn random(len: usize) -> Result<Self, Fault> {
        let mut secret = Self::new(vec![0; len]);
        super::fill_random(&mut secret.0)?;
        Ok(secret)
    }

    /// The bytes. Whoever asks must not keep them.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    /// Whether the bytes are these, in time that depends on the length alone.
    pub fn matches(&self, other: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, other).is_ok()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key's 32 bytes.
    pub(super) fn key(&self, what: &str) -> Result<Zeroizing<[u8; 32]>, Fault> {
        let mut key = Zeroizing::new([0; 32]);
        if self.0.len() != key.len() {
            let found = self.0.len();
            return Err(Fault::Key(format!("{what} has {found} bytes where 32 are needed")));
        }
        key.copy_from_slice(&self.0);
        Ok(key)
    }
}
