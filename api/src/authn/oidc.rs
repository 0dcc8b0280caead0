//! `authn-oidc`: an ID token of an OpenID provider says, in a claim that policy names, by which login
//! its bearer is known here. Clients that bring a code in place of a token are for [`Codes`].

use std::sync::Arc;

use conclave_domain::id::{ResourceId, RoleId};
use conclave_domain::rbac;
use futures::future::BoxFuture;
use http::Method;
use zeroize::Zeroizing;

use super::claims::Name;
use super::id_token::{Claims, Expected, TOKEN_BYTES_MAX};
use super::keys::{KeyCache, Source};
use super::oidc_code::{self, Codes};
use super::variables::Variables;
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, role_of};
use crate::context::Call;
use crate::wire::query::secret_value;

pub(super) const NAME: &str = "authn-oidc";
const VARIABLES: [&str; 4] = ["provider-uri", "id-token-user-property", "ca-cert", "client-id"];

pub(crate) struct Oidc {
    keys: Arc<KeyCache>,
    codes: Arc<Codes>,
}

impl Oidc {
    pub(crate) fn new(keys: Arc<KeyCache>, codes: Arc<Codes>) -> Self {
        Self { keys, codes }
    }

    async fn check_status(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        // A service may be set up for codes, for tokens, or for both; for what it is, it has to be fit.
        let names = ["claim-mapping", "id-token-user-property"];
        let declared = Variables::read(call, webservice, &names)?;
        let mut source = None;
        if declared.has("claim-mapping") {
            source = Some(oidc_code::Service::read(call, webservice)?.source);
        }
        let source = match source {
            Some(source) if !declared.has("id-token-user-property") => source,
            _ => Service::read(call, webservice)?.source,
        };
        self.keys.try_provider(webservice, &source).await
    }

    async fn check(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let webservice = attempt.webservice()?;
        let service = Service::read(call, &webservice)?;
        let body = call.take_body(TOKEN_BYTES_MAX).await?;
        let token = secret_value(&body, "id_token").or_else(|| bearer(call));
        let token = token.ok_or_else(|| Denied::field_missing("id_token"))?;
        let expected = Expected {
            issuer: &service.source.uri,
            issuer_required: true,
            audience: service.client_id.as_deref(),
            now: call.now,
        };
        let claims = self.keys.claims(&webservice, &service.source, &token, &expected).await?;
        bearer_of(&service.property, &claims, attempt)
    }
}

/// Who brings a token, by the claim with the login.
pub(super) fn bearer_of(
    property: &Name,
    claims: &Claims,
    attempt: &Attempt,
) -> Result<RoleId, Denied> {
    let login = property.find(claims).and_then(|value| value.as_str());
    let login = login.map(str::trim).filter(|login| !login.is_empty());
    let login = login.ok_or(Denied::new("CONJ00013E The claim with the login is not there"))?;
    let account = attempt.account()?;
    let role = role_of(account, login)?;
    if role == rbac::admin_role(account) {
        let why = "CONJ00017E Admin user is not allowed to authenticate with OIDC";
        return Err(Denied::new(why).of(&role));
    }
    Ok(role)
}

impl Authenticator for Oidc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            if call.method == Method::GET {
                return Verdict::from(self.codes.check(call, attempt).await);
            }
            Verdict::from(self.check(call, attempt).await)
        })
    }

    fn status<'a>(
        &'a self,
        call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.check_status(call, webservice))
    }
}

/// A service as its variables configure it.
struct Service {
    source: Source,
    property: Name,
    /// For whom tokens must be, where that is set.
    client_id: Option<String>,
}

impl Service {
    fn read(call: &mut Call, webservice: &ResourceId) -> Result<Self, Denied> {
        let variables = Variables::read(call, webservice, &VARIABLES)?;
        let unfit = |why: &dyn std::fmt::Display| {
            Denied::new(format!("CONJ00011E The provider cannot be used: {why}"))
        };
        let source = Source::provider(&variables)?;
        let property = Name::parse(variables.required("id-token-user-property")?.trim());
        let property = property.ok_or_else(|| unfit(&"id-token-user-property is no claim"))?;
        // Declared and forgotten, it must not let in who has a token for another client.
        let client_id = variables.optional("client-id")?.map(|id| id.trim().to_owned());
        Ok(Self { source, property, client_id })
    }
}

/// The token of `Authorization: Bearer`.
fn bearer(call: &Call) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(call.authorization()?).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .then(|| Zeroizing::new(token.to_owned()))
}
