//! What nodes ask of each other beside consensus: to be let in, to hand leadership over when the
//! operator asked another node for it, to take audit records into the chain, and to hear which
//! certificates the other has loaded. Raft carries the calls and has proven who calls.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use conclave_api::Door;
use conclave_api::audit::Spool;
use conclave_api::ports::SERVICE_HEALTH;
use conclave_domain::command::{Actor, Command, Envelope, codec};
use conclave_domain::outcome::Outcome;
use conclave_domain::records::RequestId;
use conclave_domain::time::Clock;
use conclave_raft::status::NodeState;
use conclave_raft::{
    CallError, Handle, PeerIdentity, Refused, SERVICE_JOIN, Service, ServiceError, Who,
};
use conclave_storage::StateStore;
use conclave_storage::seal::RootKey;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::certificates::inventory::{Heard, Report, Reports};
use crate::clock::SystemClock;
use crate::compose::{Node, propose};
use crate::exit::{Context, Exit, Failure};
use crate::jobs::REPORT_LIFE;
use crate::join::JoinDesk;
use crate::refusals::{Refusal, Refusals};

/// Asks the leader to hand over: body is the id of the heir (u64, big-endian; 0 for any), the answer
/// that of the new leader.
const SERVICE_TRANSFER: u8 = 2;

/// Brings audit records of the caller to the leader: body is an encoded command
/// [`Command::ChainAudit`], or [`Command::AppendAudit`], of no more than one batch, the answer the number
/// of the last record that the chain has of the caller (u64, big-endian).
pub const SERVICE_AUDIT: u8 = 3;
/// Tells the leader what the caller has loaded of the cluster's certificates: body is a [`Report`], the
/// answer what all members have told ([`Heard`]), both JSON.
const SERVICE_CERTIFICATES: u8 = 5;

/// Asks a member what it is: body is empty, the answer an [`About`], JSON. Versions before feature levels do
/// not know the call.
const SERVICE_ABOUT: u8 = 6;

/// What a member says of itself to whoever leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of its program.
    pub version: String,
    /// The newest feature level that it is ready for.
    pub level: u32,
    /// Why it may not serve now; nothing when it may.
    pub obstacle: Option<String>,
}

/// Answers other nodes.
pub struct PeerService {
    raft: Handle,
    desk: JoinDesk,
    refusals: Option<Refusals>,
    /// Known once the node serves, with the feature level that it offers. The door holds Raft, which holds
    /// this: it is not kept alive here.
    door: OnceLock<(Weak<Door>, u32)>,
    reports: Arc<Reports>,
}

impl PeerService {
    /// A service that admits with this root key whom the state's join tokens allow, and records in
    /// the spool what peers had to be refused.
    pub fn new(
        raft: Handle,
        state: StateStore,
        root_key: Arc<RootKey>,
        spool: Option<Arc<Spool>>,
        reports: Arc<Reports>,
    ) -> Arc<Self> {
        let refusals = spool.clone().map(|spool| Refusals::new(raft.clone(), spool));
        let desk = JoinDesk::new(raft.clone(), state, root_key, spool);
        Arc::new(Self { desk, raft, refusals, door: OnceLock::new(), reports })
    }

    /// Takes the caller's own records, and nobody else's: a member that could write in another's name
    /// could make that one's true records pass for repeats.
    async fn audit(
        &self,
        from: PeerIdentity,
        caller: u64,
        body: &[u8],
    ) -> Result<Vec<u8>, ServiceError> {
        let envelope = codec::decode(body).map_err(|error| ServiceError(error.to_string()))?;
        let command = envelope.body;
        let (Command::ChainAudit { node, .. } | Command::AppendAudit { node, .. }) = &command
        else {
            return Err(ServiceError("not a batch of audit records".to_owned()));
        };
        if *node != caller {
            let text = format!("node {caller} sent audit records in the name of node {node}");
            return Err(self.refuse(from, "append-audit", text));
        }
        if self.raft.status().state != NodeState::Leader {
            return Err(ServiceError("this node does not lead".to_owned()));
        }
        let last = propose_audit(&self.raft, command).await;
        let last = last.map_err(|failure| ServiceError(failure.message))?;
        Ok(last.to_be_bytes().to_vec())
    }

    /// Refuses a peer what it may not ask, and has that recorded.
    fn refuse(&self, from: PeerIdentity, operation: &'static str, reason: String) -> ServiceError {
        let member = match from.who {
            Who::Member(id) => Some(id),
            Who::Joiner(_) => None,
        };
        let (address, in_doubt) = (from.address, false);
        self.tell(Refusal { member, address, operation, reason: reason.clone(), in_doubt });
        ServiceError(reason)
    }

    fn tell(&self, refusal: Refusal) {
        tracing::warn!(?refusal, "peer.refused");
        if let Some(refusals) = &self.refusals {
            refusals.tell(refusal);
        }
    }

    /// From now on other members are told how this node is.
    pub fn tell_health_of(&self, door: &Arc<Door>, level: u32) {
        // A node has one door: a second call changes nothing.
        drop(self.door.set((Arc::downgrade(door), level)));
    }

    fn door(&self) -> Result<(Arc<Door>, u32), ServiceError> {
        let known = self.door.get().and_then(|(door, level)| Some((door.upgrade()?, *level)));
        known.ok_or_else(|| ServiceError("this node does not serve yet".to_owned()))
    }

