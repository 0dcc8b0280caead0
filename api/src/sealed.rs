//! The door of a node that is sealed: it has no master key, so it has no state to answer from. It says
//! so, to everybody, and why.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::error::{JSON, Refusal};

/// Why a node is sealed, in words for strangers; it may change.
pub type SealedReason = Arc<ArcSwap<String>>;

/// The router of a sealed node: the checks of load balancers say no, all else is 503 with the reason.
pub fn sealed_router(reason: &SealedReason) -> Router {
    let no = |status: StatusCode, document: fn(&str) -> Value| {
        let reason = reason.clone();
        get(move || {
            let answer = answer(status, &document(&reason.load()));
            async move { answer }
        })
    };
    let everything_else = reason.clone();
    Router::new()
        .route("/health", no(StatusCode::BAD_GATEWAY, health))
        .route("/health/live", no(StatusCode::OK, |_| json!({"alive": true})))
        .route(
            "/health/ready",
            no(StatusCode::SERVICE_UNAVAILABLE, |reason| json!({"ready": false, "reason": reason})),
        )
        .route("/health/leader", no(StatusCode::SERVICE_UNAVAILABLE, |_| json!({"leader": false})))
        .fallback(move || {
            let refusal = Refusal::unavailable(everything_else.load().to_string());
            async move { refusal.into_response() }
        })
}

/// As an open node's `/health` is, with what a sealed one knows.
fn health(reason: &str) -> Value {
    json!({
        "ok": false,
        "alive": true,
        "ready": false,
        "degraded": false,
        "sealed": true,
        "role": "sealed",
        "services": {"possum": "sealed", "ok": false},
        "database": {"ok": false, "connect": {"main": "sealed"}},
        "cluster": {"ok": false, "status": "starting", "message": reason},
    })
}

fn answer(status: StatusCode, document: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let word = if status == StatusCode::OK { "OK" } else { "NOT OK" };
    headers.insert(HeaderName::from_static("conjur-health"), HeaderValue::from_static(word));
    response
}
