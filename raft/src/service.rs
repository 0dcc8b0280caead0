//! Calls between nodes that are no business of consensus: joining, audit batches, loaded
//! certificates. This crate carries them; what they mean is known to those who register a
//! [`Service`].

use futures::future::BoxFuture;

use crate::transport::{PeerIdentity, Refused};

/// The one kind of call that a node which is no member yet may make.
pub const SERVICE_JOIN: u8 = 1;

/// Why a service refused a call, in words for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServiceError(pub String);

/// Answers node-level calls.
pub trait Service: Send + Sync + 'static {
    /// Answers one call. `from` is proven; whether it may ask this is for the service to decide
    /// (a joiner gets here with [`SERVICE_JOIN`] only).
    fn call(
        &self,
        from: PeerIdentity,
        kind: u8,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>>;

    /// Hears whom this node has refused, and what: once for each attempt, of which there may be very
    /// many. Must not wait.
    fn refused(&self, refused: Refused) {
        let Refused { member, address, attempt, reason, .. } = refused;
        tracing::debug!(?member, ?address, attempt = attempt.as_str(), reason, "peer refused");
    }
}
