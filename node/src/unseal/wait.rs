//! The time between the start of a process and its master key. Mostly there is none; a node whose
//! passphrase a person types, or whose HSM is away, spends it answering everybody that it is sealed.

use std::sync::Arc;
use std::time::Duration;

use conclave_storage::seal::{MasterKey, Secret};
use conclave_storage::{Datadir, FailPoints};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::door::SealedDoor;
use super::{NoKey, open};
use crate::config::{Config, SecretSource, UnsealConfig};
use crate::exit::{Context, Exit, Failure};
use crate::folder::Folder;

/// How long the way to the key may take before the node says that it is sealed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an HSM that is away is tried.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A passphrase that was typed, and who wants to know whether it is the right one.
pub(super) struct Typed {
    pub(super) passphrase: Secret,
    pub(super) answer: oneshot::Sender<Result<(), Failure>>,
}

/// The master key of the configured node, without waiting for anybody.
///
/// # Errors
/// Why there is none.
pub async fn master_key_now(config: &Config) -> Result<MasterKey, Failure> {
    let master = attempt(config, None).await.context(Exit::Failed, "unseal")?;
    Ok(master?)
}

/// The master key of the configured node. Where it has to be waited for, whoever asks is told so
/// meanwhile.
///
/// # Errors
/// When waiting does not help; the text says what does.
pub async fn master_key(config: &Config) -> Result<MasterKey, Failure> {
    let mut running = attempt(config, None);
    let (what, why) = match timeout(PATIENCE, &mut running).await {
        Ok(ended) => match ended.context(Exit::Failed, "unseal")? {
            Ok(master) => return Ok(master),
            Err(NoKey::Failed(failure)) => return Err(failure),
            Err(NoKey::Waits { what, why }) => (what, why),
        },
        Err(_elapsed) => {
            let why = format!("{} has not answered for {PATIENCE:?}", config.unseal);
            ("its HSM does not answer", why)
        }
    };
    // Nobody else is to use the folder meanwhile.
    let datadir = Datadir::open(&config.node.data, FailPoints::new());
    let datadir = datadir.context(Exit::Fault, "data folder")?;
    tracing::warn!(reason = why, "node.sealed");
    let (ask, asked) = mpsc::channel(1);
    let door = SealedDoor::open(config, what, why, ask).await?;
    let master = wait(config, &door, asked, Some(running).filter(|one| !one.is_finished())).await?;
    door.close().await;
    drop(datadir);
    tracing::info!(master_key = master.id(), "node.unsealed");
    Ok(master)
}

async fn wait(
    config: &Config,
    door: &SealedDoor,
    mut asked: mpsc::Receiver<Typed>,
    mut running: Option<JoinHandle<Result<MasterKey, NoKey>>>,
) -> Result<MasterKey, Failure> {
    let is_typed = matches!(config.unseal, UnsealConfig::Passphrase(SecretSource::Typed));
    loop {
        if let Some(attempt) = running.take() {
            match attempt.await.context(Exit::Failed, "unseal")? {
                Ok(master) => return Ok(master),
                Err(NoKey::Failed(failure)) => return Err(failure),
                Err(NoKey::Waits { what, why }) => door.waits_for(what, why),
            }
        }
        if !is_typed {
            sleep(RETRY_EVERY).await;
            running = Some(attempt(config, None));
            continue;
        }
        // The door holds the other end for as long as it is open.
        let Some(Typed { passphrase, answer }) = asked.recv().await else {
            return Err(Failure::new(Exit::Failed, "nobody can unseal this node any more"));
        };
        let tried = attempt(config, Some(passphrase)).await.context(Exit::Failed, "unseal")?;
        let (told, master) = match tried {
            Ok(master) => (Ok(()), Some(master)),
            Err(no_key) => {
                let failure = Failure::new(Exit::Refused, Failure::from(no_key));
                tracing::warn!(error = %failure, "node.unseal refused");
                (Err(failure), None)
            }
        };
        // Who asked may have gone; the key counts all the same.
        drop(answer.send(told));
        if let Some(master) = master {
            return Ok(master);
        }
    }
}

/// One try, off the reactor.
fn attempt(config: &Config, typed: Option<Secret>) -> JoinHandle<Result<MasterKey, NoKey>> {
    let (unseal, folder) = (config.unseal.clone(), Folder::new(&config.node.data));
    tokio::task::spawn_blocking(move || open(&unseal, &folder, typed.as_ref()))
}

/// Shared by the answers of a sealed node.
pub(super) type Reason = Arc<arc_swap::ArcSwap<String>>;
