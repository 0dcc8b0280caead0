//! `GET /authenticators`: which are built in, which have a webservice, which are in force.

use std::collections::BTreeSet;

use conclave_domain::id::Kind;
use serde_json::json;

use crate::authn::DEFAULT;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::ports::View;

pub(crate) async fn list(call: &mut Call) -> Result<Answer, Refusal> {
    let door = call.door.clone();
    let registry = &door.registry;
    let (configured, enabled) =
        call.open_view(|view| Ok((configured(view), registry.enabled(view.state))))?;
    Ok(Answer::json(&json!({
        "installed": registry.installed(),
        "configured": configured,
        "enabled": enabled,
    })))
}

/// `authn`, and every `conjur/authn-x[/service]` that is a webservice, whatever its account.
pub(crate) fn configured(view: &View<'_>) -> BTreeSet<String> {
    let services = view.state.resources(None, Some(Kind::Webservice)).filter_map(|(id, _)| {
        let name = id.identifier().strip_prefix("conjur/")?;
        let parts = name.split('/').count();
        (name.starts_with("authn-") && parts <= 2 && !name.ends_with("/status"))
            .then(|| name.to_owned())
    });
    services.chain([DEFAULT.to_owned()]).collect()
}
