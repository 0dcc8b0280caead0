//! Fresh credentials: API keys, token-signing keys, password rules and password hashes.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use conclave_domain::command::Command;
use conclave_domain::id::{AccountName, RoleId};
use conclave_domain::records::{Digest, NewApiKey, SigningKey};
use tokio::sync::Semaphore;
use zeroize::{Zeroize, Zeroizing};

use crate::error::Refusal;
use crate::ports::{Secret, Vault};
use crate::token::{Waiting, sha256};

/// Crockford's alphabet, in lower case.
const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why fresh credentials could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
    /// The key pair could not be made or encoded.
    #[error("making an RSA key pair failed")]
    KeyPair,
    /// Sealing failed.
    #[error("sealing failed: {0}")]
    Seal(String),
}

impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        Self::Fault(error.to_string())
    }
}

/// Fills bytes from the system's random source.
///
/// # Errors
/// [`CredentialError::Random`].
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), CredentialError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_unspecified| CredentialError::Random)
}

/// A fresh API key: 256 random bits as eight numbers in Crockford's base 32.
///
/// # Errors
/// [`CredentialError::Random`].
pub fn new_api_key() -> Result<Zeroizing<String>, CredentialError> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    random(bytes.as_mut())?;
    Ok(encode_api_key(&bytes))
}

fn encode_api_key(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(56));
    for chunk in bytes.chunks_exact(4) {
        let mut number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let mut digits = [0_u8; 7];
        let mut length = 0;
        while number > 0 || length == 0 {
            digits[length] = CROCKFORD[(number % 32) as usize];
            number /= 32;
            length += 1;
        }
        text.extend(digits[..length].iter().rev().map(|digit| char::from(*digit)));
        digits.zeroize();
    }
    text
}

/// The digest by which an API key is compared.
pub fn api_key_digest(key: &[u8]) -> Digest {
    Digest(sha256(key))
}

/// Compares a presented key with a digest, in constant time.
pub(crate) fn matches_digest(presented: &[u8], digest: &Digest) -> bool {
    let presented = Zeroizing::new(sha256(presented));
    aws_lc_rs::constant_time::verify_slices_are_equal(presented.as_ref(), &digest.0).is_ok()
}

/// Seals an API key for its role.
///
/// # Errors
/// [`CredentialError::Seal`].
pub fn seal_api_key(vault: &Vault, role: &RoleId, key: &str) -> Result<NewApiKey, CredentialError> {
    let sealed = vault
        .seal(role, &Secret::new(key.as_bytes().to_vec()))
        .map_err(|fault| CredentialError::Seal(fault.to_string()))?;
    Ok(NewApiKey { sealed, digest: api_key_digest(key.as_bytes()) })
}

/// The label that the private half of an account's token-signing key is sealed under.
pub fn signing_key_label(account: &AccountName) -> String {
    format!("token-signing key of {account}")
}

/// A fresh RSA-2048 token-signing key, its private half sealed. Takes a tenth of a second or more:
/// not for the reactor.
///
/// # Errors
/// [`CredentialError`].
pub fn new_signing_key(
    vault: &Vault,
    account: &AccountName,
) -> Result<SigningKey, CredentialError> {
    let pair =
        RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_unspecified| CredentialError::KeyPair)?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_unspecified| CredentialError::KeyPair)?;
    let public: PublicKeyX509Der<'_> =
        pair.public_key().as_der().map_err(|_unspecified| CredentialError::KeyPair)?;
    let sealed = vault
        .seal_labelled(&signing_key_label(account), &Secret::new(private.as_ref().to_vec()))
        .map_err(|fault| CredentialError::Seal(fault.to_string()))?;
    Ok(SigningKey {
        id: hex(&sha256(public.as_ref())),
        public: public.as_ref().to_vec(),
        private: sealed,
    })
}

