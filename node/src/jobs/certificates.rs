//! Keeps certificates in force: every node loads what the state holds for it into its listeners and
//! endpoints, without a restart and while connections live on, and says so to the leader ([`load`]);
//! the leader issues what is due ([`renew`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::certificates::{
    CLUSTER, CertificateKey, Condition, EDGE_PREFIX, FOLLOWER_PREFIX, ROOT,
};
use conclave_domain::command::Command;
use conclave_domain::state::State;
use conclave_domain::time::{Clock, Timestamp};
use conclave_raft::status::NodeState;
use conclave_storage::seal::Vault;
use metrics::gauge;
use tokio::time::{Instant, sleep};

use crate::certificates::inventory::{Heard, Loaded, Report, fingerprint, rows};
use crate::certificates::plan::{self, Step};
use crate::certificates::store::{self, Made, Maker};
use crate::certificates::telling::Telling;
use crate::certificates::template::BACKDATE_MS;
use crate::certificates::{CertificateError, Issued, check};
use crate::clock::SystemClock;
use crate::compose::{Node, propose};
use crate::exit::{Context, Exit, Failure};
use crate::metrics::{CERTIFICATE_LEFT, CERTIFICATE_LOADED, CERTIFICATE_REVISION, CLOCK_AHEAD};
use crate::peer_service;
use crate::seed::SeedRole;
use crate::tls::{peer_material, server_certificates};

/// How often a node looks for what is new.
const EVERY: Duration = Duration::from_millis(200);
/// How often the leader looks for what is due.
const LEADER_EVERY: Duration = Duration::from_millis(500);
/// How long telling may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// For how long what a member told counts.
pub const REPORT_LIFE: Duration = Duration::from_secs(15);
/// Pause after a load or an issue that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// A failed renewal is tried again after a minute, then after twice that, up to eight hours.
const BACKOFF_MS: i64 = 60_000;
const BACKOFF_DOUBLINGS_MAX: u32 = 9;

/// What a node found in the state and is to load.
struct Found {
    own: CertificateKey,
    issued: Issued,
    others: Vec<(Vec<String>, Issued)>,
    presentable: Vec<CertificateKey>,
    roots: Vec<u32>,
    roots_pem: String,
    not_after: Timestamp,
    stopgap: bool,
}

/// Runs for as long as the node does.
pub async fn load(node: Arc<Node>) {
    let mut measured = BTreeSet::new();
    let mut telling = Telling::default();
    let start = Instant::now();
    loop {
        sleep(EVERY).await;
        if is_stale(&node)
            // It writes files and opens keys: let the reactor's other work move over meanwhile.
            && let Err(failure) = tokio::task::block_in_place(|| load_once(&node))
        {
            tracing::warn!(%failure, "certificates.load failed; what was loaded stays in force");
            sleep(AFTER_FAILURE).await;
            continue;
        }
        let Some(report) = node.loaded.load().as_deref().map(Report::from) else { continue };
        let status = node.core.raft.status();
        let (what, members) = ((report, status.leader), status.members.len());
        if telling.is_due(&what, members, start.elapsed(), chance()) {
            // What the others have loaded is the voters' to watch.
            let brief = node.identity.role == SeedRole::Follower;
            let told =
                peer_service::report_certificates(&node, &what.0, brief, REPORT_DEADLINE).await;
            measure(&node, told.as_ref().ok().filter(|_| !brief), &mut measured);
            match told {
                Ok(_heard) => telling.told(what, start.elapsed(), chance()),
                Err(_failure) => telling.failed(members, start.elapsed(), chance()),
            }
        }
    }
}

/// A number for a lot. Without randomness lots are equal, and everything works all the same.
fn chance() -> u16 {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).map_or(0, |()| u16::from_be_bytes(bytes))
}

