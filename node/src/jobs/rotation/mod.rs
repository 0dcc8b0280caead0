//! Rotation: variables with the annotation `rotation/rotator` get a new value when theirs is due, there
//! where it counts and then here. On the leader only.
//!
//! ```text
//! due → next value is derived → rotator puts it in force there → committed here → due again after ttl
//! ```
//! Why in this order: committed first, readers would be given a value that opens nothing, for ever if
//! the change there is refused. Changed there first, a leader may die before the commit, with a value
//! in force that nobody knows. So the next value is not drawn but derived, from the root key and the
//! version in force: whoever leads next derives the same one, finds it in force there, and commits it.
//! It needs no place to rest and no second log entry. The version and when the next rotation is due
//! are one entry, refused where the secret has moved on: what is set by hand meanwhile wins.
//!
//! A rotation that fails is tried again, ever more seldom, and is seen: in the log, in the audit trail,
//! in a metric, in `conclave cluster status`.

mod postgresql;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_api::audit::{Outcome, Record, Severity, Spool};
use conclave_domain::command::Command;
use conclave_domain::duration;
use conclave_domain::id::{Kind, ResourceId};
use conclave_domain::records::{Sealed, Version};
use conclave_domain::state::ROTATOR;
use conclave_domain::time::{Clock, Timestamp};
use conclave_raft::status::NodeState;
use conclave_storage::View;
use conclave_storage::seal::{RotationBytes, Secret, Vault};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use metrics::{counter, gauge};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::clock::SystemClock;
use crate::compose::{Node, propose};
use crate::metrics::{ROTATIONS, ROTATIONS_FAILING};

/// The annotation that says how long a value is good.
const TTL: &str = "rotation/ttl";
/// How often the leader looks for what is due.
const EVERY: Duration = Duration::from_secs(1);
/// How long one rotation may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Rotations in work at once.
const IN_WORK_MAX: usize = 8;
/// Pause after the first failure; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_mins(10);
/// Every sibling that any rotator reads.
const SIBLINGS: [&str; 3] = ["url", "username", "ca-cert"];
/// Shortest and longest life of a value.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24 * 3660));

/// Why a rotation failed. Its text is shown to operators and never holds a value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RotationError(String);

impl RotationError {
    fn new(text: impl std::fmt::Display) -> Self {
        Self(text.to_string())
    }
}

/// Puts new values in force somewhere else.
pub(crate) trait Rotator: Send + Sync {
    /// The value of `rotation/rotator` that means this one.
    fn name(&self) -> &'static str;

    /// Variables beside the rotated one that it reads: those it needs, then those it can do without.
    fn siblings(&self) -> (&'static [&'static str], &'static [&'static str]);

    /// The next value, made of random bytes as its annotations want it. The same for the same bytes.
    fn next(
        &self,
        annotations: &BTreeMap<String, String>,
        random: RotationBytes<'_>,
    ) -> Result<Zeroizing<String>, RotationError>;

    /// Puts the next value in force. May be asked again after it has worked: `current` may then be
    /// void already, and `next` in force.
    fn rotate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), RotationError>>;
}

/// What a rotator works with.
pub(crate) struct Target {
    /// The value in force as far as is known here.
    pub(crate) current: Zeroizing<String>,
    /// The value that is to be.
    pub(crate) next: Zeroizing<String>,
    /// The siblings' values, by the last part of their ids.
    pub(crate) siblings: BTreeMap<&'static str, Zeroizing<String>>,
}

/// How the rotation of one variable stands, as the leader tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// The variable.
    pub resource: String,
    /// Tries that have failed since the last that worked.
    pub failures: u32,
    /// Why the last one failed.
    pub error: Option<String>,
}

/// How rotations stand on this node since it leads.
#[derive(Default)]
pub struct Rotations {
    standing: Mutex<BTreeMap<ResourceId, Standing>>,
}

#[derive(Default)]
struct Standing {
    failures: u32,
    error: Option<String>,
    /// Not before this time, unless what is due is another than what was tried.
    again_at: Timestamp,
    tried: Option<Occasion>,
    in_work: bool,
}

/// What a try depends on. Where it is another than that of the try that failed, there is reason to
/// try again at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Occasion {
    version: Version,
    expires_at: Option<Timestamp>,
    annotations: Vec<String>,
    siblings: [Option<Version>; SIBLINGS.len()],
}

