//! `authn-gcp`: an identity token that Google's metadata server gives to a machine, or a service
//! account makes, for one host of ours: its audience says which.
//!
//! Everybody with a project of their own can have Google sign tokens for any audience, so what counts is
//! of which project or account they are. Annotations of the host say that.

use std::sync::Arc;

use conclave_domain::id::{AccountName, ResourceId, RoleId};
use futures::future::BoxFuture;
use serde_json::Value;

use super::facts::agree;
use super::id_token::{Claims, Expected, TOKEN_BYTES_MAX};
use super::keys::{KeyCache, Source};
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, annotations_of, host_of};
use crate::context::Call;
use crate::settings::Clouds;
use crate::wire::query::secret_value;

const NAME: &str = "authn-gcp";
/// Names alone prove nothing: any project may have a machine that is called so.
const PROOFS: [&str; 3] = ["project-id", "service-account-id", "service-account-email"];

pub(crate) struct Gcp {
    keys: Arc<KeyCache>,
    source: Source,
}

impl Gcp {
    pub(crate) fn new(keys: Arc<KeyCache>, clouds: &Clouds) -> Self {
        let uri = clouds.google_uri.clone();
        let source = Source { uri, is_provider: true, authorities: clouds.authorities.clone() };
        Self { keys, source }
    }

    async fn check(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let account = attempt.account()?;
        let webservice = attempt.webservice()?;
        let body = call.take_body(TOKEN_BYTES_MAX).await?;
        let token = secret_value(&body, "jwt").ok_or_else(|| Denied::field_missing("jwt"))?;
        let expected = Expected {
            issuer: &self.source.uri,
            issuer_required: true,
            // Which host it is for, is looked at below.
            audience: None,
            now: call.now,
        };
        let claims = self.keys.claims(&webservice, &self.source, &token, &expected).await?;
        let role = meant(account, &claims)?;
        let wanted = annotations_of(call, &role, "authn-gcp/")?;
        judge(&wanted, &claims).map_err(|why| why.of(&role))?;
        Ok(role)
    }
}

impl Authenticator for Gcp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            // There is one of it, and the token says for whom it is.
            if attempt.service.is_some() || attempt.login.is_some() {
                return Verdict::NotMine;
            }
            Verdict::from(self.check(call, attempt).await)
        })
    }

    fn status<'a>(
        &'a self,
        _call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.keys.try_provider(webservice, &self.source))
    }
}

/// The host that a token is for: its audience is `conjur/ACCOUNT/host/ID`, the part after the account
/// percent-encoded or not.
fn meant(account: &AccountName, claims: &Claims) -> Result<RoleId, Denied> {
    let unfit = || Denied::new("CONJ00067E The token's audience is no conjur/ACCOUNT/host/ID");
    let audience = match claims.get("aud") {
        Some(Value::String(audience)) => audience,
        Some(_) => return Err(unfit()),
        None => return Err(Denied::new("CONJ00070E The token has no claim 'aud'")),
    };
    let rest = audience.strip_prefix("conjur/").ok_or_else(unfit)?;
    let (named, login) = rest.split_once('/').ok_or_else(unfit)?;
    if named != account.as_str() {
        return Err(Denied::new("CONJ00068E The token's audience is of another account"));
    }
    let login = percent_encoding::percent_decode_str(login).decode_utf8().map_err(|_| unfit())?;
    if !login.starts_with("host/") {
        return Err(unfit());
    }
    host_of(account, &login)
}

/// Whether a token is of whom annotations want.
fn judge(wanted: &[(String, String)], claims: &Claims) -> Result<(), Denied> {
    if !wanted.iter().any(|(name, _)| PROOFS.contains(&name.as_str())) {
        let why = format!("CONJ00057E None of the annotations {} is there", PROOFS.join(", "));
        return Err(Denied::new(why));
    }
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    // Only machines have this; functions and accounts that make tokens do not.
    let machine = claims.get("google").and_then(|google| google.get("compute_engine"));
    let of_machine = |name: &str| machine?.get(name)?.as_str();
    // An address that Google does not vouch for could be anybody's.
    let is_verified = claims.get("email_verified") == Some(&Value::Bool(true));
    let facts = [
        ("project-id", of_machine("project_id")),
        ("instance-name", of_machine("instance_name")),
        ("service-account-id", text("sub")),
        ("service-account-email", text("email").filter(|_| is_verified)),
    ];
    agree(wanted, &facts)
}
