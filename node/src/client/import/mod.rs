//! `import`: a tree of policy texts and a file of values, into one account. Everything is read and
//! checked before anything is sent. What is done is written down beside it ([`journal`]), so that an
//! import that was cut off goes on where it was when it is run again.

mod journal;
mod layout;
mod values;
mod yaml;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::api::{Api, Token};
use super::input;
use super::session::Session;
use crate::cli::output::{self, Output};
use crate::cli::progress::Progress;
use crate::exit::{Context, Exit, Failure};
use crate::folder::hex;
use journal::{Header, Journal, Stamp};
use layout::{Mode, Step};
use values::Entry;

/// Values in work at once.
const IN_FLIGHT: usize = 8;
/// Values between two looks at the token and the journal's disk.
const CHUNK: usize = 256;
/// Pauses before a request is sent again that no server answered; after the last it is given up.
const PAUSES_MS: [u64; 7] = [100, 300, 1000, 2000, 4000, 8000, 8000];

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Folder of policy texts.
    #[arg(short = 'd', long = "dir", value_name = "DIR", required_unless_present = "values")]
    folder: Option<PathBuf>,
    /// The list of texts and branches; without it, `conclave-import.yml` in the folder, else the
    /// folders say the branches.
    #[arg(long, value_name = "FILE", requires = "folder")]
    manifest: Option<PathBuf>,
    /// File of values: `id: value` pairs as YAML, or JSON when its name ends so.
    #[arg(short, long, value_name = "FILE")]
    values: Option<PathBuf>,
    /// How texts are loaded where the manifest does not say.
    #[arg(long, value_enum, default_value = "load")]
    mode: Mode,
    /// Where to write down what is done; without it, beside the folder's texts or the values.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Where API keys of new users and hosts are added, mode 0600.
    #[arg(long, value_name = "FILE", default_value = "conclave-import-keys.jsonl")]
    keys_file: PathBuf,
    /// Read and check everything; send nothing.
    #[arg(long)]
    check: bool,
}

/// What an import comes to.
#[derive(Default)]
struct Tally {
    policies_loaded: usize,
    policies_done_before: usize,
    values_set: usize,
    values_equal: usize,
    values_done_before: usize,
    keys: usize,
    refused: Vec<String>,
}

impl Tally {
    fn to_json(&self) -> Value {
        json!({
            "policies_loaded": self.policies_loaded,
            "policies_done_before": self.policies_done_before,
            "values_set": self.values_set,
            "values_equal": self.values_equal,
            "values_done_before": self.values_done_before,
            "api_keys": self.keys,
            "refused": self.refused,
        })
    }

    fn to_text(&self) -> String {
        format!(
            "Policies: {} loaded, {} done before. Values: {} set, {} equal already, {} done before, {} refused.",
            self.policies_loaded,
            self.policies_done_before,
            self.values_set,
            self.values_equal,
            self.values_done_before,
            self.refused.len()
        )
    }
}

/// A text, read and ready to be sent.
struct Text {
    step: Step,
    bytes: Zeroizing<Vec<u8>>,
    sha256: String,
}

