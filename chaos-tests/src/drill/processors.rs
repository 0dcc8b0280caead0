//! How busy the machine's processors were during a drill, from `/proc/stat`.

/// Counters of processor time, in clock ticks since the machine started.
#[derive(Debug, Clone, Copy)]
pub struct Processors {
    idle: u64,
    all: u64,
}

impl Processors {
    /// The counters now; none where the system does not tell.
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// `cpu user nice system idle waiting hard soft stolen …`
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        let &[_, _, _, idle, waiting, _, _, _] = ticks.as_slice() else { return None };
        Some(Self { idle: idle + waiting, all: ticks.iter().sum() })
    }

    /// Share of the time since `earlier` in which the processors had something to run, 0 to 1.
    pub fn busy_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let idle = self.idle.saturating_sub(earlier.idle);
        let thousandths = (all.saturating_sub(idle) * 1000).checked_div(all).unwrap_or(0);
        u32::try_from(thousandths).map_or(1.0, f64::from) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::Processors;

    #[test]
    fn waiting_for_a_disk_counts_as_idle() {
        let earlier = Processors::parse("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1").unwrap();
        let later = Processors::parse("cpu  60 10 20 80 20 5 3 2 0 0\n").unwrap();
        assert!((later.busy_since(earlier) - 0.8).abs() < 1e-9);
        assert!(Processors::parse("intr 1").is_none());
    }
}