/// Whether the state holds other certificates than those loaded, or what is loaded has ended.
fn is_stale(node: &Node) -> bool {
    let loaded = node.loaded.load();
    let Some(loaded) = loaded.as_deref() else { return true };
    if SystemClock.now() >= loaded.not_after {
        return true;
    }
    node.core.state.read(|view| {
        let own = own(node, view.state);
        (own.as_ref() != Some(&loaded.certificate) && own.is_some())
            || presentable(view.state) != loaded.presentable
            || roots(view.state) != loaded.roots
            || loaded.stopgap && own.is_some_and(|own| is_alive(view.state, &own))
    })
}

fn own(node: &Node, state: &State) -> Option<CertificateKey> {
    let identity = &node.identity;
    plan::presented_as(state, identity.role.into(), &identity.name).map(|(key, _)| key.clone())
}

fn is_alive(state: &State, key: &CertificateKey) -> bool {
    let now = SystemClock.now();
    state.certificate_of(key).is_some_and(|record| now < record.certificate.not_after)
}

fn roots(state: &State) -> Vec<u32> {
    let roots = state.certificates().map(|(key, _)| key).filter(|key| key.name == ROOT);
    roots.map(|key| key.generation).collect()
}

/// All that may be presented to clients, by the names in it.
fn presentable(state: &State) -> Vec<CertificateKey> {
    let keys = state.certificates().map(|(key, _)| key);
    let prefixes = [FOLLOWER_PREFIX, EDGE_PREFIX];
    keys.filter(|key| {
        key.name == CLUSTER || prefixes.iter().any(|prefix| key.name.starts_with(prefix))
    })
    .cloned()
    .collect()
}

/// Loads what the state holds for this node. Where that has ended, which means that the node was away
/// for long or the whole cluster was, it makes one for itself: else it could not reach the others to
/// hear of a newer one, nor could they elect a leader that renews.
fn load_once(node: &Node) -> Result<(), Failure> {
    let Some(vault) = node.core.vault.load_full() else { return Ok(()) };
    let found = node.core.state.read(|view| find(node, view.state, &vault));
    let Some(found) = found.context(Exit::Fault, "certificates in the state")? else {
        return Ok(());
    };
    let now = SystemClock.now();
    let (issued, roots_pem) = (&found.issued, &found.roots_pem);
    check::cluster_certificate(roots_pem, &issued.certificate_pem, &[], now)
        .context(Exit::Fault, format_args!("certificate {}", found.own))?;
    let peers = peer_material(&node.identity.cluster_id, roots_pem, issued)?;
    let clients = server_certificates(issued, &found.others)?;
    node.with_master(|master| {
        let is_kept = node.folder.root_pem()? == *roots_pem
            && node.folder.cluster_certificate(master)?.certificate_pem == issued.certificate_pem;
        if is_kept {
            return Ok(());
        }
        node.folder.replace_certificates(master, roots_pem, issued)
    })?;
    node.core.peer_tls.reload(peers).context(Exit::Fault, "TLS between nodes")?;
    node.tls.replace(clients);
    let fingerprint =
        fingerprint(&issued.certificate_pem).context(Exit::Fault, "certificates in the state")?;
    tracing::info!(
        certificate = %found.own,
        fingerprint,
        roots = ?found.roots,
        stopgap = found.stopgap,
        "certificates.loaded"
    );
    node.loaded.store(Some(Arc::new(Loaded {
        certificate: found.own,
        roots: found.roots,
        presentable: found.presentable,
        fingerprint,
        not_after: found.not_after,
        stopgap: found.stopgap,
        at: now,
    })));
    Ok(())
}

