//! Event to effects, and the one way to carry a command out: [`execute`].
//!
//! An event that removes something carries its cascade with it, and the effects show it row by row:
//! - a role or resource that goes takes the record of the other sort with the same id along, and all
//!   that hangs on either: memberships on both sides, permissions on both sides, annotations, the
//!   secret with all its values, credentials, policy versions (its own, and those it loaded), tokens
//!   of a host factory, an authenticator's switch;
//! - resources owned by a role that goes, go;
//! - rows whose declaring policy goes, go;
//! - but an account stays when the role goes that created it: its `admin` then owns itself.
//!
//! Any effect on an account's roles, resources, grants or annotations moves the account's revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::{self, AuditBlock, AuditHead, AuditTexts};
use crate::certificates::{Certificate, CertificateRecord, Condition, FOLLOWER_PREFIX, ROOT};
use crate::command::{Command, Envelope};
use crate::decide::decide;
use crate::effect::{Effect, Row, RowKey};
use crate::event::Event;
use crate::id::{AccountName, Kind, ResourceId, RoleId};
use crate::outcome::{self, Rejection, Reply};
use crate::rbac::{accounts_resource, admin_role, root_policy};
use crate::records::{
    Account, Answered, AuthenticatorConfig, Credential, Digest, Fingerprint, HostFactoryToken,
    Issuer, Member, Membership, MembershipKey, NewApiKey, POLICY_VERSIONS_KEPT, Permission,
    PolicyVersion, RequestId, Resealed, Resource, Revision, Role, SECRET_VERSIONS_KEPT, Sealed,
    SealedAt, SecretVersion, SigningKey, Version,
};
use crate::state::State;
use crate::time::{LogIndex, Timestamp};

/// How many answered requests are remembered.
pub const REQUESTS_KEPT: usize = 65_536;

/// What a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The answer.
    pub reply: Reply,
    /// What happened, in order; nothing when rejected or replayed.
    pub events: Vec<Event>,
    /// All writes, in order; the state has them already.
    pub effects: Vec<Effect>,
    /// Whether an earlier try of the same request was carried out, and the answer is the one it got.
    pub replayed: bool,
}

/// Carries out the command of one log entry: decides, evolves each event and applies its effects,
/// and remembers the answer for retries of the request.
///
/// A stale plan is not remembered: it can never come true, and the door plans again under the same
/// request id. Nor is an audit batch: its records' own numbers say what is there already, and there
/// are so many batches that they would crowd out what clients may ask for again.
pub fn execute(state: &mut State, index: LogIndex, envelope: &Envelope) -> Execution {
    if let Some(answered) = state.answered(&envelope.request_id) {
        let reply = outcome::codec::decode(&answered.reply).unwrap_or_else(|error| {
            Err(Rejection::Invalid(format!("the answer given before cannot be read: {error}")))
        });
        return Execution { reply, events: Vec::new(), effects: Vec::new(), replayed: true };
    }
    let (events, reply) = match decide(state, index, envelope) {
        Ok((events, outcome)) => (events, Ok(outcome)),
        Err(rejection) => (Vec::new(), Err(rejection)),
    };
    let mut effects = Vec::new();
    for event in &events {
        apply(state, evolve(state, index, envelope.at, event), &mut effects);
    }
    let is_batch =
        matches!(envelope.body, Command::AppendAudit { .. } | Command::ChainAudit { .. });
    if !is_batch && !matches!(reply, Err(Rejection::Stale { .. })) {
        let bytes = outcome::codec::encode(&reply);
        apply(state, answered(state, index, envelope.request_id, bytes), &mut effects);
    }
    Execution { reply, events, effects, replayed: false }
}

fn apply(state: &mut State, new: Vec<Effect>, effects: &mut Vec<Effect>) {
    for effect in &new {
        state.apply(effect);
    }
    effects.extend(new);
}

/// The writes that an event leads to. `state` is the one before the event, `at` the time stamped on
/// the command.
pub fn evolve(state: &State, index: LogIndex, at: Timestamp, event: &Event) -> Vec<Effect> {
    let mut writes = Writes { state, index, at, effects: Vec::new() };
    writes.event(event);
    writes.move_revisions();
    writes.effects
}

