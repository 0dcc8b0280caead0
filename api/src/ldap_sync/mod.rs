//! LDAP Sync: people and groups of a directory become users and groups of a policy, one way, without
//! passwords.
//!
//! ```text
//! profile (policy) → directory, in pages → what it holds → what of that is not so yet, as policy text
//!   → planned as any load is → guard → loaded with the rights of the profile's owner → remembered
//! ```
//! All of the directory's answer is there before anything is changed, and one load changes it: a run
//! that fails changes nothing. It can be run at any time and on any node; when two run at once, the
//! second finds nothing to do. Runs are remembered as versions of the profile's variable `runs`, so
//! whoever leads knows when the next one is due. What the schedule runs is recorded before it is remembered:
//! each such run in the history is in the audit trail, too.

mod dn;
mod holding;
mod profile;
mod proposal;
mod ssh_keys;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::command::{Actor, Command, Envelope, LoadMode};
use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, ResourceId};
use conclave_domain::outcome::{Outcome, Rejection};
use conclave_domain::policy::{self, Comparison, LoadRequest, Plan, Rules, Step};
use conclave_domain::rbac;
use conclave_domain::records::RequestId;
use conclave_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::holding::{Entry, Holding, Skipped};
use self::profile::Profile;
use self::proposal::Proposal;
use crate::audit::Deed;
use crate::authn::directory::Trouble;
use crate::credentials::{hex, random};
use crate::door::Door;
use crate::error::Refusal;
use crate::ports::{Part, Secret, StateStore};
use crate::read::patiently;
use crate::routes::policies::{load, records};
use crate::token::sha256;
use crate::wire::time::milliseconds;

/// How long a run of the schedule may take.
const RUN_TIME_MAX: Duration = Duration::from_mins(5);
/// How long a load is given in any case, so that what was read for long is not thrown away.
const LOAD_TIME_MIN: Duration = Duration::from_secs(10);
/// How often a run is planned anew when others change the account at the same time.
const PLANS_MAX: usize = 8;
/// So many rows are compared with the state before it is let go of for a moment.
const PIECE_ROWS: usize = 2_000;
/// Longest reason that is remembered of a run, in bytes.
const REASON_BYTES_MAX: usize = 2048;
/// Runs tried, by outcome.
pub(crate) const RUNS: &str = "conclave_ldap_sync_runs_total";

/// Why a run came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no such profile.
    Missing,
    /// The profile cannot be used as it is.
    Unfit(String),
    /// The directory gave no answer of use.
    Directory(Trouble),
    /// It would take too much away.
    Guarded(String),
    /// Whatever else the door refuses.
    Door(Refusal),
}

