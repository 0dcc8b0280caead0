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
use std::ops::Range;

use ipnet::IpNet;

use super::dynamic;
use super::error::{InvalidObject, Place, PolicyError};
use super::parse;
use super::resolve::{Deletion, Desired, DesiredRecord, resolve};
use super::tree::Tree;
use super::{Ignored, LoadMode, LoadRequest, Plan, Rules};
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
    let prepared = prepare(request, &owner_of_target(state, request.policy)?)?;
    let mut comparison = Comparison::new(&prepared);
    loop {
        match comparison.advance(state, usize::MAX)? {
            Step::Done(plan) => return Ok(*plan),
            Step::Further | Step::Moved => {}
        }
    }
}

/// A text that has been read, its ids whole: all of planning that needs no state.
#[derive(Debug)]
pub struct Prepared {
    target: ResourceId,
    owner: RoleId,
    actor: RoleId,
    mode: LoadMode,
    rules: Rules,
    desired: Desired,
}

impl Prepared {
    /// The owner of the policy loaded into that the text was read with. When that is another by now,
    /// the text has to be prepared again.
    pub fn owner(&self) -> &RoleId {
        &self.owner
    }
}

/// Reads a text that is to be loaded into a policy owned by `owner` (see [`owner_of_target`]).
///
/// # Errors
/// Why the text cannot be loaded, as [`PolicyError`].
pub fn prepare(request: &LoadRequest<'_>, owner: &RoleId) -> Result<Prepared, PolicyError> {
    let target = request.policy;
    if request.text.trim().is_empty() {
        return Err(PolicyError::EmptyText);
    }
    let tree = Tree::read(request.text)?;
    let statements = parse::statements(&tree)?;
    if request.mode == LoadMode::Append && statements.iter().any(parse::Statement::deletes) {
        return Err(PolicyError::DeletionInAppend);
    }
    Ok(Prepared {
        target: target.clone(),
        owner: owner.clone(),
        actor: request.actor.clone(),
        mode: request.mode,
        rules: request.rules,
        desired: resolve(statements, target, owner, tree.has_aliases())?,
    })
}

/// How far a [`Comparison`] has come.
#[derive(Debug)]
pub enum Step {
    /// There is more to compare.
    Further,
    /// The account has changed since the first step; the comparison begins again with the next.
    Moved,
    /// All has been compared.
    Done(Box<Plan>),
}

/// What is compared, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Undeclared,
    KnownRecords,
    KnownGrants,
    KnownPermits,
    Records,
    Grants,
    Permits,
    Deletions,
}

impl Stage {
    const fn next(self) -> Option<Self> {
        Some(match self {
            Self::Undeclared => Self::KnownRecords,
            Self::KnownRecords => Self::KnownGrants,
            Self::KnownGrants => Self::KnownPermits,
            Self::KnownPermits => Self::Records,
            Self::Records => Self::Grants,
            Self::Grants => Self::Permits,
            Self::Permits => Self::Deletions,
            Self::Deletions => return None,
        })
    }
}

/// Compares a prepared text with the state, a piece at a time. Between two steps the state may be let
/// go of: when the account has changed meanwhile, the comparison notices and begins again.
#[derive(Debug)]
pub struct Comparison<'p> {
    prepared: &'p Prepared,
    progress: Progress,
    stage: Stage,
    at: usize,
    based_on: Option<Revision>,
}

impl<'p> Comparison<'p> {
    /// A comparison that has not begun.
    pub fn new(prepared: &'p Prepared) -> Self {
        Self {
            prepared,
            progress: Progress::default(),
            stage: Stage::Undeclared,
            at: 0,
            based_on: None,
        }
    }

