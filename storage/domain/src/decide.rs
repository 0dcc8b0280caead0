//! Command to events, or a rejection. The answer given here is the one that counts: the door checks
//! first to say no quickly, but state may have moved since, and the order of the log is the truth.
//!
//! One arm a command. A node that acts for itself or its operator is trusted with every privilege,
//! and only it may touch members, join tokens and the keyring.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::audit::{
    AuditCheckpoint, AuditTexts, BATCH_BYTES_MAX, BATCH_RECORDS_MAX, CHECKPOINT_REACH,
    TRIMMED_AT_ONCE_MAX,
};
use crate::certificates::{self, Certificate, CertificateKey, Condition};
use crate::command::{Actor, Command, Envelope, LoadMode, Need, Proof};
use crate::event::Event;
use crate::host_factory::{self, Enrolment};
use crate::id::{AccountName, Kind, ResourceId, RoleId};
use crate::level;
use crate::outcome::{Outcome, Rejection};
use crate::rbac::{
    Denial, accounts_resource, admin_role, authorize, governing_policy, is_allowed, is_visible,
    seed_service,
};
use crate::records::{
    Credential, Digest, FOUNDER, Fingerprint, JoinToken, Member, MemberRole, MembershipKey,
    NewApiKey, Resealed, Revision, Sealed, SealedAt, SigningKey, Version, WrappedKeyring,
};
use crate::state::State;
use crate::time::{LogIndex, Timestamp};

/// What a command leads to in a state: events that have then happened, and the answer.
///
/// `index` is the log index of the entry that holds the command. A pure function: every node that
/// asks it the same gets the same.
///
/// # Errors
/// A [`Rejection`]; nothing has happened then.
pub fn decide(
    state: &State,
    index: LogIndex,
    envelope: &Envelope,
) -> Result<(Vec<Event>, Outcome), Rejection> {
    let asked = Asked { state, index, at: envelope.at, actor: &envelope.actor };
    match &envelope.body {
        Command::InstallKeyring { keyring } => asked.install_keyring(keyring),
        Command::CreateAccount { account, signing_key, admin_key } => {
            asked.create_account(account, signing_key, admin_key)
        }
        Command::LoadPolicy { policy, mode, text, text_sha256, changes, based_on } => {
            let changes = asked.planned_changes(policy, *mode, changes, *based_on)?;
            Ok(asked.policy_loaded(policy, changes, &envelope.client_ip, text, text_sha256))
        }
        Command::SetSecret { resource, value, fingerprint } => {
            asked.set_secret(resource, value, *fingerprint)
        }
        Command::ExpireSecret { resource } => asked.expire_secret(resource),
        Command::RotateApiKey { role, key, proof } => asked.rotate_api_key(role, key, proof),
        Command::ChangePassword { role, password_hash, proof } => {
            asked.change_password(role, password_hash, proof)
        }
        Command::AddMember { role, member } => asked.add_member(role, member),
        Command::RemoveMember { role, member } => asked.remove_member(role, member),
        Command::IssueJoinToken { digest, token } => asked.issue_join_token(*digest, token),
        Command::AdmitMember { token, member } => {
            asked.admit_member(*token, &envelope.client_ip, member)
        }
        Command::RemoveMemberNode { node } => asked.remove_member_node(*node),
        Command::DeleteAccount { account } => asked.delete_account(account),
        Command::CreateHostFactoryTokens { factory, tokens, cidr, expires_at, uses } => {
            asked.create_host_factory_tokens(factory, tokens, cidr, *expires_at, *uses)
        }
        Command::RevokeHostFactoryToken { digest } => asked.revoke_host_factory_token(*digest),
        Command::EnrolHost { token, host, key, annotations } => {
            let client = envelope.client_ip.parse().ok();
            asked.enrol_host(*token, client, host, key, annotations)
        }
        Command::SweepHostFactoryTokens => asked.sweep_host_factory_tokens(),
        Command::ToggleAuthenticator { webservice, enabled } => {
            asked.toggle_authenticator(webservice, *enabled)
        }
        Command::ChangeAccount { account, needs, changes, based_on } => {
            let changes = asked.account_changes(account, needs, changes, *based_on)?;
            Ok((changes, Outcome::Done))
        }
        Command::RotateSecret { resource, after, value, fingerprint, expires_at } => {
            asked.rotate_secret(resource, *after, value, *fingerprint, *expires_at)
        }
        Command::AppendAudit { node, first, lost, records } => {
            asked.append_audit_records(*node, *first, *lost, records)
        }
        Command::ChainAudit { node, first, lost, texts } => {
            asked.append_audit(*node, *first, *lost, texts)
        }
        Command::CheckpointAudit { checkpoint } => asked.checkpoint_audit(checkpoint),
        Command::TrimAudit { first, base } => asked.trim_audit(*first, *base),
        Command::InstallCertificates { certificates } => asked.install_certificates(certificates),
        Command::MarkCertificate { key, condition } => asked.mark_certificate(key, condition),
        Command::RetireCertificate { key } => asked.retire_certificate(key),
        Command::Reseal { values } => asked.reseal(values),
        Command::RefoundCluster { node, member } => asked.refound_cluster(*node, member),
        Command::RaiseLevel { level } => asked.raise_level(*level),
    }
}

/// Most address ranges that one seed is bound to.
pub const JOIN_CIDRS_MAX: usize = 32;

