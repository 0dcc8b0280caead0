//! `authn-k8s`: pods get certificates, log in with them, and nobody else does either; each refusal with
//! its reason in the audit record. The cluster is `kubernetes.rs`, whose shell really writes the file.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use conclave_api::ports::Part;
use conclave_api::settings::Kubernetes;
use conclave_api::{Certificates, ServerTls, key_holders};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{House, Reply};
use super::kubernetes::{Cluster, Ill, Users, V4, V5};
use super::refusals;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Requests that clients make, and what is wrong with them.
type Request = CertificateParams;

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    authority_of(name, KeyPair::generate().unwrap(), change)
}

fn authority_of(
    name: &str,
    key: KeyPair,
    change: impl FnOnce(&mut CertificateParams),
) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn spiffe(namespace: &str, pod: &str) -> SanType {
    uri(&format!("spiffe://cluster.local/namespace/{namespace}/podname/{pod}"))
}

/// As the client of a pod asks: a common name, and the pod.
fn request(name: &str, namespace: &str, pod: &str) -> Request {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![spiffe(namespace, pod)];
    params
}

fn pem(request: &Request) -> String {
    request.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

const POLICY: &str = "
- !policy
  id: apps
  body:
  - !host {id: web, annotations: {authn-k8s/dev/namespace: shop}}
  - !host {id: general, annotations: {authn-k8s/namespace: shop, authn-k8s/other/namespace: x}}
  - !host
    id: first
    annotations: {authn-k8s/namespace: elsewhere, authn-k8s/dev/namespace: shop}
  - !host
    id: labelled
    annotations: {authn-k8s/dev/namespace-label-selector: 'team=shop, example.com/env==prod'}
  - !host
    id: wrong-label
    annotations: {authn-k8s/dev/namespace-label-selector: 'team=shop,example.com/env=test'}
  - !host
    id: deployed
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/deployment: web}
  - !host
    id: deployed-other
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/deployment: other}
  - !host
    id: stateful
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/stateful-set: db}
  - !host
    id: configured
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/deployment-config: old}
  - !host
    id: account
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/service-account: web-sa}
  - !host
    id: account-other
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/service-account: other-sa}
  - !host
    id: pod
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/pod: web-1}
  - !host
    id: all
    annotations:
      authn-k8s/dev/namespace: shop
      authn-k8s/dev/deployment: web
      authn-k8s/dev/service-account: web-sa
      authn-k8s/dev/pod: web-1
      authn-k8s/dev/authentication-container-name: helper
  - !host
    id: contained
    annotations:
      authn-k8s/dev/namespace: shop
      kubernetes/authentication-container-name: helper
  - !host
    id: no-container
    annotations:
      authn-k8s/dev/namespace: shop
      authn-k8s/dev/authentication-container-name: missing
  - !host
    id: begun
    annotations:
      authn-k8s/dev/namespace: shop
      authn-k8s/dev/authentication-container-name: setup
  - !host
    id: both-namespaces
    annotations:
      authn-k8s/dev/namespace: shop
      authn-k8s/namespace-label-selector: team=shop
  - !host {id: no-namespace, annotations: {authn-k8s/dev/pod: web-1}}
  - !host
    id: two-makers
    annotations:
      authn-k8s/dev/namespace: shop
      authn-k8s/dev/deployment: web
      authn-k8s/dev/stateful-set: db
  - !host
    id: strange
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/colour: red}
  - !host
    id: bad-selector
    annotations: {authn-k8s/dev/namespace-label-selector: 'team!=shop'}
  - !host
    id: path
    annotations: {authn-k8s/dev/namespace: shop, authn-k8s/dev/deployment: ../pods/web-1}
  - !host plain
  - !host {id: dotted.one, annotations: {authn-k8s/dev/namespace: shop}}
  - !host
    id: fenced
    restricted_to: [10.1.0.0/16]
    annotations: {authn-k8s/dev/namespace: shop}
  - !host {id: unentitled, annotations: {authn-k8s/dev/namespace: shop}}
  - !host shop/deployment/web
  - !host shop/deployment/other
  - !host shop/stateful_set/db
  - !host shop/deployment_config/old
  - !host shop/service_account/web-sa
  - !host shop/pod/web-1
  - !host shop/*/*
  - !host elsewhere/*/*
  - !host shop/colour/web
  - !user person
- !policy
  id: conjur/authn-k8s/dev
  body:
  - !webservice
  - !webservice status
  - !variable ca/cert
  - !variable ca/key
  - !variable kubernetes/api-url
  - !variable kubernetes/ca-cert
  - !variable kubernetes/service-account-token
  - !group apps
  - !permit {role: !group apps, privileges: [read, authenticate], resource: !webservice}
  - !policy
    id: apps
    body:
    - !host {id: near, annotations: {authn-k8s/dev/namespace: shop}}
- !policy
  id: conjur/authn-k8s/off
  body:
  - !webservice
- !policy
  id: conjur/authn-k8s/empty
  body:
  - !webservice
- !grant
  role: !group conjur/authn-k8s/dev/apps
  members:
";

/// Hosts below `apps` that may log in.
const ENTITLED: &[&str] = &[
    "web",
    "general",
    "first",
    "labelled",
    "wrong-label",
    "deployed",
    "deployed-other",
    "stateful",
    "configured",
    "account",
    "account-other",
    "pod",
    "all",
    "contained",
    "no-container",
    "begun",
    "both-namespaces",
    "no-namespace",
    "two-makers",
    "strange",
    "bad-selector",
    "path",
    "plain",
    "dotted.one",
    "fenced",
    "shop/deployment/web",
    "shop/deployment/other",
    "shop/stateful_set/db",
    "shop/deployment_config/old",
    "shop/service_account/web-sa",
    "shop/pod/web-1",
    "shop/*/*",
    "elsewhere/*/*",
    "shop/colour/web",
];

fn policy() -> String {
    let mut text = POLICY.to_owned();
    for host in ENTITLED {
        text.push_str("  - !host apps/");
        text.push_str(host);
        text.push('\n');
    }
    text.push_str("  - !host conjur/authn-k8s/dev/apps/near\n");
    text += "- !permit {role: !host apps/web, privileges: [authenticate], \
             resource: !webservice conjur/authn-k8s/empty}\n";
    text
}

const PODS: &str = "/api/v1/namespaces/shop/pods";
const APPS: &str = "/apis/apps/v1/namespaces/shop";

