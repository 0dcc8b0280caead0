//! `GET /metrics`: the process's metrics as Prometheus text.

use http::header::HeaderValue;

use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let door = call.door.clone();
    let Some(render) = door.metrics_text.as_ref().filter(|_| door.settings().metrics) else {
        return Err(Refusal::UNROUTED);
    };
    let chain = door.state.read(|view| view.state.audit_head().last);
    door.meters.sample(&door.spool.status(), chain, &door.proposer.status());
    let mut answer = Answer::text(render());
    answer.content_type = Some(HeaderValue::from_static("text/plain; version=0.0.4"));
    Ok(answer)
}
