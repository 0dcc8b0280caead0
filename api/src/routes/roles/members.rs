//! `GET /roles/{account}/{kind}/{id}?members`: who this role is granted to, directly.

use conclave_domain::id::Kind;
use conclave_domain::records::{Membership, MembershipKey};
use serde_json::json;

use super::describe;
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::documents::MembershipDocument;

/// The limit when there is an offset and no limit.
const LIMIT_WITH_OFFSET: usize = 10;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let role = describe(call, "members", "list")?;
    let number = |name: &'static str| match call.query.filled(name) {
        None => Ok(None),
        Some(text) => text.trim().parse::<usize>().map(Some).map_err(|_not_a_number| {
            Refusal::Argument(format!("'{name}' contains an invalid value."))
        }),
    };
    let (limit, offset) = (number("limit")?, number("offset")?);
    let limit = limit.or(offset.map(|_| LIMIT_WITH_OFFSET)).unwrap_or(usize::MAX);
    let kinds: Vec<String> = call.query.values("kind").map(str::to_owned).collect();
    let search = call.query.filled("search").map(str::to_lowercase);
    let mut rows = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            Ok(view.state.members(&role))
        })
        .await?;
    rows.retain(|(key, _): &(MembershipKey, Membership)| {
        let of_kind = |kind: &String| kind.parse::<Kind>() == Ok(key.member.kind());
        let found = |search: &String| key.member.identifier().to_lowercase().contains(search);
        (kinds.is_empty() || kinds.iter().any(of_kind)) && search.as_ref().is_none_or(found)
    });
    if call.query.has("count") {
        return Ok(Answer::json(&json!({"count": rows.len()})));
    }
    let rows = rows.into_iter().skip(offset.unwrap_or(0)).take(limit);
    Ok(Answer::json(&rows.map(MembershipDocument::from).collect::<Vec<_>>()))
}
