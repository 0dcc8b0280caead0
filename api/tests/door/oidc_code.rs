//! `authn-oidc` by code, against a provider that exchanges each code once, for who has its verifier: the
//! list of providers, who is let in, and all that is not, each with its reason in the audit record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use conclave_api::ports::Part;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::{Issuer, Says, keys};
use super::refusals;

const NOW: i64 = 1_700_000_000;
/// With letters that a form, and a header, encode.
const SECRET: &str = "s3cret:/+ %é";
const REDIRECT: &str = "http://127.0.0.1:8888/callback?x=1";
const POLICY: &str = "
- !user alice
- !user {id: fenced, restricted_to: [10.1.0.0/16]}
- !user unentitled
- !policy
  id: conjur/authn-oidc/idp
  body:
  - !webservice
  - !webservice status
  - !variable provider-uri
  - !variable client-id
  - !variable client-secret
  - !variable claim-mapping
  - !variable redirect-uri
  - !variable ca-cert
  - !variable name
  - !variable provider-scope
  - !variable token-ttl
  - !variable response-type
- !policy
  id: conjur/authn-oidc/tokens
  body:
  - !webservice
  - !variable provider-uri
  - !variable id-token-user-property
- !policy {id: conjur/authn-oidc/off, body: [!webservice ]}
- !policy
  id: conjur/authn-oidc/twin
  body:
  - !webservice
  - !variable provider-uri
  - !variable client-id
  - !variable client-secret
  - !variable claim-mapping
  - !variable redirect-uri
  - !variable ca-cert
- !permit
  roles: [!user alice, !user fenced, !user admin]
  privileges: [read, authenticate]
  resource: !webservice conjur/authn-oidc/idp
";

/// What the provider knows of a code: its challenge, and the claims that it stands for.
type Codes = Arc<Mutex<HashMap<String, (String, Value)>>>;

struct World {
    house: House,
    issuer: Issuer,
    codes: Codes,
}

/// What the list of providers gives a client.
struct Invitation {
    nonce: String,
    verifier: String,
    state: String,
    challenge: String,
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

fn pairs(text: &str) -> HashMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(a, b)| (decoded(a), decoded(b)))
        .collect()
}

impl World {
    async fn new() -> Self {
        let issuer = Issuer::start().await;
        issuer.shows(&[&keys()[0]]);
        let codes: Codes = Arc::default();
        let house = House::calling_out(|settings| {
            settings.authenticators =
                ["idp", "tokens", "twin"].map(|name| format!("authn-oidc/{name}")).to_vec();
        });
        house.load("demo", POLICY).await;
        let world = Self { house, issuer, codes };
        world.describe(&json!({}));
        world.issuer.says("/token", says_exchange(&world.codes));
        world.configure("idp").await;
        world
    }

    /// Sets what a service needs to send people to the provider.
    async fn configure(&self, service: &str) {
        for (variable, value) in [
            ("provider-uri", self.issuer.url.as_str()),
            ("client-id", "conclave app"),
            ("client-secret", SECRET),
            ("claim-mapping", "preferred_username"),
            ("redirect-uri", REDIRECT),
            ("ca-cert", self.issuer.authority.as_str()),
        ] {
            self.set_of(service, variable, value).await;
        }
    }

    /// The provider's configuration, with changes; null takes a line away.
    fn describe(&self, changes: &Value) {
        let url = &self.issuer.url;
        let mut document = json!({
            "issuer": url, "jwks_uri": format!("{url}/keys"),
            "authorization_endpoint": format!("{url}/auth"), "token_endpoint": format!("{url}/token"),
        });
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        document.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.issuer.says("/.well-known/openid-configuration", Says::Json(document));
    }

    async fn set(&self, variable: &str, value: &str) {
        self.set_of("idp", variable, value).await;
    }

