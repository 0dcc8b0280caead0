//! Logging in at an OpenID provider from a terminal without a browser (RFC 8628): the provider gives a code,
//! somebody enters it in a browser elsewhere, and meanwhile the provider is asked whether that has
//! happened. What it then gives is an ID token, which the server takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::api::{Api, Ask, Caller, Token, segment};
use crate::clock::monotonic;
use crate::exit::{Exit, Failure};

/// The grant's name in requests.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Between two questions where the provider does not say, and what `slow_down` adds.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest pause that a provider can ask for, and longest life of its codes.
const INTERVAL_MAX: Duration = Duration::from_mins(1);
const LIFE_MAX: Duration = Duration::from_hours(1);

/// Arguments of `login` at an OpenID provider.
#[derive(Debug, Args)]
pub(super) struct OidcArgs {
    /// Log in at an OpenID provider by the authenticator of this name (authn-oidc): alone, with a browser of
    /// this machine, which comes back to it; with --provider and --client-id (ID tokens) by a code that is
    /// entered in any browser. The access token is kept until it expires.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["login", "password_file"])]
    oidc: Option<String>,
    /// For a code: the provider, as its configuration names it, https://…
    #[arg(long, value_name = "URL", requires_all = ["oidc", "client_id"])]
    provider: Option<String>,
    /// For a code: a public client of the provider that may use the device grant.
    #[arg(long, value_name = "ID", requires_all = ["oidc", "provider"])]
    client_id: Option<String>,
    /// For a code: what to ask the provider for.
    #[arg(long, default_value = "openid profile email", requires = "provider")]
    scope: String,
    /// For a code: PEM file with the authorities of the provider's certificate; the system's without it.
    #[arg(long, value_name = "FILE", requires = "provider")]
    provider_ca: Option<PathBuf>,
}

/// A login at a provider.
pub(super) enum ProviderLogin {
    /// By a browser of this machine, for this service.
    Browser(String),
    /// By a code.
    Device(DeviceLogin),
}

/// A login by a code, with all that it needs.
pub(super) struct DeviceLogin {
    service: String,
    provider: String,
    client_id: String,
    scope: String,
    provider_ca: Option<PathBuf>,
}

impl OidcArgs {
    /// The login that is asked for, if one is.
    pub(super) fn login(self) -> Option<ProviderLogin> {
        let service = self.oidc?;
        Some(match (self.provider, self.client_id) {
            (Some(provider), Some(client_id)) => ProviderLogin::Device(DeviceLogin {
                service,
                provider: provider.trim_end_matches('/').to_owned(),
                client_id,
                scope: self.scope,
                provider_ca: self.provider_ca,
            }),
            _ => ProviderLogin::Browser(service),
        })
    }
}

/// Of a provider's configuration what is needed here.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

