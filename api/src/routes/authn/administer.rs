//! `PATCH /{authn}[/{service}]/{account}`: switches an authenticator on or off.

use conclave_domain::command::{Actor, Command};
use conclave_domain::outcome::Rejection;
use conclave_domain::rbac;
use http::StatusCode;

use crate::audit::Deed;
use crate::authn::{UNKNOWN, full_name, webservice};
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn update(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    let authenticator = call.params.authenticator.clone().unwrap_or_default();
    let service = call.params.service.clone();
    describe(call, &authenticator, service.as_deref());
    if call.principal.is_none() {
        call.reason = Some("no access token".into());
        return Err(Refusal::UNAUTHENTICATED);
    }
    let name = full_name(&authenticator, service.as_deref());
    let missing = format!("CONJ00005E Webservice '{name}' not found");
    let Some(webservice) = webservice(&account, &authenticator, service.as_deref()) else {
        call.reason = Some(missing.into());
        return Err(Refusal::UNAUTHENTICATED);
    };
    let params = call.take_params().await?;
    let enabled = params.value("enabled") == Some("true");
    // That a webservice is there is no secret: anybody may list the authenticators.
    let checked = call
        .check_write(|view, caller| {
            if view.state.resource(&webservice).is_none() {
                return Err(Refusal::UNAUTHENTICATED);
            }
            let may = rbac::is_allowed(view.state, &caller.role, "update", &webservice);
            if may { Ok(caller.role.clone()) } else { Err(Refusal::FORBIDDEN) }
        })
        .await;
    let caller = checked.inspect_err(|refusal| {
        call.reason = Some(if *refusal == Refusal::UNAUTHENTICATED {
            missing.clone().into()
        } else {
            let user = call.user();
            let why =
                format!("CONJ00006E '{user}' does not have 'update' privilege on {webservice}");
            why.into()
        });
    })?;
    let id = call.command_id(&[u8::from(enabled); 32])?;
    let command = Command::ToggleAuthenticator { webservice, enabled };
    match call.propose(id, Actor::Role(caller), command).await? {
        Ok(_done) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(Rejection::NotFound { .. }) => {
            call.reason = Some(missing.into());
            Err(Refusal::UNAUTHENTICATED)
        }
        Err(rejection) => Err(rejection.into()),
    }
}

fn describe(call: &mut Call, authenticator: &str, service: Option<&str>) {
    let user = if call.principal.is_some() { call.user() } else { UNKNOWN.to_owned() };
    let at = service.map_or_else(String::new, |service| format!(" service {service}"));
    let what = "authenticator configuration";
    call.deeds.push(Deed {
        message_id: "authn",
        operation: "update-authenticator-configuration".into(),
        user: Some(user.clone()),
        authenticator: Some(authenticator.to_owned()),
        service: service.map(str::to_owned),
        subject: vec![("role".into(), user.clone())],
        // Without a space before the name: collectors match the text as Conjur writes it.
        did: format!("{user} successfully updated {what}{authenticator}{at}"),
        tried: format!("{user} failed to update {what} {authenticator}{at}"),
        ..Deed::default()
    });
}
