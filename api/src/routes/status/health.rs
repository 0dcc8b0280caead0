//! `/health`: alive, and ready to serve, apart from each other.
//!
//! *Alive* says that the process answers. *Ready* says that it may serve: open, not failed, a voter
//! with a leader or a follower young enough. `/health` is 200 when ready and 502 when not, as load
//! balancers for Conjur expect, and also 502 on a node whose part is none of
//! [`Settings::health_ok_for`](crate::settings::Settings::health_ok_for); `/health/live` is always 200,
//! `/health/ready` and `/health/leader` are 200 or 503. `/remote_health/{member}` passes on what another
//! member says of itself.
//!
//! Where a check is for the leader alone, whoever says yes has just confirmed with a majority that it leads: one
//! that was paused or cut off, and has yet to hear that another was elected, does not answer beside that one.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::context::{Answer, Call};
use crate::door::Door;
use crate::error::Refusal;
use crate::ports::{ClusterStatus, Health, HealthError, Part};

/// For so long a voter may serve without a leader who has a majority: an election takes less, and requests wait
/// for it. A leader that is cut off may not serve for longer, though it has yet to hear of its deposition.
const LEADERLESS_MAX: Duration = Duration::from_secs(1);
/// How long a leader may take to confirm that it leads; load balancers wait no longer.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// What each part of the node says of itself.
#[expect(clippy::struct_excessive_bools, reason = "each is a finding of its own")]
struct Report {
    status: ClusterStatus,
    sealed: bool,
    audit: Result<(), String>,
    audit_waiting: u64,
    draining: bool,
    has_leader: bool,
    /// Whether a leader has a majority now, or had one a moment ago.
    led: bool,
    too_old: bool,
    unwanted_for_age: bool,
    degraded: bool,
    /// Whether `/health` is to be good on a node of this part.
    wanted: bool,
}

impl Report {
    fn of(door: &Door) -> Self {
        let status = door.proposer.status();
        let spool = door.spool.status();
        let settings = door.settings();
        let age = status.age;
        let follows = status.part == Part::Follower;
        let older_than = |limit: Duration| follows && age.is_none_or(|age| age > limit);
        let is_recent = |age: Duration| age <= LEADERLESS_MAX;
        let led = if status.part == Part::Leader {
            age.is_none_or(is_recent)
        } else {
            status.leader.is_some() || age.is_some_and(is_recent)
        };
        Self {
            led,
            sealed: door.vaults.vault().is_none(),
            audit: spool.failure.map_or(Ok(()), Err),
            audit_waiting: spool.last.saturating_sub(spool.written),
            draining: door.draining.load().is_some(),
            has_leader: status.leader.is_some(),
            too_old: older_than(settings.staleness_max),
            unwanted_for_age: settings.staleness_unwanted.is_some_and(older_than),
            degraded: older_than(settings.staleness_degraded),
            wanted: settings.health_ok_for.contains(status.part),
            status,
        }
    }

    /// What is wrong with the node itself; nothing when it is well. One that has only yet to be given its vote is
    /// well: the leader asks for this before it gives the vote.
    fn ailment(&self) -> Option<&'static str> {
        if self.audit.is_err() {
            Some("audit records cannot be written")
        } else if self.sealed {
            Some("sealed")
        } else if self.draining {
            Some(DRAINING)
        } else if self.status.part == Part::Stopped {
            Some(Part::Stopped.as_str())
        } else if self.status.part != Part::Follower && !self.led {
            Some("no leader")
        } else if self.too_old {
            Some("out of touch for too long")
        } else {
            None
        }
    }

    /// Why the node is not ready; nothing when it is.
    fn obstacle(&self) -> Option<&'static str> {
        let joining = || (self.status.part == Part::Joining).then_some(Part::Joining.as_str());
        self.ailment().or_else(joining)
    }

    /// Why load balancers are to pass this node by; nothing when they are not.
    fn unwanted(&self) -> Option<&'static str> {
        let not_here = || (!self.wanted).then_some("not for a node of this part, by its settings");
        let aged = || self.unwanted_for_age.then_some("out of touch");
        self.obstacle().or_else(aged).or_else(not_here)
    }

    fn document(&self) -> Value {
        let obstacle = self.unwanted();
        let ok = obstacle.is_none();
        let word = |good: bool, bad: &str| if good { json!("ok") } else { json!(bad) };
        let age_ms = self.status.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let running = if self.obstacle().is_none() { "running" } else { "starting" };
        json!({
            "ok": ok,
            "alive": true,
            "ready": self.obstacle().is_none(),
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
                "ok": self.led || self.status.part == Part::Follower,
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
                "silent_members": self.status.silent,
            },
            "lag_entries": self.status.lag_entries(),
            "lag_ms": age_ms,
            "audit_queue": {"depth": self.audit_waiting},
        })
    }
}

