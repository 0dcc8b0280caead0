//! `/health`: alive, and ready to serve, apart from each other.
//!
//! *Alive* says that the process answers. *Ready* says that it may serve: open, not failed, a voter
//! with a leader or a follower young enough. `/health` is 200 when ready and 502 when not, as load
//! balancers for Conjur expect; `/health/live` is always 200, `/health/ready` and `/health/leader`
//! are 200 or 503.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::context::{Answer, Call};
use crate::door::Door;
use crate::error::Refusal;
use crate::ports::{ClusterStatus, Part};

/// What each part of the node says of itself.
#[expect(clippy::struct_excessive_bools, reason = "each is a finding of its own")]
struct Report {
    status: ClusterStatus,
    sealed: bool,
    audit: Result<(), String>,
    audit_waiting: u64,
    draining: bool,
    has_leader: bool,
    too_old: bool,
    degraded: bool,
}

impl Report {
    fn of(door: &Door) -> Self {
        let status = door.proposer.status();
        let spool = door.spool.status();
        let age = status.age;
        let follows = status.part == Part::Follower;
        let older_than = |limit: Duration| follows && age.is_none_or(|age| age > limit);
        Self {
            sealed: door.vaults.vault().is_none(),
            audit: spool.failure.map_or(Ok(()), Err),
            audit_waiting: spool.last.saturating_sub(spool.written),
            draining: door.draining.load().is_some(),
            has_leader: status.leader.is_some(),
            too_old: older_than(door.settings.staleness_max),
            degraded: older_than(door.settings.staleness_degraded),
            status,
        }
    }

    /// Why the node is not ready; nothing when it is.
    fn obstacle(&self) -> Option<&'static str> {
        if self.audit.is_err() {
            Some("audit records cannot be written")
        } else if self.sealed {
            Some("sealed")
        } else if self.draining {
            Some("draining")
        } else if matches!(self.status.part, Part::Joining | Part::Stopped) {
            Some(self.status.part.as_str())
        } else if self.status.part.is_voter() && !self.has_leader {
            Some("no leader")
        } else if self.too_old {
            Some("out of touch for too long")
        } else {
            None
        }
    }

    fn document(&self) -> Value {
        let obstacle = self.obstacle();
        let ok = obstacle.is_none();
        let word = |good: bool, bad: &str| if good { json!("ok") } else { json!(bad) };
        let age_ms = self.status.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let running = if ok { "running" } else { "starting" };
        json!({
            "ok": ok,
            "alive": true,
            "ready": ok,
            "degraded": self.degraded,
            "sealed": self.sealed,
            "role": self.status.part.as_str(),
            "services": {
                "possum": word(!self.sealed, "sealed"),
                "audit": word(self.audit.is_ok(), "audit records cannot be written"),
                "ok": !self.sealed && self.audit.is_ok(),
            },
            "database": {
                "ok": !self.too_old,
                "connect": {"main": word(!self.too_old, "out of touch")},
            },
            "cluster": {
                "ok": self.has_leader || self.status.part == Part::Follower,
                "status": running,
                "message": obstacle,
            },
            "raft": {
                "term": self.status.term,
                "leader_known": self.has_leader,
                "commit_index": self.status.committed,
                "applied_index": self.status.applied,
                "last_contact_ms": age_ms,
                "voters": self.status.voters,
                "learners": self.status.followers,
            },
            "lag_entries": self.status.lag_entries(),
            "lag_ms": age_ms,
            "audit_queue": {"depth": self.audit_waiting},
        })
    }
}

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let report = Report::of(&call.door);
    let ready = report.obstacle().is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let word = if ready { "OK" } else { "NOT OK" };
    Ok(Answer::json(&report.document())
        .status(status)
        .header(HeaderName::from_static("conjur-health"), HeaderValue::from_static(word)))
}

pub(crate) async fn live(_call: &mut Call) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!({"alive": true})))
}

pub(crate) async fn ready(call: &mut Call) -> Result<Answer, Refusal> {
    let report = Report::of(&call.door);
    let obstacle = report.obstacle();
    Ok(Answer::json(&json!({"ready": obstacle.is_none(), "reason": obstacle}))
        .status(yes_or_no(obstacle.is_none())))
}

pub(crate) async fn leader(call: &mut Call) -> Result<Answer, Refusal> {
    let report = Report::of(&call.door);
    let leads = report.status.part == Part::Leader && report.obstacle().is_none();
    Ok(Answer::json(&json!({"leader": leads})).status(yes_or_no(leads)))
}

const fn yes_or_no(yes: bool) -> StatusCode {
    if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
