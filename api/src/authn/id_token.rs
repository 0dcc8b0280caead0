//! Signed tokens of others (JWT, RFC 7519), judged: what they say is believed once a key of their
//! issuer's set has signed it, by an algorithm from a fixed list, and it is neither stale nor for
//! somebody else. Pure: keys and time are passed in.
//!
//! What a token says of its own keys (`jku`, `jwk`, `x5u`, `x5c`) is not looked at.

use std::borrow::Cow;

use conclave_domain::time::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};

/// Largest token looked at, in bytes.
pub(crate) const TOKEN_BYTES_MAX: usize = 32 << 10;
/// Most keys of one set that are looked at.
const KEYS_MAX: usize = 128;
/// How far the issuer's clock may be ahead of ours, in seconds, for "not before" and "issued at".
const AHEAD_SECONDS_MAX: f64 = 10.0;
/// Signatures are by these, which no key of another sort can be mistaken for.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// What a token says.
pub(crate) type Claims = Map<String, Value>;

/// Why a token is not believed; the text has its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its time is over.
    Expired,
    /// Anything else.
    Refused(Cow<'static, str>),
}

impl Fault {
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(reason.into())
    }
}

/// A token whose parts have the right form, and nothing more.
pub(crate) struct Unverified<'a> {
    text: &'a str,
    /// The key that it says it was signed with.
    pub(crate) key_id: String,
    algorithm: Algorithm,
}

impl<'a> Unverified<'a> {
    /// Looks at the form and at the header.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Fault> {
        if text.is_empty() {
            return Err(Fault::new("CONJ00085E The token is empty"));
        }
        let is_part = |part: &str| {
            let is_one = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !part.is_empty() && part.bytes().all(is_one)
        };
        if text.split('.').count() != 3 || !text.split('.').all(is_part) {
            return Err(Fault::new("CONJ00077E The request holds no token of three parts"));
        }
        let undecodable = |_| Fault::new("CONJ00035E The token's header cannot be decoded");
        let header = jsonwebtoken::decode_header(text).map_err(undecodable)?;
        if !ALGORITHMS.contains(&header.alg) {
            let why = format!("CONJ00035E Tokens signed by {:?} are not taken", header.alg);
            return Err(Fault::new(why));
        }
        // What a token calls critical has to be understood, and none of it is.
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(Fault::new("CONJ00035E The token's header asks for what is not known"));
        }
        let key_id = header.kid.filter(|kid| !kid.is_empty());
        let key_id =
            key_id.ok_or(Fault::new("CONJ00035E The token's header names no key (kid)"))?;
        Ok(Self { text, key_id, algorithm: header.alg })
    }

    /// What it says, once one of the issuer's keys of that name has signed it.
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<Claims, Fault> {
        let mut validation = Validation::new(self.algorithm);
        // Claims are judged by `check`, by the caller's clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let mut named = keys.named(&self.key_id).peekable();
        if named.peek().is_none() {
            return Err(Fault::new("CONJ00035E The issuer has no key of the token's kid"));
        }
        for key in named.filter(|key| key.algorithm.is_none_or(|only| only == self.algorithm)) {
            if let Ok(token) = jsonwebtoken::decode::<Claims>(self.text, &key.verifier, &validation)
            {
                return Ok(token.claims);
            }
        }
        Err(Fault::new("CONJ00035E The token's signature or claims cannot be verified"))
    }
}

/// What a token's registered claims must say.
pub(crate) struct Expected<'a> {
    /// Who issued it.
    pub(crate) issuer: &'a str,
    /// Whether a token that does not say who issued it is refused for that.
    pub(crate) issuer_required: bool,
    /// For whom it is; nothing takes tokens for anybody.
    pub(crate) audience: Option<&'a str>,
    /// What time it is.
    pub(crate) now: Timestamp,
}

impl Expected<'_> {
    /// Compares.
    pub(crate) fn check(&self, claims: &Claims) -> Result<(), Fault> {
        let missing =
            |name: &str| Fault::new(format!("CONJ00091E The token has no claim '{name}'"));
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit a double")]
        let now = self.now.0 as f64 / 1000.0;
        let instant = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64().filter(|at| at.is_finite())),
            Some(_) => Err(Fault::new(format!("CONJ00035E The claim '{name}' is no time"))),
        };
        let expires = instant("exp")?.ok_or_else(|| missing("exp"))?;
        if now >= expires {
            return Err(Fault::Expired);
        }
        for name in ["nbf", "iat"] {
            if instant(name)?.is_some_and(|at| at > now + AHEAD_SECONDS_MAX) {
                return Err(Fault::new(format!("CONJ00035E The claim '{name}' lies ahead")));
            }
        }
        match claims.get("iss") {
            Some(Value::String(issuer)) if issuer == self.issuer => {}
            Some(_) => return Err(Fault::new("CONJ00035E The token is of another issuer")),
            None if self.issuer_required => return Err(missing("iss")),
            None => {}
        }
        let Some(audience) = self.audience else { return Ok(()) };
        let is_meant = match claims.get("aud") {
            None => return Err(missing("aud")),
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
            Some(_) => false,
        };
        if is_meant { Ok(()) } else { Err(Fault::new("CONJ00035E The token is for others")) }
    }
}

/// The keys of an issuer that may have signed a token.
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: String,
    /// The only algorithm that it is for, where its issuer says so.
    algorithm: Option<Algorithm>,
    verifier: DecodingKey,
}

impl KeySet {
    /// Reads a JWK set (RFC 7517). Keys that no token taken here can be signed with are left out.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, &'static str> {
        let document: Value = serde_json::from_slice(document).map_err(|_| "it is no JSON")?;
        Self::from_value(&document)
    }

    /// As [`KeySet::parse`].
    pub(crate) fn from_value(document: &Value) -> Result<Self, &'static str> {
        let keys = document.get("keys").and_then(Value::as_array).ok_or("it has no list 'keys'")?;
        let keys: Vec<Key> = keys.iter().take(KEYS_MAX).filter_map(key_of).collect();
        if keys.is_empty() { Err("it has no RSA key for signatures") } else { Ok(Self { keys }) }
    }

    /// Whether there is a key of that name.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.named(id).next().is_some()
    }

    fn named<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| key.id == id)
    }
}

fn key_of(key: &Value) -> Option<Key> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    if text("kty") != Some("RSA") || text("use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let algorithm = match text("alg") {
        None => None,
        Some(named) => {
            let named: Algorithm = named.parse().ok()?;
            Some(ALGORITHMS.into_iter().find(|known| *known == named)?)
        }
    };
    let verifier = DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?;
    Some(Key { id: text("kid")?.to_owned(), algorithm, verifier })
}
