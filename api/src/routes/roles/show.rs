//! `GET /roles/{account}/{kind}/{id}`: one role with its members.

use super::describe;
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::{documents, json};

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let role = describe(call, "role", "get")?;
    let body = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            documents::role(view.state, &role)
                .map(|document| json::to_vec(&document))
                .ok_or_else(|| Refusal::missing(&role))
        })
        .await?;
    Ok(Answer::json_bytes(body))
}
