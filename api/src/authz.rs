//! Permission at the door: the domain's rules, asked on this request's view, with the door's answers.

use conclave_domain::id::{ResourceId, RoleId};
use conclave_domain::rbac::{self, Denial, Permit};
use conclave_domain::state::State;

use crate::error::Refusal;

/// Allows, or refuses as for a record: 404 when it may not be known of, 403 otherwise.
pub(crate) fn require(
    state: &State,
    role: &RoleId,
    privilege: &str,
    resource: &ResourceId,
) -> Result<Permit, Refusal> {
    rbac::authorize(state, role, privilege, resource).map_err(|denial| match denial {
        Denial::NotFound => Refusal::missing(resource),
        Denial::Forbidden => Refusal::FORBIDDEN,
    })
}

/// Whether the role may know of the resource; refuses as for a missing record.
pub(crate) fn require_visible(
    state: &State,
    role: &RoleId,
    resource: &ResourceId,
) -> Result<(), Refusal> {
    if rbac::is_visible(state, role, resource) { Ok(()) } else { Err(Refusal::missing(resource)) }
}

/// The role that the caller wants to be taken for: itself, or one that it holds.
pub(crate) fn assumed(
    state: &State,
    caller: &RoleId,
    asked: Option<&str>,
) -> Result<RoleId, Refusal> {
    let Some(asked) = asked else { return Ok(caller.clone()) };
    let role: RoleId = asked.parse().map_err(|_no_full_id| Refusal::FORBIDDEN)?;
    if state.role(&role).is_some() && rbac::holds(state, caller, &role) {
        Ok(role)
    } else {
        Err(Refusal::FORBIDDEN)
    }
}
