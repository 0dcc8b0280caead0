//! `conclave audit …`: proves, shows and exports the cluster's audit chain, as the node on this machine
//! has it. `verify --file` proves an export anywhere.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use conclave_domain::audit::{AuditCheckpoint, AuditRecord, BrokenChain, ChainVerifier, unhex};
use conclave_storage::seal::is_signed;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::ConfigArg;
use super::output::{Output, line, note, told};
use crate::admin::client;
use crate::audit_trail::{self, Finding};
use crate::exit::{Context, Exit, Failure};

/// How often `tail --follow` looks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// What can be done with the audit chain.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Prove that no record was changed, removed, added or moved; names the first bad one.
    Verify(VerifyArgs),
    /// Show the last records.
    Tail(TailArgs),
    /// Write records with their hashes, one JSON object a line; `audit verify --file` proves them.
    Export(ExportArgs),
    /// Show the records that match.
    Query(QueryArgs),
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// An export to prove, - for standard input; needs no node.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The cluster's audit key in hex, as an earlier verification showed it.
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    key: Option<AuditKeyArg>,
}

/// A public key on the command line.
#[derive(Debug, Clone, Copy)]
pub struct AuditKeyArg([u8; 32]);

fn parse_key(text: &str) -> Result<AuditKeyArg, String> {
    unhex(text).map(AuditKeyArg).ok_or_else(|| "write 64 lower-case hex digits".to_owned())
}

/// Arguments of `audit tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// How many records.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: u64,
    /// Go on showing records as they come.
    #[arg(short, long)]
    follow: bool,
}

/// Arguments of `audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Where to write; it must not exist. Without it, standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Arguments of `audit query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Made by this node.
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    /// Of this role, by its full id.
    #[arg(long, value_name = "ROLE")]
    user: Option<String>,
    /// Of this operation, such as fetch, update or authenticate.
    #[arg(long)]
    operation: Option<String>,
    /// success or failure.
    #[arg(long)]
    result: Option<String>,
    /// About this resource or role, by its full id.
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// Of this request.
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Made at this time or later, such as 2026-11-22 or 2026-11-22T05:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Made before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show at most so many, the oldest first.
    #[arg(long, default_value_t = 1000)]
    limit: u64,
}

/// Runs `conclave audit …`.
///
/// # Errors
/// [`Exit::Failed`] for a chain that is not as it was; else as the admin socket says.
pub async fn audit(command: AuditCommand, output: Output) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify(args) => {
            let trusted = args.key.map(|key| key.0);
            let found = match &args.file {
                Some(file) => verify_file(file, trusted.as_ref())?,
                None => verify_node(&args.config.load()?.node.data, trusted.as_ref()).await?,
            };
            show_finding(found, output)
        }
        AuditCommand::Tail(args) => tail(args, output).await,
        AuditCommand::Export(args) => export(args).await,
        AuditCommand::Query(args) => query(args, output).await,
    }
}

fn show_finding(found: Result<Finding, BrokenChain>, output: Output) -> Result<(), Failure> {
    match found {
        Ok(finding) => output.show(&json!({ "intact": true, "chain": finding }), || {
            format!(
                "Intact: records {} to {}, {} checkpoints (the last vouches for record {}), {} gaps\n\
                 last hash {}\nsigned by {}",
                finding.first,
                finding.last,
                finding.checkpoints,
                finding.vouched,
                finding.gaps,
                finding.hash,
                finding.key
            )
        }),
        Err(broken) => {
            let (number, why) = (broken.number, &broken.why);
            if matches!(output, Output::Json) {
                let finding = json!({ "intact": false, "first_bad": number, "why": why });
                output.show(&finding, String::new)?;
            }
            Err(Failure::new(Exit::Failed, format!("the audit chain is not intact: {broken}")))
        }
    }
}

fn verify_file(
    path: &Path,
    trusted: Option<&[u8; 32]>,
) -> Result<Result<Finding, BrokenChain>, Failure> {
    let what = path.display();
    let verified = if path == Path::new("-") {
        audit_trail::verify(std::io::stdin().lock().lines(), trusted)
    } else {
        let file = File::open(path).context(Exit::Configuration, &what)?;
        audit_trail::verify(BufReader::new(file).lines(), trusted)
    };
    verified.context(Exit::Configuration, &what)
}

async fn verify_node(
    data: &Path,
    trusted: Option<&[u8; 32]>,
) -> Result<Result<Finding, BrokenChain>, Failure> {
    let mut page = client::audit_page(data, 0).await?;
    let (head, key) = (page.head, page.key);
    if trusted.is_some_and(|trusted| *trusted != key) {
        let why = "the node signs with another key than the one that is trusted".to_owned();
        return Ok(Err(BrokenChain { number: head.first, why }));
    }
    let is_genuine = |one: &AuditCheckpoint| one.key == key && is_signed(one);
    let mut verifier = ChainVerifier::new(head.first, head.base);
    while verifier.next() <= head.last {
        // A page ends the walk where nothing more is there.
        let before = verifier.next();
        for (number, record) in page.records.iter().filter(|(number, _)| *number <= head.last) {
            if let Err(broken) = verifier.take(*number, record, is_genuine) {
                return Ok(Err(broken));
            }
        }
        if verifier.next() == before {
            break;
        }
        page = client::audit_page(data, verifier.next()).await?;
    }
    let finished = verifier.finish(head.last, &head.hash);
    Ok(finished.map(|()| Finding::of(&verifier, head.first, &key)))
}

