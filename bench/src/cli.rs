//! The command line: `conclave-bench WORKLOAD [--peer NAME] [--seconds N] [--clients N] [--json]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::calibrate::calibrate;
use crate::contest::{self, Timing};
use crate::report::{Provenance, Report, Subjectline};
use crate::scratch::Scratch;
use crate::subject::{Entrant, Hash, Peer, Setting, Workload};
use crate::{Fault, layers, scale};

/// Measures Conclave, alone or against a peer, with both on this machine.
#[derive(Debug, Parser)]
#[command(name = "conclave-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Put the servers' data here rather than in the system's temporary folder.
    #[arg(long, global = true, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Writes of secrets: three voters, fsync, TLS.
    Write(Contest),
    /// Authenticated reads of secrets on kept connections.
    Read(Contest),
    /// API key to access token, each login another host's.
    Authn(Contest),
    /// JWT to access token, each login another host's, in turn with API keys.
    Jwt(Contest),
    /// A directory's password to access token, each login another person's, in turn with simple binds at the
    /// same directory without Conclave.
    Ldap(Contest),
    /// fsync and RSA rates of this machine, now.
    Calibrate,
    /// Single layers in this process: decide, seal, apply.
    Layers,
    /// Growth of cost over three decades of secrets and roles, in this process and in a cluster.
    Scale(Growth),
}

#[derive(Debug, clap::Args)]
struct Growth {
    /// Most secrets in this process.
    #[arg(long, default_value_t = 1_000_000)]
    secrets: usize,
    /// Most resources in the cluster; 0 leaves the cluster out.
    #[arg(long, default_value_t = 1_000_000)]
    cluster_resources: usize,
}

#[derive(Debug, clap::Args)]
struct Contest {
    /// Measure this server in turn with Conclave.
    #[arg(long)]
    peer: Option<Peer>,
    /// Measure only the peer.
    #[arg(long, requires = "peer")]
    peer_alone: bool,
    /// Length of each measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
    /// Connections, one request in flight on each.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Turns of each entrant.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=65536))]
    value_bytes: u32,
    /// Hosts that log in, in `authn` and `jwt`, or people, in `ldap`.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    hosts: u32,
    /// How the directory keeps passwords, in `ldap`.
    #[arg(long, value_enum, default_value_t = Hash::Ssha)]
    hash: Hash,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    threads: u8,
}

const OPEN_SHARE: f64 = 0.7;

/// Runs the command line to its exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = run(&arguments) => outcome,
                    signal = interrupted() => signal,
                }
            });
            // A generator thread ends by itself; nobody need wait for it.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Fault::io("cannot build a runtime")(error)),
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("conclave-bench: {}", fault.with_causes());
            ExitCode::FAILURE
        }
    }
}

/// Ends the run, so that every guard stops its server.
async fn interrupted() -> Result<String, Fault> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate =
        signal(SignalKind::terminate()).map_err(Fault::io("cannot listen for signals"))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Err(Fault::Usage("interrupted".to_owned()))
}

async fn run(arguments: &Arguments) -> Result<String, Fault> {
    let scratch = Scratch::create(arguments.folder.as_deref())?;
    match &arguments.what {
        What::Calibrate => {
            let found = calibrate(scratch.path())?;
            if arguments.json {
                return json(&found);
            }
            Ok(format!(
                "fdatasync of 300 appended bytes: p50 {:.3} ms, p99 {:.3} ms\n\
                 RSA-2048 signatures: {:.0}/s on one core, {:.0}/s on all",
                found.fdatasync_p50_ms,
                found.fdatasync_p99_ms,
                found.rsa_sign_per_s,
                found.rsa_sign_per_s_all_cores
            ))
        }
        What::Layers => {
            let rows = layers::run(scratch.path())?;
            if arguments.json { json(&rows) } else { Ok(layers::text(&rows)) }
        }
        What::Scale(growth) => {
            let limits =
                scale::Limits { in_process: growth.secrets, in_cluster: growth.cluster_resources };
            let report = scale::run(limits, &scratch, |line| eprintln!("{line}")).await?;
            if arguments.json { json(&report) } else { Ok(report.text()) }
        }
        What::Write(contest) => compete(Workload::Write, contest, arguments.json, &scratch).await,
        What::Read(contest) => compete(Workload::Read, contest, arguments.json, &scratch).await,
        What::Authn(contest) => compete(Workload::Authn, contest, arguments.json, &scratch).await,
        What::Jwt(contest) => compete(Workload::Jwt, contest, arguments.json, &scratch).await,
        What::Ldap(contest) => compete(Workload::Ldap, contest, arguments.json, &scratch).await,
    }
}

async fn compete(
    workload: Workload,
    contest: &Contest,
    as_json: bool,
    scratch: &Scratch,
) -> Result<String, Fault> {
    let mut entrants = Vec::new();
    if !contest.peer_alone {
        entrants.push(Entrant::Conclave);
    }
    match (workload, contest.peer) {
        (Workload::Jwt, None) => entrants.push(Entrant::ApiKeys),
        (Workload::Ldap, None) => entrants.push(Entrant::Directory),
        (Workload::Jwt | Workload::Ldap, Some(_)) => {
            let text =
                "jwt is measured in turn with API keys, ldap with its directory: leave --peer out";
            return Err(Fault::Usage(text.to_owned()));
        }
        (_, peer) => entrants.extend(peer.map(Entrant::Peer)),
    }
    let setting = Setting {
        workload,
        clients: usize::from(contest.clients),
        value_bytes: contest.value_bytes as usize,
        hosts: contest.hosts as usize,
        hash: contest.hash,
    };
    let timing = Timing {
        warm_up: Duration::from_secs(contest.warm_up),
        measured: Duration::from_secs(contest.seconds),
        rounds: usize::from(contest.rounds),
        open_share: OPEN_SHARE,
        threads: usize::from(contest.threads),
    };
    let turns =
        contest::run(&entrants, setting, timing, scratch, |line| eprintln!("{line}")).await?;
    let line = Subjectline {
        workload,
        clients: setting.clients,
        value_bytes: setting.value_bytes,
        seconds: contest.seconds,
    };
    let report = Report::of(line, turns, Provenance::now())
        .ok_or_else(|| Fault::Usage("nothing was measured".to_owned()))?;
    if as_json { json(&report) } else { Ok(report.text()) }
}

fn json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Fault::Usage(format!("the report cannot be written as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let arguments =
            Arguments::try_parse_from(["conclave-bench", "write", "--peer", "etcd", "--json"])
                .unwrap();
        assert!(arguments.json);
        assert!(Arguments::try_parse_from(["conclave-bench", "write", "--seconds", "0"]).is_err());
        assert!(Arguments::try_parse_from(["conclave-bench", "write", "--peer-alone"]).is_err());
    }
}
