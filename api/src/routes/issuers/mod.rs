//! `/issuers…`: where dynamic secrets come from. An issuer's credentials are sealed at the door, and no
//! answer shows more of them than the name of the key.

mod checks;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod show;
pub(crate) mod update;

use conclave_domain::id::{AccountName, Id, Kind, ResourceId};
use conclave_domain::policy::dynamic;
use conclave_domain::rbac::root_policy;
use conclave_domain::records::{Issuer, IssuerKey};
use conclave_domain::state::State;
use http::StatusCode;
use serde_json::{Value, json};

use crate::audit::Deed;
use crate::context::Call;
use crate::error::Refusal;
use crate::ports::{Secret, Vault};
use crate::wire::json::{Wiped, to_wiped};
use crate::wire::time;

/// What stands where a secret would.
const MASK: &str = "*****";
/// The policy that all issuers lie below.
const BASE: &str = dynamic::ISSUERS;

/// What the credentials of an issuer are sealed under.
pub(crate) fn label(key: &IssuerKey) -> String {
    format!("issuer {} of {}", key.issuer, key.account)
}

fn seal(
    vault: &Vault,
    key: &IssuerKey,
    data: &Wiped,
) -> Result<conclave_domain::records::Sealed, Refusal> {
    vault
        .seal_labelled(&label(key), &Secret::new(std::mem::take(&mut *to_wiped(data))))
        .map_err(|fault| Refusal::Fault(format!("sealing the {}: {fault}", label(key))))
}

/// An issuer's document, its secret masked.
fn document(vault: &Vault, key: &IssuerKey, issuer: &Issuer) -> Result<Value, Refusal> {
    let opened = vault
        .open_labelled(&label(key), &issuer.data)
        .map_err(|fault| Refusal::Fault(format!("the {}: {fault}", label(key))))?;
    let data = Wiped(serde_json::from_slice(opened.expose_secret()).unwrap_or_default());
    Ok(json!({
        "id": key.issuer,
        "account": key.account.as_str(),
        "max_ttl": issuer.max_ttl,
        "type": issuer.kind,
        "data": {"access_key_id": data.0["access_key_id"], "secret_access_key": MASK},
        "created_at": time::with_offset(issuer.created_at),
        "modified_at": time::with_offset(issuer.modified_at),
    }))
}

/// A policy below [`BASE`], or that one itself.
fn policy(account: &AccountName, below: Option<&str>) -> Result<ResourceId, Refusal> {
    let identifier = below.map_or_else(|| BASE.to_owned(), |name| format!("{BASE}/{name}"));
    Id::new(account.clone(), Kind::Policy, &identifier).map_err(|_too_long| Refusal::UNROUTED)
}

/// The policy that says who administers issuers: that of all issuers, or the root while that one is
/// not there.
fn governing(state: &State, account: &AccountName) -> Result<ResourceId, Refusal> {
    let base = policy(account, None)?;
    Ok(if state.resource(&base).is_some() { base } else { root_policy(account) })
}

/// The issuer that the path names.
fn named(call: &Call) -> Result<IssuerKey, Refusal> {
    let account = call.account()?.clone();
    Ok(IssuerKey { account, issuer: call.params.name.clone().unwrap_or_default() })
}

fn not_found(key: &IssuerKey) -> Refusal {
    Refusal::IssuerMissing { id: key.issuer.clone() }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::BadRequest(message.into())
}

/// Whether a status is one that the answer leaves empty for who may not.
const FORBIDDEN: Refusal = Refusal::Empty(StatusCode::FORBIDDEN);

/// Says what is about to be done with an issuer.
fn describe(call: &mut Call, operation: &'static str, key: &IssuerKey, did: &str, tried: &str) {
    let user = call.user();
    let name = format!("{}:issuer:{}", key.account, key.issuer);
    call.deeds.push(Deed {
        message_id: "issuer",
        operation: operation.into(),
        user: Some(user.clone()),
        subject: vec![
            ("account".into(), key.account.to_string()),
            ("issuer".into(), key.issuer.clone()),
        ],
        did: format!("{user} {did} {name}"),
        tried: format!("{user} tried to {tried} {name}"),
        ..Deed::default()
    });
}

/// Variables of an account that get their values from an issuer.
fn bound<'a>(state: &'a State, key: &'a IssuerKey) -> impl Iterator<Item = &'a ResourceId> {
    let variables = state.resources(Some(&key.account), Some(Kind::Variable));
    variables.map(|(id, _)| id).filter(|id| {
        let issuer = state.annotation(id, dynamic::ISSUER);
        issuer.is_some_and(|issuer| issuer.value == key.issuer)
    })
}
