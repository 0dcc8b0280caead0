//! Drills with few trials, run as people run them: through the command line.

use std::process::Command;

use serde_json::Value;

/// Runs a drill; its report, which must be valid.
fn drill(name: &str, args: &[&str]) -> Value {
    let program = env!("CARGO_BIN_EXE_conclave-chaos");
    let output = Command::new(program)
        .args(["drill", name, "--json"])
        .args(args)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {said}"));
    assert_eq!(report["verdict"], "valid", "{report:#} {said}");
    assert_eq!(output.status.code(), Some(0));
    report
}

/// Namespaces and loop devices need root and the kernel's leave.
fn may(what: &str, try_it: &[&str]) -> bool {
    let may = Command::new(try_it[0]).args(&try_it[1..]).output().is_ok_and(|o| o.status.success());
    if !may {
        eprintln!("skipped: {what} is not possible here ({})", try_it.join(" "));
    }
    may
}

fn assert_nothing_lost(report: &Value) {
    assert_eq!(report["lost"], 0, "{report:#}");
    assert_eq!(report["nonlinearizable"], 0, "{report:#}");
    assert!(report["acknowledged"].as_u64() > Some(50), "{report:#}");
}

#[test]
fn a_killed_leader_loses_nothing() {
    let report = drill("leader-kill", &["--trials", "2", "--seed", "7"]);
    assert_nothing_lost(&report);
    assert_eq!(report["follower_read_failures"], 0);
}

#[test]
fn a_paused_leader_serves_nothing_stale_when_it_wakes() {
    let report = drill("leader-pause", &["--trials", "1", "--seed", "7"]);
    assert_nothing_lost(&report);
    assert!(report["old_leader_probes"].as_u64() > Some(0));
}

#[test]
fn an_isolated_leader_serves_nothing_stale() {
    if may(
        "a network namespace",
        &["sh", "-c", "ip netns add cctest && ip netns del cctest && iptables -L"],
    ) {
        assert_nothing_lost(&drill("leader-isolate", &["--trials", "1", "--seed", "7"]));
    }
}

#[test]
fn a_cluster_that_is_killed_whole_loses_nothing() {
    assert_nothing_lost(&drill("restart-all", &["--trials", "1", "--seed", "7"]));
}

#[test]
fn a_power_cut_loses_nothing() {
    if may("a loop device", &["losetup", "-f"]) {
        assert_nothing_lost(&drill("power-cut", &["--trials", "1", "--seed", "7"]));
    }
}

#[test]
fn no_election_without_cause() {
    let report = drill("calm", &["--seconds", "5"]);
    assert_eq!(report["elections"], 0);
}

#[test]
fn no_secret_stands_in_the_clear() {
    drill("canary", &["--seed", "7"]);
}

#[test]
fn bad_disks_are_refused() {
    drill("disk-faults", &["--trials", "2", "--seed", "7"]);
}

#[test]
fn garbage_is_refused() {
    drill("garbage", &["--trials", "1", "--seed", "7"]);
}
