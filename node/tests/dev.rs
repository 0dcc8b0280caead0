//! `conclave dev --run`, end to end: a live cluster, used by PyPI `conjur-api` and by plain HTTPS,
//! loses its leader to `kill -9`. The facts are in `dev/first_day.py`. And clusters that are lost and
//! come back, which are the tests' own: `backup/restore.py`, `backup/lost_quorum.py`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

#[path = "support/python.rs"]
mod python;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use python::{environment, run};

/// The public client that must work unchanged.
const CLIENT: &str = "conjur-api==0.2.0";

/// What makes requests up from the OpenAPI document.
const GENERATOR: &str = "schemathesis==4.32.5";

/// A Python with a package from PyPI.
fn python(package: &str) -> PathBuf {
    environment(&package.replace("==", "-"), &[&["install", package]])
}

/// What is promised in seconds holds of a release build on a machine of its own. A development build
/// beside other tests must get there, too, but has a minute.
const WITHIN_S: &str = if cfg!(debug_assertions) { "60" } else { "5" };

fn conclave() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    command.stdin(Stdio::null()).env("CONCLAVE_WITHIN_S", WITHIN_S);
    command
}

#[test]
fn public_clients_work_and_survive_the_leaders_death() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dev/first_day.py");
    run(conclave().args(["dev", "--run"]).arg(python(CLIENT)).arg(script), "first_day.py");
}

#[test]
fn generated_requests_get_documented_answers_and_no_fault() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dev/generated_requests.py");
    let size = ["dev", "--voters", "1", "--followers", "0", "--run"];
    run(conclave().args(size).arg(python(GENERATOR)).arg(script), "generated_requests.py");
}

#[test]
fn load_balancers_find_who_may_serve() {
    python::provide();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = tempfile::tempdir().unwrap();
    let mut script = conclave();
    script.args(["dev", "--run", "python3"]).arg(here.join("tests/dev/load_balancer.py"));
    run(script.arg(here.join("deploy/haproxy")).arg(scratch.path()), "load_balancer.py");
}

#[test]
fn every_way_of_logging_in_works_through_a_balancer_and_with_every_voter_dead() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Nodes are told at their start where clouds are, so the script starts the cluster.
    let mut script = Command::new(python(CLIENT));
    script.stdin(Stdio::null()).env("CONCLAVE_WITHIN_S", WITHIN_S);
    script.arg(here.join("tests/clients/every_way.py")).arg(env!("CARGO_BIN_EXE_conclave"));
    run(script.arg(here.join("deploy/haproxy")), "every_way.py");
}

#[test]
fn a_directory_is_followed_by_command_and_by_schedule_whoever_leads() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/ldap_sync.py");
    let mut dev = conclave();
    dev.args(["dev", "--run"]).arg(python(CLIENT)).arg(script).arg(env!("CARGO_BIN_EXE_conclave"));
    run(&mut dev, "ldap_sync.py");
}

#[test]
fn every_answer_that_released_a_secret_is_in_the_audit_chain_once_whoever_dies() {
    python::provide();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dev/audit_trail.py");
    let mut dev = conclave();
    dev.args(["dev", "--run", "python3"]).arg(script).arg(env!("CARGO_BIN_EXE_conclave"));
    run(&mut dev, "audit_trail.py");
}

#[test]
fn a_collector_of_syslog_gets_every_audit_record_and_no_request_waits_for_it() {
    python::provide();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dev/siem.py");
    let scratch = tempfile::tempdir().unwrap();
    let mut dev = conclave();
    dev.env("CONCLAVE", env!("CARGO_BIN_EXE_conclave"));
    dev.args(["dev", "--run", "python3"]).arg(script).arg(scratch.path());
    run(&mut dev, "siem.py");
}

#[test]
fn status_and_environment_reach_the_command() {
    let script = "test -n \"$CONJUR_APPLIANCE_URL$CONJUR_CERT_FILE\" && \
                  test \"$CONJUR_ACCOUNT/$CONJUR_AUTHN_LOGIN\" = dev/admin && exit 42";
    let args = ["dev", "--voters", "1", "--followers", "0", "--run", "sh", "-c", script];
    let status = conclave().args(args).status().unwrap();
    assert_eq!(status.code(), Some(42));
}

