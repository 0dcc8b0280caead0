//! Who is logged in to which server: settings, remembered credentials, and a fresh token for them.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use zeroize::Zeroizing;

use super::api::{Answer, Api, Ask, Caller, Token};
use super::netrc;
use super::settings::Settings;
use crate::clock::monotonic;
use crate::config::environment::ClientEnvironment;
use crate::exit::{Exit, Failure};

/// A token older than this is renewed before it is used: it lives for eight minutes.
const RENEW_AFTER: Duration = Duration::from_mins(4);

/// A client of the server that the settings name.
///
/// # Errors
/// When the roots to trust cannot be read.
pub(super) fn api(settings: &Settings) -> Result<Api, Failure> {
    Api::new(&settings.appliance_url, &settings.account, settings.cert_file.as_deref())
}

/// The client of the server in force, for what needs no login.
///
/// # Errors
/// When no server is named.
pub(super) fn anonymous() -> Result<Api, Failure> {
    api(&Settings::load(&ClientEnvironment::read())?)
}

/// Login and API key in force: those of the environment, else those remembered by `login`.
///
/// # Errors
/// When there are none, or an access token is all there is.
pub(super) fn credentials(
    environment: ClientEnvironment,
    settings: &Settings,
) -> Result<netrc::Entry, Failure> {
    let entry = remembered(environment, settings)?;
    if entry.login == netrc::TOKEN {
        return Err(Failure::new(
            Exit::Unauthenticated,
            "this needs an API key, and you have logged in at an OpenID provider; run `conclave login -i LOGIN`",
        ));
    }
    Ok(entry)
}

/// What is in force: login and API key of the environment, else what is remembered by `login`.
fn remembered(
    environment: ClientEnvironment,
    settings: &Settings,
) -> Result<netrc::Entry, Failure> {
    match (environment.login, environment.api_key) {
        (Some(login), Some(api_key)) => Ok(netrc::Entry { login, api_key }),
        (None, None) => {
            let text = netrc::read(&settings.netrc)?;
            netrc::find(&text, &netrc::machine(&settings.appliance_url)).ok_or_else(|| {
                Failure::new(
                    Exit::Unauthenticated,
                    format!("not logged in to {}; run `conclave login`", settings.appliance_url),
                )
            })
        }
        _ => Err(Failure::new(
            Exit::Configuration,
            "set both CONJUR_AUTHN_LOGIN and CONJUR_AUTHN_API_KEY, or neither",
        )),
    }
}

/// The server in force, and a fresh token for whoever is logged in.
///
/// # Errors
/// When nobody is logged in, or the server refuses the login.
pub(super) async fn session() -> Result<(Api, Token), Failure> {
    let session = Session::open().await?;
    Ok((session.api, session.token))
}

/// A login that is used for longer than one token lives.
pub(super) struct Session {
    /// The server.
    pub(super) api: Api,
    /// The token, as it was when it was last renewed.
    pub(super) token: Token,
    entry: netrc::Entry,
    renewed: Instant,
}

impl Session {
    /// Logs in with the credentials in force.
    ///
    /// # Errors
    /// When there are none, or the server refuses them.
    pub(super) async fn open() -> Result<Self, Failure> {
        let environment = ClientEnvironment::read();
        let settings = Settings::load(&environment)?;
        let api = api(&settings)?;
        let entry = remembered(environment, &settings)?;
        let token = token_of(&api, &entry).await?;
        Ok(Self { api, token, entry, renewed: monotonic() })
    }

    /// Renews the token where it has come of age.
    ///
    /// # Errors
    /// When the server refuses the login, or none answers.
    pub(super) async fn renew(&mut self) -> Result<(), Failure> {
        if monotonic() - self.renewed >= RENEW_AFTER {
            self.token = token_of(&self.api, &self.entry).await?;
            self.renewed = monotonic();
        }
        Ok(())
    }
}

/// A fresh token for an API key; or the token that is remembered, until it expires.
async fn token_of(api: &Api, entry: &netrc::Entry) -> Result<Token, Failure> {
    if entry.login != netrc::TOKEN {
        return api.authenticate(&entry.login, &entry.api_key).await;
    }
    let json = STANDARD.decode(entry.api_key.as_bytes()).ok();
    let json = json.and_then(|json| String::from_utf8(json).ok()).ok_or_else(|| {
        let why = "the remembered token is none; run `conclave login`";
        Failure::new(Exit::Unauthenticated, why)
    })?;
    Ok(Token { json: Zeroizing::new(json) })
}

/// Sends one request as whoever is logged in.
///
/// # Errors
/// When nobody is logged in, or no server answers.
pub(super) async fn ask(
    make: impl FnOnce(&Api) -> Result<Ask, Failure>,
) -> Result<Answer, Failure> {
    let (api, token) = session().await?;
    let ask = make(&api)?;
    api.ask(Caller::Token(&token), ask).await
}

/// Reads one document as whoever is logged in.
///
/// # Errors
/// As [`ask`], and when the server refuses.
pub(super) async fn get(
    make: impl FnOnce(&Api) -> Result<String, Failure>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    ask(|api| Ok(Ask::new(Method::GET, make(api)?))).await?.success()
}
