//! `policy load|update|replace|show`: policy texts in, policy texts out.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode};

use super::api::{Ask, Caller, segment};
use super::input;
use super::session::session;
use super::settings::replace_private_file;
use crate::cli::output::{self, Output};
use crate::exit::{Context, Exit, Failure};

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Add what the text declares; change and remove nothing (POST).
    #[command(after_help = "\
Examples:
  conclave policy load -b root -f policy.yml
  conclave policy load -b app -f - < app.yml
  conclave policy load -b root -f policy.yml --dry-run      say what would change

API keys of new users and hosts are in the answer, once.")]
    Load(PolicyLoadArgs),
    /// Add and change; remove what the text names for removal (PATCH).
    Update(PolicyLoadArgs),
    /// Make the branch exactly what the text declares (PUT).
    ///
    /// What the branch declared before and the text does not is deleted, its values too.
    Replace(PolicyLoadArgs),
    /// Print a branch as it is in force, as policy text that can be loaded again.
    #[command(
        visible_alias = "fetch",
        after_help = "\
Examples:
  conclave policy show -b root
  conclave policy show -b app --depth 1 -f app.yml
  conclave policy show -b app --output json"
    )]
    Show(PolicyShowArgs),
}

/// Arguments of a policy load.
#[derive(Debug, Args)]
pub struct PolicyLoadArgs {
    /// Policy to load into: `root`, or `app/prod`.
    #[arg(short, long)]
    branch: String,
    /// YAML file, `-` for standard input.
    #[arg(short, long)]
    file: PathBuf,
    /// Say what would change; change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `policy show`.
#[derive(Debug, Args)]
pub struct PolicyShowArgs {
    /// Policy to show.
    #[arg(short, long)]
    branch: String,
    /// Write it to this file instead of standard output.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// How many levels of nested policies.
    #[arg(short, long)]
    depth: Option<u32>,
    /// How many resources, annotations and permissions at most.
    #[arg(short, long)]
    limit: Option<u32>,
}

/// `conclave policy load|update|replace|show`.
///
/// # Errors
/// When a file cannot be read or written, or the server refuses.
pub async fn policy(command: PolicyCommand, output: Output) -> Result<(), Failure> {
    match command {
        PolicyCommand::Load(args) => load(Method::POST, "Loaded", args, output).await,
        PolicyCommand::Update(args) => load(Method::PATCH, "Updated", args, output).await,
        PolicyCommand::Replace(args) => load(Method::PUT, "Replaced", args, output).await,
        PolicyCommand::Show(args) => show(args, output).await,
    }
}

async fn load(
    method: Method,
    done: &str,
    args: PolicyLoadArgs,
    output: Output,
) -> Result<(), Failure> {
    let text = input::bytes(&args.file)?;
    let (api, token) = session().await?;
    let answer = api.load_policy(&token, method, &args.branch, text, args.dry_run).await?;
    if args.dry_run && answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        // The document of a dry run says what is wrong, and where.
        output::document(&answer.body, output, output::pretty)?;
        return Err(Failure::new(Exit::Refused, "422 Unprocessable Entity. Invalid policy"));
    }
    let body = answer.success()?;
    if !args.dry_run {
        output::note(format_args!("{done} policy '{}'", args.branch));
    }
    // Clients of Conjur print the document in either case: it holds new API keys.
    output::document(&body, output, output::pretty)
}

async fn show(args: PolicyShowArgs, output: Output) -> Result<(), Failure> {
    let (api, token) = session().await?;
    let path = format!("/policies/{}/policy/{}", segment(api.account()), segment(&args.branch));
    // The server chooses the form by what the request says that it carries.
    let media_type = match output {
        Output::Text => "application/x-yaml",
        Output::Json => "application/json",
    };
    let ask = Ask::new(Method::GET, path)
        .media_type(media_type)
        .query_opt("depth", args.depth)
        .query_opt("limit", args.limit);
    let body = api.ask(Caller::Token(&token), ask).await?.success()?;
    match &args.file {
        Some(file) if file != std::path::Path::new("-") => {
            replace_private_file(file, &body)?;
            output::note(format_args!("Wrote {}", file.display()));
            Ok(())
        }
        _ => match output {
            Output::Text => output::line(&body),
            Output::Json => {
                let value: serde_json::Value =
                    serde_json::from_slice(&body).context(Exit::Failed, "the server's answer")?;
                output.show(&value, String::new)
            }
        },
    }
}
