//! What authenticators are configured with: the `data` of the v2 API, and the variables that hold it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{invalid, only, required, text, unfit};
use crate::error::Refusal;

/// A type of authenticator, as the v2 API calls it and as everything else does.
pub(super) struct Type {
    pub(super) name: &'static str,
    pub(super) authenticator: &'static str,
    /// Keys of `data` and the variables behind them, texts all.
    texts: &'static [(&'static str, &'static str)],
}

/// Those under `identity` of the type jwt; see [`data_of`] for the two that are no texts.
const IDENTITY: [(&str, &str); 4] = [
    ("token_app_property", "token-app-property"),
    ("identity_path", "identity-path"),
    ("enforced_claims", "enforced-claims"),
    ("claim_aliases", "claim-aliases"),
];
const PUBLIC_KEYS: (&str, &str) = ("public_keys", "public-keys");

pub(super) const TYPES: [Type; 7] = [
    Type {
        name: "jwt",
        authenticator: "authn-jwt",
        texts: &[
            ("jwks_uri", "jwks-uri"),
            ("provider_uri", "provider-uri"),
            ("issuer", "issuer"),
            ("audience", "audience"),
            ("ca_cert", "ca-cert"),
        ],
    },
    Type {
        name: "oidc",
        authenticator: "authn-oidc",
        texts: &[
            ("provider_uri", "provider-uri"),
            ("id_token_user_property", "id-token-user-property"),
            ("client_id", "client-id"),
            ("client_secret", "client-secret"),
            ("redirect_uri", "redirect-uri"),
            ("claim_mapping", "claim-mapping"),
            ("name", "name"),
            ("ca_cert", "ca-cert"),
            ("token_ttl", "token-ttl"),
            ("provider_scope", "provider-scope"),
        ],
    },
    Type {
        name: "azure",
        authenticator: "authn-azure",
        texts: &[("provider_uri", "provider-uri")],
    },
    Type { name: "gcp", authenticator: "authn-gcp", texts: &[] },
    Type {
        name: "ldap",
        authenticator: "authn-ldap",
        texts: &[("bind_password", "bind-password"), ("tls_ca_cert", "tls-ca-cert")],
    },
    Type {
        name: "k8s",
        authenticator: "authn-k8s",
        texts: &[
            ("kubernetes/api_url", "kubernetes/api-url"),
            ("kubernetes/ca_cert", "kubernetes/ca-cert"),
            ("kubernetes/service_account_token", "kubernetes/service-account-token"),
            ("ca/cert", "ca/cert"),
            ("ca/key", "ca/key"),
        ],
    },
    Type { name: "aws", authenticator: "authn-iam", texts: &[] },
];

impl Type {
    pub(super) fn of_authenticator(authenticator: &str) -> Option<&'static Self> {
        TYPES.iter().find(|one| one.authenticator == authenticator)
    }

    /// By its name in bodies and queries, or by what follows `authn-` in a path.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        TYPES.iter().find(|one| one.name == name || one.authenticator[6..] == *name)
    }

    /// There is but one of it, which has no name of its own.
    pub(super) fn is_single(&self) -> bool {
        self.name == "gcp"
    }

    pub(super) fn takes_data(&self) -> bool {
        !self.texts.is_empty()
    }

    fn is_jwt(&self) -> bool {
        self.name == "jwt"
    }

    /// The variables that a body asks for, with their values.
    pub(super) fn to_variables(
        &self,
        data: &Map<String, Value>,
    ) -> Result<BTreeMap<String, Zeroizing<String>>, Refusal> {
        let mut known: Vec<&str> = self.texts.iter().map(|(key, _)| *key).collect();
        if self.is_jwt() {
            known.extend([PUBLIC_KEYS.0, "identity"]);
        }
        only(super::names(data), &known, unexpected)?;
        let mut variables = BTreeMap::new();
        for (key, variable) in self.texts {
            if let Some(value) = text(data, key)? {
                variables.insert((*variable).to_owned(), Zeroizing::new(value.to_owned()));
            }
        }
        match self.name {
            "jwt" => jwt_variables(data, &mut variables)?,
            "oidc" if data.contains_key("client_id") => {
                let needed =
                    ["provider_uri", "client_id", "client_secret", "redirect_uri", "claim_mapping"];
                required(data, &needed)?;
            }
            "oidc" => required(data, &["provider_uri", "id_token_user_property"])?,
            "azure" => required(data, &["provider_uri"])?,
            _ => {}
        }
        Ok(variables)
    }

    /// Every variable that this type may have.
    pub(super) fn variables(&self) -> impl Iterator<Item = &'static str> {
        let of_jwt = IDENTITY.iter().chain([&PUBLIC_KEYS]).filter(|_| self.is_jwt());
        self.texts.iter().chain(of_jwt).map(|(_, variable)| *variable)
    }

    /// `data` from the variables that there are and that the caller may fetch.
    pub(super) fn data_of(&self, variables: &BTreeMap<&str, Zeroizing<String>>) -> Value {
        let mut data = Map::new();
        for (key, variable) in self.texts {
            if let Some(value) = variables.get(variable) {
                data.insert((*key).to_owned(), json!(value.as_str()));
            }
        }
        if self.is_jwt() {
            if let Some(keys) = variables.get(PUBLIC_KEYS.1) {
                let keys =
                    serde_json::from_str(keys).unwrap_or_else(|_no_json| json!(keys.as_str()));
                data.insert(PUBLIC_KEYS.0.to_owned(), keys);
            }
            let mut identity = Map::new();
            for (key, variable) in IDENTITY {
                let Some(value) = variables.get(variable) else { continue };
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                let value = match key {
                    "enforced_claims" => json!(items.collect::<Vec<_>>()),
                    "claim_aliases" => {
                        let pairs = items.filter_map(|item| item.split_once(':'));
                        json!(pairs.collect::<BTreeMap<_, _>>())
                    }
                    _ => json!(value.as_str()),
                };
                identity.insert(key.to_owned(), value);
            }
            if !identity.is_empty() {
                data.insert("identity".to_owned(), Value::Object(identity));
            }
        }
        Value::Object(data)
    }
}

