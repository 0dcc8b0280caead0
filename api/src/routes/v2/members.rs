//! `/groups/{account}/{id}/members…`: who a group is granted to, outside any policy.

use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId, RoleId};
use conclave_domain::rbac::{self, root_policy};
use conclave_domain::records::MembershipKey;
use http::StatusCode;
use serde_json::json;

use super::branches::not_found;
use super::{
    Planned, answer, begin, commit, invalid, is_known, missing, names, only, required, take_object,
    text, unfit,
};
use crate::context::{Answer, Call};
use crate::error::{Refusal, record_missing};

/// Who may be a member.
const MEMBERS: [Kind; 3] = [Kind::User, Kind::Host, Kind::Group];

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "membership", "create", "created", "member")?;
    let account = call.account()?.clone();
    let tail = call.params.identifier.clone().unwrap_or_default();
    let group = group(&account, tail.strip_suffix("/members").ok_or(Refusal::UNROUTED)?)?;
    let (object, digest) =
        take_object(call, "Request body is empty", "Request JSON is malformed").await?;
    only(names(&object), &["kind", "id"], |names| {
        format!("The following parameters were not expected: '{names}'")
    })?;
    required(&object, &["kind", "id"])?;
    let kind = text(&object, "kind")?.unwrap_or_default();
    let named = text(&object, "id")?.unwrap_or_default();
    let member = member(&account, kind, named)?;
    describe(call, &group, &member);
    if member == group {
        return Err(invalid("id", "a group is no member of itself"));
    }
    let key = MembershipKey { role: group.clone(), member: member.clone(), ownership: false };
    let branch = branch(&group);
    commit(call, &account, &digest, |view, caller| {
        let state = view.state;
        if !rbac::is_allowed(state, &caller.role, "create", &branch) {
            return Err(not_found(&branch));
        }
        if state.role(&group).is_none() {
            return Err(missing("group", &account, group.identifier()));
        }
        if !is_known(state, &caller.role, &member) {
            let kind = member.kind().as_str();
            return Err(unfit(record_missing(kind, account.as_str(), member.identifier())));
        }
        if state.membership(&key).is_some() {
            return Err(Refusal::V2(
                StatusCode::CONFLICT,
                format!(
                    "CONJ00180W '{}' (kind='{}') is already a member of '{group}'",
                    member.identifier(),
                    member.kind()
                ),
            ));
        }
        let added = Event::MembershipAdded { key: key.clone(), admin_option: false, policy: None };
        Ok(Planned::new("create", &branch, vec![added]))
    })
    .await?;
    Ok(answer(call, StatusCode::CREATED, &json!({"kind": kind, "id": named})))
}

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "membership", "delete", "deleted", "member")?;
    let account = call.account()?.clone();
    let tail = call.params.identifier.clone().unwrap_or_default();
    let places = MEMBERS.iter().filter_map(|kind| {
        let middle = format!("/members/{kind}/");
        tail.find(&middle).map(|at| (at, kind, at + middle.len()))
    });
    let (at, kind, after) = places.min().ok_or(Refusal::UNROUTED)?;
    let group = group(&account, &tail[..at])?;
    let member = member(&account, kind.as_str(), &tail[after..])?;
    describe(call, &group, &member);
    let key = MembershipKey { role: group.clone(), member: member.clone(), ownership: false };
    let branch = branch(&group);
    commit(call, &account, &[0; 32], |view, caller| {
        let state = view.state;
        if !rbac::is_allowed(state, &caller.role, "update", &branch) {
            return Err(not_found(&branch));
        }
        if state.role(&group).is_none() {
            return Err(missing("group", &account, group.identifier()));
        }
        if state.membership(&key).is_none() {
            return Err(Refusal::V2(
                StatusCode::NOT_FOUND,
                format!(
                    "CONJ00181W '{}' (kind='{}') is not a member of '{group}'",
                    member.identifier(),
                    member.kind()
                ),
            ));
        }
        let removed = Event::MembershipRemoved { key: key.clone() };
        Ok(Planned::new("update", &branch, vec![removed]))
    })
    .await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

fn group(account: &AccountName, identifier: &str) -> Result<RoleId, Refusal> {
    let identifier = identifier.strip_prefix('/').unwrap_or(identifier);
    Id::new(account.clone(), Kind::Group, identifier)
        .map_err(|_bad| missing("group", account, identifier))
}

fn member(account: &AccountName, kind: &str, identifier: &str) -> Result<RoleId, Refusal> {
    let identifier = identifier.strip_prefix('/').unwrap_or(identifier);
    let kind = kind.parse::<Kind>().ok().filter(|kind| MEMBERS.contains(kind));
    let kind = kind.ok_or_else(|| invalid("kind", "it must be user, host or group"))?;
    Id::new(account.clone(), kind, identifier)
        .map_err(|_bad| invalid("id", "it is empty or too long"))
}

/// The branch that a group lies in.
fn branch(group: &RoleId) -> ResourceId {
    let above = group.identifier().rsplit_once('/').map(|(above, _)| above);
    let policy = above.and_then(|above| Id::new(group.account().clone(), Kind::Policy, above).ok());
    policy.unwrap_or_else(|| root_policy(group.account()))
}

fn describe(call: &mut Call, group: &RoleId, member: &RoleId) {
    if let Some(deed) = call.deeds.first_mut() {
        deed.subject.push(("role".into(), group.to_string()));
        deed.subject.push(("member".into(), member.to_string()));
        for text in [&mut deed.did, &mut deed.tried] {
            *text = text.replacen("member with", &format!("member {member} of {group} with"), 1);
        }
    }
}
