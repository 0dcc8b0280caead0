//! What nodes ask of each other beside consensus: to be let in, and to hand leadership over when the
//! operator asked another node for it. Raft carries the calls and has proven who calls.

use std::sync::Arc;
use std::time::Duration;

use conclave_raft::{Handle, PeerIdentity, SERVICE_JOIN, Service, ServiceError, Who};
use conclave_storage::StateStore;
use conclave_storage::seal::RootKey;
use futures::future::BoxFuture;

use crate::exit::{Context, Exit, Failure};
use crate::join::JoinDesk;

/// Asks the leader to hand over: body is the id of the heir (u64, big-endian; 0 for any), the answer
/// that of the new leader.
const SERVICE_TRANSFER: u8 = 2;

/// Answers other nodes.
pub struct PeerService {
    raft: Handle,
    desk: JoinDesk,
}

impl PeerService {
    /// A service that admits with this root key whom the state's join tokens allow.
    pub fn new(raft: Handle, state: StateStore, root_key: Arc<RootKey>) -> Arc<Self> {
        Arc::new(Self { desk: JoinDesk::new(raft.clone(), state, root_key), raft })
    }

    async fn transfer(&self, body: &[u8]) -> Result<Vec<u8>, ServiceError> {
        let heir = id(body).ok_or_else(|| ServiceError("not a node id".to_owned()))?;
        let heir = Some(heir).filter(|heir| *heir != 0);
        let leader = self.raft.transfer_leader(heir).await;
        leader.map(|id| id.to_be_bytes().to_vec()).map_err(|error| ServiceError(error.to_string()))
    }
}

impl Service for PeerService {
    fn call(
        &self,
        from: PeerIdentity,
        kind: u8,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            match (kind, from.who) {
                (SERVICE_JOIN, Who::Joiner(node_key)) => self.desk.admit(node_key, body).await,
                (SERVICE_TRANSFER, Who::Member(_)) if from.follower_certificate => {
                    Err(ServiceError("a follower may not move leadership: ask a voter".to_owned()))
                }
                (SERVICE_TRANSFER, Who::Member(_)) => self.transfer(&body).await,
                (kind, _) => Err(ServiceError(format!("no service {kind} for this caller"))),
            }
        })
    }
}

/// Has `leader` hand over to `heir`, or to whom it finds fit; answers who leads then.
///
/// # Errors
/// When the leader does not answer, or could not hand over.
pub async fn ask_transfer(
    raft: &Handle,
    leader: u64,
    heir: Option<u64>,
    within: Duration,
) -> Result<u64, Failure> {
    let body = heir.unwrap_or(0).to_be_bytes().to_vec();
    let answer = raft
        .call(leader, SERVICE_TRANSFER, body, within)
        .await
        .context(Exit::Unavailable, "hand-over")?;
    id(&answer).ok_or_else(|| Failure::new(Exit::Failed, "the leader answered no node id"))
}

fn id(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
