//! The public API as a client sees it: one authenticated HTTPS client, with the server's errors
//! turned into exit codes and words. `conclave dev` loads its sample policy through it, too.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::exit::{Context, Exit, Failure, chain};

/// Everything but the unreserved characters is escaped, slashes too.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// How long one request may take, where nothing else is said.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A piece of a path, escaped.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// One account on one server.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    url: String,
    account: String,
}

/// An access token, ready for the header.
#[derive(Clone)]
pub struct Token {
    /// The token document as the server sent it.
    pub json: Zeroizing<String>,
}

impl Token {
    /// The value of the `Authorization` header.
    pub fn header(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Token token=\"{}\"", STANDARD.encode(self.json.as_bytes())))
    }
}

/// Who a request says it is from.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// Nobody: the route takes no token.
    Nobody,
    /// The holder of an access token.
    Token(&'a Token),
    /// A role, by HTTP Basic with its password or API key.
    Basic(&'a str, &'a str),
    /// The holder of a host factory token, which goes into the header as it is.
    HostFactory(&'a str),
}

/// One request, as a verb puts it together.
pub struct Ask {
    method: Method,
    /// Path and query, escaped.
    target: String,
    body: Option<(&'static str, Zeroizing<Vec<u8>>)>,
    media_type: Option<&'static str>,
    patience: Duration,
}

impl Ask {
    /// A request of a path whose pieces are escaped already; see [`segment`].
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, target: path.into(), body: None, media_type: None, patience: DEADLINE }
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.extend([&segment(name), "=", &segment(value)]);
        self
    }

    /// Adds a query parameter where there is a value.
    #[must_use]
    pub fn query_opt(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, &value.to_string()),
            None => self,
        }
    }

    /// Sends these bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: Zeroizing<Vec<u8>>) -> Self {
        self.body = Some(("text/plain", bytes));
        self
    }

    /// Sends these fields as a form.
    #[must_use]
    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        let mut text = Zeroizing::new(Vec::new());
        for (name, value) in fields {
            if !text.is_empty() {
                text.push(b'&');
            }
            for part in [segment(name).as_str(), "=", segment(value).as_str()] {
                text.extend_from_slice(part.as_bytes());
            }
        }
        self.body = Some(("application/x-www-form-urlencoded", text));
        self
    }

    /// Waits so long for the answer, where the server may take its time.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Names a media type though there is no body, where the server answers by it.
    #[must_use]
    pub fn media_type(mut self, media_type: &'static str) -> Self {
        self.media_type = Some(media_type);
        self
    }
}

/// What a server answered, whatever the status.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Errors
    /// Any other status as a [`Failure`], in the server's words.
    pub fn success(self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        Err(self.refusal())
    }

    /// This answer as a failure, in the server's words.
    pub fn refusal(&self) -> Failure {
        refusal(self.status, &String::from_utf8_lossy(&self.body))
    }

    /// Line and column that a refused policy names.
    pub fn place(&self) -> Option<(u64, u64)> {
        let document: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        place(&document["error"])
    }
}

impl Api {
    /// The same for one address that is asked as it stands, a slash at its end included.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn exactly(
        url: &str,
        account: &str,
        cert_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        Ok(Self { url: url.to_owned(), ..Self::new(url, account, cert_file)? })
    }

    /// A client that trusts the roots in `cert_file`, or those of the system's bundle when there
    /// is none.
    ///
    /// # Errors
    /// When the roots cannot be read or the URL is none.
    pub fn new(url: &str, account: &str, cert_file: Option<&Path>) -> Result<Self, Failure> {
        let tls = tls_config(cert_file)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .build()
            .context(Exit::Configuration, "cannot build the HTTPS client")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), account: account.to_owned() })
    }

    /// The account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The server's URL, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Exchanges a password (or API key) for the role's API key.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn login(&self, login: &str, password: &str) -> Result<Zeroizing<String>, Failure> {
        let path = format!("/authn/{}/login", segment(&self.account));
        let answer = self.ask(Caller::Basic(login, password), Ask::new(Method::GET, path)).await?;
        text(&answer.success().map_err(credentials_refused)?)
    }

    /// Exchanges an API key for an access token.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn authenticate(&self, login: &str, api_key: &str) -> Result<Token, Failure> {
        let path = format!("/authn/{}/{}/authenticate", segment(&self.account), segment(login));
        let key = Zeroizing::new(api_key.as_bytes().to_vec());
        self.token(Ask::new(Method::POST, path).bytes(key)).await
    }

    /// The access token that a request is answered with.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub(super) async fn token(&self, ask: Ask) -> Result<Token, Failure> {
        let answer = self.ask(Caller::Nobody, ask).await?;
        Ok(Token { json: text(&answer.success().map_err(credentials_refused)?)? })
    }

    /// Sends one request with a token and gives the body of a 2xx answer.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn call(
        &self,
        token: &Token,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut ask = Ask::new(method, path);
        for (name, value) in query {
            ask = ask.query(name, value);
        }
        if let Some(body) = body {
            ask = ask.bytes(Zeroizing::new(body));
        }
        self.ask(Caller::Token(token), ask).await?.success()
    }

    /// Sends one request and gives the answer, whatever its status.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn ask(&self, caller: Caller<'_>, ask: Ask) -> Result<Answer, Failure> {
        let mut request = self.http.request(ask.method, format!("{}{}", self.url, ask.target));
        request = request.timeout(ask.patience);
        request = match caller {
            Caller::Nobody => request,
            Caller::Token(token) => request.header(AUTHORIZATION, token.header().as_str()),
            Caller::Basic(login, password) => request.basic_auth(login, Some(password)),
            Caller::HostFactory(token) => {
                let header = Zeroizing::new(format!("Token token=\"{token}\""));
                request.header(AUTHORIZATION, header.as_str())
            }
        };
        if let Some((media_type, mut body)) = ask.body {
            request = request.header(CONTENT_TYPE, media_type).body(std::mem::take(&mut *body));
        } else if let Some(media_type) = ask.media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        let unanswered =
            |error: reqwest::Error| Failure::new(Exit::Unavailable, chain(&error.without_url()));
        let response = request.send().await.map_err(unanswered)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unanswered)?;
        Ok(Answer { status, body: Zeroizing::new(body.to_vec()) })
    }

    /// Loads a policy text; `method` says how: POST appends, PATCH updates, PUT replaces.
    ///
    /// # Errors
    /// When no server answered.
    pub async fn load_policy(
        &self,
        token: &Token,
        method: Method,
        branch: &str,
        text: Zeroizing<Vec<u8>>,
        dry_run: bool,
    ) -> Result<Answer, Failure> {
        let path = format!("/policies/{}/policy/{}", segment(&self.account), segment(branch));
        let ask = Ask::new(method, path).bytes(text);
        let ask = ask.query_opt("dryRun", dry_run.then_some("true"));
        self.ask(Caller::Token(token), ask).await
    }

    /// Sets a variable's value.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn set_secret(&self, token: &Token, id: &str, value: &[u8]) -> Result<(), Failure> {
        let path = self.secret_path(id);
        self.call(token, Method::POST, &path, &[], Some(value.to_vec())).await.map(drop)
    }

    /// Reads a variable's value, the current one or a version.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn secret(
        &self,
        token: &Token,
        id: &str,
        version: Option<u32>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let query: Vec<_> =
            version.map(|number| ("version", number.to_string())).into_iter().collect();
        self.call(token, Method::GET, &self.secret_path(id), &query, None).await
    }

    fn secret_path(&self, id: &str) -> String {
        format!("/secrets/{}/variable/{}", segment(&self.account), segment(id))
    }
}

