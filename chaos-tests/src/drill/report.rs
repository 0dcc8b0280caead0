//! What a drill says in the end, for people and as JSON.

#![expect(clippy::format_push_string, reason = "a report is written once, for people")]

use std::collections::BTreeMap;

use serde::Serialize;

use super::audit::Audited;
use super::failover::{Failover, Outlasted};
use super::jobs::Done;
use super::logins::LetIn;
use super::turnover::Turned;
use super::upgrade::Upgraded;
use crate::checker::{Judgement, Violation};

/// What a run proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every promise held while faults had their effect.
    Valid,
    /// A promise was broken.
    Invalid,
    /// Nothing was proved: the harness failed, the fault had no effect, or too little was seen.
    Unknown,
}

impl Verdict {
    /// The exit code that scripts may rely on.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unknown => 2,
        }
    }
}

/// Quantiles of the time from a fault to the first acknowledged write sent after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Milliseconds {
    /// Half of the trials recovered within this.
    pub p50: f64,
    /// Ninety-nine of a hundred recovered within this.
    pub p99: f64,
    /// All recovered within this.
    pub max: f64,
}

impl Milliseconds {
    /// Quantiles of times in nanoseconds, by the nearest rank.
    pub fn of(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let rank = |per_cent: usize| {
            let rank = (nanoseconds.len() * per_cent).div_ceil(100).max(1);
            nanoseconds.get(rank - 1).map(|time| {
                // Microseconds of a trial fit a float exactly.
                u32::try_from(time / 1000).map_or(f64::MAX, f64::from) / 1000.0
            })
        };
        Some(Self { p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
    }
}

/// The report of one drill.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which drill.
    pub drill: String,
    /// Names the run: the same seed plans the same faults.
    pub seed: u64,
    /// Trials that were run.
    pub trials: u32,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes of unknown fate.
    pub unknown: u64,
    /// Acknowledged writes that are gone.
    pub lost: u64,
    /// Secrets whose history no order explains.
    pub nonlinearizable: u64,
    /// Secrets whose history was too hard to judge.
    pub undecided: u64,
    /// From the fault to the first acknowledged write sent after it.
    pub recovery_ms: Option<Milliseconds>,
    /// Logins and reads tried on the follower while a fault was on.
    pub follower_probes: u64,
    /// Those of them that failed.
    pub follower_read_failures: u64,
    /// Reads of the latest sent straight to the node that had been leader.
    pub old_leader_probes: u64,
    /// Policies loaded beside the recorded load.
    pub policy_loads: u64,
    /// Revocations among them; every later request of the role revoked had to fail on all voters.
    pub revocations: u64,
    /// API keys replaced; the old ones had to be worth nothing.
    pub rotations: u64,
    /// From a revocation's acknowledgement until the follower refused; of the drill `revocation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_on_follower_ms: Option<Milliseconds>,
    /// New connections of clients to nodes that were up; of the drill `certificates`.
    #[serde(skip_serializing_if = "is_zero")]
    pub connections: u64,
    /// Those of them that did not come to be.
    #[serde(skip_serializing_if = "is_zero")]
    pub connections_refused: u64,
    /// From asking for a rotation until all present what came of it, the leader killed meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_ms: Option<Milliseconds>,
    /// What clients of a load balancer saw of each fault; of the drill `failover`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<Failover>,
    /// How long the follower served alone; of the drill `failover`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_voters_down: Option<Outlasted>,
    /// What clients of a load balancer saw of the drill `upgrade`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgraded: Option<Upgraded>,
    /// From the last fault until all members held the same; of the drill `converge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converged_ms: Option<Milliseconds>,
    /// What came over the cluster, and how often; of the drill `converge`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub troubles: BTreeMap<String, u64>,
    /// Restarts of standbys and followers in calm, none of which may cause an election; of the drill
    /// `converge`.
    #[serde(skip_serializing_if = "is_zero")]
    pub restarts: u64,
    /// What was found of the audit chain in each mode; of the drill `audit`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audited: Vec<Audited>,
    /// What clients saw of each job of operators; of the drill `jobs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<Done>,
    /// What became of logins, by way; with mixed logins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<LetIn>,
    /// How many terms the cluster went through.
    pub elections: u64,
    /// Operations left out because too many were in flight.
    pub skipped: u64,
    /// Share of the time in which the machine's processors had something to run, 0 to 1; of a calm
    /// drill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors_busy: Option<f64>,
    /// Seconds that the drill took.
    pub seconds: u64,
    /// The commit that was tried.
    pub commit: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why the verdict is not valid: violations first, then what stayed unknown.
    pub reasons: Vec<String>,
    /// The command that runs the same again.
    pub replay: String,
}

impl Report {
    /// A report without findings yet.
    pub fn new(drill: &str, seed: u64, replay: String) -> Self {
        Self {
            drill: drill.to_owned(),
            seed,
            trials: 0,
            acknowledged: 0,
            unknown: 0,
            lost: 0,
            nonlinearizable: 0,
            undecided: 0,
            recovery_ms: None,
            follower_probes: 0,
            follower_read_failures: 0,
            old_leader_probes: 0,
            policy_loads: 0,
            revocations: 0,
            rotations: 0,
            revocation_on_follower_ms: None,
            connections: 0,
            connections_refused: 0,
            rotation_ms: None,
            failovers: Vec::new(),
            all_voters_down: None,
            upgraded: None,
            converged_ms: None,
            troubles: BTreeMap::new(),
            restarts: 0,
            audited: Vec::new(),
            jobs: Vec::new(),
            logins: Vec::new(),
            elections: 0,
            skipped: 0,
            processors_busy: None,
            seconds: 0,
            commit: commit(),
            verdict: Verdict::Valid,
            reasons: Vec::new(),
            replay,
        }
    }