impl Rotations {
    /// Everything that this node has tried to rotate since it leads.
    pub fn status(&self) -> Vec<RotationStatus> {
        let standing = self.lock();
        let row = |(resource, one): (&ResourceId, &Standing)| RotationStatus {
            resource: resource.to_string(),
            failures: one.failures,
            error: one.error.clone(),
        };
        standing.iter().map(row).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ResourceId, Standing>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a variable into work, unless it is or has to wait. What has been changed by hand since
    /// the last try does not wait.
    fn take(&self, resource: &ResourceId, occasion: Occasion, now: Timestamp) -> bool {
        let mut standing = self.lock();
        let one = standing.entry(resource.clone()).or_default();
        let changed = one.tried.as_ref() != Some(&occasion);
        let free = !one.in_work && (changed || one.again_at <= now);
        if free {
            (one.in_work, one.tried) = (true, Some(occasion));
        }
        free
    }

    fn done(&self, resource: &ResourceId, failed: Option<&RotationError>, now: Timestamp) {
        let mut standing = self.lock();
        let one = standing.entry(resource.clone()).or_default();
        one.in_work = false;
        one.error = failed.map(ToString::to_string);
        if failed.is_some() {
            let pause = PAUSE_FIRST.saturating_mul(1 << one.failures.min(16)).min(PAUSE_MAX);
            one.failures = one.failures.saturating_add(1);
            one.again_at = Timestamp(now.0.saturating_add(millis(pause)));
        } else {
            (one.failures, one.again_at) = (0, now);
        }
        count_failing(&standing);
    }

    /// What is rotated no more is forgotten, and so is the failure of what is due no more: a try whose
    /// commit was not heard of may have worked.
    fn keep(&self, rotated: &BTreeMap<ResourceId, Option<Occasion>>) {
        let mut standing = self.lock();
        standing.retain(|resource, one| one.in_work || rotated.contains_key(resource));
        for (resource, one) in &mut *standing {
            let is_due = rotated.get(resource).is_some_and(Option::is_some);
            if !one.in_work && !is_due {
                *one = Standing::default();
            }
        }
        count_failing(&standing);
    }

    /// Another leads now.
    fn clear(&self) {
        let mut standing = self.lock();
        standing.clear();
        count_failing(&standing);
    }
}

fn count_failing(standing: &BTreeMap<ResourceId, Standing>) {
    let failing = standing.values().filter(|one| one.failures > 0).count();
    // A count of variables fits.
    gauge!(ROTATIONS_FAILING).set(u32::try_from(failing).unwrap_or(u32::MAX));
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What is known of a variable that is due.
struct Due {
    version: Version,
    created_at: Timestamp,
    fingerprint: conclave_domain::records::Fingerprint,
    annotations: BTreeMap<String, String>,
    current: Sealed,
    /// Values of the variables beside it, by the last part of their ids.
    siblings: BTreeMap<String, (ResourceId, Sealed)>,
}

/// Runs for as long as the node does.
pub(crate) async fn rotation(node: Arc<Node>) {
    let rotators: Arc<[Box<dyn Rotator>]> = Arc::new([Box::new(postgresql::Password)]);
    let mut work = JoinSet::new();
    loop {
        sleep(EVERY).await;
        while work.try_join_next().is_some() {}
        if node.core.raft.status().state != NodeState::Leader {
            // Only one node rotates. What is cut off here, the new leader takes up.
            work.shutdown().await;
            node.rotations.clear();
            continue;
        }
        let now = SystemClock.now();
        let rotated: BTreeMap<ResourceId, Option<Occasion>> = node.core.state.read(|view| {
            let rotated = view.state.rotated();
            rotated.map(|resource| (resource.clone(), occasion(view, resource, now))).collect()
        });
        node.rotations.keep(&rotated);
        let due: Vec<_> = rotated
            .into_iter()
            .filter_map(|(resource, occasion)| Some((resource, occasion?)))
            .collect();
        if due.is_empty() || node.core.raft.read_barrier().await.is_err() {
            continue;
        }
        for (resource, occasion) in due {
            if work.len() >= IN_WORK_MAX {
                break;
            }
            if node.rotations.take(&resource, occasion, now) {
                let (node, rotators) = (node.clone(), rotators.clone());
                work.spawn(async move { work_on(&node, &rotators, &resource).await });
            }
        }
    }
}

/// Why a variable is due, if it is. Without a value there is nothing to log in with: the first one is
/// set by hand.
fn occasion(view: &View<'_>, resource: &ResourceId, now: Timestamp) -> Option<Occasion> {
    if resource.kind() != Kind::Variable {
        return None;
    }
    let (version, record) = view.state.secret(resource)?.versions.last_key_value()?;
    if record.expires_at.is_some_and(|expires_at| expires_at > now) {
        return None;
    }
    let annotations = view.state.annotations(resource);
    Some(Occasion {
        version: *version,
        expires_at: record.expires_at,
        annotations: annotations.map(|(name, one)| format!("{name}={}", one.value)).collect(),
        siblings: SIBLINGS.map(|name| {
            let secret = view.state.secret(&sibling(resource, name).ok()?)?;
            secret.versions.last_key_value().map(|(version, _)| *version)
        }),
    })
}

/// The variable of that name in the same folder.
fn sibling(resource: &ResourceId, name: &str) -> Result<ResourceId, RotationError> {
    let identifier = match resource.identifier().rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    };
    ResourceId::new(resource.account().clone(), Kind::Variable, &identifier)
        .map_err(RotationError::new)
}

async fn work_on(node: &Node, rotators: &[Box<dyn Rotator>], resource: &ResourceId) {
    // A rotator that panics has failed like any other: its variable may not stay in work for ever.
    let trial = AssertUnwindSafe(rotate(node, rotators, resource)).catch_unwind();
    let result = match timeout(DEADLINE, trial).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(RotationError::new("the rotator has a fault; see the log")),
        Err(_elapsed) => Err(RotationError::new("it took too long")),
    };
    let now = SystemClock.now();
    let outcome = if result.is_ok() { "success" } else { "failure" };
    counter!(ROTATIONS, "outcome" => outcome).increment(1);
    let failed = result.err();
    match &failed {
        None => tracing::info!(%resource, "rotation.done"),
        Some(error) => tracing::warn!(%resource, %error, "rotation.failed; it will be tried again"),
    }
    node.rotations.done(resource, failed.as_ref(), now);
    record(&node.spool, resource, failed.as_ref(), now).await;
}

