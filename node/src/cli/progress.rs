//! How far a long command has come, on standard error: one line that is rewritten on a terminal, now
//! and then a line of its own elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::clock::monotonic;

/// How often the line of a terminal is rewritten.
const ON_TERMINAL: Duration = Duration::from_millis(100);
/// How often a line is written elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// Counts towards a total.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    on_terminal: bool,
    shown: Instant,
}

impl Progress {
    /// Starts at nothing.
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self { what, total, done: 0, on_terminal, shown: monotonic() }
    }

    /// Counts some more.
    pub(crate) fn advance(&mut self, by: usize) {
        self.done += by;
        let every = if self.on_terminal { ON_TERMINAL } else { ELSEWHERE };
        if monotonic() - self.shown >= every {
            self.shown = monotonic();
            self.show();
        }
    }

    /// Ends the line, so that what follows starts a new one.
    pub(crate) fn end(&mut self) {
        if self.on_terminal && self.done > 0 {
            self.show();
            drop(std::io::stderr().lock().write_all(b"\n"));
        }
    }

    fn show(&self) {
        let percent = self.done * 100 / self.total.max(1);
        let text = format!("{} {} of {} ({percent} %)", self.what, self.done, self.total);
        let mut err = std::io::stderr().lock();
        // A closed standard error is no reason to stop.
        drop(if self.on_terminal {
            write!(err, "\r{text}\x1b[K")
        } else {
            writeln!(err, "{text}")
        });
        drop(err.flush());
    }
}
