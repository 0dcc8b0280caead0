//! Access tokens: RS256 over RSA-2048, in Conjur's three-field envelope or as a compact JWT.
//!
//! ```text
//! {"protected":"<b64url>","payload":"<b64url>","signature":"<b64url>"}      envelope, padded
//!  protected = {"alg":"RS256","kid":"<hex SHA-256 of the SubjectPublicKeyInfo>"}
//!  payload   = {"iat":N,"sub":"<login>","exp":N[,"cidr":[…]]}
//!  signature = RS256 over protected "." payload
//! ```
//! Both texts are filled with spaces to a multiple of three bytes, so that base64 needs no padding
//! and the envelope's signature is that of the compact JWT too. The payload holds no byte that makes
//! `-` or `_` in base64, because the Go client reads it with the standard alphabet.
//!
//! The account of a token comes from the key that signed it, never from the request. Signing runs on
//! threads of its own, within bounds; RS256 is deterministic, so the same subject in the same second
//! gets the same token without a second signature. Checked signatures are remembered until the token
//! expires; what the state says of the key and the role is looked up at every use.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use conclave_domain::id::{AccountName, Id, RoleId};
use conclave_domain::records::SigningKey;
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use http::StatusCode;
use ipnet::IpNet;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use tokio::sync::{OnceCell, oneshot};

use crate::credentials::signing_key_label;
use crate::error::Refusal;
use crate::ports::Vault;
use crate::wire::base64;

/// Claims that a token may carry.
const CLAIMS: [&str; 7] = ["iat", "exp", "sub", "cidr", "iss", "aud", "jti"];
/// Life of a token that names no expiry, in seconds.
const LIFE_WITHOUT_EXPIRY: i64 = 480;
/// Longest token text that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Bytes of an RSA-2048 signature.
const SIGNATURE_BYTES: usize = 256;

/// Why a token is not accepted, in the middleware's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// There is none.
    Missing,
    /// It is not of the format.
    Malformed,
    /// Unknown key, bad signature, expired, or the wrong algorithm.
    Invalid,
    /// It holds claims that are not understood.
    UnrecognizedClaims,
    /// The client's address is outside the token's `cidr`.
    Address,
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let unauthorized = |text| Self::Text(StatusCode::UNAUTHORIZED, text);
        match error {
            TokenError::Missing => unauthorized("Authorization missing"),
            TokenError::Malformed => unauthorized("Malformed authorization token"),
            TokenError::Invalid => unauthorized("Unauthorized: Invalid token"),
            TokenError::UnrecognizedClaims => unauthorized("token contains unrecognized claims"),
            TokenError::Address => Self::Text(StatusCode::FORBIDDEN, "IP address rejected"),
        }
    }
}

/// Who a token speaks for, with its signature checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The account whose key signed it.
    pub(crate) account: AccountName,
    /// The role: the account with the token's `sub`.
    pub(crate) role: RoleId,
    /// The role's id as text.
    pub(crate) role_text: String,
    /// The token's `sub`, as it stands.
    pub(crate) subject: String,
    /// The key that signed it.
    pub(crate) key_id: String,
    /// When it was issued, in seconds.
    pub(crate) issued_at: i64,
    /// When it expires, in seconds; it is void from this second on.
    pub(crate) expires_at: i64,
    /// Addresses it may come from; empty means any.
    pub(crate) cidr: Vec<IpNet>,
}

impl Verified {
    /// What is left to check at each use.
    fn check(&self, now: Timestamp, from: IpAddr) -> Result<(), TokenError> {
        if now.seconds() >= self.expires_at {
            return Err(TokenError::Invalid);
        }
        if !self.cidr.is_empty() && !self.cidr.iter().any(|range| range.contains(&from)) {
            return Err(TokenError::Address);
        }
        Ok(())
    }

    /// Whether the key that signed the token is still its account's key.
    pub(crate) fn is_key_in_force(&self, state: &State) -> bool {
        state.account(&self.account).is_some_and(|account| account.signing_key.id == self.key_id)
    }
}

