//! Reads the configuration file of a running node anew, at its operator's word: the whole of it is checked
//! first, then what can change while the node runs does, and what cannot is named.

use conclave_api::audit::Spool;

use crate::compose::{Node, settings};
use crate::config::{Change, Config, Reloaded};
use crate::deeds::{self, Deed};
use crate::exit::{Context, Exit, Failure};
use crate::jobs::check_output;
use crate::telemetry;

/// Checks all that can be checked of a configuration without starting a node by it.
///
/// # Errors
/// The first thing that is wrong: file, line, key, value, and what would be right.
pub fn check(config: &Config) -> Result<(), Failure> {
    let name = &config.node.name;
    settings(config, name)?.check().context(Exit::Configuration, config.file.display())?;
    for output in &config.audit.outputs {
        let what = format!("{}: audit.output", config.file.display());
        check_output(output).context(Exit::Configuration, what)?;
    }
    Ok(())
}

/// Puts in force what the file says now, as far as that goes without a restart. A file that is wrong
/// changes nothing.
///
/// # Errors
/// What is wrong with the file.
pub async fn reload(node: &Node) -> Result<Reloaded, Failure> {
    let result = apply(node);
    told(&node.spool, &result).await;
    result
}

fn apply(node: &Node) -> Result<Reloaded, Failure> {
    let now = node.config();
    let written = Config::load(&now.file);
    let written = written.map_err(|error| Failure::new(Exit::Configuration, error))?;
    check(&written)?;
    let reloaded = now.changes(&written);
    let next = now.with_live_values_of(&written);
    let door = settings(&next, &node.identity.name)?;
    node.door.change_settings(door).context(Exit::Configuration, "api")?;
    telemetry::change_level(&next.log.level);
    // Jobs look at it when it is their turn, or are told.
    node.change_config(|config| *config = next);
    Ok(reloaded)
}

/// Into the log and the audit trail.
async fn told(spool: &Spool, result: &Result<Reloaded, Failure>) {
    let named = |changes: &[Change]| {
        changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>().join(", ")
    };
    let subject = match result {
        Ok(reloaded) => {
            for Change { key, from, to } in &reloaded.applied {
                tracing::info!(key, from, to, "config.applied");
            }
            for Change { key, from, to } in &reloaded.needs_restart {
                tracing::warn!(key, from, to, "config.needs_restart");
            }
            vec![
                ("applied", named(&reloaded.applied)),
                ("needs-restart", named(&reloaded.needs_restart)),
            ]
        }
        Err(failure) => {
            tracing::error!(error = %failure, "config.reload changed nothing");
            Vec::new()
        }
    };
    let deed = Deed {
        operation: "reload-configuration",
        subject,
        from: String::new(),
        text: "the operator had the configuration read anew".to_owned(),
        refused: result.as_ref().err().map(|failure| failure.message.clone()),
    };
    deeds::record(spool, deed).await;
}
