//! What is watched during a trial beside the load: whether the follower serves, and who leads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave::admin::protocol::Status;
use futures::future::join_all;
use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::checker::terms::{Sample, Terms};
use crate::client::{Door, Login};
use crate::process::cluster::{Cluster, status};

/// Between two probes of the follower.
const PROBE_EVERY: Duration = Duration::from_millis(40);
/// An answer of the follower that takes longer counts as a failure.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// Between two looks at all nodes' terms.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Logs in and reads on a follower, again and again.
pub struct FollowerProbe {
    shared: Arc<ProbeShared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct ProbeShared {
    stop: AtomicBool,
    tried: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl FollowerProbe {
    /// Starts probing: an API key for a token, then that secret's value, on a door of its own.
    pub fn start(door: &Door, login: Arc<Login>, secret: Arc<str>) -> Self {
        let door = door.renamed(door.node);
        let shared = Arc::new(ProbeShared::default());
        let task = tokio::spawn(Arc::clone(&shared).run(door, login, secret));
        Self { shared, task }
    }

    /// Stops probing; how many probes were sent, and what was wrong with those that failed.
    pub async fn stop(self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The task ends by itself within one deadline.
        self.task.await.ok();
        let mut failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        (self.shared.tried.load(Ordering::SeqCst), std::mem::take(&mut *failures))
    }
}

impl ProbeShared {
    async fn run(self: Arc<Self>, door: Door, login: Arc<Login>, secret: Arc<str>) {
        let mut ticks = interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::SeqCst) {
            ticks.tick().await;
            for (what, request) in
                [("login", login.authenticate()), ("read", login.read(&secret, None))]
            {
                self.tried.fetch_add(1, Ordering::SeqCst);
                let failure = match door.send(request, PROBE_DEADLINE, || {}).await {
                    Ok(answer) if answer.status == StatusCode::OK => continue,
                    Ok(answer) => format!("{what}: {}", answer.words()),
                    Err(error) => format!("{what}: {error}"),
                };
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
            }
        }
    }
}

/// Samples what all nodes say about their terms, for the whole of a drill.
pub struct TermWatch {
    terms: Arc<Mutex<Terms>>,
    folders: Arc<Mutex<Vec<PathBuf>>>,
    task: JoinHandle<()>,
}

impl TermWatch {
    /// Starts sampling.
    pub fn start(cluster: &Cluster) -> Self {
        let terms = Arc::new(Mutex::new(Terms::default()));
        let folders = cluster.nodes.iter().map(|node| node.place.data()).collect();
        let folders: Arc<Mutex<Vec<PathBuf>>> = Arc::new(Mutex::new(folders));
        let (shared, watched) = (Arc::clone(&terms), Arc::clone(&folders));
        let task = tokio::spawn(async move {
            let mut ticks = interval(SAMPLE_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let now = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let statuses = join_all(now.into_iter().map(status)).await;
                let mut terms = shared.lock().unwrap_or_else(PoisonError::into_inner);
                statuses.iter().flatten().for_each(|status| terms.observe(sample(status)));
            }
        });
        Self { terms, folders, task }
    }

    /// Samples another node, too.
    pub fn also(&self, data: PathBuf) {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).push(data);
    }

    /// The largest term seen so far.
    pub fn last_term(&self) -> u64 {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner).last_term()
    }

    /// Stops sampling and gives what was seen.
    pub async fn stop(self) -> Terms {
        self.task.abort();
        // It was told to end; how it did says nothing.
        self.task.await.ok();
        std::mem::take(&mut *self.terms.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn sample(status: &Status) -> Sample {
    Sample {
        node: status.node_id,
        life: u64::from(status.pid),
        term: status.term,
        // What it promised to its peers cannot be seen from outside.
        promised: 0,
        leads: status.part == "leader",
        applied: status.applied,
    }
}