/// `conclave import`.
///
/// # Errors
/// [`Exit::Configuration`] for files that are wrong, with file and line, before anything is sent;
/// [`Exit::Refused`] when the server refuses a text or some values; [`Exit::Unavailable`] when none
/// answers. It goes on from there when it is run again.
pub async fn import(args: ImportArgs, output: Output) -> Result<(), Failure> {
    let texts = read_texts(&args)?;
    let source = args.values.as_deref().map(read_values).transpose()?;
    if args.check {
        let count = match (&args.values, &source) {
            (Some(path), Some(text)) => values::parse(path, text, None)?.len(),
            _ => 0,
        };
        return output.show(&json!({ "policies": texts.len(), "values": count }), || {
            format!("{} policy texts and {count} values are well formed", texts.len())
        });
    }
    let mut session = Session::open().await?;
    let account = session.api.account().to_owned();
    let entries = match (&args.values, source) {
        (Some(path), Some(text)) => values::parse(path, &text, Some(&account))?,
        _ => Vec::new(),
    };
    let stamp = args.values.as_deref().map(Stamp::of).transpose()?;
    let header = Header::new(session.api.url(), &account, stamp);
    let mut journal = Journal::open(&journal_path(&args), &header)?;
    let mut tally = Tally::default();
    load_texts(&mut session, &texts, &mut journal, &args.keys_file, &mut tally).await?;
    let values_name = args.values.clone().unwrap_or_default();
    let ended = set_values(&mut session, &values_name, entries, &mut journal, &mut tally).await;
    journal.sync()?;
    for line in &tally.refused {
        output::note(line);
    }
    if tally.keys > 0 {
        output::note(format_args!(
            "API keys of {} new users and hosts are in {}: hand them out, then delete it",
            tally.keys,
            args.keys_file.display()
        ));
    }
    output.show(&tally.to_json(), || tally.to_text())?;
    ended?;
    if tally.refused.is_empty() {
        return journal.finish();
    }
    Err(Failure::new(
        Exit::Refused,
        format!("{} values were refused; right them and run it again", tally.refused.len()),
    ))
}

fn journal_path(args: &ImportArgs) -> PathBuf {
    if let Some(path) = &args.journal {
        return path.clone();
    }
    match (&args.folder, &args.values) {
        (Some(folder), _) => folder.join(".conclave-import.journal"),
        (None, values) => {
            let mut name = values.clone().unwrap_or_default().into_os_string();
            name.push(".journal");
            name.into()
        }
    }
}

fn read_texts(args: &ImportArgs) -> Result<Vec<Text>, Failure> {
    let Some(folder) = &args.folder else { return Ok(Vec::new()) };
    let found = folder.join(layout::MANIFEST);
    let manifest = args.manifest.clone().or_else(|| found.is_file().then_some(found));
    let steps = if let Some(path) = &manifest {
        let text = fs::read_to_string(path).context(Exit::Configuration, path.display())?;
        layout::from_manifest(path, folder, &text, args.mode)?
    } else {
        let skip: Vec<PathBuf> = args.values.iter().cloned().collect();
        layout::from_folders(folder, args.mode, &skip)?
    };
    let read = |step: Step| {
        let bytes = input::bytes(&step.file)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(values::at(&step.file, 1, "the policy text is empty"));
        }
        let sha256 = hex(digest(&SHA256, &bytes).as_ref());
        Ok(Text { step, bytes, sha256 })
    };
    steps.into_iter().map(read).collect()
}

fn read_values(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = fs::read(path).context(Exit::Configuration, path.display())?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            let bytes = Zeroizing::new(error.into_bytes());
            let good = std::str::from_utf8(&bytes).err().map_or(0, |error| error.valid_up_to());
            let line = bytes[..good].split(|byte| *byte == b'\n').count();
            Err(values::at(path, line, "not UTF-8; a value that is no text stands as base64"))
        }
    }
}

async fn load_texts(
    session: &mut Session,
    texts: &[Text],
    journal: &mut Journal,
    keys_file: &Path,
    tally: &mut Tally,
) -> Result<(), Failure> {
    for (number, text) in texts.iter().enumerate() {
        let Text { step, bytes, sha256 } = text;
        if journal.has_policy(&step.name, &step.branch, sha256) {
            tally.policies_done_before += 1;
            continue;
        }
        session.renew().await?;
        output::note(format_args!(
            "[{} of {}] {} into {}",
            number + 1,
            texts.len(),
            step.name,
            step.branch
        ));
        let (api, token) = (&session.api, &session.token);
        let answer = persist(async || {
            let load =
                api.load_policy(token, step.mode.method(), &step.branch, bytes.clone(), false);
            let answer = load.await?;
            // What may pass is tried again: no leader, or another load that came between.
            if matches!(answer.status.as_u16(), 409 | 429 | 502..=504) {
                return Err(Failure::new(Exit::Unavailable, answer.refusal().message));
            }
            Ok(answer)
        })
        .await
        .map_err(|failure| in_file(&step.file, None, &failure))?;
        let place = answer.place();
        let body = answer.success().map_err(|failure| in_file(&step.file, place, &failure))?;
        tally.keys += keep_keys(keys_file, &body)?;
        journal.policy_done(&step.name, &step.branch, sha256)?;
        tally.policies_loaded += 1;
    }
    Ok(())
}

