//! A walk over all routes: without a token, with another account's, without any privilege. A route
//! that the list here does not know fails the walk, so that nobody adds one without thinking of it.

use conclave_api::credentials::seal_api_key;
use conclave_api::router::{Access, Auth, ROUTES};
use conclave_domain::command::{Actor, Command};
use conclave_domain::id::{AccountName, Id};
use conclave_domain::level;
use conclave_domain::time::Timestamp;
use http::{Method, StatusCode};

use super::harness::House;

/// A request for each route: its name, path and query.
const REQUESTS: &[(&str, &str)] = &[
    ("root.show", "/"),
    ("root.options", "/"),
    ("health.show", "/health"),
    ("health.live", "/health/live"),
    ("health.ready", "/health/ready"),
    ("health.leader", "/health/leader"),
    ("health.remote", "/remote_health/n1"),
    ("info.show", "/info"),
    ("metrics.show", "/metrics"),
    ("openapi.show", "/openapi.json"),
    ("authenticators.list", "/authenticators"),
    ("whoami.show", "/whoami"),
    ("accounts.list", "/accounts"),
    ("accounts.create", "/accounts?id=another"),
    ("accounts.delete", "/accounts/another"),
    ("audit.list", "/audit"),
    ("audit.resources", "/audit/resources/demo:variable:x"),
    ("audit.roles", "/audit/roles/demo:user:bob"),
    ("audit.entities", "/audit/entities/demo:user:bob"),
    ("seeds.follower", "/configuration/demo/seed/follower?follower_hostname=f.example.com"),
    ("public_keys.show", "/public_keys/demo/user/bob"),
    ("authn.login", "/authn/demo/login"),
    ("authn.login_service", "/authn-ldap/svc/demo/login"),
    ("authn.authenticate", "/authn/demo/bob/authenticate"),
    ("authn.authenticate_service", "/authn-ldap/svc/demo/bob/authenticate"),
    ("authn.authenticate_cert", "/authn-cert/ci/demo/authenticate"),
    ("authn.authenticate_oidc", "/authn-oidc/idp/demo/authenticate"),
    (
        "authn.authenticate_oidc_code",
        "/authn-oidc/idp/demo/authenticate?code=x&nonce=y&code_verifier=z",
    ),
    ("authn.k8s_inject", "/authn-k8s/dev/inject_client_cert"),
    ("authn.oidc_providers", "/authn-oidc/demo/providers"),
    ("authn.authenticate_gcp", "/authn-gcp/demo/authenticate"),
    ("authn.authenticate_jwt", "/authn-jwt/ci/demo/authenticate"),
    ("authn.password", "/authn/demo/password"),
    ("authn.rotate", "/authn/demo/api_key?role=user:bob"),
    ("authn.key_age", "/authn/demo/api_key?role=user:bob"),
    ("authn.administer", "/authn-gcp/demo?enabled=true"),
    ("authn.administer_service", "/authn-jwt/ci/demo?enabled=true"),
    ("authn.status", "/authn-gcp/demo/status"),
    ("authn.status_service", "/authn-jwt/ci/demo/status"),
    ("secrets.batch", "/secrets?variable_ids=demo:variable:x"),
    ("secrets.get", "/secrets/demo/variable/x"),
    ("secrets.expire", "/secrets/demo/variable/x?expirations"),
    ("secrets.set", "/secrets/demo/variable/x"),
    ("policies.show", "/policies/demo/policy/root"),
    ("policies.append", "/policies/demo/policy/root"),
    ("policies.update", "/policies/demo/policy/root"),
    ("policies.replace", "/policies/demo/policy/root"),
    (
        "host_factories.create_tokens",
        "/host_factory_tokens?host_factory=demo:host_factory:hf&expiration=2050-12-31",
    ),
    ("host_factories.revoke_token", "/host_factory_tokens/known-token"),
    ("host_factories.enrol", "/host_factories/hosts?id=web"),
    ("v2.authenticators.list", "/authenticators/demo"),
    ("v2.authenticators.create", "/authenticators/demo"),
    ("v2.authenticators.show", "/authenticators/demo/jwt/ci"),
    ("v2.authenticators.update", "/authenticators/demo/jwt/ci"),
    ("v2.authenticators.delete", "/authenticators/demo/jwt/ci"),
    ("ldap_sync.policy", "/ldap-sync/policy?config_name=corp"),
    ("ldap_sync.show", "/ldap-sync/demo/corp"),
    ("ldap_sync.apply", "/ldap-sync/demo/corp"),
    ("ldap_sync.runs", "/ldap-sync/demo/corp/runs"),
    ("v2.branches.list", "/branches/demo"),
    ("v2.branches.create", "/branches/demo"),
    ("v2.branches.show", "/branches/demo/b"),
    ("v2.branches.update", "/branches/demo/b"),
    ("v2.branches.delete", "/branches/demo/b"),
    ("v2.members.create", "/groups/demo/g/members"),
    ("v2.members.delete", "/groups/demo/g/members/user/bob"),
    ("issuers.list", "/issuers/demo"),
    ("issuers.create", "/issuers/demo"),
    ("issuers.show", "/issuers/demo/aws"),
    ("issuers.update", "/issuers/demo/aws"),
    ("issuers.delete", "/issuers/demo/aws"),
    ("resources.list", "/resources"),
    ("resources.list_account", "/resources/demo"),
    ("resources.list_kind", "/resources/demo/variable"),
    ("resources.check", "/resources/demo/variable/x?check&privilege=read"),
    ("resources.permitted_roles", "/resources/demo/variable/x?permitted_roles&privilege=read"),
    ("resources.show", "/resources/demo/variable/x"),
    ("roles.graph", "/roles/demo/group/g?graph"),
    ("roles.all", "/roles/demo/group/g?all"),
    ("roles.memberships", "/roles/demo/group/g?memberships"),
    ("roles.members", "/roles/demo/group/g?members"),
    ("roles.show", "/roles/demo/group/g"),
    ("roles.add_member", "/roles/demo/group/g?members&member=demo:user:bob"),
    ("roles.remove_member", "/roles/demo/group/g?members&member=demo:user:bob"),
];

