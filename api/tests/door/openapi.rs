//! The OpenAPI document: complete, committed as it is served, and true. That every answer of every
//! other test here is documented is checked where they are sent (`harness.rs`).

use std::path::Path;

use conclave_api::openapi;
use http::{Method, StatusCode};

use super::harness::House;

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let undescribed = openapi::undescribed();
    assert!(undescribed.is_empty(), "add or remove rows in api/src/openapi.rs: {undescribed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/docs/openapi.json");
    let house = House::new();
    let reply = house.send(&Method::GET, "/openapi.json", &[], "").await;
    assert_eq!(reply.status, StatusCode::OK);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &reply.body).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == reply.text(),
        "node/docs/openapi.json is not what is served; BLESS=1 cargo test -p conclave-api --test \
         door openapi writes it"
    );
}

#[test]
fn what_is_referred_to_is_defined_and_names_are_unique() {
    let document = openapi::document();
    let text = document.to_string();
    assert!(!text.contains("null"), "what is absent is left out");
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "no schema {name}");
    }
    let mut ids: Vec<&str> = text
        .split("\"operationId\":\"")
        .skip(1)
        .map(|part| part.split('"').next().unwrap())
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let named = path.matches('{').count();
            let parameters = operation["parameters"].as_array().unwrap();
            let in_path = parameters.iter().filter(|known| known["in"] == "path").count();
            assert_eq!(named, in_path, "{method} {path}");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()));
        }
    }
}

#[test]
fn an_answer_outside_the_document_is_noticed() {
    let seen = |status: StatusCode, media| {
        openapi::undocumented(&Method::GET, "/whoami", "", status, media)
    };
    assert_eq!(seen(StatusCode::OK, Some("application/json; charset=utf-8")), None);
    assert_eq!(seen(StatusCode::NOT_FOUND, None), None);
    assert!(seen(StatusCode::OK, Some("text/html")).unwrap().contains("text/html"));
    assert!(seen(StatusCode::IM_A_TEAPOT, None).unwrap().contains("418"));
    assert_eq!(
        openapi::undocumented(&Method::GET, "/nothing", "", StatusCode::IM_A_TEAPOT, None),
        None
    );
}
