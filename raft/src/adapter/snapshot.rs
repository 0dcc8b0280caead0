//! Snapshots between nodes: the manifest first, then the bytes that the receiver still lacks, on a
//! connection of their own. Storage checks every file before anything is installed.
//!
//! ```text
//! sender                                    receiver
//! header (vote, manifest)  ──▶              takes up an earlier import of the same snapshot
//!                          ◀──  next (file, offset) or nothing
//! chunk, chunk, …          ──▶              full pipe: the sender waits
//! done                     ──▶              verifies, installs
//!                          ◀──  installed (vote), or refused
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_storage::{Manifest, SnapshotFiles, StateStore};
use openraft::Snapshot;

use super::convert;
use crate::error::CallError;
use crate::runtime::blocking;
use crate::transport::{Lane, Peer, Pipe, Transport};
use crate::types::{EngineSnapshotMeta, EngineVote, TypeConfig};
use crate::wire::latest::{Refusal, SnapshotFrame};
use crate::wire::{DecodeError, SNAPSHOT_CHUNK_BYTES};

/// A snapshot on this node's disk, as the engine passes it around.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFolder(pub(crate) Arc<SnapshotFiles>);

pub(crate) type EngineSnapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFolder>;

/// What a snapshot on disk says of itself.
pub(crate) fn describe(files: Arc<SnapshotFiles>) -> Result<EngineSnapshot, DecodeError> {
    let mark = files.mark();
    let meta = EngineSnapshotMeta {
        last_log_id: Some(convert::decode_log_id(&mark.log_id)?),
        last_membership: convert::decode_stored_membership(&mark.membership)?,
    };
    Ok(Snapshot { meta, snapshot: SnapshotFolder(files) })
}

/// Sends a snapshot and waits until it is installed. Returns the receiver's vote.
pub(crate) async fn send_snapshot(
    transport: &dyn Transport,
    peer: &Peer,
    vote: &EngineVote,
    meta: &EngineSnapshotMeta,
    folder: &SnapshotFolder,
    stall: Duration,
) -> Result<EngineVote, CallError> {
    let files = &folder.0;
    tracing::info!(peer = %peer, %meta, bytes = files.manifest().bytes(), "sending a snapshot");
    let pipe = within(stall, peer, transport.open(peer, Lane::Snapshot)).await??;
    let mut sender = Sender { pipe, peer, stall };
    let manifest = Bytes::from(files.manifest().encode());
    sender.send(&SnapshotFrame::Header { vote: convert::vote(vote), manifest }).await?;
    let answer = sender.receive(stall).await?;
    let SnapshotFrame::Next(mut next) = answer else { return sender.end(answer) };
    while let Some((file, offset)) = next {
        let Some(length) = files.manifest().files.get(file as usize).map(|file| file.len) else {
            return Err(sender.malformed("wants a file that the snapshot does not have"));
        };
        if offset >= length {
            next =
                Some((file + 1, 0)).filter(|_| (file as usize) + 1 < files.manifest().files.len());
            continue;
        }
        let reader = Arc::clone(files);
        let chunk =
            blocking(move || reader.read_chunk(file as usize, offset, SNAPSHOT_CHUNK_BYTES))
                .await
                .map_err(|error| sender.broken(error.to_string()))?
                .map_err(|fault| sender.broken(fault.to_string()))?;
        if chunk.is_empty() {
            return Err(sender.broken("a snapshot file is shorter than its manifest says".into()));
        }
        next = Some((file, offset + chunk.len() as u64));
        sender.send(&SnapshotFrame::Chunk { file, offset, bytes: chunk.into() }).await?;
    }
    sender.send(&SnapshotFrame::Done).await?;
    // Verifying and installing read and write everything once more; that takes what it takes, and
    // a receiver that dies meanwhile breaks the stream.
    let last = sender.receive(Duration::from_mins(10)).await?;
    sender.end(last)
}

struct Sender<'a> {
    pipe: Pipe,
    peer: &'a Peer,
    stall: Duration,
}

