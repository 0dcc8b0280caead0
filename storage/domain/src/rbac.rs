//! Who may do what: closures of held roles, visibility, privileges, and the proof of a yes.
//!
//! A role *holds* itself and every role that a chain of memberships leads to. It *may* do a privilege
//! to a resource when a role it holds owns the resource or has a permission row with that privilege,
//! and it *sees* the resource when a role it holds owns it or has any permission row on it. Nothing
//! is inherited down the tree of names, and no role has power of its own, `admin` included.
//!
//! A check costs one look at the remembered closure and one at each permission row of the resource.

use std::collections::HashSet;

use crate::id::{AccountName, Kind, ResourceId, RoleId};
use crate::records::Resource;
use crate::state::{Closure, Handle, Slot, State};

/// Why a role may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The resource is absent, or the role may not know that it is there.
    NotFound,
    /// The role sees the resource and lacks the privilege.
    Forbidden,
}

/// Proof that [`authorize`] allowed one role one privilege on one resource in one state. It cannot be
/// made elsewhere and is not `Clone`: whoever acts on a resource takes one and uses it up.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    role: RoleId,
    privilege: String,
    resource: ResourceId,
}

impl Permit {
    /// Who may.
    pub fn role(&self) -> &RoleId {
        &self.role
    }

    /// What may be done.
    pub fn privilege(&self) -> &str {
        &self.privilege
    }

    /// What it may be done to.
    pub fn resource(&self) -> &ResourceId {
        &self.resource
    }
}

/// Decides whether a role may do a privilege to a resource.
///
/// # Errors
/// [`Denial::NotFound`] when the resource is absent or invisible to the role, which look alike on
/// purpose; [`Denial::Forbidden`] when the role sees the resource and lacks the privilege.
pub fn authorize(
    state: &State,
    role: &RoleId,
    privilege: &str,
    resource: &ResourceId,
) -> Result<Permit, Denial> {
    let sight = Sight::of(state, role, resource).ok_or(Denial::NotFound)?;
    if sight.allows(privilege) {
        Ok(Permit {
            role: role.clone(),
            privilege: privilege.to_owned(),
            resource: resource.clone(),
        })
    } else if sight.is_visible() {
        Err(Denial::Forbidden)
    } else {
        Err(Denial::NotFound)
    }
}

/// Whether a role may do a privilege to a resource.
pub fn is_allowed(state: &State, role: &RoleId, privilege: &str, resource: &ResourceId) -> bool {
    Sight::of(state, role, resource).is_some_and(|sight| sight.allows(privilege))
}

/// Whether a role may know that a resource is there.
pub fn is_visible(state: &State, role: &RoleId, resource: &ResourceId) -> bool {
    Sight::of(state, role, resource).is_some_and(|sight| sight.is_visible())
}

/// Resources that a role sees, of one account or all, of one kind or all, sorted by id.
///
/// A role that has little in its own name and through those it holds is shown that, whatever else
/// there is; for one that has much, all resources are gone through until the caller has enough.
pub fn visible<'a>(
    state: &'a State,
    role: &RoleId,
    account: Option<&'a AccountName>,
    kind: Option<Kind>,
) -> Box<dyn Iterator<Item = (&'a ResourceId, &'a Resource)> + 'a> {
    let role = state.find(role).filter(|role| state.slot(*role).role.is_some());
    let Some(role) = role else { return Box::new(std::iter::empty()) };
    let held = state.closure_of(role);
    let sides = || held.iter().filter_map(|role| state.slot(role).as_role.as_deref());
    let much: usize = sides().map(|side| side.owned.len() + side.granted.len()).sum();
    if much > GATHERED_MAX {
        let seen = state.resources(account, kind);
        return Box::new(seen.filter(move |(id, _)| {
            existing(state, id).is_some_and(|slot| Sight { held: held.clone(), slot }.is_visible())
        }));
    }
    let handles: HashSet<Handle> =
        sides().flat_map(|side| side.owned.iter().chain(&side.granted)).copied().collect();
    let mut found: Vec<(&ResourceId, &Resource)> = handles
        .into_iter()
        .filter_map(|handle| state.resource_row(handle))
        .filter(|(id, _)| account.is_none_or(|account| id.account() == account))
        .filter(|(id, _)| kind.is_none_or(|kind| id.kind() == kind))
        .collect();
    found.sort_unstable_by_key(|(id, _)| *id);
    Box::new(found.into_iter())
}

