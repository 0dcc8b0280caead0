//! `POST`, `PATCH` and `PUT /policies/{account}/policy/{id}`: a policy text, planned here on one view
//! and committed as planned; when the account has moved in between, it is planned again. Loads of one
//! account queue for a while, then are told to come again.

use std::sync::Arc;

use conclave_domain::command::{Actor, Command, LoadMode};
use conclave_domain::effect::Row;
use conclave_domain::event::Event;
use conclave_domain::id::{Id, ResourceId, RoleId};
use conclave_domain::outcome::{Outcome, Rejection};
use conclave_domain::policy::{
    self, Code, Comparison, Ignored, LoadRequest, Plan, PolicyError, Prepared, Rules, Step,
};
use conclave_domain::rbac;
use conclave_domain::records::{NewApiKey, Version};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{dry_run, records};
use crate::audit::Deed;
use crate::authz;
use crate::context::{Answer, Call, wiped_bytes};
use crate::credentials::{api_key_digest, hex, new_api_key, random, seal_api_key};
use crate::door::Door;
use crate::error::Refusal;
use crate::ports::{Secret, Vault, View};
use crate::token::{Verified, sha256};
use crate::wire::json;

/// How often a load is planned before the client is asked to try again.
const PLANS_MAX: usize = 8;
/// A text larger than this is planned off the reactor.
const LARGE_TEXT_BYTES: usize = 16 << 10;
/// So many rows are compared with the state before it is let go of for a moment.
const PIECE_ROWS: usize = 2_000;
/// The header that lists what an append left alone.
const IGNORED: HeaderName = HeaderName::from_static("x-conclave-ignored-changes");
/// Longest value of that header, give or take the count of what did not fit.
const IGNORED_BYTES_MAX: usize = 4 << 10;
/// What would end an item of a header, or does not belong into one.
const NOT_IN_HEADERS: &AsciiSet = &CONTROLS.add(b',').add(b'%');

pub(crate) async fn append(call: &mut Call) -> Result<Answer, Refusal> {
    load(call, LoadMode::Append).await
}

pub(crate) async fn update(call: &mut Call) -> Result<Answer, Refusal> {
    load(call, LoadMode::Update).await
}

pub(crate) async fn replace(call: &mut Call) -> Result<Answer, Refusal> {
    load(call, LoadMode::Replace).await
}

