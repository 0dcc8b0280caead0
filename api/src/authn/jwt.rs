//! `authn-jwt`: a signed token of an issuer that the service's variables name says who it is.
//!
//! Either a claim of the token names the host, or the path does; in both cases annotations of that
//! host say what else the token must hold, so that a path alone proves nothing. Tokens of Kubernetes can be
//! shown to the cluster, too, which knows whether their pods still live.

use std::sync::Arc;

use conclave_domain::id::{ResourceId, RoleId};
use futures::future::BoxFuture;
use serde_json::Value;

use super::claims::{Name, Rules};
use super::id_token::{Claims, Expected, KeySet, TOKEN_BYTES_MAX, Unverified};
use super::k8s::review::{Question, Reviewer};
use super::keys::{KeyCache, Source};
use super::outbound::{Outbound, Target, pinned};
use super::variables::Variables;
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, admit, annotations_of, role_of};
use crate::context::Call;
use crate::wire::query::secret_value;

const NAME: &str = "authn-jwt";

const VARIABLES: [&str; 10] = [
    "jwks-uri",
    "provider-uri",
    "public-keys",
    "ca-cert",
    "issuer",
    "audience",
    "token-app-property",
    "identity-path",
    "enforced-claims",
    "claim-aliases",
];

pub(crate) struct Jwt {
    keys: Arc<KeyCache>,
    reviewer: Reviewer,
}

impl Jwt {
    pub(crate) fn new(keys: Arc<KeyCache>, outbound: Arc<Outbound>) -> Self {
        Self { keys, reviewer: Reviewer::new(outbound) }
    }
}

impl Authenticator for Jwt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move { Verdict::from(self.check(call, attempt).await) })
    }

    fn status<'a>(
        &'a self,
        call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.check_status(call, webservice))
    }
}

/// Whose keys sign the tokens.
enum Keys {
    /// Those in the variable.
    Given(KeySet),
    /// Those that are fetched.
    At(Source),
}

/// A service as its variables configure it.
struct Service {
    keys: Keys,
    issuer: String,
    audience: Option<String>,
    identity: Option<Name>,
    identity_path: String,
    rules: Rules,
}

impl Service {
    fn read(call: &mut Call, webservice: &ResourceId) -> Result<Self, Denied> {
        let variables = Variables::read(call, webservice, &VARIABLES)?;
        let (keys, issuer) = keys_of(&variables)?;
        let issuer = variables.optional("issuer")?.map(str::to_owned).or(issuer);
        let issuer = issuer.ok_or(Denied::new(
            "CONJ00078E No issuer is set, and none follows from where the keys are",
        ))?;
        let identity = variables.optional("token-app-property")?;
        let identity = identity.map(|text| {
            Name::parse(text.trim())
                .ok_or_else(|| Denied::new("CONJ00117E token-app-property is no name of a claim"))
        });
        let rules = Rules::parse(
            variables.optional("enforced-claims")?,
            variables.optional("claim-aliases")?,
        )?;
        Ok(Self {
            keys,
            issuer,
            audience: variables.optional("audience")?.map(str::to_owned),
            identity: identity.transpose()?,
            identity_path: variables.optional("identity-path")?.unwrap_or_default().to_owned(),
            rules,
        })
    }

    /// Who brings the token: either it says so, or the path.
    fn bearer(&self, attempt: &Attempt, claims: &Claims) -> Result<RoleId, Denied> {
        let account = attempt.account()?;
        let name = match (&self.identity, attempt.login.as_deref()) {
            (Some(name), None) => name,
            (None, Some(login)) => return role_of(account, login),
            (Some(_), Some(_)) => {
                return Err(Denied::new(
                    "CONJ00098E Both a claim of the token and the path would say who it is",
                ));
            }
            (None, None) => {
                return Err(Denied::new(
                    "CONJ00098E Neither a claim of the token nor the path says who it is",
                ));
            }
        };
        let value = name
            .find(claims)
            .ok_or(Denied::new("CONJ00081E The token has no claim that says who brings it"))?;
        let value = value.as_str().map(str::trim).filter(|value| !value.is_empty());
        let value = value
            .ok_or(Denied::new("CONJ00082E The claim that says who brings the token is no text"))?;
        let path = self.identity_path.trim().trim_matches('/');
        if path.is_empty() {
            role_of(account, &format!("host/{value}"))
        } else {
            role_of(account, &format!("host/{path}/{value}"))
        }
    }
}

