//! The variables that an authenticator's service is configured with: siblings of its webservice in
//! policy, read from the same view as everything else, opened only for as long as they are looked at.

use std::collections::BTreeMap;

use conclave_domain::id::{Id, Kind, ResourceId};
use zeroize::Zeroizing;

use super::Denied;
use crate::context::Call;
use crate::error::Refusal;
use crate::routes::secrets::sealed_value;

/// What stands behind the names that were asked for.
pub(crate) struct Variables {
    base: String,
    /// Only those that policy declares; without a value when none was ever set.
    values: BTreeMap<&'static str, Option<Zeroizing<String>>>,
}

impl Variables {
    /// Reads the variables of a webservice by their names below it.
    pub(crate) fn read(
        call: &mut Call,
        webservice: &ResourceId,
        names: &[&'static str],
    ) -> Result<Self, Denied> {
        let account = webservice.account();
        let base = webservice.identifier();
        let sealed = call.open_view(|view| {
            let mut found = Vec::new();
            for name in names {
                let id = Id::new(account.clone(), Kind::Variable, &format!("{base}/{name}"));
                let Ok(id) = id else { continue };
                if view.state.resource(&id).is_none() {
                    continue;
                }
                let value = sealed_value(view, &id, None)?;
                found.push((*name, id, value));
            }
            Ok(found)
        })?;
        let vault = call.door.vault()?;
        let mut values = BTreeMap::new();
        for (name, id, value) in sealed {
            let value = match value {
                None => None,
                Some(sealed) => {
                    let secret = vault
                        .open(&id, &sealed)
                        .map_err(|fault| Refusal::Fault(format!("value of {id}: {fault}")))?;
                    let text = std::str::from_utf8(secret.expose_secret()).map_err(|_| {
                        Denied::new(format!("CONJ00037E Variable '{id}' holds no text"))
                    })?;
                    Some(Zeroizing::new(text.to_owned()))
                }
            };
            values.insert(name, value);
        }
        Ok(Self { base: format!("{account}:variable:{base}"), values })
    }

    /// Whether policy declares one, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of one that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Denied> {
        self.optional(name)?.ok_or_else(|| {
            Denied::new(format!("CONJ00036E Variable '{}/{name}' is not in policy", self.base))
        })
    }

    /// The value of one that may be left out of policy, but not left without a value there.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<&str>, Denied> {
        match self.values.get(name) {
            None => Ok(None),
            Some(Some(value)) if !value.trim().is_empty() => Ok(Some(value)),
            Some(_) => {
                Err(Denied::new(format!("CONJ00037E Variable '{}/{name}' has no value", self.base)))
            }
        }
    }

    /// The value of one that may be left out or empty.
    pub(crate) fn filled(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?.as_ref()?;
        Some(value.as_str()).filter(|value| !value.trim().is_empty())
    }
}
