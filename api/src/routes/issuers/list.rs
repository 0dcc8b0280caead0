//! `GET /issuers/{account}[?sort=field]`: all issuers, for those who administer them.

use conclave_domain::rbac;
use conclave_domain::records::IssuerKey;
use serde_json::json;

use super::{FORBIDDEN, bad, describe, document, governing};
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    let all = IssuerKey { account: account.clone(), issuer: "*".to_owned() };
    describe(call, "list", &all, "listed", "list");
    let sort = call.query.filled("sort").map(str::to_owned);
    let vault = call.door.vault()?;
    let mut found = call
        .view(|view, caller| {
            let base = governing(view.state, &account)?;
            if !rbac::is_allowed(view.state, &caller.role, "update", &base) {
                return Err(FORBIDDEN);
            }
            let issuers = view.state.issuers(&account);
            issuers.map(|(key, one)| document(&vault, key, one)).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    match sort.as_deref() {
        None | Some("id") => {}
        Some(field @ ("account" | "type" | "max_ttl" | "created_at" | "modified_at")) => {
            found.sort_by_cached_key(|one| {
                (one[field].as_u64(), one[field].as_str().map(str::to_owned))
            });
        }
        Some(field) => return Err(bad(format!("invalid sort parameter: {field}"))),
    }
    Ok(Answer::json(&json!({"issuers": found})))
}
