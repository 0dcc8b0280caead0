//! `/roles…`: who holds whom. A role is visible through the resource of the same id.

pub(crate) mod add_member;
pub(crate) mod all;
pub(crate) mod graph;
pub(crate) mod members;
pub(crate) mod memberships;
pub(crate) mod remove_member;
pub(crate) mod show;

use std::collections::HashSet;

use conclave_domain::id::{Id, RoleId};

use crate::audit::Deed;
use crate::context::Call;
use crate::error::Refusal;
use crate::routes::resources::list::shown;

/// Says that a list about a role is about to be made.
pub(super) fn describe(
    call: &mut Call,
    message_id: &'static str,
    operation: &'static str,
) -> Result<RoleId, Refusal> {
    let role = call.id()?;
    let user = call.user();
    let mut parameters = vec![
        ("account".to_owned(), role.account().to_string()),
        ("kind".to_owned(), role.kind().to_string()),
        ("identifier".to_owned(), role.identifier().to_owned()),
    ];
    let known = ["count", "filter", "search", "limit", "offset"];
    let query = call.query.iter().filter(|(name, _)| known.contains(name));
    parameters.extend(query.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let shown = shown(&parameters);
    let mut subject: Vec<_> =
        parameters.into_iter().map(|(name, value)| (name.into(), value)).collect();
    subject.push(("role".into(), role.to_string()));
    let what = if message_id == "role" { operation } else { message_id };
    call.deed(
        message_id,
        operation,
        subject,
        format!("{user} successfully listed {what} with parameters: {shown}"),
        format!("{user} failed to list {what} with parameters: {shown}"),
    );
    Ok(role)
}

/// The roles that a filter names, by full or partial ids, where there is one. What names no role is
/// passed by.
pub(super) fn filter(call: &Call, role: &RoleId) -> Option<HashSet<RoleId>> {
    let asked = call.query.has("filter") || call.query.has("filter[]");
    let texts = call.query.values("filter");
    asked.then(|| texts.filter_map(|text| Id::parse(text, Some(role.account())).ok()).collect())
}

/// The member that a change names.
pub(super) fn member(call: &Call, role: &RoleId) -> Result<RoleId, Refusal> {
    let text = call.query.filled("member").ok_or_else(|| Refusal::Argument("member".to_owned()))?;
    match Id::parse(text, Some(role.account())) {
        Ok(member) => Ok(member),
        Err(error @ conclave_domain::id::IdError::TooFewTokens(_)) => Err(error.into()),
        Err(_names_nothing) => Err(Refusal::missing_text(text)),
    }
}

/// Says that a membership is about to change.
pub(super) fn describe_change(call: &mut Call, role: &RoleId, operation: &'static str) {
    let user = call.user();
    let member = call.query.filled("member").unwrap_or_default();
    let full = Id::parse(member, Some(role.account())).map(|member| member.to_string());
    let member = full.unwrap_or_else(|_no_id| member.to_owned());
    let (did, tried, between) = match operation {
        "add" => ("added", "add", "in"),
        _ => ("removed", "remove", "from"),
    };
    call.deeds.push(Deed {
        message_id: "policy",
        operation: operation.into(),
        user: Some(user.clone()),
        subject: vec![("role".into(), role.to_string()), ("member".into(), member.clone())],
        notice: true,
        did: format!("{user} {did} membership of {member} in {role}"),
        tried: format!("{user} failed to {tried} membership of {member} {between} {role}"),
        ..Deed::default()
    });
}