fn find(node: &Node, state: &State, vault: &Vault) -> Result<Option<Found>, CertificateError> {
    let Some(own) = own(node, state) else { return Ok(None) };
    let Some(record) = state.certificate_of(&own) else { return Ok(None) };
    let now = SystemClock.now();
    let stopgap = now >= record.certificate.not_after;
    let (issued, not_after) = if stopgap {
        let cluster_id = &node.identity.cluster_id;
        let maker = Maker { cluster_id, state, vault, now };
        // Looked at again tomorrow, unless the state has a newer one before.
        let until = Timestamp(now.0 + 86_400_000);
        (maker.stopgap(node.identity.role.into(), &node.identity.name)?, until)
    } else {
        let issued = store::open(vault, &own, &record.certificate)?;
        (issued, record.certificate.not_after)
    };
    let presentable = presentable(state);
    let mut others = Vec::new();
    // The last word on a name is at the edge: what the operator has brought for it.
    let at_edge = |key: &&CertificateKey| key.name.starts_with(EDGE_PREFIX);
    let inner = presentable.iter().filter(|key| **key != own && !at_edge(key));
    for key in inner.chain(presentable.iter().filter(at_edge)) {
        let Some(record) = state.certificate_of(key) else { continue };
        // Of the cluster's own, a node answers with what it presents wherever that has the name.
        let is_own = |name: &String| !at_edge(&key) && record_names(state, &own, name);
        let names = record.certificate.names.iter().filter(|name| !is_own(name)).cloned();
        let is_over = now >= record.certificate.not_after;
        if !is_over {
            others.push((names.collect(), store::open(vault, key, &record.certificate)?));
        }
    }
    let (roots, roots_pem) = (roots(state), plan::roots_pem(state));
    Ok(Some(Found { own, issued, others, presentable, roots, roots_pem, not_after, stopgap }))
}

fn record_names(state: &State, key: &CertificateKey, name: &String) -> bool {
    state.certificate_of(key).is_some_and(|record| record.certificate.names.contains(name))
}

/// Tells the meters how the certificates stand, and what was heard of members. `measured` are the
/// names told of before: of those that are gone nothing is said any more.
fn measure(node: &Node, heard: Option<&Heard>, measured: &mut BTreeSet<String>) {
    // Gauges are floating point; a century of seconds is exact in one.
    let exact = |number: i64| f64::from(i32::try_from(number).unwrap_or(i32::MAX));
    let now = SystemClock.now();
    let nobody = Heard::default();
    let rows = node.core.state.read(|view| rows(view.state, heard.unwrap_or(&nobody), now));
    let Ok(rows) = rows else { return };
    let gone: Vec<String> =
        measured.iter().filter(|name| rows.iter().all(|row| row.name != **name)).cloned().collect();
    for name in gone {
        measured.remove(&name);
        for metric in [CERTIFICATE_LEFT, CERTIFICATE_REVISION, CERTIFICATE_LOADED] {
            gauge!(metric, "name" => name.clone()).set(f64::NAN);
        }
    }
    for row in rows {
        gauge!(CERTIFICATE_LEFT, "name" => row.name.clone()).set(exact(row.seconds_left));
        gauge!(CERTIFICATE_REVISION, "name" => row.name.clone()).set(f64::from(row.revision));
        if heard.is_some() && !row.consumers.is_empty() {
            let loaded = row.consumers.iter().filter(|consumer| consumer.loaded).count();
            let all = i64::try_from(row.consumers.len()).unwrap_or(i64::MAX);
            let lacking = all - i64::try_from(loaded).unwrap_or(i64::MAX);
            gauge!(CERTIFICATE_LOADED, "name" => row.name.clone()).set(exact(lacking));
        }
        measured.insert(row.name);
    }
    for (id, (_, ahead)) in heard.iter().flat_map(|heard| &heard.members) {
        gauge!(CLOCK_AHEAD, "member" => id.to_string()).set(exact(*ahead) / 1000.0);
    }
}

