//! Desired rows against the state: what a load changes, in an order that carries no contradiction.
//!
//! Rows are compared by key and by the policy that they were loaded into. A row that another policy
//! declared, or that came through the API, is *shadowed*: this load neither changes nor removes it.
//!
//! Order of a plan: resources that stay but whose owner goes change hands; what the text no longer
//! declares goes (replace only), with all that goes with it; records come or change, owners first;
//! then memberships and permissions; last what the text deletes in so many words. Everything that a
//! removal takes along is listed, what is owned before its owner, so that carrying out the events
//! never takes away what a later event has brought.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::error::{InvalidObject, Place, PolicyError};
use super::parse;
use super::resolve::{Deletion, Desired, DesiredRecord, resolve};
use super::tree::Tree;
use super::{LoadMode, LoadRequest, Plan};
use crate::event::Event;
use crate::id::{Id, Kind, ResourceId, RoleId};
use crate::records::{
    Annotation, Membership, MembershipKey, PermissionKey, Resource, Revision, Role,
};
use crate::state::State;

/// Names that an annotation is seldom meant to have: attributes that slipped a level too deep.
const KNOWN_ATTRIBUTES: [&str; 25] = [
    "id",
    "owner",
    "body",
    "user",
    "annotations",
    "restricted_to",
    "permit",
    "deny",
    "role",
    "privileges",
    "resource",
    "grant",
    "revoke",
    "member",
    "host-factory",
    "layers",
    "layer",
    "variable",
    "kind",
    "mime_type",
    "delete",
    "record",
    "group",
    "host",
    "webservice",
];

/// Plans a load: what it would change in `state`.
///
/// # Errors
/// Why the text cannot be loaded, as [`PolicyError`]; nothing is wrong with the state then.
pub fn plan(state: &State, request: &LoadRequest<'_>) -> Result<Plan, PolicyError> {
    let target = request.policy;
    if request.text.trim().is_empty() {
        return Err(PolicyError::EmptyText);
    }
    let tree = Tree::read(request.text)?;
    let statements = parse::statements(&tree)?;
    if request.mode == LoadMode::Append && statements.iter().any(parse::Statement::deletes) {
        return Err(PolicyError::DeletionInAppend);
    }
    let owner = owner_of_target(state, target)?;
    let desired = resolve(statements, target, &owner, tree.has_aliases())?;
    let mut planner = Planner::new(state, target, request.mode, &desired);
    if request.mode == LoadMode::Replace {
        planner.remove_undeclared()?;
    }
    planner.check_references()?;
    planner.records();
    planner.grants();
    planner.permits();
    planner.deletions()?;
    let mut plan = planner.plan;
    plan.based_on = state.account(target.account()).map_or(Revision(0), |account| account.revision);
    plan.warnings = warnings(&desired);
    Ok(plan)
}

/// The owner of the policy loaded into. The root policy may not be there yet: it comes on first touch.
fn owner_of_target(state: &State, target: &ResourceId) -> Result<RoleId, PolicyError> {
    let absent = || PolicyError::Invalid {
        object: InvalidObject::NoSuchPolicy(target.identifier().to_owned()),
        place: None,
    };
    if target.kind() != Kind::Policy {
        return Err(absent());
    }
    match state.resource(target) {
        Some(resource) => Ok(resource.owner.clone()),
        None if target.identifier() == "root" => {
            Id::new(target.account().clone(), Kind::User, "admin").map_err(|_| absent())
        }
        None => Err(absent()),
    }
}

fn warnings(desired: &Desired) -> Vec<String> {
    let mut warned = HashSet::new();
    desired
        .records
        .iter()
        .flat_map(|record| &record.annotations)
        .filter(|(name, _)| KNOWN_ATTRIBUTES.contains(&name.as_str()) && warned.insert(name))
        .map(|(name, _)| {
            format!(
                "Annotation '{name}' matches a known policy attribute. This annotation will not be \
                 treated as a standard attribute and may not have the intended effect."
            )
        })
        .collect()
}

/// Rows that are in the state and go before anything is added.
#[derive(Default)]
struct Gone {
    ids: HashSet<Id>,
    memberships: HashSet<MembershipKey>,
    permissions: HashSet<PermissionKey>,
    annotations: HashSet<(ResourceId, String)>,
}

/// A removal with all that goes with it, in the order in which it was found: owners first.
#[derive(Default)]
struct Removal {
    ids: Vec<Id>,
    seen: HashSet<Id>,
    memberships: Vec<MembershipKey>,
    permissions: Vec<PermissionKey>,
    annotations: Vec<(ResourceId, String)>,
}