async fn record(
    spool: &Spool,
    resource: &ResourceId,
    failed: Option<&RotationError>,
    at: Timestamp,
) {
    let (outcome, severity, message) = match failed {
        None => (Outcome::Success, Severity::Info, format!("conclave rotated {resource}")),
        Some(error) => {
            let message = format!("conclave tried to rotate {resource}: {error}");
            (Outcome::Failure, Severity::Warning, message)
        }
    };
    let record = Record {
        at,
        request_id: String::new(),
        message_id: "update",
        operation: "rotate".into(),
        outcome,
        severity,
        user: None,
        authenticator: None,
        service: None,
        subject: vec![("resource".into(), resource.to_string())],
        client_ip: String::new(),
        policy: None,
        message,
    };
    if let Err(error) = spool.append(&[record]).await {
        tracing::error!(%error, %resource, "rotation.audit");
    }
}

async fn rotate(
    node: &Node,
    rotators: &[Box<dyn Rotator>],
    resource: &ResourceId,
) -> Result<(), RotationError> {
    let due = look(node, resource)?;
    let wanted = due.annotations.get(ROTATOR).map(String::as_str).unwrap_or_default();
    let rotator = rotators.iter().find(|one| one.name() == wanted).ok_or_else(|| {
        let known: Vec<_> = rotators.iter().map(|one| one.name()).collect();
        RotationError::new(format!("there is no rotator {wanted:?}; there is {}", known.join(", ")))
    })?;
    let ttl = ttl(&due.annotations)?;
    let vault =
        node.core.vault.load_full().ok_or_else(|| RotationError::new("this node is sealed"))?;
    let open = |resource: &ResourceId, sealed: &Sealed| open(&vault, resource, sealed);
    let mut siblings = BTreeMap::new();
    let (needed, useful) = rotator.siblings();
    for name in needed.iter().chain(useful) {
        match due.siblings.get(*name) {
            Some((id, sealed)) => {
                siblings.insert(*name, open(id, sealed)?);
            }
            None if needed.contains(name) => {
                return Err(RotationError::new(format!(
                    "the variable {name} beside it has no value"
                )));
            }
            None => {}
        }
    }
    let mut seed = due.created_at.0.to_be_bytes().to_vec();
    seed.extend_from_slice(&due.fingerprint.0);
    let random = vault.rotation_bytes(resource, due.version, &seed);
    let next = rotator.next(&due.annotations, random)?;
    let target = Target { current: open(resource, &due.current)?, next, siblings };
    rotator.rotate(&target).await?;
    let secret = Secret::new(target.next.as_bytes().to_vec());
    let value = vault.seal(resource, &secret).map_err(RotationError::new)?;
    let fingerprint = vault.fingerprint(resource, &secret);
    let expires_at = Timestamp(SystemClock.now().0.saturating_add(millis(ttl)));
    let command = Command::RotateSecret {
        resource: resource.clone(),
        after: due.version,
        value,
        fingerprint,
        expires_at,
    };
    propose(&node.core.raft, command).await.map(drop).map_err(RotationError::new)
}

fn open(
    vault: &Vault,
    resource: &ResourceId,
    sealed: &Sealed,
) -> Result<Zeroizing<String>, RotationError> {
    let secret = vault.open(resource, sealed).map_err(RotationError::new)?;
    match std::str::from_utf8(secret.expose_secret()) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(RotationError::new(format!("the value of {resource} is no text"))),
    }
}

