//! What a node answers to its peers, and to whom it answers what.
//!
//! | asked | by a member that votes or was admitted to | by any other member | by a joiner |
//! |---|---|---|---|
//! | votes, transfers, appends, snapshots | yes, in its own name only | no | no |
//! | proposals, read indexes, member list, services | yes | yes | no |
//! | the join service | yes | yes | yes |
//!
//! A certificate that says "follower" never acts as a voter, whatever the list says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::adapter::{convert, receive_snapshot};
use crate::handle::Node;
use crate::runtime::blocking;
use crate::service::SERVICE_JOIN;
use crate::standing;
use crate::transport::{Attempt, Lane, PeerIdentity, PeerServer, Pipe, Refused, Unfit, Who};
use crate::types::{Engine, EngineVote, place};
use crate::wire::latest::{
    Append, AppendReply, Ballot, MemberRow, Refusal, Request, Response, SnapshotFrame, Vote,
};

/// What is said to those whom the list does not have.
const NO_MEMBER: &str = "not a member of this cluster";

/// Answers peers on behalf of a node, for as long as the node lives.
pub(crate) struct Server(Weak<Node>);

impl Server {
    pub(crate) fn new(node: &Arc<Node>) -> Arc<Self> {
        Arc::new(Self(Arc::downgrade(node)))
    }
}

impl PeerServer for Server {
    fn admit(&self, id: u64, shown: Bytes) -> BoxFuture<'_, Result<(), Unfit>> {
        let node = self.0.upgrade();
        Box::pin(async move {
            let unjudged = |text: String| Err(Unfit::Unjudged(text));
            let Some(node) = node else { return unjudged("the node is stopping".to_owned()) };
            let log = Arc::clone(&node.log);
            match blocking(move || standing::judge(&log, id, &shown)).await {
                Ok(Ok(judgement)) => judgement,
                Ok(Err(fault)) => {
                    node.fail(&fault.to_string());
                    unjudged(fault.to_string())
                }
                Err(error) => unjudged(error.to_string()),
            }
        })
    }

    fn condemned(&self, by: PeerIdentity, reason: &str) {
        let (Some(node), Who::Member(id)) = (self.0.upgrade(), by.who) else { return };
        // Only who votes may end a voter.
        if !by.follower_certificate && node.members.list().may_vote(id) {
            node.fail(&format!("node {id} has shut this node out: {reason}"));
        }
    }

    fn refused(&self, refused: Refused) {
        if let Some(node) = self.0.upgrade() {
            node.tell_refused(refused);
        }
    }

    fn call(&self, from: PeerIdentity, request: Bytes) -> BoxFuture<'_, Bytes> {
        let node = self.0.upgrade();
        Box::pin(async move {
            let response = match node {
                Some(node) => node.answer(from, request).await,
                None => refused(Refusal::Stopped, "the node is stopping"),
            };
            response.encode()
        })
    }

    fn pipe(&self, from: PeerIdentity, lane: Lane, pipe: Pipe) -> BoxFuture<'_, ()> {
        let node = self.0.upgrade();
        Box::pin(async move {
            let Some(node) = node else { return };
            match lane {
                Lane::Control | Lane::Append => node.take_appends(from, pipe).await,
                Lane::Snapshot => node.take_snapshot(from, pipe).await,
                Lane::Join => {}
            }
        })
    }
}

impl Node {
    async fn answer(self: Arc<Self>, from: PeerIdentity, request: Bytes) -> Response {
        let request = match Request::decode(request) {
            Ok(request) => request,
            Err(error) => return refused(Refusal::Failed, &error.to_string()),
        };
        let is_join = matches!(request, Request::Service { kind: SERVICE_JOIN, .. });
        if !is_join && !self.is_member(from) {
            return self.forbid(from, Attempt::Ask, NO_MEMBER, true);
        }
        let Some(raft) = self.raft() else {
            return refused(Refusal::Stopped, "the node is not running");
        };
        match request {
            Request::Vote(ballot) => match self.check_voter(from, &ballot.vote, Attempt::Vote) {
                Ok(()) => vote(raft.vote(convert::engine_ballot(ballot)).await),
                Err(refusal) => refusal,
            },
            Request::PreVote(ballot) => self.pre_vote(from, raft, ballot).await,
            Request::Transfer { from: leader, to, last } => {
                if let Err(refusal) = self.check_voter(from, &leader, Attempt::TakeOver) {
                    return refusal;
                }
                let request = openraft::raft::TransferLeaderRequest::new(
                    convert::engine_vote(leader),
                    to,
                    last.map(convert::engine_log_id),
                );
                match raft.handle_transfer_leader(request).await {
                    Ok(result) => Response::Transfer(convert::transfer_reply(&result)),
                    Err(error) => refused(Refusal::Stopped, &error.to_string()),
                }
            }
            Request::Forward { hops_left, command } => match self.check_proposer(from) {
                Ok(()) => self.forwarded(hops_left, command).await,
                Err(refusal) => refusal,
            },
            Request::ReadIndex => match self.leader_read_index().await {
                Ok(index) => Response::ReadIndex { index },
                Err(_) => refused(Refusal::NoLeader, "not the leader, or without a majority"),
            },
            Request::Members => self.member_rows(),
            Request::Service { kind, body } => self.serve(from, kind, body).await,
        }
    }

