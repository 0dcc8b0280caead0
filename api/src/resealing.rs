//! What each sort of sealed thing is sealed for, and how it is sealed anew under the newest data key.

use conclave_domain::records::{Resealed, Sealed, SealedAt};
use conclave_domain::state::State;
use conclave_storage::Fault;

use crate::credentials::signing_key_label;
use crate::ports::Vault;
use crate::routes::{host_factories, issuers};

/// Seals what lies at a place in the state anew; none when the place is there no more.
///
/// # Errors
/// [`Fault::Unsealable`], [`Fault::Key`]: what lies there does not open.
pub fn seal_anew(
    vault: &Vault,
    state: &State,
    at: SealedAt,
    sealed: &Sealed,
) -> Result<Option<Resealed>, Fault> {
    let label = match &at {
        SealedAt::ApiKey(id, _) | SealedAt::Secret(id, ..) => {
            let sealed = vault.seal(id, &vault.open(id, sealed)?)?;
            return Ok(Some(Resealed { at, sealed }));
        }
        SealedAt::SigningKey(account, _) => signing_key_label(account),
        SealedAt::HostFactoryToken(digest) => {
            let Some(token) = state.host_factory_token(digest) else { return Ok(None) };
            host_factories::label(&token.factory)
        }
        SealedAt::Issuer(key, _) => issuers::label(key),
        SealedAt::Certificate(key, _) => key.seal_label(),
    };
    let sealed = vault.seal_labelled(&label, &vault.open_labelled(&label, sealed)?)?;
    Ok(Some(Resealed { at, sealed }))
}
