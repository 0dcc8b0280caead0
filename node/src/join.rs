//! Joining a cluster. The joining side (`conclave cluster join`) shows its one-use token and its node
//! key to any voter over mutual TLS and gets its id, the root key and the members. The answering
//! side is [`JoinDesk`], open on every voter: it commits the admission, which consumes the token
//! in the same entry. The leader then makes the new member a replica ([`crate::jobs`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conclave_api::audit::Spool;
use conclave_domain::command::Command;
use conclave_domain::outcome::{Outcome, Rejection};
use conclave_domain::records::{Digest, Member};
use conclave_domain::time::Clock;
use conclave_raft::transport::Tls;
use conclave_raft::{Handle, Identity, NodeKey, ServiceError, join_call};
use conclave_storage::seal::{RootKey, Secret};
use conclave_storage::{Datadir, FailPoints, StateStore};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use zeroize::{Zeroize, Zeroizing};

use crate::certificates::{Issued, check};
use crate::clock::SystemClock;
use crate::compose::{known_members, propose_from};
use crate::config::Config;
use crate::deeds::{self, Deed};
use crate::exit::{Context, Exit, Failure};
use crate::folder::{Folder, KnownMemberFile, NodeFile, hex, unhex};
use crate::seed::{Seed, SeedRole};
use crate::tls::peer_material;
use crate::unseal;

/// Version of the join messages.
const VERSION: u32 = 1;
/// Longest name or address that a joining node may say.
const FIELD_BYTES_MAX: usize = 255;
/// How many joining nodes are answered at a time; the others wait, and give up by themselves.
const ANSWERED_MAX: usize = 4;
/// How long one attempt to join may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// What a joining node says. Its node key is proven by the connection, not said.
#[derive(Serialize, Deserialize)]
struct JoinRequest {
    version: u32,
    token: String,
    name: String,
    role: SeedRole,
    peer_address: String,
    api_url: String,
    /// The newest feature level that it knows; older versions do not say.
    #[serde(default)]
    level: u32,
}

/// What it is answered.
#[derive(Serialize, Deserialize)]
struct JoinAnswer {
    version: u32,
    node_id: u64,
    /// The cluster's root key, base64. The connection is encrypted, and the asker admitted.
    root_key: String,
    members: Vec<KnownMemberFile>,
}

/// What `cluster join` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: String,
    /// This node's name.
    pub name: String,
    /// The part it plays.
    pub role: SeedRole,
    /// The id it was given.
    pub node_id: u64,
}

/// Joins the cluster of a seed with the configured data folder. `given` is the passphrase, where a person
/// types it.
///
/// # Errors
/// When the seed is for another node, has been used, or no voter answers.
pub async fn join(config: &Config, seed: &Seed, given: Option<Secret>) -> Result<Joined, Failure> {
    if seed.name != config.node.name {
        return Err(Failure::new(
            Exit::Configuration,
            format!(
                "the seed is for a node named {:?}; node.name is {:?}",
                seed.name, config.node.name
            ),
        ));
    }
    let cluster: [u8; 16] = unhex(&seed.cluster_id).ok_or_else(|| {
        Failure::new(
            Exit::Configuration,
            "the seed names no cluster: cluster_id is not 32 hex digits",
        )
    })?;
    let data = &config.node.data;
    let folder = Folder::new(data);
    if folder.is_set_up() {
        return Err(Failure::new(
            Exit::Configuration,
            format!("{} holds a node already; choose another node.data", data.display()),
        ));
    }
    check::cluster_certificate(&seed.root_pem, &seed.certificate_pem, &[], SystemClock.now())
        .context(Exit::Configuration, "seed")?;
    folder.begin_setup()?;
    let _datadir = Datadir::open(data, FailPoints::new()).context(Exit::Fault, "data folder")?;
    let (master, sealing) = unseal::make_for(config, given).await?;

    let issued = Issued {
        certificate_pem: seed.certificate_pem.clone(),
        key_pem: Zeroizing::new(seed.key_pem.clone()),
    };
    let (node_key, pkcs8) = NodeKey::generate().context(Exit::Fault, "node key")?;
    let material = peer_material(&seed.cluster_id, &seed.root_pem, &issued)?;
    let tls = Tls::new(material).context(Exit::Configuration, "seed")?;
    let identity = Identity { cluster, node_id: 0, key: node_key, standing: bytes::Bytes::new() };
    let request = JoinRequest {
        version: VERSION,
        token: seed.token.clone(),
        name: config.node.name.clone(),
        role: seed.role,
        peer_address: config.peer.advertise.clone(),
        api_url: config.api.url.clone(),
        level: config.cluster.level_max,
    };
    let body = serde_json::to_vec(&request).context(Exit::Failed, "join request")?;
    let answer = join_call(&tls, identity, &seed.peers, body, DEADLINE)
        .await
        .context(Exit::Unavailable, "no voter let this node join")?;
    let answer = Zeroizing::new(answer);
    let answer: JoinAnswer =
        serde_json::from_slice(&answer).context(Exit::Failed, "join answer")?;
    if answer.version != VERSION {
        return Err(Failure::new(
            Exit::Failed,
            format!("the cluster speaks join version {}, this program {VERSION}", answer.version),
        ));
    }
    let root_key = Zeroizing::new(answer.root_key);
    let root_key = STANDARD.decode(root_key.as_bytes()).context(Exit::Failed, "join answer")?;
    let root_key =
        RootKey::from_secret(&Secret::new(root_key)).context(Exit::Failed, "join answer")?;

    folder.write_keys((&master, &sealing), pkcs8, &root_key, &seed.root_pem, &issued)?;
    let node = NodeFile::new(
        seed.cluster_id.clone(),
        answer.node_id,
        config.node.name.clone(),
        seed.role,
        answer.members,
    );
    folder.write_node(&node)?;
    Ok(Joined {
        cluster_id: node.cluster_id,
        name: node.name,
        role: node.role,
        node_id: node.node_id,
    })
}

