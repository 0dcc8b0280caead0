//! `PUT /authn/{account}/password`: a user's new password, proven by its old one or its API key.

use conclave_domain::command::{Actor, Command, Proof};
use conclave_domain::id::{Id, Kind};
use http::StatusCode;

use super::{attempted, prove_basic};
use crate::audit::Deed;
use crate::authn::{UNKNOWN, basic_credentials};
use crate::context::{Answer, Call};
use crate::credentials::is_strong_password;
use crate::error::Refusal;
use crate::token::sha256;

/// Largest body looked at, in bytes: 128 characters at most four bytes each, and some.
const PASSWORD_BYTES_MAX: usize = 1024;
/// What a weak password is answered.
const WEAK: &str = "CONJ00046E The password you have chosen does not meet the complexity \
     requirements. Choose a password that includes: 12-128 characters, 2 uppercase letters, \
     2 lowercase letters, 1 digit and 1 special character";
/// What a token is answered where credentials are wanted.
pub(super) const TOO_WEAK_A_PROOF: &str = "Credential strength is insufficient";

pub(crate) async fn update(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    let who = match (basic_credentials(call), &call.principal) {
        (Some((login, _)), _) => attempted(Some(&account), &login),
        (None, Some(caller)) => caller.role_text.clone(),
        (None, None) => UNKNOWN.to_owned(),
    };
    call.deeds.push(Deed {
        message_id: "password",
        operation: "change".into(),
        user: Some(who.clone()),
        subject: vec![("role".into(), who.clone())],
        did: format!("{who} successfully changed their password"),
        tried: format!("{who} failed to change their password"),
        ..Deed::default()
    });
    if let Some(caller) = &call.principal {
        let named = call.query.filled("role").map(|named| Id::parse(named, Some(&account)));
        let is_own = named.is_none_or(|named| named.as_ref() == Ok(&caller.role));
        let weak = Refusal::Unauthorized(TOO_WEAK_A_PROOF);
        return Err(if is_own { weak } else { Refusal::UNAUTHENTICATED });
    }
    let proven = prove_basic(call, &account).await?;
    if let Some(named) = call.query.filled("role") {
        let named = Id::parse(named, Some(&account));
        if named.as_ref() != Ok(&proven.role) {
            return Err(Refusal::UNAUTHENTICATED);
        }
    }
    if proven.role.kind() != Kind::User {
        return Err(Refusal::FORBIDDEN);
    }
    let weak = || Refusal::Invalid { field: "password", message: WEAK.to_owned() };
    let password = match call.take_body(PASSWORD_BYTES_MAX).await {
        Ok(password) => password,
        Err(Refusal::TooLarge { .. }) => return Err(weak()),
        Err(refusal) => return Err(refusal),
    };
    let text = std::str::from_utf8(&password).map_err(|_not_text| weak())?;
    if !is_strong_password(text) {
        return Err(weak());
    }
    let id = call.command_id(&sha256(&password))?;
    let password_hash = call.door.passwords.hash(password).await?;
    let command = Command::ChangePassword {
        role: proven.role.clone(),
        password_hash,
        proof: Proof::Credentials(proven.digest),
    };
    call.propose(id, Actor::Role(proven.role), command).await??;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