    /// Compares some `rows` more. What is there and not declared, and what the text deletes, is
    /// looked at in one step each.
    ///
    /// # Errors
    /// Why the text cannot be loaded, as [`PolicyError`].
    pub fn advance(&mut self, state: &State, rows: usize) -> Result<Step, PolicyError> {
        let prepared = self.prepared;
        let account = state.account(prepared.target.account());
        let revision = account.map_or(Revision(0), |account| account.revision);
        if *self.based_on.get_or_insert(revision) != revision {
            *self = Self::new(prepared);
            return Ok(Step::Moved);
        }
        let mut planner = Planner::new(state, prepared, std::mem::take(&mut self.progress));
        let mut left = rows.max(1);
        loop {
            let from = self.at;
            let to = |length: usize| length.min(from.saturating_add(left));
            let desired = &prepared.desired;
            let (end, length) = match self.stage {
                Stage::KnownRecords | Stage::Records => {
                    (to(desired.records.len()), desired.records.len())
                }
                Stage::KnownGrants | Stage::Grants => {
                    (to(desired.grants.len()), desired.grants.len())
                }
                Stage::KnownPermits | Stage::Permits => {
                    (to(desired.permits.len()), desired.permits.len())
                }
                Stage::Undeclared | Stage::Deletions => (0, 0),
            };
            match self.stage {
                Stage::Undeclared if prepared.mode == LoadMode::Replace => {
                    planner.remove_undeclared()?;
                }
                Stage::Undeclared => {}
                Stage::KnownRecords => planner.check_records(from..end)?,
                Stage::KnownGrants => planner.check_grants(from..end)?,
                Stage::KnownPermits => planner.check_permits(from..end)?,
                Stage::Records => planner.records(from..end),
                Stage::Grants => planner.grants(from..end),
                Stage::Permits => planner.permits(from..end),
                Stage::Deletions => planner.deletions()?,
            }
            left -= end - from;
            self.at = end;
            if end == length {
                self.at = 0;
                let Some(next) = self.stage.next() else {
                    let mut plan = planner.progress.plan;
                    plan.based_on = revision;
                    plan.warnings = warnings(desired);
                    return Ok(Step::Done(Box::new(plan)));
                };
                self.stage = next;
            }
            if left == 0 {
                self.progress = planner.progress;
                return Ok(Step::Further);
            }
        }
    }
}

/// The owner of the policy loaded into. The root policy may not be there yet: it comes on first touch.
///
/// # Errors
/// When the policy is not there, and is not the root policy.
pub fn owner_of_target(state: &State, target: &ResourceId) -> Result<RoleId, PolicyError> {
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

/// What a comparison has found so far.
#[derive(Debug, Default)]
struct Progress {
    plan: Plan,
    gone: Gone,
    /// Resources that this load brings or hands over, with their owners.
    owners: HashMap<Id, RoleId>,
    /// Memberships and permissions that this load brings.
    added_memberships: HashSet<MembershipKey>,
    added_permissions: HashSet<PermissionKey>,
}

/// Rows that are in the state and go before anything is added.
#[derive(Debug, Default)]
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
    actor: &'a RoleId,
    /// What rows that this load brings are marked with: the target.
    mark: Option<ResourceId>,
    mode: LoadMode,
    rules: Rules,
    desired: &'a Desired,
    progress: Progress,
}

impl<'a> Planner<'a> {
    fn new(state: &'a State, prepared: &'a Prepared, progress: Progress) -> Self {
        Self {
            state,
            target: &prepared.target,
            actor: &prepared.actor,
            mark: Some(prepared.target.clone()),
            mode: prepared.mode,
            rules: prepared.rules,
            desired: &prepared.desired,
            progress,
        }
    }

    // What is there once the removals of a replace are done.

