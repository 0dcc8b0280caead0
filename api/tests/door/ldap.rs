//! `authn-ldap` against OpenLDAP's own server, as the distribution packages it: who is let in, who is
//! not, with what reason, and what becomes of requests when a directory is ill.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_api::ports::Part;
use conclave_api::ports::Secret;
use conclave_api::settings::LdapFallback;
use http::{Method, StatusCode};
use ldap3::LdapConnAsync;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::harness::{House, Reply, basic};
use super::package::package;
use super::refusals;

/// Where the distribution puts it.
const SLAPD: &str = "/usr/sbin/slapd";
pub(super) const SEARCHER_PASSWORD: &str = "searcher-4711";
/// Longest a directory may take to start.
const START: Duration = Duration::from_secs(20);
/// How long a directory may take, and a whole request: far apart, to see which of the two ended it.
const OUTBOUND_TIME_MAX: Duration = Duration::from_secs(3);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(20);

/// People of the directory beside those that have names of their own; its groups, and the people in each.
pub(super) const MANY: usize = 2000;
pub(super) const GROUPS: usize = 300;
const MEMBERS: usize = 20;

/// A directory server, ended when it is dropped.
pub(super) struct Slapd {
    folder: tempfile::TempDir,
    server: Child,
    pub(super) plain_port: u16,
    tls_port: u16,
    pub(super) authority: String,
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.signal("CONT");
        let _gone = self.server.kill();
        let _status = self.server.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// People whose names are traps, people who may not log in, and so many others.
fn people() -> String {
    let mut text = "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\n\
                    o: Example\ndc: example\n\n\
                    dn: ou=people,dc=example,dc=org\nobjectClass: organizationalUnit\nou: people\n\n\
                    dn: ou=others,dc=example,dc=org\nobjectClass: organizationalUnit\nou: others\n\n\
                    dn: cn=searcher,dc=example,dc=org\nobjectClass: simpleSecurityObject\n\
                    objectClass: organizationalRole\ncn: searcher\nuserPassword: searcher-4711\n\n"
        .to_owned();
    let mut person = |name: &str, unit: &str, uid: &str, extra: &str| {
        // Base64, since names hold whatever names hold.
        let dn = format!("cn={name},ou={unit},dc=example,dc=org");
        let entry = format!(
            "dn:: {}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\ncn:: {}\nsn: x\n\
             uid:: {}\nuidNumber: 1000\ngidNumber: 1000\nhomeDirectory: /\n{extra}\n",
            base64(&dn),
            base64(&name.replace('\\', "")),
            base64(uid),
        );
        text.push_str(&entry);
    };
    let password = |text: &str| format!("userPassword: {text}\n");
    for name in ["alice", "bob", "admin", "unentitled", "fenced"] {
        person(name, "people", name, &password(&format!("{name}-Secret1!")));
    }
    person(
        "locked",
        "people",
        "locked",
        &(password("locked-Secret1!") + "employeeType: disabled\n"),
    );
    person("keyless", "people", "keyless", "");
    person("twin one", "people", "twin", &password("twin-Secret1!"));
    person("twin two", "others", "twin", &password("twin-Secret1!"));
    person("Star * and (bracket)", "people", "star*", &password("star-Secret1!"));
    person("Doe\\, Jane \\+ \\\"Q\\\"", "people", "jane.doe", &password("jane-Secret1!"));
    person("Zoë Ümlaut", "people", "zoë", &password("zoe-Secret1!"));
    for at in 0..MANY {
        person(&format!("many {at}"), "people", &format!("many{at}"), &password("many-Secret1!"));
    }
    groups(&mut text);
    text
}

/// Groups of people and of each other, in a ring; some are called what people are called.
fn groups(text: &mut String) {
    text.push_str(
        "dn: ou=groups,dc=example,dc=org\nobjectClass: organizationalUnit\nou: groups\n\n",
    );
    let name = |at: usize| match at % GROUPS {
        0 => "alice".to_owned(),
        at => format!("group {at}"),
    };
    for at in 0..GROUPS {
        let (name, next) = (name(at), name(at + 1));
        text.extend([format!(
            "dn: cn={name},ou=groups,dc=example,dc=org\nobjectClass: groupOfNames\n\
             objectClass: extensibleObject\ncn: {name}\nuid: {name}\n\
             member: cn={next},ou=groups,dc=example,dc=org\n"
        )]);
        for person in 0..MEMBERS {
            let person = (at * 7 + person) % MANY;
            text.extend([format!("member: cn=many {person},ou=people,dc=example,dc=org\n")]);
        }
        text.push('\n');
    }
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

impl Slapd {
    /// With everybody.
    pub(super) fn start() -> Self {
        Self::holding(&people())
    }

    /// With what an LDIF text says.
    pub(super) fn holding(ldif: &str) -> Self {
        package("slapd", &[SLAPD, "-VV"], "these tests speak with a real directory");
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let path = |name: &str| at.join(name).display().to_string();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        fs::write(at.join("ca.pem"), authority.pem()).unwrap();
        fs::write(at.join("cert.pem"), leaf.pem()).unwrap();
        fs::write(at.join("key.pem"), key.serialize_pem()).unwrap();
        fs::create_dir(at.join("data")).unwrap();
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/nis.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n\
             attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey' EQUALITY octetStringMatch \
             SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {}\n\
             TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
             disallow bind_anon\n\
             database mdb\nsuffix \"dc=example,dc=org\"\nrootdn \"cn=root,dc=example,dc=org\"\n\
             rootpw root-4711\n\
             directory {}\nmaxsize 67108864\nindex objectClass,uid eq\n\
             limits dn.exact=\"cn=searcher,dc=example,dc=org\" size.soft=100 size.hard=100 size.prtotal=unlimited\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"cn=searcher,dc=example,dc=org\" read by anonymous auth by * none\n",
            path("slapd.pid"),
            path("ca.pem"),
            path("cert.pem"),
            path("key.pem"),
            path("data"),
        );
        fs::write(at.join("slapd.conf"), config).unwrap();
        let mut add = Command::new("/usr/sbin/slapadd")
            .args(["-q", "-f", &path("slapd.conf")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        add.stdin.take().unwrap().write_all(ldif.as_bytes()).unwrap();
        assert!(add.wait().unwrap().success(), "slapadd");
        let (plain_port, tls_port) = (free_port(), free_port());
        let urls = format!("ldap://127.0.0.1:{plain_port} ldaps://127.0.0.1:{tls_port}");
        let log = fs::File::create(at.join("log")).unwrap();
        let server = Command::new(SLAPD)
            .args(["-d", "stats", "-f", &path("slapd.conf"), "-h", &urls])
            .stderr(log)
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let slapd = Self { server, plain_port, tls_port, authority: authority.pem(), folder };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", tls_port)).is_err() {
            assert!(began.elapsed() < START, "slapd: {}", slapd.log());
            std::thread::yield_now();
        }
        slapd
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How often it was asked for the searcher's password.
    fn searcher_binds(&self) -> usize {
        self.log().matches("BIND dn=\"cn=searcher,dc=example,dc=org\" method=").count()
    }

    /// Stops or continues it.
    pub(super) fn signal(&self, name: &str) {
        // The shell's own: not every machine has the program.
        let kill = format!("kill -{name} {}", self.server.id());
        let _sent = Command::new("sh").args(["-c", &kill]).status();
        // Its threads stop one by one, and until then answer.
        let end = Instant::now() + START;
        while name == "STOP" && !self.has_stopped() {
            assert!(Instant::now() < end, "slapd does not stop");
            std::thread::yield_now();
        }
    }

    /// Whether every thread of it is stopped.
    fn has_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.server.id())).unwrap();
        let is_stopped = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        threads.map(Result::unwrap).all(is_stopped)
    }

