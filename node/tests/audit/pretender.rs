//! Peers that are not what they say, at the real door of a real node: what they are refused is in the audit chain,
//! with where they came from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave::certificates::template::peer_name;
use conclave::compose::{Node, known_members};
use conclave::config::Config;
use conclave::folder::Folder;
use conclave::join::{Joined, join};
use conclave::seed::Seed;
use conclave::{jobs, unseal};
use conclave_raft::{
    CallError, Handle, Identity, Lane, NodeKey, Parts, Peer, Quic, QuicSettings, Tls, TlsMaterial,
    Transport, Urgency,
};
use conclave_storage::{Datadir, FailPoints, LogStore, StateStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;

use crate::{alone, configured, seed_of_f1, until, verified};

/// How long a refusal may take to be in the chain, on a machine that does much else.
const WITHIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);

/// A cluster of one voter, and a follower that has joined and does not run.
struct Scene {
    node: Arc<Node>,
    seed: Seed,
    joined: Joined,
    config: Config,
    jobs: Vec<tokio::task::JoinHandle<()>>,
    _folders: [tempfile::TempDir; 2],
}

impl Scene {
    async fn new() -> Self {
        let (folder, node) = alone("", |_| {}).await;
        let (ship, membership) = (jobs::ship(node.clone()), jobs::membership(node.clone()));
        let jobs = vec![tokio::spawn(ship), tokio::spawn(membership)];
        let seed = seed_of_f1(&node).await;
        let second = tempfile::tempdir().unwrap();
        let config = Config::load(&configured(second.path(), "f1", "")).unwrap();
        let joined = join(&config, &seed, None).await.unwrap();
        Self { node, seed, joined, config, jobs, _folders: [folder, second] }
    }

    /// Speaks as the follower, with what its seed held, and with a node key.
    async fn speaks(&self, key: NodeKey, disk: &Path) -> (Quic, Handle) {
        let certificates = |pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
        };
        let material = TlsMaterial {
            chain: certificates(&self.seed.certificate_pem),
            key: PrivateKeyDer::from_pem_slice(self.seed.key_pem.as_bytes()).unwrap(),
            roots: certificates(&self.seed.root_pem),
            names: vec![peer_name(&self.seed.cluster_id)],
        };
        let cluster = conclave::folder::unhex(&self.seed.cluster_id).unwrap();
        let node_id = self.joined.node_id;
        let identity = Identity { cluster, node_id, key, standing: Bytes::new() };
        let settings = QuicSettings::new(self.config.peer.listen, [7; 32]);
        let quic = Quic::bind(settings, &Tls::new(material).unwrap(), identity).unwrap();
        let datadir = Datadir::open(disk, FailPoints::new()).unwrap();
        let mut config = self.config.raft.for_node(node_id);
        let known = known_members(&self.node.core.raft);
        config.known_members = known.iter().map(|one| one.to_known().unwrap()).collect();
        let parts = Parts {
            config,
            log: LogStore::open(&datadir).unwrap().0,
            state: StateStore::open(&datadir).unwrap(),
            transport: Arc::new(quic.clone()),
            on_fault: Arc::new(|text| panic!("{text}")),
        };
        (quic, Handle::start(parts).await.unwrap())
    }

    fn voter(&self) -> Peer {
        let members = self.node.core.raft.status().members;
        Peer { id: 1, address: members[0].info.peer_address.clone() }
    }

    /// Asks the voter until an answer or the refusal is as wanted: it may be told that it has joined before the voter's
    /// own list of members says so, and on a busy machine a line may end before the words have come.
    async fn until_said(
        &self,
        quic: &Quic,
        request: Bytes,
        wanted: impl Fn(&Result<Bytes, CallError>) -> bool,
    ) -> Result<Bytes, CallError> {
        let end = Instant::now() + WITHIN;
        loop {
            let answer = quic.call(&self.voter(), Urgency::High, request.clone(), PATIENCE).await;
            if wanted(&answer) || Instant::now() > end {
                return answer;
            }
        }
    }

    /// Waits for the record of what it was refused, and tells how long that took.
    async fn recorded(&self, operation: &str, reason: &str, since: Instant) {
        let who =
            format!("f1 (node {}) from 127.0.0.1 was refused: {operation}", self.joined.node_id);
        let is_it = |text: &str| {
            [who.as_str(), reason, "\"client_ip\":\"127.0.0.1\""]
                .iter()
                .all(|mark| text.contains(mark))
        };
        let chain = || self.node.core.state.audit_records(1, 100, 1 << 20).unwrap();
        until("the record", || chain().iter().any(|(_, record)| is_it(&record.text))).await;
        let took = since.elapsed();
        println!("{operation} is in the chain {took:.2?} after it was tried: {reason}");
        assert!(took < WITHIN, "{took:?}");
    }

    async fn end(self) {
        drop(verified(&self.node));
        for job in self.jobs {
            job.abort();
        }
        self.node.core.stop().await;
    }
}

/// A call for votes: version, tag, term, node, no last entry, no transfer.
fn ballot(term: u64, node: u64) -> Bytes {
    [&[1, 1][..], &term.to_be_bytes(), &node.to_be_bytes(), &[0, 0, 0]].concat().into()
}

/// A heartbeat of a leader: version, vote, nothing before, nothing committed, age, no entries.
fn heartbeat(term: u64, node: u64) -> Bytes {
    let rest = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    [&[1][..], &term.to_be_bytes(), &node.to_be_bytes(), &rest].concat().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_cluster_key_without_a_node_key_is_refused_and_recorded() {
    let scene = Scene::new().await;
    let disk = tempfile::tempdir().unwrap();
    let (key, _) = NodeKey::generate().unwrap();
    let (quic, handle) = scene.speaks(key, disk.path()).await;
    let is_told = |answer: &Result<Bytes, CallError>| {
        let refused =
            answer.as_ref().map_err(ToString::to_string).expect_err("a pretender is let in");
        refused.contains("has not proven its node key")
    };
    let answer = scene.until_said(&quic, ballot(9, 1), is_told).await;
    assert!(is_told(&answer), "{answer:?}");
    let since = Instant::now();
    scene.recorded("connect", "has not proven its node key", since).await;
    handle.shutdown().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_asks_for_a_vote_or_appends_is_refused_and_recorded() {
    let scene = Scene::new().await;
    let disk = tempfile::tempdir().unwrap();
    let master = unseal::master_key_now(&scene.config).await.unwrap();
    let key = Folder::new(&scene.config.node.data).node_key(&master).unwrap();
    let (quic, handle) = scene.speaks(key, disk.path()).await;
    let term = scene.node.core.raft.status().term;
    let me = scene.joined.node_id;
    let since = Instant::now();
    let answer = scene.until_said(&quic, ballot(term + 9, me), Result::is_ok).await;
    // A refusal, and forbidden: no vote.
    assert_eq!(answer.unwrap()[..3], [1, 7, 6]);
    scene.recorded("vote", "certificate has no vote", since).await;

    let since = Instant::now();
    let mut pipe = quic.open(&scene.voter(), Lane::Append).await.unwrap();
    pipe.outgoing.send(heartbeat(term + 9, me)).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, pipe.incoming.recv()).await.unwrap();
    assert!(!matches!(answer, Some(Ok(_))), "an append was answered: {answer:?}");
    scene.recorded("append", "certificate has no vote", since).await;
    let status = scene.node.core.raft.status();
    assert_eq!((status.leader, status.term), (Some(1), term), "the leader was disturbed");
    handle.shutdown().await;
    scene.end().await;
}