impl Sender<'_> {
    async fn send(&mut self, frame: &SnapshotFrame) -> Result<(), CallError> {
        let sent = within(self.stall, self.peer, self.pipe.outgoing.send(frame.encode())).await?;
        if sent.is_ok() {
            return Ok(());
        }
        // The receiver ended the stream; perhaps it said why.
        let last = self.receive(Duration::from_secs(1)).await?;
        self.end(last).map(|_| ())
    }

    async fn receive(&mut self, wait: Duration) -> Result<SnapshotFrame, CallError> {
        let frame = match within(wait, self.peer, self.pipe.incoming.recv()).await? {
            Some(frame) => frame?,
            None => return Err(self.broken("the receiver ended the stream".to_owned())),
        };
        SnapshotFrame::decode(frame).map_err(|error| self.malformed(&error.to_string()))
    }

    fn end(&self, last: SnapshotFrame) -> Result<EngineVote, CallError> {
        match last {
            SnapshotFrame::Installed(vote) => Ok(convert::engine_vote(vote)),
            SnapshotFrame::Refused { text, .. } => {
                Err(CallError::Refused { peer: self.peer.to_string(), reason: text })
            }
            SnapshotFrame::Header { .. }
            | SnapshotFrame::Next(_)
            | SnapshotFrame::Chunk { .. }
            | SnapshotFrame::Done => Err(self.malformed("frames out of order")),
        }
    }

    fn broken(&self, reason: String) -> CallError {
        CallError::Broken { peer: self.peer.to_string(), reason }
    }

    fn malformed(&self, reason: &str) -> CallError {
        CallError::Malformed { peer: self.peer.to_string(), reason: reason.to_owned() }
    }
}

async fn within<T>(
    wait: Duration,
    peer: &Peer,
    future: impl Future<Output = T>,
) -> Result<T, CallError> {
    tokio::time::timeout(wait, future)
        .await
        .map_err(|_| CallError::Timeout { peer: peer.to_string(), waited: wait })
}

/// Receives a snapshot on a pipe. The caller installs it and then sends the last frame.
///
/// # Errors
/// The last frame to send, when nothing came of it.
pub(crate) async fn receive_snapshot(
    store: &StateStore,
    pipe: &mut Pipe,
    stall: Duration,
    may_send: impl Fn(&EngineVote) -> bool,
) -> Result<(EngineVote, EngineSnapshot), SnapshotFrame> {
    let SnapshotFrame::Header { vote, manifest } = next_frame(pipe, stall).await? else {
        return Err(refused("a snapshot starts with its header"));
    };
    let vote = convert::engine_vote(vote);
    if !may_send(&vote) {
        let text = "not this node's leader to be".to_owned();
        return Err(SnapshotFrame::Refused { refusal: Refusal::Forbidden, text });
    }
    // What is wrong with a peer's bytes is not a fault of this node.
    Manifest::decode(&manifest).map_err(|fault| refused(&fault.to_string()))?;
    let importer = store.clone();
    let mut import = disk(move || importer.snapshot_import(&manifest)).await?;
    let wanted = import.next().map(|(file, offset)| (to_u32(file), offset));
    if pipe.outgoing.send(SnapshotFrame::Next(wanted).encode()).await.is_err() {
        return Err(refused("the sender is gone"));
    }
    loop {
        let frame = next_frame(pipe, stall).await?;
        if frame == SnapshotFrame::Done {
            break;
        }
        let SnapshotFrame::Chunk { file, offset, bytes } = frame else {
            return Err(refused("frames out of order"));
        };
        import = disk(move || import.write_chunk(file as usize, offset, &bytes).map(|()| import))
            .await?;
    }
    let files = disk(move || import.finish()).await?;
    let snapshot = describe(files).map_err(|error| refused(&error.to_string()))?;
    Ok((vote, snapshot))
}

async fn disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, conclave_storage::Fault> + Send + 'static,
) -> Result<T, SnapshotFrame> {
    match blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(refused(&fault.to_string())),
        Err(error) => Err(refused(&error.to_string())),
    }
}

async fn next_frame(pipe: &mut Pipe, stall: Duration) -> Result<SnapshotFrame, SnapshotFrame> {
    match tokio::time::timeout(stall, pipe.incoming.recv()).await {
        Ok(Some(Ok(frame))) => {
            SnapshotFrame::decode(frame).map_err(|error| refused(&error.to_string()))
        }
        Ok(Some(Err(error))) => Err(refused(&error.to_string())),
        Ok(None) => Err(refused("the sender ended the stream")),
        Err(_) => Err(refused("no progress")),
    }
}

pub(crate) fn refused(text: &str) -> SnapshotFrame {
    SnapshotFrame::Refused { refusal: Refusal::Failed, text: text.to_owned() }
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
