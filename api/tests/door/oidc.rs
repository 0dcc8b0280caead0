//! `authn-oidc` with ID tokens, against a provider that tells over HTTPS where its keys are.

use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::{Issuer, Says, keys};
use super::refusals;

const NOW: i64 = 1_700_000_000;
const POLICY: &str = "
- !user alice
- !user {id: fenced, restricted_to: [10.1.0.0/16]}
- !user unentitled
- !host machine
- !policy
  id: conjur/authn-oidc/idp
  body:
  - !webservice
  - !variable provider-uri
  - !variable id-token-user-property
  - !variable ca-cert
- !permit
  roles: [!user alice, !user fenced, !user admin, !host machine]
  privileges: [read, authenticate]
  resource: !webservice conjur/authn-oidc/idp
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
            settings.authenticators = vec!["authn-oidc/idp".to_owned()];
        });
        house.load("demo", POLICY).await;
        let world = Self { house, issuer };
        for (variable, value) in [
            ("provider-uri", world.issuer.url.as_str()),
            ("id-token-user-property", "preferred_username"),
            ("ca-cert", world.issuer.authority.as_str()),
        ] {
            world.set(variable, value).await;
        }
        world
    }

    async fn set(&self, variable: &str, value: &str) {
        let id = format!("conjur/authn-oidc/idp/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }

    /// A token that says this besides, or not.
    fn token(&self, changes: &Value) -> String {
        let mut claims = json!({
            "iss": self.issuer.url, "aud": "conclave", "sub": "1234", "exp": NOW + 300, "iat": NOW,
            "preferred_username": "alice",
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        keys()[0].token(&claims)
    }

    async fn post(&self, headers: &[(&str, &str)], body: String) -> Reply {
        self.house.send(&Method::POST, "/authn-oidc/idp/demo/authenticate", headers, body).await
    }

    async fn try_token(&self, token: &str) -> Reply {
        self.post(&[], format!("id_token={token}")).await
    }

    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        if !reason.starts_with("CONJ00016E") {
            assert_eq!(reply.text(), "", "{what}");
        }
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_tokens_let_their_bearers_in_and_no_others() {
    let world = World::new().await;
    let token = world.token(&json!({}));
    assert_eq!(world.try_token(&token).await.status, StatusCode::OK);
    let record = world.house.records().pop().unwrap();
    assert_eq!(record["user"], "demo:user:alice");
    let header = format!("Bearer {token}");
    let reply = world.post(&[("authorization", &header)], String::new()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let host = world.token(&json!({"preferred_username": "host/machine"}));
    assert_eq!(world.try_token(&host).await.status, StatusCode::OK);

    for (what, body) in [("no body", ""), ("another field", "jwt=x"), ("empty", "id_token=")] {
        let reply = world.post(&[], body.to_owned()).await;
        world.refused(what, &reply, 400, "CONJ00009E");
    }
    for (what, changes, status, reason) in [
        ("expired", json!({"exp": NOW - 1}), 401, "CONJ00016E"),
        ("no exp", json!({"exp": null}), 401, "CONJ00091E"),
        ("another issuer", json!({"iss": "https://evil.example"}), 401, "another issuer"),
        ("no issuer", json!({"iss": null}), 401, "CONJ00091E"),
        ("of tomorrow", json!({"iat": NOW + 86400}), 401, "lies ahead"),
        ("no login", json!({"preferred_username": null}), 401, "CONJ00013E"),
        ("an empty login", json!({"preferred_username": " "}), 401, "CONJ00013E"),
        ("a login that is a list", json!({"preferred_username": ["alice"]}), 401, "CONJ00013E"),
        ("admin", json!({"preferred_username": "admin"}), 401, "CONJ00017E"),
        ("admin by its kind", json!({"preferred_username": "user/admin"}), 401, "CONJ00017E"),
        ("nobody", json!({"preferred_username": "nobody"}), 401, "CONJ00007E"),
        ("a group", json!({"preferred_username": "group/x"}), 401, "CONJ00007E"),
        ("from elsewhere", json!({"preferred_username": "fenced"}), 401, "CONJ00003E"),
        ("not entitled", json!({"preferred_username": "unentitled"}), 403, "CONJ00006E"),
    ] {
        let reply = world.try_token(&world.token(&changes)).await;
        world.refused(what, &reply, status, reason);
    }
    let foreign = keys()[2].sign(
        &json!({"alg": "RS256", "kid": "first"}),
        &json!({"iss": world.issuer.url, "exp": NOW + 300, "preferred_username": "alice"}),
    );
    let reply = world.try_token(&foreign).await;
    world.refused("a foreign key", &reply, 401, "CONJ00035E");
    // For whom it is, where that is declared.
    let declared = "- !policy\n  id: conjur/authn-oidc/idp\n  body:\n  - !variable client-id\n";
    world.house.load("demo", declared).await;
    let reply = world.try_token(&token).await;
    world.refused("declared, and not set", &reply, 401, "CONJ00037E");
    world.set("client-id", "another").await;
    let reply = world.try_token(&token).await;
    world.refused("for others", &reply, 401, "for others");
    world.set("client-id", "conclave").await;
    assert_eq!(world.try_token(&token).await.status, StatusCode::OK);
    refusals::count(
        &world.house,
        "api/tests/door/oidc.rs::id_tokens_let_their_bearers_in_and_no_others",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_not_what_it_is_called_is_told_by_the_status() {
    let world = World::new().await;
    let status = async || {
        let path = "/authn-oidc/idp/demo/status";
        world.house.send_as("demo/admin", &Method::GET, path, "").await.text()
    };
    world.house.load("demo", "- !webservice conjur/authn-oidc/idp/status\n").await;
    assert_eq!(status().await, "{\"status\":\"ok\"}");
    let document = json!({"issuer": "https://evil.example", "jwks_uri": "https://evil.example"});
    world.issuer.says("/.well-known/openid-configuration", Says::Json(document));
    assert!(status().await.contains("CONJ00011E"));
    world.set("provider-uri", "http://localhost").await;
    assert!(status().await.contains("https://"));
    world.set("id-token-user-property", "1 2").await;
    world.set("provider-uri", "https://localhost").await;
    assert!(status().await.contains("is no claim"));
}
