//! `GET /resources/{account}/{kind}/{id}?permitted_roles&privilege=P`: who may.

use conclave_domain::rbac;

use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::documents;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let resource = call.id()?;
    let user = call.user();
    let privilege = call.query.filled("privilege").or_else(|| call.query.filled("permission"));
    let privilege = privilege.unwrap_or_default().to_owned();
    call.deed(
        "resource",
        "permitted-roles",
        vec![("resource".into(), resource.to_string()), ("privilege".into(), privilege.clone())],
        format!("{user} successfully listed roles that can {privilege} {resource}"),
        format!("{user} failed to list roles that can {privilege} {resource}"),
    );
    if privilege.is_empty() {
        return Err(Refusal::Argument("privilege".to_owned()));
    }
    let roles = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &resource)?;
            Ok(rbac::permitted_roles(view.state, &privilege, &resource))
        })
        .await?;
    Ok(Answer::json(&documents::ids(&roles)))
}
