//! `POST /issuers/{account}`: a new issuer, and the policies by which its use is granted.

use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId};
use conclave_domain::rbac::{self, root_policy};
use conclave_domain::records::{IssuerKey, PermissionKey};
use conclave_domain::state::State;
use http::StatusCode;

use super::checks::{need, take};
use super::{FORBIDDEN, bad, bound, describe, document, governing, policy, seal};
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::routes::v2::{Planned, commit};

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    let unnamed = IssuerKey { account: account.clone(), issuer: String::new() };
    describe(call, "add", &unnamed, "added", "add");
    // Who may not is told so before the body is read.
    call.check_write(|view, caller| may_create(view.state, &caller.role, &account).map(drop))
        .await?;
    let (asked, digest) = take(call, &["id", "type", "max_ttl", "data"]).await?;
    let key = IssuerKey { account: account.clone(), issuer: need(asked.id, "id")? };
    call.deeds.clear();
    describe(call, "add", &key, "added", "add");
    let max_ttl = need(asked.max_ttl, "max_ttl")?;
    let kind = need(asked.kind, "type")?;
    if kind != "aws" {
        return Err(bad(format!("issuer type {kind:?} is unsupported")));
    }
    let data = need(asked.data, "data")?;
    let vault = call.door.vault()?;
    let sealed = seal(&vault, &key, &data)?;
    commit(call, &account, &digest, |view, caller| {
        let state = view.state;
        let needed = may_create(state, &caller.role, &account)?;
        if state.issuer(&key).is_some() {
            return Err(Refusal::Conflict { what: "issuer".to_owned(), id: key.issuer.clone() });
        }
        // A value would come from an issuer that nobody has granted the use of.
        if bound(state, &key).next().is_some() {
            return Err(Refusal::Unprocessable(format!(
                "Issuer '{}' cannot be created: variables refer to an issuer of that name",
                key.issuer
            )));
        }
        let mut changes = Vec::new();
        add_policies(state, &account, &key, &mut changes)?;
        changes.push(Event::IssuerSet {
            key: key.clone(),
            kind: kind.clone(),
            max_ttl,
            data: Some(sealed.clone()),
        });
        Ok(Planned::new("create", &needed, changes))
    })
    .await?;
    let made = call.open_view(|view| {
        let made = view.state.issuer(&key).ok_or_else(|| super::not_found(&key))?;
        document(&vault, &key, made)
    })?;
    Ok(Answer::json(&made).status(StatusCode::CREATED))
}

/// The policy that must be created in.
fn may_create(state: &State, caller: &Id, account: &AccountName) -> Result<ResourceId, Refusal> {
    let needed = governing(state, account)?;
    if rbac::is_allowed(state, caller, "create", &needed) { Ok(needed) } else { Err(FORBIDDEN) }
}

fn add_policies(
    state: &State,
    account: &AccountName,
    key: &IssuerKey,
    changes: &mut Vec<Event>,
) -> Result<(), Refusal> {
    let root = root_policy(account);
    let base = policy(account, None)?;
    let own = policy(account, Some(&key.issuer))?;
    let delegation = policy(account, Some(&format!("{}/delegation", key.issuer)))?;
    let consumers = format!("{}/consumers", delegation.identifier());
    let consumers =
        Id::new(account.clone(), Kind::Group, &consumers).map_err(|_too_long| Refusal::UNROUTED)?;
    let mut add = |id: &ResourceId, owner: &ResourceId| {
        if state.resource(id).is_none() {
            changes.push(Event::RoleAdded { role: id.clone(), policy: None });
            changes.push(Event::ResourceAdded {
                resource: id.clone(),
                owner: owner.clone(),
                policy: None,
            });
        }
    };
    let conjur = Id::new(account.clone(), Kind::Policy, "conjur")
        .ok()
        .filter(|conjur| state.resource(conjur).is_some());
    add(&base, conjur.as_ref().unwrap_or(&root));
    add(&own, &base);
    add(&delegation, &own);
    add(&consumers, &delegation);
    for privilege in ["read", "use"] {
        changes.push(Event::PermissionAdded {
            key: PermissionKey {
                resource: own.clone(),
                role: consumers.clone(),
                privilege: privilege.to_owned(),
            },
            policy: None,
        });
    }
    Ok(())
}
