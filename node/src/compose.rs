//! Builds every part of a node and joins them; nothing is built elsewhere.
//!
//! ```text
//! config, node.json, master key
//!   └─ Core: data folder → log, state → QUIC → Raft; root key → vault; join desk
//!        └─ Node: Core + audit spool → door → HTTPS; admin socket; jobs
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use conclave_api::audit::{Durability, Spool};
use conclave_api::door::{Door, MetricsText, Parts};
use conclave_api::ports::Agreement;
use conclave_api::server::{ServerTls, key_holders};
use conclave_api::settings::{Clouds, Kubernetes, LdapFallback, Settings, UserPasswords};
use conclave_domain::command::{Actor, Command, Envelope, codec};
use conclave_domain::level;
use conclave_domain::outcome::{self, Outcome, Rejection};
use conclave_domain::records::RequestId;
use conclave_domain::time::Clock;
use conclave_raft::transport::{Quic, QuicSettings, Tls};
use conclave_raft::{Handle, Identity, KnownMember, ProposeError};
use conclave_storage::seal::{Keyring, MasterKey, RootKey, Secret, Vault};
use conclave_storage::{Datadir, FailPoints, LogStore, StateStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::certificates::inventory::{Loaded, Reports};
use crate::clock::SystemClock;
use crate::config::{AuditDurability, CloudsConfig, Config, environment};
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, KnownMemberFile, NodeFile};
use crate::jobs::{Resealing, Rotations, Watch};
use crate::peer_service::PeerService;
use crate::tls::{peer_material, server_certificates};
use crate::unseal::master_key_now;

/// How long a command of the node's own is tried before it is given up.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before such a command is proposed again.
const PROPOSE_PAUSE: Duration = Duration::from_millis(50);

/// The replicated part of a node: stores, agreement, keys.
pub struct Core {
    /// Agreement.
    pub raft: Handle,
    /// The log.
    pub log: LogStore,
    /// The state.
    pub state: StateStore,
    /// The cluster's root key.
    pub root_key: Arc<RootKey>,
    /// Open once the keyring has been read from the state.
    pub vault: Arc<ArcSwapOption<Vault>>,
    /// Why the storage has failed, where it has. The process must then end.
    pub fault: watch::Receiver<Option<String>>,
    /// What other nodes are answered.
    pub peers: Arc<PeerService>,
    /// TLS between nodes.
    pub peer_tls: Tls,
    /// What members have said about their certificates.
    pub reports: Arc<Reports>,
}

impl Core {
    /// Opens the stores, binds the QUIC endpoint and starts Raft. What peers are refused is recorded
    /// in the spool, where there is one.
    ///
    /// # Errors
    /// [`Exit::Fault`] when the disk or a key is not in order; the text says what to do.
    pub async fn start(
        config: &Config,
        node: &NodeFile,
        datadir: &Datadir,
        master: &MasterKey,
        spool: Option<Arc<Spool>>,
    ) -> Result<Self, Failure> {
        let folder = Folder::new(&config.node.data);
        let root_key = Arc::new(folder.root_key(master)?);
        let node_key = folder.node_key(master)?;
        let cluster = crate::folder::unhex(&node.cluster_id).ok_or_else(|| {
            Failure::new(Exit::Fault, "node.json: cluster_id is not 32 hex digits")
        })?;
        let material = peer_material(
            &node.cluster_id,
            &folder.root_pem()?,
            &folder.cluster_certificate(master)?,
        )?;
        let tls = Tls::new(material).context(Exit::Fault, "TLS between nodes")?;
        // Opening verifies every record, which takes its time: not on the reactor.
        let opened = datadir.clone();
        let (log, state) = tokio::task::spawn_blocking(move || {
            let (log, recovery) = LogStore::open(&opened)?;
            let state = StateStore::open(&opened)?;
            tracing::info!(
                entries = recovery.entries,
                opens = recovery.opens,
                applied = state.applied_index(),
                "storage.opened"
            );
            Ok::<_, conclave_storage::Fault>((log, state))
        })
        .await
        .context(Exit::Fault, "storage")?
        .context(Exit::Fault, "storage")?;

        let reset_secret = reset_secret(&node_key);
        let identity = Identity {
            cluster,
            node_id: node.node_id,
            key: node_key,
            standing: bytes::Bytes::new(),
        };
        let quic = Quic::bind(QuicSettings::new(config.peer.listen, reset_secret), &tls, identity)
            .context(Exit::Configuration, "peer.listen")?;
        let mut raft_config = config.raft.for_node(node.node_id);
        raft_config.followers_may_propose = config.reads.forward_writes;
        raft_config.known_members =
            node.known_members.iter().filter_map(KnownMemberFile::to_known).collect();
        let (fault_told, fault) = watch::channel(None);
        let parts = conclave_raft::Parts {
            config: raft_config,
            log: log.clone(),
            state: state.clone(),
            transport: Arc::new(quic),
            on_fault: Arc::new(move |text: &str| {
                fault_told.send_replace(Some(text.to_owned()));
            }),
        };
        check_level(&state)?;
        let raft = Handle::start(parts).await.context(Exit::Fault, "raft")?;
        let reports = Arc::new(Reports::default());
        let peers =
            PeerService::new(raft.clone(), state.clone(), root_key.clone(), spool, reports.clone());
        raft.set_service(peers.clone());
        let vault = Arc::new(ArcSwapOption::empty());
        let core = Self { raft, log, state, root_key, vault, fault, peers, peer_tls: tls, reports };
        core.unseal()?;
        Ok(core)
    }

