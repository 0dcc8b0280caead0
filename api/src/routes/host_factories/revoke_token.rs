//! `DELETE /host_factory_tokens/{token}`: makes a token void.

use conclave_domain::command::{Actor, Command};
use conclave_domain::outcome::Rejection;
use conclave_domain::rbac;
use http::StatusCode;

use crate::context::{Answer, Call};
use crate::credentials::api_key_digest;
use crate::error::Refusal;

/// The reason in records: the token itself has no place there, a mistyped one least of all.
const UNKNOWN: &str = "no such host factory token";

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    let token = call.params.token.take().unwrap_or_default();
    let digest = api_key_digest(token.as_bytes());
    let user = call.user();
    let (did, tried) = (
        format!("{user} revoked a host factory token"),
        format!("{user} tried to revoke a host factory token"),
    );
    call.deed("host-factory", "revoke-token", Vec::new(), did, tried);
    let missing = || Refusal::RecordMissing {
        kind: "host_factory_token".to_owned(),
        account: "*".to_owned(),
        identifier: token.to_string(),
    };
    let now = call.now;
    let found = call
        .check_write(|view, caller| {
            let known = view.state.host_factory_token(&digest);
            let known = known.filter(|known| known.expires_at > now).ok_or_else(missing)?;
            let may = rbac::is_allowed(view.state, &caller.role, "update", &known.factory);
            if may {
                Ok((caller.role.clone(), known.factory.clone()))
            } else {
                Err(Refusal::FORBIDDEN)
            }
        })
        .await;
    let (caller, factory) = match found {
        Ok(found) => found,
        Err(refusal) => {
            if matches!(refusal, Refusal::RecordMissing { .. }) {
                call.reason = Some(UNKNOWN.into());
            }
            return Err(refusal);
        }
    };
    if let Some(deed) = call.deeds.first_mut() {
        deed.subject = vec![("resource".into(), factory.to_string())];
    }
    let id = call.command_id(&digest.0)?;
    let command = Command::RevokeHostFactoryToken { digest };
    match call.propose(id, Actor::Role(caller), command).await? {
        Ok(_done) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(Rejection::Invalid(_)) => {
            call.reason = Some(UNKNOWN.into());
            Err(missing())
        }
        Err(rejection) => Err(rejection.into()),
    }
}
