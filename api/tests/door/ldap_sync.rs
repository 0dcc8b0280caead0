//! LDAP Sync against OpenLDAP's own server: a whole directory in pages, every rule for who is gone, names
//! that are traps, a guard, a directory that dies in the middle, and the schedule.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use conclave_api::ports::Part;
use conclave_domain::id::ResourceId;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::harness::{House, Reply, basic};
use super::ldap::{GROUPS, MANY, SEARCHER_PASSWORD, Slapd};

/// A small directory, with groups that know each other.
const SMALL: &str = "dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=searcher,dc=example,dc=org
objectClass: simpleSecurityObject
objectClass: organizationalRole
cn: searcher
userPassword: searcher-4711

";

fn person(uid: &str, number: u32) -> String {
    format!(
        "dn: uid={uid},dc=example,dc=org\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n\
         cn: x\nsn: x\nuid: {uid}\nmail: {uid}@example.org\nuidNumber: {number}\ngidNumber: 1\n\
         homeDirectory: /\nuserPassword: {uid}-Secret1!\n\n"
    )
}

fn group(name: &str, members: &[&str]) -> String {
    let mut text =
        format!("dn: cn={name},dc=example,dc=org\nobjectClass: groupOfNames\ncn: {name}\n");
    for member in members {
        text.extend([format!("member: {member},dc=example,dc=org\n")]);
    }
    text + "\n"
}

/// Stands between the door and the directory, and cuts a connection when so many bytes of answers have been
/// carried. Tells its port, and how many were.
async fn cut_after(bytes: u64, to: u16) -> (u16, Arc<AtomicU64>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let carried = Arc::new(AtomicU64::new(0));
    let count = carried.clone();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (mut asks, mut answered) = client.into_split();
            let (mut answers, mut asked) = server.into_split();
            let asking = tokio::io::copy(&mut asks, &mut asked);
            let answering = async {
                let mut piece = [0; 64];
                let mut left = bytes;
                while left > 0 {
                    let length = answers.read(&mut piece).await.unwrap_or(0);
                    if length == 0 || answered.write_all(&piece[..length]).await.is_err() {
                        break;
                    }
                    count.fetch_add(length as u64, Ordering::SeqCst);
                    left = left.saturating_sub(length as u64);
                }
            };
            tokio::select! {
                _ended = asking => {}
                () = answering => {}
            }
        }
    });
    (port, carried, accepting)
}

struct World {
    house: House,
    slapd: Slapd,
}

impl World {
    async fn new(ldif: Option<String>) -> Self {
        let start = move || ldif.map_or_else(Slapd::start, |text| Slapd::holding(&text));
        let slapd = tokio::task::spawn_blocking(start).await.unwrap();
        let house = House::with(|settings| {
            settings.failures_max = u32::MAX;
            settings.request_time_max = Duration::from_mins(5);
            settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
            settings.outbound_time_max = Duration::from_secs(5);
        });
        Self { house, slapd }
    }

    /// A profile, and the policy that it writes into.
    async fn profile(&self, name: &str, more: &[(&str, &str)]) {
        let uri = self.slapd.start_tls();
        let usual = [
            ("uri", uri.as_str()),
            ("base_dn", "dc=example,dc=org"),
            ("bind_dn", "cn=searcher,dc=example,dc=org"),
        ];
        let others = usual.iter().filter(|(key, _)| !more.iter().any(|(name, _)| name == key));
        let annotations: Vec<String> = more
            .iter()
            .chain(others)
            .map(|(name, value)| format!("      ldap-sync/{name}: {}\n", Value::from(*value)))
            .collect();
        let policy = format!(
            "- !policy\n  id: conjur/ldap-sync/{name}\n  body:\n  - !webservice\n    annotations:\n{}  \
             - !variable bind-password\n  - !variable tls-ca-cert\n  - !variable runs\n\
             - !policy\n  id: ldap-sync/{name}\n  owner: !policy conjur/ldap-sync/{name}\n",
            annotations.join("")
        );
        self.house.load("demo", &policy).await;
        for (variable, value) in
            [("bind-password", SEARCHER_PASSWORD), ("tls-ca-cert", self.slapd.authority.as_str())]
        {
            let id = format!("conjur/ldap-sync/{name}/{variable}");
            let id = utf8_percent_encode(&id, NON_ALPHANUMERIC);
            let uri = format!("/secrets/demo/variable/{id}");
            let reply = self.send(&Method::POST, &uri, value).await;
            assert_eq!(reply.status, StatusCode::CREATED, "{uri}");
        }
    }

