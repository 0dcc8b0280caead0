//! `/branches/{account}…`: policies, seen as a tree.

use std::collections::BTreeMap;

use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId, RoleId};
use conclave_domain::rbac::{self, root_policy};
use conclave_domain::records::Annotation;
use conclave_domain::state::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Planned, answer, begin, commit, is_known, is_made_of, missing, names, only, owner, page,
    required, take_object, text, unfit,
};
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::collation::collated;

const NAME_BYTES_MAX: usize = 60;
const DEPTH_MAX: usize = 15;
const IDENTIFIER_BYTES_MAX: usize = 950;
/// Longest value of an annotation.
const VALUE_CHARACTERS_MAX: usize = 120;
/// Who may own a branch.
const OWNERS: &[Kind] = &[Kind::User, Kind::Host, Kind::Group, Kind::Policy];

/// One branch.
#[derive(Serialize)]
struct Branch {
    name: String,
    #[serde(rename = "branch")]
    parent: String,
    owner: Owner,
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Owner {
    kind: &'static str,
    id: String,
}

fn document(state: &State, policy: &ResourceId) -> Option<Branch> {
    let record = state.resource(policy)?;
    let (parent, name) = match policy.identifier().rsplit_once('/') {
        Some((branch, name)) => (branch.to_owned(), name.to_owned()),
        None => ("/".to_owned(), policy.identifier().to_owned()),
    };
    let annotations = state.annotations(policy);
    Some(Branch {
        name,
        parent,
        owner: Owner {
            kind: record.owner.kind().as_str(),
            id: record.owner.identifier().to_owned(),
        },
        annotations: annotations.map(|(name, one)| (name.to_owned(), one.value.clone())).collect(),
    })
}

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "branch", "create", "created", "branch")?;
    let account = call.account()?.clone();
    let (object, digest) = take(call, &["name", "branch", "owner", "annotations"]).await?;
    required(&object, &["name", "branch"])?;
    let (name, branch) = (text(&object, "name")?, text(&object, "branch")?);
    let (name, branch) = (name.unwrap_or_default(), branch.unwrap_or_default());
    if !is_made_of(name, NAME_BYTES_MAX, "_-") {
        return Err(unfit(format!("Name Wrong name '{name}'")));
    }
    let parent = parent(&account, branch)?;
    let identifier =
        if is_root(&parent) { name.to_owned() } else { format!("{}/{name}", parent.identifier()) };
    check_identifier(&identifier)?;
    let policy = Id::new(account.clone(), Kind::Policy, &identifier)
        .map_err(|_too_long| unfit(format!("Name Wrong name '{name}'")))?;
    let owner = owner(&object, &account, OWNERS)?;
    let annotations = annotations(&object)?;
    describe(call, &identifier, &object);
    commit(call, &account, &digest, |view, caller| {
        let state = view.state;
        if !rbac::is_allowed(state, &caller.role, "create", &parent) {
            return Err(not_found(&parent));
        }
        if state.resource(&policy).is_some() {
            return Err(Refusal::V2(
                StatusCode::CONFLICT,
                format!("Branch \"{account}:branch:{identifier}\" already exists"),
            ));
        }
        let owner = known_owner(state, &caller.role, owner.as_ref())?.unwrap_or(&parent).clone();
        let mut changes = vec![
            Event::RoleAdded { role: policy.clone(), policy: None },
            Event::ResourceAdded { resource: policy.clone(), owner, policy: None },
        ];
        changes.extend(annotations.iter().map(|(name, value)| annotated(&policy, name, value)));
        Ok(Planned::new("create", &parent, changes))
    })
    .await?;
    let made =
        call.local_view(|view, _| document(view.state, &policy).ok_or_else(|| not_found(&policy)))?;
    Ok(answer(call, StatusCode::CREATED, &made))
}

