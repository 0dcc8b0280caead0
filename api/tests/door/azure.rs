//! `authn-azure` against an issuer that stands in Azure's place: which tokens of managed identities let a
//! host in, and all that do not, each with its reason in the audit record and none of it in the answer.

use std::time::Duration;

use conclave_api::ports::Part;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::harness::{House, Reply};
use super::issuer::{Issuer, Says, keys};
use super::refusals;

const NOW: i64 = 1_700_000_000;
const MACHINE: &str =
    "/subscriptions/sub-1/resourcegroups/web/providers/Microsoft.Compute/virtualMachines/vm-1";
const SHARED: &str = "/subscriptions/sub-1/resourcegroups/web/providers/Microsoft.ManagedIdentity/\
                      userAssignedIdentities/crew";
const POLICY: &str = "
- !policy
  id: apps
  body:
  - !host
    id: group
    annotations: {authn-azure/subscription-id: sub-1, authn-azure/resource-group: web}
  - !host
    id: machine
    annotations:
      authn-azure/prod/subscription-id: sub-1
      authn-azure/prod/resource-group: web
      authn-azure/prod/system-assigned-identity: oid-1
  - !host
    id: shared
    annotations:
      authn-azure/subscription-id: sub-1
      authn-azure/resource-group: web
      authn-azure/user-assigned-identity: crew
  - !host
    id: overridden
    annotations:
      authn-azure/subscription-id: sub-2
      authn-azure/prod/subscription-id: sub-1
      authn-azure/resource-group: web
      authn-azure/other/resource-group: x
      authn-azure/other/colour: red
  - !host
    id: overridden-away
    annotations:
      authn-azure/subscription-id: sub-1
      authn-azure/prod/subscription-id: sub-2
      authn-azure/resource-group: web
  - !host {id: no-group, annotations: {authn-azure/subscription-id: sub-1}}
  - !host {id: no-subscription, annotations: {authn-azure/resource-group: web}}
  - !host
    id: of-another
    annotations: {authn-azure/other/subscription-id: sub-1, authn-azure/other/resource-group: web}
  - !host
    id: both
    annotations:
      authn-azure/subscription-id: sub-1
      authn-azure/resource-group: web
      authn-azure/user-assigned-identity: crew
      authn-azure/prod/system-assigned-identity: oid-1
  - !host
    id: strange
    annotations:
      authn-azure/subscription-id: sub-1
      authn-azure/resource-group: web
      authn-azure/colour: red
  - !host plain
  - !host
    id: fenced
    restricted_to: [10.1.0.0/16]
    annotations: {authn-azure/subscription-id: sub-1, authn-azure/resource-group: web}
  - !host
    id: unentitled
    annotations: {authn-azure/subscription-id: sub-1, authn-azure/resource-group: web}
- !user
  id: alice
  annotations: {authn-azure/subscription-id: sub-1, authn-azure/resource-group: web}
- !policy
  id: conjur/authn-azure/prod
  body:
  - !webservice
  - !webservice status
  - !variable provider-uri
  - !variable ca-cert
- !policy
  id: conjur/authn-azure/aud
  body:
  - !webservice
  - !variable provider-uri
  - !variable ca-cert
  - !variable audience
- !policy
  id: conjur/authn-azure/empty
  body:
  - !webservice
  - !webservice status
  - !variable provider-uri
- !policy
  id: conjur/authn-azure/bare
  body:
  - !webservice
  - !webservice status
- !permit
  roles: [!host apps/group, !host apps/machine, !host apps/shared, !host apps/overridden,
    !host apps/overridden-away, !host apps/no-group, !host apps/no-subscription, !host apps/of-another,
    !host apps/both, !host apps/strange, !host apps/plain, !host apps/fenced, !user alice]
  privileges: [read, authenticate]
  resources: [!webservice conjur/authn-azure/prod, !webservice conjur/authn-azure/aud,
    !webservice conjur/authn-azure/empty, !webservice conjur/authn-azure/bare]
";

struct World {
    house: House,
    issuer: Issuer,
}

