//! Authenticators: who is at the door, proven by something other than an access token.
//!
//! One file each behind one trait, with three answers: not mine, refused with a reason, this is who
//! it is. What is refused looks alike from outside, whatever the reason; the audit record has it.

mod api_key;
mod enablement;
mod password;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use conclave_domain::id::{AccountName, ResourceId, RoleId};
use conclave_domain::rbac;
use conclave_domain::records::Credential;
use conclave_domain::state::State;
use futures::future::BoxFuture;
use http::StatusCode;

use crate::context::Call;
use crate::error::Refusal;

pub(crate) use enablement::{full_name, known_type, misnamed, webservice};
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

/// What an authenticator says to an attempt.
pub(crate) enum Verdict {
    /// The attempt is for another authenticator.
    NotMine,
    /// No, with the reason for the record.
    Refused(Refusal, Cow<'static, str>),
    /// This is who it is.
    Is(RoleId),
}

impl Verdict {
    /// No, in the words that tell an outsider nothing.
    pub(crate) fn refused(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(Refusal::UNAUTHENTICATED, reason.into())
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

/// One way to prove who one is.
pub(crate) trait Authenticator: Send + Sync + 'static {
    /// Its name in paths, settings and records.
    fn name(&self) -> &'static str;

    /// Judges an attempt; reads the request's body or headers as it needs. Except for the default
    /// one, that the authenticator is in force and its webservice there has been looked at before,
    /// and that the role may use it is looked at after.
    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict>;

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
    enabled: Vec<String>,
}

impl Registry {
    /// All that are built in; `enabled` names those in force, the default one alone when empty.
    pub(crate) fn new(enabled: &[String]) -> Self {
        let mut enabled = enabled.to_vec();
        if enabled.is_empty() {
            enabled.push(DEFAULT.to_owned());
        }
        Self { authenticators: vec![Arc::new(api_key::ApiKey)], enabled }
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
        enablement::all_enabled(&self.enabled, state)
    }

    /// Whether the authenticator behind a webservice is in force.
    pub(crate) fn is_enabled(&self, state: &State, webservice: &ResourceId) -> bool {
        enablement::is_enabled(&self.enabled, state, webservice)
    }

    /// The verdict of the authenticator that the attempt names. The default one needs no webservice
    /// and is always in force.
    pub(crate) async fn judge(&self, call: &mut Call, attempt: &Attempt) -> Verdict {
        let unsupported = || {
            Verdict::refused(format!(
                "CONJ00001E Authenticator '{}' is not supported",
                attempt.authenticator
            ))
        };
        let Some(authenticator) = self.find(&attempt.authenticator) else { return unsupported() };
        let verdict = if authenticator.name() == DEFAULT {
            authenticator.judge(call, attempt).await
        } else {
            match self.judge_service(call, attempt, &*authenticator).await {
                Ok(verdict) | Err(verdict) => verdict,
            }
        };
        if matches!(verdict, Verdict::NotMine) { unsupported() } else { verdict }
    }

    /// As [`Registry::judge`], for an authenticator that stands behind a webservice.
    async fn judge_service(
        &self,
        call: &mut Call,
        attempt: &Attempt,
        authenticator: &dyn Authenticator,
    ) -> Result<Verdict, Verdict> {
        let service = attempt.service.as_deref();
        let name = full_name(&attempt.authenticator, service);
        let refused = |refusal: Refusal| {
            let reason = refusal.reason().into_owned();
            Verdict::Refused(refusal, reason.into())
        };
        let Some(account) = &attempt.account else { return Err(Verdict::NotMine) };
        let missing = || Verdict::refused(format!("CONJ00005E Webservice '{name}' not found"));
        let webservice =
            webservice(account, &attempt.authenticator, service).ok_or_else(missing)?;
        call.barrier().await.map_err(refused)?;
        let before = call.open_view(|view| {
            let state = view.state;
            Ok(if !self.is_enabled(state, &webservice) {
                Err(Verdict::refused(format!("CONJ00004E '{name}' is not enabled")))
            } else if state.account(account).is_none() {
                Err(Verdict::refused(format!("CONJ00008E Account '{account}' is not defined")))
            } else if state.resource(&webservice).is_none() {
                Err(missing())
            } else {
                Ok(())
            })
        });
        before.map_err(refused)??;
        let role = match authenticator.judge(call, attempt).await {
            Verdict::Is(role) => role,
            verdict @ (Verdict::NotMine | Verdict::Refused(..)) => return Ok(verdict),
        };
        let from = call.client_ip;
        let after = call.open_view(|view| {
            let state = view.state;
            let fenced = state.credential(&role).is_some_and(|one| !is_from_within(one, from));
            Ok(if state.role(&role).is_none() {
                Verdict::refused(format!("CONJ00007E '{role}' not found"))
            } else if !rbac::is_allowed(state, &role, "authenticate", &webservice) {
                let reason = format!(
                    "CONJ00006E '{role}' does not have 'authenticate' privilege on {webservice}"
                );
                Verdict::Refused(Refusal::FORBIDDEN, reason.into())
            } else if fenced {
                Verdict::refused(NOT_FROM_HERE)
            } else {
                Verdict::Is(role.clone())
            })
        });
        after.map_err(refused)
    }
}

/// The reason when a role may not authenticate from the client's address.
pub(crate) const NOT_FROM_HERE: &str =
    "CONJ00003E User is not authorized to login from the current origin";

/// Whether a role with these credentials may authenticate from an address.
pub(crate) fn is_from_within(credential: &Credential, from: IpAddr) -> bool {
    let ranges = &credential.restricted_to;
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&from))
}
