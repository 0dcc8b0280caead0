//! The secrets of one login by code: a nonce for the provider's token, a verifier for the code and a state for the
//! browser. Nothing of them is kept. The nonce bears when it ends and a tag under a key of the cluster, verifier and
//! state are made of the nonce under that key: so every node knows what any node gave out, for which service, and no
//! client makes up its own.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use conclave_domain::id::ResourceId;
use conclave_domain::time::Timestamp;
use zeroize::Zeroizing;

use super::Denied;
use crate::credentials::random;
use crate::error::Refusal;
use crate::ports::Vault;

/// How long somebody has to log in at the provider, in seconds.
pub(super) const LIFE_SECONDS: u32 = 15 * 60;
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
            nonce: text(&nonce),
            verifier: text(&made(VERIFIER)[..SECRET_BYTES]),
            state: text(&made(STATE)[..SECRET_BYTES]),
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

fn text(bytes: &[u8]) -> Zeroizing<String> {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit);
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    text.extend(digits);
    text
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
