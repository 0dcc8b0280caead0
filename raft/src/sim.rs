//! What a simulator needs: members that run in one thread, under simulated time, on simulated disks
//! and networks, so that a seed decides everything. Only with the feature `simulation`.
//!
//! On a thread that was given a [`seed`], election time-outs follow from it, blocking work is done
//! in place, and the log is synced by a task. Time is tokio's, paused; the network is a
//! [`crate::Transport`] of the simulator's own; the disk is storage's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::handle::{Handle, Parts, StartError};
use crate::wire::latest::{Append, AppendReply, Request, Response};

/// What is different from production, bugs included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tweaks {
    /// How long each sync of the log takes; none for none at all.
    pub fsync_delay: Option<Duration>,
    /// Seeded bug, "quorum off by one": the assent of this peer is taken for granted, to entries
    /// and to votes.
    pub phantom: Option<u64>,
    /// Seeded bug: a leader answers reads without asking whether it still leads.
    pub stale_reads: bool,
    /// Seeded bug: a node takes itself for level from its start.
    pub always_level: bool,
}

/// Makes what happens on this thread follow from a seed; none gives it up again.
pub fn seed(seed: Option<u64>) {
    crate::runtime::seed(seed);
}

/// Starts a member as [`Handle::start`] does.
///
/// # Errors
/// As there.
pub async fn start(parts: Parts, tweaks: Tweaks) -> Result<Handle, StartError> {
    let Tweaks { fsync_delay, phantom, stale_reads, always_level } = tweaks;
    let delay = fsync_delay.unwrap_or_default();
    let fsync: crate::adapter::FsyncDelay = Arc::new(move || delay);
    let fsync = Some(fsync);
    let tweaks = crate::handle::Tweaks { fsync, phantom, stale_reads, always_level };
    Handle::start_with(parts, tweaks).await
}

/// What a call is about, for a network that treats kinds differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// A call for votes in that term.
    Vote(u64),
    /// A proposal on its way to the leader: the transport delivers it once or not at all.
    Proposal,
    /// Anything else.
    Other,
}

/// Looks into a call.
pub fn call_kind(request: &Bytes) -> CallKind {
    match Request::decode(request.clone()) {
        Ok(Request::Vote(ballot)) => CallKind::Vote(ballot.vote.term),
        Ok(Request::Forward { .. }) => CallKind::Proposal,
        Ok(_) | Err(_) => CallKind::Other,
    }
}

/// Whether an answer to a call for votes grants it.
pub fn grants(answer: &Bytes) -> bool {
    matches!(Response::decode(answer.clone()), Ok(Response::Vote { granted: true, .. }))
}

/// The term of the leadership under which a frame of a leader was sent.
pub fn leader_term(frame: &Bytes) -> Option<u64> {
    Append::decode(frame.clone()).ok().map(|append| append.vote.term)
}

/// Whether a frame says that a leader's entries were taken.
pub fn takes_entries(frame: &Bytes) -> bool {
    matches!(AppendReply::decode(frame.clone()), Ok(AppendReply::Matched(_)))
}
