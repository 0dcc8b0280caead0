//! `/authenticators/{account}…`: authenticators as documents, made, switched and removed at one stroke.
//!
//! The values of an authenticator's variables stand in its document only where the caller may fetch
//! them (`execute`), however much it sees of the authenticator.

use std::collections::{BTreeMap, BTreeSet};

use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId, RoleId};
use conclave_domain::rbac;
use conclave_domain::records::{Annotation, PermissionKey, Sealed, Version};
use conclave_domain::state::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::authenticator_data::Type;
use super::branches::{annotations, known_owner};
use super::{
    Planned, begin, commit, invalid, is_made_of, names, only, owner, page, required, secret_answer,
    take_object, text, unfit,
};
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::ports::{Secret, Vault, View};
use crate::wire::collation::collated;
use crate::wire::json::{Wiped, wipe};

const EMPTY: &str = "Request body is empty";
const MALFORMED: &str = "Request JSON is malformed";
const NAME_BYTES_MAX: usize = 60;
/// Who may own an authenticator.
const OWNERS: &[Kind] = &[Kind::User, Kind::Host, Kind::Group];
/// The name of the one authenticator of a type that has but one.
const SINGLE: &str = "default";

/// What a webservice of the right name stands for.
struct Authenticator<'a> {
    kind: &'static Type,
    name: &'a str,
    webservice: &'a ResourceId,
}

impl<'a> Authenticator<'a> {
    fn of(webservice: &'a ResourceId) -> Option<Self> {
        let rest = webservice.identifier().strip_prefix("conjur/")?;
        let (authenticator, name) = match rest.split_once('/') {
            Some((authenticator, name)) => (authenticator, Some(name)),
            None => (rest, None),
        };
        let kind = Type::of_authenticator(authenticator)?;
        let name = match name {
            None if kind.is_single() => SINGLE,
            Some(name) if !kind.is_single() && !name.contains('/') => name,
            Some(_) | None => return None,
        };
        Some(Self { kind, name, webservice })
    }
}

/// The webservice of an authenticator, and the policy that it lies in.
fn place(account: &AccountName, kind: &Type, name: &str) -> Option<(ResourceId, ResourceId)> {
    let branch = format!("conjur/{}", kind.authenticator);
    let own = if kind.is_single() { branch.clone() } else { format!("{branch}/{name}") };
    let id = |kind, identifier: &str| Id::new(account.clone(), kind, identifier).ok();
    Some((id(Kind::Webservice, &own)?, id(Kind::Policy, &own)?))
}

/// A page of authenticators, and how many there are.
#[derive(Serialize)]
struct List {
    authenticators: Vec<Wiped>,
    count: usize,
}

pub(crate) async fn list(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "authenticators", "list", "listed", "authenticators")?;
    let query = call.query.clone();
    only(query.iter().map(|(name, _)| name), &["limit", "offset", "type"], unexpected)?;
    let (offset, limit) = page(call)?;
    let wanted = match query.filled("type") {
        Some(name) => Some(known(name)?),
        None => None,
    };
    let account = call.account()?.clone();
    let vault = call.door.vault()?;
    let door = call.door.clone();
    let (documents, count) = call
        .view(|view, caller| {
            let webservices = view.state.resources(Some(&account), Some(Kind::Webservice));
            let mut found: Vec<Authenticator<'_>> = webservices
                .filter_map(|(id, _)| Authenticator::of(id))
                .filter(|one| wanted.is_none_or(|wanted| wanted.name == one.kind.name))
                .filter(|one| rbac::is_visible(view.state, &caller.role, one.webservice))
                .collect();
            found.sort_by_cached_key(|one| collated(one.webservice.identifier()));
            let page = found.iter().skip(offset).take(limit);
            let is_enabled = |id: &ResourceId| door.registry.is_enabled(view.state, id);
            let documents: Result<Vec<_>, Refusal> = page
                .map(|one| document(view, &vault, &caller.role, one, is_enabled(one.webservice)))
                .collect();
            Ok((documents?, found.len()))
        })
        .await?;
    Ok(secret_answer(call, StatusCode::OK, &List { authenticators: documents, count }))
}

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "authenticators", "get", "retrieved", "authenticator")?;
    let named = Named::of(call)?;
    let document = found(call, &named).await?;
    Ok(secret_answer(call, StatusCode::OK, &document))
}

