//! `GET /public_keys/{account}/{kind}/{id}`: the SSH public keys of a user, a line each. Anybody may
//! ask, and who asks for nobody's keys gets none, in the same form.

use conclave_domain::id::{Kind, ResourceId};
use conclave_domain::records::Sealed;

use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::routes::secrets::sealed_value;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let asked = call.id()?;
    let user = call.user();
    let user = if user.is_empty() { "somebody".to_owned() } else { user };
    call.deed(
        "public-keys",
        "fetch",
        vec![("resource".into(), asked.to_string())],
        format!("{user} fetched public keys of {asked}"),
        format!("{user} tried to fetch public keys of {asked}"),
    );
    call.barrier().await?;
    let prefix = format!("{}/{}/", asked.kind(), asked.identifier());
    let found: Vec<(ResourceId, Sealed)> = call.open_view(|view| {
        let below = view.state.resources_below(asked.account(), &prefix);
        let keys = below.filter(|(id, _)| id.kind() == Kind::PublicKey);
        keys.filter_map(|(id, _)| {
            let value = sealed_value(view, id, None).transpose()?;
            Some(value.map(|value| (id.clone(), value)))
        })
        .collect()
    })?;
    let mut lines = Vec::with_capacity(found.len());
    if !found.is_empty() {
        let vault = call.door.vault()?;
        for (id, sealed) in found {
            let value = vault
                .open(&id, &sealed)
                .map_err(|fault| Refusal::Fault(format!("value of {id}: {fault}")))?;
            lines.push(String::from_utf8_lossy(value.expose_secret()).trim().to_owned());
        }
    }
    Ok(Answer::text(lines.join("\n") + "\n"))
}
