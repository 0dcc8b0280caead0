//! What a development cluster has on disk: a folder a node with its configuration, and `dev.json`
//! with ports and the admin's key, so that a second run with the same folder is the same cluster.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::client::settings::replace_private_file;
use crate::exit::{Context, Exit, Failure};
use crate::seed::SeedRole;

/// Ports used where the parent cannot ask the system for free ones: in network namespaces.
const PEER_PORT: u16 = 7443;
const API_PORT: u16 = 8443;
/// Token issuers and directories that one tries a development cluster with are on this machine.
const OUTBOUND: &str = "outbound_networks = [\"0.0.0.0/0\", \"::/0\"]\n";

/// Raft's times in a development cluster; none means the server's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Between heartbeats, in milliseconds.
    pub heartbeat_ms: Option<u64>,
    /// Shortest election time-out, in milliseconds.
    pub election_min_ms: Option<u64>,
    /// Longest election time-out, in milliseconds.
    pub election_max_ms: Option<u64>,
    /// Entries between snapshots.
    pub snapshot_every: Option<u64>,
}

/// One node's place: addresses and folders.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) role: SeedRole,
    pub(super) peer: SocketAddr,
    pub(super) api: SocketAddr,
    pub(super) home: PathBuf,
}

impl Place {
    pub(super) fn config(&self) -> PathBuf {
        self.home.join("conclave.toml")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.api)
    }

    /// Writes the node's configuration.
    pub(super) fn write_config(&self, names: &[String], timing: Timing) -> Result<(), Failure> {
        use std::fmt::Write as _;
        let mut text = format!(
            "[node]\nname = {}\ndata = \"data\"\nmaster_key_file = \"master.key\"\n\n\
             [peer]\nlisten = \"{}\"\n\n[api]\nlisten = \"{}\"\n{OUTBOUND}\n[tls]\nnames = {}\n\n[raft]\n",
            quoted(&self.name),
            self.peer,
            self.api,
            serde_json::to_string(names).context(Exit::Failed, "names")?,
        );
        let rows = [
            ("heartbeat_ms", timing.heartbeat_ms),
            ("election_min_ms", timing.election_min_ms),
            ("election_max_ms", timing.election_max_ms),
            ("snapshot_every", timing.snapshot_every),
        ];
        for (key, value) in rows {
            if let Some(value) = value {
                writeln!(text, "{key} = {value}").context(Exit::Failed, key)?;
            }
        }
        create_private_folder(&self.home)?;
        replace_private_file(&self.config(), text.as_bytes())
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Makes a folder, and those above it, for its owner only.
pub(super) fn create_private_folder(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(Exit::Configuration, path.display())
}

/// `dev.json`: what has to be the same in the next run.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    pub(super) account: String,
    pub(super) admin_key: Option<String>,
    pub(super) places: Vec<Place>,
    /// How many of `places` have been founded or have joined.
    pub(super) joined: usize,
    pub(super) policy_loaded: bool,
}

impl Layout {
    fn path(folder: &Path) -> PathBuf {
        folder.join("dev.json")
    }

    /// Reads the layout of an earlier run, where there was one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = Self::path(folder);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).context(
                Exit::Configuration,
                format!("{} is not of this program; use another --data", path.display()),
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(Exit::Configuration, path.display()),
        }
    }

    /// Keeps the layout; it holds the admin's key, so only its owner may read it.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let text = zeroize::Zeroizing::new(
            serde_json::to_vec_pretty(self).context(Exit::Failed, "dev.json")?,
        );
        replace_private_file(&Self::path(folder), &text)
    }
}

/// Finds addresses for `binds`, all different: free ports on loopback, fixed ones elsewhere.
pub(super) fn free_addresses(binds: &[IpAddr]) -> Result<Vec<(SocketAddr, SocketAddr)>, Failure> {
    // Every socket stays open until all are found, or two nodes would be given the same port.
    let mut held = Vec::new();
    let mut found = Vec::new();
    for &bind in binds {
        if bind.is_loopback() {
            let tcp = TcpListener::bind((bind, 0)).context(Exit::Failed, "no free TCP port")?;
            let udp = UdpSocket::bind((bind, 0)).context(Exit::Failed, "no free UDP port")?;
            let api = tcp.local_addr().context(Exit::Failed, "port")?;
            let peer = udp.local_addr().context(Exit::Failed, "port")?;
            found.push((peer, api));
            held.push((tcp, udp));
        } else {
            found.push((SocketAddr::new(bind, PEER_PORT), SocketAddr::new(bind, API_PORT)));
        }
    }
    drop(held);
    Ok(found)
}
