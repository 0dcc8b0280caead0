//! `POST /authn/{account}/{login}/authenticate` and its like: an access token for credentials.

use std::sync::Arc;

use conclave_domain::id::{Kind, RoleId};
use conclave_domain::records::SigningKey;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use http::{Method, StatusCode};

use super::{attempted, authn_deed, check_failures, name_if_known};
use crate::audit::Deed;
use crate::authn::{Attempt, Denied, UNKNOWN};
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::token::Token;
use crate::wire::base64;

/// The media type of a compact JWT.
const JWT: &str = "application/jwt";

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let attempt = Attempt {
        authenticator: call.params.authenticator.take().unwrap_or_default(),
        service: call.params.service.take(),
        account: call.params.account.clone(),
        login: call.params.login.take(),
    };
    // Where a token or certificate is to say who it is, nobody is named before that is proven.
    let named = attempt.login.as_deref().map(|login| attempted(attempt.account.as_ref(), login));
    let who = named.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    call.deeds.push(describe(&attempt, &who));
    name_if_known(call, &who);
    // So many failures, of somebody or at a service that tells by itself who it is.
    let place = named.unwrap_or_else(|| attempted(attempt.account.as_ref(), &attempt.full_name()));
    let door = call.door.clone();
    check_failures(call, &place)?;
    call.check_age()?;
    let role = match door.registry.judge(call, &attempt).await {
        Ok(role) => role,
        Err(denied) => {
            let denied = if call.method == Method::GET { by_code(denied) } else { denied };
            return Err(refuse(call, &attempt, &place, denied));
        }
    };
    name(call, &attempt, &role);
    if let Some(deed) = call.deeds.first_mut() {
        deed.user = Some(role.to_string());
    }
    let token = mint(call, &role).await?;
    Ok(represent(call, &token))
}

/// For codes that browsers bring, Conjur answers some refusals otherwise.
fn by_code(denied: Denied) -> Denied {
    let is_otherwise =
        ["CONJ00004E", "CONJ00007E"].iter().any(|code| denied.reason.starts_with(code));
    if !is_otherwise {
        return denied;
    }
    Denied { refusal: Refusal::Empty(StatusCode::BAD_REQUEST), ..denied }
}

fn describe(attempt: &Attempt, who: &str) -> Deed {
    authn_deed(
        "authenticate",
        &attempt.authenticator,
        attempt.service.as_deref(),
        who,
        ("authenticated", "authenticate"),
    )
}

/// Names the role in the record of an attempt that did not name it itself.
fn name(call: &mut Call, attempt: &Attempt, role: &RoleId) {
    if attempt.login.is_none() {
        call.deeds.clear();
        call.deeds.push(describe(attempt, &role.to_string()));
    }
}

/// Records and counts a refusal. The client is told no reason; the record and the log are.
pub(super) fn refuse(call: &mut Call, attempt: &Attempt, place: &str, denied: Denied) -> Refusal {
    let Denied { refusal, reason, claimed } = denied;
    if let Some(role) = &claimed {
        name(call, attempt, role);
        name_if_known(call, &role.to_string());
    }
    // What is no attempt at all, for want of a proof, is none that failed.
    let is_failure = matches!(refusal, Refusal::Unauthorized(_))
        || refusal == Refusal::UNAUTHENTICATED
        || refusal == Refusal::Empty(StatusCode::BAD_REQUEST) && !reason.starts_with("CONJ00009E");
    if is_failure {
        call.door.failures.failed(call.client_ip, place, call.now);
    }
    let (authenticator, request_id) = (attempt.full_name(), &call.request_id);
    // As debug text, since a role's name may hold anything.
    tracing::info!(%request_id, ?authenticator, ?reason, "authn.refused");
    call.reason = Some(reason);
    refusal
}

async fn mint(call: &mut Call, role: &RoleId) -> Result<Arc<Token>, Refusal> {
    let key: Option<SigningKey> = call.open_view(|view| {
        Ok(view.state.account(role.account()).map(|account| account.signing_key.clone()))
    })?;
    let key = key.ok_or(Refusal::UNAUTHENTICATED)?;
    let door = call.door.clone();
    let vault = door.vault()?;
    if let Some(life) = call.token_seconds {
        // Not one that the role may have got in this second by another way, of another life.
        let now = call.now.seconds();
        let life = (now, now + i64::from(life));
        return door.tokens.mint_special(&vault, role, &key, life, &[]).await.map(Arc::new);
    }
    let life = if role.kind() == Kind::User {
        door.settings().user_token_seconds
    } else {
        door.settings().host_token_seconds
    };
    door.tokens.mint(&vault, role, &key, call.now, life).await
}

/// The token as the client wants it: JSON, that in base64, or a compact JWT.
fn represent(call: &Call, token: &Token) -> Answer {
    if accepts(call, ACCEPT.as_str(), JWT) {
        let mut answer = Answer::text(token.compact.clone());
        answer.content_type = Some(HeaderValue::from_static(JWT));
        return answer;
    }
    if accepts(call, ACCEPT_ENCODING.as_str(), "base64") {
        return Answer::text(base64::encode(token.envelope.as_bytes()))
            .header(CONTENT_ENCODING, HeaderValue::from_static("base64"));
    }
    let mut answer = Answer::json_bytes(token.envelope.clone());
    answer.content_type = Some(HeaderValue::from_static("application/json"));
    answer
}

/// Whether a header's comma list has an item, its parameters aside.
fn accepts(call: &Call, header: &str, wanted: &str) -> bool {
    let items = call.headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    items.flat_map(|text| text.split(',')).any(|item| {
        item.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(wanted))
    })
}
