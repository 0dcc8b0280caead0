//! The process: turns configuration into a running node, and the command line into work.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`], [`client`] | what can be typed; the client verbs over the public API |
//! | [`config`] | one TOML file, checked once; the only reader of the environment |
//! | [`compose`] | builds every part of a node and joins them; nothing is built elsewhere |
//! | [`bootstrap`], [`join`], [`seed`], [`seeding`] | founding a cluster; joining one |
//! | [`audit_trail`] | the audit chain outside the cluster: exports, and their proof |
//! | [`restore`], [`recover`], [`refound`] | a cluster from a backup, or from one survivor |
//! | [`peer_service`] | what nodes ask of each other beside consensus |
//! | [`deeds`], [`refusals`] | what is done to the cluster, and who was refused, as audit records |
//! | [`folder`] | what lies where in a data folder, and the keys in it |
//! | [`unseal`] | how a node comes by its master key, and what it does while it has none |
//! | [`certificates`] | the authority and the cluster certificate |
//! | [`admin`] | the operator's socket |
//! | [`backup`] | the whole cluster in a file |
//! | [`jobs`] | what a node does by itself: members of the log into members of Raft, rotations |
//! | [`lifecycle`], [`reload`] | run, drain, stop; another configuration meanwhile |
//! | `local_socket` | tokens for programs of this machine, without credentials |
//! | [`dev`] | a whole cluster of child processes on one machine |
//! | [`clock`], [`telemetry`], [`metrics`], [`exit`] | wall clock, logs, what is measured, exit codes |

pub mod admin;
pub mod audit_trail;
pub mod backup;
pub mod bootstrap;
pub mod certificates;
pub mod cli;
pub mod client;
pub mod clock;
pub mod compose;
pub mod config;
pub mod deeds;
pub mod dev;
pub mod exit;
pub mod folder;
pub mod jobs;
pub mod join;
pub mod lifecycle;
mod local_socket;
pub mod metrics;
pub mod peer_service;
pub mod recover;
pub mod refound;
pub mod refusals;
pub mod reload;
pub mod restore;
pub mod seed;
pub mod seeding;
pub mod telemetry;
mod tls;
pub mod unseal;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::output::{note, told};
use crate::exit::{Exit, Failure};

/// Runs the program with a command line, the program's name first. Other binaries of the workspace
/// call it, too, so that they can start themselves again as nodes.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    install_crypto();
    let cli = match cli::parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8);
            return match told(error.print(), "") {
                Err(failure) if failure.exit == Exit::Unread => Exit::Unread.into(),
                Err(_) => {
                    note("conclave: the command line is wrong");
                    ExitCode::from(code)
                }
                Ok(()) => ExitCode::from(code),
            };
        }
    };
    let output = cli.output();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return cli::fail(output, &Failure::new(Exit::Failed, format!("no threads: {error}")));
        }
    };
    // The large future of a whole node lives on the heap.
    let ended = runtime.block_on(Box::pin(cli::run(cli)));
    // A disk that hangs must not keep a process that has stopped on a fault.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match ended {
        Ok(code) => code,
        Err(failure) => cli::fail(output, &failure),
    }
}

/// Makes aws-lc-rs the one crypto library of the process. Harmless when it is already.
pub fn install_crypto() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::trace!("a crypto provider was installed before");
    }
}
