//! `authn-iam` against a service that judges signatures: who is let in, and all that is not, each with its
//! reason in the audit record and none of it in the answer.

use std::time::Duration;

use conclave_api::ports::Part;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::harness::{House, Reply};
use super::issuer::Issuer;
use super::refusals;
use super::sts::{ACCOUNT, DATE, FOREIGN, Mood, OTHER, QUERY, STRANGER, Sts, USER, WEB, identity};

const REGIONAL: &str = "sts.eu-central-1.amazonaws.com";
const REGION: &str = "eu-central-1";
const GLOBAL: &str = "sts.amazonaws.com";

const POLICY: &str = "
- !policy
  id: apps
  body:
  - !host 123456789012/web
  - !host 123456789012/other
  - !host {id: fenced/123456789012/web, restricted_to: [10.1.0.0/16]}
  - !host unentitled/123456789012/web
  - !host 123456789012/web/deeper
  - !host web
  - !host 12345678901/web
  - !host 123456789012/wéb
  - !host 123456789012/WEB
  - !host {id: neither/123456789012/web, restricted_to: [10.1.0.0/16]}
- !host web
- !host 123456789012/web
- !user 123456789012/web
- !policy
  id: conjur/authn-iam/aws
  body:
  - !webservice
  - !webservice status
- !policy
  id: conjur/authn-iam/signing
  body:
  - !webservice
  - !webservice status
  - !variable optional-signed-headers
- !permit
  roles: [!host apps/123456789012/web, !host apps/123456789012/other, !host 123456789012/web,
    !host apps/fenced/123456789012/web, !host apps/123456789012/web/deeper, !host apps/web,
    !host apps/12345678901/web, !host apps/123456789012/wéb, !host web,
    !host apps/123456789012/WEB,
    !user 123456789012/web, !user admin]
  privileges: [read, authenticate]
  resources: [!webservice conjur/authn-iam/aws, !webservice conjur/authn-iam/signing]
";

struct World {
    house: House,
    sts: Sts,
}

impl World {
    async fn new() -> Self {
        let sts = Sts::start().await;
        let house = House::calling_out(|settings| {
            settings.authenticators =
                ["aws", "signing"].map(|name| format!("authn-iam/{name}")).into();
            settings.clouds.sts_uri = Some(sts.url.clone());
            settings.clouds.authorities = Some(sts.authority.clone());
        });
        house.load("demo", POLICY).await;
        let world = Self { house, sts };
        world.set("x-conclave-server; X-Amz-Client").await;
        world
    }

    async fn set(&self, value: &str) {
        let id = "conjur/authn-iam/signing/optional-signed-headers";
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }

    async fn post(&self, path: &str, body: impl Into<axum::body::Body>) -> Reply {
        let json = [("content-type", "application/json")];
        self.house.send(&Method::POST, path, &json, body).await
    }

    async fn hand_over(&self, service: &str, login: &str, headers: &Map<String, Value>) -> Reply {
        let login = utf8_percent_encode(login, NON_ALPHANUMERIC);
        let path = format!("/authn-iam/{service}/demo/{login}/authenticate");
        self.post(&path, Value::Object(headers.clone()).to_string()).await
    }

    /// As the host whose id says that it has the role `web`.
    async fn as_web(&self, headers: &Map<String, Value>) -> Reply {
        self.hand_over("aws", "host/apps/123456789012/web", headers).await
    }

    fn record(&self) -> Value {
        self.house.records().pop().unwrap()
    }

    async fn let_in(&self, service: &str, login: &str, headers: &Map<String, Value>) {
        let reply = self.hand_over(service, login, headers).await;
        assert_eq!(reply.status, StatusCode::OK, "{login}: {}", self.record());
        assert!(reply.text().contains("\"protected\""), "{login}");
    }

    /// Refused with this status and reason, in an answer that says nothing; nothing of what a client
    /// has signed with is in the record.
    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.record();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        assert_eq!(reply.text(), "", "{what}");
        assert_eq!(record["result"], "failure", "{what}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
        for secret in [WEB.session.unwrap(), "Signature="] {
            assert!(!record.to_string().contains(secret), "{what}: the record tells {secret}");
        }
    }
}

