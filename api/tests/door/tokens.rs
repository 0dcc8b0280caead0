//! Access tokens from outside: their shape, their life, and what becomes of damaged ones.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use conclave_api::ports::Part;

use super::harness::{House, header_of};

async fn envelope(house: &House, who: &str) -> Value {
    let token = house.token(who).await;
    let encoded = token.strip_prefix("Token token=\"").unwrap().trim_end_matches('"');
    serde_json::from_slice(&STANDARD.decode(encoded).unwrap()).unwrap()
}

async fn whoami(house: &House, header: &str) -> (StatusCode, String) {
    let reply = house.send(&Method::GET, "/whoami", &[("authorization", header)], "").await;
    (reply.status, reply.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_have_the_shape_that_clients_read() {
    let house = House::new();
    house.load("demo", "- !host é?~<>/x y\n").await;
    let envelope = envelope(&house, "demo/host/é?~<>/x y").await;
    assert_eq!(envelope.as_object().unwrap().len(), 3);
    let part = |name: &str| envelope[name].as_str().unwrap().to_owned();
    // The Go client reads the payload with the standard alphabet.
    assert!(!part("payload").contains(['-', '_']));
    let payload: Value =
        serde_json::from_slice(&STANDARD.decode(part("payload")).unwrap()).unwrap();
    assert_eq!(payload["sub"], "host/é?~<>/x y");
    assert_eq!(payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap(), 480);
    // The same three texts make a compact JWT.
    let compact = format!(
        "Bearer {}.{}.{}",
        part("protected"),
        part("payload"),
        part("signature").trim_end_matches('=')
    );
    assert_eq!(whoami(&house, &compact).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_negotiated_memoised_and_expire() {
    let house = House::new();
    let uri = "/authn/demo/admin/authenticate";
    let key = house.key("demo/admin");
    let headers = [("accept-encoding", "gzip, Base64")];
    let encoded = house.send(&Method::POST, uri, &headers, key.clone()).await;
    assert_eq!(encoded.header("content-encoding"), "base64");
    let plain = house.send(&Method::POST, uri, &[], key.clone()).await;
    assert_eq!(STANDARD.decode(&encoded.body).unwrap(), plain.body);
    let jwt = house.send(&Method::POST, uri, &[("accept", "application/jwt")], key).await;
    assert_eq!(jwt.header("content-type"), "application/jwt");
    assert_eq!(whoami(&house, &format!("Bearer {}", jwt.text())).await.0, StatusCode::OK);

    let header = header_of(&plain.body);
    house.clock.advance(Duration::from_secs(479));
    assert_eq!(whoami(&house, &header).await.0, StatusCode::OK);
    house.clock.advance(Duration::from_secs(1));
    let refused = (StatusCode::UNAUTHORIZED, "Unauthorized: Invalid token".to_owned());
    assert_eq!(whoami(&house, &header).await, refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damaged_token_is_refused() {
    let house = House::new();
    let good = envelope(&house, "demo/admin").await;
    let header = |value: &Value| header_of(value.to_string().as_bytes());
    assert_eq!(whoami(&house, &header(&good)).await.0, StatusCode::OK);
    // Each byte of each part, changed.
    for name in ["protected", "payload", "signature"] {
        let text = good[name].as_str().unwrap();
        for at in (0..text.len()).step_by(7) {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let mut bad = good.clone();
            bad[name] = String::from_utf8(bytes).unwrap().into();
            let (status, _) = whoami(&house, &header(&bad)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{name} at {at}");
        }
    }
    // Another algorithm, and pointers to other keys.
    let other = envelope(&house, "other/admin").await;
    let kid = |token: &Value| {
        let bytes = STANDARD.decode(token["protected"].as_str().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["kid"].as_str().unwrap().to_owned()
    };
    let heads = [
        json!({"alg": "none", "kid": kid(&good)}),
        json!({"alg": "HS256", "kid": kid(&good)}),
        json!({"alg": "RS256", "kid": kid(&other)}),
        json!({"alg": "RS256", "kid": "unknown"}),
        json!({"alg": "RS256", "kid": kid(&good), "jku": "https://evil.example"}),
        json!({"alg": "RS256"}),
        json!([]),
    ];
    for head in heads {
        let mut bad = good.clone();
        bad["protected"] = URL_SAFE_NO_PAD.encode(head.to_string()).into();
        assert_eq!(whoami(&house, &header(&bad)).await.0, StatusCode::UNAUTHORIZED, "{head}");
    }
    let mut extra = good.clone();
    extra["extra"] = "x".into();
    assert_eq!(whoami(&house, &header(&extra)).await.0, StatusCode::UNAUTHORIZED);
    // Signatures do not move between payloads, nor accounts.
    let mut mixed = good.clone();
    mixed["payload"] = other["payload"].clone();
    mixed["signature"] = other["signature"].clone();
    assert_eq!(whoami(&house, &header(&mixed)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_is_read_leniently_and_the_refusals_are_told_apart() {
    let house = House::new();
    let good = house.token("demo/admin").await;
    let inside = good.strip_prefix("Token token=\"").unwrap().trim_end_matches('"');
    let spaced = format!("Token token=\" {} {} \"", &inside[..40], &inside[40..]);
    assert_eq!(whoami(&house, &spaced).await.0, StatusCode::OK);
    let unpadded = format!("Token token=\"{}\"", inside.trim_end_matches('='));
    assert_eq!(whoami(&house, &unpadded).await.0, StatusCode::OK);
    let cases = [
        ("Basic YTpi", "Authorization missing"),
        ("Token token=\"bm8ganNvbg==\"", "Malformed authorization token"),
        ("Token token=\"e30=\"", "Unauthorized: Invalid token"),
        ("Bearer a.b", "Malformed authorization token"),
    ];
    for (header, text) in cases {
        let refused = (StatusCode::UNAUTHORIZED, text.to_owned());
        assert_eq!(whoami(&house, header).await, refused, "{header}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_role_gets_nothing_for_its_token() {
    let house = House::new();
    house.load("demo", "- !user bob\n").await;
    let token = house.token("demo/bob").await;
    assert_eq!(whoami(&house, &token).await.0, StatusCode::OK);
    let uri = "/policies/demo/policy/root";
    let body = "- !delete\n  record: !user bob\n";
    let reply = house.send_as("demo/admin", &Method::PATCH, uri, body).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    assert_eq!(whoami(&house, &token).await, (StatusCode::FORBIDDEN, String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_level_yet_does_not_judge_tokens() {
    let house = House::new();
    let mut stranger = envelope(&house, "demo/admin").await;
    let head = json!({"alg": "RS256", "kid": "an account not heard of yet"}).to_string();
    stranger["protected"] = json!(STANDARD.encode(head));
    let header = header_of(stranger.to_string().as_bytes());
    let refused = (StatusCode::UNAUTHORIZED, "Unauthorized: Invalid token".to_owned());
    assert_eq!(whoami(&house, &header).await, refused);

    *house.proposer.part.lock().unwrap() = Part::Joining;
    assert_eq!(whoami(&house, &header).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let ready = house.send(&Method::GET, "/health/ready", &[], "").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
}
