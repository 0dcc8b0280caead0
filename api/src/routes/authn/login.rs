//! `GET /authn/{account}/login`: a role's current API key for its password, or for the key itself.

use conclave_domain::id::RoleId;
use conclave_domain::records::Sealed;

use super::authenticate::refuse;
use super::{attempted, authn_deed, check_failures, name_if_known, prove_basic};
use crate::authn::{Attempt, DEFAULT, basic_credentials};
use crate::context::{Answer, Call, secret_bytes};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    let authenticator = call.params.authenticator.clone().unwrap_or_default();
    let service = call.params.service.clone();
    let login = basic_credentials(call).map(|(login, _)| login).unwrap_or_default();
    let who = attempted(Some(&account), &login);
    call.deeds.push(authn_deed(
        "login",
        &authenticator,
        service.as_deref(),
        &who,
        ("logged in", "login"),
    ));
    name_if_known(call, &who);
    call.check_age()?;
    let (role, api_key) = if authenticator == DEFAULT && service.is_none() {
        let proven = prove_basic(call, &account).await?;
        (proven.role, proven.api_key)
    } else {
        at_service(call, authenticator, service).await?
    };
    if let Some(deed) = call.deeds.first_mut() {
        deed.user = Some(role.to_string());
    }
    let key = call
        .door
        .vault()?
        .open(&role, &api_key)
        .map_err(|fault| Refusal::Fault(format!("API key of {role}: {fault}")))?;
    Ok(Answer::text(secret_bytes(key)))
}

/// Logs in at an authenticator's service: who it is, and its API key.
async fn at_service(
    call: &mut Call,
    authenticator: String,
    service: Option<String>,
) -> Result<(RoleId, Sealed), Refusal> {
    let Some((login, password)) = basic_credentials(call) else {
        call.reason = Some("CONJ00002E Invalid credentials".into());
        return Err(Refusal::UNAUTHENTICATED);
    };
    let account = call.params.account.clone();
    let place = attempted(account.as_ref(), &login);
    let attempt = Attempt { authenticator, service, account, login: Some(login) };
    let door = call.door.clone();
    check_failures(call, &place)?;
    let role = match door.registry.login(call, &attempt, password).await {
        Ok(role) => role,
        Err(denied) => return Err(refuse(call, &attempt, &place, denied)),
    };
    let key = call.open_view(|view| {
        Ok(view.state.credential(&role).map(|credential| credential.api_key.clone()))
    })?;
    let key = key.ok_or_else(|| {
        call.reason = Some("the role has no API key".into());
        Refusal::UNAUTHENTICATED
    })?;
    Ok((role, key))
}
