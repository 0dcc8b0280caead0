//! Ships this node's audit records to the cluster's chain, and as leader vouches for the chain and
//! forgets what is older than it is to be kept.
//!
//! A batch is sent until the chain's answer says how far it has this node's records; then the next is
//! read from there. So it does not matter which batch or which answer was lost, nor who restarted.

use std::sync::Arc;
use std::time::Duration;

use conclave_api::audit::{SpoolBatch, SpoolReader};
use conclave_domain::audit::{AuditRecord, AuditTexts, BATCH_RECORDS_MAX};
use conclave_domain::command::Command;
use conclave_domain::level;
use conclave_domain::time::{Clock, Timestamp};
use conclave_raft::status::NodeState;
use conclave_storage::seal::AuditKey;
use tokio::time::{Instant, sleep};

use crate::clock::SystemClock;
use crate::compose::{Node, propose};
use crate::config::AuditDurability;
use crate::exit::{Context, Exit, Failure};
use crate::peer_service::{propose_audit, send_audit};

/// Between two batches, so that records gather. Where answers wait for the chain there is no pause:
/// the time that a batch takes is what the next one gathers in.
const GATHER: Duration = Duration::from_millis(50);
/// How long the leader may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(12);
/// Pauses after a failure: the first, and the longest.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
const AFTER_FAILURE_MAX: Duration = Duration::from_secs(2);

/// How often the leader looks after the chain.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// The chain is vouched for after so many records, or after so long when there are any.
const CHECKPOINT_RECORDS: u64 = 10_000;
const CHECKPOINT_EVERY: Duration = Duration::from_mins(1);
/// Records, and bytes of them, looked at for what is too old.
const OLD_RECORDS_MAX: usize = 4096;
const OLD_BYTES_MAX: usize = 8 << 20;

/// Ships records for as long as the node runs.
pub async fn ship(node: Arc<Node>) {
    let id = node.identity.node_id;
    let mut synced = node.spool.synced();
    let mut reader = Some(SpoolReader::new(node.audit_folder.clone()));
    let mut chained = node.core.state.read(|view| view.state.audit_source(id));
    node.spool.chained(chained);
    let mut pause = AFTER_FAILURE;
    loop {
        // The spool ends with the node.
        let Ok(through) = synced.wait_for(|synced| *synced > chained).await.map(|synced| *synced)
        else {
            return;
        };
        match ship_once(&node, &mut reader, chained + 1, through).await {
            Ok(last) => {
                pause = AFTER_FAILURE;
                if last > through {
                    // The chain has records of this node that this folder does not.
                    tracing::error!(last, through, "audit.ship: the spool has lost records");
                    node.spool.start_after(last);
                }
                chained = last;
                node.spool.chained(last);
            }
            Err(failure) => {
                tracing::debug!(error = %failure, "audit.ship failed; it will be tried again");
                sleep(pause).await;
                pause = AFTER_FAILURE_MAX.min(pause * 2);
            }
        }
        let waiting = through.saturating_sub(chained);
        let is_behind = usize::try_from(waiting).is_ok_and(|waiting| waiting > BATCH_RECORDS_MAX);
        if node.config().audit.durability != AuditDurability::Quorum && !is_behind {
            sleep(GATHER).await;
        }
    }
}

/// Sends the batch that begins at number `from`; answers how far the chain then has this node's
/// records, and deletes the files that are in it whole.
async fn ship_once(
    node: &Arc<Node>,
    reader: &mut Option<SpoolReader>,
    from: u64,
    through: u64,
) -> Result<u64, Failure> {
    let mut taken = reader.take().unwrap_or_else(|| SpoolReader::new(node.audit_folder.clone()));
    let read = tokio::task::spawn_blocking(move || {
        // Here and not after the answer, so that a node which fell behind does it, too.
        let read = taken.forget(from - 1).and_then(|()| taken.read(from, through));
        (taken, read)
    });
    let (taken, batch) = read.await.context(Exit::Failed, "audit spool")?;
    *reader = Some(taken);
    let SpoolBatch { first, lost, records } = batch.context(Exit::Failed, "audit spool")?;
    let count = records.len();
    let id = node.identity.node_id;
    let batch = if node.core.state.read(|view| view.state.level()) >= level::PACKED_AUDIT {
        Command::ChainAudit { node: id, first, lost, texts: AuditTexts::packed(&records) }
    } else {
        // There may be members of an earlier version.
        Command::AppendAudit { node: id, first, lost, records }
    };
    let raft = &node.core.raft;
    let status = raft.status();
    let last = match status.leader {
        _ if status.state == NodeState::Leader => propose_audit(raft, batch).await?,
        Some(leader) => send_audit(raft, leader, batch, ANSWER_DEADLINE).await?,
        None => return Err(Failure::new(Exit::Unavailable, "no leader is known")),
    };
    // Where the chain did not have what is lost, it says so by a record of its own.
    tracing::trace!(first, lost, count, last, "audit.ship");
    Ok(last)
}

