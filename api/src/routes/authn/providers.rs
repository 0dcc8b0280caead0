//! `GET /authn-oidc/{account}/providers`: where people may log in, each with what a client needs to send
//! one there. Anybody may ask; what is set wrongly, or cannot be reached, is left out.

use conclave_domain::id::{Kind, ResourceId};
use futures::future::join_all;

use crate::authn::oidc_code::Service;
use crate::context::{Answer, Call};
use crate::error::Refusal;

/// Most providers of one account that are listed.
const PROVIDERS_MAX: usize = 64;

pub(crate) async fn list(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    call.barrier().await?;
    let door = call.door.clone();
    let found: Vec<ResourceId> = call.open_view(|view| {
        let all = view.state.resources(Some(&account), Some(Kind::Webservice)).map(|(id, _)| id);
        let ours = all.filter(|id| {
            let service = id.identifier().strip_prefix("conjur/authn-oidc/");
            service.is_some_and(|service| !service.contains('/'))
                && door.registry.is_enabled(view.state, id)
        });
        Ok(ours.take(PROVIDERS_MAX).cloned().collect())
    })?;
    let mut services = Vec::new();
    for webservice in found {
        // Those that take ID tokens only have no place in the list either.
        if let Ok(service) = Service::read(call, &webservice) {
            services.push((webservice, service));
        }
    }
    let (codes, vault, now) = (&door.registry.codes, door.vault()?, call.now);
    let asked = services
        .iter()
        .map(|(webservice, service)| codes.invitation(webservice, service, &vault, now));
    let mut providers = Vec::new();
    for invitation in join_all(asked).await {
        providers.extend(invitation?);
    }
    Ok(Answer::json(&providers))
}