impl Failure {
    pub(crate) fn refusal(self, webservice: &ResourceId) -> Refusal {
        match self {
            Self::Missing => Refusal::missing(webservice),
            Self::Unfit(text) => Refusal::Unprocessable(text),
            Self::Directory(Trouble { why, is_slow }) => {
                Refusal::Directory { is_slow, message: format!("the directory: {why}") }
            }
            Self::Guarded(text) => Refusal::Guarded(text),
            Self::Door(refusal) => refusal,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Door(refusal)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    /// Something was changed.
    Applied,
    /// All was so already.
    Unchanged,
    /// The guard stopped it; nothing was changed.
    Stopped,
    /// It failed; nothing was changed, or nobody knows.
    Failed,
}

impl Ending {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What is remembered of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// When it began.
    pub(crate) at: String,
    /// Who had it run; `schedule` for nobody.
    pub(crate) by: String,
    pub(crate) outcome: Ending,
    /// Why it was stopped or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What the directory holds.
    pub(crate) people: usize,
    pub(crate) groups: usize,
    pub(crate) skipped: usize,
    /// What was changed.
    pub(crate) created: usize,
    pub(crate) updated: usize,
    pub(crate) removed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy_version: Option<u32>,
}

/// What a run would do, planned on the state as it is.
pub(crate) struct Draft {
    proposal: Proposal,
    /// Nothing when all is so already.
    plan: Option<Plan>,
    created: Vec<ResourceId>,
    updated: Vec<ResourceId>,
    deleted: Vec<ResourceId>,
}

impl Draft {
    fn new(proposal: Proposal, plan: Option<Plan>) -> Self {
        let changes = plan.as_ref().map_or(&[][..], |plan| plan.changes.as_slice());
        let of = |pick: fn(&Event) -> Option<&ResourceId>| -> BTreeSet<ResourceId> {
            changes.iter().filter_map(pick).cloned().collect()
        };
        let created = of(|change| {
            let Event::ResourceAdded { resource, .. } = change else { return None };
            Some(resource)
        });
        let deleted = of(|change| {
            let Event::ResourceRemoved { resource } = change else { return None };
            Some(resource)
        });
        let updated = of(|change| {
            if let Event::MembershipAdded { key, .. } | Event::MembershipRemoved { key } = change {
                return Some(&key.role);
            }
            let (Event::AnnotationSet { resource, .. }
            | Event::OwnerChanged { resource, .. }
            | Event::RestrictionChanged { role: resource, .. }) = change
            else {
                return None;
            };
            Some(resource)
        });
        let updated = updated
            .into_iter()
            .filter(|id| !created.contains(id) && !deleted.contains(id))
            .collect();
        let plan = plan.filter(|plan| !plan.changes.is_empty());
        let (created, deleted) = (created.into_iter().collect(), deleted.into_iter().collect());
        Self { proposal, plan, created, updated, deleted }
    }

    /// For people and programs.
    pub(crate) fn document(&self) -> Value {
        let names =
            |ids: &[ResourceId]| -> Vec<String> { ids.iter().map(ToString::to_string).collect() };
        let proposal = &self.proposal;
        let mut document = json!({
            "ok": true,
            "policy": proposal.policy,
            "changes": if self.plan.is_some() { proposal.changes.as_str() } else { "" },
            "created": names(&self.created),
            "updated": names(&self.updated),
            "deleted": names(&self.deleted),
            "removed": names(&proposal.removed),
            "revoked": proposal.revoked,
            "people": proposal.people,
            "groups": proposal.groups,
            "skipped": proposal.skipped,
            "unknown_members": proposal.unknown_members,
        });
        if let Some(guard) = &proposal.guard {
            document["guard"] = guard.as_str().into();
        }
        document
    }

    /// The whole policy.
    pub(crate) fn policy(&self) -> &str {
        &self.proposal.policy
    }

    /// What was left out, and why.
    pub(crate) fn skipped(&self) -> &[Skipped] {
        &self.proposal.skipped
    }

    /// Sentences on what was found.
    pub(crate) fn summary(&self) -> String {
        let Proposal { people, groups, skipped, .. } = &self.proposal;
        format!("{people} users, {groups} groups, {} left out", skipped.len())
    }
}

/// The webservice that stands for a profile.
pub(crate) fn webservice(account: &AccountName, name: &str) -> Option<ResourceId> {
    profile::webservice(account, name)
}

/// A profile, and what its directory held when it was asked.
pub(crate) struct Found {
    profile: Arc<Profile>,
    holding: Arc<Holding>,
}

/// The first half of a run, which changes nothing and may be cut off: asks the directory.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn ask(
    door: &Door,
    webservice: &ResourceId,
    deadline: Instant,
) -> Result<Found, Failure> {
    let profile = Arc::new(Profile::read(door, webservice)?);
    let asking = tokio::time::timeout_at(deadline, fetch(door, &profile)).await;
    let holding = Arc::new(asking.unwrap_or_else(|_elapsed| {
        let why = "it did not give all in time".to_owned();
        Err(Failure::Directory(Trouble { why, is_slow: true }))
    })?);
    Ok(Found { profile, holding })
}

/// What a run would do now.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn look(
    door: &Arc<Door>,
    webservice: &ResourceId,
    deadline: Instant,
) -> Result<Draft, Failure> {
    let Found { profile, holding } = ask(door, webservice, deadline).await?;
    draft(door, &profile, &holding).await
}

