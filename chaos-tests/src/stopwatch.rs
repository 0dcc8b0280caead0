//! How long something took on the wall, for reports. Simulated time is another matter.

use std::time::Instant;

/// A running stopwatch.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts one.
    #[expect(
        clippy::disallowed_methods,
        reason = "measures the harness, not the system under test"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Whole seconds since the start.
    pub fn seconds(&self) -> u64 {
        self.0.elapsed().as_secs()
    }
}
