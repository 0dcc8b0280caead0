//! `POST /accounts`: a new account, held by who creates it. Its administrator's API key is told once.

use std::sync::Arc;

use conclave_domain::command::Actor;
use conclave_domain::id::AccountName;
use http::StatusCode;
use zeroize::Zeroizing;

use crate::context::{Answer, Call, wiped_bytes};
use crate::credentials::{CredentialError, new_account};
use crate::error::Refusal;
use crate::token::sha256;
use crate::wire::json;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    super::describe(call, "add", None);
    call.check_write(|view, caller| super::require(view.state, &caller.role, "execute")).await?;
    let parameters = call.take_params().await?;
    let text = parameters.filled("id").ok_or(Refusal::ParameterMissing { name: "id" })?;
    let account = name(text)?;
    call.deeds.clear();
    super::describe(call, "add", Some(text));
    // A key is made only where it is wanted.
    call.check_write(|view, caller| {
        super::require(view.state, &caller.role, "execute")?;
        match view.state.account(&account) {
            None if !account.is_internal() => Ok(()),
            _ => Err(Refusal::Conflict { what: "account".to_owned(), id: account.to_string() }),
        }
    })
    .await?;
    let vault: Arc<_> = call.door.vault()?;
    let id = call.command_id(&sha256(text.as_bytes()))?;
    let making = account.clone();
    let made: Result<_, CredentialError> =
        tokio::task::spawn_blocking(move || new_account(&vault, &making))
            .await
            .map_err(|error| Refusal::Fault(format!("making an account: {error}")))?;
    let (command, key) = made?;
    let actor = Actor::Role(call.caller()?.role.clone());
    call.propose(id, actor, command).await??;
    let mut body = Zeroizing::new(Vec::with_capacity(512 + text.len() * 6));
    body.extend_from_slice(b"{\"id\":");
    json::write(&mut body, &text);
    body.extend_from_slice(b",\"api_key\":");
    json::write(&mut body, &key.as_str());
    body.push(b'}');
    Ok(Answer::json_bytes(wiped_bytes(body)).status(StatusCode::CREATED))
}

/// Checks a name, with the texts that clients know.
fn name(text: &str) -> Result<AccountName, Refusal> {
    let foreign: String = text.chars().filter(|c| *c == ':' || c.is_whitespace()).collect();
    if !foreign.is_empty() {
        return Err(Refusal::Argument(format!(
            "account name {text:?} contains invalid characters ({foreign})"
        )));
    }
    AccountName::new(text)
        .map_err(|_not_a_name| Refusal::Argument(format!("Invalid account: {text}")))
}
