//! `POST /host_factories/hosts`: a new host for the bearer of a token, or a new API key for a host
//! that the token's factory has already.
//!
//! The token stands raw in the header, not in base64; an access token is of no use here.

use conclave_domain::command::{Actor, Command};
use conclave_domain::host_factory;
use conclave_domain::id::{Id, Kind, RoleId};
use conclave_domain::outcome::Rejection;
use conclave_domain::records::Digest;
use http::StatusCode;
use zeroize::Zeroizing;

use crate::audit::Deed;
use crate::authn::UNKNOWN;
use crate::context::{Answer, Call, wiped_bytes};
use crate::credentials::{api_key_digest, new_api_key, seal_api_key};
use crate::error::Refusal;
use crate::token::sha256;
use crate::wire::query::Query;
use crate::wire::{documents, json};

/// Room for a key and its field's name in the answer.
const KEY_FIELD_BYTES: usize = 96;

/// The reason in records when the token has been used as often as it may be.
const USED_UP: &str = "the host factory token is used up";
/// The same when the door took it for good, and the log did not.
const VOID_SINCE: &str = "the host factory token was used up, revoked or expired meanwhile";

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    call.deeds.push(Deed {
        message_id: "host-factory",
        operation: "create-host".into(),
        user: Some(UNKNOWN.to_owned()),
        did: "enrolled a host".to_owned(),
        tried: "tried to enrol a host".to_owned(),
        ..Deed::default()
    });
    let Some(token) = bearer(call) else {
        call.reason = Some("no host factory token".into());
        return Err(Refusal::UNAUTHENTICATED);
    };
    call.barrier_in_any_case().await?;
    let (now, from) = (call.now, call.client_ip);
    let known = call.open_view(|view| {
        let known = view.state.host_factory_token(&token);
        let known = known.filter(|known| known.admits(now, Some(from)));
        Ok(known.map(|known| (known.factory.clone(), known.is_used_up())))
    })?;
    let Some((factory, is_used_up)) = known else {
        call.reason = Some("the host factory token is unknown, expired, or not for here".into());
        return Err(Refusal::UNAUTHENTICATED);
    };
    // The last use may be this request, come again: the log knows.
    if is_used_up && !call.is_repeatable() {
        call.reason = Some(USED_UP.into());
        return Err(Refusal::UNAUTHENTICATED);
    }
    let params = call.take_params().await?;
    let host = host_id(&factory, &params, call)?;
    call.open_view(|view| host_factory::judge(view.state, &factory, &host).map_err(refusal))?;
    let vault = call.door.vault()?;
    let fresh = new_api_key()?;
    let key = seal_api_key(&vault, &host, &fresh)?;
    let annotations = annotations(&params);
    let id = call.command_id(&digest_of(&token, &params))?;
    let command = Command::EnrolHost { token, host: host.clone(), key, annotations };
    let done = call.propose(id, Actor::Role(factory), command).await?;
    if done == Err(Rejection::Unauthenticated) {
        call.reason = Some(if is_used_up { USED_UP } else { VOID_SINCE }.into());
    }
    done.map_err(refusal)?;
    // The document is this node's, which may not have come as far as the one that decided.
    call.wait_for_seen(call.index).await?;
    let document = call.open_view(|view| {
        let document = documents::resource(view.state, &host, now).map(|one| json::to_vec(&one));
        document.ok_or_else(|| Refusal::missing(&host))
    })?;
    let key = call.key_in_force(&vault, &host, fresh).await?;
    Ok(answer(&document, &key))
}

/// The digest of the token in the header.
fn bearer(call: &Call) -> Option<Digest> {
    let header = call.authorization()?.strip_prefix(b"Token token=\"")?;
    let end = header.iter().position(|byte| *byte == b'"')?;
    let token = header[..end].trim_ascii();
    (!token.is_empty()).then(|| api_key_digest(token))
}

/// The host that is asked for, by its literal id.
fn host_id(factory: &RoleId, params: &Query, call: &mut Call) -> Result<RoleId, Refusal> {
    let asked = params.filled("id").unwrap_or_default().to_owned();
    let named = format!("{}:host:{asked}", factory.account());
    if let Some(deed) = call.deeds.first_mut() {
        deed.user = Some(factory.to_string());
        deed.subject = vec![("role".into(), named.clone())];
        deed.did = format!("{factory} enrolled host {named}");
        deed.tried = format!("{factory} tried to enrol host {named}");
    }
    if asked.is_empty() {
        return Err(Refusal::ParameterMissing { name: "id" });
    }
    Id::new(factory.account().clone(), Kind::Host, &asked)
        .map_err(|_too_long| Refusal::Argument(format!("Invalid id: {asked}")))
}

/// `annotations[k]=v`, the last of each name.
fn annotations(params: &Query) -> Vec<(String, String)> {
    let mut found = std::collections::BTreeMap::new();
    for (name, value) in params.iter() {
        let name = name.strip_prefix("annotations[").and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(['[', ']', '\0']))
        {
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    found.into_iter().collect()
}

/// Tells this request from all others that bear the same idempotency key.
fn digest_of(token: &Digest, params: &Query) -> [u8; 32] {
    let mut text = token.0.to_vec();
    text.extend_from_slice(params.text().as_bytes());
    sha256(&text)
}

fn refusal(rejection: Rejection) -> Refusal {
    if let Rejection::Invalid(text) = rejection {
        Refusal::Argument(text)
    } else {
        rejection.into()
    }
}

/// The host's document with its key, wiped after it has left.
fn answer(document: &[u8], key: &str) -> Answer {
    let mut body = Zeroizing::new(Vec::with_capacity(document.len() + key.len() + KEY_FIELD_BYTES));
    body.extend_from_slice(document.strip_suffix(b"}").unwrap_or(document));
    body.extend_from_slice(b",\"api_key\":");
    json::write(&mut body, &key);
    body.push(b'}');
    Answer::json_bytes(wiped_bytes(body)).status(StatusCode::CREATED)
}
