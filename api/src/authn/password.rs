//! HTTP Basic: a role's password or its current API key.
//!
//! An attempt that is no API key costs one Argon2id hash, whether the role exists, has a password or
//! not. Restrictions by address are not looked at here, as in Conjur, but for one that no address satisfies.

use std::borrow::Cow;

use conclave_domain::id::{AccountName, Id, RoleId};
use conclave_domain::records::{Digest, Sealed};
use zeroize::Zeroizing;

use super::{NOT_FROM_HERE, is_from_nowhere};
use crate::context::Call;
use crate::credentials::matches_digest;
use crate::error::Refusal;
use crate::wire::base64;

/// Longest password hashed, in bytes: 128 characters at most four bytes each.
const PASSWORD_BYTES_MAX: usize = 512;

/// Who stands behind Basic credentials.
pub(crate) struct Proven {
    pub(crate) role: RoleId,
    /// The digest of the API key in force when the proof was checked.
    pub(crate) digest: Digest,
    /// That API key.
    pub(crate) api_key: Sealed,
}

/// The login and password of `Authorization: Basic`; nothing when there are none.
pub(crate) fn basic_credentials(call: &Call) -> Option<(String, Zeroizing<Vec<u8>>)> {
    let header = call.authorization()?;
    let end = header.iter().position(u8::is_ascii_whitespace)?;
    let (scheme, encoded) = header.split_at(end);
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let decoded = Zeroizing::new(base64::decode_lenient(encoded.trim_ascii())?);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let login = std::str::from_utf8(&decoded[..colon]).ok()?;
    Some((login.to_owned(), Zeroizing::new(decoded[colon + 1..].to_vec())))
}

/// Checks a login and its password or API key. The reason is for the record.
pub(crate) async fn prove(
    call: &mut Call,
    account: &AccountName,
    login: &str,
    password: Zeroizing<Vec<u8>>,
) -> Result<Result<Proven, Cow<'static, str>>, Refusal> {
    call.barrier().await?;
    let role = Id::from_login(account, login).ok();
    let credential = call.open_view(|view| {
        Ok(role.as_ref().and_then(|role| view.state.credential(role)).cloned())
    })?;
    let (digest, hash) = match &credential {
        Some(credential) => (credential.api_key_digest, credential.password_hash.clone()),
        None => (Digest([0; 32]), None),
    };
    let is_key = matches_digest(&password, &digest) && credential.is_some();
    let is_password = if is_key {
        false
    } else if password.len() > PASSWORD_BYTES_MAX {
        // Too long for any: not worth a hash, and that says nothing about the role.
        return Ok(Err(INVALID.into()));
    } else {
        call.door.passwords.check(password, hash).await?
    };
    Ok(match (role, credential) {
        (Some(_), Some(credential)) if (is_key || is_password) && is_from_nowhere(&credential) => {
            Err(NOT_FROM_HERE.into())
        }
        (Some(role), Some(credential)) if is_key || is_password => {
            Ok(Proven { role, digest: credential.api_key_digest, api_key: credential.api_key })
        }
        (Some(role), None) => Err(format!("CONJ00007E '{role}' not found").into()),
        _ => Err(INVALID.into()),
    })
}

const INVALID: &str = "CONJ00002E Invalid credentials";