/// The writes that remember an answer, and forget the oldest beyond [`REQUESTS_KEPT`].
pub fn answered(
    state: &State,
    index: LogIndex,
    request: RequestId,
    reply_bytes: Vec<u8>,
) -> Vec<Effect> {
    let room = REQUESTS_KEPT - 1;
    let mut effects: Vec<Effect> = state
        .answered_oldest_first()
        .take(state.answered_len().saturating_sub(room))
        .map(|(index, request)| Effect::Delete(RowKey::Answered(request, index)))
        .collect();
    effects.push(Effect::put(Row::Answered(request, Answered { index, reply: reply_bytes })));
    effects
}

/// The effects of one event, as they gather.
struct Writes<'a> {
    state: &'a State,
    index: LogIndex,
    at: Timestamp,
    effects: Vec<Effect>,
}

impl Writes<'_> {
    fn put(&mut self, row: Row) {
        self.effects.push(Effect::put(row));
    }

    fn delete(&mut self, key: RowKey) {
        self.effects.push(Effect::Delete(key));
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::KeyringInstalled { keyring } => self.put(Row::Keyring(keyring.clone())),
            Event::AccountCreated { account, signing_key, admin_key } => {
                let record = Account {
                    created_at: self.at,
                    revision: Revision(self.index.0),
                    signing_key: signing_key.clone(),
                };
                self.put(Row::Account(account.clone(), record));
                let admin = admin_role(account);
                for id in [&admin, &root_policy(account)] {
                    self.role_added(id, None);
                    self.resource_added(id, &admin, None, true);
                }
                self.api_key_set(&admin, admin_key, Some(&[]));
                if account.is_internal() {
                    self.resource_added(&accounts_resource(), &admin, None, false);
                }
            }
            Event::RoleAdded { role, policy } => self.role_added(role, policy.as_ref()),
            Event::RoleRemoved { role } => self.removed(role),
            Event::ResourceAdded { resource, owner, policy } => {
                let has_role = self.state.role(resource).is_some();
                self.resource_added(resource, owner, policy.as_ref(), has_role);
            }
            Event::OwnerChanged { resource, owner } => self.owner_changed(resource, owner),
            Event::ResourceRemoved { resource } => self.removed(resource),
            Event::MembershipAdded { key, admin_option, policy } => {
                let record = Membership { admin_option: *admin_option, policy: policy.clone() };
                self.put(Row::Membership(key.clone(), record));
            }
            Event::MembershipRemoved { key } => self.delete(RowKey::Membership(key.clone())),
            Event::PermissionAdded { key, policy } => {
                self.put(Row::Permission(key.clone(), Permission { policy: policy.clone() }));
            }
            Event::PermissionRemoved { key } => self.delete(RowKey::Permission(key.clone())),
            Event::AnnotationSet { resource, name, annotation } => {
                self.put(Row::Annotation(resource.clone(), name.clone(), annotation.clone()));
            }
            Event::AnnotationRemoved { resource, name } => {
                self.delete(RowKey::Annotation(resource.clone(), name.clone()));
            }
            Event::CredentialCreated { role, key, restricted_to } => {
                self.api_key_set(role, key, Some(restricted_to));
            }
            Event::RestrictionChanged { role, restricted_to } => {
                if let Some(credential) = self.state.credential(role) {
                    let restricted_to = restricted_to.clone();
                    let record = Credential { restricted_to, ..credential.clone() };
                    self.put(Row::Credential(role.clone(), record));
                }
            }
            Event::ApiKeyRotated { role, key } => self.api_key_set(role, key, None),
            Event::PasswordChanged { role, password_hash } => {
                if let Some(credential) = self.state.credential(role) {
                    let password_hash = Some(password_hash.clone());
                    let record = Credential { password_hash, ..credential.clone() };
                    self.put(Row::Credential(role.clone(), record));
                }
            }
            Event::PolicyLoaded { policy, version, role, client_ip, text, text_sha256 } => {
                let record = PolicyVersion {
                    role: role.clone(),
                    created_at: self.at,
                    finished_at: self.at,
                    client_ip: client_ip.clone(),
                    policy_text: text.clone(),
                    policy_sha256: text_sha256.clone(),
                };
                // A role that deleted itself by its load takes the versions that it loaded along.
                if self.state.role(role).is_some() {
                    self.policy_loaded(policy, *version, record);
                }
            }
            Event::SecretVersionAdded { resource, version, fingerprint, value } => {
                let (value, due) = (value.as_ref(), None);
                self.secret_version_added(resource, *version, *fingerprint, value, due);
            }
            Event::SecretRotated { resource, version, fingerprint, value, expires_at } => {
                let (value, due) = (value.as_ref(), Some(*expires_at));
                self.secret_version_added(resource, *version, *fingerprint, value, due);
            }
            Event::SecretExpired { resource } => {
                let versions = self.state.secret(resource).into_iter();
                for (version, record) in versions.flat_map(|secret| secret.versions.iter()) {
                    if record.expires_at.is_some() {
                        let record = SecretVersion { expires_at: None, ..record.clone() };
                        self.put(Row::SecretVersion(resource.clone(), *version, record));
                    }
                }
            }
            Event::JoinTokenIssued { digest, token } => {
                self.put(Row::JoinToken(*digest, token.clone()));
            }
            Event::MemberAdmitted { node, member, token } => {
                if let Some(digest) = token {
                    self.delete(RowKey::JoinToken(*digest));
                }
                self.put(Row::Member(*node, member.clone()));
            }
            Event::MemberRemoved { node } => self.delete(RowKey::Member(*node)),
            Event::ClusterRefounded { node, member } => self.cluster_refounded(*node, member),
            Event::AccountDeleted { account } => self.account_deleted(account),
            Event::HostFactoryTokensIssued { factory, tokens, cidr, expires_at, uses } => {
                for token in tokens {
                    let record = HostFactoryToken {
                        factory: factory.clone(),
                        sealed: token.sealed.clone(),
                        cidr: cidr.clone(),
                        expires_at: *expires_at,
                        uses_left: *uses,
                    };
                    self.put(Row::HostFactoryToken(token.digest, record));
                }
            }
            Event::HostFactoryTokenUsed { digest } => self.host_factory_token_used(digest),
            Event::HostFactoryTokenRevoked { digest } => {
                self.delete(RowKey::HostFactoryToken(*digest));
            }
            Event::HostFactoryTokensExpired { digests } => {
                for digest in digests {
                    self.delete(RowKey::HostFactoryToken(*digest));
                }
            }
            Event::AuthenticatorToggled { webservice, enabled } => {
                let config = AuthenticatorConfig { enabled: *enabled };
                self.put(Row::AuthenticatorConfig(webservice.clone(), config));
            }
            Event::IssuerSet { key, kind, max_ttl, data } => {
                let before = self.state.issuer(key);
                let data = data.clone().or_else(|| before.map(|before| before.data.clone()));
                let record = Issuer {
                    kind: kind.clone(),
                    max_ttl: *max_ttl,
                    data: data.unwrap_or(Sealed(Vec::new())),
                    created_at: before.map_or(self.at, |before| before.created_at),
                    modified_at: self.at,
                };
                self.put(Row::Issuer(key.clone(), record));
            }
            Event::IssuerRemoved { key } => self.delete(RowKey::Issuer(key.clone())),
            Event::AuditAppended { node, first, lost, texts } => {
                self.audit_appended(*node, *first, *lost, texts);
            }
            Event::AuditCheckpointed { checkpoint } => {
                let mut head = self.state.audit_head();
                self.chained(&mut head, 0, 0, AuditTexts::plain(&[checkpoint.to_text()]));
                head.checkpointed = checkpoint.number;
                self.put(Row::AuditHead(head));
            }
            Event::AuditTrimmed { first, base } => {
                let head = self.state.audit_head();
                // A row goes with its last record: until then those before it are passed over.
                let gone = (head.first..*first).map(RowKey::AuditBlock);
                self.effects.extend(gone.map(Effect::Delete));
                self.put(Row::AuditHead(AuditHead { first: *first, base: *base, ..head }));
            }
            Event::CertificatesInstalled { certificates } => {
                for (key, certificate) in certificates {
                    let before = self.state.certificate(&key.name).map(|(before, _)| before);
                    if let Some(before) = before.filter(|before| before.name != ROOT) {
                        self.delete(RowKey::Certificate(before.clone()));
                    }
                    let record = CertificateRecord {
                        certificate: certificate.clone(),
                        installed_at: self.at,
                        condition: Condition::Ready,
                    };
                    self.put(Row::Certificate(key.clone(), record));
                }
            }
            Event::CertificateMarked { key, condition } => {
                if let Some(before) = self.state.certificate_of(key) {
                    let condition = condition.clone();
                    let record = CertificateRecord { condition, ..before.clone() };
                    self.put(Row::Certificate(key.clone(), record));
                }
            }
            Event::CertificateRetired { key } => self.delete(RowKey::Certificate(key.clone())),
            Event::Resealed { values } => values.iter().for_each(|value| self.resealed(value)),
            Event::LevelRaised { level } => self.put(Row::Level(*level)),
        }
    }

    fn resealed(&mut self, value: &Resealed) {
        let sealed = value.sealed.clone();
        let state = self.state;
        match &value.at {
            SealedAt::SigningKey(name, _) => {
                if let Some(account) = state.account(name) {
                    let signing_key = SigningKey { private: sealed, ..account.signing_key.clone() };
                    self.put(Row::Account(
                        name.clone(),
                        Account { signing_key, ..account.clone() },
                    ));
                }
            }
            SealedAt::ApiKey(role, _) => {
                if let Some(credential) = state.credential(role) {
                    let record = Credential { api_key: sealed, ..credential.clone() };
                    self.put(Row::Credential(role.clone(), record));
                }
            }
            SealedAt::Secret(resource, version, _) => {
                self.put(Row::SecretValue(resource.clone(), *version, sealed));
            }
            SealedAt::HostFactoryToken(digest) => {
                if let Some(token) = state.host_factory_token(digest) {
                    let record = HostFactoryToken { sealed, ..token.clone() };
                    self.put(Row::HostFactoryToken(*digest, record));
                }
            }
            SealedAt::Issuer(key, _) => {
                if let Some(issuer) = state.issuer(key) {
                    let record = Issuer { data: sealed, ..issuer.clone() };
                    self.put(Row::Issuer(key.clone(), record));
                }
            }
            SealedAt::Certificate(key, _) => {
                if let Some(record) = state.certificate_of(key) {
                    let certificate = Certificate { key: sealed, ..record.certificate.clone() };
                    let record = CertificateRecord { certificate, ..record.clone() };
                    self.put(Row::Certificate(key.clone(), record));
                }
            }
        }
    }

    /// The names of balancers that stand in the followers' certificates come back with their seeds.
    fn cluster_refounded(&mut self, node: u64, member: &Member) {
        let state = self.state;
        let others = state.member_nodes().keys().filter(|other| **other != node);
        let tokens = state.join_tokens().map(|(digest, _)| RowKey::JoinToken(*digest));
        let of_followers = state
            .certificates()
            .filter(|(key, _)| key.name.starts_with(FOLLOWER_PREFIX))
            .map(|(key, _)| RowKey::Certificate(key.clone()));
        let gone = others.map(|other| RowKey::Member(*other)).chain(tokens).chain(of_followers);
        self.effects.extend(gone.map(Effect::Delete));
        self.put(Row::Member(node, member.clone()));
    }

    fn audit_appended(&mut self, node: u64, first: u64, lost: u64, texts: &AuditTexts) {
        let mut head = self.state.audit_head();
        if lost > 0 {
            let gap = audit::gap_text(node, first - lost, first - 1);
            self.chained(&mut head, node, first - 1, AuditTexts::plain(&[gap]));
        }
        if !texts.is_empty() {
            self.chained(&mut head, node, first, texts.clone());
        }
        self.put(Row::AuditHead(head));
        self.put(Row::AuditSource(node, first - 1 + texts.len() as u64));
    }

    /// Hashes records each onto the one before. `sequence` is the number of the first.
    fn chained(&mut self, head: &mut AuditHead, node: u64, sequence: u64, texts: AuditTexts) {
        let mut hashes = Vec::with_capacity(texts.len());
        for (text, sequence) in texts.iter().zip(sequence..) {
            head.last += 1;
            head.hash = audit::chain_hash(&head.hash, node, sequence, text);
            hashes.push(head.hash);
        }
        self.put(Row::AuditBlock(head.last, AuditBlock { node, sequence, hashes, texts }));
    }

    fn role_added(&mut self, role: &RoleId, policy: Option<&ResourceId>) {
        let record = Role { created_at: self.at, policy: policy.cloned() };
        self.put(Row::Role(role.clone(), record));
        if let Some(resource) = self.state.resource(role) {
            self.ownership_added(role, &resource.owner, resource.policy.as_ref());
        }
    }

    fn resource_added(
        &mut self,
        resource: &ResourceId,
        owner: &RoleId,
        policy: Option<&ResourceId>,
        has_role: bool,
    ) {
        self.ownership_removed(resource, owner);
        let record =
            Resource { owner: owner.clone(), created_at: self.at, policy: policy.cloned() };
        self.put(Row::Resource(resource.clone(), record));
        if has_role {
            self.ownership_added(resource, owner, policy);
        }
    }

    fn owner_changed(&mut self, resource: &ResourceId, owner: &RoleId) {
        let Some(before) = self.state.resource(resource) else { return };
        self.ownership_removed(resource, owner);
        let record = Resource { owner: owner.clone(), ..before.clone() };
        self.put(Row::Resource(resource.clone(), record));
        if self.state.role(resource).is_some() {
            self.ownership_added(resource, owner, before.policy.as_ref());
        }
    }

    /// Owning a role is holding it. A role that owns itself needs no row for that.
    fn ownership_added(&mut self, role: &RoleId, owner: &RoleId, policy: Option<&ResourceId>) {
        if role != owner {
            let key = ownership(role, owner);
            let record = Membership { admin_option: true, policy: policy.cloned() };
            self.put(Row::Membership(key, record));
        }
    }

    fn ownership_removed(&mut self, resource: &ResourceId, new_owner: &RoleId) {
        if let Some(before) = self.state.resource(resource).filter(|one| one.owner != *new_owner) {
            let key = ownership(resource, &before.owner);
            if self.state.membership(&key).is_some() {
                self.delete(RowKey::Membership(key));
            }
        }
    }

    /// A new key for a role. Without `restricted_to` what was in force before stays.
    fn api_key_set(
        &mut self,
        role: &RoleId,
        key: &NewApiKey,
        restricted_to: Option<&[ipnet::IpNet]>,
    ) {
        let before = self.state.credential(role);
        let kept = || before.map_or_else(Vec::new, |before| before.restricted_to.clone());
        let record = Credential {
            api_key: key.sealed.clone(),
            api_key_digest: key.digest,
            rotated_at: self.at,
            password_hash: before.and_then(|before| before.password_hash.clone()),
            restricted_to: restricted_to.map_or_else(kept, <[_]>::to_vec),
        };
        self.put(Row::Credential(role.clone(), record));
    }

    /// A load may have deleted its own policy, and then leaves no version behind.
    fn policy_loaded(&mut self, policy: &ResourceId, version: u32, record: PolicyVersion) {
        if self.state.resource(policy).is_none() {
            return;
        }
        let empty = BTreeMap::new();
        let versions = self.state.policy_versions(policy).unwrap_or(&empty);
        let surplus = (versions.len() + 1).saturating_sub(POLICY_VERSIONS_KEPT);
        for old in versions.keys().take(surplus) {
            self.delete(RowKey::PolicyVersion(policy.clone(), *old));
        }
        self.put(Row::PolicyVersion(policy.clone(), version, record));
    }

    fn secret_version_added(
        &mut self,
        resource: &ResourceId,
        version: Version,
        fingerprint: Fingerprint,
        value: Option<&Sealed>,
        expires_at: Option<Timestamp>,
    ) {
        if let Some(secret) = self.state.secret(resource) {
            let surplus = (secret.versions.len() + 1).saturating_sub(SECRET_VERSIONS_KEPT);
            for old in secret.versions.keys().take(surplus) {
                // Its rows are written over: at rest, versions go round in so many places.
                let is_displaced = version.displaced() == Some(*old);
                if !is_displaced {
                    self.delete(RowKey::SecretVersion(resource.clone(), *old));
                }
                if !is_displaced || value.is_none() {
                    self.delete(RowKey::SecretValue(resource.clone(), *old));
                }
            }
        }
        let record = SecretVersion { fingerprint, expires_at, created_at: self.at };
        self.put(Row::SecretVersion(resource.clone(), version, record));
        if let Some(value) = value {
            self.put(Row::SecretValue(resource.clone(), version, value.clone()));
        }
    }

    fn removed(&mut self, id: &ResourceId) {
        self.carry_out(Removal::of(self.state, [id.clone()], None));
    }

    fn host_factory_token_used(&mut self, digest: &Digest) {
        if let Some(token) = self.state.host_factory_token(digest) {
            let uses_left = token.uses_left.map(|uses| uses.saturating_sub(1));
            let record = HostFactoryToken { uses_left, ..token.clone() };
            self.put(Row::HostFactoryToken(*digest, record));
        }
    }

    fn account_deleted(&mut self, account: &AccountName) {
        let within = self.state.resources(Some(account), None).map(|(id, _)| id.clone());
        self.carry_out(Removal::of(self.state, within, Some(account)));
        let issuers = self.state.issuers(account).map(|(key, _)| RowKey::Issuer(key.clone()));
        self.effects.extend(issuers.map(Effect::Delete));
        self.delete(RowKey::Account(account.clone()));
    }

    fn carry_out(&mut self, removal: Removal<'_>) {
        self.effects.extend(removal.keys.into_iter().map(Effect::Delete));
        for admin in removal.orphans {
            if let Some(before) = self.state.resource(&admin) {
                let record = Resource { owner: admin.clone(), ..before.clone() };
                self.put(Row::Resource(admin, record));
            }
        }
    }

    /// Moves the revision of each account whose roles, resources, grants or annotations the effects
    /// touch. The revision is the log index, so an entry with a thousand events rewrites the account
    /// once; it never goes back, even when a restored cluster counts its log from the beginning.
    fn move_revisions(&mut self) {
        let mut touched = BTreeSet::new();
        for effect in &self.effects {
            touched.extend(match effect {
                Effect::Put(row) => accounts_of_row(row),
                Effect::Delete(key) => accounts_of_key(key),
            });
        }
        let state = self.state;
        let is_gone = |name: &AccountName| {
            let last = self.effects.last();
            matches!(last, Some(Effect::Delete(RowKey::Account(gone))) if gone == name)
        };
        let moved: Vec<Row> = touched
            .into_iter()
            .flatten()
            .filter(|name| !is_gone(name))
            .filter_map(|name| state.account(name).map(|account| (name, account)))
            .filter(|(_, account)| account.revision != Revision(self.index.0))
            .map(|(name, account)| {
                let revision = Revision(self.index.0.max(account.revision.0 + 1));
                Row::Account(name.clone(), Account { revision, ..account.clone() })
            })
            .collect();
        self.effects.extend(moved.into_iter().map(Effect::put));
    }
}

