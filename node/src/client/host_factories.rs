//! `hostfactory tokens create|revoke` and `hostfactory hosts create`: machines that enrol themselves.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use conclave_domain::time::Clock;
use reqwest::Method;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::api::{Ask, Caller, segment};
use super::ids::FullId;
use super::settings::replace_private_file;
use super::{input, session};
use crate::cli::output::{self, Output};
use crate::clock::SystemClock;
use crate::exit::{Context, Exit, Failure};

/// Life of a token for which none is named.
const LIFE_HOURS: u64 = 1;

/// What can be done with host factories.
#[derive(Debug, Subcommand)]
pub enum HostfactoryCommand {
    /// Make and revoke tokens.
    #[command(subcommand, visible_alias = "token")]
    Tokens(TokensCommand),
    /// Make hosts with a token.
    #[command(subcommand, visible_alias = "host")]
    Hosts(HostsCommand),
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make tokens with which machines can make their own hosts.
    #[command(after_help = "\
Examples:
  conclave hostfactory tokens create -i app/factory                        one, for an hour
  conclave hostfactory tokens create -i app/factory --duration-days 2 --count 5
  conclave hostfactory tokens create -i app/factory --one-time             good for one host
  conclave hostfactory tokens create -i app/factory --cidr 10.0.0.0/24,10.1.0.7")]
    Create(TokenCreateArgs),
    /// Make a token void.
    Revoke(TokenRevokeArgs),
}

/// What can be done with hosts.
#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// Make a host, or give it a new API key; needs a token and no login.
    #[command(after_help = "\
Examples:
  conclave hostfactory hosts create -i app/web-01                      asks for the token
  conclave hostfactory hosts create -i app/web-01 --token-file token --key-file web-01.key")]
    Create(HostCreateArgs),
}

/// Arguments of `hostfactory tokens create`.
#[derive(Debug, Args)]
pub struct TokenCreateArgs {
    /// Id of the host factory.
    #[arg(short = 'i', long = "id", visible_alias = "hostfactory-id", value_name = "ID")]
    id: String,
    /// Days of its life.
    #[arg(long, value_name = "N")]
    duration_days: Option<u64>,
    /// Hours of its life, on top of days.
    #[arg(long, value_name = "N")]
    duration_hours: Option<u64>,
    /// Minutes of its life, on top of days and hours.
    #[arg(long, value_name = "N")]
    duration_minutes: Option<u64>,
    /// Good only from these addresses or ranges; several with commas.
    #[arg(short, long, value_delimiter = ',')]
    cidr: Vec<String>,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// Good for one host, or one new API key, and no more.
    #[arg(long, conflicts_with = "max_uses")]
    one_time: bool,
    /// How many hosts, or new API keys, each token is good for; any number if absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_uses: Option<u32>,
}

/// Arguments of `hostfactory tokens revoke`.
#[derive(Debug, Args)]
pub struct TokenRevokeArgs {
    #[command(flatten)]
    token: TokenArg,
}

/// Where a token comes from.
#[derive(Debug, Args)]
pub struct TokenArg {
    /// The token. Others on this machine can see it while the command runs; prefer --token-file.
    #[arg(short, long, conflicts_with = "token_file")]
    token: Option<String>,
    /// Take the token from this file, `-` for standard input, instead of a prompt.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArg {
    fn read(self) -> Result<Zeroizing<String>, Failure> {
        let token = match self.token {
            Some(token) => Zeroizing::new(token),
            None => input::secret_line(self.token_file.as_deref(), "Host factory token: ")?,
        };
        if !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Failure::new(Exit::Usage, "that is no host factory token"));
        }
        Ok(token)
    }
}

