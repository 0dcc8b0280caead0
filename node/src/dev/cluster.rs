//! [`DevCluster`]: starts, watches, kills and restarts the nodes of a cluster on this machine. The
//! nodes are told to end when their standard input closes, so they cannot outlive this process.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

use super::layout::{Layout, Place, Timing, create_private_folder, free_addresses};
use crate::admin::client as admin;
use crate::admin::protocol::{Request, StateHash, Status};
use crate::client::settings::replace_private_file;
use crate::exit::{Context, Exit, Failure};
use crate::seed::SeedRole;

/// How long a node may take from its start to its first answer.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a cluster may take to have every member in its part.
const ASSEMBLE_DEADLINE: Duration = Duration::from_mins(1);
/// How long nodes may take to end when they are asked to, before they are killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How often a starting node is asked whether it is there.
const POLL: Duration = Duration::from_millis(20);
/// How long a running node may take to say where it stands.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Life of the seeds that are used at once.
const SEED_LIFE_S: u32 = 600;

/// How to start this program again: itself, with what must come before its own arguments.
#[derive(Debug, Clone)]
pub struct Reexec {
    /// The program.
    pub program: PathBuf,
    /// Arguments that make it behave as `conclave`.
    pub prefix_args: Vec<OsString>,
}

impl Reexec {
    /// The running program, with `prefix_args` in front. The path goes through `/proc`, so a rebuild
    /// that replaces the file does not change what the nodes run.
    pub fn current(prefix_args: Vec<OsString>) -> Self {
        let pid = std::process::id();
        Self { program: PathBuf::from(format!("/proc/{pid}/exe")), prefix_args }
    }
}

/// One node to be.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The part it plays. The first node must be a voter.
    pub role: SeedRole,
    /// Address to bind; other than loopback the ports are fixed.
    pub bind: IpAddr,
    /// What to start it through, such as `ip netns exec n1`.
    pub command_prefix: Vec<OsString>,
    /// Its own folder; without it, a folder of its name in the cluster's.
    pub home: Option<PathBuf>,
}

impl NodeOptions {
    /// A node on loopback.
    pub fn loopback(name: impl Into<String>, role: SeedRole) -> Self {
        Self {
            name: name.into(),
            role,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            command_prefix: Vec::new(),
            home: None,
        }
    }
}

/// A cluster to be.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Where to keep everything; none for a temporary folder that goes with the cluster.
    pub folder: Option<PathBuf>,
    /// The nodes, the founding voter first.
    pub nodes: Vec<NodeOptions>,
    /// The account to create.
    pub account: String,
    /// How to start nodes.
    pub reexec: Reexec,
    /// Times of elections and snapshots.
    pub timing: Timing,
    /// Environment variables for the nodes, beside those of this process.
    pub environment: Vec<(OsString, OsString)>,
}

impl ClusterOptions {
    /// `voters` and `followers` on loopback: `n1`…, `f1`….
    pub fn loopback(voters: u8, followers: u8, reexec: Reexec) -> Self {
        let nodes = (1..=voters)
            .map(|number| NodeOptions::loopback(format!("n{number}"), SeedRole::Voter))
            .chain(
                (1..=followers)
                    .map(|number| NodeOptions::loopback(format!("f{number}"), SeedRole::Follower)),
            )
            .collect();
        Self {
            folder: None,
            nodes,
            account: "dev".to_owned(),
            reexec,
            timing: Timing::default(),
            environment: Vec::new(),
        }
    }
}

/// A node as `nodes.json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshot {
    /// Its name.
    pub name: String,
    /// `voter` or `follower`.
    pub role: SeedRole,
    /// `leader`, `standby`, `follower`…, or `down`.
    pub part: String,
    /// Its process id; none while it is down.
    pub pid: Option<u32>,
    /// URL of its API.
    pub url: String,
    /// Its data folder.
    pub data_folder: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

struct Node {
    place: Place,
    command_prefix: Vec<OsString>,
    child: Mutex<Option<Child>>,
}

