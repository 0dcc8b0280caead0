//! `conclave cert …`: the certificates that the cluster issues to itself and those that are brought from
//! outside, seen and changed by the operator on a node's own machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use conclave_domain::certificates::{CLUSTER_CA, ROOT};
use serde_json::json;

use super::ConfigArg;
use super::output::{Output, table};
use crate::admin::client;
use crate::admin::protocol::{PrivateText, Request, Response};
use crate::certificates::inventory::{Clock, Row};
use crate::exit::{Context, Exit, Failure};

/// The exit code when something expires soon.
const EXPIRES_SOON: u8 = 2;
const DAY_S: i64 = 86_400;

/// What the operator does with certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// All certificates of the cluster, with who has loaded them.
    #[command(after_help = "\
Ends with exit code 2 when a certificate expires within --within days. What nodes present lives for 30
days and is renewed after 20, so with the default a fresh cluster ends with 0, and 2 means that a
renewal is overdue.")]
    List(ListArgs),
    /// Everything about one certificate: names, fingerprint, life, who has loaded it, the chain.
    Show(NameArgs),
    /// Issue a certificate anew; every node loads it while it serves on.
    Renew(RenewArgs),
    /// Replace the root: published, loaded by all, used, and the older one retired; no restart.
    RotateCa(ConfigArg),
    /// Make a request for a company's authority to sign the intermediate that signs what nodes present.
    #[command(after_help = "\
Have it signed as a CA (path length 0) that may sign for the names of the cluster, bring what comes back
with `conclave cert import cluster-ca --chain FILE [--root FILE]`, and give clients the company's root
before: from then on what nodes present leads to it. The cluster's own root is retired.")]
    Request(ExportArgs),
    /// Put a certificate from outside in force for the host names in it.
    #[command(after_help = "\
The chain may be in any order, with or without its root, which is put in order; it is checked as clients
do, and refused with the reason. Clients that ask for one of its names get it from every node, at once;
nodes go on to know each other by the cluster's own. Importing under the same name replaces it.")]
    Import(ImportArgs),
    /// Forget a certificate that was brought from outside.
    Remove(NameArgs),
    /// The roots that nodes trust, and which nodes do; or trust one no longer that another has followed.
    Trust(TrustArgs),
    /// Write the roots that clients are to trust, PEM.
    ExportCa(ExportArgs),
}

/// Arguments of `cert import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// What to call it: `cert list` shows edge/NAME. Or `cluster-ca`, for what came of `cert request`.
    name: String,
    /// The certificate and what leads to its root, PEM.
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// Its private key, PEM, not encrypted. That of `cluster-ca` the cluster has.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The root, PEM, where the chain does not hold it.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// Arguments of `cert trust`.
#[derive(Debug, Args)]
pub struct TrustArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Trust this generation of the root no longer, though a member that is down has not loaded what
    /// followed it. Such a member must join anew.
    #[arg(long, value_name = "GENERATION")]
    forget: Option<u32>,
}

/// Arguments of `cert list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// What expires within so many days ends the command with exit code 2.
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    within: u16,
}

/// Arguments of `cert show`.
#[derive(Debug, Args)]
pub struct NameArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Its name, as `cert list` shows it.
    name: String,
}

/// Arguments of `cert renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Its name, as `cert list` shows it.
    #[arg(default_value = "cluster")]
    name: String,
}

