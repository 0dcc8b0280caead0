//! The engine's network over a [`Transport`]: what it sends, to whom, in which lane, and what a
//! silent peer is taken for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use openraft::base::BoxFuture;
use openraft::entry::RaftEntry;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use tokio::time::Instant;

use super::convert;
use super::snapshot::{SnapshotFolder, send_snapshot};
use crate::error::CallError;
use crate::quorum::Quorum;
use crate::transport::{Lane, Peer, Pipe, Transport, Urgency};
use crate::types::{EngineLogId, EngineVote, NodeInfo, TypeConfig};
use crate::wire::latest as wire;

type RpcError = RPCError<TypeConfig>;

/// Appends that may be on their way to one peer.
const IN_FLIGHT_MAX: usize = 64;
/// How long a peer may take for the oldest append in flight: a slow disk is no broken connection.
const APPEND_STALL: Duration = Duration::from_secs(1);

/// Makes clients for the engine, one for each peer and purpose.
pub(crate) struct Network {
    pub(crate) node_id: u64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) quorum: Arc<Quorum>,
    pub(crate) snapshot_stall: Duration,
    /// Called with what a peer has acknowledged as durable: the vote's term, and the log id.
    pub(crate) acknowledged: Arc<dyn Fn(u64, u64, EngineLogId) + Send + Sync>,
    /// A seeded bug: this peer's assent is taken for granted.
    #[cfg(feature = "simulation")]
    pub(crate) phantom: Option<u64>,
}

/// Speaks to one peer for one purpose.
pub(crate) struct Client {
    node_id: u64,
    peer: Peer,
    lane: Lane,
    transport: Arc<dyn Transport>,
    quorum: Arc<Quorum>,
    snapshot_stall: Duration,
    acknowledged: Arc<dyn Fn(u64, u64, EngineLogId) + Send + Sync>,
    /// Kept from one session to the next while nothing is outstanding on it.
    pipe: Option<Pipe>,
    is_phantom: bool,
}

impl Network {
    fn client(&self, target: u64, node: &NodeInfo, lane: Lane) -> Client {
        #[cfg(feature = "simulation")]
        let is_phantom = self.phantom == Some(target);
        #[cfg(not(feature = "simulation"))]
        let is_phantom = false;
        Client {
            node_id: self.node_id,
            peer: Peer { id: target, address: node.peer_address.clone() },
            lane,
            transport: Arc::clone(&self.transport),
            quorum: Arc::clone(&self.quorum),
            snapshot_stall: self.snapshot_stall,
            acknowledged: Arc::clone(&self.acknowledged),
            pipe: None,
            is_phantom,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Client {
        self.client(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> Client {
        self.client(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeInfo) -> Client {
        self.client(target, node, Lane::Snapshot)
    }
}

impl Client {
    async fn ask(
        &self,
        request: wire::Request,
        within: Duration,
    ) -> Result<wire::Response, RpcError> {
        let call = self.transport.call(&self.peer, Urgency::High, request.encode(), within);
        let answer = call.await.map_err(|error| {
            if matches!(error, CallError::Timeout { .. }) {
                self.transport.note_timeout(&self.peer, Lane::Control);
            }
            self.rpc_error(&error, RPCTypes::Vote, within)
        })?;
        let response = wire::Response::decode(answer)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        if let wire::Response::Refused { text, .. } = response {
            return Err(RPCError::Unreachable(Unreachable::from_string(text)));
        }
        Ok(response)
    }

    fn rpc_error(&self, error: &CallError, action: RPCTypes, timeout: Duration) -> RpcError {
        if matches!(error, CallError::Timeout { .. }) {
            RPCError::Timeout(Timeout { action, id: self.node_id, target: self.peer.id, timeout })
        } else {
            // Anything else backs off before the next try.
            RPCError::Unreachable(Unreachable::new(error))
        }
    }

    fn unexpected(&self) -> RpcError {
        let text = format!("{} answered another question", self.peer);
        RPCError::Network(NetworkError::from_string(text))
    }
}

/// One session of appends: requests in, replies out, in order.
struct Session<'s, S> {
    client: &'s mut Client,
    pipe: Option<Pipe>,
    input: Option<S>,
    /// Requests sent whose replies are still to come.
    in_flight: std::collections::VecDeque<InFlight>,
    patience: Duration,
}

struct InFlight {
    term: u64,
    sent_at: Instant,
}

impl<S> Drop for Session<'_, S> {
    fn drop(&mut self) {
        if self.in_flight.is_empty() {
            // Nothing outstanding: the next session can go on with it.
            self.client.pipe = self.pipe.take();
        } else if self
            .in_flight
            .front()
            .is_some_and(|oldest| oldest.sent_at.elapsed() >= self.patience / 2)
        {
            self.client.transport.note_timeout(&self.client.peer, self.client.lane);
        }
    }
}

enum Step {
    Request(Option<AppendEntriesRequest<TypeConfig>>),
    Reply(Option<Result<Bytes, CallError>>),
    Late,
}

impl<S> Session<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        loop {
            if self.input.is_none() && self.in_flight.is_empty() {
                return None;
            }
            match self.step().await {
                Step::Request(None) => self.input = None,
                Step::Request(Some(request)) => {
                    if let Some(assent) = self.send(&request).await {
                        return Some(assent);
                    }
                }
                Step::Reply(Some(Ok(frame))) => {
                    if let Some(result) = self.reply(frame) {
                        return Some(result);
                    }
                }
                Step::Reply(Some(Err(error))) => return Some(Err(self.fail(&error))),
                Step::Reply(None) => {
                    let reason = "the peer ended the stream".to_owned();
                    let peer = self.client.peer.to_string();
                    return Some(Err(self.fail(&CallError::Broken { peer, reason })));
                }
                Step::Late => {
                    self.client.transport.note_timeout(&self.client.peer, self.client.lane);
                    let (peer, waited) = (self.client.peer.to_string(), self.patience);
                    return Some(Err(self.fail(&CallError::Timeout { peer, waited })));
                }
            }
        }
    }

    async fn step(&mut self) -> Step {
        let may_send = self.in_flight.len() < IN_FLIGHT_MAX;
        let deadline = self.in_flight.front().map(|oldest| oldest.sent_at + self.patience);
        let Some(pipe) = self.pipe.as_mut() else { return Step::Reply(None) };
        let input = &mut self.input;
        let next_request = async {
            match input {
                Some(input) if may_send => input.next().await,
                _ => std::future::pending().await,
            }
        };
        let too_late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = pipe.incoming.recv() => Step::Reply(reply),
            request = next_request => Step::Request(request),
            () = too_late => Step::Late,
        }
    }

