//! `/secrets…`: values in and out. Values live in memory that is wiped, and never in errors, logs or
//! records.

pub(crate) mod batch;
pub(crate) mod expire;
pub(crate) mod get;
pub(crate) mod set;

use conclave_domain::id::{Kind, ResourceId, RoleId};
use conclave_domain::policy::dynamic;
use conclave_domain::rbac::{self, Denial};
use conclave_domain::records::{Sealed, Version};

use crate::error::Refusal;
use crate::ports::View;
use crate::settings::Settings;

/// What a dynamic secret is answered: nothing here issues one.
const NO_ENGINE: &str = "No ephemeral secret engine configured for Conjur";

/// Whether a variable is filled by an issuer, never by hand.
pub(super) fn is_dynamic(settings: &Settings, resource: &ResourceId) -> bool {
    settings.dynamic_secrets_enabled
        && resource.kind() == Kind::Variable
        && resource.identifier().starts_with(dynamic::BELOW)
}

/// The sealed value of a version, or of the newest one; nothing when it is not there.
pub(crate) fn sealed_value(
    view: &View<'_>,
    resource: &ResourceId,
    version: Option<Version>,
) -> Result<Option<Sealed>, Refusal> {
    let Some(secret) = view.state.secret(resource) else { return Ok(None) };
    let version = match version {
        Some(version) if secret.versions.contains_key(&version) => version,
        Some(_) => return Ok(None),
        None => match secret.versions.keys().next_back() {
            Some(newest) => *newest,
            None => return Ok(None),
        },
    };
    view.secret_value(resource, version)
        .map_err(|fault| Refusal::Fault(format!("value of {resource}: {fault}")))
}

/// Allows to fetch a value. What cannot be seen is answered like what has no value.
pub(super) fn require_execute(
    view: &View<'_>,
    role: &RoleId,
    resource: &ResourceId,
) -> Result<(), Refusal> {
    match rbac::authorize(view.state, role, "execute", resource) {
        Ok(_permit) => Ok(()),
        Err(Denial::NotFound) => Err(Refusal::secret_missing(resource)),
        Err(Denial::Forbidden) => Err(Refusal::FORBIDDEN),
    }
}