/// Most values that one command seals anew.
pub const RESEALED_AT_ONCE_MAX: usize = 64;

type Decision = Result<(Vec<Event>, Outcome), Rejection>;

/// The state that is asked, by whom, when, and at which place of the log.
struct Asked<'a> {
    state: &'a State,
    index: LogIndex,
    at: Timestamp,
    actor: &'a Actor,
}

/// Accounts and keys.
impl Asked<'_> {
    fn install_keyring(&self, keyring: &WrappedKeyring) -> Decision {
        self.node_only("install a keyring")?;
        match self.state.keyring() {
            // A rotation adds the next data key; two at once cannot both be the next.
            Some(present) if present.generation.checked_add(1) != Some(keyring.generation) => {
                Err(exists("keyring", format!("generation {}", present.generation)))
            }
            Some(_) | None => done(Event::KeyringInstalled { keyring: keyring.clone() }),
        }
    }

    fn reseal(&self, values: &[Resealed]) -> Decision {
        self.node_only("seal values anew")?;
        if values.len() > RESEALED_AT_ONCE_MAX {
            return Err(Rejection::Invalid(format!(
                "{} values to seal anew: at most {RESEALED_AT_ONCE_MAX} go at once",
                values.len()
            )));
        }
        let current = values.iter().filter(|value| self.lies_there_still(&value.at));
        let values: Vec<Resealed> = current.cloned().collect();
        if values.is_empty() {
            return Ok((Vec::new(), Outcome::Done));
        }
        done(Event::Resealed { values })
    }

    fn lies_there_still(&self, at: &SealedAt) -> bool {
        let state = self.state;
        match at {
            SealedAt::SigningKey(account, id) => {
                state.account(account).is_some_and(|found| found.signing_key.id == *id)
            }
            SealedAt::ApiKey(role, digest) => {
                state.credential(role).is_some_and(|found| found.api_key_digest == *digest)
            }
            SealedAt::Secret(resource, version, fingerprint) => {
                let versions = state.secret(resource).map(|found| &found.versions);
                let found = versions.and_then(|versions| versions.get(version));
                found.is_some_and(|found| found.fingerprint == *fingerprint)
            }
            SealedAt::HostFactoryToken(digest) => state.host_factory_token(digest).is_some(),
            SealedAt::Issuer(key, before) => {
                state.issuer(key).is_some_and(|found| found.data == *before)
            }
            SealedAt::Certificate(key, before) => {
                state.certificate_of(key).is_some_and(|found| found.certificate.key == *before)
            }
        }
    }

    fn create_account(
        &self,
        account: &AccountName,
        signing_key: &SigningKey,
        admin_key: &NewApiKey,
    ) -> Decision {
        self.may_on_accounts("execute")?;
        if self.state.account(account).is_some() {
            return Err(exists("account", account));
        }
        if self.state.account_by_key_id(&signing_key.id).is_some() {
            return Err(exists("signing key", &signing_key.id));
        }
        let mut events = vec![Event::AccountCreated {
            account: account.clone(),
            signing_key: signing_key.clone(),
            admin_key: admin_key.clone(),
        }];
        if let Actor::Role(creator) = self.actor {
            let (resource, owner) = (admin_role(account), creator.clone());
            events.push(Event::OwnerChanged { resource, owner });
        }
        Ok((events, Outcome::Done))
    }

    fn delete_account(&self, account: &AccountName) -> Decision {
        self.may_on_accounts("update")?;
        // The account that stands above the others stays.
        if account.is_internal() || self.state.account(account).is_none() {
            return Err(not_found(&admin_role(account)));
        }
        done(Event::AccountDeleted { account: account.clone() })
    }

    /// The operator may do anything to accounts; a role what it may do to their resource. Who may not
    /// is told no more than that.
    fn may_on_accounts(&self, privilege: &str) -> Result<(), Rejection> {
        let Actor::Role(role) = self.actor else { return Ok(()) };
        let accounts = accounts_resource();
        let may = is_allowed(self.state, role, privilege, &accounts);
        if may { Ok(()) } else { Err(forbidden(role, privilege, &accounts)) }
    }
}