    async fn send(
        &mut self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        // Before it can be on its way: what its answer proves, it proves for then.
        let sent_at = Instant::now();
        let frame = convert::append(request, self.client.quorum.age_millis()).encode();
        let sent = match &self.pipe {
            Some(pipe) => pipe.outgoing.send(frame).await.is_ok(),
            None => false,
        };
        if self.client.is_phantom {
            let last = request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id);
            return Some(Ok(Ok(last)));
        }
        if !sent {
            let peer = self.client.peer.to_string();
            let reason = "the stream was closed".to_owned();
            return Some(Err(self.fail(&CallError::Broken { peer, reason })));
        }
        let term = convert::term(&request.vote);
        self.in_flight.push_back(InFlight { term, sent_at });
        None
    }

    fn reply(&mut self, frame: Bytes) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        let reply = match wire::AppendReply::decode(frame) {
            Ok(reply) => reply,
            Err(error) => {
                let (peer, reason) = (self.client.peer.to_string(), error.to_string());
                return Some(Err(self.fail(&CallError::Malformed { peer, reason })));
            }
        };
        let answered = self.in_flight.pop_front();
        let result = convert::engine_append_reply(reply);
        if let (Ok(_), Some(answered)) = (&result, &answered) {
            self.client.quorum.note(self.client.peer.id, answered.term, answered.sent_at);
        }
        match (&result, answered) {
            (Ok(_), None) => return None,
            (Ok(Some(matched)), Some(answered)) => {
                (self.client.acknowledged)(self.client.peer.id, answered.term, *matched);
            }
            (Ok(None), Some(_)) => {}
            // After a refusal the engine starts anew; so does the stream.
            (Err(_), _) => self.abandon(),
        }
        Some(Ok(result))
    }

    fn abandon(&mut self) {
        self.pipe = None;
        self.input = None;
        self.in_flight.clear();
    }

    fn fail(&mut self, error: &CallError) -> RpcError {
        let failure = self.client.rpc_error(error, RPCTypes::AppendEntries, self.patience);
        self.abandon();
        failure
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotFolder;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let input = stream::iter([rpc]);
        let mut replies = self.stream_append(input, option).await?;
        match replies.next().await {
            Some(result) => result.map(AppendEntriesResponse::from),
            None => Err(RPCError::Network(NetworkError::from_string("no reply"))),
        }
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        '_,
        Result<BoxStream<'_, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // Heartbeats are worthless when late; entries are not.
            let patience =
                if self.lane == Lane::Control { option.hard_ttl() * 15 / 16 } else { APPEND_STALL };
            let pipe = match self.pipe.take() {
                Some(pipe) if !pipe.outgoing.is_closed() => Some(pipe),
                _ => {
                    let opened = self.transport.open(&self.peer, self.lane);
                    let peer = self.peer.to_string();
                    let opened = tokio::time::timeout(patience, opened)
                        .await
                        .unwrap_or(Err(CallError::Timeout { peer, waited: patience }));
                    match opened {
                        Ok(pipe) => Some(pipe),
                        Err(_) if self.is_phantom => None,
                        Err(error) => {
                            return Err(self.rpc_error(&error, RPCTypes::AppendEntries, patience));
                        }
                    }
                }
            };
            let session = Session {
                client: self,
                pipe,
                input: Some(input),
                in_flight: std::collections::VecDeque::new(),
                patience,
            };
            let replies = stream::unfold(session, |mut session| async move {
                session.next().await.map(|result| (result, session))
            });
            Ok(replies.boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = wire::Request::Vote(convert::ballot(&rpc));
        self.vote_response(self.ask(request, option.hard_ttl()).await, &rpc)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = wire::Request::PreVote(convert::ballot(&rpc));
        self.vote_response(self.ask(request, option.hard_ttl()).await, &rpc)
    }

    async fn full_snapshot(
        &mut self,
        vote: EngineVote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFolder>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let transfer = send_snapshot(
            &*self.transport,
            &self.peer,
            &vote,
            &snapshot.meta,
            &snapshot.snapshot,
            self.snapshot_stall,
        );
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = transfer => match result {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::warn!(peer = %self.peer, %error, "snapshot not delivered");
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let response = self.ask(convert::transfer(&request), option.hard_ttl()).await?;
        let wire::Response::Transfer(reply) = response else { return Err(self.unexpected()) };
        Ok(convert::engine_transfer_reply(reply))
    }
}

impl Client {
    fn vote_response(
        &self,
        response: Result<wire::Response, RpcError>,
        request: &VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        if self.is_phantom {
            return Ok(VoteResponse::new(request.vote, None, true));
        }
        let wire::Response::Vote { vote, granted, last } = response? else {
            return Err(self.unexpected());
        };
        let last = last.map(convert::engine_log_id);
        Ok(VoteResponse::new(convert::engine_vote(vote), last, granted))
    }
}
