//! `/authn…`: credentials in, API keys and access tokens out.

pub(crate) mod administer;
pub(crate) mod api_key;
pub(crate) mod authenticate;
pub(crate) mod inject;
pub(crate) mod login;
pub(crate) mod password;
pub(crate) mod providers;
pub(crate) mod status;

use std::borrow::Cow;

use conclave_domain::id::{AccountName, RoleId};

use crate::audit::Deed;
use crate::authn::{Proven, UNKNOWN, basic_credentials, prove};
use crate::context::Call;
use crate::error::Refusal;
use crate::read::patiently;

/// Checks HTTP Basic, counting failures; the caller has said what it is for.
pub(super) async fn prove_basic(call: &mut Call, account: &AccountName) -> Result<Proven, Refusal> {
    let Some((login, password)) = basic_credentials(call) else {
        call.reason = Some("CONJ00002E Invalid credentials".into());
        return Err(Refusal::UNAUTHENTICATED);
    };
    let place = format!("{account}:{login}");
    check_failures(call, &place)?;
    match prove(call, account, &login, password).await? {
        Ok(proven) => Ok(proven),
        Err(reason) => {
            call.door.failures.failed(call.client_ip, &place, call.now);
            call.reason = Some(reason);
            Err(Refusal::UNAUTHENTICATED)
        }
    }
}

/// Refuses who has failed too often, from there or in that name.
pub(super) fn check_failures(call: &Call, place: &str) -> Result<(), Refusal> {
    match call.door.failures.held_up(call.client_ip, place, call.now) {
        Some(retry_after) => Err(Refusal::TooMany { retry_after }),
        None => Ok(()),
    }
}

/// Names the attempted role as the user of the record, when there is such a role.
pub(super) fn name_if_known(call: &mut Call, attempted: &str) {
    let Ok(role) = attempted.parse::<RoleId>() else { return };
    let known = patiently(&call.door.state, |view| view.state.role(&role).is_some());
    if let Some(deed) = call.deeds.first_mut().filter(|_| known) {
        deed.user = Some(attempted.to_owned());
    }
}

/// The record of an attempt to prove who one is. Until the role is known to exist the user is not.
pub(super) fn authn_deed(
    operation: &'static str,
    authenticator: &str,
    service: Option<&str>,
    attempted: &str,
    verbs: (&str, &str),
) -> Deed {
    let at = match service {
        Some(service) => format!("authenticator {authenticator} service {service}"),
        None => format!("authenticator {authenticator}"),
    };
    let (did, tried) = verbs;
    Deed {
        message_id: "authn",
        operation: operation.into(),
        user: Some(UNKNOWN.to_owned()),
        authenticator: Some(authenticator.to_owned()),
        service: service.map(str::to_owned),
        subject: vec![(Cow::Borrowed("role"), attempted.to_owned())],
        did: format!("{attempted} successfully {did} with {at}"),
        tried: format!("{attempted} failed to {tried} with {at}"),
        ..Deed::default()
    }
}

/// The full id that an attempt names, as text, whether there is such a role or not.
pub(super) fn attempted(account: Option<&AccountName>, login: &str) -> String {
    let account = account.map_or("", AccountName::as_str);
    match login.split_once('/') {
        Some((kind, identifier)) => format!("{account}:{kind}:{identifier}"),
        None => format!("{account}:user:{login}"),
    }
}
