//! How cost grows with what is kept: from a thousand resources to a million, one decade at a time.
//!
//! The first part keeps its state in this process, in the store that nodes have; the second asks a
//! cluster of three voters over HTTPS. Each line is one step, measured at every size on the state that
//! grew so far; its slope is the exponent of a power law through the ends (0 is "does not grow", 1 is
//! "in proportion"), and its ratio the last value over the first.

mod cluster;
mod store;

use std::fmt::Write;
use std::fs;

use serde::Serialize;

use crate::Fault;
use crate::report::Provenance;
use crate::scratch::Scratch;

/// Variables of one policy; each is a unit of growth.
const VARIABLES: usize = 1_000;
/// Hosts of one policy, all in the group that may use its variables.
const HOSTS: usize = 100;
/// Users beside them, so that there are a thousand roles from the start.
const USERS: usize = 900;
/// The sizes, in resources.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most secrets in this process.
    pub in_process: usize,
    /// Most resources in the cluster; none leaves it out.
    pub in_cluster: usize,
}

/// One step, at every size.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What was done.
    pub step: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// At each size.
    pub points: Vec<Point>,
    /// The exponent of growth between the ends; nothing with one size only.
    pub slope: Option<f64>,
    /// The last value over the first.
    pub ratio: Option<f64>,
}

/// One value.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Variables there were.
    pub secrets: usize,
    /// Roles there were.
    pub roles: usize,
    /// The median.
    pub value: f64,
}

/// All of them.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub provenance: Provenance,
    /// Measured in this process.
    pub in_process: Vec<Line>,
    /// Measured through a cluster.
    pub in_cluster: Vec<Line>,
}

/// Lines that fill up as the state grows.
#[derive(Debug, Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn add(&mut self, step: &'static str, unit: &'static str, point: Point) {
        if let Some(line) = self.0.iter_mut().find(|line| line.step == step) {
            line.points.push(point);
        } else {
            self.0.push(Line { step, unit, points: vec![point], slope: None, ratio: None });
        }
    }

    fn finish(mut self) -> Vec<Line> {
        for line in &mut self.0 {
            if let (Some(first), Some(last)) = (line.points.first(), line.points.last())
                && last.secrets > first.secrets
                && first.value > 0.0
            {
                let ratio = last.value / first.value;
                let growth = last.secrets as f64 / first.secrets as f64;
                line.ratio = Some(ratio);
                line.slope = Some(ratio.ln() / growth.ln());
            }
        }
        self.0
    }
}

/// Measures both parts. `say` is told what goes on.
///
/// # Errors
/// Whatever ends the run: a store or a cluster that refuses.
pub async fn run(limits: Limits, scratch: &Scratch, say: impl Fn(String)) -> Result<Report, Fault> {
    let provenance = Provenance::now();
    let in_process = store::run(limits.in_process, &scratch.folder("scale")?, &say)?;
    let in_cluster = if limits.in_cluster == 0 {
        Vec::new()
    } else {
        cluster::run(limits.in_cluster, scratch, &say).await?
    };
    Ok(Report { provenance, in_process, in_cluster })
}

impl Report {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!("{} on {}\n", self.provenance.commit, self.provenance.processor);
        for (title, lines) in
            [("in this process", &self.in_process), ("through the cluster", &self.in_cluster)]
        {
            if lines.is_empty() {
                continue;
            }
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "\n{title:<38} {:>6} {:>8} {:>8}  at secrets",
                "unit", "ratio", "slope"
            );
            for line in lines {
                let number =
                    |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
                let _ = write!(
                    text,
                    "{:<38} {:>6} {:>8} {:>8} ",
                    line.step,
                    line.unit,
                    number(line.ratio),
                    number(line.slope)
                );
                for point in &line.points {
                    let _ = write!(text, " {}: {}", short(point.secrets), significant(point.value));
                }
                text.push('\n');
            }
        }
        text
    }
}

/// 1000 as `1k`, 1000000 as `1M`.
fn short(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}

fn significant(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn broken(what: impl std::fmt::Display) -> Fault {
    Fault::Usage(format!("scale: {what}"))
}

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes of memory that processes hold.
fn resident(pids: &[u32]) -> u64 {
    let page = rustix::param::page_size() as u64;
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * page
}

/// A policy of its own: variables, a group that may use them, and hosts in the group.
fn policy(number: usize) -> String {
    let mut text = format!("- !policy\n  id: app{number}\n  body:\n  - &variables{number}\n");
    text.extend((0..VARIABLES).map(|at| format!("    - !variable v{at}\n")));
    text.push_str("  - !group users\n  - !permit\n    role: !group users\n");
    // Several of these go into one text, in which a name of an anchor stands once.
    text.push_str(
        "    privileges: [read, execute, update]
",
    );
    text.extend([format!(
        "    resource: *variables{number}
"
    )]);
    text.extend((0..HOSTS).map(|at| format!("  - !host h{at}\n")));
    text.push_str("  - !grant\n    role: !group users\n    members:\n");
    text.extend((0..HOSTS).map(|at| format!("    - !host h{at}\n")));
    text
}

/// The users that there are from the start.
fn users() -> String {
    let mut text = String::new();
    text.extend((0..USERS).map(|at| format!("- !user u{at}\n")));
    text
}

/// Variables by number.
fn variables(prefix: &str, count: usize) -> String {
    let mut text = String::new();
    text.extend((0..count).map(|at| format!("- !variable {prefix}{at}\n")));
    text
}

/// Groups, each in the next; a user in the last, and a variable that the first may use.
fn chain(depth: usize) -> String {
    let mut text = String::from("- !policy\n  id: deep\n  body:\n  - !variable v\n  - !host h\n");
    text.extend((0..depth).map(|at| format!("  - !group g{at}\n")));
    text.extend(
        (1..depth)
            .map(|at| format!("  - !grant {{role: !group g{}, member: !group g{at}}}\n", at - 1)),
    );
    text.extend([format!("  - !grant {{role: !group g{}, member: !host h}}\n", depth - 1)]);
    text.push_str("  - !permit {role: !group g0, privilege: [execute], resource: !variable v}\n");
    text
}

/// A policy of so many lines.
fn lines(name: &str, count: usize) -> String {
    let mut text = format!("- !policy\n  id: {name}\n  body:\n");
    text.extend((0..count - 3).map(|at| format!("  - !variable v{at}\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_exponents() {
        let mut lines = Lines::default();
        for (secrets, flat, linear) in [(1_000, 5.0, 2.0), (1_000_000, 5.0, 2000.0)] {
            let point = |value| Point { secrets, roles: 1, value };
            lines.add("flat", "us", point(flat));
            lines.add("linear", "us", point(linear));
        }
        let lines = lines.finish();
        assert!(lines[0].slope.unwrap().abs() < 1e-9);
        assert!((lines[1].slope.unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn texts_have_as_many_lines_as_they_say() {
        assert_eq!(lines("x", 4_003).lines().count(), 4_003);
        assert_eq!(policy(1).matches("!variable").count(), VARIABLES);
        assert_eq!(chain(200).matches("- !group").count(), 200);
    }

    #[test]
    fn a_small_store_is_measured_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let lines = store::run(1_000, folder.path(), &|_| {}).unwrap();
        assert!(lines.len() >= 8, "{lines:?}");
        // What the process holds may not grow at all when others have let go of as much.
        let timed = lines.iter().filter(|line| line.unit != "bytes");
        assert!(timed.flat_map(|line| &line.points).all(|point| point.value > 0.0));
    }
}