/// Routes that show no more to somebody with a token than that they have one.
const HARMLESS: &[&str] = &[
    "whoami.show",
    "resources.list",
    "resources.list_account",
    "resources.list_kind",
    "v2.authenticators.list",
    "v2.branches.list",
];

/// Routes that tell anybody what is public.
const PUBLIC: &[&str] = &["public_keys.show"];

/// Routes that the owner of one account has no right to.
const ABOVE: &[&str] = &["accounts.list", "accounts.create", "accounts.delete"];

/// Routes that ask a directory, of which there is none here, or that answer with events only.
const ELSEWHERE: &[(&str, u16)] =
    &[("ldap_sync.policy", 406), ("ldap_sync.show", 422), ("ldap_sync.apply", 422)];

const POLICY: &str = "- !variable x\n- !group g\n- !user bob\n- !user eve\n- !layer l\n- !policy conjur/authn-jwt\n- !host-factory {id: hf, layers: !layer l}\n- !webservice conjur/audit\n- !webservice conjur/seed-generation\n- !policy\n  id: conjur/ldap-sync/corp\n  body:\n  - !webservice\n  - !variable runs\n";

fn path_of(name: &str) -> &'static str {
    REQUESTS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("route {name} is not in the walk"))
        .1
}

/// The media type of the v2 API.
const V2: (&str, &str) = ("accept", "application/x.secretsmgr.v2beta+json");

/// What the routes that want JSON are sent; the others get `other`.
fn body_of(name: &str, other: &'static str) -> &'static str {
    match name {
        "v2.authenticators.create" => {
            r#"{"type": "jwt", "name": "ci", "data": {"jwks_uri": "https://x"}}"#
        }
        "v2.authenticators.update" => r#"{"enabled": true}"#,
        "v2.branches.create" => r#"{"name": "b", "branch": "/"}"#,
        "v2.branches.update" => r#"{"annotations": {"a": "b"}}"#,
        "issuers.create" => {
            r#"{"id": "aws", "type": "aws", "max_ttl": 900, "data": {
                "access_key_id": "AKIAIOSFODNN7EXAMPLE",
                "secret_access_key": "canary4711bbbbbbbbbbccccccccccdddddddddd"}}"#
        }
        "issuers.update" => r#"{"max_ttl": 1000}"#,
        "v2.members.create" => r#"{"kind": "user", "id": "bob"}"#,
        _ => other,
    }
}

