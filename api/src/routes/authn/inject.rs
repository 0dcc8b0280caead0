//! `POST /authn-k8s/{service}/inject_client_cert`: a certificate for the client in a pod, put into the
//! pod itself. The answer says that it is there, and nothing more.

use http::StatusCode;

use super::authenticate::refuse;
use super::{authn_deed, check_failures, name_if_known};
use crate::authn::k8s::{self, Wish};
use crate::authn::{Attempt, Denied, UNKNOWN};
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let mut attempt = Attempt {
        authenticator: k8s::NAME.to_owned(),
        service: call.params.service.take(),
        account: None,
        login: None,
    };
    describe(call, &attempt, UNKNOWN);
    call.check_age()?;
    // Failures of who cannot be named count for the service.
    let place = attempt.full_name();
    check_failures(call, &place)?;
    let wish = match read(call, &mut attempt).await {
        Ok(wish) => wish,
        Err(denied) => return Err(refuse(call, &attempt, &place, denied)),
    };
    let place = wish.role.to_string();
    attempt.login = Some(place.clone());
    describe(call, &attempt, &place);
    name_if_known(call, &place);
    check_failures(call, &place)?;
    let door = call.door.clone();
    match door.registry.inject(call, &attempt, &wish).await {
        // Nothing is in it, and nobody waits for more: so Conjur answers when it has begun.
        Ok(()) => Ok(Answer::empty(StatusCode::ACCEPTED)),
        Err(denied) => Err(refuse(call, &attempt, &place, denied)),
    }
}

/// Who asks for what, at which account.
async fn read(call: &mut Call, attempt: &mut Attempt) -> Result<Wish, Denied> {
    call.barrier().await?;
    let service = attempt.service.clone().unwrap_or_default();
    attempt.account = Some(k8s::account_of(call, &service)?);
    Wish::read(call, attempt).await
}

fn describe(call: &mut Call, attempt: &Attempt, who: &str) {
    call.deeds.clear();
    call.deeds.push(authn_deed(
        "k8s-inject-client-cert",
        &attempt.authenticator,
        attempt.service.as_deref(),
        who,
        ("injected client certificate", "inject client certificate"),
    ));
}