async fn tail(args: TailArgs, output: Output) -> Result<(), Failure> {
    let data = args.config.load()?.node.data;
    let head = client::audit_page(&data, u64::MAX).await?.head;
    let mut next = head.first.max((head.last + 1).saturating_sub(args.lines));
    loop {
        let page = client::audit_page(&data, next).await?;
        for (number, record) in &page.records {
            show(*number, record, output)?;
            next = number + 1;
        }
        if next <= page.head.last && !page.records.is_empty() {
            continue;
        }
        if !args.follow {
            return Ok(());
        }
        sleep(FOLLOW_EVERY).await;
    }
}

async fn export(args: ExportArgs) -> Result<(), Failure> {
    let data = args.config.load()?.node.data;
    let mut out: Box<dyn Write> = match &args.out {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => {
            let file = File::create_new(path).context(Exit::Configuration, path.display())?;
            Box::new(BufWriter::new(file))
        }
    };
    let mut write = |text: &str| {
        let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
        told(written, "export")
    };
    let mut page = client::audit_page(&data, 0).await?;
    // The signature is of the head as it was at the first page: what comes meanwhile stays out.
    let (head, end) = (page.head, page.end.clone());
    write(&audit_trail::opening_line(&page.cluster_id, &page.key, head.first, &head.base))?;
    let mut next = head.first;
    while next <= head.last {
        let before = next;
        for (number, record) in page.records.iter().filter(|(number, _)| *number <= head.last) {
            write(&audit_trail::record_line(*number, record))?;
            next = number + 1;
        }
        if next == before {
            break;
        }
        page = client::audit_page(&data, next).await?;
    }
    write(&end)?;
    told(out.flush(), "export")?;
    if let Some(path) = args.out {
        note(format_args!("Wrote records {} to {} to {}", head.first, head.last, path.display()));
    }
    Ok(())
}

async fn query(args: QueryArgs, output: Output) -> Result<(), Failure> {
    let data = args.config.load()?.node.data;
    let mut left = args.limit;
    let mut next = 0;
    loop {
        let page = client::audit_page(&data, next).await?;
        for (number, record) in &page.records {
            next = number + 1;
            if left == 0 {
                return Ok(());
            }
            if args.matches(record) {
                show(*number, record, output)?;
                left -= 1;
            }
        }
        if page.records.is_empty() || next > page.head.last {
            return Ok(());
        }
    }
}

impl QueryArgs {
    fn matches(&self, record: &AuditRecord) -> bool {
        let value: Value = serde_json::from_str(&record.text).unwrap_or_default();
        let is = |field: &str, wanted: Option<&str>| {
            wanted.is_none_or(|wanted| value[field].as_str() == Some(wanted))
        };
        let about = |wanted: &str| {
            let subject = value["subject"].as_object();
            subject.is_some_and(|subject| subject.values().any(|one| one.as_str() == Some(wanted)))
        };
        // Times are written alike and of one length, so they sort as texts.
        let at = value["at"].as_str().unwrap_or_default();
        self.node.is_none_or(|node| node == record.node)
            && is("user", self.user.as_deref())
            && is("operation", self.operation.as_deref())
            && is("result", self.result.as_deref())
            && is("request_id", self.request.as_deref())
            && self.subject.as_deref().is_none_or(about)
            && self.since.as_deref().is_none_or(|since| at >= since.trim_end_matches('Z'))
            && self.until.as_deref().is_none_or(|until| at < until.trim_end_matches('Z'))
    }
}

/// One line for people, or the line of an export for programs.
fn show(number: u64, record: &AuditRecord, output: Output) -> Result<(), Failure> {
    if matches!(output, Output::Json) {
        return line(audit_trail::record_line(number, record).as_bytes());
    }
    let value: Value = serde_json::from_str(&record.text).unwrap_or_default();
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let shown = if let Some(gap) = value.get("gap") {
        format!(
            "{number} node {} has lost its records {} to {}",
            record.node, gap["from"], gap["to"]
        )
    } else if let Some(checkpoint) = value.get("checkpoint") {
        format!("{number} the cluster vouches for the records up to {}", checkpoint["number"])
    } else {
        let (at, message) = (text("at"), text("message"));
        format!("{number} {at} node {} {} {message}", record.node, text("result"))
    };
    line(shown.as_bytes())
}
