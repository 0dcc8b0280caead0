//! HAProxy before the voters, with the file that operators get: `node/deploy/haproxy/voters.cfg`.
//! Debian's package; installed where it is missing.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::shell::{HarnessError, provide, tied};

/// The file as it is deployed.
const VOTERS: &str = include_str!("../../../node/deploy/haproxy/voters.cfg");
/// How many voters that file is for.
const VOTERS_NAMED: usize = 3;
/// Between two looks at what it says of its servers.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What a balancer is told.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Where it keeps its files.
    pub folder: &'a Path,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The network namespace that it runs in, if any.
    pub namespace: Option<String>,
    /// The roots that it trusts, in a file.
    pub root_certificate: PathBuf,
    /// The name that voters show a certificate for.
    pub name: &'a str,
    /// Where the voters listen.
    pub voters: &'a [SocketAddr],
}

/// A running HAProxy. It ends when this is dropped.
#[derive(Debug)]
pub struct Balancer {
    _process: Child,
    socket: PathBuf,
    log: PathBuf,
    listen: SocketAddr,
}

impl Balancer {
    /// Starts it. It may take a while until it listens.
    ///
    /// # Errors
    /// When HAProxy is missing and cannot be had, or cannot be started.
    pub fn start(setup: &Setup<'_>) -> Result<Self, HarnessError> {
        let program = provide("haproxy")?;
        let (file, more) = (setup.folder.join("voters.cfg"), setup.folder.join("admin.cfg"));
        let socket = setup.folder.join("haproxy.sock");
        let log = setup.folder.join("haproxy.log");
        let mut text = VOTERS.to_owned();
        for number in VOTERS_NAMED + 1..=setup.voters.len() {
            // Writing to a String does not fail.
            let _infallible = writeln!(text, "    server n{number} \"${{N{number}}}\"");
        }
        std::fs::write(&file, text)?;
        let stats = format!("global\n    stats socket {} mode 600 level user\n", socket.display());
        std::fs::write(&more, stats)?;
        let output = File::create(&log)?;
        let mut command = tied(&program, setup.namespace.as_deref());
        command
            .args(["-db", "-f"])
            .arg(&file)
            .arg("-f")
            .arg(&more)
            .env("BIND", setup.listen.to_string())
            .env("CLUSTER_CA", &setup.root_certificate)
            .env("CLUSTER_NAME", setup.name)
            .stdout(output.try_clone()?)
            .stderr(output);
        for (number, voter) in (1_usize..).zip(setup.voters) {
            command.env(format!("N{number}"), voter.to_string());
        }
        let process = command.spawn()?;
        Ok(Self { _process: process, socket, log, listen: setup.listen })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Waits until it holds so many of its servers to be up.
    ///
    /// # Errors
    /// When it does not in time; with what it says.
    pub async fn wait_up(&self, servers: usize, patience: Duration) -> Result<(), HarnessError> {
        let start = Instant::now();
        loop {
            let states = self.states().await.unwrap_or_default();
            let up = states.iter().filter(|(_, state)| state.starts_with("UP")).count();
            if up >= servers {
                return Ok(());
            }
            if start.elapsed() > patience {
                let log = std::fs::read(&self.log).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(HarnessError(format!(
                    "HAProxy holds {up} of {servers} servers to be up after {patience:?}: \
                     {states:?}; its log ends, last line first: {end:?}"
                )));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until it does not hold that server to be up any more.
    ///
    /// # Errors
    /// When it does for longer than that.
    pub async fn wait_gone(&self, server: &str, patience: Duration) -> Result<(), HarnessError> {
        let start = Instant::now();
        loop {
            let states = self.states().await?;
            if !states.iter().any(|(name, state)| name == server && state.starts_with("UP")) {
                return Ok(());
            }
            if start.elapsed() > patience {
                let text = format!("HAProxy still holds {server} to be up after {patience:?}");
                return Err(HarnessError(text));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What it holds of each server.
    async fn states(&self) -> std::io::Result<Vec<(String, String)>> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(b"show stat voters 4 -1\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default().trim_start_matches("# ");
        let column = |name: &str| head.split(',').position(|column| column == name);
        let (Some(name), Some(state)) = (column("svname"), column("status")) else {
            return Ok(Vec::new());
        };
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            Some(((*fields.get(name)?).to_owned(), (*fields.get(state)?).to_owned()))
        };
        Ok(lines.filter_map(row).collect())
    }
}
