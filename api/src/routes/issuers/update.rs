//! `PATCH /issuers/{account}/{id}`: other credentials, or a longer life for what they issue.

use conclave_domain::event::Event;
use conclave_domain::rbac;

use super::checks::take;
use super::{FORBIDDEN, bad, describe, document, named, not_found, policy, seal};
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::routes::v2::{Planned, commit};

pub(crate) async fn update(call: &mut Call) -> Result<Answer, Refusal> {
    let key = named(call)?;
    describe(call, "update", &key, "updated", "update");
    let base = policy(&key.account, None)?;
    call.check_write(|view, caller| {
        let may = rbac::is_allowed(view.state, &caller.role, "update", &base);
        if may { Ok(()) } else { Err(FORBIDDEN) }
    })
    .await?;
    let (asked, digest) = take(call, &["max_ttl", "data"]).await?;
    let vault = call.door.vault()?;
    let sealed = asked.data.map(|data| seal(&vault, &key, &data)).transpose()?;
    commit(call, &key.account.clone(), &digest, |view, caller| {
        if !rbac::is_allowed(view.state, &caller.role, "update", &base) {
            return Err(FORBIDDEN);
        }
        let before = view.state.issuer(&key).ok_or_else(|| not_found(&key))?;
        let max_ttl = asked.max_ttl.unwrap_or(before.max_ttl);
        if max_ttl < before.max_ttl {
            return Err(bad("The new max_ttl must be equal or higher than the current max_ttl"));
        }
        let setting = Event::IssuerSet {
            key: key.clone(),
            kind: before.kind.clone(),
            max_ttl,
            data: sealed.clone(),
        };
        let is_same = sealed.is_none() && max_ttl == before.max_ttl;
        let changes = if is_same { Vec::new() } else { vec![setting] };
        Ok(Planned::new("update", &base, changes))
    })
    .await?;
    let made = call.open_view(|view| {
        let made = view.state.issuer(&key).ok_or_else(|| not_found(&key))?;
        document(&vault, &key, made)
    })?;
    Ok(Answer::json(&made))
}
