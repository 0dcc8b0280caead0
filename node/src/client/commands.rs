//! The client verbs: `init login logout whoami authenticate policy variable list`. Passwords and
//! keys come from a prompt, a file or standard input, never from an argument that others could see
//! in the process list.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::api::{Api, Token, segment};
use super::netrc;
use super::settings::{Conjurrc, Settings, conjurrc_path, replace_private_file};
use crate::cli::output::{self, Output};
use crate::config::environment::ClientEnvironment;
use crate::exit::{Context, Exit, Failure};

/// Longest password, key or value taken from a file or standard input.
const INPUT_BYTES_MAX: u64 = 16 << 20;

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
    /// Who: `alice` for a user, `host/app` for a host.
    #[arg(short = 'i', long = "id")]
    login: String,
    /// Take the password or API key from this file, `-` for standard input, instead of a prompt.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Arguments of `authenticate`.
#[derive(Debug, Args)]
pub struct AuthenticateArgs {
    /// Print the whole header line, ready for `curl -H`.
    #[arg(short = 'H', long)]
    header: bool,
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Add what the text declares; change and remove nothing (POST).
    Load(PolicyLoadArgs),
    /// Add and change; remove what the text names for removal (PATCH).
    Update(PolicyLoadArgs),
    /// Make the branch exactly what the text declares (PUT).
    Replace(PolicyLoadArgs),
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

/// What can be done with variables.
#[derive(Debug, Subcommand)]
pub enum VariableCommand {
    /// Print a value, or several as JSON.
    Get(VariableGetArgs),
    /// Add a version.
    Set(VariableSetArgs),
}

/// Arguments of `variable get`.
#[derive(Debug, Args)]
pub struct VariableGetArgs {
    /// Id of the variable; several with commas.
    #[arg(short, long)]
    id: String,
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

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this kind: variable, host, user, group, layer, policy, webservice.
    #[arg(short, long)]
    kind: Option<String>,
    /// Only what these words are found in.
    #[arg(short, long)]
    search: Option<String>,
    /// At most so many.
    #[arg(short, long)]
    limit: Option<u32>,
    /// Skip so many.
    #[arg(long)]
    offset: Option<u32>,
    /// As seen by this role, which the caller must hold.
    #[arg(short, long)]
    role: Option<String>,
    /// Whole documents instead of ids.
    #[arg(short = 'i', long)]
    inspect: bool,
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

/// `conclave login`: exchanges a password or API key for the API key and remembers it.
///
/// # Errors
/// When the server refuses, or the login cannot be kept.
pub async fn login(args: LoginArgs, output: Output) -> Result<(), Failure> {
    let settings = Settings::load(&ClientEnvironment::read())?;
    let password = match &args.password_file {
        Some(file) => line_of(&read_input(file)?)?,
        None if std::io::stdin().is_terminal() => Zeroizing::new(
            rpassword::prompt_password(format!("Password or API key of {}: ", args.login))
                .context(Exit::Usage, "cannot read the password")?,
        ),
        None => line_of(&read_input(Path::new("-"))?)?,
    };
    let api = api(&settings)?;
    let api_key = api.login(&args.login, &password).await?;
    let machine = netrc::machine(&settings.appliance_url);
    let entry = netrc::Entry { login: args.login, api_key };
    let text = netrc::with(&netrc::read(&settings.netrc)?, &machine, &entry);
    netrc::write(&settings.netrc, &text)?;
    output
        .show(&json!({ "login": entry.login, "netrc": settings.netrc }), || "Logged in".to_owned())
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
    show_document(&api.call(&token, Method::GET, "/whoami", &[], None).await?, output, |document| {
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

/// `conclave policy load|update|replace`.
///
/// # Errors
/// When the file cannot be read, or the server refuses.
pub async fn policy(command: PolicyCommand, output: Output) -> Result<(), Failure> {
    let (method, args) = match command {
        PolicyCommand::Load(args) => (Method::POST, args),
        PolicyCommand::Update(args) => (Method::PATCH, args),
        PolicyCommand::Replace(args) => (Method::PUT, args),
    };
    let text = read_input(&args.file)?;
    let (api, token) = session().await?;
    let answer = api.load_policy(&token, method, &args.branch, text.to_vec(), args.dry_run).await?;
    // Clients of Conjur print the document in either case: it holds new API keys.
    show_document(&answer, output, |document| {
        serde_json::to_string_pretty(document).unwrap_or_default()
    })
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
    if !args.id.contains(',') {
        let value = api.secret(&token, &args.id, args.version).await?;
        return match output {
            Output::Text if std::io::stdout().is_terminal() => output::line(&value),
            Output::Text => output::raw(&value),
            Output::Json => match std::str::from_utf8(&value) {
                Ok(text) => output.show(&json!({ "id": args.id, "value": text }), String::new),
                Err(_) => output.show(
                    &json!({ "id": args.id, "value_base64": STANDARD.encode(&value) }),
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
        .split(',')
        .map(|id| segment(&format!("{}:variable:{}", api.account(), id.trim())))
        .collect();
    let path = format!("/secrets?variable_ids={}", ids.join(","));
    show_document(&api.call(&token, Method::GET, &path, &[], None).await?, output, |document| {
        serde_json::to_string_pretty(document).unwrap_or_default()
    })
}

async fn set(args: VariableSetArgs, output: Output) -> Result<(), Failure> {
    let value = match (args.value, &args.file) {
        (Some(value), _) => Zeroizing::new(value.into_bytes()),
        (None, Some(file)) => read_input(file)?,
        (None, None) if std::io::stdin().is_terminal() => Zeroizing::new(
            rpassword::prompt_password(format!("Value of {}: ", args.id))
                .context(Exit::Usage, "cannot read the value")?
                .into_bytes(),
        ),
        (None, None) => read_input(Path::new("-"))?,
    };
    let (api, token) = session().await?;
    api.set_secret(&token, &args.id, &value).await?;
    output.show(&json!({ "id": args.id, "set": true }), || "Value added".to_owned())
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
    let mut query = Vec::new();
    query.extend(args.search.map(|words| ("search", words)));
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    query.extend(args.offset.map(|offset| ("offset", offset.to_string())));
    query.extend(args.role.map(|role| ("acting_as", role)));
    let answer = api.call(&token, Method::GET, &path, &query, None).await?;
    let documents: Vec<Value> =
        serde_json::from_slice(&answer).context(Exit::Failed, "the server's answer")?;
    if args.inspect {
        return output
            .show(&documents, || serde_json::to_string_pretty(&documents).unwrap_or_default());
    }
    let ids: Vec<&str> = documents.iter().filter_map(|document| document["id"].as_str()).collect();
    output.show(&ids, || ids.join("\n"))
}

fn api(settings: &Settings) -> Result<Api, Failure> {
    Api::new(&settings.appliance_url, &settings.account, settings.cert_file.as_deref())
}

/// The server in force, and a fresh token for whoever is logged in.
async fn session() -> Result<(Api, Token), Failure> {
    let environment = ClientEnvironment::read();
    let settings = Settings::load(&environment)?;
    let api = api(&settings)?;
    let entry = match (environment.login, environment.api_key) {
        (Some(login), Some(api_key)) => netrc::Entry { login, api_key },
        (None, None) => {
            let text = netrc::read(&settings.netrc)?;
            netrc::find(&text, &netrc::machine(&settings.appliance_url)).ok_or_else(|| {
                Failure::new(
                    Exit::Unauthenticated,
                    format!("not logged in to {}; run `conclave login`", settings.appliance_url),
                )
            })?
        }
        _ => {
            return Err(Failure::new(
                Exit::Configuration,
                "set both CONJUR_AUTHN_LOGIN and CONJUR_AUTHN_API_KEY, or neither",
            ));
        }
    };
    let token = api.authenticate(&entry.login, &entry.api_key).await?;
    Ok((api, token))
}

/// Reads a file, or standard input for `-`, up to a bound.
fn read_input(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let what = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.context(Exit::Configuration, &what)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new(
            Exit::Usage,
            format!("{what} is longer than {INPUT_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// The first line, for passwords: editors end files with a line end that is no part of them.
fn line_of(bytes: &[u8]) -> Result<Zeroizing<String>, Failure> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Failure::new(Exit::Usage, "the password is not UTF-8 text"))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(Exit::Usage, "the password is empty"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn show_document(
    bytes: &[u8],
    output: Output,
    text: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    let document: Value =
        serde_json::from_slice(bytes).context(Exit::Failed, "the server's answer")?;
    output.show(&document, || text(&document))
}
