//! `conclave unseal`, and where the other commands get a node's secret from.

use std::path::{Path, PathBuf};

use clap::Args;
use conclave_storage::seal::Secret;
use serde_json::json;
use zeroize::Zeroizing;

use super::ConfigArg;
use super::output::Output;
use crate::admin::client;
use crate::admin::protocol::{PrivateText, Request, Response};
use crate::client::input;
use crate::config::{Config, SecretSource};
use crate::exit::Failure;

/// Arguments of `unseal`.
#[derive(Debug, Args)]
pub struct UnsealArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// Where a passphrase comes from that is typed otherwise.
#[derive(Debug, Args)]
pub struct PassphraseArg {
    /// Where the node's passphrase is typed: take it from the first line of this file, - for standard
    /// input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Runs `conclave unseal`.
///
/// # Errors
/// When the passphrase is not this node's, or no node waits for one.
pub async fn unseal(args: UnsealArgs, output: Output) -> Result<(), Failure> {
    let config = args.config.load()?;
    let status = client::status(&config.node.data).await?;
    if status.part != "sealed" {
        let text = format!("{} has its master key already", config.node.name);
        return output.show(&json!({ "unsealed": config.node.name }), || text);
    }
    let passphrase = PrivateText::new(args.passphrase.line(&config)?.to_string());
    let response = client::ask(&config.node.data, &Request::Unseal { passphrase }).await?;
    if !matches!(response, Response::Done) {
        return Err(response.into_failure());
    }
    output.show(&json!({ "unsealed": config.node.name }), || {
        format!("{} is unsealed; it starts to serve now", config.node.name)
    })
}

impl PassphraseArg {
    /// The passphrase of a node that has one, where a person has to bring it.
    ///
    /// # Errors
    /// When there is none.
    pub fn known(&self, config: &Config) -> Result<Option<Secret>, Failure> {
        if *config.unseal.source() != SecretSource::Typed {
            return Ok(None);
        }
        self.line(config).map(|line| Some(Secret::new(line.as_bytes().to_vec())))
    }

    fn line(&self, config: &Config) -> Result<Zeroizing<String>, Failure> {
        let prompt = format!("Passphrase of {}: ", config.node.name);
        input::secret_line(self.passphrase_file.as_deref(), &prompt)
    }

    /// The secret of a node that is set up, where a person has to bring it.
    ///
    /// # Errors
    /// When there is none.
    pub fn given(&self, config: &Config) -> Result<Option<Secret>, Failure> {
        if *config.unseal.source() != SecretSource::Typed {
            return Ok(None);
        }
        new_passphrase(self.passphrase_file.as_deref(), config).map(Some)
    }

    /// The secret of a node that is sealed anew, where the node itself cannot read it: what is typed, and
    /// what lies behind the credential or descriptor of this command.
    ///
    /// # Errors
    /// When there is none.
    pub fn brought(&self, config: &Config) -> Result<Option<PrivateText>, Failure> {
        let secret = match config.unseal.source() {
            SecretSource::File(_) => return Ok(None),
            SecretSource::Typed => new_passphrase(self.passphrase_file.as_deref(), config)?,
            source @ (SecretSource::Credential(_) | SecretSource::Descriptor(_)) => {
                source.line("secret")?
            }
        };
        let text = std::str::from_utf8(secret.expose_secret()).map_err(|_| {
            Failure::new(crate::exit::Exit::Configuration, "the secret is not UTF-8 text")
        })?;
        Ok(Some(PrivateText::new(text.to_owned())))
    }
}

fn new_passphrase(file: Option<&Path>, config: &Config) -> Result<Secret, Failure> {
    let prompt = format!("New passphrase of {}: ", config.node.name);
    let passphrase = input::new_secret_line(file, &prompt)?;
    Ok(Secret::new(passphrase.as_bytes().to_vec()))
}