/// Asks the directory.
async fn fetch(door: &Door, profile: &Profile) -> Result<Holding, Failure> {
    let outbound = &door.registry.outbound;
    let mut session = profile.directory.open(outbound).await.map_err(Failure::Directory)?;
    let (of_people, of_groups) = profile.attributes();
    let mut found = Vec::with_capacity(2);
    for ((base, filter), attributes) in [(&profile.people, of_people), (&profile.groups, of_groups)]
    {
        let listing = session.list(outbound, base, filter, &attributes, profile.page).await;
        let entries = listing.map_err(Failure::Directory)?.into_iter().map(|found| {
            let attributes: HashMap<String, Vec<String>> =
                found.attrs.into_iter().map(|(name, all)| (name.to_lowercase(), all)).collect();
            if let Some(name) = attributes.keys().find(|name| name.contains(";range=")) {
                let why = format!("it gives {} only in ranges ({name})", found.dn);
                return Err(Failure::Directory(Trouble { why, is_slow: false }));
            }
            Ok(Entry { dn: found.dn, attributes })
        });
        found.push(entries.collect::<Result<Vec<_>, _>>()?);
    }
    let groups = found.pop().unwrap_or_default();
    let people = found.pop().unwrap_or_default();
    Ok(Holding::read(&profile.mapping, &people, &groups))
}

/// Compares what the directory holds with the state that is here now.
async fn draft(
    door: &Arc<Door>,
    profile: &Arc<Profile>,
    holding: &Arc<Holding>,
) -> Result<Draft, Failure> {
    let (state, profile, holding) = (door.state.clone(), profile.clone(), holding.clone());
    let rules = {
        let settings = door.settings();
        Rules { dynamic_secrets: settings.dynamic_secrets_enabled, ..settings.policy_rules }
    };
    let work = move || {
        let proposal = state.read(|view| {
            let state = view.state;
            if state.resource(&profile.branch).is_none() && profile.branch.identifier() != "root" {
                return Err(Failure::Unfit(format!(
                    "there is no policy {}: declare it, for {} to update",
                    profile.branch.identifier(),
                    profile.owner
                )));
            }
            if !rbac::is_allowed(state, &profile.owner, "update", &profile.branch) {
                return Err(Failure::Unfit(format!(
                    "{}, who owns the profile, may not update {}: make it the owner, or permit it to",
                    profile.owner, profile.branch
                )));
            }
            Ok(proposal::propose(state, &profile, &holding))
        })?;
        let plan = if proposal.changes.is_empty() {
            None
        } else {
            Some(plan(&state, &profile, &proposal.changes, rules)?)
        };
        Ok(Draft::new(proposal, plan))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::Fault(format!("planning a run: {error}")))?
}

/// Plans a load of the text.
fn plan(state: &StateStore, profile: &Profile, text: &str, rules: Rules) -> Result<Plan, Failure> {
    let target = &profile.branch;
    let request =
        LoadRequest { policy: target, mode: LoadMode::Update, text, actor: &profile.owner, rules };
    let refused = |error| Failure::Unfit(format!("what was generated cannot be loaded: {error}"));
    'text: loop {
        let owner =
            state.read(|view| policy::owner_of_target(view.state, target)).map_err(refused)?;
        let prepared = policy::prepare(&request, &owner).map_err(refused)?;
        let mut comparison = Comparison::new(&prepared);
        loop {
            let step = state.read(|view| {
                let same = policy::owner_of_target(view.state, target) == Ok(owner.clone());
                same.then(|| comparison.advance(view.state, PIECE_ROWS))
            });
            match step {
                None => continue 'text,
                Some(Ok(Step::Further | Step::Moved)) => {}
                Some(Ok(Step::Done(plan))) => return Ok(*plan),
                Some(Err(error)) => return Err(refused(error)),
            }
        }
    }
}

