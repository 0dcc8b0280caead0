//! Which authenticators are in force: those that the settings name, and those that were switched on
//! by who administers their webservice. Switching off does not reach what the settings name.

use std::collections::BTreeSet;

use conclave_domain::id::{AccountName, Id, Kind, ResourceId};
use conclave_domain::state::State;

use super::DEFAULT;

/// Every type of authenticator there is in Conjur.
const TYPES: [&str; 9] = [
    "authn",
    "authn-azure",
    "authn-cert",
    "authn-gcp",
    "authn-iam",
    "authn-jwt",
    "authn-k8s",
    "authn-ldap",
    "authn-oidc",
];

/// Whether there is such a type of authenticator.
pub(crate) fn is_known_type(authenticator: &str) -> bool {
    TYPES.contains(&authenticator)
}

/// `authn-x` or `authn-x/service`.
pub(crate) fn full_name(authenticator: &str, service: Option<&str>) -> String {
    match service {
        Some(service) => format!("{authenticator}/{service}"),
        None => authenticator.to_owned(),
    }
}

/// The webservice that stands for an authenticator; nothing for a name that no policy gives.
pub(crate) fn webservice(
    account: &AccountName,
    authenticator: &str,
    service: Option<&str>,
) -> Option<ResourceId> {
    if service.is_some_and(|service| service.is_empty() || service.contains('/')) {
        return None;
    }
    let name = format!("conjur/{}", full_name(authenticator, service));
    Id::new(account.clone(), Kind::Webservice, &name).ok()
}

/// Whether an authenticator is in force for an account, by its webservice.
pub(crate) fn is_enabled(settings: &[String], state: &State, webservice: &ResourceId) -> bool {
    let name = webservice.identifier().strip_prefix("conjur/").unwrap_or_default();
    settings.iter().any(|enabled| enabled == name)
        || state.authenticator_config(webservice).is_some_and(|config| config.enabled)
}

/// Names of all in force, of whatever account, sorted.
pub(crate) fn all_enabled(settings: &[String], state: &State) -> BTreeSet<String> {
    let switched_on = state.authenticator_configs().filter(|(_, config)| config.enabled);
    let names = switched_on.filter_map(|(id, _)| id.identifier().strip_prefix("conjur/"));
    let mut all: BTreeSet<String> = names.map(str::to_owned).collect();
    all.extend(settings.iter().cloned());
    all
}

/// The webservices of one type of authenticator that are in force for an account.
pub(crate) fn services_in_force(
    settings: &[String],
    state: &State,
    account: &AccountName,
    authenticator: &str,
) -> Vec<ResourceId> {
    let names = all_enabled(settings, state);
    let services =
        names.iter().filter_map(|name| name.strip_prefix(authenticator)?.strip_prefix('/'));
    services
        .filter_map(|service| webservice(account, authenticator, Some(service)))
        .filter(|webservice| is_enabled(settings, state, webservice))
        .collect()
}

/// What is wrong with a name in the settings; nothing when it is one.
pub(crate) fn misnamed(name: &str) -> Option<String> {
    let (kind, service) = match name.split_once('/') {
        Some((kind, service)) => (kind, Some(service)),
        None => (name, None),
    };
    if !is_known_type(kind) {
        let close = TYPES
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(kind) || format!("authn-{kind}") == *known);
        let hint = close.map_or_else(
            || format!("; there are {}", TYPES.join(", ")),
            |close| format!("; did you mean {close}?"),
        );
        return Some(format!("there is no authenticator {kind:?}{hint}"));
    }
    let wants_service = !matches!(kind, DEFAULT | "authn-gcp");
    match service {
        Some(service) if service.is_empty() || service.contains('/') => {
            Some(format!("{service:?} is no service of {kind}"))
        }
        None if wants_service => Some(format!("{kind} needs a service, as {kind}/name")),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_settings_are_checked() {
        for good in ["authn", "authn-gcp", "authn-jwt/ci", "authn-iam/prod"] {
            assert_eq!(misnamed(good), None, "{good}");
        }
        for (bad, part) in [
            ("authn-jwtt/x", "no authenticator \"authn-jwtt\"; there are authn, "),
            ("jwt/x", "did you mean authn-jwt?"),
            ("AUTHN-OIDC/x", "did you mean authn-oidc?"),
            ("authn-jwt", "needs a service"),
            ("authn-jwt/a/b", "is no service"),
            ("", "no authenticator"),
        ] {
            let why = misnamed(bad).unwrap();
            assert!(why.contains(part), "{bad}: {why}");
        }
    }
}
