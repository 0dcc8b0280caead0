//! The names, units and help of what this crate measures, and how a node's status becomes them.

use metrics::{Unit, describe_gauge, gauge};

use crate::status::{NodeState, Status};

/// Raft term of this node.
pub const TERM: &str = "conclave_raft_term";
/// 1 on the leader, else 0.
pub const IS_LEADER: &str = "conclave_raft_is_leader";
/// Last index in the log.
pub const LAST_LOG: &str = "conclave_raft_last_log_index";
/// Last index known to be committed.
pub const COMMITTED: &str = "conclave_raft_committed_index";
/// Last index applied.
pub const APPLIED: &str = "conclave_raft_applied_index";
/// Last index in the newest snapshot.
pub const SNAPSHOT: &str = "conclave_raft_snapshot_index";
/// Seconds since this node was known to be level with a leader that had a majority.
pub const AGE: &str = "conclave_raft_age_seconds";
/// Entries that a member lacks, by member; on the leader.
pub const LAG: &str = "conclave_raft_member_lag_entries";
/// Seconds since the leader heard of a member, by member; on the leader.
pub const SILENCE: &str = "conclave_raft_member_silence_seconds";
/// Voters in force.
pub const VOTERS: &str = "conclave_raft_voters";
/// Seconds that the oldest append of the last sync waited for it.
pub const FSYNC_WAIT: &str = "conclave_raft_fsync_wait_seconds";

/// Every name here, with its unit and help.
pub const ALL: [(&str, Unit, &str); 11] = [
    (TERM, Unit::Count, "Raft term of this node"),
    (IS_LEADER, Unit::Count, "1 on the leader, else 0"),
    (LAST_LOG, Unit::Count, "Last index in this node's log"),
    (COMMITTED, Unit::Count, "Last index known to be committed"),
    (APPLIED, Unit::Count, "Last index applied to this node's state"),
    (SNAPSHOT, Unit::Count, "Last index in this node's newest snapshot"),
    (AGE, Unit::Seconds, "Time since this node was level with a leader that had a majority"),
    (LAG, Unit::Count, "Entries that a member lacks (leader only)"),
    (SILENCE, Unit::Seconds, "Time since the leader heard of a member (leader only)"),
    (VOTERS, Unit::Count, "Voters in force"),
    (FSYNC_WAIT, Unit::Seconds, "How long the oldest append of the last sync waited for it"),
];

/// Tells the recorder what the names mean. Once, at start.
pub fn describe() {
    for (name, unit, help) in ALL {
        describe_gauge!(name, unit, help);
    }
}

/// Publishes a status. Called whenever metrics are scraped.
pub fn publish(status: &Status, fsync_wait: std::time::Duration) {
    gauge!(TERM).set(number(status.term));
    gauge!(IS_LEADER).set(f64::from(u8::from(status.state == NodeState::Leader)));
    gauge!(LAST_LOG).set(number(status.last_log.unwrap_or(0)));
    gauge!(COMMITTED).set(number(status.committed.unwrap_or(0)));
    gauge!(APPLIED).set(number(status.applied.unwrap_or(0)));
    gauge!(SNAPSHOT).set(number(status.snapshot.unwrap_or(0)));
    if let Some(age) = status.age {
        gauge!(AGE).set(age.as_secs_f64());
    }
    let voters = status.members.iter().filter(|member| member.voter).count();
    gauge!(VOTERS).set(number(voters as u64));
    for member in &status.members {
        if let Some(lag) = member.lag {
            gauge!(LAG, "member" => member.info.name.clone()).set(number(lag));
        }
        if let Some(silence) = member.silent_for {
            gauge!(SILENCE, "member" => member.info.name.clone()).set(silence.as_secs_f64());
        }
    }
    gauge!(FSYNC_WAIT).set(fsync_wait.as_secs_f64());
}

/// Indexes and terms stay far below 2^53, up to which a gauge is exact.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn number(value: u64) -> f64 {
    value as f64
}