fn owner(kind: &str, name: &str) -> serde_json::Value {
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"),
        "controller": true, "blockOwnerDeletion": true}])
}

fn object(name: &str, owners: &serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"),
        "ownerReferences": owners}})
}

fn pod(name: &str, owners: &serde_json::Value) -> serde_json::Value {
    let mut pod = object(name, owners);
    pod["spec"] = json!({
        "serviceAccountName": "web-sa",
        "containers": [{"name": "app"}, {"name": "authenticator"}, {"name": "helper"}],
        "initContainers": [{"name": "setup"}],
    });
    pod["status"] = json!({"phase": "Running"});
    pod
}

/// A namespace with a deployment, a stateful set, a deployment configuration and their pods.
fn fill(cluster: &Cluster) {
    let labels = json!({"team": "shop", "example.com/env": "prod"});
    cluster.put("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop", "labels": labels}}));
    cluster.put("/api/v1/namespaces/shop/serviceaccounts/web-sa", object("web-sa", &json!([])));
    cluster.put(&format!("{PODS}/web-1"), pod("web-1", &owner("ReplicaSet", "web-rs")));
    cluster
        .put(&format!("{APPS}/replicasets/web-rs"), object("web-rs", &owner("Deployment", "web")));
    cluster.put(&format!("{APPS}/deployments/web"), object("web", &json!([])));
    cluster.put(&format!("{APPS}/deployments/other"), object("other", &json!([])));
    cluster.put(&format!("{PODS}/db-0"), pod("db-0", &owner("StatefulSet", "db")));
    cluster.put(&format!("{APPS}/statefulsets/db"), object("db", &json!([])));
    cluster.put(&format!("{PODS}/old-1"), pod("old-1", &owner("ReplicationController", "old-rc")));
    cluster.put(
        "/api/v1/namespaces/shop/replicationcontrollers/old-rc",
        object("old-rc", &owner("DeploymentConfig", "old")),
    );
    cluster.put(
        "/apis/apps.openshift.io/v1/namespaces/shop/deploymentconfigs/old",
        object("old", &json!([])),
    );
    cluster.put(&format!("{PODS}/lone"), pod("lone", &json!([])));
    for pod in ["web-1", "db-0", "old-1", "lone"] {
        for container in ["authenticator", "helper", "setup"] {
            cluster.folder(pod, container);
        }
    }
}

struct World {
    house: House,
    cluster: Cluster,
    authority: Authority,
}

