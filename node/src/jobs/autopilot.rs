//! What whoever leads does about the members by itself: it asks each how it is, raises the cluster's feature
//! level once all are ready for the next, and removes, where the operator wants that, who has been dead
//! for long. Members are made voters in [`super::membership`], which asks here whether they are fit.
//!
//! All of it is worth no more than the leader that saw it: a new one begins to watch anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_domain::command::Command;
use conclave_domain::records::MemberRole;
use conclave_raft::CallError;
use conclave_raft::status::NodeState;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::compose::{Node, propose};
use crate::config::ClusterConfig;
use crate::deeds::{self, Deed};
use crate::peer_service::{About, ask_about};

/// How often members are asked while something is to come of it, and otherwise.
const EVERY: Duration = Duration::from_millis(200);
const AT_REST: u32 = 10;
/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// A member that has been silent for longer than this is not counted as alive.
const ALIVE: Duration = Duration::from_secs(3);
/// How long a member must have been fit before it gets a vote.
const STEADY: Duration = Duration::from_millis(400);

/// What the members say of themselves, as far as whoever leads has heard.
#[derive(Debug, Default)]
pub struct Watch(Mutex<BTreeMap<u64, Seen>>);

/// What is known of one member.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it last said.
    pub about: Option<About>,
    /// When that was; before, when it began to be watched.
    heard: Instant,
    /// Since when it has said, each time, that it may serve.
    fit: Option<Instant>,
}

impl Seen {
    /// How long it has said nothing.
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<u64, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a member while this node leads.
    pub fn of(&self, member: u64) -> Option<Seen> {
        self.seen().get(&member).cloned()
    }

    /// Whether a member has been fit to serve for long enough to be given a vote.
    pub fn is_steady(&self, member: u64) -> bool {
        let seen = self.seen();
        let fit = seen.get(&member).and_then(|seen| seen.fit);
        fit.is_some_and(|since| since.elapsed() >= STEADY)
    }

    fn forget(&self) {
        self.seen().clear();
    }

    /// Takes in what the members have answered; those not named here are members no more.
    fn take(&self, answers: Vec<(u64, Option<About>)>, now: Instant) {
        let mut seen = self.seen();
        seen.retain(|id, _| answers.iter().any(|(member, _)| member == id));
        for (id, answer) in answers {
            let one = seen.entry(id).or_insert(Seen { about: None, heard: now, fit: None });
            match answer {
                Some(about) => {
                    one.fit = about.obstacle.is_none().then(|| one.fit.unwrap_or(now));
                    one.heard = now;
                    one.about = Some(about);
                }
                None => one.fit = None,
            }
        }
    }
}

/// Runs for as long as the node does.
pub async fn autopilot(node: Arc<Node>) {
    let mut rest = 0_u32;
    loop {
        sleep(EVERY).await;
        let leads = node.core.raft.leads();
        if leads && node.door.is_draining() {
            hand_over(&node).await;
        }
        if !leads {
            node.watch.forget();
            rest = 0;
            continue;
        }
        // Whether there is anything to wait for.
        let is_busy = has_joiner(&node) || level(&node) < node.config().cluster.level_max;
        if rest > 0 && !is_busy {
            rest -= 1;
            continue;
        }
        rest = AT_REST;
        ask_all(&node).await;
        raise_level(&node).await;
        remove_dead(&node).await;
    }
}

fn level(node: &Node) -> u32 {
    node.core.state.read(|view| view.state.level())
}

/// Whether somebody who is to vote has no vote yet.
fn has_joiner(node: &Node) -> bool {
    let status = node.core.raft.status();
    node.core.state.read(|view| {
        let mut voters = view.state.member_nodes().iter();
        voters.any(|(id, member)| {
            member.role == MemberRole::Voter
                && !status.members.iter().any(|known| known.id == *id && known.voter)
        })
    })
}