    /// A pre-vote promises a term of its own, so only the sender's name can be checked.
    async fn pre_vote(&self, from: PeerIdentity, raft: &Engine, ballot: Ballot) -> Response {
        match self.check_voter(from, &ballot.vote, Attempt::Vote) {
            Ok(()) => vote(raft.pre_vote(convert::engine_ballot(ballot)).await),
            Err(refusal) => refusal,
        }
    }

    fn is_member(&self, from: PeerIdentity) -> bool {
        match from.who {
            Who::Member(id) => self.members.get(id).is_some(),
            Who::Joiner(_) => false,
        }
    }

    /// Whether the peer may propose; see [`crate::Config::followers_may_propose`].
    fn check_proposer(&self, from: PeerIdentity) -> Result<(), Response> {
        let is_voter = match from.who {
            Who::Member(id) => !from.follower_certificate && self.members.list().may_vote(id),
            Who::Joiner(_) => false,
        };
        if is_voter || self.config.followers_may_propose {
            Ok(())
        } else {
            Err(self.forbid(from, Attempt::Propose, "followers may not propose", false))
        }
    }

    /// Whether the peer may act as a voter, and does so in its own name.
    fn check_voter(
        &self,
        from: PeerIdentity,
        vote: &Vote,
        attempt: Attempt,
    ) -> Result<(), Response> {
        let Who::Member(id) = from.who else {
            return Err(self.forbid(from, attempt, NO_MEMBER, false));
        };
        if from.follower_certificate {
            let text = "a follower's certificate has no vote";
            return Err(self.forbid(from, attempt, text, false));
        }
        if vote.node != id {
            let text = format!("node {id} spoke in the name of node {}", vote.node);
            return Err(self.forbid(from, attempt, &text, false));
        }
        if !self.members.list().may_vote(id) {
            // Perhaps it was promoted while we were away.
            self.members.note_doubt();
            let text = format!("node {id} is no voter here");
            return Err(self.forbid(from, attempt, &text, true));
        }
        Ok(())
    }

    /// The answer to what the peer may not ask, which is told to whoever records such things.
    fn forbid(
        &self,
        from: PeerIdentity,
        attempt: Attempt,
        reason: &str,
        in_doubt: bool,
    ) -> Response {
        let member = match from.who {
            Who::Member(id) => Some(id),
            Who::Joiner(_) => None,
        };
        let (address, reason) = (from.address, reason.to_owned());
        let answer = refused(Refusal::Forbidden, &reason);
        self.tell_refused(Refused { member, address, attempt, reason, in_doubt });
        answer
    }

    fn tell_refused(&self, refused: Refused) {
        if let Some(service) = self.service.load_full() {
            service.refused(refused);
        }
    }

    fn member_rows(&self) -> Response {
        let list = self.committed_members();
        let Some(log_index) = list.log_index else {
            return refused(Refusal::Failed, "no member list yet");
        };
        let rows = list
            .members
            .into_values()
            .map(|member| MemberRow { id: member.id, voter: member.voter, info: member.info })
            .collect();
        Response::Members { log_index, rows }
    }

    async fn serve(&self, from: PeerIdentity, kind: u8, body: Bytes) -> Response {
        let service = self.service.load_full();
        match service {
            Some(service) => match service.call(from, kind, body.to_vec()).await {
                Ok(body) => Response::Service { body: body.into() },
                Err(error) => refused(Refusal::Failed, &error.0),
            },
            None => refused(Refusal::NoService, "no service is registered here"),
        }
    }

