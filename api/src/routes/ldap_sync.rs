//! `/ldap-sync…`: what a profile would do (`execute`), doing it (`update`), and what it has done
//! (`read`), each a privilege on the profile's webservice.

use std::fmt::Write as _;

use conclave_domain::id::ResourceId;
use conclave_domain::rbac;
use http::StatusCode;
use http::header::{ACCEPT, HeaderValue};
use serde_json::json;

use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::ldap_sync::{self, Order};
use crate::wire::json as wire;
use crate::wire::time::milliseconds;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

fn webservice(call: &Call) -> Result<ResourceId, Refusal> {
    let name = call.params.name.as_deref().unwrap_or_default();
    ldap_sync::webservice(call.account()?, name).ok_or(Refusal::UNROUTED)
}

fn deed(call: &mut Call, operation: &'static str, webservice: &ResourceId) {
    let (user, subject) = (call.user(), vec![("resource".into(), webservice.to_string())]);
    let did = format!("{user} looked at what {webservice} would do");
    let tried = format!("{user} tried to look at what {webservice} would do");
    call.deed("ldap-sync", operation, subject, did, tried);
}

/// `GET /ldap-sync/{account}/{profile}`.
pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let webservice = webservice(call)?;
    deed(call, "show", &webservice);
    let _permit = call
        .view(|view, caller| authz::require(view.state, &caller.role, "execute", &webservice))
        .await?;
    let door = call.door.clone();
    let draft = ldap_sync::look(&door, &webservice, call.deadline).await;
    let draft = draft.map_err(|failure| failure.refusal(&webservice))?;
    Ok(Answer::json(&draft.document()))
}

/// `POST /ldap-sync/{account}/{profile}[?force=true]`.
pub(crate) async fn apply(call: &mut Call) -> Result<Answer, Refusal> {
    let webservice = webservice(call)?;
    let user = call.user();
    call.deeds.push(ldap_sync::deed(&webservice, &user));
    let _permit = call
        .check_write(|view, caller| authz::require(view.state, &caller.role, "update", &webservice))
        .await?;
    let force = call.query.value("force").is_some_and(|value| value.trim() == "true");
    let order = Order {
        webservice: webservice.clone(),
        force,
        by: user,
        client_ip: call.client_ip.to_string(),
        at: call.now,
        deadline: call.deadline,
    };
    let door = call.door.clone();
    let found = ldap_sync::ask(&door, &webservice, call.deadline).await;
    let (run, deeds, result) = ldap_sync::conclude(&door, &order, found).await;
    ldap_sync::remember(&door, &order, &run).await;
    call.deeds.extend(deeds);
    result.map_err(|failure| failure.refusal(&webservice))?;
    Ok(Answer::json(&run))
}

/// `GET /ldap-sync/{account}/{profile}/runs`.
pub(crate) async fn runs(call: &mut Call) -> Result<Answer, Refusal> {
    let webservice = webservice(call)?;
    let (user, subject) = (call.user(), vec![("resource".into(), webservice.to_string())]);
    let did = format!("{user} listed the runs of {webservice}");
    let tried = format!("{user} tried to list the runs of {webservice}");
    call.deed("ldap-sync", "list", subject, did, tried);
    let _permit = call
        .view(|view, caller| authz::require(view.state, &caller.role, "read", &webservice))
        .await?;
    let runs = ldap_sync::history(&call.door, &webservice);
    Ok(Answer::json(&runs.map_err(|failure| failure.refusal(&webservice))?))
}

/// `GET /ldap-sync/policy?config_name=PROFILE`, as clients of Conjur ask for it: a stream of events,
/// what is told on the way first, the policy or the error last. The status says nothing of how it went.
pub(crate) async fn policy(call: &mut Call) -> Result<Answer, Refusal> {
    let accepts = call.header(ACCEPT.as_str()).unwrap_or_default();
    let media =
        |part: &str| part.split(';').next().unwrap_or_default().trim() == "text/event-stream";
    if !accepts.split(',').any(media) {
        return Err(Refusal::Empty(StatusCode::NOT_ACCEPTABLE));
    }
    let name = call.query.value("config_name").unwrap_or_default().to_owned();
    let account = call.caller()?.role.account().clone();
    let unknown = || Refusal::Unprocessable(format!("there is no configuration {name:?}"));
    let webservice = ldap_sync::webservice(&account, &name).ok_or_else(unknown)?;
    deed(call, "show", &webservice);
    let _permit = call
        .view(|view, caller| {
            if !rbac::is_visible(view.state, &caller.role, &webservice) {
                return Err(unknown());
            }
            authz::require(view.state, &caller.role, "execute", &webservice)
        })
        .await?;
    let door = call.door.clone();
    let mut body = String::new();
    let mut event = |document: &serde_json::Value| {
        let text = wire::to_vec(document);
        // Writing to a string does not fail.
        let _written = write!(body, "data: {}\n\n", String::from_utf8_lossy(&text));
    };
    let log = |severity: &str, message: &str| {
        let timestamp = milliseconds(door.clock.now());
        json!({"timestamp": timestamp, "severity": severity, "message": message})
    };
    event(&log("info", &format!("asking the directory of {webservice}")));
    match ldap_sync::look(&door, &webservice, call.deadline).await {
        Ok(draft) => {
            for skipped in draft.skipped() {
                event(&log("warn", &format!("{}: {}", skipped.what, skipped.reason)));
            }
            event(&log("info", &draft.summary()));
            event(&json!({"ok": true, "policy": draft.policy()}));
        }
        Err(failure) => {
            let refusal = failure.refusal(&webservice);
            let message = refusal.reason().into_owned();
            event(&log("error", &message));
            event(&json!({"ok": false, "error": {"message": message}}));
        }
    }
    Ok(Answer { content_type: Some(EVENTS), ..Answer::text(body) })
}