pub(crate) async fn list(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "branch", "list", "listed", "branches")?;
    let query = call.query.clone();
    only(query.iter().map(|(name, _)| name), &["offset", "limit"], unexpected)?;
    let (offset, limit) = page(call)?;
    let account = call.account()?.clone();
    let (branches, count) = call
        .view(|view, caller| {
            let state = view.state;
            let policies = state.resources(Some(&account), Some(Kind::Policy));
            let mut ids: Vec<&ResourceId> = policies
                .map(|(id, _)| id)
                .filter(|id| !is_root(id) && rbac::is_visible(state, &caller.role, id))
                .collect();
            ids.sort_by_cached_key(|id| collated(id.identifier()));
            let found = ids.iter().skip(offset).take(limit);
            let branches: Vec<_> = found.filter_map(|id| document(state, id)).collect();
            Ok((branches, ids.len()))
        })
        .await?;
    Ok(answer(call, StatusCode::OK, &json!({"branches": branches, "count": count})))
}

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "branch", "get", "retrieved", "branch")?;
    let policy = named(call)?;
    let found = call
        .view(|view, caller| {
            let visible = rbac::is_visible(view.state, &caller.role, &policy);
            let found = document(view.state, &policy).filter(|_| visible);
            found.ok_or_else(|| not_found(&policy))
        })
        .await?;
    Ok(answer(call, StatusCode::OK, &found))
}

pub(crate) async fn update(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "branch", "update", "updated", "branch")?;
    let policy = named(call)?;
    let account = policy.account().clone();
    let (object, digest) = take(call, &["owner", "annotations"]).await?;
    let owner = owner(&object, &account, OWNERS)?;
    let annotations = annotations(&object)?;
    describe(call, policy.identifier(), &object);
    commit(call, &account, &digest, |view, caller| {
        let state = view.state;
        let record = state.resource(&policy).ok_or_else(|| not_found(&policy))?;
        if !rbac::is_allowed(state, &caller.role, "update", &policy) {
            return Err(not_found(&policy));
        }
        let owner = known_owner(state, &caller.role, owner.as_ref())?;
        let mut changes = Vec::new();
        if let Some(owner) = owner.filter(|owner| **owner != record.owner) {
            let (resource, owner) = (policy.clone(), owner.clone());
            changes.push(Event::OwnerChanged { resource, owner });
        }
        let is_new = |(name, value): &(&String, &String)| {
            state.annotation(&policy, name).is_none_or(|present| present.value != **value)
        };
        let annotations = annotations.iter().filter(is_new);
        changes.extend(annotations.map(|(name, value)| annotated(&policy, name, value)));
        Ok(Planned::new("update", &policy, changes))
    })
    .await?;
    let made =
        call.local_view(|view, _| document(view.state, &policy).ok_or_else(|| not_found(&policy)))?;
    Ok(answer(call, StatusCode::OK, &made))
}

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "branch", "delete", "deleted", "branch")?;
    let policy = named(call)?;
    let account = policy.account().clone();
    let prefix = format!("{}/", policy.identifier());
    commit(call, &account, &[0; 32], |view, caller| {
        let state = view.state;
        let may = |id: &ResourceId| rbac::is_allowed(state, &caller.role, "update", id);
        let mut below = state.resources_below(&account, &prefix);
        if !may(&policy) || below.any(|(id, _)| !may(id)) {
            return Err(not_found(&policy));
        }
        let gone = |resource: &ResourceId| Event::ResourceRemoved { resource: resource.clone() };
        let mut changes = vec![gone(&policy)];
        changes.extend(state.resources_below(&account, &prefix).map(|(id, _)| gone(id)));
        Ok(Planned::new("update", &policy, changes))
    })
    .await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

async fn take(call: &mut Call, known: &[&str]) -> Result<(Map<String, Value>, [u8; 32]), Refusal> {
    let (object, digest) =
        take_object(call, "Empty request body", "Invalid JSON body: it is no object").await?;
    let query = call.query.clone();
    let sent = names(&object).chain(query.iter().map(|(name, _)| name));
    only(sent, known, unexpected)?;
    Ok((object, digest))
}

fn unexpected(names: &str) -> String {
    format!("Unexpected parameters: {names}")
}

