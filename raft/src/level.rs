//! How old this node's state is: the time since it was known to be level with a leader that had a
//! majority.
//!
//! Each append names the leader's commit index and how long ago the leader had a majority. Once
//! this node has applied that index, it is as old as the moment the append came, plus that time. A
//! leader that has not yet committed in its own term may name too little; its word does not count.
//!
//! The moment it came is when this process saw it. A process that was stopped for a while finds
//! appends in its buffers that came long before, so what it sees just after a pause does not count.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the process shows that it runs.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Without a sign of life for this long the process was stopped.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after a pause appends are held to be old ones. Buffers empty in a fraction of it.
const BUFFERS_EMPTY: Duration = Duration::from_secs(1);

/// One promise by the leader: whoever has applied `commit` was level at `at`.
#[derive(Debug, Clone, Copy)]
struct Promise {
    commit: u64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    level_at: Option<Instant>,
    pending: Option<Promise>,
    ticked_at: Option<Instant>,
    doubted_until: Option<Instant>,
}

impl Inner {
    /// Whether what comes now may have waited through a pause.
    fn doubts(&mut self, now: Instant) -> bool {
        if self.ticked_at.is_some_and(|ticked_at| now - ticked_at > PAUSE) {
            self.doubted_until = Some(now + BUFFERS_EMPTY);
        }
        self.doubted_until.is_some_and(|until| now < until)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Level(Mutex<Inner>);

impl Level {
    /// Notes an accepted append: received at `at`, from a leader that had a majority `quorum_age`
    /// before, and had committed up to `commit` (counted from 1).
    pub(crate) fn note(&self, commit: u64, at: Instant, quorum_age: Duration, applied: u64) {
        let Some(at) = at.checked_sub(quorum_age) else { return };
        let mut inner = self.inner();
        if inner.doubts(Instant::now()) {
            return;
        }
        if applied >= commit {
            inner.level_at = inner.level_at.max(Some(at));
        } else if inner.pending.is_none() {
            // Keep the oldest: it is the first that can come true.
            inner.pending = Some(Promise { commit, at });
        }
    }

    /// Notes that the process runs; to be called every [`TICK`].
    pub(crate) fn tick(&self) {
        let mut inner = self.inner();
        let now = Instant::now();
        inner.doubts(now);
        inner.ticked_at = Some(now);
    }

    /// Notes that the state has moved.
    pub(crate) fn applied(&self, applied: u64) {
        let mut inner = self.inner();
        if let Some(promise) = inner.pending
            && applied >= promise.commit
        {
            inner.level_at = inner.level_at.max(Some(promise.at));
            inner.pending = None;
        }
    }

    /// Time since the state was known to be level.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.inner().level_at.map(|at| at.elapsed())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn age_counts_from_what_was_applied_and_adds_the_leaders_own() {
        let level = Level::default();
        assert_eq!(level.age(), None);
        level.note(5, Instant::now(), Duration::from_secs(2), 5);
        assert_eq!(level.age(), Some(Duration::from_secs(2)));

        tokio::time::advance(Duration::from_secs(3)).await;
        level.note(9, Instant::now(), Duration::ZERO, 5);
        assert_eq!(level.age(), Some(Duration::from_secs(5)), "9 is not applied yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        level.applied(8);
        assert_eq!(level.age(), Some(Duration::from_secs(6)));
        level.applied(9);
        assert_eq!(level.age(), Some(Duration::from_secs(1)), "level when the append came");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_through_a_pause_makes_nobody_young() {
        let level = Level::default();
        level.tick();
        level.note(5, Instant::now(), Duration::ZERO, 5);
        tokio::time::advance(Duration::from_mins(1)).await;
        level.note(5, Instant::now(), Duration::ZERO, 5);
        level.tick();
        level.note(5, Instant::now(), Duration::ZERO, 5);
        assert_eq!(level.age(), Some(Duration::from_mins(1)));
        for _ in 0..11 {
            tokio::time::advance(TICK).await;
            level.tick();
        }
        level.note(5, Instant::now(), Duration::ZERO, 5);
        assert_eq!(level.age(), Some(Duration::ZERO));
    }
}