async fn house() -> House {
    let house = House::with(|settings| {
        settings.dynamic_secrets_enabled = true;
        settings.seed_accounts = vec![AccountName::new("demo").unwrap()];
    });
    house.propose(Actor::Node, Command::RaiseLevel { level: level::NEWEST });
    house.load("demo", POLICY).await;
    house.send_as("demo/admin", &Method::POST, "/secrets/demo/variable/x", "canary-4711").await;
    let factory: Id = "demo:host_factory:hf".parse().unwrap();
    let vault = house.vault.load_full().unwrap();
    let token = seal_api_key(&vault, &factory, "known-token").unwrap();
    let create = Command::CreateHostFactoryTokens {
        factory,
        tokens: vec![token],
        cidr: Vec::new(),
        expires_at: Timestamp(i64::MAX),
        uses: None,
    };
    house.propose(Actor::Node, create);
    let record = r#"{"at":"2026-11-22T05:28:19.123Z","request_id":"r","priority":86,"msgid":"update",
        "operation":"update","result":"success","user":"demo:user:bob","subject":{
        "resource":"demo:variable:x","role":"demo:user:bob"},"client_ip":"::1","message":"m"}"#;
    house.chain(&[record.to_owned()]);
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_nothing_is_shown_and_everything_is_recorded() {
    let house = house().await;
    for route in ROUTES {
        let before = house.records().len();
        let reply = house.send(&route.method, path_of(route.name), &[], "").await;
        let recorded = house.records().len() - before;
        if route.auth == Auth::Open {
            assert!(reply.status.is_success(), "{route:?}: {}", reply.status);
            continue;
        }
        assert_eq!(recorded, 1, "{route:?}");
        if PUBLIC.contains(&route.name) {
            assert_eq!(reply.status, StatusCode::OK, "{route:?}");
            continue;
        }
        // Who brings a code to a service that is not in force is told, as by Conjur, that it asked wrongly.
        let is_by_code = route.name == "authn.authenticate_oidc_code";
        let status = if is_by_code { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
        assert_eq!(reply.status, status, "{route:?}");
        let expected = if route.auth == Auth::Token { "Authorization missing" } else { "" };
        assert_eq!(reply.text(), expected, "{route:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_nothing_and_leave_a_record() {
    for who in ["demo/eve", "other/admin"] {
        let house = house().await;
        let before_all = house.state.state_hash().unwrap().hash;
        let token = house.token(who).await;
        let headers = [("authorization", token.as_str()), V2];
        for route in ROUTES.iter().filter(|route| route.auth != Auth::Open) {
            let before = house.records().len();
            let body = body_of(route.name, "- !group h\n");
            let reply = house.send(&route.method, path_of(route.name), &headers, body).await;
            let records = house.records().split_off(before);
            assert_eq!(records.len(), 1, "{who} {route:?}: {records:?}");
            let allowed = HARMLESS.contains(&route.name) || PUBLIC.contains(&route.name);
            assert_eq!(reply.status.is_success(), allowed, "{who} {route:?}: {}", reply.text());
            assert!(reply.status.as_u16() < 500, "{who} {route:?}");
            assert!(!reply.text().contains("canary"), "{who} {route:?}");
            if allowed && route.name != "whoami.show" {
                assert!(!reply.text().contains("demo:"), "{who} {route:?}");
            }
            let result = if allowed { "success" } else { "failure" };
            assert_eq!(records[0]["result"], result, "{who} {route:?}");
            if route.access == Access::Write {
                let after = house.state.state_hash().unwrap().hash;
                assert_eq!(before_all, after, "{who} {route:?} changed something");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_gets_what_it_asks_for_and_leaves_a_record() {
    let house = house().await;
    let token = house.token("demo/admin").await;
    for route in ROUTES.iter().filter(|route| route.auth == Auth::Token) {
        let before = house.records().len();
        let headers = [("authorization", token.as_str()), V2];
        // Replacing with what is there keeps it there for the routes that follow.
        let body = body_of(route.name, POLICY);
        let reply = house.send(&route.method, path_of(route.name), &headers, body).await;
        if ABOVE.contains(&route.name) {
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{route:?}");
            continue;
        }
        if let Some((_, status)) = ELSEWHERE.iter().find(|(name, _)| *name == route.name) {
            assert_eq!(reply.status.as_u16(), *status, "{route:?}");
            continue;
        }
        assert!(reply.status.is_success(), "{route:?}: {} {}", reply.status, reply.text());
        let records = house.records().split_off(before);
        assert!(!records.is_empty(), "{route:?}");
        assert!(records.iter().all(|record| record["result"] == "success"), "{route:?}");
        assert!(!format!("{records:?}").contains("canary"), "{route:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_known_of_looks_like_what_is_not_there() {
    let house = house().await;
    let token = house.token("demo/eve").await;
    let headers = [("authorization", token.as_str()), ("x-request-id", "same")];
    for path in [
        "/secrets/demo/variable/x",
        "/resources/demo/variable/x",
        "/resources/demo/variable/x?check&privilege=read",
        "/resources/demo/variable/x?permitted_roles&privilege=read",
    ] {
        let hidden = house.send(&Method::GET, path, &headers, "").await;
        let absent = house.send(&Method::GET, &path.replace("/x", "/y"), &headers, "").await;
        assert_eq!(hidden.status, absent.status);
        assert_eq!(hidden.text().replace('x', "y"), absent.text().replace('x', "y"), "{path}");
        assert_eq!(hidden.headers, absent.headers, "{path}");
    }
}
