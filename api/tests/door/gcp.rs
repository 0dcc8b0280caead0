//! `authn-gcp` against an issuer that stands in Google's place: which identity tokens let a host in, and all
//! that do not, each with its reason in the audit record and none of it in the answer.

use std::time::Duration;

use conclave_api::ports::Part;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::{Issuer, Says, keys};
use super::refusals;

const NOW: i64 = 1_700_000_000;
const PATH: &str = "/authn-gcp/demo/authenticate";
const POLICY: &str = "
- !policy
  id: apps
  body:
  - !host {id: project, annotations: {authn-gcp/project-id: acme}}
  - !host
    id: all
    annotations:
      authn-gcp/project-id: acme
      authn-gcp/instance-name: web-1
      authn-gcp/service-account-id: '1134'
      authn-gcp/service-account-email: web@acme.iam.gserviceaccount.com
  - !host {id: account, annotations: {authn-gcp/service-account-id: '1134'}}
  - !host
    id: email
    annotations: {authn-gcp/service-account-email: web@acme.iam.gserviceaccount.com}
  - !host {id: other-project, annotations: {authn-gcp/project-id: other}}
  - !host
    id: other-name
    annotations: {authn-gcp/project-id: acme, authn-gcp/instance-name: web-2}
  - !host {id: other-account, annotations: {authn-gcp/service-account-id: '1135'}}
  - !host {id: other-email, annotations: {authn-gcp/service-account-email: web@other.example}}
  - !host {id: name-only, annotations: {authn-gcp/instance-name: web-1}}
  - !host {id: strange, annotations: {authn-gcp/project-id: acme, authn-gcp/colour: red}}
  - !host {id: of-service, annotations: {authn-gcp/x/project-id: acme}}
  - !host plain
  - !host {id: fenced, restricted_to: [10.1.0.0/16], annotations: {authn-gcp/project-id: acme}}
  - !host {id: unentitled, annotations: {authn-gcp/project-id: acme}}
- !host {id: root-host, annotations: {authn-gcp/project-id: acme}}
- !user {id: alice, annotations: {authn-gcp/project-id: acme}}
- !policy
  id: conjur/authn-gcp
  body:
  - !webservice
  - !webservice status
  - !group apps
  - !permit {role: !group apps, privileges: [read, authenticate], resource: !webservice}
- !grant
  role: !group conjur/authn-gcp/apps
  members: [!host apps/project, !host apps/all, !host apps/account, !host apps/email,
    !host apps/other-project, !host apps/other-name, !host apps/other-account, !host apps/other-email,
    !host apps/name-only, !host apps/strange, !host apps/of-service, !host apps/plain,
    !host apps/fenced, !host root-host, !user alice]
";

struct World {
    house: House,
    issuer: Issuer,
}

impl World {
    async fn new() -> Self {
        let issuer = Issuer::start().await;
        issuer.shows(&[&keys()[0]]);
        let house = House::calling_out(|settings| {
            settings.authenticators = vec!["authn-gcp".to_owned()];
            settings.clouds.google_uri.clone_from(&issuer.url);
            settings.clouds.authorities = Some(issuer.authority.clone());
        });
        house.load("demo", POLICY).await;
        Self { house, issuer }
    }

