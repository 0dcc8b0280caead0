//! Answers the operator on this machine. The socket lies in the data folder, mode 0600: whoever can
//! open it could read the data folder as well.

use std::sync::Arc;
use std::time::Duration;

use conclave_domain::certificates::{CLUSTER_CA, CertificateKey, Condition, Origin, ROOT};
use conclave_domain::command::{Actor, Command};
use conclave_domain::id::AccountName;
use conclave_domain::policy::parse_range;
use conclave_domain::time::Clock;
use conclave_raft::status::NodeState;
use conclave_raft::{ChangeError, NodeRole};
use conclave_storage::seal::{AuditKey, Keyring};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::protocol::{self, PrivateText, Request, Response};
use super::socket::{listen, reply};
use crate::backup;
use crate::bootstrap::create_account;
use crate::certificates::store::{Made, Maker};
use crate::certificates::{import, inventory, plan};
use crate::clock::SystemClock;
use crate::compose::{Node, propose};
use crate::deeds::{self, Deed};
use crate::exit::{Context, Exit, Failure};
use crate::folder::hex;
use crate::jobs;
use crate::jobs::rotate_keyring;
use crate::peer_service;
use crate::reload::reload;
use crate::seed::SeedRole;
use crate::seeding::{self, Wanted};
use crate::unseal::rewrap;

/// Most records, and bytes of them, in one answer.
const AUDIT_RECORDS_MAX: usize = 4096;
const AUDIT_BYTES_MAX: usize = 2 << 20;
/// How long the leader may take to tell what members have loaded.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a removal or a hand-over is waited for.
const CHANGE_DEADLINE: Duration = Duration::from_secs(20);
/// Why a node that has its master key may be sealed all the same.
const NO_KEYRING: &str = "it has no keyring yet";
/// How often it is looked at.
const CHANGE_POLL: Duration = Duration::from_millis(10);

/// Answers until the node stops.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(node: Arc<Node>, stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    let data = node.folder.root().to_owned();
    let answering = move |request, mut write| {
        let node = node.clone();
        async move {
            if request == Request::Backup {
                return backup::send(&node, &mut write).await;
            }
            reply(&mut write, answer(&node, request).await).await
        }
    };
    listen(&data, stopped, answering).await
}

