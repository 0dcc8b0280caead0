//! `authn-jwt` against an issuer that shows its keys over HTTPS: what is let in, and all that is not,
//! each with its reason in the audit record and none of it in the answer.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conclave_api::ports::Part;
use conclave_api::settings::Settings;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::{Issuer, Key, Says, keys, message};
use super::refusals;

/// The time in every house, in seconds.
const NOW: i64 = 1_700_000_000;

/// A service of `authn-jwt` with its variables, and a group that may use it.
fn service(name: &str, variables: &[(&str, &str)]) -> String {
    let declared: Vec<String> =
        variables.iter().map(|(name, _)| format!("  - !variable {name}\n")).collect();
    format!(
        "- !policy\n  id: conjur/authn-jwt/{name}\n  body:\n  - !webservice\n  - !webservice status\n\
         {}  - !group apps\n  - !permit {{role: !group apps, privileges: [read, authenticate], \
         resource: !webservice}}\n- !grant {{role: !group conjur/authn-jwt/{name}/apps, \
         members: [!host apps/web, !host apps/fenced, !host apps/plain, !user robot]}}\n",
        declared.join("")
    )
}

const ROLES: &str = "
- !policy
  id: apps
  body:
  - !host
    id: web
    annotations:
      authn-jwt/ci/ns: prod
      authn-jwt/by-host/ns: prod
      authn-jwt/ci/kubernetes.io/namespace: web
      authn-jwt/url/ns: prod
      authn-jwt/provider/ns: prod
      authn-jwt/given/ns: prod
      authn-jwt/enforcing/ns: prod
      authn-jwt/aliased/where: prod
      authn-jwt/by-real-name/ns: prod
      authn-jwt/aud/ns: prod
      authn-jwt/no-path/ns: prod
      authn-jwt/nested/a/b/c: deep
      authn-jwt/ns: everybody
  - !host
    id: fenced
    restricted_to: [10.1.0.0/16]
    annotations: {authn-jwt/ci/ns: prod}
  - !host plain
  - !host
    id: unentitled
    annotations: {authn-jwt/ci/ns: prod}
- !host
  id: root-host
  annotations: {authn-jwt/no-path/ns: prod}
- !user
  id: robot
  annotations: {authn-jwt/url/ns: prod}
";

/// A house, the issuer that its services believe, and what a good token says.
struct World {
    house: House,
    issuer: Issuer,
}

async fn world() -> World {
    world_with(|_settings| {}).await
}

async fn world_with(adjust: impl FnOnce(&mut Settings)) -> World {
    let issuer = Issuer::start().await;
    issuer.shows(&[&keys()[0]]);
    let house = House::calling_out(|settings| {
        settings.authenticators = SERVICES.iter().map(|name| format!("authn-jwt/{name}")).collect();
        adjust(settings);
    });
    let world = World { house, issuer };
    let all = world.services();
    let mut policy: String = all.iter().map(|(name, values)| service(name, values)).collect();
    policy.insert_str(0, ROLES);
    policy.push_str(
        "- !grant {role: !group conjur/authn-jwt/no-path/apps, member: !host root-host}\n",
    );
    world.house.load("demo", &policy).await;
    for (name, values) in all {
        for (variable, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
            world.set(name, variable, value).await;
        }
    }
    world
}

const SERVICES: [&str; 24] = [
    "by-host",
    "given-ca",
    "unset",
    "ci",
    "url",
    "provider",
    "given",
    "enforcing",
    "aliased",
    "by-real-name",
    "aud",
    "no-path",
    "nested",
    "no-source",
    "two-sources",
    "plain-http",
    "bad-ca",
    "other-ca",
    "given-no-issuer",
    "given-broken",
    "bad-identity",
    "bad-alias",
    "bad-enforced",
    "userinfo",
];

