//! The public API as a client sees it: one authenticated HTTPS client, with the server's errors
//! turned into exit codes and words. `conclave dev` loads its sample policy through it, too.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::exit::{Context, Exit, Failure, chain};

/// Everything but the unreserved characters is escaped, slashes too.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// How long one request may take.
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

impl Api {
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
            .timeout(DEADLINE)
            .build()
            .context(Exit::Configuration, "cannot build the HTTPS client")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), account: account.to_owned() })
    }

    /// The account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Exchanges a password (or API key) for the role's API key.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn login(&self, login: &str, password: &str) -> Result<Zeroizing<String>, Failure> {
        let path = format!("/authn/{}/login", segment(&self.account));
        let request = self.request(Method::GET, &path).basic_auth(login, Some(password));
        let response = send(request).await?;
        Ok(Zeroizing::new(response.text().await.context(Exit::Unavailable, "login")?))
    }

    /// Exchanges an API key for an access token.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn authenticate(&self, login: &str, api_key: &str) -> Result<Token, Failure> {
        let path = format!("/authn/{}/{}/authenticate", segment(&self.account), segment(login));
        let response = send(self.request(Method::POST, &path).body(api_key.to_owned())).await?;
        let json = response.text().await.context(Exit::Unavailable, "authenticate")?;
        Ok(Token { json: Zeroizing::new(json) })
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
        let mut path = path.to_owned();
        for (position, (name, value)) in query.iter().enumerate() {
            path.push(if position == 0 { '?' } else { '&' });
            path.extend([name, "=", &segment(value)]);
        }
        let mut request =
            self.request(method, &path).header("authorization", token.header().as_str());
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = send(request).await?;
        let body = response.bytes().await.context(Exit::Unavailable, "reading the answer")?;
        Ok(Zeroizing::new(body.to_vec()))
    }

    /// Loads a policy text; `method` says how: POST appends, PATCH updates, PUT replaces.
    ///
    /// # Errors
    /// As every call: see [`Failure`].
    pub async fn load_policy(
        &self,
        token: &Token,
        method: Method,
        branch: &str,
        text: Vec<u8>,
        dry_run: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let path = format!("/policies/{}/policy/{}", segment(&self.account), segment(branch));
        let query: &[(&str, String)] = if dry_run { &[("dryRun", "true".to_owned())] } else { &[] };
        self.call(token, method, &path, query, Some(text)).await
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

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }
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

async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request
        .send()
        .await
        .map_err(|error| Failure::new(Exit::Unavailable, chain(&error.without_url())))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    Err(refusal(status, &body))
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
    let place = error.and_then(|error| error.get("innererror"));
    if let Some((line, column)) =
        place.and_then(|place| Some((place.get("line")?.as_u64()?, place.get("column")?.as_u64()?)))
    {
        text.extend([" (line ", &line.to_string(), ", column ", &column.to_string(), ")"]);
    }
    if exit == Exit::Unauthenticated {
        text.push_str("; run `conclave login`");
    }
    Failure::new(exit, text)
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
