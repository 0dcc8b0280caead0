//! What mixed logins are proven by: an API key, a token that an issuer of the drill's own signs, a
//! password in a directory, a client certificate; and of each a bad one, which looks almost like it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use conclave::clock::SystemClock;
use conclave_domain::time::Clock as _;
use http::Method;
use serde_json::json;

use crate::client::{Asked, Login};
use crate::process::cluster::ACCOUNT;
use crate::process::directory::{PASSWORD, PERSON};
use crate::process::shell::HarnessError;

/// The name of every webservice of a drill.
pub(super) const SERVICE: &str = "drill";
/// What the issuer calls itself.
pub(super) const ISSUER: &str = "https://issuer.drill.test";
/// The branch of the hosts, which are called as the ways that they log in by.
pub(super) const BRANCH: &str = "logins";
/// How long a token of the issuer counts.
const TOKEN_SECONDS: i64 = 60;

/// How somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By an API key.
    Key,
    /// By a token of another issuer.
    Jwt,
    /// By a password in a directory.
    Ldap,
    /// By a client certificate.
    Cert,
}

impl Way {
    /// In the order in which they take turns.
    pub(super) const ALL: [Self; 4] = [Self::Key, Self::Jwt, Self::Ldap, Self::Cert];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Jwt => "jwt",
            Self::Ldap => "ldap",
            Self::Cert => "cert",
        }
    }

    /// Who logs in so.
    pub(super) fn login(self) -> String {
        match self {
            Self::Ldap => PERSON.to_owned(),
            Self::Key | Self::Jwt | Self::Cert => format!("host/{BRANCH}/{}", self.name()),
        }
    }
}

/// The proofs that requests carry. Certificates are shown by connections.
pub(super) struct Proofs {
    key: Login,
    wrong_key: Login,
    issuer: Issuer,
    stranger: Issuer,
}

impl Proofs {
    /// With that API key, and issuers made now.
    pub(super) fn new(api_key: &str) -> Result<Self, HarnessError> {
        let wrong: String = api_key.chars().rev().collect();
        let login = Way::Key.login();
        Ok(Self {
            key: Login::new(ACCOUNT, &login, api_key),
            wrong_key: Login::new(ACCOUNT, &login, &wrong),
            issuer: Issuer::new()?,
            stranger: Issuer::new()?,
        })
    }

    /// The keys of the issuer that is to be believed, as `public-keys` takes them.
    pub(super) fn public_keys(&self) -> Result<String, HarnessError> {
        self.issuer.public_keys()
    }

    /// The request that logs in, or that tries to.
    pub(super) fn asked(&self, way: Way, is_good: bool) -> Result<Asked, HarnessError> {
        let post = |who: &str, body: String| {
            let path = format!("/authn-{}/{SERVICE}/{ACCOUNT}{who}/authenticate", way.name());
            Asked::new(Method::POST, path, Bytes::from(body))
        };
        Ok(match way {
            Way::Key if is_good => self.key.authenticate(),
            Way::Key => self.wrong_key.authenticate(),
            Way::Jwt => {
                let issuer = if is_good { &self.issuer } else { &self.stranger };
                post("", format!("jwt={}", issuer.token()?))
            }
            Way::Ldap => {
                let password = if is_good { PASSWORD } else { "carol-Secret2!" };
                post(&format!("/{PERSON}"), password.to_owned())
            }
            Way::Cert => post(&format!("/host%2F{BRANCH}%2F{}", way.name()), String::new()),
        })
    }
}

/// Signs tokens with RS256.
struct Issuer(RsaKeyPair);

impl Issuer {
    fn new() -> Result<Self, HarnessError> {
        RsaKeyPair::generate(KeySize::Rsa2048).map(Self).map_err(|_unspecified| no_key())
    }

    fn public_keys(&self) -> Result<String, HarnessError> {
        // RSAPublicKey of RFC 8017, appendix A.1.1, for 2048 bits: nine bytes of headers, the modulus, and 65537.
        let der = self.0.public_key().as_ref();
        let (Some(modulus), Some(&[2, 3, 1, 0, 1])) = (der.get(9..265), der.get(265..)) else {
            return Err(no_key());
        };
        let modulus = URL_SAFE_NO_PAD.encode(modulus);
        let key = json!({"kty": "RSA", "use": "sig", "kid": SERVICE, "e": "AQAB", "n": modulus});
        Ok(json!({"type": "jwks", "value": {"keys": [key]}}).to_string())
    }

    /// A token for the host that logs in so.
    fn token(&self) -> Result<String, HarnessError> {
        let now = SystemClock.now().seconds();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": SERVICE});
        let claims = json!({
            "iss": ISSUER, "host": Way::Jwt.name(), "team": SERVICE,
            "iat": now, "exp": now + TOKEN_SECONDS,
        });
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_unspecified| no_key())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn no_key() -> HarnessError {
    HarnessError::new("an issuer's RSA key cannot be made or used")
}
