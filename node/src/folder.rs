//! A node's data folder as the process sees it: who the node is (`node.json`), its own keys, its
//! certificates. Private keys rest sealed under the master key; what the stores keep is theirs.
//!
//! ```text
//! node.json          who this node is, and the members it knew when it joined
//! unfinished         only while the folder is being set up: what lies here was promised to nobody
//! recovering         only while the node is made another cluster's first: that cluster's id
//! node.key           Ed25519 key, sealed          root.key            the cluster's root key, sealed
//! unseal.json        how the master key is come by; without it, from a file
//! rewrap, rewrapped  only while all that is sealed is being put under another master key
//! tls/root.pem       roots of the authority       tls/cluster.pem     what this node presents
//! tls/cluster.key    what this node presents with its key, sealed: one file, so that both change as one
//! ```

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use conclave_raft::{KnownMember, NodeInfo, NodeKey, NodeRole};
use conclave_storage::Fault;
use conclave_storage::seal::{MasterKey, RootKey, Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::certificates::Issued;
use crate::exit::{Context, Exit, Failure};
use crate::seed::SeedRole;
use crate::unseal::{Sealing, Unreadable};

/// The version of `node.json` that this program writes; others are refused.
const NODE_VERSION: u32 = 1;
/// Lies in a folder that is being set up.
const UNFINISHED: &str = "unfinished";
/// Lies in a folder whose node is being made another cluster's first.
const RECOVERING: &str = "recovering";
/// What sealed files are sealed for.
const NODE_KEY_LABEL: &str = "node key";
const CLUSTER_KEY_LABEL: &str = "cluster certificate and key";
/// How the folder is sealed.
const SEALING: &str = "unseal.json";
/// Where all that is sealed is sealed anew, and the name it takes once that is complete.
const REWRAP: &str = "rewrap";
const REWRAPPED: &str = "rewrapped";
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

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
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
                let data = self.root.display();
                let text = if self.root.join(UNFINISHED).exists() {
                    format!(
                        "{data} was being set up, and that did not come to its end: run the same command \
                         again (`conclave cluster init`, `conclave cluster join` or `conclave restore`)"
                    )
                } else {
                    format!(
                        "{data} is not set up; run `conclave cluster init` or `conclave cluster join`"
                    )
                };
                return Err(Failure::new(Exit::Configuration, text));
            }
            other => other.context(Exit::Fault, path.display())?,
        };
        let node: NodeFile = serde_json::from_str(&text).map_err(|error| damaged(&path, &error))?;
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
        self.forget_recovery()
    }

    /// Forgets that the node was being made the first of another cluster: it is.
    ///
    /// # Errors
    /// When the mark of it cannot be removed.
    pub fn forget_recovery(&self) -> Result<(), Failure> {
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
            return self.clear_setup();
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

    /// Removes what an unfinished set-up has left, but for the mark of it: cut off, this too is known again.
    fn clear_setup(&self) -> Result<(), Failure> {
        for entry in
            std::fs::read_dir(&self.root).context(Exit::Configuration, self.root.display())?
        {
            let entry = entry.context(Exit::Configuration, self.root.display())?;
            if entry.file_name() == UNFINISHED {
                continue;
            }
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            let removed = if is_folder {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.context(Exit::Configuration, path.display())?;
        }
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
        (master, sealing): (&MasterKey, &Sealing),
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
        let sealing = serde_json::to_vec_pretty(sealing).context(Exit::Failed, SEALING)?;
        create(&self.root.join(SEALING), &sealing)?;
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

    /// How the folder is sealed.
    ///
    /// # Errors
    /// When `unseal.json` is damaged, or of another version.
    pub fn sealing(&self) -> Result<Sealing, Failure> {
        let path = self.root.join(SEALING);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sealing::by_key()),
            read => {
                let text = read.context(Exit::Fault, path.display())?;
                Sealing::parse(&text).map_err(|why| match why {
                    Unreadable::Damaged(detail) => damaged(&path, &detail),
                    Unreadable::Version(_) => {
                        Failure::new(Exit::Fault, format!("{}: {why}", path.display()))
                    }
                })
            }
        }
    }

    /// Makes sure that a master key is this folder's.
    ///
    /// # Errors
    /// When another one sealed it: which, and what to do about the secret that led to this one.
    pub fn check_master_key(&self, master: &MasterKey, by: &str) -> Result<(), Failure> {
        let Err(error) = self.root_key(master) else { return Ok(()) };
        let hint = match by {
            "passphrase" => "; that is not the passphrase of this node",
            "pkcs11" => "; that is not the HSM, or not the key in it, of this node",
            _ => "",
        };
        Err(Failure::new(error.exit, format!("{}{hint}", error.message)))
    }

    /// Puts all that is sealed here under another master key. After a crash at any moment either the old
    /// one opens all of it, or the new one does.
    ///
    /// # Errors
    /// When something does not open or cannot be written.
    pub fn reseal(
        &self,
        old: &MasterKey,
        new: &MasterKey,
        sealing: &Sealing,
    ) -> Result<(), Failure> {
        self.reseal_in_steps(old, new, sealing, &mut || Ok(()))
    }

    /// `step` is called before each change of the folder; tests end the process there.
    fn reseal_in_steps(
        &self,
        old: &MasterKey,
        new: &MasterKey,
        sealing: &Sealing,
        step: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let stage = self.root.join(REWRAP);
        self.forget_stage()?;
        step()?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&stage)
            .context(Exit::Fault, stage.display())?;
        for (place, label) in self.sealed_files() {
            step()?;
            let sealed = std::fs::read(&place).context(Exit::Fault, place.display())?;
            let opened = old.open(label, &sealed).context(Exit::Fault, place.display())?;
            let sealed = new.seal(label, &opened).context(Exit::Fault, label)?;
            create(&stage.join(file_name(&place)), &sealed)?;
        }
        step()?;
        let text = serde_json::to_vec_pretty(sealing).context(Exit::Failed, SEALING)?;
        create(&stage.join(SEALING), &text)?;
        sync_folder(&stage)?;
        step()?;
        // From here on the new master key counts.
        let complete = self.root.join(REWRAPPED);
        std::fs::rename(&stage, &complete).context(Exit::Fault, complete.display())?;
        sync_folder(&self.root)?;
        self.finish_in_steps(step)
    }

    /// Brings to its end what a crash has cut short: what was sealed anew in whole takes its place, what
    /// was not is forgotten.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish_resealing(&self) -> Result<(), Failure> {
        self.forget_stage()?;
        self.finish_in_steps(&mut || Ok(()))
    }

    fn finish_in_steps(
        &self,
        step: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let complete = self.root.join(REWRAPPED);
        if !complete.exists() {
            return Ok(());
        }
        let mut places: Vec<PathBuf> =
            self.sealed_files().into_iter().map(|(place, _)| place).collect();
        places.push(self.root.join(SEALING));
        for place in places {
            step()?;
            let sealed = complete.join(file_name(&place));
            match std::fs::rename(&sealed, &place) {
                // It is in its place already.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed.context(Exit::Fault, place.display())?,
            }
        }
        sync_folder(&self.root.join("tls"))?;
        sync_folder(&self.root)?;
        step()?;
        std::fs::remove_dir(&complete).context(Exit::Fault, complete.display())?;
        sync_folder(&self.root)
    }

    fn forget_stage(&self) -> Result<(), Failure> {
        let stage = self.root.join(REWRAP);
        match std::fs::remove_dir_all(&stage) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(Exit::Fault, stage.display())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All that lies here under the master key, and what it is sealed for.
    fn sealed_files(&self) -> [(PathBuf, &'static str); 3] {
        [
            (self.root.join("node.key"), NODE_KEY_LABEL),
            (self.root.join("root.key"), RootKey::LABEL),
            (self.tls("cluster.key"), CLUSTER_KEY_LABEL),
        ]
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

fn file_name(path: &Path) -> &std::ffi::OsStr {
    path.file_name().unwrap_or_default()
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

/// The refusal of a file that cannot be read: what is wrong with it, and what to do.
fn damaged(path: &Path, detail: &dyn std::fmt::Display) -> Failure {
    let what = path.display().to_string();
    Failure::new(Exit::Fault, Fault::corrupt(what, detail.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_refused_with_what_to_do() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        let damaged = [folder.node_json(), place.path().join(SEALING)];
        for path in &damaged {
            std::fs::write(path, "{\"version\"z 1}").unwrap();
        }
        let refused = [folder.read_node().err(), folder.sealing().err()];
        for (refusal, path) in refused.into_iter().zip(damaged) {
            let text = refusal.unwrap().to_string();
            let file = path.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(file) && text.contains("is damaged"), "{text}");
            assert!(text.contains("join it again"), "{text}");
        }
    }

    fn set_up(root: &Path, master: &MasterKey) -> Folder {
        let folder = Folder::new(root);
        let issued =
            Issued { certificate_pem: CERTIFICATE.to_owned(), key_pem: Zeroizing::default() };
        let (_, pkcs8) = NodeKey::generate().unwrap();
        let root_key = RootKey::generate().unwrap();
        folder.write_keys((master, &Sealing::by_key()), pkcs8, &root_key, "", &issued).unwrap();
        folder
    }

    fn opens(folder: &Folder, master: &MasterKey) -> bool {
        let opened = [
            folder.root_key(master).is_ok(),
            folder.node_key(master).is_ok(),
            folder.cluster_certificate(master).is_ok(),
        ];
        assert!(opened.iter().all(|one| *one == opened[0]), "half of it opens: {opened:?}");
        opened[0]
    }

    #[test]
    fn a_crash_while_everything_is_sealed_anew_leaves_one_key_that_opens_it() {
        let key = |byte| MasterKey::from_secret(&Secret::new(vec![byte; 32])).unwrap();
        let (old, new) = (key(1), key(2));
        let other =
            Sealing::parse(r#"{"version":1,"way":{"by":"pkcs11","wrapped":"00"}}"#).unwrap();
        let mut outcomes = Vec::new();
        for end in 0.. {
            let place = tempfile::tempdir().unwrap();
            let folder = set_up(place.path(), &old);
            let mut steps = 0;
            let cut = folder.reseal_in_steps(&old, &new, &other, &mut || {
                steps += 1;
                let dies = steps > end;
                if dies { Err(Failure::new(Exit::Failed, "cut")) } else { Ok(()) }
            });
            // The next start.
            folder.finish_resealing().unwrap();
            assert_ne!(opens(&folder, &old), opens(&folder, &new), "after {end} steps");
            let is_new = opens(&folder, &new);
            assert_eq!(folder.sealing().unwrap() == other, is_new, "after {end} steps");
            assert!(!place.path().join(REWRAP).exists() && !place.path().join(REWRAPPED).exists());
            outcomes.push(is_new);
            // What was cut short can be done again.
            if !is_new {
                folder.reseal(&old, &new, &other).unwrap();
                assert!(opens(&folder, &new));
            }
            if cut.is_ok() {
                break;
            }
        }
        // Old for every step before the one that counts, new from there on.
        assert!(outcomes.is_sorted() && !outcomes[0] && outcomes.len() > 10, "{outcomes:?}");
    }

    #[test]
    fn hex_reads_back() {
        assert_eq!(unhex(&hex(&[0, 1, 254, 255])), Some([0, 1, 254, 255]));
        assert_eq!(unhex::<2>("00g1"), None);
        assert_eq!(unhex::<2>("00ff0"), None);
        assert_eq!(unhex::<2>("0é1"), None);
    }
}