/// Policies.
impl Asked<'_> {
    /// Checks the right to load, that the plan was made from what is in force, and each change.
    fn planned_changes(
        &self,
        policy: &ResourceId,
        mode: LoadMode,
        changes: &[Event],
        based_on: Revision,
    ) -> Result<Vec<Event>, Rejection> {
        if policy.kind() != Kind::Policy {
            return Err(Rejection::Invalid(format!("{policy} is not a policy")));
        }
        let privilege = match mode {
            LoadMode::Append => "create",
            LoadMode::Update | LoadMode::Replace => "update",
        };
        self.authorize(privilege, policy)?;
        if mode == LoadMode::Replace {
            self.may_update_all_below(policy)?;
        }
        let account = self.state.account(policy.account());
        let current = account.ok_or_else(|| not_found(policy))?.revision;
        if current != based_on {
            return Err(Rejection::Stale { planned: based_on, current });
        }
        let mut brought: BTreeSet<&ResourceId> = BTreeSet::new();
        let mut keyed: BTreeSet<&RoleId> = BTreeSet::new();
        // Few loads have any of what this is asked for.
        if changes.iter().any(|change| matches!(change, Event::SecretVersionAdded { .. })) {
            brought.extend(changes.iter().filter_map(|change| {
                let Event::ResourceAdded { resource, .. } = change else { return None };
                Some(resource)
            }));
        }
        if changes.iter().any(|change| matches!(change, Event::PasswordChanged { .. })) {
            keyed.extend(changes.iter().filter_map(|change| {
                let Event::CredentialCreated { role, .. } = change else { return None };
                Some(role)
            }));
        }
        let mut secrets = BTreeSet::new();
        let checked = changes.iter().filter_map(|change| {
            match check_change(policy, change, &mut secrets, &keyed) {
                Ok(()) => self.at_its_version(change, &brought).map(Ok),
                Err(why) => Some(Err(Rejection::Invalid(format!("malformed plan: {why}")))),
            }
        });
        checked.collect()
    }

    /// Replacing may remove anything below, so all of it must be the actor's to change.
    fn may_update_all_below(&self, policy: &ResourceId) -> Result<(), Rejection> {
        let Actor::Role(role) = self.actor else { return Ok(()) };
        let prefix = format!("{}/", policy.identifier());
        let mut below = self.state.resources_below(policy.account(), &prefix);
        match below.find(|(resource, _)| !is_allowed(self.state, role, "update", resource)) {
            None => Ok(()),
            // What the actor may not see is not named to it.
            Some((denied, _)) if is_visible(self.state, role, denied) => {
                Err(forbidden(role, "update", denied))
            }
            Some(_) => Err(forbidden(role, "update", policy)),
        }
    }

    /// The change as it stands, save that a public key's value gets the version that is next now, and
    /// is left out when it is what the key holds already: values do not move the revision. A key that
    /// the load brings, or takes away and brings again, begins anew.
    fn at_its_version(&self, change: &Event, brought: &BTreeSet<&ResourceId>) -> Option<Event> {
        let Event::SecretVersionAdded { resource, fingerprint, value, .. } = change else {
            return Some(change.clone());
        };
        let (version, same) = if brought.contains(resource) {
            (Version(1), false)
        } else {
            self.next_version(resource, *fingerprint)
        };
        (!same).then(|| Event::SecretVersionAdded {
            resource: resource.clone(),
            version,
            fingerprint: *fingerprint,
            value: value.clone(),
        })
    }

    fn policy_loaded(
        &self,
        policy: &ResourceId,
        mut events: Vec<Event>,
        client_ip: &str,
        text: &str,
        text_sha256: &str,
    ) -> (Vec<Event>, Outcome) {
        let versions = self.state.policy_versions(policy);
        let newest = versions.and_then(|versions| versions.keys().next_back()).copied();
        let version = newest.unwrap_or(0) + 1;
        let role = match self.actor {
            Actor::Role(role) => role.clone(),
            Actor::Node => admin_role(policy.account()),
        };
        events.push(Event::PolicyLoaded {
            policy: policy.clone(),
            version,
            role,
            client_ip: client_ip.to_owned(),
            text: text.to_owned(),
            text_sha256: text_sha256.to_owned(),
        });
        (events, Outcome::PolicyLoaded { version })
    }
}

/// Secrets.
impl Asked<'_> {
    fn set_secret(
        &self,
        resource: &ResourceId,
        value: &Sealed,
        fingerprint: Fingerprint,
    ) -> Decision {
        self.authorize("update", resource)?;
        if !matches!(resource.kind(), Kind::Variable | Kind::PublicKey) {
            return Err(Rejection::Invalid(format!("{resource} cannot hold a secret")));
        }
        let (version, same) = self.next_version(resource, fingerprint);
        if same {
            return Ok((Vec::new(), Outcome::SecretSet { version, added: false }));
        }
        let event = Event::SecretVersionAdded {
            resource: resource.clone(),
            version,
            fingerprint,
            value: Some(value.clone()),
        };
        Ok((vec![event], Outcome::SecretSet { version, added: true }))
    }

    /// The version that a value of this fingerprint gets, and whether that is the current one, which
    /// has the same value.
    fn next_version(&self, resource: &ResourceId, fingerprint: Fingerprint) -> (Version, bool) {
        match self.state.secret(resource).and_then(|secret| secret.versions.last_key_value()) {
            Some((current, record)) if record.fingerprint == fingerprint => (*current, true),
            Some((current, _)) => (Version(current.0 + 1), false),
            None => (Version(1), false),
        }
    }

    /// Nodes rotate, nobody else. What was set by hand meanwhile stays in force.
    fn rotate_secret(
        &self,
        resource: &ResourceId,
        after: Version,
        value: &Sealed,
        fingerprint: Fingerprint,
        expires_at: Timestamp,
    ) -> Decision {
        self.node_only("rotate a secret")?;
        if resource.kind() != Kind::Variable {
            return Err(Rejection::Invalid(format!("{resource} is not a variable")));
        }
        let secret = self.state.secret(resource).ok_or_else(|| not_found(resource))?;
        let current = secret.versions.last_key_value().map(|(version, _)| *version);
        if current != Some(after) {
            return Err(Rejection::Invalid(format!("{resource} has been set since")));
        }
        let (version, _) = self.next_version(resource, fingerprint);
        if version == after {
            return Err(Rejection::Invalid(format!("{resource} has that value already")));
        }
        let event = Event::SecretRotated {
            resource: resource.clone(),
            version,
            fingerprint,
            value: Some(value.clone()),
            expires_at,
        };
        Ok((vec![event], Outcome::SecretSet { version, added: true }))
    }

    fn expire_secret(&self, resource: &ResourceId) -> Decision {
        self.authorize("update", resource)?;
        if resource.kind() != Kind::Variable {
            return Err(Rejection::Invalid(format!("{resource} is not a variable")));
        }
        done(Event::SecretExpired { resource: resource.clone() })
    }
}

