//! Timings and bounds of a member, and the rules that hold among them.
//!
//! Failover takes the leader's lease (`election_max`, counted from its last sign of life) plus the
//! shortest of the standbys' random waits (`election_min..election_max`) plus two round trips and
//! two fsyncs. The defaults, 50 / 150 / 300 ms, therefore give some 0.55 s, and leave a standby deaf
//! for 0.45 s at the least before it calls an election: nine missed heartbeats. On two cores with
//! far more work than they can do, a leader still heard from its quorum every 100 ms at the latest.

use std::time::Duration;

use openraft::{SnapshotPolicy, StepDownPolicy};

use crate::types::NodeInfo;
use crate::wire::COMMAND_BYTES_MAX;

/// What a member is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its id: 1 for the node that founds the cluster, else as the log gave it. Never reused.
    pub node_id: u64,
    /// How often a leader shows that it lives. Also how long it waits for the answer.
    pub heartbeat: Duration,
    /// Shortest wait of a standby that has lost its leader before it calls an election.
    pub election_min: Duration,
    /// Longest such wait, and how long a leader's lease lasts after its last sign of life.
    pub election_max: Duration,
    /// A snapshot is made whenever this many entries were committed since the last. Each one writes out
    /// what is fresh and hashes the whole state.
    pub snapshot_every: u64,
    /// How many entries before the snapshot stay in the log, to heal short outages from it.
    pub entries_kept: u64,
    /// A member further behind than this is sent a snapshot rather than entries. Above
    /// `snapshot_every`.
    pub lag_for_snapshot: u64,
    /// Most entries in one append.
    pub entries_per_append: u64,
    /// Most bytes of commands that may wait for agreement on this node.
    pub bytes_in_flight: usize,
    /// How long a proposal waits for its reply before its fate is called unknown.
    pub propose_timeout: Duration,
    /// Whether this node takes proposals that followers forward. A command names its actor, so who
    /// may propose may write as anybody: voters may, followers only where the operator says so.
    pub followers_may_propose: bool,
    /// How long a read waits for the leader's word and for this node to have applied so much.
    pub read_timeout: Duration,
    /// How long a snapshot may make no progress at all before its transfer starts anew.
    pub snapshot_stall: Duration,
    /// Members as the join answer listed them. They count until the log itself holds a list.
    pub known_members: Vec<KnownMember>,
}

/// A member as another member described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMember {
    /// Its id.
    pub id: u64,
    /// What is known of it.
    pub info: NodeInfo,
    /// Whether it has a vote.
    pub voter: bool,
}

/// Why a [`Config`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Heartbeats too rare for the elections.
    #[error(
        "election_min ({election_min:?}) must be at least three heartbeats ({heartbeat:?} each)"
    )]
    ElectionTooSoon {
        /// The shortest wait configured.
        election_min: Duration,
        /// The heartbeat configured.
        heartbeat: Duration,
    },
    /// No room for chance between the shortest and the longest wait: standbys would keep colliding.
    #[error(
        "election_max ({election_max:?}) must be at least 1.5 times election_min ({election_min:?})"
    )]
    ElectionTooNarrow {
        /// The shortest wait configured.
        election_min: Duration,
        /// The longest wait configured.
        election_max: Duration,
    },
    /// A heartbeat under what timers and networks can keep.
    #[error("heartbeat ({0:?}) must be at least 5 ms")]
    HeartbeatTooShort(Duration),
    /// A snapshot would not heal the lag that it was sent for.
    #[error("lag_for_snapshot ({lag}) must be above snapshot_every ({every})")]
    LagTooShort {
        /// The lag configured.
        lag: u64,
        /// The snapshot interval configured.
        every: u64,
    },
    /// A bound of zero, or below what a single command may need.
    #[error("{what} is {found}, must be at least {least}")]
    TooSmall {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The least it may be.
        least: u64,
    },
    /// The engine has an objection of its own.
    #[error("{0}")]
    Engine(String),
}

