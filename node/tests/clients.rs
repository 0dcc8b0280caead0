//! What people and programs use to speak with a cluster: this program's own client verbs, `import`,
//! and the public clients of others, unchanged. Each test has a live cluster, of `conclave dev`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

#[path = "support/python.rs"]
mod python;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use python::{environment, run};

fn conclave() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    command.stdin(Stdio::null());
    command
}

/// Where the scripts of these tests are.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Runs a shell script against a development cluster; the script finds the program in `$1`.
fn against_dev(size: &[&str], script: &str) {
    let mut command = conclave();
    command.arg("dev").args(size).args(["--run", "sh", "-eu"]).arg(scripts().join(script));
    run(command.arg(env!("CARGO_BIN_EXE_conclave")), script);
}

/// Runs a Python script against a development cluster of three voters and a follower.
fn python_against_dev(python: &Path, script: &str, args: &[&Path]) {
    let mut command = conclave();
    command.args(["dev", "--run"]).arg(python).arg(scripts().join(script)).args(args);
    run(&mut command, script);
}

/// The interpreter beside PyPI's `conjur`.
fn command_line_of_conjur() -> PathBuf {
    environment(
        "conjur-7.1.0",
        &[
            &["install", "conjur==7.1.0", "async_timeout==5.0.1"],
            // What it asks for is too old for today's OpenSSL.
            &["install", "--no-deps", "--upgrade", "cryptography==50.0.2", "pyopenssl==26.4.0"],
        ],
    )
}

#[test]
fn the_command_line_of_pypi_conjur_works() {
    python_against_dev(&command_line_of_conjur(), "conjur_cli.py", &[]);
}

#[test]
fn the_command_line_of_pypi_conjur_logs_in_people_of_a_directory() {
    let followers = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy/followers.cfg");
    python_against_dev(&command_line_of_conjur(), "cli_by_directory.py", &[&followers]);
}

#[test]
fn every_method_of_pypi_conjur_api_works() {
    let python = environment("conjur-api-0.2.0", &[&["install", "conjur-api==0.2.0"]]);
    python_against_dev(&python, "conjur_api_methods.py", &[]);
}

#[test]
fn tokens_directories_and_certificates_log_in_by_the_strategies_of_pypi_conjur_api() {
    let python = environment("conjur-api-0.2.0", &[&["install", "conjur-api==0.2.0"]]);
    python_against_dev(&python, "logins.py", &[]);
}

#[test]
fn machines_of_clouds_log_in_by_the_strategies_of_pypi_conjur_api() {
    let python = environment("conjur-api-0.2.0", &[&["install", "conjur-api==0.2.0"]]);
    // Nodes are told at their start where clouds are, so the script starts the cluster.
    let mut command = Command::new(python);
    command.stdin(Stdio::null());
    command.arg(scripts().join("clouds.py")).arg(env!("CARGO_BIN_EXE_conclave"));
    run(&mut command, "clouds.py");
}

/// The folder with npm's `oidc-provider` and what it needs; made once. The last of version 8: later ones
/// do not run on the Node.js of Debian 12.
fn oidc_provider() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oidc-provider-8.8.1");
    let ready = folder.join("ready");
    if !ready.exists() {
        python::program("npm");
        std::fs::create_dir_all(&folder).unwrap();
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
        ]);
        npm.arg(&folder).arg("oidc-provider@8.8.1");
        run(&mut npm, "this test needs npm's registry, and npm could not take it from there");
        std::fs::write(ready, "").unwrap();
    }
    folder.join("node_modules")
}

#[test]
fn people_log_in_at_npms_oidc_provider_by_the_strategy_of_pypi_conjur_api() {
    let python = environment("conjur-api-0.2.0", &[&["install", "conjur-api==0.2.0"]]);
    python_against_dev(&python, "codes.py", &[&oidc_provider()]);
}

/// Ansible, and the folder with its collection for Conjur; made once, for all that ask.
fn ansible() -> &'static (PathBuf, PathBuf) {
    static MADE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    MADE.get_or_init(|| {
        let name = "ansible-12.3.0";
        // The wheel of `ansible` brings a hundred collections; only one of them is unpacked.
        let python = environment(
            name,
            &[
                &["install", "ansible-core==2.19.14", "cryptography==50.0.2"],
                &["download", "--no-deps", "--dest", "{folder}/wheel", "ansible==12.3.0"],
            ],
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let collections = folder.join("collections");
        if !collections.exists() {
            let unpack = "import glob, os, sys, zipfile\n\
                 wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/wheel/*.whl')[0])\n\
                 part = [n for n in wheel.namelist() if '/cyberark/conjur/' in n]\n\
                 wheel.extractall(sys.argv[1] + '/unpacked', part)\n\
                 os.rename(sys.argv[1] + '/unpacked', sys.argv[1] + '/collections')";
            run(Command::new(&python).args(["-c", unpack]).arg(&folder), "unpacking");
        }
        (python, collections)
    })
}

#[test]
fn the_lookup_of_ansible_works() {
    let (python, collections) = ansible();
    python_against_dev(python, "ansible_lookup.py", &[collections]);
}

#[test]
fn the_role_of_ansible_enrols_a_machine() {
    let (python, collections) = ansible();
    python_against_dev(python, "ansible_role.py", &[collections]);
}

#[test]
fn passwords_of_a_real_database_are_rotated() {
    let mut command = conclave();
    command.args(["dev", "--voters", "3", "--followers", "0", "--run", "python3"]);
    command.arg(scripts().join("rotation.py")).arg(env!("CARGO_BIN_EXE_conclave"));
    run(&mut command, "rotation.py");
}

#[test]
fn programs_of_the_machine_get_tokens_where_that_is_configured() {
    python::provide();
    let mut command = Command::new("python3");
    command.arg(scripts().join("local_socket.py")).arg(env!("CARGO_BIN_EXE_conclave"));
    run(&mut command, "local_socket.py");
}

#[test]
fn verbs_answer_as_people_know_them() {
    python::program("curl");
    against_dev(&["--voters", "1", "--followers", "0"], "verbs.sh");
}

#[test]
fn an_import_goes_on_where_it_was_cut_off() {
    against_dev(&["--voters", "3", "--followers", "0"], "import.sh");
}
