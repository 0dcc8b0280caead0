//! The wall clock of the process. The one place, with [`monotonic`], that asks the system for time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conclave_domain::time::{Clock, Timestamp};

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock that others take")]
    fn now(&self) -> Timestamp {
        let millis =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
        Timestamp(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

/// A reading of the monotonic clock, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "the process's own stopwatch")]
pub fn monotonic() -> Instant {
    Instant::now()
}
