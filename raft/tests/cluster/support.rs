//! A cluster in a temporary folder: its authority, its nodes, and what tests ask of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use conclave_domain::command::{self, Actor, Command, Envelope};
use conclave_domain::records::{Digest, JoinToken, MemberRole, RequestId};
use conclave_domain::time::Timestamp;
use conclave_raft::{
    Committed, Config, Handle, Identity, KnownMember, NodeInfo, NodeKey, NodeRole, Parts,
    ProposeError, Quic, QuicError, QuicSettings, Tls, TlsMaterial, Versions,
};
use conclave_storage::{Datadir, FailPoints, LogStore, StateStore};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The name on every certificate of a test cluster.
pub(crate) const NAME: &str = "cluster.test";

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A certificate for `name` with a SPIFFE id of that role.
    pub(crate) fn material(&self, name: &str, role: &str) -> TlsMaterial {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let uri = format!("spiffe://test.conclave/cluster/{role}");
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        TlsMaterial {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            roots: vec![self.root.clone()],
            names: vec![NAME.to_owned()],
        }
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::new(self.material(NAME, "voter")).unwrap()
    }
}

/// One node: what survives its restarts, and its running member.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) role: NodeRole,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) key: NodeKey,
    pub(crate) address: SocketAddr,
    /// What it offers its peers to speak.
    pub(crate) versions: Versions,
    pub(crate) running: Option<Running>,
}

pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) state: StateStore,
    pub(crate) tls: Tls,
    /// Its endpoint, for saying what a member never would.
    pub(crate) quic: Quic,
    pub(crate) failed: Arc<AtomicBool>,
}

/// Settings under which tests run: quick elections, small snapshots.
pub(crate) fn config(id: u64) -> Config {
    Config {
        snapshot_every: 50,
        entries_kept: 20,
        lag_for_snapshot: 80,
        propose_timeout: Duration::from_secs(5),
        followers_may_propose: true,
        ..Config::new(id)
    }
}

pub(crate) const CLUSTER: [u8; 16] = *b"a test cluster!!";

impl Node {
    pub(crate) fn new(id: u64, role: NodeRole) -> Self {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (key, _) = NodeKey::generate().unwrap();
        Self { id, role, folder, key, address, versions: Versions::OURS, running: None }
    }

