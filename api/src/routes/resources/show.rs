//! `GET /resources/{account}/{kind}/{id}`: one resource.

use conclave_domain::id::Kind;
use conclave_domain::rbac;
use zeroize::Zeroizing;

use crate::authz;
use crate::context::{Answer, Call, wiped_bytes};
use crate::error::Refusal;
use crate::routes::host_factories;
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
    let (now, vault) = (call.now, call.door.vault().ok());
    let body = call
        .view(|view, caller| {
            let state = view.state;
            authz::require_visible(state, &caller.role, &resource)?;
            let mut document = documents::resource(state, &resource, now)
                .ok_or_else(|| Refusal::missing(&resource))?;
            // A live token lets anybody in, so to see the factory is not enough to see it.
            let is_entitled =
                |privilege| rbac::is_allowed(state, &caller.role, privilege, &resource);
            if resource.kind() == Kind::HostFactory
                && let Some(vault) =
                    vault.filter(|_| is_entitled("update") || is_entitled("execute"))
            {
                document.show_tokens(|digest| host_factories::open(&vault, state, digest));
            }
            Ok(Zeroizing::new(json::to_vec(&document)))
        })
        .await?;
    Ok(Answer::json_bytes(wiped_bytes(body)))
}
