//! `authn-azure`: a token that Azure's metadata server gives to a machine for its managed identity.
//! Annotations of the host in the path say which subscription, resource group and identity it must be of.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_domain::id::{ResourceId, RoleId};
use futures::future::BoxFuture;
use serde_json::Value;

use super::facts::{Fact, agree};
use super::id_token::{Claims, Expected, TOKEN_BYTES_MAX};
use super::keys::{KeyCache, Source};
use super::variables::Variables;
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, annotations_of, host_of};
use crate::context::Call;
use crate::wire::query::secret_value;

const NAME: &str = "authn-azure";
const VARIABLES: [&str; 3] = ["provider-uri", "ca-cert", "audience"];
const SUBSCRIPTION: &str = "subscription-id";
const GROUP: &str = "resource-group";
const BY_USER: &str = "user-assigned-identity";
const BY_SYSTEM: &str = "system-assigned-identity";

pub(crate) struct Azure {
    keys: Arc<KeyCache>,
}

impl Azure {
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
        let role = host_of(attempt.account()?, attempt.login.as_deref().unwrap_or_default())?;
        let service = Service::read(call, &webservice)?;
        let body = call.take_body(TOKEN_BYTES_MAX).await?;
        let token = secret_value(&body, "jwt").ok_or_else(|| Denied::field_missing("jwt"))?;
        let expected = Expected {
            issuer: &service.issuer,
            issuer_required: true,
            audience: service.audience.as_deref(),
            now: call.now,
        };
        let claims = self.keys.claims(&webservice, &service.source, &token, &expected).await?;
        let annotations = annotations_of(call, &role, "authn-azure/")?;
        let wanted = wanted(annotations, attempt.service.as_deref().unwrap_or_default());
        judge(&wanted, &claims).map_err(|why| why.of(&role))?;
        Ok(role)
    }
}

impl Authenticator for Azure {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            if attempt.service.is_none() {
                return Verdict::NotMine;
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
    issuer: String,
    /// For whom tokens must be, where that is set.
    audience: Option<String>,
}

impl Service {
    fn read(call: &mut Call, webservice: &ResourceId) -> Result<Self, Denied> {
        let variables = Variables::read(call, webservice, &VARIABLES)?;
        let source = Source::provider(&variables)?;
        let base = source.uri.trim_end_matches('/');
        // Issuers of tokens of the first version end in a slash, those of the second do not.
        let slash = if base.ends_with("/v2.0") { "" } else { "/" };
        let issuer = format!("{base}{slash}");
        let audience = variables.optional("audience")?.map(|text| text.trim().to_owned());
        Ok(Self { source, issuer, audience })
    }
}

/// What annotations want for a service: those for it alone come before those for all.
fn wanted(annotations: Vec<(String, String)>, service: &str) -> Vec<(String, String)> {
    let mut by_name = BTreeMap::new();
    for (name, value) in annotations {
        match name.split_once('/') {
            None => {
                by_name.entry(name).or_insert(value);
            }
            Some((of, name)) if of == service => {
                by_name.insert(name.to_owned(), value);
            }
            Some(_of_others) => {}
        }
    }
    by_name.into_iter().collect()
}

/// Whether a token is of the identity that annotations want.
fn judge(wanted: &[(String, String)], claims: &Claims) -> Result<(), Denied> {
    let has = |name: &str| wanted.iter().any(|(known, _)| known == name);
    for name in [SUBSCRIPTION, GROUP] {
        if !has(name) {
            return Err(Denied::new(format!("CONJ00057E There is no annotation '{name}'")));
        }
    }
    if has(BY_USER) && has(BY_SYSTEM) {
        let why =
            format!("CONJ00055E Annotations '{BY_USER}' and '{BY_SYSTEM}' exclude each other");
        return Err(Denied::new(why));
    }
    let text = claims.get("xms_mirid").and_then(Value::as_str).filter(|text| !text.is_empty());
    let text = text.ok_or(Denied::new("CONJ00051E The token has no claim 'xms_mirid'"))?;
    let identity = Identity::parse(text)?;
    let object = claims.get("oid").and_then(Value::as_str);
    // An identity of its own is one of a machine; whom several share is a resource by itself.
    let (by_user, by_system) =
        if identity.is_shared { (Some(identity.name), None) } else { (None, object) };
    let facts: [Fact<'_>; 4] = [
        (SUBSCRIPTION, Some(identity.subscription)),
        (GROUP, Some(identity.group)),
        (BY_USER, by_user),
        (BY_SYSTEM, by_system),
    ];
    agree(wanted, &facts)
}

/// What `xms_mirid`, the id of the resource that a token was given to, says.
#[derive(Debug, PartialEq, Eq)]
struct Identity<'a> {
    subscription: &'a str,
    group: &'a str,
    name: &'a str,
    /// Whether it is a user-assigned identity, not the machine that has a system-assigned one.
    is_shared: bool,
}