impl Removal {
    fn add(&mut self, id: Id) {
        if self.seen.insert(id.clone()) {
            self.ids.push(id);
        }
    }
}

struct Planner<'a> {
    state: &'a State,
    target: &'a ResourceId,
    /// What rows that this load brings are marked with: the target.
    mark: Option<ResourceId>,
    mode: LoadMode,
    desired: &'a Desired,
    plan: Plan,
    gone: Gone,
    /// Resources that this load brings or hands over, with their owners.
    owners: HashMap<Id, RoleId>,
    /// Memberships and permissions that this load brings.
    added_memberships: HashSet<MembershipKey>,
    added_permissions: HashSet<PermissionKey>,
}

impl<'a> Planner<'a> {
    fn new(state: &'a State, target: &'a ResourceId, mode: LoadMode, desired: &'a Desired) -> Self {
        Self {
            state,
            target,
            mark: Some(target.clone()),
            mode,
            desired,
            plan: Plan {
                changes: Vec::with_capacity(4 * desired.records.len()),
                credentials: Vec::new(),
                public_keys: Vec::new(),
                based_on: Revision(0),
                warnings: Vec::new(),
            },
            gone: Gone::default(),
            owners: HashMap::new(),
            added_memberships: HashSet::new(),
            added_permissions: HashSet::new(),
        }
    }

    // What is there once the removals of a replace are done.

