//! From turns to one report: medians over rounds, ratios of neighbouring turns, and what limited each entrant.

use std::fmt::Write;

use serde::Serialize;

use crate::calibrate::Calibration;
use crate::contest::{Measurement, Turn};
use crate::subject::Workload;
use crate::{process, usage};

/// Where, when and with what a run was made.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// Commit of the source tree, with `-dirty` when it had changes.
    pub commit: String,
    /// UTC.
    pub time: String,
    /// Processors shared by servers and generator.
    pub cores: usize,
    /// The processor's name.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
}

impl Provenance {
    /// Looks at the machine and the source tree.
    pub fn now() -> Self {
        let source = env!("CARGO_MANIFEST_DIR");
        let git = |arguments: &[&str]| {
            let mut all = vec!["-C", source];
            all.extend_from_slice(arguments);
            process::output_of("git", &all)
        };
        let mut commit =
            git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        if git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty()) {
            commit.push_str("-dirty");
        }
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
        let processor = processor.and_then(|rest| rest.split_once(": ")).map_or("", |pair| pair.1);
        Self {
            commit,
            time: process::output_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_default(),
            cores: usage::cores(),
            processor: processor.to_owned(),
            kernel: process::output_of("uname", &["-r"]).unwrap_or_default(),
        }
    }
}

/// The peer's side of a report.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReport {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// How it was set up.
    pub setup: &'static str,
    /// The median of its closed loops.
    pub ops_per_s: f64,
    /// Open loop at the same share of its own peak, median.
    pub p50_ms: f64,
    /// The same, 99th percentile.
    pub p99_ms: f64,
    /// Processor time of its servers per operation at the peak.
    pub cpu_us_per_op: f64,
    /// Its fsyncs per operation at the peak, if it counts them.
    pub fsyncs_per_op: Option<f64>,
    /// Bytes that it sent to the storage layer per operation at the peak.
    pub written_bytes_per_op: f64,
    /// What limited it.
    pub limited_by: String,
}

/// The ceilings of the machine in the same minutes, and what limited the subject.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// RSA-2048 signatures per second, one processor.
    pub rsa_sign_per_s: f64,
    /// The same, all processors.
    pub rsa_sign_per_s_all_cores: f64,
    /// `fdatasync`, median.
    pub fdatasync_p50_ms: f64,
    /// `fdatasync`, 99th percentile.
    pub fdatasync_p99_ms: f64,
    /// What limited the subject, in words.
    pub limited_by: String,
    /// Whether other work on the machine took so much of it that the numbers describe that work.
    pub disturbed: bool,
}

/// One run of `conclave-bench`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked.
    pub workload: Workload,
    /// Who was asked (Conclave, unless a peer was run alone).
    pub subject: &'static str,
    /// Its version.
    pub version: String,
    /// Median of the closed loops: the peak.
    pub ops_per_s: f64,
    /// Open loop, from the intended start: median over rounds of the median.
    pub p50_ms: f64,
    /// The same of the 99th percentile.
    pub p99_ms: f64,
    /// The open loop's rate.
    pub open_ops_per_s: f64,
    /// Processor time of all servers per operation at the peak, in microseconds.
    pub cpu_us_per_op: f64,
    /// The generator's.
    pub generator_cpu_us_per_op: f64,
    /// Fsyncs of all servers per operation at the peak.
    pub fsyncs_per_op: Option<f64>,
    /// Bytes that all servers sent to the storage layer per operation at the peak.
    pub written_bytes_per_op: f64,
    /// Share of the signing rate of all processors that the logins reached (`authn` only).
    pub share_of_rsa_all_cores: Option<f64>,
    /// Share of the signing rate that the processors could reach had they no generator to feed (`authn` only).
    pub share_of_rsa_without_generator: Option<f64>,
    /// The peer, if there was one.
    pub peer: Option<PeerReport>,
    /// Median of the ratios of neighbouring turns, subject to peer.
    pub ratio: Option<f64>,
    /// Each of these ratios.
    pub ratios: Vec<f64>,
    /// Ceilings.
    pub limits: Limits,
    /// Connections.
    pub clients: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Seconds of each measurement.
    pub seconds: u64,
    /// Where and when.
    pub provenance: Provenance,
    /// Everything that was measured, in order.
    pub turns: Vec<Turn>,
}

