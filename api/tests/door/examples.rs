//! The worked examples of `node/docs/authentication.md`, as they stand there: policies are loaded, variables set, and
//! tokens of the shape that each platform documents let in who is meant, and nobody else.

use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::{Issuer, keys};

const NOW: i64 = 1_700_000_000;
const DOCUMENT: &str = include_str!("../../../node/docs/authentication.md");

/// What stands under a heading of the document.
struct Example {
    policy: String,
    /// Names and values of the service's variables.
    variables: Vec<(String, String)>,
}

/// The blocks under a heading: a policy, and lines of a variable and its value.
fn example(heading: &str) -> Example {
    let (_, text) = DOCUMENT.split_once(&format!("\n### {heading}\n")).unwrap();
    let text = text.split("\n#").next().unwrap();
    let block = |kind: &str| {
        let (_, rest) = text.split_once(&format!("```{kind}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let variables = block("text");
    let variables = variables.lines().map(|line| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.trim().to_owned())
    });
    Example { policy: block("yaml"), variables: variables.collect() }
}

struct World {
    house: House,
    issuer: Issuer,
}

impl World {
    /// A house with one of the examples in force; the keys are this test's own.
    async fn of(heading: &str, service: &str) -> Self {
        let issuer = Issuer::start().await;
        issuer.shows(&[&keys()[0]]);
        let house = House::calling_out(|settings| {
            settings.authenticators = vec![format!("authn-jwt/{service}")];
        });
        let world = Self { house, issuer };
        let Example { policy, variables } = example(heading);
        world.house.load("demo", &policy).await;
        let mut sources = 0;
        for (name, value) in variables {
            let value = match name.as_str() {
                "jwks-uri" => format!("{}/keys", world.issuer.url),
                "provider-uri" => world.issuer.url.clone(),
                "public-keys" => {
                    json!({"type": "jwks", "value": {"keys": [keys()[0].jwk()]}}).to_string()
                }
                _ => value,
            };
            if name.ends_with("-uri") {
                let authority = world.issuer.authority.clone();
                world
                    .house
                    .load("demo", &format!("- !variable conjur/authn-jwt/{service}/ca-cert\n"))
                    .await;
                world.set(service, "ca-cert", &authority).await;
            }
            sources += usize::from(name.ends_with("-uri") || name == "public-keys");
            world.set(service, &name, &value).await;
        }
        assert_eq!(sources, 1, "{heading}");
        world
    }

    async fn set(&self, service: &str, variable: &str, value: &str) {
        let id = format!("conjur/authn-jwt/{service}/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{uri}");
    }

    async fn try_token(&self, service: &str, claims: &Value) -> Reply {
        let path = format!("/authn-jwt/{service}/demo/authenticate");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("jwt={}", keys()[0].token(claims));
        self.house.send(&Method::POST, &path, &form, body).await
    }

    /// The token lets in that host; and with any of the other claims it lets nobody in.
    async fn holds(&self, service: &str, host: &str, claims: &Value, others: &[Value]) {
        let reply = self.try_token(service, claims).await;
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{service}: {record}");
        assert!(record.to_string().contains(&format!("demo:host:{host}")), "{record}");
        for other in others {
            let mut changed = claims.clone();
            merge(&mut changed, other);
            let reply = self.try_token(service, &changed).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{service}: {other} does as well");
        }
    }
}

fn merge(claims: &mut Value, changes: &Value) {
    for (name, value) in changes.as_object().unwrap() {
        match claims.get_mut(name) {
            Some(inner) if inner.is_object() && value.is_object() => merge(inner, value),
            _ => claims[name] = value.clone(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_of_github_logs_in_as_documented() {
    let world = World::of("GitHub Actions", "github").await;
    let claims = json!({
        "iss": "https://token.actions.githubusercontent.com", "aud": "https://secrets.example.com",
        "sub": "repo:example/shop:environment:production", "jti": "example-id",
        "repository": "example/shop", "repository_id": "74", "repository_owner": "example",
        "repository_owner_id": "65", "environment": "production", "ref": "refs/heads/main",
        "ref_type": "branch", "event_name": "push", "runner_environment": "github-hosted",
        "workflow_ref": "example/shop/.github/workflows/deploy.yml@refs/heads/main",
        "exp": NOW + 900, "iat": NOW, "nbf": NOW - 5,
    });
    let others = [
        json!({"repository": "example/other"}),
        json!({"repository_owner_id": "66"}),
        json!({"environment": "staging"}),
        json!({"ref": "refs/heads/feature"}),
        json!({"aud": "https://github.com/example"}),
        json!({"iss": "https://token.actions.example.com"}),
        json!({"exp": NOW - 60}),
    ];
    world.holds("github", "github/example/shop", &claims, &others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_gitlab_logs_in_as_documented() {
    let world = World::of("GitLab", "gitlab").await;
    let claims = json!({
        "iss": world.issuer.url, "aud": "https://secrets.example.com",
        "sub": "project_path:example/shop:ref_type:branch:ref:main", "jti": "example-id",
        "project_path": "example/shop", "project_id": "22", "namespace_path": "example",
        "namespace_id": "72", "ref": "main", "ref_type": "branch", "ref_protected": "true",
        "environment": "production", "environment_protected": "true", "pipeline_source": "push",
        "user_login": "somebody", "exp": NOW + 3600, "iat": NOW, "nbf": NOW - 5,
    });
    let others = [
        json!({"project_path": "example/other"}),
        json!({"project_id": "23"}),
        json!({"ref_protected": "false"}),
        json!({"environment": "staging"}),
        json!({"aud": "https://gitlab.example.com"}),
        json!({"iss": "https://gitlab.example.net"}),
    ];
    world.holds("gitlab", "gitlab/example/shop", &claims, &others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_of_kubernetes_logs_in_as_documented() {
    let world = World::of("Service accounts of Kubernetes", "k8s").await;
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["https://secrets.example.com"],
        "sub": "system:serviceaccount:shop:web", "jti": "example-id",
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "web-69dbb5c6c9-x2tzz", "uid": "example-uid"},
            "serviceaccount": {"name": "web", "uid": "example-uid"},
        },
        "exp": NOW + 600, "iat": NOW, "nbf": NOW,
    });
    let others = [
        json!({"sub": "system:serviceaccount:shop:other"}),
        json!({"sub": "system:serviceaccount:other:web"}),
        json!({"kubernetes.io": {"namespace": "other"}}),
        json!({"kubernetes.io": {"serviceaccount": {"name": "other"}}}),
        json!({"aud": ["https://kubernetes.default.svc.cluster.local"]}),
        json!({"iss": "https://kubernetes.other"}),
    ];
    world.holds("k8s", "k8s/system:serviceaccount:shop:web", &claims, &others).await;
}