    /// Opens the vault with the keyring in force, where the state has one that is not open yet.
    /// Answers whether the vault is open.
    ///
    /// # Errors
    /// When the keyring does not open with this node's root key.
    pub fn unseal(&self) -> Result<bool, Failure> {
        let in_force = self.state.read(|view| view.state.keyring().cloned());
        let Some(wrapped) = in_force else { return Ok(false) };
        let open = self.vault.load().as_ref().map(|vault| vault.generation());
        if open != Some(wrapped.generation) {
            let keyring =
                Keyring::unwrap(&wrapped, &self.root_key).context(Exit::Fault, "keyring")?;
            let (state, root_key) = (self.state.clone(), self.root_key.clone());
            let vault = Vault::new(&self.root_key, &keyring)
                .asking(Box::new(move || keyring_in_force(&state, &root_key)));
            self.vault.store(Some(Arc::new(vault)));
            tracing::info!(generation = wrapped.generation, "vault.open");
        }
        Ok(true)
    }

    /// Stops Raft and closes the log in good order.
    pub async fn stop(&self) {
        self.raft.shutdown().await;
        if let Err(fault) = self.log.close() {
            tracing::warn!(%fault, "log.close");
        }
    }
}

/// A version that does not know what the cluster may use by now must not take part in it.
fn check_level(state: &StateStore) -> Result<(), Failure> {
    let level = state.read(|view| view.state.level());
    if level > level::NEWEST {
        let text = format!(
            "this cluster is at feature level {level}, and conclave {} knows no more than level {}: \
             start the node with the version that its peers run",
            env!("CARGO_PKG_VERSION"),
            level::NEWEST
        );
        return Err(Failure::new(Exit::Configuration, text));
    }
    Ok(())
}

/// How often a keyring is looked for while commands are being applied.
const KEYRING_LOOKS: usize = 1000;

/// The keyring that the state holds, for a vault that is asked from within a read: it must not wait
/// for the state behind a writer, who would wait for that read.
fn keyring_in_force(state: &StateStore, root_key: &RootKey) -> Option<Keyring> {
    for _ in 0..KEYRING_LOOKS {
        if let Ok(wrapped) = state.try_read(|view| view.state.keyring().cloned()) {
            return Keyring::unwrap(&wrapped?, root_key).ok();
        }
        std::thread::yield_now();
    }
    None
}

/// A whole node, ready to serve.
pub struct Node {
    /// The replicated part.
    pub core: Core,
    /// Who it is.
    pub identity: NodeFile,
    /// Its configuration; parts of it change while it runs.
    config: watch::Sender<Arc<Config>>,
    /// Its folder.
    pub folder: Folder,
    /// Its master key. Locked while something is sealed under it in the folder.
    master: Mutex<Arc<MasterKey>>,
    /// Requests in, answers out.
    pub door: Arc<Door>,
    /// The node's own audit records.
    pub spool: Arc<Spool>,
    /// Where they lie.
    pub audit_folder: PathBuf,
    /// How rotations stand while this node leads.
    pub rotations: Rotations,
    /// How far values are sealed anew while this node leads.
    pub resealing: Resealing,
    /// What the other members say of themselves while this node leads.
    pub watch: Watch,
    /// TLS towards clients.
    pub tls: Arc<ServerTls>,
    /// What it has loaded of the certificates in the state.
    pub loaded: ArcSwapOption<Loaded>,
    /// Where clients connect.
    listener: Mutex<Option<TcpListener>>,
    /// Where load balancers without TLS ask how this node is; none: nowhere.
    health_listener: Mutex<Option<TcpListener>>,
}