    /// Changes the annotations of a profile.
    async fn set(&self, name: &str, annotations: &[(&str, &str)]) {
        let lines: Vec<String> = (annotations.iter())
            .map(|(name, value)| format!("    ldap-sync/{name}: {}\n", Value::from(*value)))
            .collect();
        let text = format!("- !webservice\n  annotations:\n{}", lines.join(""));
        let id = format!("conjur/ldap-sync/{name}");
        let id = utf8_percent_encode(&id, NON_ALPHANUMERIC);
        // The rows are those of the policy that declared them.
        let uri = "/policies/demo/policy/root";
        let text = text.replace("- !webservice\n", &format!("- !webservice\n  id: conjur/ldap-sync/{name}\n  owner: !policy conjur/ldap-sync/{name}\n"));
        let reply = self.send(&Method::PATCH, uri, &text).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{id}: {}", reply.text());
    }

    async fn send(&self, method: &Method, uri: &str, body: &str) -> Reply {
        self.house.send_as("demo/admin", method, uri, body.to_owned()).await
    }

    async fn json(&self, method: &Method, uri: &str) -> Value {
        let reply = self.send(method, uri, "").await;
        assert_eq!(reply.status, StatusCode::OK, "{uri}: {}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    async fn apply(&self, name: &str) -> Value {
        self.json(&Method::POST, &format!("/ldap-sync/demo/{name}")).await
    }

    async fn show(&self, name: &str) -> Value {
        self.json(&Method::GET, &format!("/ldap-sync/demo/{name}")).await
    }

    async fn history(&self, name: &str) -> Vec<Value> {
        let runs = self.json(&Method::GET, &format!("/ldap-sync/demo/{name}/runs")).await;
        runs.as_array().unwrap().clone()
    }

    async fn members(&self, group: &str) -> Vec<String> {
        let group = utf8_percent_encode(group, NON_ALPHANUMERIC);
        let rows = self.json(&Method::GET, &format!("/roles/demo/group/{group}?members")).await;
        let rows = rows.as_array().unwrap().clone();
        let owner = |row: &Value| row["ownership"] == true;
        let member = |row: &Value| row["member"].as_str().unwrap().replacen("demo:", "", 1);
        rows.iter().filter(|row| !owner(row)).map(member).collect()
    }

    async fn annotations(&self, kind: &str, id: &str) -> Option<Value> {
        let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
        let reply = self.send(&Method::GET, &format!("/resources/demo/{kind}/{id}"), "").await;
        if reply.status == StatusCode::NOT_FOUND {
            return None;
        }
        let document: Value = serde_json::from_slice(&reply.body).unwrap();
        let mut all = serde_json::Map::new();
        for row in document["annotations"].as_array().unwrap() {
            all.insert(row["name"].as_str().unwrap().to_owned(), row["value"].clone());
        }
        Some(Value::Object(all))
    }

    async fn remove(&self, name: &str) {
        let dn = format!("{name},dc=example,dc=org");
        self.slapd.root().await.delete(&dn).await.unwrap().success().unwrap();
    }

    async fn rename(&self, name: &str, to: &str) {
        let dn = format!("{name},dc=example,dc=org");
        self.slapd.root().await.modifydn(&dn, to, true, None).await.unwrap().success().unwrap();
    }

    async fn add(&self, name: &str, attributes: &[(&str, &[&str])]) {
        let dn = format!("{name},dc=example,dc=org");
        let attributes = attributes
            .iter()
            .map(|(name, values)| (*name, values.iter().copied().collect::<HashSet<&str>>()));
        let added = self.slapd.root().await.add(&dn, attributes.collect()).await.unwrap();
        added.success().unwrap();
    }

    /// The same with the very members, for a group that is there.
    async fn members_are(&self, group: &str, members: &[&str]) {
        let dn = format!("cn={group},dc=example,dc=org");
        let names = members.iter().map(|name| format!("{name},dc=example,dc=org"));
        let change = ldap3::Mod::Replace("member".to_owned(), names.collect::<HashSet<String>>());
        let done = self.slapd.root().await.modify(&dn, vec![change]).await.unwrap();
        done.success().unwrap();
    }
}

fn small() -> String {
    let people = ["ann", "ben", "cat", "dan"];
    let people: String = (1..).zip(people).map(|(at, uid)| person(uid, at)).collect();
    let groups = [
        group("devs", &["uid=ann", "uid=ben", "cn=leads"]),
        group("leads", &["uid=cat", "cn=ring"]),
        group("ring", &["cn=devs"]),
        group("ops", &["uid=dan", "uid=ann"]),
    ];
    SMALL.to_owned() + &people + &groups.concat()
}

/// An SSH key of one type, with a comment.
fn ssh_key(body: &str, comment: &str) -> String {
    let bytes = [&11_u32.to_be_bytes(), &b"ssh-ed25519"[..], body.as_bytes()].concat();
    format!("ssh-ed25519 {} {comment}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

impl World {
    /// Has somebody's entry hold these SSH keys.
    async fn keys_are(&self, person: &str, keys: &[&str]) {
        let dn = format!("uid={person},dc=example,dc=org");
        let class = ldap3::Mod::Add("objectClass", HashSet::from(["extensibleObject"]));
        let mut root = self.slapd.root().await;
        // It may be one already.
        let _is_one = root.modify(&dn, vec![class]).await.unwrap();
        let keys = ldap3::Mod::Replace("sshPublicKey", keys.iter().copied().collect());
        root.modify(&dn, vec![keys]).await.unwrap().success().unwrap();
    }

    /// The keys that anybody is told, without their names.
    async fn keys(&self, user: &str) -> Vec<String> {
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
        let reply = self.send(&Method::GET, &format!("/public_keys/demo/user/{user}"), "").await;
        let text = reply.text();
        let lines = text.lines().filter(|line| !line.is_empty());
        let mut keys: Vec<String> = lines
            .map(|line| line.rsplit_once("-ldap-").map_or(line, |(key, _)| key).to_owned())
            .collect();
        keys.sort();
        keys
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_keys_come_and_go_with_the_directory() {
    let world = World::new(Some(small())).await;
    let all = [("guard_percent", "100"), ("removal", "disable"), ("import_public_keys", "true")];
    world.profile("corp", &all).await;
    let ann = "ann@ldap-sync-corp";
    let (laptop, desk) = (ssh_key("laptop", "laptop"), ssh_key("desk", "desk"));
    world.keys_are("ann", &[&laptop, &desk, "no key at all"]).await;
    let skipped = world.show("corp").await["skipped"].to_string();
    assert_eq!(world.apply("corp").await["outcome"], "applied");
    assert!(skipped.contains("a value of its sshPublicKey is left out"), "{skipped}");
    assert_eq!(world.keys(ann).await, [desk.clone(), laptop.clone()]);
    assert_eq!(world.apply("corp").await["outcome"], "unchanged");
    // Another key by the same comment, one gone, and one that policy has by itself.
    let own = format!(
        "- !user\n  id: ann\n  annotations: {{note: own}}\n  public_keys:\n  - {}\n",
        ssh_key("own", "own")
    );
    let path = "/policies/demo/policy/ldap-sync%2Fcorp";
    assert_eq!(world.send(&Method::PATCH, path, &own).await.status, StatusCode::CREATED);
    let renewed = ssh_key("renewed", "laptop");
    world.keys_are("ann", &[&renewed]).await;
    let draft = world.show("corp").await;
    assert_eq!(draft["changes"].as_str().unwrap().matches("kind: public_key").count(), 2);
    assert_eq!(world.apply("corp").await["outcome"], "applied");
    assert_eq!(world.keys(ann).await, [ssh_key("own", "own"), renewed.clone()]);
    assert_eq!(world.apply("corp").await["outcome"], "unchanged");
    // Who is disabled has none of them, and has them again when the entry is back.
    let filter = ("user_filter", "(&(objectClass=posixAccount)(!(uid=ann)))");
    world.set("corp", &[filter]).await;
    assert_eq!(world.apply("corp").await["outcome"], "applied");
    assert_eq!(world.keys(ann).await, [ssh_key("own", "own")]);
    assert_eq!(world.apply("corp").await["outcome"], "unchanged");
    world.set("corp", &[("user_filter", "(objectClass=posixAccount)")]).await;
    assert_eq!(world.apply("corp").await["outcome"], "applied");
    assert_eq!(world.keys(ann).await, [ssh_key("own", "own"), renewed.clone()]);
    // A profile that does not want them leaves them alone.
    world.set("corp", &[("import_public_keys", "false")]).await;
    world.keys_are("ann", &[]).await;
    assert_eq!(world.apply("corp").await["outcome"], "unchanged");
    assert_eq!(world.keys(ann).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_directory_comes_over_in_pages_and_a_second_run_changes_nothing() {
    let world = World::new(None).await;
    world.profile("corp", &[("page_size", "100"), ("guard_percent", "1")]).await;
    // Nobody may look, run or list without the privilege for it.
    world.house.load("demo", "- !user nosy").await;
    for (method, path, status) in [
        (Method::GET, "/ldap-sync/demo/corp", 404),
        (Method::POST, "/ldap-sync/demo/corp", 404),
        (Method::GET, "/ldap-sync/demo/corp/runs", 404),
    ] {
        let reply = world.house.send_as("demo/nosy", &method, path, "").await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path}");
    }
    let draft = world.show("corp").await;
    assert_eq!((draft["people"].as_u64(), draft["groups"].as_u64()), (Some(2010), Some(300)));
    assert_eq!(draft["created"].as_array().unwrap().len(), MANY + 10 + GROUPS);
    assert_eq!(draft["guard"], Value::Null);
    let skipped: Vec<&str> = draft["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert_eq!(skipped.len(), 3, "{skipped:?}");
    assert!(skipped[0].contains("2 entries have the uid \"twin\""), "{skipped:?}");
    assert!(skipped[2].contains("closes a ring"), "{skipped:?}");
    assert_eq!(draft["policy"], draft["changes"]);
    assert_eq!(world.annotations("user", "alice@ldap-sync-corp").await, None);
    // Names that are traps arrive as they are.
    let run = world.apply("corp").await;
    assert_eq!(run["outcome"], "applied", "{run}");
    assert_eq!(run["created"].as_u64(), Some(2310));
    for (id, dn) in [
        ("star*", "cn=Star * and (bracket),ou=people,dc=example,dc=org"),
        ("zoë", "cn=Zoë Ümlaut,ou=people,dc=example,dc=org"),
    ] {
        let kept = world.annotations("user", &format!("{id}@ldap-sync-corp")).await.unwrap();
        assert_eq!(kept["ldap-sync/upstream-dn"], dn);
        assert_eq!(kept["ldap-sync/profile"], "corp");
    }
    let members = world.members("ldap-sync/corp/group 1").await;
    assert_eq!(members.len(), 21, "{members:?}");
    assert!(members.contains(&"group:ldap-sync/corp/group 2".to_owned()));
    assert!(members.contains(&"user:many7@ldap-sync-corp".to_owned()));
    let again = world.apply("corp").await;
    assert_eq!((&again["outcome"], &again["policy_version"]), (&"unchanged".into(), &Value::Null));
    let draft = world.show("corp").await;
    assert_eq!(draft["changes"], "");
    let outcomes: Vec<Value> =
        world.history("corp").await.iter().map(|run| run["outcome"].clone()).collect();
    assert_eq!(outcomes, ["unchanged", "applied"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_is_kept_disabled_or_deleted_as_the_rule_says() {
    let world = World::new(Some(small())).await;
    let guard = ("guard_percent", "100");
    let mail = ("user_attribute_mapping/mail", "mail");
    world.profile("kept", &[guard, mail, ("import_uid_numbers", "true")]).await;
    world.profile("off", &[guard, ("removal", "disable")]).await;
    world.profile("gone", &[guard, ("removal", "delete")]).await;
    for profile in ["kept", "off", "gone"] {
        assert_eq!(world.apply(profile).await["created"].as_u64(), Some(8), "{profile}");
    }
    let ann = world.annotations("user", "ann@ldap-sync-kept").await.unwrap();
    assert_eq!(
        (&ann["ldap-sync/mail"], &ann["conjur/uidnumber"]),
        (&"ann@example.org".into(), &"1".into())
    );
    // The ring is open at one place, which is told.
    assert_eq!(world.members("ldap-sync/kept/ring").await, Vec::<String>::new());
    let leads = world.members("ldap-sync/kept/leads").await;
    assert_eq!(leads, ["group:ldap-sync/kept/ring", "user:cat@ldap-sync-kept"]);
    // What somebody else has put into a group stays there.
    world
        .house
        .load(
            "demo",
            "- !host robot\n- !grant {role: !group ldap-sync/off/ops, member: !host robot}",
        )
        .await;
    let key = {
        let reply =
            world.send(&Method::PUT, "/authn/demo/api_key?role=user:dan@ldap-sync-off", "").await;
        assert_eq!(reply.status, StatusCode::OK);
        reply.text()
    };
    let dan = async || {
        let path = "/authn/demo/dan%40ldap-sync-off/authenticate";
        world.house.send(&Method::POST, path, &[], key.clone()).await.status
    };
    let header = basic("dan@ldap-sync-off", &key);
    let login = async || {
        let basic = [("authorization", header.as_str())];
        world.house.send(&Method::GET, "/authn/demo/login", &basic, "").await.status
    };
    assert_eq!((dan().await, login().await), (StatusCode::OK, StatusCode::OK));
    let path = "/authn/demo/dan%40ldap-sync-off/authenticate";
    let base64 = [("accept-encoding", "base64")];
    let reply = world.house.send(&Method::POST, path, &base64, key.clone()).await;
    let token = format!("Token token=\"{}\"", reply.text());
    let whoami = async || {
        let token = [("authorization", token.as_str())];
        let reply = world.house.send(&Method::GET, "/whoami", &token, "").await;
        (reply.status, reply.text())
    };
    assert_eq!(whoami().await.0, StatusCode::OK);
    // Dan leaves; ops comes to be called sre; ben leaves the devs, and cat comes in.
    world.members_are("ops", &["uid=ann"]).await;
    world.remove("uid=dan").await;
    world.rename("cn=ops", "cn=sre").await;
    world.members_are("devs", &["uid=ann", "uid=cat", "cn=leads"]).await;
    let kept = world.apply("kept").await;
    assert_eq!((kept["created"].as_u64(), kept["removed"].as_u64()), (Some(1), Some(0)), "{kept}");
    assert!(world.annotations("user", "dan@ldap-sync-kept").await.is_some());
    assert_eq!(
        world.members("ldap-sync/kept/devs").await,
        ["group:ldap-sync/kept/leads", "user:ann@ldap-sync-kept", "user:cat@ldap-sync-kept"]
    );
    let off = world.apply("off").await;
    assert_eq!((off["created"].as_u64(), off["removed"].as_u64()), (Some(1), Some(2)), "{off}");
    let told = world.annotations("user", "dan@ldap-sync-off").await.unwrap();
    assert_eq!(told["ldap-sync/disabled"], "true");
    let refused = (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED);
    assert_eq!((dan().await, login().await), refused);
    // Nor is a token of before good any more.
    let void = (StatusCode::UNAUTHORIZED, "Unauthorized: Invalid token".to_owned());
    assert_eq!(whoami().await, void);
    assert_eq!(world.members("ldap-sync/off/ops").await, ["host:robot"]);
    assert_eq!(world.apply("off").await["outcome"], "unchanged");
    let gone = world.apply("gone").await;
    assert_eq!((gone["created"].as_u64(), gone["removed"].as_u64()), (Some(1), Some(2)), "{gone}");
    assert_eq!(world.annotations("user", "dan@ldap-sync-gone").await, None);
    assert_eq!(world.annotations("group", "ldap-sync/gone/ops").await, None);
    assert_eq!(world.members("ldap-sync/gone/sre").await, ["user:ann@ldap-sync-gone"]);
    assert_eq!(world.apply("gone").await["outcome"], "unchanged");
    // Dan comes back, and so does what he could do.
    let person: &[(&str, &[&str])] = &[
        ("objectClass", &["inetOrgPerson", "posixAccount"]),
        ("uid", &["dan"]),
        ("cn", &["x"]),
        ("sn", &["x"]),
        ("uidNumber", &["4"]),
        ("gidNumber", &["1"]),
        ("homeDirectory", &["/"]),
    ];
    world.add("uid=dan", person).await;
    assert_eq!(world.apply("off").await["outcome"], "applied");
    assert_eq!((dan().await, login().await), (StatusCode::OK, StatusCode::OK));
    assert_eq!(world.apply("off").await["outcome"], "unchanged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_takes_too_much_or_fails_changes_nothing_and_says_so() {
    let world = World::new(Some(small())).await;
    world.profile("corp", &[("removal", "delete"), ("page_size", "2")]).await;
    assert_eq!(world.apply("corp").await["outcome"], "applied");
    // One of four is more than ten of a hundred.
    world.members_are("ops", &["uid=ann"]).await;
    world.remove("uid=dan").await;
    let reply = world.send(&Method::POST, "/ldap-sync/demo/corp", "").await;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text());
    for part in ["delete 1 of 4 users (dan@ldap-sync-corp)", "guard_percent = 10", "--force"] {
        assert!(reply.text().contains(part), "{}", reply.text());
    }
    assert!(world.annotations("user", "dan@ldap-sync-corp").await.is_some());
    assert_eq!(world.history("corp").await[0]["outcome"], "stopped");
    assert!(world.show("corp").await["guard"].as_str().unwrap().contains("dan@"));
    // Cut in the middle of the answer, and away: nothing but the memory of the run changes.
    let before = world.members("ldap-sync/corp/devs").await;
    let (port, carried, _all) = cut_after(u64::MAX, world.slapd.plain_port).await;
    world.set("corp", &[("uri", &format!("ldap://localhost:{port}"))]).await;
    world.show("corp").await;
    let all = carried.load(Ordering::SeqCst);
    for (left, status) in [(700, StatusCode::BAD_GATEWAY), (all / 2, StatusCode::BAD_GATEWAY)] {
        let (port, _carried, _accepting) = cut_after(all - left, world.slapd.plain_port).await;
        world.set("corp", &[("uri", &format!("ldap://localhost:{port}"))]).await;
        let reply = world.send(&Method::POST, "/ldap-sync/demo/corp?force=true", "").await;
        assert_eq!(reply.status, status, "{left} of {all}: {}", reply.text());
    }
    world.set("corp", &[("uri", "ldap://localhost:1")]).await;
    let reply = world.send(&Method::POST, "/ldap-sync/demo/corp?force=true", "").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
    let runs = world.history("corp").await;
    assert_eq!((&runs[0]["outcome"], &runs[1]["outcome"]), (&"failed".into(), &"failed".into()));
    assert!(runs[0]["reason"].as_str().unwrap().contains("localhost:1"), "{}", runs[0]);
    let records = world.house.records();
    let ran = records.iter().rev().find(|one| one["operation"] == "run").unwrap();
    assert_eq!(ran["result"], "failure", "{ran}");
    assert_eq!(world.members("ldap-sync/corp/devs").await, before);
    assert!(world.annotations("user", "dan@ldap-sync-corp").await.is_some());
    // Asked for in so many words.
    world.set("corp", &[("uri", &world.slapd.start_tls())]).await;
    let run = world.json(&Method::POST, "/ldap-sync/demo/corp?force=true").await;
    assert_eq!(run["removed"].as_u64(), Some(1), "{run}");
    assert_eq!(world.annotations("user", "dan@ldap-sync-corp").await, None);
    // What is no setting, or none that makes sense, is told by its name.
    for (name, value, part) in [
        ("usre_filter", "(uid=x)", "no setting ldap-sync/usre_filter"),
        ("user_filter", "(uid=", "user_filter is no filter"),
        ("removal", "forget", "none of keep, disable and delete"),
        ("guard_percent", "101", "no number from 0 to 100"),
        ("connect_type", "plain", "without TLS"),
        ("branch", "nowhere", "there is no policy nowhere"),
        ("base_dn", "", "ldap-sync/base_dn is not set"),
        ("uri", "dc1.example.com", "uri or host: a server's address starts with neither"),
        ("import_uid_numbers", "yes", "neither true nor false"),
    ] {
        let profile = format!("bad-{name}").replace('_', "-");
        world.profile(&profile, &[(name, value)]).await;
        let reply = world.send(&Method::GET, &format!("/ldap-sync/demo/{profile}"), "").await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
        assert!(reply.text().contains(part), "{name}: {}", reply.text());
    }
    // Into the root: what is there already is nobody's to take over.
    world.house.load("demo", "- !user ann").await;
    let root = [("branch", "root"), ("removal", "delete")];
    world.profile("top", &root).await;
    let permit = "- !permit {role: !policy conjur/ldap-sync/top, privileges: [update], resource: !policy root}";
    world.house.load("demo", permit).await;
    let run = world.apply("top").await;
    assert_eq!((run["people"].as_u64(), run["skipped"].as_u64()), (Some(2), Some(2)), "{run}");
    assert_eq!(world.members("devs").await, ["group:leads", "user:ben"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_kept_by_whoever_leads() {
    let world = World::new(Some(small())).await;
    world.profile("corp", &[("schedule", "PT1H")]).await;
    world.profile("by-hand", &[]).await;
    let webservice: ResourceId = "demo:webservice:conjur/ldap-sync/corp".parse().unwrap();
    let due = || -> Vec<ResourceId> {
        world.house.door.ldap_syncs_due().into_iter().map(|due| due.webservice).collect()
    };
    assert_eq!(due(), std::slice::from_ref(&webservice));
    world.house.door.ldap_sync(&webservice).await;
    assert!(world.annotations("user", "ann@ldap-sync-corp").await.is_some());
    // When it ran is in the state, so any other node knows as well.
    assert_eq!(due(), Vec::<ResourceId>::new());
    world.house.clock.advance(Duration::from_mins(59));
    assert_eq!(due(), Vec::<ResourceId>::new());
    world.house.clock.advance(Duration::from_mins(2));
    assert_eq!(due(), std::slice::from_ref(&webservice));
    world.slapd.signal("KILL");
    world.house.door.ldap_sync(&webservice).await;
    assert_eq!(due(), Vec::<ResourceId>::new(), "a failing run is not repeated without end");
    let runs = world.history("corp").await;
    assert_eq!((&runs[0]["outcome"], &runs[0]["by"]), (&"failed".into(), &"schedule".into()));
    assert_eq!(runs[1]["outcome"], "applied");
    let records = world.house.records();
    let ran: Vec<&Value> = records.iter().filter(|one| one["operation"] == "run").collect();
    let outcomes: Vec<&str> = ran.iter().map(|one| one["result"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["success", "failure"]);
    // A schedule that is none is told.
    world.set("corp", &[("schedule", "daily")]).await;
    world.house.clock.advance(Duration::from_hours(1));
    world.house.door.ldap_sync(&webservice).await;
    let told = world.house.records().pop().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(told.contains("no duration such as PT1H"), "{told}");
    assert_eq!(world.history("corp").await[0]["outcome"], "failed");
    assert_eq!(due(), Vec::<ResourceId>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_changed_is_recorded_though_its_node_leads_no_more() {
    let world = World::new(Some(small())).await;
    world.profile("corp", &[("schedule", "PT1H")]).await;
    let webservice: ResourceId = "demo:webservice:conjur/ldap-sync/corp".parse().unwrap();
    let recorded = || -> Vec<Value> {
        let records = world.house.records().into_iter();
        records.filter(|one| one["operation"] == "run").collect()
    };
    // Another node leads when the directory has told all: that one runs it.
    *world.house.proposer.part.lock().unwrap() = Part::Standby;
    world.house.door.ldap_sync(&webservice).await;
    *world.house.proposer.part.lock().unwrap() = Part::Leader;
    assert_eq!((recorded(), world.history("corp").await), (Vec::new(), Vec::new()));
    // Its job ends when the change is in the log, and nobody has told it so yet.
    world.house.proposer.lost_answers.store(u32::MAX, Ordering::SeqCst);
    let (door, due) = (world.house.door.clone(), webservice.clone());
    let job = tokio::spawn(async move { door.ldap_sync(&due).await });
    let patience = tokio::time::Instant::now() + Duration::from_secs(20);
    while world.annotations("user", "ann@ldap-sync-corp").await.is_none() {
        assert!(tokio::time::Instant::now() < patience, "nothing changes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    assert_eq!(recorded(), Vec::<Value>::new());
    world.house.proposer.lost_answers.store(0, Ordering::SeqCst);
    while world.history("corp").await.is_empty() {
        assert!(tokio::time::Instant::now() < patience, "the run is not remembered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.history("corp").await[0]["outcome"], "applied");
    let recorded = recorded();
    assert_eq!((recorded.len(), &recorded[0]["result"]), (1, &"success".into()), "{recorded:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_conjur_are_told_the_policy_as_events() {
    let world = World::new(Some(small())).await;
    world.profile("corp", &[]).await;
    let token = world.house.token("demo/admin").await;
    let ask = async |accept: &str, name: &str| {
        let uri = format!("/api/ldap-sync/policy?config_name={name}");
        let headers = [("authorization", token.as_str()), ("accept", accept)];
        world.house.send(&Method::GET, &uri, &headers, "").await
    };
    assert_eq!(ask("application/json", "corp").await.status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(ask("text/event-stream", "nowhere").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let events = async || -> Vec<Value> {
        let reply = ask("text/event-stream", "corp").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let text = reply.text();
        let events = text.split("\n\n").filter(|event| !event.is_empty());
        events
            .map(|one| serde_json::from_str(one.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    };
    let told = events().await;
    assert_eq!(told.first().unwrap()["severity"], "info");
    let last = told.last().unwrap();
    assert_eq!(last["ok"], true);
    // What it says is a policy that loads.
    let policy = last["policy"].as_str().unwrap();
    let reply = world.send(&Method::POST, "/policies/demo/policy/ldap-sync%2Fcorp", policy).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    assert_eq!(world.apply("corp").await["outcome"], "unchanged");
    world.slapd.signal("KILL");
    let told = events().await;
    let last = told.last().unwrap();
    assert_eq!(last["ok"], false);
    assert!(last["error"]["message"].as_str().unwrap().starts_with("the directory:"));
    // Who may see it and not run it is told so.
    world.house.load("demo", "- !user reader\n- !permit {role: !user reader, privileges: [read], resource: !webservice conjur/ldap-sync/corp}").await;
    let token = world.house.token("demo/reader").await;
    let headers = [("authorization", token.as_str()), ("accept", "text/event-stream")];
    let uri = "/ldap-sync/policy?config_name=corp";
    assert_eq!(
        world.house.send(&Method::GET, uri, &headers, "").await.status,
        StatusCode::FORBIDDEN
    );
    let reply = world.house.send_as("demo/reader", &Method::POST, "/ldap-sync/demo/corp", "").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply =
        world.house.send_as("demo/reader", &Method::GET, "/ldap-sync/demo/corp/runs", "").await;
    assert_eq!(reply.status, StatusCode::OK);
}