async fn load(call: &mut Call, mode: LoadMode) -> Result<Answer, Refusal> {
    let target = call.id()?;
    let dry =
        call.query.value("dryRun").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    let operation = match (dry, mode) {
        (true, _) => "validate",
        (false, LoadMode::Append) => "create",
        (false, LoadMode::Update | LoadMode::Replace) => "update",
    };
    let user = call.user();
    call.deeds.push(Deed {
        message_id: "policy",
        operation: operation.into(),
        user: Some(user.clone()),
        subject: vec![("policy".into(), target.to_string())],
        policy: Some((target.to_string(), 0)),
        did: format!("{user} validated policy {target}"),
        tried: "Failed to load policy".to_owned(),
        ..Deed::default()
    });
    // Who may not load is told so before the text is read.
    call.check_write(|view, caller| check(view, caller, &target, mode)).await?;
    let bytes_max = call.door.settings().policy_bytes_max;
    let text = call.take_body(bytes_max).await?;
    let text = String::from_utf8(text.to_vec()).map_err(|_not_text| Refusal::Policy {
        message: "policy_text is not valid UTF-8".to_owned(),
        place: None,
    })?;
    let text: Arc<str> = text.into();
    if dry {
        call.barrier().await?;
        let planned = plan(call, &target, mode, &text, true, &mut None).await?;
        return dry_run::answer(planned, &target);
    }
    let command_id = call.command_id(&sha256(text.as_bytes()))?;
    let text_sha256 = hex(&sha256(text.as_bytes()));
    let vault = call.door.vault()?;
    let actor = Actor::Role(call.caller()?.role.clone());
    // One load of an account at a time on this node: two would only make each other plan again.
    let turns = call.door.policy_turns.clone();
    let wait_max = call.door.settings().policy_wait_max;
    let Some(_turn) = turns.take(target.account(), wait_max).await else {
        return Err(conflict()?);
    };
    let mut prepared = None;
    for _ in 0..PLANS_MAX {
        call.barrier_in_any_case().await?;
        // Refusals are given anew: what stood in the way may be gone.
        if let Some(Ok(Outcome::PolicyLoaded { version })) = call.answered_before(&command_id)? {
            call.deeds = records::of(&user, &target, &[]);
            for deed in &mut call.deeds {
                deed.policy = Some((target.to_string(), version));
            }
            let told = keys_of(call, &vault, &target, version)?;
            return Ok(answer(&told, version, &[]));
        }
        let planned = plan(call, &target, mode, &text, false, &mut prepared).await?;
        let plan = planned.outcome.map_err(|error| refusal(&error))?;
        let (warnings, ignored) = (plan.warnings.clone(), plan.ignored.clone());
        let based_on = plan.based_on;
        let (changes, keys) = complete(&call.door, &vault, plan).await?;
        let deeds = records::of(&user, &target, &changes);
        let command = Command::LoadPolicy {
            policy: target.clone(),
            mode,
            text: text.to_string(),
            text_sha256: text_sha256.clone(),
            changes,
            based_on,
        };
        match call.propose(command_id, actor.clone(), command).await? {
            Ok(Outcome::PolicyLoaded { version }) => {
                call.deeds = deeds;
                for deed in &mut call.deeds {
                    deed.policy = Some((target.to_string(), version));
                }
                let mut told = keys;
                if call.is_repeatable() {
                    call.wait_for_seen(call.index).await?;
                    // Where two of the same request met, the other one's keys are in force.
                    if told.is_empty() || !are_in_force(call, &told)? {
                        told = keys_of(call, &vault, &target, version)?;
                    }
                }
                let answer = answer(&told, version, &warnings);
                let shown = call.door.settings().ignored_changes_header && !ignored.is_empty();
                return Ok(if shown {
                    answer.header(IGNORED, ignored_value(&ignored))
                } else {
                    answer
                });
            }
            Ok(other) => {
                return Err(Refusal::Fault(format!("a policy load was answered {other:?}")));
            }
            Err(Rejection::Stale { planned, current }) => {
                tracing::debug!(?planned, ?current, %target, "policy.load planned again");
            }
            Err(Rejection::Invalid(message)) => {
                return Err(Refusal::Policy { message, place: None });
            }
            Err(rejection) => return Err(rejection.into()),
        }
    }
    Err(conflict()?)
}

/// Whether the state holds these very keys.
fn are_in_force(call: &mut Call, keys: &[FreshKey]) -> Result<bool, Refusal> {
    call.open_view(|view| {
        Ok(keys.iter().all(|(role, key)| {
            let kept = view.state.credential(role);
            kept.is_some_and(|kept| kept.api_key_digest == api_key_digest(key.as_bytes()))
        }))
    })
}

/// The keys that a load made, as far as they are still in force: of roles that the load brought, and
/// that have had no other key since.
fn keys_of(
    call: &mut Call,
    vault: &Vault,
    target: &ResourceId,
    version: u32,
) -> Result<Vec<FreshKey>, Refusal> {
    let made = call.local_view(|view, caller| {
        let versions = view.state.policy_versions(target);
        let Some(load) = versions.and_then(|versions| versions.get(&version)) else {
            return Ok(Vec::new());
        };
        // Rows say when they came, not by which load: with two at one instant, nobody can tell.
        let at = load.created_at;
        let at_once =
            versions.into_iter().flatten().filter(|(_, one)| one.created_at == at).count();
        if load.role != caller.role || at_once > 1 {
            return Ok(Vec::new());
        }
        let brought = view.state.declared(target).roles.into_iter().filter_map(|id| {
            let is_new = view.state.role(&id)?.created_at == at;
            let credential = view.state.credential(&id).filter(|one| one.rotated_at == at)?;
            is_new.then(|| (id, credential.api_key.clone()))
        });
        Ok(brought.collect())
    })?;
    made.into_iter()
        .map(|(role, sealed)| {
            let opened = vault
                .open(&role, &sealed)
                .map_err(|fault| Refusal::Fault(format!("API key of {role}: {fault}")))?;
            let key = String::from_utf8_lossy(opened.expose_secret()).into_owned();
            Ok((role, Zeroizing::new(key)))
        })
        .collect()
}

/// Others load into the same account, again and again; a while that differs from client to client
/// keeps them from meeting again.
fn conflict() -> Result<Refusal, Refusal> {
    let mut byte = [0_u8; 1];
    random(&mut byte)?;
    Ok(Refusal::PolicyConflict { retry_after: u64::from(byte[0] % 8) + 1 })
}

