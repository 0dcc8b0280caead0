//! `POST /secrets/{account}/variable/{id}?expirations`: makes a value due for rotation.

use conclave_domain::command::{Actor, Command};
use conclave_domain::id::Kind;
use http::StatusCode;

use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let resource = call.id()?;
    let user = call.user();
    let (did, tried) =
        (format!("{user} updated {resource}"), format!("{user} tried to update {resource}"));
    call.deed("update", "update", vec![("resource".into(), resource.to_string())], did, tried);
    if resource.kind() != Kind::Variable {
        return Err(Refusal::Unprocessable("Invalid secret kind".to_owned()));
    }
    let permit = call
        .check_write(|view, caller| authz::require(view.state, &caller.role, "update", &resource))
        .await?;
    let id = call.command_id(&[0; 32])?;
    let actor = Actor::Role(permit.role().clone());
    call.propose(id, actor, Command::ExpireSecret { resource }).await??;
    Ok(Answer::empty(StatusCode::CREATED))
}