    fn role(&self, id: &RoleId) -> Option<&'a Role> {
        if self.gone.ids.contains(id) { None } else { self.state.role(id) }
    }

    fn resource(&self, id: &ResourceId) -> Option<&'a Resource> {
        if self.gone.ids.contains(id) { None } else { self.state.resource(id) }
    }

    fn membership(&self, key: &MembershipKey) -> Option<Membership> {
        let gone = self.gone.ids.contains(&key.role)
            || self.gone.ids.contains(&key.member)
            || self.gone.memberships.contains(key);
        if gone { None } else { self.state.membership(key) }
    }

    /// Whether a permission is there, and whether this policy declared it.
    fn permission(&self, key: &PermissionKey) -> Option<bool> {
        let gone = self.gone.ids.contains(&key.resource)
            || self.gone.ids.contains(&key.role)
            || self.gone.permissions.contains(key);
        if gone {
            return None;
        }
        self.state.permission(key).map(|row| self.is_ours(row.policy.as_ref()))
    }

    /// Whether a row was declared by a load into this policy.
    fn is_ours(&self, policy: Option<&ResourceId>) -> bool {
        policy == Some(self.target)
    }

    /// Whether an id is of the account loaded into. What a removal takes along in another account is
    /// left to the cascade, which an event of this account may not spell out.
    fn is_near(&self, id: &Id) -> bool {
        id.account() == self.target.account()
    }

    /// The new owner that this load gives to a resource which is there and is ours.
    fn new_owner(&self, id: &ResourceId) -> Option<&'a RoleId> {
        let record = self.desired.record(id)?;
        let resource = self.state.resource(id)?;
        let changes = self.is_ours(resource.policy.as_ref()) && resource.owner != record.owner;
        changes.then_some(&record.owner)
    }

    /// Plans the removal of everything that this policy declared and no longer does.
    fn remove_undeclared(&mut self) -> Result<(), PolicyError> {
        let declared = self.state.declared(self.target);
        let mut removal = Removal::default();
        let ids = declared.roles.into_iter().chain(declared.resources);
        for id in ids.filter(|id| !self.desired.by_id.contains_key(id)) {
            removal.add(id);
        }
        let handovers = self.follow(&mut removal);

        let grants: HashSet<&MembershipKey> =
            self.desired.grants.iter().map(|grant| &grant.key).collect();
        let permits: HashSet<&PermissionKey> =
            self.desired.permits.iter().map(|permit| &permit.key).collect();
        // Ownership rows come and go with owners, not by themselves.
        removal.memberships.extend(
            declared.memberships.into_iter().filter(|row| !row.ownership && !grants.contains(row)),
        );
        removal
            .permissions
            .extend(declared.permissions.into_iter().filter(|row| !permits.contains(row)));
        removal.annotations.extend(declared.annotations.into_iter().filter(|(id, name)| {
            let record = self.desired.record(id);
            !record.is_some_and(|record| record.annotations.iter().any(|(n, _)| n == name))
        }));

        for id in handovers {
            if let Some(owner) = self.new_owner(&id) {
                self.change_owner(&id, owner);
            }
        }
        self.remove(removal)
    }

    /// Completes a removal with what its roles own and its policies declared. Answers the resources
    /// that a removed role owns but that this load gives to another.
    fn follow(&self, removal: &mut Removal) -> Vec<Id> {
        let mut handovers = Vec::new();
        let mut next = 0;
        loop {
            while let Some(id) = removal.ids.get(next).cloned() {
                next += 1;
                if id.kind().is_role() {
                    for owned in self.state.owned(&id).into_iter().filter(|id| self.is_near(id)) {
                        if self.new_owner(&owned).is_some() {
                            handovers.push(owned);
                        } else {
                            removal.add(owned);
                        }
                    }
                }
                if id.kind() == Kind::Policy {
                    let declared = self.state.declared(&id);
                    for id in declared.roles.into_iter().chain(declared.resources) {
                        removal.add(id);
                    }
                    removal.memberships.extend(declared.memberships);
                    removal.permissions.extend(declared.permissions);
                    removal.annotations.extend(declared.annotations);
                }
            }
            // Handing over to a role that goes as well is no rescue.
            let before = removal.ids.len();
            handovers.retain(|id| {
                let lost = self.new_owner(id).is_none_or(|owner| removal.seen.contains(owner));
                if lost {
                    removal.add(id.clone());
                }
                !lost && !removal.seen.contains(id)
            });
            if removal.ids.len() == before {
                return handovers;
            }
        }
    }

    /// Lists a completed removal's events and notes what is gone.
    fn remove(&mut self, removal: Removal) -> Result<(), PolicyError> {
        if removal.seen.contains(self.target) {
            return Err(self.deletes_itself());
        }
        self.gone.ids = removal.seen;
        for key in removal.memberships {
            let alone = !self.gone.ids.contains(&key.role) && !self.gone.ids.contains(&key.member);
            if alone && self.gone.memberships.insert(key.clone()) {
                self.plan.changes.push(Event::MembershipRemoved { key });
            }
        }
        for key in removal.permissions {
            let alone =
                !self.gone.ids.contains(&key.resource) && !self.gone.ids.contains(&key.role);
            if alone && self.gone.permissions.insert(key.clone()) {
                self.plan.changes.push(Event::PermissionRemoved { key });
            }
        }
        for (resource, name) in removal.annotations {
            let alone = !self.gone.ids.contains(&resource);
            if alone && self.gone.annotations.insert((resource.clone(), name.clone())) {
                self.plan.changes.push(Event::AnnotationRemoved { resource, name });
            }
        }
        for id in removal.ids.into_iter().rev() {
            self.remove_id(id);
        }
        Ok(())
    }

    fn remove_id(&mut self, id: Id) {
        self.plan.changes.push(Event::ResourceRemoved { resource: id.clone() });
        if id.kind().is_role() {
            self.plan.changes.push(Event::RoleRemoved { role: id });
        }
    }

    fn deletes_itself(&self) -> PolicyError {
        PolicyError::Invalid {
            object: InvalidObject::DeletesItself(self.target.identifier().to_owned()),
            place: None,
        }
    }

    /// Checks that all that is referred to is there or comes with this load.
    fn check_references(&self) -> Result<(), PolicyError> {
        let comes = |id: &Id| self.desired.by_id.contains_key(id);
        let role = |id: &Id, place: Place| {
            let known = id.kind().is_role() && (comes(id) || self.role(id).is_some());
            known.then_some(()).ok_or_else(|| not_found(id, place))
        };
        for record in &self.desired.records {
            role(&record.owner, record.owner_place)?;
            if record.id.kind() == Kind::HostFactory && !record.has_layers {
                let name = record.id.identifier().to_owned();
                return Err(PolicyError::Invalid {
                    object: InvalidObject::HostFactoryWithoutLayers(name),
                    place: Some(record.place),
                });
            }
        }
        for grant in &self.desired.grants {
            role(&grant.key.role, grant.role_place)?;
            role(&grant.key.member, grant.member_place)?;
        }
        for permit in &self.desired.permits {
            let resource = &permit.key.resource;
            if !comes(resource) && self.resource(resource).is_none() {
                return Err(not_found(resource, permit.resource_place));
            }
            role(&permit.key.role, permit.role_place)?;
        }
        Ok(())
    }

    fn records(&mut self) {
        let desired = self.desired;
        for record in &desired.records {
            let id = &record.id;
            if id.kind().is_role() {
                match self.role(id) {
                    None => self.add_role(record),
                    Some(role) if self.is_ours(role.policy.as_ref()) => self.restrict(record),
                    Some(_) => {}
                }
            }
            match self.resource(id) {
                None => {
                    let resource = id.clone();
                    let (owner, policy) = (record.owner.clone(), self.mark.clone());
                    self.plan.changes.push(Event::ResourceAdded { resource, owner, policy });
                    self.owners.insert(id.clone(), record.owner.clone());
                    self.annotate(record);
                    self.publish(record);
                }
                Some(resource) if self.is_ours(resource.policy.as_ref()) => {
                    if self.mode != LoadMode::Append
                        && resource.owner != record.owner
                        && !self.owners.contains_key(id)
                    {
                        self.change_owner(id, &record.owner);
                    }
                    self.annotate(record);
                    self.publish(record);
                }
                Some(_) => {}
            }
        }
    }

    fn add_role(&mut self, record: &DesiredRecord) {
        let role = record.id.clone();
        if role.kind().has_credentials() {
            self.plan.credentials.push((role.clone(), record.restricted_to.clone()));
        }
        let policy = self.mark.clone();
        self.plan.changes.push(Event::RoleAdded { role, policy });
    }

    fn restrict(&mut self, record: &DesiredRecord) {
        let Some(credential) = self.state.credential(&record.id) else { return };
        let current = &credential.restricted_to;
        let restricted_to: Vec<IpNet> = match self.mode {
            LoadMode::Append => {
                let new = record.restricted_to.iter().filter(|net| !current.contains(net));
                current.iter().chain(new).copied().collect()
            }
            LoadMode::Update | LoadMode::Replace => record.restricted_to.clone(),
        };
        if restricted_to != *current {
            let role = record.id.clone();
            self.plan.changes.push(Event::RestrictionChanged { role, restricted_to });
        }
    }

    /// The ownership membership follows from the event; see [`crate::evolve`].
    fn change_owner(&mut self, id: &ResourceId, owner: &RoleId) {
        let changed = Event::OwnerChanged { resource: id.clone(), owner: owner.clone() };
        self.plan.changes.push(changed);
        self.owners.insert(id.clone(), owner.clone());
    }

    fn annotate(&mut self, record: &DesiredRecord) {
        let resource = &record.id;
        let is_new = self.resource(resource).is_none();
        for (name, value) in &record.annotations {
            let row = if is_new { None } else { self.state.annotation(resource, name) };
            let set = match row {
                None => true,
                Some(row) => {
                    let gone = &self.gone.annotations;
                    gone.contains(&(resource.clone(), name.clone()))
                        || (self.mode != LoadMode::Append
                            && self.is_ours(row.policy.as_ref())
                            && row.value != *value)
                }
            };
            if set {
                self.plan.changes.push(Event::AnnotationSet {
                    resource: resource.clone(),
                    name: name.clone(),
                    annotation: Annotation { value: value.clone(), policy: self.mark.clone() },
                });
            }
        }
    }

    fn publish(&mut self, record: &DesiredRecord) {
        if let Some(value) = &record.value {
            self.plan.public_keys.push((record.id.clone(), value.clone()));
        }
    }

    fn grants(&mut self) {
        let desired = self.desired;
        for grant in &desired.grants {
            let add = match self.membership(&grant.key) {
                None => true,
                Some(row) => {
                    self.mode != LoadMode::Append
                        && self.is_ours(row.policy.as_ref())
                        && row.admin_option != grant.admin_option
                }
            };
            if add {
                let (key, admin_option) = (grant.key.clone(), grant.admin_option);
                let policy = self.mark.clone();
                self.added_memberships.insert(key.clone());
                self.plan.changes.push(Event::MembershipAdded { key, admin_option, policy });
            }
        }
    }

    fn permits(&mut self) {
        let desired = self.desired;
        for permit in &desired.permits {
            if self.permission(&permit.key).is_none() {
                let key = permit.key.clone();
                let policy = self.mark.clone();
                self.added_permissions.insert(key.clone());
                self.plan.changes.push(Event::PermissionAdded { key, policy });
            }
        }
    }

    /// Carries out `!delete`, `!revoke` and `!deny`, in the order of the text.
    fn deletions(&mut self) -> Result<(), PolicyError> {
        let desired = self.desired;
        if desired.deletions.is_empty() {
            return Ok(());
        }
        let mut owned: HashMap<&RoleId, Vec<&Id>> = HashMap::new();
        let owners = std::mem::take(&mut self.owners);
        for (id, owner) in &owners {
            owned.entry(owner).or_default().push(id);
        }
        for ids in owned.values_mut() {
            // The map gives them in no order; a plan has one.
            ids.sort_unstable();
        }
        let mut deleted: HashSet<Id> = HashSet::new();
        let mut dropped_memberships: HashSet<&MembershipKey> = HashSet::new();
        let mut dropped_permissions: HashSet<&PermissionKey> = HashSet::new();
        for deletion in &desired.deletions {
            match deletion {
                Deletion::Record(id) => {
                    let is_there = owners.contains_key(id)
                        || self.resource(id).is_some()
                        || (id.kind().is_role() && self.role(id).is_some());
                    if !is_there || deleted.contains(id) {
                        continue;
                    }
                    let found = self.all_that_goes_with(id, &owners, &owned, &mut deleted);
                    if deleted.contains(self.target) {
                        return Err(self.deletes_itself());
                    }
                    for id in found.ids.into_iter().rev() {
                        self.remove_id(id);
                    }
                    for key in found.memberships {
                        if !deleted.contains(&key.role) && !deleted.contains(&key.member) {
                            self.plan.changes.push(Event::MembershipRemoved { key });
                        }
                    }
                    for key in found.permissions {
                        if !deleted.contains(&key.resource) && !deleted.contains(&key.role) {
                            self.plan.changes.push(Event::PermissionRemoved { key });
                        }
                    }
                    for (resource, name) in found.annotations {
                        if !deleted.contains(&resource) {
                            self.plan.changes.push(Event::AnnotationRemoved { resource, name });
                        }
                    }
                }
                Deletion::Membership(key) => {
                    let is_ours = self.added_memberships.contains(key)
                        || self
                            .membership(key)
                            .is_some_and(|row| self.is_ours(row.policy.as_ref()));
                    let went = deleted.contains(&key.role) || deleted.contains(&key.member);
                    if is_ours && !went && dropped_memberships.insert(key) {
                        self.plan.changes.push(Event::MembershipRemoved { key: key.clone() });
                    }
                }
                Deletion::Permission(key) => {
                    let is_ours =
                        self.added_permissions.contains(key) || self.permission(key) == Some(true);
                    let went = deleted.contains(&key.resource) || deleted.contains(&key.role);
                    if is_ours && !went && dropped_permissions.insert(key) {
                        self.plan.changes.push(Event::PermissionRemoved { key: key.clone() });
                    }
                }
            }
        }
        self.plan.credentials.retain(|(role, _)| !deleted.contains(role));
        self.plan.public_keys.retain(|(resource, _)| !deleted.contains(resource));
        Ok(())
    }

    /// What goes with a record that is deleted after this load's additions.
    fn all_that_goes_with(
        &self,
        id: &Id,
        owners: &HashMap<Id, RoleId>,
        owned: &HashMap<&RoleId, Vec<&Id>>,
        deleted: &mut HashSet<Id>,
    ) -> Removal {
        let mut removal = Removal::default();
        let mut take = |id: &Id, removal: &mut Removal| {
            if deleted.insert(id.clone()) {
                removal.add(id.clone());
            }
        };
        take(id, &mut removal);
        let mut next = 0;
        while let Some(id) = removal.ids.get(next).cloned() {
            next += 1;
            if !id.kind().is_role() {
                continue;
            }
            for held in owned.get(&id).into_iter().flatten() {
                take(held, &mut removal);
            }
            for held in self.state.owned(&id) {
                // Not what went before, nor what this load has given to another.
                let kept = self.gone.ids.contains(&held) || owners.contains_key(&held);
                if !kept && self.is_near(&held) {
                    take(&held, &mut removal);
                }
            }
            if id.kind() == Kind::Policy && !self.gone.ids.contains(&id) {
                let declared = self.state.declared(&id);
                for held in declared.roles.iter().chain(&declared.resources) {
                    if !self.gone.ids.contains(held) {
                        take(held, &mut removal);
                    }
                }
                removal.memberships.extend(
                    declared.memberships.into_iter().filter(|key| self.membership(key).is_some()),
                );
                removal.permissions.extend(
                    declared.permissions.into_iter().filter(|key| self.permission(key).is_some()),
                );
                removal.annotations.extend(
                    declared.annotations.into_iter().filter(|(id, _)| self.resource(id).is_some()),
                );
            }
        }
        removal
    }
}

fn not_found(id: &Id, place: Place) -> PolicyError {
    PolicyError::NotFound { id: id.clone(), place: Some(place) }
}
