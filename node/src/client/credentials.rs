//! `user rotate-api-key|change-password` and `host rotate-api-key`: credentials replaced, one's own and
//! those of others.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::api::{Api, Ask, Caller, segment};
use super::ids::FullId;
use super::settings::{Settings, replace_private_file};
use super::{input, netrc, session};
use crate::cli::output::{self, Output};
use crate::config::environment::ClientEnvironment;
use crate::exit::{Exit, Failure};

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Replace an API key; the old one is void at once.
    #[command(after_help = "\
Examples:
  conclave user rotate-api-key                  one's own; the login stays valid
  conclave user rotate-api-key -i alice         somebody's, where the caller may update it
  conclave user rotate-api-key -i alice --key-file alice.key")]
    RotateApiKey(RotateArgs),
    /// Replace one's own password; asks for it.
    #[command(after_help = "\
12 to 128 characters: two capitals and two small letters at least, a digit, and a space or mark.

Examples:
  conclave user change-password                             asks for it twice, without echo
  conclave user change-password --password-file new         takes it from a file, - for standard input")]
    ChangePassword(ChangePasswordArgs),
}

/// What can be done with hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Replace an API key; the old one is void at once.
    #[command(after_help = "\
Examples:
  conclave host rotate-api-key -i app/web-01 --key-file web-01.key
  conclave host rotate-api-key                  one's own, when a host is logged in")]
    RotateApiKey(RotateArgs),
}

/// Arguments of `rotate-api-key`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Whose; without it, that of whoever is logged in.
    #[arg(short, long)]
    id: Option<String>,
    /// Write the new key to this file, mode 0600, instead of standard output.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Arguments of `user change-password`.
#[derive(Debug, Args)]
pub struct ChangePasswordArgs {
    /// Take the new password from this file, `-` for standard input, instead of a prompt.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// `conclave user …`.
///
/// # Errors
/// When the server refuses.
pub async fn user(command: UserCommand, output: Output) -> Result<(), Failure> {
    match command {
        UserCommand::RotateApiKey(args) => rotate("user", args, output).await,
        UserCommand::ChangePassword(args) => change_password(&args, output).await,
    }
}

/// `conclave host …`.
///
/// # Errors
/// When the server refuses.
pub async fn host(command: HostCommand, output: Output) -> Result<(), Failure> {
    let HostCommand::RotateApiKey(args) = command;
    rotate("host", args, output).await
}

async fn rotate(kind: &str, args: RotateArgs, output: Output) -> Result<(), Failure> {
    let environment = ClientEnvironment::read();
    let settings = Settings::load(&environment)?;
    let from_environment = environment.login.is_some();
    let entry = session::credentials(environment, &settings)?;
    let api = session::api(&settings)?;
    let me = own_id(api.account(), &entry.login);
    let target = match &args.id {
        Some(id) => FullId::parse(api.account(), Some(kind), id)?,
        None if me.kind == kind => me.clone(),
        None => {
            return Err(Failure::new(
                Exit::Usage,
                format!("{} is logged in, which is no {kind}; name one with -i", entry.login),
            ));
        }
    };
    let path = format!("/authn/{}/api_key", segment(api.account()));
    let ask = Ask::new(Method::PUT, path);
    let key = if target == me {
        // One's own key takes the key itself; a token is not enough.
        let caller = Caller::Basic(&entry.login, &entry.api_key);
        api.ask(caller, ask).await?.success()?
    } else {
        let token = api.authenticate(&entry.login, &entry.api_key).await?;
        let ask = ask.query("role", &target.to_string());
        api.ask(Caller::Token(&token), ask).await?.success()?
    };
    let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
    // First of all it must be kept somewhere: the old one is void.
    let written = match &args.key_file {
        Some(file) => replace_private_file(file, format!("{}\n", key.as_str()).as_bytes()),
        None => match output {
            Output::Text => output::line(key.as_bytes()),
            Output::Json => output
                .show(&json!({ "role": target.to_string(), "api_key": key.as_str() }), String::new),
        },
    };
    if target == me && !from_environment {
        remember(&settings, &api, &entry.login, &key)?;
    }
    written?;
    match &args.key_file {
        Some(file) => output.show(&json!({ "role": target.to_string(), "key_file": file }), || {
            format!("Wrote the new API key of {target} to {}", file.display())
        }),
        None => Ok(()),
    }
}

/// Keeps the new key where the login is remembered, so that it goes on.
fn remember(settings: &Settings, api: &Api, login: &str, key: &str) -> Result<(), Failure> {
    let machine = netrc::machine(&settings.appliance_url);
    let before = netrc::read(&settings.netrc)?;
    if netrc::find(&before, &machine).is_none_or(|known| known.login != login) {
        return Ok(());
    }
    let entry = netrc::Entry { login: login.to_owned(), api_key: Zeroizing::new(key.to_owned()) };
    netrc::write(&settings.netrc, &netrc::with(&before, &machine, &entry)).map_err(|failure| {
        Failure::new(
            failure.exit,
            format!(
                "the key of {login} in account {} is new, but {failure}; log in again with it",
                api.account()
            ),
        )
    })
}

async fn change_password(args: &ChangePasswordArgs, output: Output) -> Result<(), Failure> {
    let environment = ClientEnvironment::read();
    let settings = Settings::load(&environment)?;
    let entry = session::credentials(environment, &settings)?;
    let api = session::api(&settings)?;
    let prompt = format!("New password of {}: ", entry.login);
    let password = input::new_secret_line(args.password_file.as_deref(), &prompt)?;
    let path = format!("/authn/{}/password", segment(api.account()));
    let ask = Ask::new(Method::PUT, path).bytes(Zeroizing::new(password.as_bytes().to_vec()));
    api.ask(Caller::Basic(&entry.login, &entry.api_key), ask).await?.success()?;
    output.show(&json!({ "login": entry.login, "password_changed": true }), || {
        "Password changed".to_owned()
    })
}

/// The id of a login: `host/app` is the host `app`, `alice` the user.
fn own_id(account: &str, login: &str) -> FullId {
    let (kind, identifier) = login.split_once('/').unwrap_or(("user", login));
    FullId { account: account.to_owned(), kind: kind.to_owned(), identifier: identifier.to_owned() }
}