impl World {
    fn services(&self) -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
        // The texts live as long as the tests.
        let keep = |text: String| -> &'static str { text.leak() };
        let uri = keep(format!("{}/keys", self.issuer.url));
        let ca = keep(self.issuer.authority.clone());
        let at = [("jwks-uri", uri), ("ca-cert", ca), ("issuer", "https://idp.example")];
        let with = |more: &[(&'static str, &'static str)]| [&at[..], more].concat();
        let host = [("token-app-property", "host"), ("identity-path", "apps")];
        let given = json!({"type": "jwks", "value": {"keys": [keys()[0].jwk()]}});
        let given = keep(given.to_string());
        let other_ca = keep(super::issuer::certificates().0);
        vec![
            ("ci", with(&host)),
            ("url", with(&[])),
            ("by-host", vec![("jwks-uri", uri), ("ca-cert", ca), host[0], host[1]]),
            (
                "given-ca",
                vec![("public-keys", given), ("issuer", "x"), ("ca-cert", ca), host[0], host[1]],
            ),
            ("unset", with(&[host[0], host[1], ("audience", "")])),
            (
                "provider",
                [&[("provider-uri", keep(self.issuer.url.clone())), ("ca-cert", ca)][..], &host]
                    .concat(),
            ),
            (
                "given",
                [&[("public-keys", given), ("issuer", "https://idp.example")][..], &host].concat(),
            ),
            ("enforcing", with(&[host[0], host[1], ("enforced-claims", "ns,ref")])),
            (
                "aliased",
                with(&[host[0], host[1], ("claim-aliases", "where:ns"), ("enforced-claims", "ns")]),
            ),
            ("by-real-name", with(&[host[0], host[1], ("claim-aliases", "where:ns")])),
            ("aud", with(&[host[0], host[1], ("audience", "conclave")])),
            ("no-path", with(&[("token-app-property", "names/of/host")])),
            ("nested", with(&[host[0], host[1]])),
            ("no-source", vec![("issuer", "https://idp.example")]),
            ("two-sources", with(&[("provider-uri", "https://localhost")])),
            ("plain-http", vec![("jwks-uri", "http://localhost/keys"), host[0], host[1]]),
            ("bad-ca", vec![("jwks-uri", uri), ("ca-cert", "nonsense"), host[0], host[1]]),
            ("other-ca", vec![("jwks-uri", uri), ("ca-cert", other_ca), host[0], host[1]]),
            ("given-no-issuer", vec![("public-keys", given), host[0], host[1]]),
            ("given-broken", vec![("public-keys", "{}"), ("issuer", "x"), host[0], host[1]]),
            ("bad-identity", with(&[("token-app-property", "1 2")])),
            ("bad-alias", with(&[host[0], ("claim-aliases", "where:exp")])),
            ("bad-enforced", with(&[host[0], ("enforced-claims", "iss")])),
            ("userinfo", vec![("jwks-uri", "https://a:b@localhost/keys"), host[0], host[1]]),
        ]
    }

    async fn set(&self, service: &str, variable: &str, value: &str) {
        let id = format!("conjur/authn-jwt/{service}/{variable}");
        let id = utf8_percent_encode(&id, NON_ALPHANUMERIC);
        let uri = format!("/secrets/demo/variable/{id}");
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{uri}");
    }

    async fn post(&self, path: &str, body: impl Into<axum::body::Body>) -> Reply {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        self.house.send(&Method::POST, path, &form, body).await
    }

    async fn try_token(&self, service: &str, token: &str) -> Reply {
        let path = format!("/authn-jwt/{service}/demo/authenticate");
        self.post(&path, format!("jwt={token}")).await
    }

    fn last_record(&self) -> Value {
        self.house.records().pop().unwrap()
    }

    async fn let_in(&self, service: &str, token: &str) {
        let reply = self.try_token(service, token).await;
        assert_eq!(reply.status, StatusCode::OK, "{service}: {}", self.last_record());
        assert!(reply.text().contains("\"protected\""), "{service}");
    }

    /// Refused with this status and reason, in an answer that says nothing.
    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.last_record();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        let body = reply.text();
        if reason.starts_with("CONJ00016E") {
            let said = reply.json();
            assert_eq!(said["error"]["message"], "CONJ00016E Token expired", "{what}: {body}");
        } else {
            assert_eq!(body, "", "{what}");
        }
        assert_eq!(record["result"], "failure", "{what}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
        for value in reply.headers.values() {
            let value = value.to_str().unwrap_or_default();
            assert!(!value.contains("CONJ"), "{what}: a header tells {value:?}");
        }
    }
}

/// What a good token says.
fn good() -> Value {
    json!({
        "iss": "https://idp.example", "aud": "conclave", "sub": "system:serviceaccount:web",
        "exp": NOW + 300, "iat": NOW, "nbf": NOW, "jti": "1", "host": "web", "ns": "prod",
        "kubernetes.io": {"namespace": "web"}, "a": {"b": {"c": "deep"}},
        "names": {"of": {"host": "root-host"}},
    })
}

/// A good token with other claims; null takes a claim away.
fn but(changes: &Value) -> Value {
    let mut claims = good();
    let object = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
    claims
}

