//! What restoring from a backup and recovering from a lost majority share: a node becomes all there is of
//! a cluster with a new id. Its disk has been made ready ([`conclave_raft::refound`]); here it runs for a
//! moment, strikes off everybody else, and issues itself the certificate of a member of that cluster.
//!
//! The root and the intermediates stay, so clients go on as they are. Nodes do not: what they present
//! names the cluster's id, and so does the first word that they say to each other.

use std::borrow::Cow;
use std::time::Duration;

use conclave_api::audit::{Durability, Spool};
use conclave_domain::certificates::CLUSTER;
use conclave_domain::command::Command;
use conclave_domain::records::{Member, MemberRole};
use conclave_domain::time::Clock;
use conclave_raft::{NodeInfo, NodeRole};
use conclave_storage::Datadir;
use conclave_storage::seal::MasterKey;
use tokio::time::timeout;

use crate::backup::operator_record;
use crate::certificates::plan;
use crate::certificates::store::{Made, Maker};
use crate::clock::SystemClock;
use crate::compose::{Core, propose};
use crate::config::Config;
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, NodeFile, hex};

/// How long the election and the commands may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// The id of a cluster that has never been.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_cluster_id() -> Result<String, Failure> {
    let mut cluster = [0; 16];
    aws_lc_rs::rand::fill(&mut cluster).context(Exit::Fault, "randomness")?;
    Ok(hex(&cluster))
}

/// This node as the log is to know it.
pub fn voter(config: &Config, node_key: [u8; 32]) -> NodeInfo {
    NodeInfo {
        name: config.node.name.clone(),
        role: NodeRole::Voter,
        node_key,
        peer_address: config.peer.advertise.clone(),
        api_url: config.api.url.clone(),
    }
}

/// What the audit chain is told.
pub struct Told {
    /// What was done: `restore` or `recover`.
    pub operation: &'static str,
    /// To which clusters, and from which place of the log.
    pub subject: Vec<(Cow<'static, str>, String)>,
    /// The same in words.
    pub message: String,
}

/// Runs the node for as long as it takes to make it the one member of its cluster, by the log. Can be
/// done again. The data folder then has what the node presents, and the record of it in its spool.
///
/// # Errors
/// When a step fails; nothing else of the folder has changed then.
pub async fn found_anew(
    config: &Config,
    folder: &Folder,
    datadir: &Datadir,
    master: &MasterKey,
    node: &NodeFile,
    told: Told,
) -> Result<(), Failure> {
    let spool = Spool::open(&datadir.audit(), Durability::Disk, SystemClock.now())
        .context(Exit::Fault, "audit spool")?;
    let info = voter(config, folder.node_key(master)?.public());
    let core = Core::start(config, node, datadir, master, None).await?;
    let founding = async {
        let id = node.node_id;
        core.raft
            .wait_leader(DEADLINE, |leader| leader == Some(id))
            .await
            .context(Exit::Failed, "first election")?;
        let member = Member {
            name: info.name,
            role: MemberRole::Voter,
            node_key: info.node_key,
            peer_address: info.peer_address,
            api_url: info.api_url,
        };
        propose(&core.raft, Command::RefoundCluster { node: id, member }).await?;
        let made = present(config, &core, &node.cluster_id).await?;
        // Before it serves anybody; it comes into the chain as all records do.
        spool.start_after(core.state.read(|view| view.state.audit_source(id)));
        let Told { operation, subject, message } = told;
        let record = operator_record(SystemClock.now(), operation, subject, message);
        spool.append(&[record]).await.context(Exit::Fault, "audit record")?;
        Ok::<_, Failure>((core.state.read(|view| plan::roots_pem(view.state)), made))
    };
    let founded = timeout(DEADLINE, founding).await.unwrap_or_else(|_elapsed| {
        Err(Failure::new(Exit::Failed, format!("founding took longer than {DEADLINE:?}")))
    });
    core.stop().await;
    let (roots_pem, made) = founded?;
    folder.replace_certificates(master, &roots_pem, made.issued())
}

/// Issues what the member of the new cluster presents.
async fn present(config: &Config, core: &Core, cluster_id: &str) -> Result<Made, Failure> {
    core.unseal()?;
    let vault = core.vault.load_full();
    let vault = vault
        .ok_or_else(|| Failure::new(Exit::Fault, "the state holds no keyring: it is sealed"))?;
    let made = core.state.read(|view| {
        let now = SystemClock.now();
        Maker { cluster_id, state: view.state, vault: &vault, now }.next(CLUSTER, &config.tls.names)
    });
    let made = made.context(Exit::Failed, "certificate of the new cluster")?;
    let sealed = made.seal(&vault).context(Exit::Failed, "certificate of the new cluster")?;
    propose(&core.raft, Command::InstallCertificates { certificates: vec![sealed] }).await?;
    Ok(made)
}