fn ownership(role: &RoleId, owner: &RoleId) -> MembershipKey {
    MembershipKey { role: role.clone(), member: owner.clone(), ownership: true }
}

/// The accounts whose grants and records a row is part of.
fn accounts_of_row(row: &Row) -> [Option<&AccountName>; 2] {
    match row {
        Row::Role(id, _)
        | Row::Resource(id, _)
        | Row::Annotation(id, ..)
        | Row::PolicyVersion(id, ..) => [Some(id.account()), None],
        Row::Membership(key, _) => [Some(key.role.account()), Some(key.member.account())],
        Row::Permission(key, _) => [Some(key.resource.account()), Some(key.role.account())],
        Row::Issuer(key, _) => [Some(&key.account), None],
        Row::Account(..)
        | Row::Credential(..)
        | Row::SecretVersion(..)
        | Row::SecretValue(..)
        | Row::Keyring(_)
        | Row::JoinToken(..)
        | Row::Member(..)
        | Row::Answered(..)
        | Row::HostFactoryToken(..)
        | Row::AuthenticatorConfig(..)
        | Row::AuditBlock(..)
        | Row::AuditHead(_)
        | Row::AuditSource(..)
        | Row::Certificate(..)
        | Row::Level(_) => [None, None],
    }
}

/// As [`accounts_of_row`].
fn accounts_of_key(key: &RowKey) -> [Option<&AccountName>; 2] {
    match key {
        RowKey::Role(id)
        | RowKey::Resource(id)
        | RowKey::Annotation(id, _)
        | RowKey::PolicyVersion(id, _) => [Some(id.account()), None],
        RowKey::Membership(key) => [Some(key.role.account()), Some(key.member.account())],
        RowKey::Permission(key) => [Some(key.resource.account()), Some(key.role.account())],
        RowKey::Issuer(key) => [Some(&key.account), None],
        RowKey::Account(_)
        | RowKey::Credential(_)
        | RowKey::SecretVersion(..)
        | RowKey::SecretValue(..)
        | RowKey::Keyring
        | RowKey::JoinToken(_)
        | RowKey::Member(_)
        | RowKey::Answered(..)
        | RowKey::HostFactoryToken(_)
        | RowKey::AuthenticatorConfig(_)
        | RowKey::AuditBlock(_)
        | RowKey::AuditHead
        | RowKey::AuditSource(_)
        | RowKey::Certificate(_)
        | RowKey::Level => [None, None],
    }
}