/// What the provider gives to begin with.
#[derive(Deserialize)]
struct Begun {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// The provider's answer to the question whether somebody has confirmed.
#[derive(Deserialize)]
struct Told {
    id_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Ask again after a pause of this length.
    Wait(Duration),
    /// Bring this to the server.
    Bring(Zeroizing<String>),
}

/// Logs in; `say` is told the lines that somebody has to read.
///
/// # Errors
/// When the provider has no such grant, nobody confirms in time, or the server refuses.
pub(super) async fn log_in(
    api: &Api,
    login: &DeviceLogin,
    say: impl Fn(&str),
) -> Result<Token, Failure> {
    let provider = Api::new(&login.provider, api.account(), login.provider_ca.as_deref())?;
    let path = "/.well-known/openid-configuration";
    let found = provider.ask(Caller::Nobody, Ask::new(reqwest::Method::GET, path)).await?;
    let configuration: Configuration = read("configuration", &found.success()?)?;
    if configuration.issuer.trim_end_matches('/') != login.provider {
        return Err(Failure::new(
            Exit::Configuration,
            format!(
                "the provider calls itself {:?}; pass that as --provider",
                configuration.issuer
            ),
        ));
    }
    let device = configuration.device_authorization_endpoint.ok_or_else(|| {
        Failure::new(
            Exit::Configuration,
            format!(
                "{} has no device_authorization_endpoint: it knows no such logins",
                login.provider
            ),
        )
    })?;
    let (device, token) = (
        endpoint(&device, login, api.account())?,
        endpoint(&configuration.token_endpoint, login, api.account())?,
    );
    let fields = [("client_id", login.client_id.as_str()), ("scope", &login.scope)];
    let begun =
        device.ask(Caller::Nobody, Ask::new(reqwest::Method::POST, "").form(&fields)).await?;
    let mut begun: Begun = read("code", &begun.success()?)?;
    for line in invitation(&begun)? {
        say(&line);
    }
    let device_code = Zeroizing::new(std::mem::take(&mut begun.device_code));
    let ended = monotonic() + Duration::from_secs(begun.expires_in).min(LIFE_MAX);
    let mut pause = begun.interval.map_or(INTERVAL, Duration::from_secs).min(INTERVAL_MAX);
    let fields = [
        ("grant_type", GRANT),
        ("device_code", device_code.as_str()),
        ("client_id", &login.client_id),
    ];
    loop {
        tokio::time::sleep(pause).await;
        if monotonic() >= ended {
            return Err(expired());
        }
        let ask = Ask::new(reqwest::Method::POST, "").form(&fields);
        match token.ask(Caller::Nobody, ask).await {
            // RFC 8628, section 3.5: whom nobody answers asks less often.
            Err(failure) if failure.exit == Exit::Unavailable => {
                pause = (pause * 2).min(INTERVAL_MAX);
            }
            Err(failure) => return Err(failure),
            Ok(answer) if answer.status.is_server_error() => {
                pause = (pause * 2).min(INTERVAL_MAX);
            }
            Ok(answer) => match next(answer.status, &answer.body, pause)? {
                Next::Wait(longer) => pause = longer,
                Next::Bring(id_token) => return bring(api, &login.service, &id_token).await,
            },
        }
    }
}

/// A provider's endpoint, which is asked as it stands.
fn endpoint(url: &str, login: &DeviceLogin, account: &str) -> Result<Api, Failure> {
    if !url.starts_with("https://") {
        return Err(Failure::new(
            Exit::Configuration,
            format!("the provider's configuration names {url:?}, which is no https:// URL"),
        ));
    }
    Api::exactly(url, account, login.provider_ca.as_deref())
}

fn read<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, Failure> {
    // What stands there may be a secret, so the error says only where it is wrong.
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!(
                "the provider's {what} cannot be read (line {}, column {})",
                error.line(),
                error.column()
            ),
        )
    })
}

/// The lines that tell where to enter what. The provider's words go to a terminal, so they must be plain.
fn invitation(begun: &Begun) -> Result<Vec<String>, Failure> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let is_address = |text: &str| text.starts_with("https://") && is_plain(text);
    let complete = begun.verification_uri_complete.as_deref();
    if !is_address(&begun.verification_uri)
        || !is_plain(&begun.user_code)
        || !complete.is_none_or(is_address)
    {
        let why = "the provider's address or code is none that can be shown";
        return Err(Failure::new(Exit::Failed, why));
    }
    let mut lines =
        vec![format!("Open {} and enter the code {}", begun.verification_uri, begun.user_code)];
    lines.extend(complete.map(|address| format!("or open {address}")));
    Ok(lines)
}

fn expired() -> Failure {
    Failure::new(Exit::Unauthenticated, "nobody confirmed the code in time; log in again")
}