/// What is wrong with a node; nothing when it is well.
pub(crate) fn ailment(door: &Door) -> Option<&'static str> {
    Report::of(door).ailment()
}

/// How this node is, for those who ask it as a member.
pub(crate) fn of(door: &Door) -> Health {
    let report = Report::of(door);
    Health { ok: report.unwanted().is_none(), document: report.document().to_string().into_bytes() }
}

/// The status and header by which load balancers decide.
const fn verdict(ok: bool) -> (StatusCode, HeaderValue) {
    if ok {
        (StatusCode::OK, HeaderValue::from_static("OK"))
    } else {
        (StatusCode::BAD_GATEWAY, HeaderValue::from_static("NOT OK"))
    }
}

/// Why a node is not ready that was taken out of service, or is about to end.
const DRAINING: &str = "draining";

const CONJUR_HEALTH: HeaderName = HeaderName::from_static("conjur-health");

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let mut report = Report::of(&call.door);
    let wanted = call.door.settings().health_ok_for;
    if report.status.part == Part::Leader && !wanted.contains(Part::Standby) {
        report.wanted &= leads(&call.door).await;
    }
    let (status, word) = verdict(report.unwanted().is_none());
    Ok(Answer::json(&report.document()).status(status).header(CONJUR_HEALTH, word))
}

/// What another member says of itself. Only names of members are taken: this node asks nobody else.
pub(crate) async fn remote(call: &mut Call) -> Result<Answer, Refusal> {
    let member = call.params.name.clone().unwrap_or_default();
    match call.door.proposer.health_of(&member).await {
        Ok(health) => {
            let (status, word) = verdict(health.ok);
            Ok(Answer::json_bytes(health.document).status(status).header(CONJUR_HEALTH, word))
        }
        Err(HealthError::Myself) => show(call).await,
        Err(HealthError::NoMember) => {
            Ok(Answer::json(&json!({"ok": false, "error": "no member has that name"}))
                .status(StatusCode::NOT_FOUND))
        }
        Err(HealthError::Unreachable(reason)) => {
            // The reason may tell addresses; strangers are told no more than the fact.
            tracing::info!(member, reason, "health.unreachable");
            let (status, word) = verdict(false);
            Ok(Answer::json(&json!({"ok": false, "error": "the member cannot be reached"}))
                .status(status)
                .header(CONJUR_HEALTH, word))
        }
    }
}

pub(crate) async fn live(_call: &mut Call) -> Result<Answer, Refusal> {
    Ok(Answer::json(&json!({"alive": true})))
}

/// A node that is taken out of service in good order still answers those that are connected. Load balancers
/// that tell the two apart by 404, such as HAProxy by `disable-on-404`, then leave open connections alone.
pub(crate) async fn ready(call: &mut Call) -> Result<Answer, Refusal> {
    let obstacle = Report::of(&call.door).obstacle();
    let status = match obstacle {
        Some(DRAINING) => StatusCode::NOT_FOUND,
        obstacle => yes_or_no(obstacle.is_none()),
    };
    Ok(Answer::json(&json!({"ready": obstacle.is_none(), "reason": obstacle})).status(status))
}

pub(crate) async fn leader(call: &mut Call) -> Result<Answer, Refusal> {
    let may_serve = Report::of(&call.door).obstacle().is_none();
    let leads = may_serve && leads(&call.door).await;
    let term = call.door.proposer.status().term;
    Ok(Answer::json(&json!({"leader": leads, "term": term})).status(yes_or_no(leads)))
}

/// Whether this node leads, as a majority has confirmed after it was asked.
async fn leads(door: &Door) -> bool {
    if door.proposer.part() != Part::Leader {
        return false;
    }
    let confirmed = tokio::time::timeout(CONFIRMATION, door.proposer.read_barrier()).await;
    // Deposed meanwhile, it was another leader that confirmed.
    matches!(confirmed, Ok(Ok(_))) && door.proposer.part() == Part::Leader
}

const fn yes_or_no(yes: bool) -> StatusCode {
    if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
