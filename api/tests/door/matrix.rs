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

/// What is tried: kind, identifier in the URL, identifier in a policy.
const THINGS: [(&str, &str); 8] = [
    ("variable", "app%2Fv"),
    ("webservice", "app%2Fw"),
    ("group", "app%2Fg"),
    ("layer", "app%2Fl"),
    ("host", "app%2Fh"),
    ("user", "u@app"),
    ("host_factory", "app%2Ff"),
    ("policy", "app%2Fp"),
];

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
    let permits = [
        ("!user /reader", "read"),
        ("!user /executor", "execute"),
        ("!user /updater", "update"),
        ("!user /creator", "create"),
        ("!group /outer", "read, execute"),
    ];
    let mut at_root = String::new();
    for (role, privileges) in permits {
        let resources = things.join(", ");
        writeln!(
            text,
            "  - !permit {{role: {role}, privileges: [{privileges}], resources: [{resources}]}}"
        )
        .unwrap();
        writeln!(
            at_root,
            "- !permit {{role: {}, privileges: [{privileges}], resource: !policy app}}",
            role.replace('/', "")
        )
        .unwrap();
    }
    text + &at_root
}

/// What may be tried with a thing of a kind: a name, a method, a URI and a body.
fn actions(kind: &str, id: &str) -> Vec<(&'static str, Method, String, &'static str)> {
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
    let house = House::with(|settings| settings.failures_max = u32::MAX);
    house.load("demo", &world()).await;
    let admin = house.token("demo/admin").await;
    let by_admin = [("authorization", admin.as_str())];
    house.send(&Method::POST, "/secrets/demo/variable/app%2Fv", &by_admin, "value").await;
    let mut tokens = Vec::new();
    for role in ROLES {
        tokens.push(house.token(role).await);
    }
    let mut table = String::from(
        "# Statuses by role, action and kind of thing. Everything is in and of policy app, which user\n\
         # owner owns; via holds owner. reader, executor, updater and creator have one privilege on it and on\n\
         # policy app; deep has read and execute through two groups. Written by matrix.rs.\n",
    );
    for (kind, id) in THINGS {
        write!(table, "\n{:<18}", format!("{kind} {}", id.replace("%2F", "/"))).unwrap();
        for role in ROLES {
            let name = role.strip_prefix("demo/").unwrap_or("stranger");
            write!(table, " {name:<8}").unwrap();
        }
        table = table.trim_end().to_owned() + "\n";
        for (name, method, uri, body) in actions(kind, id) {
            write!(table, "{name:<18}").unwrap();
            for token in &tokens {
                if method == Method::DELETE {
                    // Something to take away each time.
                    house.send(&Method::POST, &uri, &by_admin, "").await;
                }
                let before = house.records().len();
                let headers = [("authorization", token.as_str())];
                let reply = house.send(&method, &uri, &headers, body).await;
                assert!(house.records().len() > before, "{name} {uri}: no record");
                if method == Method::POST && name == "POST member" {
                    house.send(&Method::DELETE, &uri, &by_admin, "").await;
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
