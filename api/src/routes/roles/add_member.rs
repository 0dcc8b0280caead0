//! `POST /roles/{account}/{kind}/{id}?members&member=F`: grants a role outside any policy.

use conclave_domain::command::{Actor, Command};
use conclave_domain::rbac;
use conclave_domain::records::MembershipKey;
use http::StatusCode;

use super::{describe_change, member};
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let role = call.id()?;
    describe_change(call, &role, "add");
    let member = member(call, &role)?;
    let (caller, present) = call
        .check_write(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            let policy = rbac::governing_policy(view.state, &role);
            let policy = policy.ok_or_else(|| Refusal::missing(&role))?;
            if !rbac::is_allowed(view.state, &caller.role, "create", &policy) {
                return Err(Refusal::FORBIDDEN);
            }
            if view.state.role(&member).is_none() {
                return Err(Refusal::missing(&member));
            }
            let key =
                MembershipKey { role: role.clone(), member: member.clone(), ownership: false };
            Ok((caller.role.clone(), view.state.membership(&key).is_some()))
        })
        .await?;
    let id = call.command_id(&[0; 32])?;
    call.propose(id, Actor::Role(caller), Command::AddMember { role, member }).await??;
    if present {
        // Nothing changed, and Conjur records changes only; the decision is recorded all the same.
        for deed in &mut call.deeds {
            deed.did.push_str(" (there already)");
        }
    }
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
