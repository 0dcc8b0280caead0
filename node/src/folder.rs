//! A node's data folder as the process sees it: who the node is (`node.json`), its own keys, its
//! certificates. Private keys rest sealed under the master key; what the stores keep is theirs.
//!
//! ```text
//! node.json          who this node is, and the members it knew when it joined
//! unfinished         only while the folder is being set up: what lies here was promised to nobody
//! recovering         only while the node is made another cluster's first: that cluster's id
//! node.key           Ed25519 key, sealed          root.key            the cluster's root key, sealed
//! tls/root.pem       roots of the authority       tls/cluster.pem     what this node presents
//! tls/cluster.key    what this node presents with its key, sealed: one file, so that both change as one
//! ```

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use conclave_raft::{KnownMember, NodeInfo, NodeKey, NodeRole};
use conclave_storage::seal::{MasterKey, RootKey, Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::certificates::Issued;
use crate::exit::{Context, Exit, Failure};
use crate::seed::SeedRole;

/// The version of `node.json` that this program writes; others are refused.
const NODE_VERSION: u32 = 1;
/// Lies in a folder that is being set up.
const UNFINISHED: &str = "unfinished";
/// Lies in a folder whose node is being made another cluster's first.
const RECOVERING: &str = "recovering";
/// What sealed files are sealed for.
const NODE_KEY_LABEL: &str = "node key";
const CLUSTER_KEY_LABEL: &str = "cluster certificate and key";
/// Where the certificates begin in what is sealed.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// `node.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    version: u32,
    /// The cluster, 32 hex digits.
    pub cluster_id: String,
    /// This node's id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// The part it plays.
    pub role: SeedRole,
    /// The members at the time of joining: whom to believe before the log says so itself.
    pub known_members: Vec<KnownMemberFile>,
}

/// A member as another member described it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownMemberFile {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The part it plays.
    pub role: SeedRole,
    /// Whether it votes.
    pub votes: bool,
    /// Public half of its node key, hex.
    pub node_key: String,
    /// Where it speaks to its peers.
    pub peer_address: String,
    /// URL of its API.
    pub api_url: String,
}

impl NodeFile {
    /// The file of a new node.
    pub fn new(
        cluster_id: String,
        node_id: u64,
        name: String,
        role: SeedRole,
        known_members: Vec<KnownMemberFile>,
    ) -> Self {
        Self { version: NODE_VERSION, cluster_id, node_id, name, role, known_members }
    }
}

impl KnownMemberFile {
    /// Describes a member.
    pub fn of(member: &KnownMember) -> Self {
        let info = &member.info;
        Self {
            id: member.id,
            name: info.name.clone(),
            role: match info.role {
                NodeRole::Voter => SeedRole::Voter,
                NodeRole::Follower => SeedRole::Follower,
            },
            votes: member.voter,
            node_key: hex(&info.node_key),
            peer_address: info.peer_address.clone(),
            api_url: info.api_url.clone(),
        }
    }

    /// The member described; none when the key is no key.
    pub fn to_known(&self) -> Option<KnownMember> {
        Some(KnownMember {
            id: self.id,
            info: NodeInfo {
                name: self.name.clone(),
                role: node_role(self.role),
                node_key: unhex(&self.node_key)?,
                peer_address: self.peer_address.clone(),
                api_url: self.api_url.clone(),
            },
            voter: self.votes,
        })
    }
}

/// The part a member plays, in Raft's words.
pub fn node_role(role: SeedRole) -> NodeRole {
    match role {
        SeedRole::Voter => NodeRole::Voter,
        SeedRole::Follower => NodeRole::Follower,
    }
}