/// Arguments of `cert export-ca`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Where to write them; without it, to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs `conclave cert …`.
///
/// # Errors
/// As the command says.
pub async fn cert(command: CertCommand, output: Output) -> Result<ExitCode, Failure> {
    match command {
        CertCommand::List(args) => {
            let (rows, clocks) = told(&args.config).await?;
            output.show(&rows, || text(&rows, &clocks))?;
            let soon = rows.iter().any(|row| row.seconds_left <= i64::from(args.within) * DAY_S);
            if soon {
                return Ok(ExitCode::from(EXPIRES_SOON));
            }
        }
        CertCommand::Show(args) => {
            let rows = rows(&args.config).await?;
            let row = rows.into_iter().rfind(|row| row.name == args.name).ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("there is no certificate {}", args.name))
            })?;
            output.show(&row, || row_text(&row))?;
        }
        CertCommand::Renew(args) => renew(&args.config, &args.name, output).await?,
        CertCommand::RotateCa(config) => renew(&config, ROOT, output).await?,
        CertCommand::Import(args) => import(&args, output).await?,
        CertCommand::Remove(args) => remove(&args.config, &args.name, None, output).await?,
        CertCommand::Trust(TrustArgs { config, forget: Some(generation) }) => {
            remove(&config, ROOT, Some(generation), output).await?;
        }
        CertCommand::Trust(TrustArgs { config, forget: None }) => {
            let mut rows = rows(&config).await?;
            rows.retain(|row| row.name == ROOT);
            output
                .show(&rows, || rows.iter().map(|row| row_text(row) + "\n").collect::<String>())?;
        }
        CertCommand::ExportCa(args) => {
            let data = args.config.load()?.node.data;
            let response = client::ask(&data, &Request::TrustBundle).await?;
            let Response::TrustBundle { pem } = response else {
                return Err(response.into_failure());
            };
            write(args.out, &pem, output)?;
        }
        CertCommand::Request(args) => {
            let data = args.config.load()?.node.data;
            let response = client::ask(&data, &Request::RequestAuthority).await?;
            let Response::Requested { pem } = response else {
                return Err(response.into_failure());
            };
            write(args.out, &pem, output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(out: Option<PathBuf>, pem: &str, output: Output) -> Result<(), Failure> {
    let Some(path) = out else { return output.show(&json!({ "pem": pem }), || pem.to_owned()) };
    std::fs::write(&path, pem).context(Exit::Configuration, path.display())?;
    output.show(&json!({ "written": path }), || format!("Wrote {}", path.display()))
}

async fn rows(config: &ConfigArg) -> Result<Vec<Row>, Failure> {
    told(config).await.map(|(rows, _)| rows)
}

async fn told(config: &ConfigArg) -> Result<(Vec<Row>, Vec<Clock>), Failure> {
    let response = client::ask(&config.load()?.node.data, &Request::Certificates).await?;
    if let Response::Certificates { rows, clocks } = response {
        return Ok((rows, clocks));
    }
    Err(response.into_failure())
}

async fn renew(config: &ConfigArg, name: &str, output: Output) -> Result<(), Failure> {
    let request = Request::RenewCertificate { name: name.to_owned() };
    let response = client::ask(&config.load()?.node.data, &request).await?;
    let Response::Renewed { revision } = response else { return Err(response.into_failure()) };
    output.show(&json!({ "name": name, "revision": revision }), || {
        format!("Issued {name}, generation {revision}; watch it load: conclave cert list")
    })
}

async fn import(args: &ImportArgs, output: Output) -> Result<(), Failure> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).context(Exit::Configuration, path.display());
    let chain_pem = read(&args.chain)?;
    let roots_pem = args.root.as_ref().map(read).transpose()?.unwrap_or_default();
    let request = match &args.key {
        Some(key) => {
            let (name, key_pem) = (args.name.clone(), PrivateText::new(read(key)?));
            Request::ImportCertificate { name, chain_pem, key_pem, roots_pem }
        }
        None if args.name == CLUSTER_CA => Request::ImportAuthority { chain_pem, roots_pem },
        None => {
            return Err(Failure::new(Exit::Usage, "give its private key with --key"));
        }
    };
    let response = client::ask(&args.config.load()?.node.data, &request).await?;
    let Response::Imported { name, revision, names, root } = response else {
        return Err(response.into_failure());
    };
    let shown = json!({ "name": name, "revision": revision, "names": names, "root": root });
    output.show(&shown, || {
        if names.is_empty() {
            return format!(
                "{name} is signed under {root}; watch it come into force: conclave cert list"
            );
        }
        let names = names.join(", ");
        format!("{name}, generation {revision}, answers for {names}; it leads to {root}")
    })
}

async fn remove(
    config: &ConfigArg,
    name: &str,
    generation: Option<u32>,
    output: Output,
) -> Result<(), Failure> {
    let request = Request::RemoveCertificate { name: name.to_owned(), generation };
    let response = client::ask(&config.load()?.node.data, &request).await?;
    let Response::Done = response else { return Err(response.into_failure()) };
    output.show(&json!({ "removed": name, "generation": generation }), || {
        format!("{name} is in force no longer")
    })
}

fn text(rows: &[Row], clocks: &[Clock]) -> String {
    let head = ["NAME", "REV", "USAGE", "SUBJECT", "EXPIRES", "RENEWS", "STATE", "LOADED"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let loaded = row.consumers.iter().filter(|consumer| consumer.loaded).count();
        let loaded = match row.consumers.len() {
            0 => "-".to_owned(),
            all => format!("{loaded}/{all}"),
        };
        let day = |date: &str| date.split('T').next().unwrap_or_default().to_owned();
        let common_name = row.subject.rsplit("CN=").next().unwrap_or_default().to_owned();
        lines.push(vec![
            row.name.clone(),
            row.revision.to_string(),
            row.usage.clone(),
            common_name,
            day(&row.not_after),
            day(&row.renew_at),
            row.state.clone(),
            loaded,
        ]);
    }
    let reasons = rows.iter().filter_map(|row| {
        row.reason.as_ref().map(|reason| format!("{}: {}: {reason}\n", row.name, row.state))
    });
    let clocks = clocks.iter().map(|Clock { node, seconds_ahead }| {
        format!("{node}: its clock is {seconds_ahead} s ahead of the others\n")
    });
    table(&lines) + &reasons.chain(clocks).collect::<String>()
}

fn row_text(row: &Row) -> String {
    let mut lines = vec![
        ("name", row.name.clone()),
        ("revision", row.revision.to_string()),
        ("issuer", row.issuer.clone()),
        ("usage", row.usage.clone()),
        ("subject", row.subject.clone()),
        ("names", row.names.join(" ")),
        ("key", row.key_algorithm.clone()),
        ("serial", row.serial.clone()),
        ("sha-256", row.fingerprint.clone()),
        ("from", row.not_before.clone()),
        ("to", row.not_after.clone()),
        ("renews", row.renew_at.clone()),
        ("in force since", row.installed_at.clone()),
        ("state", row.state.clone()),
        ("reason", row.reason.clone().unwrap_or_default()),
        ("kept in", row.storage.clone()),
        ("origin", row.origin.clone()),
    ];
    for consumer in &row.consumers {
        let since = consumer.loaded_at.clone().unwrap_or_default();
        let loaded = if consumer.loaded { "has it" } else { "has another" };
        lines.push(("used by", format!("{} ({loaded}) {since}", consumer.node)));
    }
    lines.retain(|(_, value)| !value.is_empty());
    let lines = lines.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    table(&lines.collect::<Vec<_>>()) + &row.pem
}
