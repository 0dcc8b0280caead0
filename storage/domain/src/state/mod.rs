//! The state in memory: every row but secret values and audit records, with the indexes that rules and queries need.
//!
//! [`State::apply`] is the only way in. Rows may come in any order, one that names a role or resource
//! before that one's own row included, so that a state loads from disk by a plain scan. Everything
//! that leaves is ordered by ids and names, never by arrival.
//!
//! What a question costs grows with its answer, not with the state: memberships are indexed from
//! both sides, permissions by resource and by role, resources by owner, and every row by the policy
//! whose load declared it.

mod closure;
mod excerpt;
mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

pub(crate) use closure::Closure;
use closure::Closures;
use slots::{Grant, Link, Slots};
pub(crate) use slots::{Handle, Slot};

use crate::audit::AuditHead;
use crate::certificates::{CertificateKey, CertificateRecord};
use crate::effect::{Effect, Row, RowKey};
use crate::id::{AccountName, Kind, ResourceId, RoleId};
use crate::records::{
    Account, Annotation, Answered, AuthenticatorConfig, Credential, Digest, HostFactoryToken,
    Issuer, IssuerKey, JoinToken, Member, Membership, MembershipKey, Permission, PermissionKey,
    PolicyVersion, RequestId, Resource, Role, Secret, SecretVersion, Version, WrappedKeyring,
};
use crate::time::{LogIndex, Timestamp};

/// The annotation that names what rotates a variable.
pub const ROTATOR: &str = "rotation/rotator";

/// All rows but secret values and audit records.
#[derive(Debug, Default)]
pub struct State {
    accounts: BTreeMap<AccountName, Account>,
    accounts_by_key_id: HashMap<String, AccountName>,
    slots: Slots,
    /// Resources in the order of their ids.
    resources: BTreeMap<AccountName, [BTreeMap<Arc<str>, Handle>; Kind::ALL.len()]>,
    /// The text of each privilege, shared by all permission rows that name it.
    privileges: HashSet<Arc<str>>,
    closures: Closures,
    /// What has a [`ROTATOR`].
    rotated: BTreeSet<ResourceId>,
    keyring: Option<WrappedKeyring>,
    join_tokens: BTreeMap<Digest, JoinToken>,
    member_nodes: BTreeMap<u64, Member>,
    answered: HashMap<RequestId, Answered>,
    /// The keys of `answered`, oldest first.
    answered_order: BTreeSet<(LogIndex, RequestId)>,
    host_factory_tokens: BTreeMap<Digest, HostFactoryToken>,
    /// The keys of `host_factory_tokens`, by factory.
    tokens_by_factory: BTreeMap<ResourceId, BTreeSet<Digest>>,
    /// The keys of `host_factory_tokens`, first to expire first.
    tokens_by_expiry: BTreeSet<(Timestamp, Digest)>,
    authenticator_configs: BTreeMap<ResourceId, AuthenticatorConfig>,
    issuers: BTreeMap<IssuerKey, Issuer>,
    audit_head: Option<AuditHead>,
    /// How far the audit chain has each node's records.
    audit_sources: BTreeMap<u64, u64>,
    certificates: BTreeMap<CertificateKey, CertificateRecord>,
    level: Option<u32>,
}

/// The rows that loads into one policy declared, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Roles.
    pub roles: Vec<RoleId>,
    /// Resources.
    pub resources: Vec<ResourceId>,
    /// Memberships, the ownership rows too.
    pub memberships: Vec<MembershipKey>,
    /// Permissions.
    pub permissions: Vec<PermissionKey>,
    /// Annotations, by resource and name.
    pub annotations: Vec<(ResourceId, String)>,
}

/// Questions.
impl State {
    /// A state without a single row.
    pub fn new() -> Self {
        Self::default()
    }

    /// An account.
    pub fn account(&self, name: &AccountName) -> Option<&Account> {
        self.accounts.get(name)
    }

    /// All accounts, by name.
    pub fn accounts(&self) -> impl Iterator<Item = (&AccountName, &Account)> {
        self.accounts.iter()
    }

    /// The account whose tokens carry this key id.
    pub fn account_by_key_id(&self, kid: &str) -> Option<(&AccountName, &Account)> {
        self.accounts.get_key_value(self.accounts_by_key_id.get(kid)?)
    }

    /// A role.
    pub fn role(&self, id: &RoleId) -> Option<&Role> {
        self.slots.slot(id)?.role.as_deref()
    }

    /// A resource.
    pub fn resource(&self, id: &ResourceId) -> Option<&Resource> {
        self.slots.slot(id)?.resource.as_deref()
    }

    /// The credentials of a user or host.
    pub fn credential(&self, role: &RoleId) -> Option<&Credential> {
        self.slots.slot(role)?.as_role.as_ref()?.credential.as_ref()
    }

