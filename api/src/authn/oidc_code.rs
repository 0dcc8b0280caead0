//! `authn-oidc` by code (OpenID Connect Core, with PKCE, RFC 7636): people log in at their provider,
//! which sends their browser back with a code; here the code is exchanged for a token that says who it is.
//!
//! Whoever asks for the list of providers gets a nonce, a verifier and a state of its own, see
//! [`super::oidc_invitation`]. The code is of use only with the verifier, and the token only with the nonce;
//! nothing of it is kept here, and any node goes on where another began.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use conclave_domain::id::{ResourceId, RoleId};
use conclave_domain::time::Timestamp;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::claims::Name;
use super::id_token::{Claims, Expected};
use super::keys::{Endpoints, KeyCache, Source};
use super::oidc_invitation::{Invitation, is_same};
use super::outbound::{CallError, Outbound, Target};
use super::variables::Variables;
use super::{Attempt, Denied, oidc};
use crate::context::{Call, wiped_bytes};
use crate::error::Refusal;
use crate::ports::Vault;
use crate::settings::TOKEN_SECONDS_MAX;

const VARIABLES: [&str; 10] = [
    "provider-uri",
    "ca-cert",
    "client-id",
    "client-secret",
    "claim-mapping",
    "redirect-uri",
    "response-type",
    "provider-scope",
    "name",
    "token-ttl",
];
/// Largest answer of a provider looked at, in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Longest code, verifier or nonce looked at, in bytes.
const FIELD_BYTES_MAX: usize = 4 << 10;
/// Exchanges at once; more are answered 503.
const EXCHANGING_MAX: usize = 64;
/// Life of the tokens that people get, in seconds, where policy does not say.
const TOKEN_SECONDS: u32 = 3600;
/// What stands in URLs as it is (RFC 3986, unreserved).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How codes are exchanged.
pub(crate) struct Codes {
    keys: Arc<KeyCache>,
    outbound: Arc<Outbound>,
    exchanging: Semaphore,
}

/// A service as its variables configure it.
pub(crate) struct Service {
    pub(super) source: Source,
    client_id: String,
    client_secret: Zeroizing<String>,
    mapping: Name,
    redirect_uri: String,
    scope: String,
    name: Option<String>,
    token_seconds: u32,
}

impl Service {
    pub(crate) fn read(call: &mut Call, webservice: &ResourceId) -> Result<Self, Denied> {
        let variables = Variables::read(call, webservice, &VARIABLES)?;
        let unfit = |name: &str, why: &str| {
            Denied::new(format!("CONJ00011E The provider cannot be used: '{name}' {why}"))
        };
        let text = |name: &str| variables.required(name).map(|text| text.trim().to_owned());
        let mapping = Name::parse(&text("claim-mapping")?);
        if variables.filled("response-type").is_some_and(|text| text.trim() != "code") {
            return Err(unfit("response-type", "is not 'code'"));
        }
        let redirect_uri = text("redirect-uri")?;
        // Browsers send it back as it is; a loopback address without TLS is for command lines.
        if !redirect_uri.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()) {
            return Err(unfit("redirect-uri", "is no URL"));
        }
        let further = variables.filled("provider-scope").unwrap_or_default();
        let mut scope = "openid email profile".to_owned();
        for word in further.split([' ', ',']).filter(|word| !word.is_empty()) {
            scope.push(' ');
            scope.push_str(word);
        }
        let token_seconds = match variables.filled("token-ttl").map(str::trim) {
            None => TOKEN_SECONDS,
            Some(text) => seconds_of(text)
                .filter(|seconds| (1..=TOKEN_SECONDS_MAX).contains(seconds))
                .ok_or_else(|| unfit("token-ttl", "is no duration such as PT60M, PT5H at most"))?,
        };
        Ok(Self {
            source: Source::provider(&variables)?,
            client_id: text("client-id")?,
            client_secret: Zeroizing::new(variables.required("client-secret")?.trim().to_owned()),
            mapping: mapping.ok_or_else(|| unfit("claim-mapping", "is no claim"))?,
            redirect_uri,
            scope,
            name: variables.filled("name").map(|text| text.trim().to_owned()),
            token_seconds,
        })
    }
}