async fn answer(node: &Node, request: Request) -> Result<Response, Failure> {
    match request {
        Request::Status => Ok(Response::Status(Box::new(status(node)))),
        Request::Seed { name, role, life_s, group, names, cidr } => {
            let mut subject = vec![("name", name.clone()), ("role", role.as_str().to_owned())];
            let mut text = format!("the operator issued a seed for the {} {name}", role.as_str());
            if !cidr.is_empty() {
                subject.push(("cidr", cidr.join(", ")));
                text.extend([format!(" at {}", cidr.join(", "))]);
            }
            let cidr: Result<_, _> = cidr.iter().map(|range| parse_range(range)).collect();
            let cidr = cidr.context(Exit::Usage, "cidr")?;
            let life = Duration::from_secs(u64::from(life_s));
            let wanted = Wanted { name, role, life, group, names, cidr };
            let done = seeding::issue(node, Actor::Node, String::new(), wanted).await;
            let done = done.map(|seed| Response::Seed(Box::new(seed))).map_err(Failure::from);
            recorded(node, "issue-seed", subject, text, done).await
        }
        Request::Remove { member } => {
            let subject = vec![("name", member.clone())];
            let text = format!("the operator removed {member}");
            recorded(node, "remove-member", subject, text, remove(node, &member).await).await
        }
        Request::TransferLeader { to } => {
            let heir = to.as_deref().unwrap_or("whoever has most of the log");
            let subject = vec![("heir", heir.to_owned())];
            let text = format!("the operator handed leadership to {heir}");
            let done = transfer(node, to.as_deref()).await;
            recorded(node, "transfer-leader", subject, text, done).await
        }
        Request::Drain { undo } => {
            let subject = vec![("name", node.identity.name.clone())];
            let (operation, text) = if undo {
                ("undrain", format!("the operator took {} back into service", node.identity.name))
            } else {
                ("drain", format!("the operator took {} out of service", node.identity.name))
            };
            recorded(node, operation, subject, text, drain(node, undo).await).await
        }
        Request::CreateAccount { name } => {
            let name = AccountName::new(&name).context(Exit::Usage, "account")?;
            let vault = node.core.vault.load_full().ok_or_else(sealed)?;
            create_account(&node.core.raft, &vault, name).await.map(Response::Account)
        }
        Request::DeleteAccount { name } => {
            let account = AccountName::new(&name).context(Exit::Usage, "account")?;
            // Known here before it is asked of the log, which has no word for a missing account.
            let known = node.core.state.read(|view| view.state.account(&account).is_some());
            if !known {
                return Err(Failure::new(Exit::NotFound, format!("there is no account {name}")));
            }
            propose(&node.core.raft, Command::DeleteAccount { account }).await?;
            Ok(Response::Done)
        }
        Request::Accounts => {
            let names = node
                .core
                .state
                .read(|view| view.state.accounts().map(|(name, _)| name.to_string()).collect());
            Ok(Response::Accounts { names })
        }
        Request::StateHash => {
            let state = node.core.state.clone();
            let hash = tokio::task::spawn_blocking(move || state.state_hash())
                .await
                .context(Exit::Failed, "state hash")?
                .context(Exit::Fault, "state hash")?;
            Ok(Response::StateHash(protocol::StateHash {
                node_id: node.identity.node_id,
                applied: hash.index,
                state_hash: hex(&hash.hash),
            }))
        }
        Request::Snapshot => {
            node.core.raft.snapshot(CHANGE_DEADLINE).await.context(Exit::Failed, "snapshot")?;
            Ok(Response::Done)
        }
        Request::RotateKeys => {
            let generation = rotate_keyring(node).await?;
            let deadline = Instant::now() + CHANGE_DEADLINE;
            // Committed is not yet applied here, where this node is not the leader.
            while keys_status(node)?.generation < generation {
                if Instant::now() >= deadline {
                    let text = format!("data key {generation} is in force, but not here yet");
                    return Err(Failure::new(Exit::Unavailable, text));
                }
                sleep(CHANGE_POLL).await;
            }
            node.core.unseal()?;
            Ok(Response::Keys(keys_status(node)?))
        }
        Request::Keys => Ok(Response::Keys(keys_status(node)?)),
        // It is open already: whoever wanted that has it.
        Request::Unseal { passphrase } => {
            drop(passphrase);
            Ok(Response::Done)
        }
        Request::Reload => Ok(Response::Reloaded(reload(node).await?)),
        Request::Rewrap { secret } => {
            rewrap(node, secret).await?;
            Ok(Response::Keys(keys_status(node)?))
        }
        Request::Audit { from } => {
            let page = audit_page(node, from).await?;
            Ok(Response::Audit(Box::new(page.into())))
        }
        Request::Certificates => certificates(node).await,
        Request::RenewCertificate { name } => renew(node, &name).await,
        Request::TrustBundle => {
            let pem = node.core.state.read(|view| plan::roots_pem(view.state));
            Ok(Response::TrustBundle { pem })
        }
        Request::ImportCertificate { name, chain_pem, key_pem, roots_pem } => {
            import(node, &name, &chain_pem, &key_pem, &roots_pem).await
        }
        Request::RequestAuthority => request_authority(node).await,
        Request::ImportAuthority { chain_pem, roots_pem } => {
            import_authority(node, &chain_pem, &roots_pem).await
        }
        Request::RemoveCertificate { name, generation } => {
            remove_certificate(node, name, generation).await
        }
        Request::Backup => Err(Failure::new(Exit::Usage, "a backup is no short answer")),
    }
}

