//! `?dryRun=true`: what a load would do, without doing it.
//!
//! The plan is carried out on a copy of that part of the state which it is about, and both are
//! compared. What the caller may not
//! see stays hidden: before and deleted by the state as it is, created and after by the state as it
//! would be.

use std::collections::BTreeSet;

use conclave_domain::event::Event;
use conclave_domain::evolve::evolve;
use conclave_domain::id::{Id, ResourceId, RoleId};
use conclave_domain::policy::PolicyError;
use conclave_domain::rbac;
use conclave_domain::records::{Digest, NewApiKey, Sealed};
use conclave_domain::state::State;
use conclave_domain::time::LogIndex;
use serde_json::json;

use super::load::{Planned, policy_name};
use crate::context::Answer;
use crate::error::Refusal;
use crate::wire::documents::{PlannedItem, planned as item};

/// The answer to a dry run.
///
/// # Errors
/// [`Refusal::DryRun`] for a text that could not be loaded.
pub(super) fn answer(planned: Planned, target: &ResourceId) -> Result<Answer, Refusal> {
    let Planned { outcome, before, actor, at } = planned;
    let plan = match outcome {
        Ok(plan) => plan,
        Err(error) => return Err(invalid(&error, target)),
    };
    let mut after = State::from_rows(before.clone());
    let before = State::from_rows(before);
    // Keys made for nobody: the copy is thrown away.
    let changes = plan
        .into_changes(|_role| NewApiKey { sealed: Sealed(Vec::new()), digest: Digest([0; 32]) });
    let mut touched = BTreeSet::new();
    for change in &changes {
        touch(change, &mut touched);
        for effect in evolve(&after, LogIndex(u64::MAX), at, change) {
            after.apply(&effect);
        }
    }
    // Deleting cascades: what went with it is found by looking.
    let gone = before.resources(None, None).map(|(id, _)| id);
    let gone: Vec<ResourceId> = gone.filter(|id| after.resource(id).is_none()).cloned().collect();
    touched.extend(gone);
    let items = |state: &State, wanted: &dyn Fn(&ResourceId) -> bool| {
        let sees = |id: &ResourceId| rbac::is_visible(state, &actor, id);
        let mut ids: Vec<&ResourceId> = touched.iter().filter(|id| wanted(id)).collect();
        ids.sort_by_key(|id| (!id.kind().is_role(), *id));
        let items = ids.into_iter().filter_map(|id| item(state, id, &sees));
        json!({"items": items.collect::<Vec<PlannedItem>>()})
    };
    let was = |id: &ResourceId| before.resource(id).is_some();
    let will_be = |id: &ResourceId| after.resource(id).is_some();
    Ok(Answer::json(&json!({
        "status": "Valid YAML",
        "created": items(&after, &|id| !was(id) && will_be(id)),
        "updated": {
            "before": items(&before, &|id| was(id) && will_be(id)),
            "after": items(&after, &|id| was(id) && will_be(id)),
        },
        "deleted": items(&before, &|id| was(id) && !will_be(id)),
    })))
}

fn invalid(error: &PolicyError, target: &Id) -> Refusal {
    let place = error.place();
    let advice = error.advice();
    let message = if advice.is_empty() { error.to_string() } else { format!("{error}\n{advice}") };
    let lines: Vec<u32> = place.iter().map(|place| place.line).collect();
    let document = json!({
        "status": "Invalid YAML",
        "errors": [{
            "line": place.map(|place| place.line),
            "column": place.map(|place| place.column),
            "message": message,
            "context": {"policy_id": policy_name(target), "offending_lines": lines},
        }],
    });
    Refusal::DryRun { document, message: error.to_string() }
}

/// The ids that a dry run has to know about: those that the changes make look different, whoever
/// asks, and what a role that goes owns elsewhere.
pub(super) fn asked_about(state: &State, changes: &[Event], actor: &RoleId) -> BTreeSet<Id> {
    let mut ids = BTreeSet::from([actor.clone()]);
    for change in changes {
        touch(change, &mut ids);
        if let Event::RoleRemoved { role } = change {
            ids.extend(state.owned(role));
        }
    }
    ids
}

/// Notes the records that a change makes look different.
fn touch(change: &Event, touched: &mut BTreeSet<ResourceId>) {
    match change {
        Event::RoleAdded { role, .. }
        | Event::RoleRemoved { role }
        | Event::CredentialCreated { role, .. }
        | Event::RestrictionChanged { role, .. } => {
            touched.insert(role.clone());
        }
        Event::ResourceAdded { resource, owner, .. } | Event::OwnerChanged { resource, owner } => {
            touched.insert(resource.clone());
            if resource.kind().is_role() {
                touched.insert(owner.clone());
            }
        }
        Event::ResourceRemoved { resource }
        | Event::AnnotationSet { resource, .. }
        | Event::AnnotationRemoved { resource, .. } => {
            touched.insert(resource.clone());
        }
        Event::MembershipAdded { key, .. } | Event::MembershipRemoved { key } => {
            touched.insert(key.role.clone());
            touched.insert(key.member.clone());
        }
        Event::PermissionAdded { key, .. } | Event::PermissionRemoved { key } => {
            touched.insert(key.role.clone());
            touched.insert(key.resource.clone());
        }
        Event::KeyringInstalled { .. }
        | Event::AccountCreated { .. }
        | Event::ApiKeyRotated { .. }
        | Event::PasswordChanged { .. }
        | Event::PolicyLoaded { .. }
        | Event::SecretVersionAdded { .. }
        | Event::SecretExpired { .. }
        | Event::JoinTokenIssued { .. }
        | Event::MemberAdmitted { .. }
        | Event::MemberRemoved { .. }
        | Event::AccountDeleted { .. }
        | Event::HostFactoryTokensIssued { .. }
        | Event::HostFactoryTokenUsed { .. }
        | Event::HostFactoryTokenRevoked { .. }
        | Event::HostFactoryTokensExpired { .. }
        | Event::AuthenticatorToggled { .. }
        | Event::IssuerSet { .. }
        | Event::IssuerRemoved { .. }
        | Event::SecretRotated { .. }
        | Event::AuditAppended { .. }
        | Event::AuditCheckpointed { .. }
        | Event::AuditTrimmed { .. }
        | Event::CertificatesInstalled { .. }
        | Event::CertificateMarked { .. }
        | Event::CertificateRetired { .. }
        | Event::Resealed { .. }
        | Event::ClusterRefounded { .. }
        | Event::LevelRaised { .. } => {}
    }
}
