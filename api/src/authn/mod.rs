//! Authenticators: who is at the door, proven by something other than an access token.
//!
//! One file each behind one trait, with three answers: not mine, refused with a reason, this is who
//! it is. What is refused looks alike from outside, whatever the reason; the audit record has it.

mod api_key;
mod password;

use std::borrow::Cow;
use std::sync::Arc;

use conclave_domain::id::{AccountName, RoleId};
use futures::future::BoxFuture;

use crate::context::Call;
use crate::error::Refusal;

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

/// One way to prove who one is.
pub(crate) trait Authenticator: Send + Sync + 'static {
    /// Its name in paths, settings and records.
    fn name(&self) -> &'static str;

    /// Judges an attempt; reads the request's body or headers as it needs.
    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict>;
}

/// The authenticators of this door.
pub(crate) struct Registry {
    authenticators: Vec<Arc<dyn Authenticator>>,
    enabled: Vec<String>,
}

impl Registry {
    /// All that are built in; `enabled` names those in force beside the default one.
    pub(crate) fn new(enabled: &[String]) -> Self {
        let mut enabled = enabled.to_vec();
        enabled.push(DEFAULT.to_owned());
        enabled.sort_unstable();
        enabled.dedup();
        Self { authenticators: vec![Arc::new(api_key::ApiKey)], enabled }
    }

    /// Names of all that are built in, sorted.
    pub(crate) fn installed(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.authenticators.iter().map(|known| known.name()).collect();
        names.sort_unstable();
        names
    }

    /// Names of those in force, with their services, sorted.
    pub(crate) fn enabled(&self) -> &[String] {
        &self.enabled
    }

    /// The first verdict of one that takes the attempt for its own.
    pub(crate) async fn judge(&self, call: &mut Call, attempt: &Attempt) -> Verdict {
        for authenticator in &self.authenticators {
            match authenticator.judge(call, attempt).await {
                Verdict::NotMine => {}
                verdict @ (Verdict::Refused(..) | Verdict::Is(_)) => return verdict,
            }
        }
        Verdict::refused(format!(
            "CONJ00001E Authenticator '{}' is not supported",
            attempt.authenticator
        ))
    }
}
