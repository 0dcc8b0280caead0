//! Latencies counted in buckets whose width grows with the value, so that any quantile is within 0.8 %.
//!
//! ```text
//! value (ns)   0 .. 255      one bucket each
//!            256 .. 511      128 buckets of 2
//!            512 .. 1023     128 buckets of 4      … and so on, doubling
//! ```

use std::time::Duration;

const MANTISSA_BITS: u32 = 7;
const BUCKETS_PER_OCTAVE: usize = 1 << MANTISSA_BITS;
/// 2^40 ns is 18 minutes; nothing here waits longer. What does is counted in the last bucket.
const OCTAVES: usize = 34;

/// Counts of latencies.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS_PER_OCTAVE * OCTAVES], total: 0, sum_ns: 0, max_ns: 0 }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        self.counts[bucket(ns).min(last)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many latencies were counted.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether none was counted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The smallest latency that at least `per_mille` of a thousand stay within (500 is the median);
    /// the upper edge of its bucket, but never above the maximum. Zero when empty.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_edge(index).min(self.max_ns));
            }
        }
        Duration::from_nanos(self.max_ns)
    }

    /// The largest latency, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The mean; zero when empty.
    pub fn mean(&self) -> Duration {
        let mean = self.sum_ns.checked_div(u128::from(self.total)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }
}

/// The bucket of a value: its octave, then its next seven bits.
fn bucket(ns: u64) -> usize {
    let octave = ns.checked_ilog2().unwrap_or(0).saturating_sub(MANTISSA_BITS);
    let mantissa = ns >> octave;
    let base = u64::from(octave) * BUCKETS_PER_OCTAVE as u64;
    // In octave 0 the mantissa spans 0..256, in all others 128..256: buckets have no gap and no overlap.
    usize::try_from(base + mantissa).unwrap_or(usize::MAX)
}

/// The largest value that falls into a bucket.
fn upper_edge(index: usize) -> u64 {
    let octave = (index / BUCKETS_PER_OCTAVE).saturating_sub(1);
    let mantissa = (index - octave * BUCKETS_PER_OCTAVE) as u64;
    ((mantissa + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket_and_within_one_part_in_128() {
        let mut values: Vec<u64> = (0..4096).collect();
        values.extend((12..39).flat_map(|bit| {
            let base = 1_u64 << bit;
            [base - 1, base, base + 1, base + base / 3, base + base / 2 + 7]
        }));
        for value in values {
            let index = bucket(value);
            let high = upper_edge(index);
            let low = if index == 0 { 0 } else { upper_edge(index - 1) + 1 };
            assert!((low..=high).contains(&value), "{value} not in {low}..={high}");
            assert!(high - low <= value / 128, "{value}: bucket {low}..={high} too wide");
        }
    }

    #[test]
    fn quantiles_of_a_known_set() {
        let mut histogram = Histogram::new();
        for micros in 1..=1000_u64 {
            histogram.record(Duration::from_micros(micros));
        }
        for (per_mille, micros) in [(500, 500_u64), (990, 990), (999, 999), (1000, 1000)] {
            let got = histogram.quantile(per_mille).as_nanos();
            let want = u128::from(micros) * 1000;
            assert!(got >= want && got <= want + want / 128, "p{per_mille}: {got} for {want}");
        }
        assert_eq!(histogram.max(), Duration::from_millis(1));
        assert_eq!(histogram.mean(), Duration::from_nanos(500_500));
        assert_eq!(histogram.len(), 1000);
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut left, mut right, mut both) =
            (Histogram::new(), Histogram::new(), Histogram::new());
        for micros in 1..500_u64 {
            left.record(Duration::from_micros(micros));
            both.record(Duration::from_micros(micros));
            right.record(Duration::from_micros(micros * 7));
            both.record(Duration::from_micros(micros * 7));
        }
        left.merge(&right);
        for per_mille in [1, 500, 990, 1000] {
            assert_eq!(left.quantile(per_mille), both.quantile(per_mille));
        }
        assert_eq!(left.mean(), both.mean());
    }

    #[test]
    fn an_empty_histogram_is_all_zero_and_an_endless_wait_is_counted_last() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(500), Duration::ZERO);
        assert_eq!(histogram.mean(), Duration::ZERO);
        histogram.record(Duration::from_secs(1 << 30));
        assert_eq!(histogram.len(), 1);
    }
}
