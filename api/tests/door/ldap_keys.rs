//! API keys of people whom a directory has to have still, against OpenLDAP's own server: who is disabled there
//! gets no token any more, within the time that the webservice states.

use std::collections::HashSet;
use std::time::Duration;

use conclave_api::ports::Part;
use http::{Method, StatusCode};
use ldap3::Mod;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::harness::Reply;
use super::ldap::{SEARCHER_PASSWORD, World};

const PEOPLE: &str = "(&(objectClass=posixAccount)(uid=%s)(!(employeeType=disabled)))";
/// Between two looks at the directory, as the webservice states it.
const RECHECK: Duration = Duration::from_mins(5);

impl World {
    /// A service that wants to know whether its people are still there.
    async fn rechecking(name: &str, more: &[(&str, &str)]) -> Self {
        let world = Self::new().await;
        let uri = world.slapd.start_tls();
        let usual =
            [("uri", uri.as_str()), ("filter_template", PEOPLE), ("api_key_recheck", "PT5M")];
        let others = usual.iter().filter(|(key, _)| !more.iter().any(|(name, _)| name == key));
        let all: Vec<(&str, &str)> = more.iter().chain(others).copied().collect();
        world.add(name, &all, SEARCHER_PASSWORD).await;
        world
    }

    /// Shows the API key at the default authenticator.
    async fn by_key(&self, login: &str) -> Reply {
        let role = match login.split_once('/') {
            Some(_) => format!("demo/{login}"),
            None => format!("demo/{}", login.trim_start_matches("user/")),
        };
        let key = self.house.key(&role);
        let login = utf8_percent_encode(login, NON_ALPHANUMERIC);
        self.house.send(&Method::POST, &format!("/authn/demo/{login}/authenticate"), &[], key).await
    }

