//! Named fail points around every durable step, and bugs that can be switched on to see the tests
//! catch them. Without the feature `failpoints` all of it compiles to nothing.
//!
//! A [`FailPoints`] is a handle; each simulated node has its own, a real process has one. A spec is
//! a list separated by `;`: `log.sync.before=abort@3` acts at the third hit, `=err` at the first,
//! `bug=skip_vote_sync` turns a seeded bug on. Actions: `abort`, `panic`, `err`.

use crate::error::Fault;

/// Every point of this crate, so that a test can crash at each of them in turn.
pub const POINTS: &[&str] = &[
    "vote.save.before",
    "vote.save.after",
    "log.append.before",
    "log.append.after",
    "log.sync.before",
    "log.sync.after",
    "log.truncate.before",
    "log.truncate.marked",
    "log.truncate.after",
    "log.purge.before",
    "log.purge.after",
    "marker.write.before",
    "marker.write.after",
    "state.apply.before",
    "state.apply.after",
    "snapshot.build.before",
    "snapshot.build.checkpointed",
    "snapshot.build.described",
    "snapshot.build.renamed",
    "snapshot.import.before_rename",
    "snapshot.import.after_rename",
    "snapshot.install.before",
    "snapshot.install.copied",
    "snapshot.install.pointed",
    "snapshot.install.after",
];

/// A bug that can be put back on purpose, to prove that the suite finds it. None is ever on by
/// default, and none exists without the feature `failpoints`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SeededBug {
    /// The vote is written but not synced.
    SkipVoteSync,
    /// Log entries are acknowledged without a sync.
    SkipLogSync,
    /// The flush is acknowledged first and made at the next one.
    AckBeforeFlush,
    /// The applied mark goes into a batch of its own, before the effects.
    AppliedIndexInSeparateWrite,
    /// Truncation of the log is forgotten.
    IgnoreTruncate,
    /// The log may be purged beyond the newest snapshot on disk.
    PurgeBeforeSnapshot,
    /// A snapshot older than the state is installed all the same.
    InstallOverNewer,
    /// The state hash passes secret values by.
    StateHashSkipsTable,
    /// A failed sync is reported as done.
    FsyncErrorIgnored,
    /// A failed write (disk full) is reported as done.
    WriteErrorSwallowed,
}

impl SeededBug {
    /// Every bug, in order.
    pub const ALL: [Self; 10] = [
        Self::SkipVoteSync,
        Self::SkipLogSync,
        Self::AckBeforeFlush,
        Self::AppliedIndexInSeparateWrite,
        Self::IgnoreTruncate,
        Self::PurgeBeforeSnapshot,
        Self::InstallOverNewer,
        Self::StateHashSkipsTable,
        Self::FsyncErrorIgnored,
        Self::WriteErrorSwallowed,
    ];

    /// Its name in a spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipVoteSync => "skip_vote_sync",
            Self::SkipLogSync => "skip_log_sync",
            Self::AckBeforeFlush => "ack_before_flush",
            Self::AppliedIndexInSeparateWrite => "applied_index_in_separate_write",
            Self::IgnoreTruncate => "ignore_truncate",
            Self::PurgeBeforeSnapshot => "purge_before_snapshot",
            Self::InstallOverNewer => "install_over_newer",
            Self::StateHashSkipsTable => "state_hash_skips_table",
            Self::FsyncErrorIgnored => "fsync_error_ignored",
            Self::WriteErrorSwallowed => "write_error_swallowed",
        }
    }
}

#[cfg(any(test, feature = "failpoints"))]
mod armed {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use super::{Fault, SeededBug};

    /// What happens at an armed point.
    #[derive(Clone)]
    pub enum Action {
        /// The process ends at once, as by SIGKILL.
        Abort,
        /// The thread panics.
        Panic,
        /// The step fails with [`Fault::Injected`].
        Error,
        /// The function runs (say, to crash a simulated disk), then the step fails.
        Call(Arc<dyn Fn() + Send + Sync>),
    }

    struct Armed {
        action: Action,
        hits_left: u32,
    }

    #[derive(Default)]
    struct Registry {
        armed: Mutex<BTreeMap<String, Armed>>,
        bugs: AtomicU32,
        hits: Mutex<BTreeMap<String, u64>>,
    }

    /// A set of fail points and seeded bugs. Clones share it.
    #[derive(Clone, Default)]
    pub struct FailPoints(Arc<Registry>);

    impl FailPoints {
        /// A set with nothing armed.
        pub fn new() -> Self {
            Self::default()
        }

