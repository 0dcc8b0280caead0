//! `GET /roles/{account}/{kind}/{id}?memberships`: the roles granted to this one, directly.

use serde_json::json;

use super::{describe, filter};
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::documents::MembershipDocument;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let role = describe(call, "memberships", "list")?;
    // As in Conjur it is the member that is looked for, who is always the role itself.
    let is_asked_for = filter(call, &role).is_none_or(|filter| filter.contains(&role));
    let mut rows = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            Ok(view.state.memberships(&role))
        })
        .await?;
    if !is_asked_for {
        rows.clear();
    }
    Ok(if call.query.has("count") {
        Answer::json(&json!({"count": rows.len()}))
    } else {
        Answer::json(&rows.into_iter().map(MembershipDocument::from).collect::<Vec<_>>())
    })
}
