//! Hosts that enrol themselves with a host factory's token: what they may be called, and what they
//! become.
//!
//! The id is taken as it is sent, not relative to the factory's policy, as Conjur does. So that a
//! token of one team cannot take a name in the branch of another, which that team's policies may
//! later trust, an id below an existing policy must lie at or below the factory's own.

use crate::event::Event;
use crate::id::{Id, Kind, ResourceId, RoleId};
use crate::outcome::Rejection;
use crate::rbac::root_policy;
use crate::records::{Annotation, MembershipKey, NewApiKey};
use crate::state::State;

/// How many expired tokens one command forgets.
pub const SWEPT_AT_ONCE_MAX: usize = 1000;

/// What an enrolment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// The host is created.
    New,
    /// The factory has the host already: it gets a new API key.
    Again,
}

/// Whether a factory may enrol a host of that id.
///
/// # Errors
/// [`Rejection::Invalid`] for an id that no factory, or not this one, may give;
/// [`Rejection::Forbidden`] when the host is there and not the factory's.
pub fn judge(state: &State, factory: &RoleId, host: &RoleId) -> Result<Enrolment, Rejection> {
    let invalid = || Rejection::Invalid(format!("Invalid id: {}", host.identifier()));
    let identifier = host.identifier();
    let named = identifier.strip_prefix('/').unwrap_or(identifier);
    if host.kind() != Kind::Host
        || host.account() != factory.account()
        || named.starts_with("conjur/")
    {
        return Err(invalid());
    }
    if let Some(present) = state.resource(host) {
        if present.owner == *factory {
            return Ok(Enrolment::Again);
        }
        return Err(Rejection::Forbidden {
            role: factory.clone(),
            privilege: "update".to_owned(),
            resource: host.clone(),
        });
    }
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    if identifier.split('/').any(odd) || !is_in_branch(state, factory, host) {
        return Err(invalid());
    }
    Ok(Enrolment::New)
}

/// Whether the deepest policy that a host's id lies in, if there is any, is the factory's or below.
fn is_in_branch(state: &State, factory: &RoleId, host: &RoleId) -> bool {
    let branch = factory.identifier().rsplit_once('/').map_or("", |(branch, _)| branch);
    if branch.is_empty() && is_owned_as_root(state, factory) {
        return true;
    }
    let mut at = host.identifier();
    while let Some((above, _)) = at.rsplit_once('/') {
        at = above;
        let policy = Id::new(host.account().clone(), Kind::Policy, above);
        if policy.is_ok_and(|policy| state.resource(&policy).is_some()) {
            let below = above.strip_prefix(branch).filter(|_| !branch.is_empty());
            return below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        }
    }
    true
}

/// Whether a factory is owned by the root policy or by who owns that: the whole tree is its branch.
fn is_owned_as_root(state: &State, factory: &RoleId) -> bool {
    let root = root_policy(factory.account());
    let (Some(factory), Some(record)) = (state.resource(factory), state.resource(&root)) else {
        return false;
    };
    factory.owner == root || factory.owner == record.owner
}

/// The layers that a host factory's hosts join, sorted: those that the factory itself is in.
pub fn layers(state: &State, factory: &ResourceId) -> Vec<RoleId> {
    let rows = state.memberships(factory).into_iter();
    rows.filter(|(key, _)| key.role.kind() == Kind::Layer && !key.ownership)
        .map(|(key, _)| key.role)
        .collect()
}

/// What happens when a new host is enrolled: it is the factory's, in the factory's layers, and of no
/// policy.
pub(crate) fn enrolment(
    state: &State,
    factory: &RoleId,
    host: &RoleId,
    key: &NewApiKey,
    annotations: &[(String, String)],
) -> Vec<Event> {
    let mut events = vec![
        Event::RoleAdded { role: host.clone(), policy: None },
        Event::CredentialCreated {
            role: host.clone(),
            key: key.clone(),
            restricted_to: Vec::new(),
        },
        Event::ResourceAdded { resource: host.clone(), owner: factory.clone(), policy: None },
    ];
    events.extend(layers(state, factory).into_iter().map(|layer| Event::MembershipAdded {
        key: MembershipKey { role: layer, member: host.clone(), ownership: false },
        admin_option: false,
        policy: None,
    }));
    events.extend(annotations.iter().map(|(name, value)| Event::AnnotationSet {
        resource: host.clone(),
        name: name.clone(),
        annotation: Annotation { value: value.clone(), policy: None },
    }));
    events
}
