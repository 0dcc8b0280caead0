//! The life of `conclave server`: build, serve, drain, stop. SIGTERM and SIGINT hand leadership over
//! first, then let running requests finish; a fault ends the process at once, with a text that says
//! what to do.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::admin;
use crate::compose::Node;
use crate::config::Config;
use crate::exit::{Context, Exit, Failure};
use crate::folder::Folder;
use crate::jobs;
use crate::local_socket;
use crate::reload::reload;
use crate::seeding::SeedDesk;
use crate::telemetry;
use crate::unseal;
use conclave_raft::status::NodeState;

/// How long handing leadership over may hold up a stop.
const HAND_OVER: Duration = Duration::from_secs(3);
/// How long running requests may hold up a stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Asked by a signal: hand over, drain.
    Asked,
    /// Standard input was closed: the parent has gone or wants everybody gone.
    Orphaned,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// [`Exit::Fault`] when disk or keys are not in order, or the node stopped itself on a fault.
pub async fn serve(config: &Config, end_with_stdin: bool) -> Result<(), Failure> {
    telemetry::start(&config.log);
    forbid_core_dumps();
    let mut ends = watch_ends(end_with_stdin)?;
    // From the first moment on, since a hang-up that nobody takes ends the process.
    let mut hang_ups = signal(SignalKind::hangup()).context(Exit::Failed, "signals")?;
    let recorder = PrometheusBuilder::new().install_recorder().context(Exit::Failed, "metrics")?;
    crate::metrics::describe();
    let metrics_text = Arc::new(move || recorder.render());

    let building = async {
        // Before anybody is asked for a passphrase.
        let folder = Folder::new(&config.node.data);
        drop(folder.read_node()?);
        folder.refuse_half_recovered()?;
        let master = unseal::master_key(config).await?;
        Node::build_with(config, master, Some(metrics_text)).await
    };
    let ready = tokio::select! {
        node = building => node?,
        _ = ends.recv() => return Ok(()),
    };
    let node = Arc::new(ready);
    tracing::info!(
        node_id = node.identity.node_id,
        name = node.identity.name,
        cluster = node.identity.cluster_id,
        api = %config.api.listen,
        peer = %config.peer.listen,
        version = env!("CARGO_PKG_VERSION"),
        "node.started"
    );
    let (stop, stopped) = watch::channel(false);
    let http = tokio::spawn(serve_https(node.clone(), stopped.clone()));
    if let Some(listener) = node.take_health_listener() {
        let (router, mut stopped) = (conclave_api::health_router(&node.door), stopped.clone());
        // It answers until the requests in work are done: load balancers are to see the end coming.
        tokio::spawn(async move {
            let shutdown = async move { told_to_stop(&mut stopped).await };
            conclave_api::serve_plain(listener, router, shutdown).await;
        });
    }
    let operator = tokio::spawn(admin::server::serve(node.clone(), stopped.clone()));
    if let Some(path) = config.api.local_socket.clone() {
        let listener = local_socket::bind(&path)?;
        tokio::spawn(local_socket::serve(listener, node.door.clone(), path, stopped));
    }
    node.door.issue_seeds_with(SeedDesk::new(&node));
    let membership = tokio::spawn(jobs::membership(node.clone()));
    let autopilot = tokio::spawn(jobs::autopilot(node.clone()));
    let sweep = tokio::spawn(jobs::sweep(node.clone()));
    let rotation = tokio::spawn(jobs::rotation(node.clone()));
    let ldap_sync = tokio::spawn(jobs::ldap_sync(node.clone()));
    let reseal = tokio::spawn(jobs::reseal(node.clone()));
    let tend = tokio::spawn(jobs::tend(node.clone()));
    let ship = tokio::spawn(jobs::ship(node.clone()));
    let certificates = tokio::spawn(jobs::load_certificates(node.clone()));
    let renewals = tokio::spawn(jobs::renew_certificates(node.clone()));
    let outputs = tokio::spawn(jobs::outputs(node.clone()));
    let unseal = jobs::unseal(node.clone());
    let reloading = {
        let node = node.clone();
        tokio::spawn(async move {
            while hang_ups.recv().await.is_some() {
                // Told in the log and in the audit trail.
                drop(reload(&node).await);
            }
        })
    };

    let result = tokio::select! {
        end = ends.recv() => Ok(end.unwrap_or(End::Orphaned)),
        failure = unseal => Err(failure),
        failure = fault(&node) => Err(failure),
        result = operator => Err(match result {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) | Err(_) => Failure::new(Exit::Fault, "the admin socket ended"),
        }),
    };
    let end = match result {
        Ok(end) => end,
        Err(failure) => {
            // Nothing more may be acknowledged: end without draining.
            tracing::error!(error = %failure, "node.fault");
            return Err(failure);
        }
    };
    tracing::info!(?end, "node.stopping");
    node.door.drain();
    membership.abort();
    autopilot.abort();
    sweep.abort();
    rotation.abort();
    ldap_sync.abort();
    reseal.abort();
    tend.abort();
    certificates.abort();
    renewals.abort();
    reloading.abort();
    if end == End::Asked {
        hand_over(&node).await;
    }
    stop.send_replace(true);
    match timeout(DRAIN, http).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "http.drain"),
        Err(_) => tracing::warn!(limit = ?DRAIN, "http.drain cut short"),
    }
    // What was answered meanwhile may still want to be in the chain: till here.
    ship.abort();
    outputs.abort();
    node.core.stop().await;
    tracing::info!("node.stopped");
    Ok(())
}

