//! `authn-jwt` with tokens that the cluster of their pods is shown (`TokenReview`): good ones, those that look good and
//! are not any more, and clusters that are ill.

use std::time::Duration;

use conclave_api::ports::Part;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::keys;
use super::kubernetes::Cluster;
use super::refusals;

const NOW: i64 = 1_700_000_000;
const SUBJECT: &str = "system:serviceaccount:shop:web";
const AUDIENCE: &str = "conclave";
const POLICY: &str = "
- !policy
  id: conjur/authn-jwt/pods
  body:
  - !webservice {annotations: {authn-jwt/token_review: true}}
  - !webservice status
  - !variable public-keys
  - !variable issuer
  - !variable audience
  - !variable token-app-property
  - !variable kubernetes/api-url
  - !variable kubernetes/ca-cert
  - !variable kubernetes/service-account-token
  - !group apps
  - !permit {role: !group apps, privileges: [read, authenticate], resource: !webservice}
- !host {id: web, annotations: {authn-jwt/pods/kubernetes.io/namespace: shop}}
- !host {id: idle, annotations: {authn-jwt/pods/kubernetes.io/namespace: shop}}
- !grant {role: !group conjur/authn-jwt/pods/apps, member: !host web}
";

struct World {
    house: House,
    cluster: Cluster,
}

impl World {
    async fn new() -> Self {
        let cluster = Cluster::start().await;
        let house = House::calling_out(|settings| {
            settings.authenticators = vec!["authn-jwt/pods".to_owned()];
        });
        house.load("demo", POLICY).await;
        let world = Self { house, cluster };
        let given = json!({"type": "jwks", "value": {"keys": [keys()[0].jwk()]}}).to_string();
        for (variable, value) in [
            ("public-keys", given.as_str()),
            ("issuer", "https://kubernetes.default.svc"),
            ("audience", AUDIENCE),
            ("token-app-property", "host"),
            ("kubernetes/api-url", &world.cluster.url),
            ("kubernetes/ca-cert", &world.cluster.authority),
            ("kubernetes/service-account-token", "the-token"),
        ] {
            world.set(variable, value).await;
        }
        world
    }