/// Records what the operator did to the cluster, or was refused.
async fn recorded(
    node: &Node,
    operation: &'static str,
    subject: Vec<(&'static str, String)>,
    text: String,
    done: Result<Response, Failure>,
) -> Result<Response, Failure> {
    let refused = done.as_ref().err().map(|failure| failure.message.clone());
    let deed = Deed { operation, subject, from: String::new(), text, refused };
    deeds::record(&node.spool, deed).await;
    done
}

fn keys_status(node: &Node) -> Result<protocol::KeysStatus, Failure> {
    let wrapped = node.core.state.read(|view| view.state.keyring().cloned()).ok_or_else(|| {
        Failure::new(Exit::Unavailable, format!("this node is sealed: {NO_KEYRING}"))
    })?;
    let keyring = Keyring::unwrap(&wrapped, &node.core.root_key).context(Exit::Fault, "keyring")?;
    let leads = node.core.raft.status().state == NodeState::Leader;
    Ok(protocol::KeysStatus {
        unseal: node.config().unseal.to_string(),
        master_key: node.master().id(),
        root_key: node.core.root_key.id(),
        generation: keyring.generation(),
        generations: keyring.generations(),
        resealing: leads.then(|| node.resealing.status(keyring.generation())),
    })
}

async fn audit_page(node: &Node, from: u64) -> Result<protocol::AuditPage, Failure> {
    let key = AuditKey::derive(&node.core.root_key).context(Exit::Fault, "audit key")?;
    // The head first: all its records are there when they are read.
    let head = node.core.state.read(|view| view.state.audit_head());
    let state = node.core.state.clone();
    let records = tokio::task::spawn_blocking(move || {
        state.audit_records(from, AUDIT_RECORDS_MAX, AUDIT_BYTES_MAX)
    });
    let records = records.await.context(Exit::Failed, "audit chain")?;
    Ok(protocol::AuditPage {
        cluster_id: node.identity.cluster_id.clone(),
        key: key.public(),
        head,
        end: key.checkpoint(head.last, head.hash, SystemClock.now()).to_text(),
        records: records.context(Exit::Fault, "audit chain")?,
    })
}

fn status(node: &Node) -> protocol::Status {
    let status = node.core.raft.status();
    let protocols = node.core.raft.protocols();
    let counters = node.core.log.counters();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    protocol::Status {
        cluster_id: node.identity.cluster_id.clone(),
        node_id: status.node_id,
        name: node.identity.name.clone(),
        part: status.state.as_str().to_owned(),
        term: status.term,
        leader: status.leader,
        last_log: status.last_log.unwrap_or(0),
        committed: status.committed.unwrap_or(0),
        applied: status.applied.unwrap_or(0),
        snapshot: status.snapshot.unwrap_or(0),
        age_ms: status.age.map(millis),
        sealed: node.core.vault.load().is_none(),
        sealed_reason: node.core.vault.load().is_none().then(|| NO_KEYRING.to_owned()),
        log_fsyncs: counters.syncs,
        log_bytes_written: counters.bytes,
        pid: std::process::id(),
        api_url: node.config().api.url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rotations: node.rotations.status(),
        draining: node.door.is_draining(),
        level: node.core.state.read(|view| view.state.level()),
        level_max: node.config().cluster.level_max,
        remove_dead_after_s: node.config().cluster.remove_dead_after.map(|after| after.as_secs()),
        members: status
            .members
            .into_iter()
            .map(|member| protocol::MemberStatus {
                seen: seen(node, member.id),
                protocol: protocols.get(&member.id).copied(),
                id: member.id,
                name: member.info.name,
                role: match member.info.role {
                    NodeRole::Voter => SeedRole::Voter,
                    NodeRole::Follower => SeedRole::Follower,
                },
                votes: member.voter,
                lag: member.lag,
                peer_address: member.info.peer_address,
                api_url: member.info.api_url,
            })
            .collect(),
    }
}

/// What this node knows of a member: of itself always, of others while it leads.
fn seen(node: &Node, member: u64) -> Option<protocol::SeenMember> {
    if member == node.identity.node_id {
        return Some(protocol::SeenMember {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            level: node.config().cluster.level_max,
            obstacle: node.door.ailment().map(str::to_owned),
            silent_ms: 0,
        });
    }
    let seen = node.watch.of(member)?;
    let silent_ms = u64::try_from(seen.silent_for().as_millis()).unwrap_or(u64::MAX);
    let about = seen.about;
    Some(protocol::SeenMember {
        version: about.as_ref().map(|about| about.version.clone()).unwrap_or_default(),
        level: about.as_ref().map_or(0, |about| about.level),
        obstacle: about.and_then(|about| about.obstacle),
        silent_ms,
    })
}

async fn certificates(node: &Node) -> Result<Response, Failure> {
    let report = node.loaded.load().as_deref().map(inventory::Report::from);
    let heard = match report {
        // Without a leader there is still something to say: what this node has loaded itself.
        Some(report) => peer_service::report_certificates(node, &report, false, REPORT_DEADLINE)
            .await
            .unwrap_or_else(|_| node.core.reports.heard(jobs::REPORT_LIFE)),
        None => inventory::Heard::default(),
    };
    let (rows, clocks) = node.core.state.read(|view| {
        let rows = inventory::rows(view.state, &heard, SystemClock.now());
        (rows, inventory::clocks(view.state, &heard))
    });
    let rows = rows.context(Exit::Fault, "certificates in the state")?;
    Ok(Response::Certificates { rows, clocks })
}

/// Asks the leader's job for another generation, and waits until there is one.
async fn renew(node: &Node, name: &str) -> Result<Response, Failure> {
    let newest =
        || node.core.state.read(|view| view.state.certificate(name).map(|(key, _)| key.clone()));
    let key = newest()
        .ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no certificate {name}")))?;
    let is_outside = node.core.state.read(|view| {
        let record = view.state.certificate_of(&key);
        record.is_some_and(|record| record.certificate.origin == Origin::Imported)
    });
    // A root from outside is followed by one of the cluster's own.
    if is_outside && name != ROOT {
        let text = format!("{name} comes from outside: bring another with conclave cert import");
        return Err(Failure::new(Exit::Refused, text));
    }
    let command = Command::MarkCertificate { key: key.clone(), condition: Condition::Issuing };
    propose(&node.core.raft, command).await?;
    // So that what is read below is younger than the request; followers wait for it as they can.
    if let Err(error) = node.core.raft.read_barrier().await {
        tracing::debug!(%error, "certificates.renew");
    }
    let deadline = Instant::now() + CHANGE_DEADLINE;
    loop {
        let (now, failed) = node
            .core
            .state
            .read(|view| {
                let (now, record) = view.state.certificate(name)?;
                let failed = match &record.condition {
                    Condition::Failed { reason, .. } => Some(reason.clone()),
                    Condition::Ready | Condition::Issuing => None,
                };
                Some((now.generation, failed))
            })
            .unwrap_or((0, None));
        if now > key.generation {
            return Ok(Response::Renewed { revision: now });
        }
        if let Some(reason) = failed {
            return Err(Failure::new(Exit::Failed, format!("{name} was not issued: {reason}")));
        }
        if Instant::now() >= deadline {
            let text = format!("the leader has not issued {name} yet; it will");
            return Err(Failure::new(Exit::Unavailable, text));
        }
        sleep(CHANGE_POLL).await;
    }
}

async fn import(
    node: &Node,
    name: &str,
    chain_pem: &str,
    key_pem: &PrivateText,
    roots_pem: &str,
) -> Result<Response, Failure> {
    let vault = node.core.vault.load_full().ok_or_else(sealed)?;
    let now = SystemClock.now();
    let imported = import::check(chain_pem, key_pem.expose(), roots_pem, now)
        .context(Exit::Refused, "certificate")?;
    let (names, root) = (imported.names.clone(), imported.root.clone());
    let made = node.core.state.read(|view| {
        let cluster_id = &node.identity.cluster_id;
        Maker { cluster_id, state: view.state, vault: &vault, now }.imported(name, imported)
    });
    let made = made.context(Exit::Refused, "certificate")?;
    jobs::install_certificates(node, &vault, std::slice::from_ref(&made)).await?;
    let CertificateKey { name, generation } = made.key().clone();
    Ok(Response::Imported { name, revision: generation, names, root })
}

async fn request_authority(node: &Node) -> Result<Response, Failure> {
    let vault = node.core.vault.load_full().ok_or_else(sealed)?;
    let made = node.core.state.read(|view| {
        let cluster_id = &node.identity.cluster_id;
        Maker { cluster_id, state: view.state, vault: &vault, now: SystemClock.now() }.request()
    });
    let made = made.context(Exit::Failed, "request")?;
    jobs::install_certificates(node, &vault, std::slice::from_ref(&made)).await?;
    Ok(Response::Requested { pem: made.issued().certificate_pem.clone() })
}

async fn import_authority(
    node: &Node,
    chain_pem: &str,
    roots_pem: &str,
) -> Result<Response, Failure> {
    let vault = node.core.vault.load_full().ok_or_else(sealed)?;
    let made = node.core.state.read(|view| {
        let cluster_id = &node.identity.cluster_id;
        Maker { cluster_id, state: view.state, vault: &vault, now: SystemClock.now() }
            .signed(chain_pem, roots_pem)
    });
    let made = made.context(Exit::Refused, "certificate")?;
    jobs::install_certificates(node, &vault, &made).await?;
    let first = made.first().map(Made::key).cloned();
    let key = first.ok_or_else(|| Failure::new(Exit::Failed, "nothing was made"))?;
    let root = if key.name == ROOT { key.to_string() } else { "the root in force".to_owned() };
    let revision = key.generation;
    Ok(Response::Imported { name: CLUSTER_CA.to_owned(), revision, names: Vec::new(), root })
}

async fn remove_certificate(
    node: &Node,
    name: String,
    generation: Option<u32>,
) -> Result<Response, Failure> {
    let found = node.core.state.read(|view| {
        let newest = view.state.certificate(&name).map(|(key, _)| key.generation);
        let key = CertificateKey { generation: generation.or(newest)?, name: name.clone() };
        view.state.certificate_of(&key).map(|_| key)
    });
    let key = found
        .ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no certificate {name}")))?;
    propose(&node.core.raft, Command::RetireCertificate { key }).await?;
    Ok(Response::Done)
}

fn sealed() -> Failure {
    Failure::new(Exit::Unavailable, format!("this node is sealed: {NO_KEYRING}"))
}

/// Finds a member by name or id.
fn find(node: &Node, member: &str) -> Result<u64, Failure> {
    let found = node.core.state.read(|view| {
        let members = view.state.member_nodes();
        members
            .iter()
            .find(|(id, row)| row.name == member || id.to_string() == member)
            .map(|(id, _)| *id)
    });
    found.ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no member {member}")))
}

async fn remove(node: &Node, member: &str) -> Result<Response, Failure> {
    let id = find(node, member)?;
    if id == node.core.raft.status().leader.unwrap_or(0) {
        return Err(Failure::new(
            Exit::Refused,
            format!("{member} leads; run `conclave cluster transfer-leader` first"),
        ));
    }
    propose(&node.core.raft, Command::RemoveMemberNode { node: id }).await?;
    // Nobody tells a member that goes that it has been cut off: it is not talked to any more.
    if id == node.identity.node_id {
        return Ok(Response::Done);
    }
    let deadline = Instant::now() + CHANGE_DEADLINE;
    while node.core.raft.status().members.iter().any(|known| known.id == id) {
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("{member} is struck off; the leader has yet to cut it off"),
            ));
        }
        sleep(CHANGE_POLL).await;
    }
    Ok(Response::Done)
}

