//! Who may do what to which kind of thing, as one table that is read before it changes.
//!
//! `BLESS=1 cargo test -p conclave-api --test door matrix` writes what is the case into
//! `tables/matrix.txt`; read the difference.

use std::fmt::Write as _;
use std::path::Path;

use http::Method;

use super::harness::House;

/// The columns. `via` holds `owner`; `deep` holds, through two groups, read and execute; `stranger`
/// administers another account.
const ROLES: [&str; 10] = [
    "demo/nobody",
    "demo/reader",
    "demo/executor",
    "demo/updater",
    "demo/creator",
    "demo/owner",
    "demo/via",
    "demo/deep",
    "demo/admin",
    "other/admin",
];

/// What is tried: kind, and identifier in the URL.
const THINGS: [(&str, &str); 11] = [
    ("variable", "app%2Fv"),
    ("webservice", "app%2Fw"),
    ("group", "app%2Fg"),
    ("layer", "app%2Fl"),
    ("host", "app%2Fh"),
    ("user", "u@app"),
    ("host_factory", "app%2Ff"),
    ("policy", "app%2Fp"),
    ("branch", "app%2Fp"),
    ("authenticator", "ci"),
    ("issuer", "aws"),
];

/// What asks for the v2 interface.
const V2: &str = "application/x.secretsmgr.v2beta+json";
const CREDENTIALS: &str = r#"{"access_key_id":"AKIAIOSFODNN7EXAMPLE","secret_access_key":"aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd"}"#;

fn world() -> String {
    let mut text = String::from(
        "- !group outer\n- !group middle\n- !user dummy\n- !user member\n\
         - !grant {role: !group outer, member: !group middle}\n",
    );
    for name in ["nobody", "reader", "executor", "updater", "creator", "owner", "via", "deep"] {
        writeln!(text, "- !user {name}").unwrap();
    }
    text.push_str(
        "- !grant {role: !user owner, member: !user via}\n\
         - !grant {role: !group middle, member: !user deep}\n\
         - !policy\n  id: app\n  owner: !user owner\n  body:\n",
    );
    let things = [
        "!variable v",
        "!webservice w",
        "!group g",
        "!layer l",
        "!host h",
        "!user u",
        "!host-factory f",
        "!policy p",
    ];
    for thing in things {
        let (tag, id) = thing.split_once(' ').unwrap();
        let layers = if tag == "!host-factory" { ", layers: [!layer l]" } else { "" };
        writeln!(text, "  - {tag} {{id: {id}{layers}}}").unwrap();
    }
    for role in ["group", "layer", "host", "user", "host-factory", "policy"] {
        let id = role.chars().next().unwrap();
        let id = if role == "host-factory" { 'f' } else { id };
        writeln!(text, "  - !grant {{role: !{role} {id}, member: !user /member}}").unwrap();
    }
    let mut at_root = String::new();
    for (role, privileges) in PERMITS {
        let resources = things.join(", ");
        writeln!(
            text,
            "  - !permit {{role: {role}, privileges: [{privileges}], resources: [{resources}]}}"
        )
        .unwrap();
        let role = role.replace('/', "");
        writeln!(
            at_root,
            "- !permit {{role: {role}, privileges: [{privileges}], resource: !policy app}}"
        )
        .unwrap();
    }
    text + &at_root
}

/// Who has which privileges on everything.
const PERMITS: [(&str, &str); 5] = [
    ("!user /reader", "read"),
    ("!user /executor", "execute"),
    ("!user /updater", "update"),
    ("!user /creator", "create"),
    ("!group /outer", "read, execute"),
];

/// The policies that issuers and authenticators are in, before and after there are any.
fn administered(resources: &str) -> String {
    let mut text = String::new();
    for (role, privileges) in PERMITS {
        let role = role.replace('/', "");
        writeln!(
            text,
            "- !permit {{role: {role}, privileges: [{privileges}], resources: [{resources}]}}"
        )
        .unwrap();
    }
    text
}

/// One thing to try.
struct Action {
    name: &'static str,
    method: Method,
    uri: String,
    body: String,
    accept: &'static str,
    /// What admin does before each try, so that there is something to take away; `{token}` in the
    /// action's URI is the token of the answer.
    before: Option<(Method, String, String)>,
    /// What admin does after each try, so that the next one finds things as they were.
    after: Option<(Method, String)>,
}