/// The three parts of a token, decoded.
struct Parts {
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Parts {
    /// From `Authorization: Token token="<base64 of the envelope>"`.
    fn from_envelope_header(encoded: &[u8]) -> Result<Self, TokenError> {
        let text = base64::decode_lenient(encoded).ok_or(TokenError::Malformed)?;
        let document: HashMap<String, Value> =
            serde_json::from_slice(&text).map_err(|_not_json| TokenError::Malformed)?;
        let part = |name: &str| {
            let text = document.get(name).and_then(Value::as_str).ok_or(TokenError::Invalid)?;
            base64::decode_url(text).ok_or(TokenError::Invalid)
        };
        if document.len() != 3 {
            return Err(TokenError::Invalid);
        }
        Ok(Self {
            protected: part("protected")?,
            payload: part("payload")?,
            signature: part("signature")?,
        })
    }

    /// From `Authorization: Bearer <compact JWT>`.
    fn from_compact(text: &[u8]) -> Result<Self, TokenError> {
        let text = std::str::from_utf8(text).map_err(|_foreign| TokenError::Malformed)?;
        let mut parts = text.split('.');
        let mut part = || {
            let text = parts.next().ok_or(TokenError::Malformed)?;
            base64::decode_url(text).ok_or(TokenError::Malformed)
        };
        let decoded = Self { protected: part()?, payload: part()?, signature: part()? };
        if parts.next().is_some() { Err(TokenError::Malformed) } else { Ok(decoded) }
    }

    /// The key id that the header names, when the header is one of ours.
    fn key_id(&self) -> Result<String, TokenError> {
        let header: HashMap<String, Value> =
            serde_json::from_slice(&self.protected).map_err(|_not_json| TokenError::Invalid)?;
        // The algorithm is pinned, and nothing in the header may point to a key but the id.
        let only_known = header.keys().all(|name| matches!(name.as_str(), "alg" | "kid" | "typ"));
        if !only_known || header.get("alg").and_then(Value::as_str) != Some("RS256") {
            return Err(TokenError::Invalid);
        }
        let id = header.get("kid").and_then(Value::as_str).ok_or(TokenError::Invalid)?;
        Ok(id.to_owned())
    }

    /// Checks the signature over the two parts, encoded again.
    fn is_signed_by(&self, key: &DecodingKey) -> bool {
        if self.signature.len() != SIGNATURE_BYTES {
            return false;
        }
        let message = format!(
            "{}.{}",
            base64::encode_url(&self.protected),
            base64::encode_url(&self.payload)
        );
        let signature = base64::encode_url(&self.signature);
        jsonwebtoken::crypto::verify(&signature, message.as_bytes(), key, Algorithm::RS256)
            .unwrap_or(false)
    }
}

/// The credentials in an `Authorization` header, as far as the middleware reads them.
enum Presented<'a> {
    Envelope(&'a [u8]),
    Compact(&'a [u8]),
}

/// Finds the token in the header's text; nothing when the scheme is another.
fn presented(header: &[u8]) -> Option<Presented<'_>> {
    let scheme_end = header.iter().position(u8::is_ascii_whitespace)?;
    let (scheme, rest) = header.split_at(scheme_end);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Presented::Compact(rest));
    }
    if scheme != b"Token" {
        return None;
    }
    let quoted = rest.strip_prefix(b"token=\"")?;
    let end = quoted.iter().position(|byte| *byte == b'"')?;
    Some(Presented::Envelope(quoted[..end].trim_ascii()))
}

/// Whether a header holds a token, of either form.
pub(crate) fn is_token(header: &[u8]) -> bool {
    presented(header).is_some()
}

const SHARDS: usize = 32;
/// Checked tokens remembered in one shard.
const SHARD_ENTRIES_MAX: usize = 2048;

type Shard<K, V> = Mutex<HashMap<K, V>>;

