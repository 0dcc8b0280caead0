//! `conclave keys …`: the data keys that values are sealed under.

use clap::{Args, Subcommand};

use super::ConfigArg;
use super::output::Output;
use super::unseal::PassphraseArg;
use crate::admin::client;
use crate::admin::protocol::{KeysStatus, Request, Response};
use crate::exit::Failure;

/// What the operator does with data keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a new data key, which seals from now on; what is there is sealed anew in the background.
    ///
    /// Online, on any voter's machine: no request fails meanwhile.
    /// Older keys stay in the keyring, so that backups and snapshots keep their meaning.
    Rotate(ConfigArg),
    /// Where this node has its master key from, which data key seals, which ones open, and how far older
    /// values are sealed anew.
    Status(ConfigArg),
    /// Put this node under another master key, as its configuration file says now.
    ///
    /// Online, for this node alone: change the section unseal of the configuration (another file, a passphrase, an HSM), then
    /// run this. The node reads the section, makes the key where there is none yet, and seals its own
    /// files anew. What opened them before opens them no longer.
    #[command(after_help = "\
Examples:
  conclave keys rewrap --config n1.toml                           asks for a passphrase where one is typed
  conclave keys rewrap --config n1.toml --passphrase-file new.txt
  CONCLAVE_MASTER_KEY_FD=3 conclave keys rewrap --config n1.toml 3<new.key

After a crash in the middle of it either the old secret opens the node or the new one; the text of the
refused start says which.")]
    Rewrap(RewrapArgs),
}

/// Arguments of `keys rewrap`.
#[derive(Debug, Args)]
pub struct RewrapArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// Runs `conclave keys …`.
///
/// # Errors
/// As the command says.
pub async fn keys(command: KeysCommand, output: Output) -> Result<(), Failure> {
    let (config, request) = match command {
        KeysCommand::Rotate(config) => (config.load()?, Request::RotateKeys),
        KeysCommand::Status(config) => (config.load()?, Request::Keys),
        KeysCommand::Rewrap(args) => {
            let config = args.config.load()?;
            let secret = args.passphrase.brought(&config)?;
            (config, Request::Rewrap { secret })
        }
    };
    let response = client::ask(&config.node.data, &request).await?;
    if let Response::Keys(status) = response {
        return output.show(&status, || text(&status));
    }
    Err(response.into_failure())
}

fn text(status: &KeysStatus) -> String {
    let opens: Vec<String> = status.generations.iter().map(u32::to_string).collect();
    let resealing = match &status.resealing {
        None => "ask the leader".to_owned(),
        Some(_) if status.generations.len() == 1 => "nothing to do: there is one key".to_owned(),
        Some(known) if known.complete => {
            format!("done: everything is sealed under data key {}", status.generation)
        }
        Some(known) => {
            let state = if known.runs { "under way" } else { "about to begin" };
            let error =
                known.error.as_ref().map_or_else(String::new, |why| format!("; failed: {why}"));
            format!("{state}: {} resources, {} values{error}", known.looked_at, known.resealed)
        }
    };
    format!(
        "unseal     {}\nmaster key {}\nroot key   {}\nseals      data key {}\nopens      data keys {}\n\
         resealing  {resealing}",
        status.unseal,
        status.master_key,
        status.root_key,
        status.generation,
        opens.join(", ")
    )
}
