//! What the operator decides about policies: who may come to be where, passwords for users to come,
//! and whether appends say what they leave alone.

use conclave_api::ports::Secret;
use conclave_api::settings::{Settings, SettingsError, UserPasswords};
use conclave_domain::policy::Rules;
use http::{Method, StatusCode};

use super::harness::{House, basic};

const ROOT: &str = "/policies/demo/policy/root";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_the_operator_are_kept_by_loads_and_dry_runs() {
    let house = House::with(|settings| {
        settings.policy_rules =
            Rules { users_in_root_only: true, hosts_ask_for_api_keys: true, ..Rules::default() };
    });
    let texts = [
        ("- !policy { id: app, body: [ !user bob ] }", "User creation is disabled."),
        ("- !host plain", "Host 'plain' cannot be created without"),
    ];
    for (text, message) in texts {
        let reply = house.send_as("demo/admin", &Method::POST, ROOT, text).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        assert_eq!(reply.json()["error"]["code"], "policy_invalid", "{text}");
        assert!(reply.text().contains(message), "{}", reply.text());
        let dry = format!("{ROOT}?dryRun=true");
        let reply = house.send_as("demo/admin", &Method::POST, &dry, text).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        assert_eq!(reply.json()["errors"][0]["line"], 1, "{text}");
    }
    house
        .load("demo", "- !user bob\n- !host { id: h, annotations: { authn/api-key: true } }")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_users_get_the_password_that_was_set_for_them() {
    let strong = "Correct-Horse-7";
    let house = House::with(|settings| {
        let password = Secret::new(strong.as_bytes().to_vec());
        settings.user_passwords = UserPasswords::new(vec![("BOB_DEV_OPS".into(), password)]);
    });
    house.load("demo", "- !user alice\n- !policy { id: dev/ops, body: [ !user bob ] }").await;
    for (login, status) in [("bob@dev-ops", 200), ("alice", 401)] {
        let header = basic(login, strong);
        let headers = [("authorization", header.as_str())];
        let reply = house.send(&Method::GET, "/authn/demo/login", &headers, "").await;
        assert_eq!(reply.status.as_u16(), status, "{login}");
    }
    let records = format!("{:?}", house.records());
    assert!(!records.contains(strong));

    let weak = UserPasswords::new(vec![("BOB".into(), Secret::new(b"weak".to_vec()))]);
    assert_eq!(format!("{weak:?}"), r#"["BOB"]"#);
    let settings = Settings { user_passwords: weak, ..Settings::default() };
    assert_eq!(settings.check(), Err(SettingsError::WeakPassword { name: "BOB".into() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_says_what_it_left_alone_where_that_is_asked_for() {
    for shown in [false, true] {
        let house = House::with(|settings| settings.ignored_changes_header = shown);
        let text = "- !group g\n- !host { id: \"a, b\", annotations: { note: one } }\n";
        house.load("demo", text).await;
        let changed = "- !host { id: \"a, b\", owner: !group g, annotations: { note: two } }\n";
        let reply = house.send_as("demo/admin", &Method::POST, ROOT, changed).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        let expected = if shown {
            "owner of demo:host:a%2C b, annotation note of demo:host:a%2C b"
        } else {
            ""
        };
        assert_eq!(reply.header("x-conclave-ignored-changes"), expected);
        // What is changed is not left alone.
        let reply = house.send_as("demo/admin", &Method::PATCH, ROOT, changed).await;
        assert_eq!(reply.header("x-conclave-ignored-changes"), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loads_of_one_account_at_once_all_get_their_turn() {
    let house = std::sync::Arc::new(House::new());
    let token = house.token("demo/admin").await;
    let mut loads = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (house, token) = (house.clone(), token.clone());
        loads.spawn(async move {
            let text = format!("- !variable v{n}\n");
            house.send(&Method::POST, ROOT, &[("authorization", &token)], text).await
        });
    }
    let mut versions = Vec::new();
    while let Some(reply) = loads.join_next().await {
        let reply = reply.unwrap();
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
        versions.push(reply.json()["version"].as_u64().unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=12).collect::<Vec<u64>>());
}
