//! `GET /accounts`: their names.

use conclave_domain::id::AccountName;

use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    super::describe(call, "list", None);
    let names: Vec<String> = call
        .view(|view, caller| {
            super::require(view.state, &caller.role, "read")?;
            let names = view.state.accounts().map(|(name, _)| name);
            Ok(names.filter(|name| !name.is_internal()).map(AccountName::to_string).collect())
        })
        .await?;
    Ok(Answer::json(&names))
}
