//! Servers under test as child processes that do not outlive the run: stopped by their ids when their guard goes,
//! and told by the kernel to end if this process dies without a word.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::{Fault, usage};

const STOP_MAX: Duration = Duration::from_secs(5);
const LOG_TAIL_BYTES: usize = 1500;

/// A running server.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program with its output in `folder/name.log`.
    ///
    /// Call it from the thread that lives as long as the run: the kernel's "end with your parent" means that thread.
    pub fn start(
        name: &str,
        folder: &Path,
        program: &Path,
        arguments: &[String],
    ) -> Result<Self, Fault> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).map_err(Fault::path("create", &log))?;
        let errors = output.try_clone().map_err(Fault::path("open", &log))?;
        // setpriv (util-linux) replaces itself by the program, so the child's id is the server's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(Fault::io(format!("cannot start {}", program.display())))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the end of its log, if the server has ended.
    pub fn check(&mut self) -> Result<(), Fault> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.fault(&format!("ended ({status})"))),
            Err(source) => Err(Fault::io(format!("cannot watch {}", self.name))(source)),
        }
    }

    /// A fault of this server, with the end of its log.
    pub fn fault(&self, what: &str) -> Fault {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        Fault::Server {
            name: self.name.clone(),
            what: what.to_owned(),
            log: String::from_utf8_lossy(tail).into_owned(),
        }
    }

    fn ended_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            pause(Duration::from_millis(10));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a guard's drop cannot await, and a child's end has no other signal"
)]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let family = usage::family(&[self.pid()]);
        signal(self.pid(), Signal::TERM);
        if !self.ended_within(STOP_MAX) {
            signal(self.pid(), Signal::KILL);
            drop(self.child.wait());
            // Workers of a killed master are nobody's children now, but still ours by id.
            for pid in family.into_iter().skip(1) {
                signal(pid, Signal::KILL);
            }
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Free loopback ports, all different. Nothing holds them until the server binds them.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT], Fault> {
    // All stay bound until all are found, or one could be found twice.
    let mut held = Vec::with_capacity(COUNT);
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).map_err(Fault::io("no free loopback port"))?;
        *port = listener.local_addr().map_err(Fault::io("no free loopback port"))?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Runs a helper program to its end and returns what it printed.
pub fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_ends_with_its_guard_and_tells_why_it_ended_early() {
        let folder = tempfile::tempdir().unwrap();
        let shell = Path::new("/bin/sh");
        let sleeper = ["-c".to_owned(), "sleep 600".to_owned()];
        let daemon = Daemon::start("sleeper", folder.path(), shell, &sleeper).unwrap();
        let pid = daemon.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(daemon);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let script = ["-c".to_owned(), "echo no such disk; exit 3".to_owned()];
        let mut daemon = Daemon::start("failer", folder.path(), shell, &script).unwrap();
        assert!(daemon.ended_within(STOP_MAX));
        let text = daemon.check().unwrap_err().to_string();
        assert!(text.contains("no such disk") && text.contains("failer"), "{text}");
    }
}
