//! `conclave cluster recover`: after the majority of the voters is lost for good, one survivor becomes
//! the first node of a new cluster, with all that its own disk has.
//!
//! ```text
//! recovering (file) ─▶ the log's rest applied, places leap ─▶ alone in the log ─▶ node.json, file removed
//! ```
//! From the first step on the node runs in no cluster until the last is done; each can be done again.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use conclave_domain::records::MemberRole;
use conclave_raft::refound as refound_disk;
use conclave_storage::seal::{MasterKey, Secret};
use conclave_storage::{Datadir, FailPoints, LogStore, StateStore};
use serde::Serialize;

use crate::config::Config;
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, NodeFile};
use crate::refound::{self, Told, found_anew, new_cluster_id};
use crate::seed::SeedRole;
use crate::unseal;

/// How long another voter has to take a connection.
const REACH: Duration = Duration::from_secs(2);

/// A stopped node, looked at and held.
pub struct Survivor {
    config: Config,
    folder: Folder,
    datadir: Datadir,
    master: MasterKey,
    node: NodeFile,
    /// Where it stands.
    pub account: Account,
}

/// Where a survivor stands.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// Its cluster: the old one.
    pub cluster_id: String,
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// The part it played.
    pub role: SeedRole,
    /// Index of the last entry that it has applied, which a majority had.
    pub applied: u64,
    /// Index of the last entry on its disk, which a majority need not have had.
    pub last: u64,
    /// The other members, as it knew them.
    pub others: Vec<Other>,
    /// Whether a recovery was begun here before and cut short.
    pub begun: bool,
}

/// Another member of the old cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Whether it votes.
    pub votes: bool,
    /// URL of its API.
    pub api_url: String,
    /// Whether something takes connections there.
    pub answers: bool,
}

/// What `cluster recover` answers.
#[derive(Debug, Serialize)]
pub struct Recovered {
    /// The new cluster.
    pub cluster_id: String,
    /// This node's id, as before.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// PEM file with the roots that clients trust, as they did before.
    pub root_certificate: PathBuf,
    /// Where it stood.
    pub survivor: Account,
}

impl Account {
    /// For people: where it stands, and what recovering it may lose.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "This is {} {} (node {}) of cluster {}.\n\
             It has applied all entries up to {}; its disk has entries up to {}.\n",
            self.role.as_str(),
            self.name,
            self.node_id,
            self.cluster_id,
            self.applied,
            self.last
        );
        for other in &self.others {
            let part = if other.votes { "voter" } else { "follower" };
            let answers = if other.answers { "TAKES CONNECTIONS" } else { "does not answer" };
            text.extend([format!("  {part} {} at {} {answers}\n", other.name, other.api_url)]);
        }
        text.push_str(
            "Recovering makes this node the only one of a new cluster, with what its disk has:\n\
             - what the lost voters had committed and this node did not have is LOST, though clients\n\
             \x20 may have been told that it was done;\n\
             - entries that only this node has are kept, though clients may have been told that they\n\
             \x20 failed, or nothing;\n\
             - no other member of the old cluster can take part again, nor any seed: wipe their data\n\
             \x20 folders and let them join with new seeds. There is no way back.\n",
        );
        text
    }

    /// Refuses where the cluster has its majority: then there is nothing to recover from.
    fn refuse_with_majority(&self) -> Result<(), Failure> {
        let me = usize::from(self.role == SeedRole::Voter);
        let others = || self.others.iter().filter(|other| other.votes);
        let answering: Vec<&str> =
            others().filter(|other| other.answers).map(|other| other.name.as_str()).collect();
        if (answering.len() + me) * 2 <= others().count() + me {
            return Ok(());
        }
        let text = if answering.is_empty() {
            format!("{} is a majority by itself: start it with `conclave server`", self.name)
        } else {
            format!(
                "the majority is not lost: something answers for {}. Start `conclave server` here \
                 instead; or, if they are lost all the same, stop what answers in their place",
                answering.join(", ")
            )
        };
        Err(Failure::new(Exit::Refused, text))
    }
}

