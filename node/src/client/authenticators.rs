//! `authenticator list|enable|disable|status`: which authenticators let people and machines in.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::api::{Api, Ask, Caller, segment};
use super::session;
use crate::cli::output::{self, Output};
use crate::exit::{Exit, Failure};

/// What can be done with authenticators.
#[derive(Debug, Subcommand)]
pub enum AuthenticatorCommand {
    /// Which are known, which have a webservice, which are enabled.
    List,
    /// Let one in.
    #[command(after_help = "\
Example:
  conclave authenticator enable -i authn-jwt/ci")]
    Enable(AuthenticatorArgs),
    /// Let one in no more.
    Disable(AuthenticatorArgs),
    /// Whether one is set up well.
    Status(AuthenticatorArgs),
}

/// Names an authenticator.
#[derive(Debug, Args)]
pub struct AuthenticatorArgs {
    /// Type and service, such as authn-jwt/ci; authn-gcp has no service.
    #[arg(short, long)]
    id: String,
}

impl AuthenticatorArgs {
    fn path(&self, api: &Api) -> String {
        // The first slash parts type and service; any other is the service's own.
        match self.id.split_once('/') {
            Some((kind, service)) => {
                format!("/{}/{}/{}", segment(kind), segment(service), segment(api.account()))
            }
            None => format!("/{}/{}", segment(&self.id), segment(api.account())),
        }
    }
}

/// `conclave authenticator …`.
///
/// # Errors
/// When the server refuses.
pub async fn authenticator(command: AuthenticatorCommand, output: Output) -> Result<(), Failure> {
    match command {
        AuthenticatorCommand::List => {
            let api = session::anonymous()?;
            let ask = Ask::new(Method::GET, "/authenticators");
            let answer = api.ask(Caller::Nobody, ask).await?.success()?;
            output::document(&answer, output, |document| {
                let names = |list: &Value| -> Vec<String> {
                    let names = list.as_array().into_iter().flatten();
                    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
                };
                let rows: Vec<Vec<String>> = ["installed", "configured", "enabled"]
                    .iter()
                    .map(|part| vec![(*part).to_owned(), names(&document[*part]).join(", ")])
                    .collect();
                output::table(&rows)
            })
        }
        AuthenticatorCommand::Enable(args) => switch(&args, true, output).await,
        AuthenticatorCommand::Disable(args) => switch(&args, false, output).await,
        AuthenticatorCommand::Status(args) => {
            let answer =
                session::ask(|api| Ok(Ask::new(Method::GET, format!("{}/status", args.path(api)))))
                    .await?;
            let Ok(document) = serde_json::from_slice::<Value>(&answer.body) else {
                return Err(answer.refusal());
            };
            let is_ok = answer.status.is_success();
            let failure = answer.refusal();
            let text = document["error"].as_str().unwrap_or("ok").to_owned();
            output.show(&document, || text)?;
            if is_ok { Ok(()) } else { Err(Failure::new(failure.exit, answer.status)) }
        }
    }
}

async fn switch(args: &AuthenticatorArgs, on: bool, output: Output) -> Result<(), Failure> {
    let enabled = if on { "true" } else { "false" };
    let answer = session::ask(|api| {
        Ok(Ask::new(Method::PATCH, args.path(api)).form(&[("enabled", enabled)]))
    })
    .await?;
    if answer.status == reqwest::StatusCode::UNAUTHORIZED {
        // This route says 401 for a webservice that is not there, too.
        return Err(Failure::new(
            Exit::NotFound,
            format!(
                "401 Unauthorized. There is no webservice conjur/{}, or it is not to be seen",
                args.id
            ),
        ));
    }
    answer.success().map(drop)?;
    let word = if on { "enabled" } else { "disabled" };
    output.show(&json!({ "authenticator": args.id, "enabled": on }), || {
        format!("Authenticator {} is {word}", args.id)
    })
}
