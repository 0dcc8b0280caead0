//! Authenticators: who is at the door, proven by something other than an access token.
//!
//! One file each behind one trait, with three answers: not mine, refused with a reason, this is who
//! it is. What is refused looks alike from outside, whatever the reason; the audit record has it.

mod api_key;
mod azure;
mod cert;
mod claims;
pub(crate) mod directory;
mod directory_pool;
mod enablement;
mod facts;
mod gcp;
mod iam;
mod id_token;
mod jwt;
pub(crate) mod k8s;
mod keys;
mod ldap;
mod oidc;
pub(crate) mod oidc_code;
mod oidc_invitation;
pub(crate) mod outbound;
mod password;
mod sigv4;
mod variables;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId, RoleId};
use conclave_domain::rbac;
use conclave_domain::records::Credential;
use conclave_domain::state::State;
use futures::future::BoxFuture;
use http::StatusCode;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::context::Call;
use crate::error::Refusal;
use crate::settings::Clouds;

use id_token::Fault;

pub(crate) use enablement::{full_name, is_known_type, misnamed, webservice};
pub(crate) use outbound::{Outbound, Target, pinned};
pub(crate) use password::{Proven, basic_credentials, prove};

/// The authenticator that every account has.
pub(crate) const DEFAULT: &str = "authn";
/// The user in records of an attempt by a role that does not exist.
pub(crate) const UNKNOWN: &str = "not-found";

/// An attempt to authenticate, as the path tells it.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// `authn`, `authn-jwt`, …
    pub(crate) authenticator: String,
    /// The service, for authenticators that have several.
    pub(crate) service: Option<String>,
    pub(crate) account: Option<AccountName>,
    pub(crate) login: Option<String>,
}

impl Attempt {
    /// `authn-x` or `authn-x/service`.
    pub(crate) fn full_name(&self) -> String {
        full_name(&self.authenticator, self.service.as_deref())
    }

    /// The account, without which nobody can be anybody.
    pub(crate) fn account(&self) -> Result<&AccountName, Denied> {
        self.account.as_ref().ok_or_else(|| Denied::new("CONJ00008E No account is named"))
    }

    /// The webservice that stands for the authenticator.
    pub(crate) fn webservice(&self) -> Result<ResourceId, Denied> {
        let service = self.service.as_deref();
        webservice(self.account()?, &self.authenticator, service).ok_or_else(|| {
            Denied::new(format!("CONJ00005E Webservice '{}' not found", self.full_name()))
        })
    }
}

/// What an authenticator says to an attempt.
pub(crate) enum Verdict {
    /// The attempt is for another authenticator.
    NotMine,
    /// No.
    Refused(Denied),
    /// This is who it is.
    Is(RoleId),
}

impl From<Result<RoleId, Denied>> for Verdict {
    fn from(result: Result<RoleId, Denied>) -> Self {
        match result {
            Ok(role) => Self::Is(role),
            Err(denied) => Self::Refused(denied),
        }
    }
}

/// A "no" of an authenticator: what the client is answered, and the reason, which it is not told.
#[derive(Debug, Clone)]
pub(crate) struct Denied {
    pub(crate) refusal: Refusal,
    /// For the record and the log.
    pub(crate) reason: Cow<'static, str>,
    /// Who it claimed to be, where that is known.
    pub(crate) claimed: Option<Box<RoleId>>,
}

impl Denied {
    /// No, in the words that tell an outsider nothing.
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::with(Refusal::UNAUTHENTICATED, reason)
    }

    /// No, in words of its own.
    pub(crate) fn with(refusal: Refusal, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal, reason: reason.into(), claimed: None }
    }

    /// What the request had to bring is not in it.
    pub(crate) fn field_missing(name: &str) -> Self {
        let refusal = Refusal::Empty(StatusCode::BAD_REQUEST);
        Self::with(
            refusal,
            format!("CONJ00009E Field '{name}' is missing or empty in request body"),
        )
    }

    /// The same, of somebody.
    pub(crate) fn of(mut self, role: &RoleId) -> Self {
        self.claimed = Some(Box::new(role.clone()));
        self
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.reason().into_owned();
        Self::with(refusal, reason)
    }
}

/// What an expired token is answered, alone among refusals: its bearer may simply fetch a new one.
const EXPIRED: &str = "CONJ00016E Token expired";

impl From<Fault> for Denied {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Expired => Self::with(Refusal::Unauthorized(EXPIRED), EXPIRED),
            Fault::Refused(reason) => Self::new(reason),
        }
    }
}

