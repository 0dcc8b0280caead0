//! `authn-oidc`: an ID token of an OpenID provider says, in a claim that policy names, by which login
//! its bearer is known here.

use std::sync::Arc;

use conclave_domain::id::{ResourceId, RoleId};
use conclave_domain::rbac;
use futures::future::BoxFuture;
use zeroize::Zeroizing;

use super::claims::Name;
use super::id_token::{Expected, TOKEN_BYTES_MAX};
use super::keys::{KeyCache, Source};
use super::variables::Variables;
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, role_of};
use crate::context::Call;
use crate::wire::query::secret_value;

const NAME: &str = "authn-oidc";
const VARIABLES: [&str; 4] = ["provider-uri", "id-token-user-property", "ca-cert", "client-id"];

pub(crate) struct Oidc {
    keys: Arc<KeyCache>,
}

impl Oidc {
    pub(crate) fn new(keys: Arc<KeyCache>) -> Self {
        Self { keys }
    }

    async fn check_status(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        let service = Service::read(call, webservice)?;
        self.keys.try_provider(webservice, &service.source).await
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
        let login = service.property.find(&claims).and_then(|value| value.as_str());
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
}

impl Authenticator for Oidc {
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
        let client_id = variables.filled("client-id").map(|id| id.trim().to_owned());
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
