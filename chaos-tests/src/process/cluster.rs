//! A whole cluster of real nodes, founded through the public command line: `cluster init`,
//! `cluster seed`, `cluster join`, `server`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave::admin::client as admin;
use conclave::admin::protocol::{Request, Status};
use conclave::folder::Folder;
use conclave::seed::SeedRole;
use futures::future::join_all;
use rustix::process::Signal;
use rustls::client::WantsClientCert;
use rustls::{ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::time::{Instant, sleep, timeout};

use super::authority::Issued;
use super::balancer::{Balancer, Setup};
use super::directory::Directory;
use super::disk::Disk;
use super::network::Network;
use super::node::{API_PORT, Node, PEER_PORT, Place, Program};
use super::shell::HarnessError;
use crate::checker::convergence::Holding;
use crate::client::{Answer, Asked, Door, Login};
use crate::history::Promise;
use crate::workload::Target;

/// The account that drills use.
pub const ACCOUNT: &str = "chaos";
/// The name in the cluster certificate.
const TLS_NAME: &str = "conclave.test";
/// How long the leader may take to do what a drill needs, tries included.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// Entries that a node may be behind under load.
const ALMOST_LEVEL: u64 = 200;
/// The balancer's number in the network.
const BALANCER: u8 = 200;
/// The directory's, and its TCP port.
const DIRECTORY: u8 = 201;
const DIRECTORY_PORT: u16 = 1636;
/// How long a cluster may take to be healthy after a fault has ended.
pub const HEALTH_PATIENCE: Duration = Duration::from_mins(1);
/// How long members may take until they have applied the same, and the pause between two looks.
const LEVEL_PATIENCE: Duration = Duration::from_secs(15);
const LEVEL_POLL: Duration = Duration::from_millis(100);
/// How long a node may take to say where it stands. A paused one says nothing.
const STATUS_PATIENCE: Duration = Duration::from_millis(400);
/// Between two looks at a condition that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Where nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Footing {
    /// On loopback addresses, data in plain folders.
    Loopback,
    /// Each in a network namespace; see [`Network`].
    Namespaces,
    /// On loopback addresses, data on a file system of its own each; see [`Disk`].
    OwnDisks,
}

/// What cluster to found.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many nodes vote.
    pub voters: u8,
    /// How many nodes follow.
    pub followers: u8,
    /// Entries between two snapshots. Small, so that snapshots and purges really happen.
    pub snapshot_every: u64,
    /// Where they run.
    pub footing: Footing,
    /// More of the part `api` of every node's configuration file.
    pub api: &'static str,
    /// More of that file.
    pub settings: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            voters: 3,
            followers: 1,
            snapshot_every: 500,
            footing: Footing::Loopback,
            api: "",
            settings: "",
        }
    }
}

/// A cluster of real nodes. Dropping it ends the nodes, then undoes mounts and namespaces.
pub struct Cluster {
    // Order matters: fields are dropped from first to last.
    /// The nodes, voters first.
    pub nodes: Vec<Node>,
    /// Their disks, where they have disks of their own; by position in `nodes`.
    pub disks: Vec<Disk>,
    /// Their network, where they have one of their own.
    pub network: Option<Network>,
    /// The administrator of [`ACCOUNT`].
    pub login: Arc<Login>,
    /// By position in `nodes`.
    doors: Vec<Arc<Door>>,
    shape: Shape,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Founds a cluster and waits until it is healthy.
    ///
    /// # Errors
    /// When any step fails; with what the step said.
    pub async fn found(shape: Shape) -> Result<Self, HarnessError> {
        Self::found_with(shape, Program::this()?).await
    }

