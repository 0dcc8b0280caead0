//! `POST /authn/{account}/{login}/authenticate` and its like: an access token for credentials.

use conclave_domain::id::{Kind, RoleId};
use conclave_domain::records::SigningKey;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};

use super::{attempted, authn_deed, name_if_known};
use crate::authn::{Attempt, Verdict};
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
    let login = attempt.login.as_deref().unwrap_or_default();
    let who = attempted(attempt.account.as_ref(), login);
    call.deeds.push(authn_deed(
        "authenticate",
        &attempt.authenticator,
        attempt.service.as_deref(),
        &who,
        ("authenticated", "authenticate"),
    ));
    name_if_known(call, &who);
    let door = call.door.clone();
    if let Some(retry_after) = door.failures.held_up(call.client_ip, &who, call.now) {
        return Err(Refusal::TooMany { retry_after });
    }
    call.check_age()?;
    let role = match door.registry.judge(call, &attempt).await {
        Verdict::Is(role) => role,
        Verdict::NotMine => return Err(Refusal::UNAUTHENTICATED),
        Verdict::Refused(refusal, reason) => {
            if refusal == Refusal::UNAUTHENTICATED {
                door.failures.failed(call.client_ip, &who, call.now);
            }
            call.reason = Some(reason);
            return Err(refusal);
        }
    };
    if let Some(deed) = call.deeds.first_mut() {
        deed.user = Some(role.to_string());
    }
    let token = mint(call, &role).await?;
    Ok(represent(call, &token))
}

async fn mint(call: &mut Call, role: &RoleId) -> Result<std::sync::Arc<Token>, Refusal> {
    let key: Option<SigningKey> = call.open_view(|view| {
        Ok(view.state.account(role.account()).map(|account| account.signing_key.clone()))
    })?;
    let key = key.ok_or(Refusal::UNAUTHENTICATED)?;
    let door = call.door.clone();
    let life = if role.kind() == Kind::User {
        door.settings.user_token_seconds
    } else {
        door.settings.host_token_seconds
    };
    let vault = door.vault()?;
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
