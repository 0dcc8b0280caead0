//! `conclave config …`: the configuration file of a node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::ConfigArg;
use super::output::{Output, table};
use crate::admin::client;
use crate::admin::protocol::{Request, Response};
use crate::config::{Change, Config, Reloaded};
use crate::exit::Failure;
use crate::reload;

/// What the operator does with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read a configuration file as a node would, and say what is wrong with it. Changes nothing.
    ///
    /// Exit code 0, or 3 with file, line, key, value and what would be right. Files that it names for
    /// audit outputs are looked at, too; secrets are not.
    Check(CheckArgs),
    /// Have the running node read its file anew, as SIGHUP does.
    ///
    /// The whole file is checked first; one that is wrong changes nothing (exit code 3). What can change
    /// while the node runs does at once; what wants a restart is listed with both values.
    Reload(ConfigArg),
}

/// Arguments of `config check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file; without it, --config or CONCLAVE_CONFIG says where it is.
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

/// Runs `conclave config …`.
///
/// # Errors
/// As the command says.
pub async fn config(command: ConfigCommand, output: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => {
            let config: Config = ConfigArg { config: args.file.or(args.config.config) }.load()?;
            reload::check(&config)?;
            output.show(&json!({ "ok": config.file }), || {
                format!("{} is in order", config.file.display())
            })
        }
        ConfigCommand::Reload(config) => {
            let response = client::ask(&config.load()?.node.data, &Request::Reload).await?;
            if let Response::Reloaded(reloaded) = response {
                return output.show(&reloaded, || text(&reloaded));
            }
            Err(response.into_failure())
        }
    }
}

fn text(reloaded: &Reloaded) -> String {
    let Reloaded { applied, needs_restart } = reloaded;
    if applied.is_empty() && needs_restart.is_empty() {
        return "Nothing has changed".to_owned();
    }
    let mut rows = vec![["KEY", "FROM", "TO", ""].map(str::to_owned).to_vec()];
    let mut add = |changes: &[Change], what: &str| {
        for Change { key, from, to } in changes {
            rows.push(vec![key.clone(), from.clone(), to.clone(), what.to_owned()]);
        }
    };
    add(applied, "in force");
    add(needs_restart, "after a restart");
    table(&rows)
}
