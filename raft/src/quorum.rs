//! Who follows this leader, as of when: the answer to an append proves it for the moment at which the
//! append was sent.
//!
//! The engine keeps such times, too, but cannot tell two appends on one stream apart that end at the
//! same entry: a late answer to the first passes for one to the second (openraft 0.10.0-alpha.37,
//! `InflightAppendQueue::drain_acked`). A deposed leader that is cut off would then believe in a
//! majority that it has lost, and serve what is out of date. Here answers are paired with their
//! appends by their order on the stream.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::types::TypeConfig;

type Metrics =
    openraft::alias::WatchReceiverOf<TypeConfig, openraft::metrics::RaftMetrics<TypeConfig>>;

/// See the module. Knows whom to count once the engine runs.
#[derive(Default)]
pub(crate) struct Quorum {
    metrics: OnceLock<Metrics>,
    /// By peer: the term and the moment for which its last answer is good.
    followed: Mutex<HashMap<u64, (u64, Instant)>>,
    news: Notify,
}

impl Quorum {
    pub(crate) fn watch(&self, metrics: Metrics) {
        if self.metrics.set(metrics).is_err() {
            tracing::error!("the quorum is watched already");
        }
    }

    /// Notes that a peer took an append of `term` that was sent at `sent_at`, or a moment later.
    pub(crate) fn note(&self, peer: u64, term: u64, sent_at: Instant) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = followed.entry(peer).or_insert((term, sent_at));
        *known = (*known).max((term, sent_at));
        drop(followed);
        self.news.notify_waiters();
    }

    /// The term that this node leads in, as far as it knows.
    pub(crate) fn term_led(&self) -> Option<u64> {
        let metrics = self.metrics.get()?.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    /// Time since a majority followed this leader for certain; none when it does not lead, or has had
    /// no majority yet.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.followed_at(self.term_led()?).map(|at| at.elapsed())
    }

    /// [`Quorum::age`] in milliseconds; the largest number for none.
    pub(crate) fn age_millis(&self) -> u32 {
        self.age().map_or(u32::MAX, |age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX))
    }

    /// Waits until a majority is known to have followed this node, as leader of `term`, at some moment
    /// after `since`. Never ends when that does not come true: give it a deadline.
    pub(crate) async fn followed_since(&self, term: u64, since: Instant) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // From here on no answer is missed.
            news.as_mut().enable();
            if self.followed_at(term).is_some_and(|at| at >= since) {
                return;
            }
            news.await;
        }
    }

    /// The last moment at which each majority that counts followed this node as leader of `term`.
    fn followed_at(&self, term: u64) -> Option<Instant> {
        let metrics = self.metrics.get()?.borrow_watched();
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |id: u64| match followed.get(&id) {
            _ if id == metrics.id => Some(Instant::now()),
            Some((in_term, at)) if *in_term == term => Some(*at),
            Some(_) | None => None,
        };
        let configs = metrics.membership_config.membership().get_joint_config();
        configs.iter().map(|voters| majority(voters.iter().map(|id| at(*id)).collect())).min()?
    }
}

/// The latest moment that more than half of them have reached; none where that is none.
fn majority(mut moments: Vec<Option<Instant>>) -> Option<Instant> {
    moments.sort_unstable_by(|one, other| other.cmp(one));
    moments.get(moments.len() / 2).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half_and_counts_from_its_slowest() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        assert_eq!(majority(vec![at(9)]), at(9));
        assert_eq!(majority(vec![at(9), None]), None);
        assert_eq!(majority(vec![at(9), at(2), None]), at(2));
        assert_eq!(majority(vec![at(1), at(9), at(3), at(2)]), at(2));
        assert_eq!(majority(vec![None, at(9), None, at(3), at(7)]), at(3));
        assert_eq!(majority(Vec::new()), None);
    }

    #[test]
    fn an_older_answer_takes_nothing_back() {
        let quorum = Quorum::default();
        let now = Instant::now();
        quorum.note(2, 3, now);
        quorum.note(2, 3, now.checked_sub(Duration::from_secs(1)).unwrap());
        quorum.note(2, 2, now + Duration::from_secs(1));
        assert_eq!(quorum.followed.lock().unwrap().get(&2), Some(&(3, now)));
    }
}