/// SHA-256 of a join token, as the log knows it.
pub fn token_digest(token: &str) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Digest(bytes)
}

/// A fresh join token: 256 random bits.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_token() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *bytes).context(Exit::Fault, "randomness")?;
    Ok(Zeroizing::new(hex(&*bytes)))
}

/// Admits joining nodes, on behalf of [`crate::peer_service`].
///
/// A node that is not let in costs the cluster no log entry: tokens are looked up here before
/// anything is proposed.
pub struct JoinDesk {
    raft: Handle,
    state: StateStore,
    root_key: Arc<RootKey>,
    spool: Option<Arc<Spool>>,
    answered: Semaphore,
}

impl JoinDesk {
    /// A desk that hands out this root key, and records in the spool who came.
    pub fn new(
        raft: Handle,
        state: StateStore,
        root_key: Arc<RootKey>,
        spool: Option<Arc<Spool>>,
    ) -> Self {
        Self { raft, state, root_key, spool, answered: Semaphore::new(ANSWERED_MAX) }
    }

    /// Answers one joining node, whose node key the connection has proven.
    ///
    /// # Errors
    /// Why it may not join, in words.
    pub async fn admit(
        &self,
        node_key: [u8; 32],
        from: Option<SocketAddr>,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, ServiceError> {
        // Also those who are turned away wait their turn, so that there are few records at a time.
        let turn = self.answered.acquire().await;
        let _turn = turn.map_err(|error| ServiceError(error.to_string()))?;
        let mut subject = Vec::new();
        // As it stands in ranges: without the form that IPv4 takes on a socket of both kinds.
        let from = from.map(|from| from.ip().to_canonical().to_string()).unwrap_or_default();
        let answer = self.admitted(node_key, &from, body, &mut subject).await;
        if let Some(spool) = &self.spool {
            let told = |name| subject.iter().find(|(known, _)| *known == name);
            let name = told("name").map_or("a node", |(_, name)| name.as_str());
            let text = match &answer {
                Ok(_) => format!("{name} joined from {from}"),
                Err(_) => format!("{name} tried to join from {from}"),
            };
            let refused = answer.as_ref().err().map(ToString::to_string);
            let deed = Deed { operation: "join", subject: subject.clone(), from, text, refused };
            deeds::record(spool, deed).await;
        }
        answer
    }

    /// What `subject` has in the end tells who it was, as far as that was understood.
    async fn admitted(
        &self,
        node_key: [u8; 32],
        from: &str,
        body: Vec<u8>,
        subject: &mut Vec<(&'static str, String)>,
    ) -> Result<Vec<u8>, ServiceError> {
        let refuse = |text: String| ServiceError(text);
        let body = Zeroizing::new(body);
        let mut request: JoinRequest = serde_json::from_slice(&body)
            .map_err(|error| refuse(format!("not a join request: {error}")))?;
        if request.version != VERSION {
            return Err(refuse(format!(
                "join version {} is not spoken here, {VERSION} is",
                request.version
            )));
        }
        let digest = token_digest(&request.token);
        request.token.zeroize();
        let level = self.state.read(|view| view.state.level());
        if request.level < level {
            return Err(refuse(format!(
                "the cluster is at feature level {level}, and the joining node knows {}: install the \
                 version that the cluster runs",
                request.level
            )));
        }
        let fields = [
            ("name", &request.name),
            ("peer_address", &request.peer_address),
            ("api_url", &request.api_url),
        ];
        for (field, text) in fields {
            if text.len() > FIELD_BYTES_MAX {
                let found = text.len();
                return Err(refuse(format!(
                    "{field} has {found} bytes, {FIELD_BYTES_MAX} are allowed"
                )));
            }
        }
        subject.push(("name", request.name.clone()));
        subject.push(("role", request.role.as_str().to_owned()));
        let may_come = || {
            self.state.read(|view| {
                view.state.join_token(&digest).is_some()
                    || view.state.member_nodes().values().any(|member| member.node_key == node_key)
            })
        };
        if !may_come() {
            // Perhaps the token is so new that this node has not heard of it.
            self.raft.read_barrier().await.map_err(|error| refuse(error.to_string()))?;
            if !may_come() {
                let why = Rejection::JoinTokenRefused("unknown or already used".to_owned());
                return Err(refuse(why.to_string()));
            }
        }
        let member = Member {
            name: request.name.clone(),
            role: request.role.into(),
            node_key,
            peer_address: request.peer_address,
            api_url: request.api_url,
        };
        let admit = Command::AdmitMember { token: Some(digest), member };
        let outcome = propose_from(&self.raft, from.to_owned(), admit)
            .await
            .map_err(|failure| refuse(failure.message))?;
        let Outcome::MemberAdmitted { node: node_id } = outcome else {
            return Err(refuse("the log answered something else".to_owned()));
        };
        subject.push(("node", node_id.to_string()));
        tracing::info!(node_id, name = request.name, role = request.role.as_str(), "node.admitted");
        let root_key = self.root_key.to_secret();
        let answer = JoinAnswer {
            version: VERSION,
            node_id,
            root_key: STANDARD.encode(root_key.expose_secret()),
            members: known_members(&self.raft),
        };
        let bytes = serde_json::to_vec(&answer).map_err(|error| refuse(error.to_string()));
        drop(Zeroizing::new(answer.root_key));
        bytes
    }
}
