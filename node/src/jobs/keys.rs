//! After a rotation of the data key: seals anew what lies under older ones, on the leader and in the
//! background, at a pace that leaves the node its other work.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
pub struct Resealing {
    /// The generation under which everything lies; 0 as long as that is not known.
    through: AtomicU32,
    resealed: AtomicU64,
    looked_at: AtomicU64,
    runs: AtomicBool,
    error: Mutex<Option<String>>,
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
        ResealingStatus {
            complete: self.through.load(Ordering::Relaxed) >= generation,
            runs: self.runs.load(Ordering::Relaxed),
            looked_at: self.looked_at.load(Ordering::Relaxed),
            resealed: self.resealed.load(Ordering::Relaxed),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
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
        let resealing = &node.resealing;
        let is_done = resealing.through.load(Ordering::Relaxed) >= vault.generation();
        // Under the first key there is nothing older.
        if node.core.raft.status().state != NodeState::Leader || is_done || vault.generation() < 2 {
            continue;
        }
        resealing.runs.store(true, Ordering::Relaxed);
        let result = pass(&node, &vault).await;
        resealing.runs.store(false, Ordering::Relaxed);
        let mut error = resealing.error.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                *error = None;
                let (looked_at, resealed) = (&resealing.looked_at, &resealing.resealed);
                tracing::info!(
                    generation = vault.generation(),
                    ?looked_at,
                    ?resealed,
                    "keys.reseal"
                );
                // Nodes may have gone on sealing under the former key for a moment, and what was
                // passed over had changed meanwhile: only a pass that found nothing is the last.
                if resealed.load(Ordering::Relaxed) == 0 {
                    resealing.through.store(vault.generation(), Ordering::Relaxed);
                }
            }
            Err(failure) => {
                tracing::warn!(error = %failure, "keys.reseal failed; it will be tried again");
                *error = Some(failure.to_string());
            }
        }
    }
}

/// Goes through all that is sealed, once.
async fn pass(node: &Node, vault: &Arc<Vault>) -> Result<(), Failure> {
    node.resealing.looked_at.store(0, Ordering::Relaxed);
    node.resealing.resealed.store(0, Ordering::Relaxed);
    let mut after: Option<ResourceId> = None;
    let mut is_first = true;
    while is_first || after.is_some() {
        if node.core.raft.status().state != NodeState::Leader {
            return Err(Failure::new(Exit::Unavailable, "this node does not lead any more"));
        }
        let (state, vault) = (node.core.state.clone(), Arc::clone(vault));
        let from = after.take();
        let page = tokio::task::spawn_blocking(move || page(&state, &vault, from.as_ref()));
        let page = page.await.context(Exit::Failed, "keys")??;
        for values in page.values.chunks(RESEALED_AT_ONCE_MAX) {
            let command = Command::Reseal { values: values.to_vec() };
            propose(&node.core.raft, command).await?;
            node.resealing.resealed.fetch_add(values.len() as u64, Ordering::Relaxed);
        }
        node.resealing.looked_at.fetch_add(page.looked_at, Ordering::Relaxed);
        after = page.last;
        is_first = false;
        sleep(PAUSE).await;
    }
    Ok(())
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