/// The command that creates an account, and the API key of its `admin` in the clear. Makes an RSA
/// key: not for the reactor.
///
/// # Errors
/// [`CredentialError`].
pub fn new_account(
    vault: &Vault,
    account: &AccountName,
) -> Result<(Command, Zeroizing<String>), CredentialError> {
    let key = new_api_key()?;
    let admin = conclave_domain::rbac::admin_role(account);
    let command = Command::CreateAccount {
        account: account.clone(),
        signing_key: new_signing_key(vault, account)?,
        admin_key: seal_api_key(vault, &admin, &key)?,
    };
    Ok((command, key))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// Whether a password is strong enough: 12 to 128 characters, at least two upper case, two lower
/// case, one digit, one space or punctuation mark, and no line break.
pub(crate) fn is_strong_password(password: &str) -> bool {
    let count = |wanted: fn(char) -> bool| password.chars().filter(|c| wanted(*c)).count();
    let length = password.chars().count();
    (12..=128).contains(&length)
        && count(char::is_uppercase) >= 2
        && count(char::is_lowercase) >= 2
        && count(|c| c.is_ascii_digit()) >= 1
        && count(|c| c == ' ' || c.is_ascii_punctuation()) >= 1
        && !password.contains(['\n', '\r'])
}

/// Hashes and checks passwords with Argon2id, on the blocking pool and within bounds.
pub(crate) struct PasswordOffice {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
    /// Checked in place of the hash that an unknown user lacks, so that both take the same time.
    decoy: Arc<str>,
}

impl PasswordOffice {
    /// Makes the office, and with it the decoy: takes one hash.
    pub(crate) fn new(parallel_max: usize, waiting_max: usize) -> Result<Self, CredentialError> {
        let mut nobody = Zeroizing::new([0_u8; 32]);
        random(nobody.as_mut())?;
        Ok(Self {
            places: Arc::new(Semaphore::new(parallel_max)),
            waiting: AtomicUsize::new(0),
            waiting_max,
            decoy: hash(nobody.as_ref())?.into(),
        })
    }

    /// Whether the password is the one behind the hash. Without a hash it is never, after as long.
    pub(crate) async fn check(
        &self,
        password: Zeroizing<Vec<u8>>,
        hash: Option<String>,
    ) -> Result<bool, Refusal> {
        let known = hash.is_some();
        let text = hash.map_or_else(|| self.decoy.clone(), Arc::from);
        let matched = self.run(move || {
            let Ok(hash) = PasswordHash::new(&text) else { return false };
            Argon2::default().verify_password(&password, &hash).is_ok()
        });
        Ok(matched.await? && known)
    }

    /// Hashes a new password to a PHC string.
    pub(crate) async fn hash(&self, password: Zeroizing<Vec<u8>>) -> Result<String, Refusal> {
        Ok(self.run(move || hash(&password)).await??)
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let _waiting = Waiting::enter(&self.waiting, self.waiting_max)
            .ok_or(Refusal::unavailable("too many passwords wait to be checked"))?;
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_closed| Refusal::unavailable("stopping"))?;
        let working = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        working.await.map_err(|error| Refusal::Fault(format!("hashing a password: {error}")))
    }
}

fn hash(password: &[u8]) -> Result<String, CredentialError> {
    let hash = Argon2::default()
        .hash_password(password)
        .map_err(|_unspecified| CredentialError::Random)?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_keys_have_the_shape_that_clients_match() {
        let mut bytes = [0; 32];
        bytes[3] = 31;
        bytes[7] = 32;
        bytes[8..12].fill(0xff);
        assert_eq!(encode_api_key(&bytes).as_str(), "z103zzzzzz00000");
        for _ in 0..100 {
            let key = new_api_key().unwrap();
            assert!((45..=60).contains(&key.len()), "{}", key.len());
            assert!(key.bytes().all(|byte| CROCKFORD.contains(&byte)));
        }
    }

    #[test]
    fn weak_passwords_are_told_from_strong_ones() {
        assert!(is_strong_password("AZerty12345!"));
        for weak in ["AZerty1234!", "azerty12345!", "AZERTY12345!", "AZertyuiopq!", "AZerty123456"]
        {
            assert!(!is_strong_password(weak), "{weak}");
        }
        assert!(!is_strong_password("AZerty12345!\n"));
        assert!(!is_strong_password(&"AZerty12345!".repeat(11)));
    }
}