/// A server's refusal of a text, led by file, line and column.
fn in_file(file: &Path, place: Option<(u64, u64)>, failure: &Failure) -> Failure {
    let place = place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
    Failure::new(failure.exit, format!("{}{place}: {}", file.display(), failure.message))
}

/// Adds the keys of new roles to the file, and has it on disk before anything else happens: they are
/// shown once.
fn keep_keys(path: &Path, body: &[u8]) -> Result<usize, Failure> {
    let document: Value =
        serde_json::from_slice(body).context(Exit::Failed, "the server's answer")?;
    let Some(roles) = document["created_roles"].as_object().filter(|roles| !roles.is_empty())
    else {
        return Ok(0);
    };
    let mut lines = Zeroizing::new(Vec::new());
    for role in roles.values() {
        serde_json::to_writer(&mut *lines, role).context(Exit::Failed, "keys")?;
        lines.push(b'\n');
    }
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        file.write_all(&lines)?;
        file.sync_data()
    };
    write().context(Exit::Configuration, path.display())?;
    Ok(roles.len())
}

/// What became of one value.
enum Fate {
    Set,
    Equal,
    Refused(String),
    Unanswered(Failure),
}

async fn set_values(
    session: &mut Session,
    file: &Path,
    entries: Vec<Entry>,
    journal: &mut Journal,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let before = entries.len();
    let mut left = entries;
    left.retain(|entry| !journal.has_value(&entry.id.identifier));
    tally.values_done_before = before - left.len();
    let mut progress = Progress::new("values", left.len());
    let mut ended = Ok(());
    for chunk in left.chunks(CHUNK) {
        session.renew().await?;
        let (api, token) = (&session.api, &session.token);
        let mut fates = stream::iter(chunk)
            .map(async |entry| (entry, set_value(api, token, file, entry).await))
            .buffer_unordered(IN_FLIGHT);
        while let Some((entry, fate)) = fates.next().await {
            match fate {
                Fate::Set => tally.values_set += 1,
                Fate::Equal => tally.values_equal += 1,
                Fate::Refused(why) => {
                    tally.refused.push(why);
                    continue;
                }
                Fate::Unanswered(failure) => {
                    ended = Err(failure);
                    continue;
                }
            }
            journal.value_done(&entry.id.identifier)?;
            progress.advance(1);
        }
        drop(fates);
        journal.sync()?;
        if ended.is_err() {
            break;
        }
    }
    progress.end();
    ended
}

async fn set_value(api: &Api, token: &Token, file: &Path, entry: &Entry) -> Fate {
    let id = &entry.id.identifier;
    let done = persist(async || {
        match api.secret(token, id, None).await {
            Ok(value) if *value == *entry.value => return Ok(Fate::Equal),
            Err(failure) if failure.exit == Exit::Unavailable => return Err(failure),
            // Another value, none, or one that may be written and not read.
            Ok(_) | Err(_) => {}
        }
        api.set_secret(token, id, &entry.value).await.map(|()| Fate::Set)
    })
    .await;
    match done {
        Ok(fate) => fate,
        Err(failure) if matches!(failure.exit, Exit::Unavailable | Exit::Unauthenticated) => {
            Fate::Unanswered(failure)
        }
        Err(failure) => {
            Fate::Refused(values::at(file, entry.line, &format!("{id}: {failure}")).message)
        }
    }
}

/// Does something again while no server answers it, so long at most.
async fn persist<T>(mut work: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    for pause in PAUSES_MS {
        match work().await {
            Err(failure) if failure.exit == Exit::Unavailable => {
                tracing::debug!(%failure, "import.retry");
                sleep(Duration::from_millis(pause)).await;
            }
            done => return done,
        }
    }
    work().await
}