/// Arguments of `hostfactory hosts create`.
#[derive(Debug, Args)]
pub struct HostCreateArgs {
    /// Id of the host.
    #[arg(short, long)]
    id: String,
    #[command(flatten)]
    token: TokenArg,
    /// An annotation, `name=value`; can be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Write the API key to this file, mode 0600, and leave it out of the document that is printed.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// `conclave hostfactory …`.
///
/// # Errors
/// When the server refuses.
pub async fn hostfactory(command: HostfactoryCommand, output: Output) -> Result<(), Failure> {
    match command {
        HostfactoryCommand::Tokens(TokensCommand::Create(args)) => create(&args, output).await,
        HostfactoryCommand::Tokens(TokensCommand::Revoke(args)) => revoke(args, output).await,
        HostfactoryCommand::Hosts(HostsCommand::Create(args)) => host(args, output).await,
    }
}

async fn create(args: &TokenCreateArgs, output: Output) -> Result<(), Failure> {
    let expiration = expiration(args)?;
    let answer = session::ask(|api| {
        let id = FullId::parse(api.account(), Some("host_factory"), &args.id)?.to_string();
        let count = args.count.to_string();
        let max_uses = args.max_uses.or(args.one_time.then_some(1)).map(|uses| uses.to_string());
        let mut fields =
            vec![("host_factory", id.as_str()), ("expiration", &expiration), ("count", &count)];
        fields.extend(max_uses.iter().map(|uses| ("max_uses", uses.as_str())));
        fields.extend(args.cidr.iter().map(|cidr| ("cidr[]", cidr.trim())));
        Ok(Ask::new(Method::POST, "/host_factory_tokens").form(&fields))
    })
    .await?
    .success()?;
    output::document(&answer, output, output::pretty)
}

fn expiration(args: &TokenCreateArgs) -> Result<String, Failure> {
    let given = [
        (args.duration_days, 24 * 60 * 60),
        (args.duration_hours, 60 * 60),
        (args.duration_minutes, 60),
    ];
    let too_long = || Failure::new(Exit::Usage, "that is longer than time can be told");
    let mut seconds = 0_u64;
    for (number, unit) in given {
        let part = number.unwrap_or(0).checked_mul(unit).ok_or_else(too_long)?;
        seconds = seconds.checked_add(part).ok_or_else(too_long)?;
    }
    if given.iter().all(|(number, _)| number.is_none()) {
        seconds = LIFE_HOURS * 60 * 60;
    }
    if seconds == 0 {
        return Err(Failure::new(Exit::Usage, "a token must live for a minute at least"));
    }
    let now = OffsetDateTime::from_unix_timestamp(SystemClock.now().seconds())
        .context(Exit::Failed, "the clock")?;
    let at = now.checked_add(Duration::from_secs(seconds).try_into().map_err(|_| too_long())?);
    at.ok_or_else(too_long)?.format(&Rfc3339).context(Exit::Failed, "the clock")
}

async fn revoke(args: TokenRevokeArgs, output: Output) -> Result<(), Failure> {
    let token = args.token.read()?;
    session::ask(|_| {
        Ok(Ask::new(Method::DELETE, format!("/host_factory_tokens/{}", segment(&token))))
    })
    .await?
    .success()?;
    output.show(&json!({ "revoked": true }), || "Token has been revoked".to_owned())
}

async fn host(args: HostCreateArgs, output: Output) -> Result<(), Failure> {
    let annotations = args
        .annotation
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                Failure::new(Exit::Usage, format!("--annotation {text:?}: write NAME=VALUE"))
            })?;
            Ok((format!("annotations[{name}]"), value))
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let token = args.token.read()?;
    let api = session::anonymous()?;
    let mut fields = vec![("id", args.id.as_str())];
    fields.extend(annotations.iter().map(|(name, value)| (name.as_str(), *value)));
    let ask = Ask::new(Method::POST, "/host_factories/hosts").form(&fields);
    let answer = api.ask(Caller::HostFactory(&token), ask).await?;
    if answer.status == reqwest::StatusCode::UNAUTHORIZED {
        return Err(Failure::new(
            Exit::Unauthenticated,
            "401 Unauthorized. The token is unknown, expired, used up, or not good from this address; \
             who may execute the factory makes another with `conclave hostfactory tokens create`",
        ));
    }
    let body = answer.success()?;
    let Some(file) = &args.key_file else {
        return output::document(&body, output, output::pretty);
    };
    let mut document: serde_json::Value =
        serde_json::from_slice(&body).context(Exit::Failed, "the server's answer")?;
    let key = document.as_object_mut().and_then(|fields| fields.remove("api_key"));
    let key = Zeroizing::new(
        key.as_ref().and_then(|key| key.as_str()).unwrap_or_default().to_owned() + "\n",
    );
    replace_private_file(file, key.as_bytes())?;
    output.show(&document, || format!("Wrote the API key of {} to {}", args.id, file.display()))
}
