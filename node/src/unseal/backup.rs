//! The master key that a backup opens with: that of the node which made it, brought in the way in which
//! that node came by it. A backup says which way that was; the secret it does not have.

use std::path::Path;

use conclave_storage::seal::{MasterKey, Secret};

use super::{Sealing, opened};
use crate::config::{Pkcs11Config, SecretSource, UnsealConfig};
use crate::exit::{Exit, Failure};

/// Where the operator says that the secret is.
#[derive(Debug, Clone, Copy)]
pub enum BackupKey<'a> {
    /// Where the section `[unseal]` of a configuration says.
    Unseal(&'a UnsealConfig),
    /// In this file: the key, the passphrase, or the PIN of the HSM that a configuration names.
    File(&'a Path, Option<&'a UnsealConfig>),
}

/// The master key of a backup, and the secret that led to it. `typed` asks a person for a passphrase.
/// Takes a while: not for the reactor.
///
/// # Errors
/// What is missing, and how to bring it.
pub fn key_of_backup(
    sealing: &Sealing,
    key: BackupKey<'_>,
    typed: impl FnOnce() -> Result<Secret, Failure>,
) -> Result<(MasterKey, Option<Secret>), Failure> {
    let way = way(sealing, key)?;
    let other_way = || {
        let (said, found) = (way.by(), sealing.by());
        let text = format!(
            "the backup opens by {found:?}, and [unseal] goes by {said:?}: name the configuration of \
             the node that made the backup with --backup-config, or the file with its secret with \
             --backup-key-file"
        );
        Failure::new(Exit::Configuration, text)
    };
    if way.by() != sealing.by() {
        return Err(other_way());
    }
    let secret = if let UnsealConfig::Key(SecretSource::File(path)) = &way {
        // Loaded below, where its mode is looked at, too.
        if !path.exists() {
            let text = format!(
                "{} does not exist: put the master key file of the node that made the backup there, \
                 or name it with --backup-key-file",
                path.display()
            );
            return Err(Failure::new(Exit::Configuration, text));
        }
        None
    } else if *way.source() == SecretSource::Typed {
        Some(typed()?)
    } else {
        Some(way.source().line("secret of the node that made the backup")?)
    };
    let master = opened(&way, sealing, secret.as_ref())?.ok_or_else(other_way)?;
    Ok((master, secret))
}

fn way(sealing: &Sealing, key: BackupKey<'_>) -> Result<UnsealConfig, Failure> {
    let (file, beside) = match key {
        BackupKey::Unseal(unseal) => return Ok(unseal.clone()),
        BackupKey::File(file, beside) => (SecretSource::File(file.to_owned()), beside),
    };
    match (sealing.by(), beside) {
        ("key", _) => Ok(UnsealConfig::Key(file)),
        ("passphrase", _) => Ok(UnsealConfig::Passphrase(file)),
        (_, Some(UnsealConfig::Pkcs11(hsm))) => {
            Ok(UnsealConfig::Pkcs11(Pkcs11Config { pin: file, ..hsm.clone() }))
        }
        (_, _) => {
            let text = "the master key that the backup opens with is in an HSM, and a file alone does \
                        not lead there: name the configuration of the node that made the backup";
            Err(Failure::new(Exit::Configuration, text))
        }
    }
}
