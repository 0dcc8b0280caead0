//! `GET /resources/{account}/{kind}/{id}`: one resource.

use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::{documents, json};

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let resource = call.id()?;
    let user = call.user();
    call.deed(
        "resource",
        "get",
        vec![("resource".into(), resource.to_string())],
        format!("{user} successfully fetched resource details."),
        format!("{user} failed to fetch resource details"),
    );
    let body = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &resource)?;
            documents::resource(view.state, &resource)
                .map(|document| json::to_vec(&document))
                .ok_or_else(|| Refusal::missing(&resource))
        })
        .await?;
    Ok(Answer::json_bytes(body))
}
