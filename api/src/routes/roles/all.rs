//! `GET /roles/{account}/{kind}/{id}?all`: every role that this one holds, itself included.

use conclave_domain::rbac;
use serde_json::json;

use super::{describe, filter};
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::documents;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let role = describe(call, "memberships", "list")?;
    let filter = filter(call, &role);
    let mut roles = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            Ok(rbac::closure(view.state, &role))
        })
        .await?;
    if let Some(filter) = filter {
        roles.retain(|role| filter.contains(role));
    }
    Ok(if call.query.has("count") {
        Answer::json(&json!({"count": roles.len()}))
    } else {
        Answer::json(&documents::ids(&roles))
    })
}