impl Codes {
    pub(crate) fn new(keys: Arc<KeyCache>, outbound: Arc<Outbound>) -> Self {
        Self { keys, outbound, exchanging: Semaphore::new(EXCHANGING_MAX) }
    }

    /// Whose code it is.
    pub(crate) async fn check(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let webservice = attempt.webservice()?;
        let service = Service::read(call, &webservice)?;
        let field = |name: &str| {
            let value = call.query.filled(name).filter(|text| text.len() <= FIELD_BYTES_MAX);
            value.map(|text| Zeroizing::new(text.to_owned())).ok_or_else(|| {
                let why = format!("CONJ00009E Field '{name}' is missing or empty in the query");
                Denied::with(Refusal::Empty(StatusCode::BAD_REQUEST), why)
            })
        };
        let (code, nonce, verifier) = (field("code")?, field("nonce")?, field("code_verifier")?);
        let vault = call.door.vault()?;
        let invited = Invitation::of_nonce(&vault, &webservice, &nonce, call.now)?;
        // Conjur's clients know of none; who brings it back has it compared here, too.
        if call.query.value("state").is_some_and(|state| !is_same(&invited.state, state)) {
            return Err(Denied::new(
                "CONJ00130E The browser came back from another login: its state differs",
            ));
        }
        let endpoints = self.keys.endpoints(&webservice, &service.source).await?;
        let token = self.exchange(&service, &endpoints, &code, &verifier).await?;
        let expected = Expected {
            issuer: &endpoints.issuer,
            issuer_required: true,
            audience: Some(&service.client_id),
            now: call.now,
        };
        let claims = self.keys.claims(&webservice, &service.source, &token, &expected).await?;
        is_for(&service.client_id, &claims)?;
        if claims.get("nonce").and_then(Value::as_str) != Some(invited.nonce.as_str()) {
            return Err(Denied::new(
                "CONJ00130E The token is of another request: its nonce differs",
            ));
        }
        // The provider has compared it with the challenge of the code, if it knows of such.
        if !is_same(&invited.verifier, &verifier) {
            let refusal = Refusal::Empty(StatusCode::BAD_REQUEST);
            return Err(Denied::with(
                refusal,
                "CONJ00133E The code cannot be exchanged: the verifier is of another login",
            ));
        }
        let role = oidc::bearer_of(&service.mapping, &claims, attempt)?;
        call.token_seconds = Some(service.token_seconds);
        Ok(role)
    }

