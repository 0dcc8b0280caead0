//! The records of a policy load: one for each row that it changed.

use std::borrow::Cow;

use conclave_domain::event::Event;
use conclave_domain::id::ResourceId;
use conclave_domain::records::MembershipKey;

use crate::audit::Deed;

/// The deeds of a load that was committed; a load that changed nothing still leaves one.
pub(crate) fn of(user: &str, policy: &ResourceId, changes: &[Event]) -> Vec<Deed> {
    let mut deeds = Vec::with_capacity(changes.len() + changes.len() / 2);
    for change in changes {
        deeds.extend(deed(user, change));
        deeds.extend(ownership(user, change));
    }
    if deeds.is_empty() {
        let subject = vec![(Cow::Borrowed("policy"), policy.to_string())];
        deeds.push(new(
            "change",
            user,
            subject,
            format!("{user} loaded policy {policy} without changes"),
        ));
    }
    deeds
}

fn new(
    operation: &'static str,
    user: &str,
    subject: Vec<(Cow<'static, str>, String)>,
    did: String,
) -> Deed {
    Deed {
        message_id: "policy",
        operation: operation.into(),
        user: Some(user.to_owned()),
        subject,
        notice: true,
        did,
        tried: "Failed to load policy".to_owned(),
        ..Deed::default()
    }
}

/// The record of a membership that follows from owning a role.
fn ownership(user: &str, change: &Event) -> Option<Deed> {
    let (Event::ResourceAdded { resource: role, owner, .. }
    | Event::OwnerChanged { resource: role, owner }) = change
    else {
        return None;
    };
    role.kind().is_role().then(|| {
        let subject = vec![("role".into(), role.to_string()), ("owner".into(), owner.to_string())];
        new("add", user, subject, format!("{user} added ownership of {owner} in {role}"))
    })
}

fn deed(user: &str, change: &Event) -> Option<Deed> {
    let pair = |name: &'static str, value: &dyn ToString| (Cow::Borrowed(name), value.to_string());
    let membership = |operation: &'static str, did: &str, between: &str, key: &MembershipKey| {
        let MembershipKey { role, member, ownership } = key;
        let (what, whose) =
            if *ownership { ("ownership", "owner") } else { ("membership", "member") };
        let subject = vec![pair("role", role), pair(whose, member)];
        new(operation, user, subject, format!("{user} {did} {what} of {member} {between} {role}"))
    };
    Some(match change {
        Event::RoleAdded { role, .. } => {
            new("add", user, vec![pair("role", role)], format!("{user} added role {role}"))
        }
        Event::RoleRemoved { role } => {
            new("remove", user, vec![pair("role", role)], format!("{user} removed role {role}"))
        }
        Event::ResourceAdded { resource, .. } => {
            let subject = vec![pair("resource", resource)];
            new("add", user, subject, format!("{user} added resource {resource}"))
        }
        Event::OwnerChanged { resource, owner } => {
            let subject = vec![pair("resource", resource), pair("owner", owner)];
            new("change", user, subject, format!("{user} changed owner of {resource} to {owner}"))
        }
        Event::ResourceRemoved { resource } => {
            let subject = vec![pair("resource", resource)];
            new("remove", user, subject, format!("{user} removed resource {resource}"))
        }
        Event::MembershipAdded { key, .. } => membership("add", "added", "in", key),
        Event::MembershipRemoved { key } => membership("remove", "removed", "in", key),
        Event::PermissionAdded { key, .. } => {
            let (role, resource) = (&key.role, &key.resource);
            let subject = vec![
                pair("resource", resource),
                pair("role", role),
                pair("privilege", &key.privilege),
            ];
            let did =
                format!("{user} added permission of {role} to {} on {resource}", key.privilege);
            new("add", user, subject, did)
        }
        Event::PermissionRemoved { key } => {
            let (role, resource) = (&key.role, &key.resource);
            let subject = vec![
                pair("resource", resource),
                pair("role", role),
                pair("privilege", &key.privilege),
            ];
            let did =
                format!("{user} removed permission of {role} to {} on {resource}", key.privilege);
            new("remove", user, subject, did)
        }
        Event::AnnotationSet { resource, name, .. } => {
            let subject = vec![pair("annotation", name), pair("resource", resource)];
            new("change", user, subject, format!("{user} changed annotation {name} on {resource}"))
        }
        Event::AnnotationRemoved { resource, name } => {
            let subject = vec![pair("annotation", name), pair("resource", resource)];
            new("remove", user, subject, format!("{user} removed annotation {name} on {resource}"))
        }
        Event::RestrictionChanged { role, .. } => {
            let subject = vec![pair("role", role)];
            new("change", user, subject, format!("{user} changed restriction of {role}"))
        }
        Event::SecretVersionAdded { resource, .. } => {
            let subject = vec![pair("resource", resource)];
            new("change", user, subject, format!("{user} updated {resource}"))
        }
        // Made in the same breath as their role, or no part of a policy load.
        Event::CredentialCreated { .. }
        | Event::KeyringInstalled { .. }
        | Event::AccountCreated { .. }
        | Event::ApiKeyRotated { .. }
        | Event::PasswordChanged { .. }
        | Event::PolicyLoaded { .. }
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
        | Event::LevelRaised { .. } => return None,
    })
}