    /// The versions of a secret; none when it never had a value.
    pub fn secret(&self, resource: &ResourceId) -> Option<&Secret> {
        self.slots.slot(resource)?.secret.as_deref()
    }

    /// Annotations, by name.
    pub fn annotations(&self, resource: &ResourceId) -> impl Iterator<Item = (&str, &Annotation)> {
        self.slots
            .slot(resource)
            .into_iter()
            .flat_map(|slot| slot.annotations.iter().map(|(name, record)| (&**name, record)))
    }

    /// One annotation.
    pub fn annotation(&self, resource: &ResourceId, name: &str) -> Option<&Annotation> {
        let annotations = &self.slots.slot(resource)?.annotations;
        annotation_place(annotations, name).ok().map(|at| &annotations[at].1)
    }

    /// Everything that has the annotation [`ROTATOR`], in the order of ids.
    pub fn rotated(&self) -> impl Iterator<Item = &ResourceId> {
        self.rotated.iter()
    }

    /// Permission rows on a resource, by role and privilege.
    pub fn permissions(&self, resource: &ResourceId) -> Vec<(PermissionKey, Permission)> {
        let Some(slot) = self.slots.slot(resource) else { return Vec::new() };
        sorted(slot.grants.iter().map(|grant| self.permission_row(slot, grant)))
    }

    /// Permission rows that a role has in its own name, by resource and privilege.
    pub fn permissions_of(&self, role: &RoleId) -> Vec<(PermissionKey, Permission)> {
        let Some(handle) = self.slots.find(role) else { return Vec::new() };
        let resources = self.slots[handle].as_role.iter().flat_map(|side| &side.granted);
        sorted(resources.flat_map(|resource| {
            let slot = &self.slots[*resource];
            let own = slot.grants.iter().filter(move |grant| grant.role == handle);
            own.map(move |grant| self.permission_row(slot, grant))
        }))
    }

    /// One permission row.
    pub fn permission(&self, key: &PermissionKey) -> Option<Permission> {
        let (slot, at) = self.grant(key)?;
        Some(self.permission_row(slot, &slot.grants[at]).1)
    }

    /// Membership rows whose role is this one, by member.
    pub fn members(&self, role: &RoleId) -> Vec<(MembershipKey, Membership)> {
        let Some(side) = self.slots.slot(role).and_then(|slot| slot.as_role.as_ref()) else {
            return Vec::new();
        };
        sorted(side.members.iter().map(|((member, ownership), link)| {
            let key = MembershipKey {
                role: role.clone(),
                member: self.slots[*member].id.clone(),
                ownership: *ownership,
            };
            (key, self.membership_record(*link))
        }))
    }

    /// Membership rows whose member is this one, by role.
    pub fn memberships(&self, member: &RoleId) -> Vec<(MembershipKey, Membership)> {
        let Some(handle) = self.slots.find(member) else { return Vec::new() };
        let rows = self.slots[handle].as_role.iter().flat_map(|side| &side.memberships);
        sorted(rows.filter_map(|(role, ownership)| {
            let slot = &self.slots[*role];
            let link = slot.as_role.as_ref()?.members.get(&(handle, *ownership))?;
            let key = MembershipKey {
                role: slot.id.clone(),
                member: member.clone(),
                ownership: *ownership,
            };
            Some((key, self.membership_record(*link)))
        }))
    }

    /// One membership row.
    pub fn membership(&self, key: &MembershipKey) -> Option<Membership> {
        let member = self.slots.find(&key.member)?;
        let side = self.slots.slot(&key.role)?.as_role.as_ref()?;
        side.members.get(&(member, key.ownership)).map(|link| self.membership_record(*link))
    }

    /// Resources that a role owns in its own name, sorted.
    pub fn owned(&self, role: &RoleId) -> Vec<ResourceId> {
        let side = self.slots.slot(role).and_then(|slot| slot.as_role.as_ref());
        self.ids(side.iter().flat_map(|side| &side.owned))
    }

    /// Rows that loads into a policy declared and that are still there.
    pub fn declared(&self, policy: &ResourceId) -> Declared {
        let Some(side) = self.slots.slot(policy).and_then(|slot| slot.as_policy.as_ref()) else {
            return Declared::default();
        };
        let id = |handle: Handle| self.slots[handle].id.clone();
        let mut declared = Declared {
            roles: self.ids(&side.roles),
            resources: self.ids(&side.resources),
            memberships: (side.memberships.iter())
                .map(|&(role, member, ownership)| MembershipKey {
                    role: id(role),
                    member: id(member),
                    ownership,
                })
                .collect(),
            permissions: (side.permissions.iter())
                .map(|(resource, role, privilege)| PermissionKey {
                    resource: id(*resource),
                    role: id(*role),
                    privilege: privilege.to_string(),
                })
                .collect(),
            annotations: (side.annotations.iter())
                .map(|(resource, name)| (id(*resource), name.to_string()))
                .collect(),
        };
        declared.memberships.sort_unstable();
        declared.permissions.sort_unstable();
        declared.annotations.sort_unstable();
        declared
    }