/// What an append left alone, as many as fit: in order, separated by commas, foreign characters and
/// commas percent-encoded.
fn ignored_value(ignored: &[Ignored]) -> HeaderValue {
    let mut text = String::new();
    for (at, one) in ignored.iter().enumerate() {
        let one = one.to_string();
        let one = utf8_percent_encode(&one, NOT_IN_HEADERS).to_string();
        if text.len() + one.len() > IGNORED_BYTES_MAX {
            text.push_str(", and more");
            break;
        }
        text.push_str(if at == 0 { "" } else { ", " });
        text.push_str(&one);
    }
    // Percent-encoded text is visible ASCII.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("some"))
}

/// The right to load: `create` to append, else `update`; to replace, also on everything below.
fn check(
    view: &View<'_>,
    caller: &Verified,
    target: &ResourceId,
    mode: LoadMode,
) -> Result<(), Refusal> {
    let privilege = match mode {
        LoadMode::Append => "create",
        LoadMode::Update | LoadMode::Replace => "update",
    };
    let _permit = authz::require(view.state, &caller.role, privilege, target)?;
    if mode == LoadMode::Replace {
        let prefix = format!("{}/", target.identifier());
        let mut below = view.state.resources_below(target.account(), &prefix);
        let allowed = |id: &ResourceId| rbac::is_allowed(view.state, &caller.role, "update", id);
        if below.any(|(id, _)| !allowed(id)) {
            return Err(Refusal::FORBIDDEN);
        }
    }
    Ok(())
}

/// A plan, and for a dry run what the state says of all that the plan is about.
pub(super) struct Planned {
    pub(super) outcome: Result<Plan, PolicyError>,
    pub(super) before: Vec<Row>,
    pub(super) actor: RoleId,
    pub(super) at: conclave_domain::time::Timestamp,
}

/// Plans on the view that is here now; a large text on the blocking pool. The text is read before the
/// state is looked at, and compared with it a piece at a time: whoever waits to change the state is
/// never held up for long. `prepared` keeps the text as read from one try to the next.
async fn plan(
    call: &mut Call,
    target: &ResourceId,
    mode: LoadMode,
    text: &Arc<str>,
    keep_state: bool,
    prepared: &mut Option<Arc<Prepared>>,
) -> Result<Planned, Refusal> {
    let caller = Arc::clone(call.caller()?);
    let (target, text) = (target.clone(), text.clone());
    let large = text.len() > LARGE_TEXT_BYTES || keep_state;
    let state = call.door.state.clone();
    let at = call.now;
    let rules = {
        let settings = call.door.settings();
        Rules { dynamic_secrets: settings.dynamic_secrets_enabled, ..settings.policy_rules }
    };
    let known = prepared.take();
    let work = move || {
        let request =
            LoadRequest { policy: &target, mode, text: &text, actor: &caller.role, rules };
        let mut known = known;
        let planned = |outcome, before| Planned { outcome, before, actor: caller.role.clone(), at };
        'text: loop {
            let owner: Result<RoleId, PolicyError> = state.read(|view| {
                crate::context::confirm(view.state, &caller)?;
                check(view, &caller, &target, mode)?;
                Ok::<_, Refusal>(policy::owner_of_target(view.state, &target))
            })?;
            let owner = match owner {
                Ok(owner) => owner,
                Err(error) => return Ok((planned(Err(error), Vec::new()), known)),
            };
            let ready = match known.take().filter(|ready| *ready.owner() == owner) {
                Some(ready) => ready,
                None => match policy::prepare(&request, &owner) {
                    Ok(ready) => Arc::new(ready),
                    Err(error) => return Ok((planned(Err(error), Vec::new()), None)),
                },
            };
            let mut comparison = Comparison::new(&ready);
            loop {
                let step: Option<(Result<Step, PolicyError>, Vec<Row>)> = state.read(|view| {
                    if policy::owner_of_target(view.state, &target) != Ok(owner.clone()) {
                        return None;
                    }
                    let step = comparison.advance(view.state, PIECE_ROWS);
                    let before = match &step {
                        Ok(Step::Done(plan)) if keep_state => {
                            let changes = &plan.changes;
                            let ids = dry_run::asked_about(view.state, changes, &caller.role);
                            view.state.rows_about(&ids)
                        }
                        Ok(_) | Err(_) => Vec::new(),
                    };
                    Some((step, before))
                });
                match step {
                    None => continue 'text,
                    Some((Ok(Step::Further | Step::Moved), _)) => {}
                    Some((Ok(Step::Done(plan)), before)) => {
                        return Ok((planned(Ok(*plan), before), Some(Arc::clone(&ready))));
                    }
                    Some((Err(error), _)) => return Ok((planned(Err(error), Vec::new()), None)),
                }
            }
        }
    };
    let done: Result<(Planned, Option<Arc<Prepared>>), Refusal> = if large {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Refusal::Fault(format!("planning a policy: {error}")))?
    } else {
        work()
    };
    let (planned, ready) = done?;
    *prepared = ready;
    Ok(planned)
}

