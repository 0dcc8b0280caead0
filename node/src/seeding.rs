//! Issuing seeds: what a node needs to join, made of what the state holds and of a token that the log
//! knows by its digest. For the operator on a node's machine, and for the seed service of the API.

use std::sync::{Arc, Weak};
use std::time::Duration;

use conclave_api::ports::{SeedOrder, SeedRefusal, Seeds};
use conclave_domain::certificates::CLUSTER;
use conclave_domain::command::{Actor, Command};
use conclave_domain::outcome::Outcome;
use conclave_domain::records::JoinToken;
use conclave_domain::time::{Clock, Timestamp};
use futures::future::BoxFuture;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::certificates::store::{self, Maker};
use crate::certificates::{CertificateError, Issued, plan};
use crate::clock::SystemClock;
use crate::compose::{Node, ProposalFailure, propose_as};
use crate::config::checked_name;
use crate::exit::{Context, Exit, Failure};
use crate::jobs;
use crate::join::{new_token, token_digest};
use crate::seed::{Seed, SeedRole};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The name that the node must take.
    pub name: String,
    /// The part that it will play.
    pub role: SeedRole,
    /// How long the seed is good.
    pub life: Duration,
    /// A follower's group, by the name of its load balancer; its own name without one.
    pub group: Option<String>,
    /// More names under which clients reach a follower.
    pub names: Vec<String>,
    /// Addresses from which the node may join; from anywhere without.
    pub cidr: Vec<IpNet>,
}

/// Issues a seed, good once.
///
/// # Errors
/// What the log said, or why nothing was asked of it.
pub async fn issue(
    node: &Node,
    actor: Actor,
    client_ip: String,
    wanted: Wanted,
) -> Result<Seed, ProposalFailure> {
    let Wanted { name, role, life, group, names, cidr } = wanted;
    let (root_pem, issued) = presented(node, role, &name, group, &names).await?;
    let token = new_token()?;
    let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
    let expires_at = Timestamp(SystemClock.now().0.saturating_add(life));
    let grant = JoinToken { name: name.clone(), role: role.into(), expires_at, cidr };
    let command = Command::IssueJoinToken { digest: token_digest(&token), token: grant };
    let Outcome::Done = propose_as(&node.core, actor, client_ip, command).await? else {
        return Err(Failure::new(Exit::Fault, "a join token was answered something else").into());
    };
    let status = node.core.raft.status();
    // The leader first: it answers without a forward.
    let mut voters: Vec<_> = status.members.iter().filter(|member| member.voter).collect();
    voters.sort_by_key(|member| status.leader != Some(member.id));
    Ok(Seed {
        version: Seed::VERSION,
        cluster_id: node.identity.cluster_id.clone(),
        name,
        role,
        token: token.to_string(),
        peers: voters.iter().map(|member| member.info.peer_address.clone()).collect(),
        root_pem,
        certificate_pem: issued.certificate_pem,
        key_pem: issued.key_pem.to_string(),
    })
}

/// What a node that is to join will present until it has the state: the cluster certificate, or that
/// of its group of followers, which is made where there is none that promises it to the node.
async fn presented(
    node: &Node,
    role: SeedRole,
    name: &str,
    group: Option<String>,
    names: &[String],
) -> Result<(String, Issued), Failure> {
    let vault = node.core.vault.load_full().ok_or_else(|| {
        Failure::new(Exit::Unavailable, "this node is sealed: it has no keyring yet")
    })?;
    if role == SeedRole::Voter && (group.is_some() || !names.is_empty()) {
        return Err(Failure::new(
            Exit::Usage,
            "a voter takes its names from the cluster's certificate",
        ));
    }
    if role == SeedRole::Follower {
        let group = group.unwrap_or_else(|| name.to_owned());
        let made = node.core.state.read(|view| {
            let cluster_id = &node.identity.cluster_id;
            let now = SystemClock.now();
            let maker = Maker { cluster_id, state: view.state, vault: &vault, now };
            maker.for_follower(name, &group, names)
        });
        if let Some(made) = made.context(Exit::Failed, "certificate of the follower")? {
            jobs::install_certificates(node, &vault, std::slice::from_ref(&made)).await?;
            let roots_pem = node.core.state.read(|view| plan::roots_pem(view.state));
            return Ok((roots_pem, made.issued().clone()));
        }
    }
    let found: Result<_, CertificateError> = node.core.state.read(|view| {
        let presented = plan::presented_as(view.state, role.into(), name);
        let (key, record) = presented.ok_or_else(|| {
            CertificateError::Refused(format!("the cluster has no certificate {CLUSTER}"))
        })?;
        let issued = store::open(&vault, key, &record.certificate)?;
        Ok((plan::roots_pem(view.state), issued))
    });
    found.context(Exit::Fault, "certificates in the state")
}

/// Seeds for followers, for the door.
pub struct SeedDesk(Weak<Node>);

impl SeedDesk {
    /// Issues the seeds of this node's cluster, for as long as the node is there.
    pub fn new(node: &Arc<Node>) -> Arc<Self> {
        Arc::new(Self(Arc::downgrade(node)))
    }
}

impl Seeds for SeedDesk {
    fn issue(&self, order: SeedOrder) -> BoxFuture<'_, Result<Zeroizing<Vec<u8>>, SeedRefusal>> {
        Box::pin(async move {
            let unavailable = |text: &str| SeedRefusal::Unavailable(text.to_owned());
            let node = self.0.upgrade().ok_or_else(|| unavailable("this node is stopping"))?;
            // As strict as the configuration of the node that is to take it.
            let name = checked_name(order.name)
                .map_err(|error| SeedRefusal::Invalid(error.to_string()))?;
            let wanted = Wanted {
                name,
                role: SeedRole::Follower,
                life: order.life,
                group: order.group,
                names: order.names,
                cidr: order.cidr,
            };
            let actor = Actor::Role(order.role);
            match issue(&node, actor, order.client_ip, wanted).await {
                Ok(seed) => {
                    let bytes = serde_json::to_vec_pretty(&seed);
                    bytes.map(Zeroizing::new).map_err(|_| unavailable("the seed cannot be written"))
                }
                Err(ProposalFailure::Rejected(rejection)) => Err(SeedRefusal::Rejected(rejection)),
                Err(ProposalFailure::Failed(failure)) => {
                    let is_askers =
                        matches!(failure.exit, Exit::Usage | Exit::Refused | Exit::Failed);
                    Err(if is_askers {
                        SeedRefusal::Invalid(failure.message)
                    } else {
                        SeedRefusal::Unavailable(failure.message)
                    })
                }
            }
        })
    }
}
