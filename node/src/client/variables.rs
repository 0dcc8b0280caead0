//! `variable get|set`: secret values in and out.

use std::io::IsTerminal;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::api::segment;
use super::input;
use super::session::session;
use crate::cli::output::{self, Output};
use crate::exit::{Exit, Failure};

/// What can be done with variables.
#[derive(Debug, Subcommand)]
pub enum VariableCommand {
    /// Print a value, or several as JSON.
    #[command(after_help = "\
Examples:
  conclave variable get -i app/db/password               the value, byte for byte
  conclave variable get -i app/db/password --version 3   an older one
  conclave variable get -i app/db/url,app/db/password    several, as one JSON object")]
    Get(VariableGetArgs),
    /// Add a version.
    #[command(after_help = "\
Examples:
  conclave variable set -i app/db/password               asks for the value, without echo
  conclave variable set -i app/tls/key -f key.pem        a file, byte for byte
  pwgen -s 40 1 | tr -d '\\n' | conclave variable set -i app/db/password -f -")]
    Set(VariableSetArgs),
}

/// Arguments of `variable get`.
#[derive(Debug, Args)]
pub struct VariableGetArgs {
    /// Id of the variable; several with commas, or the option repeated.
    #[arg(short, long, required = true, value_delimiter = ',')]
    id: Vec<String>,
    /// A version other than the current one.
    #[arg(short = 'n', long)]
    version: Option<u32>,
}

/// Arguments of `variable set`.
#[derive(Debug, Args)]
pub struct VariableSetArgs {
    /// Id of the variable.
    #[arg(short, long)]
    id: String,
    /// The value. Others on this machine can see it while the command runs; prefer --file.
    #[arg(short, long, conflicts_with = "file")]
    value: Option<String>,
    /// Take the value, byte for byte, from this file, `-` for standard input.
    #[arg(short, long)]
    file: Option<PathBuf>,
}

/// `conclave variable get|set`.
///
/// # Errors
/// When the server refuses.
pub async fn variable(command: VariableCommand, output: Output) -> Result<(), Failure> {
    match command {
        VariableCommand::Get(args) => get(&args, output).await,
        VariableCommand::Set(args) => set(args, output).await,
    }
}

async fn get(args: &VariableGetArgs, output: Output) -> Result<(), Failure> {
    let (api, token) = session().await?;
    if let [id] = args.id.as_slice() {
        let value = api.secret(&token, id, args.version).await?;
        return match output {
            Output::Text if std::io::stdout().is_terminal() => output::line(&value),
            Output::Text => output::raw(&value),
            Output::Json => match std::str::from_utf8(&value) {
                Ok(text) => output.show(&json!({ "id": id, "value": text }), String::new),
                Err(_) => output.show(
                    &json!({ "id": id, "value_base64": STANDARD.encode(&value) }),
                    String::new,
                ),
            },
        };
    }
    if args.version.is_some() {
        return Err(Failure::new(Exit::Usage, "--version goes with one id only"));
    }
    let ids: Vec<String> = args
        .id
        .iter()
        .map(|id| segment(&format!("{}:variable:{}", api.account(), id.trim())))
        .collect();
    let path = format!("/secrets?variable_ids={}", ids.join(","));
    let answer = api.call(&token, Method::GET, &path, &[], None).await?;
    output::document(&answer, output, output::pretty)
}

async fn set(args: VariableSetArgs, output: Output) -> Result<(), Failure> {
    let value = match args.value {
        Some(value) => Zeroizing::new(value.into_bytes()),
        None => input::value(args.file.as_deref(), &format!("Value of {}: ", args.id))?,
    };
    let (api, token) = session().await?;
    api.set_secret(&token, &args.id, &value).await?;
    output.show(&json!({ "id": args.id, "set": true }), || "Value added".to_owned())
}