    async fn set(&self, variable: &str, value: &str) {
        let id = format!("conjur/authn-jwt/pods/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }

    async fn patch(&self, policy: &str) {
        let path = "/policies/demo/policy/root";
        let reply = self.house.send_as("demo/admin", &Method::PATCH, path, policy.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }

    async fn show(&self, token: &str) -> Reply {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let path = "/authn-jwt/pods/demo/authenticate";
        self.house.send(&Method::POST, path, &form, format!("jwt={token}")).await
    }

    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        assert_eq!(reply.text(), "", "{what}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
        assert!(!message.contains("the-token"), "{what}: {message}");
    }

    async fn status(&self) -> String {
        let path = "/authn-jwt/pods/demo/status";
        self.house.send_as("demo/admin", &Method::GET, path, "").await.text()
    }
}

/// A token of a pod that its signature, its times and its claims let in.
fn token(changes: &Value) -> String {
    let mut claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": [AUDIENCE], "sub": SUBJECT, "exp": NOW + 3600,
        "iat": NOW, "host": "web", "kubernetes.io": {"namespace": "shop", "pod": {"name": "web-1"}},
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    keys()[0].token(&claims)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_while_its_pod_lives() {
    let world = World::new().await;
    assert_eq!(world.status().await, "{\"status\":\"ok\"}");
    let good = token(&json!({}));
    world.cluster.give(&good, SUBJECT, &[AUDIENCE, "others"]);
    world.cluster.asked();
    assert_eq!(world.show(&good).await.status, StatusCode::OK, "{:?}", world.house.records().pop());
    assert_eq!(world.cluster.asked(), ["POST /apis/authentication.k8s.io/v1/tokenreviews"]);
    // On a follower alone, too.
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    assert_eq!(world.show(&good).await.status, StatusCode::OK);
    world.cluster.take_back(&good);
    let reply = world.show(&good).await;
    world.refused("its pod is gone", &reply, 401, "service account token has been invalidated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cluster_does_not_vouch_for_lets_nobody_in() {
    let world = World::new().await;
    let never = token(&json!({"jti": "1"}));
    let reply = world.show(&never).await;
    world.refused("one it never gave out", &reply, 401, "the token is not good any more");
    let others = token(&json!({"jti": "2"}));
    world.cluster.give(&others, SUBJECT, &["others"]);
    let reply = world.show(&others).await;
    world.refused("one for others", &reply, 401, "token audiences are not wanted");
    let another = token(&json!({"jti": "3"}));
    world.cluster.give(&another, "system:serviceaccount:shop:db", &[AUDIENCE]);
    let reply = world.show(&another).await;
    world.refused("another's", &reply, 401, "is that of 'system:serviceaccount:shop:db'");
    let nobody = token(&json!({"sub": null}));
    world.cluster.give(&nobody, SUBJECT, &[AUDIENCE]);
    world.refused("nobody's", &world.show(&nobody).await, 401, "is that of 'system:");
    // A cluster that looks at no audiences.
    let good = token(&json!({}));
    let blind = json!({"status": {"authenticated": true, "user": {"username": SUBJECT}}});
    world.cluster.mood(|mood| mood.answers = Some((201, blind.to_string())));
    let nameless = json!({"status": {"authenticated": true, "audiences": [AUDIENCE]}});
    world.cluster.mood(|mood| mood.answers = Some((201, nameless.to_string())));
    world.refused(
        "nobody's, and nobody is named",
        &world.show(&nobody).await,
        401,
        "is that of ''",
    );
    world.cluster.mood(|mood| mood.answers = Some((201, blind.to_string())));
    world.refused("no audiences", &world.show(&good).await, 401, "the token is for others");
    assert!(world.status().await.contains("finds everything good"), "{}", world.status().await);
    world.cluster.mood(|mood| mood.answers = None);

    // What is refused here is not asked about.
    world.cluster.give(&good, SUBJECT, &[AUDIENCE]);
    let idle = token(&json!({"host": "idle"}));
    world.cluster.give(&idle, SUBJECT, &[AUDIENCE]);
    world.cluster.asked();
    for (what, token, status, reason) in [
        ("not entitled", idle, 403, "CONJ00006E"),
        ("nobody", token(&json!({"host": "ghost"})), 401, "CONJ00007E"),
        ("another namespace", token(&json!({"kubernetes.io": {"namespace": "x"}})), 401, "CONJ000"),
        ("another audience", token(&json!({"aud": "x"})), 401, "for others"),
        ("a foreign key", keys()[2].token(&json!({"exp": NOW + 60})), 401, "CONJ00035E"),
    ] {
        world.refused(what, &world.show(&token).await, status, reason);
    }
    assert_eq!(world.cluster.asked(), Vec::<String>::new());

    // Clusters that cannot say.
    for (what, answer, status, reason) in [
        ("no JSON", (200, "?".to_owned()), 502, "its answer is no review"),
        ("no status", (201, "{}".to_owned()), 502, "its answer is no review"),
        ("ill", (500, "{}".to_owned()), 502, "it answered 500"),
        ("accepted", (202, "{}".to_owned()), 502, "it answered 202"),
    ] {
        world.cluster.mood(|mood| mood.answers = Some(answer));
        world.refused(what, &world.show(&good).await, status, reason);
        assert!(world.status().await.contains(reason), "{what}: {}", world.status().await);
    }
    world.cluster.mood(|mood| {
        mood.answers = None;
        mood.forbidden.insert("tokenreviews");
    });
    world.refused("no right", &world.show(&good).await, 502, "has the service account its role?");
    assert!(world.status().await.contains("has the service account its role?"));
    world.cluster.mood(|mood| {
        mood.forbidden.clear();
        mood.late = Some(Duration::from_secs(30));
    });
    world.refused("slow", &world.show(&good).await, 504, "no answer within");
    world.cluster.mood(|mood| mood.late = None);
    world.set("kubernetes/ca-cert", &super::issuer::certificates().0).await;
    world.refused("another authority", &world.show(&good).await, 502, "TLS");
    world.set("kubernetes/ca-cert", "nonsense").await;
    world.refused("no authority", &world.show(&good).await, 401, "CONJ00154E");
    world.set("kubernetes/ca-cert", &world.cluster.authority).await;
    world.cluster.set_token("another");
    world.refused("not known there", &world.show(&good).await, 502, "token in force?");
    let unclear =
        "- !webservice {id: conjur/authn-jwt/pods, annotations: {authn-jwt/token_review: maybe}}";
    world.patch(unclear).await;
    world.refused(
        "a setting that is none",
        &world.show(&good).await,
        401,
        "neither true nor false",
    );
    assert!(world.status().await.contains("neither true nor false"));
    world.patch(&unclear.replace("maybe", "false")).await;
    world.cluster.asked();
    assert_eq!(world.show(&good).await.status, StatusCode::OK);
    assert_eq!(world.cluster.asked(), Vec::<String>::new(), "nobody wants to know");
    refusals::count(
        &world.house,
        "api/tests/door/token_review.rs::what_the_cluster_does_not_vouch_for_lets_nobody_in",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_too_many_wait_for_reviews_is_told_to_come_again() {
    let world = World::new().await;
    let good = token(&json!({}));
    world.cluster.give(&good, SUBJECT, &[AUDIENCE]);
    world.cluster.mood(|mood| mood.late = Some(Duration::from_secs(1)));
    let together = (0..80).map(|_| world.show(&good));
    let replies = futures::future::join_all(together).await;
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 16);
    let told = |record: &Value| record["message"].as_str().unwrap().contains("wait for reviews");
    assert_eq!(world.house.records().iter().filter(|record| told(record)).count(), 16);
}