/// A running cluster. Dropping it kills the nodes; [`DevCluster::stop`] ends them in good order.
pub struct DevCluster {
    folder: PathBuf,
    /// Keeps a second cluster off the folder for as long as it is open.
    _lock: std::fs::File,
    temporary: Option<TempDir>,
    nodes: Vec<Arc<Node>>,
    reexec: Reexec,
    environment: Vec<(OsString, OsString)>,
    layout: Mutex<Layout>,
    account: String,
    admin_key: String,
}

impl DevCluster {
    /// Starts a cluster, or starts the one that `options.folder` holds again. On return every node
    /// serves, plays its part, and knows a leader.
    ///
    /// # Errors
    /// When a node does not start; its log is quoted.
    pub async fn start(options: ClusterOptions) -> Result<Self, Failure> {
        let (folder, temporary) = if let Some(folder) = &options.folder {
            create_private_folder(folder)?;
            let folder =
                std::fs::canonicalize(folder).context(Exit::Configuration, folder.display())?;
            (folder, None)
        } else {
            let temporary = tempfile::Builder::new()
                .prefix("conclave-dev-")
                .tempdir()
                .context(Exit::Failed, "no temporary folder")?;
            (temporary.path().to_owned(), Some(temporary))
        };
        let lock = lock(&folder)?;
        let layout = match Layout::read(&folder)? {
            Some(layout) => same_nodes(layout, &options)?,
            None => lay_out(&folder, &options)?,
        };
        let nodes = layout
            .places
            .iter()
            .zip(&options.nodes)
            .map(|(place, node)| {
                Arc::new(Node {
                    place: place.clone(),
                    command_prefix: node.command_prefix.clone(),
                    child: Mutex::new(None),
                })
            })
            .collect();
        let mut cluster = Self {
            folder,
            _lock: lock,
            temporary,
            nodes,
            reexec: options.reexec,
            environment: options.environment,
            account: layout.account.clone(),
            admin_key: layout.admin_key.clone().unwrap_or_default(),
            layout: Mutex::new(layout),
        };
        cluster.assemble().await?;
        cluster.write_nodes_file().await?;
        Ok(cluster)
    }

    async fn assemble(&mut self) -> Result<(), Failure> {
        let joined = self.layout().joined;
        if joined == 0 {
            self.found().await?;
        }
        let joined = self.layout().joined;
        for index in 0..joined {
            self.launch(index)?;
        }
        for index in 0..joined {
            self.wait_started(index).await?;
        }
        for index in joined..self.nodes.len() {
            self.join(index).await?;
        }
        self.wait_assembled().await
    }

    /// Founds the cluster with the first node, and creates the account.
    async fn found(&mut self) -> Result<(), Failure> {
        let account = self.account.clone();
        let args = ["cluster", "init", "--output", "json", "--account", &account, "--config"];
        let out = self.run_to_end(0, &args, &[self.nodes[0].place.config()]).await?;
        let founded: crate::bootstrap::Founded =
            serde_json::from_slice(&out).context(Exit::Failed, "answer of `cluster init`")?;
        let key = founded
            .account
            .map(|account| account.api_key)
            .ok_or_else(|| Failure::new(Exit::Failed, "`cluster init` created no account"))?;
        let root = crate::folder::Folder::new(&self.nodes[0].place.data()).root_certificate();
        std::fs::copy(root, self.cert_file()).context(Exit::Failed, "root certificate")?;
        self.admin_key.clone_from(&key);
        let mut layout = self.layout();
        layout.admin_key = Some(key);
        layout.joined = 1;
        layout.write(&self.folder)
    }

