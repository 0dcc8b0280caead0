//! `conclave backup …` and `conclave restore`: the whole cluster in one encrypted file, whether such a file is
//! intact, and a cluster made of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use conclave_storage::seal::{MasterKey, Secret};
use serde_json::json;

use super::ConfigArg;
use super::output::{Output, note};
use super::progress::Progress;
use super::unseal::PassphraseArg;
use crate::backup::{self, Description};
use crate::client::input;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::restore;
use crate::unseal::{BackupKey, Sealing, key_of_backup};

/// What the operator does with backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write everything that the cluster has into one encrypted file, while it serves.
    #[command(after_help = "\
On the machine of any member, followers too; no request waits for it. The file holds all accounts,
policies, secrets, keys and certificates and the audit chain as of one moment. It opens with the master
key of the node that made it and with nothing else: keep a copy of that key file, apart from the backups.

Examples:
  conclave backup create --config n1.toml --out conclave-$(date +%F).backup
  conclave backup verify --config n1.toml conclave-2026-11-22.backup")]
    Create(CreateArgs),
    /// Read a whole backup and say whether it is intact, and of what; needs no node.
    #[command(after_help = "\
Every chunk is authenticated and every file in it compared with what it was. Ends with 0 when the backup
is intact, with 1 when it is not, with 3 when it is no backup, cannot be read, or has another master key.

Examples:
  conclave backup verify --config n1.toml conclave-2026-11-22.backup
  conclave backup verify --master-key-file n1-master.key conclave-2026-11-22.backup")]
    Verify(VerifyArgs),
}

/// Arguments of `backup create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Where to write the backup; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `backup verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The file with the master key, or the passphrase, of the node that made it; without it the
    /// configuration says what opens it.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    master_key_file: Option<PathBuf>,
    /// The backup.
    file: PathBuf,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The file with the master key (or passphrase, or HSM's PIN) of the node that made the backup, where
    /// that is not the configured one.
    #[arg(long, value_name = "FILE")]
    backup_key_file: Option<PathBuf>,
    /// The configuration of the node that made the backup, whose section unseal opens it.
    #[arg(long, value_name = "FILE")]
    backup_config: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArg,
    /// The backup.
    file: PathBuf,
}

/// Runs `conclave restore`.
///
/// # Errors
/// As the command says.
pub async fn restore(args: RestoreArgs, output: Output) -> Result<(), Failure> {
    let config = args.config.load()?;
    restore::refuse_set_up(&config)?;
    let (opening, given) = keys(&args, &config)?;
    let mut bytes = ByteProgress::new("MiB restored");
    let read = |found: &Description, more: usize| bytes.advance(found.state_bytes, more);
    let restored = restore::restore(&config, &args.file, &opening, given, read);
    let restored = restored.await?;
    bytes.end();
    output.show(&restored, || {
        format!(
            "Restored cluster {} as the new cluster {}, as of index {} ({}).\n\
             This is node {} ({}), the only one so far. Clients trust {}, as before.\n\
             Start it: conclave server",
            restored.backup.cluster_id,
            restored.cluster_id,
            restored.backup.index,
            restored.backup.made_at,
            restored.node_id,
            restored.name,
            restored.root_certificate.display()
        )
    })
}

/// The master key that opens the backup, and the secret of the new node where that is known by then.
fn keys(args: &RestoreArgs, config: &Config) -> Result<(MasterKey, Option<Secret>), Failure> {
    let maker = args.backup_config.as_deref().map(Config::load).transpose();
    let maker = maker.map_err(|error| Failure::new(Exit::Configuration, error))?;
    let sealing = backup::sealing(&args.file)?;
    if args.backup_key_file.is_none() && maker.is_none() {
        // The new node goes the way of the old one. Its secret is asked for, or read, once.
        let known = args.passphrase.known(config)?;
        let typed =
            move || known.ok_or_else(|| Failure::new(Exit::Usage, "no passphrase was given"));
        return opening(&sealing, BackupKey::Unseal(&config.unseal), typed);
    }
    let unseal = maker.as_ref().map_or(&config.unseal, |maker| &maker.unseal);
    let key = match &args.backup_key_file {
        Some(file) => BackupKey::File(file, Some(unseal)),
        None => BackupKey::Unseal(unseal),
    };
    let (master, _) = opening(&sealing, key, typed)?;
    Ok((master, args.passphrase.given(config)?))
}