/// Who has a profile run, and how.
pub(crate) struct Order {
    pub(crate) webservice: ResourceId,
    /// Whether it may take away more than the guard allows.
    pub(crate) force: bool,
    /// As it stands in records.
    pub(crate) by: String,
    pub(crate) client_ip: String,
    pub(crate) at: Timestamp,
    pub(crate) deadline: Instant,
}

/// The second half of a run: changes what is to be changed, and tells what is to be recorded of that. What has
/// begun here has to be brought to its end, or a change is in no record.
pub(crate) async fn conclude(
    door: &Arc<Door>,
    order: &Order,
    found: Result<Found, Failure>,
) -> (Run, Vec<Deed>, Result<(), Failure>) {
    let mut run = Run {
        at: milliseconds(order.at),
        by: order.by.clone(),
        outcome: Ending::Failed,
        reason: None,
        people: 0,
        groups: 0,
        skipped: 0,
        created: 0,
        updated: 0,
        removed: 0,
        policy_version: None,
    };
    let mut deeds = Vec::new();
    let result = match found {
        Ok(found) => carry_out(door, order, &found, &mut run, &mut deeds).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &result {
        let guarded = matches!(failure, Failure::Guarded(_));
        run.outcome = if guarded { Ending::Stopped } else { Ending::Failed };
        run.reason = Some(reason(failure));
    }
    let (outcome, webservice) = (run.outcome.as_str(), &order.webservice);
    metrics::counter!(RUNS, "outcome" => outcome).increment(1);
    match &run.reason {
        None => tracing::info!(%webservice, outcome, by = %run.by, "ldap_sync.run"),
        Some(reason) => {
            tracing::warn!(%webservice, outcome, by = %run.by, %reason, "ldap_sync.run");
        }
    }
    (run, deeds, result)
}

fn reason(failure: &Failure) -> String {
    let mut text = match failure {
        Failure::Missing => "there is no such profile".to_owned(),
        Failure::Unfit(text) | Failure::Guarded(text) => text.clone(),
        Failure::Directory(trouble) => format!("the directory: {}", trouble.why),
        Failure::Door(refusal) => refusal.reason().into_owned(),
    };
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

async fn carry_out(
    door: &Arc<Door>,
    order: &Order,
    found: &Found,
    run: &mut Run,
    deeds: &mut Vec<Deed>,
) -> Result<(), Failure> {
    let Found { profile, holding } = found;
    let deadline = order.deadline.max(Instant::now() + LOAD_TIME_MIN);
    let vault = door.vault()?;
    for _ in 0..PLANS_MAX {
        let barrier = tokio::time::timeout_at(deadline, door.proposer.read_barrier()).await;
        barrier
            .map_err(|_elapsed| Refusal::unavailable("no leader could confirm the state"))?
            .map_err(Refusal::from)?;
        let draft = draft(door, profile, holding).await?;
        let proposal = &draft.proposal;
        (run.people, run.groups) = (proposal.people, proposal.groups);
        run.skipped = proposal.skipped.len();
        if let Some(why) = proposal.guard.as_ref().filter(|_| !order.force) {
            return Err(Failure::Guarded(why.clone()));
        }
        let (created, updated) = (draft.created.len(), draft.updated.len());
        let removed = proposal.removed.len();
        let Draft { proposal, plan, .. } = draft;
        let Some(plan) = plan else {
            run.outcome = Ending::Unchanged;
            return Ok(());
        };
        let based_on = plan.based_on;
        let (changes, _keys) = load::complete(door, &vault, plan).await?;
        let done = records::of(&order.by, &profile.branch, &changes);
        let command = Command::LoadPolicy {
            policy: profile.branch.clone(),
            mode: LoadMode::Update,
            text_sha256: hex(&sha256(proposal.changes.as_bytes())),
            text: proposal.changes,
            changes,
            based_on,
        };
        match propose(door, order, profile, command, deadline).await? {
            Ok(Outcome::PolicyLoaded { version }) => {
                *deeds = done;
                for deed in deeds.iter_mut() {
                    deed.policy = Some((profile.branch.to_string(), version));
                }
                run.outcome = Ending::Applied;
                (run.created, run.updated, run.removed) = (created, updated, removed);
                run.policy_version = Some(version);
                return Ok(());
            }
            Ok(other) => {
                return Err(Refusal::Fault(format!("a policy load was answered {other:?}")).into());
            }
            // Somebody else was faster: look again.
            Err(Rejection::Stale { .. }) => {}
            Err(rejection) => return Err(Failure::Unfit(rejection.to_string())),
        }
    }
    Err(Refusal::PolicyConflict { retry_after: 1 }.into())
}

async fn propose(
    door: &Door,
    order: &Order,
    profile: &Profile,
    body: Command,
    deadline: Instant,
) -> Result<conclave_domain::outcome::Reply, Failure> {
    let mut id = [0_u8; 16];
    random(&mut id).map_err(Refusal::from)?;
    let envelope = Envelope {
        request_id: RequestId(id),
        actor: Actor::Role(profile.owner.clone()),
        at: order.at,
        client_ip: order.client_ip.clone(),
        body,
    };
    Ok(door.propose(&envelope, deadline).await?.1)
}

/// Adds a run to those that are remembered, where policy has the variable for it. What stands in the way is
/// told in the log: the run is over.
pub(crate) async fn remember(door: &Arc<Door>, order: &Order, run: &Run) {
    if let Err(failure) = keep(door, order, run).await {
        let (webservice, reason) = (&order.webservice, reason(&failure));
        tracing::warn!(%webservice, %reason, "ldap_sync.run is not remembered");
    }
}

async fn keep(door: &Arc<Door>, order: &Order, run: &Run) -> Result<(), Failure> {
    let found = patiently(&door.state, |view| {
        let owner = view.state.resource(&order.webservice).map(|one| one.owner.clone())?;
        Some((profile::runs(view.state, &order.webservice)?, owner))
    });
    let Some((runs, owner)) = found else { return Ok(()) };
    let vault = door.vault()?;
    let text = serde_json::to_vec(run).map_err(|error| Refusal::Fault(error.to_string()))?;
    let secret = Secret::new(text);
    let value = vault
        .seal(&runs, &secret)
        .map_err(|fault| Refusal::Fault(format!("sealing {runs}: {fault}")))?;
    let fingerprint = vault.fingerprint(&runs, &secret);
    let mut id = [0_u8; 16];
    random(&mut id).map_err(Refusal::from)?;
    let envelope = Envelope {
        request_id: RequestId(id),
        actor: Actor::Role(owner),
        at: order.at,
        client_ip: order.client_ip.clone(),
        body: Command::SetSecret { resource: runs, value, fingerprint },
    };
    let deadline = order.deadline.max(Instant::now() + LOAD_TIME_MIN);
    match door.propose(&envelope, deadline).await?.1 {
        Ok(_) => Ok(()),
        Err(rejection) => Err(Failure::Unfit(rejection.to_string())),
    }
}

/// The runs that are remembered, the last one first. What somebody else has put there is passed over.
///
/// # Errors
/// [`Failure`].
pub(crate) fn history(door: &Door, webservice: &ResourceId) -> Result<Vec<Run>, Failure> {
    let sealed = patiently(&door.state, |view| {
        if view.state.resource(webservice).is_none() {
            return Err(Failure::Missing);
        }
        let Some(runs) = profile::runs(view.state, webservice) else {
            return Err(Failure::Unfit(format!(
                "no run of it is remembered: declare a variable `runs` beside {webservice}"
            )));
        };
        let versions = view.state.secret(&runs).into_iter().flat_map(|one| one.versions.iter());
        let mut sealed = Vec::new();
        for (version, _) in versions {
            let value = view.secret_value(&runs, *version);
            sealed.extend(value.map_err(|fault| Refusal::Fault(format!("{runs}: {fault}")))?);
        }
        sealed.reverse();
        Ok((runs, sealed))
    });
    let (runs, sealed) = sealed?;
    let vault = door.vault()?;
    let mut all = Vec::with_capacity(sealed.len());
    for value in &sealed {
        let secret = vault
            .open(&runs, value)
            .map_err(|fault| Refusal::Fault(format!("value of {runs}: {fault}")))?;
        all.extend(serde_json::from_slice::<Run>(secret.expose_secret()).ok());
    }
    Ok(all)
}

/// A profile that runs by itself, and is due.
#[derive(Debug, Clone)]
pub struct Due {
    /// The webservice that stands for it.
    pub webservice: ResourceId,
    /// How often it runs.
    pub every: Duration,
}

impl Door {
    /// The profiles of LDAP Sync that are due, as far as this node's state tells. One whose schedule
    /// cannot be read is due once an hour, and its run then says so.
    pub fn ldap_syncs_due(&self) -> Vec<Due> {
        const UNREADABLE: Duration = Duration::from_hours(1);
        let now = self.clock.now();
        patiently(&self.state, |view| {
            let accounts = view.state.accounts().map(|(name, _)| name);
            let profiles = accounts.flat_map(|account| profile::all(view.state, account));
            let due = profiles.filter_map(|webservice| {
                let every = profile::schedule(view.state, webservice)?.unwrap_or(UNREADABLE);
                let last = profile::runs(view.state, webservice).and_then(|runs| {
                    let versions = &view.state.secret(&runs)?.versions;
                    versions.last_key_value().map(|(_, version)| version.created_at)
                });
                let millis = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
                let is_due = last.is_none_or(|last| last.0.saturating_add(millis) <= now.0);
                is_due.then(|| Due { webservice: webservice.clone(), every })
            });
            due.collect()
        })
    }

    /// Runs a profile as its schedule wants it, records that and remembers it. While the directory is asked it
    /// may be cut off; what comes then goes on to its end by itself.
    pub async fn ldap_sync(self: &Arc<Self>, webservice: &ResourceId) {
        let order = Order {
            webservice: webservice.clone(),
            force: false,
            by: "schedule".to_owned(),
            client_ip: String::new(),
            at: self.clock.now(),
            deadline: Instant::now() + RUN_TIME_MAX,
        };
        let fit = patiently(&self.state, |view| match profile::schedule(view.state, webservice) {
            Some(Err(failure)) => Err(failure),
            _ if profile::runs(view.state, webservice).is_none() => Err(Failure::Unfit(format!(
                "a schedule needs a variable `runs` beside {webservice}, to remember runs in"
            ))),
            _ => Ok(()),
        });
        let found = match fit {
            Ok(()) => ask(self, webservice, order.deadline).await,
            Err(failure) => Err(failure),
        };
        if self.proposer.part() != Part::Leader {
            // To whoever leads now it is due as well.
            return;
        }
        let door = self.clone();
        let concluding = tokio::spawn(async move {
            let (run, deeds, _) = conclude(&door, &order, found).await;
            let webservice = &order.webservice;
            let records = std::iter::once((deed(webservice, "conclave"), run.reason.as_deref()))
                .chain(deeds.into_iter().map(|deed| (deed, None)))
                .map(|(deed, reason)| deed.record(order.at, "", "", reason));
            if let Err(error) = door.spool.append(&records.collect::<Vec<_>>()).await {
                tracing::error!(%error, %webservice, "ldap_sync.audit");
            }
            remember(&door, &order, &run).await;
        });
        if let Err(error) = concluding.await {
            tracing::error!(%error, %webservice, "ldap_sync.run ended");
        }
    }
}

/// What is recorded of a run as such.
pub(crate) fn deed(webservice: &ResourceId, user: &str) -> Deed {
    Deed {
        message_id: "ldap-sync",
        operation: "run".into(),
        user: Some(user.to_owned()),
        subject: vec![("resource".into(), webservice.to_string())],
        did: format!("{user} ran {webservice}"),
        tried: format!("{user} tried to run {webservice}"),
        ..Deed::default()
    }
}
