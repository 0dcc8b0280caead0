//! Some seeds of the simulation, and every known bug put back.

use conclave_chaos::drill::report::Verdict;
use conclave_chaos::sim;
use conclave_chaos::sim::bug::{Bug, NAMES};

#[test]
fn seeds_are_clean() {
    let report = sim::run(1, 20, None).expect("the simulation runs");
    assert_eq!(report.verdict, Verdict::Valid, "{}", report.to_text());
    assert!(report.acknowledged > 500 && report.faults > 50, "{}", report.to_text());
}

#[test]
fn a_seed_names_its_run() {
    for seed in [3, 4] {
        assert_eq!(sim::simulate(seed, None).trace_hash, sim::simulate(seed, None).trace_hash);
    }
    assert_ne!(sim::simulate(3, None).trace_hash, sim::simulate(4, None).trace_hash);
}

#[test]
fn every_known_bug_is_found() {
    for name in NAMES {
        let found =
            (1..=60).any(|seed| !sim::simulate(seed, Bug::parse(name)).violations.is_empty());
        assert!(found, "{name} was not found in 60 seeds");
    }
}
