//! The secrets of one login by code: a nonce for the provider's token, a verifier for the code and a state for the
//! browser. Nothing of them is kept. The nonce bears when it ends and a tag under a key of the cluster, verifier and
//! state are made of the nonce under that key: so every node knows what any node gave out, for which service, and no
//! client makes up its own.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use conclave_domain::id::ResourceId;
use conclave_domain::time::Timestamp;
use zeroize::Zeroizing;

use super::Denied;
use crate::credentials::{hex, random};
use crate::error::Refusal;
use crate::ports::Vault;

/// How long somebody has to log in at the provider, in seconds.
const LIFE_SECONDS: u32 = 15 * 60;
/// Bytes of each secret. They go out in hexadecimal, 50 digits, as Conjur's clients expect them.
const SECRET_BYTES: usize = 25;
/// Bytes of a nonce before its tag: when it ends, in seconds since 1970, and random ones.
const HANDLE_BYTES: usize = 13;
/// What is made under the cluster's key, each its own.
const NONCE: &str = "nonce of authn-oidc v1";
const VERIFIER: &str = "verifier of authn-oidc v1";
const STATE: &str = "state of authn-oidc v1";

/// What a client needs for one login.
pub(super) struct Invitation {
    /// Stands in the provider's token.
    pub(super) nonce: Zeroizing<String>,
    /// Only the client has it until it brings the code (RFC 7636).
    pub(super) verifier: Zeroizing<String>,
    /// The browser brings it back.
    pub(super) state: Zeroizing<String>,
}

impl Invitation {
    /// A new one for a service.
    pub(super) fn new(
        vault: &Vault,
        service: &ResourceId,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let mut handle = [0; HANDLE_BYTES];
        let (ends, rest) = handle.split_at_mut(4);
        ends.copy_from_slice(&seconds(now).saturating_add(LIFE_SECONDS).to_be_bytes());
        random(rest).map_err(|error| Refusal::Fault(error.to_string()))?;
        Ok(Self::of(vault, service, handle))
    }

    /// The one that a nonce belongs to, if a node of this cluster gave it out for this service and its time is not
    /// over.
    pub(super) fn of_nonce(
        vault: &Vault,
        service: &ResourceId,
        nonce: &str,
        now: Timestamp,
    ) -> Result<Self, Denied> {
        let handle = bytes(nonce).and_then(|bytes| bytes.first_chunk().copied());
        let known =
            handle.map(|handle: [u8; HANDLE_BYTES]| (handle, Self::of(vault, service, handle)));
        let Some((handle, known)) = known.filter(|(_, known)| is_same(&known.nonce, nonce)) else {
            return Err(Denied::new(
                "CONJ00130E The nonce is none that this cluster gave out for this service",
            ));
        };
        let [a, b, c, d, ..] = handle;
        if u32::from_be_bytes([a, b, c, d]) <= seconds(now) {
            return Err(Denied::new(
                "CONJ00130E The nonce was given out too long ago: the list of providers has a new one",
            ));
        }
        Ok(known)
    }

    fn of(vault: &Vault, service: &ResourceId, handle: [u8; HANDLE_BYTES]) -> Self {
        let service = service.to_string();
        let made = |purpose| vault.tag(purpose, &[service.as_bytes(), &handle]);
        let tag = made(NONCE);
        let mut nonce = [0; SECRET_BYTES];
        nonce[..HANDLE_BYTES].copy_from_slice(&handle);
        nonce[HANDLE_BYTES..].copy_from_slice(&tag[..SECRET_BYTES - HANDLE_BYTES]);
        Self {
            nonce: Zeroizing::new(hex(&nonce)),
            verifier: Zeroizing::new(hex(&made(VERIFIER)[..SECRET_BYTES])),
            state: Zeroizing::new(hex(&made(STATE)[..SECRET_BYTES])),
        }
    }
}

/// Whether two texts are the same, in a time that does not tell where they differ.
pub(super) fn is_same(known: &str, presented: &str) -> bool {
    verify_slices_are_equal(known.as_bytes(), presented.as_bytes()).is_ok()
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.seconds()).unwrap_or(u32::MAX)
}

fn bytes(text: &str) -> Option<[u8; SECRET_BYTES]> {
    let mut bytes = [0; SECRET_BYTES];
    if text.len() != SECRET_BYTES * 2 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use conclave_storage::seal::{Keyring, RootKey, Secret};

    use super::*;

    #[test]
    fn what_a_nonce_stands_for_is_what_it_always_was() {
        let root = RootKey::from_secret(&Secret::new(vec![7; 32])).unwrap();
        let vault = Vault::new(&root, &Keyring::generate().unwrap());
        let service: ResourceId = "demo:webservice:conjur/authn-oidc/idp".parse().unwrap();
        let handle = [0, 0, 3, 132, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let Invitation { nonce, verifier, state } = Invitation::of(&vault, &service, handle);
        assert_eq!(*nonce, "00000384010203040506070809c92f3e87942051a5fd7c28bd");
        assert_eq!(*verifier, "05e82f9568640ac9062f899d7245e09e8e4a122f7b5bbe0404");
        assert_eq!(*state, "2b49638ef908b2fd1d7c6b3f97f1deff0d7a33c0f6e979135d");
        let known = |at| Invitation::of_nonce(&vault, &service, &nonce, Timestamp(at));
        assert!(known(899_999).is_ok() && known(900_000).is_err());
    }
}