impl Jwt {
    async fn check_status(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        let service = Service::read(call, webservice)?;
        if let Keys::At(source) = &service.keys {
            let fetched = self.keys.try_source(webservice, source).await;
            fetched.map_err(|why| Denied::new(format!("CONJ00087E {why}")))?;
        }
        if Reviewer::is_wanted(call, webservice)? {
            self.reviewer.try_out(call, webservice).await?;
        }
        Ok(())
    }

    async fn check(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let webservice = attempt.webservice()?.clone();
        let service = Service::read(call, &webservice)?;
        let body = call.take_body(TOKEN_BYTES_MAX).await?;
        let token = secret_value(&body, "jwt").ok_or_else(|| Denied::field_missing("jwt"))?;
        let expected = Expected {
            issuer: &service.issuer,
            issuer_required: !call.door.settings().jwt_missing_issuer_ignored,
            audience: service.audience.as_deref(),
            now: call.now,
        };
        let claims = match &service.keys {
            Keys::Given(keys) => {
                let claims = Unverified::parse(&token)?.verify(keys)?;
                expected.check(&claims)?;
                claims
            }
            Keys::At(source) => self.keys.claims(&webservice, source, &token, &expected).await?,
        };
        let role = service.bearer(attempt, &claims)?;
        let prefix = format!("authn-jwt/{}/", attempt.service.as_deref().unwrap_or_default());
        let wanted = annotations_of(call, &role, &prefix)?;
        let wanted: Vec<(&str, &str)> =
            wanted.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        service.rules.check(&claims, &wanted).map_err(|why| why.of(&role))?;
        if Reviewer::is_wanted(call, &webservice)? {
            // Whoever may not come in has the cluster asked nothing.
            let from = call.client_ip;
            call.open_view(|view| Ok(admit(view.state, &role, &webservice, Some(from))))??;
            let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
            let audience = service.audience.as_deref();
            let question = Question { token: &token, audience, subject };
            let reviewed = self.reviewer.review(call, &webservice, &question).await;
            reviewed.map_err(|denied| denied.of(&role))?;
        }
        Ok(role)
    }
}

/// The one source of keys, and the issuer that follows from it.
fn keys_of(variables: &Variables) -> Result<(Keys, Option<String>), Denied> {
    let sources = ["jwks-uri", "provider-uri", "public-keys"];
    let mut filled = sources.iter().filter(|name| variables.filled(name).is_some());
    let (Some(name), None) = (filled.next(), filled.next()) else {
        return Err(Denied::new(
            "CONJ00122E Exactly one of jwks-uri, provider-uri and public-keys must have a value",
        ));
    };
    let value = variables.required(name)?.trim();
    let authorities = variables.optional("ca-cert")?;
    if *name == "public-keys" {
        if authorities.is_some() {
            return Err(Denied::new("CONJ00122E public-keys are not fetched: ca-cert has no use"));
        }
        return Ok((Keys::Given(given_keys(value)?), None));
    }
    let unfit = |name: &str, why: &dyn std::fmt::Display| {
        Denied::new(format!("CONJ00079E '{name}' cannot be used: {why}"))
    };
    let target = Target::parse(value).map_err(|why| unfit(name, &why))?;
    if let Some(pem) = authorities {
        pinned(pem).map_err(|why| unfit("ca-cert", &why))?;
    }
    let is_provider = *name == "provider-uri";
    let issuer = if is_provider { value.to_owned() } else { target.host };
    let source =
        Source { uri: value.to_owned(), is_provider, authorities: authorities.map(str::to_owned) };
    Ok((Keys::At(source), Some(issuer)))
}

/// The keys in `public-keys`.
fn given_keys(text: &str) -> Result<KeySet, Denied> {
    let unfit = |why: &str| Denied::new(format!("CONJ00123E public-keys cannot be used: {why}"));
    let document: Value = serde_json::from_str(text).map_err(|_| unfit("it is no JSON"))?;
    if document.get("type").and_then(Value::as_str) != Some("jwks") {
        return Err(unfit("its type is not 'jwks'"));
    }
    let value = document.get("value").ok_or_else(|| unfit("it has no value"))?;
    KeySet::from_value(value).map_err(unfit)
}
