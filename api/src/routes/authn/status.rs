//! `GET /{authn}[/{service}]/{account}/status`: whether an authenticator is fit to be used, and if not,
//! the first thing that is wrong, in the order in which an administrator would look.

use conclave_domain::id::{Id, Kind};
use conclave_domain::rbac;
use http::StatusCode;
use serde_json::json;

use super::authn_deed;
use crate::authn::{DEFAULT, StatusError, UNKNOWN, full_name, is_known_type, webservice};
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let authenticator = call.params.authenticator.clone().unwrap_or_default();
    let service = call.params.service.clone();
    let who = if call.principal.is_some() { call.user() } else { UNKNOWN.to_owned() };
    let verbs = ("validated status for", "validate status for");
    let mut deed = authn_deed("validate-status", &authenticator, service.as_deref(), &who, verbs);
    let at = service.as_deref().map_or_else(String::new, |service| format!(" service {service}"));
    deed.user = Some(who.clone());
    deed.did = format!("{who} successfully validated status for authenticator {authenticator}{at}");
    deed.tried = format!("{who} failed to validate status for authenticator {authenticator}{at}");
    call.deeds.push(deed);
    if call.principal.is_none() {
        call.reason = Some("no access token".into());
        return Err(Refusal::UNAUTHENTICATED);
    }
    check(call, &authenticator, service.as_deref()).await?.map_err(|error| {
        let StatusError { status, class, message } = error;
        Refusal::AuthenticatorStatus { status, error: format!("#<Errors::{class}: {message}>") }
    })?;
    Ok(Answer::json(&json!({"status": "ok"})))
}

async fn check(
    call: &mut Call,
    authenticator: &str,
    service: Option<&str>,
) -> Result<Result<(), StatusError>, Refusal> {
    let name = full_name(authenticator, service);
    let wrong = |status, class, message| Ok(Err(StatusError { status, class, message }));
    let unsupported = format!("CONJ00001E Authenticator '{authenticator}' is not supported");
    if !is_known_type(authenticator) {
        let class = "Authentication::AuthenticatorNotSupported";
        return wrong(StatusCode::NOT_FOUND, class, unsupported);
    }
    let account = call.account()?.clone();
    let not_found = StatusError {
        status: StatusCode::NOT_FOUND,
        class: "Authentication::Security::WebserviceNotFound",
        message: format!("CONJ00005E Webservice '{name}' not found"),
    };
    let Some(webservice) = webservice(&account, authenticator, service) else {
        return Ok(Err(not_found));
    };
    let status_name = format!("{}/status", webservice.identifier());
    let Ok(status) = Id::new(account, Kind::Webservice, &status_name) else {
        return Ok(Err(not_found));
    };
    let is_default = authenticator == DEFAULT && service.is_none();
    let door = call.door.clone();
    let found = call
        .view(|view, caller| {
            let state = view.state;
            if !rbac::is_allowed(state, &caller.role, "read", &status) {
                return Ok(Err(StatusError {
                    status: StatusCode::FORBIDDEN,
                    class: "Authentication::Security::RoleNotAuthorizedOnResource",
                    message: format!(
                        "CONJ00006E '{}' does not have 'read' privilege on {status}",
                        caller.role
                    ),
                }));
            }
            // The default one is in force without a webservice.
            if is_default {
                return Ok(Ok(()));
            }
            if state.resource(&webservice).is_none() {
                return Ok(Err(not_found));
            }
            if !door.registry.is_enabled(state, &webservice) {
                return Ok(Err(StatusError {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    class: "Authentication::Security::AuthenticatorNotWhitelisted",
                    message: format!("CONJ00004E '{name}' is not enabled"),
                }));
            }
            Ok(Ok(()))
        })
        .await?;
    if let Err(error) = found {
        return Ok(Err(error));
    }
    match door.registry.find(authenticator) {
        Some(authenticator) => Ok(authenticator.status(call, &webservice).await),
        // Known to Conjur, and not built in here.
        None => wrong(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Authentication::AuthenticatorNotSupported",
            unsupported,
        ),
    }
}