    /// Lets node `index` join and starts it.
    async fn join(&self, index: usize) -> Result<(), Failure> {
        let place = &self.nodes[index].place;
        let seed = place.home.join("join.seed");
        // Clients reach a follower under the names of loopback before its own address is known.
        let names = match place.role {
            SeedRole::Voter => Vec::new(),
            SeedRole::Follower => ["localhost", "127.0.0.1"].map(str::to_owned).to_vec(),
        };
        let founder = self.nodes[0].place.data();
        let request = Request::Seed {
            name: place.name.clone(),
            role: place.role,
            life_s: SEED_LIFE_S,
            group: None,
            names,
            cidr: Vec::new(),
        };
        let issued = admin::seed(&founder, &request).await?;
        issued.write(&seed)?;
        let args = ["cluster", "join", "--output", "json"];
        let config = OsString::from("--config");
        let rest = [config.into(), place.config(), "--seed".into(), seed.clone()];
        let joined = self.run_to_end(index, &args, &rest).await;
        std::fs::remove_file(&seed).context(Exit::Failed, "seed")?;
        joined?;
        self.launch(index)?;
        self.wait_started(index).await?;
        let mut layout = self.layout();
        layout.joined = index + 1;
        layout.write(&self.folder)
    }

    /// Waits until the log's members are all there, voters vote, and every node knows the leader.
    async fn wait_assembled(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + ASSEMBLE_DEADLINE;
        let mut last = String::new();
        while Instant::now() < deadline {
            match self.assembled().await {
                Ok(None) => return Ok(()),
                Ok(Some(missing)) => last = missing,
                Err(failure) => last = failure.message,
            }
            self.fail_if_dead()?;
            sleep(POLL).await;
        }
        Err(Failure::new(
            Exit::Unavailable,
            format!("the cluster did not assemble within {ASSEMBLE_DEADLINE:?}: {last}"),
        ))
    }

    /// What is missing before the cluster is whole.
    async fn assembled(&self) -> Result<Option<String>, Failure> {
        let mut leaders = Vec::new();
        for index in 0..self.nodes.len() {
            let status = self.status(index).await?;
            if status.members.len() != self.nodes.len() {
                return Ok(Some(format!(
                    "{} knows {} members of {}",
                    status.name,
                    status.members.len(),
                    self.nodes.len()
                )));
            }
            for member in &status.members {
                if member.votes != (member.role == SeedRole::Voter) {
                    return Ok(Some(format!("{} does not vote yet", member.name)));
                }
            }
            if status.sealed {
                return Ok(Some(format!("{} has no keyring yet", status.name)));
            }
            leaders.push(status.leader);
        }
        let first = leaders.first().copied().flatten();
        if first.is_none() || leaders.iter().any(|leader| *leader != first) {
            return Ok(Some("not all nodes know the same leader".to_owned()));
        }
        Ok(None)
    }

    fn fail_if_dead(&self) -> Result<(), Failure> {
        for (index, node) in self.nodes.iter().enumerate() {
            if self.pid(index).is_none() {
                return Err(died(node));
            }
        }
        Ok(())
    }

    /// Starts the process of node `index`, if it is not running.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn launch(&self, index: usize) -> Result<(), Failure> {
        if self.pid(index).is_some() {
            return Ok(());
        }
        let node = &self.nodes[index];
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(node.place.log())
            .context(Exit::Failed, node.place.log().display())?;
        let mut command = self.command(index);
        command
            .args(["server", "--end-with-stdin", "--config"])
            .arg(node.place.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C in a terminal goes to this process only, which then ends the nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().context(Exit::Failed, "cannot start a node")?;
        *node.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    fn command(&self, index: usize) -> Command {
        let mut words: Vec<OsString> = self.nodes[index].command_prefix.clone();
        words.push(self.reexec.program.clone().into_os_string());
        words.extend(self.reexec.prefix_args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().cloned());
        command
    }

    /// Runs a short command of node `index` and gives its standard output.
    async fn run_to_end(
        &self,
        index: usize,
        args: &[&str],
        rest: &[PathBuf],
    ) -> Result<Vec<u8>, Failure> {
        let mut command = self.command(index);
        command.args(args).args(rest).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context(Exit::Failed, "cannot start a node")?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Failure::new(
            Exit::Failed,
            format!(
                "`conclave {}` of node {} failed: {}",
                args.join(" "),
                self.nodes[index].place.name,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        ))
    }

    async fn wait_started(&self, index: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(Ok(_)) = timeout_at(deadline, self.status(index)).await {
                return Ok(());
            }
            if self.pid(index).is_none() || Instant::now() >= deadline {
                return Err(died(&self.nodes[index]));
            }
            sleep(POLL).await;
        }
    }

