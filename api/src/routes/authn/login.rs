//! `GET /authn/{account}/login`: a role's current API key for its password, or for the key itself.

use super::{attempted, authn_deed, name_if_known, prove_basic};
use crate::authn::{DEFAULT, basic_credentials};
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
    if authenticator != DEFAULT || service.is_some() {
        call.reason = Some("CONJ00001E this authenticator has no login".into());
        return Err(Refusal::UNAUTHENTICATED);
    }
    call.check_age()?;
    let proven = prove_basic(call, &account).await?;
    if let Some(deed) = call.deeds.first_mut() {
        deed.user = Some(proven.role.to_string());
    }
    let key = call
        .door
        .vault()?
        .open(&proven.role, &proven.api_key)
        .map_err(|fault| Refusal::Fault(format!("API key of {}: {fault}", proven.role)))?;
    Ok(Answer::text(secret_bytes(key)))
}
