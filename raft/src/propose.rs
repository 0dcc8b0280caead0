//! Proposals: passed on to the leader, and gathered there into groups that are agreed on together.
//!
//! A proposal may be made on any member: those that do not lead pass it on to the one that does, at
//! most [`HOPS_MAX`] times. On the leader a lone proposal goes at once. Those that come while
//! [`GROUPS_IN_FLIGHT`] groups are being agreed on wait, and go as one: one append, one sync and one
//! message to each peer for all of them (group commit; Gray and Reuter 1993, section 10.3.7).

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::ProposeError;
use crate::handle::{Committed, Node, deposed};
use crate::server::refused;
use crate::transport::Urgency;
use crate::types::{Engine, Opaque, TypeConfig, place};
use crate::wire::latest::{Refusal, Request, Response};
use crate::wire::{APPEND_BYTES_TARGET, COMMAND_BYTES_MAX};

/// How often a proposal is passed on before it is given back as "no leader".
pub(crate) const HOPS_MAX: u8 = 2;
/// A proposal counts as at least this many bytes in flight: even an empty one costs something.
const PROPOSAL_BYTES_MIN: usize = 512;
/// So many groups are agreed on at a time: while one is on its way to the peers and the disks, the
/// next is made ready.
const GROUPS_IN_FLIGHT: usize = 2;
/// How long a group holds its place at most. A slow peer, or a lost quorum, thus delays those that
/// gather, but does not keep them from trying.
const PATIENCE: Duration = Duration::from_millis(20);

/// What became of a proposal that the engine was given.
enum Fate {
    /// Agreed on and applied.
    Committed(Committed),
    /// It was not taken: this node does not lead; perhaps that one does.
    NotLeader(Option<u64>),
    /// It is in a log, and may yet be agreed on under another leader.
    Unknown,
}

/// One that waits for its group.
pub(crate) struct Waiting {
    command: Bytes,
    fate: oneshot::Sender<Fate>,
}

/// The proposals that wait for the next group.
pub(crate) struct Groups {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
    places: Arc<Semaphore>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            places: Arc::new(Semaphore::new(GROUPS_IN_FLIGHT)),
        }
    }
}

impl Groups {
    /// Puts a command into the next group and waits for what becomes of it.
    async fn join(&self, command: Bytes) -> Fate {
        let (fate, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { command, fate });
            waiting.len() == 1
        };
        if is_first {
            self.arrived.notify_one();
        }
        answer.await.unwrap_or(Fate::Unknown)
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Those who wait now; who drops them tells them that their fate is unknown.
    pub(crate) fn take(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first of those who wait, as many as go into one append.
    fn next_group(&self, entries_max: usize) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = group_len(waiting.iter().map(|one| one.command.len()), entries_max);
        waiting.drain(..count).collect()
    }

    /// Hands group after group to the engine, for as long as the node lives.
    pub(crate) async fn run(self: Arc<Self>, node: Weak<Node>) {
        loop {
            while self.is_empty() {
                self.arrived.notified().await;
            }
            // Others gather while this waits.
            let Ok(held) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Some(node) = node.upgrade() else { return };
            let Some(raft) = node.raft() else { return drop(self.take()) };
            let entries_max = usize::try_from(node.config.entries_per_append).unwrap_or(usize::MAX);
            let (commands, waiting): (Vec<_>, Vec<_>) = self
                .next_group(entries_max)
                .into_iter()
                // Whoever has given up waiting need not be proposed.
                .filter(|one| !one.fate.is_closed())
                .map(|one| (Opaque(one.command), one.fate))
                .unzip();
            if commands.is_empty() {
                continue;
            }
            // An engine that has ended takes nothing; what is dropped here counts as unknown.
            if let Ok(fates) = raft.client_write_many(commands).await {
                tokio::spawn(deliver(raft.clone(), fates, waiting, held));
            }
        }
    }
}

/// How many of the waiting go together: up to `entries_max`, and up to the bytes of one append. One
/// at the least.
fn group_len(sizes: impl Iterator<Item = usize>, entries_max: usize) -> usize {
    let mut bytes = 0_usize;
    let fit = sizes.take(entries_max.max(1)).take_while(|size| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add((*size).max(1));
        is_first || bytes <= APPEND_BYTES_TARGET
    });
    fit.count()
}

/// Tells each of a group what became of it. Those not told when this node is deposed find out from
/// their channel's end that nobody knows.
async fn deliver(
    raft: Engine,
    mut fates: BoxStream<'static, Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>>,
    group: Vec<oneshot::Sender<Fate>>,
    held: OwnedSemaphorePermit,
) {
    let deposed = deposed(&raft);
    tokio::pin!(deposed);
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(patience);
    let mut held = Some(held);
    let mut group = group.into_iter();
    loop {
        let fate = tokio::select! {
            biased;
            fate = fates.next() => fate,
            () = &mut patience, if held.is_some() => {
                held = None;
                continue;
            }
            () = &mut deposed => return,
        };
        // A group is agreed on and applied as a whole: the first answer frees its place.
        held = None;
        let (Some(Ok(result)), Some(waiting)) = (fate, group.next()) else { return };
        // Whoever has given up waiting needs no answer.
        drop(waiting.send(Fate::of(result)));
    }
}

