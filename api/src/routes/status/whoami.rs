//! `GET /whoami`: who the token says that the caller is.

use conclave_domain::time::Timestamp;
use http::header::USER_AGENT;
use serde_json::json;

use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::time;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let user = call.user();
    call.deed(
        "identity-check",
        "check",
        vec![("role".into(), user.clone())],
        format!("{user} checked its identity using whoami"),
        format!("{user} failed to check its identity using whoami"),
    );
    let (account, subject, issued_at) = call
        .view(|_, caller| {
            Ok((caller.account.to_string(), caller.subject.clone(), caller.issued_at))
        })
        .await?;
    Ok(Answer::json(&json!({
        "client_ip": call.client_ip.to_string(),
        "user_agent": call.header(USER_AGENT.as_str()),
        "account": account,
        "username": subject,
        "token_issued_at": time::with_offset(Timestamp(issued_at.saturating_mul(1000))),
    })))
}