/// The master key that a backup opens with, and the secret that led to it.
fn opening(
    sealing: &Sealing,
    key: BackupKey<'_>,
    typed: impl FnOnce() -> Result<Secret, Failure>,
) -> Result<(MasterKey, Option<Secret>), Failure> {
    // It may stretch a passphrase or call an HSM.
    tokio::task::block_in_place(|| key_of_backup(sealing, key, typed))
}

fn typed() -> Result<Secret, Failure> {
    let line = input::secret_line(None, "Passphrase of the node that made the backup: ")?;
    Ok(Secret::new(line.as_bytes().to_vec()))
}

/// Runs `conclave backup …`.
///
/// # Errors
/// As the command says.
pub async fn backup(command: BackupCommand, output: Output) -> Result<(), Failure> {
    match command {
        BackupCommand::Create(args) => {
            let data = args.config.load()?.node.data;
            let mut bytes = ByteProgress::new("MiB written");
            let made = backup::create(&data, &args.out, |begun, more| {
                bytes.advance(begun.bytes, more);
            });
            let made = made.await?;
            bytes.end();
            if made.level == Some(false) {
                note(
                    "conclave: this node reached no leader, so the backup may lack what was \
                     committed last",
                );
            }
            output.show(&json!({ "file": args.out, "backup": made }), || {
                let (shown, described) = (args.out.display(), made.to_text());
                format!("Wrote {shown}:\n{described}\nCheck it: conclave backup verify {shown}")
            })
        }
        BackupCommand::Verify(args) => {
            let config;
            let key = if let Some(path) = &args.master_key_file {
                BackupKey::File(path, None)
            } else {
                config = args.config.load()?;
                BackupKey::Unseal(&config.unseal)
            };
            let mut bytes = ByteProgress::new("MiB read");
            let verified = match backup::sealing(&args.file) {
                Ok(sealing) => {
                    let (master, _) = opening(&sealing, key, typed)?;
                    backup::verify(&args.file, &master, |found, more| {
                        bytes.advance(found.state_bytes, more);
                    })
                }
                Err(no_backup) => Err(no_backup),
            };
            bytes.end();
            match verified {
                Ok(found) => output.show(&json!({ "intact": true, "backup": found }), || {
                    format!("Intact: {}\n{}", args.file.display(), found.to_text())
                }),
                Err(failure) => {
                    if matches!(output, Output::Json) {
                        let finding = json!({ "intact": false, "why": failure.message });
                        output.show(&finding, String::new)?;
                    }
                    Err(failure)
                }
            }
        }
    }
}

/// Progress in bytes, shown in mebibytes.
struct ByteProgress {
    what: &'static str,
    shown: Option<Progress>,
    bytes: u64,
}

impl ByteProgress {
    fn new(what: &'static str) -> Self {
        Self { what, shown: None, bytes: 0 }
    }

    fn advance(&mut self, total: u64, more: usize) {
        let whole = |bytes: u64| usize::try_from(bytes >> 20).unwrap_or(usize::MAX);
        let progress =
            self.shown.get_or_insert_with(|| Progress::new(self.what, whole(total).max(1)));
        let before = whole(self.bytes);
        self.bytes += more as u64;
        let after = whole(self.bytes);
        if after > before {
            progress.advance(after - before);
        }
    }

    fn end(&mut self) {
        if let Some(progress) = &mut self.shown {
            progress.end();
        }
    }
}