    /// The same, of nodes that are run by that program.
    ///
    /// # Errors
    /// As [`Self::found`].
    pub async fn found_with(shape: Shape, program: Program) -> Result<Self, HarnessError> {
        let folder = tempfile::Builder::new().prefix("conclave-chaos-").tempdir()?;
        let count = shape.voters + shape.followers;
        let network = match shape.footing {
            Footing::Namespaces => Some(Network::create(count)?),
            Footing::Loopback | Footing::OwnDisks => None,
        };
        let mut cluster = Self {
            nodes: Vec::new(),
            disks: Vec::new(),
            network,
            login: Arc::new(Login::new(ACCOUNT, "admin", "")),
            doors: Vec::new(),
            shape,
            folder,
        };
        for number in 1..=count {
            let role = if number <= shape.voters { SeedRole::Voter } else { SeedRole::Follower };
            let place = cluster.place(number, role);
            std::fs::create_dir_all(&place.folder)?;
            if shape.footing == Footing::OwnDisks {
                cluster.disks.push(Disk::create(&place.folder)?);
            }
            write_durably(&place.config(), &configuration(&place, shape))?;
            cluster.nodes.push(Node::new(place, program.clone()));
        }
        cluster.init(&program).await?;
        for number in 1..cluster.nodes.len() {
            cluster.join(number, &program).await?;
        }
        cluster.wait_healthy().await?;
        Ok(cluster)
    }

    fn place(&self, number: u8, role: SeedRole) -> Place {
        let name = format!("n{number}");
        let folder = self.folder.path().join(&name);
        let namespace = self.network.as_ref().map(|network| network.namespace(number));
        Place { name, role, address: self.address(number), folder, namespace }
    }

    /// Founds the cluster on the first node and starts it.
    async fn init(&mut self, program: &Program) -> Result<(), HarnessError> {
        let place = &self.nodes[0].place;
        let config = place.config();
        let config = config.to_string_lossy();
        let init =
            ["--output", "json", "cluster", "init", "--config", &config, "--account", ACCOUNT];
        let said = conclave(place, program, &init).await?;
        let said: serde_json::Value = serde_json::from_str(&said)
            .map_err(|error| HarnessError(format!("cluster init said {said:?}: {error}")))?;
        let api_key = find_text(&said, "api_key")
            .ok_or_else(|| HarnessError(format!("cluster init gave no API key: {said}")))?;
        self.login = Arc::new(Login::new(ACCOUNT, "admin", api_key));
        self.nodes[0].start()?;
        self.wait_for("the first node to lead", |statuses| {
            statuses.iter().flatten().any(|status| status.part == "leader")
        })
        .await?;
        Ok(())
    }

    /// Lets one node join, starts it, and waits until it plays its part.
    async fn join(&mut self, number: usize, program: &Program) -> Result<(), HarnessError> {
        let place = self.nodes[number].place.clone();
        let founder = self.nodes[0].place.data();
        if self.doors.is_empty() {
            let roots = Folder::new(&founder).root_pem()?;
            let tls = tls_client(&roots)?;
            for (id, node) in (1_u64..).zip(&self.nodes) {
                // Placeholder ids: doors get those from the log in `learn_ids`.
                self.doors.push(Arc::new(door(id, node.place.address, &tls)?));
            }
        }
        admit(&place, program, &founder).await?;
        let (name, votes) = (place.name.clone(), place.role == SeedRole::Voter);
        self.nodes[number].start()?;
        self.wait_for("a joining node to play its part", |statuses| {
            statuses.iter().flatten().filter(|status| status.part == "leader").any(|status| {
                status.members.iter().any(|member| member.name == name && member.votes == votes)
            })
        })
        .await?;
        Ok(())
    }

