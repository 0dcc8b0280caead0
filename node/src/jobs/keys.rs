//! After a rotation of the data key: seals anew what lies under older ones, on the leader and in the
//! background, at a pace that leaves the node its other work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_api::resealing::seal_anew;
use conclave_domain::command::Command;
use conclave_domain::decide::RESEALED_AT_ONCE_MAX;
use conclave_domain::id::ResourceId;
use conclave_domain::records::{Resealed, Sealed, SealedAt};
use conclave_domain::state::State;
use conclave_raft::status::NodeState;
use conclave_storage::StateStore;
use conclave_storage::seal::{Keyring, Vault};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::compose::{Node, propose};
use crate::exit::{Context, Exit, Failure};

/// How often the leader looks whether there is something to do.
const EVERY: Duration = Duration::from_secs(1);
/// How many resources are looked through at once, and the pause after: some thousands a second. While
/// they are looked through, nothing is applied.
const PAGE: usize = 32;
const PAUSE: Duration = Duration::from_millis(5);

/// How far values are sealed anew, as the leader knows.
#[derive(Debug, Default)]
pub struct Resealing(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// The generation under which everything lies; 0 as long as that is not known.
    through: u32,
    runs: bool,
    looked_at: u64,
    resealed: u64,
    error: Option<String>,
}

/// What `keys status` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResealingStatus {
    /// Whether everything in the state is known to lie under the newest data key.
    pub complete: bool,
    /// Whether a pass is under way.
    pub runs: bool,
    /// Resources looked through in the pass under way, or in the last one.
    pub looked_at: u64,
    /// Values sealed anew in it.
    pub resealed: u64,
    /// Why the last pass stopped early, if it did.
    pub error: Option<String>,
}

