//! I6: one leader a term; a node's term and applied index never go back while it runs, and its term
//! never goes behind one that it has promised to others.
//!
//! A node may show a term that it has not yet saved, and lose it with its power. It has promised a
//! term once it has granted a vote in it, led it, or taken a leader's entries under it.
//!
//! Source: `fault-model` G9 and I6.

use std::collections::BTreeMap;

use super::Violation;

/// What one node said about itself at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The node.
    pub node: u64,
    /// Counts the starts of its process: what was not durable may go back between them.
    pub life: u64,
    /// Its term.
    pub term: u64,
    /// The highest term that it is known to have promised, in this life or an earlier one.
    pub promised: u64,
    /// Whether it held itself to be the leader of that term.
    pub leads: bool,
    /// Up to which log index it had applied.
    pub applied: u64,
}

/// Collects samples in the order they were taken and keeps only what later ones are judged by.
#[derive(Debug, Default)]
pub struct Terms {
    leaders: BTreeMap<u64, u64>,
    latest: BTreeMap<u64, Sample>,
    violations: Vec<Violation>,
}

impl Terms {
    /// Takes in one sample.
    pub fn observe(&mut self, sample: Sample) {
        let Sample { node, term, promised, applied, .. } = sample;
        if sample.leads {
            let leader = *self.leaders.entry(term).or_insert(node);
            if leader != node {
                let detail = format!("nodes {leader} and {node} both led term {term}");
                self.violations.push(Violation { invariant: "I6 one leader a term", detail });
            }
        }
        if term < promised {
            let detail = format!("node {node} promised term {promised} and is back at {term}");
            self.violations.push(Violation { invariant: "I6 terms", detail });
        }
        if let Some(earlier) = self.latest.insert(node, sample) {
            if earlier.life == sample.life && term < earlier.term {
                let detail = format!("node {node} went back from term {} to {term}", earlier.term);
                self.violations.push(Violation { invariant: "I6 terms", detail });
            }
            if earlier.life == sample.life && applied < earlier.applied {
                let detail =
                    format!("node {node} went back from applied {} to {applied}", earlier.applied);
                self.violations.push(Violation { invariant: "I6 applied", detail });
            }
        }
    }

    /// The largest term seen.
    pub fn last_term(&self) -> u64 {
        self.latest.values().map(|sample| sample.term).max().unwrap_or(0)
    }

    /// How many terms had a leader.
    pub fn leaders_seen(&self) -> usize {
        self.leaders.len()
    }

    /// All that was wrong.
    pub fn into_violations(self) -> Vec<Violation> {
        self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::{Sample, Terms};

    fn violations(samples: &[(u64, u64, u64, bool, u64)]) -> usize {
        let mut terms = Terms::default();
        for &(node, life, term, leads, applied) in samples {
            terms.observe(Sample { node, life, term, promised: 0, leads, applied });
        }
        terms.into_violations().len()
    }

    #[test]
    fn two_leaders_and_steps_back_are_named() {
        assert_eq!(violations(&[(1, 1, 1, true, 5), (2, 1, 2, true, 6), (1, 1, 2, false, 7)]), 0);
        assert_eq!(violations(&[(1, 1, 1, true, 5), (2, 1, 1, true, 5)]), 1);
        assert_eq!(violations(&[(1, 1, 2, false, 5), (1, 1, 1, false, 5)]), 1);
        assert_eq!(violations(&[(1, 1, 2, false, 5), (1, 1, 2, false, 4)]), 1);
        // A restarted node may have to apply again, and may have lost a term that it promised nobody.
        assert_eq!(violations(&[(1, 1, 2, false, 5), (1, 2, 1, false, 4)]), 0);
    }

    #[test]
    fn a_promised_term_is_kept_from_life_to_life() {
        let mut terms = Terms::default();
        let sample = Sample { node: 1, life: 1, term: 3, promised: 2, leads: false, applied: 5 };
        terms.observe(sample);
        terms.observe(Sample { life: 2, term: 2, ..sample });
        assert_eq!(terms.violations, []);
        terms.observe(Sample { life: 3, term: 1, ..sample });
        assert_eq!(terms.into_violations().len(), 1);
    }
}