pub(crate) async fn update(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "authenticators", "enable", "updated", "authenticator")?;
    let named = Named::of(call)?;
    let (object, digest) = take_object(call, EMPTY, MALFORMED).await?;
    let enabled = match object.get("enabled") {
        None => return Err(unfit("Missing required parameter: enabled")),
        Some(Value::Bool(enabled)) => *enabled,
        Some(_) => return Err(unfit("The enabled parameter must be of type=boolean")),
    };
    only(names(&object), &["enabled"], unexpected)?;
    commit(call, &named.account, &digest, |view, caller| {
        let state = view.state;
        named.require(state, &caller.role, "update", &named.webservice)?;
        let before = state.authenticator_config(&named.webservice);
        let is_same = before.is_some_and(|before| before.enabled == enabled);
        let webservice = named.webservice.clone();
        let toggled = (!is_same).then_some(Event::AuthenticatorToggled { webservice, enabled });
        Ok(Planned::new("update", &named.webservice, toggled.into_iter().collect()))
    })
    .await?;
    let document = found(call, &named).await?;
    Ok(secret_answer(call, StatusCode::OK, &document))
}

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "authenticators", "delete", "deleted", "authenticator")?;
    let named = Named::of(call)?;
    let prefix = format!("{}/", named.policy.identifier());
    commit(call, &named.account, &[0; 32], |view, caller| {
        let state = view.state;
        named.require(state, &caller.role, "delete", &named.policy)?;
        let mut gone: BTreeSet<&ResourceId> =
            state.resources_below(&named.account, &prefix).map(|(id, _)| id).collect();
        gone.insert(&named.webservice);
        // The policy of a type that has one authenticator only is the branch, which stays.
        if !named.kind.is_single() {
            gone.insert(&named.policy);
        }
        let gone = gone.into_iter().map(|id| Event::ResourceRemoved { resource: id.clone() });
        Ok(Planned::new("delete", &named.policy, gone.collect()))
    })
    .await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "authenticators", "create", "created", "authenticator")?;
    let account = call.account()?.clone();
    let (mut object, digest) = take_object(call, EMPTY, MALFORMED).await?;
    let asked = Asked::of(&object, &account);
    object.values_mut().for_each(wipe);
    let asked = asked?;
    if let Some(deed) = call.deeds.first_mut() {
        // Not the whole body: its data holds secrets.
        for text in [&mut deed.did, &mut deed.tried] {
            let one = format!("authenticator {} {} with", asked.kind.name, asked.name);
            *text = text.replacen("authenticator with", &one, 1);
        }
    }
    let vault = call.door.vault()?;
    commit(call, &account, &digest, |view, caller| {
        let state = view.state;
        if state.resource(&asked.branch).is_none()
            || !rbac::is_visible(state, &caller.role, &asked.branch)
        {
            return Err(Refusal::V2(
                StatusCode::NOT_FOUND,
                format!("{} not found in account {account}", asked.branch),
            ));
        }
        if !rbac::is_allowed(state, &caller.role, "create", &asked.branch) {
            return Err(Refusal::FORBIDDEN);
        }
        if state.resource(&asked.named.webservice).is_some() {
            let exists = "The authenticator already exists.".to_owned();
            return Err(Refusal::V2(StatusCode::CONFLICT, exists));
        }
        known_owner(state, &caller.role, asked.owner.as_ref())?;
        Ok(Planned::new("create", &asked.branch, asked.changes(state, &vault)?))
    })
    .await?;
    let document = found(call, &asked.named).await?;
    Ok(secret_answer(call, StatusCode::CREATED, &document))
}

fn unexpected(names: &str) -> String {
    format!("The following parameters were not expected: '{names}'")
}

fn known(name: &str) -> Result<&'static Type, Refusal> {
    Type::named(name)
        .ok_or_else(|| unfit(format!("'authn-{name}' authenticators are not supported.")))
}

/// The authenticator that a request names.
struct Named {
    account: AccountName,
    kind: &'static Type,
    name: String,
    webservice: ResourceId,
    policy: ResourceId,
}

impl Named {
    fn of(call: &Call) -> Result<Self, Refusal> {
        let account = call.account()?.clone();
        let kind = call.params.r#type.as_deref().unwrap_or_default();
        let name = call.params.name.clone().unwrap_or_default();
        let none = || not_there(&account, &name);
        let kind = Type::named(kind).ok_or_else(none)?;
        if kind.is_single() != (name == SINGLE) || name.contains('/') {
            return Err(none());
        }
        let (webservice, policy) = place(&account, kind, &name).ok_or_else(none)?;
        Ok(Self { kind, webservice, policy, account: account.clone(), name: name.clone() })
    }

    fn missing(&self) -> Refusal {
        not_there(&self.account, &self.name)
    }