/// The branch that the path names, which is never the root.
fn named(call: &Call) -> Result<ResourceId, Refusal> {
    let account = call.account()?;
    let identifier = call.params.identifier.as_deref().unwrap_or_default();
    let identifier = identifier.strip_prefix('/').unwrap_or(identifier);
    let none = || missing("branch", account, identifier);
    let policy = Id::new(account.clone(), Kind::Policy, identifier).map_err(|_bad| none())?;
    if is_root(&policy) { Err(none()) } else { Ok(policy) }
}

/// The policy behind the path of a parent.
fn parent(account: &AccountName, path: &str) -> Result<ResourceId, Refusal> {
    let wrong = || unfit(format!("Branch Wrong path '{path}'"));
    let inner = path.strip_prefix('/').unwrap_or(path);
    if inner.is_empty() {
        return Ok(root_policy(account));
    }
    if !inner.split('/').all(|part| is_made_of(part, NAME_BYTES_MAX, "_-")) {
        return Err(wrong());
    }
    Id::new(account.clone(), Kind::Policy, inner).map_err(|_too_long| wrong())
}

fn check_identifier(identifier: &str) -> Result<(), Refusal> {
    if identifier.split('/').count() > DEPTH_MAX {
        return Err(unfit(format!(
            "The number of identifier nesting exceeds maximum depth of {DEPTH_MAX}"
        )));
    }
    if identifier.len() > IDENTIFIER_BYTES_MAX {
        return Err(unfit(format!(
            "Identifier exceeds maximum length of {IDENTIFIER_BYTES_MAX} characters"
        )));
    }
    Ok(())
}

/// Annotations in a body, by name.
pub(super) fn annotations(
    object: &Map<String, Value>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let annotations = match object.get("annotations") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(annotations)) => annotations,
        Some(other) => {
            return Err(unfit(format!("Annotations should be an object but got {other}")));
        }
    };
    let checked = annotations.iter().map(|(name, value)| {
        let Value::String(value) = value else {
            let mut letters = name.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            let name: String = first.into_iter().chain(letters).collect();
            return Err(unfit(format!("{name} should have string value but got {value}")));
        };
        if !is_made_of(name, 120, "_/-") {
            return Err(super::invalid("annotation name", "it has other characters"));
        }
        if value.chars().count() > VALUE_CHARACTERS_MAX || value.contains(['<', '>', '\'']) {
            let why = "it is too long, or holds one of < > '";
            return Err(super::invalid("annotation value", why));
        }
        Ok((name.clone(), value.clone()))
    });
    checked.collect()
}

/// The event that sets an annotation, outside any policy.
pub(super) fn annotated(resource: &ResourceId, name: &str, value: &str) -> Event {
    Event::AnnotationSet {
        resource: resource.clone(),
        name: name.to_owned(),
        annotation: Annotation { value: value.to_owned(), policy: None },
    }
}

/// Refuses an owner that the caller may not know of.
pub(super) fn known_owner<'a>(
    state: &State,
    caller: &RoleId,
    owner: Option<&'a RoleId>,
) -> Result<Option<&'a RoleId>, Refusal> {
    match owner {
        Some(owner) if !is_known(state, caller, owner) => {
            Err(missing(owner.kind().as_str(), owner.account(), owner.identifier()))
        }
        owner => Ok(owner),
    }
}

fn describe(call: &mut Call, identifier: &str, object: &Map<String, Value>) {
    let object = format!(" and JSON object: {}", Value::Object(object.clone()));
    if let Some(deed) = call.deeds.first_mut() {
        for text in [&mut deed.did, &mut deed.tried] {
            *text = text.replacen("branch with", &format!("branch {identifier} with"), 1);
            text.push_str(&object);
        }
    }
}

pub(super) fn not_found(policy: &ResourceId) -> Refusal {
    missing("branch", policy.account(), policy.identifier())
}

pub(super) fn is_root(policy: &ResourceId) -> bool {
    *policy == root_policy(policy.account())
}
