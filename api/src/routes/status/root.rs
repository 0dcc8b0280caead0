//! `GET /`: the version, as a page for people or JSON for programs. `OPTIONS /` is polled as a sign
//! of life.

use http::StatusCode;
use http::header::{ACCEPT, ALLOW, HeaderValue};
use serde_json::json;

use crate::context::{Answer, Call};
use crate::error::Refusal;

/// The version of the API description that this interface follows.
const API_VERSION: &str = "5.3.1";

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let version = &call.door.settings().version;
    if prefers_json(call.header(ACCEPT.as_str()).unwrap_or_default()) {
        return Ok(Answer::json(&json!({"version": version})));
    }
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Conclave Status\
         </title></head>\n<body>\n<h1>Status</h1>\n<p>Your Conclave server is running!</p>\n<dl>\n\
         <dt>Details:</dt>\n<dd>Version {version}</dd>\n<dd>API Version {API_VERSION}</dd>\n</dl>\n\
         </body>\n</html>\n"
    );
    let mut answer = Answer::text(page);
    answer.content_type = Some(HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(answer)
}

pub(crate) async fn options(_call: &mut Call) -> Result<Answer, Refusal> {
    let allowed = HeaderValue::from_static("GET, HEAD, OPTIONS");
    Ok(Answer::empty(StatusCode::OK).header(ALLOW, allowed))
}

/// Whether an `Accept` header ranks JSON before anything else.
fn prefers_json(accept: &str) -> bool {
    let mut best: Option<(f32, bool)> = None;
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if best.is_none_or(|(known, _)| weight > known) {
            best = Some((weight, name.eq_ignore_ascii_case("application/json")));
        }
    }
    best.is_some_and(|(weight, is_json)| weight > 0.0 && is_json)
}

#[cfg(test)]
mod tests {
    use super::prefers_json;

    #[test]
    fn json_is_for_those_who_rank_it_first() {
        assert!(prefers_json("application/json, text/html"));
        assert!(prefers_json("text/html;q=0.5, application/json"));
        assert!(!prefers_json("text/html, application/json"));
        assert!(!prefers_json("*/*"));
        assert!(!prefers_json(""));
    }
}