    async fn exchange(
        &self,
        service: &Service,
        endpoints: &Endpoints,
        code: &str,
        verifier: &str,
    ) -> Result<Zeroizing<String>, Denied> {
        let unfit = |why: &dyn std::fmt::Display| {
            Denied::new(format!("CONJ00133E The code cannot be exchanged: {why}"))
        };
        let target = Target::parse(&endpoints.token).map_err(|why| unfit(&why))?;
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let form = Zeroizing::new(
            format!(
                "grant_type=authorization_code&code={}&redirect_uri={}&code_verifier={}",
                encode(code),
                encode(&service.redirect_uri),
                encode(verifier),
            )
            .into_bytes(),
        );
        // As a form encodes them, before they are joined (RFC 6749, 2.3.1).
        let pair = Zeroizing::new(format!(
            "{}:{}",
            encode(&service.client_id),
            encode(&service.client_secret)
        ));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut basic = HeaderValue::try_from(basic.as_str())
            .map_err(|_| unfit(&"the client's id and secret cannot stand in a header"))?;
        basic.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, basic);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let _place = self.exchanging.try_acquire().map_err(|_| {
            let refusal = Refusal::unavailable("too many requests wait for providers");
            Denied::with(refusal, "Too many requests wait for providers")
        })?;
        let authorities = service.source.authorities.as_deref();
        let answer = self
            .outbound
            .ask(&target, headers, Some(wiped_bytes(form)), authorities, ANSWER_BYTES_MAX)
            .await
            .map_err(|why| {
                let denied = unfit(&why);
                // A code that is wrong, used or too old, or a client that the provider does not know (RFC 6749, 5.2).
                if matches!(why, CallError::Status(status) if status.is_client_error()) {
                    return Denied { refusal: Refusal::Empty(StatusCode::BAD_REQUEST), ..denied };
                }
                denied
            })?;
        let mut answer: Value =
            serde_json::from_slice(&answer).map_err(|_| unfit(&"the answer is no JSON"))?;
        match answer.get_mut("id_token").map(Value::take) {
            Some(Value::String(token)) => Ok(Zeroizing::new(token)),
            _ => Err(unfit(&"the answer has no ID token")),
        }
    }

    /// What a client needs to send somebody to a service's provider; nothing when that cannot be used.
    pub(crate) async fn invitation(
        &self,
        webservice: &ResourceId,
        service: &Service,
        vault: &Vault,
        now: Timestamp,
    ) -> Result<Option<Value>, Refusal> {
        let Ok(endpoints) = self.keys.endpoints(webservice, &service.source).await else {
            return Ok(None);
        };
        if Target::parse(&endpoints.authorization).is_err() || endpoints.authorization.contains('#')
        {
            return Ok(None);
        }
        let Invitation { nonce, verifier, state } = Invitation::new(vault, webservice, now)?;
        let challenge = digest::digest(&digest::SHA256, verifier.as_bytes());
        let challenge = URL_SAFE_NO_PAD.encode(challenge);
        let mut uri = endpoints.authorization.clone();
        let mut before = if uri.contains('?') { '&' } else { '?' };
        for (name, value) in [
            ("client_id", service.client_id.as_str()),
            ("response_type", "code"),
            ("scope", &service.scope),
            ("nonce", &nonce),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("redirect_uri", &service.redirect_uri),
        ] {
            uri.push(before);
            before = '&';
            uri.push_str(name);
            uri.push('=');
            uri.extend(utf8_percent_encode(value, ENCODED));
        }
        let id = webservice.identifier().rsplit('/').next().unwrap_or_default();
        Ok(Some(json!({
            "service_id": id,
            "type": oidc::NAME,
            "name": service.name.as_deref().unwrap_or(id),
            "nonce": nonce.as_str(),
            "code_verifier": verifier.as_str(),
            "state": state.as_str(),
            "redirect_uri": uri,
        })))
    }
}

/// Whether a token was made for this client and not merely also for it (OpenID Connect Core, 3.1.3.7).
fn is_for(client_id: &str, claims: &Claims) -> Result<(), Denied> {
    let refused = || Denied::new("CONJ00035E The token was made for another client");
    let has_several = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    match claims.get("azp") {
        Some(Value::String(party)) if party == client_id => Ok(()),
        None if !has_several => Ok(()),
        _ => Err(refused()),
    }
}

/// Seconds of an ISO 8601 duration of days, hours, minutes and seconds.
fn seconds_of(text: &str) -> Option<u32> {
    let rest = text.strip_prefix('P')?;
    let (days, times) = rest.split_once('T').unwrap_or((rest, ""));
    if rest.ends_with('T') {
        return None;
    }
    let mut total: u32 = 0;
    let mut count = 0;
    let of_days: &[(char, u32)] = &[('D', 86400)];
    let of_times: &[(char, u32)] = &[('H', 3600), ('M', 60), ('S', 1)];
    for (part, units) in [(days, of_days), (times, of_times)] {
        let mut units = units.iter();
        let mut part = part;
        while !part.is_empty() {
            let at = part.find(|c: char| !c.is_ascii_digit())?;
            let number: u32 = part[..at].parse().ok()?;
            let letter = part[at..].chars().next()?;
            // In their order, each once.
            let (_, seconds) = units.find(|(unit, _)| *unit == letter)?;
            total = total.checked_add(number.checked_mul(*seconds)?)?;
            count += 1;
            part = &part[at + letter.len_utf8()..];
        }
    }
    (count > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("PT60M", 3600),
            ("PT1H", 3600),
            ("PT1H30M", 5400),
            ("PT90S", 90),
            ("P1D", 86400),
            ("P1DT1S", 86401),
            ("PT0S", 0),
        ] {
            assert_eq!(seconds_of(text), Some(seconds), "{text}");
        }
        for bad in [
            "",
            "P",
            "PT",
            "60M",
            "PT60",
            "PTM",
            "P60M",
            "PT1M1H",
            "PT1M1M",
            "PT-1M",
            "PT1.5H",
            "pt1m",
            "PT99999999999S",
            "P1DT",
            "PT1é",
        ] {
            assert_eq!(seconds_of(bad), None, "{bad}");
        }
    }
}
