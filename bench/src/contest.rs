//! Rounds A/B/A/B: each entrant is started, driven in a closed loop for its peak, then in an open loop at a share of
//! that peak, and stopped, before the other's turn. Noise of the machine that lasts longer than a round hits both.

use std::time::Duration;

use crate::Fault;
use crate::calibrate::{Calibration, calibrate, millis};
use crate::load::{self, Arrivals, Observed, Plan};
use crate::scratch::Scratch;
use crate::subject::{Entrant, Setting, Subject};
use crate::usage::{self, Machine, MachineShares, Usage};

/// More failures than this share make a rate meaningless.
const FAILED_SHARE_MAX: f64 = 0.001;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Not measured, before each measurement.
    pub warm_up: Duration,
    /// Each measurement.
    pub measured: Duration,
    /// Rounds of each entrant.
    pub rounds: usize,
    /// The open loop's rate as a share of the closed loop's.
    pub open_share: f64,
    /// Generator threads.
    pub threads: usize,
}

/// One load, measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Measurement {
    /// Successes per second.
    pub ops_per_s: f64,
    /// Median latency; in an open loop from the intended start.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Requests that failed.
    pub failed: u64,
    /// Processor time of all server processes per success, in microseconds.
    pub cpu_us_per_op: f64,
    /// What of that was spent by servers that the subject asks, if there are any.
    pub asked_cpu_us_per_op: Option<f64>,
    /// The generator's, on the same processors.
    pub generator_cpu_us_per_op: f64,
    /// Share of all processors that the servers used.
    pub servers_share: f64,
    /// Share of all processors that the generator used.
    pub generator_share: f64,
    /// How all processors spent the time, others' work included.
    pub machine: MachineShares,
    /// Fsyncs of all servers' logs per success, if they count them.
    pub fsyncs_per_op: Option<f64>,
    /// Bytes that all servers sent to the storage layer per success.
    pub written_bytes_per_op: f64,
}

/// One entrant's turn.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Turn {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// How it was set up.
    pub setup: &'static str,
    /// The machine, just before.
    pub calibration: Calibration,
    /// The peak.
    pub closed: Measurement,
    /// At a share of the peak.
    pub open: Measurement,
}

/// Runs all rounds in order; `progress` hears a line before each step.
pub async fn run(
    entrants: &[Entrant],
    setting: Setting,
    timing: Timing,
    scratch: &Scratch,
    progress: impl Fn(&str),
) -> Result<Vec<Turn>, Fault> {
    let mut turns = Vec::new();
    for round in 1..=timing.rounds {
        for entrant in entrants {
            let calibration = calibrate(scratch.path())?;
            let subject = Subject::start(*entrant, setting, scratch).await?;
            let label = format!("round {round} of {}, {}", timing.rounds, subject.name);
            progress(&format!("{label}: closed loop, {} clients …", subject.clients.len()));
            let closed = measure(&subject, Arrivals::Closed, timing).await?;
            let rate = closed.ops_per_s * timing.open_share;
            progress(&format!(
                "{label}: {:.0}/s; now open loop at {rate:.0}/s …",
                closed.ops_per_s
            ));
            let open = measure(&subject, Arrivals::Open(rate), timing).await?;
            turns.push(Turn {
                name: subject.name,
                version: subject.version.clone(),
                setup: subject.setup,
                calibration,
                closed,
                open,
            });
            subject.stop().await;
        }
    }
    Ok(turns)
}

/// What the processes and the machine had used at one moment.
struct Edge {
    servers: Usage,
    asked: Option<Usage>,
    generator: Usage,
    machine: Machine,
    fsyncs: Option<f64>,
}

impl Edge {
    async fn now(subject: &Subject) -> Self {
        let fsyncs = subject.fsyncs().await;
        Self {
            servers: usage::of_processes(&subject.processes),
            asked: (!subject.asked.is_empty()).then(|| usage::of_processes(&subject.asked)),
            generator: usage::of_this_process(),
            machine: Machine::now(),
            fsyncs,
        }
    }
}

async fn measure(
    subject: &Subject,
    arrivals: Arrivals,
    timing: Timing,
) -> Result<Measurement, Fault> {
    let plan = Plan {
        clients: subject.clients.clone(),
        arrivals,
        warm_up: timing.warm_up,
        measured: timing.measured,
        threads: timing.threads,
    };
    let mut edges = Vec::with_capacity(2);
    let observed = load::run(plan, async || edges.push(Edge::now(subject).await)).await?;
    let sent = observed.succeeded + observed.failed;
    if observed.succeeded == 0 || observed.failed as f64 > sent as f64 * FAILED_SHARE_MAX {
        return Err(Fault::Failures {
            name: subject.name.to_owned(),
            failed: observed.failed,
            sent,
            first: observed.first_failure.unwrap_or_else(|| "no answer at all".to_owned()),
        });
    }
    let [before, after] = edges.as_slice() else {
        return Err(Fault::Usage("the load never reached its measured part".to_owned()));
    };
    Ok(summary(&observed, before, after))
}

fn summary(observed: &Observed, before: &Edge, after: &Edge) -> Measurement {
    let servers = after.servers.since(before.servers);
    let asked = before.asked.zip(after.asked).map(|(from, to)| to.since(from));
    let generator = after.generator.since(before.generator);
    let operations = observed.succeeded.max(1) as f64;
    let available = observed.elapsed.as_secs_f64() * usage::cores() as f64;
    let latencies = &observed.latencies;
    Measurement {
        ops_per_s: observed.rate(),
        p50_ms: millis(latencies.quantile(500)),
        p99_ms: millis(latencies.quantile(990)),
        p999_ms: millis(latencies.quantile(999)),
        max_ms: millis(latencies.max()),
        failed: observed.failed,
        cpu_us_per_op: servers.cpu.as_secs_f64() * 1e6 / operations,
        asked_cpu_us_per_op: asked.map(|asked| asked.cpu.as_secs_f64() * 1e6 / operations),
        generator_cpu_us_per_op: generator.cpu.as_secs_f64() * 1e6 / operations,
        servers_share: servers.cpu.as_secs_f64() / available,
        generator_share: generator.cpu.as_secs_f64() / available,
        machine: after.machine.since(before.machine),
        fsyncs_per_op: before.fsyncs.zip(after.fsyncs).map(|(from, to)| (to - from) / operations),
        written_bytes_per_op: servers.written as f64 / operations,
    }
}
