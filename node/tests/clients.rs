//! What people and programs use to speak with a cluster: this program's own client verbs, `import`,
//! and the public clients of others, unchanged. Each test has a live cluster, of `conclave dev`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

use std::path::Path;
use std::process::{Command, Stdio};

fn conclave() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    command.stdin(Stdio::null());
    command
}

/// Where the scripts of these tests are.
fn scripts() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Runs a shell script against a development cluster; the script finds the program in `$1`.
fn against_dev(size: &[&str], script: &str) {
    let status = conclave()
        .arg("dev")
        .args(size)
        .args(["--run", "sh", "-eu"])
        .arg(scripts().join(script))
        .arg(env!("CARGO_BIN_EXE_conclave"))
        .status()
        .unwrap();
    assert!(status.success(), "{script} ended with {status}");
}

#[test]
fn verbs_answer_as_people_know_them() {
    against_dev(&["--voters", "1", "--followers", "0"], "verbs.sh");
}

#[test]
fn an_import_goes_on_where_it_was_cut_off() {
    against_dev(&["--voters", "3", "--followers", "0"], "import.sh");
}
