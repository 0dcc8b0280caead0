//! One door over a state store in memory. Agreement is a counter and a lock; it can be told to be a
//! follower, to lose its leader, or to lose answers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::body::Body;
use base64::Engine;
use conclave_api::credentials::new_account;
use conclave_api::openapi;
use conclave_api::ports::{
    Clock, ClusterStatus, Committed, Health, HealthError, Part, ProposeError, Proposer, ReadError,
    Reign, SeedOrder, SeedRefusal, Seeds, StateStore, Vault,
};
use conclave_api::{Door, Durability, Parts, Peer, Settings, Spool, health_router, router};
use conclave_domain::audit::AuditTexts;
use conclave_domain::command::{self, Actor, Command, Envelope};
use conclave_domain::id::AccountName;
use conclave_domain::records::{JoinToken, Member, MemberRole, RequestId};
use conclave_domain::time::Timestamp;
use conclave_storage::Datadir;
use conclave_storage::memory::SimDisk;
use conclave_storage::seal::{Keyring, RootKey};
use conclave_storage::state::{Entry, EntryKind};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tower::ServiceExt;
use zeroize::Zeroizing;

/// A clock that stands still until it is moved.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Agreement with oneself.
pub(crate) struct Single {
    state: StateStore,
    turn: Mutex<u64>,
    pub(crate) part: Mutex<Part>,
    pub(crate) age: Mutex<Option<Duration>>,
    /// So many proposals from now on find no leader.
    pub(crate) leaderless: AtomicU32,
    /// So many proposals from now on are carried out and their answers lost.
    pub(crate) lost_answers: AtomicU32,
    /// Done before the next proposals, one each.
    pub(crate) before: Mutex<Vec<Vec<u8>>>,
    /// The last proposal.
    pub(crate) proposed: Mutex<Vec<u8>>,
    pub(crate) no_barrier: Mutex<bool>,
}

fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Single {
    fn commit(&self, command: Vec<u8>) -> Committed {
        let mut last = self.turn.lock().unwrap();
        *last += 1;
        let entry = Entry {
            index: *last,
            log_id: bytes::Bytes::new(),
            kind: EntryKind::Command(command.into()),
        };
        let reply = self.state.apply(&[entry]).unwrap().remove(0);
        Committed { index: *last, reply }
    }
}

impl Proposer for Single {
    /// `n1` is this node, `n2` is ill, `n3` cannot be reached.
    fn health_of<'a>(&'a self, member: &'a str) -> BoxFuture<'a, Result<Health, HealthError>> {
        Box::pin(async move {
            match member {
                "n1" => Err(HealthError::Myself),
                "n2" => {
                    Ok(Health { ok: false, document: br#"{"ok":false,"role":"standby"}"#.into() })
                }
                "n3" => Err(HealthError::Unreachable("10.0.0.3:7443: refused".into())),
                _ => Err(HealthError::NoMember),
            }
        })
    }

    fn propose(&self, command: Vec<u8>) -> BoxFuture<'_, Result<Committed, ProposeError>> {
        Box::pin(async move {
            if take(&self.leaderless) {
                return Err(ProposeError::NoLeader);
            }
            self.proposed.lock().unwrap().clone_from(&command);
            let first = self.before.lock().unwrap().pop();
            if let Some(first) = first {
                self.commit(first);
            }
            let committed = self.commit(command);
            if take(&self.lost_answers) {
                return Err(ProposeError::Unknown);
            }
            Ok(committed)
        })
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(async move {
            if *self.no_barrier.lock().unwrap() {
                Err(ReadError::NoLeader)
            } else {
                Ok(self.state.applied_index())
            }
        })
    }

    fn reign(&self) -> Reign {
        Reign { term: 1, leader: Some(1) }
    }

    fn next_reign(&self, _than: Reign) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn wait_applied(&self, index: u64, within: Duration) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            if self.state.applied_index() >= index {
                return Ok(());
            }
            tokio::time::sleep(within).await;
            Err(ReadError::Behind)
        })
    }

    fn part(&self) -> Part {
        *self.part.lock().unwrap()
    }

    fn age(&self) -> Option<Duration> {
        *self.age.lock().unwrap()
    }

    fn status(&self) -> ClusterStatus {
        let applied = self.state.applied_index();
        ClusterStatus {
            node_id: 1,
            part: self.part(),
            term: 1,
            leader: Some(1),
            leader_url: Some("https://leader.example".into()),
            last_log: applied,
            committed: applied,
            applied,
            voters: 1,
            followers: 0,
            silent: Some(0),
            age: self.age(),
        }
    }
}

/// Puts the token of a seed into the log as the role that asks, as a node does; the seed is left out.
struct Desk(Arc<Single>, Arc<TestClock>);

