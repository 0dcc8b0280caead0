//! What is done to the cluster itself, as audit records: who came and went, who was told to lead, who was
//! refused. Records of requests are the door's business.

use conclave_api::audit::{Outcome, Record, Severity, Spool};
use conclave_domain::time::Clock;

use crate::clock::SystemClock;

/// Something that was done to the cluster, or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// What, as one word.
    pub operation: &'static str,
    /// To what: names and values.
    pub subject: Vec<(&'static str, String)>,
    /// The address it was asked from; empty for what the operator does on the node's machine, and for
    /// what the node does by itself.
    pub from: String,
    /// The sentence.
    pub text: String,
    /// Why it was not done, where it was not.
    pub refused: Option<String>,
}

/// Puts a record into this node's spool. A spool that takes none any more stops the requests of clients,
/// and is told by `/health`; what was done to the cluster stays done.
pub async fn record(spool: &Spool, deed: Deed) {
    let Deed { operation, subject, from, text, refused } = deed;
    let (outcome, severity, message) = match refused {
        None => (Outcome::Success, Severity::Notice, text),
        Some(reason) => (Outcome::Failure, Severity::Warning, format!("{text}: {reason}")),
    };
    tracing::info!(operation, message, "cluster.deed");
    let record = Record {
        at: SystemClock.now(),
        request_id: std::process::id().to_string(),
        message_id: "cluster",
        operation: operation.into(),
        outcome,
        severity,
        user: None,
        authenticator: None,
        service: None,
        subject: subject.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        client_ip: from,
        policy: None,
        message,
    };
    if let Err(error) = spool.append(&[record]).await {
        tracing::error!(%error, "audit.spool");
    }
}