impl<'a> Identity<'a> {
    /// Reads `/subscriptions/ID/resourcegroups/NAME/providers/PROVIDER/TYPE/NAME`, where pairs of type
    /// and name of resources inside that one may follow.
    fn parse(text: &'a str) -> Result<Self, Denied> {
        let missing =
            || Denied::new("CONJ00053E 'xms_mirid' lacks subscription, resource group or provider");
        let parts: Vec<&str> = text.strip_prefix('/').unwrap_or(text).split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(Denied::new("CONJ00052E 'xms_mirid' is no id of a resource"));
        }
        let [subscriptions, subscription, groups, group, providers, resource @ ..] = &parts[..]
        else {
            return Err(missing());
        };
        let is = |part: &str, name: &str| part.eq_ignore_ascii_case(name);
        if !is(subscriptions, "subscriptions")
            || !is(groups, "resourcegroups")
            || !is(providers, "providers")
        {
            return Err(missing());
        }
        let [provider, kind, name, inner @ ..] = resource else {
            return Err(Denied::new("CONJ00054E 'xms_mirid' lacks provider, type or name"));
        };
        if inner.len() % 2 != 0 {
            return Err(Denied::new("CONJ00054E 'xms_mirid' has a type without a name"));
        }
        let is_shared = inner.is_empty()
            && is(provider, "Microsoft.ManagedIdentity")
            && is(kind, "userAssignedIdentities");
        Ok(Self { subscription, group, name, is_shared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_resources_are_read_from_their_beginning() {
        let machine =
            "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachines/m";
        let read = Identity::parse(machine).unwrap();
        assert_eq!(read, Identity { subscription: "s", group: "g", name: "m", is_shared: false });
        for same in [
            &machine[1..],
            &machine.replace("resourcegroups", "resourceGroups"),
            &format!("{machine}/slots/blue"),
        ] {
            assert_eq!(Identity::parse(same).unwrap(), read, "{same}");
        }
        let identity = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/\
                        userAssignedIdentities/i";
        assert!(Identity::parse(identity).unwrap().is_shared);
        // What lies inside an identity is not that identity.
        assert!(!Identity::parse(&format!("{identity}/x/y")).unwrap().is_shared);
        for (bad, code) in [
            ("x", "CONJ00053E"),
            ("/subscriptions/s", "CONJ00053E"),
            ("/subscriptions/s/resourcegroups/g", "CONJ00053E"),
            ("/resourcegroups/g/subscriptions/s/providers/p/t/n", "CONJ00053E"),
            ("/tenants/s/resourcegroups/g/providers/p/t/n", "CONJ00053E"),
            ("/subscriptions/s/resourcegroups/g/x/p/t/n", "CONJ00053E"),
            ("/subscriptions/s/resourcegroups/g/providers/p/t", "CONJ00054E"),
            ("/subscriptions/s/resourcegroups/g/providers/p/t/n/x", "CONJ00054E"),
            ("/subscriptions//resourcegroups/g/providers/p/t/n", "CONJ00052E"),
            ("//subscriptions/s/resourcegroups/g/providers/p/t/n", "CONJ00052E"),
            ("/subscriptions/s/resourcegroups/g/providers/p/t/", "CONJ00052E"),
            ("/x/subscriptions/s/resourcegroups/g/providers/p/t/n", "CONJ00053E"),
        ] {
            let why = Identity::parse(bad).unwrap_err().reason;
            assert!(why.starts_with(code), "{bad}: {why}");
        }
    }
}