    /// Refuses who does not see the authenticator, and who may not.
    fn require(
        &self,
        state: &State,
        caller: &RoleId,
        privilege: &str,
        resource: &ResourceId,
    ) -> Result<(), Refusal> {
        if rbac::is_allowed(state, caller, privilege, resource)
            && state.resource(&self.webservice).is_some()
        {
            Ok(())
        } else if rbac::is_visible(state, caller, &self.webservice) {
            Err(Refusal::FORBIDDEN)
        } else {
            Err(self.missing())
        }
    }
}

fn not_there(account: &AccountName, name: &str) -> Refusal {
    Refusal::V2(
        StatusCode::NOT_FOUND,
        format!("Authenticator: {name} not found in account '{account}'"),
    )
}

/// The document of a named authenticator, for who sees it.
async fn found(call: &mut Call, named: &Named) -> Result<Wiped, Refusal> {
    let (vault, door) = (call.door.vault()?, call.door.clone());
    call.view(|view, caller| {
        let visible = rbac::is_visible(view.state, &caller.role, &named.webservice);
        let one = Authenticator::of(&named.webservice).filter(|_| visible);
        let one = one.ok_or_else(|| named.missing())?;
        let enabled = door.registry.is_enabled(view.state, one.webservice);
        document(view, &vault, &caller.role, &one, enabled)
    })
    .await
}

fn document(
    view: &View<'_>,
    vault: &Vault,
    caller: &RoleId,
    one: &Authenticator<'_>,
    enabled: bool,
) -> Result<Wiped, Refusal> {
    let state = view.state;
    let id = one.webservice;
    let owner = state.resource(id).map(|record| &record.owner);
    let mut document = Map::new();
    document.insert("type".to_owned(), json!(one.kind.name));
    document.insert("branch".to_owned(), json!(format!("conjur/{}", one.kind.authenticator)));
    document.insert("name".to_owned(), json!(one.name));
    document.insert("enabled".to_owned(), json!(enabled));
    if let Some(owner) = owner {
        let owner = json!({"id": owner.identifier(), "kind": owner.kind().as_str()});
        document.insert("owner".to_owned(), owner);
    }
    if one.kind.takes_data() {
        let mut variables = BTreeMap::new();
        for name in one.kind.variables() {
            let variable = format!("{}/{name}", id.identifier());
            let Ok(variable) = Id::new(id.account().clone(), Kind::Variable, &variable) else {
                continue;
            };
            if rbac::is_allowed(state, caller, "execute", &variable) {
                variables.insert(name, value(view, vault, &variable)?);
            }
        }
        document.insert("data".to_owned(), one.kind.data_of(&variables));
    }
    let annotations: BTreeMap<&str, &str> =
        state.annotations(id).map(|(name, one)| (name, one.value.as_str())).collect();
    if !annotations.is_empty() {
        document.insert("annotations".to_owned(), json!(annotations));
    }
    Ok(Wiped(Value::Object(document)))
}

/// The current value of a variable; empty when it has none.
fn value(
    view: &View<'_>,
    vault: &Vault,
    variable: &ResourceId,
) -> Result<Zeroizing<String>, Refusal> {
    let newest = view.state.secret(variable).and_then(|secret| secret.versions.last_key_value());
    let Some((version, _)) = newest else { return Ok(Zeroizing::default()) };
    let fault = |why: &dyn std::fmt::Display| Refusal::Fault(format!("value of {variable}: {why}"));
    let sealed = view.secret_value(variable, *version).map_err(|error| fault(&error))?;
    let Some(sealed) = sealed else { return Ok(Zeroizing::default()) };
    let opened = vault.open(variable, &sealed).map_err(|error| fault(&error))?;
    Ok(Zeroizing::new(String::from_utf8_lossy(opened.expose_secret()).into_owned()))
}

/// An authenticator to be made.
struct Asked {
    kind: &'static Type,
    name: String,
    named: Named,
    branch: ResourceId,
    enabled: bool,
    owner: Option<RoleId>,
    annotations: BTreeMap<String, String>,
    variables: BTreeMap<String, Zeroizing<String>>,
}