/// Everything that goes when a role or resource goes, found by walking the cascade.
struct Removal<'a> {
    state: &'a State,
    /// Sorted, so that the effects are the same wherever the rows lie in memory.
    keys: BTreeSet<RowKey>,
    seen: BTreeSet<ResourceId>,
    pending: Vec<ResourceId>,
    /// The account that goes as a whole.
    account: Option<&'a AccountName>,
    /// Administrators of other accounts whose owner goes. An account outlives whoever created it, so
    /// these own themselves from then on.
    orphans: BTreeSet<ResourceId>,
}

impl<'a> Removal<'a> {
    fn of(
        state: &'a State,
        ids: impl IntoIterator<Item = ResourceId>,
        account: Option<&'a AccountName>,
    ) -> Self {
        let mut removal = Self {
            state,
            keys: BTreeSet::new(),
            seen: BTreeSet::new(),
            pending: Vec::new(),
            account,
            orphans: BTreeSet::new(),
        };
        for id in ids {
            removal.goes(id);
        }
        while let Some(id) = removal.pending.pop() {
            removal.role(&id);
            removal.resource(&id);
            removal.declared(&id);
        }
        removal
    }

    fn goes(&mut self, id: ResourceId) {
        if self.seen.insert(id.clone()) {
            self.pending.push(id);
        }
    }