/// Has load balancers turn away from this node, and gives its leadership to another.
async fn drain(node: &Node, undo: bool) -> Result<Response, Failure> {
    if undo {
        node.door.undrain();
        return Ok(Response::Done);
    }
    node.door.drain();
    let deadline = Instant::now() + CHANGE_DEADLINE;
    // The autopilot hands over; also later, should nobody else come to lead.
    while node.core.raft.leads() {
        let status = node.core.raft.status();
        if !status.members.iter().any(|member| member.voter && member.id != status.node_id) {
            let text = "load balancers are told to turn away; it leads on, as the only voter";
            return Err(Failure::new(Exit::Refused, text));
        }
        if Instant::now() >= deadline {
            let text = "load balancers are told to turn away; nobody else has come to lead yet";
            return Err(Failure::new(Exit::Unavailable, text));
        }
        sleep(CHANGE_POLL).await;
    }
    Ok(Response::Done)
}

async fn transfer(node: &Node, to: Option<&str>) -> Result<Response, Failure> {
    let to = to.map(|member| find(node, member)).transpose()?;
    let raft = &node.core.raft;
    let leader = match raft.transfer_leader(to).await {
        Ok(leader) => leader,
        // Only the leader can hand over; asked elsewhere, the leader is asked to.
        Err(ChangeError::NotLeader { leader: Some(leader) }) => {
            peer_service::ask_transfer(raft, leader, to, CHANGE_DEADLINE).await?
        }
        Err(error) => return Err(Failure::new(Exit::Unavailable, error)),
    };
    Ok(Response::Leader { leader: Some(leader) })
}
