//! Statements to rows: makes ids whole, fills in owners, flattens nested policies, orders records so
//! that owners come before what they own. Looks at the text only, never at the state.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ipnet::IpNet;

use super::error::{ParseRejection, Place, PolicyError, ResolveRejection};
use super::limits;
use super::parse::{Member, Name, Record, Statement};
use super::tree::{NodeId, reject};
use crate::id::{AccountName, Id, Kind, ResourceId, RoleId};
use crate::records::{MembershipKey, PermissionKey};

/// A record that the text declares.
#[derive(Debug)]
pub(super) struct DesiredRecord {
    /// Its id.
    pub(super) id: Id,
    /// Where it stands.
    pub(super) place: Place,
    /// Its owner.
    pub(super) owner: RoleId,
    /// Where the owner is named, or the record where it is not.
    pub(super) owner_place: Place,
    /// Annotations by name.
    pub(super) annotations: Vec<(String, String)>,
    /// Whether its annotation for the life of a dynamic secret is a whole number, and not text.
    pub(super) ttl_is_number: bool,
    /// Addresses that the role may come from.
    pub(super) restricted_to: Vec<IpNet>,
    /// The value of a public key.
    pub(super) value: Option<String>,
    /// Layers of a host factory, all of them records that must exist.
    layers: Vec<(RoleId, Place)>,
    /// Whether the text gives a host factory any layers.
    pub(super) has_layers: bool,
    /// Whether it stands in another policy than the root one.
    pub(super) is_nested: bool,
}

impl DesiredRecord {
    /// The value of an annotation.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the record says in so many words that it wants an API key.
    pub(super) fn asks_for_api_key(&self) -> bool {
        self.annotation("authn/api-key") == Some("true")
    }
}

/// A membership that the text declares.
#[derive(Debug)]
pub(super) struct DesiredGrant {
    /// The row.
    pub(super) key: MembershipKey,
    /// Its admin option.
    pub(super) admin_option: bool,
    /// Where the role is named.
    pub(super) role_place: Place,
    /// Where the member is named.
    pub(super) member_place: Place,
}

/// A permission that the text declares.
#[derive(Debug)]
pub(super) struct DesiredPermit {
    /// The row.
    pub(super) key: PermissionKey,
    /// Where the resource is named.
    pub(super) resource_place: Place,
    /// Where the role is named.
    pub(super) role_place: Place,
}

/// Something that the text deletes.
#[derive(Debug)]
pub(super) enum Deletion {
    /// A record with all that goes with it.
    Record(Id),
    /// One membership.
    Membership(MembershipKey),
    /// One permission.
    Permission(PermissionKey),
}

/// All that the text asks for.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// Records, owners first.
    pub(super) records: Vec<DesiredRecord>,
    /// Where in `records` an id stands.
    pub(super) by_id: HashMap<Id, usize>,
    /// Memberships, each once.
    pub(super) grants: Vec<DesiredGrant>,
    /// Permissions, each once.
    pub(super) permits: Vec<DesiredPermit>,
    /// Deletions in the order of the text.
    pub(super) deletions: Vec<Deletion>,
}

impl Desired {
    /// The declaration of a record.
    pub(super) fn record(&self, id: &Id) -> Option<&DesiredRecord> {
        self.by_id.get(id).map(|&index| &self.records[index])
    }
}

/// Resolves the statements of a text loaded into `policy`, whose owner is `owner`.
pub(super) fn resolve(
    statements: Vec<Statement>,
    policy: &ResourceId,
    owner: &RoleId,
    shared_nodes: bool,
) -> Result<Desired, PolicyError> {
    let mut resolver = Resolver {
        account: policy.account(),
        desired: Desired::default(),
        declared_at: HashMap::new(),
        seen: shared_nodes.then(HashMap::new),
        grants: HashMap::new(),
        permits: HashMap::new(),
        rows: 0,
    };
    let scope = if policy.identifier() == "root" {
        Scope { namespace: None, owner: owner.clone() }
    } else {
        Scope { namespace: Some(policy.identifier().to_owned()), owner: policy.clone() }
    };
    resolver.statements(statements, &scope)?;
    let mut desired = resolver.desired;
    sort(&mut desired)?;
    Ok(desired)
}