    pub(crate) fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("node-{}", self.id),
            role: self.role,
            node_key: self.key.public(),
            peer_address: self.address.to_string(),
            api_url: format!("https://node-{}", self.id),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            cluster: CLUSTER,
            node_id: self.id,
            key: self.key.clone(),
            standing: Bytes::new(),
        }
    }

    pub(crate) async fn start(&mut self, tls: Tls, known: &[KnownMember]) {
        let datadir = Datadir::open(self.folder.path(), FailPoints::default()).unwrap();
        let (log, _) = LogStore::open(&datadir).unwrap();
        let state = StateStore::open(&datadir).unwrap();
        let quic = self.bind(&tls).await;
        let failed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&failed);
        let parts = Parts {
            config: Config { known_members: known.to_vec(), ..config(self.id) },
            log,
            state: state.clone(),
            transport: Arc::new(quic.clone()),
            on_fault: Arc::new(move |text| {
                eprintln!("fault: {text}");
                told.store(true, Ordering::SeqCst);
            }),
        };
        let handle = Handle::start(parts).await.unwrap();
        self.running = Some(Running { handle, state, tls, quic, failed });
    }

    /// The endpoint of an earlier life is closed by a task of its own, a little after that life.
    async fn bind(&self, tls: &Tls) -> Quic {
        for _ in 0..500 {
            let settings = QuicSettings {
                versions: self.versions,
                ..QuicSettings::new(self.address, [self.id as u8; 32])
            };
            match Quic::bind(settings, tls, self.identity()) {
                Err(QuicError::Bind { source, .. })
                    if source.kind() == std::io::ErrorKind::AddrInUse =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                bound => return bound.unwrap(),
            }
        }
        panic!("{} stays in use", self.address);
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.handle.shutdown().await;
            assert!(!running.failed.load(Ordering::SeqCst), "node {} failed", self.id);
            drop(running);
            // The engine lets go of the stores in its own time.
            for _ in 0..500 {
                match Datadir::open(self.folder.path(), FailPoints::default()) {
                    Ok(_) => return,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
            panic!("node {} still holds its data folder", self.id);
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.running.as_ref().unwrap().handle
    }

    pub(crate) fn state(&self) -> &StateStore {
        &self.running.as_ref().unwrap().state
    }
}

/// Several nodes under one authority; node ids are places in `nodes`, from 1.
pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// A cluster of that many voters.
    pub(crate) async fn start(voters: u64) -> Self {
        let mut cluster = Self { authority: Authority::new(), nodes: Vec::new() };
        let mut first = Node::new(1, NodeRole::Voter);
        first.start(cluster.authority.tls(), &[]).await;
        first.handle().initialize(first.info()).await.unwrap();
        cluster.nodes.push(first);
        cluster.leader().await;
        for _ in 1..voters {
            cluster.add(NodeRole::Voter).await;
        }
        cluster
    }

    /// Adds a node, with a vote if that is its role, and waits until it has caught up.
    pub(crate) async fn add(&mut self, role: NodeRole) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        self.add_node(Node::new(id, role)).await
    }

    /// Adds that node, as [`Self::add`] does; its id must be the next.
    pub(crate) async fn add_node(&mut self, mut node: Node) -> u64 {
        let (id, role) = (node.id, node.role);
        let leader = self.leader().await;
        let leader = self.node(leader).handle().clone();
        leader.add_follower(id, node.info()).await.unwrap();
        let known: Vec<KnownMember> = leader.members().members.values().cloned().collect();
        node.start(self.authority.tls(), &known).await;
        self.nodes.push(node);
        let patience = Duration::from_secs(20);
        match role {
            NodeRole::Voter => {
                leader.promote(id, patience).await.unwrap();
            }
            NodeRole::Follower => leader.wait_caught_up(id, patience).await.unwrap(),
        }
        id
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    pub(crate) fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.running.is_some())
    }

    /// Waits until the running nodes have a leader among them that can write.
    pub(crate) async fn leader(&self) -> u64 {
        for _ in 0..1000 {
            let leader = self
                .running()
                .map(Node::handle)
                .filter(|handle| handle.leads())
                .max_by_key(|handle| handle.status().term);
            if let Some(leader) = leader
                && leader.read_barrier().await.is_ok()
            {
                return leader.status().node_id;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader");
    }

    /// Proposes on a node until it is committed, as a door does: the request id makes it safe.
    pub(crate) async fn write(&self, id: u64, tag: u64) -> Committed {
        for _ in 0..1000 {
            match self.node(id).handle().propose(command(tag)).await {
                Ok(committed) => return committed,
                Err(ProposeError::NoLeader { .. } | ProposeError::Unknown) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("not committed");
    }

    /// Whether a node's state holds what [`command`] wrote.
    pub(crate) fn holds(&self, id: u64, tag: u64) -> bool {
        self.node(id).state().read(|view| view.state.join_token(&digest(tag)).is_some())
    }

    pub(crate) async fn converge(&self) {
        let leader = self.leader().await;
        let wanted = self.node(leader).handle().read_barrier().await.unwrap();
        for node in self.running() {
            node.handle().wait_applied(wanted, Duration::from_secs(20)).await.unwrap();
        }
    }

    pub(crate) async fn stop(mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
    }
}

/// A number that no other write of this process has.
pub(crate) fn tag() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

fn digest(tag: u64) -> Digest {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&tag.to_be_bytes());
    Digest(digest)
}

/// A command that any state accepts, told apart by its tag.
pub(crate) fn command(tag: u64) -> Vec<u8> {
    let mut request = [0; 16];
    request[..8].copy_from_slice(&tag.to_be_bytes());
    let token = JoinToken {
        name: format!("node-{tag}"),
        role: MemberRole::Follower,
        expires_at: Timestamp(2_000_000_000_000),
        cidr: Vec::new(),
    };
    command::codec::encode(&Envelope {
        request_id: RequestId(request),
        actor: Actor::Node,
        at: Timestamp(1_700_000_000_000),
        client_ip: String::new(),
        body: Command::IssueJoinToken { digest: digest(tag), token },
    })
}
