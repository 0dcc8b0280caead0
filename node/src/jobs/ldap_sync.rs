//! Runs profiles of LDAP Sync when their schedules say so, on the leader only. When a profile ran last is in
//! the state, so whoever leads next goes on with the same schedule.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::id::ResourceId;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::compose::Node;

/// How often the leader looks for what is due.
const EVERY: Duration = Duration::from_secs(1);
/// Runs in work at once.
const IN_WORK_MAX: usize = 4;

/// Runs for as long as the node does.
pub(crate) async fn ldap_sync(node: Arc<Node>) {
    let mut work: JoinSet<ResourceId> = JoinSet::new();
    let mut in_work: HashSet<ResourceId> = HashSet::new();
    // A run that could not be remembered is not tried again at once, without end.
    let mut tried: HashMap<ResourceId, Instant> = HashMap::new();
    loop {
        sleep(EVERY).await;
        while let Some(done) = work.try_join_next() {
            match done {
                Ok(webservice) => {
                    in_work.remove(&webservice);
                }
                // Which one it was is not told: a run that panics is a fault of ours, and in the log.
                Err(error) => tracing::error!(%error, "ldap_sync.run ended"),
            }
        }
        if work.is_empty() {
            in_work.clear();
        }
        if !node.core.raft.leads() {
            // Only one node runs them. What still asks a directory is cut off here; what is past that goes on to
            // its end by itself.
            work.shutdown().await;
            in_work.clear();
            tried.clear();
            continue;
        }
        let due = node.door.ldap_syncs_due();
        if due.is_empty() || node.core.raft.read_barrier().await.is_err() {
            continue;
        }
        for due in node.door.ldap_syncs_due() {
            let waits = tried.get(&due.webservice).is_some_and(|at| at.elapsed() < due.every);
            if waits || work.len() >= IN_WORK_MAX || !in_work.insert(due.webservice.clone()) {
                continue;
            }
            tried.insert(due.webservice.clone(), Instant::now());
            let door = node.door.clone();
            work.spawn(async move {
                door.ldap_sync(&due.webservice).await;
                due.webservice
            });
        }
        tried.retain(|_, at| at.elapsed() < Duration::from_hours(24 * 30));
    }
}
