//! Programs that tests need, by their names at the machine's package manager, where this process may
//! ask for that.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// Whoever holds this file locked may ask the package manager; the scripts know it, too.
const APT_TURN: &str = "/tmp/conclave-tests-apt.lock";

/// Asks the package manager for a package unless `probe` succeeds. One at a time, since scripts of
/// other tests ask it, too.
pub(crate) fn package(name: &str, probe: &[&str], why: &str) {
    let works = || {
        Command::new(probe[0])
            .args(&probe[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if works() {
        return;
    }
    eprintln!("{name} is missing; asking apt-get for it");
    let install = "apt-get update -q && apt-get install -qy --no-install-recommends \"$1\"";
    let mut apt = Command::new("flock");
    apt.args([APT_TURN, "sh", "-c", install, "sh", name]).env("DEBIAN_FRONTEND", "noninteractive");
    // Nothing that is installed for a test starts by itself.
    apt.env("RUNLEVEL", "1");
    run(&mut apt, &format!("{why}; install {name}"));
    assert!(works(), "{why}; {name} was installed, but {probe:?} fails still");
}

/// A folder for what programs of a test leave among temporary files, gone with it. Programs that run as
/// somebody else may pass through it.
pub(crate) fn scratch() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    folder
}

/// Runs a command, which must succeed; `what` says what it was for.
pub(crate) fn run(command: &mut Command, what: &str) {
    let scratch = scratch();
    let status = command.env("TMPDIR", scratch.path()).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{what}: {command:?} ended with {status}");
}
