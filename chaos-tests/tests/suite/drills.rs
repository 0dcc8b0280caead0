//! Drills with few trials, run as people run them: through the command line.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// One cluster at a time: side by side they would measure each other.
static TURN: Mutex<()> = Mutex::new(());

/// Brings the programs that the two below want, from Debian's packages; tests that do so take turns by that lock.
const PROGRAMS: &str = "for both in ip:iproute2 iptables:iptables mkfs.ext4:e2fsprogs mount:mount; do \
    command -v ${both%:*} >/dev/null || missing=\"$missing ${both#*:}\"; done; \
    test -z \"$missing\" || flock /tmp/conclave-tests-apt.lock sh -c \"apt-get update -q && \
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing\"";
/// Makes and removes a network namespace and looks at its packet filter.
const NAMESPACE: &str = "ip netns add cctest$$ && ip netns exec cctest$$ iptables -L INPUT; \
    status=$?; ip netns del cctest$$ && exit $status";
/// Makes, mounts and unmounts a file system on a loop device.
const LOOP_DEVICE: &str = "d=$(mktemp -d) && truncate -s 8M $d/i && mkfs.ext4 -q -F $d/i && \
    mkdir $d/m && mount -o loop $d/i $d/m && umount $d/m; status=$?; rm -rf $d; exit $status";

/// Runs a drill; its report, which must be valid.
fn drill(name: &str, args: &[&str]) -> Value {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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
fn may(what: &str, try_it: &str) -> bool {
    let tried = Command::new("sh").args(["-c", &format!("{PROGRAMS}; {try_it}")]).output();
    let why = match tried {
        Ok(tried) if tried.status.success() => return true,
        Ok(tried) => String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("skipped: {what} is not possible here: {why}");
    false
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
    assert!(report["revocations"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["follower_read_failures"], 0);
}

#[test]
fn whoever_has_a_good_proof_is_let_in_while_leaders_die() {
    let report = drill("leader-kill", &["--trials", "2", "--seed", "7", "--logins", "mixed"]);
    assert_nothing_lost(&report);
    assert_eq!(report["follower_read_failures"], 0);
    let counts = report["logins"].as_array().expect("counts of each way");
    let ways: Vec<&str> = counts.iter().filter_map(|count| count["way"].as_str()).collect();
    assert_eq!(ways, ["key", "jwt", "ldap", "cert"]);
    assert!(counts.iter().all(|count| count["let_in"].as_u64() > Some(0)), "{report:#}");
    let again = report["replay"].as_str().expect("the command");
    assert!(again.ends_with("--logins mixed"), "{again}");
}

#[test]
fn a_paused_leader_serves_nothing_stale_when_it_wakes() {
    let report = drill("leader-pause", &["--trials", "1", "--seed", "7"]);
    assert_nothing_lost(&report);
    assert!(report["old_leader_probes"].as_u64() > Some(0));
}

#[test]
fn an_isolated_leader_serves_nothing_stale() {
    if may("a network namespace", NAMESPACE) {
        assert_nothing_lost(&drill("leader-isolate", &["--trials", "1", "--seed", "7"]));
    }
}

#[test]
fn a_cluster_that_is_killed_whole_loses_nothing() {
    assert_nothing_lost(&drill("restart-all", &["--trials", "1", "--seed", "7"]));
}

#[test]
fn a_power_cut_loses_nothing() {
    if may("a loop device", LOOP_DEVICE) {
        assert_nothing_lost(&drill("power-cut", &["--trials", "1", "--seed", "7"]));
    }
}

#[test]
fn no_election_without_cause() {
    let report = drill("calm", &["--seconds", "10"]);
    assert_eq!(report["elections"], 0);
}

#[test]
fn no_secret_stands_in_the_clear() {
    drill("canary", &["--seed", "7"]);
}

#[test]
fn bad_disks_are_refused() {
    drill("disk-faults", &["--trials", "8", "--seed", "7"]);
}

#[test]
fn garbage_is_refused() {
    drill("garbage", &["--trials", "1", "--seed", "7"]);
}

#[test]
fn rotations_survive_the_leaders_death_and_refuse_nobody() {
    let report = drill("certificates", &["--trials", "3", "--seed", "7"]);
    assert!(report["connections"].as_u64() > Some(50), "{report:#}");
    assert!(report["connections_refused"].is_null(), "{report:#}");
}

#[test]
fn clients_of_a_balancer_outlive_their_leader_and_followers_serve_alone() {
    if !may("a network namespace", NAMESPACE) {
        return;
    }
    let report = drill("failover", &["--trials", "2", "--seed", "7", "--rate", "60"]);
    assert_nothing_lost(&report);
    let found = report["failovers"].as_array().expect("figures of each fault");
    let faults: Vec<&str> = found.iter().filter_map(|found| found["fault"].as_str()).collect();
    assert_eq!(faults, ["kill", "pause", "isolate", "hand-over"]);
    assert!(found.iter().all(|found| found["failed_after_retry"] == 0), "{report:#}");
    assert_eq!(found[3]["failed_without_retry"], 0, "{report:#}");
    assert_eq!(report["follower_read_failures"], 0);
    assert_eq!(report["all_voters_down"]["failed"], 0);
}

#[test]
fn a_storm_over_members_and_links_ends_in_one_state_and_restarts_elect_nobody() {
    if may("a network namespace", NAMESPACE) {
        let report = drill("converge", &["--trials", "1", "--seed", "7"]);
        assert_nothing_lost(&report);
        assert!(report["restarts"].as_u64() > Some(0), "{report:#}");
    }
}

#[test]
fn what_was_answered_is_in_the_audit_chain_once() {
    if may("a loop device", LOOP_DEVICE) {
        let report = drill("audit", &["--trials", "2", "--seed", "7"]);
        let found = report["audited"].as_array().expect("a finding for each durability");
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|found| found["answers"].as_u64() > Some(40)), "{report:#}");
    }
}

#[test]
fn all_nodes_are_upgraded_one_after_the_other_and_nothing_fails_for_good() {
    if !may("a network namespace", NAMESPACE) {
        return;
    }
    let report = drill("upgrade", &["--seed", "7", "--rate", "20"]);
    assert_nothing_lost(&report);
    assert_eq!((&report["trials"], &report["upgraded"]["nodes"]), (&4.into(), &4.into()));
    assert_eq!(report["upgraded"]["failed_after_retry"], 0, "{report:#}");
    assert_eq!(report["follower_read_failures"], 0, "{report:#}");
}

#[test]
fn operators_jobs_are_done_under_load_and_what_fails_is_counted() {
    let report = drill("jobs", &["--trials", "1", "--seed", "7", "--rate", "20"]);
    assert_nothing_lost(&report);
    let jobs = report["jobs"].as_array().expect("figures of each job");
    assert_eq!(jobs.len(), 19);
    assert!(
        jobs.iter().all(|job| job["times"] == 1 && job["failed_after_retry"] == 0),
        "{jobs:#?}"
    );
}
