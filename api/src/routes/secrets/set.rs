//! `POST /secrets/{account}/{kind}/{id}`: a new value. It is sealed here, before it goes anywhere.

use conclave_domain::command::{Actor, Command};
use conclave_domain::id::Kind;
use http::StatusCode;
use zeroize::Zeroizing;

use super::is_dynamic;
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::ports::Secret;
use crate::token::sha256;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let resource = call.id()?;
    let user = call.user();
    let (did, tried) =
        (format!("{user} updated {resource}"), format!("{user} tried to update {resource}"));
    call.deed("update", "update", vec![("resource".into(), resource.to_string())], did, tried);
    let permit = call
        .check_write(|view, caller| authz::require(view.state, &caller.role, "update", &resource))
        .await?;
    let bytes_max = call.door.settings().body_bytes_max;
    let mut value = call.take_body(bytes_max).await?;
    check_value(resource.kind(), &value)?;
    if is_dynamic(&call.door.settings(), &resource) {
        return Err(Refusal::MethodNotAllowed(
            "Adding a static secret to a dynamic secret variable is not allowed".to_owned(),
        ));
    }
    let vault = call.door.vault()?;
    // A repeated request is known by what it sets too; the digest is made only where that is asked.
    let digest = if call.is_repeatable() { sha256(&value) } else { [0; 32] };
    let id = call.command_id(&digest)?;
    let secret = Secret::new(std::mem::take(&mut *value));
    let sealed = vault
        .seal(permit.resource(), &secret)
        .map_err(|fault| Refusal::Fault(format!("sealing {resource}: {fault}")))?;
    let fingerprint = vault.fingerprint(permit.resource(), &secret);
    let actor = Actor::Role(permit.role().clone());
    let command = Command::SetSecret { resource, value: sealed, fingerprint };
    call.propose(id, actor, command).await??;
    Ok(Answer::empty(StatusCode::CREATED))
}

fn check_value(kind: Kind, value: &Zeroizing<Vec<u8>>) -> Result<(), Refusal> {
    if value.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::Argument("'value' may not be empty".to_owned()));
    }
    if kind == Kind::PublicKey && !is_public_key(value) {
        return Err(Refusal::Unprocessable("Invalid public key format".to_owned()));
    }
    Ok(())
}

/// `ssh-rsa AAAA… [comment]`, as OpenSSH writes public keys.
fn is_public_key(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let mut words = text.split_ascii_whitespace();
    let algorithm = words.next().unwrap_or_default();
    let key = words.next().unwrap_or_default();
    let known = matches!(algorithm, "ssh-rsa" | "ssh-ed25519") || algorithm.starts_with("ecdsa-");
    let encoded = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    known && !key.is_empty() && key.bytes().all(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_told_from_other_text() {
        assert!(is_public_key(b"ssh-ed25519 AAAAC3Nz me@home\n"));
        assert!(is_public_key(b"ecdsa-sha2-nistp256 AAAA="));
        assert!(!is_public_key(b"ssh-dss AAAA"));
        assert!(!is_public_key(b"ssh-rsa"));
        assert!(!is_public_key(b"-----BEGIN KEY-----"));
    }
}