impl Fate {
    fn of(result: WriteResult<TypeConfig>) -> Self {
        match result {
            Ok(response) => Self::Committed(Committed {
                index: place(response.log_id.index),
                reply: response.response.0.to_vec(),
            }),
            Err(ClientWriteError::ForwardToLeader(forward)) => Self::NotLeader(forward.leader_id),
            Err(
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            ) => Self::Unknown,
        }
    }
}

impl Node {
    pub(crate) async fn propose(
        &self,
        command: Bytes,
        hops: u8,
    ) -> Result<Committed, ProposeError> {
        if let Some(failure) = self.failure() {
            return Err(ProposeError::Fault(failure));
        }
        self.raft().ok_or(ProposeError::Closed)?;
        let found = command.len();
        if found > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { found, most: COMMAND_BYTES_MAX });
        }
        let most = self.config.bytes_in_flight;
        let permits = u32::try_from(found.max(PROPOSAL_BYTES_MIN)).unwrap_or(u32::MAX);
        let Ok(_permit) = Arc::clone(&self.budget).try_acquire_many_owned(permits) else {
            let in_flight = most - self.budget.available_permits();
            return Err(ProposeError::Overloaded { in_flight, most });
        };
        match self.leader() {
            Some(id) if id != self.config.node_id => self.forward(id, command, hops).await,
            Some(_) | None => self.propose_here(command, hops).await,
        }
    }

    async fn propose_here(&self, command: Bytes, hops: u8) -> Result<Committed, ProposeError> {
        let mut fate = self.take_part(&command).await?;
        if matches!(fate, Fate::NotLeader(None)) && self.leads() {
            self.followed().await;
            fate = self.take_part(&command).await?;
        }
        match fate {
            Fate::Committed(committed) => Ok(committed),
            // While this node hands over, the engine names the heir, which does not lead yet.
            Fate::NotLeader(Some(id)) if id != self.config.node_id && self.leader() == Some(id) => {
                self.forward(id, command, hops).await
            }
            Fate::NotLeader(leader) => Err(ProposeError::NoLeader { leader }),
            Fate::Unknown => Err(ProposeError::Unknown),
        }
    }

    /// Proposes with the next group. The copy is a counted reference, for when it is not taken.
    async fn take_part(&self, command: &Bytes) -> Result<Fate, ProposeError> {
        tokio::time::timeout(self.config.propose_timeout, self.groups.join(command.clone()))
            .await
            .map_err(|_| ProposeError::Unknown)
    }

    async fn forward(&self, to: u64, command: Bytes, hops: u8) -> Result<Committed, ProposeError> {
        let no_leader = ProposeError::NoLeader { leader: Some(to) };
        let Some(hops_left) = hops.checked_sub(1) else { return Err(no_leader) };
        let Ok(peer) = self.peer(to) else { return Err(no_leader) };
        let request = Request::Forward { hops_left, command };
        let call = self.ask(&peer, Urgency::Normal, &request, self.config.propose_timeout);
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            // Sent or not, that leader will not answer any more.
            () = self.leader_is_not(to) => return Err(ProposeError::Unknown),
        };
        match answer {
            Ok(Response::Committed { index, reply }) => {
                Ok(Committed { index, reply: reply.to_vec() })
            }
            Ok(Response::Refused { refusal, .. }) => Err(match refusal {
                Refusal::Overloaded => {
                    let most = self.config.bytes_in_flight;
                    ProposeError::Overloaded { in_flight: most, most }
                }
                Refusal::TooLarge => ProposeError::TooLarge { found: 0, most: COMMAND_BYTES_MAX },
                Refusal::Unknown => ProposeError::Unknown,
                Refusal::Forbidden => ProposeError::Forbidden,
                Refusal::NoLeader | Refusal::Stopped | Refusal::NoService | Refusal::Failed => {
                    ProposeError::NoLeader { leader: None }
                }
            }),
            Err(error) if error.never_sent() => Err(no_leader),
            Ok(_) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// A proposal that another member passed on.
    pub(crate) async fn forwarded(&self, hops_left: u8, command: Bytes) -> Response {
        match self.propose(command, hops_left.min(HOPS_MAX)).await {
            Ok(Committed { index, reply }) => Response::Committed { index, reply: reply.into() },
            Err(error) => {
                let refusal = match &error {
                    ProposeError::NoLeader { .. } => Refusal::NoLeader,
                    ProposeError::Overloaded { .. } => Refusal::Overloaded,
                    ProposeError::TooLarge { .. } => Refusal::TooLarge,
                    ProposeError::Forbidden => Refusal::Forbidden,
                    ProposeError::Unknown => Refusal::Unknown,
                    ProposeError::Fault(_) | ProposeError::Closed => Refusal::Stopped,
                };
                refused(refusal, &error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_what_one_append_may_hold() {
        let len = |sizes: &[usize], most| group_len(sizes.iter().copied(), most);
        assert_eq!(len(&[], 10), 0);
        assert_eq!(len(&[1, 1, 1], 2), 2);
        assert_eq!(len(&[1, 1, 1], 0), 1, "always one, or nothing would ever go");
        assert_eq!(len(&[APPEND_BYTES_TARGET + 1, 1], 10), 1, "the first goes, however large");
        assert_eq!(len(&[APPEND_BYTES_TARGET - 1, 1, 1], 10), 2);
        assert_eq!(len(&[0; 5], 10), 5);
    }
}
