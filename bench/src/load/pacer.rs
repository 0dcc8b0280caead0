//! When the requests of an open loop start: an arithmetic schedule, and a timer that is fine enough for it.
//!
//! The runtime's own timer has steps of a millisecond, ten times the answers measured here, so ticks come from a
//! `timerfd`. What a tick is late by counts as latency: at most [`TICK`] on an idle machine.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The step of the timer.
pub(super) const TICK: Duration = Duration::from_micros(100);

/// Evenly spaced starts. Request `n` starts at `start + n / rate`, computed from `n` so that no error adds up.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Instant,
    rate: f64,
    issued: u64,
}

impl Schedule {
    /// `rate` requests a second from `start` on.
    pub fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate, issued: 0 }
    }

    /// The next intended start that is not after `now`, if there is one; then that one is taken.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let intended = self.start + Duration::from_secs_f64(self.issued as f64 / self.rate);
        (intended <= now).then(|| {
            self.issued += 1;
            intended
        })
    }
}

/// Intended starts that no client has taken yet.
pub(super) struct Queue {
    due: Mutex<VecDeque<Instant>>,
    waiting: Semaphore,
}

impl Default for Queue {
    fn default() -> Self {
        Self { due: Mutex::new(VecDeque::new()), waiting: Semaphore::new(0) }
    }
}

impl Queue {
    fn push(&self, intended: Instant) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push_back(intended);
        self.waiting.add_permits(1);
    }

    /// The oldest intended start; none when the feed has ended and all are taken.
    pub(super) async fn next(&self) -> Option<Instant> {
        // A closed semaphore hands out no permits: what is left is then taken without one.
        if let Ok(permit) = self.waiting.acquire().await {
            permit.forget();
        }
        self.due.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn close(&self) {
        self.waiting.close();
    }
}

/// Puts starts into the queue as they fall due, until `stopped`.
pub(super) async fn feed(
    mut schedule: Schedule,
    queue: &Queue,
    stopped: impl Fn() -> bool,
) -> io::Result<()> {
    let mut ticker = Ticker::new(TICK)?;
    while !stopped() {
        ticker.tick().await?;
        let now = Instant::now();
        while let Some(intended) = schedule.take_due(now) {
            queue.push(intended);
        }
    }
    queue.close();
    Ok(())
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; an owned descriptor keeps what that asks for"
)]
fn watch(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}

/// A periodic kernel timer.
struct Ticker(AsyncFd<OwnedFd>);

impl Ticker {
    fn new(period: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let step = Timespec { tv_sec: 0, tv_nsec: i64::from(period.subsec_nanos()) };
        let setting = Itimerspec { it_interval: step, it_value: step };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(Self(watch(timer)?))
    }

    async fn tick(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut expirations = [0_u8; 8];
            match guard.try_io(|timer| {
                rustix::io::read(timer.get_ref(), &mut expirations).map_err(io::Error::from)
            }) {
                Ok(outcome) => return outcome.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_evenly_spaced_and_none_is_lost_by_a_stall() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 3000.0);
        assert_eq!(schedule.take_due(start), Some(start));
        assert_eq!(schedule.take_due(start), None);
        // Nobody looks for a second; then all 3000 are due, with their own times.
        let late = start + Duration::from_secs(1);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(late)).collect();
        assert_eq!(due.len(), 3000);
        for (index, intended) in due.iter().enumerate() {
            let want = Duration::from_secs_f64((index as f64 + 1.0) / 3000.0);
            let got = intended.duration_since(start);
            assert!(got.abs_diff(want) < Duration::from_nanos(10), "{index}: {got:?}");
        }
    }

    #[test]
    fn a_schedule_does_not_drift() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 7919.0);
        schedule.issued = 7919 * 600;
        let intended = schedule.take_due(start + Duration::from_secs(601)).unwrap();
        assert!(intended.duration_since(start).abs_diff(Duration::from_mins(10)).as_nanos() < 1000);
    }

    #[tokio::test]
    async fn what_was_due_before_the_end_is_still_handed_out() {
        let queue = Queue::default();
        let now = Instant::now();
        queue.push(now);
        queue.push(now + TICK);
        queue.close();
        assert_eq!(queue.next().await, Some(now));
        assert_eq!(queue.next().await, Some(now + TICK));
        assert_eq!(queue.next().await, None);
    }
}