/// Headers with others in place of theirs; null takes one away.
fn but(headers: &Map<String, Value>, changes: &Value) -> Map<String, Value> {
    let mut headers = headers.clone();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            headers.remove(name);
        } else {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

/// The same with a part of the authorization replaced.
fn authorized(headers: &Map<String, Value>, from: &str, to: &str) -> Map<String, Value> {
    let text = headers["authorization"].as_str().unwrap();
    assert!(text.contains(from), "{text} has no {from}");
    but(headers, &json!({"authorization": text.replacen(from, to, 1)}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_with_the_keys_of_a_role_is_let_in() {
    let world = World::new().await;
    for (host, region) in [
        (GLOBAL, "us-east-1"),
        (REGIONAL, REGION),
        ("sts.us-east-1.amazonaws.com", "us-east-1"),
        ("sts.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("sts-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ] {
        let headers = WEB.sign(host, region);
        world.let_in("aws", "host/apps/123456789012/web", &headers).await;
        // The service was asked as the endpoint that was signed for.
        let asked = world.sts.asked.lock().unwrap().last().unwrap().clone();
        assert_eq!(asked["host"], host);
    }
    let record = world.record();
    assert_eq!(record["user"], "demo:host:apps/123456789012/web");
    assert!(
        record["message"].as_str().unwrap().contains(
            "demo:host:apps/123456789012/web successfully authenticated with authenticator \
             authn-iam service aws"
        ),
        "{record}"
    );
    let good = WEB.sign(REGIONAL, REGION);
    // Whatever stands before account and role.
    world.let_in("aws", "host/123456789012/web", &good).await;
    world.let_in("aws", "host/apps/123456789012/other", &OTHER.sign(REGIONAL, REGION)).await;
    // Names of headers are in any case, and what is not signed is left behind.
    let shouted: Map<String, Value> =
        good.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.clone())).collect();
    let more = but(&shouted, &json!({"X-Forwarded-For": "10.1.1.1", "user-agent": "x"}));
    world.let_in("aws", "host/apps/123456789012/web", &more).await;
    assert!(!world.sts.asked.lock().unwrap().last().unwrap().contains_key("x-forwarded-for"));
    // A client's clock may be a little off.
    for date in ["20231114T221720Z", "20231114T220000Z"] {
        let headers = WEB.sign_with(REGIONAL, REGION, date, QUERY, &[]);
        world.let_in("aws", "host/apps/123456789012/web", &headers).await;
    }
    // Headers that policy allows besides, and the one that always may be.
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let more = [("x-amz-content-sha256", empty)];
    let headers = WEB.sign_with(REGIONAL, REGION, DATE, QUERY, &more);
    world.let_in("aws", "host/apps/123456789012/web", &headers).await;
    let more = [("x-amz-client", "y"), ("x-conclave-server", "x")];
    let headers = WEB.sign_with(REGIONAL, REGION, DATE, QUERY, &more);
    world.let_in("signing", "host/apps/123456789012/web", &headers).await;
    assert_eq!(world.sts.asked.lock().unwrap().last().unwrap()["x-conclave-server"], "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_elses_signature_does() {
    let world = World::new().await;
    let good = WEB.sign(REGIONAL, REGION);

    // What is no signed question is never sent anywhere.
    let before = world.sts.asked();
    for (what, body) in [
        ("no body", String::new()),
        ("no JSON", "host=x".to_owned()),
        ("a list", "[]".to_owned()),
        ("a text", "\"host\"".to_owned()),
        ("null", "null".to_owned()),
        ("a number for a text", json!({"authorization": 1}).to_string()),
        ("a list for a text", json!({"host": [REGIONAL]}).to_string()),
        ("an object in it", json!({"host": {"a": REGIONAL}}).to_string()),
        ("too many headers", {
            let many: Map<String, Value> =
                (0..40).map(|at| (format!("h{at}"), json!("x"))).collect();
            Value::Object(many).to_string()
        }),
        ("too long", json!({"host": "x".repeat(17 << 10)}).to_string()),
        ("something after it", format!("{}{{}}", Value::Object(good.clone()))),
        ("cut off", "{\"host\": \"sts".to_owned()),
    ] {
        let path = "/authn-iam/aws/demo/host%2Fapps%2F123456789012%2Fweb/authenticate";
        let reply = world.post(path, body).await;
        world.refused(what, &reply, 401, "CONJ00018E");
    }
    let text = Value::Object(good.clone()).to_string();
    for (what, body) in [
        ("a header twice", text.replacen('{', "{\"host\": \"sts.amazonaws.com\", ", 1)),
        ("a header twice, in another case", text.replacen('{', "{\"HOST\": \"evil.example\", ", 1)),
        ("two signatures", text.replacen('{', "{\"Authorization\": \"x\", ", 1)),
    ] {
        let path = "/authn-iam/aws/demo/host%2Fapps%2F123456789012%2Fweb/authenticate";
        let reply = world.post(path, body).await;
        world.refused(what, &reply, 401, "stands there twice");
    }
    for (what, changes, reason) in [
        ("no authorization", json!({"authorization": null}), "no authorization"),
        ("an empty one", json!({"authorization": ""}), "no signature of version 4"),
        ("another scheme", json!({"authorization": "Basic eDp5"}), "no signature of version 4"),
        ("version 2", json!({"authorization": "AWS x:y"}), "no signature of version 4"),
        ("no host", json!({"host": null}), "a signed header is missing"),
        ("no date", json!({"x-amz-date": null}), "a signed header is missing"),
        ("no session", json!({"x-amz-security-token": null}), "a signed header is missing"),
        ("an empty date", json!({"x-amz-date": ""}), "a header is empty"),
        ("a line feed", json!({"x-amz-date": "20231114T221320Z\nx: y"}), "what no header does"),
        ("a carriage return", json!({"x-amz-security-token": "a\r\nx: y"}), "what no header does"),
        ("NUL", json!({"x-amz-security-token": "a\u{0}"}), "what no header does"),
        ("letters beyond ASCII", json!({"x-amz-security-token": "é"}), "what no header does"),
        ("a date of another form", json!({"x-amz-date": "2023-11-14T22:13:20Z"}), "is no time"),
        ("a date that is none", json!({"x-amz-date": "20231314T221320Z"}), "is no time"),
        ("another day", json!({"x-amz-date": "20231115T000000Z"}), "another day"),
    ] {
        let reply = world.as_web(&but(&good, &changes)).await;
        world.refused(what, &reply, 401, reason);
    }
    for (what, from, to, reason) in [
        ("another service", "/sts/", "/iam/", "another service"),
        ("another terminator", "aws4_request", "aws5_request", "another service"),
        ("another region", "/eu-central-1/", "/us-east-1/", "another region"),
        ("another day in the scope", "/20231114/", "/20231113/", "another day"),
        ("a short day", "/20231114/", "/2023/", "no signature"),
        ("a key that is none", WEB.id, "../x", "another service"),
        ("an empty key", WEB.id, "", "no signature"),
        ("a signature cut", "Signature=", "Signature=x, Signatur=", "no signature"),
        ("two signatures", "Signature=", "Signature=x, Signature=", "no signature"),
        ("no letters of a number", "Signature=", "Signature=zz", "no signature"),
        ("an unknown part", "Signature=", "Evil=x, Signature=", "no signature"),
        ("host unsigned", "=host;", "=", "must be signed"),
        ("date unsigned", "x-amz-date;", "", "must be signed"),
        ("session unsigned", ";x-amz-security-token", "", "must be signed"),
        ("nothing signed", "host;x-amz-date;x-amz-security-token", "", "not allowed"),
        ("a header twice", "=host;", "=host;host;", "signed twice"),
        ("an unknown header signed", "=host;", "=host;x-evil;", "not allowed"),
        ("the proxy's header signed", "=host;", "=host;x-forwarded-for;", "not allowed"),
        ("its own header signed", "=host;", "=authorization;host;", "not allowed"),
        ("upper case", "=host;", "=Host;", "not allowed"),
    ] {
        let reply = world.as_web(&authorized(&good, from, to)).await;
        world.refused(what, &reply, 401, reason);
    }
    // Hosts, each well signed for.
    for host in [
        "localhost",
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "evil.example",
        "sts.amazonaws.com.evil.example",
        "evil.example/sts.amazonaws.com",
        "evil.example#.amazonaws.com",
        "evil.example?.amazonaws.com",
        "sts.amazonaws.com@evil.example",
        "x:y@sts.amazonaws.com",
        "sts.amazonaws.com:8443",
        "sts.amazonaws.com.",
        "STS.AMAZONAWS.COM",
        "sts.evil.s3.amazonaws.com",
        "sts.my-bucket-1.s3.amazonaws.com",
        "s3.amazonaws.com",
        "iam.amazonaws.com",
        "sts.eu-central-1.amazonaws.com.cn",
        "sts.eu-central-1.amazonaws.co",
        "sts..amazonaws.com",
        "sts.eu_central_1.amazonaws.com",
        "sts.eu-central-1 .amazonaws.com",
        "sts.xn--eu-1.amazonaws.com",
        "sts-fips.eu-central-1.amazonaws.com",
        "sts-fips.amazonaws.com",
        "sts.cn-north-1.amazonaws.com",
        "sts.cn-north-2.amazonaws.com.cn",
        "sts.amazonaws.com.cn",
        "sts.cn-north-1.amazonaws.com.cn.evil.example",
        "https://sts.amazonaws.com",
    ] {
        let reply = world.as_web(&WEB.sign(host, REGION)).await;
        world.refused(host, &reply, 401, "host is no endpoint of STS");
    }
    for (what, headers, reason) in [
        ("the global one by another region", WEB.sign(GLOBAL, REGION), "another region"),
        ("one region by another", WEB.sign(REGIONAL, "us-east-1"), "another region"),
        (
            "China by another region",
            WEB.sign("sts.cn-north-1.amazonaws.com.cn", "us-east-1"),
            "another region",
        ),
        (
            "a validated one by another region",
            WEB.sign("sts-fips.us-east-1.amazonaws.com", "us-east-2"),
            "another region",
        ),
        ("old", WEB.sign_with(REGIONAL, REGION, "20231114T215819Z", QUERY, &[]), "15 minutes ago"),
        ("very old", WEB.sign_with(REGIONAL, REGION, "19700101T000000Z", QUERY, &[]), "ago"),
        ("of tomorrow", WEB.sign_with(REGIONAL, REGION, "20231115T221320Z", QUERY, &[]), "ahead"),
        ("ahead", WEB.sign_with(REGIONAL, REGION, "20231114T221821Z", QUERY, &[]), "ahead"),
        (
            "a header that only another service allows",
            WEB.sign_with(REGIONAL, REGION, DATE, QUERY, &[("x-conclave-server", "x")]),
            "not allowed",
        ),
        (
            "a header of the connection",
            WEB.sign_with(REGIONAL, REGION, DATE, QUERY, &[("transfer-encoding", "chunked")]),
            "not allowed",
        ),
    ] {
        let reply = world.as_web(&headers).await;
        world.refused(what, &reply, 401, reason);
    }
    // Whose path names no role at Amazon.
    for (what, login, reason) in [
        ("a user", "123456789012/web", "CONJ00007E"),
        ("admin", "admin", "CONJ00007E"),
        ("a group", "group/apps/123456789012/web", "CONJ00007E"),
        ("nobody's account", "host/apps/web", "CONJ00063E"),
        ("no account", "host/web", "CONJ00063E"),
        ("something after the role", "host/apps/123456789012/web/deeper", "CONJ00063E"),
        ("a short account", "host/apps/12345678901/web", "CONJ00063E"),
        ("a role in upper case letters of others", "host/apps/123456789012/wéb", "CONJ00063E"),
        ("an empty role", "host/apps/123456789012/", "CONJ00007E"),
    ] {
        let reply = world.hand_over("aws", login, &good).await;
        world.refused(what, &reply, 401, reason);
    }
    assert_eq!(world.sts.asked(), before, "the service was asked for nothing");

    // What the service does not know, or knows for somebody else's.
    for (what, headers, reason) in [
        ("a stranger", STRANGER.sign(REGIONAL, REGION), "it answered 403"),
        (
            "another question",
            WEB.sign_with(REGIONAL, REGION, DATE, "Action=GetSessionToken", &[]),
            "403",
        ),
        (
            "another signature",
            authorized(&good, "Signature=", "Signature=0").clone(),
            "no signature",
        ),
        ("a changed date", but(&good, &json!({"x-amz-date": "20231114T221321Z"})), "403"),
        (
            "a changed host",
            but(&WEB.sign(GLOBAL, "us-east-1"), &json!({"host": "sts.us-east-1.amazonaws.com"})),
            "403",
        ),
        ("a changed session", but(&good, &json!({"x-amz-security-token": "x"})), "403"),
        ("another's key", authorized(&good, WEB.id, OTHER.id), "403"),
        (
            "a region that is not signed for",
            but(
                &authorized(&good, "/eu-central-1/", "/eu-west-1/"),
                &json!({"host": "sts.eu-west-1.amazonaws.com"}),
            ),
            "403",
        ),
        ("another role", OTHER.sign(REGIONAL, REGION), "another role"),
        ("another account", FOREIGN.sign(REGIONAL, REGION), "another role"),
        ("a user of that name", USER.sign(REGIONAL, REGION), "no role at Amazon"),
    ] {
        let reply = world.as_web(&headers).await;
        world.refused(what, &reply, 401, reason);
    }
    for (what, login, status, reason) in [
        ("another host of the role's", "host/apps/123456789012/other", 401, "another role"),
        ("no such host", "host/nobody/123456789012/web", 401, "CONJ00007E"),
        ("a role in other case", "host/apps/123456789012/WEB", 401, "another role"),
    ] {
        let reply = world.hand_over("aws", login, &good).await;
        world.refused(what, &reply, status, reason);
    }
    // Who may not come in is told so whatever it brings, and the service is not asked.
    let before = world.sts.asked();
    for (what, login, status, reason) in [
        ("no such host", "host/nobody/123456789012/web", 401, "CONJ00007E"),
        ("not entitled", "host/apps/unentitled/123456789012/web", 403, "CONJ00006E"),
        ("neither entitled nor from here", "host/apps/neither/123456789012/web", 403, "CONJ00006E"),
        ("from elsewhere", "host/apps/fenced/123456789012/web", 401, "CONJ00003E"),
    ] {
        let proof = Value::Object(good.clone()).to_string();
        for body in [proof.as_str(), "{}", "nonsense"] {
            let path = format!(
                "/authn-iam/aws/demo/{}/authenticate",
                utf8_percent_encode(login, NON_ALPHANUMERIC)
            );
            let reply = world.post(&path, body.to_owned()).await;
            world.refused(&format!("{what}: {body}"), &reply, status, reason);
        }
    }
    assert_eq!(world.sts.asked(), before, "the service was asked for nothing");
    let login = "host%2Fapps%2F123456789012%2Fweb";
    for (what, path, reason) in [
        ("no such service", format!("/authn-iam/none/demo/{login}/authenticate"), "CONJ00004E"),
        ("neither", format!("/authn-iam/none/nowhere/{login}/authenticate"), "CONJ00004E"),
        ("no such account", format!("/authn-iam/aws/nowhere/{login}/authenticate"), "CONJ00008E"),
        ("another account", format!("/authn-iam/aws/other/{login}/authenticate"), "CONJ00005E"),
        ("no service", format!("/authn-iam/demo/{login}/authenticate"), "CONJ00004E"),
        (
            "a service inside a service",
            format!("/authn-iam/aws%2Fstatus/demo/{login}/authenticate"),
            "CONJ00005E",
        ),
    ] {
        let reply = world.post(&path, Value::Object(good.clone()).to_string()).await;
        world.refused(what, &reply, 401, reason);
    }
    refusals::count(&world.house, "api/tests/door/iam.rs::nobody_elses_signature_does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_ill_or_false_lets_nobody_in() {
    let world = World::new().await;
    let elsewhere = Issuer::start().await;
    let good = WEB.sign(REGIONAL, REGION);
    let arn = "arn:aws:sts::123456789012:assumed-role/web/x";
    for (mood, reason) in [
        (Mood::Status(400), "CONJ00063E"),
        (Mood::Status(403), "CONJ00063E"),
        (Mood::Status(429), "it answered 429"),
        (Mood::Status(500), "it answered 500"),
        (Mood::Status(503), "it answered 503"),
        (Mood::Status(204), "it answered 204"),
        (Mood::Redirect(format!("{}/?{QUERY}", elsewhere.url)), "it answered 302"),
        (Mood::Redirect("/".to_owned()), "it answered 302"),
        (Mood::Says("x".repeat(80 << 10)), "too long"),
        (Mood::Says(String::new()), "its answer is none"),
        (Mood::Says("<Arn>arn</Arn>".to_owned()), "its answer is none"),
        (Mood::Says("[]".to_owned()), "its answer is none"),
        (Mood::Says("{}".to_owned()), "its answer is none"),
        (Mood::Says(json!({"Arn": arn, "Account": ACCOUNT}).to_string()), "answer is none"),
        (Mood::Says(identity("999999999999", arn)), "its answer is none"),
        (Mood::Says(identity(ACCOUNT, "")), "its answer is none"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("aws:", "evil:"))), "no role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("aws:", "aws-cn:"))), "no role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace(":sts:", ":iam:"))), "no role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("assumed-role", "role"))), "no role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("/web/x", "/web"))), "no role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("/web/x", "/x/web"))), "another role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("/web/x", "/web/x/y"))), "no role"),
        (Mood::Says(identity(ACCOUNT, &arn.replace("/web/x", "/other/web"))), "another role"),
        (Mood::Says(identity(ACCOUNT, "arn:aws:sts::123456789012:federated-user/web")), "no role"),
        (Mood::Says(identity(ACCOUNT, "arn:aws:iam::123456789012:root")), "no role"),
        (Mood::Slow(Duration::from_secs(10)), "no answer within"),
    ] {
        world.sts.is(mood);
        let reply = world.as_web(&good).await;
        world.refused(reason, &reply, 401, reason);
        assert!(world.record().to_string().contains("CONJ00063E"), "{reason}");
    }
    assert_eq!(elsewhere.asked("/"), 0, "a redirect was followed");
    world.sts.is(Mood::Itself);
    world.let_in("aws", "host/apps/123456789012/web", &good).await;
    // A client with a stranger's certificate in the service's place.
    for (what, authorities, reason) in
        [("another authority", Some(elsewhere.authority.clone()), "TLS"), ("none", None, "TLS")]
    {
        let house = House::with(|settings| {
            settings.authenticators = vec!["authn-iam/aws".to_owned()];
            settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
            settings.clouds.sts_uri = Some(world.sts.url.clone());
            settings.clouds.authorities = authorities;
        });
        house.load("demo", POLICY).await;
        let before = world.sts.asked();
        let path = "/authn-iam/aws/demo/host%2F123456789012%2Fweb/authenticate";
        let body = Value::Object(good.clone()).to_string();
        let reply = house.send(&Method::POST, path, &[], body).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}");
        let record = house.records().pop().unwrap();
        assert!(record["message"].as_str().unwrap().contains(reason), "{what}: {record}");
        assert_eq!(world.sts.asked(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_what_is_wrong_and_a_follower_lets_in_alone() {
    let world = World::new().await;
    let status = async |service: &str| {
        let path = format!("/authn-iam/{service}/demo/status");
        world.house.send_as("demo/admin", &Method::GET, &path, "").await.text()
    };
    assert_eq!(status("aws").await, "{\"status\":\"ok\"}");
    assert_eq!(status("signing").await, "{\"status\":\"ok\"}");
    for bad in ["connection", "x; Authorization", "a b", "é"] {
        world.set(bad).await;
        let text = status("signing").await;
        assert!(text.contains("CONJ00079E"), "{bad}: {text}");
        let good = WEB.sign(REGIONAL, REGION);
        let reply = world.hand_over("signing", "host/123456789012/web", &good).await;
        world.refused(bad, &reply, 401, "CONJ00079E");
    }
    world.sts.is(Mood::Status(500));
    assert!(status("aws").await.contains("CONJ00063E STS cannot be asked: it answered 500"));
    world.sts.is(Mood::Itself);

    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    world.let_in("aws", "host/123456789012/web", &WEB.sign(REGIONAL, REGION)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_too_many_wait_for_the_service_is_told_to_come_again() {
    let world = World::new().await;
    let good = WEB.sign(REGIONAL, REGION);
    world.sts.is(Mood::Slow(Duration::from_secs(1)));
    let together = (0..140).map(|_| world.as_web(&good));
    let replies = futures::future::join_all(together).await;
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 12);
    let told = |record: &Value| record["message"].as_str().unwrap().contains("wait for STS");
    assert_eq!(world.house.records().iter().filter(|record| told(record)).count(), 12);
}
