//! The v2 API: JSON in, JSON out, asked for by its media type in `Accept`. What it changes it plans on
//! one view and commits as planned, as policy loads do.

pub(crate) mod authenticator_data;
pub(crate) mod authenticators;
pub(crate) mod branches;
pub(crate) mod members;

use conclave_domain::command::{Actor, Command, Need};
use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind, RoleId};
use conclave_domain::outcome::Rejection;
use conclave_domain::rbac;
use conclave_domain::state::State;
use http::StatusCode;
use http::header::{ACCEPT, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::Deed;
use crate::context::{Answer, Call, wiped_bytes};
use crate::door::V2;
use crate::error::{Refusal, record_missing};
use crate::ports::View;
use crate::token::{Verified, sha256};
use crate::wire::json;

/// How often a change is planned before the client is asked to try again.
const PLANS_MAX: usize = 8;
/// Largest page, and largest offset, that a list may be asked for.
const PAGE_MAX: usize = 1000;
/// Largest body.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Says what is about to be done, and refuses who did not ask for the v2 API.
pub(super) fn begin(
    call: &mut Call,
    message_id: &'static str,
    operation: &'static str,
    verb: &str,
    what: &str,
) -> Result<(), Refusal> {
    let (user, path) = (call.user(), call.path.clone());
    call.deeds.push(Deed {
        message_id,
        operation: operation.into(),
        user: Some(user.clone()),
        subject: vec![("edge".into(), String::new())],
        did: format!("{user} successfully {verb} {what} with URI path: '{path}'"),
        tried: format!("{user} failed to {operation} {what} with URI path: '{path}'"),
        ..Deed::default()
    });
    if accepts(call) {
        Ok(())
    } else {
        Err(Refusal::V2(
            StatusCode::BAD_REQUEST,
            format!(
                "CONJ00194W The api belongs to v2 APIs but it missing the version \"{V2}\" in the \
                 Accept header"
            ),
        ))
    }
}

/// An answer in the media type that was asked for.
pub(super) fn answer(call: &Call, status: StatusCode, document: &impl Serialize) -> Answer {
    let mut answer = Answer::json(document).status(status);
    answer.content_type = Some(media_type(call));
    answer
}

/// As [`answer`], for a document that holds secrets: wiped after it has left.
pub(super) fn secret_answer(call: &Call, status: StatusCode, document: &impl Serialize) -> Answer {
    let mut answer = Answer::json_bytes(wiped_bytes(json::to_wiped(document))).status(status);
    answer.content_type = Some(media_type(call));
    answer
}

/// Whether the caller asked for this version.
fn accepts(call: &Call) -> bool {
    let named = |accept: &HeaderValue| accept.to_str().is_ok_and(|accept| accept.contains(V2));
    call.headers.get_all(ACCEPT).iter().any(named)
}

/// The version's own media type for who asked for it. `Accept` itself is not repeated: it may be a
/// list, or no media type at all.
pub(crate) fn media_type(call: &Call) -> HeaderValue {
    HeaderValue::from_static(if accepts(call) { V2 } else { "application/json" })
}

/// 422 with a text.
pub(super) fn unfit(message: impl Into<String>) -> Refusal {
    Refusal::V2(StatusCode::UNPROCESSABLE_ENTITY, message.into())
}

/// A value that a parameter cannot have.
pub(super) fn invalid(parameter: &str, why: &str) -> Refusal {
    unfit(format!("CONJ00191W The value in the {parameter} parameter is not valid. Error: {why}"))
}

/// 404 as for a record, with a kind of the v2 API's own.
pub(super) fn missing(kind: &str, account: &AccountName, identifier: &str) -> Refusal {
    Refusal::V2(StatusCode::NOT_FOUND, record_missing(kind, account.as_str(), identifier))
}

/// The body as an object, and its digest.
pub(super) async fn take_object(
    call: &mut Call,
    empty: &str,
    malformed: &str,
) -> Result<(Map<String, Value>, [u8; 32]), Refusal> {
    let bad = |text: &str| Refusal::V2(StatusCode::BAD_REQUEST, text.to_owned());
    let body = call.take_body(BODY_BYTES_MAX).await?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(bad(empty));
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Ok((object, sha256(&body))),
        Ok(_) | Err(_) => Err(bad(malformed)),
    }
}

/// Refuses names that a route does not know.
pub(super) fn only<'a>(
    names: impl Iterator<Item = &'a str>,
    known: &[&str],
    refused: impl Fn(&str) -> String,
) -> Result<(), Refusal> {
    let mut foreign: Vec<&str> = names.filter(|name| !known.contains(name)).collect();
    foreign.dedup();
    if foreign.is_empty() { Ok(()) } else { Err(unfit(refused(&foreign.join(", ")))) }
}

/// The names in an object's body.
pub(super) fn names(object: &Map<String, Value>) -> impl Iterator<Item = &str> {
    object.keys().map(String::as_str)
}

