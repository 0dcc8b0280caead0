//! Host factories against the clock, from trusted places, repeated, and switched off.

use std::time::Duration;

use http::{Method, StatusCode};

use super::harness::House;

const POLICY: &str = "- !policy\n  id: app\n  body:\n  - !layer web\n  - !host-factory {id: hf, layers: !layer web}\n";
const TOKENS: &str =
    "/host_factory_tokens?host_factory=demo:host_factory:app/hf&expiration=2023-11-14T22:14:20Z";

async fn token(house: &House, more: &str) -> String {
    let reply = house.send_as("demo/admin", &Method::POST, &format!("{TOKENS}{more}"), "").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    reply.json()[0]["token"].as_str().unwrap().to_owned()
}

fn header(token: &str) -> String {
    format!("Token token=\"{token}\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_time_and_is_not_shown_after() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = header(&token(&house, "").await);
    let enrol = |id: &str| format!("/host_factories/hosts?id={id}");
    let headers = [("authorization", token.as_str())];
    house.clock.advance(Duration::from_secs(59));
    let reply = house.send(&Method::POST, &enrol("app/a"), &headers, "").await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    house.clock.advance(Duration::from_secs(1));
    let reply = house.send(&Method::POST, &enrol("app/b"), &headers, "").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::UNAUTHORIZED, ""));
    let shown = house
        .send_as("demo/admin", &Method::GET, "/resources/demo/host_factory/app%2Fhf", "")
        .await;
    assert_eq!(shown.json()["tokens"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_checked_against_the_address_that_proxies_vouch_for() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = header(&token(&house, "&cidr[]=198.51.100.0/24").await);
    let headers = [("authorization", token.as_str()), ("x-forwarded-for", "198.51.100.9")];
    let uri = "/host_factories/hosts?id=app/a";
    let forged = house.send_from("192.0.2.7", &Method::POST, uri, &headers, "").await;
    assert_eq!(forged.status, StatusCode::UNAUTHORIZED);
    let vouched = house.send_from("10.9.0.1", &Method::POST, uri, &headers, "").await;
    assert_eq!(vouched.status, StatusCode::CREATED, "{}", vouched.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_requests_are_answered_with_what_the_first_made() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let admin = house.token("demo/admin").await;
    let headers = [("authorization", admin.as_str()), ("idempotency-key", "once")];
    let first = house.send(&Method::POST, TOKENS, &headers, "").await;
    let again = house.send(&Method::POST, TOKENS, &headers, "").await;
    assert_eq!(first.text(), again.text());
    let token = header(first.json()[0]["token"].as_str().unwrap());
    let headers = [("authorization", token.as_str()), ("idempotency-key", "once")];
    let uri = "/host_factories/hosts?id=app/a";
    let first = house.send(&Method::POST, uri, &headers, "").await;
    assert_eq!(first.status, StatusCode::CREATED);
    let again = house.send(&Method::POST, uri, &headers, "").await;
    assert_eq!(first.text(), again.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_the_routes_are_not_there() {
    let house = House::with(|settings| settings.host_factories_enabled = false);
    house.load("demo", POLICY).await;
    let reply = house.send_as("demo/admin", &Method::POST, TOKENS, "").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::NOT_FOUND, ""));
    let reply = house.send(&Method::POST, "/host_factories/hosts?id=x", &[], "").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_keys_stay_out_of_the_records() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let secret = token(&house, "").await;
    let bearer = header(&secret);
    let headers = [("authorization", bearer.as_str())];
    let uri = "/host_factories/hosts?id=app/a";
    let reply = house.send(&Method::POST, uri, &headers, "").await;
    let key = reply.json()["api_key"].as_str().unwrap().to_owned();
    let uri = format!("/host_factory_tokens/{secret}");
    house.send(&Method::DELETE, &uri, &[], "").await;
    house.send_as("demo/admin", &Method::DELETE, &uri, "").await;
    house.send_as("demo/admin", &Method::DELETE, &uri, "").await;
    let records = house.records();
    let of_factories =
        records.iter().filter(|record| record["msgid"] == "host-factory").collect::<Vec<_>>();
    assert_eq!(of_factories.len(), 4, "{of_factories:?}");
    let text = format!("{records:?}");
    assert!(!text.contains(&secret) && !text.contains(&key));
}
