//! `GET /openapi.json`: what this interface takes and answers, for tools. It is the same for
//! everybody and names nothing of this cluster.

use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::openapi;

pub(crate) async fn show(_call: &mut Call) -> Result<Answer, Refusal> {
    Ok(Answer::json_bytes(openapi::text()))
}