    /// The kept versions of a policy's text.
    pub fn policy_versions(&self, policy: &ResourceId) -> Option<&BTreeMap<u32, PolicyVersion>> {
        self.slots.slot(policy)?.as_policy.as_ref().map(|side| &side.versions)
    }

    /// The policy versions that a role loaded, by policy and number.
    pub fn policy_versions_by(&self, role: &RoleId) -> Vec<(ResourceId, u32)> {
        let side = self.slots.slot(role).and_then(|slot| slot.as_role.as_ref());
        let loaded = side.iter().flat_map(|side| &side.loaded);
        let mut keys: Vec<_> =
            loaded.map(|(policy, version)| (self.slots[*policy].id.clone(), *version)).collect();
        keys.sort_unstable();
        keys
    }

    /// Resources of one account or all, of one kind or all, sorted by id.
    pub fn resources(
        &self,
        account: Option<&AccountName>,
        kind: Option<Kind>,
    ) -> impl Iterator<Item = (&ResourceId, &Resource)> {
        let range = match account {
            Some(name) => (Bound::Included(name), Bound::Included(name)),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        self.resources
            .range::<AccountName, _>(range)
            .flat_map(move |(_, kinds)| {
                let wanted = move |one: &Kind| kind.is_none_or(|kind| kind == *one);
                Kind::ALL.into_iter().filter(wanted).flat_map(|kind| kinds[kind as usize].values())
            })
            .filter_map(|handle| self.resource_row(*handle))
    }

    /// Resources of all accounts whose ids come after one, sorted by id; all of them without one.
    pub fn resources_after<'a>(
        &'a self,
        after: Option<&'a ResourceId>,
    ) -> impl Iterator<Item = (&'a ResourceId, &'a Resource)> {
        let first = after.map_or(Bound::Unbounded, |after| Bound::Included(after.account()));
        self.resources
            .range::<AccountName, _>((first, Bound::Unbounded))
            .flat_map(move |(account, kinds)| {
                let after = after.filter(|after| after.account() == account);
                let ahead = move |kind: &Kind| after.is_none_or(|after| *kind >= after.kind());
                Kind::ALL.into_iter().filter(ahead).flat_map(move |kind| {
                    let after = after.filter(|after| after.kind() == kind);
                    let first =
                        after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.identifier()));
                    kinds[kind as usize].range::<str, _>((first, Bound::Unbounded))
                })
            })
            .filter_map(|(_, handle)| self.resource_row(*handle))
    }

    /// Resources of an account, of any kind, whose identifier starts with `prefix`, sorted by id.
    pub fn resources_below<'a>(
        &'a self,
        account: &AccountName,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a ResourceId, &'a Resource)> {
        let kinds = self.resources.get(account).into_iter().flatten();
        kinds
            .flat_map(move |by_identifier| {
                by_identifier
                    .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
                    .take_while(move |(identifier, _)| identifier.starts_with(prefix))
            })
            .filter_map(|(_, handle)| self.resource_row(*handle))
    }

    /// The keyring in force.
    pub fn keyring(&self) -> Option<&WrappedKeyring> {
        self.keyring.as_ref()
    }

    /// The members in force, by node id.
    pub fn member_nodes(&self) -> &BTreeMap<u64, Member> {
        &self.member_nodes
    }

    /// A join token that has not been used.
    pub fn join_token(&self, digest: &Digest) -> Option<&JoinToken> {
        self.join_tokens.get(digest)
    }

    /// All join tokens that have not been used.
    pub fn join_tokens(&self) -> impl Iterator<Item = (&Digest, &JoinToken)> {
        self.join_tokens.iter()
    }

    /// What an earlier try of a request was answered.
    pub fn answered(&self, request: &RequestId) -> Option<&Answered> {
        self.answered.get(request)
    }

    /// How many answered requests are remembered.
    pub fn answered_len(&self) -> usize {
        self.answered_order.len()
    }

    /// The answered requests, oldest first.
    pub fn answered_oldest_first(&self) -> impl Iterator<Item = (LogIndex, RequestId)> {
        self.answered_order.iter().copied()
    }

    /// A host factory token, expired or not.
    pub fn host_factory_token(&self, digest: &Digest) -> Option<&HostFactoryToken> {
        self.host_factory_tokens.get(digest)
    }

    /// The tokens of a host factory, by digest.
    pub fn host_factory_tokens<'a>(
        &'a self,
        factory: &ResourceId,
    ) -> impl Iterator<Item = (&'a Digest, &'a HostFactoryToken)> {
        let digests = self.tokens_by_factory.get(factory).into_iter().flatten();
        digests.filter_map(|digest| self.host_factory_tokens.get_key_value(digest))
    }

    /// All host factory tokens, by digest.
    pub fn all_host_factory_tokens(&self) -> impl Iterator<Item = (&Digest, &HostFactoryToken)> {
        self.host_factory_tokens.iter()
    }

    /// Host factory tokens that have expired by an instant, first expired first.
    pub fn expired_host_factory_tokens(&self, at: Timestamp) -> impl Iterator<Item = Digest> {
        self.tokens_by_expiry
            .iter()
            .take_while(move |(expires_at, _)| *expires_at <= at)
            .map(|(_, digest)| *digest)
    }

    /// What was said about an authenticator's webservice.
    pub fn authenticator_config(&self, webservice: &ResourceId) -> Option<AuthenticatorConfig> {
        self.authenticator_configs.get(webservice).copied()
    }

    /// What was said about all authenticators' webservices, by their ids.
    pub fn authenticator_configs(
        &self,
    ) -> impl Iterator<Item = (&ResourceId, AuthenticatorConfig)> {
        self.authenticator_configs.iter().map(|(id, config)| (id, *config))
    }

    /// An issuer.
    pub fn issuer(&self, key: &IssuerKey) -> Option<&Issuer> {
        self.issuers.get(key)
    }

    /// The issuers of an account, by name.
    pub fn issuers<'a>(
        &'a self,
        account: &'a AccountName,
    ) -> impl Iterator<Item = (&'a IssuerKey, &'a Issuer)> {
        let first = IssuerKey { account: account.clone(), issuer: String::new() };
        self.issuers.range(first..).take_while(move |(key, _)| key.account == *account)
    }

    /// Where the audit chain begins and ends.
    pub fn audit_head(&self) -> AuditHead {
        self.audit_head.unwrap_or_default()
    }

    /// Number of the last record of a node that the audit chain has; 0 when it has none.
    pub fn audit_source(&self, node: u64) -> u64 {
        self.audit_sources.get(&node).copied().unwrap_or(0)
    }

    /// How far the audit chain has the records of each node that ever sent any.
    pub fn audit_sources(&self) -> &BTreeMap<u64, u64> {
        &self.audit_sources
    }

    /// The cluster's feature level: what all its members know; see [`crate::level`].
    pub fn level(&self) -> u32 {
        self.level.unwrap_or_default()
    }

    /// All certificates of the cluster, by name and generation.
    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateKey, &CertificateRecord)> {
        self.certificates.iter()
    }

    /// One certificate of the cluster.
    pub fn certificate_of(&self, key: &CertificateKey) -> Option<&CertificateRecord> {
        self.certificates.get(key)
    }

    /// The newest certificate of a name.
    pub fn certificate(&self, name: &str) -> Option<(&CertificateKey, &CertificateRecord)> {
        let key = |generation| CertificateKey { name: name.to_owned(), generation };
        self.certificates.range(key(0)..=key(u32::MAX)).next_back()
    }

    /// Every row, sorted by key. For comparing states; costs a copy of all that is held.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        rows.extend(
            self.accounts.iter().map(|(name, one)| Row::Account(name.clone(), one.clone())),
        );
        for slot in self.slots.iter() {
            self.rows_of(slot, &mut rows);
        }
        rows.extend(self.keyring.clone().map(Row::Keyring));
        rows.extend(self.join_tokens.iter().map(|(key, one)| Row::JoinToken(*key, one.clone())));
        rows.extend(self.member_nodes.iter().map(|(key, one)| Row::Member(*key, one.clone())));
        rows.extend(self.answered.iter().map(|(key, one)| Row::Answered(*key, one.clone())));
        let tokens = self.host_factory_tokens.iter();
        rows.extend(tokens.map(|(key, one)| Row::HostFactoryToken(*key, one.clone())));
        let configs = self.authenticator_configs.iter();
        rows.extend(configs.map(|(key, one)| Row::AuthenticatorConfig(key.clone(), *one)));
        let issuers = self.issuers.iter();
        rows.extend(issuers.map(|(key, one)| Row::Issuer(key.clone(), one.clone())));
        rows.extend(self.audit_head.map(Row::AuditHead));
        let sources = self.audit_sources.iter();
        rows.extend(sources.map(|(node, last)| Row::AuditSource(*node, *last)));
        let certificates = self.certificates.iter();
        rows.extend(certificates.map(|(key, one)| Row::Certificate(key.clone(), one.clone())));
        rows.extend(self.level.map(Row::Level));
        rows.sort_by_cached_key(Row::key);
        rows
    }

    fn rows_of(&self, slot: &Slot, rows: &mut Vec<Row>) {
        let id = &slot.id;
        rows.extend(slot.role.iter().map(|one| Row::Role(id.clone(), (**one).clone())));
        rows.extend(slot.resource.iter().map(|one| Row::Resource(id.clone(), (**one).clone())));
        rows.extend(slot.grants.iter().map(|grant| {
            let (key, record) = self.permission_row(slot, grant);
            Row::Permission(key, record)
        }));
        rows.extend((slot.annotations.iter()).map(|(name, annotation)| {
            Row::Annotation(id.clone(), name.to_string(), annotation.clone())
        }));
        for (version, record) in slot.secret.iter().flat_map(|secret| secret.versions.iter()) {
            rows.push(Row::SecretVersion(id.clone(), *version, record.clone()));
        }
        rows.extend(self.members(id).into_iter().map(|(key, one)| Row::Membership(key, one)));
        let credential = slot.as_role.iter().filter_map(|side| side.credential.clone());
        rows.extend(credential.map(|one| Row::Credential(id.clone(), one)));
        for (version, record) in slot.as_policy.iter().flat_map(|side| &side.versions) {
            rows.push(Row::PolicyVersion(id.clone(), *version, record.clone()));
        }
    }

    fn permission_row(&self, slot: &Slot, grant: &Grant) -> (PermissionKey, Permission) {
        let key = PermissionKey {
            resource: slot.id.clone(),
            role: self.slots[grant.role].id.clone(),
            privilege: grant.privilege.to_string(),
        };
        (key, Permission { policy: grant.policy.map(|policy| self.slots[policy].id.clone()) })
    }

    fn membership_record(&self, link: Link) -> Membership {
        Membership {
            admin_option: link.admin_option,
            policy: link.policy.map(|policy| self.slots[policy].id.clone()),
        }
    }

    /// A resource by its handle.
    pub(crate) fn resource_row(&self, handle: Handle) -> Option<(&ResourceId, &Resource)> {
        let slot = &self.slots[handle];
        slot.resource.as_deref().map(|resource| (&slot.id, resource))
    }

    fn grant(&self, key: &PermissionKey) -> Option<(&Slot, usize)> {
        let role = self.slots.find(&key.role)?;
        let slot = self.slots.slot(&key.resource)?;
        let at = slot
            .grants
            .iter()
            .position(|grant| grant.role == role && *grant.privilege == *key.privilege)?;
        Some((slot, at))
    }

    fn ids<'a>(&self, handles: impl IntoIterator<Item = &'a Handle>) -> Vec<ResourceId> {
        let mut ids: Vec<_> =
            handles.into_iter().map(|handle| self.slots[*handle].id.clone()).collect();
        ids.sort_unstable();
        ids
    }
}

