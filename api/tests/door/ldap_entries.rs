//! What the entries of a directory may say at `authn-ldap`: how somebody is called here by an attribute, and what is
//! not to be followed or believed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conclave_api::ports::Part;
use http::{Method, StatusCode};
use ldap3::Mod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::harness::{House, Reply};
use super::ldap::{SEARCHER_PASSWORD, World};

const BY_MAIL: &str = "(&(objectClass=posixAccount)(mail=%s)(!(employeeType=disabled)))";

impl World {
    /// A service whose people type their mail address.
    async fn by_mail(name: &str, more: &[(&str, &str)]) -> Self {
        let world = Self::new().await;
        for (person, mails) in [
            ("alice", &["alice.cooper@example.org"][..]),
            ("bob", &["bob@example.org", "robert@example.org"]),
            ("admin", &["root@example.org"]),
            ("unentitled", &["u@example.org"]),
            ("fenced", &["f@example.org"]),
            ("keyless", &["k@example.org"]),
            ("many 7", &["nobody.here@example.org"]),
            ("locked", &["both@example.org"]),
            ("twin one", &["both@example.org"]),
        ] {
            world.say(person, "mail", mails).await;
        }
        let uri = world.slapd.start_tls();
        let usual =
            [("uri", uri.as_str()), ("filter_template", BY_MAIL), ("login_attribute", "UID")];
        let all: Vec<(&str, &str)> = usual.iter().chain(more).copied().collect();
        world.add(name, &all, SEARCHER_PASSWORD).await;
        world
    }

    /// Has somebody's entry hold these values.
    async fn say(&self, person: &str, attribute: &str, values: &[&str]) {
        let dn = format!("cn={person},ou=people,dc=example,dc=org");
        let change = Mod::Replace(attribute, values.iter().copied().collect::<HashSet<_>>());
        self.slapd.root().await.modify(&dn, vec![change]).await.unwrap().success().unwrap();
    }

