//! An issuer of JWTs, and the policy by which Conclave believes it: each host logs in by a token of its own.

use std::fmt::Write;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conclave::clock::SystemClock;
use conclave_domain::time::Clock;
use serde_json::json;

use crate::Fault;

/// The webservice's name.
pub(super) const SERVICE: &str = "bench";
const ISSUER: &str = "https://issuer.bench.example";
const KEY_ID: &str = "bench-key";
/// How long a token counts: longer than any run.
const LIFE_S: i64 = 4 * 3600;

/// Signs tokens with RS256, as most issuers do.
pub(super) struct Issuer {
    key: RsaKeyPair,
    issued_at: i64,
}

impl Issuer {
    /// With a key made now.
    pub(super) fn new() -> Result<Self, Fault> {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_unspecified| no_key())?;
        Ok(Self { key, issued_at: SystemClock.now().seconds() })
    }

    /// What the variables of the webservice are set to.
    pub(super) fn variables(&self) -> Result<[(&'static str, String); 4], Fault> {
        // RSAPublicKey of RFC 8017, appendix A.1.1, for 2048 bits: nine bytes of headers, the modulus, and 65537.
        let der = self.key.public_key().as_ref();
        let (Some(modulus), Some(&[2, 3, 1, 0, 1])) = (der.get(9..265), der.get(265..)) else {
            return Err(no_key());
        };
        let key = json!({
            "kty": "RSA", "use": "sig", "kid": KEY_ID, "e": "AQAB",
            "n": URL_SAFE_NO_PAD.encode(modulus),
        });
        let keys = json!({"type": "jwks", "value": {"keys": [key]}}).to_string();
        Ok([
            ("public-keys", keys),
            ("issuer", ISSUER.to_owned()),
            ("token-app-property", "host".to_owned()),
            ("identity-path", "bench".to_owned()),
        ])
    }

    /// A token that speaks for a host of [`policy_of_hosts`].
    pub(super) fn token(&self, host: usize) -> Result<String, Fault> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID}).to_string();
        let claims = json!({
            "iss": ISSUER, "host": format!("h{host}"), "team": "bench",
            "iat": self.issued_at, "exp": self.issued_at + LIFE_S,
        });
        let [header, claims] =
            [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_unspecified| no_key())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn no_key() -> Fault {
    Fault::Tls("cannot make an issuer's RSA key".to_owned())
}

/// The webservice, its variables, and a group that may log in by it.
pub(super) fn policy_of_service() -> String {
    format!(
        "- !policy
  id: conjur/authn-jwt/{SERVICE}
  body:
  - !webservice
  - !variable public-keys
  - !variable issuer
  - !variable token-app-property
  - !variable identity-path
  - !group hosts
  - !permit
    role: !group hosts
    privileges: [read, authenticate]
    resource: !webservice
"
    )
}

/// Hosts that log in by a token which names their team, too.
pub(super) fn policy_of_hosts(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::from("- !policy\n  id: bench\n  body:\n");
    let mut members = String::new();
    for number in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  - !host\n    id: h{number}\n    annotations: {{authn-jwt/{SERVICE}/team: bench}}"
        );
        let _ = writeln!(members, "  - !host bench/h{number}");
    }
    let _ = writeln!(text, "- !grant\n  role: !group conjur/authn-jwt/{SERVICE}/hosts\n  members:");
    text + &members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts_and_names_its_host() {
        let issuer = Issuer::new().unwrap();
        let token = issuer.token(7).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["host"], "h7");
        assert!(issuer.variables().unwrap()[0].1.contains("\"kid\":\"bench-key\""));
    }

    #[test]
    fn each_host_is_made_and_may_log_in() {
        let text = policy_of_hosts(3..5);
        assert_eq!(text.matches("id: h4").count(), 1);
        assert_eq!(text.matches("!host bench/h4").count(), 1);
    }
}