impl Action {
    fn new(name: &'static str, method: Method, uri: String, body: impl Into<String>) -> Self {
        let body = body.into();
        Self { name, method, uri, body, accept: "*/*", before: None, after: None }
    }

    fn after(mut self, method: Method, uri: &str) -> Self {
        self.after = Some((method, uri.to_owned()));
        self
    }

    fn before(mut self, method: Method, uri: &str, body: &str) -> Self {
        self.before = Some((method, uri.to_owned(), body.to_owned()));
        self
    }
}

fn branches(id: &str) -> Vec<Action> {
    let (all, one) = ("/branches/demo", format!("/branches/demo/{id}"));
    let name = id.replace("%2F", "/");
    let new = format!(r#"{{"name":"new","branch":"{name}"}}"#);
    let made = format!("{one}%2Fnew");
    let (members, member) = ("/groups/demo/app%2Fg/members", r#"{"kind":"user","id":"dummy"}"#);
    let gone = format!("{members}/user/dummy");
    vec![
        Action::new("GET branch", Method::GET, one.clone(), ""),
        Action::new("GET branches", Method::GET, all.into(), ""),
        Action::new("POST branch", Method::POST, all.into(), &*new).after(Method::DELETE, &made),
        Action::new("PATCH branch", Method::PATCH, one, r#"{"annotations":{"a":"b"}}"#),
        Action::new("DELETE branch", Method::DELETE, made, "").before(Method::POST, all, &new),
        Action::new("POST v2 member", Method::POST, members.into(), member)
            .after(Method::DELETE, &gone),
        Action::new("DELETE v2 member", Method::DELETE, gone, "").before(
            Method::POST,
            members,
            member,
        ),
    ]
}

fn authenticators(id: &str) -> Vec<Action> {
    let (all, one) = ("/authenticators/demo", format!("/authenticators/demo/jwt/{id}"));
    let new = r#"{"type":"jwt","name":"new","data":{"jwks_uri":"https://keys.example"}}"#;
    let made = "/authenticators/demo/jwt/new";
    let enabled = |way: &str| format!("/authn-jwt/{id}/demo{way}");
    vec![
        Action::new("GET authenticator", Method::GET, one.clone(), ""),
        Action::new("GET authenticators", Method::GET, all.into(), ""),
        Action::new("POST authn", Method::POST, all.into(), new).after(Method::DELETE, made),
        Action::new("PATCH authn", Method::PATCH, one, r#"{"enabled":true}"#),
        Action::new("DELETE authn", Method::DELETE, made.into(), "").before(Method::POST, all, new),
        Action::new("PATCH v1", Method::PATCH, enabled(""), "enabled=true"),
        Action::new("GET status", Method::GET, enabled("/status"), ""),
    ]
}

fn issuers(id: &str) -> Vec<Action> {
    let (all, one) = ("/issuers/demo", format!("/issuers/demo/{id}"));
    let new = format!(r#"{{"id":"new","type":"aws","max_ttl":3000,"data":{CREDENTIALS}}}"#);
    let made = "/issuers/demo/new";
    let variable = format!("- !variable {{id: y, annotations: {{dynamic/issuer: {id}}}}}\n");
    vec![
        Action::new("GET issuer", Method::GET, one.clone(), ""),
        Action::new("GET minimal", Method::GET, format!("{one}?projection=minimal"), ""),
        Action::new("GET issuers", Method::GET, all.into(), ""),
        Action::new("POST issuer", Method::POST, all.into(), &*new).after(Method::DELETE, made),
        Action::new("PATCH issuer", Method::PATCH, one, r#"{"max_ttl":3000}"#),
        Action::new("DELETE issuer", Method::DELETE, made.into(), "").before(
            Method::POST,
            all,
            &new,
        ),
        Action::new(
            "name in policy",
            Method::POST,
            "/policies/demo/policy/data%2Fdynamic".into(),
            variable,
        ),
        Action::new(
            "GET dynamic",
            Method::GET,
            "/secrets/demo/variable/data%2Fdynamic%2Fx".into(),
            "",
        ),
        Action::new(
            "POST dynamic",
            Method::POST,
            "/secrets/demo/variable/data%2Fdynamic%2Fx".into(),
            "value",
        ),
    ]
}

fn tokens(id: &str) -> Vec<Action> {
    let made =
        format!("/host_factory_tokens?host_factory=demo:host_factory:{id}&expiration=2050-12-31");
    vec![
        Action::new("POST token", Method::POST, made.clone(), ""),
        Action::new("DELETE token", Method::DELETE, "/host_factory_tokens/{token}".into(), "")
            .before(Method::POST, &made, ""),
        // A host factory takes its own tokens only, whoever comes.
        Action::new("POST host", Method::POST, "/host_factories/hosts?id=app%2Fnew".into(), ""),
    ]
}

/// What may be tried with a thing of a kind.
fn actions(kind: &str, id: &str) -> Vec<Action> {
    let v2 = |mut action: Action| {
        action.accept = V2;
        action
    };
    match kind {
        "branch" => return branches(id).into_iter().map(v2).collect(),
        "authenticator" => return authenticators(id).into_iter().map(v2).collect(),
        "issuer" => return issuers(id),
        _ => {}
    }
    let mut all: Vec<Action> = documents(kind, id)
        .into_iter()
        .map(|(name, method, uri, body)| {
            let action = Action::new(name, method, uri.clone(), body);
            match name {
                "POST member" => action.after(Method::DELETE, &uri),
                "DELETE member" => action.before(Method::POST, &uri, ""),
                _ => action,
            }
        })
        .collect();
    if kind == "host_factory" {
        all.extend(tokens(id));
    }
    all
}

/// What may be tried through the interface of resources, roles, secrets and policies: a name, a method,
/// a URI and a body.
fn documents(kind: &str, id: &str) -> Vec<(&'static str, Method, String, &'static str)> {
    let resource = format!("/resources/demo/{kind}/{id}");
    let role = format!("/roles/demo/{kind}/{id}");
    let (get, post) = (Method::GET, Method::POST);
    let mut actions = vec![
        ("GET resource", get.clone(), resource.clone(), ""),
        ("check read", get.clone(), format!("{resource}?check&privilege=read"), ""),
        ("check execute", get.clone(), format!("{resource}?check&privilege=execute"), ""),
        ("check made-up", get.clone(), format!("{resource}?check&privilege=made-up"), ""),
        ("permitted roles", get.clone(), format!("{resource}?permitted_roles&privilege=read"), ""),
    ];
    if kind == "variable" {
        let secret = format!("/secrets/demo/variable/{id}");
        let batch = format!("/secrets?variable_ids=demo:variable:{id}");
        actions.push(("GET secret", get.clone(), secret.clone(), ""));
        actions.push(("GET version", get.clone(), format!("{secret}?version=1"), ""));
        actions.push(("GET batch", get.clone(), batch, ""));
        actions.push(("POST secret", post.clone(), secret.clone(), "value"));
        actions.push(("POST expirations", post.clone(), format!("{secret}?expirations"), ""));
    } else if kind != "webservice" {
        actions.push(("GET role", get.clone(), role.clone(), ""));
        for query in ["all", "members", "memberships", "graph"] {
            let name = match query {
                "all" => "GET all",
                "members" => "GET members",
                "memberships" => "GET memberships",
                _ => "GET graph",
            };
            actions.push((name, get.clone(), format!("{role}?{query}"), ""));
        }
        let members = format!("{role}?members&member=user:dummy");
        actions.push(("POST member", post.clone(), members.clone(), ""));
        actions.push(("DELETE member", Method::DELETE, members, ""));
    }
    if kind == "host" || kind == "user" {
        let key = format!("/authn/demo/api_key?role={kind}:{id}");
        actions.push(("GET key age", get, key.clone(), ""));
        actions.push(("PUT api key", Method::PUT, key, ""));
    }
    if kind == "policy" {
        let policy = format!("/policies/demo/policy/{id}");
        let dry = format!("{policy}?dryRun=true");
        let text = "- !variable inside\n";
        actions.push(("GET policy", Method::GET, policy.clone(), ""));
        actions.push(("POST dry run", post.clone(), dry, text));
        actions.push(("POST policy", post, policy.clone(), text));
        actions.push(("PATCH policy", Method::PATCH, policy.clone(), text));
        actions.push(("PUT policy", Method::PUT, policy, text));
    }
    actions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_of_roles_actions_and_resources_is_the_reviewed_one() {
    let house = House::with(|settings| {
        settings.failures_max = u32::MAX;
        settings.request_time_max = std::time::Duration::from_mins(1);
        settings.dynamic_secrets_enabled = true;
    });
    house.load("demo", &world()).await;
    house
        .load(
            "demo",
            "- !policy {id: conjur/issuers, owner: !user owner}\n\
             - !policy {id: conjur/authn-jwt, owner: !user owner}\n\
             - !policy {id: data/dynamic, owner: !user owner}\n",
        )
        .await;
    let admin = house.token("demo/admin").await;
    let by_admin = [("authorization", admin.as_str()), ("accept", V2)];
    house.send(&Method::POST, "/secrets/demo/variable/app%2Fv", &by_admin, "value").await;
    let authenticator = r#"{"type":"jwt","name":"ci","data":{"jwks_uri":"https://keys.example"}}"#;
    let made = house.send(&Method::POST, "/authenticators/demo", &by_admin, authenticator).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let issuer = format!(r#"{{"id":"aws","type":"aws","max_ttl":3000,"data":{CREDENTIALS}}}"#);
    let made = house.send(&Method::POST, "/issuers/demo", &by_admin, issuer).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let administered = administered(
        "!policy conjur/issuers, !policy conjur/issuers/aws, !policy conjur/authn-jwt, \
         !policy conjur/authn-jwt/ci, !webservice conjur/authn-jwt/ci, \
         !webservice conjur/authn-jwt/ci/status, !policy data/dynamic, !variable data/dynamic/x",
    );
    let dynamic = "- !variable {id: data/dynamic/x, owner: !user owner, annotations: {dynamic/issuer: aws}}\n";
    house.load("demo", &(dynamic.to_owned() + &administered)).await;
    let mut tokens = Vec::new();
    for role in ROLES {
        tokens.push(house.token(role).await);
    }
    let mut table = String::from(
        "# Statuses by role, action and kind of thing. Everything is in and of policy app, which user\n\
         # owner owns; via holds owner. reader, executor, updater and creator have one privilege on it and on\n\
         # policy app; deep has read and execute through two groups. The same roles have the same on the\n\
         # authenticator ci, the issuer aws and a dynamic secret, and on the policies that these are in. Written\n\
         # by matrix.rs.\n",
    );
    for (kind, id) in THINGS {
        write!(table, "\n{:<18}", format!("{kind} {}", id.replace("%2F", "/"))).unwrap();
        for role in ROLES {
            let name = role.strip_prefix("demo/").unwrap_or("stranger");
            write!(table, " {name:<8}").unwrap();
        }
        table = table.trim_end().to_owned() + "\n";
        for action in actions(kind, id) {
            let Action { name, method, uri, body, accept, before, after } = action;
            write!(table, "{name:<18}").unwrap();
            for token in &tokens {
                let mut uri = uri.clone();
                if let Some((method, uri_before, body)) = &before {
                    let made = house.send(method, uri_before, &by_admin, body.clone()).await;
                    if uri.contains("{token}") {
                        let token = made.json()[0]["token"].as_str().unwrap().to_owned();
                        uri = uri.replace("{token}", &token);
                    }
                }
                let records = house.records().len();
                let headers = [("authorization", token.as_str()), ("accept", accept)];
                let reply = house.send(&method, &uri, &headers, body.clone()).await;
                assert!(house.records().len() > records, "{name} {uri}: no record");
                if let Some((method, uri)) = &after {
                    house.send(method, uri, &by_admin, "").await;
                }
                write!(table, " {:<8}", reply.status.as_u16()).unwrap();
            }
            table = table.trim_end().to_owned() + "\n";
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/door/tables/matrix.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(reviewed == table, "tables/matrix.txt is not what is the case, which is\n{table}");
}
