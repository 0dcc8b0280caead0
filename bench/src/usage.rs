//! Processor time and bytes written, from `/proc`: of the servers under test, of this generator, and of the machine.

use std::fs;
use std::time::Duration;

/// Sums over a set of processes, since each began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Bytes sent to the storage layer (`write_bytes`).
    pub written: u64,
}

impl Usage {
    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

/// The processes and all their descendants.
pub fn of_processes(roots: &[u32]) -> Usage {
    family(roots).into_iter().map(of_process).fold(Usage::default(), |sum, one| Usage {
        cpu: sum.cpu + one.cpu,
        written: sum.written + one.written,
    })
}

/// This process alone.
pub fn of_this_process() -> Usage {
    of_process(std::process::id())
}

fn of_process(pid: u32) -> Usage {
    let cpu = fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| Stat::parse(&text))
        .map_or(Duration::ZERO, |stat| ticks(stat.cpu_ticks));
    let written = fs::read_to_string(format!("/proc/{pid}/io"))
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
            line.trim().parse().ok()
        })
        .unwrap_or(0);
    Usage { cpu, written }
}

/// `roots` and whoever descends from them.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Stat::parse(&text)?.parent))
        })
        .collect();
    let mut family = roots.to_vec();
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        next += 1;
        for (pid, of) in &parents {
            if *of == parent && !family.contains(pid) {
                family.push(*pid);
            }
        }
    }
    family
}

/// Two fields of `/proc/<pid>/stat`.
struct Stat {
    parent: u32,
    cpu_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name in parentheses and may itself hold anything.
        let rest = &text[text.rfind(')')? + 1..];
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Counted from the state, which is field 3 of proc(5): parent 4, utime 14, stime 15.
        Some(Self { parent: u32::try_from(number(1)?).ok()?, cpu_ticks: number(11)? + number(12)? })
    }
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_nanos(count.saturating_mul(1_000_000_000) / per_second)
}

/// Processor time of the whole machine, from the first line of `/proc/stat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    busy: u64,
    idle: u64,
    stolen: u64,
}

/// How the machine's processors spent an interval, as shares of one.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct MachineShares {
    /// Running anything at all.
    pub busy: f64,
    /// Nothing to run, or waiting for a disk.
    pub idle: f64,
    /// Taken by the hypervisor for others.
    pub stolen: f64,
}

impl Machine {
    /// The counters now.
    pub fn now() -> Self {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> =
            line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        let &[user, nice, system, idle, waiting, hard, soft, stolen, ..] = fields.as_slice() else {
            return None;
        };
        Some(Self { busy: user + nice + system + hard + soft, idle: idle + waiting, stolen })
    }

    /// Shares since `earlier`.
    pub fn since(self, earlier: Self) -> MachineShares {
        let busy = self.busy.saturating_sub(earlier.busy) as f64;
        let idle = self.idle.saturating_sub(earlier.idle) as f64;
        let stolen = self.stolen.saturating_sub(earlier.stolen) as f64;
        let all = (busy + idle + stolen).max(1.0);
        MachineShares { busy: busy / all, idle: idle / all, stolen: stolen / all }
    }
}

/// How many processors this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let text = "42 (a) b) (c) S 7 1 1 0 -1 4194560 5 0 0 0 120 30 0 0 20 0 9 0 1 2 3";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.cpu_ticks), (7, 150));
        assert!(Stat::parse("nonsense").is_none());
    }

    #[test]
    fn the_machine_is_split_into_shares_of_one() {
        let before = Machine::parse("cpu  10 0 10 100 0 0 0 0 0 0\n").unwrap();
        let after = Machine::parse("cpu  50 0 20 140 5 0 0 5 0 0\n").unwrap();
        let shares = after.since(before);
        assert!((shares.busy - 0.5).abs() < 1e-9, "{shares:?}");
        assert!((shares.idle - 0.45).abs() < 1e-9, "{shares:?}");
        assert!((shares.stolen - 0.05).abs() < 1e-9, "{shares:?}");
    }

    #[test]
    fn this_process_has_used_time_and_is_in_its_own_family() {
        let own = std::process::id();
        assert!(family(&[own]).contains(&own));
        assert!(family(&[1]).len() > 1);
    }
}
