//! `/audit…`: who may read the records of an account, and which are found.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{House, Reply};

const POLICY: &str = "\
- !user alice
- !user bob
- !variable x
- !webservice conjur/audit
- !permit {role: !user alice, privileges: [read], resource: !webservice conjur/audit}
";

fn record(user: &str, resource: &str, at: usize) -> String {
    json!({
        "at": format!("2026-11-22T05:28:{:02}.123Z", at % 60), "request_id": format!("r{at}"),
        "priority": if at.is_multiple_of(2) { 86 } else { 84 }, "msgid": "fetch",
        "operation": "fetch", "result": if at.is_multiple_of(2) { "success" } else { "failure" },
        "user": user, "subject": {"resource": resource}, "client_ip": "::1", "message": "m",
    })
    .to_string()
}

/// A house whose chain has these records, in that order.
async fn house(records: &[String]) -> House {
    // A long search takes its time in a build for tests.
    let house = House::with(|settings| settings.request_time_max = Duration::from_mins(1));
    house.load("demo", POLICY).await;
    house.chain(records);
    house
}

fn numbers(reply: &Reply) -> Vec<u64> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let found = reply.json().as_array().unwrap().clone();
    let number = |one: &Value| one["sdata"]["meta@43868"]["number"].as_str()?.parse().ok();
    found.iter().map(|one| number(one).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_the_account_are_found_by_their_parts() {
    let house = house(&[
        record("demo:user:alice", "demo:variable:x", 1),
        record("other:user:admin", "other:variable:x", 2),
        record("demo:user:bob", "demo:variable:x", 3),
        record("demo:user:bob", "demo:variable:y", 4),
        record("demotic:user:a", "demotic:variable:x", 5),
        "{\"gap\":{\"version\":1,\"node\":7,\"from\":1,\"to\":2}}".to_owned(),
    ])
    .await;
    let ask = async |path: &str| house.send_as("demo/alice", &Method::GET, path, "").await;
    for (path, expected) in [
        ("/audit", &[4, 3, 1][..]),
        ("/audit?severity=4", &[3, 1]),
        ("/audit?facility=10;msgid=fetch&procid=r3", &[3]),
        ("/audit?subject%4043868/resource=demo:variable:x", &[3, 1]),
        ("/audit?action@43868/result=success", &[4]),
        ("/audit?limit=1&offset=1", &[3]),
        ("/audit?before=3", &[1]),
        ("/audit/resources/demo:variable:y", &[4]),
        ("/audit/entities/demo:user:bob", &[4, 3]),
        ("/audit/entities/demo%3Avariable%3Ax", &[3, 1]),
    ] {
        let reply = ask(path).await;
        assert_eq!(numbers(&reply), expected, "{path}");
    }
    let reply = ask("/audit?procid=r1").await;
    assert_eq!(
        reply.json()[0],
        json!({
            "facility": 10, "severity": 4, "timestamp": "2026-11-22T05:28:01.123Z",
            "appname": "conjur", "procid": "r1", "msgid": "fetch", "message": "m",
            "sdata": {
                "auth@43868": {"user": "demo:user:alice"},
                "subject@43868": {"resource": "demo:variable:x"},
                "client@43868": {"ip": "::1"},
                "action@43868": {"result": "failure", "operation": "fetch"},
                "meta@43868": {"node": "1", "sequence": "1", "number": "1"},
            },
        })
    );
    // Nothing, a role nothing is recorded of, and what is another account's.
    for path in [
        "/audit?msgid=none",
        "/audit?hostname=n1",
        "/audit/roles/demo:user:bob",
        "/audit/resources/other:variable:x",
        "/audit?before=1",
    ] {
        assert_eq!(ask(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/audit?limit=0", "/audit?limit=1001", "/audit?limit=x", "/audit?offset=-1"] {
        assert_eq!(ask(path).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_read_the_webservice_is_told_anything() {
    let house = house(&[record("demo:user:alice", "demo:variable:x", 1)]).await;
    for (who, status) in [
        ("demo/admin", StatusCode::OK),
        ("demo/alice", StatusCode::OK),
        ("demo/bob", StatusCode::NOT_FOUND),
        ("other/admin", StatusCode::NOT_FOUND),
    ] {
        for path in ["/audit", "/audit/entities/demo:user:alice"] {
            let reply = house.send_as(who, &Method::GET, path, "").await;
            assert_eq!(reply.status, status, "{who}");
            assert_eq!(reply.text().contains("alice"), status == StatusCode::OK, "{who}");
        }
    }
    let permit =
        "- !permit {role: !user bob, privileges: [execute], resource: !webservice conjur/audit}";
    house.load("demo", permit).await;
    let reply = house.send_as("demo/bob", &Method::GET, "/audit", "").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::FORBIDDEN, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_is_bounded_and_says_how_far_it_came() {
    let mut records = vec![record("demo:user:alice", "demo:variable:x", 1)];
    records.extend((2..=20_500).map(|at| record("demo:user:bob", "demo:variable:x", at)));
    let house = house(&records).await;
    let ask = async |path: &str| house.send_as("demo/alice", &Method::GET, path, "").await;
    let reply = ask("/audit").await;
    assert_eq!(numbers(&reply), (19_501..=20_500).rev().collect::<Vec<_>>());
    assert_eq!(reply.header("x-conclave-audit-from"), "19501");
    // What lies further back is not said to be absent.
    let reply = ask("/audit?auth@43868/user=demo:user:alice").await;
    assert_eq!((numbers(&reply), reply.header("x-conclave-audit-from")), (vec![], "501"));
    let reply = ask("/audit?auth@43868/user=demo:user:alice&before=501").await;
    assert_eq!((numbers(&reply), reply.header("x-conclave-audit-from")), (vec![1], "1"));
}
