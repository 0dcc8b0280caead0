//! Dynamic secrets in policies: which variables are such, and what their annotations must say.

use super::error::{InvalidObject, PolicyError};
use super::resolve::DesiredRecord;
use crate::id::{Id, Kind, RoleId};
use crate::rbac::is_allowed;
use crate::records::IssuerKey;
use crate::state::State;

/// Variables whose identifier begins so are filled by an issuer, never by hand.
pub const BELOW: &str = "data/dynamic/";
/// The annotation by which a variable names its issuer.
pub const ISSUER: &str = "dynamic/issuer";
/// The policy that all issuers lie below; `use` on the one of its name lets a role name an issuer.
pub const ISSUERS: &str = "conjur/issuers";
/// The annotation that says how the issuer makes the value.
const METHOD: &str = "dynamic/method";
/// The annotation that says for how many seconds a value is good.
pub(super) const TTL: &str = "dynamic/ttl";

const TTL_MIN: u32 = 900;
const TTL_MAX_ASSUME_ROLE: u32 = 129_600;
const TTL_MAX_FEDERATION_TOKEN: u32 = 43_200;

/// Checks what a record says of the issuer of its value, for who loads it.
pub(super) fn check(
    state: &State,
    actor: &RoleId,
    record: &DesiredRecord,
) -> Result<(), PolicyError> {
    let id = &record.id;
    if id.kind() != Kind::Variable {
        return Ok(());
    }
    let refuse = |object| Err(PolicyError::Invalid { object, place: Some(record.place) });
    let name = || id.identifier().to_owned();
    let issuer = match (record.annotation(ISSUER), id.identifier().starts_with(BELOW)) {
        (None, false) => return Ok(()),
        (None, true) => return refuse(InvalidObject::DynamicWithoutIssuer(name())),
        (Some(_), false) => return refuse(InvalidObject::IssuerOfStatic(name())),
        (Some(issuer), true) => issuer,
    };
    // One that may not be used looks like one that is not there.
    let key = IssuerKey { account: id.account().clone(), issuer: issuer.to_owned() };
    let policy = Id::new(id.account().clone(), Kind::Policy, &format!("{ISSUERS}/{issuer}"));
    let may = policy.is_ok_and(|policy| is_allowed(state, actor, "use", &policy));
    let Some(found) = state.issuer(&key).filter(|_| may) else {
        let (issuer, account) = (key.issuer, id.account().to_string());
        return refuse(InvalidObject::NoSuchIssuer { issuer, account });
    };
    let most = match record.annotation(METHOD) {
        None | Some("assume-role") => TTL_MAX_ASSUME_ROLE,
        Some("federation-token") => TTL_MAX_FEDERATION_TOKEN,
        Some(_) => return refuse(InvalidObject::DynamicMethod(name())),
    };
    let most = most.min(found.max_ttl);
    let fits = match record.annotation(TTL) {
        None => true,
        Some(ttl) => {
            let seconds = ttl.parse().ok().filter(|_| record.ttl_is_number);
            seconds.is_some_and(|seconds: u32| (TTL_MIN..=most).contains(&seconds))
        }
    };
    if fits {
        Ok(())
    } else {
        refuse(InvalidObject::DynamicTtl { variable: name(), least: TTL_MIN, most })
    }
}