/// Credentials.
impl Asked<'_> {
    fn rotate_api_key(&self, role: &RoleId, key: &NewApiKey, proof: &Proof) -> Decision {
        if self.state.role(role).is_none() {
            return Err(not_found(role));
        }
        match proof {
            Proof::Credentials(digest) => {
                self.proves_to_be(role, *digest)?;
            }
            Proof::Token => self.may_rotate(role)?,
        }
        done(Event::ApiKeyRotated { role: role.clone(), key: key.clone() })
    }

    /// A token is too weak a proof for a role to change its own key, and enough to change another's
    /// with `update` on it.
    fn may_rotate(&self, role: &RoleId) -> Result<(), Rejection> {
        if matches!(self.actor, Actor::Role(actor) if actor == role) {
            return Err(Rejection::Unauthenticated);
        }
        self.authorize("update", role)?;
        if role.kind().has_credentials() {
            return Ok(());
        }
        match self.actor {
            // Conjur's clients are told that the role is unfit only when they may not read it.
            Actor::Role(actor) if is_allowed(self.state, actor, "read", role) => {
                Err(forbidden(actor, "update", role))
            }
            Actor::Role(_) | Actor::Node => Err(Rejection::NoCredentials { role: role.clone() }),
        }
    }

    fn change_password(&self, role: &RoleId, password_hash: &str, proof: &Proof) -> Decision {
        match (proof, self.actor) {
            (Proof::Credentials(digest), _) => {
                self.proves_to_be(role, *digest)?;
            }
            (Proof::Token, Actor::Node) => {
                self.credential(role)?;
            }
            (Proof::Token, Actor::Role(_)) => return Err(Rejection::Unauthenticated),
        }
        if role.kind() != Kind::User {
            return Err(Rejection::Invalid(format!("{role} is not a user")));
        }
        let password_hash = password_hash.to_owned();
        done(Event::PasswordChanged { role: role.clone(), password_hash })
    }

    /// The actor is `role`, and the key that it was checked against is still in force.
    fn proves_to_be(&self, role: &RoleId, digest: Digest) -> Result<(), Rejection> {
        if *self.actor != Actor::Role(role.clone()) {
            return Err(Rejection::Unauthenticated);
        }
        let is_current = self.credential(role)?.api_key_digest == digest;
        if is_current { Ok(()) } else { Err(Rejection::Unauthenticated) }
    }

    fn credential(&self, role: &RoleId) -> Result<&Credential, Rejection> {
        let credential = self.state.credential(role);
        credential.ok_or_else(|| Rejection::NoCredentials { role: role.clone() })
    }
}

/// Grants outside any policy.
impl Asked<'_> {
    fn add_member(&self, role: &RoleId, member: &RoleId) -> Decision {
        self.may_govern("create", role)?;
        if self.state.role(member).is_none() {
            return Err(not_found(member));
        }
        let key = MembershipKey { role: role.clone(), member: member.clone(), ownership: false };
        if self.state.membership(&key).is_some() {
            return Ok((Vec::new(), Outcome::Done));
        }
        done(Event::MembershipAdded { key, admin_option: false, policy: None })
    }

    fn remove_member(&self, role: &RoleId, member: &RoleId) -> Decision {
        self.may_govern("update", role)?;
        let key = MembershipKey { role: role.clone(), member: member.clone(), ownership: false };
        if self.state.membership(&key).is_none() {
            return Err(not_found(member));
        }
        done(Event::MembershipRemoved { key })
    }

    /// The actor sees the role and has the privilege on the policy that governs it.
    fn may_govern(&self, privilege: &str, role: &RoleId) -> Result<(), Rejection> {
        if self.state.role(role).is_none() {
            return Err(not_found(role));
        }
        let Actor::Role(actor) = self.actor else { return Ok(()) };
        if !is_visible(self.state, actor, role) {
            return Err(not_found(role));
        }
        let policy = governing_policy(self.state, role).ok_or_else(|| not_found(role))?;
        let may = is_allowed(self.state, actor, privilege, &policy);
        if may { Ok(()) } else { Err(forbidden(actor, privilege, &policy)) }
    }
}

