//! Which view a read gets: the log's order confirmed on voters, the local one on followers and where
//! the client asks for it with `X-Conclave-Consistency: local`.
//!
//! Token, permission and value come from one view, so nothing changes between check and use.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::context::{Call, confirm};
use crate::error::Refusal;
use crate::ports::{Part, ReadError, StateStore, View};
use crate::token::Verified;

/// The header that asks for the local view.
const CONSISTENCY: &str = "x-conclave-consistency";
/// How long a read waits for the next leader before it is refused.
const LEADERLESS_TIME_MAX: Duration = Duration::from_secs(2);
/// The pause before a leader is asked for again, unless another one is known earlier.
const LEADERLESS_PAUSE: Duration = Duration::from_millis(50);

/// How often a read looks again before it makes room for others: long enough for what changes the
/// state in a moment.
const GLANCES: usize = 16;

/// Reads from the state. While a large command is being applied that has to wait, and the reactor's
/// other work, the talk among nodes first of all, moves to another thread meanwhile.
pub(crate) fn patiently<R>(state: &StateStore, read: impl FnOnce(&View<'_>) -> R) -> R {
    let mut read = read;
    for _ in 0..GLANCES {
        match state.try_read(read) {
            Ok(result) => return result,
            Err(unread) => read = unread,
        }
        std::thread::yield_now();
    }
    let many_threads = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
    if Handle::try_current().is_ok_and(many_threads) {
        tokio::task::block_in_place(|| state.read(read))
    } else {
        state.read(read)
    }
}

impl Call {
    /// Whether the client is content with the local view.
    fn wants_local(&self) -> bool {
        self.header(CONSISTENCY).is_some_and(|value| value.trim().eq_ignore_ascii_case("local"))
    }

    /// Waits until the local view holds everything that was acknowledged before now.
    pub(crate) async fn barrier(&mut self) -> Result<(), Refusal> {
        if self.door.proposer.part() == Part::Follower || self.wants_local() {
            return self.first_contact().await;
        }
        self.barrier_in_any_case().await
    }

    /// Waits until this node has been level since it started. Before, the local view may lack what
    /// the node had shown when its power went; from then on it never goes back.
    async fn first_contact(&mut self) -> Result<(), Refusal> {
        let give_up = self.deadline.min(Instant::now() + LEADERLESS_TIME_MAX);
        while self.door.proposer.age().is_none() {
            if Instant::now() + LEADERLESS_PAUSE > give_up {
                let text = "this node has started, and has not heard from a leader since";
                return Err(Refusal::unavailable(text));
            }
            tokio::time::sleep(LEADERLESS_PAUSE).await;
        }
        Ok(())
    }

    /// As [`Call::barrier`], also where the client asked for the local view.
    pub(crate) async fn barrier_in_any_case(&mut self) -> Result<(), Refusal> {
        let give_up = self.deadline.min(Instant::now() + LEADERLESS_TIME_MAX);
        loop {
            let reign = self.door.proposer.reign();
            let barrier = self.door.proposer.read_barrier();
            match tokio::time::timeout_at(self.deadline, barrier).await {
                Ok(Ok(index)) => {
                    self.index = self.index.max(index);
                    return Ok(());
                }
                Ok(Err(ReadError::NoLeader)) if Instant::now() + LEADERLESS_PAUSE < give_up => {
                    let next_reign = self.door.proposer.next_reign(reign);
                    // Whichever it was: ask again.
                    drop(tokio::time::timeout(LEADERLESS_PAUSE, next_reign).await);
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_elapsed) => {
                    return Err(Refusal::unavailable("no leader could confirm the read in time"));
                }
            }
        }
    }

    /// Runs `decide` on a view that is as fresh as promised, for a caller that the same view knows.
    pub(crate) async fn view<R>(
        &mut self,
        decide: impl FnOnce(&View<'_>, &Verified) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        self.caller()?;
        self.barrier().await?;
        self.local_view(decide)
    }

    /// As [`Call::view`], on the view that is here now.
    pub(crate) fn local_view<R>(
        &mut self,
        decide: impl FnOnce(&View<'_>, &Verified) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let caller = Arc::clone(self.caller()?);
        self.open_view(|view| {
            confirm(view.state, &caller)?;
            decide(view, &caller)
        })
    }

    /// Runs `decide` on the view that is here now, for nobody in particular.
    pub(crate) fn open_view<R>(
        &mut self,
        decide: impl FnOnce(&View<'_>) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let (result, applied) = patiently(&self.door.state, |view| (decide(view), view.applied));
        self.index = self.index.max(applied.0);
        result
    }

    /// Checks a write at the door: on the view that is here now, and before it is refused on one
    /// that is as fresh as promised. Deciding looks again, so an outdated "yes" does no harm.
    pub(crate) async fn check_write<R>(
        &mut self,
        decide: impl Fn(&View<'_>, &Verified) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        match self.local_view(&decide) {
            Ok(allowed) => Ok(allowed),
            Err(_perhaps_outdated) => {
                self.barrier_in_any_case().await?;
                self.local_view(&decide)
            }
        }
    }

    /// Waits until this node has applied the index that the client has already seen.
    pub(crate) async fn wait_for_seen(&mut self, seen: u64) -> Result<(), Refusal> {
        if self.door.state.applied_index() >= seen {
            return Ok(());
        }
        let limit = self.door.settings().index_wait_max;
        Ok(self.door.proposer.wait_applied(seen, limit).await?)
    }

    /// Refuses to vouch for anybody from a view that is too old to know of revocations.
    pub(crate) fn check_age(&self) -> Result<(), Refusal> {
        let door = &self.door;
        // A voter confirms what it knows, unless the client asked it not to; a revoked key would
        // otherwise live on at a voter that is cut off.
        if door.proposer.part() != Part::Follower && !self.wants_local() {
            return Ok(());
        }
        let age = door.proposer.age().unwrap_or(Duration::MAX);
        if age <= door.settings().staleness_max {
            Ok(())
        } else {
            Err(Refusal::unavailable("this node has been out of touch for too long"))
        }
    }
}