/// Why an authenticator cannot be used as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusError {
    pub(crate) status: StatusCode,
    /// The class of error in Conjur's words, without its leading `Errors::`.
    pub(crate) class: &'static str,
    /// Code and text.
    pub(crate) message: String,
}

impl From<Denied> for StatusError {
    fn from(denied: Denied) -> Self {
        let class = match denied.reason.get(..10) {
            Some("CONJ00036E") => "Conjur::RequiredResourceMissing",
            Some("CONJ00037E") => "Conjur::RequiredSecretMissing",
            Some("CONJ00011E") => "Authentication::OAuth::ProviderDiscoveryFailed",
            Some("CONJ00042E") => "Authentication::AuthnK8s::InvalidApiUrl",
            Some("CONJ00043E" | "CONJ00154E") => "Authentication::AuthnK8s::InvalidApiCert",
            Some("CONJ00153E") => "Authentication::AuthnK8s::InvalidServiceAccountToken",
            Some("CONJ00155E") => "Authentication::AuthnK8s::InvalidSigningCert",
            Some("CONJ00156E") => "Authentication::AuthnK8s::InvalidSigningKey",
            Some("CONJ00087E") => "Authentication::AuthnJwt::FetchJwksKeysFailed",
            _ => "Authentication::Security::AuthenticatorNotUsable",
        };
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { status, class, message: denied.reason.into_owned() }
    }
}

/// One way to prove who one is.
pub(crate) trait Authenticator: Send + Sync + 'static {
    /// Its name in paths, settings and records.
    fn name(&self) -> &'static str;

    /// Judges an attempt; reads the request's body or headers as it needs. Except for the default
    /// one, that the authenticator is in force and its webservice there has been looked at before,
    /// and that the role may use it is looked at after.
    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict>;

    /// Judges a login with a password, for which the role's API key is given. Only what knows
    /// passwords does. The attempt has the login; as for [`Authenticator::judge`], the rest is looked
    /// at before and after.
    fn login<'a>(
        &'a self,
        _call: &'a mut Call,
        _attempt: &'a Attempt,
        _password: Zeroizing<Vec<u8>>,
    ) -> BoxFuture<'a, Verdict> {
        let reason = "CONJ00001E This authenticator has no login";
        Box::pin(async move { Verdict::Refused(Denied::new(reason)) })
    }

    /// What is wrong with the configuration below a webservice, beyond what is the same for all.
    fn status<'a>(
        &'a self,
        _call: &'a mut Call,
        _webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(async { Ok(()) })
    }
}

/// The authenticators of this door.
pub(crate) struct Registry {
    authenticators: Vec<Arc<dyn Authenticator>>,
    /// Those that the settings put in force.
    enabled: ArcSwap<Vec<String>>,
    /// The part of `authn-oidc` that lists providers.
    pub(crate) codes: Arc<oidc_code::Codes>,
    /// The part of `authn-k8s` that gives pods certificates.
    k8s: Arc<k8s::K8s>,
    /// The part of `authn-ldap` that tells whether somebody is still there.
    ldap: Arc<ldap::Ldap>,
    /// How servers that administrators name are called.
    pub(crate) outbound: Arc<Outbound>,
}

impl Registry {
    /// All that are built in; `enabled` names those in force, the default one alone when empty.
    pub(crate) fn new(enabled: &[String], outbound: Outbound, clouds: &Clouds) -> Self {
        let outbound = Arc::new(outbound);
        let keys = Arc::new(keys::KeyCache::new(outbound.clone()));
        let codes = Arc::new(oidc_code::Codes::new(keys.clone(), outbound.clone()));
        let k8s = Arc::new(k8s::K8s::new(outbound.clone()));
        let ldap = Arc::new(ldap::Ldap::new(outbound.clone()));
        let authenticators: Vec<Arc<dyn Authenticator>> = vec![
            Arc::new(api_key::ApiKey),
            Arc::new(cert::Cert),
            Arc::new(jwt::Jwt::new(keys.clone(), outbound.clone())),
            Arc::new(oidc::Oidc::new(keys.clone(), codes.clone())),
            Arc::new(azure::Azure::new(keys.clone())),
            Arc::new(gcp::Gcp::new(keys, clouds)),
            Arc::new(iam::Iam::new(outbound.clone(), clouds)),
            k8s.clone(),
            ldap.clone(),
        ];
        let registry =
            Self { authenticators, enabled: ArcSwap::default(), codes, k8s, ldap, outbound };
        registry.put_in_force(enabled);
        registry
    }