/// Most resources gathered and sorted for one list, rather than going through all there are.
const GATHERED_MAX: usize = 1 << 15;

/// Whether `member` is `role` or holds it through any chain of memberships.
pub fn holds(state: &State, member: &RoleId, role: &RoleId) -> bool {
    if member == role {
        return true;
    }
    match (state.find(member), state.find(role)) {
        (Some(member), Some(role)) => state.closure_of(member).contains(role),
        _ => false,
    }
}

/// Every role that a role holds, itself included, sorted.
pub fn closure(state: &State, role: &RoleId) -> Vec<RoleId> {
    let Some(handle) = state.find(role) else { return vec![role.clone()] };
    let mut roles: Vec<RoleId> =
        state.closure_of(handle).iter().map(|held| state.slot(held).id.clone()).collect();
    roles.sort_unstable();
    roles
}

/// Every role that may do a privilege to a resource, sorted: its owner, those with a permission row,
/// and all who hold one of these.
pub fn permitted_roles(state: &State, privilege: &str, resource: &ResourceId) -> Vec<RoleId> {
    let Some(slot) = existing(state, resource) else { return Vec::new() };
    let granted = slot.grants.iter().filter(|grant| *grant.privilege == *privilege);
    let mut pending: Vec<Handle> =
        slot.owner.into_iter().chain(granted.map(|grant| grant.role)).collect();
    let mut seen: HashSet<Handle> = pending.iter().copied().collect();
    while let Some(next) = pending.pop() {
        pending.extend(state.slot(next).members().filter(|member| seen.insert(*member)));
    }
    let present = seen.into_iter().map(|role| state.slot(role)).filter(|slot| slot.role.is_some());
    let mut roles: Vec<RoleId> = present.map(|slot| slot.id.clone()).collect();
    roles.sort_unstable();
    roles
}

/// The policy whose privileges govern the members of a role through the API: its owner where that is
/// a policy, else the policy that declared it, else the root policy of its account.
pub fn governing_policy(state: &State, role: &RoleId) -> Option<ResourceId> {
    let resource = state.resource(role)?;
    if resource.owner.kind() == Kind::Policy {
        return Some(resource.owner.clone());
    }
    resource.policy.clone().or_else(|| Some(root_policy(role.account())))
}

/// The id of an account's root policy.
pub fn root_policy(account: &AccountName) -> ResourceId {
    ResourceId::well_known(account.clone(), Kind::Policy, "root")
}

/// The id of an account's first user, who owns the root policy.
pub fn admin_role(account: &AccountName) -> RoleId {
    RoleId::well_known(account.clone(), Kind::User, "admin")
}

/// The resource that stands for all accounts: `read` on it lists them, `execute` creates one, `update`
/// deletes one. It comes with the account `!`, whose `admin` owns it.
pub fn accounts_resource() -> ResourceId {
    ResourceId::well_known(AccountName::internal(), Kind::Webservice, "accounts")
}

/// The service that issues seeds, with which followers join: whoever may `execute` it may have one.
pub fn seed_service(account: &AccountName) -> ResourceId {
    ResourceId::well_known(account.clone(), Kind::Webservice, "conjur/seed-generation")
}

/// One role looking at one resource, both of them present.
struct Sight<'a> {
    held: Closure,
    slot: &'a Slot,
}

impl<'a> Sight<'a> {
    fn of(state: &'a State, role: &RoleId, resource: &ResourceId) -> Option<Self> {
        // Both are looked up before either is looked at: at scale each look waits for memory, and
        // those two can wait side by side.
        let (resource, role) = (state.find(resource), state.find(role));
        let (slot, role) = (state.slot(resource?), role?);
        let are_there = slot.resource.is_some() && state.slot(role).role.is_some();
        are_there.then(|| Self { held: state.closure_of(role), slot })
    }

    fn owns(&self) -> bool {
        self.slot.owner.is_some_and(|owner| self.held.contains(owner))
    }

    fn allows(&self, privilege: &str) -> bool {
        let mut grants = self.slot.grants.iter();
        self.owns()
            || grants.any(|one| *one.privilege == *privilege && self.held.contains(one.role))
    }

    fn is_visible(&self) -> bool {
        self.owns() || self.slot.grants.iter().any(|grant| self.held.contains(grant.role))
    }
}

fn existing<'a>(state: &'a State, resource: &ResourceId) -> Option<&'a Slot> {
    state.find(resource).map(|handle| state.slot(handle)).filter(|slot| slot.resource.is_some())
}
