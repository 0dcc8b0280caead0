//! `list`, `resource show|exists|permitted-roles`, `check` and `pubkeys show`: what there is, and who
//! may do what with it.

use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::api::{Ask, Caller, segment};
use super::ids::FullId;
use super::session::{self, session};
use crate::cli::output::{self, Output};
use crate::exit::{Context, Exit, Failure};

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this kind: variable, host, user, group, layer, policy, webservice, host_factory.
    #[arg(short, long)]
    kind: Option<String>,
    /// Only what these words are found in.
    #[arg(short, long)]
    search: Option<String>,
    /// At most so many.
    #[arg(short, long)]
    limit: Option<u32>,
    /// Skip so many.
    #[arg(short, long)]
    offset: Option<u32>,
    /// As seen by this role, which the caller must hold: `group:ops`.
    #[arg(short, long, visible_alias = "acting-as")]
    role: Option<String>,
    /// Whole documents instead of ids.
    #[arg(short = 'i', long, conflicts_with = "count")]
    inspect: bool,
    /// Only how many there are.
    #[arg(short, long)]
    count: bool,
}

/// What can be asked about a resource.
#[derive(Debug, Subcommand)]
pub enum ResourceCommand {
    /// Print everything about it but its values.
    Show(IdArg),
    /// Whether it is there and may be seen: prints true or false.
    Exists(ExistsArgs),
    /// Which roles may do something with it.
    PermittedRoles(PermittedRolesArgs),
}

/// Names a resource or role.
#[derive(Debug, Args)]
pub struct IdArg {
    /// KIND:ID, such as variable:app/db/password.
    pub(super) id: String,
}

/// Arguments of `exists`.
#[derive(Debug, Args)]
pub struct ExistsArgs {
    #[command(flatten)]
    pub(super) id: IdArg,
    #[command(flatten)]
    pub(super) verdict: VerdictArgs,
}

/// How a yes or no is told.
#[derive(Debug, Clone, Copy, Args)]
pub struct VerdictArgs {
    /// End with exit code 6 when the answer is false, for scripts.
    #[arg(short, long)]
    exit_code: bool,
}

impl VerdictArgs {
    /// Tells it.
    pub(super) fn tell(self, output: Output, name: &str, verdict: bool) -> Result<(), Failure> {
        output.show(&json!({ name: verdict }), || verdict.to_string())?;
        if self.exit_code && !verdict {
            return Err(Failure::new(Exit::NotFound, format!("{name}: false")));
        }
        Ok(())
    }
}

/// Arguments of `resource permitted-roles`.
#[derive(Debug, Args)]
pub struct PermittedRolesArgs {
    /// KIND:ID, such as variable:app/db/password.
    id: String,
    /// What may be done: read, execute, update, …
    privilege: String,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// KIND:ID, such as variable:app/db/password.
    id: String,
    /// What is to be done: read, execute, update, …
    privilege: String,
    /// Ask for this role, which the caller must hold, instead of the caller: host:app/web-01.
    #[arg(short, long)]
    role: Option<String>,
    #[command(flatten)]
    verdict: VerdictArgs,
}

/// What can be done with public keys.
#[derive(Debug, Subcommand)]
pub enum PubkeysCommand {
    /// Print a user's public keys, one a line.
    Show {
        /// Login of the user.
        login: String,
    },
}

/// `conclave list`.
///
/// # Errors
/// When the server refuses.
pub async fn list(args: ListArgs, output: Output) -> Result<(), Failure> {
    let (api, token) = session().await?;
    let mut path = format!("/resources/{}", segment(api.account()));
    if let Some(kind) = &args.kind {
        path.push('/');
        path.push_str(&segment(kind));
    }
    let role = args.role.map(|role| FullId::parse(api.account(), None, &role)).transpose()?;
    let ask = Ask::new(Method::GET, path)
        .query_opt("search", args.search)
        .query_opt("limit", args.limit)
        .query_opt("offset", args.offset)
        .query_opt("acting_as", role)
        .query_opt("count", args.count.then_some("true"));
    let answer = api.ask(Caller::Token(&token), ask).await?.success()?;
    if args.count {
        return output::document(&answer, output, |document| document["count"].to_string());
    }
    let documents: Vec<Value> =
        serde_json::from_slice(&answer).context(Exit::Failed, "the server's answer")?;
    if args.inspect {
        return output.show(&documents, || output::pretty(&Value::Array(documents.clone())));
    }
    let ids: Vec<&str> = documents.iter().filter_map(|document| document["id"].as_str()).collect();
    output.show(&ids, || ids.join("\n"))
}

/// `conclave resource …`.
///
/// # Errors
/// When the server refuses.
pub async fn resource(command: ResourceCommand, output: Output) -> Result<(), Failure> {
    let path = |account: &str, id: &str| -> Result<String, Failure> {
        Ok(format!("/resources/{}", FullId::parse(account, None, id)?.path()))
    };
    match command {
        ResourceCommand::Show(IdArg { id }) => {
            let answer = session::get(|api| path(api.account(), &id)).await?;
            output::document(&answer, output, output::pretty)
        }
        ResourceCommand::Exists(args) => {
            let exists = exists(|account| path(account, &args.id.id)).await?;
            args.verdict.tell(output, "exists", exists)
        }
        ResourceCommand::PermittedRoles(args) => {
            let answer = session::ask(|api| {
                Ok(Ask::new(Method::GET, path(api.account(), &args.id)?)
                    .query("permitted_roles", "true")
                    .query("privilege", &args.privilege))
            })
            .await?
            .success()?;
            output::document(&answer, output, output::lines)
        }
    }
}

/// Whether there is something at a path. What is there and closed to the caller is there.
pub(super) async fn exists(
    path: impl FnOnce(&str) -> Result<String, Failure>,
) -> Result<bool, Failure> {
    let answer = session::ask(|api| Ok(Ask::new(Method::HEAD, path(api.account())?))).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(false),
        StatusCode::FORBIDDEN => Ok(true),
        _ => answer.success().map(|_| true),
    }
}

/// `conclave check`.
///
/// # Errors
/// When the server refuses to say.
pub async fn check(args: CheckArgs, output: Output) -> Result<(), Failure> {
    let answer = session::ask(|api| {
        let id = FullId::parse(api.account(), None, &args.id)?;
        let role = args.role.map(|role| FullId::parse(api.account(), None, &role)).transpose()?;
        Ok(Ask::new(Method::GET, format!("/resources/{}", id.path()))
            .query("check", "true")
            .query("privilege", &args.privilege)
            .query_opt("role", role))
    })
    .await?;
    let allowed = match answer.status {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => false,
        _ => answer.success().map(|_| true)?,
    };
    args.verdict.tell(output, "allowed", allowed)
}

/// `conclave pubkeys show`.
///
/// # Errors
/// When no server answers.
pub async fn pubkeys(command: PubkeysCommand, output: Output) -> Result<(), Failure> {
    let PubkeysCommand::Show { login } = command;
    let api = session::anonymous()?;
    let id = FullId::parse(api.account(), Some("user"), &login)?;
    let ask = Ask::new(Method::GET, format!("/public_keys/{}", id.path()));
    let answer = api.ask(Caller::Nobody, ask).await?.success()?;
    let text = String::from_utf8_lossy(&answer);
    let keys: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    output.show(&keys, || keys.join("\n"))
}
