//! When a member tells the leader what it has loaded: soon after there is something new, now and then
//! although there is not, and later and later while the leader does not answer. Members draw lots for the
//! moment, from a time that grows with their number, so that hundreds do not come at once when a
//! root is rotated, a leader elected or a network healed.

use std::time::Duration;

/// News are told within so long for each member that there is.
const NEWS_FOR_EACH: Duration = Duration::from_millis(10);
/// And within this, however many there are.
const NEWS_WITHIN: Duration = Duration::from_secs(3);
/// What was told is told again after this at the earliest.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// And after so much more at the latest: in all, what was told must not be forgotten meanwhile.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);
/// After a failure: the first pause, and the longest.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
const AFTER_FAILURE_MAX: Duration = Duration::from_secs(4);

/// One member's schedule. Times are counted from any moment that stays the same.
#[derive(Debug)]
pub struct Telling<T> {
    told: Option<T>,
    /// What is to be told next; not that which was told.
    news: Option<T>,
    due: Duration,
    failures: u32,
}

impl<T> Default for Telling<T> {
    fn default() -> Self {
        Self { told: None, news: None, due: Duration::ZERO, failures: 0 }
    }
}

impl<T: PartialEq + Clone> Telling<T> {
    /// Whether this is to be told now, in a cluster of so many members. `chance` is any number.
    pub fn is_due(&mut self, what: &T, members: usize, now: Duration, chance: u16) -> bool {
        let is_known = self.told.as_ref() == Some(what) || self.news.as_ref() == Some(what);
        if !is_known {
            let due = now + share(room(members), chance);
            // While the leader does not answer, news do not make anybody ask it more often; and news that
            // come thick and fast are told together.
            let waits = self.failures > 0 || self.news.is_some();
            self.due = if waits { self.due } else { due };
            self.news = Some(what.clone());
        }
        now >= self.due
    }

    /// The leader has heard it.
    pub fn told(&mut self, what: T, now: Duration, chance: u16) {
        self.told = Some(what);
        self.news = None;
        self.failures = 0;
        self.due = now + AGAIN_AFTER + share(AGAIN_WITHIN, chance);
    }

    /// It has not answered.
    pub fn failed(&mut self, members: usize, now: Duration, chance: u16) {
        let pause = AFTER_FAILURE.saturating_mul(1 << self.failures.min(8)).min(AFTER_FAILURE_MAX);
        let pause = pause.max(room(members));
        self.failures = self.failures.saturating_add(1);
        self.due = now + pause / 2 + share(pause, chance);
    }
}

/// The time that so many members spread over.
fn room(members: usize) -> Duration {
    let each = NEWS_FOR_EACH.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX));
    each.min(NEWS_WITHIN)
}

/// A part of a time, by lot.
fn share(time: Duration, chance: u16) -> Duration {
    time.mul_f64(f64::from(chance) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const FOLLOWERS: usize = 200;
    /// As the job that loads certificates looks.
    const TICK_MS: u64 = 200;
    const WINDOW_MS: u64 = 100;

    /// What a follower has to tell: the root it trusts, and whom.
    type What = (u32, u64);

    struct Follower {
        telling: Telling<What>,
        /// Within a tick, by when it started.
        phase: u64,
        tries: Vec<(u64, What, bool)>,
    }

    /// Two hundred followers over a time; `world` says what is so at a moment, and whether the leader
    /// answers.
    fn followers(millis: u64, world: impl Fn(u64) -> (What, bool)) -> Vec<Follower> {
        let mut state = 7_u64;
        let mut chance = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u16::try_from(state >> 48).unwrap()
        };
        let mut all: Vec<Follower> = (0..FOLLOWERS)
            .map(|_| Follower {
                telling: Telling::default(),
                phase: u64::from(chance()) % TICK_MS,
                tries: Vec::new(),
            })
            .collect();
        for at in 0..millis {
            let now = Duration::from_millis(at);
            for one in all.iter_mut().filter(|one| at % TICK_MS == one.phase) {
                let (what, answers) = world(at);
                if one.telling.is_due(&what, FOLLOWERS, now, chance()) {
                    one.tries.push((at, what, answers));
                    if answers {
                        one.telling.told(what, now, chance());
                    } else {
                        one.telling.failed(FOLLOWERS, now, chance());
                    }
                }
            }
        }
        all
    }

    /// The most tries in any tenth of a second from then on.
    fn peak(all: &[Follower], from: u64) -> usize {
        let mut windows: BTreeMap<u64, usize> = BTreeMap::new();
        for (at, ..) in all.iter().flat_map(|one| &one.tries).filter(|(at, ..)| *at >= from) {
            *windows.entry(at / WINDOW_MS).or_default() += 1;
        }
        windows.into_values().max().unwrap_or_default()
    }

    #[test]
    fn two_hundred_followers_tell_of_a_new_root_without_a_herd() {
        // A root is published after 30 s, used after 40 s, the old one retired after 50 s.
        let root = |at: u64| u32::try_from(at.saturating_sub(20_000) / 10_000).unwrap().min(3);
        let all = followers(70_000, |at| ((root(at), 1), true));
        for (root, at) in [(1, 30_000), (2, 40_000), (3, 50_000)] {
            for one in &all {
                let told = one.tries.iter().find(|(_, what, _)| what.0 == root).unwrap().0;
                assert!(told - at <= 2_500, "root {root} was told {} ms late", told - at);
            }
        }
        // Evenly spread it would be 10 in a tenth of a second; all at once it were 100.
        assert!(peak(&all, 0) <= 30, "{}", peak(&all, 0));
        // When nothing happens, some five a second for each that would be heard in time.
        assert!(peak(&all, 60_000) <= 15, "{}", peak(&all, 60_000));
    }

    #[test]
    fn two_hundred_followers_do_not_storm_a_leader_that_is_new_or_away() {
        // Nobody answers for 20 s; then there is another leader, and a new root with it.
        let world = |at: u64| match at {
            0..30_000 => ((1, 1), true),
            30_000..50_000 => ((1, 1 + at / 3_000), false),
            _ => ((2, 99), true),
        };
        let all = followers(70_000, world);
        assert!(peak(&all, 0) <= 30, "{}", peak(&all, 0));
        for one in &all {
            let away = one.tries.iter().filter(|(at, ..)| (30_000..50_000).contains(at)).count();
            assert!(away <= 15, "one follower asked {away} times in 20 s");
            let told = one.tries.iter().find(|(_, what, _)| *what == (2, 99)).unwrap().0;
            assert!(told <= 50_000 + 7_000, "{told}");
        }
    }

    #[test]
    fn a_few_members_tell_at_once_and_again_before_they_are_forgotten() {
        let mut telling = Telling::default();
        let ms = Duration::from_millis;
        assert!(!telling.is_due(&"a", 4, ms(0), u16::MAX), "it draws a lot, however small");
        assert!(telling.is_due(&"a", 4, ms(40), u16::MAX));
        telling.told("a", ms(40), u16::MAX);
        assert!(!telling.is_due(&"a", 4, ms(3_000), 0));
        assert!(telling.is_due(&"a", 4, ms(5_040), 0), "told things are forgotten after 15 s");
        assert!(telling.is_due(&"b", 4, ms(60), 0), "news do not wait for that");
    }
}
