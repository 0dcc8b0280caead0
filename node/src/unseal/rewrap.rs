//! Another master key, or another way to it, for a node that runs: everything that lies under the old
//! one is sealed anew, as the configuration file says now. No request is held up.

use conclave_storage::seal::Secret;

use super::make_for;
use crate::admin::protocol::PrivateText;
use crate::compose::Node;
use crate::config::Config;
use crate::deeds::{self, Deed};
use crate::exit::{Exit, Failure};

/// Reads the section `[unseal]` anew, and seals the node's files under the master key that it leads to.
/// `secret` is what only the asker can read.
///
/// # Errors
/// Why not; then the old key is the one that opens.
pub async fn rewrap(node: &Node, secret: Option<PrivateText>) -> Result<(), Failure> {
    let before = (node.master().id(), node.config().unseal.to_string());
    let result = change(node, secret).await;
    let subject = match &result {
        Ok(after) => vec![("from", before.1), ("to", after.clone())],
        Err(_) => Vec::new(),
    };
    let deed = Deed {
        operation: "rewrap-master-key",
        subject,
        from: String::new(),
        text: "the operator put the node under another master key".to_owned(),
        refused: result.as_ref().err().map(|failure| failure.message.clone()),
    };
    deeds::record(&node.spool, deed).await;
    let now = node.master().id();
    result.map(|after| {
        tracing::info!(from = before.0, to = now, unseal = after, "keys.rewrap");
    })
}

async fn change(node: &Node, secret: Option<PrivateText>) -> Result<String, Failure> {
    let file = node.config().file.clone();
    let written = Config::load(&file).map_err(|error| Failure::new(Exit::Configuration, error))?;
    let given = secret.map(|secret| Secret::new(secret.expose().as_bytes().to_vec()));
    let (master, sealing) = make_for(&written, given).await?;
    let unseal = written.unseal;
    if master.id() == node.master().id() {
        let text = format!(
            "{} leads to the master key that is in force ({}): bring another key first, such as by \
             another file in [unseal]",
            file.display(),
            master.id()
        );
        return Err(Failure::new(Exit::Refused, text));
    }
    // It reads, writes and syncs files: let the reactor's other work move over meanwhile.
    tokio::task::block_in_place(|| {
        node.replace_master(master, |old, new| node.folder.reseal(old, new, &sealing))
    })?;
    let after = unseal.to_string();
    node.change_config(|config| config.unseal = unseal);
    Ok(after)
}