    fn role(&mut self, id: &RoleId) {
        let state = self.state;
        if state.role(id).is_some() {
            self.keys.insert(RowKey::Role(id.clone()));
        }
        if state.credential(id).is_some() {
            self.keys.insert(RowKey::Credential(id.clone()));
        }
        let memberships = state.members(id).into_iter().chain(state.memberships(id));
        self.keys.extend(memberships.map(|(key, _)| RowKey::Membership(key)));
        let permissions = state.permissions_of(id).into_iter();
        self.keys.extend(permissions.map(|(key, _)| RowKey::Permission(key)));
        let loaded = state.policy_versions_by(id).into_iter();
        self.keys.extend(loaded.map(|(policy, version)| RowKey::PolicyVersion(policy, version)));
        for owned in state.owned(id) {
            let is_elsewhere =
                owned.account() != id.account() && Some(owned.account()) != self.account;
            if is_elsewhere && owned == admin_role(owned.account()) {
                self.orphans.insert(owned);
            } else {
                self.goes(owned);
            }
        }
    }

    fn resource(&mut self, id: &ResourceId) {
        let state = self.state;
        if state.resource(id).is_some() {
            self.keys.insert(RowKey::Resource(id.clone()));
        }
        let permissions = state.permissions(id).into_iter();
        self.keys.extend(permissions.map(|(key, _)| RowKey::Permission(key)));
        let annotations = state.annotations(id);
        self.keys
            .extend(annotations.map(|(name, _)| RowKey::Annotation(id.clone(), name.to_owned())));
        for version in state.secret(id).into_iter().flat_map(|secret| secret.versions.keys()) {
            self.keys.insert(RowKey::SecretVersion(id.clone(), *version));
            self.keys.insert(RowKey::SecretValue(id.clone(), *version));
        }
        let tokens = state.host_factory_tokens(id);
        self.keys.extend(tokens.map(|(digest, _)| RowKey::HostFactoryToken(*digest)));
        if state.authenticator_config(id).is_some() {
            self.keys.insert(RowKey::AuthenticatorConfig(id.clone()));
        }
        let texts = state.policy_versions(id).into_iter().flat_map(BTreeMap::keys);
        self.keys.extend(texts.map(|version| RowKey::PolicyVersion(id.clone(), *version)));
    }

    fn declared(&mut self, id: &ResourceId) {
        if id.kind() != Kind::Policy {
            return;
        }
        let declared = self.state.declared(id);
        self.keys.extend(declared.memberships.into_iter().map(RowKey::Membership));
        self.keys.extend(declared.permissions.into_iter().map(RowKey::Permission));
        let annotations = declared.annotations.into_iter();
        self.keys.extend(annotations.map(|(id, name)| RowKey::Annotation(id, name)));
        for id in declared.roles.into_iter().chain(declared.resources) {
            self.goes(id);
        }
    }
}
