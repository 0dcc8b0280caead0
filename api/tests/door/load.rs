//! Writes against the clock: plans that go stale, answers that get lost, leaders that are away.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use conclave_api::ports::Part;
use conclave_api::settings::Wanted;
use conclave_domain::command::{Actor, Command};
use http::{Method, Request, StatusCode};
use tower::ServiceExt;

use super::harness::House;

const POLICY: &str = "- !variable x\n- !group g\n- !user bob\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_plan_is_made_again_and_in_the_end_given_up() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let move_on = |n: u32| {
        let role = "demo:group:g".parse().unwrap();
        let member = "demo:user:bob".parse().unwrap();
        let command = if n.is_multiple_of(2) {
            Command::AddMember { role, member }
        } else {
            Command::RemoveMember { role, member }
        };
        house.envelope(Actor::Node, command)
    };
    house.proposer.before.lock().unwrap().push(move_on(0));
    let uri = "/policies/demo/policy/root";
    let reply = house.send_as("demo/admin", &Method::POST, uri, "- !variable y\n").await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    assert_eq!(reply.json()["version"], 2);

    // Popped from the end: removals and additions take turns, each moves the account.
    house.proposer.before.lock().unwrap().extend((0..20).map(move_on));
    let reply = house.send_as("demo/admin", &Method::POST, uri, "- !variable z\n").await;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "policy_conflict");
    let wait: u32 = reply.header("retry-after").parse().unwrap();
    assert!((1..=8).contains(&wait));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_and_the_write_happens_once() {
    let house = House::new();
    house.load("demo", POLICY).await;
    house.proposer.lost_answers.store(2, Ordering::SeqCst);
    house.proposer.leaderless.store(1, Ordering::SeqCst);
    let uri = "/secrets/demo/variable/x";
    let reply = house.send_as("demo/admin", &Method::POST, uri, "one").await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    let document =
        house.send_as("demo/admin", &Method::GET, "/resources/demo/variable/x", "").await;
    assert_eq!(document.json()["secrets"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_nothing_is_claimed() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str())];
    house.proposer.leaderless.store(u32::MAX, Ordering::SeqCst);
    let uri = "/secrets/demo/variable/x";
    let reply = house.send(&Method::POST, uri, &headers, "one").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("retry-after"), "1");
    *house.proposer.no_barrier.lock().unwrap() = true;
    let reply = house.send(&Method::GET, "/whoami", &headers, "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let local = [headers[0], ("x-conclave-consistency", "local")];
    let reply = house.send(&Method::GET, "/whoami", &local, "").await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_reads_refuses_writes_and_knows_its_age() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str())];
    *house.proposer.part.lock().unwrap() = Part::Follower;
    *house.proposer.age.lock().unwrap() = Some(std::time::Duration::from_secs(1));
    let reply = house.send(&Method::POST, "/secrets/demo/variable/x", &headers, "one").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        reply.text(),
        r#"{"error":{"code":405,"message":"Write operations are not allowed"}}"#
    );
    assert_eq!(reply.header("x-conclave-leader"), "https://leader.example");
    let reply = house.send(&Method::GET, "/whoami", &headers, "").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(house.send(&Method::GET, "/health", &[], "").await.status, StatusCode::OK);

    *house.proposer.age.lock().unwrap() = Some(std::time::Duration::from_mins(1));
    let reply = house.send(&Method::GET, "/health", &[], "").await;
    assert_eq!((reply.status, &reply.json()["degraded"]), (StatusCode::OK, &true.into()));

    *house.proposer.age.lock().unwrap() = Some(std::time::Duration::from_hours(1));
    let key = house.key("demo/admin");
    let reply = house.send(&Method::POST, "/authn/demo/admin/authenticate", &[], key).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let reply = house.send(&Method::GET, "/health", &[], "").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert_eq!(reply.json()["alive"], true);
    let reply = house.send(&Method::GET, "/health/live", &[], "").await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_tell_of_each_other_and_of_nobody_else() {
    let house = House::new();
    let of = async |member: &str| {
        let path = format!("/remote_health/{member}");
        let reply = house.send(&Method::GET, &path, &[], "").await;
        (reply.status, reply.header("conjur-health").to_owned(), reply.text())
    };
    let (status, word, text) = of("n1").await;
    assert_eq!((status, &*word), (StatusCode::OK, "OK"), "{text}");
    assert!(text.contains("\"role\":\"leader\""), "{text}");
    let (status, word, text) = of("n2").await;
    assert_eq!((status, &*word), (StatusCode::BAD_GATEWAY, "NOT OK"));
    assert_eq!(text, r#"{"ok":false,"role":"standby"}"#);
    let (status, _, text) = of("n3").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(!text.contains("10.0.0.3"), "strangers learn no addresses: {text}");
    for stranger in ["n4", "127.0.0.1", "localhost:22", "n2%2F", "%00"] {
        let (status, ..) = of(stranger).await;
        assert!(matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST), "{stranger}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_the_parts_that_it_is_set_for_with_and_without_tls() {
    let leader_only = Wanted { leader: true, standby: false, follower: false };
    let house = House::with(|settings| settings.health_ok_for = leader_only);
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        house.plain_health.clone().oneshot(request).await.unwrap().status()
    };
    let health = async || house.send(&Method::GET, "/health", &[], "").await;
    assert_eq!(health().await.status, StatusCode::OK);
    assert_eq!(ask("/health").await, StatusCode::OK);
    assert_eq!(ask("/health/leader").await, StatusCode::OK);

    *house.proposer.part.lock().unwrap() = Part::Standby;
    let reply = health().await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert_eq!(reply.json()["ready"], true, "it is well, only not looked for");
    assert_eq!(ask("/health").await, StatusCode::BAD_GATEWAY);
    assert_eq!(ask("/health/ready").await, StatusCode::OK);
    assert_eq!(ask("/health/leader").await, StatusCode::SERVICE_UNAVAILABLE);
    for hidden in ["/", "/info", "/metrics", "/whoami", "/remote_health/n1", "/health/"] {
        assert_eq!(ask(hidden).await, StatusCode::NOT_FOUND, "{hidden} is not for plain HTTP");
    }
    house.door.drain();
    assert_eq!(
        ask("/health/ready").await,
        StatusCode::NOT_FOUND,
        "told apart from one that is not well"
    );
    assert_eq!(ask("/health").await, StatusCode::BAD_GATEWAY);
    house.door.undrain();
    assert_eq!(ask("/health/ready").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_lost_its_majority_for_long_is_to_be_passed_by() {
    let house = House::new();
    for (age_ms, status) in [(900, StatusCode::OK), (1_100, StatusCode::SERVICE_UNAVAILABLE)] {
        *house.proposer.age.lock().unwrap() = Some(std::time::Duration::from_millis(age_ms));
        let reply = house.send(&Method::GET, "/health/ready", &[], "").await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_that_are_switched_off_are_a_path_like_any_that_is_not_there() {
    let house = House::with(|settings| settings.metrics = false);
    let reply = house.send(&Method::GET, "/metrics", &[], "").await;
    assert_eq!(
        (reply.status, reply.text()),
        (StatusCode::UNAUTHORIZED, "Authorization missing".to_owned())
    );
    let reply = house.send_as("demo/admin", &Method::GET, "/metrics", "").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seen_index_is_waited_for_within_bounds() {
    let house = House::new();
    let token = house.token("demo/admin").await;
    let headers = |index: &'static str| {
        [("authorization", token.clone()), ("x-conclave-index", index.into())]
    };
    for (index, status) in [("1", StatusCode::OK), ("999", StatusCode::SERVICE_UNAVAILABLE)] {
        let headers = headers(index);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = house.send(&Method::GET, "/whoami", &headers, "").await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("x-conclave-index"), "3");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_node_says_so_and_keeps_its_secrets() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = house.token("demo/admin").await;
    house.vault.store(None);
    let headers = [("authorization", token.as_str())];
    let reply = house.send(&Method::POST, "/secrets/demo/variable/x", &headers, "one").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let reply = house.send(&Method::GET, "/health", &[], "").await;
    assert_eq!((reply.status, &reply.json()["sealed"]), (StatusCode::BAD_GATEWAY, &true.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_answered_as_the_first() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str()), ("idempotency-key", "k1")];
    let uri = "/authn/demo/api_key?role=user:bob";
    let first = house.send(&Method::PUT, uri, &headers, "").await;
    let again = house.send(&Method::PUT, uri, &headers, "").await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    assert_eq!(first.body, again.body);
    let other = [headers[0], ("idempotency-key", "k2")];
    let other = house.send(&Method::PUT, uri, &other, "").await;
    assert_ne!(first.body, other.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_load_asked_of_two_nodes_at_once_tells_the_keys_that_the_log_took() {
    // Two houses with the same past stand for two nodes: the second plans before the first's load
    // is applied, and proposes after it.
    let houses = [House::new(), House::new()];
    let (uri, text) = ("/policies/demo/policy/root", "- !host new\n- !user newer\n");
    for house in &houses {
        house.load("demo", POLICY).await;
        // Which load brought a role is told by the time: the two loads are not of one instant.
        house.clock.advance(std::time::Duration::from_secs(1));
    }
    let mut answers = Vec::new();
    for house in &houses {
        let token = house.token("demo/admin").await;
        let headers = [("authorization", token.as_str()), ("idempotency-key", "once")];
        let reply = house.send(&Method::POST, uri, &headers, text).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
        answers.push(reply.json());
        let first = houses[0].proposer.proposed.lock().unwrap().clone();
        houses[1].proposer.before.lock().unwrap().extend([first]);
    }
    assert_eq!(answers[0]["created_roles"].as_object().unwrap().len(), 2);
    assert_eq!(answers[0], answers[1]);
    for login in ["host/new", "newer"] {
        let id = format!("demo:{}", if login == "newer" { "user:newer" } else { "host:new" });
        let key = answers[1]["created_roles"][id]["api_key"].as_str().unwrap().to_owned();
        let uri = format!("/authn/demo/{}/authenticate", login.replace('/', "%2F"));
        let reply = houses[1].send(&Method::POST, &uri, &[], key).await;
        assert_eq!(reply.status, StatusCode::OK, "{login}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_load_tells_the_keys_of_the_first_while_they_are_in_force() {
    let house = House::new();
    house.load("demo", POLICY).await;
    house.clock.advance(std::time::Duration::from_secs(1));
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str()), ("idempotency-key", "k1")];
    let uri = "/policies/demo/policy/root";
    let text = "- !host h\n- !host i\n- !group fresh\n";
    let load = || house.send(&Method::POST, uri, &headers, text);
    let first = load().await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    let roles = first.json()["created_roles"].as_object().unwrap().len();
    assert_eq!(roles, 2, "{}", first.text());
    house.clock.advance(std::time::Duration::from_secs(1));
    let again = load().await;
    assert_eq!(first.text(), again.text());
    // Others have loaded since: the version is that of the first try, and nothing is loaded again.
    house.load("demo", "- !host later\n").await;
    assert_eq!(first.text(), load().await.text());
    let key = "/authn/demo/api_key?role=host:h";
    house.send_as("demo/admin", &Method::PUT, key, "").await;
    let last = load().await;
    assert_eq!(last.json()["version"], first.json()["version"]);
    let told = &last.json()["created_roles"];
    assert_eq!(told["demo:host:h"], serde_json::Value::Null, "another key is in force: {told}");
    assert_eq!(told["demo:host:i"], first.json()["created_roles"]["demo:host:i"]);
    // The same text without the mark is a load of its own.
    let plain = house.send_as("demo/admin", &Method::POST, uri, text).await;
    assert_eq!(plain.text(), r#"{"created_roles":{},"version":4}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_made_twice_by_one_request_is_told_its_key_twice() {
    let house = House::new();
    let token = house.token("!/admin").await;
    let headers = [("authorization", token.as_str()), ("idempotency-key", "k1")];
    let make = || house.send(&Method::POST, "/accounts?id=acme", &headers, "");
    let first = make().await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    assert_eq!(first.text(), make().await.text());
    let other = [headers[0], ("idempotency-key", "k2")];
    let other = house.send(&Method::POST, "/accounts?id=acme", &other, "").await;
    assert_eq!(other.status, StatusCode::CONFLICT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_good_only_from_where_its_role_may_be_and_proxies_are_believed_if_trusted() {
    let house = House::new();
    house.load("demo", "- !host\n  id: h\n  restricted_to: [10.1.0.0/16]\n").await;
    let key = house.key("demo/host/h");
    let uri = "/authn/demo/host%2Fh/authenticate";
    let from = async |peer: &str, forwarded: &str| {
        let headers = [("x-forwarded-for", forwarded)];
        house.send_from(peer, &Method::POST, uri, &headers, key.clone()).await.status
    };
    assert_eq!(from("10.1.2.3", "").await, StatusCode::OK);
    assert_eq!(from("192.0.2.1", "10.1.2.3").await, StatusCode::UNAUTHORIZED);
    assert_eq!(from("10.9.0.1", "10.1.2.3").await, StatusCode::OK);
    assert_eq!(from("10.9.0.1", "10.1.2.3, 192.0.2.1").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_from_one_place_is_slowed_and_nobody_else_is() {
    let house = House::with(|settings| settings.failures_max = 5);
    let uri = "/authn/demo/admin/authenticate";
    for _ in 0..5 {
        let reply = house.send(&Method::POST, uri, &[], "wrong").await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    let key = house.key("demo/admin");
    let reply = house.send(&Method::POST, uri, &[], key.clone()).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    let reply = house.send_from("192.0.2.8", &Method::POST, uri, &[], key.clone()).await;
    assert_eq!(reply.status, StatusCode::OK);
    house.clock.advance(std::time::Duration::from_secs(11));
    let reply = house.send(&Method::POST, uri, &[], key).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_a_body_is_refused_before_it_is_kept() {
    let house = House::with(|settings| settings.body_bytes_max = 1000);
    house.load("demo", POLICY).await;
    let uri = "/secrets/demo/variable/x";
    let reply = house.send_as("demo/admin", &Method::POST, uri, "x".repeat(1001)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    let reply = house.send_as("demo/admin", &Method::POST, uri, "x".repeat(1000)).await;
    assert_eq!(reply.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_client_has_gone_is_recorded_all_the_same() {
    let house = House::new();
    house.load("demo", POLICY).await;
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str()), ("x-request-id", "gone")];
    // Long enough without a leader that the client leaves first.
    house.proposer.leaderless.store(5, Ordering::SeqCst);
    let sent = house.send(&Method::POST, "/secrets/demo/variable/x", &headers, "one");
    let answered = tokio::time::timeout(std::time::Duration::from_millis(30), sent).await;
    assert!(answered.is_err(), "the client was to leave before the answer");
    let is_recorded =
        || house.records().iter().any(|r| r["request_id"] == "gone" && r["result"] == "success");
    for _ in 0..100 {
        if is_recorded() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the write is not recorded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_cut_off_vouches_for_nobody_from_its_own_view() {
    let house = House::new();
    let key = house.key("demo/admin");
    let local = [("x-conclave-consistency", "local")];
    let uri = "/authn/demo/admin/authenticate";
    *house.proposer.no_barrier.lock().unwrap() = true;
    for (age, status) in [(1, StatusCode::OK), (3600, StatusCode::SERVICE_UNAVAILABLE)] {
        *house.proposer.age.lock().unwrap() = Some(std::time::Duration::from_secs(age));
        let reply = house.send(&Method::POST, uri, &local, key.clone()).await;
        assert_eq!(reply.status, status, "age {age}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_shows_nothing_before_it_was_level_since_it_started() {
    let house = Arc::new(House::new());
    house.load("demo", POLICY).await;
    let token = house.token("demo/admin").await;
    *house.proposer.part.lock().unwrap() = Part::Follower;
    *house.proposer.age.lock().unwrap() = None;
    let headers = [("authorization", token.as_str())];
    let reply = house.send(&Method::GET, "/whoami", &headers, "").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let reason = reply.header("x-conclave-reason");
    assert!(reason.contains("has not heard from a leader"), "{reason}");

    // A read that comes just before the first word of a leader waits for it.
    let waiting = Arc::clone(&house);
    let reading = tokio::spawn(async move {
        let headers = [("authorization", token.as_str())];
        waiting.send(&Method::GET, "/whoami", &headers, "").await.status
    });
    tokio::task::yield_now().await;
    *house.proposer.age.lock().unwrap() = Some(std::time::Duration::from_hours(1));
    assert_eq!(reading.await.unwrap(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_sent_twice_are_refused() {
    let house = House::new();
    let token = house.token("demo/admin").await;
    let headers = [("authorization", token.as_str()), ("authorization", "Basic YTpi")];
    let reply = house.send(&Method::GET, "/whoami", &headers, "").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}