    /// Whether it holds that many people without names of their own, and that many groups.
    fn has(&self, people: usize, groups: usize) {
        let config = self.folder.path().join("slapd.conf");
        let output = Command::new("/usr/sbin/slapcat").arg("-f").arg(config).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(count("uid: many"), people);
        assert_eq!(count("objectClass: groupOfNames"), groups);
    }

    /// As who may change it.
    pub(super) async fn root(&self) -> ldap3::Ldap {
        let url = format!("ldap://127.0.0.1:{}", self.plain_port);
        let (connection, mut ldap) = LdapConnAsync::new(&url).await.unwrap();
        ldap3::drive!(connection);
        let bound = ldap.simple_bind("cn=root,dc=example,dc=org", "root-4711").await.unwrap();
        bound.success().unwrap();
        ldap
    }

    pub(super) fn start_tls(&self) -> String {
        format!("ldap://localhost:{}", self.plain_port)
    }

    fn tls(&self) -> String {
        format!("ldaps://localhost:{}", self.tls_port)
    }
}

pub(super) struct World {
    pub(super) house: House,
    pub(super) slapd: Slapd,
}

const USERS: &str = "
- !user alice
- !user bob
- !user {id: fenced, restricted_to: [10.1.0.0/16]}
- !user unentitled
- !user locked
- !user keyless
- !user twin
- !user 'star*'
- !user jane.doe
- !user zoë
- !user '*'
- !user 'alice)(uid=*'
- !user absent
- !user 'ali*'
- !user ' alice'
- !user alice@apps
- !host machine
- !group everybody
- !grant
  role: !group everybody
  members: [!user alice, !user bob, !user fenced, !user locked, !user keyless, !user twin,
    !user 'star*', !user jane.doe, !user zoë, !user '*', !user 'alice)(uid=*', !user absent,
    !user 'ali*', !user ' alice', !user alice@apps, !host machine, !user admin]