/// Looks at the node in the configured data folder, which must be stopped, and at the others. `typed` is its
/// passphrase, where a person types it.
///
/// # Errors
/// When the node runs, its folder is not in order, or the cluster has its majority.
pub fn look(config: &Config, typed: Option<&Secret>) -> Result<Survivor, Failure> {
    let folder = Folder::new(&config.node.data);
    let node = folder.read_node()?;
    if node.name != config.node.name {
        let text = format!(
            "the data folder is of node {:?}, node.name is {:?}; point node.data at the right one",
            node.name, config.node.name
        );
        return Err(Failure::new(Exit::Configuration, text));
    }
    let datadir = Datadir::open(&config.node.data, FailPoints::new());
    let datadir = datadir.context(Exit::Configuration, "data folder")?;
    let master = unseal::open(&config.unseal, &folder, typed)?;
    let begun = folder.recovery_begun()?;
    // The mark goes last, after node.json: an attempt that was cut off between the two has nothing left to do.
    if begun.as_ref() == Some(&node.cluster_id) {
        folder.forget_recovery()?;
        let text = format!(
            "the recovery had come to its end: {} is the only node of the new cluster {}. Start it with \
             `conclave server`",
            node.name, node.cluster_id
        );
        return Err(Failure::new(Exit::Refused, text));
    }
    let begun = begun.is_some();
    let (log, state) = open(&datadir)?;
    if state.read(|view| view.state.keyring().is_none()) {
        let text = format!("{} has not got the cluster's state yet: choose another", node.name);
        return Err(Failure::new(Exit::Refused, text));
    }
    let others = state.read(|view| {
        let members = view.state.member_nodes().iter().filter(|(id, _)| **id != node.node_id);
        let other = |(_, member): (_, &conclave_domain::records::Member)| Other {
            name: member.name.clone(),
            votes: member.role == MemberRole::Voter,
            api_url: member.api_url.clone(),
            answers: answers(&member.api_url),
        };
        members.map(other).collect()
    });
    let applied = state.applied_index();
    let account = Account {
        cluster_id: node.cluster_id.clone(),
        node_id: node.node_id,
        name: node.name.clone(),
        role: node.role,
        applied,
        last: log.last().map_or(applied, |(index, _)| index.max(applied)),
        others,
        begun,
    };
    if !begun {
        account.refuse_with_majority()?;
    }
    let config = config.clone();
    Ok(Survivor { config, folder, datadir, master, node, account })
}

/// Makes the survivor the first node of a new cluster.
///
/// # Errors
/// When a step fails; run it again then, the node runs in no cluster before.
pub async fn recover(survivor: Survivor) -> Result<Recovered, Failure> {
    let Survivor { config, folder, datadir, master, node: old, account } = survivor;
    let cluster_id = folder.begin_recovery(&new_cluster_id()?)?;
    let me = refound::voter(&config, folder.node_key(&master)?.public());
    // It reads the state, and may apply many entries.
    tokio::task::block_in_place(|| {
        let (log, state) = open(&datadir)?;
        refound_disk(&log, &state, Some(old.node_id), me).context(Exit::Fault, "storage")
    })?;
    let (node_id, name) = (old.node_id, old.name);
    let node =
        NodeFile::new(cluster_id.clone(), node_id, name.clone(), SeedRole::Voter, Vec::new());
    let told = Told {
        operation: "recover",
        subject: vec![
            ("cluster".into(), cluster_id.clone()),
            ("from-cluster".into(), account.cluster_id.clone()),
            ("index".into(), account.last.to_string()),
        ],
        message: format!(
            "the operator made {name} the only node of cluster {cluster_id}, with what it had of \
             cluster {}, up to index {}",
            account.cluster_id, account.last
        ),
    };
    found_anew(&config, &folder, &datadir, &master, &node, told).await?;
    folder.end_recovery(&node)?;
    let root_certificate = folder.root_certificate();
    Ok(Recovered { cluster_id, node_id, name, root_certificate, survivor: account })
}

fn open(datadir: &Datadir) -> Result<(LogStore, StateStore), Failure> {
    let (log, _) = LogStore::open(datadir).context(Exit::Fault, "storage")?;
    let state = StateStore::open(datadir).context(Exit::Fault, "storage")?;
    Ok((log, state))
}

/// Whether something takes connections where a member's API was.
fn answers(api_url: &str) -> bool {
    let address = api_url.split_once("://").map_or(api_url, |(_, rest)| rest);
    let address = address.split('/').next().unwrap_or_default();
    let with_port = if address.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
        address.to_owned()
    } else {
        format!("{address}:443")
    };
    let Ok(mut found) = with_port.to_socket_addrs() else { return false };
    found.any(|address| TcpStream::connect_timeout(&address, REACH).is_ok())
}
