//! Forgets what has expired: host factory tokens whose time is over. The leader asks the log to, once
//! in a while and only when there is something to forget; until then expiry is checked at each use.

use std::sync::Arc;
use std::time::Duration;

use conclave_domain::command::Command;
use conclave_domain::time::Clock;
use conclave_raft::status::NodeState;
use tokio::time::sleep;

use crate::clock::SystemClock;
use crate::compose::{Node, propose};

/// How often the leader looks.
const EVERY: Duration = Duration::from_mins(1);

/// Runs for as long as the node does.
pub async fn sweep(node: Arc<Node>) {
    loop {
        sleep(EVERY).await;
        if node.core.raft.status().state != NodeState::Leader {
            continue;
        }
        let now = SystemClock.now();
        let is_due = |node: &Node| {
            node.core
                .state
                .read(|view| view.state.expired_host_factory_tokens(now).next().is_some())
        };
        if is_due(&node)
            && let Err(error) = propose(&node.core.raft, Command::SweepHostFactoryTokens).await
        {
            tracing::debug!(%error, "sweep.tokens failed; it will be tried again");
        }
    }
}
