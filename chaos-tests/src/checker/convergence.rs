//! I10: once the faults are over, members at the same applied index hold the same state.
//!
//! Source: `fault-model` G10 and I10. The hash covers every row of the state machine.

use std::collections::BTreeMap;

use super::Violation;

/// What one member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The member.
    pub node: u64,
    /// Up to which log index it has applied.
    pub applied: u64,
    /// Hash of its whole state at that index.
    pub state_hash: [u8; 32],
}

/// Checks that all members are at one index with one hash.
pub fn check(holdings: &[Holding]) -> Vec<Violation> {
    let mut violations = check_prefixes(holdings);
    if let (Some(low), Some(high)) = (
        holdings.iter().min_by_key(|holding| holding.applied),
        holdings.iter().max_by_key(|holding| holding.applied),
    ) && low.applied != high.applied
    {
        let detail = format!(
            "node {} has applied {}, node {} only {}",
            high.node, high.applied, low.node, low.applied
        );
        violations.push(Violation { invariant: "I10 convergence", detail });
    }
    violations
}

/// Checks that members at equal indexes have equal hashes, whatever the others have applied.
pub fn check_prefixes(holdings: &[Holding]) -> Vec<Violation> {
    let mut at_index: BTreeMap<u64, &Holding> = BTreeMap::new();
    let mut violations = Vec::new();
    for holding in holdings {
        let first = *at_index.entry(holding.applied).or_insert(holding);
        if first.state_hash != holding.state_hash {
            let detail = format!(
                "nodes {} and {} differ at applied index {}",
                first.node, holding.node, holding.applied
            );
            violations.push(Violation { invariant: "I10 equal states", detail });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{Holding, check, check_prefixes};

    #[test]
    fn unequal_states_and_laggards_are_named() {
        let holding = |node, applied, byte| Holding { node, applied, state_hash: [byte; 32] };
        assert_eq!(check(&[holding(1, 9, 1), holding(2, 9, 1), holding(3, 9, 1)]), []);
        assert_eq!(check(&[holding(1, 9, 1), holding(2, 9, 2)]).len(), 1);
        assert_eq!(check(&[holding(1, 9, 1), holding(2, 8, 2)]).len(), 1);
        assert_eq!(check_prefixes(&[holding(1, 9, 1), holding(2, 8, 2)]), []);
    }
}