    /// What the metadata server gives a machine, in full; null takes a claim away.
    fn claims(&self, host: &str, changes: &Value) -> Value {
        let mut claims = json!({
            "iss": self.issuer.url, "aud": format!("conjur/demo/host/{host}"), "azp": "1134",
            "sub": "1134", "email": "web@acme.iam.gserviceaccount.com", "email_verified": true,
            "iat": NOW, "exp": NOW + 3600,
            "google": {"compute_engine": {
                "instance_creation_timestamp": NOW - 100, "instance_id": "77", "instance_name": "web-1",
                "project_id": "acme", "project_number": 99, "zone": "europe-west3-a",
            }},
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    fn token(&self, host: &str, changes: &Value) -> String {
        keys()[0].token(&self.claims(host, changes))
    }

    async fn post(&self, path: &str, body: String) -> Reply {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        self.house.send(&Method::POST, path, &form, body).await
    }

    async fn try_token(&self, token: &str) -> Reply {
        self.post(PATH, format!("jwt={token}")).await
    }

    async fn let_in(&self, what: &str, token: &str) -> Value {
        let reply = self.try_token(token).await;
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{what}: {record}");
        assert!(reply.text().contains("\"protected\""), "{what}");
        record
    }

    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        if !reason.starts_with("CONJ00016E") {
            assert_eq!(reply.text(), "", "{what}");
        }
        assert_eq!(record["result"], "failure", "{what}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_and_service_accounts_are_let_in() {
    let world = World::new().await;
    for host in ["apps/project", "apps/all", "apps/account", "apps/email", "root-host"] {
        let record = world.let_in(host, &world.token(host, &json!({}))).await;
        assert_eq!(record["user"], format!("demo:host:{host}"));
    }
    let record = world.house.records().pop().unwrap();
    assert!(
        record["message"].as_str().unwrap().contains(
            "demo:host:root-host successfully authenticated with authenticator authn-gcp"
        ),
        "{record}"
    );
    // The id of the host, encoded or not.
    for audience in ["conjur/demo/host%2Fapps%2Fproject", "conjur/demo/host/apps%2Fproject"] {
        let token = world.token("", &json!({"aud": audience}));
        world.let_in(audience, &token).await;
    }
    // What makes tokens without being a machine, as functions do, has an account and nothing else.
    for host in ["apps/account", "apps/email"] {
        world.let_in(host, &world.token(host, &json!({"google": null}))).await;
    }
    // Without an address where none is wanted.
    let changes = json!({"email": null, "email_verified": null});
    world.let_in("no address", &world.token("apps/project", &changes)).await;
    assert_eq!(world.issuer.asked("/.well-known/openid-configuration"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_token_of_google_does() {
    let world = World::new().await;
    for (what, body) in [
        ("no body", String::new()),
        ("another field", format!("id_token={}", world.token("apps/project", &json!({})))),
        ("an empty field", "jwt=".to_owned()),
        ("JSON", format!("{{\"jwt\":\"{}\"}}", world.token("apps/project", &json!({})))),
    ] {
        let reply = world.post(PATH, body).await;
        world.refused(what, &reply, 400, "CONJ00009E");
    }
    let good = world.claims("apps/project", &json!({}));
    let header = json!({"alg": "RS256", "kid": "first"});
    for (what, token, reason) in [
        ("no token", "x".to_owned(), "CONJ00077E"),
        ("another's key", keys()[2].sign(&header, &good), "CONJ00035E"),
        ("an unknown key", keys()[2].token(&good), "no key of the token's kid"),
        ("alg none", keys()[0].sign(&json!({"alg": "none", "kid": "first"}), &good), "CONJ00035E"),
        (
            "alg HS256",
            keys()[0].sign(&json!({"alg": "HS256", "kid": "first"}), &good),
            "CONJ00035E",
        ),
    ] {
        let reply = world.try_token(&token).await;
        world.refused(what, &reply, 401, reason);
    }
    for (what, changes, reason) in [
        ("expired", json!({"exp": NOW}), "CONJ00016E"),
        ("no exp", json!({"exp": null}), "CONJ00091E"),
        ("of tomorrow", json!({"iat": NOW + 86400}), "lies ahead"),
        ("no issuer", json!({"iss": null}), "CONJ00091E"),
        ("another issuer", json!({"iss": "https://accounts.google.com"}), "another issuer"),
        ("the issuer without its scheme", json!({"iss": "accounts.google.com"}), "another issuer"),
        ("no audience", json!({"aud": null}), "CONJ00070E"),
        ("audiences in a list", json!({"aud": ["conjur/demo/host/apps/project"]}), "CONJ00067E"),
        ("an audience that is a number", json!({"aud": 7}), "CONJ00067E"),
        ("an empty audience", json!({"aud": ""}), "CONJ00067E"),
        ("an audience of others", json!({"aud": "https://example.com"}), "CONJ00067E"),
        ("an OAuth client's", json!({"aud": "123.apps.googleusercontent.com"}), "CONJ00067E"),
        ("no account", json!({"aud": "conjur/demo"}), "CONJ00067E"),
        ("no host", json!({"aud": "conjur/demo/"}), "CONJ00067E"),
        ("host without an id", json!({"aud": "conjur/demo/host/"}), "CONJ00007E"),
        ("no kind", json!({"aud": "conjur/demo/apps/project"}), "CONJ00067E"),
        ("a user", json!({"aud": "conjur/demo/user/alice"}), "CONJ00067E"),
        ("a user without a kind", json!({"aud": "conjur/demo/alice"}), "CONJ00067E"),
        ("admin", json!({"aud": "conjur/demo/admin"}), "CONJ00067E"),
        ("another account", json!({"aud": "conjur/other/host/apps/project"}), "CONJ00068E"),
        ("an account in other case", json!({"aud": "conjur/DEMO/host/apps/project"}), "CONJ00068E"),
        ("an empty account", json!({"aud": "conjur//host/apps/project"}), "CONJ00068E"),
        ("an encoded account", json!({"aud": "conjur/dem%6f/host/apps/project"}), "CONJ00068E"),
        ("another beginning", json!({"aud": "Conjur/demo/host/apps/project"}), "CONJ00067E"),
        ("something before it", json!({"aud": "/conjur/demo/host/apps/project"}), "CONJ00067E"),
        ("encoded twice", json!({"aud": "conjur/demo/host%252Fapps%252Fproject"}), "CONJ00067E"),
        ("no UTF-8", json!({"aud": "conjur/demo/host%2F%ff"}), "CONJ00067E"),
        ("no such host", json!({"aud": "conjur/demo/host/apps/nobody"}), "CONJ00007E"),
        ("above its path", json!({"aud": "conjur/demo/host/apps/../project"}), "CONJ00007E"),
        ("a slash after it", json!({"aud": "conjur/demo/host/apps/project/"}), "CONJ00007E"),
    ] {
        let reply = world.try_token(&world.token("apps/project", &changes)).await;
        world.refused(what, &reply, 401, reason);
    }
    let machine = |name: &str, value: Value| {
        let mut machine = json!({"instance_name": "web-1", "project_id": "acme"});
        machine[name] = value;
        machine.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        json!({"google": {"compute_engine": machine}})
    };
    for (host, what, changes, status, reason) in [
        ("apps/other-project", "another project", json!({}), 401, "CONJ00049E"),
        ("apps/other-name", "another machine", json!({}), 401, "CONJ00049E"),
        ("apps/other-account", "another account", json!({}), 401, "CONJ00049E"),
        ("apps/other-email", "another address", json!({}), 401, "CONJ00049E"),
        ("apps/name-only", "a name alone", json!({}), 401, "CONJ00057E"),
        ("apps/plain", "no annotation", json!({}), 401, "CONJ00057E"),
        ("apps/of-service", "annotations for a service", json!({}), 401, "CONJ00057E"),
        ("apps/strange", "an unknown annotation", json!({}), 401, "CONJ00050E"),
        ("apps/project", "no machine", json!({"google": null}), 401, "CONJ00051E"),
        (
            "apps/project",
            "google is a text",
            json!({"google": "compute_engine"}),
            401,
            "CONJ00051E",
        ),
        (
            "apps/project",
            "machine is a list",
            json!({"google": {"compute_engine": ["acme"]}}),
            401,
            "CONJ00051E",
        ),
        ("apps/project", "no project", machine("project_id", Value::Null), 401, "CONJ00051E"),
        ("apps/project", "an empty project", machine("project_id", json!("")), 401, "CONJ00051E"),
        (
            "apps/project",
            "a project in a list",
            machine("project_id", json!(["acme"])),
            401,
            "CONJ00051E",
        ),
        (
            "apps/project",
            "a project in other case",
            machine("project_id", json!("ACME")),
            401,
            "CONJ00049E",
        ),
        (
            "apps/project",
            "a longer project",
            machine("project_id", json!("acme-2")),
            401,
            "CONJ00049E",
        ),
        (
            "apps/project",
            "a project beside it",
            json!({"google": null, "project_id": "acme"}),
            401,
            "CONJ00051E",
        ),
        ("apps/all", "one of four", machine("instance_name", json!("web-2")), 401, "CONJ00049E"),
        ("apps/all", "three of four", machine("instance_name", Value::Null), 401, "CONJ00051E"),
        ("apps/account", "no subject", json!({"sub": null}), 401, "CONJ00051E"),
        ("apps/account", "a subject that is a number", json!({"sub": 1134}), 401, "CONJ00051E"),
        (
            "apps/account",
            "azp in its place",
            json!({"sub": null, "azp": "1134"}),
            401,
            "CONJ00051E",
        ),
        ("apps/email", "no address", json!({"email": null}), 401, "CONJ00051E"),
        (
            "apps/email",
            "an address not verified",
            json!({"email_verified": false}),
            401,
            "CONJ00051E",
        ),
        ("apps/email", "verified by a text", json!({"email_verified": "true"}), 401, "CONJ00051E"),
        ("apps/email", "nothing of verified", json!({"email_verified": null}), 401, "CONJ00051E"),
        (
            "apps/email",
            "an address in other case",
            json!({"email": "WEB@acme.iam.gserviceaccount.com"}),
            401,
            "CONJ00049E",
        ),
        ("apps/fenced", "from elsewhere", json!({}), 401, "CONJ00003E"),
        ("apps/unentitled", "not entitled", json!({}), 403, "CONJ00006E"),
    ] {
        let reply = world.try_token(&world.token(host, &changes)).await;
        world.refused(what, &reply, status, reason);
    }
    let body = format!("jwt={}", world.token("apps/project", &json!({})));
    for (what, path, reason) in [
        ("no account", "/authn-gcp/nowhere/authenticate", "CONJ00008E"),
        ("another account", "/authn-gcp/other/authenticate", "CONJ00005E"),
        ("a service", "/authn-gcp/svc/demo/host%2Fapps%2Fproject/authenticate", "CONJ00004E"),
        ("a login", "/authn-gcp/demo/host%2Fapps%2Fproject/authenticate", "CONJ00001E"),
    ] {
        let reply = world.post(path, body.clone()).await;
        world.refused(what, &reply, 401, reason);
    }
    refusals::count(&world.house, "api/tests/door/gcp.rs::no_other_token_of_google_does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_asks_google_and_a_follower_lets_in_alone() {
    let world = World::new().await;
    let status = async || {
        let path = "/authn-gcp/demo/status";
        world.house.send_as("demo/admin", &Method::GET, path, "").await.text()
    };
    assert_eq!(status().await, "{\"status\":\"ok\"}");
    let evil = json!({"issuer": "https://evil.example", "jwks_uri": "https://evil.example"});
    world.issuer.says("/.well-known/openid-configuration", Says::Json(evil));
    let text = status().await;
    assert!(text.contains("CONJ00011E") && text.contains("another issuer"), "{text}");
    // What is known goes on being known, on a follower too, and without the leader.
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    world.let_in("follower", &world.token("apps/project", &json!({}))).await;
}
