//! Answers the operator on this machine. The socket lies in the data folder, mode 0600: whoever can
//! open it could read the data folder as well.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::command::Command;
use conclave_domain::id::AccountName;
use conclave_domain::records::JoinToken;
use conclave_domain::time::{Clock, Timestamp};
use conclave_raft::{ChangeError, NodeRole};
use conclave_storage::seal::AuditKey;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::protocol::{self, Request, Response};
use super::socket_path;
use crate::bootstrap::create_account;
use crate::clock::SystemClock;
use crate::compose::{Node, propose};
use crate::exit::{Context, Exit, Failure};
use crate::folder::hex;
use crate::join::{new_token, token_digest};
use crate::lifecycle::told_to_stop;
use crate::peer_service;
use crate::seed::{Seed, SeedRole};

/// Longest question.
const QUESTION_BYTES_MAX: u64 = 64 * 1024;
/// Most records, and bytes of them, in one answer.
const AUDIT_RECORDS_MAX: usize = 4096;
const AUDIT_BYTES_MAX: usize = 2 << 20;
/// How long a question may take to arrive.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// How long a removal or a hand-over is waited for.
const CHANGE_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const CHANGE_POLL: Duration = Duration::from_millis(10);

/// Answers until the node stops.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(node: Arc<Node>, mut stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    let listener = bind(&node).context(Exit::Fault, "admin socket")?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin.accept");
                    sleep(CHANGE_POLL).await;
                    continue;
                }
            },
            () = told_to_stop(&mut stopped) => return Ok(()),
        };
        let node = node.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(&node, stream).await {
                tracing::debug!(%error, "admin.connection");
            }
        });
    }
}

fn bind(node: &Node) -> std::io::Result<UnixListener> {
    let (folder, path) = socket_path(&node.config.node.data)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The folder itself is 0700, so nobody slips in between.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    drop(folder);
    Ok(listener)
}

async fn converse(node: &Node, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(QUESTION_BYTES_MAX));
    let read = timeout(QUESTION_DEADLINE, reader.read_until(b'\n', &mut line)).await;
    let response = match read {
        Err(_) => Response::refused(&Failure::new(Exit::Usage, "no question came")),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) => match serde_json::from_slice::<Request>(&line) {
            Err(error) => {
                Response::refused(&Failure::new(Exit::Usage, format!("not a question: {error}")))
            }
            Ok(request) => {
                answer(node, request).await.unwrap_or_else(|failure| Response::refused(&failure))
            }
        },
    };
    let bytes = Zeroizing::new(serde_json::to_vec(&response)?);
    write.write_all(&bytes).await?;
    write.shutdown().await
}

async fn answer(node: &Node, request: Request) -> Result<Response, Failure> {
    match request {
        Request::Status => Ok(Response::Status(Box::new(status(node)))),
        Request::Seed { name, role, life_s } => seed(node, name, role, life_s).await,
        Request::Remove { member } => remove(node, &member).await,
        Request::TransferLeader { to } => transfer(node, to.as_deref()).await,
        Request::CreateAccount { name } => {
            let name = AccountName::new(&name).context(Exit::Usage, "account")?;
            let vault = node.core.vault.load_full().ok_or_else(|| {
                Failure::new(Exit::Unavailable, "this node is sealed: it has no keyring yet")
            })?;
            create_account(&node.core.raft, &vault, name).await.map(Response::Account)
        }
        Request::DeleteAccount { name } => {
            let account = AccountName::new(&name).context(Exit::Usage, "account")?;
            // Known here before it is asked of the log, which has no word for a missing account.
            let known = node.core.state.read(|view| view.state.account(&account).is_some());
            if !known {
                return Err(Failure::new(Exit::NotFound, format!("there is no account {name}")));
            }
            propose(&node.core.raft, Command::DeleteAccount { account }).await?;
            Ok(Response::Done)
        }
        Request::Accounts => {
            let names = node
                .core
                .state
                .read(|view| view.state.accounts().map(|(name, _)| name.to_string()).collect());
            Ok(Response::Accounts { names })
        }
        Request::StateHash => {
            let state = node.core.state.clone();
            let hash = tokio::task::spawn_blocking(move || state.state_hash())
                .await
                .context(Exit::Failed, "state hash")?
                .context(Exit::Fault, "state hash")?;
            Ok(Response::StateHash(protocol::StateHash {
                node_id: node.identity.node_id,
                applied: hash.index,
                state_hash: hex(&hash.hash),
            }))
        }
        Request::Snapshot => {
            node.core.raft.snapshot(CHANGE_DEADLINE).await.context(Exit::Failed, "snapshot")?;
            Ok(Response::Done)
        }
        Request::Audit { from } => {
            let page = audit_page(node, from).await?;
            Ok(Response::Audit(Box::new(page.into())))
        }
    }
}