/// The paths of a data folder, and the node's own files in it.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `root`; nothing is read or made yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// PEM file with the root of the authority: what clients trust.
    pub fn root_certificate(&self) -> PathBuf {
        self.tls("root.pem")
    }

    /// Whether a node has been set up here.
    pub fn is_set_up(&self) -> bool {
        self.node_json().exists()
    }

    /// Reads `node.json`.
    ///
    /// # Errors
    /// When it is absent, of another version, or damaged.
    pub fn read_node(&self) -> Result<NodeFile, Failure> {
        let path = self.node_json();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::new(
                    Exit::Configuration,
                    format!(
                        "{} is not set up; run `conclave cluster init` or `conclave cluster join`",
                        self.root.display()
                    ),
                ));
            }
            other => other.context(Exit::Fault, path.display())?,
        };
        let node: NodeFile = serde_json::from_str(&text).context(Exit::Fault, path.display())?;
        if node.version != NODE_VERSION {
            return Err(Failure::new(
                Exit::Fault,
                format!(
                    "{} has version {}, this program knows {NODE_VERSION}; start a newer version",
                    path.display(),
                    node.version
                ),
            ));
        }
        Ok(node)
    }

    /// Writes `node.json`: the last step of setting a node up.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_node(&self, node: &NodeFile) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(node).context(Exit::Failed, "node.json")?;
        // Every other name is durable before the one that makes a node.
        sync_folder(&self.root.join("tls"))?;
        sync_folder(&self.root)?;
        create(&self.node_json(), &text)?;
        sync_folder(&self.root)?;
        self.forget_setup();
        Ok(())
    }

    /// Writes down that this node leaves its cluster to be the first of another, from which there is no
    /// way back; answers that cluster's id: the one given, or that of an attempt that was cut short.
    ///
    /// # Errors
    /// When it cannot be written, or what was written is no id.
    pub fn begin_recovery(&self, cluster_id: &str) -> Result<String, Failure> {
        if let Some(begun) = self.recovery_begun()? {
            return Ok(begun);
        }
        replace(&self.root.join(RECOVERING), cluster_id.as_bytes())?;
        sync_folder(&self.root)?;
        Ok(cluster_id.to_owned())
    }

    /// The cluster that this node was being made the first of when that was cut short.
    ///
    /// # Errors
    /// When it cannot be read, or is no id.
    pub fn recovery_begun(&self) -> Result<Option<String>, Failure> {
        let path = self.root.join(RECOVERING);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Ok(id) if unhex::<16>(&id).is_some() => Ok(Some(id)),
            Ok(_) => {
                Err(Failure::new(Exit::Fault, format!("{}: it names no cluster", path.display())))
            }
            Err(error) => Err(error).context(Exit::Fault, path.display()),
        }
    }

    /// Refuses to run a node that is on its way to be the first of another cluster.
    ///
    /// # Errors
    /// With what to do.
    pub fn refuse_half_recovered(&self) -> Result<(), Failure> {
        if self.recovery_begun()?.is_none() {
            return Ok(());
        }
        let text = format!(
            "{} is between two clusters: `conclave cluster recover` did not come to its end; run it \
             again",
            self.root.display()
        );
        Err(Failure::new(Exit::Configuration, text))
    }

    /// Makes this node the first of another cluster: the last step of a recovery.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end_recovery(&self, node: &NodeFile) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(node).context(Exit::Failed, "node.json")?;
        replace(&self.node_json(), &text)?;
        sync_folder(&self.root)?;
        let path = self.root.join(RECOVERING);
        std::fs::remove_file(&path).context(Exit::Fault, path.display())?;
        sync_folder(&self.root)
    }

    /// Takes an empty folder, or one whose set-up did not come to its end, for a new node.
    ///
    /// # Errors
    /// When something else lies there, a node that has lost its `node.json` included.
    pub fn begin_setup(&self) -> Result<(), Failure> {
        let data = self.root.display();
        if self.root.join(UNFINISHED).exists() {
            std::fs::remove_dir_all(&self.root).context(Exit::Configuration, data)?;
        } else if self.root.join("node.key").exists() {
            let text = format!(
                "{data} holds a node whose node.json is missing; restore that file from a backup, \
                 or choose another node.data"
            );
            return Err(Failure::new(Exit::Configuration, text));
        } else if std::fs::read_dir(&self.root).is_ok_and(|mut found| found.next().is_some()) {
            let text = format!("{data} is not empty and holds no node; choose another node.data");
            return Err(Failure::new(Exit::Configuration, text));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .context(Exit::Configuration, self.root.display())?;
        create(&self.root.join(UNFINISHED), b"")?;
        sync_folder(&self.root)
    }

    /// Forgets that the folder was being set up; a crash may have come between that and its end.
    pub fn forget_setup(&self) {
        match std::fs::remove_file(self.root.join(UNFINISHED)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "node.setup: the mark of an unfinished set-up stays");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Keeps the keys and certificates of a new node.
    ///
    /// # Errors
    /// When they cannot be sealed or written.
    pub fn write_keys(
        &self,
        master: &MasterKey,
        node_key_pkcs8: Vec<u8>,
        root_key: &RootKey,
        root_pem: &str,
        cluster: &Issued,
    ) -> Result<(), Failure> {
        let sealed = master
            .seal(NODE_KEY_LABEL, &Secret::new(node_key_pkcs8))
            .context(Exit::Fault, "node key")?;
        create(&self.root.join("node.key"), &sealed)?;
        let sealed = root_key.wrap(master).context(Exit::Fault, "root key")?;
        create(&self.root.join("root.key"), &sealed)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.root.join("tls"))
            .context(Exit::Fault, "tls folder")?;
        self.replace_certificates(master, root_pem, cluster)
    }

    /// Keeps other roots, and another certificate to present. Each file changes at once or not at
    /// all, the roots first: what is presented hangs on them.
    ///
    /// # Errors
    /// When they cannot be sealed or written.
    pub fn replace_certificates(
        &self,
        master: &MasterKey,
        roots_pem: &str,
        cluster: &Issued,
    ) -> Result<(), Failure> {
        let both = Zeroizing::new([cluster.key_pem.as_str(), &cluster.certificate_pem].concat());
        let sealed = master
            .seal(CLUSTER_KEY_LABEL, &Secret::new(both.as_bytes().to_vec()))
            .context(Exit::Fault, CLUSTER_KEY_LABEL)?;
        replace(&self.tls("root.pem"), roots_pem.as_bytes())?;
        replace(&self.tls("cluster.key"), &sealed)?;
        replace(&self.tls("cluster.pem"), cluster.certificate_pem.as_bytes())?;
        sync_folder(&self.root.join("tls"))
    }

    /// The node's own key.
    ///
    /// # Errors
    /// When it is absent, or sealed under another master key.
    pub fn node_key(&self, master: &MasterKey) -> Result<NodeKey, Failure> {
        let path = self.root.join("node.key");
        let sealed = std::fs::read(&path).context(Exit::Fault, path.display())?;
        let opened = master.open(NODE_KEY_LABEL, &sealed).context(Exit::Fault, path.display())?;
        NodeKey::from_pkcs8(opened.expose_secret()).context(Exit::Fault, path.display())
    }

    /// The cluster's root key.
    ///
    /// # Errors
    /// When it is absent, or sealed under another master key.
    pub fn root_key(&self, master: &MasterKey) -> Result<RootKey, Failure> {
        let path = self.root.join("root.key");
        let wrapped = std::fs::read(&path).context(Exit::Fault, path.display())?;
        RootKey::unwrap(&wrapped, master).context(Exit::Fault, path.display())
    }

    /// The roots that are trusted, PEM.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn root_pem(&self) -> Result<String, Failure> {
        let path = self.root_certificate();
        std::fs::read_to_string(&path).context(Exit::Fault, path.display())
    }

    /// What this node presents, with its key.
    ///
    /// # Errors
    /// When they are absent, or sealed under another master key.
    pub fn cluster_certificate(&self, master: &MasterKey) -> Result<Issued, Failure> {
        let path = self.tls("cluster.key");
        let sealed = std::fs::read(&path).context(Exit::Fault, path.display())?;
        let opened =
            master.open(CLUSTER_KEY_LABEL, &sealed).context(Exit::Fault, path.display())?;
        let both =
            std::str::from_utf8(opened.expose_secret()).context(Exit::Fault, path.display())?;
        let start = both.find(CERTIFICATE).ok_or_else(|| {
            Failure::new(Exit::Fault, format!("{} holds no certificate", path.display()))
        })?;
        let (key_pem, certificate_pem) = both.split_at(start);
        Ok(Issued {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
        })
    }

    fn node_json(&self) -> PathBuf {
        self.root.join("node.json")
    }

    fn tls(&self, name: &str) -> PathBuf {
        self.root.join("tls").join(name)
    }
}