/// Mints and checks tokens.
pub(crate) struct TokenOffice {
    /// Tokens whose signature was found good, by SHA-256 of the header's token text.
    checked: Vec<Shard<[u8; 32], Arc<Verified>>>,
    /// Tokens made in the current second.
    minted: Vec<Mutex<Minted>>,
    signers: ArcSwap<HashMap<String, Arc<RsaKeyPair>>>,
    verifiers: ArcSwap<HashMap<String, Arc<DecodingKey>>>,
    jobs: mpsc::Sender<Job>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

type Signed = OnceCell<Arc<Token>>;

#[derive(Default)]
struct Minted {
    second: i64,
    /// By subject: the key that signs, and the token once it is signed.
    tokens: HashMap<RoleId, (String, Arc<Signed>)>,
}

/// A fresh token in both of its forms.
#[derive(Debug)]
pub(crate) struct Token {
    /// The envelope's JSON.
    pub(crate) envelope: String,
    /// The compact JWT.
    pub(crate) compact: String,
}

/// One signature to make, and who waits for it.
struct Job {
    signer: Arc<RsaKeyPair>,
    protected: Vec<u8>,
    payload: Vec<u8>,
    answer: oneshot::Sender<Option<Token>>,
}

/// Signs until nobody can ask any more. Signers have threads of their own: a signature takes long
/// enough to hold up a reactor, and going through the runtime's blocking pool costs two more hops.
fn sign_loop(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { signer, protected, payload, answer }) = job else { return };
        // Whoever has gone needs no token.
        if !answer.is_closed() {
            drop(answer.send(sign(&signer, &protected, &payload)));
        }
    }
}