    fn ok(&self, what: &str, reply: &Reply) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{what}: {record}");
        assert_eq!(record["user"], "demo:user:alice", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_called_what_an_attribute_of_their_entry_says() {
    let world = World::by_mail("mail", &[("api_key_recheck", "PT0S")]).await;
    let path = "/authn-ldap/mail/demo/status";
    let status = world.house.send_as("demo/admin", &Method::GET, path, "").await;
    assert_eq!(status.text(), "{\"status\":\"ok\"}");
    let (alice, good) = ("alice.cooper@example.org", "alice-Secret1!");
    let reply = world.login("mail", alice, good).await;
    world.ok("login", &reply);
    let key = world.house.key("demo/alice");
    assert_eq!(reply.text(), key);
    // By the address or by her own name here, with password or key.
    world.ok("password", &world.authenticate("mail", alice, good).await);
    world.ok("key", &world.authenticate("mail", alice, &key).await);
    world.ok("key by her name", &world.authenticate("mail", "alice", &key).await);
    for (what, login, password, reason) in [
        ("her name with her password", "alice", good, "no entry for it"),
        ("another's password", alice, "bob-Secret1!", "refuses its password"),
        ("another's key", alice, world.house.key("demo/bob").as_str(), "refuses its password"),
        ("no password", alice, "", "no password"),
        ("a blank", alice, " ", "no password"),
        ("a login with an edge", " alice.cooper@example.org", good, "no login of a directory"),
        ("a star", "*", good, "no entry for it"),
        ("a filter", "x)(uid=alice", good, "no entry for it"),
        ("nobody", "nobody@example.org", good, "no entry for it"),
        ("several", "both@example.org", "locked-Secret1!", "CONJ00002E"),
        ("admin", "root@example.org", "admin-Secret1!", "CONJ00017E"),
        ("nobody here", "nobody.here@example.org", "many-Secret1!", "'demo:user:many7' not found"),
        ("without a password there", "k@example.org", "x", "refuses its password"),
    ] {
        let reply = world.authenticate("mail", login, password).await;
        world.refused(what, &reply, 401, reason);
        let reply = world.login("mail", login, password).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}");
    }
    let reply = world.authenticate("mail", "f@example.org", "fenced-Secret1!").await;
    world.refused("from elsewhere", &reply, 401, "CONJ00003E");
    let reply = world.authenticate("mail", "u@example.org", "unentitled-Secret1!").await;
    world.refused("not entitled", &reply, 403, "CONJ00006E");
    // What the entry says must be one name.
    world.say("alice", "uid", &["alice", "bob"]).await;
    let reply = world.authenticate("mail", alice, good).await;
    world.refused("two names", &reply, 401, "several values of UID");
    world.say("alice", "uid", &["alice"]).await;
    world.ok("one name", &world.authenticate("mail", alice, good).await);

    // Whether a key's owner is still there is asked by that attribute.
    let by_key = async || {
        world.house.send(&Method::POST, "/authn/demo/alice/authenticate", &[], key.clone()).await
    };
    world.ok("the key at authn", &by_key().await);
    world.say("alice", "employeeType", &["disabled"]).await;
    world.refused("disabled", &by_key().await, 401, "no entry for it");
    let reply = world.authenticate("mail", alice, good).await;
    world.refused("disabled", &reply, 401, "no entry for it");
    world.say("alice", "employeeType", &[]).await;
    // On a follower alone.
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    world.ok("at a follower", &world.login("mail", alice, good).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attribute_that_is_none_or_not_there_lets_nobody_in() {
    for (attribute, part) in [
        ("u id", "login_attribute is no attribute"),
        ("uid)(cn", "login_attribute is no attribute"),
        ("description", "has no description"),
    ] {
        let world = World::by_mail("mail", &[]).await;
        let uri = world.slapd.start_tls();
        let all = [("uri", &*uri), ("filter_template", BY_MAIL), ("login_attribute", attribute)];
        world.add("other", &all, SEARCHER_PASSWORD).await;
        let reply = world.login("other", "alice.cooper@example.org", "alice-Secret1!").await;
        world.refused(attribute, &reply, 401, part);
        let path = "/authn-ldap/other/demo/status";
        let status = world.house.send_as("demo/admin", &Method::GET, path, "").await;
        assert_eq!(status.text().contains(part), attribute != "description", "{}", status.text());
    }
    // People of a branch have its ending.
    let branch = [("branch", "ldap-sync/corp")];
    let world = World::by_mail("mail", &branch).await;
    let policy = "- !policy {id: ldap-sync/corp, body: [!user alice ]}\n\
        - !grant {role: !group everybody, member: !user alice@ldap-sync-corp}\n";
    world.house.load("demo", policy).await;
    let reply = world.login("mail", "alice.cooper@example.org", "alice-Secret1!").await;
    assert_eq!(reply.text(), world.house.key("demo/alice@ldap-sync-corp"));
    let key = world.house.key("demo/alice");
    let reply = world.authenticate("mail", "alice", &key).await;
    world.refused("of no branch", &reply, 401, "no entry for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_directory_points_to_is_not_followed() {
    let world = World::new().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ldap://{}/ou=people,dc=example,dc=com", elsewhere.local_addr().unwrap());
    let attributes = vec![
        ("objectClass", HashSet::from(["referral", "extensibleObject"])),
        ("ou", HashSet::from(["elsewhere"])),
        ("ref", HashSet::from([url.as_str()])),
    ];
    let dn = "ou=elsewhere,dc=example,dc=org";
    world.slapd.root().await.add(dn, attributes).await.unwrap().success().unwrap();
    // Beside an entry of its own the directory names the other one, and that is not asked.
    let reply = world.login("corp", "alice", "alice-Secret1!").await;
    assert_eq!(reply.text(), world.house.key("demo/alice"));
    let reply = world.login("corp", "absent", "absent-Secret1!").await;
    world.refused("only elsewhere", &reply, 401, "the directory has no entry for it");
    // Where all that is to be searched is elsewhere, the directory cannot say.
    let uri = world.slapd.start_tls();
    world.add("beyond", &[("uri", &uri), ("base_dn", dn)], SEARCHER_PASSWORD).await;
    let reply = world.login("beyond", "alice", "alice-Secret1!").await;
    world.refused("all elsewhere", &reply, 502, "the directory answers 10 to a search");
    let asked = tokio::time::timeout(Duration::ZERO, elsewhere.accept()).await;
    assert!(asked.is_err(), "a referral was followed");
}

/// A directory that finds one entry, which has no name; and that takes any password. Counts passwords.
async fn nameless() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = tried.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    // A sequence: the length, the number of the message, what is wanted (RFC 4511, 4.1.1).
                    let long = usize::from(buffer[1] & 0x7f) * usize::from(buffer[1] >> 7);
                    let [2, 1, number, wanted] = buffer[2 + long..6 + long] else {
                        panic!("{:?}", &buffer[..count]);
                    };
                    let done = |tag| vec![0x30, 12, 2, 1, number, tag, 7, 10, 1, 0, 4, 0, 4, 0];
                    let answer = match wanted {
                        0x60 => {
                            counted.fetch_add(1, Ordering::Relaxed);
                            done(0x61)
                        }
                        0x63 => {
                            let entry = vec![0x30, 9, 2, 1, number, 0x64, 4, 4, 0, 0x30, 0];
                            [entry, done(0x65)].concat()
                        }
                        _ => return,
                    };
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (port, tried)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_without_a_name_has_no_password() {
    let (port, tried) = nameless().await;
    let house = House::calling_out(|settings| settings.ldap.plain_allowed = true);
    let policy = format!(
        "- !user alice\n- !policy\n  id: conjur/authn-ldap/odd\n  body:\n  - !webservice\n    annotations:\n      \
         ldap-authn/uri: ldap://localhost:{port}\n      ldap-authn/connect_type: plain\n      \
         ldap-authn/base_dn: dc=example,dc=org\n  - !permit {{role: !user /alice, privilege: authenticate, \
         resource: !webservice}}\n"
    );
    house.load("demo", &policy).await;
    house.send_as("demo/admin", &Method::PATCH, "/authn-ldap/odd/demo", "enabled=true").await;
    let path = "/authn-ldap/odd/demo/alice/authenticate";
    let reply = house.send(&Method::POST, path, &[], "whatever").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::UNAUTHORIZED, ""));
    let told = house.records().pop().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(told.contains("the directory's entry for it has no name"), "{told}");
    assert_eq!(tried.load(Ordering::Relaxed), 0, "a password was tried, and it was nobody's");
}
