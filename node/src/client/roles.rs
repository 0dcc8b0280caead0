//! `role show|exists|members|memberships`: who holds what.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::api::Ask;
use super::ids::FullId;
use super::resources::{ExistsArgs, IdArg, exists};
use super::session;
use crate::cli::output::{self, Output};
use crate::exit::{Context, Exit, Failure};

/// What can be asked about a role.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// Print everything about it.
    Show(IdArg),
    /// Whether it is there and may be seen: prints true or false.
    Exists(ExistsArgs),
    /// Who holds it directly.
    Members(GrantsArgs),
    /// What it holds: all of it, itself too; with --direct only what was granted to itself.
    Memberships(MembershipsArgs),
}

/// Arguments of `role members`.
#[derive(Debug, Args)]
pub struct GrantsArgs {
    /// KIND:ID, such as group:ops.
    id: String,
    /// The grants themselves instead of ids.
    #[arg(short, long)]
    verbose: bool,
}

/// Arguments of `role memberships`.
#[derive(Debug, Args)]
pub struct MembershipsArgs {
    #[command(flatten)]
    grants: GrantsArgs,
    /// Only what was granted to the role itself.
    #[arg(short, long)]
    direct: bool,
}

/// `conclave role …`.
///
/// # Errors
/// When the server refuses.
pub async fn role(command: RoleCommand, output: Output) -> Result<(), Failure> {
    match command {
        RoleCommand::Show(IdArg { id }) => {
            let answer = session::get(|api| path(api.account(), &id)).await?;
            output::document(&answer, output, output::pretty)
        }
        RoleCommand::Exists(args) => {
            let exists = exists(|account| path(account, &args.id.id)).await?;
            args.verdict.tell(output, "exists", exists)
        }
        RoleCommand::Members(args) => grants(&args, "members", "member", output).await,
        RoleCommand::Memberships(MembershipsArgs { grants: args, direct }) => {
            if direct || args.verbose {
                grants(&args, "memberships", "role", output).await
            } else {
                let answer = session::ask(|api| {
                    Ok(Ask::new(Method::GET, path(api.account(), &args.id)?).query("all", "true"))
                });
                output::document(&answer.await?.success()?, output, output::lines)
            }
        }
    }
}

async fn grants(
    args: &GrantsArgs,
    what: &str,
    column: &str,
    output: Output,
) -> Result<(), Failure> {
    let answer = session::ask(|api| {
        Ok(Ask::new(Method::GET, path(api.account(), &args.id)?).query(what, "true"))
    })
    .await?
    .success()?;
    if args.verbose {
        return output::document(&answer, output, output::pretty);
    }
    let rows: Vec<Value> =
        serde_json::from_slice(&answer).context(Exit::Failed, "the server's answer")?;
    let mut ids: Vec<&str> = rows.iter().filter_map(|row| row[column].as_str()).collect();
    ids.sort_unstable();
    // An owner that is a member as well has two rows.
    ids.dedup();
    output.show(&ids, || ids.join("\n"))
}

fn path(account: &str, id: &str) -> Result<String, Failure> {
    Ok(format!("/roles/{}", FullId::parse(account, None, id)?.path()))
}