/// Ends when the node stops, or has gone.
pub(crate) async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    while !*stopped.borrow_and_update() {
        if stopped.changed().await.is_err() {
            return;
        }
    }
}

async fn serve_https(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let router = conclave_api::router(node.door.clone());
    let shutdown = async move { told_to_stop(&mut stopped).await };
    // The listener is bound at build; the node keeps it for as long as it serves.
    if let Some(listener) = node.take_listener() {
        conclave_api::serve(listener, node.tls.clone(), router, shutdown).await;
    } else {
        tracing::error!("the listener was taken already");
    }
}

/// Gives leadership to another voter, where this node leads and there is another.
async fn hand_over(node: &Node) {
    let status = node.core.raft.status();
    let others = status.members.iter().any(|member| member.voter && member.id != status.node_id);
    if status.state != NodeState::Leader || !others {
        return;
    }
    match timeout(HAND_OVER, node.core.raft.transfer_leader(None)).await {
        Ok(Ok(leader)) => tracing::info!(leader, "leader.handed_over"),
        Ok(Err(error)) => tracing::warn!(%error, "leader.hand_over"),
        Err(_) => tracing::warn!(limit = ?HAND_OVER, "leader.hand_over cut short"),
    }
}

/// Ends when the storage has failed.
async fn fault(node: &Node) -> Failure {
    let mut fault = node.core.fault.clone();
    let told = fault.wait_for(Option::is_some).await.ok().and_then(|text| text.clone());
    Failure::new(Exit::Fault, told.unwrap_or_else(|| "Raft has stopped".to_owned()))
}

/// Signals, and the end of standard input where that counts.
fn watch_ends(end_with_stdin: bool) -> Result<mpsc::UnboundedReceiver<End>, Failure> {
    let (send, ends) = mpsc::unbounded_channel();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context(Exit::Failed, "signals")?;
        let send = send.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if send.send(End::Asked).is_err() {
                    break;
                }
            }
        });
    }
    if end_with_stdin {
        // A thread of its own: reading standard input cannot be cancelled.
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let mut buffer = [0_u8; 256];
                while matches!(std::io::stdin().read(&mut buffer), Ok(count) if count > 0) {}
                // The receiver may have gone: then the node is ending anyway.
                let _ = send.send(End::Orphaned);
            })
            .context(Exit::Failed, "thread")?;
    }
    Ok(ends)
}

/// Memory holds keys: no core file, no reading by other processes of the same user.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process stays dumpable");
    }
}