/// What an id inside some policy is relative to.
struct Scope {
    /// The path of the enclosing policy; none at the top of the root policy.
    namespace: Option<String>,
    /// Who owns what names no owner.
    owner: RoleId,
}

/// Where an id stands, which says what it may look like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Something that the policy acts upon: below the policy, never absolute.
    Below,
    /// Somebody whom the policy lets act: anywhere, by absolute or relative id.
    Anywhere,
}

struct Resolver<'a> {
    account: &'a AccountName,
    desired: Desired,
    /// The nodes that declared records, to tell an alias from a second declaration.
    declared_at: HashMap<Id, NodeId>,
    /// Ids of nodes that an alias may lead to again: such a node means what it meant where it was
    /// written. None where the text has no aliases.
    seen: Option<HashMap<NodeId, (Id, Reach)>>,
    grants: HashMap<MembershipKey, usize>,
    permits: HashMap<PermissionKey, usize>,
    rows: usize,
}

impl Resolver<'_> {
    fn count(&mut self, place: Place) -> Result<(), PolicyError> {
        self.count_all(1, place)
    }

    /// Counts rows to come. What multiplies lists is counted before any row is made: a short text
    /// that asks for too many costs nothing.
    fn count_all(&mut self, rows: usize, place: Place) -> Result<(), PolicyError> {
        self.rows = self.rows.saturating_add(rows);
        if self.rows > limits::ROWS_MAX {
            return Err(reject(ParseRejection::TooManyRows, place));
        }
        Ok(())
    }

    /// Counts the rows of lists that are multiplied; the last list says where they stand.
    fn count_product(
        &mut self,
        lengths: &[usize],
        last: &[(Id, Place)],
    ) -> Result<(), PolicyError> {
        let Some((_, place)) = last.first() else { return Ok(()) };
        let rows = lengths.iter().fold(last.len(), |rows, length| rows.saturating_mul(*length));
        self.count_all(rows, *place)
    }

    fn statements(&mut self, statements: Vec<Statement>, scope: &Scope) -> Result<(), PolicyError> {
        for statement in statements {
            match statement {
                Statement::Record(record) => self.record(*record, scope)?,
                Statement::Grant { roles, members } => self.grant(&roles, &members, scope)?,
                Statement::Permit { roles, privileges, resources } => {
                    self.permit(&roles, &privileges, &resources, scope)?;
                }
                Statement::Revoke { roles, members } => {
                    let members = self.ids(&members, scope, Reach::Anywhere)?;
                    let roles = self.ids(&roles, scope, Reach::Below)?;
                    self.count_product(&[members.len()], &roles)?;
                    for (role, _) in roles {
                        for (member, _) in &members {
                            let (role, member) = (role.clone(), member.clone());
                            let key = MembershipKey { role, member, ownership: false };
                            self.desired.deletions.push(Deletion::Membership(key));
                        }
                    }
                }
                Statement::Deny { roles, privileges, resources } => {
                    let roles = self.ids(&roles, scope, Reach::Anywhere)?;
                    let resources = self.ids(&resources, scope, Reach::Below)?;
                    self.count_product(&[privileges.len(), roles.len()], &resources)?;
                    for (resource, _) in resources {
                        for privilege in &privileges {
                            for (role, _) in &roles {
                                let key = PermissionKey {
                                    resource: resource.clone(),
                                    role: role.clone(),
                                    privilege: privilege.clone(),
                                };
                                self.desired.deletions.push(Deletion::Permission(key));
                            }
                        }
                    }
                }
                Statement::Delete { record } => {
                    let id = self.id(&record, scope, Reach::Below)?;
                    self.count(record.place)?;
                    self.desired.deletions.push(Deletion::Record(id));
                }
                Statement::Stray(text) => {
                    let rejection = ResolveRejection::NotARecord(text);
                    return Err(PolicyError::Resolve { rejection, place: None });
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record, scope: &Scope) -> Result<(), PolicyError> {
        let place = record.name.place;
        let id = self.id(&record.name, scope, Reach::Below)?;
        let path = if id.kind() == Kind::User {
            Self::path(&record.name, scope, Reach::Below)?
        } else {
            id.identifier().to_owned()
        };
        match self.declared_at.entry(id.clone()) {
            Entry::Occupied(first) if *first.get() == record.name.node && self.seen.is_some() => {
                // An alias to a declaration that has been seen.
                return Ok(());
            }
            Entry::Occupied(_) => {
                let rejection = ResolveRejection::Duplicate(describe(&id));
                return Err(PolicyError::Resolve { rejection, place: Some(place) });
            }
            Entry::Vacant(vacant) => {
                vacant.insert(record.name.node);
            }
        }
        let (owner, owner_place) = match &record.owner {
            Some(name) => (self.id(name, scope, Reach::Anywhere)?, name.place),
            None => (scope.owner.clone(), place),
        };
        let mut annotations = record.annotations;
        for (_, value) in &mut annotations {
            if value.split('/').any(|segment| segment == "..") {
                *value = absolute(&format!("{path}/{value}"), place)?;
            }
        }
        let layers = self.ids(&record.layers, scope, Reach::Below)?;
        self.count_all(layers.len(), place)?;
        for (layer, layer_place) in &layers {
            let key = MembershipKey { role: layer.clone(), member: id.clone(), ownership: false };
            self.add_grant(key, false, *layer_place, place);
        }
        self.add_record(DesiredRecord {
            id: id.clone(),
            place,
            owner: owner.clone(),
            owner_place,
            annotations,
            ttl_is_number: record.ttl_is_number,
            restricted_to: record.restricted_to,
            value: None,
            has_layers: !layers.is_empty(),
            layers,
            is_nested: scope.namespace.is_some(),
        })?;
        for (name, key) in record.public_keys {
            let identifier = format!("user/{}/{name}", id.identifier());
            let id = self.new_id(Kind::PublicKey, &identifier, place)?;
            if self.desired.by_id.contains_key(&id) {
                let rejection = ResolveRejection::Duplicate(describe(&id));
                return Err(PolicyError::Resolve { rejection, place: Some(place) });
            }
            self.add_record(DesiredRecord {
                id,
                place,
                owner: owner.clone(),
                owner_place,
                annotations: Vec::new(),
                ttl_is_number: false,
                restricted_to: Vec::new(),
                value: Some(key),
                layers: Vec::new(),
                has_layers: false,
                is_nested: scope.namespace.is_some(),
            })?;
        }
        if !record.body.is_empty() {
            let inner = Scope { namespace: Some(path), owner: id };
            self.statements(record.body, &inner)?;
        }
        Ok(())
    }

    fn add_record(&mut self, record: DesiredRecord) -> Result<(), PolicyError> {
        self.count(record.place)?;
        self.desired.by_id.insert(record.id.clone(), self.desired.records.len());
        self.desired.records.push(record);
        Ok(())
    }

    fn grant(
        &mut self,
        roles: &[Name],
        members: &[Member],
        scope: &Scope,
    ) -> Result<(), PolicyError> {
        let roles = self.ids(roles, scope, Reach::Below)?;
        self.count_product(&[members.len()], &roles)?;
        for member in members {
            let member_id = self.id(&member.role, scope, Reach::Anywhere)?;
            for (role, role_place) in &roles {
                let key = MembershipKey {
                    role: role.clone(),
                    member: member_id.clone(),
                    ownership: false,
                };
                self.add_grant(key, member.admin, *role_place, member.role.place);
            }
        }
        Ok(())
    }

    fn add_grant(
        &mut self,
        key: MembershipKey,
        admin_option: bool,
        role_place: Place,
        member_place: Place,
    ) {
        if let Entry::Vacant(vacant) = self.grants.entry(key.clone()) {
            vacant.insert(self.desired.grants.len());
            self.desired.grants.push(DesiredGrant { key, admin_option, role_place, member_place });
        }
    }

    fn permit(
        &mut self,
        roles: &[Name],
        privileges: &[String],
        resources: &[Name],
        scope: &Scope,
    ) -> Result<(), PolicyError> {
        let roles = self.ids(roles, scope, Reach::Anywhere)?;
        let resources = self.ids(resources, scope, Reach::Below)?;
        self.count_product(&[privileges.len(), roles.len()], &resources)?;
        for (resource, resource_place) in resources {
            for privilege in privileges {
                for (role, role_place) in &roles {
                    let key = PermissionKey {
                        resource: resource.clone(),
                        role: role.clone(),
                        privilege: privilege.clone(),
                    };
                    if let Entry::Vacant(vacant) = self.permits.entry(key.clone()) {
                        vacant.insert(self.desired.permits.len());
                        let role_place = *role_place;
                        self.desired.permits.push(DesiredPermit {
                            key,
                            resource_place,
                            role_place,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn ids(
        &mut self,
        names: &[Name],
        scope: &Scope,
        reach: Reach,
    ) -> Result<Vec<(Id, Place)>, PolicyError> {
        names.iter().map(|name| Ok((self.id(name, scope, reach)?, name.place))).collect()
    }

    /// The full id of a name.
    fn id(&mut self, name: &Name, scope: &Scope, reach: Reach) -> Result<Id, PolicyError> {
        // An id that was free to reach anywhere may not come back, by alias, where it may not.
        match self.seen.as_ref().and_then(|seen| seen.get(&name.node)) {
            Some((id, seen)) if reach == Reach::Anywhere || *seen == Reach::Below => {
                return Ok(id.clone());
            }
            Some(_) | None => {}
        }
        let path = Self::path(name, scope, reach)?;
        let account = match &name.account {
            None => self.account.clone(),
            Some(text) if text == self.account.as_str() => self.account.clone(),
            Some(text) => {
                let thing = || format!("{} '{path}'", spoken(name.kind));
                // A policy rules its own account: elsewhere it may only name who may act.
                let account = match reach {
                    Reach::Anywhere => AccountName::new(text).ok(),
                    Reach::Below => None,
                };
                account.ok_or_else(|| PolicyError::Resolve {
                    rejection: ResolveRejection::IllegalAccount {
                        account: text.clone(),
                        thing: thing(),
                    },
                    place: Some(name.place),
                })?
            }
        };
        let identifier = if name.kind == Kind::User {
            user_login(&path)
        } else if name.kind == Kind::PublicKey {
            user_key(&path)
        } else {
            path.clone()
        };
        let id = Id::new(account, name.kind, &identifier).map_err(|why| PolicyError::Resolve {
            rejection: ResolveRejection::BadId {
                thing: format!("{} '{}'", spoken(name.kind), shortened(&identifier)),
                why: why.to_string(),
            },
            place: Some(name.place),
        })?;
        if let Some(seen) = &mut self.seen {
            seen.insert(name.node, (id.clone(), reach));
        }
        Ok(id)
    }

    fn new_id(&self, kind: Kind, identifier: &str, place: Place) -> Result<Id, PolicyError> {
        Id::new(self.account.clone(), kind, identifier).map_err(|why| PolicyError::Resolve {
            rejection: ResolveRejection::BadId {
                thing: format!("{} '{}'", spoken(kind), shortened(identifier)),
                why: why.to_string(),
            },
            place: Some(place),
        })
    }

    /// The absolute path of a name, without a leading `/`; users are still in path form.
    fn path(name: &Name, scope: &Scope, reach: Reach) -> Result<String, PolicyError> {
        let refuse = |rejection| PolicyError::Resolve { rejection, place: Some(name.place) };
        let path = if name.id.trim().is_empty() {
            match &scope.namespace {
                Some(namespace) => namespace.clone(),
                None => return Err(refuse(ResolveRejection::BlankId(name.kind.as_str()))),
            }
        } else if name.id.starts_with('/') {
            if reach == Reach::Below {
                return Err(refuse(ResolveRejection::IllegalAbsolute(name.id.clone())));
            }
            name.id.clone()
        } else {
            match &scope.namespace {
                Some(namespace) => format!("{namespace}/{}", name.id),
                None => name.id.clone(),
            }
        };
        match reach {
            Reach::Anywhere => absolute(&path, name.place),
            Reach::Below if path.split('/').any(|segment| segment == "..") => {
                Err(refuse(ResolveRejection::InvalidRelative(path)))
            }
            Reach::Below => Ok(path),
        }
    }
}

/// Strips a leading `/` and takes each `..` with the segment before it out of the path.
fn absolute(path: &str, place: Place) -> Result<String, PolicyError> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let invalid = || PolicyError::Resolve {
        rejection: ResolveRejection::InvalidRelative(path.to_owned()),
        place: Some(place),
    };
    let mut segments = Vec::new();
    for segment in path.trim_end_matches('/').split('/') {
        if segment == ".." {
            segments.pop().ok_or_else(invalid)?;
        } else {
            segments.push(segment);
        }
    }
    if segments.is_empty() || segments == [""] { Err(invalid()) } else { Ok(segments.join("/")) }
}

/// `a/b/alice` as a login: `alice@a-b`.
fn user_login(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        None => path.to_owned(),
        Some((policy, name)) => format!("{name}@{}", policy.replace('/', "-")),
    }
}

/// `a/b/user/alice/laptop` as the key `laptop` of the user that `a/b` calls `alice`: `user/alice@a-b/laptop`.
fn user_key(path: &str) -> String {
    let parts: Vec<&str> = path.rsplitn(4, '/').collect();
    if let [name, login, "user", policy] = parts[..] {
        format!("user/{}/{name}", user_login(&format!("{policy}/{login}")))
    } else {
        path.to_owned()
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

fn spoken(kind: Kind) -> String {
    kind.as_str().replace('_', " ")
}

/// An id as error messages speak of it: `user 'alice'`.
fn describe(id: &Id) -> String {
    format!("{} '{}'", spoken(id.kind()), id.identifier())
}

/// Orders records so that what is referred to comes first; keeps the order of the text otherwise.
fn sort(desired: &mut Desired) -> Result<(), PolicyError> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let records = &desired.records;
    let mut marks = vec![Mark::New; records.len()];
    let mut order = Vec::with_capacity(records.len());
    // The records on the way, each with how many of its references have been followed. A stack of
    // its own: chains of owners may be as long as the text.
    let mut path: Vec<(usize, usize)> = Vec::new();
    for start in 0..records.len() {
        if marks[start] == Mark::New {
            marks[start] = Mark::Open;
            path.push((start, 0));
        }
        while let Some((index, followed)) = path.last_mut() {
            let record = &records[*index];
            let reference = match *followed {
                0 => Some(&record.owner),
                n => record.layers.get(n - 1).map(|(layer, _)| layer),
            };
            let Some(reference) = reference else {
                marks[*index] = Mark::Done;
                order.push(*index);
                path.pop();
                continue;
            };
            *followed += 1;
            let Some(&next) = desired.by_id.get(reference) else { continue };
            match marks[next] {
                Mark::Done => {}
                Mark::New => {
                    marks[next] = Mark::Open;
                    path.push((next, 0));
                }
                Mark::Open => {
                    let (a, b) = (describe(&record.id), describe(reference));
                    return Err(PolicyError::Resolve {
                        rejection: ResolveRejection::Cycle(a, b),
                        place: Some(record.place),
                    });
                }
            }
        }
    }
    let mut slots: Vec<Option<DesiredRecord>> =
        std::mem::take(&mut desired.records).into_iter().map(Some).collect();
    desired.records = order.iter().filter_map(|&index| slots[index].take()).collect();
    for (index, record) in desired.records.iter().enumerate() {
        if let Some(slot) = desired.by_id.get_mut(&record.id) {
            *slot = index;
        }
    }
    Ok(())
}