impl Node {
    /// Builds the node that the configured data folder holds, where nobody has to be waited for to
    /// unseal it.
    ///
    /// # Errors
    /// What is not in order, and what to do.
    pub async fn build(
        config: &Config,
        metrics_text: Option<Arc<MetricsText>>,
    ) -> Result<Self, Failure> {
        let master = master_key_now(config).await?;
        Self::build_with(config, master, metrics_text).await
    }

    /// Builds it with its master key.
    ///
    /// # Errors
    /// What is not in order, and what to do.
    pub async fn build_with(
        config: &Config,
        master: MasterKey,
        metrics_text: Option<Arc<MetricsText>>,
    ) -> Result<Self, Failure> {
        let folder = Folder::new(&config.node.data);
        let identity = folder.read_node()?;
        folder.refuse_half_recovered()?;
        folder.forget_setup();
        if identity.name != config.node.name {
            return Err(Failure::new(
                Exit::Configuration,
                format!(
                    "the data folder is of node {:?}, node.name is {:?}; point node.data at the right one",
                    identity.name, config.node.name
                ),
            ));
        }
        let datadir = Datadir::open(&config.node.data, FailPoints::new())
            .context(Exit::Fault, "data folder")?;
        let durability = match config.audit.durability {
            AuditDurability::Os => Durability::Os,
            AuditDurability::Disk => Durability::Disk,
            AuditDurability::Quorum => Durability::Quorum,
        };
        let audit_folder = datadir.audit();
        let spool = Spool::open(&audit_folder, durability, SystemClock.now())
            .context(Exit::Fault, "audit spool")?;
        let spool = Arc::new(spool);
        // Bound before Raft starts, so that a taken port is found before anything is joined.
        let listener = TcpListener::bind(config.api.listen)
            .await
            .context(Exit::Configuration, format_args!("api.listen {}", config.api.listen))?;
        let health_listener = match config.api.health_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .context(Exit::Configuration, format_args!("api.health_listen {address}"))?,
            ),
            None => None,
        };
        let presented = server_certificates(&folder.cluster_certificate(&master)?, &[])?;
        let tls = Arc::new(
            ServerTls::new(presented, Some(key_holders()))
                .context(Exit::Fault, "TLS towards clients")?,
        );

        let core = Core::start(config, &identity, &datadir, &master, Some(spool.clone())).await?;
        // A folder that lost its spool must not give a number again that the chain has seen.
        spool.start_after(core.state.read(|view| view.state.audit_source(identity.node_id)));
        let parts = Parts {
            state: core.state.clone(),
            proposer: Arc::new(Agreement::new(core.raft.clone())),
            vaults: core.vault.clone(),
            clock: Arc::new(SystemClock),
            spool: spool.clone(),
            metrics_text,
            settings: settings(config, &identity.name)?,
        };
        let door = Door::new(parts).context(Exit::Configuration, "api")?;
        core.peers.tell_health_of(&door, config.cluster.level_max);
        let config = watch::Sender::new(Arc::new(config.clone()));
        let master = Mutex::new(Arc::new(master));
        let listener = Mutex::new(Some(listener));
        let health_listener = Mutex::new(health_listener);
        let rotations = Rotations::default();
        let loaded = ArcSwapOption::empty();
        let resealing = Resealing::default();
        Ok(Self {
            core,
            identity,
            config,
            folder,
            master,
            door,
            spool,
            audit_folder,
            rotations,
            resealing,
            watch: Watch::default(),
            tls,
            loaded,
            listener,
            health_listener,
        })
    }

    /// Its configuration as it is in force now.
    pub fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// Tells when another configuration is in force.
    pub fn config_changes(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Puts a changed configuration in force.
    pub(crate) fn change_config(&self, change: impl FnOnce(&mut Config)) {
        self.config.send_modify(|config| change(Arc::make_mut(config)));
    }

    /// Its master key.
    pub fn master(&self) -> Arc<MasterKey> {
        self.master.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does something with the master key that must not meet a change of it.
    pub(crate) fn with_master<T>(&self, work: impl FnOnce(&MasterKey) -> T) -> T {
        work(&self.master.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another master key in the place of this one, once `reseal` has sealed anew what lies under
    /// the old one.
    pub(crate) fn replace_master(
        &self,
        new: MasterKey,
        reseal: impl FnOnce(&MasterKey, &MasterKey) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut master = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        reseal(&master, &new)?;
        *master = Arc::new(new);
        Ok(())
    }

    /// The HTTPS listener, for the one task that serves it.
    pub fn take_listener(&self) -> Option<TcpListener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The listener for health alone, where there is one, for the one task that serves it.
    pub fn take_health_listener(&self) -> Option<TcpListener> {
        self.health_listener.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn clouds(config: &CloudsConfig) -> Result<Clouds, Failure> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).context(
            Exit::Configuration,
            format!("the certificates of api.clouds_ca_file, {}, cannot be read", path.display()),
        )
    };
    Ok(Clouds {
        sts_uri: config.sts_uri.clone(),
        google_uri: config.google_uri.clone(),
        authorities: config.ca_file.as_ref().map(read).transpose()?,
    })
}

/// How the door of a node of that name behaves.
///
/// # Errors
/// When a file that the configuration names cannot be read.
pub(crate) fn settings(config: &Config, node_name: &str) -> Result<Settings, Failure> {
    Ok(Settings {
        node_name: node_name.to_owned(),
        trusted_proxies: config.api.trusted_proxies.clone(),
        authenticators: config.api.authenticators.clone(),
        host_factories_enabled: config.api.host_factories_enabled,
        dynamic_secrets_enabled: config.api.dynamic_secrets_enabled,
        seed_accounts: config.api.seed_accounts.clone(),
        outbound_networks: config.api.outbound_networks.clone(),
        jwt_missing_issuer_ignored: config.api.jwt_missing_issuer_ignored,
        clouds: clouds(&config.api.clouds)?,
        ldap: ldap_fallback(config.api.ldap_plain_allowed),
        kubernetes: kubernetes(config)?,
        staleness_max: config.reads.max_staleness,
        staleness_unwanted: config.reads.unhealthy_after,
        staleness_degraded: Settings::default().staleness_degraded.min(config.reads.max_staleness),
        forward_writes: config.reads.forward_writes,
        health_ok_for: config.api.health_ok_for,
        policy_rules: config.policy.rules,
        policy_wait_max: config.policy.load_wait,
        ignored_changes_header: config.policy.ignored_changes_header,
        effective_policy_max: config.policy.effective_max,
        user_passwords: UserPasswords::new(
            environment::user_passwords()
                .into_iter()
                .map(|(name, value)| (name, Secret::new(value.as_bytes().to_vec())))
                .collect(),
        ),
        ..Settings::default()
    })
}

fn kubernetes(config: &Config) -> Result<Kubernetes, Failure> {
    let told = environment::KubernetesEnvironment::read();
    let usual = Kubernetes::default();
    let exec_time_max = match told.exec_timeout.as_deref().map(str::parse::<u64>) {
        None => usual.exec_time_max,
        Some(Ok(seconds @ 1..=60)) => Duration::from_secs(seconds),
        Some(_) => {
            let text = format!("{}: write seconds, 1 to 60", environment::EXEC_TIMEOUT);
            return Err(Failure::new(Exit::Configuration, text));
        }
    };
    Ok(Kubernetes {
        account: config.api.account.clone(),
        api_url: told.api_url,
        exec_time_max,
        ..usual
    })
}

fn ldap_fallback(plain_allowed: bool) -> LdapFallback {
    let told = environment::LdapEnvironment::read();
    LdapFallback {
        uri: told.uri,
        base: told.base,
        bind_dn: told.bind_dn,
        bind_password: told
            .bind_password
            .map(|password| Arc::new(Secret::new(password.as_bytes().to_vec()))),
        filter: told.filter,
        plain_allowed,
    }
}

/// The secret behind QUIC's reset and connection-id keys: it must outlive restarts and be this
/// node's alone, so it is derived from the node key. Ed25519 signatures are deterministic.
fn reset_secret(node_key: &conclave_raft::NodeKey) -> [u8; 32] {
    let signature = node_key.sign(b"conclave quic reset secret 1");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &signature);
    let mut secret = [0; 32];
    secret.copy_from_slice(digest.as_ref());
    secret
}

/// The members as Raft knows them now, for a join answer.
pub fn known_members(raft: &Handle) -> Vec<KnownMemberFile> {
    raft.status()
        .members
        .into_iter()
        .map(|member| {
            let known = KnownMember { id: member.id, info: member.info, voter: member.voter };
            KnownMemberFile::of(&known)
        })
        .collect()
}

/// Commits a command of the node's own, or of the operator on its machine. Tried again, under the
/// same request id, while no leader is known or its fate is open. Whoever proposes what belongs to a
/// feature level ([`level::needed`]) has looked that the cluster is there.
///
/// # Errors
/// The log's rejection, or that no leader could be reached in time.
pub async fn propose(raft: &Handle, body: Command) -> Result<Outcome, Failure> {
    propose_from(raft, String::new(), body).await
}

/// The same, for somebody at an address.
///
/// # Errors
/// As [`propose`].
pub async fn propose_from(
    raft: &Handle,
    client_ip: String,
    body: Command,
) -> Result<Outcome, Failure> {
    let envelope = envelope(Actor::Node, client_ip, body)?;
    match carry_out(raft, &envelope).await {
        Ok(outcome) => Ok(outcome),
        Err(ProposalFailure::Failed(failure)) => Err(failure),
        Err(ProposalFailure::Rejected(rejection)) => Err(Failure::new(Exit::Refused, rejection)),
    }
}

/// Commits a command of somebody else, as [`propose`] does, where the cluster's feature level allows it.
///
/// # Errors
/// [`ProposalFailure`].
pub async fn propose_as(
    core: &Core,
    actor: Actor,
    client_ip: String,
    body: Command,
) -> Result<Outcome, ProposalFailure> {
    let envelope = envelope(actor, client_ip, body)?;
    let (needed, present) = (level::needed(&envelope), core.state.read(|view| view.state.level()));
    if needed > present {
        let text = format!(
            "this takes feature level {needed}, and the cluster is at {present} until all its members \
             run a version that knows it: see `conclave cluster status`"
        );
        return Err(Failure::new(Exit::Unavailable, text).into());
    }
    carry_out(&core.raft, &envelope).await
}

/// Why a proposal came to nothing.
#[derive(Debug)]
pub enum ProposalFailure {
    /// The log refused it.
    Rejected(Rejection),
    /// It was not carried out, or nobody knows.
    Failed(Failure),
}

impl From<Failure> for ProposalFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ProposalFailure> for Failure {
    fn from(failure: ProposalFailure) -> Self {
        match failure {
            ProposalFailure::Rejected(rejection) => Self::new(Exit::Refused, rejection),
            ProposalFailure::Failed(failure) => failure,
        }
    }
}

fn envelope(actor: Actor, client_ip: String, body: Command) -> Result<Envelope, Failure> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).context(Exit::Fault, "randomness")?;
    let (request_id, at) = (RequestId(id), SystemClock.now());
    Ok(Envelope { request_id, actor, at, client_ip, body })
}

async fn carry_out(raft: &Handle, envelope: &Envelope) -> Result<Outcome, ProposalFailure> {
    let bytes = codec::encode(envelope);
    let deadline = Instant::now() + PROPOSE_DEADLINE;
    loop {
        let error = match raft.propose(bytes.clone()).await {
            Ok(committed) => {
                let reply = outcome::codec::decode(&committed.reply)
                    .context(Exit::Fault, "reply of the log")?;
                return reply.map_err(ProposalFailure::Rejected);
            }
            Err(error) => error,
        };
        let again = matches!(
            error,
            ProposeError::NoLeader { .. } | ProposeError::Unknown | ProposeError::Overloaded { .. }
        );
        if error == ProposeError::Forbidden {
            return Err(Failure::new(Exit::Refused, error).into());
        }
        if !again || Instant::now() >= deadline {
            return Err(Failure::new(Exit::Unavailable, error).into());
        }
        sleep(PROPOSE_PAUSE).await;
    }
}