    /// Where node `index` says it stands.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, index: usize) -> Result<Status, Failure> {
        admin::status(&self.nodes[index].place.data()).await
    }

    /// Digest of what node `index` has applied.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn state_hash(&self, index: usize) -> Result<StateHash, Failure> {
        admin::state_hash(&self.nodes[index].place.data()).await
    }

    /// The node that leads, asked of every node; the highest term counts.
    pub async fn leader(&self) -> Option<usize> {
        let mut found: Option<(u64, String)> = None;
        for index in 0..self.nodes.len() {
            if self.pid(index).is_none() {
                continue;
            }
            let Ok(Ok(status)) =
                tokio::time::timeout(Duration::from_millis(500), self.status(index)).await
            else {
                continue;
            };
            if status.part == "leader" && found.as_ref().is_none_or(|(term, _)| *term < status.term)
            {
                found = Some((status.term, status.name));
            }
        }
        let (_, name) = found?;
        self.nodes.iter().position(|node| node.place.name == name)
    }

    /// The process id of node `index`, while it runs.
    pub fn pid(&self, index: usize) -> Option<u32> {
        let mut child = self.nodes[index].child.lock().unwrap_or_else(PoisonError::into_inner);
        let running = child.as_mut()?;
        if let Ok(None) = running.try_wait() {
            return running.id();
        }
        *child = None;
        None
    }

    /// Sends a signal to node `index`.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<(), Failure> {
        let pid = self
            .pid(index)
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("{} is not running", self.name(index)))
        })?;
        kill_process(pid, signal).context(Exit::Failed, "signal")
    }

    /// Kills node `index` as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn kill(&self, index: usize) -> Result<(), Failure> {
        self.signal(index, Signal::KILL)?;
        self.wait_gone(index, STOP_DEADLINE).await;
        Ok(())
    }

    /// Starts node `index` again, ending it first where it still runs, and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_node(&self, index: usize) -> Result<(), Failure> {
        if self.pid(index).is_some() {
            self.signal(index, Signal::TERM)?;
            if !self.wait_gone(index, STOP_DEADLINE).await {
                self.kill(index).await?;
            }
        }
        self.launch(index)?;
        self.wait_started(index).await
    }

    async fn wait_gone(&self, index: usize, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while self.pid(index).is_some() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// The nodes, with part and pid as they are now.
    pub async fn nodes(&self) -> Vec<NodeSnapshot> {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let pid = self.pid(index);
            let status = self.status(index);
            let part = if pid.is_none() {
                "down".to_owned()
            } else if let Ok(Ok(status)) = tokio::time::timeout(ANSWER_DEADLINE, status).await {
                status.part
            } else {
                "starting".to_owned()
            };
            nodes.push(NodeSnapshot {
                name: node.place.name.clone(),
                role: node.place.role,
                part,
                pid,
                url: node.place.url(),
                data_folder: node.place.data(),
                log: node.place.log(),
            });
        }
        nodes
    }

    /// Writes `nodes.json` anew, in one step.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn write_nodes_file(&self) -> Result<Vec<NodeSnapshot>, Failure> {
        let nodes = self.nodes().await;
        let text = serde_json::to_vec_pretty(&nodes).context(Exit::Failed, "nodes.json")?;
        replace_private_file(&self.folder.join("nodes.json"), &text)?;
        Ok(nodes)
    }

    /// Ends all nodes, all at once, and waits for them. Nodes that do not end are killed.
    pub async fn stop(mut self) {
        for node in &self.nodes {
            // Closing standard input asks for a stop without a hand-over of leadership.
            let mut child = node.child.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(child) = child.as_mut() {
                drop(child.stdin.take());
            }
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        for index in 0..self.nodes.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.wait_gone(index, left).await {
                tracing::warn!(node = self.name(index), "did not end in time; killing it");
                if let Err(failure) = self.kill(index).await {
                    tracing::debug!(%failure, "it ended meanwhile");
                }
            }
        }
        if let Some(temporary) = self.temporary.take()
            && let Err(error) = temporary.close()
        {
            tracing::warn!(%error, "cannot remove the temporary folder");
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none; never so.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The folder that everything is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// PEM file with the root to trust.
    pub fn cert_file(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    /// The account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// API key of the account's `admin`.
    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// Name of node `index`.
    pub fn name(&self, index: usize) -> &str {
        &self.nodes[index].place.name
    }

    /// URL of node `index`'s API.
    pub fn url(&self, index: usize) -> String {
        self.nodes[index].place.url()
    }

    /// Data folder of node `index`.
    pub fn data_folder(&self, index: usize) -> PathBuf {
        self.nodes[index].place.data()
    }

    /// Log file of node `index`.
    pub fn log_file(&self, index: usize) -> PathBuf {
        self.nodes[index].place.log()
    }

    pub(super) fn policy_loaded(&self) -> bool {
        self.layout().policy_loaded
    }

    pub(super) fn keep_policy_loaded(&self) -> Result<(), Failure> {
        let mut layout = self.layout();
        layout.policy_loaded = true;
        layout.write(&self.folder)
    }

    fn layout(&self) -> std::sync::MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the folder for this process.
fn lock(folder: &Path) -> Result<std::fs::File, Failure> {
    let path = folder.join("dev.lock");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .context(Exit::Configuration, path.display())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Configuration,
            format!(
                "{} is in use by another `conclave dev`; stop that one, or choose another --data",
                folder.display()
            ),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(error).context(Exit::Fault, path.display()),
    }
}

/// An earlier run's layout, if it is of the same nodes; their configuration is written anew, so
/// that other timing or a moved folder takes effect.
fn same_nodes(mut layout: Layout, options: &ClusterOptions) -> Result<Layout, Failure> {
    let before: Vec<_> = layout.places.iter().map(|place| (&place.name, place.role)).collect();
    let now: Vec<_> = options.nodes.iter().map(|node| (&node.name, node.role)).collect();
    if before != now {
        let count = |role| before.iter().filter(|(_, of)| *of == role).count();
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "the folder holds a cluster of {} voters and {} followers; \
                 ask for the same, or use another folder",
                count(SeedRole::Voter),
                count(SeedRole::Follower)
            ),
        ));
    }
    if let Some(folder) = &options.folder {
        let folder =
            std::fs::canonicalize(folder).context(Exit::Configuration, folder.display())?;
        for (place, node) in layout.places.iter_mut().zip(&options.nodes) {
            place.home = node.home.clone().unwrap_or_else(|| folder.join(&place.name));
        }
    }
    let names = names_of(&layout.places);
    for place in &layout.places {
        place.write_config(&names, options.timing)?;
    }
    Ok(layout)
}