/// Host factories.
impl Asked<'_> {
    fn create_host_factory_tokens(
        &self,
        factory: &ResourceId,
        tokens: &[NewApiKey],
        cidr: &[IpNet],
        expires_at: Timestamp,
        uses: Option<u32>,
    ) -> Decision {
        self.authorize("execute", factory)?;
        if factory.kind() != Kind::HostFactory {
            return Err(Rejection::Invalid(format!("Invalid resource kind: {}", factory.kind())));
        }
        if expires_at <= self.at {
            return Err(Rejection::Invalid("the tokens would be expired at once".to_owned()));
        }
        if uses == Some(0) {
            return Err(Rejection::Invalid("the tokens would be used up at once".to_owned()));
        }
        let known = |token: &NewApiKey| self.state.host_factory_token(&token.digest).is_some();
        if tokens.iter().any(known) {
            return Err(exists("host factory token", "with the same digest"));
        }
        let digests = tokens.iter().map(|token| token.digest).collect();
        let event = Event::HostFactoryTokensIssued {
            factory: factory.clone(),
            tokens: tokens.to_vec(),
            cidr: cidr.to_vec(),
            expires_at,
            uses,
        };
        Ok((vec![event], Outcome::HostFactoryTokensIssued { digests }))
    }

    fn revoke_host_factory_token(&self, digest: Digest) -> Decision {
        let token = self.state.host_factory_token(&digest);
        let token = token.filter(|token| token.expires_at > self.at);
        let token = token.ok_or_else(|| Rejection::Invalid("no such token".to_owned()))?;
        // Who has the token in hand is told no more by "not found" than by "may not".
        match self.actor {
            Actor::Role(role) if !is_allowed(self.state, role, "update", &token.factory) => {
                return Err(forbidden(role, "update", &token.factory));
            }
            Actor::Role(_) | Actor::Node => {}
        }
        done(Event::HostFactoryTokenRevoked { digest })
    }

    fn enrol_host(
        &self,
        digest: Digest,
        client: Option<IpAddr>,
        host: &RoleId,
        key: &NewApiKey,
        annotations: &[(String, String)],
    ) -> Decision {
        let token = self.state.host_factory_token(&digest);
        let token = token.filter(|token| token.admits(self.at, client) && !token.is_used_up());
        let Some(token) = token else { return Err(Rejection::Unauthenticated) };
        let factory = &token.factory;
        if *self.actor != Actor::Role(factory.clone()) {
            return Err(Rejection::Unauthenticated);
        }
        let mut events = match host_factory::judge(self.state, factory, host)? {
            Enrolment::Again => vec![Event::ApiKeyRotated { role: host.clone(), key: key.clone() }],
            Enrolment::New => host_factory::enrolment(self.state, factory, host, key, annotations),
        };
        events.extend(token.uses_left.map(|_uses| Event::HostFactoryTokenUsed { digest }));
        Ok((events, Outcome::Done))
    }

    fn sweep_host_factory_tokens(&self) -> Decision {
        self.node_only("sweep tokens")?;
        let expired = self.state.expired_host_factory_tokens(self.at);
        let digests: Vec<Digest> = expired.take(host_factory::SWEPT_AT_ONCE_MAX).collect();
        if digests.is_empty() {
            return Ok((Vec::new(), Outcome::Done));
        }
        done(Event::HostFactoryTokensExpired { digests })
    }
}

/// Changes through the API, outside any policy load.
impl Asked<'_> {
    fn toggle_authenticator(&self, webservice: &ResourceId, enabled: bool) -> Decision {
        self.authorize("update", webservice)?;
        if webservice.kind() != Kind::Webservice {
            return Err(Rejection::Invalid(format!("{webservice} is not a webservice")));
        }
        let before = self.state.authenticator_config(webservice);
        if before.is_some_and(|before| before.enabled == enabled) {
            return Ok((Vec::new(), Outcome::Done));
        }
        done(Event::AuthenticatorToggled { webservice: webservice.clone(), enabled })
    }

    /// Checks what the actor needs, that the plan was made from what is in force, and each change.
    fn account_changes(
        &self,
        account: &AccountName,
        needs: &[Need],
        changes: &[Event],
        based_on: Revision,
    ) -> Result<Vec<Event>, Rejection> {
        if needs.is_empty() && matches!(self.actor, Actor::Role(_)) {
            return Err(Rejection::Invalid("a plan that needs no privilege".to_owned()));
        }
        for need in needs {
            self.authorize(&need.privilege, &need.resource)?;
        }
        let record = self
            .state
            .account(account)
            .ok_or_else(|| not_found(&crate::rbac::root_policy(account)))?;
        if record.revision != based_on {
            return Err(Rejection::Stale { planned: based_on, current: record.revision });
        }
        let brought = brought(changes);
        let checked = changes.iter().filter_map(|change| match check_api_change(account, change) {
            Ok(()) => self.at_its_version(change, &brought).map(Ok),
            Err(why) => Some(Err(Rejection::Invalid(format!("malformed plan: {why}")))),
        });
        checked.collect()
    }
}