";

/// One service with what its webservice is annotated with.
fn service(name: &str, annotations: &[(&str, &str)], variables: &[&str]) -> String {
    let annotations: Vec<String> = annotations
        .iter()
        .map(|(name, value)| format!("      ldap-authn/{name}: {}\n", Value::from(*value)))
        .collect();
    let variables: Vec<String> =
        variables.iter().map(|name| format!("  - !variable {name}\n")).collect();
    format!(
        "- !policy\n  id: conjur/authn-ldap/{name}\n  body:\n  - !webservice\n    annotations:\n\
         {}  - !webservice status\n{}  - !permit {{role: !group /everybody, privileges: [read, \
         authenticate], resource: !webservice}}\n",
        annotations.join(""),
        variables.join("")
    )
}

impl World {
    pub(super) async fn new() -> Self {
        let slapd = tokio::task::spawn_blocking(Slapd::start).await.unwrap();
        let house = House::with(|settings| {
            settings.failures_max = u32::MAX;
            settings.request_time_max = REQUEST_TIME_MAX;
            settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
            settings.outbound_time_max = OUTBOUND_TIME_MAX;
        });
        let world = Self { house, slapd };
        world.house.load("demo", USERS).await;
        world.add("corp", &[("uri", &world.slapd.start_tls())], SEARCHER_PASSWORD).await;
        world
    }

    /// Adds a service, in force, with what is common unless said otherwise.
    pub(super) async fn add(&self, name: &str, more: &[(&str, &str)], password: &str) {
        let usual =
            [("base_dn", "dc=example,dc=org"), ("bind_dn", "cn=searcher,dc=example,dc=org")];
        let others = usual.iter().filter(|(key, _)| !more.iter().any(|(name, _)| name == key));
        let all: Vec<(&str, &str)> =
            more.iter().chain(others).copied().filter(|(_, value)| !value.is_empty()).collect();
        let policy = service(name, &all, &["bind-password", "tls-ca-cert"]);
        self.house.load("demo", &policy).await;
        self.set(name, "bind-password", password).await;
        self.set(name, "tls-ca-cert", &self.slapd.authority).await;
        self.enable(name).await;
    }

    async fn enable(&self, name: &str) {
        let path = format!("/authn-ldap/{name}/demo");
        let reply = self.house.send_as("demo/admin", &Method::PATCH, &path, "enabled=true").await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
    }

    async fn set(&self, service: &str, variable: &str, value: &str) {
        let id = format!("conjur/authn-ldap/{service}/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{uri}");
    }

    pub(super) async fn login(&self, service: &str, login: &str, password: &str) -> Reply {
        let path = format!("/authn-ldap/{service}/demo/login");
        let header = basic(login, password);
        self.house.send(&Method::GET, &path, &[("authorization", &header)], "").await
    }

    pub(super) async fn authenticate(&self, service: &str, login: &str, password: &str) -> Reply {
        let login = utf8_percent_encode(login, NON_ALPHANUMERIC);
        let path = format!("/authn-ldap/{service}/demo/{login}/authenticate");
        self.house.send(&Method::POST, &path, &[], password.to_owned()).await
    }

