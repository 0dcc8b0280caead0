//! Makes Raft's members those that the log has admitted. The log says who belongs to the cluster;
//! Raft's own list says who gets entries and who votes. The leader brings the second in line with
//! the first, one step at a time, so that whichever step a leader dies in, the next one goes on:
//!
//! ```text
//! admitted, unknown to Raft   → add as follower      (entries flow)
//! admitted as voter, no vote  → promote once caught up, and fit to serve for a while
//! known to Raft, struck off   → remove               (connections are refused from then on)
//! ```

use std::sync::Arc;
use std::time::Duration;

use conclave_domain::records::{FOUNDER, Member, MemberRole};
use conclave_raft::status::NodeState;
use conclave_raft::{ChangeError, NodeInfo, NodeRole};
use tokio::time::sleep;

use crate::compose::Node;

/// How often the leader compares the lists.
const EVERY: Duration = Duration::from_millis(50);
/// Pause after a step that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// How long a promotion waits for the last entries.
const CATCH_UP: Duration = Duration::from_secs(2);
/// A voter-to-be this close to the end of the log is worth promoting.
const LAG_MAX: u64 = 100;

/// One step towards the list in the log.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Add(u64, NodeInfo),
    Promote(u64),
    Remove(u64),
}

/// Runs for as long as the node does.
pub async fn membership(node: Arc<Node>) {
    loop {
        sleep(EVERY).await;
        let status = node.core.raft.status();
        if status.state != NodeState::Leader {
            continue;
        }
        let Some(step) = next_step(&node, &status) else { continue };
        let raft = &node.core.raft;
        // The state of a new leader may be far behind its log, and who is not admitted there yet a
        // member all the same. So look again once everything is applied that was committed.
        if raft.read_barrier().await.is_err()
            || next_step(&node, &raft.status()).as_ref() != Some(&step)
        {
            continue;
        }
        let result = match &step {
            Step::Add(id, info) => raft.add_follower(*id, info.clone()).await,
            Step::Promote(id) => raft.promote(*id, CATCH_UP).await,
            Step::Remove(id) => raft.remove(*id).await,
        };
        match result {
            Ok(index) => tracing::info!(?step, index, "membership.step"),
            Err(ChangeError::NotLeader { .. }) => {}
            Err(error) => {
                tracing::debug!(?step, %error, "membership.step failed; it will be tried again");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

fn next_step(node: &Node, status: &conclave_raft::status::Status) -> Option<Step> {
    node.core.state.read(|view| {
        let admitted = view.state.member_nodes();
        // Before the founder is admitted the log's list says nothing.
        if admitted.is_empty() {
            return None;
        }
        for (id, member) in admitted {
            let known = status.members.iter().find(|known| known.id == *id);
            match known {
                None => return Some(Step::Add(*id, node_info(member))),
                Some(known)
                    if member.role == MemberRole::Voter
                        && !known.voter
                        && known.lag.is_some_and(|lag| lag <= LAG_MAX)
                        && node.watch.is_steady(*id) =>
                {
                    return Some(Step::Promote(*id));
                }
                Some(_) => {}
            }
        }
        let struck = |id: u64| !admitted.contains_key(&id) && id != FOUNDER;
        let founder_struck = !admitted.contains_key(&FOUNDER) && admitted.len() > 1;
        status
            .members
            .iter()
            .find(|known| struck(known.id) || (known.id == FOUNDER && founder_struck))
            .map(|known| Step::Remove(known.id))
    })
}

fn node_info(member: &Member) -> NodeInfo {
    NodeInfo {
        name: member.name.clone(),
        role: match member.role {
            MemberRole::Voter => NodeRole::Voter,
            MemberRole::Follower => NodeRole::Follower,
        },
        node_key: member.node_key,
        peer_address: member.peer_address.clone(),
        api_url: member.api_url.clone(),
    }
}