fn ttl(annotations: &BTreeMap<String, String>) -> Result<Duration, RotationError> {
    let text = annotations
        .get(TTL)
        .ok_or_else(|| RotationError::new(format!("the annotation {TTL} is missing")))?;
    let ttl = duration::parse(text)
        .filter(|ttl| (TTL_BOUNDS.0..=TTL_BOUNDS.1).contains(ttl))
        .ok_or_else(|| {
            RotationError::new(format!("{TTL} = {text:?} is no duration such as P1D"))
        })?;
    Ok(ttl)
}

/// Reads all that a rotation needs from one view.
fn look(node: &Node, resource: &ResourceId) -> Result<Due, RotationError> {
    node.core.state.read(|view| {
        let gone = || RotationError::new("it has no value any more");
        let secret = view.state.secret(resource).ok_or_else(gone)?;
        let (version, record) = secret.versions.last_key_value().ok_or_else(gone)?;
        let value = |id: &ResourceId, version: Version| {
            view.secret_value(id, version).map_err(RotationError::new)
        };
        let annotations = view
            .state
            .annotations(resource)
            .map(|(name, annotation)| (name.to_owned(), annotation.value.clone()))
            .collect();
        let mut siblings = BTreeMap::new();
        for name in SIBLINGS {
            let id = sibling(resource, name)?;
            let newest = view.state.secret(&id).and_then(|secret| secret.versions.last_key_value());
            if let Some((version, _)) = newest
                && let Some(sealed) = value(&id, *version)?
            {
                siblings.insert(name.to_owned(), (id, sealed));
            }
        }
        Ok(Due {
            version: *version,
            created_at: record.created_at,
            fingerprint: record.fingerprint,
            annotations,
            current: value(resource, *version)?.ok_or_else(gone)?,
            siblings,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable() -> ResourceId {
        "demo:variable:db/password".parse().unwrap()
    }

    fn occasion(version: u32) -> Occasion {
        Occasion {
            version: Version(version),
            expires_at: None,
            annotations: Vec::new(),
            siblings: [None; SIBLINGS.len()],
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    #[test]
    fn a_failure_is_told_and_waits_ever_longer() {
        let (rotations, resource) = (Rotations::default(), variable());
        let error = RotationError::new("no such host");
        let mut pauses = Vec::new();
        let mut now = 0;
        for failures in 1..=12 {
            assert!(rotations.take(&resource, occasion(1), at(now)));
            assert!(!rotations.take(&resource, occasion(2), at(now)), "it is in work");
            rotations.done(&resource, Some(&error), at(now));
            let status = RotationStatus {
                resource: resource.to_string(),
                failures,
                error: Some("no such host".to_owned()),
            };
            assert_eq!(rotations.status(), [status]);
            let begun = now;
            while !rotations.take(&resource, occasion(1), at(now)) {
                now += 1;
            }
            pauses.push(now - begun);
            rotations.lock().get_mut(&resource).unwrap().in_work = false;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]);
    }

    #[test]
    fn what_was_changed_by_hand_does_not_wait_and_what_is_due_no_more_is_no_failure() {
        let (rotations, resource) = (Rotations::default(), variable());
        let error = RotationError::new("refused");
        for version in 1..=3 {
            assert!(rotations.take(&resource, occasion(version), at(0)));
            rotations.done(&resource, Some(&error), at(0));
            assert!(!rotations.take(&resource, occasion(version), at(1)));
        }
        assert_eq!(rotations.status()[0].failures, 3);
        rotations.keep(&[(resource.clone(), Some(occasion(3)))].into());
        assert_eq!(rotations.status()[0].failures, 3);
        rotations.keep(&[(resource.clone(), None)].into());
        assert_eq!((rotations.status()[0].failures, &rotations.status()[0].error), (0, &None));
        rotations.keep(&BTreeMap::new());
        assert!(rotations.status().is_empty());
    }

    #[test]
    fn siblings_lie_in_the_same_folder() {
        let beside = |text: &str| sibling(&text.parse().unwrap(), "url").unwrap().to_string();
        assert_eq!(beside("demo:variable:a/b/password"), "demo:variable:a/b/url");
        assert_eq!(beside("demo:variable:password"), "demo:variable:url");
    }

    #[test]
    fn a_life_has_a_length() {
        let life = |text: Option<&str>| {
            ttl(&text.map(|text| (TTL.to_owned(), text.to_owned())).into_iter().collect())
        };
        assert_eq!(life(Some("PT1M")).unwrap(), Duration::from_mins(1));
        assert!(life(None).unwrap_err().to_string().contains("missing"));
        for bad in ["PT0S", "P9999W", "daily"] {
            assert!(life(Some(bad)).unwrap_err().to_string().contains(bad));
        }
    }
}
