//! The documents of resources and roles. Keys named `policy` are absent where there is no policy,
//! never null; what belongs to one kind only stands on documents of that kind.

use conclave_domain::host_factory;
use conclave_domain::id::{Id, Kind, ResourceId, RoleId};
use conclave_domain::records::{
    Digest, HostFactoryToken, Membership, MembershipKey, PolicyVersion,
};
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use serde::Serialize;
use serde::ser::Serializer;

use super::time;
use crate::ports::Secret;

/// An id, written as text.
fn text<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// An id where there is one.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn text_if<S: Serializer>(id: &Option<Id>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

/// Ids, written as a list of texts.
pub(crate) fn ids(ids: &[Id]) -> Vec<String> {
    ids.iter().map(Id::to_string).collect()
}

/// One resource, as far as its kind has it.
#[derive(Serialize)]
pub(crate) struct ResourceDocument {
    created_at: String,
    #[serde(serialize_with = "text")]
    pub(crate) id: ResourceId,
    #[serde(serialize_with = "text")]
    owner: RoleId,
    #[serde(serialize_with = "text_if", skip_serializing_if = "Option::is_none")]
    policy: Option<ResourceId>,
    permissions: Vec<PermissionDocument>,
    annotations: Vec<AnnotationDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<Vec<SecretDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_versions: Option<Vec<PolicyVersionDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<TokenDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restricted_to: Option<Vec<String>>,
}

#[derive(Serialize)]
struct PermissionDocument {
    privilege: String,
    #[serde(serialize_with = "text")]
    role: RoleId,
    #[serde(serialize_with = "text_if", skip_serializing_if = "Option::is_none")]
    policy: Option<ResourceId>,
}

#[derive(Serialize)]
struct AnnotationDocument {
    name: String,
    value: String,
    #[serde(serialize_with = "text_if", skip_serializing_if = "Option::is_none")]
    policy: Option<ResourceId>,
}

#[derive(Serialize)]
struct SecretDocument {
    version: u32,
    expires_at: Option<String>,
}

/// One host factory token. The token itself is left out unless somebody put it in, see
/// [`ResourceDocument::show_tokens`].
#[derive(Serialize)]
struct TokenDocument {
    expiration: String,
    cidr: Vec<String>,
    #[serde(serialize_with = "secret_text", skip_serializing_if = "Option::is_none")]
    token: Option<Secret>,
    /// Only where it is good for a number of uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
    #[serde(skip)]
    digest: Digest,
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn secret_text<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = secret.as_ref().map(Secret::expose_secret).unwrap_or_default();
    serializer.serialize_str(std::str::from_utf8(bytes).unwrap_or_default())
}

#[derive(Serialize)]
struct PolicyVersionDocument {
    version: u32,
    created_at: String,
    policy_text: String,
    policy_sha256: String,
    finished_at: String,
    client_ip: String,
    #[serde(serialize_with = "text")]
    id: ResourceId,
    #[serde(serialize_with = "text")]
    role: RoleId,
}

/// The document of a resource; nothing when it is not there.
///
/// Tokens that have expired by `at` are as good as gone.
pub(crate) fn resource(state: &State, id: &ResourceId, at: Timestamp) -> Option<ResourceDocument> {
    let record = state.resource(id)?;
    let permissions = state.permissions(id).into_iter().map(|(key, permission)| {
        PermissionDocument { privilege: key.privilege, role: key.role, policy: permission.policy }
    });
    let annotations = state.annotations(id).map(|(name, annotation)| AnnotationDocument {
        name: name.to_owned(),
        value: annotation.value.clone(),
        policy: annotation.policy.clone(),
    });
    Some(ResourceDocument {
        created_at: time::with_offset(record.created_at),
        id: id.clone(),
        owner: record.owner.clone(),
        policy: record.policy.clone(),
        permissions: permissions.collect(),
        annotations: annotations.collect(),
        secrets: (id.kind() == Kind::Variable).then(|| secrets(state, id)),
        policy_versions: (id.kind() == Kind::Policy).then(|| policy_versions(state, id)),
        tokens: (id.kind() == Kind::HostFactory).then(|| tokens(state, id, at)),
        layers: (id.kind() == Kind::HostFactory).then(|| ids(&host_factory::layers(state, id))),
        restricted_to: id.kind().has_credentials().then(|| restricted_to(state, id)),
    })
}

fn secrets(state: &State, id: &ResourceId) -> Vec<SecretDocument> {
    let versions = state.secret(id).into_iter().flat_map(|secret| secret.versions.iter());
    versions
        .map(|(version, record)| SecretDocument {
            version: version.0,
            expires_at: record.expires_at.map(time::with_offset),
        })
        .collect()
}

fn policy_versions(state: &State, id: &ResourceId) -> Vec<PolicyVersionDocument> {
    let document = |(version, record): (&u32, &PolicyVersion)| PolicyVersionDocument {
        version: *version,
        created_at: time::with_offset(record.created_at),
        policy_text: record.policy_text.clone(),
        policy_sha256: record.policy_sha256.clone(),
        finished_at: time::with_offset(record.finished_at),
        client_ip: record.client_ip.clone(),
        id: id.clone(),
        role: record.role.clone(),
    };
    state.policy_versions(id).into_iter().flatten().map(document).collect()
}

