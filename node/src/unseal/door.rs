//! What a node answers while it has no master key: HTTPS and plain health checks that it is sealed, the
//! operator where it stands; and it takes the passphrase.
//!
//! The key of the node's certificate is sealed, too. So HTTPS presents a certificate made for the
//! moment, which clients refuse as they would refuse a closed port, and which load balancers that do not
//! verify may look behind.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use conclave_api::{SealedReason, ServerTls, sealed_router, serve, serve_plain};
use conclave_storage::seal::Secret;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wait::{Reason, Typed};
use crate::admin::protocol::{Request, Response, Status};
use crate::admin::socket::{listen, reply};
use crate::certificates::throwaway;
use crate::config::Config;
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, NodeFile};
use crate::lifecycle::told_to_stop;
use crate::tls::server_certificates;

/// How long what is being answered may hold up the opening.
const CLOSE: Duration = Duration::from_secs(5);

/// The listeners of a sealed node. Dropping it closes them at once.
pub(super) struct SealedDoor {
    told: SealedReason,
    why: Reason,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl SealedDoor {
    /// Binds every port that the open node will bind.
    pub(super) async fn open(
        config: &Config,
        what: &str,
        why: String,
        ask: mpsc::Sender<Typed>,
    ) -> Result<Self, Failure> {
        let identity = Folder::new(&config.node.data).read_node()?;
        let told: SealedReason = Arc::new(ArcSwap::from_pointee(sealed(what)));
        let why: Reason = Arc::new(ArcSwap::from_pointee(why));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let until = |stopped: &watch::Receiver<bool>| {
            let mut stopped = stopped.clone();
            async move { told_to_stop(&mut stopped).await }
        };

        let listener = TcpListener::bind(config.api.listen)
            .await
            .context(Exit::Configuration, format_args!("api.listen {}", config.api.listen))?;
        let presented = throwaway(&config.node.name).context(Exit::Fault, "certificate")?;
        let tls = ServerTls::new(server_certificates(&presented, &[])?, None);
        let tls = Arc::new(tls.context(Exit::Fault, "TLS towards clients")?);
        tasks.spawn(serve(listener, tls, sealed_router(&told), until(&stopped)));
        if let Some(address) = config.api.health_listen {
            let listener = TcpListener::bind(address)
                .await
                .context(Exit::Configuration, format_args!("api.health_listen {address}"))?;
            tasks.spawn(serve_plain(listener, sealed_router(&told), until(&stopped)));
        }
        let (data, api_url) = (config.node.data.clone(), config.api.url.clone());
        let answering = {
            let why = why.clone();
            move |request, mut write| {
                let status = status(&identity, &api_url, &why.load());
                let (why, ask) = (why.clone(), ask.clone());
                async move { reply(&mut write, answer(request, status, &why, &ask).await).await }
            }
        };
        tasks.spawn(async move {
            if let Err(failure) = listen(&data, stopped, answering).await {
                tracing::error!(error = %failure, "admin.socket");
            }
        });
        Ok(Self { told, why, stop, tasks })
    }

    /// It waits for something else now.
    pub(super) fn waits_for(&self, what: &str, why: String) {
        if **self.why.load() != why {
            tracing::warn!(reason = why, "node.sealed");
        }
        self.told.store(Arc::new(sealed(what)));
        self.why.store(Arc::new(why));
    }

    /// Lets go of all ports, so that the open node can have them.
    pub(super) async fn close(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(CLOSE, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

fn sealed(what: &str) -> String {
    format!("this node is sealed: {what}")
}

async fn answer(
    request: Request,
    status: Status,
    why: &Reason,
    ask: &mpsc::Sender<Typed>,
) -> Result<Response, Failure> {
    if request == Request::Status {
        return Ok(Response::Status(Box::new(status)));
    }
    let Request::Unseal { passphrase } = request else {
        return Err(Failure::new(Exit::Unavailable, sealed(&why.load())));
    };
    let passphrase = Secret::new(passphrase.expose().as_bytes().to_vec());
    let (answer, answered) = oneshot::channel();
    let gone = || Failure::new(Exit::Unavailable, "the node has just been unsealed, or ends");
    ask.try_send(Typed { passphrase, answer }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            Failure::new(Exit::Unavailable, "another passphrase is being tried: try again")
        }
        mpsc::error::TrySendError::Closed(_) => gone(),
    })?;
    answered.await.map_err(|_| gone())??;
    Ok(Response::Done)
}

fn status(identity: &NodeFile, api_url: &str, why: &str) -> Status {
    Status {
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        name: identity.name.clone(),
        part: "sealed".to_owned(),
        term: 0,
        leader: None,
        last_log: 0,
        committed: 0,
        applied: 0,
        snapshot: 0,
        age_ms: None,
        sealed: true,
        sealed_reason: Some(why.to_owned()),
        log_fsyncs: 0,
        log_bytes_written: 0,
        pid: std::process::id(),
        api_url: api_url.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        members: Vec::new(),
        rotations: Vec::new(),
        draining: false,
        level: 0,
        level_max: 0,
        remove_dead_after_s: None,
    }
}