/// What a report is about, beside the turns.
#[derive(Clone, Copy, Debug)]
pub struct Subjectline {
    /// What was asked.
    pub workload: Workload,
    /// Connections.
    pub clients: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Seconds of each measurement.
    pub seconds: u64,
}

/// The median; of an even number the mean of the middle two. Zero of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

impl Report {
    /// Builds it; none without any turn. The first turn's entrant is the subject, any other the peer.
    pub fn of(line: Subjectline, turns: Vec<Turn>, provenance: Provenance) -> Option<Self> {
        let first = turns.first()?.clone();
        let (own, others): (Vec<&Turn>, Vec<&Turn>) =
            turns.iter().partition(|turn| turn.name == first.name);
        let ratios: Vec<f64> = own
            .iter()
            .zip(&others)
            .map(|(ours, theirs)| ours.closed.ops_per_s / theirs.closed.ops_per_s)
            .collect();
        let peer = others.first().map(|peer| PeerReport {
            name: peer.name,
            version: peer.version.clone(),
            setup: peer.setup,
            ops_per_s: closed(&others, |m| m.ops_per_s),
            p50_ms: open(&others, |m| m.p50_ms),
            p99_ms: open(&others, |m| m.p99_ms),
            cpu_us_per_op: closed(&others, |m| m.cpu_us_per_op),
            fsyncs_per_op: fsyncs(&others),
            written_bytes_per_op: closed(&others, |m| m.written_bytes_per_op),
            limited_by: limited_by(line.workload, &others),
        });
        let ops_per_s = closed(&own, |m| m.ops_per_s);
        let rsa_all = calibrated(&turns, |c| c.rsa_sign_per_s_all_cores);
        let generator_share = closed(&own, |m| m.generator_share);
        // OpenBao signs no tokens: the comparison is of Conclave only.
        let is_authn = line.workload == Workload::Authn && first.name == "conclave";
        Some(Self {
            workload: line.workload,
            subject: first.name,
            version: first.version.clone(),
            ops_per_s,
            p50_ms: open(&own, |m| m.p50_ms),
            p99_ms: open(&own, |m| m.p99_ms),
            open_ops_per_s: open(&own, |m| m.ops_per_s),
            cpu_us_per_op: closed(&own, |m| m.cpu_us_per_op),
            generator_cpu_us_per_op: closed(&own, |m| m.generator_cpu_us_per_op),
            fsyncs_per_op: fsyncs(&own),
            written_bytes_per_op: closed(&own, |m| m.written_bytes_per_op),
            share_of_rsa_all_cores: is_authn.then(|| ops_per_s / rsa_all),
            share_of_rsa_without_generator: is_authn
                .then(|| ops_per_s / (rsa_all * (1.0 - generator_share))),
            ratio: (!ratios.is_empty()).then(|| median(ratios.iter().copied())),
            ratios,
            limits: Limits {
                rsa_sign_per_s: calibrated(&turns, |c| c.rsa_sign_per_s),
                rsa_sign_per_s_all_cores: rsa_all,
                fdatasync_p50_ms: calibrated(&turns, |c| c.fdatasync_p50_ms),
                fdatasync_p99_ms: calibrated(&turns, |c| c.fdatasync_p99_ms),
                limited_by: limited_by(line.workload, &own),
                disturbed: turns.iter().any(|turn| others_share(&turn.closed) > OTHERS_SHARE_MAX),
            },
            peer,
            clients: line.clients,
            value_bytes: line.value_bytes,
            seconds: line.seconds,
            provenance,
            turns,
        })
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let place = &self.provenance;
        writeln!(
            out,
            "{} · {} clients · {} B values · {} s each · commit {} · {}",
            self.workload, self.clients, self.value_bytes, self.seconds, place.commit, place.time
        )?;
        writeln!(
            out,
            "machine: {} cores shared by servers and generator ({}, Linux {})",
            place.cores, place.processor, place.kernel
        )?;
        writeln!(
            out,
            "calibration: fdatasync p50 {:.3} ms, p99 {:.3} ms; RSA-2048 {:.0} signs/s on one core, {:.0} on all",
            self.limits.fdatasync_p50_ms,
            self.limits.fdatasync_p99_ms,
            self.limits.rsa_sign_per_s,
            self.limits.rsa_sign_per_s_all_cores
        )?;
        if self.limits.disturbed {
            writeln!(out, "DISTURBED: other work took over a tenth of the machine; measure again")?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "{:<10} {:<6} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6}",
            "",
            "loop",
            "ops/s",
            "p50 ms",
            "p99 ms",
            "max ms",
            "CPU us/op",
            "gen us/op",
            "fsync/op",
            "bytes/op",
            "idle",
            "stolen"
        )?;
        for turn in &self.turns {
            for (name, measured) in [("closed", &turn.closed), ("open", &turn.open)] {
                writeln!(
                    out,
                    "{:<10} {:<6} {:>9.0} {:>8.3} {:>8.3} {:>8.1} {:>9.1} {:>9.1} {:>9} {:>9.0} {:>5.0}% {:>5.0}%",
                    turn.name,
                    name,
                    measured.ops_per_s,
                    measured.p50_ms,
                    measured.p99_ms,
                    measured.max_ms,
                    measured.cpu_us_per_op,
                    measured.generator_cpu_us_per_op,
                    measured.fsyncs_per_op.map_or("-".to_owned(), |count| format!("{count:.3}")),
                    measured.written_bytes_per_op,
                    measured.machine.idle * 100.0,
                    measured.machine.stolen * 100.0
                )?;
            }
        }
        writeln!(out)?;
        writeln!(
            out,
            "{} {}: {:.0}/s at the peak; at {:.0}/s p50 {:.2} ms, p99 {:.2} ms. Limited by {}",
            self.subject,
            self.version,
            self.ops_per_s,
            self.open_ops_per_s,
            self.p50_ms,
            self.p99_ms,
            self.limits.limited_by
        )?;
        if let Some(share) = self.share_of_rsa_all_cores {
            writeln!(
                out,
                "logins reach {:.0} % of the raw signing rate of all cores, {:.0} % of what the generator left of them",
                share * 100.0,
                self.share_of_rsa_without_generator.unwrap_or_default() * 100.0
            )?;
        }
        if let Some(peer) = &self.peer {
            writeln!(
                out,
                "{} {} ({}): {:.0}/s. Limited by {}",
                peer.name, peer.version, peer.setup, peer.ops_per_s, peer.limited_by
            )?;
            let each: Vec<String> = self.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            writeln!(
                out,
                "ratio {:.2} (per round: {})",
                self.ratio.unwrap_or_default(),
                each.join(", ")
            )?;
        }
        Ok(())
    }
}

