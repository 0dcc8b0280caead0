//! `/secrets…`: values in and out. Values live in memory that is wiped, and never in errors, logs or
//! records.

pub(crate) mod batch;
pub(crate) mod expire;
pub(crate) mod get;
pub(crate) mod set;

use conclave_domain::id::{ResourceId, RoleId};
use conclave_domain::rbac::{self, Denial};
use conclave_domain::records::{Sealed, Version};

use crate::error::Refusal;
use crate::ports::View;

/// Variables below this are filled by an engine, never by hand.
pub(crate) const DYNAMIC: &str = "data/dynamic/";

/// The sealed value of a version, or of the newest one; nothing when it is not there.
pub(super) fn sealed_value(
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
