//! `DELETE /accounts/{account}`: an account with all that is in it.

use conclave_domain::command::{Actor, Command};
use conclave_domain::outcome::Rejection;
use http::StatusCode;

use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    let account = call.account()?.clone();
    super::describe(call, "remove", Some(account.as_str()));
    let missing = || Refusal::AccountMissing { account: account.to_string() };
    call.check_write(|view, caller| {
        super::require(view.state, &caller.role, "update")?;
        match view.state.account(&account) {
            Some(_) if !account.is_internal() => Ok(()),
            _ => Err(missing()),
        }
    })
    .await?;
    let id = call.command_id(&[0; 32])?;
    let actor = Actor::Role(call.caller()?.role.clone());
    let command = Command::DeleteAccount { account: account.clone() };
    match call.propose(id, actor, command).await? {
        Ok(_done) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(Rejection::NotFound { .. }) => Err(missing()),
        Err(rejection) => Err(rejection.into()),
    }
}