/// A client in a pod, with its key, and the certificate that it was given.
struct Client {
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut conclave_api::Settings, &Cluster)) -> Self {
        let cluster = Cluster::start().await;
        fill(&cluster);
        let house = House::with(|settings| {
            settings.failures_max = u32::MAX;
            settings.request_time_max = Duration::from_mins(1);
            settings.outbound_time_max = Duration::from_secs(30);
            settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
            settings.kubernetes.exec_time_max = Duration::from_secs(30);
            settings.authenticators =
                vec!["authn-k8s/dev".to_owned(), "authn-k8s/empty".to_owned()];
            adjust(settings, &cluster);
        });
        house.load("demo", &policy()).await;
        let authority = authority("dev", |_| {});
        let world = Self { house, cluster, authority };
        world.set("ca/cert", &world.authority.pem()).await;
        world.set("ca/key", &world.authority.key().serialize_pem()).await;
        world.set("kubernetes/api-url", &world.cluster.url).await;
        world.set("kubernetes/ca-cert", &world.cluster.authority).await;
        world.set("kubernetes/service-account-token", "the-token").await;
        world
    }

    async fn set(&self, variable: &str, value: &str) {
        let id = format!("conjur/authn-k8s/dev/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }

    /// Takes a variable out of policy, or puts it back there without a value.
    async fn declare(&self, variable: &str, is_there: bool) {
        let id = format!("!variable conjur/authn-k8s/dev/{variable}");
        let text =
            if is_there { format!("- {id}\n") } else { format!("- !delete {{record: {id}}}\n") };
        let uri = "/policies/demo/policy/root";
        let reply = self.house.send_as("demo/admin", &Method::PATCH, uri, text).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }

    async fn inject(&self, prefix: &str, body: impl Into<String>) -> Reply {
        self.inject_at("dev", &[("host-id-prefix", prefix)], body).await
    }

    async fn inject_at(
        &self,
        service: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Reply {
        let path = format!("/authn-k8s/{service}/inject_client_cert");
        self.house.send(&Method::POST, &path, headers, body.into()).await
    }

    /// As [`World::inject`], of a host below `apps`, with the header and the name as the client does.
    async fn inject_host(&self, host: &str, pod: &str) -> Reply {
        let login = format!("host/apps/{host}");
        let parts: Vec<&str> = login.split('/').collect();
        let at = if parts.len() > 3 { parts.len() - 3 } else { parts.len() - 1 };
        let (prefix, name) = (parts[..at].join("."), parts[at..].join("."));
        self.inject(&prefix, pem(&request(&name, "shop", pod))).await
    }

    fn waits_at(&self, pod: &str, container: &str) -> PathBuf {
        self.cluster.folder(pod, container).join("client.pem")
    }

    /// Goes the whole way up to the certificate, and takes it as the client does.
    async fn enter(&self, login: &str, pod: &str, container: &str) -> Client {
        let key = KeyPair::generate().unwrap();
        let parts: Vec<&str> = login.split('/').collect();
        let at = if parts.len() > 3 { parts.len() - 3 } else { parts.len() - 1 };
        let (prefix, name) = (parts[..at].join("."), parts[at..].join("."));
        let body = request(&name, "shop", pod).serialize_request(&key).unwrap().pem().unwrap();
        let reply = self.inject(&prefix, body).await;
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{login}: {record}");
        assert_eq!(reply.text(), "");
        assert_eq!(record["operation"], "k8s-inject-client-cert");
        let user = format!("demo:host:{}", login.strip_prefix("host/").unwrap());
        assert_eq!((&record["user"], &record["result"]), (&json!(user), &json!("success")));
        // When the answer is there, the file is, and nothing else beside it.
        let file = self.waits_at(pod, container);
        let text = std::fs::read(&file).unwrap();
        let folder = std::fs::read_dir(file.parent().unwrap()).unwrap();
        assert_eq!(folder.count(), 1, "{login}");
        std::fs::remove_file(&file).unwrap();
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().unwrap();
        assert_eq!(chain.len(), 1);
        Client { key, chain }
    }

    async fn show(&self, chain: &[CertificateDer<'static>], login: &str) -> Reply {
        self.show_from("192.0.2.7", &[], chain, login).await
    }

    async fn show_from(
        &self,
        peer: &str,
        headers: &[(&str, &str)],
        chain: &[CertificateDer<'static>],
        login: &str,
    ) -> Reply {
        let login = utf8_percent_encode(login, NON_ALPHANUMERIC);
        let path = format!("/authn-k8s/dev/demo/{login}/authenticate");
        self.house.send_with(peer, chain.into(), &Method::POST, &path, headers, "").await
    }

    /// A certificate of the service's own authority, whatever it says.
    fn forge(&self, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
        of(&self.authority, params)
    }

    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        assert_eq!(reply.text(), "", "{what}");
        assert_eq!(record["result"], "failure", "{what}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
        assert!(!message.contains("the-token"), "{what}: {message}");
    }

    async fn status(&self) -> Reply {
        self.house.send_as("demo/admin", &Method::GET, "/authn-k8s/dev/demo/status", "").await
    }
}

fn of(authority: &Authority, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
    let key = KeyPair::generate().unwrap();
    vec![params.signed_by(&key, authority).unwrap().der().clone()]
}

fn header(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_get_certificates_and_log_in_with_them() {
    let world = World::new().await;
    for (login, pod, container) in [
        ("host/apps/web", "web-1", "authenticator"),
        ("host/apps/web", "lone", "authenticator"),
        ("host/apps/general", "web-1", "authenticator"),
        ("host/apps/first", "web-1", "authenticator"),
        ("host/apps/labelled", "web-1", "authenticator"),
        ("host/apps/deployed", "web-1", "authenticator"),
        ("host/apps/stateful", "db-0", "authenticator"),
        ("host/apps/configured", "old-1", "authenticator"),
        ("host/apps/account", "web-1", "authenticator"),
        ("host/apps/pod", "web-1", "authenticator"),
        ("host/apps/all", "web-1", "helper"),
        ("host/apps/contained", "web-1", "helper"),
        ("host/apps/begun", "web-1", "setup"),
        ("host/apps/shop/deployment/web", "web-1", "authenticator"),
        ("host/apps/shop/stateful_set/db", "db-0", "authenticator"),
        ("host/apps/shop/deployment_config/old", "old-1", "authenticator"),
        ("host/apps/shop/service_account/web-sa", "web-1", "authenticator"),
        ("host/apps/shop/pod/web-1", "web-1", "authenticator"),
        ("host/apps/shop/*/*", "lone", "authenticator"),
    ] {
        let client = world.enter(login, pod, container).await;
        let reply = world.show(&client.chain, login).await;
        let record = world.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{login}: {record}");
        let user = format!("demo:host:{}", login.strip_prefix("host/").unwrap());
        assert_eq!(record["user"], user);
        assert_eq!(record["authenticator"], "authn-k8s");
        // From a proxy that has ended TLS.
        let text = header(&client.chain[0]);
        let headers = [("x-ssl-client-certificate", text.as_str())];
        let reply = world.show_from("10.9.1.1", &headers, &[], login).await;
        assert_eq!(reply.status, StatusCode::OK, "{login}");
    }
    // Without a header the host is one of the service's own; `pod` is read for `podname`.
    let mut own = request("near", "shop", "web-1");
    own.subject_alt_names = vec![uri("spiffe://other.example/namespace/shop/pod/web-1")];
    let reply = world.inject_at("dev", &[], pem(&own)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let record = world.house.records().pop().unwrap();
    assert_eq!(record["user"], "demo:host:conjur/authn-k8s/dev/apps/near");
    let reply = world.status().await;
    assert_eq!(reply.text(), "{\"status\":\"ok\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_says_what_was_checked_and_lives_three_days() {
    let world = World::new().await;
    let mut asked = request("web", "shop", "web-1");
    // More than the client asks for is not given.
    asked.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let key = KeyPair::generate().unwrap();
    let body = asked.serialize_request(&key).unwrap().pem().unwrap();
    assert_eq!(world.inject("host.apps", body).await.status, StatusCode::ACCEPTED);
    let text = std::fs::read(world.waits_at("web-1", "authenticator")).unwrap();
    let der = CertificateDer::from_pem_slice(&text).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=host.apps.web");
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uri = "URI(spiffe://cluster.local/namespace/shop/podname/web-1)";
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(names.value.general_names[0].to_string(), uri);
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
    assert_eq!(usage.value.flags, 0b101);
    assert!(certificate.extended_key_usage().unwrap().is_none());
    assert!(!certificate.is_ca());
    assert_eq!(certificate.raw_serial().len(), 20);
    let now = 1_700_000_000;
    let validity = certificate.validity();
    assert_eq!(validity.not_after.timestamp(), now + 3 * 86_400);
    assert_eq!(validity.not_before.timestamp(), now - 300);
    // Another each time, as when it is renewed; the first is good until its own end.
    let client = world.enter("host/apps/web", "web-1", "authenticator").await;
    assert_ne!(client.chain[0], der);
    world.house.clock.advance(Duration::from_hours(71));
    assert_eq!(world.show(&client.chain, "host/apps/web").await.status, StatusCode::OK);
    world.house.clock.advance(Duration::from_hours(2));
    let reply = world.show(&client.chain, "host/apps/web").await;
    world.refused("three days later", &reply, 401, "CONJ00032E");
    let renewed = world.enter("host/apps/web", "web-1", "authenticator").await;
    assert_eq!(world.show(&renewed.chain, "host/apps/web").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_of_commands_is_spoken() {
    let world = World::new().await;
    for (known, spoken) in [
        (vec![V5, V4], V5),
        (vec![V4], V4),
        (vec!["v3.channel.k8s.io", "channel.k8s.io"], ""),
        (Vec::new(), ""),
    ] {
        world.cluster.mood(|mood| mood.protocols = known);
        let client = world.enter("host/apps/web", "web-1", "authenticator").await;
        assert_eq!(world.cluster.spoken(), [spoken]);
        assert_eq!(world.show(&client.chain, "host/apps/web").await.status, StatusCode::OK);
        // Nor does any of them take a command that failed for one that did not.
        let folder = world.cluster.folder("web-1", "authenticator");
        std::fs::remove_dir_all(&folder).unwrap();
        let reply = world.inject_host("web", "web-1").await;
        let code = if spoken.is_empty() { "CONJ00072E" } else { "CONJ00034E" };
        world.refused(spoken, &reply, 401, code);
        world.cluster.folder("web-1", "authenticator");
        for ill in [Ill::NoShell, Ill::SaysNothing, Ill::BreaksOff] {
            world.cluster.mood(|mood| mood.ill = Some(ill));
            let reply = world.inject_host("web", "web-1").await;
            world.refused(spoken, &reply, 401, "CONJ00072E");
        }
        world.cluster.mood(|mood| mood.ill = None);
        world.cluster.spoken();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_whole_whenever_it_is_there() {
    let world = World::new().await;
    let file = world.waits_at("web-1", "authenticator");
    let done = Arc::new(AtomicBool::new(false));
    let (place, ended) = (file.clone(), done.clone());
    let watcher = std::thread::spawn(move || {
        let mut seen = 0;
        loop {
            // Once more after the end: it is there then.
            let is_last = ended.load(Ordering::SeqCst);
            if let Ok(text) = std::fs::read(&place) {
                CertificateDer::from_pem_slice(&text).unwrap();
                seen += 1;
            }
            if is_last {
                return seen;
            }
        }
    });
    // Several at once for one pod: the last one stays, and nothing is left of the others.
    let all = (0..8).map(|_| world.inject_host("web", "web-1"));
    for reply in futures::future::join_all(all).await {
        assert_eq!(reply.status, StatusCode::ACCEPTED);
    }
    done.store(true, Ordering::SeqCst);
    assert!(watcher.join().unwrap() > 0);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_for_the_client_alone_where_nobody_else_can_be_the_client() {
    let world = World::new().await;
    let file = world.waits_at("web-1", "authenticator");
    for (users, wanted) in [(Users::One, 0o600), (Users::Several, 0o644)] {
        world.cluster.mood(|mood| mood.users = users);
        let reply = world.inject_host("web", "web-1").await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{:?}", world.house.records().pop());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, wanted, "{users:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_request_gets_a_certificate() {
    let world = World::new().await;
    let good = || request("web", "shop", "web-1");
    let changed = |change: &dyn Fn(&mut Request)| {
        let mut request = good();
        change(&mut request);
        pem(&request)
    };
    let names = |names: Vec<SanType>| changed(&|request| request.subject_alt_names = names.clone());
    let der = |damage: &dyn Fn(&mut Vec<u8>)| {
        let request = good().serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let mut der = request.der().to_vec();
        damage(&mut der);
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let two_names = changed(&|request| {
        let evil = rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]);
        request.distinguished_name.push(evil, "other");
    });
    // What is wrong with the request itself.
    for (what, body, status, reason) in [
        ("nothing", String::new(), 401, "CONJ00022E"),
        ("nonsense", "nonsense".to_owned(), 401, "CONJ00022E"),
        ("a certificate", world.authority.pem(), 401, "CONJ00022E"),
        ("something after it", der(&|der| der.push(0)), 401, "CONJ00022E"),
        ("cut off", der(&|der| der.truncate(60)), 401, "CONJ00022E"),
        (
            "signed with another key",
            der(&|der| {
                let at = der.len() - 3;
                der[at] ^= 1;
            }),
            401,
            "not signed",
        ),
        ("no pod", names(Vec::new()), 401, "no SPIFFE id"),
        (
            "two pods",
            names(vec![spiffe("shop", "web-1"), spiffe("shop", "db-0")]),
            401,
            "no SPIFFE",
        ),
        (
            "a name beside it",
            names(vec![spiffe("shop", "web-1"), SanType::DnsName("x.example".try_into().unwrap())]),
            401,
            "no SPIFFE id",
        ),
        (
            "a name in place of it",
            names(vec![SanType::DnsName("web.example".try_into().unwrap())]),
            401,
            "no SPIFFE id",
        ),
        ("another address", names(vec![uri("https://cluster.local/x")]), 401, "no SPIFFE id"),
        ("a path out of it", names(vec![spiffe("shop", "../../secrets/x")]), 401, "no SPIFFE id"),
        ("a query", names(vec![spiffe("shop", "web-1?x=y")]), 401, "no SPIFFE id"),
        ("an encoded slash", names(vec![spiffe("shop", "web-1%2fexec")]), 401, "no SPIFFE id"),
        ("an empty namespace", names(vec![spiffe("", "web-1")]), 401, "no SPIFFE id"),
        ("a large namespace", names(vec![spiffe("Shop", "web-1")]), 401, "no SPIFFE id"),
        (
            "no common name",
            changed(&|request| request.distinguished_name = DistinguishedName::new()),
            422,
            "CONJ00058E",
        ),
        ("two common names", two_names, 422, "CONJ00058E"),
        (
            "a key of another kind",
            good().serialize_request(&ed25519).unwrap().pem().unwrap(),
            401,
            "key is not one",
        ),
        ("nobody", pem(&request("nobody", "shop", "web-1")), 401, "CONJ00007E"),
        ("a dot in an id", pem(&request("dotted.one", "shop", "web-1")), 401, "CONJ00007E"),
        ("not entitled", pem(&request("unentitled", "shop", "web-1")), 403, "CONJ00006E"),
        ("from elsewhere", pem(&request("fenced", "shop", "web-1")), 401, "CONJ00003E"),
        ("an empty name", pem(&request(".", "shop", "web-1")), 401, "CONJ00007E"),
    ] {
        let reply = world.inject("host.apps", body).await;
        world.refused(what, &reply, status, reason);
    }
    // Whose it is to be.
    for (prefix, name) in
        [("user", "person"), ("user.apps", "person"), ("", "host.apps.web"), ("x", "y")]
    {
        let reply = world.inject(prefix, pem(&request(name, "shop", "web-1"))).await;
        world.refused(prefix, &reply, 401, "CONJ00007E");
    }
    let twice = [("host-id-prefix", "host.apps"), ("host-id-prefix", "host.apps")];
    let reply = world.inject_at("dev", &twice, pem(&good())).await;
    world.refused("two prefixes", &reply, 401, "CONJ00048E");
    let reply = world.inject(&"host.".repeat(300), pem(&good())).await;
    world.refused("a long prefix", &reply, 401, "CONJ00048E");
    let reply = world.inject("host.apps", "x".repeat(20_000)).await;
    world.refused("a large body", &reply, 413, "16384 bytes");
    // The service.
    for (service, reason) in
        [("none", "CONJ00005E"), ("off", "CONJ00004E"), ("a%2Fb", "CONJ00005E"), ("", "CONJ00005E")]
    {
        if service.is_empty() {
            continue;
        }
        let headers = [("host-id-prefix", "host.apps")];
        let reply = world.inject_at(service, &headers, pem(&good())).await;
        world.refused(service, &reply, 401, reason);
    }
    let reply = world.inject_at("empty", &[("host-id-prefix", "host.apps")], pem(&good())).await;
    world.refused("neither annotations nor variables", &reply, 401, "CONJ00048E");
    // Of all of them, nobody has asked the cluster anything.
    assert_eq!(world.cluster.asked(), Vec::<String>::new());
    refusals::count(&world.house, "api/tests/door/k8s.rs::no_other_request_gets_a_certificate");
}

/// What pods are refused by: how a host wants them, and how they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_pod_gets_a_certificate_or_logs_in() {
    let world = World::new().await;
    for (host, pod, reason) in [
        ("web", "gone", "CONJ00024E"),
        ("wrong-label", "web-1", "CONJ00083E"),
        ("deployed", "db-0", "CONJ00062E"),
        ("deployed", "lone", "CONJ00062E"),
        ("deployed-other", "web-1", "CONJ00061E"),
        ("stateful", "web-1", "CONJ00062E"),
        ("configured", "web-1", "CONJ00062E"),
        ("account-other", "web-1", "CONJ00061E"),
        ("pod", "lone", "CONJ00060E"),
        ("all", "lone", "CONJ00060E"),
        ("no-container", "web-1", "CONJ00028E"),
        ("both-namespaces", "web-1", "CONJ00131E"),
        ("no-namespace", "web-1", "CONJ00131E"),
        ("two-makers", "web-1", "CONJ00055E"),
        ("strange", "web-1", "CONJ00050E"),
        ("bad-selector", "web-1", "CONJ00094E"),
        ("path", "web-1", "CONJ00026E"),
        ("plain", "web-1", "CONJ00048E"),
        ("shop/deployment/other", "web-1", "CONJ00061E"),
        ("shop/colour/web", "web-1", "CONJ00041E"),
        ("shop/pod/web-1", "lone", "CONJ00060E"),
        ("elsewhere/*/*", "web-1", "CONJ00023E"),
    ] {
        let reply = world.inject_host(host, pod).await;
        world.refused(host, &reply, 401, reason);
        // Nor by a certificate that it should never have got.
        let name = format!("host.apps.{}", host.replace('/', "."));
        let chain = world.forge(&request(&name, "shop", pod));
        let reply = world.show(&chain, &format!("host/apps/{host}")).await;
        world.refused(host, &reply, 401, reason);
    }
    let reply = world.inject("host.apps", pem(&request("web", "other", "web-1"))).await;
    world.refused("another namespace", &reply, 401, "CONJ00023E");

    // What changes after the certificate was given counts when it is used.
    let set = format!("{APPS}/replicasets/web-rs");
    let web = format!("{PODS}/web-1");
    let deployed = world.enter("host/apps/deployed", "web-1", "authenticator").await;
    let login = "host/apps/deployed";
    let show = async || world.show(&deployed.chain, login).await;
    assert_eq!(show().await.status, StatusCode::OK);
    for (what, path, change, reason) in [
        ("another set of that name", &set, json!({"uid": "uid-new"}), "CONJ00062E"),
        ("a set of nobody", &set, json!({"ownerReferences": []}), "CONJ00062E"),
        (
            "a set of something else of that name",
            &set,
            json!({"ownerReferences": owner("StatefulSet", "web")}),
            "CONJ00062E",
        ),
        (
            "a deployment that was there before",
            &set,
            json!({"ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "uid-before",
                "controller": true}]}),
            "CONJ00062E",
        ),
        (
            "an owner that does not look after it",
            &web,
            json!({"ownerReferences": [{"kind": "ReplicaSet", "name": "web-rs",
                "uid": "uid-web-rs"}]}),
            "CONJ00062E",
        ),
        (
            "an owner without an identity",
            &web,
            json!({"ownerReferences": [{"kind": "ReplicaSet", "name": "web-rs", "uid": "",
                "controller": true}]}),
            "CONJ00062E",
        ),
        (
            "a set that is not there",
            &web,
            json!({"ownerReferences": owner("ReplicaSet", "gone")}),
            "CONJ00026E",
        ),
    ] {
        let mut before = json!(null);
        world.cluster.change(path, |object| {
            before = object.clone();
            for (name, value) in change.as_object().unwrap() {
                object["metadata"][name] = value.clone();
            }
        });
        world.refused(what, &show().await, 401, reason);
        world.refused(what, &world.inject_host("deployed", "web-1").await, 401, reason);
        world.cluster.put(path, before);
    }
    for phase in ["Succeeded", "Failed"] {
        world.cluster.change(&web, |pod| pod["status"]["phase"] = json!(phase));
        world.refused(phase, &show().await, 401, "has ended");
    }
    world.cluster.change(&web, |pod| pod["status"]["phase"] = json!("Running"));
    assert_eq!(show().await.status, StatusCode::OK);
    world.cluster.delete(&format!("{APPS}/deployments/web"));
    world.refused("no deployment", &show().await, 401, "CONJ00026E");
    world.cluster.delete(&web);
    world.refused("no pod", &show().await, 401, "CONJ00024E");
    let account = world.forge(&request("host.apps.account", "shop", "db-0"));
    world.cluster.delete("/api/v1/namespaces/shop/serviceaccounts/web-sa");
    let reply = world.show(&account, "host/apps/account").await;
    world.refused("no service account", &reply, 401, "CONJ00026E");
    world.cluster.delete("/api/v1/namespaces/shop");
    let labelled = world.forge(&request("host.apps.labelled", "shop", "db-0"));
    let reply = world.show(&labelled, "host/apps/labelled").await;
    world.refused("no namespace", &reply, 401, "CONJ00026E");
    refusals::count(
        &world.house,
        "api/tests/door/k8s.rs::no_other_pod_gets_a_certificate_or_logs_in",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_certificate_logs_in() {
    let world = World::new().await;
    let login = "host/apps/web";
    let usual = || request("host.apps.web", "shop", "web-1");
    let good = world.enter(login, "web-1", "authenticator").await.chain;
    world.cluster.asked();
    let forged = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = usual();
        change(&mut params);
        world.forge(&params)
    };
    let foreign = authority("dev", |_| {});
    let between = {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "between");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &world.authority).unwrap()
    };
    let self_signed = usual().self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
    let mut damaged = good[0].to_vec();
    let at = damaged.len() - 10;
    damaged[at] ^= 1;
    let through_another = [of(&between, &usual()), vec![between.der().clone()]].concat();
    for (what, chain, login, status, reason) in [
        ("none", Vec::new(), login, 401, "CONJ00029E"),
        ("of another authority of that name", of(&foreign, &usual()), login, 401, "CONJ00030E"),
        ("its own authority", vec![self_signed], login, 401, "CONJ00030E"),
        ("the authority itself", vec![world.authority.der().clone()], login, 401, "CONJ00030E"),
        ("through another authority", through_another, login, 401, "CONJ00030E"),
        ("damaged", vec![damaged.into()], login, 401, "CONJ00030E"),
        ("garbage", vec![CertificateDer::from(vec![1, 2, 3])], login, 401, "CONJ00030E"),
        (
            "expired",
            forged(&|params| params.not_after = date_time_ymd(2023, 11, 1)),
            login,
            401,
            "CONJ00032E",
        ),
        (
            "of tomorrow",
            forged(&|params| params.not_before = date_time_ymd(2023, 12, 1)),
            login,
            401,
            "CONJ00030E",
        ),
        ("another host", good.clone(), "host/apps/general", 401, "CONJ00031E"),
        ("a host below", good.clone(), "host/apps/web/web", 401, "CONJ00007E"),
        ("a user", good.clone(), "person@apps", 403, "CONJ00006E"),
        ("nobody", good.clone(), "host/nobody", 401, "CONJ00007E"),
        (
            "a dot in an id",
            world.forge(&request("host.apps.dotted.one", "shop", "web-1")),
            "host/apps/dotted.one",
            401,
            "CONJ00031E",
        ),
        (
            "a user's name",
            world.forge(&request("user.person", "shop", "web-1")),
            login,
            401,
            "CONJ00007E",
        ),
        (
            "no common name",
            forged(&|params| params.distinguished_name = DistinguishedName::new()),
            login,
            422,
            "CONJ00059E",
        ),
        ("no pod", forged(&|params| params.subject_alt_names.clear()), login, 401, "CONJ00022E"),
        (
            "two pods",
            forged(&|params| params.subject_alt_names.push(spiffe("shop", "db-0"))),
            login,
            401,
            "CONJ00022E",
        ),
        (
            "for servers",
            forged(&|params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            }),
            login,
            401,
            "CONJ00030E",
        ),
        (
            "not entitled",
            world.forge(&request("host.apps.unentitled", "shop", "web-1")),
            "host/apps/unentitled",
            403,
            "CONJ00006E",
        ),
        (
            "from elsewhere",
            world.forge(&request("host.apps.fenced", "shop", "web-1")),
            "host/apps/fenced",
            401,
            "CONJ00003E",
        ),
    ] {
        let reply = world.show(&chain, login).await;
        world.refused(what, &reply, status, reason);
    }
    // A header proves nothing unless a proxy that is trusted has written it.
    let text = header(&good[0]);
    let forged = [("x-ssl-client-certificate", text.as_str())];
    for peer in ["192.0.2.7", "127.0.0.1", "10.10.0.1"] {
        let reply = world.show_from(peer, &forged, &[], login).await;
        world.refused(peer, &reply, 401, "not from a proxy");
        let reply = world.show_from(peer, &forged, &good, login).await;
        world.refused(peer, &reply, 401, "not from a proxy");
    }
    let claimed = [forged[0], ("x-forwarded-for", "10.9.1.1")];
    let reply = world.show_from("192.0.2.7", &claimed, &[], login).await;
    world.refused("an address in a header", &reply, 401, "not from a proxy");
    let reply = world.show_from("10.9.1.1", &[forged[0], forged[0]], &[], login).await;
    world.refused("two headers", &reply, 401, "CONJ00035E");
    // Of all of them, nobody has asked the cluster anything.
    assert_eq!(world.cluster.asked(), Vec::<String>::new());
    // An authority that is replaced by another is believed while it stands beside it.
    let next = authority("next", |_| {});
    world.set("ca/cert", &format!("{}{}", next.pem(), world.authority.pem())).await;
    world.set("ca/key", &next.key().serialize_pem()).await;
    assert_eq!(world.show(&good, login).await.status, StatusCode::OK);
    let newer = world.enter(login, "web-1", "authenticator").await.chain;
    world.set("ca/cert", &next.pem()).await;
    world.refused("an authority that is gone", &world.show(&good, login).await, 401, "CONJ00030E");
    assert_eq!(world.show(&newer, login).await.status, StatusCode::OK);
    refusals::count(&world.house, "api/tests/door/k8s.rs::no_other_certificate_logs_in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_set_wrongly_lets_nobody_in_and_says_so_in_its_status() {
    let world = World::new().await;
    let chain = world.enter("host/apps/web", "web-1", "authenticator").await.chain;
    let (certificate, key) = (world.authority.pem(), world.authority.key().serialize_pem());
    let expired = authority("dev", |params| params.not_after = date_time_ymd(2023, 11, 1));
    let other = authority("other", |_| {});
    let (foreign, _) = super::issuer::certificates();
    let slash = "https://169.254.169.254/latest";
    for (what, variables, status, reason) in [
        ("no authority", &[("ca/cert", "nonsense")][..], 401, "CONJ00155E"),
        ("another key", &[("ca/key", &*other.key().serialize_pem())], 401, "CONJ00156E"),
        ("no key", &[("ca/key", "nonsense")], 401, "CONJ00156E"),
        ("a certificate for a key", &[("ca/key", &certificate)], 401, "CONJ00156E"),
        (
            "an authority that has expired",
            &[("ca/cert", &*expired.pem()), ("ca/key", &*expired.key().serialize_pem())],
            401,
            "CONJ00155E",
        ),
        ("no token", &[("kubernetes/service-account-token", "")], 401, "CONJ00153E"),
        (
            "a token of two lines",
            &[("kubernetes/service-account-token", "a\nb")],
            401,
            "CONJ00153E",
        ),
        ("another token", &[("kubernetes/service-account-token", "other")], 502, "answered 401"),
        ("no authorities", &[("kubernetes/ca-cert", "")], 401, "CONJ00043E"),
        ("authorities that are none", &[("kubernetes/ca-cert", "x")], 401, "CONJ00154E"),
        ("other authorities", &[("kubernetes/ca-cert", &foreign)], 502, "TLS"),
        ("no URL", &[("kubernetes/api-url", "")], 401, "CONJ00042E"),
        ("a URL without TLS", &[("kubernetes/api-url", "http://127.0.0.1")], 401, "CONJ00042E"),
        ("a URL with credentials", &[("kubernetes/api-url", "https://a@b")], 401, "CONJ00042E"),
        ("a neighbour of this node", &[("kubernetes/api-url", slash)], 502, "may be called"),
        ("nobody there", &[("kubernetes/api-url", "https://127.0.0.1:1")], 502, "refused"),
    ] {
        for (variable, value) in variables {
            world.declare(variable, !value.is_empty()).await;
            if !value.is_empty() {
                world.set(variable, value).await;
            }
        }
        let reply = world.inject_host("web", "web-1").await;
        world.refused(what, &reply, status, reason);
        // To believe a certificate, the key is not needed.
        if !variables.iter().any(|(variable, _)| *variable == "ca/key") {
            let reply = world.show(&chain, "host/apps/web").await;
            world.refused(what, &reply, status, reason);
        }
        let reply = world.status().await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{what}");
        assert!(reply.text().contains(reason), "{what}: {}", reply.text());
        for (variable, value) in [
            ("ca/cert", &*certificate),
            ("ca/key", &*key),
            ("kubernetes/api-url", &*world.cluster.url),
            ("kubernetes/ca-cert", &*world.cluster.authority),
            ("kubernetes/service-account-token", "the-token"),
        ] {
            world.declare(variable, true).await;
            world.set(variable, value).await;
        }
    }
    assert_eq!(world.show(&chain, "host/apps/web").await.status, StatusCode::OK);
    assert_eq!(world.status().await.text(), "{\"status\":\"ok\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_too_many_wait_for_a_cluster_is_told_to_come_again() {
    let world = World::new().await;
    let chain = world.enter("host/apps/web", "web-1", "authenticator").await.chain;
    world.cluster.mood(|mood| mood.late = Some(Duration::from_secs(1)));
    let together = (0..80).map(|_| world.show(&chain, "host/apps/web"));
    let replies = futures::future::join_all(together).await;
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 16);
    let records = world.house.records();
    let told = |record: &&serde_json::Value| {
        record["message"].as_str().unwrap().contains("wait for Kubernetes")
    };
    assert_eq!(records.iter().filter(told).count(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_ill_lets_nobody_in() {
    let world = World::new().await;
    let chain = world.enter("host/apps/deployed", "web-1", "authenticator").await.chain;
    let login = "host/apps/deployed";
    for kind in ["pods", "replicasets", "deployments"] {
        world.cluster.mood(|mood| mood.forbidden = [kind].into());
        world.refused(kind, &world.show(&chain, login).await, 502, "answered 403");
        world.refused(kind, &world.inject_host("deployed", "web-1").await, 502, "answered 403");
    }
    world.cluster.mood(|mood| mood.forbidden = ["apis"].into());
    let reply = world.status().await;
    assert!(reply.text().contains("answered 403"), "{}", reply.text());
    world.cluster.mood(|mood| mood.forbidden = ["pods/exec"].into());
    let reply = world.inject_host("deployed", "web-1").await;
    world.refused("no right to run commands", &reply, 502, "CONJ00071E");
    world.cluster.mood(|mood| mood.forbidden.clear());
    let another = pod("web-1", &json!([])).to_string().replace("shop", "other");
    for (what, answer, reason) in [
        ("an error", (500, "{}".to_owned()), "answered 500"),
        ("a redirect", (302, "{}".to_owned()), "answered 302"),
        ("something else", (200, "<html>".to_owned()), "not what was asked for"),
        ("a list", (200, "[]".to_owned()), "not what was asked for"),
        ("another pod", (200, another), "another pod"),
        ("too much", (200, " ".repeat(3 << 20)), "too long"),
    ] {
        world.cluster.mood(|mood| mood.answers = Some(answer));
        world.refused(what, &world.show(&chain, login).await, 502, reason);
        world.refused(what, &world.inject_host("deployed", "web-1").await, 502, reason);
    }
    world.cluster.mood(|mood| mood.answers = None);
    for (ill, status, reason) in [
        (Ill::Refuses(500), 502, "CONJ00071E"),
        (Ill::Refuses(503), 502, "CONJ00071E"),
        (Ill::Refuses(401), 502, "CONJ00071E"),
        (Ill::Refuses(404), 401, "CONJ00071E"),
        (Ill::Refuses(400), 401, "CONJ00071E"),
        (Ill::Strange, 401, "CONJ00073E"),
        (Ill::Floods, 401, "CONJ00072E"),
        (Ill::BreaksOff, 401, "CONJ00072E"),
        (Ill::SaysNothing, 401, "CONJ00072E"),
        (Ill::NoShell, 401, "executable file not found"),
    ] {
        world.cluster.mood(|mood| mood.ill = Some(ill));
        let reply = world.inject_host("deployed", "web-1").await;
        world.refused(&format!("{ill:?}"), &reply, status, reason);
    }
    world.cluster.mood(|mood| mood.ill = None);
    // A folder stands where the file belongs, or none for it.
    let file = world.waits_at("web-1", "authenticator");
    std::fs::create_dir(&file).unwrap();
    let reply = world.inject_host("deployed", "web-1").await;
    world.refused("a folder in its place", &reply, 401, "CONJ00072E");
    std::fs::remove_dir(&file).unwrap();
    // With what commands that were cut off have left there.
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    let reply = world.inject_host("deployed", "web-1").await;
    world.refused("no folder", &reply, 401, "CONJ00034E");
    assert_eq!(world.show(&chain, login).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_cluster_holds_nobody_up() {
    let world = World::with(|settings, _| {
        settings.outbound_time_max = Duration::from_millis(1500);
        settings.kubernetes.exec_time_max = Duration::from_millis(1500);
    })
    .await;
    let chain = world.forge(&request("host.apps.web", "shop", "web-1"));
    world.cluster.mood(|mood| mood.ill = Some(Ill::Hangs));
    let reply = world.inject_host("web", "web-1").await;
    world.refused("a command that hangs", &reply, 401, "CONJ00033E");
    world.cluster.mood(|mood| {
        mood.ill = None;
        mood.late = Some(Duration::from_mins(1));
    });
    let (shown, asked) =
        tokio::join!(world.show(&chain, "host/apps/web"), world.inject_host("web", "web-1"),);
    assert_eq!((shown.status.as_u16(), asked.status.as_u16()), (504, 504));
    let messages = world.house.records().split_off(world.house.records().len() - 2);
    for record in messages {
        let message = record["message"].as_str().unwrap();
        assert!(message.contains("no answer within 1.5s"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_its_own_files_come_first_and_go_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let world = World::with(|settings, cluster| {
        settings.kubernetes = Kubernetes {
            api_url: Some(cluster.url.clone()),
            service_account: folder.path().to_owned(),
            ..settings.kubernetes.clone()
        };
    })
    .await;
    write("token", "the-token\n");
    write("ca.crt", &world.cluster.authority);
    // Variables may be wrong, or not set at all.
    world.set("kubernetes/api-url", "https://127.0.0.1:1").await;
    world.set("kubernetes/ca-cert", "nonsense").await;
    world.set("kubernetes/service-account-token", "other").await;
    let chain = world.enter("host/apps/web", "web-1", "authenticator").await.chain;
    let login = "host/apps/web";
    assert_eq!(world.show(&chain, login).await.status, StatusCode::OK);
    // The token is renewed under way.
    world.cluster.set_token("renewed");
    world.refused("the former token", &world.show(&chain, login).await, 502, "answered 401");
    write("token", "renewed");
    assert_eq!(world.show(&chain, login).await.status, StatusCode::OK);
    // Where there is no file, the variable stands in for it.
    std::fs::remove_file(folder.path().join("token")).unwrap();
    world.set("kubernetes/service-account-token", "renewed").await;
    assert_eq!(world.show(&chain, login).await.status, StatusCode::OK);
    drop(world);
    // What the cluster around this node gives it is not sent to where a variable says.
    write("token", "the-token");
    let world = World::with(|settings, _| {
        settings.kubernetes.service_account = folder.path().to_owned();
    })
    .await;
    world.set("kubernetes/service-account-token", "other").await;
    let chain = world.forge(&request("host.apps.web", "shop", "web-1"));
    world.refused("elsewhere", &world.show(&chain, login).await, 502, "answered 401");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_authorities_may_be_rsa_in_either_form() {
    let world = World::new().await;
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let pkcs8 = key.serialize_der();
    let rsa = authority_of("rsa", key, |_| {});
    world.set("ca/cert", &rsa.pem()).await;
    // Within PKCS#8 there is a key as PKCS#1, which `openssl` and Ruby write.
    assert_eq!(pkcs8[26..28], [0x30, 0x82]);
    let text = STANDARD.encode(&pkcs8[26..]);
    let pkcs1 = format!("-----BEGIN RSA PRIVATE KEY-----\n{text}\n-----END RSA PRIVATE KEY-----\n");
    for pem in [rsa.key().serialize_pem(), pkcs1] {
        world.set("ca/key", &pem).await;
        let chain = world.enter("host/apps/web", "web-1", "authenticator").await.chain;
        assert_eq!(world.show(&chain, "host/apps/web").await.status, StatusCode::OK);
    }
    // Clients have RSA keys, too.
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let body = request("web", "shop", "web-1").serialize_request(&key).unwrap().pem().unwrap();
    assert_eq!(world.inject("host.apps", body).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gives_certificates_and_lets_in_while_the_leader_is_gone() {
    let world = World::new().await;
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    let chain = world.enter("host/apps/deployed", "web-1", "authenticator").await.chain;
    let reply = world.show(&chain, "host/apps/deployed").await;
    assert_eq!(reply.status, StatusCode::OK);
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_hours(1));
    let reply = world.inject_host("deployed", "web-1").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "too old to say who is who");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_too_often_waits_and_the_account_is_never_guessed() {
    let world = World::with(|settings, _| settings.failures_max = 3).await;
    for _ in 0..3 {
        let reply = world.inject_host("web", "gone").await;
        world.refused("gone", &reply, 401, "CONJ00024E");
    }
    let reply = world.inject_host("web", "web-1").await;
    world.refused("too often", &reply, 429, "too many");
    let reply = world.inject_host("general", "web-1").await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "others go on");
    for _ in 0..3 {
        let reply = world.inject("host.apps", "nonsense").await;
        world.refused("nonsense", &reply, 401, "CONJ00022E");
    }
    let reply = world.inject_host("general", "web-1").await;
    world.refused("too much nonsense", &reply, 429, "too many");

    let twin = "- !policy\n  id: conjur/authn-k8s/dev\n  body:\n  - !webservice\n";
    let world = World::new().await;
    world.house.load("other", twin).await;
    let reply = world.inject_host("web", "web-1").await;
    world.refused("two accounts", &reply, 401, "CONJ00008E");
    let world = World::with(|settings, _| {
        settings.kubernetes.account = Some(conclave_domain::id::AccountName::new("demo").unwrap());
    })
    .await;
    world.house.load("other", twin).await;
    assert_eq!(world.inject_host("web", "web-1").await.status, StatusCode::ACCEPTED);
}

/// What the client of a pod does, byte by byte, at a listener of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_the_whole_way_over_our_own_listener() {
    let world = World::new().await;
    let (server_authority, certificate) = super::issuer::certificates();
    let served = Certificates { by_name: HashMap::new(), default: Some(certificate) };
    let tls = Arc::new(ServerTls::new(served, Some(key_holders())).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = world.house.router.clone();
    tokio::spawn(conclave_api::serve(listener, tls, router, std::future::pending()));
    let ask = async |client: Option<&Client>, head: &str, body: &str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server_authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(Client { key, chain }) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain.clone(), key).unwrap()
            }
        };
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {head}\r\nhost: x\r\nuser-agent: Go-http-client/1.1\r\ncontent-type: text/plain\r\n\
             content-length: {length}\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    // The id of four parts and more goes into the name with three of them, the rest into the header.
    let key = KeyPair::generate().unwrap();
    let request = request("shop.deployment.web", "shop", "web-1").serialize_request(&key).unwrap();
    let head = "/authn-k8s/dev/inject_client_cert HTTP/1.1\r\nhost-id-prefix: host.apps";
    let answer = ask(None, head, &request.pem().unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let text = std::fs::read(world.waits_at("web-1", "authenticator")).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&text).unwrap()];
    let client = Client { key, chain };
    let head = "/authn-k8s/dev/demo/host%2Fapps%2Fshop%2Fdeployment%2Fweb/authenticate HTTP/1.1";
    let answer = ask(Some(&client), head, "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"payload\""), "{answer}");
    let answer = ask(None, head, "").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let forged = format!("{head}\r\nx-ssl-client-certificate: {}", header(&client.chain[0]));
    let answer = ask(None, &forged, "").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}