/// Runs for as long as the node does.
pub async fn renew(node: Arc<Node>) {
    loop {
        sleep(LEADER_EVERY).await;
        if node.core.raft.status().state != NodeState::Leader {
            continue;
        }
        let Some(vault) = node.core.vault.load_full() else { continue };
        let heard = node.core.reports.heard(REPORT_LIFE);
        let Some(step) = due(&node, &heard) else { continue };
        // As with members: a new leader's state may be far behind its log.
        if node.core.raft.read_barrier().await.is_err()
            || due(&node, &heard).as_ref() != Some(&step)
        {
            continue;
        }
        match take(&node, &vault, &step).await {
            Ok(()) => tracing::info!(?step, "certificates.step"),
            Err(failure) => {
                tracing::warn!(?step, %failure, "certificates.step failed; it will be tried again");
                if failure.exit != Exit::Unavailable {
                    mark_failed(&node, &step, &failure).await;
                }
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

fn due(node: &Node, heard: &Heard) -> Option<Step> {
    let config = node.config();
    let (names, now) = (&config.tls.names, SystemClock.now());
    node.core.state.read(|view| plan::next_step(view.state, names, heard, now))
}

async fn take(node: &Node, vault: &Vault, step: &Step) -> Result<(), Failure> {
    if let Step::Retire(key) = step {
        let command = Command::RetireCertificate { key: key.clone() };
        return propose(&node.core.raft, command).await.map(drop);
    }
    // Certificates begin a day in the past. With a clock further off than that, what is issued would
    // be refused by everybody else; half of it is left to clients.
    let off = node.core.reports.heard(REPORT_LIFE).middle_clock();
    if off.abs() > BACKDATE_MS / 2 {
        let text = format!(
            "the clock of the leader is {} minutes {} that of the other members; set it right, or hand \
             leadership over",
            off.abs() / 60_000,
            if off < 0 { "ahead of" } else { "behind" },
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    let cluster_id = &node.identity.cluster_id;
    // Signing takes tens of microseconds, so the state may wait for it.
    let made: Result<Vec<Made>, CertificateError> = node.core.state.read(|view| {
        let maker = Maker { cluster_id, state: view.state, vault, now: SystemClock.now() };
        match step {
            Step::Issue { name, .. } => {
                maker.next(name, &node.config().tls.names).map(|made| vec![made])
            }
            Step::PublishRoot => maker.next_root().map(|made| vec![made]),
            Step::UseRoot(key) => maker.use_root(key),
            Step::Retire(_) => Ok(Vec::new()),
        }
    });
    let made = made.context(Exit::Failed, "issue")?;
    install(node, vault, &made).await
}

/// Puts certificates in force.
///
/// # Errors
/// When a key cannot be sealed, the log refuses them, or there is no leader.
pub async fn install(node: &Node, vault: &Vault, made: &[Made]) -> Result<(), Failure> {
    let sealed = made.iter().map(|made| made.seal(vault));
    let certificates = sealed.collect::<Result<_, _>>().context(Exit::Failed, "issue")?;
    propose(&node.core.raft, Command::InstallCertificates { certificates }).await.map(drop)
}

/// Writes down that a renewal failed, and when it is tried again.
async fn mark_failed(node: &Node, step: &Step, failure: &Failure) {
    let name = match step {
        Step::Issue { name, .. } => name.as_str(),
        Step::PublishRoot | Step::UseRoot(_) | Step::Retire(_) => ROOT,
    };
    let marked = node.core.state.read(|view| {
        let (key, record) = view.state.certificate(name)?;
        let attempts = match &record.condition {
            Condition::Failed { attempts, .. } => attempts.saturating_add(1),
            Condition::Ready | Condition::Issuing => 1,
        };
        let wait = BACKOFF_MS << (attempts - 1).min(BACKOFF_DOUBLINGS_MAX);
        let next_try = Timestamp(SystemClock.now().0.saturating_add(wait));
        let reason = failure.message.clone();
        Some((key.clone(), Condition::Failed { reason, attempts, next_try }))
    });
    let Some((key, condition)) = marked else { return };
    let command = Command::MarkCertificate { key, condition };
    if let Err(failure) = propose(&node.core.raft, command).await {
        tracing::debug!(%failure, "certificates.mark");
    }
}
