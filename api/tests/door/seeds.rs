//! Seeds for followers over HTTPS: whom policy allows it, in the accounts that the operator names, and nobody
//! else, whatever the log is asked.

use conclave_api::ports::Part;
use conclave_domain::command::{Actor, Command};
use conclave_domain::effect::Row;
use conclave_domain::id::AccountName;
use conclave_domain::level;
use http::{Method, StatusCode};

use super::harness::House;

const POLICY: &str = "- !user reader\n- !user eve\n- !policy\n  id: conjur/seed-generation\n  body:\n  \
    - !webservice\n  - !group consumers\n  - !permit {role: !group consumers, privilege: execute, resource: !webservice}\n\
    - !host automation\n- !grant {role: !group conjur/seed-generation/consumers, member: !host automation}\n\
    - !permit {role: !user reader, privilege: read, resource: !webservice conjur/seed-generation}\n";
const PATH: &str = "/configuration/demo/seed/follower";
const BODY: &str =
    "follower_hostname=followers.example.com&name=f7&names=a.example.com,b.example.com&minutes=5";
const AUTOMATION: &str = "demo/host/automation";

/// A door that issues seeds for account demo, in a cluster at that feature level.
async fn house(accounts: &[&str], level: u32) -> House {
    let accounts: Vec<_> = accounts.iter().map(|name| AccountName::new(name).unwrap()).collect();
    let house = House::with(|settings| settings.seed_accounts = accounts);
    if level > 0 {
        house.propose(Actor::Node, Command::RaiseLevel { level });
    }
    house.load("demo", POLICY).await;
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn automation_with_the_privilege_gets_a_seed_and_leaves_a_record() {
    let house = house(&["demo"], level::NEWEST).await;
    let before = house.records().len();
    let reply = house.send_as(AUTOMATION, &Method::POST, PATH, BODY).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert!(reply.header("content-type").starts_with("application/json"));
    assert_eq!(reply.header("cache-control"), "no-store");
    let seed = reply.json();
    assert_eq!((&seed["name"], &seed["group"]), (&"f7".into(), &"followers.example.com".into()));
    assert_eq!(seed["names"], serde_json::json!(["a.example.com", "b.example.com"]));
    assert_eq!(seed["life_ms"], 5 * 60 * 1000);
    let records = house.records().split_off(before);
    let record = records.iter().find(|record| record["msgid"] == "seed").unwrap();
    assert_eq!((&record["operation"], &record["result"]), (&"issue".into(), &"success".into()));
    assert_eq!(record["user"], "demo:host:automation");
    assert_eq!(record["subject"]["name"], "f7");
    // Bound to addresses, and not to what is none.
    let bound = format!("{BODY}&cidr=10.0.0.0/24&cidr=192.0.2.7");
    let reply = house.send_as(AUTOMATION, &Method::POST, PATH, bound.replace("f7", "f8")).await;
    assert_eq!(reply.json()["cidr"], serde_json::json!(["10.0.0.0/24", "192.0.2.7/32"]));
    for bad in ["10.0.0.1/24", "10.0.0.0/33", "here", ""] {
        let body = format!("{BODY}&cidr={bad}");
        let reply = house.send_as(AUTOMATION, &Method::POST, PATH, body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}: {}", reply.text());
    }
    // What is left out has a sense of its own.
    let reply =
        house.send_as(AUTOMATION, &Method::POST, PATH, "follower_hostname=west.example.com").await;
    assert_eq!(reply.json()["name"], "west");
    assert_eq!(reply.json()["life_ms"], 60 * 60 * 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_gets_one() {
    let house = house(&["demo"], level::NEWEST).await;
    for (who, wanted) in [
        ("demo/reader", StatusCode::FORBIDDEN),
        ("demo/eve", StatusCode::NOT_FOUND),
        ("other/admin", StatusCode::NOT_FOUND),
        ("!/admin", StatusCode::NOT_FOUND),
    ] {
        let reply = house.send_as(who, &Method::POST, PATH, BODY).await;
        assert_eq!(reply.status, wanted, "{who}: {}", reply.text());
    }
    // The owner of another account, which the operator has not named, may permit there what it likes.
    house.load("other", "- !webservice conjur/seed-generation\n").await;
    let path = "/configuration/other/seed/follower";
    let reply = house.send_as("other/admin", &Method::POST, path, BODY).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    for (body, named) in [
        ("", "follower_hostname"),
        ("follower_hostname=f.example.com&minutes=0", "minutes"),
        ("follower_hostname=f.example.com&minutes=a", "minutes"),
        (&format!("follower_hostname=f&names={}", "n,".repeat(33)), "names"),
    ] {
        let reply = house.send_as(AUTOMATION, &Method::POST, PATH, body.to_owned()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {}", reply.text());
        assert!(reply.text().contains(named), "{body}: {}", reply.text());
    }
    // A follower has none to give.
    *house.proposer.part.lock().unwrap() = Part::Follower;
    let reply = house.send_as(AUTOMATION, &Method::POST, PATH, BODY).await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    *house.proposer.part.lock().unwrap() = Part::Leader;
    let rows = house.state.read(|view| view.state.rows());
    assert!(!rows.iter().any(|row| matches!(row, Row::JoinToken(..))), "somebody got a token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_looks_again_and_knows_nothing_of_it_below_its_level() {
    // Permitted at the door's first look, and not any more when the log decides.
    let house = house(&["demo"], level::NEWEST).await;
    let deny =
        "- !revoke {role: !group conjur/seed-generation/consumers, member: !host automation}\n";
    let path = "/policies/demo/policy/root";
    let reply = house.send_as("demo/admin", &Method::PATCH, path, deny).await;
    assert!(reply.status.is_success(), "{}", reply.text());
    let reply = house.send_as(AUTOMATION, &Method::POST, PATH, BODY).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);

    let young = self::house(&["demo"], 0).await;
    let reply = young.send_as(AUTOMATION, &Method::POST, PATH, BODY).await;
    assert!(!reply.status.is_success(), "{}", reply.text());

    // Where the operator names no account, there is no such route.
    let closed = self::house(&[], level::NEWEST).await;
    let reply = closed.send_as(AUTOMATION, &Method::POST, PATH, BODY).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::NOT_FOUND, String::new()));
}