/// A body as text.
fn text(body: &[u8]) -> Result<Zeroizing<String>, Failure> {
    match std::str::from_utf8(body) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Failure::new(Exit::Failed, "the server's answer is not text")),
    }
}

/// A 401 to credentials, in words of its own: there is no login to renew.
fn credentials_refused(failure: Failure) -> Failure {
    if failure.exit == Exit::Unauthenticated {
        return Failure::new(
            Exit::Unauthenticated,
            "401 Unauthorized. Unable to authenticate: check the login and its password or API key",
        );
    }
    failure
}

fn tls_config(cert_file: Option<&Path>) -> Result<rustls::ClientConfig, Failure> {
    /// Debian's bundle; other systems set `cert_file`.
    const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    let path = cert_file.unwrap_or_else(|| Path::new(SYSTEM_BUNDLE));
    let unusable = |why: String| {
        Failure::new(
            Exit::Configuration,
            format!(
                "cannot take the roots to trust from {}: {why}; set cert_file in .conjurrc or CONJUR_CERT_FILE",
                path.display()
            ),
        )
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        let added = roots.add(certificate);
        if let (Err(error), Some(_)) = (added, cert_file) {
            return Err(unusable(error.to_string()));
        }
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// Turns an answer that is no success into an exit code and a line, as other clients print it.
fn refusal(status: StatusCode, body: &str) -> Failure {
    let exit = match status {
        StatusCode::UNAUTHORIZED => Exit::Unauthenticated,
        StatusCode::FORBIDDEN => Exit::Forbidden,
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY => Exit::Unavailable,
        status if status.is_client_error() => Exit::Refused,
        _ => Exit::Failed,
    };
    let document = serde_json::from_str::<serde_json::Value>(body).ok();
    let error = document.as_ref().and_then(|document| document.get("error"));
    let mut text = status.to_string();
    match error.and_then(|error| error.get("message")).and_then(|message| message.as_str()) {
        Some(message) => text.extend([". ", message]),
        None if !body.trim().is_empty() => text.extend([". ", body.trim()]),
        None => {}
    }
    if let Some((line, column)) = error.and_then(place) {
        text.extend([" (line ", &line.to_string(), ", column ", &column.to_string(), ")"]);
    }
    if exit == Exit::Unauthenticated {
        text.push_str("; run `conclave login`");
    }
    Failure::new(exit, text)
}

/// Line and column in the `error` of a refused policy.
fn place(error: &serde_json::Value) -> Option<(u64, u64)> {
    let place = error.get("innererror")?;
    Some((place.get("line")?.as_u64()?, place.get("column")?.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_status_message_and_place() {
        let body = r#"{"error":{"code":"policy_invalid","message":"no such tag",
            "innererror":{"line":3,"column":5}}}"#;
        let failure = refusal(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(failure.message, "422 Unprocessable Entity. no such tag (line 3, column 5)");
        assert_eq!(refusal(StatusCode::NOT_FOUND, "").exit, Exit::NotFound);
    }

    #[test]
    fn slashes_in_ids_are_escaped() {
        assert_eq!(segment("app/db pass+1"), "app%2Fdb%20pass%2B1");
    }
}