#[test]
fn a_folder_keeps_its_secrets_ports_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_conclave");
    let dev = |script: &str| {
        let output = conclave()
            .args(["dev", "--voters", "1", "--followers", "1", "--data"])
            .arg(folder.path())
            .args(["--run", "sh", "-ec", script, "sh", binary])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = dev("printf kept | $1 variable set -i app/db/url -f - >&2
                     $1 variable get -i app/db/url; echo; echo $CONJUR_AUTHN_API_KEY
                     grep '\"url\"' $CONCLAVE_DEV_DIR/nodes.json");
    assert!(first.starts_with("kept\n"), "{first}");
    let second = dev("$1 variable get -i app/db/url; echo; echo $CONJUR_AUTHN_API_KEY
                      grep '\"url\"' $CONCLAVE_DEV_DIR/nodes.json");
    assert_eq!(first, second, "the second run is another cluster");
    let refused = dev(
        "$1 dev --voters 1 --followers 1 --data $CONCLAVE_DEV_DIR --run true 2>&1 || echo exit $?",
    );
    assert!(refused.contains("in use by another") && refused.ends_with("exit 3\n"), "{refused}");
}

#[test]
fn the_command_line_speaks_to_a_cluster_and_ends_with_telling_codes() {
    let binary = env!("CARGO_BIN_EXE_conclave");
    let script = r#"
        export HOME=$(mktemp -d) && cd $HOME
        code() { set +e; "$@" >out 2>err; echo $?; set -e; }
        key=$CONJUR_AUTHN_API_KEY url=$CONJUR_APPLIANCE_URL cert=$CONJUR_CERT_FILE
        unset CONJUR_AUTHN_LOGIN CONJUR_AUTHN_API_KEY CONJUR_APPLIANCE_URL CONJUR_ACCOUNT CONJUR_CERT_FILE
        test $(code $1 whoami) = 3
        $1 init -u $url -a dev -c $cert
        test $(code $1 init -u $url -a dev -c $cert) = 3
        test $(code $1 whoami) = 4
        test $(echo wrong | code $1 login -i admin) = 4
        echo $key | $1 login -i admin --password-file -
        test "$(stat -c %a .netrc .conjurrc | sort -u)" = 600
        $1 whoami | grep -q 'admin in account dev'
        $1 whoami --output json | grep -q '"username": "admin"'
        $1 list -k variable | grep -qx dev:variable:app/db/password
        printf '%s\n' '- !variable from-cli' > policy.yml
        $1 policy load -b root -f policy.yml | grep -q version
        $1 policy load -b root -f policy.yml --output json | grep -q version
        head -c 4096 /dev/urandom > value
        $1 variable set -i from-cli -f value
        $1 variable get -i from-cli > read && cmp value read
        $1 variable get -i app/db/password,from-cli >/dev/null 2>&1 && exit 1
        test $(code $1 variable get -i nothing) = 6 && grep -q CONJ00076E err
        printf '%s\n' '- !nonsense x' > bad.yml
        test $(code $1 policy load -b root -f bad.yml) = 7 && grep -q 'line 1' err
        curl -sf --cacert $cert -H "$($1 authenticate -H)" $url/whoami | grep -q admin
        $1 logout
        test $(code $1 whoami) = 4
        test $(code $1 variable) = 2
    "#;
    python::program("curl");
    let args = ["dev", "--voters", "1", "--followers", "0", "--run", "sh", "-exc", script, "sh"];
    run(conclave().args(args).arg(binary), "the command line");
}

#[test]
fn accounts_are_managed_by_the_operator_and_over_https_by_whom_that_is_given() {
    let script = r#"
        cfg=$CONCLAVE_DEV_DIR/n1/conclave.toml
        code() { set +e; "$@" >out 2>err; echo $?; set -e; }
        cd $(mktemp -d)
        test "$($1 account list --config $cfg)" = dev
        url=$CONJUR_APPLIANCE_URL
        call() { curl -s --cacert $CONJUR_CERT_FILE "$@"; }
        test $(call -o /dev/null -w '%{http_code}' -H "$($1 authenticate -H)" $url/accounts) = 403
        key=$($1 account create --config $cfg '!' | tail -1)
        token=$(call -H 'accept-encoding: base64' -d "$key" "$url/authn/!/admin/authenticate")
        as="authorization: Token token=\"$token\""
        test "$(call -H "$as" $url/accounts)" = '["dev"]'
        call -H "$as" -d id=acme $url/accounts | grep -q api_key
        $1 account list --config $cfg --output json | grep -q acme
        test $(code $1 account delete --config $cfg acme --confirm dev) = 2
        test $(code $1 account delete --config $cfg nobody --confirm nobody) = 6
        $1 account delete --config $cfg acme --confirm acme
        test "$(call -H "$as" $url/accounts)" = '["dev"]'
    "#;
    python::program("curl");
    let args = ["dev", "--voters", "1", "--followers", "0", "--run", "sh", "-ec", script, "sh"];
    run(conclave().args(args).arg(env!("CARGO_BIN_EXE_conclave")), "accounts");
}

#[test]
fn data_keys_rotate_without_a_failed_request() {
    python::provide();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dev/key_rotation.py");
    let mut dev = conclave();
    dev.args(["dev", "--run", "python3"]).arg(script).arg(env!("CARGO_BIN_EXE_conclave"));
    run(&mut dev, "key_rotation.py");
}

/// Runs a script that has machines of its own.
fn machines(name: &str) {
    python::provide();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backup").join(name);
    let scratch = tempfile::tempdir().unwrap();
    let mut python = Command::new("python3");
    python.arg(script).arg(env!("CARGO_BIN_EXE_conclave")).arg(scratch.path());
    run(&mut python, name);
}

#[test]
fn a_backup_made_under_load_is_restored_grown_and_restarted_and_clients_reconnect() {
    machines("restore.py");
}

#[test]
fn a_restore_and_a_recovery_that_are_killed_come_to_their_end_when_done_again() {
    machines("cut_short.py");
}

#[test]
fn a_survivor_of_a_lost_majority_goes_on_alone_and_grows_again() {
    machines("lost_quorum.py");
}

/// Runs a script of `tests/dev` in a development cluster of that size.
fn script(size: [&str; 2], name: &str, arguments: &[&str]) {
    python::provide();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dev = conclave();
    dev.env("CONCLAVE", env!("CARGO_BIN_EXE_conclave"));
    dev.args(["dev", "--voters", size[0], "--followers", size[1], "--run", "python3"]);
    dev.arg(here.join("tests/dev").join(name)).args(arguments);
    run(&mut dev, name);
}

#[test]
fn who_may_not_come_in_is_refused_and_recorded() {
    script(["3", "0"], "refusals.py", &[]);
}

#[test]
fn automation_joins_a_follower_through_the_load_balancer() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy");
    script(["3", "0"], "seed_service.py", &[&files.to_string_lossy()]);
}

#[test]
fn the_leader_removes_the_dead_and_gives_votes_to_the_fit_only() {
    script(["3", "1"], "autopilot.py", &[]);
}

#[test]
fn a_failed_leader_rejoins_with_no_command_and_leadership_goes_back_to_a_chosen_node() {
    script(["3", "0"], "members.py", &["failed_leader", "failback"]);
}

#[test]
fn two_of_five_are_lost_and_added_again_in_either_order() {
    script(["5", "0"], "members.py", &["two_of_five"]);
}

#[test]
fn a_follower_without_replication_is_not_healthy_within_five_seconds() {
    script(["3", "1"], "members.py", &["stale_follower"]);
}

#[test]
fn no_two_leaders_ever_answer_the_leader_check() {
    script(["3", "0"], "members.py", &["one_leader"]);
}
