//! The unit for systemd, as systemd itself judges it.

use std::path::Path;
use std::process::Command;

use crate::package::package;

/// From 0.0, nothing is open, to 10.0, everything is, in tenths.
const EXPOSURE_MAX: u32 = 20;

#[test]
fn the_unit_is_one_that_systemd_takes_and_leaves_little_open() {
    package("systemd", &["systemd-analyze", "--version"], "this test has systemd read the unit");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/conclave.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conclave.service");
    // The way to the key that the unit leaves open is meant to be uncommented; the program is where it is here.
    let unit = unit.replace("#LoadCredential", "LoadCredential");
    std::fs::write(&path, unit.replace("/usr/bin/conclave", env!("CARGO_BIN_EXE_conclave")))
        .unwrap();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    for words in [&["verify", "--man=no"][..], &["security", "--offline=true", &threshold]] {
        let output = Command::new("systemd-analyze").args(words).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {complaints}{said}");
        // A key that it does not know is a complaint, and no error.
        assert!(!complaints.contains("conclave.service"), "{complaints}");
    }
}