    async fn disable(&self, person: &str, is_disabled: bool) {
        let value = if is_disabled { "disabled" } else { "staff" };
        let dn = format!("cn={person},ou=people,dc=example,dc=org");
        let change = Mod::Replace("employeeType", HashSet::from([value]));
        self.slapd.root().await.modify(&dn, vec![change]).await.unwrap().success().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disabled_in_the_directory_gets_no_token_for_a_key() {
    let world = World::rechecking("people", &[]).await;
    let ok = |what: &str, reply: &Reply| {
        assert_eq!(reply.status, StatusCode::OK, "{what}: {}", world.house.records().len());
    };
    ok("alice", &world.by_key("alice").await);
    ok("bob", &world.by_key("bob").await);
    world.disable("alice", true).await;
    // The directory's word is good for so long, and no longer.
    world.house.clock.advance(RECHECK / 2);
    ok("alice, by the word of before", &world.by_key("alice").await);
    world.house.clock.advance(RECHECK / 2);
    let reply = world.by_key("alice").await;
    world.refused("disabled", &reply, 401, "the directory has no entry for it");
    ok("bob, who is still there", &world.by_key("bob").await);
    // Nor at the directory's own authenticator, by key or by password.
    let key = world.house.key("demo/alice");
    for (what, proof) in [("key", key.as_str()), ("password", "alice-Secret1!")] {
        let reply = world.authenticate("people", "alice", proof).await;
        world.refused(what, &reply, 401, "the directory has no entry for it");
    }
    // Nor at another one's, where the key is all that is looked at.
    let reply = world.authenticate("corp", "alice", &key).await;
    world.refused("key elsewhere", &reply, 401, "the directory has no entry for it");
    // Whom no directory was ever to have is not asked about: administrators, machines, those who may not use it.
    ok("admin", &world.by_key("admin").await);
    ok("a machine", &world.by_key("host/machine").await);
    ok("no person of the service", &world.by_key("unentitled").await);
    // Who comes back has the same key.
    world.disable("alice", false).await;
    ok("alice again", &world.by_key("alice").await);

    // On a follower, with the leader gone.
    world.disable("bob", true).await;
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    world.house.clock.advance(RECHECK);
    let reply = world.by_key("bob").await;
    world.refused("disabled, at a follower", &reply, 401, "the directory has no entry for it");
    ok("alice, at a follower", &world.by_key("alice").await);

    // A directory that says nothing has said nothing good; and that is told apart.
    world.slapd.signal("STOP");
    ok("by the word of before", &world.by_key("alice").await);
    world.house.clock.advance(RECHECK);
    let reply = world.by_key("alice").await;
    world.refused("silent", &reply, 504, "no answer within");
    world.slapd.signal("CONT");
    ok("when it speaks again", &world.by_key("alice").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_directories_is_enough_and_a_setting_that_is_none_lets_nobody_in() {
    let world = World::rechecking("people", &[]).await;
    let uri = world.slapd.start_tls();
    // Two directories in one server, by where they search.
    world
        .add(
            "others",
            &[
                ("uri", &uri),
                ("base_dn", "ou=others,dc=example,dc=org"),
                ("api_key_recheck", "PT0S"),
            ],
            SEARCHER_PASSWORD,
        )
        .await;
    assert_eq!(world.by_key("alice").await.status, StatusCode::OK);
    let reply = world.by_key("absent").await;
    world.refused("in neither", &reply, 401, "the directory has no entry for it");
    world.add("typo", &[("uri", &uri), ("api_key_recheck", "5 minutes")], SEARCHER_PASSWORD).await;
    assert_eq!(world.by_key("alice").await.status, StatusCode::OK);
    let path = "/authn-ldap/typo/demo/status";
    let reply = world.house.send_as("demo/admin", &Method::GET, path, "").await;
    assert!(reply.text().contains("api_key_recheck = \\\"5 minutes\\\""), "{}", reply.text());

    let only = World::rechecking("typo", &[("api_key_recheck", "PT5")]).await;
    let reply = only.by_key("alice").await;
    only.refused("no duration", &reply, 401, "is no duration, as PT5M is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_of_a_branch_are_known_to_the_directory_without_it() {
    let world = World::rechecking("people", &[("branch", "ldap-sync/corp")]).await;
    let path = "/authn-ldap/people/demo/status";
    let reply = world.house.send_as("demo/admin", &Method::GET, path, "").await;
    assert!(reply.text().contains("ldap-sync/corp\\\" is no policy"), "{}", reply.text());
    let policy = "
- !policy
  id: ldap-sync/corp
  body:
  - !user alice
  - !user locked
- !grant
  role: !group everybody
  members: [!user alice@ldap-sync-corp, !user locked@ldap-sync-corp]
";
    world.house.load("demo", policy).await;
    let reply = world.house.send_as("demo/admin", &Method::GET, path, "").await;
    assert_eq!(reply.text(), "{\"status\":\"ok\"}");
    let alice = "alice@ldap-sync-corp";
    let good = "alice-Secret1!";
    let reply = world.login("people", alice, good).await;
    assert_eq!(reply.text(), world.house.key("demo/alice@ldap-sync-corp"));
    assert_eq!(world.authenticate("people", alice, good).await.status, StatusCode::OK);
    assert_eq!(world.by_key(alice).await.status, StatusCode::OK);
    let reply = world.by_key("locked@ldap-sync-corp").await;
    world.refused("disabled", &reply, 401, "the directory has no entry for it");
    // Others by that name are other people.
    for other in ["alice", "@ldap-sync-corp", "bob", "alice@apps"] {
        let reply = world.authenticate("people", other, good).await;
        let is_refused = reply.status == StatusCode::UNAUTHORIZED;
        assert!(is_refused, "{other}: {}", reply.status);
    }
    let reply = world.authenticate("people", "alice", good).await;
    world.refused("of another branch", &reply, 401, "none of the branch");
    // And nobody asks about their keys.
    assert_eq!(world.by_key("absent").await.status, StatusCode::OK);
}
