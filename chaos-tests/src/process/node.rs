//! One node's process: start, signal, stop. It dies with the harness, because it ends when its
//! standard input is closed.

use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use conclave::seed::SeedRole;

use super::shell::HarnessError;

/// How long a node may take to drain and end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to stop where it is.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at whether it has.
const FREEZE_LOOK: Duration = Duration::from_millis(1);
/// State of a thread that a signal has stopped.
const STOPPED: u8 = b'T';

/// What a node is, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name, such as `n1`.
    pub name: String,
    /// The part it plays.
    pub role: SeedRole,
    /// Where it listens, for clients and for peers.
    pub address: IpAddr,
    /// Its folder: configuration, master key, log file; and the data folder in it.
    pub folder: PathBuf,
    /// The network namespace it runs in, if any.
    pub namespace: Option<String>,
}

/// The TCP port of every node's API; nodes differ by address.
pub const API_PORT: u16 = 8443;
/// The UDP port of every node's peer endpoint.
pub const PEER_PORT: u16 = 7443;

impl Place {
    /// Its number in the network: the last part of its address.
    pub fn number(&self) -> u8 {
        match self.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        }
    }

    /// The node's configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("conclave.toml")
    }

    /// The node's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> PathBuf {
        // Beside the folder: it must outlive a power cut of the folder.
        self.folder.with_extension("log")
    }

    /// A `conclave` command line in the node's namespace.
    pub fn conclave(&self, program: &Program, args: &[&str]) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&program.path);
                command
            }
            None => Command::new(&program.path),
        };
        command.args(program.first_word).args(args).kill_on_drop(true);
        command
    }
}

/// What runs nodes and their commands.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// What makes it behave as `conclave`, where it is something else, too.
    first_word: Option<&'static str>,
}

impl Program {
    /// This very program.
    ///
    /// # Errors
    /// When the system does not say where it is.
    pub fn this() -> std::io::Result<Self> {
        Ok(Self { path: std::env::current_exe()?, first_word: Some("conclave") })
    }

    /// A `conclave` of any version.
    pub fn conclave(path: PathBuf) -> Self {
        Self { path, first_word: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A node that can be started and hurt.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub place: Place,
    /// Its id in the cluster, once it has one.
    pub id: u64,
    program: Program,
    child: Option<Child>,
    lives: u64,
}

impl Node {
    /// A node that has not been started.
    pub fn new(place: Place, program: Program) -> Self {
        Self { place, id: 0, program, child: None, lives: 0 }
    }

    /// From its next start on it is run by that program.
    pub fn run_by(&mut self, program: Program) {
        self.program = program;
    }

    /// How often it has been started.
    pub fn lives(&self) -> u64 {
        self.lives
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Starts the server. It may take a while until it answers.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&mut self) -> Result<(), HarnessError> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.place.log())?;
        let config = self.place.config();
        let config = config.to_string_lossy();
        let args = ["server", "--config", &config, "--end-with-stdin"];
        let child = self
            .place
            .conclave(&self.program, &args)
            .stdin(std::process::Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        self.lives += 1;
        Ok(())
    }

    /// Sends a signal to its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| HarnessError(format!("{} does not run", self.place.name)))?;
        kill_process(pid, signal).map_err(|error| HarnessError(error.to_string()))
    }

    /// Stops the process where it is: nothing leaves it any more, and a system call in progress does
    /// not return to it. It goes before a power cut, which ends everything at once: the kernel may
    /// tell a process that runs on that its fsync was done after the file system was shut down.
    ///
    /// # Errors
    /// When it does not run, or has not stopped in time.
    pub(super) async fn freeze(&self) -> Result<(), HarnessError> {
        self.signal(Signal::STOP)?;
        let pid = self.pid().unwrap_or_default();
        let deadline = Instant::now() + FREEZE_PATIENCE;
        // The first of its threads that stops has told all others to.
        while !threads(pid)?.contains(&STOPPED) {
            if Instant::now() > deadline {
                return Err(HarnessError(format!("{} did not freeze", self.place.name)));
            }
            sleep(FREEZE_LOOK).await;
        }
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<(), HarnessError> {
        self.signal(Signal::KILL)?;
        self.reap().await.map(drop)
    }

    /// SIGTERM, and waits until the process has drained and ended by itself.
    ///
    /// # Errors
    /// When it does not run or does not end in time; it is then killed.
    pub async fn stop(&mut self) -> Result<std::process::ExitStatus, HarnessError> {
        self.signal(Signal::TERM)?;
        self.reap().await
    }

    /// Waits until the process ends by itself; then it can be started again.
    ///
    /// # Errors
    /// When it does not run or does not end in time; it is then killed.
    pub async fn reap(&mut self) -> Result<std::process::ExitStatus, HarnessError> {
        let name = &self.place.name;
        let mut child =
            self.child.take().ok_or_else(|| HarnessError(format!("{name} does not run")))?;
        if let Ok(status) = timeout(STOP_PATIENCE, child.wait()).await {
            return Ok(status?);
        }
        child.kill().await?;
        Err(HarnessError(format!("{name} did not end within {STOP_PATIENCE:?}")))
    }

    /// Whether the process has ended without being asked to, and how.
    pub fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

/// The states of a process's threads, as the kernel letters them (proc(5)).
fn threads(pid: u32) -> Result<Vec<u8>, HarnessError> {
    let mut states = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(stat) = std::fs::read(thread?.path().join("stat")) else { continue };
        // The name before it stands in brackets, and may hold any byte.
        let name_end = stat.iter().rposition(|byte| *byte == b')').unwrap_or_default();
        states.extend(stat.get(name_end + 2));
    }
    Ok(states)
}

impl Drop for Node {
    fn drop(&mut self) {
        // The process must be gone before its file system and its namespace are taken down.
        let Some(mut child) = self.child.take() else { return };
        child.start_kill().ok();
        // Bounded: a process that was sent SIGKILL ends within milliseconds.
        for _ in 0..5_000 {
            if !matches!(child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}