/// Writes a private file durably. A set-up that was cut short is begun again, so an earlier one
/// is replaced; `node.json`, written last, is what makes a node.
fn create(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context(Exit::Fault, path.display())
}

/// Puts a private file in the place of another, durably.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let beside = path.with_extension("new");
    create(&beside, bytes)?;
    std::fs::rename(&beside, path).context(Exit::Fault, path.display())
}

fn sync_folder(path: &Path) -> Result<(), Failure> {
    std::fs::File::open(path)
        .and_then(|folder| folder.sync_all())
        .context(Exit::Fault, path.display())
}

/// Opens the node's master key; makes it when `create` is set and there is none.
///
/// # Errors
/// When it is absent, open to others, or no key.
pub fn master_key(path: &Path, create: bool) -> Result<MasterKey, Failure> {
    if create && !path.exists() {
        return MasterKey::create(path).context(Exit::Configuration, "master key");
    }
    MasterKey::load(path).context(Exit::Fault, "master key")
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads what [`hex`] wrote, when it has exactly the length wanted.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_reads_back() {
        assert_eq!(unhex(&hex(&[0, 1, 254, 255])), Some([0, 1, 254, 255]));
        assert_eq!(unhex::<2>("00g1"), None);
        assert_eq!(unhex::<2>("00ff0"), None);
        assert_eq!(unhex::<2>("0é1"), None);
    }
}