/// A node that is to leave service does not lead while another can.
async fn hand_over(node: &Node) {
    let status = node.core.raft.status();
    if status.members.iter().any(|member| member.voter && member.id != status.node_id) {
        match node.core.raft.transfer_leader(None).await {
            Ok(leader) => tracing::info!(leader, "leader.handed_over: this node is drained"),
            Err(error) => tracing::warn!(%error, "leader.hand_over"),
        }
    }
}

async fn ask_all(node: &Node) {
    let me = node.identity.node_id;
    let members = node.core.raft.members();
    let asked = members.members.keys().copied().filter(|id| *id != me).map(|id| async move {
        let about = match ask_about(&node.core.raft, id, PATIENCE).await {
            Ok(about) => Some(about),
            // It is there, and of a version that does not know the question.
            Err(CallError::Refused { reason, .. }) if reason.contains("no service") => {
                Some(About { version: "older".to_owned(), level: 0, obstacle: None })
            }
            Err(CallError::Refused { reason, .. }) => {
                let (version, level) = (String::new(), 0);
                Some(About { version, level, obstacle: Some(reason) })
            }
            Err(_) => None,
        };
        (id, about)
    });
    let answers = join_all(asked).await;
    node.watch.take(answers, Instant::now());
}

/// Raises the level to what all members are ready for. Who is away is waited for: it may come back as it
/// went.
async fn raise_level(node: &Node) {
    let present = level(node);
    let mut ready = node.config().cluster.level_max;
    let members =
        node.core.state.read(|view| view.state.member_nodes().keys().copied().collect::<Vec<_>>());
    for id in members.iter().filter(|id| **id != node.identity.node_id) {
        let seen = node.watch.of(*id).filter(|seen| seen.silent_for() < ALIVE);
        ready = ready.min(seen.and_then(|seen| seen.about).map_or(0, |about| about.level));
    }
    // An empty list says that the state is not there yet.
    if members.is_empty() || ready <= present {
        return;
    }
    match propose(&node.core.raft, Command::RaiseLevel { level: ready }).await {
        Ok(_) => {
            let text = format!("the cluster went from feature level {present} to {ready}");
            let subject = vec![("level", ready.to_string())];
            let (operation, from, refused) = ("raise-level", String::new(), None);
            deeds::record(&node.spool, Deed { operation, subject, from, text, refused }).await;
        }
        Err(failure) => tracing::debug!(%failure, "level.raise failed; it will be tried again"),
    }
}

async fn remove_dead(node: &Node) {
    let status = node.core.raft.status();
    if status.state != NodeState::Leader {
        return;
    }
    let mut members: Vec<Candidate> = node.core.state.read(|view| {
        let members = view.state.member_nodes().iter();
        members
            .map(|(id, member)| Candidate {
                id: *id,
                name: member.name.clone(),
                // Who has yet to be given its vote counts for nothing.
                is_voter: status.members.iter().any(|known| known.id == *id && known.voter),
                silent: node.watch.of(*id).map_or(Duration::ZERO, |seen| seen.silent_for()),
            })
            .collect()
    });
    members.sort_by_key(|member| std::cmp::Reverse(member.silent));
    let Some(dead) = to_remove(&members, &node.config().cluster) else { return };
    let done = propose(&node.core.raft, Command::RemoveMemberNode { node: dead.id }).await;
    let text = format!(
        "{} (node {}) was removed: the leader had not heard from it for {} s",
        dead.name,
        dead.id,
        dead.silent.as_secs()
    );
    let subject = vec![("node", dead.id.to_string()), ("name", dead.name.clone())];
    let refused = done.err().map(|failure| failure.message);
    let (operation, from) = ("remove-dead", String::new());
    deeds::record(&node.spool, Deed { operation, subject, from, text, refused }).await;
}

/// A member, as the question of who goes sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: u64,
    name: String,
    is_voter: bool,
    silent: Duration,
}