/// Members of the cluster.
impl Asked<'_> {
    fn raise_level(&self, level: u32) -> Decision {
        self.node_only("raise the feature level")?;
        let present = self.state.level();
        if level <= present {
            let why = format!("the feature level is {present} already: it never falls to {level}");
            return Err(Rejection::Invalid(why));
        }
        done(Event::LevelRaised { level })
    }

    /// The operator lets anybody join; a role, where it may execute its account's seed service, only
    /// followers.
    fn issue_join_token(&self, digest: Digest, token: &JoinToken) -> Decision {
        match self.actor {
            Actor::Role(role) if self.state.level() >= level::SEED_SERVICE => {
                self.authorize("execute", &seed_service(role.account()))?;
                if token.role != MemberRole::Follower {
                    return Err(Rejection::Invalid(
                        "the seed service issues seeds for followers only".to_owned(),
                    ));
                }
            }
            Actor::Role(_) | Actor::Node => self.node_only("issue a join token")?,
        }
        if self.state.join_token(&digest).is_some() {
            return Err(exists("join token", "with the same digest"));
        }
        if token.expires_at <= self.at {
            return Err(Rejection::Invalid("the join token would be expired at once".to_owned()));
        }
        if token.cidr.len() > JOIN_CIDRS_MAX {
            let found = token.cidr.len();
            let why = format!("the seed has {found} address ranges: {JOIN_CIDRS_MAX} are allowed");
            return Err(Rejection::Invalid(why));
        }
        self.member_name_is_free(&token.name)?;
        done(Event::JoinTokenIssued { digest, token: token.clone() })
    }

    fn admit_member(&self, token: Option<Digest>, client_ip: &str, member: &Member) -> Decision {
        self.node_only("admit a member")?;
        // Its answer was lost: who proves a member's node key is told its id again.
        let present = self.state.member_nodes().iter().find(|(_, present)| *present == member);
        if let Some((node, _)) = present
            && token.is_some()
        {
            return Ok((Vec::new(), Outcome::MemberAdmitted { node: *node }));
        }
        match token {
            Some(digest) => self.token_admits(digest, client_ip, member)?,
            None if self.state.member_nodes().is_empty() => {}
            None => return Err(refused("only the first member of a cluster needs none")),
        }
        self.member_name_is_free(&member.name)?;
        let mut present = self.state.member_nodes().values();
        if present.any(|present| present.node_key == member.node_key) {
            return Err(exists("member", "with the same node key"));
        }
        // The founder had to have an id before there was a log to give one.
        let node = if token.is_none() { FOUNDER } else { self.index.0 };
        if self.state.member_nodes().contains_key(&node) {
            return Err(exists("member", node));
        }
        let event = Event::MemberAdmitted { node, member: member.clone(), token };
        Ok((vec![event], Outcome::MemberAdmitted { node }))
    }

    fn token_admits(
        &self,
        digest: Digest,
        client_ip: &str,
        member: &Member,
    ) -> Result<(), Rejection> {
        let Some(token) = self.state.join_token(&digest) else {
            return Err(refused("unknown or already used"));
        };
        if token.expires_at <= self.at {
            return Err(refused("expired"));
        }
        if token.name != member.name {
            return Err(refused(format!("issued for the node \"{}\"", token.name)));
        }
        if token.role != member.role {
            return Err(refused(match token.role {
                MemberRole::Voter => "issued for a voter",
                MemberRole::Follower => "issued for a follower",
            }));
        }
        let client = client_ip.parse::<IpAddr>();
        let from_there =
            || client.is_ok_and(|client| token.cidr.iter().any(|range| range.contains(&client)));
        if !token.cidr.is_empty() && !from_there() {
            let ranges: Vec<String> = token.cidr.iter().map(ToString::to_string).collect();
            let from = if client_ip.is_empty() { "an unknown address" } else { client_ip };
            return Err(refused(format!("issued for {}, and this is {from}", ranges.join(", "))));
        }
        Ok(())
    }

    fn member_name_is_free(&self, name: &str) -> Result<(), Rejection> {
        if name.is_empty() {
            return Err(Rejection::Invalid("a member needs a name".to_owned()));
        }
        let mut present = self.state.member_nodes().values();
        let is_taken = present.any(|present| present.name == name);
        if is_taken { Err(exists("member", name)) } else { Ok(()) }
    }

    fn remove_member_node(&self, node: u64) -> Decision {
        self.node_only("remove a member")?;
        let members = self.state.member_nodes();
        let Some(member) = members.get(&node) else {
            return Err(Rejection::Invalid(format!("no member has node id {node}")));
        };
        let voters = members.values().filter(|member| member.role == MemberRole::Voter).count();
        if member.role == MemberRole::Voter && voters == 1 {
            let why = format!("node {node} is the last voter and cannot be removed");
            return Err(Rejection::Invalid(why));
        }
        done(Event::MemberRemoved { node })
    }

    fn refound_cluster(&self, node: u64, member: &Member) -> Decision {
        self.node_only("found the cluster anew")?;
        if member.name.is_empty() {
            return Err(Rejection::Invalid("a member needs a name".to_owned()));
        }
        if member.role != MemberRole::Voter {
            let why = format!("{} would be alone, and a follower cannot be", member.name);
            return Err(Rejection::Invalid(why));
        }
        done(Event::ClusterRefounded { node, member: member.clone() })
    }
}

