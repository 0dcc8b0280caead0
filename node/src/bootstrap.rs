//! Founding a cluster: `conclave cluster init`. Makes the master key, the root key, the node key, the
//! authority and the cluster certificate, starts a cluster of one, and commits its first commands:
//! the founder as member, the keyring, and an account where one is asked for.
//!
//! The founder's id is 1: the index of the log entry that founds the cluster. Every later member's
//! id is the index of the entry that admitted it, so no id is ever used twice.

use std::time::Duration;

use conclave_domain::command::Command;
use conclave_domain::id::AccountName;
use conclave_domain::records::{FOUNDER, Member, MemberRole};
use conclave_domain::time::Clock;
use conclave_raft::{NodeInfo, NodeKey, NodeRole};
use conclave_storage::seal::{Keyring, RootKey, Secret, Vault};
use conclave_storage::{Datadir, FailPoints};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::admin::protocol::Account;
use crate::certificates::{plan, store};
use crate::clock::SystemClock;
use crate::compose::{Core, propose};
use crate::config::Config;
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, NodeFile, hex};
use crate::seed::SeedRole;
use crate::unseal;

/// How long the first election and the first commands may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What `cluster init` answers.
#[derive(Serialize, Deserialize)]
pub struct Founded {
    /// The cluster.
    pub cluster_id: String,
    /// The founder's id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// PEM file with the root that clients trust.
    pub root_certificate: std::path::PathBuf,
    /// The account that was asked for.
    pub account: Option<Account>,
}

impl Founded {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "Founded cluster {}; this is node {} ({}).\nClients trust {}.\n\
             Back up what unseals it (key file, passphrase, HSM) apart from the data.\n\
             Start it: conclave server\n",
            self.cluster_id,
            self.node_id,
            self.name,
            self.root_certificate.display()
        );
        if let Some(account) = &self.account {
            text.extend([
                "Account ",
                &account.account,
                ": log in as ",
                &account.login,
                " with this API key, which is shown only now:\n",
                &account.api_key,
                "\n",
            ]);
        }
        text
    }
}

/// Founds a cluster in the configured data folder. `given` is the passphrase, where a person types it.
///
/// # Errors
/// When a node is set up there already, or a step fails; a set-up that was cut short is begun again.
pub async fn init(
    config: &Config,
    account: Option<&str>,
    given: Option<Secret>,
) -> Result<Founded, Failure> {
    let account = account.map(AccountName::new).transpose().context(Exit::Usage, "account")?;
    let data = &config.node.data;
    let folder = Folder::new(data);
    if folder.is_set_up() {
        return Err(Failure::new(
            Exit::Configuration,
            format!("{} holds a node already; choose another node.data", data.display()),
        ));
    }
    folder.begin_setup()?;
    let datadir = Datadir::open(data, FailPoints::new()).context(Exit::Fault, "data folder")?;

    let now = SystemClock.now();
    let mut cluster = [0; 16];
    aws_lc_rs::rand::fill(&mut cluster).context(Exit::Fault, "randomness")?;
    let cluster_id = hex(&cluster);
    let (master, sealing) = unseal::make_for(config, given).await?;
    let root_key = RootKey::generate().context(Exit::Fault, "root key")?;
    let (node_key, pkcs8) = NodeKey::generate().context(Exit::Fault, "node key")?;
    let hosts = plan::hosts(&config.api.url, &config.peer.advertise);
    let authority = store::found(&cluster_id, &config.tls.names, &hosts, now)
        .context(Exit::Configuration, "tls.names")?;
    if let [root, .., own] = authority.as_slice() {
        let root_pem = &root.issued().certificate_pem;
        folder.write_keys((&master, &sealing), pkcs8, &root_key, root_pem, own.issued())?;
    }

    let node = NodeFile::new(
        cluster_id.clone(),
        FOUNDER,
        config.node.name.clone(),
        SeedRole::Voter,
        Vec::new(),
    );
    let core = Core::start(config, &node, &datadir, &master, None).await?;
    let me = NodeInfo {
        name: config.node.name.clone(),
        role: NodeRole::Voter,
        node_key: node_key.public(),
        peer_address: config.peer.advertise.clone(),
        api_url: config.api.url.clone(),
    };
    let founding = async {
        core.raft.initialize(me.clone()).await.context(Exit::Failed, "first election")?;
        let member = Member {
            name: me.name,
            role: MemberRole::Voter,
            node_key: me.node_key,
            peer_address: me.peer_address,
            api_url: me.api_url,
        };
        propose(&core.raft, Command::AdmitMember { token: None, member }).await?;
        let keyring = Keyring::generate().context(Exit::Fault, "keyring")?;
        let wrapped = keyring.wrap(&root_key).context(Exit::Fault, "keyring")?;
        propose(&core.raft, Command::InstallKeyring { keyring: wrapped }).await?;
        let vault = Vault::new(&root_key, &keyring);
        let sealed = authority.iter().map(|made| made.seal(&vault));
        let certificates = sealed.collect::<Result<_, _>>().context(Exit::Fault, "authority")?;
        propose(&core.raft, Command::InstallCertificates { certificates }).await?;
        match account {
            None => Ok(None),
            Some(name) => create_account(&core.raft, &vault, name).await.map(Some),
        }
    };
    let account = timeout(DEADLINE, founding).await.unwrap_or_else(|_| {
        Err(Failure::new(Exit::Failed, format!("founding took longer than {DEADLINE:?}")))
    });
    core.stop().await;
    let account = account?;
    folder.write_node(&node)?;
    Ok(Founded {
        cluster_id,
        node_id: FOUNDER,
        name: config.node.name.clone(),
        root_certificate: folder.root_certificate(),
        account,
    })
}

/// Commits a new account; gives its admin's API key, which is nowhere in the clear after this.
///
/// # Errors
/// When the account exists, or there is no leader.
pub async fn create_account(
    raft: &conclave_raft::Handle,
    vault: &Vault,
    name: AccountName,
) -> Result<Account, Failure> {
    // An RSA key takes a tenth of a second: let the reactor's other work move over meanwhile.
    let (command, key) =
        tokio::task::block_in_place(|| conclave_api::credentials::new_account(vault, &name))
            .context(Exit::Fault, "account")?;
    propose(raft, command).await?;
    Ok(Account { account: name.to_string(), login: "admin".to_owned(), api_key: key.to_string() })
}