fn closed(turns: &[&Turn], of: impl Fn(&Measurement) -> f64) -> f64 {
    median(turns.iter().map(|turn| of(&turn.closed)))
}

fn open(turns: &[&Turn], of: impl Fn(&Measurement) -> f64) -> f64 {
    median(turns.iter().map(|turn| of(&turn.open)))
}

fn fsyncs(turns: &[&Turn]) -> Option<f64> {
    let counts: Vec<f64> = turns.iter().filter_map(|turn| turn.closed.fsyncs_per_op).collect();
    (!counts.is_empty()).then(|| median(counts))
}

fn calibrated(turns: &[Turn], of: impl Fn(&Calibration) -> f64) -> f64 {
    median(turns.iter().map(|turn| of(&turn.calibration)))
}

/// Processor time that neither servers nor generator used, as a share of all. Interrupts are in it.
fn others_share(measured: &Measurement) -> f64 {
    (measured.machine.busy + measured.machine.stolen
        - measured.servers_share
        - measured.generator_share)
        .max(0.0)
}

/// Above this share of others' work a report is marked as disturbed.
const OTHERS_SHARE_MAX: f64 = 0.10;

/// What stood at its limit during the closed loops.
fn limited_by(workload: Workload, turns: &[&Turn]) -> String {
    let servers = closed(turns, |m| m.servers_share);
    let generator = closed(turns, |m| m.generator_share);
    let idle = closed(turns, |m| m.machine.idle);
    let others = closed(turns, others_share);
    let asked: Vec<f64> = turns
        .iter()
        .filter_map(|turn| {
            let share = turn.closed.asked_cpu_us_per_op? / turn.closed.cpu_us_per_op;
            Some(turn.closed.servers_share * share)
        })
        .collect();
    let asked = if asked.is_empty() {
        String::new()
    } else {
        format!(" of which {:.0} % are of those it asks", median(asked) * 100.0)
    };
    let shares = format!(
        "servers {:.0} %{asked}, generator {:.0} %, idle {:.0} %, kernel and others {:.0} % of the cores",
        servers * 100.0,
        generator * 100.0,
        idle * 100.0,
        others * 100.0
    );
    if idle < 0.10 {
        return format!("the processors ({shares})");
    }
    if workload == Workload::Write {
        return format!("waiting for disk and quorum ({shares})");
    }
    format!("waiting, not by processors ({shares})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::MachineShares;

    fn measurement(ops_per_s: f64) -> Measurement {
        Measurement {
            ops_per_s,
            p50_ms: 1.0,
            p99_ms: 2.0,
            p999_ms: 3.0,
            max_ms: 4.0,
            failed: 0,
            cpu_us_per_op: 50.0,
            asked_cpu_us_per_op: None,
            generator_cpu_us_per_op: 5.0,
            servers_share: 0.8,
            generator_share: 0.1,
            machine: MachineShares { busy: 0.95, idle: 0.05, stolen: 0.0 },
            fsyncs_per_op: Some(0.1),
            written_bytes_per_op: 900.0,
        }
    }

    fn turn(name: &'static str, ops_per_s: f64) -> Turn {
        Turn {
            name,
            version: "1".to_owned(),
            setup: "",
            calibration: Calibration {
                rsa_sign_per_s: 2000.0,
                rsa_sign_per_s_all_cores: 3900.0,
                fdatasync_p50_ms: 0.1,
                fdatasync_p99_ms: 0.2,
            },
            closed: measurement(ops_per_s),
            open: measurement(ops_per_s * 0.7),
        }
    }

    fn report(turns: Vec<Turn>) -> Report {
        let line =
            Subjectline { workload: Workload::Write, clients: 64, value_bytes: 256, seconds: 5 };
        Report::of(line, turns, Provenance::now()).unwrap()
    }

    #[test]
    fn medians_and_ratios_are_of_neighbouring_turns() {
        let report = report(vec![
            turn("conclave", 300.0),
            turn("etcd", 100.0),
            turn("conclave", 200.0),
            turn("etcd", 200.0),
        ]);
        assert_eq!(report.ratios, [3.0, 1.0]);
        assert_eq!(report.ratio, Some(2.0));
        assert!((report.ops_per_s - 250.0).abs() < 1e-9);
        assert!(report.text().contains("ratio 2.00"), "{}", report.text());
        assert!(report.limits.limited_by.starts_with("the processors"));
    }

    #[test]
    fn the_json_has_the_fields_that_readers_rely_on() {
        let value =
            serde_json::to_value(report(vec![turn("conclave", 300.0), turn("etcd", 100.0)]))
                .unwrap();
        for pointer in [
            "/ops_per_s",
            "/p50_ms",
            "/p99_ms",
            "/cpu_us_per_op",
            "/ratio",
            "/peer/ops_per_s",
            "/limits/rsa_sign_per_s",
            "/limits/fdatasync_p50_ms",
        ] {
            assert!(value.pointer(pointer).is_some_and(serde_json::Value::is_number), "{pointer}");
        }
        for pointer in ["/workload", "/peer/name", "/peer/version", "/provenance/commit"] {
            assert!(value.pointer(pointer).is_some_and(serde_json::Value::is_string), "{pointer}");
        }
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let report = report(vec![turn("conclave", 300.0)]);
        assert_eq!((report.ratio, report.peer.is_none()), (None, true));
        let empty =
            Subjectline { workload: Workload::Read, clients: 1, value_bytes: 1, seconds: 1 };
        assert!(Report::of(empty, Vec::new(), Provenance::now()).is_none());
    }

    #[test]
    fn what_the_servers_use_that_it_asks_is_told_apart() {
        let mut asking = turn("conclave", 300.0);
        asking.closed.asked_cpu_us_per_op = Some(20.0);
        let words = report(vec![asking, turn("slapd", 900.0)]).limits.limited_by;
        assert!(words.contains("servers 80 % of which 32 % are of those it asks,"), "{words}");
    }

    #[test]
    fn medians() {
        assert!(median([]).abs() < 1e-9);
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