impl Seeds for Desk {
    fn issue(&self, order: SeedOrder) -> BoxFuture<'_, Result<Zeroizing<Vec<u8>>, SeedRefusal>> {
        Box::pin(async move {
            let at = self.1.now();
            let life = i64::try_from(order.life.as_millis()).unwrap();
            let token = JoinToken {
                name: order.name.clone(),
                role: MemberRole::Follower,
                expires_at: Timestamp(at.0 + life),
                cidr: order.cidr.clone(),
            };
            let id = conclave_api::credentials::api_key_digest(order.name.as_bytes());
            let envelope = command::codec::encode(&Envelope {
                request_id: RequestId(id.0[..16].try_into().unwrap()),
                actor: Actor::Role(order.role),
                at,
                client_ip: order.client_ip,
                body: Command::IssueJoinToken { digest: id, token },
            });
            let reply = self.0.commit(envelope).reply;
            let reply = conclave_domain::outcome::codec::decode(&reply).unwrap();
            reply.map_err(SeedRefusal::Rejected)?;
            let seed = serde_json::json!({
                "name": order.name, "group": order.group, "names": order.names, "life_ms": life,
                "cidr": order.cidr.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            Ok(Zeroizing::new(seed.to_string().into_bytes()))
        })
    }
}

/// The vault and account that all houses share: RSA keys are slow to make.
struct Founding {
    vault: Arc<Vault>,
    accounts: Vec<(Command, String)>,
}

fn founding() -> &'static Founding {
    static FOUNDING: OnceLock<Founding> = OnceLock::new();
    FOUNDING.get_or_init(|| {
        let root = RootKey::generate().unwrap();
        let vault = Arc::new(Vault::new(&root, &Keyring::generate().unwrap()));
        let accounts = ["demo", "other", "!"].map(|name| {
            let account = AccountName::new(name).unwrap();
            let (command, key) = new_account(&vault, &account).unwrap();
            (command, key.to_string())
        });
        Founding { vault, accounts: accounts.into() }
    })
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A door and everything behind it.
pub(crate) struct House {
    pub(crate) router: Router,
    pub(crate) door: Arc<Door>,
    /// What listens without TLS.
    pub(crate) plain_health: Router,
    pub(crate) state: StateStore,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) proposer: Arc<Single>,
    pub(crate) vault: Arc<ArcSwapOption<Vault>>,
    pub(crate) spool_folder: tempfile::TempDir,
    /// API keys by `account/login`.
    pub(crate) keys: Mutex<HashMap<String, String>>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A house that may call servers on this machine, has time for them, and lets clients fail as often as
    /// they like: that of the tests of authenticators.
    pub(crate) fn calling_out(adjust: impl FnOnce(&mut Settings)) -> Self {
        Self::with(|settings| {
            settings.failures_max = u32::MAX;
            settings.request_time_max = Duration::from_secs(20);
            settings.outbound_networks = vec!["127.0.0.0/8".parse().unwrap()];
            settings.outbound_time_max = Duration::from_millis(1500);
            adjust(settings);
        })
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut Settings)) -> Self {
        let disk = Arc::new(SimDisk::new(1));
        let datadir = Datadir::on_disk(disk, Path::new("/node"), unarmed()).unwrap();
        let state = StateStore::open(&datadir).unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000)));
        let proposer = Arc::new(Single {
            state: state.clone(),
            turn: Mutex::new(0),
            part: Mutex::new(Part::Leader),
            age: Mutex::new(Some(Duration::ZERO)),
            leaderless: AtomicU32::new(0),
            lost_answers: AtomicU32::new(0),
            before: Mutex::default(),
            proposed: Mutex::default(),
            no_barrier: Mutex::new(false),
        });
        let founding = founding();
        let vault = Arc::new(ArcSwapOption::from(Some(founding.vault.clone())));
        let spool_folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(spool_folder.path(), Durability::Os, clock.now()).unwrap();
        let mut settings = Settings {
            request_time_max: Duration::from_millis(1500),
            index_wait_max: Duration::from_millis(50),
            trusted_proxies: vec!["10.9.0.0/16".parse().unwrap()],
            ..Settings::default()
        };
        adjust(&mut settings);
        let door = Door::new(Parts {
            state: state.clone(),
            proposer: proposer.clone(),
            vaults: vault.clone(),
            clock: clock.clone(),
            spool: Arc::new(spool),
            metrics_text: Some(Arc::new(|| "# metrics\n".to_owned())),
            settings,
        })
        .unwrap();
        door.issue_seeds_with(Arc::new(Desk(proposer.clone(), clock.clone())));
        let house = Self {
            plain_health: health_router(&door),
            router: router(door.clone()),
            door,
            state,
            clock,
            proposer,
            vault,
            spool_folder,
            keys: Mutex::default(),
        };
        for (at, (command, key)) in founding.accounts.iter().enumerate() {
            let name = ["demo", "other", "!"][at];
            house.keys.lock().unwrap().insert(format!("{name}/admin"), key.clone());
            house.propose(Actor::Node, command.clone());
        }
        house
    }

    pub(crate) fn envelope(&self, actor: Actor, body: Command) -> Vec<u8> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut id = [0xee; 16];
        id[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        command::codec::encode(&Envelope {
            request_id: RequestId(id),
            actor,
            at: self.clock.now(),
            client_ip: String::new(),
            body,
        })
    }

    pub(crate) fn propose(&self, actor: Actor, body: Command) {
        let reply = self.proposer.commit(self.envelope(actor, body)).reply;
        conclave_domain::outcome::codec::decode(&reply).unwrap().unwrap();
    }

    /// Puts records into the audit chain, as if this cluster's only node had shipped them.
    pub(crate) fn chain(&self, records: &[String]) {
        let member = Member {
            name: "n1".to_owned(),
            role: MemberRole::Voter,
            node_key: [1; 32],
            peer_address: "127.0.0.1:1".to_owned(),
            api_url: "https://localhost:1".to_owned(),
        };
        self.propose(Actor::Node, Command::AdmitMember { token: None, member });
        let mut first = 1;
        for records in records.chunks(1000) {
            let texts = AuditTexts::packed(records);
            let next = first + records.len() as u64;
            self.propose(Actor::Node, Command::ChainAudit { node: 1, first, lost: 0, texts });
            first = next;
        }
    }

    /// Sends a request as it stands, from an address.
    pub(crate) async fn send_from(
        &self,
        peer: &str,
        method: &Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        self.send_with(peer, Arc::default(), method, uri, headers, body).await
    }

    /// As [`House::send_from`], over a connection on which these certificates were shown.
    pub(crate) async fn send_with(
        &self,
        peer: &str,
        certificates: Arc<[CertificateDer<'static>]>,
        method: &Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.into()).unwrap();
        let address = format!("{peer}:5000").parse().unwrap();
        request.extensions_mut().insert(Peer { address, certificates });
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        let reply = Reply { status: parts.status, headers: parts.headers, body };
        let uri: http::Uri = uri.parse().unwrap();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let media = reply.headers.get("content-type").map(|value| value.to_str().unwrap());
        let problem = openapi::undocumented(method, path, query, reply.status, media);
        assert_eq!(problem, None, "{method} {uri}: correct it, or api/src/openapi.rs");
        reply
    }

    pub(crate) async fn send(
        &self,
        method: &Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        self.send_from("192.0.2.7", method, uri, headers, body).await
    }

    /// An `Authorization` header for `account/login`.
    pub(crate) async fn token(&self, who: &str) -> String {
        let (account, login) = who.split_once('/').unwrap();
        let key = self.key(who);
        let login = utf8_percent_encode(login, NON_ALPHANUMERIC);
        let uri = format!("/authn/{account}/{login}/authenticate");
        let reply = self.send(&Method::POST, &uri, &[], key).await;
        assert_eq!(reply.status, StatusCode::OK, "authenticating {who}: {}", reply.text());
        header_of(&reply.body)
    }

    pub(crate) fn key(&self, who: &str) -> String {
        self.keys.lock().unwrap().get(who).unwrap_or_else(|| panic!("no key of {who}")).clone()
    }

    /// Sends a request with the token of `account/login`.
    pub(crate) async fn send_as(
        &self,
        who: &str,
        method: &Method,
        uri: &str,
        body: impl Into<Body>,
    ) -> Reply {
        let token = self.token(who).await;
        self.send(method, uri, &[("authorization", &token)], body).await
    }

    /// Loads a policy as admin and keeps the keys of the roles that it made.
    pub(crate) async fn load(&self, account: &str, text: &str) {
        let uri = format!("/policies/{account}/policy/root");
        let admin = format!("{account}/admin");
        let reply = self.send_as(&admin, &Method::POST, &uri, text.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
        self.keep_keys(&reply);
    }

    pub(crate) fn keep_keys(&self, reply: &Reply) {
        let Ok(document) = serde_json::from_slice::<Value>(&reply.body) else { return };
        let Some(roles) = document["created_roles"].as_object() else { return };
        for (id, role) in roles {
            let mut tokens = id.splitn(3, ':');
            let (account, kind, name) =
                (tokens.next().unwrap(), tokens.next().unwrap(), tokens.next().unwrap());
            let login = if kind == "user" { name.to_owned() } else { format!("{kind}/{name}") };
            let key = role["api_key"].as_str().unwrap().to_owned();
            self.keys.lock().unwrap().insert(format!("{account}/{login}"), key);
        }
    }

    /// Every audit record so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let mut files: Vec<_> = std::fs::read_dir(self.spool_folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
            .iter()
            .flat_map(|path| {
                let text = std::fs::read_to_string(path).unwrap();
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// `Token token="…"` for an envelope.
pub(crate) fn header_of(envelope: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(envelope);
    format!("Token token=\"{encoded}\"")
}

/// `Basic …` for a login and password.
pub(crate) fn basic(login: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{login}:{password}"));
    format!("Basic {encoded}")
}

/// No fail points, whether this build has any or not.
fn unarmed<T: Default>() -> T {
    T::default()
}