fn lay_out(folder: &Path, options: &ClusterOptions) -> Result<Layout, Failure> {
    if options.nodes.first().is_none_or(|node| node.role != SeedRole::Voter) {
        return Err(Failure::new(Exit::Usage, "the first node must be a voter"));
    }
    let binds: Vec<IpAddr> = options.nodes.iter().map(|node| node.bind).collect();
    let places: Vec<Place> = options
        .nodes
        .iter()
        .zip(free_addresses(&binds)?)
        .map(|(node, (peer, api))| Place {
            name: node.name.clone(),
            role: node.role,
            peer,
            api,
            home: node.home.clone().unwrap_or_else(|| folder.join(&node.name)),
        })
        .collect();
    let names = names_of(&places);
    for place in &places {
        place.write_config(&names, options.timing)?;
    }
    let layout = Layout {
        account: options.account.clone(),
        admin_key: None,
        places,
        joined: 0,
        policy_loaded: false,
    };
    layout.write(folder)?;
    Ok(layout)
}

/// What the cluster certificate names: loopback, and every address in use.
fn names_of(places: &[Place]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for place in places {
        let address = place.api.ip().to_string();
        if !names.contains(&address) {
            names.push(address);
        }
    }
    names
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// What is said of a node that ended by itself.
fn died(node: &Node) -> Failure {
    Failure::new(
        Exit::Failed,
        format!(
            "node {} ended; the end of {}:\n{}",
            node.place.name,
            node.place.log().display(),
            tail(&node.place.log())
        ),
    )
}
