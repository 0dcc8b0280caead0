//! Opens the vault: at once where the state holds the keyring, else as soon as replication has
//! brought it; again whenever another keyring comes into force.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::compose::Node;
use crate::exit::Failure;

/// How often a sealed node looks for its keyring.
const WHILE_SEALED: Duration = Duration::from_millis(20);
/// How often an unsealed node looks for a newer one.
const WHILE_OPEN: Duration = Duration::from_secs(1);

/// Runs until the keyring does not open, which is a fault: the node has a wrong root key.
pub async fn unseal(node: Arc<Node>) -> Failure {
    loop {
        match node.core.unseal() {
            Ok(true) => sleep(WHILE_OPEN).await,
            Ok(false) => sleep(WHILE_SEALED).await,
            Err(failure) => return failure,
        }
    }
}