/// A text in a body.
pub(super) fn text<'a>(
    object: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, Refusal> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => {
            Err(unfit(format!("CONJ00192W The '{name}' parameter must be of 'type=string'")))
        }
    }
}

/// Refuses a body that lacks a name, or has it blank; all that lack are named.
pub(super) fn required(object: &Map<String, Value>, needed: &[&str]) -> Result<(), Refusal> {
    let is_absent = |name: &&&str| match object.get(**name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(_) => false,
    };
    let absent: Vec<&str> = needed.iter().filter(is_absent).copied().collect();
    if absent.is_empty() {
        Ok(())
    } else {
        Err(unfit(format!("CONJ00190W Missing required parameter: {}", absent.join(", "))))
    }
}

/// Offset and limit of a list.
pub(super) fn page(call: &Call) -> Result<(usize, usize), Refusal> {
    let number = |name: &str, default| match call.query.value(name) {
        None => Ok(default),
        Some(text) => {
            text.trim().parse().ok().filter(|number| *number <= PAGE_MAX).ok_or_else(|| {
                unfit(format!("The {name} parameter must be a number from 0 to {PAGE_MAX}"))
            })
        }
    };
    Ok((number("offset", 0)?, number("limit", PAGE_MAX)?))
}

/// Whether a text has so many characters of those at most, and one at least.
pub(super) fn is_made_of(text: &str, most: usize, also: &str) -> bool {
    (1..=most).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// `{"kind":…,"id":…}` in a body: who is to own something.
pub(super) fn owner(
    object: &Map<String, Value>,
    account: &AccountName,
    kinds: &[Kind],
) -> Result<Option<RoleId>, Refusal> {
    let owner = match object.get("owner") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(owner)) => owner,
        Some(_) => return Err(invalid("owner", "it is no object")),
    };
    only(names(owner), &["kind", "id"], |names| {
        format!("The following parameters were not expected: '{names}'")
    })?;
    required(owner, &["kind", "id"])?;
    let (kind, id) = (text(owner, "kind")?, text(owner, "id")?);
    let (kind, id) = (kind.unwrap_or_default(), id.unwrap_or_default());
    let id = id.strip_prefix('/').unwrap_or(id);
    let kind = kind.parse::<Kind>().ok().filter(|kind| kinds.contains(kind));
    let kind = kind.ok_or_else(|| invalid("owner kind", "there is no such kind of owner"))?;
    if !is_made_of(id, 500, "@._/-") {
        return Err(invalid("owner id", "it is empty, too long, or has other characters"));
    }
    let id = Id::new(account.clone(), kind, id);
    Ok(Some(id.map_err(|_too_long| invalid("owner id", "it is too long"))?))
}

/// A role that a caller may name: it is there, and the caller sees or holds it.
pub(super) fn is_known(state: &State, caller: &RoleId, role: &RoleId) -> bool {
    state.role(role).is_some()
        && (rbac::is_visible(state, caller, role) || rbac::holds(state, caller, role))
}

/// What is planned: what it takes, and what it changes.
pub(crate) struct Planned {
    needs: Vec<Need>,
    changes: Vec<Event>,
}

impl Planned {
    pub(crate) fn new(privilege: &str, resource: &Id, changes: Vec<Event>) -> Self {
        let need = Need { privilege: privilege.to_owned(), resource: resource.clone() };
        Self { needs: vec![need], changes }
    }
}

/// Plans on a view as fresh as can be and commits; when the account has moved in between, again.
pub(crate) async fn commit(
    call: &mut Call,
    account: &AccountName,
    body_digest: &[u8; 32],
    mut plan: impl FnMut(&View<'_>, &Verified) -> Result<Planned, Refusal>,
) -> Result<(), Refusal> {
    let command_id = call.command_id(body_digest)?;
    let actor = Actor::Role(call.caller()?.role.clone());
    for _ in 0..PLANS_MAX {
        call.barrier_in_any_case().await?;
        let (planned, based_on) = call.local_view(|view, caller| {
            let planned = plan(view, caller)?;
            let record = view.state.account(account).ok_or(Refusal::FORBIDDEN)?;
            Ok((planned, record.revision))
        })?;
        if planned.changes.is_empty() {
            return Ok(());
        }
        let Planned { needs, changes } = planned;
        let account = account.clone();
        let command = Command::ChangeAccount { account, needs, changes, based_on };
        match call.propose(command_id, actor.clone(), command).await? {
            Ok(_done) => {
                // The answer is read from this node's view, which may be behind the one that decided.
                return call.wait_for_seen(call.index).await;
            }
            Err(Rejection::Stale { planned, current }) => {
                tracing::debug!(?planned, ?current, "v2.change planned again");
            }
            // Allowed a moment ago, and not any more.
            Err(Rejection::NotFound { .. } | Rejection::Forbidden { .. }) => {
                return Err(Refusal::FORBIDDEN);
            }
            Err(rejection) => return Err(rejection.into()),
        }
    }
    Err(Refusal::PolicyConflict { retry_after: 1 })
}