    fn health(&self) -> Result<Vec<u8>, ServiceError> {
        Ok(self.door()?.0.health().encode())
    }

    fn about(&self) -> Result<Vec<u8>, ServiceError> {
        let (door, level) = self.door()?;
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            level,
            obstacle: door.ailment().map(str::to_owned),
        };
        serde_json::to_vec(&about).map_err(|error| ServiceError(error.to_string()))
    }

    async fn transfer(&self, body: &[u8]) -> Result<Vec<u8>, ServiceError> {
        let heir = id(body).ok_or_else(|| ServiceError("not a node id".to_owned()))?;
        let heir = Some(heir).filter(|heir| *heir != 0);
        let leader = self.raft.transfer_leader(heir).await;
        leader.map(|id| id.to_be_bytes().to_vec()).map_err(|error| ServiceError(error.to_string()))
    }
}

/// What a member tells about its certificates.
#[derive(Serialize, Deserialize)]
struct Told {
    #[serde(flatten)]
    report: Report,
    /// Whether it does not care what the others have told: of hundreds the answers would be long.
    #[serde(default)]
    brief: bool,
}

impl PeerService {
    fn certificates(&self, from: u64, body: &[u8]) -> Result<Vec<u8>, ServiceError> {
        let refuse = |error: serde_json::Error| ServiceError(error.to_string());
        let Told { report, brief } = serde_json::from_slice(body).map_err(refuse)?;
        self.reports.put(from, report, SystemClock.now());
        let heard = if brief { Heard::default() } else { self.reports.heard(REPORT_LIFE) };
        serde_json::to_vec(&heard).map_err(refuse)
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
                (SERVICE_JOIN, Who::Joiner(node_key)) => {
                    self.desk.admit(node_key, from.address, body).await
                }
                (SERVICE_TRANSFER, Who::Member(_)) if from.follower_certificate => {
                    let why = "a follower may not move leadership: ask a voter";
                    Err(self.refuse(from, "transfer-leader", why.to_owned()))
                }
                (SERVICE_TRANSFER, Who::Member(_)) => self.transfer(&body).await,
                (SERVICE_HEALTH, Who::Member(_)) => self.health(),
                (SERVICE_ABOUT, Who::Member(_)) => self.about(),
                (SERVICE_AUDIT, Who::Member(caller)) => self.audit(from, caller, &body).await,
                (SERVICE_CERTIFICATES, Who::Member(id)) => self.certificates(id, &body),
                (kind, _) => Err(ServiceError(format!("no service {kind} for this caller"))),
            }
        })
    }

    fn refused(&self, refused: Refused) {
        self.tell(refused.into());
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

/// Has `leader` take a batch of this node's audit records into the chain; answers the number of the
/// last that the chain then has.
///
/// # Errors
/// When the leader does not answer, or refuses.
pub async fn send_audit(
    raft: &Handle,
    leader: u64,
    batch: Command,
    within: Duration,
) -> Result<u64, Failure> {
    // The leader stamps the command anew: of the envelope only the body counts.
    let envelope = Envelope {
        request_id: RequestId([0; 16]),
        actor: Actor::Node,
        at: SystemClock.now(),
        client_ip: String::new(),
        body: batch,
    };
    let answer = raft
        .call(leader, SERVICE_AUDIT, codec::encode(&envelope), within)
        .await
        .context(Exit::Unavailable, "audit records")?;
    id(&answer).ok_or_else(|| Failure::new(Exit::Failed, "the leader answered no number"))
}

/// Asks a member what it is.
///
/// # Errors
/// What kept it from answering.
pub async fn ask_about(raft: &Handle, member: u64, within: Duration) -> Result<About, CallError> {
    let answer = raft.call(member, SERVICE_ABOUT, Vec::new(), within).await?;
    serde_json::from_slice(&answer).map_err(|error| CallError::Malformed {
        peer: format!("node {member}"),
        reason: error.to_string(),
    })
}

/// Takes a batch into the chain, on the leader; answers as [`send_audit`].
///
/// # Errors
/// As [`propose`].
pub async fn propose_audit(raft: &Handle, batch: Command) -> Result<u64, Failure> {
    let outcome = propose(raft, batch).await?;
    if let Outcome::AuditAppended { last } = outcome {
        return Ok(last);
    }
    Err(Failure::new(Exit::Fault, format!("an audit batch was answered {outcome:?}")))
}
/// Tells the leader what this node has loaded; answers what all members have told it.
///
/// # Errors
/// When no leader is known, or it does not answer.
pub async fn report_certificates(
    node: &Node,
    report: &Report,
    brief: bool,
    within: Duration,
) -> Result<Heard, Failure> {
    let status = node.core.raft.status();
    let leader =
        status.leader.ok_or_else(|| Failure::new(Exit::Unavailable, "no leader is known"))?;
    let now = SystemClock.now();
    let report = report.told_at(now);
    if leader == status.node_id {
        node.core.reports.put(leader, report, now);
        return Ok(node.core.reports.heard(REPORT_LIFE));
    }
    let told = Told { report, brief };
    let body = serde_json::to_vec(&told).context(Exit::Failed, "report")?;
    let answer = node
        .core
        .raft
        .call(leader, SERVICE_CERTIFICATES, body, within)
        .await
        .context(Exit::Unavailable, "report")?;
    serde_json::from_slice(&answer).context(Exit::Failed, "answer to a report")
}

fn id(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
