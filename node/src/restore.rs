//! `conclave restore`: the first node of a new cluster, from a backup. It takes over everything but who
//! the members were: ids, node keys and seeds of the old cluster count for nothing here.

use std::path::{Path, PathBuf};

use conclave_domain::certificates::CLUSTER;
use conclave_raft::{NodeKey, refound as refound_disk};
use conclave_storage::seal::{Keyring, MasterKey, RootKey, Secret, Vault};
use conclave_storage::{Datadir, FailPoints, LogStore, StateStore};
use serde::Serialize;

use crate::backup::{self, Backup, Description};
use crate::certificates::{CertificateError, Issued, plan, store};
use crate::config::Config;
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, NodeFile};
use crate::refound::{self, Told, found_anew, new_cluster_id};
use crate::seed::SeedRole;
use crate::unseal::{self, Sealing};

/// What `restore` answers.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: String,
    /// This node's id in it.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// PEM file with the roots that clients trust, as they did before.
    pub root_certificate: PathBuf,
    /// What it was made from.
    pub backup: Description,
}

/// Refuses a folder that holds a node: restoring needs an empty one.
///
/// # Errors
/// With what to do.
pub fn refuse_set_up(config: &Config) -> Result<(), Failure> {
    let data = &config.node.data;
    if !Folder::new(data).is_set_up() {
        return Ok(());
    }
    let text = format!(
        "{} holds a node already, and restoring needs an empty folder: move it away, or choose \
         another node.data",
        data.display()
    );
    Err(Failure::new(Exit::Configuration, text))
}

/// Makes the configured, empty data folder the first node of a new cluster with everything that a backup
/// holds. `opening` is the master key that the backup opens with, `given` the secret of the new node, where
/// it has been brought already. `read` is told of bytes.
///
/// # Errors
/// When the folder is not empty, the backup does not open or is not intact, or a step fails; a restore
/// that was cut short is begun again by the same command.
pub async fn restore(
    config: &Config,
    file: &Path,
    opening: &MasterKey,
    given: Option<Secret>,
    read: impl FnMut(&Description, usize),
) -> Result<Restored, Failure> {
    let data = &config.node.data;
    let folder = Folder::new(data);
    refuse_set_up(config)?;
    let backup = backup::open(file, opening)?;
    folder.begin_setup()?;
    let datadir = Datadir::open(data, FailPoints::new()).context(Exit::Fault, "data folder")?;
    let (master, sealing) = unseal::make_for(config, given).await?;
    let cluster_id = new_cluster_id()?;
    let described = backup.description.clone();
    // It reads and writes every byte of the state.
    let node_id = tokio::task::block_in_place(|| {
        bring_in(config, &folder, &datadir, (&master, &sealing), file, backup, read)
    })?;
    let name = config.node.name.clone();
    let node =
        NodeFile::new(cluster_id.clone(), node_id, name.clone(), SeedRole::Voter, Vec::new());
    let told = Told {
        operation: "restore",
        subject: vec![
            ("cluster".into(), cluster_id.clone()),
            ("from-cluster".into(), described.cluster_id.clone()),
            ("index".into(), described.index.to_string()),
        ],
        message: format!(
            "the operator restored cluster {cluster_id} from a backup of cluster {} as of index {}, \
             made on {} at {}",
            described.cluster_id, described.index, described.node, described.made_at
        ),
    };
    found_anew(config, &folder, &datadir, &master, &node, told).await?;
    folder.write_node(&node)?;
    let root_certificate = folder.root_certificate();
    Ok(Restored { cluster_id, node_id, name, root_certificate, backup: described })
}

/// Fills the data folder with the state, the keys and the certificates of a backup; answers the id of
/// its node.
fn bring_in(
    config: &Config,
    folder: &Folder,
    datadir: &Datadir,
    sealed: (&MasterKey, &Sealing),
    file: &Path,
    backup: Backup,
    mut read: impl FnMut(&Description, usize),
) -> Result<u64, Failure> {
    let Backup { description, mut reader } = backup;
    let state = StateStore::open(datadir).context(Exit::Fault, "storage")?;
    let installed = reader.install(&state, |bytes| read(&description, bytes));
    installed.map_err(|error| backup::refused(file, &error))?;
    let root_key = &reader.contents().root_key;
    let (node_key, pkcs8) = NodeKey::generate().context(Exit::Fault, "node key")?;
    let (roots_pem, presented) = certificates(&state, root_key)?;
    folder.write_keys(sealed, pkcs8, root_key, &roots_pem, &presented)?;
    let (log, _) = LogStore::open(datadir).context(Exit::Fault, "storage")?;
    refound_disk(&log, &state, None, refound::voter(config, node_key.public()))
        .context(Exit::Fault, "storage")
}

/// The roots, and what the node presents until it has a certificate of the new cluster: nobody is there
/// yet to whom it would be presented.
fn certificates(state: &StateStore, root_key: &RootKey) -> Result<(String, Issued), Failure> {
    let keyring = state.read(|view| view.state.keyring().cloned());
    let keyring = keyring.ok_or_else(|| Failure::new(Exit::Fault, "the backup has no keyring"))?;
    let keyring = Keyring::unwrap(&keyring, root_key).context(Exit::Fault, "keyring")?;
    let vault = Vault::new(root_key, &keyring);
    let found: Result<_, CertificateError> = state.read(|view| {
        let (key, record) = view.state.certificate(CLUSTER).ok_or_else(|| {
            CertificateError::Refused(format!("the backup has no certificate {CLUSTER}"))
        })?;
        Ok((plan::roots_pem(view.state), store::open(&vault, key, &record.certificate)?))
    });
    found.context(Exit::Fault, "certificates in the backup")
}
