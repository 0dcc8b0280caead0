//! `POST /accounts`: a new account, held by who creates it. Its administrator's API key is told once.

use std::sync::Arc;

use conclave_domain::command::Actor;
use conclave_domain::id::{AccountName, RoleId};
use conclave_domain::rbac::admin_role;
use http::StatusCode;
use zeroize::Zeroizing;

use crate::context::{Answer, Call, wiped_bytes};
use crate::credentials::{CredentialError, new_account};
use crate::error::Refusal;
use crate::ports::Vault;
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
    let vault: Arc<_> = call.door.vault()?;
    let admin = admin_role(&account);
    let id = call.command_id(&sha256(text.as_bytes()))?;
    if let Some(Ok(_made)) = call.answered_before(&id)?
        && let Some(key) = first_key(call, &vault, &admin)?
    {
        return Ok(answer(text, &key));
    }
    // A key is made only where it is wanted.
    call.check_write(|view, caller| {
        super::require(view.state, &caller.role, "execute")?;
        match view.state.account(&account) {
            None if !account.is_internal() => Ok(()),
            _ => Err(Refusal::Conflict { what: "account".to_owned(), id: account.to_string() }),
        }
    })
    .await?;
    let (making, sealing) = (account.clone(), vault.clone());
    let made: Result<_, CredentialError> =
        tokio::task::spawn_blocking(move || new_account(&sealing, &making))
            .await
            .map_err(|error| Refusal::Fault(format!("making an account: {error}")))?;
    let (command, key) = made?;
    let actor = Actor::Role(call.caller()?.role.clone());
    call.propose(id, actor, command).await??;
    let key = call.key_in_force(&vault, &admin, key).await?;
    Ok(answer(text, &key))
}

/// The key that the administrator of the caller's account began with, while it is in force.
fn first_key(
    call: &mut Call,
    vault: &Vault,
    admin: &RoleId,
) -> Result<Option<Zeroizing<String>>, Refusal> {
    let kept = call.local_view(|view, caller| {
        // An account of that name may be somebody else's by now.
        let resource = view.state.resource(admin);
        if resource.is_none_or(|resource| resource.owner != caller.role) {
            return Ok(None);
        }
        let account = view.state.account(admin.account());
        let kept = view.state.credential(admin);
        let is_first = |at| account.is_some_and(|account| account.created_at == at);
        Ok(kept.filter(|kept| is_first(kept.rotated_at)).map(|kept| kept.api_key.clone()))
    })?;
    let Some(sealed) = kept else { return Ok(None) };
    let opened = vault
        .open(admin, &sealed)
        .map_err(|fault| Refusal::Fault(format!("API key of {admin}: {fault}")))?;
    Ok(Some(Zeroizing::new(String::from_utf8_lossy(opened.expose_secret()).into_owned())))
}

/// The account's name with the key, wiped after it has left.
fn answer(text: &str, key: &str) -> Answer {
    let mut body = Zeroizing::new(Vec::with_capacity(512 + text.len() * 6));
    body.extend_from_slice(b"{\"id\":");
    json::write(&mut body, &text);
    body.extend_from_slice(b",\"api_key\":");
    json::write(&mut body, &key);
    body.push(b'}');
    Answer::json_bytes(wiped_bytes(body)).status(StatusCode::CREATED)
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