impl Resealing {
    /// How it stands with regard to a generation.
    pub fn status(&self, generation: u32) -> ResealingStatus {
        let progress = self.progress();
        ResealingStatus {
            complete: progress.through >= generation,
            runs: progress.runs,
            looked_at: progress.looked_at,
            resealed: progress.resealed,
            error: progress.error.clone(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self) {
        let mut progress = self.progress();
        *progress = Progress { through: progress.through, runs: true, ..Progress::default() };
    }

    /// Notes how a pass under a generation ended.
    fn ends(&self, generation: u32, result: Result<(), Failure>) {
        let mut progress = self.progress();
        progress.runs = false;
        match result {
            // Nodes may have gone on sealing under the former key for a moment, and what was passed
            // over had changed meanwhile: only a pass that found nothing is the last.
            Ok(()) if progress.resealed == 0 => progress.through = generation,
            Ok(()) => {}
            Err(failure) => {
                tracing::warn!(error = %failure, "keys.reseal failed; it will be tried again");
                progress.error = Some(failure.to_string());
            }
        }
        let (looked_at, resealed) = (progress.looked_at, progress.resealed);
        tracing::info!(generation, looked_at, resealed, "keys.reseal");
    }
}

/// Puts the next data key into the keyring; it seals from then on, on every node within a second.
/// Answers its generation, which is durable.
///
/// # Errors
/// When this node is a follower, when there is no keyring yet or no leader, or when another rotation
/// was faster.
pub async fn rotate_keyring(node: &Node) -> Result<u32, Failure> {
    if node.core.raft.status().state == NodeState::Follower {
        let text = "this node is a follower and changes nothing: rotate on a voter's machine";
        return Err(Failure::new(Exit::Refused, text));
    }
    let wrapped = node.core.state.read(|view| view.state.keyring().cloned()).ok_or_else(|| {
        Failure::new(Exit::Unavailable, "this node is sealed: it has no keyring yet")
    })?;
    let mut keyring =
        Keyring::unwrap(&wrapped, &node.core.root_key).context(Exit::Fault, "keyring")?;
    let generation = keyring.rotate().context(Exit::Fault, "keyring")?;
    let keyring = keyring.wrap(&node.core.root_key).context(Exit::Fault, "keyring")?;
    propose(&node.core.raft, Command::InstallKeyring { keyring }).await?;
    tracing::info!(generation, "keys.rotate");
    Ok(generation)
}

/// Runs for as long as the node does.
pub async fn reseal(node: Arc<Node>) {
    loop {
        sleep(EVERY).await;
        let Some(vault) = node.core.vault.load_full() else { continue };
        let generation = vault.generation();
        // Under the first key there is nothing older.
        let is_due = generation > 1 && !node.resealing.status(generation).complete;
        if is_due && node.core.raft.leads() {
            node.resealing.begins();
            let result = pass(&node, &vault).await;
            node.resealing.ends(generation, result);
        }
    }
}

/// Goes through all that is sealed, once.
async fn pass(node: &Node, vault: &Arc<Vault>) -> Result<(), Failure> {
    let mut after: Option<ResourceId> = None;
    loop {
        if !node.core.raft.leads() {
            return Err(Failure::new(Exit::Unavailable, "this node does not lead any more"));
        }
        let (state, vault) = (node.core.state.clone(), Arc::clone(vault));
        let from = after.take();
        let page = tokio::task::spawn_blocking(move || page(&state, &vault, from.as_ref()));
        let page = page.await.context(Exit::Failed, "keys")??;
        for values in page.values.chunks(RESEALED_AT_ONCE_MAX) {
            let command = Command::Reseal { values: values.to_vec() };
            propose(&node.core.raft, command).await?;
            node.resealing.progress().resealed += values.len() as u64;
        }
        node.resealing.progress().looked_at += page.looked_at;
        after = page.last;
        if after.is_none() {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

/// Some of what is sealed.
struct Page {
    /// What lay under older keys, sealed anew.
    values: Vec<Resealed>,
    looked_at: u64,
    /// The last resource looked at; none at the end.
    last: Option<ResourceId>,
}

/// Looks through the resources after one; the first page has what belongs to no resource, too.
fn page(state: &StateStore, vault: &Vault, after: Option<&ResourceId>) -> Result<Page, Failure> {
    state
        .read(|view| {
            let mut old = Vec::new();
            if after.is_none() {
                beside_resources(view.state, &mut old);
            }
            let (mut looked_at, mut last) = (0, None);
            for (id, _) in view.state.resources_after(after).take(PAGE) {
                looked_at += 1;
                last = Some(id.clone());
                if let Some(credential) = view.state.credential(id) {
                    let at = SealedAt::ApiKey(id.clone(), credential.api_key_digest);
                    old.push((at, credential.api_key.clone()));
                }
                let versions =
                    view.state.secret(id).into_iter().flat_map(|found| found.versions.iter());
                for (version, record) in versions {
                    if let Some(sealed) = view.secret_value(id, *version)? {
                        let at = SealedAt::Secret(id.clone(), *version, record.fingerprint);
                        old.push((at, sealed));
                    }
                }
            }
            old.retain(|(_, sealed)| is_old(vault, sealed));
            let mut values = Vec::with_capacity(old.len());
            for (at, sealed) in old {
                values.extend(seal_anew(vault, view.state, at, &sealed)?);
            }
            Ok::<_, conclave_storage::Fault>(Page { values, looked_at, last })
        })
        .context(Exit::Fault, "keys")
}

fn beside_resources(state: &State, old: &mut Vec<(SealedAt, Sealed)>) {
    for (name, account) in state.accounts() {
        let key = &account.signing_key;
        old.push((SealedAt::SigningKey(name.clone(), key.id.clone()), key.private.clone()));
        for (key, issuer) in state.issuers(name) {
            old.push((SealedAt::Issuer(key.clone(), issuer.data.clone()), issuer.data.clone()));
        }
    }
    for (key, record) in state.certificates() {
        let sealed = &record.certificate.key;
        // What was imported without its key has none.
        if !sealed.0.is_empty() {
            old.push((SealedAt::Certificate(key.clone(), sealed.clone()), sealed.clone()));
        }
    }
    for (digest, token) in state.all_host_factory_tokens() {
        old.push((SealedAt::HostFactoryToken(*digest), token.sealed.clone()));
    }
}

fn is_old(vault: &Vault, sealed: &Sealed) -> bool {
    Vault::generation_of(sealed).is_some_and(|generation| generation < vault.generation())
}