    fn reason(&self) -> String {
        self.house.records().pop().unwrap()["message"].as_str().unwrap().to_owned()
    }

    pub(super) fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let message = self.reason();
        assert_eq!(reply.status.as_u16(), status, "{what}: {message}");
        assert_eq!(reply.text(), "", "{what}");
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
        assert!(!message.contains("Secret1!"), "{what}: {message:?} tells a password");
        assert!(!message.contains(SEARCHER_PASSWORD), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_in_the_directory_log_in_and_authenticate() {
    let world = World::new().await;
    for (login, password) in [
        ("alice", "alice-Secret1!"),
        ("user/alice", "alice-Secret1!"),
        ("star*", "star-Secret1!"),
        ("jane.doe", "jane-Secret1!"),
        ("zoë", "zoe-Secret1!"),
    ] {
        let reply = world.login("corp", login, password).await;
        assert_eq!(reply.status, StatusCode::OK, "{login}: {}", world.reason());
        let id = login.strip_prefix("user/").unwrap_or(login);
        assert_eq!(reply.text(), world.house.key(&format!("demo/{id}")), "{login}");
        let reply = world.authenticate("corp", login, password).await;
        assert_eq!(reply.status, StatusCode::OK, "{login}: {}", world.reason());
    }
    let told = world.reason();
    assert!(told.contains("successfully authenticated with authenticator authn-ldap service corp"));
    // The key does as well, for which no directory is asked.
    let key = world.house.key("demo/alice");
    world.slapd.signal("STOP");
    let reply = world.authenticate("corp", "alice", &key).await;
    assert_eq!(reply.status, StatusCode::OK);
    world.slapd.signal("CONT");
    // From the first byte on under TLS, too; and with hosts and ports one by one.
    world.add("tls", &[("uri", &world.slapd.tls())], SEARCHER_PASSWORD).await;
    assert_eq!(world.login("tls", "alice", "alice-Secret1!").await.status, StatusCode::OK);
    let port = world.slapd.tls_port.to_string();
    let apart = [("host", "localhost"), ("port", port.as_str()), ("connect_type", "ssl")];
    world.add("apart", &apart, SEARCHER_PASSWORD).await;
    assert_eq!(world.login("apart", "alice", "alice-Secret1!").await.status, StatusCode::OK);
    // One of two thousand, as soon as it is somebody here, whatever groups are called.
    world
        .house
        .load(
            "demo",
            "- !user many1999\n- !grant {role: !group everybody, member: !user many1999}\n",
        )
        .await;
    assert_eq!(world.login("corp", "many1999", "many-Secret1!").await.status, StatusCode::OK);
    world.slapd.has(MANY, GROUPS);
    // On a follower, with the leader gone.
    *world.house.proposer.part.lock().unwrap() = Part::Follower;
    *world.house.proposer.age.lock().unwrap() = Some(Duration::from_secs(5));
    *world.house.proposer.no_barrier.lock().unwrap() = true;
    assert_eq!(world.login("corp", "alice", "alice-Secret1!").await.status, StatusCode::OK);
    let reply = world.authenticate("corp", "bob", "bob-Secret1!").await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_does() {
    let world = World::new().await;
    let narrow = "(&(objectClass=posixAccount)(uid=%s)(!(employeeType=disabled)))";
    let uri = world.slapd.start_tls();
    world.add("narrow", &[("uri", &uri), ("filter_template", narrow)], SEARCHER_PASSWORD).await;
    let good = "alice-Secret1!";
    for (service, login, password, reason) in [
        ("corp", "alice", "wrong", "refuses its password (49)"),
        ("corp", "alice", "Alice-Secret1!", "refuses its password (49)"),
        ("corp", "alice", "alice-Secret1! ", "refuses its password (49)"),
        ("corp", "alice", "bob-Secret1!", "refuses its password (49)"),
        ("corp", "alice", "alice-Secret1!\0", "refuses its password (49)"),
        ("corp", "alice", "", "no password"),
        ("corp", "alice", " ", "no password"),
        ("corp", "alice", "\t\r\n", "no password"),
        ("corp", "alice", "\0", "no password"),
        ("corp", "alice", "\u{a0}", "no password"),
        ("corp", "keyless", "x", "refuses its password"),
        ("corp", "keyless", "", "no password"),
        ("corp", "absent", good, "no entry"),
        ("corp", "nobody", good, "CONJ00007E"),
        ("corp", "twin", "twin-Secret1!", "several entries"),
        ("corp", "*", good, "no entry"),
        ("corp", "ali*", good, "no entry"),
        ("corp", "alice)(uid=*", good, "no entry"),
        ("corp", " alice", good, "no login of a directory"),
        ("corp", "alice@apps", good, "no entry"),
        ("corp", "*)(objectClass=*", good, "CONJ00007E"),
        ("corp", "alice)(|(uid=*", good, "CONJ00007E"),
        ("corp", "\\2a", good, "CONJ00007E"),
        ("corp", "alice\0", good, "CONJ00007E"),
        ("corp", "ALICE", good, "CONJ00007E"),
        ("corp", "many1", "many-Secret1!", "CONJ00007E"),
        ("corp", "admin", "admin-Secret1!", "CONJ00017E"),
        ("corp", "user/admin", "admin-Secret1!", "CONJ00017E"),
        ("corp", "host/machine", good, "CONJ00007E"),
        ("corp", "group/everybody", good, "CONJ00007E"),
        ("corp", "", good, "CONJ00007E"),
        ("narrow", "locked", "locked-Secret1!", "no entry"),
        ("none", "alice", good, "CONJ00004E"),
    ] {
        let what = format!("{service} {login:?} {password:?}");
        let reply = world.login(service, login, password).await;
        world.refused(&format!("login {what}"), &reply, 401, reason);
        // Such a path names nothing.
        if !login.is_empty() && !login.contains('\0') {
            let reply = world.authenticate(service, login, password).await;
            world.refused(&format!("authenticate {what}"), &reply, 401, reason);
        }
    }
    // Not entitled, whatever is proven, as the interface has it; the directory hears nothing of it.
    let reply = world.login("corp", "unentitled", "unentitled-Secret1!").await;
    world.refused("not entitled", &reply, 403, "CONJ00006E");
    let reply = world.authenticate("corp", "unentitled", "unentitled-Secret1!").await;
    world.refused("not entitled", &reply, 403, "CONJ00006E");
    let reply = world.login("corp", "unentitled", "wrong").await;
    world.refused("not entitled, and wrong", &reply, 403, "CONJ00006E");
    // Addresses are looked at when it authenticates, not when it logs in.
    let reply = world.authenticate("corp", "fenced", "fenced-Secret1!").await;
    world.refused("from elsewhere", &reply, 401, "CONJ00003E");
    let reply = world.login("corp", "fenced", "fenced-Secret1!").await;
    assert_eq!(reply.status, StatusCode::OK);
    // Nothing that long is a password or a key.
    let long = "x".repeat(1025);
    let reply = world.authenticate("corp", "alice", &long).await;
    world.refused("a long password", &reply, 401, "CONJ00002E");
    let path = "/authn/demo/alice/authenticate";
    let reply = world.house.send(&Method::POST, path, &[], long).await;
    world.refused("a long key", &reply, 401, "CONJ00002E");
    // Without Basic there is nothing to prove.
    let path = "/authn-ldap/corp/demo/login";
    for header in ["", "Basic", "Basic !!!", "Bearer x", "Token token=\"x\""] {
        let reply = world.house.send(&Method::GET, path, &[("authorization", header)], "").await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{header:?}");
    }
    refusals::count(&world.house, "api/tests/door/ldap.rs::nobody_else_does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_ill_is_told_apart_from_a_wrong_password() {
    let world = World::new().await;
    let good = "alice-Secret1!";
    let (start_tls, tls) = (world.slapd.start_tls(), world.slapd.tls());
    let nowhere = format!("ldap://localhost:{}", free_port());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = format!("ldap://localhost:{}", silent.local_addr().unwrap().port());
    let as_ip = start_tls.replace("localhost", "127.0.0.1");
    let with = |uri: &str| [("uri".to_owned(), uri.to_owned())].to_vec();
    let also = |uri: &str, name: &str, value: &str| {
        [with(uri), vec![(name.to_owned(), value.to_owned())]].concat()
    };
    for (service, annotations, password, status, reason) in [
        ("down", with(&nowhere), SEARCHER_PASSWORD, 502, "refused"),
        ("slow", with(&silent_at), SEARCHER_PASSWORD, 504, "no answer within"),
        ("searcher", with(&start_tls), "wrong", 502, "searcher may not log in (49)"),
        ("base", also(&start_tls, "base_dn", "dc=nowhere"), SEARCHER_PASSWORD, 502, "answers 32"),
        ("as-ip", with(&as_ip), SEARCHER_PASSWORD, 502, "certificate"),
        ("no-base", also(&start_tls, "base_dn", ""), SEARCHER_PASSWORD, 401, "base_dn is not set"),
        ("no-server", with(""), SEARCHER_PASSWORD, 401, "neither uri nor host"),
        ("no-url", with("localhost"), SEARCHER_PASSWORD, 401, "neither ldap://"),
        (
            "filter",
            also(&start_tls, "filter_template", "(uid=x)"),
            SEARCHER_PASSWORD,
            401,
            "exactly one %s",
        ),
        (
            "filters",
            also(&start_tls, "filter_template", "(|(uid=%s)(cn=%s))"),
            SEARCHER_PASSWORD,
            401,
            "exactly one %s",
        ),
        (
            "broken",
            also(&start_tls, "filter_template", "(uid=%s"),
            SEARCHER_PASSWORD,
            401,
            "filter is none",
        ),
        ("plain", also(&start_tls, "connect_type", "plain"), SEARCHER_PASSWORD, 401, "without TLS"),
        ("type", also(&start_tls, "connect_type", "x"), SEARCHER_PASSWORD, 401, "connect_type"),
    ] {
        let annotations: Vec<(&str, &str)> =
            annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        world.add(service, &annotations, password).await;
        let began = Instant::now();
        let reply = world.login(service, "alice", good).await;
        world.refused(service, &reply, status, reason);
        assert!(began.elapsed() < REQUEST_TIME_MAX, "{service}: {:?}", began.elapsed());
        // Whoever is nobody here is answered alike.
        let reply = world.login(service, "nobody", good).await;
        assert_eq!(reply.status.as_u16(), status, "{service}");
        let path = format!("/authn-ldap/{service}/demo/status");
        let reply = world.house.send_as("demo/admin", &Method::GET, &path, "").await;
        assert_eq!(reply.status.as_u16(), 500, "{service}");
        assert!(reply.text().contains(reason), "{service}: {}", reply.text());
    }
    // An authority that its certificate is not of.
    let other = super::issuer::certificates().0;
    for (service, uri) in [("ca-start-tls", &start_tls), ("ca-tls", &tls)] {
        world.add(service, &[("uri", uri)], SEARCHER_PASSWORD).await;
        world.set(service, "tls-ca-cert", &other).await;
        let reply = world.login(service, "alice", good).await;
        world.refused(service, &reply, 502, "certificate");
    }
    // The second server answers for the first; and from then on it is asked first.
    for (service, first) in [("over-down", &nowhere), ("over-slow", &silent_at)] {
        let both = format!("{first} {start_tls}");
        world.add(service, &[("uri", &both)], SEARCHER_PASSWORD).await;
        let reply = world.login(service, "alice", good).await;
        assert_eq!(reply.status, StatusCode::OK, "{service}: {}", world.reason());
        let began = Instant::now();
        let reply = world.login(service, "alice", good).await;
        assert_eq!(reply.status, StatusCode::OK, "{service}");
        assert!(began.elapsed() < OUTBOUND_TIME_MAX, "{service}: {:?}", began.elapsed());
        let reply = world.login(service, "alice", "wrong").await;
        world.refused(service, &reply, 401, "refuses its password (49)");
    }
    // It falls silent in the middle of its life, and comes back.
    world.slapd.signal("STOP");
    let began = Instant::now();
    let reply = world.login("corp", "alice", good).await;
    world.refused("stopped", &reply, 504, "no answer within");
    assert!(began.elapsed() < REQUEST_TIME_MAX, "{:?}", began.elapsed());
    world.slapd.signal("CONT");
    assert_eq!(world.login("corp", "alice", good).await.status, StatusCode::OK);
    // What is well says so.
    let path = "/authn-ldap/corp/demo/status";
    let reply = world.house.send_as("demo/admin", &Method::GET, path, "").await;
    assert_eq!(reply.text(), "{\"status\":\"ok\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_go_without_tls_only_where_both_policy_and_operator_say_so() {
    let slapd = tokio::task::spawn_blocking(Slapd::start).await.unwrap();
    let house = House::with(|settings| {
        settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
        settings.ldap.plain_allowed = true;
    });
    let world = World { house, slapd };
    world.house.load("demo", USERS).await;
    let uri = world.slapd.start_tls();
    let plain = [("uri", uri.as_str()), ("connect_type", "plain")];
    world.add("plain", &plain, SEARCHER_PASSWORD).await;
    let reply = world.login("plain", "alice", "alice-Secret1!").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", world.reason());
    assert_eq!(world.slapd.log().matches(" STARTTLS").count(), 0);
    // That the operator would allow it is no wish for it.
    world.add("silent", &[("uri", uri.as_str())], SEARCHER_PASSWORD).await;
    let reply = world.login("silent", "alice", "alice-Secret1!").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", world.reason());
    assert!(world.slapd.log().matches(" STARTTLS").count() > 0, "{}", world.slapd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_silent_leaves_room_for_the_others() {
    let world = World::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("ldap://localhost:{}", silent.local_addr().unwrap().port());
    world.add("silent", &[("uri", &uri)], SEARCHER_PASSWORD).await;
    let waiting = (0..100).map(|_| world.login("silent", "alice", "alice-Secret1!"));
    let others = async {
        for _ in 0..20 {
            let reply = world.login("corp", "alice", "alice-Secret1!").await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        }
    };
    let (replies, ()) = tokio::join!(futures::future::join_all(waiting), others);
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    let (slow, refused) =
        (count(StatusCode::GATEWAY_TIMEOUT), count(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(slow + refused, 100);
    assert!(slow >= 64 && refused >= 1, "{slow} waited, {refused} were told to come again");
}

/// What the operator says in the server's environment is for services of which policy says nothing, and the password
/// in it for the server in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_leaves_out_the_operator_has_said_for_the_operators_server() {
    let slapd = tokio::task::spawn_blocking(Slapd::start).await.unwrap();
    let uri = slapd.start_tls();
    let house = House::with(|settings| {
        settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
        let secret = Secret::new(SEARCHER_PASSWORD.as_bytes().to_vec());
        settings.ldap = LdapFallback {
            uri: Some(uri.clone()),
            base: Some("dc=example,dc=org".to_owned()),
            bind_dn: Some("cn=searcher,dc=example,dc=org".to_owned()),
            bind_password: Some(Arc::new(secret)),
            filter: Some(
                "(&(objectClass=posixAccount)(uid=%s)(!(employeeType=disabled)))".to_owned(),
            ),
            plain_allowed: false,
        };
    });
    let world = World { house, slapd };
    world.house.load("demo", USERS).await;
    let port = world.slapd.plain_port.to_string();
    for (name, annotations) in [
        ("environment", vec![("connect_type", "tls")]),
        ("uri", vec![("uri", uri.as_str())]),
        ("host", vec![("host", "localhost"), ("port", port.as_str())]),
    ] {
        world.house.load("demo", &service(name, &annotations, &["tls-ca-cert"])).await;
        world.set(name, "tls-ca-cert", &world.slapd.authority).await;
        world.enable(name).await;
        let reply = world.login(name, "alice", "alice-Secret1!").await;
        if name == "environment" {
            assert_eq!(reply.status, StatusCode::OK, "{}", world.reason());
            let reply = world.login(name, "locked", "locked-Secret1!").await;
            world.refused(name, &reply, 401, "no entry");
        } else {
            world.refused(name, &reply, 401, "bind-password is not");
        }
    }
    // The server that policy names is asked, not the operator's.
    let own = [("host", "localhost"), ("port", "1")];
    world.house.load("demo", &service("own", &own, &["tls-ca-cert", "bind-password"])).await;
    world.set("own", "tls-ca-cert", &world.slapd.authority).await;
    world.set("own", "bind-password", SEARCHER_PASSWORD).await;
    world.enable("own").await;
    let reply = world.login("own", "alice", "alice-Secret1!").await;
    world.refused("the server that policy names", &reply, 502, "localhost:1");
}

/// After so long a connection is not taken for good without being tried.
const WAITED: Duration = Duration::from_millis(1100);

/// Stands between the door and the directory: counts connections, and can cut them or swallow what they carry.
struct Between {
    port: u16,
    made: Arc<AtomicUsize>,
    live: Arc<Mutex<Vec<AbortHandle>>>,
    swallows: watch::Sender<u64>,
    _accepting: JoinSet<()>,
}

impl Between {
    async fn before(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let made = Arc::new(AtomicUsize::new(0));
        let live: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (swallows, swallowed) = watch::channel(0);
        let (count, kept) = (made.clone(), live.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let mut swallowed = swallowed.clone();
                let before = *swallowed.borrow_and_update();
                let carry = tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _told = async { swallowed.wait_for(|now| *now > before).await.is_ok() } => std::future::pending().await,
                    }
                });
                kept.lock().unwrap().push(carry.abort_handle());
            }
        });
        Self { port, made, live, swallows, _accepting: accepting }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    fn cut(&self) {
        for carry in self.live.lock().unwrap().drain(..) {
            carry.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_serves_one_question_after_the_other_and_is_replaced_when_it_is_lost() {
    let world = World::new().await;
    let between = Between::before(world.slapd.plain_port).await;
    let uri = format!("ldap://localhost:{}", between.port);
    world.add("kept", &[("uri", &uri)], SEARCHER_PASSWORD).await;
    let logs_in = async |login: &str| {
        let reply = world.login("kept", login, &format!("{login}-Secret1!")).await;
        assert_eq!(reply.status, StatusCode::OK, "{login}: {}", world.reason());
    };
    // Whoever it was that was asked about before: the next is asked about by the searcher, whose own password is
    // asked for once, and then only where a connection has waited.
    let before = world.slapd.searcher_binds();
    let mut searcher_binds = 1;
    for _ in 0..5 {
        let began = Instant::now();
        logs_in("alice").await;
        logs_in("bob").await;
        let reply = world.login("kept", "alice", "bob-Secret1!").await;
        world.refused("wrong password", &reply, 401, "refuses its password (49)");
        let reply = world.login("kept", "absent", "x").await;
        world.refused("no entry", &reply, 401, "no entry");
        if began.elapsed() > WAITED / 3 {
            searcher_binds += 8;
        }
    }
    let found = world.slapd.searcher_binds() - before;
    assert!((1..=searcher_binds).contains(&found), "{found}");
    // One on which the searcher searches, one on which passwords are tried.
    assert_eq!(between.made(), 2);
    // After several entries were found, the rest of them could be taken for an answer.
    let reply = world.login("kept", "twin", "twin-Secret1!").await;
    world.refused("several entries", &reply, 401, "several entries");
    logs_in("alice").await;
    assert_eq!(between.made(), 3);
    // The server ends them: nobody notices.
    between.cut();
    logs_in("alice").await;
    assert_eq!(between.made(), 5);
    // Those that have waited for a while are tried first: a firewall may have forgotten them without a word.
    tokio::time::sleep(WAITED).await;
    logs_in("bob").await;
    assert_eq!(between.made(), 5);
    between.swallows.send_modify(|times| *times += 1);
    tokio::time::sleep(WAITED).await;
    logs_in("bob").await;
    assert_eq!(between.made(), 7);
    // Many at once have two each, of which some stay.
    futures::future::join_all((0..12).map(|_| logs_in("alice"))).await;
    let most = between.made();
    assert!((8..=31).contains(&most), "{most}");
    logs_in("bob").await;
    assert_eq!(between.made(), most);
    // Nor does anybody notice when all of theirs are ended at once.
    between.cut();
    futures::future::join_all((0..12).map(|_| logs_in("alice"))).await;
    // Another authority is believed, another searcher searches: what was proven before counts no more.
    world.set("kept", "tls-ca-cert", &super::issuer::certificates().0).await;
    let reply = world.login("kept", "alice", "alice-Secret1!").await;
    world.refused("another authority", &reply, 502, "certificate");
    world.set("kept", "tls-ca-cert", &world.slapd.authority).await;
    world.set("kept", "bind-password", "wrong").await;
    let reply = world.login("kept", "alice", "alice-Secret1!").await;
    world.refused("another password of the searcher", &reply, 502, "searcher may not log in (49)");
}
