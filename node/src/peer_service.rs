//! What nodes ask of each other beside consensus: to be let in, and to hand leadership over when the
//! operator asked another node for it. Raft carries the calls and has proven who calls.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use conclave_api::Door;
use conclave_api::ports::SERVICE_HEALTH;
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
    /// Known once the node serves. The door holds Raft, which holds this: it is not kept alive here.
    door: OnceLock<Weak<Door>>,
}

impl PeerService {
    /// A service that admits with this root key whom the state's join tokens allow.
    pub fn new(raft: Handle, state: StateStore, root_key: Arc<RootKey>) -> Arc<Self> {
        let desk = JoinDesk::new(raft.clone(), state, root_key);
        Arc::new(Self { desk, raft, door: OnceLock::new() })
    }

    /// From now on other members are told how this node is.
    pub fn tell_health_of(&self, door: &Arc<Door>) {
        // A node has one door: a second call changes nothing.
        drop(self.door.set(Arc::downgrade(door)));
    }

    fn health(&self) -> Result<Vec<u8>, ServiceError> {
        let door = self.door.get().and_then(Weak::upgrade);
        let door = door.ok_or_else(|| ServiceError("this node does not serve yet".to_owned()))?;
        Ok(door.health().encode())
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
                (SERVICE_HEALTH, Who::Member(_)) => self.health(),
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