    fn role(&self, id: &RoleId) -> Option<&'a Role> {
        if self.progress.gone.ids.contains(id) { None } else { self.state.role(id) }
    }

    fn resource(&self, id: &ResourceId) -> Option<&'a Resource> {
        if self.progress.gone.ids.contains(id) { None } else { self.state.resource(id) }
    }

    fn membership(&self, key: &MembershipKey) -> Option<Membership> {
        let gone = self.progress.gone.ids.contains(&key.role)
            || self.progress.gone.ids.contains(&key.member)
            || self.progress.gone.memberships.contains(key);
        if gone { None } else { self.state.membership(key) }
    }

    /// Whether a permission is there, and whether this policy declared it.
    fn permission(&self, key: &PermissionKey) -> Option<bool> {
        let gone = self.progress.gone.ids.contains(&key.resource)
            || self.progress.gone.ids.contains(&key.role)
            || self.progress.gone.permissions.contains(key);
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
        self.progress.gone.ids = removal.seen;
        for key in removal.memberships {
            let alone = !self.progress.gone.ids.contains(&key.role)
                && !self.progress.gone.ids.contains(&key.member);
            if alone && self.progress.gone.memberships.insert(key.clone()) {
                self.progress.plan.changes.push(Event::MembershipRemoved { key });
            }
        }
        for key in removal.permissions {
            let alone = !self.progress.gone.ids.contains(&key.resource)
                && !self.progress.gone.ids.contains(&key.role);
            if alone && self.progress.gone.permissions.insert(key.clone()) {
                self.progress.plan.changes.push(Event::PermissionRemoved { key });
            }
        }
        for (resource, name) in removal.annotations {
            let alone = !self.progress.gone.ids.contains(&resource);
            if alone && self.progress.gone.annotations.insert((resource.clone(), name.clone())) {
                self.progress.plan.changes.push(Event::AnnotationRemoved { resource, name });
            }
        }
        for id in removal.ids.into_iter().rev() {
            self.remove_id(id);
        }
        Ok(())
    }

    fn remove_id(&mut self, id: Id) {
        self.progress.plan.changes.push(Event::ResourceRemoved { resource: id.clone() });
        if id.kind().is_role() {
            self.progress.plan.changes.push(Event::RoleRemoved { role: id });
        }
    }

    fn deletes_itself(&self) -> PolicyError {
        PolicyError::Invalid {
            object: InvalidObject::DeletesItself(self.target.identifier().to_owned()),
            place: None,
        }
    }

    /// Checks that a role that is referred to is there or comes with this load.
    fn check_role(&self, id: &Id, place: Place) -> Result<(), PolicyError> {
        let comes = self.desired.by_id.contains_key(id);
        let known = id.kind().is_role() && (comes || self.role(id).is_some());
        known.then_some(()).ok_or_else(|| not_found(id, place))
    }

    fn check_records(&self, range: Range<usize>) -> Result<(), PolicyError> {
        for record in &self.desired.records[range] {
            self.check_role(&record.owner, record.owner_place)?;
            self.check_rules(record)?;
            if self.rules.dynamic_secrets {
                dynamic::check(self.state, self.actor, record)?;
            }
            if record.id.kind() == Kind::HostFactory && !record.has_layers {
                let name = record.id.identifier().to_owned();
                return Err(PolicyError::Invalid {
                    object: InvalidObject::HostFactoryWithoutLayers(name),
                    place: Some(record.place),
                });
            }
        }
        Ok(())
    }

    /// Checks a record that is new against what the operator allows.
    fn check_rules(&self, record: &DesiredRecord) -> Result<(), PolicyError> {
        let id = &record.id;
        let is_user = id.kind() == Kind::User;
        let is_host = id.kind() == Kind::Host;
        let object = if is_user && self.rules.users_in_root_only && record.is_nested {
            InvalidObject::UserOutsideRoot
        } else if is_host && self.rules.hosts_ask_for_api_keys && !record.asks_for_api_key() {
            InvalidObject::HostWithoutApiKey(id.identifier().to_owned())
        } else {
            return Ok(());
        };
        let is_new = self.role(id).is_none();
        if is_new {
            Err(PolicyError::Invalid { object, place: Some(record.place) })
        } else {
            Ok(())
        }
    }

    fn check_grants(&self, range: Range<usize>) -> Result<(), PolicyError> {
        for grant in &self.desired.grants[range] {
            self.check_role(&grant.key.role, grant.role_place)?;
            self.check_role(&grant.key.member, grant.member_place)?;
        }
        Ok(())
    }

    fn check_permits(&self, range: Range<usize>) -> Result<(), PolicyError> {
        for permit in &self.desired.permits[range] {
            let resource = &permit.key.resource;
            let comes = self.desired.by_id.contains_key(resource);
            if !comes && self.resource(resource).is_none() {
                return Err(not_found(resource, permit.resource_place));
            }
            self.check_role(&permit.key.role, permit.role_place)?;
        }
        Ok(())
    }

    /// Notes a change that this load leaves alone, where that is an append: the others make it.
    fn ignore(&mut self, ignored: impl FnOnce() -> Ignored) {
        if self.mode == LoadMode::Append {
            self.progress.plan.ignored.push(ignored());
        }
    }

    fn records(&mut self, range: Range<usize>) {
        let desired = self.desired;
        for record in &desired.records[range] {
            let id = &record.id;
            if id.kind().is_role() {
                match self.role(id) {
                    None => self.add_role(record),
                    Some(role) if self.is_ours(role.policy.as_ref()) => self.restrict(record),
                    Some(_) => {
                        let current = self.state.credential(id).map(|one| &one.restricted_to);
                        let is_new = |net| current.is_none_or(|current| !current.contains(net));
                        if record.restricted_to.iter().any(is_new) {
                            self.ignore(|| Ignored::Restriction(id.clone()));
                        }
                    }
                }
            }
            match self.resource(id) {
                None => {
                    let resource = id.clone();
                    let (owner, policy) = (record.owner.clone(), self.mark.clone());
                    self.progress.plan.changes.push(Event::ResourceAdded {
                        resource,
                        owner,
                        policy,
                    });
                    self.progress.owners.insert(id.clone(), record.owner.clone());
                    self.annotate(record);
                    self.publish(record);
                }
                Some(resource) if self.is_ours(resource.policy.as_ref()) => {
                    if resource.owner != record.owner {
                        self.ignore(|| Ignored::Owner(id.clone()));
                        if self.mode != LoadMode::Append && !self.progress.owners.contains_key(id) {
                            self.change_owner(id, &record.owner);
                        }
                    }
                    self.annotate(record);
                    self.publish(record);
                }
                Some(resource) => {
                    if resource.owner != record.owner {
                        self.ignore(|| Ignored::Owner(id.clone()));
                    }
                    for (name, value) in &record.annotations {
                        let row = self.state.annotation(id, name);
                        if row.is_none_or(|row| row.value != *value) {
                            self.ignore(|| Ignored::Annotation(id.clone(), name.clone()));
                        }
                    }
                }
            }
        }
    }

    fn add_role(&mut self, record: &DesiredRecord) {
        let role = record.id.clone();
        if role.kind().has_credentials() {
            self.progress.plan.credentials.push((role.clone(), record.restricted_to.clone()));
        }
        let policy = self.mark.clone();
        self.progress.plan.changes.push(Event::RoleAdded { role, policy });
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
            self.progress.plan.changes.push(Event::RestrictionChanged { role, restricted_to });
        }
    }

    /// The ownership membership follows from the event; see [`crate::evolve`].
    fn change_owner(&mut self, id: &ResourceId, owner: &RoleId) {
        let changed = Event::OwnerChanged { resource: id.clone(), owner: owner.clone() };
        self.progress.plan.changes.push(changed);
        self.progress.owners.insert(id.clone(), owner.clone());
    }

    fn annotate(&mut self, record: &DesiredRecord) {
        let resource = &record.id;
        let is_new = self.resource(resource).is_none();
        for (name, value) in &record.annotations {
            let row = if is_new { None } else { self.state.annotation(resource, name) };
            let set = match row {
                None => true,
                Some(row) => {
                    if row.value != *value {
                        self.ignore(|| Ignored::Annotation(resource.clone(), name.clone()));
                    }
                    let gone = &self.progress.gone.annotations;
                    (!gone.is_empty() && gone.contains(&(resource.clone(), name.clone())))
                        || (self.mode != LoadMode::Append
                            && self.is_ours(row.policy.as_ref())
                            && row.value != *value)
                }
            };
            if set {
                self.progress.plan.changes.push(Event::AnnotationSet {
                    resource: resource.clone(),
                    name: name.clone(),
                    annotation: Annotation { value: value.clone(), policy: self.mark.clone() },
                });
            }
        }
    }

    fn publish(&mut self, record: &DesiredRecord) {
        if let Some(value) = &record.value {
            self.progress.plan.public_keys.push((record.id.clone(), value.clone()));
        }
    }

    fn grants(&mut self, range: Range<usize>) {
        let desired = self.desired;
        for grant in &desired.grants[range] {
            let add = match self.membership(&grant.key) {
                None => true,
                Some(row) => {
                    if row.admin_option != grant.admin_option {
                        let MembershipKey { role, member, .. } = &grant.key;
                        self.ignore(|| Ignored::AdminOption(role.clone(), member.clone()));
                    }
                    self.mode != LoadMode::Append
                        && self.is_ours(row.policy.as_ref())
                        && row.admin_option != grant.admin_option
                }
            };
            if add {
                let (key, admin_option) = (grant.key.clone(), grant.admin_option);
                let policy = self.mark.clone();
                self.progress.added_memberships.insert(key.clone());
                self.progress.plan.changes.push(Event::MembershipAdded {
                    key,
                    admin_option,
                    policy,
                });
            }
        }
    }

    fn permits(&mut self, range: Range<usize>) {
        let desired = self.desired;
        for permit in &desired.permits[range] {
            if self.permission(&permit.key).is_none() {
                let key = permit.key.clone();
                let policy = self.mark.clone();
                self.progress.added_permissions.insert(key.clone());
                self.progress.plan.changes.push(Event::PermissionAdded { key, policy });
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
        let owners = std::mem::take(&mut self.progress.owners);
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
                            self.progress.plan.changes.push(Event::MembershipRemoved { key });
                        }
                    }
                    for key in found.permissions {
                        if !deleted.contains(&key.resource) && !deleted.contains(&key.role) {
                            self.progress.plan.changes.push(Event::PermissionRemoved { key });
                        }
                    }
                    for (resource, name) in found.annotations {
                        if !deleted.contains(&resource) {
                            self.progress
                                .plan
                                .changes
                                .push(Event::AnnotationRemoved { resource, name });
                        }
                    }
                }
                Deletion::Membership(key) => {
                    let is_ours = self.progress.added_memberships.contains(key)
                        || self
                            .membership(key)
                            .is_some_and(|row| self.is_ours(row.policy.as_ref()));
                    let went = deleted.contains(&key.role) || deleted.contains(&key.member);
                    if is_ours && !went && dropped_memberships.insert(key) {
                        self.progress
                            .plan
                            .changes
                            .push(Event::MembershipRemoved { key: key.clone() });
                    }
                }
                Deletion::Permission(key) => {
                    let is_ours = self.progress.added_permissions.contains(key)
                        || self.permission(key) == Some(true);
                    let went = deleted.contains(&key.resource) || deleted.contains(&key.role);
                    if is_ours && !went && dropped_permissions.insert(key) {
                        self.progress
                            .plan
                            .changes
                            .push(Event::PermissionRemoved { key: key.clone() });
                    }
                }
            }
        }
        self.progress.plan.credentials.retain(|(role, _)| !deleted.contains(role));
        self.progress.plan.public_keys.retain(|(resource, _)| !deleted.contains(resource));
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
                let kept = self.progress.gone.ids.contains(&held) || owners.contains_key(&held);
                if !kept && self.is_near(&held) {
                    take(&held, &mut removal);
                }
            }
            if id.kind() == Kind::Policy && !self.progress.gone.ids.contains(&id) {
                let declared = self.state.declared(&id);
                for held in declared.roles.iter().chain(&declared.resources) {
                    if !self.progress.gone.ids.contains(held) {
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