    /// Puts those in force that the settings name, the default one alone where they name none.
    pub(crate) fn put_in_force(&self, names: &[String]) {
        let mut enabled = names.to_vec();
        if enabled.is_empty() {
            enabled.push(DEFAULT.to_owned());
        }
        self.enabled.store(Arc::new(enabled));
    }

    /// Names of all that are built in, sorted.
    pub(crate) fn installed(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.authenticators.iter().map(|known| known.name()).collect();
        names.sort_unstable();
        names
    }

    /// One that is built in.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Authenticator>> {
        self.authenticators.iter().find(|known| known.name() == name).cloned()
    }

    /// Names of those in force, with their services, sorted.
    pub(crate) fn enabled(&self, state: &State) -> BTreeSet<String> {
        enablement::all_enabled(&self.enabled.load(), state)
    }

    /// Whether the authenticator behind a webservice is in force.
    pub(crate) fn is_enabled(&self, state: &State, webservice: &ResourceId) -> bool {
        enablement::is_enabled(&self.enabled.load(), state, webservice)
    }

    /// Who stands behind an attempt, by the authenticator that it names. The default one needs no
    /// webservice and is always in force.
    pub(crate) async fn judge(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let authenticator = self.named(attempt)?;
        if authenticator.name() == DEFAULT {
            let role = decided(attempt, authenticator.judge(call, attempt).await)?;
            self.ldap.vouch(call, &role, &self.enabled.load_full()).await?;
            return Ok(role);
        }
        let webservice = self.in_force(call, attempt).await?;
        let from = call.client_ip;
        admit_named(call, attempt, &webservice, Some(from))?;
        let role = decided(attempt, authenticator.judge(call, attempt).await)?;
        call.open_view(|view| Ok(admit(view.state, &role, &webservice, Some(from))))??;
        if authenticator.name() == ldap::NAME {
            // It may have been an API key.
            self.ldap.vouch(call, &role, &self.enabled.load_full()).await?;
        }
        Ok(role)
    }

    /// As [`Registry::judge`], for a login with a password at an authenticator that stands behind a
    /// webservice. From where, is not looked at, as in Conjur.
    pub(crate) async fn login(
        &self,
        call: &mut Call,
        attempt: &Attempt,
        password: Zeroizing<Vec<u8>>,
    ) -> Result<RoleId, Denied> {
        let authenticator = self.named(attempt)?;
        let webservice = self.in_force(call, attempt).await?;
        admit_named(call, attempt, &webservice, None)?;
        let role = decided(attempt, authenticator.login(call, attempt, password).await)?;
        call.open_view(|view| Ok(admit(view.state, &role, &webservice, None)))??;
        Ok(role)
    }

    /// Puts a certificate into the pod that asked for it.
    pub(crate) async fn inject(
        &self,
        call: &mut Call,
        attempt: &Attempt,
        wish: &k8s::Wish,
    ) -> Result<(), Denied> {
        let webservice = self.in_force(call, attempt).await?;
        self.k8s.inject(call, &webservice, wish).await
    }

    /// The authenticator that an attempt names.
    fn named(&self, attempt: &Attempt) -> Result<Arc<dyn Authenticator>, Denied> {
        self.find(&attempt.authenticator).ok_or_else(|| unsupported(attempt))
    }

    /// The webservice of an attempt's authenticator, which must be in force.
    async fn in_force(&self, call: &mut Call, attempt: &Attempt) -> Result<ResourceId, Denied> {
        let webservice = attempt.webservice()?;
        let name = attempt.full_name();
        call.barrier().await?;
        call.open_view(|view| {
            let state = view.state;
            let account = webservice.account();
            Ok(if !self.is_enabled(state, &webservice) {
                Err(Denied::new(format!("CONJ00004E '{name}' is not enabled")))
            } else if state.account(account).is_none() {
                Err(Denied::new(format!("CONJ00008E Account '{account}' is not defined")))
            } else if state.resource(&webservice).is_none() {
                Err(Denied::new(format!("CONJ00005E Webservice '{name}' not found")))
            } else {
                Ok(webservice.clone())
            })
        })?
    }
}

