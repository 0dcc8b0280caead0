//! `DELETE /roles/{account}/{kind}/{id}?members&member=F`: takes a role away outside any policy.

use conclave_domain::command::{Actor, Command};
use conclave_domain::rbac;
use conclave_domain::records::MembershipKey;
use http::StatusCode;

use super::{describe_change, member};
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn delete(call: &mut Call) -> Result<Answer, Refusal> {
    let role = call.id()?;
    describe_change(call, &role, "remove");
    let member = member(call, &role)?;
    let caller = call
        .check_write(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            let policy = rbac::governing_policy(view.state, &role);
            let policy = policy.ok_or_else(|| Refusal::missing(&role))?;
            if !rbac::is_allowed(view.state, &caller.role, "update", &policy) {
                return Err(Refusal::FORBIDDEN);
            }
            let key =
                MembershipKey { role: role.clone(), member: member.clone(), ownership: false };
            match view.state.membership(&key) {
                Some(_) => Ok(caller.role.clone()),
                None => Err(Refusal::missing(&member)),
            }
        })
        .await?;
    let id = call.command_id(&[0; 32])?;
    call.propose(id, Actor::Role(caller), Command::RemoveMember { role, member }).await??;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
