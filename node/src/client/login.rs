//! `init login logout whoami authenticate`: which server and account, who is logged in, and the token
//! that proves it.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::api::Api;
use super::browser;
use super::device::{self, OidcArgs, ProviderLogin};
use super::input;
use super::netrc;
use super::session::{self, session};
use super::settings::{Conjurrc, Settings, conjurrc_path, replace_private_file};
use crate::cli::output::{self, Output};
use crate::config::environment::ClientEnvironment;
use crate::exit::{Context, Exit, Failure};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// URL of the server or its load balancer, https://…
    #[arg(short, long)]
    url: String,
    /// Account to work in.
    #[arg(short, long)]
    account: String,
    /// PEM file with the root of the cluster; without it the system's roots are trusted.
    #[arg(short, long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Overwrite an existing .conjurrc.
    #[arg(long)]
    force: bool,
}

/// Arguments of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Who: `alice` for a user, `host/app` for a host. Without it, it is asked for.
    #[arg(short = 'i', long = "id", value_name = "LOGIN")]
    login: Option<String>,
    /// Take the password or API key from this file, `-` for standard input, instead of a prompt.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    oidc: OidcArgs,
}

/// Arguments of `authenticate`.
#[derive(Debug, Args)]
pub struct AuthenticateArgs {
    /// Print the whole header line, ready for `curl -H`.
    #[arg(short = 'H', long)]
    header: bool,
}

/// `conclave init`: writes `.conjurrc`.
///
/// # Errors
/// When the file is there already, or cannot be written.
pub fn init(args: InitArgs, output: Output) -> Result<(), Failure> {
    let path = conjurrc_path(&ClientEnvironment::read())?;
    if path.exists() && !args.force {
        return Err(Failure::new(
            Exit::Configuration,
            format!("{} is there already; pass --force to overwrite it", path.display()),
        ));
    }
    if !args.url.starts_with("https://") {
        return Err(Failure::new(Exit::Usage, format!("{} is no https:// URL", args.url)));
    }
    let cert_file = match &args.ca_cert {
        Some(file) => {
            let file = std::fs::canonicalize(file).context(Exit::Configuration, file.display())?;
            Some(file.to_string_lossy().into_owned())
        }
        None => None,
    };
    // Building the client proves that the roots can be used, before anything is written.
    Api::new(&args.url, &args.account, args.ca_cert.as_deref())?;
    let file = Conjurrc {
        account: Some(args.account),
        appliance_url: Some(args.url.trim_end_matches('/').to_owned()),
        cert_file,
        netrc_path: None,
    };
    replace_private_file(&path, file.to_text().as_bytes())?;
    output.show(&json!({ "conjurrc": path }), || format!("Wrote {}", path.display()))
}

/// `conclave login`: exchanges a password or API key for the API key and remembers it; or lets somebody log
/// in at an OpenID provider, and remembers the access token.
///
/// # Errors
/// When the server refuses, or the login cannot be kept.
pub async fn login(args: LoginArgs, output: Output) -> Result<(), Failure> {
    let settings = Settings::load(&ClientEnvironment::read())?;
    if let Some(login) = args.oidc.login() {
        return login_at_provider(&login, &settings, output).await;
    }
    let login = match args.login {
        Some(login) => login,
        None => input::line("Login: ")?,
    };
    let prompt = format!("Password or API key of {login}: ");
    let password = input::secret_line(args.password_file.as_deref(), &prompt)?;
    let api = session::api(&settings)?;
    let api_key = api.login(&login, &password).await?;
    let entry = netrc::Entry { login, api_key };
    remember(&settings, &entry)?;
    output
        .show(&json!({ "login": entry.login, "netrc": settings.netrc }), || "Logged in".to_owned())
}

fn remember(settings: &Settings, entry: &netrc::Entry) -> Result<(), Failure> {
    let machine = netrc::machine(&settings.appliance_url);
    let text = netrc::with(&netrc::read(&settings.netrc)?, &machine, entry);
    netrc::write(&settings.netrc, &text)
}

async fn login_at_provider(
    login: &ProviderLogin,
    settings: &Settings,
    output: Output,
) -> Result<(), Failure> {
    let api = session::api(settings)?;
    // On standard error, since the output may be a document.
    let say = |line: &str| output::note(line);
    let token = match login {
        ProviderLogin::Browser(service) => browser::log_in(&api, service, say).await?,
        ProviderLogin::Device(device) => device::log_in(&api, device, say).await?,
    };
    let answer = api.call(&token, Method::GET, "/whoami", &[], None).await?;
    let document: serde_json::Value =
        serde_json::from_slice(&answer).context(Exit::Failed, "the server's answer")?;
    let login = document["username"].as_str().unwrap_or("?").to_owned();
    let api_key = Zeroizing::new(STANDARD.encode(token.json.as_bytes()));
    remember(settings, &netrc::Entry { login: netrc::TOKEN.to_owned(), api_key })?;
    output.show(&json!({ "login": login, "netrc": settings.netrc }), || {
        format!("Logged in as {login}, until the access token expires")
    })
}

/// `conclave logout`: forgets the login.
///
/// # Errors
/// When the file cannot be written.
pub fn logout(output: Output) -> Result<(), Failure> {
    let settings = Settings::load(&ClientEnvironment::read())?;
    let machine = netrc::machine(&settings.appliance_url);
    let before = netrc::read(&settings.netrc)?;
    let known = netrc::find(&before, &machine).is_some();
    if known {
        netrc::write(&settings.netrc, &netrc::without(&before, &machine))?;
    }
    output.show(&json!({ "logged_out": known }), || {
        if known { "Logged out" } else { "Was not logged in" }.to_owned()
    })
}

/// `conclave whoami`.
///
/// # Errors
/// When not logged in, or the server refuses.
pub async fn whoami(output: Output) -> Result<(), Failure> {
    let (api, token) = session().await?;
    let answer = api.call(&token, Method::GET, "/whoami", &[], None).await?;
    output::document(&answer, output, |document| {
        format!(
            "{} in account {}",
            document["username"].as_str().unwrap_or("?"),
            document["account"].as_str().unwrap_or("?")
        )
    })
}

/// `conclave authenticate`: prints an access token.
///
/// # Errors
/// When not logged in, or the server refuses.
pub async fn authenticate(args: AuthenticateArgs, output: Output) -> Result<(), Failure> {
    let (_, token) = session().await?;
    if args.header {
        let header = Zeroizing::new(format!("Authorization: {}", token.header().as_str()));
        return match output {
            Output::Text => output::line(header.as_bytes()),
            Output::Json => output.show(&json!({ "header": *header }), String::new),
        };
    }
    output::line(token.json.as_bytes())
}