fn decided(attempt: &Attempt, verdict: Verdict) -> Result<RoleId, Denied> {
    match verdict {
        Verdict::Is(role) => Ok(role),
        Verdict::Refused(denied) => Err(denied),
        Verdict::NotMine => Err(unsupported(attempt)),
    }
}

fn unsupported(attempt: &Attempt) -> Denied {
    let name = &attempt.authenticator;
    Denied::new(format!("CONJ00001E Authenticator '{name}' is not supported"))
}

/// What can be said of who the path names before a proof is looked at, in the order of the interface: whoever may not
/// come in has no server asked about it. A directory is asked all the same about whom there is not, or not from there,
/// so that the time says little ([`ldap`]).
fn admit_named(
    call: &mut Call,
    attempt: &Attempt,
    webservice: &ResourceId,
    from: Option<IpAddr>,
) -> Result<(), Denied> {
    let Some(login) = attempt.login.as_deref() else { return Ok(()) };
    // What is no role's name the authenticator refuses, in its own words.
    let Ok(role) = role_of(attempt.account()?, login) else { return Ok(()) };
    let is_of_a_directory = attempt.authenticator == ldap::NAME;
    call.open_view(|view| {
        Ok(match (is_of_a_directory, view.state.role(&role)) {
            (true, None) => Ok(()),
            (true, Some(_)) => admit(view.state, &role, webservice, None),
            (false, _) => admit(view.state, &role, webservice, from),
        })
    })?
}

/// Lets a role in by an authenticator: it exists, may use it, and comes from where it may.
fn admit(
    state: &State,
    role: &RoleId,
    webservice: &ResourceId,
    from: Option<IpAddr>,
) -> Result<(), Denied> {
    let is_fenced_out = |from| state.credential(role).is_some_and(|one| !is_from_within(one, from));
    let denied = if state.role(role).is_none() {
        Denied::new(format!("CONJ00007E '{role}' not found"))
    } else if !rbac::is_allowed(state, role, "authenticate", webservice) {
        let why =
            format!("CONJ00006E '{role}' does not have 'authenticate' privilege on {webservice}");
        Denied::with(Refusal::FORBIDDEN, why)
    } else if from.is_some_and(is_fenced_out) {
        Denied::new(NOT_FROM_HERE)
    } else {
        return Ok(());
    };
    Err(denied.of(role))
}

/// The reason when a role may not authenticate from the client's address.
pub(crate) const NOT_FROM_HERE: &str =
    "CONJ00003E User is not authorized to login from the current origin";

/// Whether a role with these credentials may authenticate from an address.
pub(crate) fn is_from_within(credential: &Credential, from: IpAddr) -> bool {
    let ranges = &credential.restricted_to;
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&from))
}

/// Whether a role is let in from no address at all, which is how LDAP Sync disables people. Neither logins nor tokens
/// are looked at for addresses else, and both refuse such a role.
pub(crate) fn is_from_nowhere(credential: &Credential) -> bool {
    let ranges = &credential.restricted_to;
    let is_nowhere = |range: &IpNet| {
        range.addr().is_unspecified() && range.prefix_len() == range.max_prefix_len()
    };
    !ranges.is_empty() && ranges.iter().all(is_nowhere)
}

/// The annotations of a role whose names begin so, without that beginning.
fn annotations_of(
    call: &mut Call,
    role: &RoleId,
    prefix: &str,
) -> Result<Vec<(String, String)>, Denied> {
    let found = call.open_view(|view| {
        if view.state.role(role).is_none() {
            return Ok(None);
        }
        let annotations = view.state.annotations(role).filter_map(|(name, annotation)| {
            Some((name.strip_prefix(prefix)?.to_owned(), annotation.value.clone()))
        });
        Ok(Some(annotations.collect()))
    })?;
    found.ok_or_else(|| Denied::new(format!("CONJ00007E '{role}' not found")).of(role))
}

/// The user or host that a login names.
fn role_of(account: &AccountName, login: &str) -> Result<RoleId, Denied> {
    let role = Id::from_login(account, login).ok();
    role.filter(|role| matches!(role.kind(), Kind::User | Kind::Host))
        .ok_or_else(|| Denied::new("CONJ00007E What was named is neither a user nor a host"))
}

/// The host that a login names: machines of clouds are no people.
fn host_of(account: &AccountName, login: &str) -> Result<RoleId, Denied> {
    let role = Id::from_login(account, login).ok();
    role.filter(|role| role.kind() == Kind::Host)
        .ok_or_else(|| Denied::new("CONJ00007E What was named is no host"))
}