impl Asked {
    fn of(object: &Map<String, Value>, account: &AccountName) -> Result<Self, Refusal> {
        let kind = match text(object, "type")? {
            Some(kind) if !kind.is_empty() => known(kind)?,
            Some(_) | None => return Err(unfit("Authenticator type is required")),
        };
        only(
            names(object),
            &["type", "name", "enabled", "owner", "data", "annotations"],
            unexpected,
        )?;
        let name = if kind.is_single() {
            match text(object, "name")? {
                None | Some(SINGLE) => SINGLE.to_owned(),
                Some(_) => return Err(invalid("name", "it must be default")),
            }
        } else {
            required(object, &["name"])?;
            text(object, "name")?.unwrap_or_default().to_owned()
        };
        if !is_made_of(&name, NAME_BYTES_MAX, "._:-") {
            return Err(invalid("name", "it is too long, or has other characters"));
        }
        let enabled = match object.get("enabled") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(enabled)) => *enabled,
            Some(_) => return Err(unfit("The enabled parameter must be of type=boolean")),
        };
        let variables = match object.get("data") {
            None | Some(Value::Null) if !kind.takes_data() => BTreeMap::new(),
            None | Some(Value::Null) => kind.to_variables(&Map::new())?,
            Some(_) if !kind.takes_data() => return Err(unfit(unexpected("data"))),
            Some(Value::Object(data)) => kind.to_variables(data)?,
            Some(_) => return Err(invalid("data", "it is no object")),
        };
        let too_long = || invalid("name", "it is too long");
        let (webservice, policy) = place(account, kind, &name).ok_or_else(too_long)?;
        let branch = format!("conjur/{}", kind.authenticator);
        let branch = Id::new(account.clone(), Kind::Policy, &branch).map_err(|_| too_long())?;
        let named =
            Named { account: account.clone(), kind, name: name.clone(), webservice, policy };
        Ok(Self {
            kind,
            name,
            named,
            branch,
            enabled,
            owner: owner(object, account, OWNERS)?,
            annotations: annotations(object)?,
            variables,
        })
    }

    /// What there is then, all declared by the branch.
    fn changes(&self, state: &State, vault: &Vault) -> Result<Vec<Event>, Refusal> {
        let declared = || Some(self.branch.clone());
        let mut changes = Vec::new();
        let owner = self.owner.as_ref().unwrap_or(&self.branch);
        let mut add = |resource: &ResourceId, owner: &RoleId| {
            if resource.kind().is_role() {
                changes.push(Event::RoleAdded { role: resource.clone(), policy: declared() });
            }
            changes.push(Event::ResourceAdded {
                resource: resource.clone(),
                owner: owner.clone(),
                policy: declared(),
            });
        };
        let below = |kind, name: &str| {
            let identifier = format!("{}/{name}", self.named.policy.identifier());
            Id::new(self.named.account.clone(), kind, &identifier)
                .map_err(|_too_long| invalid("name", "it is too long"))
        };
        if state.resource(&self.named.policy).is_none() {
            add(&self.named.policy, owner);
        }
        let policy = &self.named.policy;
        let webservice = &self.named.webservice;
        let (operators, apps) = (below(Kind::Group, "operators")?, below(Kind::Group, "apps")?);
        let status = below(Kind::Webservice, "status")?;
        // The authenticator's owner is that of its webservice: it is the one that is shown.
        add(webservice, owner);
        for resource in [&operators, &apps, &status] {
            add(resource, policy);
        }
        let mut values = Vec::new();
        for (name, value) in &self.variables {
            let variable = below(Kind::Variable, name)?;
            add(&variable, policy);
            let secret = Secret::new(value.as_bytes().to_vec());
            let sealed: Sealed = vault
                .seal(&variable, &secret)
                .map_err(|fault| Refusal::Fault(format!("sealing {variable}: {fault}")))?;
            values.push(Event::SecretVersionAdded {
                fingerprint: vault.fingerprint(&variable, &secret),
                resource: variable,
                // Deciding puts the version that is next then.
                version: Version(1),
                value: Some(sealed),
            });
        }
        let permitted = [
            (webservice, &operators, "read"),
            (webservice, &apps, "read"),
            (webservice, &apps, "authenticate"),
            (&status, &operators, "read"),
        ];
        changes.extend(permitted.map(|(resource, role, privilege)| Event::PermissionAdded {
            key: PermissionKey {
                resource: resource.clone(),
                role: role.clone(),
                privilege: privilege.to_owned(),
            },
            policy: declared(),
        }));
        changes.extend(self.annotations.iter().map(|(name, value)| Event::AnnotationSet {
            resource: webservice.clone(),
            name: name.clone(),
            annotation: Annotation { value: value.clone(), policy: declared() },
        }));
        changes.extend(values);
        let webservice = webservice.clone();
        changes.push(Event::AuthenticatorToggled { webservice, enabled: self.enabled });
        Ok(changes)
    }
}