    /// Takes in what the judges say.
    pub fn judged(&mut self, judgement: Judgement) {
        self.acknowledged += judgement.acknowledged;
        self.unknown += judgement.unknown;
        self.lost += judgement.lost;
        self.nonlinearizable += judgement.nonlinearizable;
        self.undecided += judgement.undecided;
        if judgement.undecided > 0 {
            self.unclear(format!("{} histories were too hard to judge", judgement.undecided));
        }
        self.broken(judgement.violations);
    }

    /// Takes in what came of changes beside the load; gives the follower's lags, in nanoseconds.
    pub fn turned(&mut self, turned: Turned) -> Vec<u64> {
        self.policy_loads += turned.loads;
        self.revocations += turned.revocations;
        self.rotations += turned.rotations;
        self.broken(turned.violations);
        turned.follower
    }

    /// Takes in broken promises: the verdict becomes invalid.
    pub fn broken(&mut self, violations: impl IntoIterator<Item = Violation>) {
        for violation in violations {
            self.verdict = Verdict::Invalid;
            self.reasons.insert(0, violation.to_string());
        }
    }

    /// Takes in something that proves nothing: the verdict becomes unknown unless it is invalid.
    pub fn unclear(&mut self, reason: String) {
        if self.verdict == Verdict::Valid {
            self.verdict = Verdict::Unknown;
        }
        self.reasons.push(reason);
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}: {:?} after {} trials in {} s (seed {}, commit {})\n\
             writes      {} acknowledged, {} unknown, {} lost; {} histories not linearizable\n",
            self.drill,
            self.verdict,
            self.trials,
            self.seconds,
            self.seed,
            self.commit,
            self.acknowledged,
            self.unknown,
            self.lost,
            self.nonlinearizable,
        );
        if let Some(recovery) = self.recovery_ms {
            text += &format!(
                "recovery    p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n",
                recovery.p50, recovery.p99, recovery.max
            );
        }
        text += &format!(
            "follower    {} of {} logins and reads failed\nelections   {}; {} probes of old leaders\n",
            self.follower_read_failures,
            self.follower_probes,
            self.elections,
            self.old_leader_probes
        );
        text += &format!(
            "changes     {} policies loaded, {} revocations, {} API keys replaced\n",
            self.policy_loads, self.revocations, self.rotations
        );
        if let Some(lag) = self.revocation_on_follower_ms {
            text += &format!(
                "revoked     on the follower p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms later\n",
                lag.p50, lag.p99, lag.max
            );
        }
        if let Some(time) = self.rotation_ms {
            text += &format!(
                "rotations   p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; {} of {} connections refused\n",
                time.p50, time.p99, time.max, self.connections_refused, self.connections
            );
        }
        for found in &self.failovers {
            text += &failover_lines(found);
        }
        if let Some(alone) = &self.all_voters_down {
            text += &format!(
                "alone       the follower failed {} of {} logins and reads; after {} ms (limit {} ms): {}\n",
                alone.failed,
                alone.asked,
                alone.refused_after_ms,
                alone.max_staleness_ms,
                alone.answer.trim()
            );
        }
        if let Some(upgraded) = &self.upgraded {
            let gap = upgraded.gap_ms.unwrap_or_default();
            text += &format!(
                "upgraded    {} nodes from {}, level {} to {}; no acknowledgement for {:.0} ms at most\n            \
                 {} of {} requests failed at the first try, {} for good\n",
                upgraded.nodes,
                upgraded.from.display(),
                upgraded.level_before,
                upgraded.level_after,
                gap.max,
                upgraded.failed_without_retry,
                upgraded.requests,
                upgraded.failed_after_retry
            );
        }
        if let Some(time) = self.converged_ms {
            text += &format!(
                "converged   p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; {} restarts without an election\n",
                time.p50, time.p99, time.max, self.restarts
            );
            let troubles = self.troubles.iter().map(|(kind, count)| format!("{count} {kind}"));
            text += &format!("troubles    {}\n", troubles.collect::<Vec<_>>().join(", "));
        }
        for found in &self.audited {
            text += &format!(
                "{:11} {} answers after {} kills and {} power cuts: {} not in the chain, {} more than \
                 once; {} records\n",
                found.durability,
                found.answers,
                found.kills,
                found.power_cuts,
                found.missing,
                found.repeated,
                found.records
            );
        }
        for done in &self.jobs {
            text += &format!(
                "{:34}{:6.0} ms; {} of {} requests failed at the first try, {} for good\n",
                done.job,
                done.took_ms.unwrap_or_default().p50,
                done.failed_without_retry,
                done.requests,
                done.failed_after_retry
            );
        }
        for found in &self.logins {
            text += &format!(
                "logins {:5}{} of {} let in, {} unanswered, {} tried again; {} bad proofs\n",
                found.way,
                found.let_in,
                found.tried,
                found.unanswered,
                found.tried_again,
                found.bad_proofs
            );
        }
        for reason in self.reasons.iter().take(20) {
            text += &format!("  - {reason}\n");
        }
        if self.reasons.len() > 20 {
            text += &format!("  … and {} more\n", self.reasons.len() - 20);
        }
        if self.verdict != Verdict::Valid {
            text += &format!("again: {}\n", self.replay);
        }
        text
    }
}

