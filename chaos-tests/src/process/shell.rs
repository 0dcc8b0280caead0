//! Commands of the operating system, and the list of those that undo what others did.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why something of the harness itself did not work. It says nothing about the system under test:
/// a drill that ends with one has the verdict *unknown*.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HarnessError(pub String);

impl HarnessError {
    /// An error with a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<std::io::Error> for HarnessError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<conclave::exit::Failure> for HarnessError {
    fn from(failure: conclave::exit::Failure) -> Self {
        Self(failure.to_string())
    }
}

/// Runs a command and gives its standard output.
///
/// # Errors
/// When it cannot be started or ends with a failure; with what it said.
pub fn run<S: AsRef<OsStr>>(command: &[S]) -> Result<String, HarnessError> {
    let text = || {
        let words = command.iter().map(|word| word.as_ref().to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    };
    let Some((program, args)) = command.split_first() else {
        return Err(HarnessError::new("an empty command"));
    };
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| HarnessError(format!("{}: {error}", text())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(HarnessError(format!("{}: {}: {}", text(), output.status, said.trim())))
}

/// Path of a program of Debian's package of the same name, which is installed where it is missing.
///
/// # Errors
/// When it cannot be had.
pub fn provide(program: &str) -> Result<PathBuf, HarnessError> {
    provide_from(program, program)
}

/// Path of a program of one of Debian's packages, which is installed where it is missing.
///
/// # Errors
/// When it cannot be had.
pub fn provide_from(program: &str, package: &str) -> Result<PathBuf, HarnessError> {
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let mut places = folders.into_iter().chain(more).map(|folder| folder.join(program));
        places.find(|place| place.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    eprintln!("{program} is missing; asking apt-get for {package}");
    // Tests that need packages take turns by the same lock.
    let install = "apt-get update -q >&2 && \
                   DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
                   apt-get install -qy --no-install-recommends \"$1\" >&2";
    run(&["flock", "/tmp/conclave-tests-apt.lock", "sh", "-c", install, "sh", package])?;
    find().ok_or_else(|| HarnessError(format!("{program} was installed and is not there")))
}

/// A program in that network namespace, if any. It must not outlive a drill that is killed: the kernel
/// ends it then.
pub fn tied(program: &Path, namespace: Option<&str>) -> tokio::process::Command {
    let mut words = namespace.map_or_else(Vec::new, |name| vec!["ip", "netns", "exec", name]);
    words.extend(["setpriv", "--pdeathsig", "KILL"]);
    let mut command = tokio::process::Command::new(words[0]);
    command.args(&words[1..]).arg(program).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Commands that undo what was done, run last to first on drop.
#[derive(Debug, Default)]
pub struct Undo(Vec<Vec<String>>);

impl Undo {
    /// Runs a command and, when it worked, notes the one that undoes it.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&mut self, command: &[&str], undo: &[&str]) -> Result<(), HarnessError> {
        run(command)?;
        self.0.push(undo.iter().map(|word| (*word).to_owned()).collect());
        Ok(())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(command) = self.0.pop() {
            if let Err(error) = run(&command) {
                eprintln!("conclave-chaos: could not clean up: {error}");
            }
        }
    }
}