/// The audit chain.
impl Asked<'_> {
    /// Takes what begins right after what the chain has of the node.
    fn append_audit(&self, node: u64, first: u64, lost: u64, texts: &AuditTexts) -> Decision {
        self.node_only("append to the audit chain")?;
        if !self.state.member_nodes().contains_key(&node) {
            return Err(Rejection::Invalid(format!("node {node} is no member")));
        }
        let (records, bytes) = (texts.len(), texts.text_bytes());
        if records > BATCH_RECORDS_MAX || bytes > BATCH_BYTES_MAX {
            return Err(Rejection::Invalid(format!(
                "an audit batch of {records} records and {bytes} bytes: at most \
                 {BATCH_RECORDS_MAX} records and {BATCH_BYTES_MAX} bytes go at once"
            )));
        }
        let (Some(start), Some(end)) = (first.checked_sub(lost), first.checked_add(records as u64))
        else {
            return Err(Rejection::Invalid("an audit batch with impossible numbers".to_owned()));
        };
        if start == 0 {
            return Err(Rejection::Invalid("audit records are numbered from 1".to_owned()));
        }
        let known = self.state.audit_source(node);
        let next = known.saturating_add(1);
        // A batch that the chain has a part of is not cut: its bytes stay as its node packed them.
        if end <= next || start > next || first < next {
            return Ok((Vec::new(), Outcome::AuditAppended { last: known }));
        }
        let event = Event::AuditAppended { node, first, lost: first - next, texts: texts.clone() };
        Ok((vec![event], Outcome::AuditAppended { last: end - 1 }))
    }

    /// As [`Self::append_audit`], and cuts off what the chain has already.
    fn append_audit_records(
        &self,
        node: u64,
        first: u64,
        lost: u64,
        records: &[String],
    ) -> Decision {
        let begin = first.max(self.state.audit_source(node).saturating_add(1));
        let known = begin - first;
        let fresh = usize::try_from(known).ok().and_then(|known| records.get(known..));
        let texts = AuditTexts::plain(fresh.unwrap_or_default());
        let passed_over = known.min(records.len() as u64);
        self.append_audit(node, first + passed_over, lost.saturating_add(passed_over), &texts)
    }

    fn checkpoint_audit(&self, checkpoint: &AuditCheckpoint) -> Decision {
        self.node_only("vouch for the audit chain")?;
        let head = self.state.audit_head();
        let number = checkpoint.number;
        let reach = u64::try_from(CHECKPOINT_REACH).unwrap_or(u64::MAX);
        let is_recent = number <= head.last && head.last - number < reach;
        if !is_recent || number <= head.checkpointed || number < head.first {
            return Err(Rejection::Invalid(format!(
                "a checkpoint at record {number} of a chain that ends at {} and has one at {}",
                head.last, head.checkpointed
            )));
        }
        done(Event::AuditCheckpointed { checkpoint: checkpoint.clone() })
    }

    fn trim_audit(&self, first: u64, base: Digest) -> Decision {
        self.node_only("forget audit records")?;
        let head = self.state.audit_head();
        // The newest checkpoint stays, so that what is left is vouched for.
        let is_kept = first <= head.checkpointed;
        if first <= head.first || first - head.first > TRIMMED_AT_ONCE_MAX || !is_kept {
            return Err(Rejection::Invalid(format!(
                "an audit chain of the records {} to {}, checkpoint at {}, cannot begin at {first}",
                head.first, head.last, head.checkpointed
            )));
        }
        done(Event::AuditTrimmed { first, base })
    }
}

/// Certificates of the cluster.
impl Asked<'_> {
    fn install_certificates(&self, new: &[(CertificateKey, Certificate)]) -> Decision {
        self.node_only("install certificates")?;
        certificates::may_install(self.state, new)?;
        done(Event::CertificatesInstalled { certificates: new.to_vec() })
    }

    fn mark_certificate(&self, key: &CertificateKey, condition: &Condition) -> Decision {
        self.node_only("mark a certificate")?;
        let newest = self.state.certificate(&key.name).map(|(newest, _)| newest);
        if newest != Some(key) {
            return Err(Rejection::Invalid(format!("{key} is not in force")));
        }
        done(Event::CertificateMarked { key: key.clone(), condition: condition.clone() })
    }

    fn retire_certificate(&self, key: &CertificateKey) -> Decision {
        self.node_only("retire a certificate")?;
        certificates::may_retire(self.state, key)?;
        done(Event::CertificateRetired { key: key.clone() })
    }
}

/// Who may.
impl Asked<'_> {
    fn authorize(&self, privilege: &str, resource: &ResourceId) -> Result<(), Rejection> {
        match self.actor {
            Actor::Node if self.state.resource(resource).is_some() => Ok(()),
            Actor::Node => Err(not_found(resource)),
            Actor::Role(role) => match authorize(self.state, role, privilege, resource) {
                Ok(_permit) => Ok(()),
                Err(Denial::NotFound) => Err(not_found(resource)),
                Err(Denial::Forbidden) => Err(forbidden(role, privilege, resource)),
            },
        }
    }

    fn node_only(&self, what: &str) -> Result<(), Rejection> {
        match self.actor {
            Actor::Node => Ok(()),
            Actor::Role(role) => {
                Err(Rejection::Invalid(format!("{role} may not {what}: only the operator may")))
            }
        }
    }
}

