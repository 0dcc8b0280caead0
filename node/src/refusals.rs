//! Whom this node has refused, as audit records: one for the first attempt of a kind, and one a minute
//! while it goes on, since a peer that is shut out tries again many times a second.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use conclave_api::audit::Spool;
use conclave_raft::{Handle, NodeRole, Refused};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::deeds::{self, Deed};

/// How long one that was recorded is only counted.
const QUIET: Duration = Duration::from_mins(1);
/// How many sorts of refusals are told apart; more count as one.
const SORTS_MAX: usize = 256;
/// Refusals that may wait to be recorded; more are counted.
const WAITING_MAX: usize = 256;
/// How long a node that may be behind itself waits for news of who the peer is.
const DOUBT: Duration = Duration::from_millis(1500);

/// Somebody was refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The member that it is, or says that it is.
    pub member: Option<u64>,
    /// Where it came from.
    pub address: Option<SocketAddr>,
    /// What it wanted, as one word.
    pub operation: &'static str,
    /// Why not.
    pub reason: String,
    /// Perhaps this node has yet to hear that the peer is a member, or a voter.
    pub in_doubt: bool,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let Refused { member, address, attempt, reason, in_doubt } = refused;
        Self { member, address, operation: attempt.as_str(), reason, in_doubt }
    }
}

/// Takes refusals to be recorded; never waits.
pub struct Refusals {
    told: mpsc::Sender<Refusal>,
}

impl Refusals {
    /// Records in the spool, from a task of its own, until this is dropped.
    pub fn new(raft: Handle, spool: Arc<Spool>) -> Self {
        let (told, hear) = mpsc::channel(WAITING_MAX);
        tokio::spawn(record_all(hear, raft, spool));
        Self { told }
    }

    /// Has a refusal recorded.
    pub fn tell(&self, refusal: Refusal) {
        if let Err(error) = self.told.try_send(refusal) {
            tracing::warn!(%error, "refusal not recorded: too many at once");
        }
    }
}

async fn record_all(mut hear: mpsc::Receiver<Refusal>, raft: Handle, spool: Arc<Spool>) {
    let mut ledger = Ledger::default();
    let mut doubtful: VecDeque<(Instant, Refusal)> = VecDeque::new();
    loop {
        let next = doubtful.front().map(|(at, _)| *at);
        let refusal = tokio::select! {
            heard = hear.recv() => {
                let Some(refusal) = heard else { return };
                if refusal.in_doubt && doubtful.len() < WAITING_MAX {
                    // What is known already to be counted only need not be doubted again and again.
                    if !ledger.is_quiet(&refusal, Instant::now()) {
                        doubtful.push_back((Instant::now() + DOUBT, refusal));
                    }
                    continue;
                }
                refusal
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let Some((_, refusal)) = doubtful.pop_front() else { continue };
                if is_in_the_right(&raft, &refusal) {
                    continue;
                }
                refusal
            }
        };
        if let Some(unrecorded) = ledger.note(&refusal, Instant::now()) {
            deeds::record(&spool, deed(&raft, &refusal, unrecorded)).await;
        }
    }
}

/// Whether the peer is by now known as what it said it was.
fn is_in_the_right(raft: &Handle, refusal: &Refusal) -> bool {
    let members = raft.members();
    let known = refusal.member.and_then(|id| members.members.get(&id));
    known.is_some_and(|known| {
        refusal.operation == "connect" || known.voter || known.info.role == NodeRole::Voter
    })
}

fn deed(raft: &Handle, refusal: &Refusal, unrecorded: u64) -> Deed {
    let from = refusal.address.map(|address| address.ip().to_string());
    let who = match refusal.member {
        None => "somebody".to_owned(),
        Some(id) => {
            let name = raft.members().members.get(&id).map(|known| known.info.name.clone());
            name.map_or_else(|| format!("node {id}"), |name| format!("{name} (node {id})"))
        }
    };
    let place = from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
    let more = match unrecorded {
        0 => String::new(),
        count => format!(" ({count} more since the last record)"),
    };
    Deed {
        operation: refusal.operation,
        subject: refusal.member.map(|id| ("node", id.to_string())).into_iter().collect(),
        from: from.unwrap_or_default(),
        text: format!("{who}{place} was refused: {}", refusal.operation),
        refused: Some(format!("{}{more}", refusal.reason)),
    }
}

/// What is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sort {
    member: Option<u64>,
    address: Option<IpAddr>,
    operation: &'static str,
    reason: String,
}

impl Sort {
    fn of(refusal: &Refusal) -> Self {
        Self {
            member: refusal.member,
            address: refusal.address.map(|address| address.ip()),
            operation: refusal.operation,
            reason: refusal.reason.clone(),
        }
    }

    /// What stands for all for which there is no room.
    fn other() -> Self {
        Self { member: None, address: None, operation: "", reason: String::new() }
    }
}

/// What was recorded when, and how often since.
#[derive(Debug, Default)]
struct Ledger(HashMap<Sort, (Instant, u64)>);

impl Ledger {
    fn sort(&self, refusal: &Refusal) -> Sort {
        let sort = Sort::of(refusal);
        let has_room = self.0.len() < SORTS_MAX || self.0.contains_key(&sort);
        if has_room { sort } else { Sort::other() }
    }

    /// Whether it is only to be counted; counts it then.
    fn is_quiet(&mut self, refusal: &Refusal, now: Instant) -> bool {
        let sort = self.sort(refusal);
        match self.0.get_mut(&sort) {
            Some((recorded, count)) if now.duration_since(*recorded) < QUIET => {
                *count += 1;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Counts a refusal; where it is to be recorded, how many were not since the last time.
    fn note(&mut self, refusal: &Refusal, now: Instant) -> Option<u64> {
        if self.0.len() >= SORTS_MAX {
            self.0.retain(|_, (recorded, _)| now.duration_since(*recorded) < QUIET);
        }
        if self.is_quiet(refusal, now) {
            return None;
        }
        let sort = self.sort(refusal);
        let before = self.0.insert(sort, (now, 0));
        Some(before.map_or(0, |(_, count)| count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(member: u64) -> Refusal {
        Refusal {
            member: Some(member),
            address: Some(SocketAddr::from(([10, 0, 0, 7], 7443))),
            operation: "connect",
            reason: format!("node {member} is not a member of this cluster"),
            in_doubt: true,
        }
    }

    #[test]
    fn each_sort_is_recorded_once_a_minute_with_how_often_it_was_meanwhile() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        assert_eq!(ledger.note(&refusal(7), start), Some(0));
        assert_eq!(ledger.note(&refusal(8), start), Some(0), "another peer");
        for _ in 0..5 {
            assert_eq!(ledger.note(&refusal(7), start + QUIET / 2), None);
        }
        assert_eq!(ledger.note(&refusal(7), start + QUIET), Some(5));
        assert_eq!(ledger.note(&refusal(7), start + QUIET), None);
        let vote = Refusal { operation: "vote", ..refusal(7) };
        assert_eq!(ledger.note(&vote, start + QUIET), Some(0), "it wants another thing");
    }

    #[test]
    fn a_flood_of_strangers_costs_few_records_and_little_memory() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let recorded = (0..100_000).filter_map(|id| ledger.note(&refusal(id), start)).count();
        assert_eq!((recorded, ledger.0.len()), (SORTS_MAX + 1, SORTS_MAX + 1));
        // Afterwards there is room again.
        assert_eq!(ledger.note(&refusal(1_000_000), start + QUIET), Some(0));
        assert_eq!(ledger.0.len(), 1);
    }
}
