//! `PUT` and `GET /authn/{account}/api_key`: a role's new API key, and the age of the one it has.

use conclave_domain::command::{Actor, Command, Proof};
use conclave_domain::id::{Id, RoleId};
use conclave_domain::rbac;
use conclave_domain::records::Digest;
use conclave_domain::state::State;
use serde_json::json;
use zeroize::Zeroizing;

use super::password::TOO_WEAK_A_PROOF;
use super::{attempted, prove_basic};
use crate::audit::Deed;
use crate::authn::{UNKNOWN, basic_credentials};
use crate::context::{Answer, Call, wiped_bytes};
use crate::credentials::{new_api_key, seal_api_key};
use crate::error::Refusal;
use crate::wire::time;

/// Who may touch whose key, and by what proof.
struct Entitled {
    caller: RoleId,
    target: RoleId,
    proof: Proof,
}

pub(crate) async fn rotate(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "rotate", "rotated", "rotate");
    let entitled = entitle(call).await?;
    describe(call, &entitled, "rotated", "rotate");
    let door = call.door.clone();
    let vault = door.vault()?;
    let fresh = new_api_key()?;
    let key = seal_api_key(&vault, &entitled.target, &fresh)?;
    let id = call.command_id(&[0; 32])?;
    let command =
        Command::RotateApiKey { role: entitled.target.clone(), key, proof: entitled.proof };
    call.propose(id, Actor::Role(entitled.caller), command).await??;
    let key = call.key_in_force(&vault, &entitled.target, fresh).await?;
    Ok(Answer::text(wiped_bytes(Zeroizing::new(key.as_bytes().to_vec()))))
}

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    begin(call, "show", "fetched the age of", "fetch the age of");
    let entitled = entitle(call).await?;
    describe(call, &entitled, "fetched the age of", "fetch the age of");
    let rotated_at = call.open_view(|view| {
        Ok(view.state.credential(&entitled.target).map(|credential| credential.rotated_at))
    })?;
    let timestamp = rotated_at.map_or_else(String::new, time::whole_seconds);
    Ok(Answer::json(&json!({"role": entitled.target.to_string(), "timestamp": timestamp})))
}

/// Puts the record in place before anything is decided, with what is known then.
fn begin(call: &mut Call, operation: &'static str, did: &str, tried: &str) {
    let account = call.params.account.clone();
    let who = match (basic_credentials(call), &call.principal) {
        (Some((login, _)), _) => attempted(account.as_ref(), &login),
        (None, Some(caller)) => caller.role_text.clone(),
        (None, None) => UNKNOWN.to_owned(),
    };
    let subject = match call.query.filled("role") {
        Some(named) => Id::parse(named, account.as_ref())
            .map_or_else(|_no_id| named.to_owned(), |role| role.to_string()),
        None => who.clone(),
    };
    call.deeds.push(Deed {
        message_id: "api-key",
        operation: operation.into(),
        user: Some(who.clone()),
        subject: vec![("role".into(), subject.clone())],
        did: format!("{who} successfully {did} the api key for {subject}"),
        tried: format!("{who} failed to {tried} the api key for {subject}"),
        ..Deed::default()
    });
}

fn describe(call: &mut Call, entitled: &Entitled, did: &str, tried: &str) {
    let Some(deed) = call.deeds.first_mut() else { return };
    let whose = if entitled.caller == entitled.target {
        "their API key".to_owned()
    } else {
        format!("the api key for {}", entitled.target)
    };
    deed.user = Some(entitled.caller.to_string());
    deed.subject = vec![("role".into(), entitled.target.to_string())];
    deed.did = format!("{} successfully {did} {whose}", entitled.caller);
    deed.tried = format!("{} failed to {tried} {whose}", entitled.caller);
}

/// Decides by the table in the contract's section on API keys.
async fn entitle(call: &mut Call) -> Result<Entitled, Refusal> {
    let account = call.account()?.clone();
    let (caller, proven) = if let Some(caller) = &call.principal {
        (caller.role.clone(), None)
    } else {
        let proven = prove_basic(call, &account).await?;
        (proven.role, Some(proven.digest))
    };
    let named = call.query.filled("role").map(str::to_owned);
    let target = match &named {
        None => caller.clone(),
        Some(text) => match Id::parse(text, Some(&account)) {
            Ok(id) => id,
            Err(error @ conclave_domain::id::IdError::TooFewTokens(_)) => return Err(error.into()),
            Err(_names_nothing) => return Err(Refusal::credential_missing(text, &caller)),
        },
    };
    call.barrier().await?;
    if proven.is_some() {
        call.open_view(|view| judge(view.state, &caller, &target, proven.as_ref()))?;
    } else {
        call.local_view(|view, _| judge(view.state, &caller, &target, None))?;
    }
    let proof = proven.map_or(Proof::Token, Proof::Credentials);
    Ok(Entitled { caller, target, proof })
}

fn judge(
    state: &State,
    caller: &RoleId,
    target: &RoleId,
    proven: Option<&Digest>,
) -> Result<(), Refusal> {
    let missing = || Refusal::credential_missing(&target.to_string(), caller);
    // Looked up first, whatever the proof.
    if state.role(target).is_none() {
        return Err(missing());
    }
    match (proven, caller == target) {
        (Some(_), true) => return Ok(()),
        (Some(_), false) => return Err(Refusal::UNAUTHENTICATED),
        (None, true) => return Err(Refusal::Unauthorized(TOO_WEAK_A_PROOF)),
        (None, false) => {}
    }
    if !rbac::is_visible(state, caller, target) {
        return Err(missing());
    }
    if !rbac::is_allowed(state, caller, "update", target) {
        return Err(Refusal::FORBIDDEN);
    }
    if target.kind().has_credentials() {
        return Ok(());
    }
    if rbac::is_allowed(state, caller, "read", target) {
        return Err(Refusal::FORBIDDEN);
    }
    Err(Refusal::MethodNotAllowed(format!(
        "CONJ00126E Role '{target}' is not applicable for key rotation"
    )))
}
