//! `GET /issuers/{account}/{id}[?projection=minimal]`: one issuer, its secret masked.

use conclave_domain::rbac;
use serde_json::json;

use super::{describe, document, named, not_found, policy};
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let key = named(call)?;
    let minimal = match call.query.value("projection").map(str::to_owned).as_deref() {
        None => false,
        Some("minimal") => true,
        Some(other) => {
            describe(call, "fetch", &key, "fetched", "fetch");
            let text = format!("Invalid value for parameter 'projection': {other}");
            return Err(Refusal::Unprocessable(text));
        }
    };
    let operation = if minimal { "fetch minimum" } else { "fetch" };
    describe(call, operation, &key, "fetched", "fetch");
    let own = policy(&key.account, Some(&key.issuer))?;
    let vault = call.door.vault()?;
    let found = call
        .view(|view, caller| {
            // What may not be read is answered like what is not there.
            let may = rbac::is_allowed(view.state, &caller.role, "read", &own);
            let issuer = view.state.issuer(&key).filter(|_| may).ok_or_else(|| not_found(&key))?;
            if minimal {
                Ok(json!({"max_ttl": issuer.max_ttl}))
            } else {
                document(&vault, &key, issuer)
            }
        })
        .await?;
    Ok(Answer::json(&found))
}