/// What an answer of the token endpoint means to who has paused for so long.
fn next(status: StatusCode, body: &[u8], pause: Duration) -> Result<Next, Failure> {
    let told: Told = read("answer", body)?;
    if status.is_success() {
        return told.id_token.map(|token| Next::Bring(token.into())).ok_or_else(|| {
            let why = "the provider gave no ID token; --scope must hold openid";
            Failure::new(Exit::Failed, why)
        });
    }
    match told.error.as_deref() {
        Some("authorization_pending") => Ok(Next::Wait(pause)),
        Some("slow_down") => Ok(Next::Wait((pause + INTERVAL).min(INTERVAL_MAX))),
        Some("expired_token") => Err(expired()),
        Some("access_denied") => {
            Err(Failure::new(Exit::Unauthenticated, "the login was refused in the browser"))
        }
        error => {
            // As debug text, since the provider's words may hold anything.
            let words = told.error_description.as_deref().or(error).unwrap_or_default();
            Err(Failure::new(Exit::Refused, format!("{status}: the provider says {words:?}")))
        }
    }
}

/// The server's access token for the provider's ID token.
async fn bring(api: &Api, service: &str, id_token: &str) -> Result<Token, Failure> {
    let (service, account) = (segment(service), segment(api.account()));
    let path = format!("/authn-oidc/{service}/{account}/authenticate");
    let ask = Ask::new(reqwest::Method::POST, path).form(&[("id_token", id_token)]);
    api.token(ask).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> Result<Next, Failure> {
        next(StatusCode::from_u16(status).unwrap(), body.as_bytes(), INTERVAL)
    }

    #[test]
    fn answers_mean_what_the_standard_says() {
        let wait = |seconds| Next::Wait(Duration::from_secs(seconds));
        let pending = told(400, r#"{"error": "authorization_pending"}"#).unwrap();
        assert_eq!(pending, wait(5));
        assert_eq!(told(400, r#"{"error": "slow_down"}"#).unwrap(), wait(10));
        let slower = next(StatusCode::BAD_REQUEST, br#"{"error": "slow_down"}"#, INTERVAL_MAX);
        assert_eq!(slower.unwrap(), wait(60));
        let token = told(200, r#"{"id_token": "a.b.c", "access_token": "x"}"#).unwrap();
        assert_eq!(token, Next::Bring("a.b.c".to_owned().into()));
        for (status, body, exit, words) in [
            (400, r#"{"error": "expired_token"}"#, Exit::Unauthenticated, "in time"),
            (400, r#"{"error": "access_denied"}"#, Exit::Unauthenticated, "refused in the browser"),
            (401, r#"{"error": "invalid_client"}"#, Exit::Refused, "invalid_client"),
            (400, "{}", Exit::Refused, "400"),
            (200, r#"{"access_token": "x"}"#, Exit::Failed, "--scope"),
            (200, "secret", Exit::Failed, "cannot be read"),
        ] {
            let failure = told(status, body).unwrap_err();
            assert_eq!(failure.exit, exit, "{body}");
            assert!(failure.message.contains(words), "{body}: {failure}");
            assert!(!failure.message.contains("secret"), "{failure}");
        }
    }

    #[test]
    fn what_is_shown_is_plain() {
        let begun = |code: &str, address: &str| Begun {
            device_code: String::new(),
            user_code: code.to_owned(),
            verification_uri: address.to_owned(),
            verification_uri_complete: Some("https://a/?c".to_owned()),
            expires_in: 1,
            interval: None,
        };
        let lines = invitation(&begun("ABCD-EFGH", "https://idp/device")).unwrap();
        assert_eq!(lines[0], "Open https://idp/device and enter the code ABCD-EFGH");
        assert_eq!(lines[1], "or open https://a/?c");
        for (code, address) in [
            ("A\u{1b}[2J", "https://idp"),
            ("A", "http://idp"),
            ("A", "https://i\ndp"),
            ("é", "https://idp"),
        ] {
            assert!(invitation(&begun(code, address)).is_err(), "{code:?} {address:?}");
        }
    }
}
