//! Values that no text scenario can carry: bytes that are no text, and more versions than are kept.

use base64::Engine;
use http::{Method, StatusCode};

use super::harness::House;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_as_they_were_and_a_plain_batch_cannot_carry_them() {
    let house = House::new();
    house.load("demo", "- !variable bytes\n- !variable text\n").await;
    let bytes: Vec<u8> = (0..=255).collect();
    let uri = "/secrets/demo/variable/bytes";
    let reply = house.send_as("demo/admin", &Method::POST, uri, bytes.clone()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    let text = "/secrets/demo/variable/text";
    house.send_as("demo/admin", &Method::POST, text, "ünï").await;
    let reply = house.send_as("demo/admin", &Method::GET, uri, "").await;
    assert_eq!((reply.header("content-type"), &reply.body), ("application/octet-stream", &bytes));

    let batch = "/secrets?variable_ids=demo:variable:text,demo:variable:bytes";
    let reply = house.send_as("demo/admin", &Method::GET, batch, "").await;
    assert_eq!(reply.status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(
        reply.text(),
        r#"{"error":{"code":"not_acceptable","message":"CONJ00074E Issue encoding secret into JSON format, try including 'Accept-Encoding: base64' header in request."}}"#
    );
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str()), ("accept-encoding", "base64")];
    let reply = house.send(&Method::GET, batch, &headers, "").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let encoded = reply.json()["demo:variable:bytes"].as_str().unwrap().to_owned();
    assert!(encoded.lines().all(|line| line.len() <= 60) && encoded.ends_with('\n'), "{encoded}");
    let encoded: String = encoded.lines().collect();
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_twenty_versions_are_kept_and_the_count_goes_on() {
    let house = House::new();
    house.load("demo", "- !variable v\n- !policy p\n").await;
    let uri = "/secrets/demo/variable/v";
    let policy = "/policies/demo/policy/p";
    for n in 1..=25 {
        let reply = house.send_as("demo/admin", &Method::POST, uri, format!("value {n}")).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        let reply = house.send_as("demo/admin", &Method::POST, policy, "- !group g\n").await;
        assert_eq!(reply.text(), format!(r#"{{"created_roles":{{}},"version":{n}}}"#));
    }
    let versions = async |uri: &str, key: &str| {
        let reply = house.send_as("demo/admin", &Method::GET, uri, "").await;
        let kept = reply.json()[key].as_array().unwrap().clone();
        kept.iter().map(|one| one["version"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let newest: Vec<u64> = (6..=25).collect();
    assert_eq!(versions("/resources/demo/variable/v", "secrets").await, newest);
    assert_eq!(versions("/resources/demo/policy/p", "policy_versions").await, newest);
    let of = async |version: u32| {
        let uri = format!("{uri}?version={version}");
        let reply = house.send_as("demo/admin", &Method::GET, &uri, "").await;
        (reply.status.as_u16(), reply.text())
    };
    assert_eq!(of(5).await.0, 404);
    assert_eq!(of(6).await, (200, "value 6".to_owned()));
    assert_eq!(of(25).await, (200, "value 25".to_owned()));
}
