//! `GET /resources[/{account}[/{kind}]]`: what the caller may see, filtered, sorted by id, in pages.

use std::fmt::Write as _;

use conclave_domain::id::{Id, IdError, Kind, ResourceId, RoleId};
use conclave_domain::rbac;
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use serde_json::json;

use super::stem::stem;
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::query::Query;
use crate::wire::{documents, json};

/// The limit when there is an offset and no limit.
const LIMIT_WITH_OFFSET: usize = 10;
/// A limit over the maximum that is let through all the same, as in Conjur.
const LIMIT_LET_THROUGH: usize = 10_000;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let parameters = parameters(call);
    let shown = shown(&parameters);
    let user = call.user();
    let subject =
        parameters.iter().map(|(name, value)| (name.clone().into(), value.clone())).collect();
    call.deed(
        "list",
        "list",
        subject,
        format!("{user} successfully listed resources with parameters: {shown}"),
        format!("{user} failed to list resources with parameters: {shown}"),
    );
    let page = Page::of(&call.query, call.door.settings().resource_list_limit_max, call.now)?;
    let account = call.params.account.clone();
    let kind = match (call.params.kind, call.query.filled("kind")) {
        (Some(kind), _) => Some(Ok(kind)),
        (None, Some(text)) => Some(text.parse::<Kind>()),
        (None, None) => None,
    };
    let query = call.query.clone();
    let body = call
        .view(|view, caller| {
            let state = view.state;
            let asked = query.filled("role").or_else(|| query.filled("acting_as"));
            let role = authz::assumed(state, &caller.role, asked)?;
            let owners = match query.filled("owner") {
                Some(owner) => {
                    Some(owners(state, owner, account.as_ref().unwrap_or(&caller.account))?)
                }
                None => None,
            };
            // A kind that there is none of has no resources.
            let kind = match kind {
                Some(Err(_unknown)) => return Ok(page.empty()),
                Some(Ok(kind)) => Some(kind),
                None => None,
            };
            let words = query.filled("search").map(words);
            let found = rbac::visible(state, &role, account.as_ref(), kind)
                .filter(|(_, record)| {
                    owners.as_ref().is_none_or(|owners| owners.contains(&record.owner))
                })
                .filter(|(id, _)| words.as_ref().is_none_or(|words| matches(state, id, words)))
                .map(|(id, _)| id);
            Ok(page.write(state, found))
        })
        .await?;
    Ok(Answer::json_bytes(body))
}

/// The part of the list that is wanted.
struct Page {
    count: bool,
    limit: Option<usize>,
    offset: usize,
    /// When it was asked for.
    at: Timestamp,
}

impl Page {
    fn of(query: &Query, limit_max: usize, at: Timestamp) -> Result<Self, Refusal> {
        let limit = match query.value("limit") {
            None => None,
            Some(text) => Some(
                text.trim().parse::<usize>().ok().filter(|limit| *limit > 0).ok_or_else(|| {
                    Refusal::Argument(
                        "'limit' contains an invalid value. 'limit' must be a positive integer."
                            .to_owned(),
                    )
                })?,
            ),
        };
        let offset = match query.value("offset") {
            None => None,
            Some(text) => Some(text.trim().parse::<usize>().map_err(|_not_a_number| {
                Refusal::Argument(
                    "'offset' contains an invalid value. 'offset' must be an integer greater than \
                     or equal to 0."
                        .to_owned(),
                )
            })?),
        };
        let count = query.value("count") == Some("true");
        if !count
            && limit_max > 0
            && limit.is_some_and(|limit| limit > limit_max && limit != LIMIT_LET_THROUGH)
        {
            return Err(Refusal::Argument(format!(
                "'Limit' parameter must not exceed {limit_max}"
            )));
        }
        let limit = match (limit, offset) {
            (Some(limit), _) => Some(limit),
            (None, Some(_)) => Some(LIMIT_WITH_OFFSET),
            (None, None) => (limit_max > 0).then_some(limit_max),
        };
        Ok(Self { count, limit, offset: offset.unwrap_or(0), at })
    }

    fn empty(&self) -> Vec<u8> {
        if self.count { json::to_vec(&json!({"count": 0})) } else { b"[]".to_vec() }
    }

    fn write<'a>(&self, state: &State, found: impl Iterator<Item = &'a ResourceId>) -> Vec<u8> {
        if self.count {
            return json::to_vec(&json!({"count": found.count()}));
        }
        let mut body = vec![b'['];
        let found = found.skip(self.offset).take(self.limit.unwrap_or(usize::MAX));
        for (at, document) in
            found.filter_map(|id| documents::resource(state, id, self.at)).enumerate()
        {
            if at > 0 {
                body.push(b',');
            }
            json::write(&mut body, &document);
        }
        body.push(b']');
        body
    }
}

/// The role named, and every role it holds.
fn owners(
    state: &State,
    text: &str,
    account: &conclave_domain::id::AccountName,
) -> Result<Vec<RoleId>, Refusal> {
    let owner = match Id::parse(text, Some(account)) {
        Ok(owner) => owner,
        Err(error @ IdError::TooFewTokens(_)) => return Err(error.into()),
        Err(_names_nothing) => return Err(Refusal::missing_text(text)),
    };
    if state.role(&owner).is_none() {
        return Err(Refusal::missing(&owner));
    }
    Ok(rbac::closure(state, &owner))
}

/// The stems of the words of a text that say anything.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .filter_map(|word| stem(&word.to_lowercase()))
        .collect()
}

/// Whether every word stands in the identifier, the kind or an annotation's value.
fn matches(state: &State, id: &ResourceId, wanted: &[String]) -> bool {
    let mut present = words(id.identifier());
    present.extend(words(id.kind().as_str()));
    for (_, annotation) in state.annotations(id) {
        present.extend(words(&annotation.value));
    }
    // A search without a single word finds nothing.
    !wanted.is_empty() && wanted.iter().all(|word| present.contains(word))
}

/// Path and query parameters, for the record.
fn parameters(call: &Call) -> Vec<(String, String)> {
    let path = [
        ("account", call.params.account.as_ref().map(ToString::to_string)),
        ("kind", call.params.kind.map(|kind| kind.to_string())),
    ];
    let known = ["kind", "search", "limit", "offset", "count", "owner", "role", "acting_as"];
    let query = call.query.iter().filter(|(name, _)| known.contains(name));
    path.into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .chain(query.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

/// `{:account=>"a", :limit=>"1"}`, as collectors of Conjur's records expect it.
pub(crate) fn shown(parameters: &[(String, String)]) -> String {
    let mut text = String::from("{");
    for (at, (name, value)) in parameters.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        let _infallible = write!(text, "{comma}:{name}=>{value:?}");
    }
    text.push('}');
    text
}