/// What [`crate::rbac`] decides by.
impl State {
    /// The handle of an id that some row refers to.
    pub(crate) fn find(&self, id: &ResourceId) -> Option<Handle> {
        self.slots.find(id)
    }

    /// What is known about an id.
    pub(crate) fn slot(&self, handle: Handle) -> &Slot {
        &self.slots[handle]
    }

    /// The role and all the roles it holds.
    pub(crate) fn closure_of(&self, role: Handle) -> Closure {
        self.closures.of(&self.slots, role)
    }
}

/// Writes.
impl State {
    /// Applies one write. A deletion of an absent row changes nothing.
    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Put(row) => self.put(row),
            Effect::Delete(key) => self.delete(key),
        }
    }

    fn put(&mut self, row: &Row) {
        match row {
            Row::Account(name, account) => {
                self.delete_account(name);
                self.accounts_by_key_id.insert(account.signing_key.id.clone(), name.clone());
                self.accounts.insert(name.clone(), account.clone());
            }
            Row::Role(id, role) => self.put_role(id, role),
            Row::Resource(id, resource) => self.put_resource(id, resource),
            Row::Membership(key, membership) => self.put_membership(key, membership),
            Row::Permission(key, permission) => self.put_permission(key, permission),
            Row::Annotation(id, name, annotation) => self.put_annotation(id, name, annotation),
            Row::Credential(role, credential) => {
                self.delete_credential(role);
                let handle = self.slots.acquire(role);
                self.slots[handle].role_side().credential = Some(credential.clone());
            }
            Row::SecretVersion(id, version, record) => {
                self.put_secret_version(id, *version, record);
            }
            Row::SecretValue(..) | Row::AuditBlock(..) => {}
            Row::PolicyVersion(id, version, record) => {
                self.put_policy_version(id, *version, record);
            }
            Row::Keyring(keyring) => self.keyring = Some(keyring.clone()),
            Row::JoinToken(digest, token) => {
                self.join_tokens.insert(*digest, token.clone());
            }
            Row::Member(node, member) => {
                self.member_nodes.insert(*node, member.clone());
            }
            Row::Answered(request, answered) => {
                if let Some(before) = self.answered.insert(*request, answered.clone()) {
                    self.answered_order.remove(&(before.index, *request));
                }
                self.answered_order.insert((answered.index, *request));
            }
            Row::HostFactoryToken(digest, token) => self.put_host_factory_token(*digest, token),
            Row::AuthenticatorConfig(id, config) => {
                self.authenticator_configs.insert(id.clone(), *config);
            }
            Row::Issuer(key, issuer) => {
                self.issuers.insert(key.clone(), issuer.clone());
            }
            Row::AuditHead(head) => self.audit_head = Some(*head),
            Row::AuditSource(node, last) => {
                self.audit_sources.insert(*node, *last);
            }
            Row::Certificate(key, record) => {
                self.certificates.insert(key.clone(), record.clone());
            }
            Row::Level(level) => self.level = Some(*level),
        }
    }

    fn delete(&mut self, key: &RowKey) {
        match key {
            RowKey::Account(name) => self.delete_account(name),
            RowKey::Role(id) => self.delete_role(id),
            RowKey::Resource(id) => self.delete_resource(id),
            RowKey::Membership(key) => self.delete_membership(key),
            RowKey::Permission(key) => self.delete_permission(key),
            RowKey::Annotation(id, name) => self.delete_annotation(id, name),
            RowKey::Credential(role) => self.delete_credential(role),
            RowKey::SecretVersion(id, version) => self.delete_secret_version(id, *version),
            RowKey::SecretValue(..) | RowKey::AuditBlock(_) => {}
            RowKey::PolicyVersion(id, version) => self.delete_policy_version(id, *version),
            RowKey::Keyring => self.keyring = None,
            RowKey::JoinToken(digest) => {
                self.join_tokens.remove(digest);
            }
            RowKey::Member(node) => {
                self.member_nodes.remove(node);
            }
            RowKey::Answered(request, index) => {
                if self.answered_order.remove(&(*index, *request)) {
                    self.answered.remove(request);
                }
            }
            RowKey::HostFactoryToken(digest) => self.delete_host_factory_token(*digest),
            RowKey::AuthenticatorConfig(id) => {
                self.authenticator_configs.remove(id);
            }
            RowKey::Issuer(key) => {
                self.issuers.remove(key);
            }
            RowKey::AuditHead => self.audit_head = None,
            RowKey::AuditSource(node) => {
                self.audit_sources.remove(node);
            }
            RowKey::Certificate(key) => {
                self.certificates.remove(key);
            }
            RowKey::Level => self.level = None,
        }
    }

    fn put_host_factory_token(&mut self, digest: Digest, token: &HostFactoryToken) {
        self.delete_host_factory_token(digest);
        // All tokens of a factory share the texts of its id.
        let known = self.tokens_by_factory.get_key_value(&token.factory);
        let factory = known.map_or(&token.factory, |(known, _)| known).clone();
        self.tokens_by_factory.entry(factory.clone()).or_default().insert(digest);
        self.tokens_by_expiry.insert((token.expires_at, digest));
        self.host_factory_tokens.insert(digest, HostFactoryToken { factory, ..token.clone() });
    }

    fn delete_host_factory_token(&mut self, digest: Digest) {
        let Some(token) = self.host_factory_tokens.remove(&digest) else { return };
        self.tokens_by_expiry.remove(&(token.expires_at, digest));
        if let Some(digests) = self.tokens_by_factory.get_mut(&token.factory) {
            digests.remove(&digest);
            if digests.is_empty() {
                self.tokens_by_factory.remove(&token.factory);
            }
        }
    }

    fn delete_account(&mut self, name: &AccountName) {
        if let Some(before) = self.accounts.remove(name) {
            self.accounts_by_key_id.remove(&before.signing_key.id);
        }
    }

    fn put_role(&mut self, id: &RoleId, role: &Role) {
        self.delete_role(id);
        let policy = self.acquire_policy(role.policy.as_ref());
        let handle = self.slots.acquire(id);
        let record = Role { policy: self.id_of(policy), ..role.clone() };
        self.slots[handle].role = Some(Box::new(record));
        if let Some(policy) = policy {
            self.slots[policy].policy_side().roles.insert(handle);
        }
    }

    fn delete_role(&mut self, id: &RoleId) {
        let Some(handle) = self.slots.find(id) else { return };
        let Some(record) = self.slots[handle].role.take() else { return };
        if let Some(policy) = record.policy.and_then(|policy| self.slots.find(&policy)) {
            self.slots[policy].policy_side().roles.remove(&handle);
            self.slots.release(policy);
        }
        self.slots.release(handle);
    }

    fn put_resource(&mut self, id: &ResourceId, resource: &Resource) {
        self.delete_resource(id);
        let policy = self.acquire_policy(resource.policy.as_ref());
        let owner = self.slots.acquire(&resource.owner);
        let handle = self.slots.acquire(id);
        let record = Resource {
            owner: self.slots[owner].id.clone(),
            created_at: resource.created_at,
            policy: self.id_of(policy),
        };
        self.slots[owner].role_side().owned.insert(handle);
        let slot = &mut self.slots[handle];
        slot.owner = Some(owner);
        slot.resource = Some(Box::new(record));
        let (account, identifier) = (slot.id.account().clone(), slot.id.shared_identifier());
        self.resources.entry(account).or_default()[id.kind() as usize].insert(identifier, handle);
        if let Some(policy) = policy {
            self.slots[policy].policy_side().resources.insert(handle);
        }
    }

    fn delete_resource(&mut self, id: &ResourceId) {
        let Some(handle) = self.slots.find(id) else { return };
        let Some(record) = self.slots[handle].resource.take() else { return };
        if let Some(kinds) = self.resources.get_mut(id.account()) {
            kinds[id.kind() as usize].remove(id.identifier());
            if kinds.iter().all(BTreeMap::is_empty) {
                self.resources.remove(id.account());
            }
        }
        if let Some(owner) = self.slots[handle].owner.take() {
            self.slots[owner].role_side().owned.remove(&handle);
            self.slots.release(owner);
        }
        if let Some(policy) = record.policy.and_then(|policy| self.slots.find(&policy)) {
            self.slots[policy].policy_side().resources.remove(&handle);
            self.slots.release(policy);
        }
        self.slots.release(handle);
    }

    fn put_membership(&mut self, key: &MembershipKey, membership: &Membership) {
        self.delete_membership(key);
        let policy = self.acquire_policy(membership.policy.as_ref());
        let (role, member) = (self.slots.acquire(&key.role), self.slots.acquire(&key.member));
        let link = Link { admin_option: membership.admin_option, policy };
        self.slots[role].role_side().members.insert((member, key.ownership), link);
        self.slots[member].role_side().memberships.insert((role, key.ownership));
        if let Some(policy) = policy {
            let declared = &mut self.slots[policy].policy_side().memberships;
            declared.insert((role, member, key.ownership));
        }
        self.closures.moved(member);
    }

    fn delete_membership(&mut self, key: &MembershipKey) {
        let (Some(role), Some(member)) = (self.slots.find(&key.role), self.slots.find(&key.member))
        else {
            return;
        };
        let Some(link) = (self.slots[role].as_role.as_mut())
            .and_then(|side| side.members.remove(&(member, key.ownership)))
        else {
            return;
        };
        self.slots[member].role_side().memberships.remove(&(role, key.ownership));
        if let Some(policy) = link.policy {
            let declared = &mut self.slots[policy].policy_side().memberships;
            declared.remove(&(role, member, key.ownership));
            self.slots.release(policy);
        }
        self.closures.moved(member);
        self.slots.release(role);
        self.slots.release(member);
    }

    fn put_permission(&mut self, key: &PermissionKey, permission: &Permission) {
        self.delete_permission(key);
        let policy = self.acquire_policy(permission.policy.as_ref());
        let (resource, role) = (self.slots.acquire(&key.resource), self.slots.acquire(&key.role));
        let privilege = self.shared_privilege(&key.privilege);
        self.slots[role].role_side().granted.insert(resource);
        if let Some(policy) = policy {
            let declared = &mut self.slots[policy].policy_side().permissions;
            declared.insert((resource, role, Arc::clone(&privilege)));
        }
        let grants = &mut self.slots[resource].grants;
        if grants.len() < 4 {
            grants.reserve_exact(1);
        }
        grants.push(Grant { role, policy, privilege });
    }

    fn delete_permission(&mut self, key: &PermissionKey) {
        let Some((_, at)) = self.grant(key) else { return };
        let Some(resource) = self.slots.find(&key.resource) else { return };
        let grants = &mut self.slots[resource].grants;
        let Grant { role, policy, privilege } = grants.swap_remove(at);
        if !grants.iter().any(|grant| grant.role == role) {
            self.slots[role].role_side().granted.remove(&resource);
        }
        if let Some(policy) = policy {
            let declared = &mut self.slots[policy].policy_side().permissions;
            declared.remove(&(resource, role, Arc::clone(&privilege)));
            self.slots.release(policy);
        }
        // One reference is the pool's own, the other the one in hand.
        if Arc::strong_count(&privilege) == 2 {
            self.privileges.remove(&privilege);
        }
        self.slots.release(resource);
        self.slots.release(role);
    }

    fn put_annotation(&mut self, id: &ResourceId, name: &str, annotation: &Annotation) {
        self.delete_annotation(id, name);
        if name == ROTATOR {
            self.rotated.insert(id.clone());
        }
        let policy = self.acquire_policy(annotation.policy.as_ref());
        let handle = self.slots.acquire(id);
        let record = Annotation { value: annotation.value.clone(), policy: self.id_of(policy) };
        let annotations = &mut self.slots[handle].annotations;
        if let Err(at) = annotation_place(annotations, name) {
            annotations.reserve_exact(1);
            annotations.insert(at, (name.into(), record));
        }
        if let Some(policy) = policy {
            self.slots[policy].policy_side().annotations.insert((handle, name.into()));
        }
    }

    fn delete_annotation(&mut self, id: &ResourceId, name: &str) {
        let Some(handle) = self.slots.find(id) else { return };
        let annotations = &mut self.slots[handle].annotations;
        let Ok(at) = annotation_place(annotations, name) else { return };
        let (name, record) = annotations.remove(at);
        if &*name == ROTATOR {
            self.rotated.remove(id);
        }
        if let Some(policy) = record.policy.and_then(|policy| self.slots.find(&policy)) {
            self.slots[policy].policy_side().annotations.remove(&(handle, name));
            self.slots.release(policy);
        }
        self.slots.release(handle);
    }

    fn delete_credential(&mut self, role: &RoleId) {
        let Some(handle) = self.slots.find(role) else { return };
        let side = self.slots[handle].as_role.as_mut();
        if side.and_then(|side| side.credential.take()).is_some() {
            self.slots.release(handle);
        }
    }

    fn put_secret_version(&mut self, id: &ResourceId, version: Version, record: &SecretVersion) {
        let handle = match self.slots.find(id) {
            Some(handle) if self.slots[handle].secret.is_some() => handle,
            _ => self.slots.acquire(id),
        };
        let secret = self.slots[handle].secret.get_or_insert_default();
        if let Some(old) = version.displaced() {
            secret.versions.remove(old);
        }
        secret.versions.insert(version, record.clone());
    }

    fn delete_secret_version(&mut self, id: &ResourceId, version: Version) {
        let Some(handle) = self.slots.find(id) else { return };
        let Some(secret) = self.slots[handle].secret.as_mut() else { return };
        secret.versions.remove(version);
        if secret.versions.is_empty() {
            self.slots[handle].secret = None;
            self.slots.release(handle);
        }
    }

    fn put_policy_version(&mut self, id: &ResourceId, version: u32, record: &PolicyVersion) {
        self.delete_policy_version(id, version);
        let (policy, role) = (self.slots.acquire(id), self.slots.acquire(&record.role));
        self.slots[role].role_side().loaded.insert((policy, version));
        let record = PolicyVersion { role: self.slots[role].id.clone(), ..record.clone() };
        self.slots[policy].policy_side().versions.insert(version, record);
    }

    fn delete_policy_version(&mut self, id: &ResourceId, version: u32) {
        let Some(policy) = self.slots.find(id) else { return };
        let Some(record) =
            (self.slots[policy].as_policy.as_mut()).and_then(|side| side.versions.remove(&version))
        else {
            return;
        };
        if let Some(role) = self.slots.find(&record.role) {
            self.slots[role].role_side().loaded.remove(&(policy, version));
            self.slots.release(role);
        }
        self.slots.release(policy);
    }

    fn shared_privilege(&mut self, privilege: &str) -> Arc<str> {
        if let Some(shared) = self.privileges.get(privilege) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = privilege.into();
        self.privileges.insert(Arc::clone(&shared));
        shared
    }

    fn acquire_policy(&mut self, policy: Option<&ResourceId>) -> Option<Handle> {
        policy.map(|policy| self.slots.acquire(policy))
    }

    fn id_of(&self, handle: Option<Handle>) -> Option<ResourceId> {
        handle.map(|handle| self.slots[handle].id.clone())
    }
}

/// A copy that answers alike; what was remembered of closures is not copied.
impl Clone for State {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        for row in self.rows() {
            copy.put(&row);
        }
        copy
    }
}

fn sorted<K: Ord, V>(rows: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut rows: Vec<(K, V)> = rows.collect();
    rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    rows
}

fn annotation_place(annotations: &[(Box<str>, Annotation)], name: &str) -> Result<usize, usize> {
    annotations.binary_search_by(|(known, _)| (**known).cmp(name))
}