/// The tokens of a host factory, first to expire first.
fn tokens(state: &State, id: &ResourceId, at: Timestamp) -> Vec<TokenDocument> {
    let live = state.host_factory_tokens(id).filter(|(_, token)| token.expires_at > at);
    let mut live: Vec<_> = live.collect();
    live.sort_by_key(|(digest, token)| (token.expires_at, **digest));
    let document = |(digest, token): (&Digest, &HostFactoryToken)| TokenDocument {
        expiration: time::whole_seconds(token.expires_at),
        cidr: token.cidr.iter().map(ToString::to_string).collect(),
        token: None,
        uses_left: token.uses_left,
        digest: *digest,
    };
    live.into_iter().map(document).collect()
}

impl ResourceDocument {
    /// Puts the tokens of a host factory in, for who may hand them out or revoke them.
    pub(crate) fn show_tokens(&mut self, open: impl Fn(&Digest) -> Option<Secret>) {
        for token in self.tokens.iter_mut().flatten() {
            token.token = open(&token.digest);
        }
    }
}

fn restricted_to(state: &State, id: &ResourceId) -> Vec<String> {
    let ranges = state.credential(id).into_iter().flat_map(|credential| &credential.restricted_to);
    ranges.map(ToString::to_string).collect()
}

/// One membership row.
#[derive(Serialize)]
pub(crate) struct MembershipDocument {
    admin_option: bool,
    ownership: bool,
    #[serde(serialize_with = "text")]
    role: RoleId,
    #[serde(serialize_with = "text")]
    member: RoleId,
    #[serde(serialize_with = "text_if", skip_serializing_if = "Option::is_none")]
    policy: Option<ResourceId>,
}

impl From<(MembershipKey, Membership)> for MembershipDocument {
    fn from((key, membership): (MembershipKey, Membership)) -> Self {
        Self {
            admin_option: membership.admin_option,
            ownership: key.ownership,
            role: key.role,
            member: key.member,
            policy: membership.policy,
        }
    }
}

/// One role with its members.
#[derive(Serialize)]
pub(crate) struct RoleDocument {
    created_at: String,
    #[serde(serialize_with = "text")]
    id: RoleId,
    #[serde(serialize_with = "text_if", skip_serializing_if = "Option::is_none")]
    policy: Option<ResourceId>,
    members: Vec<MembershipDocument>,
}

/// The document of a role; nothing when it is not there.
pub(crate) fn role(state: &State, id: &RoleId) -> Option<RoleDocument> {
    let record = state.role(id)?;
    Some(RoleDocument {
        created_at: time::with_offset(record.created_at),
        id: id.clone(),
        policy: record.policy.clone(),
        members: state.members(id).into_iter().map(MembershipDocument::from).collect(),
    })
}

/// What a dry run shows of one record.
#[derive(Serialize)]
pub(crate) struct PlannedDocument {
    identifier: String,
    id: String,
    r#type: &'static str,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<Grouped>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permitted: Option<Grouped>,
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memberships: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restricted_to: Option<Vec<String>>,
}

/// Ids by privilege, both in order.
type Grouped = std::collections::BTreeMap<String, std::collections::BTreeSet<String>>;

/// What a dry run shows of a record that its caller may not see.
#[derive(Serialize)]
pub(crate) struct RedactedDocument {
    identifier: String,
    r#type: &'static str,
}

/// Either of the two.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum PlannedItem {
    /// The caller sees it.
    Shown(Box<PlannedDocument>),
    /// The caller does not.
    Redacted(RedactedDocument),
}

/// The dry run's item for a record in a state, as far as `sees` lets the caller look.
pub(crate) fn planned(
    state: &State,
    id: &ResourceId,
    sees: &dyn Fn(&ResourceId) -> bool,
) -> Option<PlannedItem> {
    let record = state.resource(id)?;
    let kind = id.kind().as_str();
    let hidden = |id: &Id| format!("{}:{}:[REDACTED]", id.account(), id.kind());
    let name = |id: &Id| if sees(id) { id.to_string() } else { hidden(id) };
    if !sees(id) {
        return Some(PlannedItem::Redacted(RedactedDocument {
            identifier: hidden(id),
            r#type: kind,
        }));
    }
    let is_role = id.kind().is_role();
    let names = |ids: Vec<RoleId>| {
        let mut names: Vec<String> = ids.iter().map(name).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let mut grouped = Grouped::new();
    if is_role {
        for (key, _) in state.permissions_of(id) {
            grouped.entry(key.privilege).or_default().insert(name(&key.resource));
        }
    } else {
        for (key, _) in state.permissions(id) {
            grouped.entry(key.privilege).or_default().insert(name(&key.role));
        }
    }
    let (permissions, permitted) =
        if is_role { (Some(grouped), None) } else { (None, Some(grouped)) };
    let members = || names(state.members(id).into_iter().map(|(key, _)| key.member).collect());
    let memberships =
        || names(state.memberships(id).into_iter().map(|(key, _)| key.role).collect());
    Some(PlannedItem::Shown(Box::new(PlannedDocument {
        identifier: id.to_string(),
        id: id.identifier().to_owned(),
        r#type: kind,
        owner: name(&record.owner),
        policy: record.policy.as_ref().map(name),
        permissions,
        permitted,
        annotations: state
            .annotations(id)
            .map(|(name, annotation)| (name.to_owned(), annotation.value.clone()))
            .collect(),
        members: is_role.then(members),
        memberships: is_role.then(memberships),
        restricted_to: is_role.then(|| restricted_to(state, id)),
    })))
}