/// A fresh API key in the clear, for its role.
pub(crate) type FreshKey = (RoleId, Zeroizing<String>);

/// Adds to a plan what only the door can make: API keys, passwords, and sealed values of public keys.
pub(crate) async fn complete(
    door: &Door,
    vault: &Vault,
    mut plan: Plan,
) -> Result<(Vec<Event>, Vec<FreshKey>), Refusal> {
    let mut fresh = Vec::with_capacity(plan.credentials.len());
    let mut sealed = Vec::<NewApiKey>::with_capacity(plan.credentials.len());
    for (role, _) in &plan.credentials {
        let key = new_api_key()?;
        sealed.push(seal_api_key(vault, role, &key)?);
        fresh.push((role.clone(), key));
    }
    let public_keys = std::mem::take(&mut plan.public_keys);
    let mut in_order = sealed.into_iter();
    let mut short = false;
    let nothing = || NewApiKey {
        sealed: conclave_domain::records::Sealed(Vec::new()),
        digest: conclave_domain::records::Digest([0; 32]),
    };
    let mut changes = plan.into_changes(|_role| {
        in_order.next().unwrap_or_else(|| {
            short = true;
            nothing()
        })
    });
    if short {
        return Err(Refusal::Fault("a plan asked for more keys than it names".to_owned()));
    }
    for (role, _) in &fresh {
        // What the operator has set for a user of this name becomes its password.
        let password = door.settings().user_passwords.of(role);
        if let Some(password) = password {
            let password_hash = door.passwords.hash(password).await?;
            changes.push(Event::PasswordChanged { role: role.clone(), password_hash });
        }
    }
    for (resource, value) in public_keys {
        let secret = Secret::new(value.into_bytes());
        let value = vault
            .seal(&resource, &secret)
            .map_err(|fault| Refusal::Fault(format!("sealing {resource}: {fault}")))?;
        let fingerprint = vault.fingerprint(&resource, &secret);
        changes.push(Event::SecretVersionAdded {
            resource,
            // Deciding puts the version that is next then.
            version: Version(1),
            fingerprint,
            value: Some(value),
        });
    }
    Ok((changes, fresh))
}

/// `{"created_roles":{…},"version":N[,"warnings":[…]]}`, wiped after it has left.
fn answer(keys: &[FreshKey], version: u32, warnings: &[String]) -> Answer {
    let size: usize =
        keys.iter().map(|(role, key)| key.len() + role.identifier().len() * 12 + 1024).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(size + 256));
    body.extend_from_slice(b"{\"created_roles\":{");
    for (at, (role, key)) in keys.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        let id = role.to_string();
        json::write(&mut body, &id);
        body.extend_from_slice(b":{\"id\":");
        json::write(&mut body, &id);
        body.extend_from_slice(b",\"api_key\":");
        json::write(&mut body, &key.as_str());
        body.push(b'}');
    }
    body.extend_from_slice(b"},\"version\":");
    json::write(&mut body, &version);
    if !warnings.is_empty() {
        body.extend_from_slice(b",\"warnings\":");
        json::write(&mut body, &warnings);
    }
    body.push(b'}');
    Answer::json_bytes(wiped_bytes(body)).status(StatusCode::CREATED)
}

/// What a real load answers to an error in the text.
fn refusal(error: &PolicyError) -> Refusal {
    match error.code() {
        Code::ValidationFailed => {
            let message = error.to_string();
            let message = message.strip_prefix("policy_text ").unwrap_or(&message).to_owned();
            Refusal::Invalid { field: "policy_text", message }
        }
        Code::PolicyInvalid => Refusal::Policy {
            message: error.to_string(),
            place: error.parser_place().map(|place| (place.line as usize, place.column as usize)),
        },
    }
}

/// The account's root policy, as dry runs name it.
pub(super) fn policy_name(target: &Id) -> &str {
    target.identifier()
}