/// Looks after the chain for as long as the node runs, while it leads.
pub async fn tend(node: Arc<Node>) {
    let key = match AuditKey::derive(&node.core.root_key) {
        Ok(key) => key,
        Err(fault) => {
            tracing::error!(%fault, "audit.checkpoint");
            return;
        }
    };
    let mut vouched_at = Instant::now();
    loop {
        sleep(TEND_EVERY).await;
        if node.core.raft.status().state != NodeState::Leader {
            continue;
        }
        let tended = async {
            if vouch(&node, &key, vouched_at.elapsed()).await? {
                vouched_at = Instant::now();
            }
            forget_old(&node).await
        };
        if let Err(failure) = tended.await {
            tracing::debug!(error = %failure, "audit.tend failed; it will be tried again");
        }
    }
}

/// Signs the chain's head where that is due; answers whether it did.
async fn vouch(node: &Node, key: &AuditKey, since: Duration) -> Result<bool, Failure> {
    let head = node.core.state.read(|view| view.state.audit_head());
    // The last checkpoint's own record is nothing new.
    let new = head.last.saturating_sub(head.checkpointed + 1);
    let is_first = head.checkpointed == 0 && head.last > 0;
    let is_due = new >= CHECKPOINT_RECORDS || new > 0 && since >= CHECKPOINT_EVERY || is_first;
    if is_due {
        let checkpoint = key.checkpoint(head.last, head.hash, SystemClock.now());
        propose(&node.core.raft, Command::CheckpointAudit { checkpoint }).await?;
    }
    Ok(is_due)
}

/// Forgets the oldest records, a piece at a time, where they are older than they are to be kept.
async fn forget_old(node: &Node) -> Result<(), Failure> {
    let Some(retention) = node.config().audit.retention else { return Ok(()) };
    let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(SystemClock.now().0.saturating_sub(retention));
    let head = node.core.state.read(|view| view.state.audit_head());
    // The record that the newest checkpoint vouches for stays.
    let is_old = move |number: u64, record: &AuditRecord| {
        number < head.checkpointed && recorded_at(&record.text).is_none_or(|at| at < before)
    };
    let state = node.core.state.clone();
    let gone = tokio::task::spawn_blocking(move || {
        // Mostly none is: so one is looked at before many.
        let mut gone = None;
        for most in [1, OLD_RECORDS_MAX] {
            let oldest = state.audit_records(head.first, most, OLD_BYTES_MAX)?;
            gone = oldest.into_iter().take_while(|(number, record)| is_old(*number, record)).last();
            if gone.is_none() {
                break;
            }
        }
        Ok::<_, conclave_storage::Fault>(gone)
    });
    let gone = gone.await.context(Exit::Failed, "audit chain")?;
    let Some((number, record)) = gone.context(Exit::Fault, "audit chain")? else { return Ok(()) };
    let trim = Command::TrimAudit { first: number + 1, base: record.hash };
    propose(&node.core.raft, trim).await?;
    Ok(())
}

/// When a record was made; none for the chain's own.
fn recorded_at(text: &str) -> Option<Timestamp> {
    let record: serde_json::Value = serde_json::from_str(text).ok()?;
    let at = record.get("at")?.as_str()?;
    let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339);
    let at = at.ok()?.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(at).ok().map(Timestamp)
}