fn failover_lines(found: &Failover) -> String {
    let times = |times: Option<Milliseconds>| {
        let times = times.unwrap_or_default();
        format!("p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms", times.p50, times.p99, times.max)
    };
    let mut text = format!(
        "{:11} {} trials; writes again {}\n            no acknowledgement for {}; slowest request {}\n            \
         {} of {} requests failed at the first try, {} for good\n",
        found.fault,
        found.trials,
        times(found.writes_again_ms),
        times(found.gap_ms),
        times(found.slowest_ms),
        found.failed_without_retry,
        found.requests,
        found.failed_after_retry
    );
    for failure in &found.failures {
        text += &format!("            {failure}\n");
    }
    text
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The commit that was checked out where this program was built, as far as it is known.
pub fn commit() -> String {
    let source = env!("CARGO_MANIFEST_DIR");
    crate::process::shell::run(&[
        "git",
        "-C",
        source,
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty",
    ])
    .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Milliseconds, Report, Verdict};
    use crate::checker::Violation;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let times = (1..=100).map(|n| n * 1_000_000).collect();
        let expected = Milliseconds { p50: 50.0, p99: 99.0, max: 100.0 };
        assert_eq!(Milliseconds::of(times), Some(expected));
        assert_eq!(Milliseconds::of(Vec::new()), None);
    }

    #[test]
    fn unknown_never_hides_invalid() {
        let mut report = Report::new("x", 1, String::new());
        report.unclear("too little".to_owned());
        assert_eq!(report.verdict, Verdict::Unknown);
        report.broken([Violation { invariant: "I2", detail: "gone".to_owned() }]);
        report.unclear("too little".to_owned());
        assert_eq!(report.verdict, Verdict::Invalid);
    }
}