/// Who is to go, if anybody, the longest silent first. A voter goes only where enough voters stay, most of
/// those alive; so the rest has a majority before and after.
fn to_remove<'a>(members: &'a [Candidate], settings: &ClusterConfig) -> Option<&'a Candidate> {
    let after = settings.remove_dead_after?;
    let voters = members.iter().filter(|member| member.is_voter).count();
    let is_alive = |member: &&Candidate| member.is_voter && member.silent < ALIVE;
    let alive = members.iter().filter(is_alive).count();
    members.iter().filter(|member| member.silent >= after).find(|member| {
        let stay = voters.saturating_sub(1);
        !member.is_voter || stay >= settings.voters_min && alive > stay / 2 && alive > voters / 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_mins(10);

    fn settings(voters_min: usize) -> ClusterConfig {
        ClusterConfig { remove_dead_after: Some(AFTER), voters_min, level_max: 0 }
    }

    /// Voters and then followers, by how long they have been silent, in minutes.
    fn members(voters: &[u64], followers: &[u64]) -> Vec<Candidate> {
        let all = voters.iter().map(|silent| (true, silent));
        let all = all.chain(followers.iter().map(|silent| (false, silent)));
        let members = (1..).zip(all).map(|(id, (is_voter, silent))| {
            let silent = Duration::from_mins(*silent);
            Candidate { id, name: format!("n{id}"), is_voter, silent }
        });
        members.collect()
    }

    fn goes(members: &[Candidate], voters_min: usize) -> Option<u64> {
        to_remove(members, &settings(voters_min)).map(|member| member.id)
    }

    #[test]
    fn the_dead_go_where_enough_voters_stay() {
        assert_eq!(goes(&members(&[0, 0, 0, 11], &[]), 3), Some(4));
        assert_eq!(goes(&members(&[0, 0, 11], &[]), 3), None, "three are to stay");
        assert_eq!(goes(&members(&[0, 0, 11], &[]), 2), Some(3));
        assert_eq!(goes(&members(&[0, 0, 0, 9], &[]), 3), None, "not for long enough");
        assert_eq!(goes(&members(&[0, 0, 0], &[11]), 3), Some(4), "a follower goes in any case");
    }

    #[test]
    fn none_goes_without_a_majority_that_is_alive() {
        assert_eq!(goes(&members(&[0, 0, 11, 11], &[]), 1), None, "two of four are no majority");
        assert_eq!(goes(&members(&[0, 0, 0, 11, 11], &[]), 3), Some(4));
        // Then the other: three of four, and then three of three.
        assert_eq!(goes(&members(&[0, 0, 0, 11], &[]), 3), Some(4));
        assert_eq!(goes(&members(&[0, 1, 1, 11], &[]), 1), None, "one alive");
    }

    #[test]
    fn nobody_goes_unless_the_operator_wants_it() {
        let never = ClusterConfig { remove_dead_after: None, ..settings(1) };
        assert_eq!(to_remove(&members(&[0, 0, 0, 99], &[99]), &never), None);
    }

    #[test]
    fn fit_is_who_says_so_each_time() {
        let watch = Watch::default();
        let said = |obstacle: Option<&str>| {
            let obstacle = obstacle.map(str::to_owned);
            Some(About { version: "1".to_owned(), level: 1, obstacle })
        };
        let start = Instant::now().checked_sub(STEADY * 4).unwrap();
        watch.take(vec![(2, said(None)), (3, said(Some("sealed"))), (4, None)], start);
        watch.take(vec![(2, said(None)), (3, said(None)), (4, None)], start + STEADY * 4);
        assert!(watch.is_steady(2) && !watch.is_steady(3), "the second has only just become fit");
        assert!(!watch.is_steady(4) && watch.of(4).unwrap().silent_for() >= STEADY * 4);
        watch.take(vec![(2, said(Some("draining")))], start + STEADY * 4);
        assert!(!watch.is_steady(2) && watch.of(3).is_none());
    }
}