impl TokenOffice {
    /// Starts `parallel_max` signers; more than `waiting_max` logins are not made to wait for them.
    pub(crate) fn new(parallel_max: usize, waiting_max: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..parallel_max {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("token-sign-{number}"))
                .spawn(move || sign_loop(&queue))?;
        }
        Ok(Self {
            checked: (0..SHARDS).map(|_| Mutex::default()).collect(),
            minted: (0..SHARDS).map(|_| Mutex::default()).collect(),
            signers: ArcSwap::default(),
            verifiers: ArcSwap::default(),
            jobs,
            waiting: AtomicUsize::new(0),
            waiting_max,
        })
    }

    /// Checks the token of a request. `keys` looks up the account and public key (DER) by key id.
    pub(crate) fn check(
        &self,
        header: &[u8],
        now: Timestamp,
        from: IpAddr,
        keys: impl FnOnce(&str) -> Option<(AccountName, Vec<u8>)>,
    ) -> Result<Arc<Verified>, TokenError> {
        let token = presented(header).ok_or(TokenError::Missing)?;
        let (Presented::Envelope(text) | Presented::Compact(text)) = &token;
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = sha256(text);
        let shard = &self.checked[usize::from(digest[0]) % SHARDS];
        let known = shard.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if let Some(known) = known {
            known.check(now, from)?;
            return Ok(known);
        }
        let parts = match token {
            Presented::Envelope(text) => Parts::from_envelope_header(text)?,
            Presented::Compact(text) => Parts::from_compact(text)?,
        };
        let key_id = parts.key_id()?;
        let (account, public) = keys(&key_id).ok_or(TokenError::Invalid)?;
        let key = self.verifier(&key_id, &public).ok_or(TokenError::Invalid)?;
        if !parts.is_signed_by(&key) {
            return Err(TokenError::Invalid);
        }
        let verified = Arc::new(claims(&parts.payload, account, key_id)?);
        verified.check(now, from)?;
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= SHARD_ENTRIES_MAX {
            shard.retain(|_, known| now.seconds() < known.expires_at);
            if shard.len() >= SHARD_ENTRIES_MAX {
                shard.clear();
            }
        }
        shard.insert(digest, verified.clone());
        Ok(verified)
    }

    fn verifier(&self, key_id: &str, public: &[u8]) -> Option<Arc<DecodingKey>> {
        if let Some(known) = self.verifiers.load().get(key_id) {
            return Some(known.clone());
        }
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            base64::encode(public)
        );
        let key = Arc::new(DecodingKey::from_rsa_pem(pem.as_bytes()).ok()?);
        self.verifiers.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(key_id.to_owned(), key.clone());
            known
        });
        Some(key)
    }

    /// Makes a token for a role, good from this second on for `life` seconds.
    pub(crate) async fn mint(
        &self,
        vault: &Vault,
        role: &RoleId,
        key: &SigningKey,
        now: Timestamp,
        life: u32,
    ) -> Result<Arc<Token>, Refusal> {
        let second = now.seconds();
        let cell = self.cell(role, &key.id, second);
        let token = cell.get_or_try_init(|| async {
            let signer = self.signer(vault, role.account(), key)?;
            let expires_at = second + i64::from(life);
            let (protected, payload) = texts(&key.id, &role.to_login(), (second, expires_at), &[]);
            self.sign(signer, protected, payload).await.map(Arc::new)
        });
        token.await.cloned()
    }

    /// Makes a token that is like no other: with an expiry of its own, or good from some addresses
    /// only. `life` is the seconds of issue and of expiry.
    pub(crate) async fn mint_special(
        &self,
        vault: &Vault,
        role: &RoleId,
        key: &SigningKey,
        life: (i64, i64),
        cidr: &[IpNet],
    ) -> Result<Token, Refusal> {
        let signer = self.signer(vault, role.account(), key)?;
        let (protected, payload) = texts(&key.id, &role.to_login(), life, cidr);
        self.sign(signer, protected, payload).await
    }

    fn cell(&self, role: &RoleId, key_id: &str, second: i64) -> Arc<Signed> {
        let shard = shard_of(role);
        let mut minted = self.minted[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if minted.second != second {
            minted.second = second;
            minted.tokens.clear();
        }
        match minted.tokens.get(role) {
            Some((id, cell)) if id == key_id => cell.clone(),
            _ => {
                let cell = Arc::new(OnceCell::new());
                minted.tokens.insert(role.clone(), (key_id.to_owned(), cell.clone()));
                cell
            }
        }
    }

    fn signer(
        &self,
        vault: &Vault,
        account: &AccountName,
        key: &SigningKey,
    ) -> Result<Arc<RsaKeyPair>, Refusal> {
        if let Some(known) = self.signers.load().get(&key.id) {
            return Ok(known.clone());
        }
        let private = vault
            .open_labelled(&signing_key_label(account), &key.private)
            .map_err(|fault| Refusal::Fault(format!("token key of {account}: {fault}")))?;
        let pair = RsaKeyPair::from_pkcs8(private.expose_secret())
            .map_err(|rejected| Refusal::Fault(format!("token key of {account}: {rejected}")))?;
        let pair = Arc::new(pair);
        self.signers.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(key.id.clone(), pair.clone());
            known
        });
        Ok(pair)
    }

    async fn sign(
        &self,
        signer: Arc<RsaKeyPair>,
        protected: Vec<u8>,
        payload: Vec<u8>,
    ) -> Result<Token, Refusal> {
        let _waiting = Waiting::enter(&self.waiting, self.waiting_max)
            .ok_or(Refusal::unavailable("too many logins wait for a signature"))?;
        let (answer, token) = oneshot::channel();
        let queued = self.jobs.send(Job { signer, protected, payload, answer });
        queued.map_err(|_no_signer| Refusal::Fault("no token signer is left".into()))?;
        token.await.ok().flatten().ok_or_else(|| Refusal::Fault("signing a token failed".into()))
    }
}

/// Counts those who wait for something costly, up to a bound.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(crate) fn enter(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(count);
        (before < max).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn shard_of(role: &RoleId) -> usize {
    let bytes = role.identifier().as_bytes();
    let sum = bytes
        .iter()
        .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    sum % SHARDS
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut array = [0; 32];
    array.copy_from_slice(digest.as_ref());
    array
}