impl World {
    async fn new() -> Self {
        let issuer = Issuer::start().await;
        issuer.shows(&[&keys()[0]]);
        // As Azure's does, it calls itself with a slash at the end.
        let slashed = format!("{}/", issuer.url);
        let document = json!({"issuer": slashed, "jwks_uri": format!("{}/keys", issuer.url)});
        issuer.says("/.well-known/openid-configuration", Says::Json(document));
        let house = House::calling_out(|settings| {
            settings.authenticators = ["prod", "aud", "empty", "bare"]
                .map(|service| format!("authn-azure/{service}"))
                .into();
        });
        house.load("demo", POLICY).await;
        let world = Self { house, issuer };
        for service in ["prod", "aud"] {
            world.set(service, "provider-uri", &world.issuer.url).await;
            world.set(service, "ca-cert", &world.issuer.authority).await;
        }
        world.set("aud", "audience", "https://conclave.example").await;
        world
    }

    async fn set(&self, service: &str, variable: &str, value: &str) {
        let id = format!("conjur/authn-azure/{service}/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }

    /// What the metadata server gives a machine; null takes a claim away.
    fn claims(&self, changes: &Value) -> Value {
        let mut claims = json!({
            "iss": format!("{}/", self.issuer.url), "aud": "https://management.azure.com/",
            "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "appid": "app-1", "oid": "oid-1",
            "sub": "oid-1", "tid": "tenant-1", "ver": "1.0", "xms_mirid": MACHINE,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    fn token(&self, changes: &Value) -> String {
        keys()[0].token(&self.claims(changes))
    }

    async fn post(&self, path: &str, body: String) -> Reply {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        self.house.send(&Method::POST, path, &form, body).await
    }

    async fn try_token(&self, service: &str, login: &str, token: &str) -> Reply {
        let login = utf8_percent_encode(login, NON_ALPHANUMERIC);
        let path = format!("/authn-azure/{service}/demo/{login}/authenticate");
        self.post(&path, format!("jwt={token}")).await
    }

    async fn let_in(&self, service: &str, host: &str, changes: &Value) {
        let login = format!("host/apps/{host}");
        let reply = self.try_token(service, &login, &self.token(changes)).await;
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{host}: {record}");
        assert_eq!(record["user"], format!("demo:host:apps/{host}"));
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
async fn managed_identities_are_let_in() {
    let world = World::new().await;
    for host in ["group", "machine", "overridden"] {
        world.let_in("prod", host, &json!({})).await;
    }
    for host in ["group", "shared"] {
        world.let_in("prod", host, &json!({"xms_mirid": SHARED})).await;
    }
    for same in [
        MACHINE.trim_start_matches('/').to_owned(),
        MACHINE.replace("resourcegroups", "resourceGroups"),
        format!("{MACHINE}/extensions/x"),
    ] {
        world.let_in("prod", "machine", &json!({"xms_mirid": same})).await;
    }
    // Where the service says for whom tokens are, they are.
    world.let_in("aud", "group", &json!({"aud": "https://conclave.example"})).await;
    // However the provider is written, and whether its tokens are of the first or the second version.
    world.set("prod", "provider-uri", &format!("{}/", world.issuer.url)).await;
    world.let_in("prod", "machine", &json!({})).await;
    let second = format!("{}/tenant/v2.0", world.issuer.url);
    let document = json!({"issuer": second, "jwks_uri": format!("{}/keys", world.issuer.url)});
    world.issuer.says("/tenant/v2.0/.well-known/openid-configuration", Says::Json(document));
    world.set("prod", "provider-uri", &second).await;
    world.let_in("prod", "machine", &json!({"iss": second})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_token_of_azure_does() {
    let world = World::new().await;
    let path = "/authn-azure/prod/demo/host%2Fapps%2Fgroup/authenticate";
    for (what, body) in [
        ("no body", String::new()),
        ("another field", format!("id_token={}", world.token(&json!({})))),
        ("an empty field", "jwt=".to_owned()),
        ("JSON", format!("{{\"jwt\":\"{}\"}}", world.token(&json!({})))),
    ] {
        let reply = world.post(path, body).await;
        world.refused(what, &reply, 400, "CONJ00009E");
    }
    let good = world.claims(&json!({}));
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
        let reply = world.try_token("prod", "host/apps/group", &token).await;
        world.refused(what, &reply, 401, reason);
    }
    let url = world.issuer.url.clone();
    let resource = |from: &str, to: &str| json!({"xms_mirid": MACHINE.replace(from, to)});
    for (what, host, changes, reason) in [
        ("expired", "group", json!({"exp": NOW}), "CONJ00016E"),
        ("no exp", "group", json!({"exp": null}), "CONJ00091E"),
        ("early", "group", json!({"nbf": NOW + 60}), "lies ahead"),
        ("no issuer", "group", json!({"iss": null}), "CONJ00091E"),
        ("another tenant", "group", json!({"iss": format!("{url}/other/")}), "another issuer"),
        ("the issuer without its slash", "group", json!({"iss": url}), "another issuer"),
        ("no resource", "group", json!({"xms_mirid": null}), "CONJ00051E"),
        ("an empty resource", "group", json!({"xms_mirid": ""}), "CONJ00051E"),
        ("resources in a list", "group", json!({"xms_mirid": [MACHINE]}), "CONJ00051E"),
        (
            "a resource elsewhere",
            "group",
            json!({"xms_mirid": null, "xms_az_rid": MACHINE}),
            "CONJ00051E",
        ),
        ("no id of a resource", "group", json!({"xms_mirid": "vm-1"}), "CONJ00053E"),
        ("a slash alone", "group", json!({"xms_mirid": "/"}), "CONJ00052E"),
        ("slashes", "group", json!({"xms_mirid": "//////////"}), "CONJ00052E"),
        ("no subscription", "group", resource("/subscriptions/sub-1", ""), "CONJ00053E"),
        ("an empty subscription", "group", resource("sub-1", ""), "CONJ00052E"),
        ("no group", "group", resource("/resourcegroups/web", ""), "CONJ00053E"),
        (
            "group before subscription",
            "group",
            json!({"xms_mirid": "/resourcegroups/web/subscriptions/sub-1/providers/p/t/n"}),
            "CONJ00053E",
        ),
        (
            "a second subscription first",
            "group",
            json!({"xms_mirid": format!("/subscriptions/sub-2{}", &MACHINE)}),
            "CONJ00053E",
        ),
        (
            "a second subscription last",
            "group",
            json!({"xms_mirid": format!("{}/subscriptions/sub-1/resourcegroups/web", MACHINE.replace("sub-1", "sub-2"))}),
            "CONJ00049E",
        ),
        (
            "no provider",
            "group",
            json!({"xms_mirid": "/subscriptions/sub-1/resourcegroups/web"}),
            "CONJ00053E",
        ),
        ("a provider without a name", "group", resource("/vm-1", ""), "CONJ00054E"),
        ("an empty name", "group", resource("vm-1", ""), "CONJ00052E"),
        ("a type without a name", "group", resource("vm-1", "vm-1/extensions"), "CONJ00054E"),
        ("another subscription", "group", resource("sub-1", "sub-2"), "CONJ00049E"),
        ("a subscription in other case", "group", resource("sub-1", "SUB-1"), "CONJ00049E"),
        ("another group", "group", resource("/web/", "/db/"), "CONJ00049E"),
        ("a longer group", "group", resource("/web/", "/web2/"), "CONJ00049E"),
        ("another machine", "machine", json!({"oid": "oid-2"}), "CONJ00049E"),
        ("no object", "machine", json!({"oid": null}), "CONJ00051E"),
        ("an empty object", "machine", json!({"oid": ""}), "CONJ00051E"),
        ("an object in a list", "machine", json!({"oid": ["oid-1"]}), "CONJ00051E"),
        (
            "a shared identity in a machine's place",
            "machine",
            json!({"xms_mirid": SHARED}),
            "CONJ00051E",
        ),
        ("a machine in a shared identity's place", "shared", json!({}), "CONJ00051E"),
        ("a machine called as the identity", "shared", resource("vm-1", "crew"), "CONJ00051E"),
        (
            "another shared identity",
            "shared",
            json!({"xms_mirid": SHARED.replace("crew", "cr")}),
            "CONJ00049E",
        ),
        (
            "a provider like it",
            "shared",
            json!({"xms_mirid": SHARED.replace("Microsoft.", "Evil.")}),
            "CONJ00051E",
        ),
        (
            "a type like it",
            "shared",
            json!({"xms_mirid": SHARED.replace("userAssigned", "evil")}),
            "CONJ00051E",
        ),
        (
            "inside an identity",
            "shared",
            json!({"xms_mirid": format!("{SHARED}/x/crew")}),
            "CONJ00051E",
        ),
        ("overridden for the service", "overridden-away", json!({}), "CONJ00049E"),
        ("no annotation of a group", "no-group", json!({}), "CONJ00057E"),
        ("no annotation of a subscription", "no-subscription", json!({}), "CONJ00057E"),
        ("annotations for another service", "of-another", json!({}), "CONJ00057E"),
        ("no annotation at all", "plain", json!({}), "CONJ00057E"),
        ("both kinds of identity", "both", json!({}), "CONJ00055E"),
        ("an unknown annotation", "strange", json!({}), "CONJ00050E"),
        ("no such host", "nobody", json!({}), "CONJ00007E"),
        ("from elsewhere", "fenced", json!({}), "CONJ00003E"),
    ] {
        let login = format!("host/apps/{host}");
        let reply = world.try_token("prod", &login, &world.token(&changes)).await;
        world.refused(what, &reply, 401, reason);
    }
    for (what, service, login, changes, status, reason) in [
        ("not entitled", "prod", "host/apps/unentitled", json!({}), 403, "CONJ00006E"),
        ("a user", "prod", "alice", json!({}), 401, "CONJ00007E"),
        ("admin", "prod", "admin", json!({}), 401, "CONJ00007E"),
        ("a group", "prod", "group/apps", json!({}), 401, "CONJ00007E"),
        ("for others", "aud", "host/apps/group", json!({}), 401, "for others"),
        ("for nobody", "aud", "host/apps/group", json!({"aud": null}), 401, "CONJ00091E"),
        ("a provider without a value", "empty", "host/apps/group", json!({}), 401, "CONJ00037E"),
        ("no provider in policy", "bare", "host/apps/group", json!({}), 401, "CONJ00036E"),
        ("no such service", "none", "host/apps/group", json!({}), 401, "CONJ00004E"),
        (
            "a service in a service",
            "prod%2Fstatus",
            "host/apps/group",
            json!({}),
            401,
            "CONJ00005E",
        ),
    ] {
        let reply = world.try_token(service, login, &world.token(&changes)).await;
        world.refused(what, &reply, status, reason);
    }
    let body = format!("jwt={}", world.token(&json!({})));
    for (what, path, reason) in [
        ("no account", "/authn-azure/prod/nowhere/host%2Fapps%2Fgroup/authenticate", "CONJ00008E"),
        (
            "another account",
            "/authn-azure/prod/other/host%2Fapps%2Fgroup/authenticate",
            "CONJ00005E",
        ),
        ("no service", "/authn-azure/demo/host%2Fapps%2Fgroup/authenticate", "CONJ00004E"),
    ] {
        let reply = world.post(path, body.clone()).await;
        world.refused(what, &reply, 401, reason);
    }
    refusals::count(&world.house, "api/tests/door/azure.rs::no_other_token_of_azure_does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_asks_the_provider_and_a_follower_lets_in_alone() {
    let world = World::new().await;
    let status = async |service: &str| {
        let path = format!("/authn-azure/{service}/demo/status");
        world.house.send_as("demo/admin", &Method::GET, &path, "").await.text()
    };
    assert_eq!(status("prod").await, "{\"status\":\"ok\"}");
    assert!(status("empty").await.contains("RequiredSecretMissing: CONJ00037E"));
    assert!(status("bare").await.contains("RequiredResourceMissing: CONJ00036E"));
    world.let_in("prod", "group", &json!({})).await;
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    world.let_in("prod", "group", &json!({})).await;
    *world.house.proposer.part.lock().unwrap() = Part::Leader;
    *world.house.proposer.no_barrier.lock().unwrap() = false;
    // A provider for every tenant calls itself by a pattern, and is believed for none.
    let common =
        json!({"issuer": "https://sts.windows.net/{tenantid}/", "jwks_uri": world.issuer.url});
    world.issuer.says("/.well-known/openid-configuration", Says::Json(common));
    let text = status("prod").await;
    assert!(text.contains("CONJ00011E") && text.contains("another issuer"), "{text}");
    for (uri, part) in [
        ("http://localhost", "https://"),
        ("https://a:b@localhost", "credentials"),
        ("localhost", "https://"),
    ] {
        world.set("prod", "provider-uri", uri).await;
        let text = status("prod").await;
        assert!(text.contains("CONJ00011E") && text.contains(part), "{uri}: {text}");
    }
    world.set("prod", "provider-uri", "https://localhost").await;
    world.set("prod", "ca-cert", "nonsense").await;
    assert!(status("prod").await.contains("no certificate"));
}