    /// Takes appends off a pipe, in order, many at a time, until one is refused.
    async fn take_appends(self: Arc<Self>, from: PeerIdentity, pipe: Pipe) {
        let Some(raft) = self.raft().cloned() else { return };
        let received = Arc::new(Mutex::new(VecDeque::new()));
        let notes = Arc::clone(&received);
        let node = Arc::clone(&self);
        let input = stream::unfold(pipe.incoming, move |mut incoming| {
            let (node, notes) = (Arc::clone(&node), Arc::clone(&notes));
            async move {
                let frame = incoming.recv().await?.ok()?;
                let append = match Append::decode(frame) {
                    Ok(append) => append,
                    Err(error) => {
                        tracing::warn!(?from, %error, "not an append");
                        return None;
                    }
                };
                if node.check_voter(from, &append.vote, Attempt::Append).is_err() {
                    return None;
                }
                let heard = Received::of(&append);
                let appended = convert::engine_append(append).ok()?;
                notes.lock().unwrap_or_else(PoisonError::into_inner).push_back(heard);
                Some((appended, incoming))
            }
        });
        let mut replies = Box::pin(raft.stream_append(input.boxed()));
        while let Some(reply) = replies.next().await {
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::debug!(%error, "no more appends are taken");
                    return;
                }
            };
            let heard = received.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let answer = convert::append_reply(&reply);
            if let (AppendReply::Matched(_), Some(Some(heard))) = (&answer, heard) {
                let applied = *self.applied.borrow();
                self.level.note(heard.commit, heard.at, heard.quorum_age, applied);
            }
            if pipe.outgoing.send(answer.encode()).await.is_err() {
                return;
            }
        }
    }

    async fn take_snapshot(self: Arc<Self>, from: PeerIdentity, mut pipe: Pipe) {
        let Some(raft) = self.raft() else { return };
        // Two imports at once would take each other's files.
        let _turn = self.importing.lock().await;
        let may_send = |leader: &EngineVote| {
            self.check_voter(from, &convert::vote(leader), Attempt::Snapshot).is_ok()
        };
        let stall = self.config.snapshot_stall;
        let last = match receive_snapshot(&self.state, &mut pipe, stall, may_send).await {
            Ok((vote, snapshot)) => match raft.install_full_snapshot(vote, snapshot).await {
                Ok(response) => SnapshotFrame::Installed(convert::vote(&response.vote)),
                Err(error) => {
                    SnapshotFrame::Refused { refusal: Refusal::Stopped, text: error.to_string() }
                }
            },
            Err(last) => last,
        };
        if let SnapshotFrame::Refused { text, .. } = &last {
            tracing::warn!(?from, %text, "snapshot not taken");
        }
        if pipe.outgoing.send(last.encode()).await.is_err() {
            tracing::debug!(?from, "the snapshot's sender is gone");
        }
    }
}

/// What an append said, until its reply is known.
struct Received {
    commit: u64,
    quorum_age: Duration,
    at: Instant,
}

impl Received {
    /// What an append says of how far all is committed: nothing until its leader has committed an
    /// entry of its own term. Until then it may know of less than its predecessor had committed and
    /// this node had shown (Raft, section 8).
    fn of(append: &Append) -> Option<Self> {
        let commit = append.commit.filter(|commit| commit.term == append.vote.term)?;
        Some(Self {
            commit: place(commit.index),
            quorum_age: Duration::from_millis(append.quorum_age_ms.into()),
            at: Instant::now(),
        })
    }
}

pub(crate) fn refused(refusal: Refusal, text: &str) -> Response {
    Response::Refused { refusal, text: text.to_owned() }
}

fn vote<E: std::fmt::Display>(
    result: Result<openraft::raft::VoteResponse<crate::types::TypeConfig>, E>,
) -> Response {
    match result {
        Ok(response) => convert::vote_response(&response),
        Err(error) => refused(Refusal::Stopped, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::latest::{LogId, Vote};

    #[test]
    fn a_leader_that_has_not_committed_in_its_own_term_makes_nobody_level() {
        let vote = Vote { term: 3, node: 1, committed: true };
        let append =
            |commit| Append { vote, previous: None, commit, quorum_age_ms: 0, entries: Vec::new() };
        assert!(Received::of(&append(None)).is_none());
        assert!(Received::of(&append(Some(LogId { term: 2, index: 8 }))).is_none());
        let heard = Received::of(&append(Some(LogId { term: 3, index: 9 })));
        assert_eq!(heard.map(|heard| heard.commit), Some(10), "counted from 1");
    }
}