/// The two signed texts, each a multiple of three bytes long.
fn texts(
    key_id: &str,
    login: &str,
    (issued_at, expires_at): (i64, i64),
    cidr: &[IpNet],
) -> (Vec<u8>, Vec<u8>) {
    let protected = format!("{{\"alg\":\"RS256\",\"kid\":\"{key_id}\"}}");
    let mut payload = format!("{{\"iat\":{issued_at},\"sub\":\"");
    for unit in login.encode_utf16() {
        match u8::try_from(unit).ok().filter(u8::is_ascii).map(char::from) {
            Some(plain)
                if plain.is_ascii_alphanumeric()
                    || " !#$%'()*+,-./:;=@[]^_`{|}".contains(plain) =>
            {
                payload.push(plain);
            }
            // Everything that JSON or the standard base64 alphabet would trip over.
            _ => {
                let _infallible = write!(payload, "\\u{unit:04x}");
            }
        }
    }
    let _infallible = write!(payload, "\",\"exp\":{expires_at}");
    for (at, range) in cidr.iter().enumerate() {
        let start = if at == 0 { ",\"cidr\":[" } else { "," };
        let _infallible = write!(payload, "{start}\"{range}\"");
    }
    payload.push_str(if cidr.is_empty() { "}" } else { "]}" });
    (fill(protected), fill(payload))
}

/// Fills a JSON object with spaces before its closing brace.
fn fill(mut text: String) -> Vec<u8> {
    text.pop();
    while text.len() % 3 != 2 {
        text.push(' ');
    }
    text.push('}');
    text.into_bytes()
}

fn sign(signer: &RsaKeyPair, protected: &[u8], payload: &[u8]) -> Option<Token> {
    let mut message = String::with_capacity(1024);
    base64::encode_url_padded(protected, &mut message);
    let dot = message.len();
    message.push('.');
    base64::encode_url_padded(payload, &mut message);
    let mut signature = vec![0; signer.public_modulus_len()];
    signer
        .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .ok()?;
    let mut padded = String::new();
    base64::encode_url_padded(&signature, &mut padded);
    let envelope = format!(
        "{{\"protected\":\"{}\",\"payload\":\"{}\",\"signature\":\"{padded}\"}}",
        &message[..dot],
        &message[dot + 1..],
    );
    let compact = format!("{message}.{}", padded.trim_end_matches('='));
    Some(Token { envelope, compact })
}

/// Reads the claims of a token whose signature is good.
fn claims(payload: &[u8], account: AccountName, key_id: String) -> Result<Verified, TokenError> {
    let claims: serde_json::Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_not_json| TokenError::Invalid)?;
    if claims.keys().any(|name| !CLAIMS.contains(&name.as_str())) {
        return Err(TokenError::UnrecognizedClaims);
    }
    let issued_at = claims.get("iat").and_then(Value::as_i64).ok_or(TokenError::Invalid)?;
    let expires_at = match claims.get("exp") {
        Some(value) => value.as_i64().ok_or(TokenError::Invalid)?,
        None => issued_at.saturating_add(LIFE_WITHOUT_EXPIRY),
    };
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(TokenError::Invalid)?;
    let cidr = match claims.get("cidr") {
        None => Vec::new(),
        Some(Value::Array(ranges)) => ranges
            .iter()
            .map(|range| range.as_str().and_then(parse_range))
            .collect::<Option<Vec<_>>>()
            .ok_or(TokenError::Invalid)?,
        Some(_) => return Err(TokenError::Invalid),
    };
    // An empty list would read as "from anywhere", which is not what it says.
    if claims.contains_key("cidr") && cidr.is_empty() {
        return Err(TokenError::Invalid);
    }
    let role = Id::from_login(&account, subject).map_err(|_no_role| TokenError::Invalid)?;
    Ok(Verified {
        role_text: role.to_string(),
        account,
        role,
        subject: subject.to_owned(),
        key_id,
        issued_at,
        expires_at,
        cidr,
    })
}

fn parse_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
