//! `/accounts`: tenants. Who may is decided on the resource that stands for all of them, in the account
//! `!`; nobody learns more than that he may not.

use conclave_domain::id::RoleId;
use conclave_domain::rbac;
use conclave_domain::state::State;

use crate::context::Call;
use crate::error::Refusal;

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;

/// Allows, or refuses without a word.
fn require(state: &State, role: &RoleId, privilege: &str) -> Result<(), Refusal> {
    let may = rbac::is_allowed(state, role, privilege, &rbac::accounts_resource());
    if may { Ok(()) } else { Err(Refusal::FORBIDDEN) }
}

/// Says what is about to be decided.
fn describe(call: &mut Call, operation: &'static str, account: Option<&str>) {
    let user = call.user();
    let subject = account.map(|account| ("account".into(), account.to_owned()));
    let (did, verb) = match operation {
        "list" => ("listed", "list"),
        "add" => ("added", "add"),
        _ => ("removed", "remove"),
    };
    let what = account.map_or_else(|| "accounts".to_owned(), |name| format!("account {name}"));
    call.deed(
        "account",
        operation,
        subject.into_iter().collect(),
        format!("{user} {did} {what}"),
        format!("{user} tried to {verb} {what}"),
    );
}