fn first() -> &'static Key {
    &keys()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_the_issuer_let_their_hosts_in() {
    let world = world().await;
    for service in ["ci", "given", "aliased", "aud", "no-path", "nested"] {
        world.let_in(service, &first().token(&good())).await;
    }
    world.let_in("provider", &first().token(&but(&json!({"iss": world.issuer.url})))).await;
    world.let_in("aud", &first().token(&but(&json!({"aud": ["x", "conclave"]})))).await;
    // Without `audience` a token for whomever, or for nobody, is taken.
    world.let_in("ci", &first().token(&but(&json!({"aud": null})))).await;
    for absent in ["iat", "nbf", "jti", "sub"] {
        world.let_in("ci", &first().token(&but(&json!({absent: null})))).await;
    }
    // The issuer's clock may be a little ahead.
    world.let_in("ci", &first().token(&but(&json!({"iat": NOW + 5, "nbf": NOW + 5})))).await;
    for algorithm in ["RS256", "RS384", "RS512"] {
        let header = json!({"alg": algorithm, "kid": "first"});
        world.let_in("ci", &first().sign(&header, &good())).await;
    }
    // What a token says of its own keys is not looked at, and does no harm.
    let header = json!({"alg": "RS256", "kid": "first", "jku": "https://evil.example/keys"});
    world.let_in("ci", &first().sign(&header, &good())).await;
    // One fetch served all of a service.
    assert_eq!(world.issuer.asked("/.well-known/openid-configuration"), 1);

    // The record names who the token proved.
    let record = {
        world.let_in("ci", &first().token(&good())).await;
        world.last_record()
    };
    assert_eq!(record["result"], "success");
    assert_eq!(record["user"], "demo:host:apps/web");
    let message = record["message"].as_str().unwrap();
    assert!(
        message.contains(
            "demo:host:apps/web successfully authenticated with authenticator authn-jwt service ci"
        ),
        "{message}"
    );

    // The path names it, and its annotations prove it.
    let path = "/authn-jwt/url/demo/host%2Fapps%2Fweb/authenticate";
    let reply = world.post(path, format!("jwt={}", first().token(&good()))).await;
    assert_eq!(reply.status, StatusCode::OK);
    let path = "/authn-jwt/url/demo/robot/authenticate";
    let reply = world.post(path, format!("jwt={}", first().token(&good()))).await;
    assert_eq!(reply.status, StatusCode::OK);
    // The same forms as for API keys.
    let reply = world
        .house
        .send(
            &Method::POST,
            "/authn-jwt/ci/demo/authenticate",
            &[("accept-encoding", "base64")],
            format!("jwt={}", first().token(&good())),
        )
        .await;
    assert_eq!(reply.header("content-encoding"), "base64");
    // And the token opens what the host may see.
    let reply = world.try_token("ci", &first().token(&good())).await;
    let token = super::harness::header_of(&reply.body);
    let reply = world.house.send(&Method::GET, "/whoami", &[("authorization", &token)], "").await;
    assert_eq!(reply.json()["username"], "host/apps/web");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_token_does() {
    let world = world().await;
    let header = json!({"alg": "RS256", "kid": "first"});
    let good_token = first().token(&good());
    let parts: Vec<&str> = good_token.split('.').collect();
    let [head, body, signature] = parts[..] else { panic!("no three parts") };

    // Form.
    for (what, token, reason) in [
        ("one part", head.to_owned(), "CONJ00077E"),
        ("two parts", format!("{head}.{body}"), "CONJ00077E"),
        ("four parts", format!("{good_token}.x"), "CONJ00077E"),
        ("empty signature", format!("{head}.{body}."), "CONJ00077E"),
        ("empty claims", format!("{head}..{signature}"), "CONJ00077E"),
        ("empty header", format!(".{body}.{signature}"), "CONJ00077E"),
        ("padding", format!("{head}=.{body}.{signature}"), "CONJ00077E"),
        ("standard base64", format!("{head}.{body}.%2F%2B"), "CONJ00077E"),
        ("space inside", format!("{head}. {body}.{signature}"), "CONJ00077E"),
        ("NUL inside", format!("{head}.%00{body}.{signature}"), "CONJ00077E"),
        ("header is no JSON", format!("YWJj.{body}.{signature}"), "CONJ00035E"),
        ("header is a list", format!("W10.{body}.{signature}"), "CONJ00035E"),
        ("claims are no JSON", first().sign_text(&header, "abc"), "CONJ00035E"),
        ("claims are a list", first().sign_text(&header, "[]"), "CONJ00035E"),
        ("claims are empty", first().sign_text(&header, "{}"), "CONJ00091E"),
    ] {
        let reply = world.try_token("ci", &token).await;
        world.refused(what, &reply, 401, reason);
    }
    for (what, body) in [
        ("no body", ""),
        ("another field", "token=x"),
        ("an empty field", "jwt="),
        ("a blank field", "jwt=%20"),
        ("JSON", "{\"jwt\": \"x\"}"),
        ("the field without a value", "jwt"),
    ] {
        let reply = world.post("/authn-jwt/ci/demo/authenticate", body).await;
        world.refused(what, &reply, 400, "CONJ00009E");
    }
    let long = format!("jwt={}", "x".repeat(33 << 10));
    let reply = world.post("/authn-jwt/ci/demo/authenticate", long).await;
    world.refused("too long a form", &reply, 413, "");

    // Algorithms and keys.
    let none = |alg: &str| message(&json!({"alg": alg, "kid": "first"}), &good().to_string());
    let secret = |bytes: &[u8]| {
        let text = message(&json!({"alg": "HS256", "kid": "first"}), &good().to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
        format!("{text}.{tag}")
    };
    let jwk_text = first().jwk().to_string();
    let headers = |value: Value| first().sign(&value, &good());
    let [_, second, foreign] = keys();
    for (what, token, reason) in [
        ("alg none, unsigned", format!("{}.", none("none")), "CONJ00077E"),
        ("alg none, signed", format!("{}.{signature}", none("none")), "CONJ00035E"),
        ("alg None", format!("{}.{signature}", none("None")), "CONJ00035E"),
        ("alg NONE", format!("{}.{signature}", none("NONE")), "CONJ00035E"),
        ("alg empty", format!("{}.{signature}", none("")), "CONJ00035E"),
        ("alg rs256", headers(json!({"alg": "rs256", "kid": "first"})), "CONJ00035E"),
        ("no alg", headers(json!({"kid": "first"})), "CONJ00035E"),
        ("alg is a number", headers(json!({"alg": 256, "kid": "first"})), "CONJ00035E"),
        ("HMAC with the modulus", secret(&first().modulus()), "CONJ00035E"),
        ("HMAC with the key set", secret(jwk_text.as_bytes()), "CONJ00035E"),
        ("HMAC with nothing", secret(b""), "CONJ00035E"),
        ("ES256", headers(json!({"alg": "ES256", "kid": "first"})), "CONJ00035E"),
        ("PS256", headers(json!({"alg": "PS256", "kid": "first"})), "CONJ00035E"),
        ("EdDSA", headers(json!({"alg": "EdDSA", "kid": "first"})), "CONJ00035E"),
        ("RS384 called RS256", format!("{head}.{body}.{}", headers(json!({"alg": "RS384", "kid": "first"})).split('.').nth(2).unwrap()), "CONJ00035E"),
        ("no kid", headers(json!({"alg": "RS256"})), "names no key"),
        ("empty kid", headers(json!({"alg": "RS256", "kid": ""})), "names no key"),
        ("kid is a number", headers(json!({"alg": "RS256", "kid": 1})), "CONJ00035E"),
        ("kid is a list", headers(json!({"alg": "RS256", "kid": ["first"]})), "CONJ00035E"),
        ("kid is a path", headers(json!({"alg": "RS256", "kid": "../../../dev/null"})), "no key of the token's kid"),
        ("kid is SQL", headers(json!({"alg": "RS256", "kid": "first' or '1'='1"})), "no key of the token's kid"),
        ("kid in other case", headers(json!({"alg": "RS256", "kid": "FIRST"})), "no key of the token's kid"),
        ("kid with NUL", headers(json!({"alg": "RS256", "kid": "first\u{0}"})), "no key of the token's kid"),
        ("foreign key, known kid", foreign.sign(&header, &good()), "CONJ00035E"),
        ("foreign key, own kid", foreign.token(&good()), "no key of the token's kid"),
        ("foreign key, own jwk", foreign.sign(&json!({"alg": "RS256", "kid": "foreign", "jwk": foreign.jwk()}), &good()), "no key of the token's kid"),
        ("foreign key, jwk for known kid", foreign.sign(&json!({"alg": "RS256", "kid": "first", "jwk": foreign.jwk()}), &good()), "CONJ00035E"),
        ("foreign key, jku", foreign.sign(&json!({"alg": "RS256", "kid": "foreign", "jku": format!("{}/evil", world.issuer.url)}), &good()), "no key of the token's kid"),
        ("foreign key, x5u", foreign.sign(&json!({"alg": "RS256", "kid": "foreign", "x5u": format!("{}/evil", world.issuer.url)}), &good()), "no key of the token's kid"),
        ("a key that is not shown yet", second.token(&good()), "no key of the token's kid"),
        ("crit", headers(json!({"alg": "RS256", "kid": "first", "crit": ["exp"]})), "CONJ00035E"),
        ("crit b64", headers(json!({"alg": "RS256", "kid": "first", "crit": ["b64"], "b64": false})), "CONJ00035E"),
        ("enc", headers(json!({"alg": "RS256", "kid": "first", "enc": "A256GCM"})), "CONJ00035E"),
        ("zip", headers(json!({"alg": "RS256", "kid": "first", "zip": "DEF"})), "CONJ00035E"),
        ("signature cut", format!("{head}.{body}.{}", &signature[..signature.len() - 4]), "CONJ00035E"),
        ("signature of zeros", format!("{head}.{body}.{}", "A".repeat(signature.len())), "CONJ00035E"),
        ("claims swapped", format!("{head}.{}.{signature}", first().token(&but(&json!({"host": "fenced"}))).split('.').nth(1).unwrap()), "CONJ00035E"),
    ] {
        let reply = world.try_token("ci", &token).await;
        world.refused(what, &reply, 401, reason);
    }
    assert_eq!(world.issuer.asked("/evil"), 0, "keys were fetched from where a token said");

    // Claims.
    for (what, service, changes, reason) in [
        ("expired", "ci", json!({"exp": NOW - 1}), "CONJ00016E"),
        ("expires now", "ci", json!({"exp": NOW}), "CONJ00016E"),
        ("expired long ago", "ci", json!({"exp": 1}), "CONJ00016E"),
        ("expired before all time", "ci", json!({"exp": -1}), "CONJ00016E"),
        ("expired by a fraction", "ci", json!({"exp": 1_699_999_999.5}), "CONJ00016E"),
        ("no exp", "ci", json!({"exp": null}), "CONJ00091E"),
        ("exp is text", "ci", json!({"exp": format!("{}", NOW + 300)}), "CONJ00035E"),
        ("exp is a list", "ci", json!({"exp": [NOW + 300]}), "CONJ00035E"),
        ("exp is true", "ci", json!({"exp": true}), "CONJ00035E"),
        ("early", "ci", json!({"nbf": NOW + 60}), "'nbf' lies ahead"),
        ("nbf is text", "ci", json!({"nbf": "soon"}), "'nbf' is no time"),
        ("issued tomorrow", "ci", json!({"iat": NOW + 86400}), "'iat' lies ahead"),
        ("iat is text", "ci", json!({"iat": "now"}), "'iat' is no time"),
        ("no iss", "ci", json!({"iss": null}), "CONJ00091E"),
        ("another iss", "ci", json!({"iss": "https://evil.example"}), "another issuer"),
        ("iss with a slash", "ci", json!({"iss": "https://idp.example/"}), "another issuer"),
        ("iss in other case", "ci", json!({"iss": "https://IDP.example"}), "another issuer"),
        ("iss is a list", "ci", json!({"iss": ["https://idp.example"]}), "another issuer"),
        ("iss is a number", "ci", json!({"iss": 1}), "another issuer"),
        ("iss is empty", "ci", json!({"iss": ""}), "another issuer"),
        (
            "iss of the provider",
            "provider",
            json!({"iss": "https://idp.example"}),
            "another issuer",
        ),
        ("no aud", "aud", json!({"aud": null}), "CONJ00091E"),
        ("another aud", "aud", json!({"aud": "conjur"}), "for others"),
        ("aud of others", "aud", json!({"aud": ["a", "b"]}), "for others"),
        ("aud is empty", "aud", json!({"aud": []}), "for others"),
        ("aud is an object", "aud", json!({"aud": {"conclave": true}}), "for others"),
        ("aud is a prefix", "aud", json!({"aud": "conclave-x"}), "for others"),
        ("aud inside a list", "aud", json!({"aud": [["conclave"]]}), "for others"),
        ("nobody", "ci", json!({"host": null}), "CONJ00081E"),
        ("host is empty", "ci", json!({"host": ""}), "CONJ00082E"),
        ("host is blank", "ci", json!({"host": " "}), "CONJ00082E"),
        ("host is a number", "ci", json!({"host": 7}), "CONJ00082E"),
        ("host is a list", "ci", json!({"host": ["web"]}), "CONJ00082E"),
        ("host is an object", "ci", json!({"host": {"web": 1}}), "CONJ00082E"),
        ("no such host", "ci", json!({"host": "nobody"}), "CONJ00007E"),
        ("host above its path", "ci", json!({"host": "../root-host"}), "CONJ00007E"),
        ("host with its path", "ci", json!({"host": "apps/web"}), "CONJ00007E"),
        ("host of the root", "ci", json!({"host": "root-host"}), "CONJ00007E"),
        ("admin", "ci", json!({"host": "admin"}), "CONJ00007E"),
        ("a path that ends early", "no-path", json!({"names": {"of": "root-host"}}), "CONJ00081E"),
        (
            "a path through a list",
            "no-path",
            json!({"names": {"of": [{"host": "root-host"}]}}),
            "CONJ00081E",
        ),
        (
            "claims in place of the path",
            "no-path",
            json!({"names": null, "host": "root-host"}),
            "CONJ00081E",
        ),
        ("a host without annotations", "ci", json!({"host": "plain"}), "CONJ00099E"),
        ("another namespace", "ci", json!({"ns": "dev"}), "CONJ00049E"),
        ("namespace in other case", "ci", json!({"ns": "PROD"}), "CONJ00049E"),
        ("namespace with a space", "ci", json!({"ns": "prod "}), "CONJ00049E"),
        ("namespace in a list", "ci", json!({"ns": ["prod"]}), "CONJ00049E"),
        ("no namespace", "ci", json!({"ns": null}), "CONJ00051E"),
        ("another inner value", "ci", json!({"kubernetes.io": {"namespace": "x"}}), "CONJ00049E"),
        ("inner value absent", "ci", json!({"kubernetes.io": {}}), "CONJ00051E"),
        (
            "inner value elsewhere",
            "ci",
            json!({"kubernetes.io": null, "namespace": "web"}),
            "CONJ00051E",
        ),
        ("deep value absent", "nested", json!({"a": {"b": "c"}}), "CONJ00051E"),
        ("an enforced claim without annotation", "enforcing", json!({"ref": "main"}), "CONJ00057E"),
        ("an alias for another value", "aliased", json!({"ns": "dev"}), "CONJ00049E"),
        ("the alias as a claim", "aliased", json!({"ns": null, "where": "prod"}), "CONJ00051E"),
        ("annotated by its real name", "by-real-name", json!({}), "CONJ00104E"),
        ("from elsewhere", "ci", json!({"host": "fenced"}), "CONJ00003E"),
    ] {
        let reply = world.try_token(service, &first().token(&but(&changes))).await;
        world.refused(what, &reply, 401, reason);
    }
    // Proven, and not entitled.
    let token = first().token(&but(&json!({"host": "unentitled"})));
    let reply = world.try_token("ci", &token).await;
    world.refused("not entitled", &reply, 403, "CONJ00006E");

    // Paths, against a service that tells by the token, and one that does not.
    for (what, path, reason) in [
        ("both tell", "/authn-jwt/ci/demo/host%2Fapps%2Fweb/authenticate", "CONJ00098E"),
        ("neither tells", "/authn-jwt/url/demo/authenticate", "CONJ00098E"),
        (
            "a group",
            "/authn-jwt/url/demo/group%2Fconjur%2Fauthn-jwt%2Furl%2Fapps/authenticate",
            "CONJ00007E",
        ),
        ("admin", "/authn-jwt/url/demo/admin/authenticate", "CONJ00099E"),
        ("another host", "/authn-jwt/url/demo/host%2Fapps%2Fplain/authenticate", "CONJ00099E"),
        ("no such host", "/authn-jwt/url/demo/host%2Fapps%2Fnobody/authenticate", "CONJ00007E"),
        ("another account", "/authn-jwt/ci/other/authenticate", "CONJ00005E"),
        ("no account", "/authn-jwt/ci/nowhere/authenticate", "CONJ00008E"),
        ("no service", "/authn-jwt/none/demo/authenticate", "CONJ00004E"),
        ("a service inside a service", "/authn-jwt/ci%2Fstatus/demo/authenticate", "CONJ00005E"),
        ("no issuer's keys", "/authn-jwt/no-source/demo/authenticate", "CONJ00122E"),
        ("two of them", "/authn-jwt/two-sources/demo/authenticate", "CONJ00122E"),
        ("keys without TLS", "/authn-jwt/plain-http/demo/authenticate", "https://"),
        ("credentials in the address", "/authn-jwt/userinfo/demo/authenticate", "credentials"),
        ("no authority", "/authn-jwt/bad-ca/demo/authenticate", "ca-cert"),
        ("another authority", "/authn-jwt/other-ca/demo/authenticate", "TLS"),
        ("keys without an issuer", "/authn-jwt/given-no-issuer/demo/authenticate", "CONJ00078E"),
        ("keys that are none", "/authn-jwt/given-broken/demo/authenticate", "CONJ00123E"),
        ("a claim that cannot be", "/authn-jwt/bad-identity/demo/authenticate", "CONJ00117E"),
        ("an alias that cannot be", "/authn-jwt/bad-alias/demo/authenticate", "CONJ00108E"),
        (
            "an enforced claim that cannot be",
            "/authn-jwt/bad-enforced/demo/authenticate",
            "CONJ00105E",
        ),
    ] {
        let reply = world.post(path, format!("jwt={good_token}")).await;
        world.refused(what, &reply, 401, reason);
    }
    refusals::count(&world.house, "api/tests/door/jwt.rs::no_other_token_does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_settings_put_in_force_is_not_put_out_of_it_by_a_request() {
    let world = world().await;
    let path = "/authn-jwt/ci/demo";
    for enabled in ["enabled=true", "enabled=false"] {
        let reply = world.house.send_as("demo/admin", &Method::PATCH, path, enabled).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{enabled}");
        world.let_in("ci", &first().token(&good())).await;
    }
    // What is switched on is in force beside what they name.
    world.house.load("demo", &service("switched", &[])).await;
    let on = "/authn-jwt/switched/demo";
    let reply = world.house.send_as("demo/admin", &Method::PATCH, on, "enabled=true").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let known = world.house.send(&Method::GET, "/authenticators", &[], "").await.json();
    let is_in_force = |name: &str| known["enabled"].as_array().unwrap().contains(&json!(name));
    assert!(is_in_force("authn-jwt/ci") && is_in_force("authn-jwt/switched"), "{known}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_is_the_host_of_the_keys_where_policy_names_none() {
    let world = world().await;
    world.let_in("by-host", &first().token(&but(&json!({"iss": "localhost"})))).await;
    for (iss, reason) in [(json!("https://idp.example"), "CONJ00035E"), (Value::Null, "CONJ00091E")]
    {
        let reply = world.try_token("by-host", &first().token(&but(&json!({"iss": iss})))).await;
        world.refused(reason, &reply, 401, reason);
    }
    // Authorities for keys that are not fetched, and a variable that is declared and has no value.
    for (service, reason) in [("given-ca", "ca-cert has no use"), ("unset", "CONJ00037E")] {
        let reply = world.try_token(service, &first().token(&good())).await;
        world.refused(service, &reply, 401, reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_an_issuer_is_taken_where_the_operator_says_so() {
    let world = world_with(|settings| settings.jwt_missing_issuer_ignored = true).await;
    world.let_in("ci", &first().token(&but(&json!({"iss": null})))).await;
    let reply = world.try_token("ci", &first().token(&but(&json!({"iss": "x"})))).await;
    world.refused("another issuer", &reply, 401, "CONJ00035E");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_too_many_wait_for_keys_is_told_to_come_again() {
    let world = world().await;
    let slow = Says::After(Duration::from_secs(1), json!({"keys": [first().jwk()]}));
    world.issuer.says("/keys", slow);
    let token = first().token(&good());
    // 128 may wait.
    let together = (0..140).map(|_| world.try_token("ci", &token));
    let replies = futures::future::join_all(together).await;
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(count(StatusCode::OK), 128);
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 12);
    let records = world.house.records();
    let told = |record: &&Value| record["message"].as_str().unwrap().contains("CONJ00044E");
    assert_eq!(records.iter().filter(told).count(), 12);
    assert_eq!(world.issuer.asked("/keys"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_when_needed_and_no_more() {
    let world = world().await;
    let [_, second, foreign] = keys();
    // Many at once, and one fetch.
    let token = first().token(&good());
    let together = (0..20).map(|_| world.try_token("ci", &token));
    for reply in futures::future::join_all(together).await {
        assert_eq!(reply.status, StatusCode::OK);
    }
    assert_eq!(world.issuer.asked("/keys"), 1);
    // A new key is found at once.
    world.issuer.shows(&[first(), second]);
    world.let_in("ci", &second.token(&good())).await;
    assert_eq!(world.issuer.asked("/keys"), 2);
    // Keys that are not there are looked for so often, and what is known goes on.
    for at in 0..30 {
        let header = json!({"alg": "RS256", "kid": format!("made-up-{at}")});
        let reply = world.try_token("ci", &foreign.sign(&header, &good())).await;
        world.refused("a made-up key", &reply, 401, "no key of the token's kid");
    }
    assert_eq!(world.issuer.asked("/keys"), 10);
    world.let_in("ci", &first().token(&good())).await;
    // Another address in policy is another set of keys.
    world.issuer.says("/moved", Says::Json(json!({"keys": [foreign.jwk()]})));
    world.set("ci", "jwks-uri", &format!("{}/moved", world.issuer.url)).await;
    world.let_in("ci", &foreign.token(&good())).await;
    let reply = world.try_token("ci", &first().token(&good())).await;
    world.refused("a key of before", &reply, 401, "no key of the token's kid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_key_server_lets_nobody_in_and_holds_nobody_up() {
    let world = world().await;
    let elsewhere = Issuer::start().await;
    elsewhere.shows(&[first()]);
    let token = first().token(&good());
    let set = json!({"keys": [first().jwk()]});
    let with_key = |change: Value| {
        let mut key = first().jwk();
        for (name, value) in change.as_object().unwrap() {
            key[name] = value.clone();
        }
        Says::Json(json!({"keys": [key]}))
    };
    let away = format!("{}/keys", elsewhere.url);
    for (at, (says, reason)) in [
        (Says::Status(404), "it answered 404"),
        (Says::Status(500), "it answered 500"),
        (Says::Status(204), "it answered 204"),
        (Says::Redirect(away), "it answered 302"),
        (Says::Redirect("/keys".to_owned()), "it answered 302"),
        (Says::Long(600 << 10), "too long"),
        (Says::Compressed, "compressed"),
        (Says::Json(json!([])), "no list 'keys'"),
        (Says::Json(json!({"keys": "x"})), "no list 'keys'"),
        (Says::Json(json!({"keys": []})), "no RSA key"),
        (with_key(json!({"kty": "oct", "k": "AAAA"})), "no RSA key"),
        (with_key(json!({"use": "enc"})), "no RSA key"),
        (with_key(json!({"alg": "HS256"})), "no RSA key"),
        (with_key(json!({"alg": "PS256"})), "no RSA key"),
        (with_key(json!({"kid": null})), "no RSA key"),
        (with_key(json!({"n": "!"})), "no RSA key"),
        (with_key(json!({"kid": "other"})), "no key of the token's kid"),
        (with_key(json!({"alg": "RS512"})), "cannot be verified"),
        (Says::After(Duration::from_secs(30), set), "no answer within"),
    ]
    .into_iter()
    .enumerate()
    {
        // Each at an address of its own, so that none has to wait for the last one's failure.
        let path = format!("/keys-{at}");
        world.issuer.says(&path, says);
        world.set("ci", "jwks-uri", &format!("{}{path}", world.issuer.url)).await;
        let reply = world.try_token("ci", &token).await;
        world.refused(reason, &reply, 401, reason);
    }
    assert_eq!(elsewhere.asked("/keys"), 0, "a redirect was followed");
    // While it fails, it is left alone, and who asks is told at once.
    let before = world.issuer.asked("/keys-18");
    for _ in 0..5 {
        let reply = world.try_token("ci", &token).await;
        world.refused("meanwhile", &reply, 401, "CONJ00087E");
    }
    assert!(world.issuer.asked("/keys-18") <= before + 1);

    // A provider has to be who it is called.
    let configuration = "/.well-known/openid-configuration";
    for (document, reason) in [
        (
            json!({"issuer": "https://evil.example", "jwks_uri": "https://evil.example"}),
            "another issuer",
        ),
        (json!({"jwks_uri": "https://evil.example"}), "another issuer"),
        (json!({"issuer": world.issuer.url}), "names no jwks_uri"),
        (json!({"issuer": world.issuer.url, "jwks_uri": "http://localhost/keys"}), "https://"),
        (
            json!({"issuer": world.issuer.url, "jwks_uri": "https://169.254.169.254/keys"}),
            "may be called",
        ),
    ] {
        let world = super::jwt::world().await;
        let mut document = document;
        if document["issuer"].as_str().is_some_and(|issuer| issuer.contains("localhost")) {
            document["issuer"] = world.issuer.url.clone().into();
        }
        world.issuer.says(configuration, Says::Json(document));
        let token = first().token(&but(&json!({"iss": world.issuer.url})));
        let reply = world.try_token("provider", &token).await;
        world.refused(reason, &reply, 401, reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_cannot_make_this_node_call_its_neighbours() {
    let issuer = Issuer::start().await;
    issuer.shows(&[first()]);
    // As it is without a word of the operator.
    let house = House::with(|settings| {
        settings.authenticators = vec!["authn-jwt/ci".to_owned()];
        settings.outbound_time_max = Duration::from_secs(1);
    });
    let world = World { house, issuer };
    let values = [("jwks-uri", ""), ("issuer", ""), ("token-app-property", "")];
    world.house.load("demo", &format!("{ROLES_CI}{}", service("ci", &values))).await;
    world.set("ci", "issuer", "https://idp.example").await;
    world.set("ci", "token-app-property", "host").await;
    let port = world.issuer.address.port();
    for address in [
        format!("https://localhost:{port}/keys"),
        format!("https://127.0.0.1:{port}/keys"),
        format!("https://127.1.1.1:{port}/keys"),
        format!("https://[::1]:{port}/keys"),
        format!("https://[::ffff:127.0.0.1]:{port}/keys"),
        "https://0.0.0.0/keys".to_owned(),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[fe80::1]/keys".to_owned(),
        "https://[fd00:ec2::254]/keys".to_owned(),
    ] {
        world.set("ci", "jwks-uri", &address).await;
        let reply = world.try_token("ci", &first().token(&good())).await;
        world.refused(&address, &reply, 401, "may be called");
    }
    assert_eq!(world.issuer.asked("/keys"), 0);
}

const ROLES_CI: &str = "
- !policy
  id: apps
  body:
  - !host {id: web, annotations: {authn-jwt/ci/ns: prod}}
  - !host fenced
  - !host plain
- !user robot
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_lets_in_while_the_leader_is_gone() {
    let world = world().await;
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    world.let_in("ci", &first().token(&good())).await;
    // Not from a state that is too old to know of revocations.
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_hours(1));
    let reply = world.try_token("ci", &first().token(&good())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_too_often_waits_and_others_do_not() {
    let house = House::with(|settings| settings.failures_max = 5);
    for _ in 0..5 {
        let reply =
            house.send(&Method::POST, "/authn-jwt/ci/demo/authenticate", &[], "jwt=a.b.c").await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    let path = "/authn-jwt/ci/demo/authenticate";
    let reply = house.send(&Method::POST, path, &[], "jwt=a.b.c").await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    let reply = house.send_from("192.0.2.8", &Method::POST, path, &[], "jwt=a.b.c").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    // Whoever tries many names from one place waits, too.
    for at in 0..45 {
        let path = format!("/authn/demo/user-{at}/authenticate");
        house.send(&Method::POST, &path, &[], "x").await;
    }
    let reply = house.send(&Method::POST, "/authn/demo/another/authenticate", &[], "x").await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    house.clock.advance(Duration::from_secs(11));
    let reply = house.send(&Method::POST, "/authn/demo/another/authenticate", &[], "x").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_what_is_wrong() {
    let world = world().await;
    for (service, status, part) in [
        ("ci", 200, "\"ok\""),
        ("provider", 200, "\"ok\""),
        ("given", 200, "\"ok\""),
        ("no-source", 500, "CONJ00122E"),
        ("two-sources", 500, "CONJ00122E"),
        ("plain-http", 500, "CONJ00079E"),
        ("bad-ca", 500, "CONJ00079E"),
        ("other-ca", 500, "CONJ00087E"),
        ("given-no-issuer", 500, "CONJ00078E"),
        ("given-broken", 500, "CONJ00123E"),
        ("bad-identity", 500, "CONJ00117E"),
        ("bad-alias", 500, "CONJ00108E"),
        ("bad-enforced", 500, "CONJ00105E"),
        ("none", 403, "CONJ00006E"),
    ] {
        let path = format!("/authn-jwt/{service}/demo/status");
        let reply = world.house.send_as("demo/admin", &Method::GET, &path, "").await;
        assert_eq!(reply.status.as_u16(), status, "{service}: {}", reply.text());
        assert!(reply.text().contains(part), "{service}: {}", reply.text());
    }
    // A variable that policy declares and that has no value.
    world
        .house
        .load("demo", "- !policy {id: conjur/authn-jwt/ci, body: [!variable audience]}\n")
        .await;
    let path = "/authn-jwt/ci/demo/status";
    let reply = world.house.send_as("demo/admin", &Method::GET, path, "").await;
    assert!(reply.text().contains("RequiredSecretMissing: CONJ00037E"), "{}", reply.text());
    let reply = world.try_token("ci", &first().token(&good())).await;
    world.refused("no value", &reply, 401, "CONJ00037E");
}