        /// Arms points and bugs from a spec; see the module's head.
        ///
        /// # Errors
        /// [`Fault::Order`] naming the part of the spec that is not understood.
        pub fn arm(&self, spec: &str) -> Result<(), Fault> {
            for part in spec.split(';').map(str::trim).filter(|part| !part.is_empty()) {
                let refused =
                    || Fault::Order(format!("fail point spec {part:?} is not understood"));
                let (point, what) = part.split_once('=').ok_or_else(refused)?;
                if point == "bug" {
                    let bug = SeededBug::ALL.into_iter().find(|bug| bug.name() == what);
                    self.seed_bug(bug.ok_or_else(refused)?);
                    continue;
                }
                let (what, nth) = match what.split_once('@') {
                    Some((what, nth)) => (what, nth.parse().map_err(|_| refused())?),
                    None => (what, 1),
                };
                let action = match what {
                    "abort" => Action::Abort,
                    "panic" => Action::Panic,
                    "err" => Action::Error,
                    _ => return Err(refused()),
                };
                self.arm_action(point, nth, action);
            }
            Ok(())
        }

        /// Arms one point: `action` happens at its `nth` hit from now (1 is the next), once.
        pub fn arm_action(&self, point: &str, nth: u32, action: Action) {
            let armed = Armed { action, hits_left: nth.max(1) };
            self.0
                .armed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(point.to_owned(), armed);
        }

        /// Turns a seeded bug on.
        pub fn seed_bug(&self, bug: SeededBug) {
            self.0.bugs.fetch_or(1 << bug as u8, Ordering::Relaxed);
        }

        /// Whether a seeded bug is on.
        pub fn has_bug(&self, bug: SeededBug) -> bool {
            self.0.bugs.load(Ordering::Relaxed) & (1 << bug as u8) != 0
        }

        /// How often a point was passed.
        pub fn hits(&self, point: &str) -> u64 {
            let hits = self.0.hits.lock().unwrap_or_else(PoisonError::into_inner);
            hits.get(point).copied().unwrap_or(0)
        }

        /// Passes a point: does nothing unless it is armed and its turn has come.
        ///
        /// # Errors
        /// [`Fault::Injected`] when armed so.
        ///
        /// # Panics
        /// When armed so.
        #[expect(clippy::panic, reason = "a panic is what an armed point asks for")]
        pub fn hit(&self, point: &str) -> Result<(), Fault> {
            let mut hits = self.0.hits.lock().unwrap_or_else(PoisonError::into_inner);
            *hits.entry(point.to_owned()).or_default() += 1;
            drop(hits);
            let action = {
                let mut armed = self.0.armed.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(entry) = armed.get_mut(point) else { return Ok(()) };
                entry.hits_left -= 1;
                if entry.hits_left > 0 {
                    return Ok(());
                }
                armed.remove(point).map(|entry| entry.action)
            };
            match action {
                None => Ok(()),
                Some(Action::Abort) => std::process::abort(),
                Some(Action::Panic) => panic!("fail point {point}"),
                Some(Action::Error) => Err(Fault::Injected(point.to_owned())),
                Some(Action::Call(call)) => {
                    call();
                    Err(Fault::Injected(point.to_owned()))
                }
            }
        }
    }
}

#[cfg(any(test, feature = "failpoints"))]
pub use armed::{Action, FailPoints};

#[cfg(not(any(test, feature = "failpoints")))]
mod unarmed {
    use super::{Fault, SeededBug};

    /// Stands where fail points would be; does nothing.
    #[derive(Clone, Copy, Default)]
    pub struct FailPoints;

    impl FailPoints {
        /// The only one there is.
        pub fn new() -> Self {
            Self
        }

        /// Refuses: this program was built without fail points.
        ///
        /// # Errors
        /// Always [`Fault::Order`].
        pub fn arm(&self, _spec: &str) -> Result<(), Fault> {
            Err(Fault::Order("this program was built without the feature `failpoints`".to_owned()))
        }

        /// Always false.
        #[inline]
        pub fn has_bug(&self, _bug: SeededBug) -> bool {
            false
        }

        /// Does nothing.
        ///
        /// # Errors
        /// Never.
        #[inline]
        pub fn hit(&self, _point: &str) -> Result<(), Fault> {
            Ok(())
        }
    }
}

#[cfg(not(any(test, feature = "failpoints")))]
pub use unarmed::FailPoints;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_point_acts_once_at_its_nth_hit() {
        let points = FailPoints::new();
        points.arm("log.sync.before=err@2; bug=skip_vote_sync").unwrap();
        assert!(points.hit("log.sync.before").is_ok());
        assert!(matches!(points.hit("log.sync.before"), Err(Fault::Injected(_))));
        assert!(points.hit("log.sync.before").is_ok());
        assert_eq!(points.hits("log.sync.before"), 3);
        assert!(points.has_bug(SeededBug::SkipVoteSync));
        assert!(!points.has_bug(SeededBug::SkipLogSync));
    }

    #[test]
    fn a_spec_that_is_not_understood_is_refused() {
        for spec in ["x", "x=boom", "bug=none", "x=err@y"] {
            assert!(FailPoints::new().arm(spec).is_err(), "{spec}");
        }
    }
}
