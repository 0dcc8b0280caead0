//! `/host_factory_tokens…` and `/host_factories/hosts`: tokens with which hosts enrol themselves.

pub(crate) mod create_tokens;
pub(crate) mod enrol;
pub(crate) mod revoke_token;

use conclave_domain::id::ResourceId;
use conclave_domain::records::{Digest, HostFactoryToken};
use conclave_domain::state::State;

use crate::credentials::{CredentialError, matches_digest};
use crate::ports::{Secret, Vault};

/// What a token is sealed under.
pub(crate) fn label(factory: &ResourceId) -> String {
    format!("host factory token of {factory}")
}

/// Seals a fresh token for its factory.
fn seal(
    vault: &Vault,
    factory: &ResourceId,
    token: &str,
) -> Result<conclave_domain::records::Sealed, CredentialError> {
    vault
        .seal_labelled(&label(factory), &Secret::new(token.as_bytes().to_vec()))
        .map_err(|fault| CredentialError::Seal(fault.to_string()))
}

/// The token behind a digest. Nothing when it is not there, or does not open to what the digest is of.
pub(crate) fn open(vault: &Vault, state: &State, digest: &Digest) -> Option<Secret> {
    let HostFactoryToken { factory, sealed, .. } = state.host_factory_token(digest)?;
    match vault.open_labelled(&label(factory), sealed) {
        Ok(token) => Some(token).filter(|token| matches_digest(token.expose_secret(), digest)),
        Err(error) => {
            tracing::error!(%factory, %error, "host_factory.token does not open");
            None
        }
    }
}