    /// Makes room for one more node, which has yet to join and to be started; its position. The
    /// number is its place in the network, which a node that has left may have had before.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(&mut self, number: u8, name: &str, role: SeedRole) -> Result<usize, HarnessError> {
        if let Some(network) = &mut self.network {
            network.add(number)?;
        }
        let place = Place { name: name.to_owned(), ..self.place(number, role) };
        let place = Place { folder: self.folder.path().join(name), ..place };
        std::fs::create_dir_all(&place.folder)?;
        write_durably(&place.config(), &configuration(&place, self.shape))?;
        let address = SocketAddr::new(place.address, API_PORT);
        self.doors.push(Arc::new(self.door(0)?.elsewhere(0, address)));
        self.nodes.push(Node::new(place, Program::this()?));
        Ok(self.nodes.len() - 1)
    }

    /// Forgets a node that has left; its process ends.
    pub fn forget(&mut self, position: usize) {
        let node = self.nodes.remove(position);
        self.doors.remove(position);
        let folder = node.place.folder.clone();
        drop(node);
        // What it held is of no use to anybody.
        std::fs::remove_dir_all(folder).ok();
    }

    /// Where each node says it stands; none for those that do not answer.
    pub async fn statuses(&self) -> Vec<Option<Status>> {
        join_all(self.nodes.iter().map(|node| status(node.place.data()))).await
    }

    /// Waits until the statuses fulfil a condition.
    ///
    /// # Errors
    /// When they do not within [`HEALTH_PATIENCE`]; with what they were last.
    pub async fn wait_for(
        &self,
        what: &str,
        condition: impl Fn(&[Option<Status>]) -> bool,
    ) -> Result<Vec<Option<Status>>, HarnessError> {
        let start = Instant::now();
        loop {
            let statuses = self.statuses().await;
            if condition(&statuses) {
                return Ok(statuses);
            }
            if start.elapsed() > HEALTH_PATIENCE {
                let mut text = format!("waited {HEALTH_PATIENCE:?} in vain for {what}:");
                for (node, status) in self.nodes.iter().zip(&statuses) {
                    let log = tail(&node.place.log());
                    write!(
                        text,
                        "\n{}: {}; log ends: {log}",
                        node.place.name,
                        brief(status.as_ref())
                    )
                    .map_err(|error| HarnessError(error.to_string()))?;
                }
                return Err(HarnessError(text));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Cuts a node's power: the process stops where it is, its disk takes nothing more, and then it is
    /// killed. It still has to be reaped, and its disk's power restored.
    ///
    /// # Errors
    /// When it does not run, or the disk cannot be cut.
    pub async fn cut_power(&self, at: usize) -> Result<(), HarnessError> {
        self.nodes[at].freeze().await?;
        self.disks[at].cut_power()?;
        self.nodes[at].signal(Signal::KILL)
    }

    /// Waits until all nodes run and agree on one leader, play their parts, and have applied the
    /// same. Learns the nodes' ids on the way.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub async fn wait_healthy(&mut self) -> Result<Vec<Status>, HarnessError> {
        let is_voter = |node: &&Node| node.place.role == SeedRole::Voter;
        let voters = self.nodes.iter().filter(is_voter).count();
        let is_healthy = |statuses: &[Option<Status>]| {
            let known: Vec<&Status> = statuses.iter().flatten().collect();
            let Some(leader) = known.iter().find(|status| status.part == "leader") else {
                return false;
            };
            known.len() == statuses.len()
                && leader.members.iter().filter(|member| member.votes).count() == voters
                && known.iter().all(|status| {
                    status.leader == Some(leader.node_id)
                        && status.term == leader.term
                        && status.applied == leader.last_log
                })
        };
        let statuses = self.wait_for("a healthy cluster", is_healthy).await?;
        let statuses: Vec<Status> = statuses.into_iter().flatten().collect();
        self.learn_ids(&statuses);
        Ok(statuses)
    }

    /// Waits until all nodes run, agree on one leader and are not far behind it, while requests go on.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub async fn wait_healthy_under_load(&self) -> Result<(), HarnessError> {
        let is_healthy = |statuses: &[Option<Status>]| {
            let known: Vec<&Status> = statuses.iter().flatten().collect();
            let Some(leader) = known.iter().find(|status| status.part == "leader") else {
                return false;
            };
            known.len() == statuses.len()
                && known.iter().all(|status| {
                    status.leader == Some(leader.node_id)
                        && status.term == leader.term
                        && status.applied + ALMOST_LEVEL >= leader.last_log
                })
        };
        self.wait_for("a cluster that is almost level", is_healthy).await.map(drop)
    }

    /// Replaces placeholder ids by those that the log gave.
    fn learn_ids(&mut self, statuses: &[Status]) {
        for ((node, door), status) in self.nodes.iter_mut().zip(&mut self.doors).zip(statuses) {
            if node.id != status.node_id {
                node.id = status.node_id;
                *door = Arc::new(door.renamed(status.node_id));
            }
        }
    }

    /// Waits until some node leads, the one named excepted, and gives its position.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub async fn wait_leader(&self, except: Option<usize>) -> Result<usize, HarnessError> {
        let leads = |(at, status): (usize, &Option<Status>)| {
            Some(at) != except && status.as_ref().is_some_and(|status| status.part == "leader")
        };
        let find = |statuses: &[Option<Status>]| statuses.iter().enumerate().position(leads);
        let statuses = self.wait_for("a leader", |statuses| find(statuses).is_some()).await?;
        find(&statuses).ok_or_else(|| HarnessError::new("the leader went"))
    }

    /// The door of the node at a position.
    ///
    /// # Errors
    /// Before the cluster is founded.
    pub fn door(&self, position: usize) -> Result<Arc<Door>, HarnessError> {
        self.doors.get(position).cloned().ok_or_else(|| HarnessError::new("no such node"))
    }

    /// A door of its own to the node at a position, for a client that trusts these roots (PEM).
    ///
    /// # Errors
    /// When the roots cannot be read, or there is no such node.
    pub fn door_trusting(&self, position: usize, roots_pem: &str) -> Result<Door, HarnessError> {
        let node = self.nodes.get(position).ok_or_else(|| HarnessError::new("no such node"))?;
        door(node.id, node.place.address, &tls_client(roots_pem)?)
    }

    /// Starts HAProxy before the voters, and waits until it holds all of them to be up.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn balancer(&mut self) -> Result<Balancer, HarnessError> {
        let numbers: Vec<u8> =
            self.nodes[self.voters()].iter().map(|node| node.place.number()).collect();
        self.balancer_of(&numbers).await
    }

    /// The same for voters with those numbers in the network, some of which may be yet to come.
    ///
    /// # Errors
    /// As [`Self::balancer`].
    pub async fn balancer_of(&mut self, numbers: &[u8]) -> Result<Balancer, HarnessError> {
        if let Some(network) = &mut self.network {
            network.add(BALANCER)?;
        }
        let at = |number| SocketAddr::new(self.address(number), API_PORT);
        let voters: Vec<SocketAddr> = numbers.iter().map(|number| at(*number)).collect();
        let balancer = Balancer::start(&Setup {
            folder: self.folder.path(),
            listen: at(BALANCER),
            namespace: self.network.as_ref().map(|network| network.namespace(BALANCER)),
            root_certificate: Folder::new(&self.nodes[0].place.data()).root_certificate(),
            name: TLS_NAME,
            voters: &voters,
        })?;
        balancer.wait_up(self.voters().len(), HEALTH_PATIENCE).await?;
        Ok(balancer)
    }

    /// Starts a directory, where nodes reach it that are cut off from their peers, too.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn directory(&mut self) -> Result<Directory, HarnessError> {
        if let Some(network) = &mut self.network {
            network.add(DIRECTORY)?;
        }
        let namespace = self.network.as_ref().map(|network| network.namespace(DIRECTORY));
        let listen = SocketAddr::new(self.address(DIRECTORY), DIRECTORY_PORT);
        Directory::start(listen, namespace.as_deref()).await
    }

    /// What a client connects by that shows a certificate.
    ///
    /// # Errors
    /// When the cluster's root, the certificate or its key cannot be read.
    pub fn tls_showing(&self, shown: &Issued) -> Result<Arc<rustls::ClientConfig>, HarnessError> {
        let fail = |error: &dyn std::fmt::Display| HarnessError(format!("certificate: {error}"));
        let roots = Folder::new(&self.nodes[0].place.data()).root_pem()?;
        let leaf = CertificateDer::from_pem_file(&shown.certificate).map_err(|e| fail(&e))?;
        let key = PrivateKeyDer::from_pem_file(&shown.key).map_err(|error| fail(&error))?;
        let config = trusting(&roots)?.with_client_auth_cert(vec![leaf], key);
        config.map(Arc::new).map_err(|error| fail(&error))
    }

    fn address(&self, number: u8) -> IpAddr {
        self.network.as_ref().map_or_else(|| loopback(number), |network| network.address(number))
    }

    /// The numbers of all nodes in the network.
    pub fn numbers(&self) -> Vec<u8> {
        self.nodes.iter().map(|node| node.place.number()).collect()
    }

    /// All nodes as targets of a load, in order.
    ///
    /// # Errors
    /// Before the cluster is founded.
    pub fn targets(&self) -> Result<Vec<Target>, HarnessError> {
        let target = |(at, node): (usize, &Node)| {
            let promise = match node.place.role {
                SeedRole::Voter => Promise::Linearizable,
                SeedRole::Follower => Promise::Prefix,
            };
            Ok(Target { door: self.door(at)?, promise })
        };
        self.nodes.iter().enumerate().map(target).collect()
    }

    /// The nodes' network.
    ///
    /// # Errors
    /// When they have none of their own.
    pub fn network(&self) -> Result<&Network, HarnessError> {
        self.network.as_ref().ok_or_else(|| HarnessError::new("no network of its own"))
    }

    /// Position of the first follower.
    pub fn follower(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.place.role == SeedRole::Follower)
    }

    /// Positions of the voters.
    pub fn voters(&self) -> std::ops::Range<usize> {
        0..usize::from(self.shape.voters)
    }

    /// Gets the administrator a fresh access token.
    ///
    /// # Errors
    /// What the leader answered.
    pub async fn log_in(&self) -> Result<(), HarnessError> {
        let token = self.ask_leader("login", || self.login.authenticate()).await?;
        self.login.keep(&token);
        Ok(())
    }

    /// Gets a fresh access token, and declares variables of those names, owned by the root policy.
    ///
    /// # Errors
    /// What the leader answered.
    pub async fn declare(&self, names: &[Arc<str>]) -> Result<(), HarnessError> {
        self.log_in().await?;
        let mut text = String::with_capacity(names.len() * 24);
        for name in names {
            text.push_str("- !variable ");
            text.push_str(name);
            text.push('\n');
        }
        let load = || self.login.append_policy(text.clone());
        self.ask_leader("policy load", load).await.map(drop)
    }

    /// Asks whoever leads until it answers with a 2xx; for what may be done twice.
    ///
    /// # Errors
    /// What was answered last, when none comes in time.
    pub async fn ask_leader(
        &self,
        what: &str,
        asked: impl Fn() -> Asked,
    ) -> Result<Answer, HarnessError> {
        let start = Instant::now();
        loop {
            let leader = self.door(self.wait_leader(None).await?)?;
            let failure = match leader.ask(asked()).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => answer.words(),
                Err(error) => error.to_string(),
            };
            if start.elapsed() > ANSWER_PATIENCE {
                return Err(HarnessError(format!("{what}: {failure}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What each node holds, once all have applied the same: records of what was asked last are still
    /// on their way into the audit chain. After a while as it is.
    ///
    /// # Errors
    /// When a node does not say.
    pub async fn holdings(&self) -> Result<Vec<Holding>, HarnessError> {
        let deadline = Instant::now() + LEVEL_PATIENCE;
        loop {
            let holdings = self.holdings_now().await?;
            let first = holdings.first().map(|holding| holding.applied);
            let are_level = holdings.iter().all(|holding| Some(holding.applied) == first);
            if are_level || Instant::now() >= deadline {
                return Ok(holdings);
            }
            sleep(LEVEL_POLL).await;
        }
    }

    async fn holdings_now(&self) -> Result<Vec<Holding>, HarnessError> {
        let mut holdings = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let hash = admin::state_hash(&node.place.data()).await?;
            let state_hash = unhex(&hash.state_hash)
                .ok_or_else(|| HarnessError(format!("no state hash: {}", hash.state_hash)))?;
            holdings.push(Holding { node: hash.node_id, applied: hash.applied, state_hash });
        }
        Ok(holdings)
    }

    /// Lines of the nodes' logs that tell of a panic.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let log = std::fs::read(node.place.log()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let panics = log.lines().filter(|line| line.contains("panicked at"));
            found.extend(panics.map(|line| format!("{}: {line}", node.place.name)));
        }
        found
    }

    /// Keeps the folder, with the logs of all nodes, for a look afterwards.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

/// Issues a seed at the member whose data folder is given, and lets a node join with it. A seed that
/// is there from an earlier try is tried first: its join may have happened, unheard of.
///
/// # Errors
/// What the cluster or the node said; it may be tried again.
pub async fn admit(place: &Place, program: &Program, member: &Path) -> Result<(), HarnessError> {
    let file = place.folder.join("seed");
    let is_old = file.exists();
    if !is_old {
        let names = match place.role {
            SeedRole::Voter => Vec::new(),
            SeedRole::Follower => vec![TLS_NAME.to_owned()],
        };
        let request = Request::Seed {
            name: place.name.clone(),
            role: place.role,
            life_s: 600,
            group: None,
            names,
            cidr: Vec::new(),
        };
        admin::seed(member, &request).await?.write(&file)?;
    }
    let (config, seed) = (place.config(), file.to_string_lossy().into_owned());
    let config = config.to_string_lossy();
    let join = ["cluster", "join", "--config", &config, "--seed", &seed];
    let joined = conclave(place, program, &join).await.map(drop);
    if joined.is_err() && is_old {
        std::fs::remove_file(&file)?;
    }
    joined
}

/// Where the node with that data folder says it stands.
pub async fn status(data: PathBuf) -> Option<Status> {
    timeout(STATUS_PATIENCE, admin::status(&data)).await.ok()?.ok()
}

/// A loopback address that differs by node and by harness process.
fn loopback(number: u8) -> IpAddr {
    let pid = std::process::id();
    let byte = |shift: u32| u8::try_from((pid >> shift) & 0x7f).unwrap_or(0);
    Ipv4Addr::new(127, 64 + (byte(7) & 0x3f), byte(0) + 1, number).into()
}

/// Writes a file that a power cut must not take: that is tried on what the nodes write.
fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn configuration(place: &Place, shape: Shape) -> String {
    let Place { name, address, folder, .. } = place;
    let folder = folder.display();
    format!(
        "[node]\nname = \"{name}\"\ndata = \"{folder}/data\"\nmaster_key_file = \"{folder}/master.key\"\n\n\
         [peer]\nlisten = \"{address}:{PEER_PORT}\"\n\n\
         [api]\nlisten = \"{address}:{API_PORT}\"\n{}\n\
         [tls]\nnames = [\"{TLS_NAME}\"]\n\n\
         [raft]\nsnapshot_every = {}\n{}",
        shape.api, shape.snapshot_every, shape.settings
    )
}

/// Runs a `conclave` command of a node to its end; what it printed.
///
/// # Errors
/// When it fails; with what it said.
pub async fn conclave(
    place: &Place,
    program: &Program,
    args: &[&str],
) -> Result<String, HarnessError> {
    let output = place.conclave(program, args).stdin(std::process::Stdio::null()).output().await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(HarnessError(format!("conclave {}: {}: {}", args.join(" "), output.status, said.trim())))
}

fn door(id: u64, address: IpAddr, tls: &Arc<rustls::ClientConfig>) -> Result<Door, HarnessError> {
    let name = ServerName::try_from(TLS_NAME).map_err(|error| HarnessError(error.to_string()))?;
    Ok(Door::new(id, SocketAddr::new(address, API_PORT), name, Arc::clone(tls)))
}

fn tls_client(root_pem: &str) -> Result<Arc<rustls::ClientConfig>, HarnessError> {
    Ok(Arc::new(trusting(root_pem)?.with_no_client_auth()))
}

fn trusting(
    root_pem: &str,
) -> Result<ConfigBuilder<rustls::ClientConfig, WantsClientCert>, HarnessError> {
    let fail = |error: &dyn std::fmt::Display| HarnessError(format!("the cluster's root: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(root_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| fail(&error))?).map_err(|error| fail(&error))?;
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots))
}

/// The first text under that key, however deep.
fn find_text<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a str> {
    match value {
        serde_json::Value::Object(fields) => fields
            .get(key)
            .and_then(serde_json::Value::as_str)
            .or_else(|| fields.values().find_map(|value| find_text(value, key))),
        serde_json::Value::Array(items) => items.iter().find_map(|item| find_text(item, key)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => None,
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn brief(status: Option<&Status>) -> String {
    status.map_or_else(
        || "no answer".to_owned(),
        |status| {
            format!(
                "{} in term {}, leader {:?}, last log {}, applied {}",
                status.part, status.term, status.leader, status.last_log, status.applied
            )
        },
    )
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