    async fn set_of(&self, service: &str, variable: &str, value: &str) {
        let id = format!("conjur/authn-oidc/{service}/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }

    async fn providers(&self) -> Vec<Value> {
        let reply = self.house.send(&Method::GET, "/authn-oidc/demo/providers", &[], "").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.json().as_array().unwrap().clone()
    }

    async fn invitation(&self) -> Invitation {
        let entry = self.providers().await.remove(0);
        let uri = entry["redirect_uri"].as_str().unwrap();
        let query = pairs(uri.split_once('?').unwrap().1);
        Invitation {
            nonce: entry["nonce"].as_str().unwrap().to_owned(),
            verifier: entry["code_verifier"].as_str().unwrap().to_owned(),
            state: entry["state"].as_str().unwrap().to_owned(),
            challenge: query["code_challenge"].clone(),
        }
    }

    /// Somebody logs in at the provider, which gives this code; null takes a claim away.
    fn log_in(&self, code: &str, invited: &Invitation, changes: &Value) {
        let mut claims = json!({
            "iss": self.issuer.url, "aud": "conclave app", "sub": "1", "exp": NOW + 300, "iat": NOW,
            "nonce": invited.nonce, "preferred_username": "alice",
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let known = (invited.challenge.clone(), claims);
        self.codes.lock().unwrap().insert(code.to_owned(), known);
    }

    async fn bring(&self, code: &str, nonce: &str, verifier: &str) -> Reply {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        self.get(&format!(
            "/authn-oidc/idp/demo/authenticate?code={}&nonce={}&code_verifier={}",
            encode(code),
            encode(nonce),
            encode(verifier)
        ))
        .await
    }

    /// The same with the state that the browser brought back.
    async fn bring_state(&self, invited: &Invitation, state: &str) -> Reply {
        let Invitation { nonce, verifier, .. } = invited;
        let path = "/authn-oidc/idp/demo/authenticate?code=good-code";
        self.get(&format!("{path}&nonce={nonce}&code_verifier={verifier}&state={state}")).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.house.send(&Method::GET, path, &[], "").await
    }

    /// Logs in, brings the code, and says what became of it.
    async fn try_claims(&self, changes: &Value) -> Reply {
        let invited = self.invitation().await;
        self.log_in("good-code", &invited, changes);
        self.bring("good-code", &invited.nonce, &invited.verifier).await
    }

    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        if !reason.starts_with("CONJ00016E") {
            assert_eq!(reply.text(), "", "{what}");
        }
        assert_eq!(record["result"], "failure", "{what}");
        let text = record.to_string();
        assert!(text.contains(reason), "{what}: {text} does not tell {reason:?}");
        assert!(!text.contains("good-code") && !text.contains("s3cret"), "{what}: {text}");
    }
}

/// A provider that knows these codes.
fn says_exchange(codes: &Codes) -> Says {
    let known = codes.clone();
    Says::By(Arc::new(move |header, body| exchange(&known, header, body)))
}

/// What a provider does with a code.
fn exchange(codes: &Codes, header: &str, body: &str) -> (u16, Value) {
    let basic = header.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text).ok());
    let basic = String::from_utf8(basic.unwrap_or_default()).unwrap();
    let client: Vec<String> = basic.split(':').map(decoded).collect();
    if client != ["conclave app", SECRET] {
        return (401, json!({"error": "invalid_client"}));
    }
    let form = pairs(body);
    let known = codes.lock().unwrap().remove(&form["code"]);
    let Some((challenge, claims)) = known else { return (400, json!({"error": "invalid_grant"})) };
    let proof = digest::digest(&digest::SHA256, form["code_verifier"].as_bytes());
    if URL_SAFE_NO_PAD.encode(proof) != challenge
        || form["redirect_uri"] != REDIRECT
        || form["grant_type"] != "authorization_code"
    {
        return (400, json!({"error": "invalid_grant"}));
    }
    let token = keys()[0].token(&claims);
    (200, json!({"access_token": "x", "token_type": "Bearer", "id_token": token}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_providers_leads_to_a_login() {
    let world = World::new().await;
    let all = world.providers().await;
    // Not the one for tokens only, nor the one that is not in force.
    let [entry] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (&entry["service_id"], &entry["name"], &entry["type"]),
        (&json!("idp"), &json!("idp"), &json!("authn-oidc"))
    );
    let uri = entry["redirect_uri"].as_str().unwrap();
    let (address, query) = uri.split_once('?').unwrap();
    assert_eq!(address, format!("{}/auth", world.issuer.url));
    assert!(uri.contains("scope=openid%20email%20profile&"), "{uri}");
    let query = pairs(query);
    for (name, value) in [
        ("client_id", "conclave app"),
        ("response_type", "code"),
        ("scope", "openid email profile"),
        ("code_challenge_method", "S256"),
        ("redirect_uri", REDIRECT),
        ("nonce", entry["nonce"].as_str().unwrap()),
        ("state", entry["state"].as_str().unwrap()),
    ] {
        assert_eq!(query[name], value, "{name}");
    }
    let is_hex = |text: &str| text.len() == 50 && text.bytes().all(|b| b.is_ascii_hexdigit());
    for name in ["nonce", "code_verifier", "state"] {
        assert!(is_hex(entry[name].as_str().unwrap()), "{name}");
    }
    let verifier = entry["code_verifier"].as_str().unwrap();
    let proof = digest::digest(&digest::SHA256, verifier.as_bytes());
    assert_eq!(query["code_challenge"], URL_SAFE_NO_PAD.encode(proof));
    assert!(!uri.contains(verifier), "the verifier is the client's");
    // Everybody gets others.
    let again = world.providers().await.remove(0);
    for name in ["nonce", "code_verifier", "state"] {
        assert_ne!(entry[name], again[name], "{name}");
    }

    let reply = world.try_claims(&json!({})).await;
    let record = world.house.records().pop().unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{record}");
    assert_eq!(record["user"], "demo:user:alice");
    // An hour, where policy does not say.
    let life = |reply: &Reply| {
        let payload = reply.json()["payload"].as_str().unwrap().to_owned();
        let payload: Value = serde_json::from_slice(
            &URL_SAFE_NO_PAD
                .decode(payload.trim_end_matches('=').replace('+', "-").replace('/', "_"))
                .unwrap(),
        )
        .unwrap();
        payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap()
    };
    assert_eq!(life(&reply), 3600);
    world.set("token-ttl", "PT2H30M").await;
    world.set("name", "Acme").await;
    world.set("provider-scope", "groups").await;
    let several = json!({"aud": ["other", "conclave app"], "azp": "conclave app"});
    let reply = world.try_claims(&several).await;
    assert_eq!((reply.status, life(&reply)), (StatusCode::OK, 9000));
    let entry = world.providers().await.remove(0);
    assert_eq!(entry["name"], "Acme");
    assert!(entry["redirect_uri"].as_str().unwrap().contains("openid%20email%20profile%20groups&"));
    // On a follower alone, begun elsewhere: nothing is kept of what a client was given.
    let invited = world.invitation().await;
    world.log_in("good-code", &invited, &json!({}));
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    let reply = world.bring("good-code", &invited.nonce, &invited.verifier).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_code_lets_anybody_in() {
    let world = World::new().await;
    let path = "/authn-oidc/idp/demo/authenticate";
    for (what, query) in [
        ("nothing", ""),
        ("no code", "?nonce=x&code_verifier=y"),
        ("an empty code", "?code=&nonce=x&code_verifier=y"),
        ("no nonce", "?code=x&code_verifier=y"),
        ("a blank nonce", "?code=x&nonce=%20&code_verifier=y"),
        ("no verifier", "?code=x&nonce=y"),
        ("an empty verifier", "?code=x&nonce=y&code_verifier="),
    ] {
        let reply = world.get(&format!("{path}{query}")).await;
        world.refused(what, &reply, 400, "CONJ00009E");
    }
    let reply =
        world.get(&format!("{path}?code={}&nonce=x&code_verifier=y", "x".repeat(5000))).await;
    world.refused("a very long code", &reply, 400, "CONJ00009E");
    assert_eq!(world.issuer.asked("/token"), 0);

    let invited = world.invitation().await;
    let reply = world.bring("never-given", &invited.nonce, &invited.verifier).await;
    world.refused("an unknown code", &reply, 400, "CONJ00133E");
    let other = world.invitation().await;
    for (what, verifier) in [
        ("another's verifier", other.verifier.as_str()),
        ("the challenge for the verifier", &invited.challenge),
        ("the nonce for the verifier", &invited.nonce),
        ("part of the verifier", &invited.verifier[..49]),
        ("one of the client's own", "x"),
    ] {
        world.log_in("good-code", &invited, &json!({}));
        let reply = world.bring("good-code", &invited.nonce, verifier).await;
        world.refused(
            what,
            &reply,
            400,
            "CONJ00133E The code cannot be exchanged: it answered 400",
        );
        // Nor where the provider does not look at it.
        let claims = json!({
            "iss": world.issuer.url, "aud": "conclave app", "exp": NOW + 300,
            "nonce": invited.nonce, "preferred_username": "alice",
        });
        world.issuer.says("/token", Says::Json(json!({"id_token": keys()[0].token(&claims)})));
        let reply = world.bring("good-code", &invited.nonce, verifier).await;
        world.refused(what, &reply, 400, "the verifier is of another login");
        world.issuer.says("/token", says_exchange(&world.codes));
    }
    world.log_in("good-code", &invited, &json!({}));
    let reply = world.bring("good-code", &other.nonce, &invited.verifier).await;
    world.refused("another's nonce", &reply, 401, "CONJ00130E The token is of another request");
    world.log_in("good-code", &invited, &json!({}));
    let asked = world.issuer.asked("/token");
    let flipped = |at: usize| {
        let mut digits = invited.nonce.clone().into_bytes();
        digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
        String::from_utf8(digits).unwrap()
    };
    for (what, nonce) in [
        ("a nonce of the client's own", "0123456789".repeat(5)),
        ("a nonce that lives longer", flipped(7)),
        ("a nonce with other random bytes", flipped(20)),
        ("a nonce with another tag", flipped(49)),
        ("a nonce in capitals", invited.nonce.to_uppercase()),
        ("a nonce that is cut off", invited.nonce[..48].to_owned()),
        ("a nonce with more behind it", format!("{}00", invited.nonce)),
        ("a nonce that is none", "é".repeat(25)),
    ] {
        let reply = world.bring("good-code", &nonce, &invited.verifier).await;
        world.refused(what, &reply, 401, "CONJ00130E The nonce is none that this cluster gave out");
    }
    for (what, state) in
        [("another's state", other.state.as_str()), ("an empty state", ""), ("a state", "x")]
    {
        let reply = world.bring_state(&invited, state).await;
        world.refused(what, &reply, 401, "CONJ00130E The browser came back from another login");
    }
    // Of a service that has the same provider and client.
    world.configure("twin").await;
    let all = world.providers().await;
    let twin = all.iter().find(|entry| entry["service_id"] == "twin").unwrap();
    let of = |name: &str| twin[name].as_str().unwrap();
    let reply = world.bring("good-code", of("nonce"), of("code_verifier")).await;
    world.refused("a nonce of another service", &reply, 401, "for this service");
    assert_eq!(world.issuer.asked("/token"), asked, "the provider was asked about what is none");
    assert_eq!(world.bring_state(&invited, &invited.state).await.status, StatusCode::OK);
    let reply = world.bring("good-code", &invited.nonce, &invited.verifier).await;
    world.refused("a code a second time", &reply, 400, "CONJ00133E");

    for (what, changes, status, reason) in [
        ("no nonce", json!({"nonce": null}), 401, "its nonce differs"),
        ("a nonce in a list", json!({"nonce": ["x"]}), 401, "its nonce differs"),
        ("an empty nonce", json!({"nonce": ""}), 401, "its nonce differs"),
        (
            "another's nonce",
            json!({"nonce": other.nonce}),
            401,
            "CONJ00130E The token is of another",
        ),
        ("another audience", json!({"aud": "other"}), 401, "for others"),
        ("no audience", json!({"aud": null}), 401, "CONJ00091E"),
        ("several audiences", json!({"aud": ["conclave app", "other"]}), 401, "another client"),
        ("another party", json!({"azp": "other"}), 401, "another client"),
        ("a party that is a list", json!({"azp": ["conclave app"]}), 401, "another client"),
        ("another issuer", json!({"iss": "https://evil.example"}), 401, "another issuer"),
        ("expired", json!({"exp": NOW - 1}), 401, "CONJ00016E"),
        ("no exp", json!({"exp": null}), 401, "CONJ00091E"),
        ("of tomorrow", json!({"iat": NOW + 86400}), 401, "lies ahead"),
        ("no login", json!({"preferred_username": null}), 401, "CONJ00013E"),
        ("an empty login", json!({"preferred_username": " "}), 401, "CONJ00013E"),
        ("a login in a list", json!({"preferred_username": ["alice"]}), 401, "CONJ00013E"),
        ("admin", json!({"preferred_username": "admin"}), 401, "CONJ00017E"),
        ("nobody", json!({"preferred_username": "nobody"}), 400, "CONJ00007E"),
        ("a group", json!({"preferred_username": "group/x"}), 400, "CONJ00007E"),
        ("from elsewhere", json!({"preferred_username": "fenced"}), 401, "CONJ00003E"),
        ("not entitled", json!({"preferred_username": "unentitled"}), 403, "CONJ00006E"),
    ] {
        let reply = world.try_claims(&changes).await;
        world.refused(what, &reply, status, reason);
    }
    for (what, path, status, reason) in [
        (
            "not in force",
            "/authn-oidc/off/demo/authenticate?code=x&nonce=y&code_verifier=z",
            400,
            "CONJ00004E",
        ),
        (
            "for tokens only",
            "/authn-oidc/tokens/demo/authenticate?code=x&nonce=y&code_verifier=z",
            401,
            "CONJ00036E",
        ),
        (
            "no account",
            "/authn-oidc/idp/nowhere/authenticate?code=x&nonce=y&code_verifier=z",
            401,
            "CONJ00008E",
        ),
        (
            "another account",
            "/authn-oidc/idp/other/authenticate?code=x&nonce=y&code_verifier=z",
            401,
            "CONJ00005E",
        ),
    ] {
        let reply = world.get(path).await;
        world.refused(what, &reply, status, reason);
    }
    // What the provider's other answers bring.
    let token = |text: &str| Says::Json(json!({"id_token": text}));
    let foreign =
        keys()[2].sign(&json!({"alg": "RS256", "kid": "first"}), &json!({"iss": world.issuer.url}));
    let elsewhere = Issuer::start().await;
    for (says, reason) in [
        // A client that the provider does not know.
        (Says::Status(401), "it answered 401"),
        (Says::Status(500), "it answered 500"),
        (Says::Redirect(format!("{}/token", elsewhere.url)), "it answered 302"),
        (Says::Json(json!([])), "no ID token"),
        (Says::Json(json!({"id_token": 1})), "no ID token"),
        (Says::Json(json!({"access_token": "x"})), "no ID token"),
        (Says::Long(300 << 10), "too long"),
        (token("x"), "CONJ00077E"),
        (token(""), "CONJ00085E"),
        (token(&foreign), "CONJ00035E"),
        (Says::After(Duration::from_secs(10), json!({})), "no answer within"),
    ] {
        world.issuer.says("/token", says);
        let reply = world.bring("good-code", &invited.nonce, &invited.verifier).await;
        let status = if reason == "it answered 401" { 400 } else { 401 };
        world.refused(reason, &reply, status, reason);
    }
    assert_eq!(elsewhere.asked("/token"), 0, "a redirect was followed");
    // Nobody takes longer than a quarter of an hour, and a nonce is good until then.
    let late = world.invitation().await;
    world.log_in("good-code", &late, &json!({"exp": NOW + 3600}));
    world.issuer.says("/token", says_exchange(&world.codes));
    world.house.clock.advance(Duration::from_mins(15));
    let reply = world.bring("good-code", &late.nonce, &late.verifier).await;
    world.refused(
        "a nonce of long ago",
        &reply,
        401,
        "CONJ00130E The nonce was given out too long ago",
    );
    let timely = world.invitation().await;
    world.log_in("good-code", &timely, &json!({"exp": NOW + 3600}));
    world.house.clock.advance(Duration::from_secs(15 * 60 - 1));
    let reply = world.bring("good-code", &timely.nonce, &timely.verifier).await;
    assert_eq!(reply.status, StatusCode::OK);
    // A provider that cannot say where codes are exchanged.
    let lost = world.invitation().await;
    world.set("provider-uri", &format!("{}/elsewhere", world.issuer.url)).await;
    let reply = world.bring("good-code", &lost.nonce, &lost.verifier).await;
    world.refused("no provider", &reply, 401, "CONJ00011E");
    refusals::count(&world.house, "api/tests/door/oidc_code.rs::no_other_code_lets_anybody_in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_too_many_wait_for_a_provider_is_told_to_come_again() {
    let world = World::new().await;
    let invited = world.invitation().await;
    world.issuer.says("/token", Says::After(Duration::from_secs(1), json!({})));
    let together = (0..80).map(|_| world.bring("a-code", &invited.nonce, &invited.verifier));
    let replies = futures::future::join_all(together).await;
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(count(StatusCode::UNAUTHORIZED), 64);
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 16);
    let told = |record: &Value| record["message"].as_str().unwrap().contains("wait for providers");
    assert_eq!(world.house.records().iter().filter(|record| told(record)).count(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_wrongly_is_left_out_and_told_by_the_status() {
    let world = World::new().await;
    let status = async || {
        let path = "/authn-oidc/idp/demo/status";
        world.house.send_as("demo/admin", &Method::GET, path, "").await.text()
    };
    assert_eq!(status().await, "{\"status\":\"ok\"}");
    assert_eq!(world.providers().await.len(), 1);
    for (variable, bad, good, part) in [
        ("token-ttl", "PT6H", "PT1H", "token-ttl"),
        ("token-ttl", "an hour", "PT1H", "token-ttl"),
        ("redirect-uri", "/callback", REDIRECT, "redirect-uri"),
        ("claim-mapping", "1 2", "preferred_username", "claim-mapping"),
        ("response-type", "token", "code", "response-type"),
        ("provider-uri", "http://localhost", world.issuer.url.as_str(), "https://"),
    ] {
        world.set(variable, bad).await;
        let text = status().await;
        assert!(text.contains(part), "{variable}: {text}");
        assert_eq!(world.providers().await, Vec::<Value>::new(), "{variable}");
        world.set(variable, good).await;
        assert_eq!(world.providers().await.len(), 1, "{variable}");
    }
    // A provider that cannot be reached, or does not say where people log in.
    for changes in [
        json!({"authorization_endpoint": null}),
        json!({"authorization_endpoint": "http://localhost/auth"}),
        json!({"authorization_endpoint": "javascript:alert(1)"}),
        json!({"issuer": "https://evil.example"}),
    ] {
        let world = World::new().await;
        world.describe(&changes);
        assert_eq!(world.providers().await, Vec::<Value>::new(), "{changes}");
    }
    let reply = world.house.send(&Method::GET, "/authn-oidc/nowhere/providers", &[], "").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "[]"));
}
