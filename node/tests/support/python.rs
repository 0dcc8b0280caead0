//! Python for the tests with public clients: environments with packages of the index that pip is
//! configured with, made once and kept beside the build. A machine without Python gets it from its
//! package manager, where this process may ask for that.

#[path = "package.rs"]
mod package;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use package::package;
pub(crate) use package::run;

/// The interpreter of an environment of that name; `{folder}` in a package's words is the
/// environment's own folder. Each of `calls` is one call of pip.
pub(crate) fn environment(name: &str, calls: &[&[&str]]) -> PathBuf {
    // Two tests may want the same one, or the package manager, at the same time.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    let ready = folder.join("ready");
    if !ready.exists() {
        provide();
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), "making it");
        for call in calls {
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "--disable-pip-version-check", "--quiet"]);
            pip.args(call.iter().map(|word| word.replace("{folder}", &folder.to_string_lossy())));
            run(&mut pip, "this test needs a package index, and pip could not take it from there");
        }
        std::fs::write(ready, name).unwrap();
    }
    python
}

/// Makes sure that `python3` can make environments.
pub(crate) fn provide() {
    let probe = ["python3", "-c", "import venv, ensurepip"];
    package("python3-venv", &probe, "these tests run public Python clients");
}

/// Makes sure that there is a program, of the package of its name.
pub(crate) fn program(name: &str) {
    package(name, &[name, "--version"], &format!("this test runs {name}"));
}
