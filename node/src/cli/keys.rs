//! `conclave keys …`: the data keys that values are sealed under.

use clap::Subcommand;

use super::ConfigArg;
use super::output::Output;
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
    /// Which data key seals, which ones open, and how far older values are sealed anew.
    Status(ConfigArg),
}

/// Runs `conclave keys …`.
///
/// # Errors
/// As the command says.
pub async fn keys(command: KeysCommand, output: Output) -> Result<(), Failure> {
    let (config, request) = match command {
        KeysCommand::Rotate(config) => (config, Request::RotateKeys),
        KeysCommand::Status(config) => (config, Request::Keys),
    };
    let response = client::ask(&config.load()?.node.data, &request).await?;
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
        "root key   {}\nseals      data key {}\nopens      data keys {}\nresealing  {resealing}",
        status.root_key,
        status.generation,
        opens.join(", ")
    )
}