/// The variables of the type jwt that are no plain texts, beside those that are.
fn jwt_variables(
    data: &Map<String, Value>,
    variables: &mut BTreeMap<String, Zeroizing<String>>,
) -> Result<(), Refusal> {
    match data.get(PUBLIC_KEYS.0) {
        None | Some(Value::Null) => {}
        Some(keys @ Value::Object(_)) => {
            variables.insert(PUBLIC_KEYS.1.to_owned(), Zeroizing::new(keys.to_string()));
        }
        Some(_) => return Err(invalid(PUBLIC_KEYS.0, "it is no object")),
    }
    let sources = ["jwks-uri", "provider-uri", PUBLIC_KEYS.1];
    let given = sources.iter().filter(|source| variables.contains_key(**source)).count();
    if given != 1 {
        return Err(unfit(
            "CONJ00190W Missing required parameter: exactly one of jwks_uri, public_keys",
        ));
    }
    if variables.contains_key(PUBLIC_KEYS.1) {
        required(data, &["issuer"])?;
    }
    let identity = match data.get("identity") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(identity)) => identity,
        Some(_) => return Err(invalid("identity", "it is no object")),
    };
    only(super::names(identity), &IDENTITY.map(|(key, _)| key), unexpected)?;
    for (key, variable) in &IDENTITY[..2] {
        if let Some(value) = text(identity, key)? {
            variables.insert((*variable).to_owned(), Zeroizing::new(value.to_owned()));
        }
    }
    match identity.get("enforced_claims") {
        None | Some(Value::Null) => {}
        Some(Value::Array(claims)) => {
            let claims = claims_of("enforced_claims", claims.iter())?;
            variables.insert("enforced-claims".to_owned(), Zeroizing::new(claims.join(",")));
        }
        Some(_) => return Err(invalid("enforced_claims", "it is no list")),
    }
    match identity.get("claim_aliases") {
        None | Some(Value::Null) => {}
        Some(Value::Object(aliases)) => {
            let claims = claims_of("claim_aliases", aliases.values())?;
            let pairs = aliases.keys().zip(claims);
            let pairs: Vec<String> =
                pairs.map(|(alias, claim)| format!("{alias}:{claim}")).collect();
            variables.insert("claim-aliases".to_owned(), Zeroizing::new(pairs.join(",")));
        }
        Some(_) => return Err(invalid("claim_aliases", "it is no object")),
    }
    Ok(())
}

/// Texts that are names of claims, and can stand in a list of them.
fn claims_of<'a>(
    key: &str,
    values: impl Iterator<Item = &'a Value>,
) -> Result<Vec<&'a str>, Refusal> {
    let sound = |text: &&str| !text.is_empty() && !text.contains([',', ':']);
    let texts: Option<Vec<&str>> = values.map(|value| value.as_str().filter(sound)).collect();
    texts.ok_or_else(|| invalid(key, "its items must be names of claims"))
}

fn unexpected(names: &str) -> String {
    format!("The following parameters were not expected: '{names}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_becomes_variables_and_back() {
        let data = json!({
            "jwks_uri": "https://x", "identity": {
                "token_app_property": "sub", "enforced_claims": ["a", "b"],
                "claim_aliases": {"c": "d"},
            },
        });
        let jwt = Type::named("jwt").unwrap();
        let variables = jwt.to_variables(data.as_object().unwrap()).unwrap();
        assert_eq!(variables["enforced-claims"].as_str(), "a,b");
        assert_eq!(variables["claim-aliases"].as_str(), "c:d");
        let borrowed = variables.iter().map(|(name, value)| (name.as_str(), value.clone()));
        assert_eq!(jwt.data_of(&borrowed.collect()), data);
        assert_eq!(Type::named("iam").unwrap().name, "aws");
    }

    #[test]
    fn unfit_data_is_refused() {
        let refused = |name: &str, data: Value| {
            let refusal = Type::named(name).unwrap().to_variables(data.as_object().unwrap());
            refusal.unwrap_err().reason().into_owned()
        };
        assert!(refused("jwt", json!({})).contains("exactly one of"));
        assert!(refused("jwt", json!({"public_keys": {}})).contains("parameter: issuer"));
        assert!(refused("azure", json!({})).contains("parameter: provider_uri"));
        assert!(refused("azure", json!({"provider_uri": 1})).contains("CONJ00192W"));
        assert!(refused("ldap", json!({"x": 1})).contains("not expected: 'x'"));
        assert!(
            refused("oidc", json!({"provider_uri": "x", "client_id": "y"}))
                .contains("client_secret, redirect_uri, claim_mapping")
        );
    }
}
