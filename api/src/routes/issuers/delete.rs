//! `DELETE /issuers/{account}/{id}[?keep_secrets=true]`: an issuer goes, with the policies by which its
//! use was granted, and with the variables that it filled unless they are to be kept.

use conclave_domain::event::Event;
use conclave_domain::policy::dynamic;
use conclave_domain::rbac;
use http::StatusCode;

use super::{FORBIDDEN, bound, describe, named, not_found, policy};
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::routes::v2::{Planned, commit};

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    let key = named(call)?;
    describe(call, "remove", &key, "removed", "remove");
    let keep = call.query.value("keep_secrets") == Some("true");
    let base = policy(&key.account, None)?;
    let own = policy(&key.account, Some(&key.issuer))?;
    commit(call, &key.account.clone(), &[0; 32], |view, caller| {
        let state = view.state;
        if !rbac::is_allowed(state, &caller.role, "update", &base) {
            return Err(FORBIDDEN);
        }
        if state.issuer(&key).is_none() {
            return Err(not_found(&key));
        }
        let mut changes = vec![Event::IssuerRemoved { key: key.clone() }];
        if state.resource(&own).is_some() {
            changes.push(Event::ResourceRemoved { resource: own.clone() });
        }
        if !keep {
            let filled =
                bound(state, &key).filter(|id| id.identifier().starts_with(dynamic::BELOW));
            changes.extend(filled.map(|id| Event::ResourceRemoved { resource: id.clone() }));
        }
        Ok(Planned::new("update", &base, changes))
    })
    .await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