impl Config {
    /// The defaults, for a member of this id.
    pub fn new(node_id: u64) -> Self {
        Self {
            node_id,
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            snapshot_every: 50_000,
            entries_kept: 25_000,
            lag_for_snapshot: 75_000,
            entries_per_append: 512,
            bytes_in_flight: 64 * 1024 * 1024,
            propose_timeout: Duration::from_secs(10),
            followers_may_propose: false,
            read_timeout: Duration::from_secs(2),
            snapshot_stall: Duration::from_secs(10),
            known_members: Vec::new(),
        }
    }

    /// Checks the rules among the settings.
    ///
    /// # Errors
    /// The first rule that does not hold, with both values.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { heartbeat, election_min, election_max, .. } = *self;
        if heartbeat < Duration::from_millis(5) {
            return Err(ConfigError::HeartbeatTooShort(heartbeat));
        }
        if election_min < heartbeat * 3 {
            return Err(ConfigError::ElectionTooSoon { election_min, heartbeat });
        }
        if election_max < election_min * 3 / 2 {
            return Err(ConfigError::ElectionTooNarrow { election_min, election_max });
        }
        if self.lag_for_snapshot <= self.snapshot_every {
            let (lag, every) = (self.lag_for_snapshot, self.snapshot_every);
            return Err(ConfigError::LagTooShort { lag, every });
        }
        let least = |what, found, least| {
            if found < least { Err(ConfigError::TooSmall { what, found, least }) } else { Ok(()) }
        };
        least("snapshot_every", self.snapshot_every, 1)?;
        least("entries_per_append", self.entries_per_append, 1)?;
        least("bytes_in_flight", self.bytes_in_flight as u64, COMMAND_BYTES_MAX as u64)
    }

    /// The engine's form of these settings.
    pub(crate) fn engine(&self) -> Result<openraft::Config, ConfigError> {
        self.check()?;
        let election_max = millis(self.election_max);
        openraft::Config {
            cluster_name: "conclave".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: election_max,
            max_payload_entries: self.entries_per_append,
            replication_lag_threshold: self.lag_for_snapshot,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.entries_kept,
            purge_batch_size: 256.min(self.snapshot_every),
            install_snapshot_timeout: millis(self.snapshot_stall),
            // A node cut off for a while must not depose a healthy leader when it comes back.
            enable_pre_vote: Some(true),
            // A restarted leader has to win an election again: its state database may be older
            // than what it had served before, and only a quorum knows what was committed.
            enable_leader_restore: Some(false),
            // A leader that has lost its majority falls silent in turns, so that those who still
            // hear it can elect another. Must exceed the lease plus the longest wait.
            quorum_loss_probe_interval: Some(election_max * 2),
            removed_leader_step_down: StepDownPolicy::After(150),
            // A restarted peer is back within some ten milliseconds; do not make it wait longer.
            backoff: "10ms 20ms 50ms ...250ms".to_owned(),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| ConfigError::Engine(error.to_string()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_their_own_rules() {
        Config::new(1).engine().unwrap();
    }

    #[test]
    fn each_rule_names_both_values() {
        let mut config = Config::new(1);
        config.heartbeat = Duration::from_millis(100);
        let text = config.check().unwrap_err().to_string();
        assert!(text.contains("150ms") && text.contains("100ms"), "{text}");

        let mut config = Config::new(1);
        config.election_max = Duration::from_millis(210);
        assert!(matches!(config.check(), Err(ConfigError::ElectionTooNarrow { .. })));

        let mut config = Config::new(1);
        config.lag_for_snapshot = config.snapshot_every;
        assert!(matches!(config.check(), Err(ConfigError::LagTooShort { .. })));

        let mut config = Config::new(1);
        config.bytes_in_flight = 10;
        assert!(matches!(config.check(), Err(ConfigError::TooSmall { .. })));
    }
}
