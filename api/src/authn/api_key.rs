//! The default authenticator: the body is the role's API key.
//!
//! Keys are compared by digest in constant time; an unknown account or role is compared with a digest
//! that nothing has, so that it takes the same steps.

use conclave_domain::id::{Id, RoleId};
use conclave_domain::records::Digest;
use futures::future::BoxFuture;

use super::{Attempt, Authenticator, DEFAULT, Denied, NOT_FROM_HERE, Verdict, is_from_within};
use crate::context::Call;
use crate::credentials::matches_digest;
use crate::error::Refusal;

/// Largest body looked at, in bytes; a key has some 56.
const KEY_BYTES_MAX: usize = 1024;

pub(crate) struct ApiKey;

impl Authenticator for ApiKey {
    fn name(&self) -> &'static str {
        DEFAULT
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(judge(call, attempt))
    }
}

async fn judge(call: &mut Call, attempt: &Attempt) -> Verdict {
    if attempt.authenticator != DEFAULT || attempt.service.is_some() {
        return Verdict::NotMine;
    }
    check(call, attempt).await.into()
}

async fn check(call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
    let key = match call.take_body(KEY_BYTES_MAX).await {
        Ok(key) => key,
        // A body that cannot be a key is a wrong key.
        Err(Refusal::TooLarge { .. }) => return Err(Denied::new(INVALID)),
        Err(refusal) => return Err(refusal.into()),
    };
    call.barrier().await?;
    let role = match (&attempt.account, &attempt.login) {
        (Some(account), Some(login)) => Id::from_login(account, login).ok(),
        _ => None,
    };
    let found = call.open_view(|view| {
        Ok(role.as_ref().and_then(|role| view.state.credential(role)).cloned())
    })?;
    let digest = found.as_ref().map_or(Digest([0; 32]), |credential| credential.api_key_digest);
    let matches = matches_digest(&key, &digest);
    let from = call.client_ip;
    let allowed = found.as_ref().is_none_or(|credential| is_from_within(credential, from));
    match role {
        Some(role) if found.is_some() && !key.is_empty() && matches => {
            if allowed {
                Ok(role)
            } else {
                Err(Denied::new(NOT_FROM_HERE))
            }
        }
        Some(role) if found.is_none() => Err(Denied::new(format!("CONJ00007E '{role}' not found"))),
        _ => Err(Denied::new(INVALID)),
    }
}

const INVALID: &str = "CONJ00002E Invalid credentials";
