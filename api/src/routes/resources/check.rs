//! `GET /resources/{account}/{kind}/{id}?check&privilege=P[&role=R]`: 204 for yes, 404 for no.

use conclave_domain::rbac;
use http::StatusCode;

use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let resource = call.id()?;
    let user = call.user();
    let privilege = call.query.filled("privilege").unwrap_or_default().to_owned();
    let asked = call.query.filled("role").map(str::to_owned);
    let whose = asked.as_deref().filter(|role| *role != user);
    let who = whose.unwrap_or("they");
    call.deed(
        "check",
        "check",
        vec![
            ("resource".into(), resource.to_string()),
            ("role".into(), whose.unwrap_or(&user).to_owned()),
            ("privilege".into(), privilege.clone()),
        ],
        // With a space at its end: collectors match the text as Conjur writes it.
        format!("{user} successfully checked if {who} can {privilege} {resource} "),
        format!("{user} failed to check if {who} can {privilege} {resource}"),
    );
    if privilege.is_empty() {
        return Err(Refusal::Argument("privilege".to_owned()));
    }
    let allowed = call
        .view(|view, caller| {
            let role = authz::assumed(view.state, &caller.role, asked.as_deref())?;
            authz::require_visible(view.state, &caller.role, &resource)?;
            Ok(rbac::is_allowed(view.state, &role, &privilege, &resource))
        })
        .await?;
    if allowed {
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    } else {
        // No is an answer and a refusal at once: it is recorded as a failure.
        call.reason = Some("".into());
        Err(Refusal::Empty(StatusCode::NOT_FOUND))
    }
}
