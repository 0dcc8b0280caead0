//! Host factories against the clock, from trusted places, repeated, and switched off.

use std::time::Duration;

use conclave_domain::command::{Actor, Command};
use conclave_domain::level;
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
async fn a_token_is_good_for_as_many_uses_as_were_asked_for() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let limited = |uses| format!("{TOKENS}&max_uses={uses}");
    for wrong in ["0", "-1", "many", "", "4294967296"] {
        let reply = house.send_as("demo/admin", &Method::POST, &limited(wrong), "").await;
        let told = format!("Invalid value for parameter 'max_uses': {wrong}");
        assert_eq!(
            (reply.status, reply.json()["error"]["message"].as_str()),
            (StatusCode::UNPROCESSABLE_ENTITY, Some(told.as_str()))
        );
    }
    // Nothing of it is proposed while a member may not know of it.
    let reply = house.send_as("demo/admin", &Method::POST, &limited("2"), "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let told = house.records().last().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(told.contains("this takes feature level 3"), "{told}");
    house.propose(Actor::Node, Command::RaiseLevel { level: level::NEWEST });
    let made = house.send_as("demo/admin", &Method::POST, &limited("2"), "").await.json();
    assert_eq!(made[0]["uses_left"], 2);
    let bearer = header(made[0]["token"].as_str().unwrap());

    let left = async || {
        let uri = "/resources/demo/host_factory/app%2Fhf";
        house.send_as("demo/admin", &Method::GET, uri, "").await.json()["tokens"][0].clone()
    };
    let enrol = async |id: &str, key: &str| {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
        let headers = if key.is_empty() { &headers[..1] } else { &headers[..] };
        let uri = format!("/host_factories/hosts?id={id}");
        house.send(&Method::POST, &uri, headers, "").await
    };
    // What enrols nobody is no use of it.
    assert_eq!(enrol("conjur/x", "").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(left().await["uses_left"], 2);
    assert_eq!(enrol("app/a", "").await.status, StatusCode::CREATED);
    assert_eq!(left().await["uses_left"], 1);
    let last = enrol("app/b", "last").await;
    assert_eq!(last.status, StatusCode::CREATED);
    // The answer was lost, and the request comes again: it is the same use.
    let again = enrol("app/b", "last").await;
    assert_eq!((again.status, again.text()), (StatusCode::CREATED, last.text()));
    assert_eq!(left().await["uses_left"], 0);
    for key in ["", "another"] {
        let refused = enrol("app/c", key).await;
        assert_eq!((refused.status, refused.text().as_str()), (StatusCode::UNAUTHORIZED, ""));
        let records = house.records();
        let record = records.iter().rfind(|record| record["msgid"] == "host-factory").unwrap();
        let message = record["message"].as_str().unwrap();
        assert!(message.ends_with("the host factory token is used up"), "{message}");
    }
    // Others have no such number, and none is shown.
    let free = house.send_as("demo/admin", &Method::POST, TOKENS, "").await.json();
    assert_eq!(free[0].get("uses_left"), None);
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