async fn audit_page(node: &Node, from: u64) -> Result<protocol::AuditPage, Failure> {
    let key = AuditKey::derive(&node.core.root_key).context(Exit::Fault, "audit key")?;
    // The head first: all its records are there when they are read.
    let head = node.core.state.read(|view| view.state.audit_head());
    let state = node.core.state.clone();
    let records = tokio::task::spawn_blocking(move || {
        state.audit_records(from, AUDIT_RECORDS_MAX, AUDIT_BYTES_MAX)
    });
    let records = records.await.context(Exit::Failed, "audit chain")?;
    Ok(protocol::AuditPage {
        cluster_id: node.identity.cluster_id.clone(),
        key: key.public(),
        head,
        end: key.checkpoint(head.last, head.hash, SystemClock.now()).to_text(),
        records: records.context(Exit::Fault, "audit chain")?,
    })
}

fn status(node: &Node) -> protocol::Status {
    let status = node.core.raft.status();
    let counters = node.core.log.counters();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    protocol::Status {
        cluster_id: node.identity.cluster_id.clone(),
        node_id: status.node_id,
        name: node.identity.name.clone(),
        part: status.state.as_str().to_owned(),
        term: status.term,
        leader: status.leader,
        last_log: status.last_log.unwrap_or(0),
        committed: status.committed.unwrap_or(0),
        applied: status.applied.unwrap_or(0),
        snapshot: status.snapshot.unwrap_or(0),
        age_ms: status.age.map(millis),
        sealed: node.core.vault.load().is_none(),
        log_fsyncs: counters.syncs,
        log_bytes_written: counters.bytes,
        pid: std::process::id(),
        api_url: node.config.api.url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rotations: node.rotations.status(),
        members: status
            .members
            .into_iter()
            .map(|member| protocol::MemberStatus {
                id: member.id,
                name: member.info.name,
                role: match member.info.role {
                    NodeRole::Voter => SeedRole::Voter,
                    NodeRole::Follower => SeedRole::Follower,
                },
                votes: member.voter,
                lag: member.lag,
                peer_address: member.info.peer_address,
                api_url: member.info.api_url,
            })
            .collect(),
    }
}

async fn seed(node: &Node, name: String, role: SeedRole, life_s: u32) -> Result<Response, Failure> {
    let token = new_token()?;
    let now = SystemClock.now();
    let expires_at = Timestamp(now.0.saturating_add(i64::from(life_s) * 1000));
    let grant = JoinToken { name: name.clone(), role: role.into(), expires_at };
    propose(
        &node.core.raft,
        Command::IssueJoinToken { digest: token_digest(&token), token: grant },
    )
    .await?;
    let status = node.core.raft.status();
    // The leader first: it answers without a forward.
    let mut voters: Vec<_> = status.members.iter().filter(|member| member.voter).collect();
    voters.sort_by_key(|member| status.leader != Some(member.id));
    let issued = node.folder.cluster_certificate(&node.master)?;
    Ok(Response::Seed(Box::new(Seed {
        version: Seed::VERSION,
        cluster_id: node.identity.cluster_id.clone(),
        name,
        role,
        token: token.to_string(),
        peers: voters.iter().map(|member| member.info.peer_address.clone()).collect(),
        root_pem: node.folder.root_pem()?,
        certificate_pem: issued.certificate_pem,
        key_pem: issued.key_pem.to_string(),
    })))
}

/// Finds a member by name or id.
fn find(node: &Node, member: &str) -> Result<u64, Failure> {
    let found = node.core.state.read(|view| {
        let members = view.state.member_nodes();
        members
            .iter()
            .find(|(id, row)| row.name == member || id.to_string() == member)
            .map(|(id, _)| *id)
    });
    found.ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no member {member}")))
}

async fn remove(node: &Node, member: &str) -> Result<Response, Failure> {
    let id = find(node, member)?;
    if id == node.core.raft.status().leader.unwrap_or(0) {
        return Err(Failure::new(
            Exit::Refused,
            format!("{member} leads; run `conclave cluster transfer-leader` first"),
        ));
    }
    propose(&node.core.raft, Command::RemoveMemberNode { node: id }).await?;
    let deadline = Instant::now() + CHANGE_DEADLINE;
    while node.core.raft.status().members.iter().any(|known| known.id == id) {
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("{member} is struck off; the leader has yet to cut it off"),
            ));
        }
        sleep(CHANGE_POLL).await;
    }
    Ok(Response::Done)
}

async fn transfer(node: &Node, to: Option<&str>) -> Result<Response, Failure> {
    let to = to.map(|member| find(node, member)).transpose()?;
    let raft = &node.core.raft;
    let leader = match raft.transfer_leader(to).await {
        Ok(leader) => leader,
        // Only the leader can hand over; asked elsewhere, the leader is asked to.
        Err(ChangeError::NotLeader { leader: Some(leader) }) => {
            peer_service::ask_transfer(raft, leader, to, CHANGE_DEADLINE).await?
        }
        Err(error) => return Err(Failure::new(Exit::Unavailable, error)),
    };
    Ok(Response::Leader { leader: Some(leader) })
}