/// Whether one change may stand in the plan of a load into `policy`: it is of a sort that policies
/// make, it is about the policy's own account, and rows that name a declaring policy name this one.
///
/// Owners, members and grantees may be of another account: what is given away is one's own.
fn check_change(
    policy: &ResourceId,
    change: &Event,
    secrets: &mut BTreeSet<ResourceId>,
    keyed: &BTreeSet<&RoleId>,
) -> Result<(), String> {
    let (about, declared_by) = match change {
        Event::RoleAdded { role, policy } => (role, Some(policy.as_ref())),
        Event::ResourceAdded { resource, policy, .. } => (resource, Some(policy.as_ref())),
        Event::MembershipAdded { key, policy, .. } => (&key.role, Some(policy.as_ref())),
        Event::PermissionAdded { key, policy } => (&key.resource, Some(policy.as_ref())),
        Event::AnnotationSet { resource, annotation, .. } => {
            (resource, Some(annotation.policy.as_ref()))
        }
        Event::RoleRemoved { role } => (role, None),
        Event::ResourceRemoved { resource }
        | Event::OwnerChanged { resource, .. }
        | Event::AnnotationRemoved { resource, .. } => (resource, None),
        Event::MembershipRemoved { key } => (&key.role, None),
        Event::PermissionRemoved { key } => (&key.resource, None),
        Event::CredentialCreated { role, .. } | Event::RestrictionChanged { role, .. } => {
            if !role.kind().has_credentials() {
                return Err(format!("{role} cannot hold credentials"));
            }
            (role, None)
        }
        Event::PasswordChanged { role, .. } => {
            if role.kind() != Kind::User || !keyed.contains(role) {
                return Err(format!("no load changes the password of {role}"));
            }
            (role, None)
        }
        Event::SecretVersionAdded { resource, value, .. } => {
            if resource.kind() != Kind::PublicKey || value.is_none() {
                return Err(format!("no load sets the value of {resource}"));
            }
            if !secrets.insert(resource.clone()) {
                return Err(format!("{resource} is set twice"));
            }
            (resource, None)
        }
        Event::KeyringInstalled { .. }
        | Event::AccountCreated { .. }
        | Event::ApiKeyRotated { .. }
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
        | Event::LevelRaised { .. } => {
            return Err("not a change that a load makes".to_owned());
        }
    };
    if about.account() != policy.account() {
        return Err(format!("{about} is of another account than {policy}"));
    }
    if declared_by.is_some_and(|declared_by| declared_by != Some(policy)) {
        return Err(format!("a row of {about} is not marked as declared by {policy}"));
    }
    check_record(change, about)
}

/// Whether one change may stand in a plan that the door made outside any load: it is about the
/// account, and of a sort that the API makes.
fn check_api_change(account: &AccountName, change: &Event) -> Result<(), String> {
    let about = match change {
        Event::RoleAdded { role, .. } | Event::RoleRemoved { role } => role,
        Event::ResourceAdded { resource, .. }
        | Event::ResourceRemoved { resource }
        | Event::OwnerChanged { resource, .. }
        | Event::AnnotationSet { resource, .. }
        | Event::AnnotationRemoved { resource, .. } => resource,
        Event::MembershipAdded { key, .. } | Event::MembershipRemoved { key } => &key.role,
        Event::PermissionAdded { key, .. } | Event::PermissionRemoved { key } => &key.resource,
        Event::AuthenticatorToggled { webservice, .. } if webservice.kind() == Kind::Webservice => {
            webservice
        }
        Event::SecretVersionAdded { resource, value: Some(_), .. }
            if resource.kind() == Kind::Variable =>
        {
            resource
        }
        Event::IssuerSet { key, .. } | Event::IssuerRemoved { key } => {
            let its_own = key.account == *account;
            return if its_own { Ok(()) } else { Err(format!("{key:?} is of another account")) };
        }
        Event::KeyringInstalled { .. }
        | Event::AccountCreated { .. }
        | Event::CredentialCreated { .. }
        | Event::RestrictionChanged { .. }
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
        | Event::SecretRotated { .. }
        | Event::AuditAppended { .. }
        | Event::AuditCheckpointed { .. }
        | Event::AuditTrimmed { .. }
        | Event::CertificatesInstalled { .. }
        | Event::CertificateMarked { .. }
        | Event::CertificateRetired { .. }
        | Event::Resealed { .. }
        | Event::ClusterRefounded { .. }
        | Event::LevelRaised { .. } => {
            return Err("not a change that the API makes".to_owned());
        }
    };
    if about.account() != account {
        return Err(format!("{about} is of another account than {account}"));
    }
    check_record(change, about)
}

/// Resources that the changes bring.
fn brought(changes: &[Event]) -> BTreeSet<&ResourceId> {
    changes
        .iter()
        .filter_map(|change| {
            let Event::ResourceAdded { resource, .. } = change else { return None };
            Some(resource)
        })
        .collect()
}

/// Only what can be a role becomes one, and an account's root stays.
fn check_record(change: &Event, about: &ResourceId) -> Result<(), String> {
    let adds_or_removes_role =
        matches!(change, Event::RoleAdded { .. } | Event::RoleRemoved { .. });
    if adds_or_removes_role && !about.kind().is_role() {
        return Err(format!("{about} cannot be a role"));
    }
    let is_root = matches!(
        (about.kind(), about.identifier()),
        (Kind::Policy, "root") | (Kind::User, "admin")
    );
    let uproots = matches!(
        change,
        Event::RoleAdded { .. }
            | Event::ResourceAdded { .. }
            | Event::RoleRemoved { .. }
            | Event::ResourceRemoved { .. }
            | Event::OwnerChanged { .. }
    );
    if is_root && uproots {
        return Err(format!("{about} stays as it is while its account does"));
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the arms of deciding end in it")]
fn done(event: Event) -> Decision {
    Ok((vec![event], Outcome::Done))
}

fn not_found(resource: &ResourceId) -> Rejection {
    Rejection::NotFound { resource: resource.clone() }
}

fn forbidden(role: &RoleId, privilege: &str, resource: &ResourceId) -> Rejection {
    Rejection::Forbidden {
        role: role.clone(),
        privilege: privilege.to_owned(),
        resource: resource.clone(),
    }
}

fn exists(what: &str, id: impl fmt::Display) -> Rejection {
    Rejection::Exists { what: what.to_owned(), id: id.to_string() }
}

fn refused(why: impl Into<String>) -> Rejection {
    Rejection::JoinTokenRefused(why.into())
}
