//! A small HTTPS client that never does anything on its own: no redirects, no retries, no hidden
//! second attempt. What it reports is what happened to the one request it sent, which is what a
//! recorded history needs.
//!
//! Connections are kept alive, one pool for each node, so that a dead node delays nobody else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connection may take to come to be. On a LAN it takes a millisecond or two.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Largest answer read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Idle connections kept for each node.
const IDLE_MAX: usize = 64;
/// What stays as it is in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No connection came to be, so nothing was sent: the request did not happen.
    #[error("not sent: {0}")]
    NotSent(String),
    /// Something was or may have been sent: the request may have happened.
    #[error("fate unknown: {0}")]
    Unknown(String),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
    /// The id under which the node has it in its records.
    pub request_id: Option<String>,
    /// Why it does not serve, where it says so.
    pub reason: Option<String>,
}

impl Answer {
    /// Status, reason and body, for messages.
    pub fn words(&self) -> String {
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})"));
        format!("{}{} {}", self.status, reason.unwrap_or_default(), self.text()).trim().to_owned()
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One node's door.
pub struct Door {
    /// The node's id.
    pub node: u64,
    address: SocketAddr,
    name: ServerName<'static>,
    authority: String,
    tls: TlsConnector,
    connects_within: Duration,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Door {
    /// The door of a node that listens there and shows a certificate for that name.
    pub fn new(
        node: u64,
        address: SocketAddr,
        name: ServerName<'static>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        let authority = format!("{}:{}", name.to_str(), address.port());
        let tls = TlsConnector::from(tls);
        let (connects_within, idle) = (CONNECT_TIMEOUT, Mutex::new(Vec::new()));
        Self { node, address, name, authority, tls, connects_within, idle }
    }

    /// The same door under another node id, without the open connections.
    #[must_use]
    pub fn renamed(&self, node: u64) -> Self {
        Self {
            node,
            address: self.address,
            name: self.name.clone(),
            authority: self.authority.clone(),
            tls: self.tls.clone(),
            connects_within: self.connects_within,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A door elsewhere, under another id, where the same certificate is shown.
    #[must_use]
    pub fn elsewhere(&self, node: u64, address: SocketAddr) -> Self {
        let authority = format!("{}:{}", self.name.to_str(), address.port());
        Self { address, authority, ..self.renamed(node) }
    }

    /// The same door for who waits that long for a connection.
    #[must_use]
    pub fn patient(self, connects_within: Duration) -> Self {
        Self { connects_within, ..self }
    }

    /// The same door for who connects by another TLS configuration, such as one with a certificate.
    #[must_use]
    pub fn secured_by(&self, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(tls), ..self.renamed(self.node) }
    }

    /// Where the node listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request and waits for its answer until the deadline. `sent` is called at the last
    /// moment before anything can reach the node.
    ///
    /// # Errors
    /// Whether the request can have happened, as [`NoAnswer`].
    pub async fn send(
        &self,
        request: Asked,
        deadline: Duration,
        sent: impl FnOnce(),
    ) -> Result<Answer, NoAnswer> {
        let mut connection = self.connection().await?;
        let request = request.into_http(&self.authority)?;
        sent();
        let exchange = async {
            let answer = connection.send_request(request).await.map_err(unknown)?;
            let status = answer.status();
            let header = |name: &str| {
                answer.headers().get(name).and_then(|text| text.to_str().ok()).map(str::to_owned)
            };
            let (request_id, reason) = (header("x-request-id"), header("x-conclave-reason"));
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX);
            let body = body.collect().await.map_err(unknown)?.to_bytes();
            Ok(Answer { status, body, request_id, reason })
        };
        let answer = timeout(deadline, exchange)
            .await
            .map_err(|_| NoAnswer::Unknown(format!("no answer within {deadline:?}")))??;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(answer)
    }

    /// Sends one request with a deadline of five seconds.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn ask(&self, request: Asked) -> Result<Answer, NoAnswer> {
        self.send(request, Duration::from_secs(5), || {}).await
    }

    /// Sends bytes as they are over TLS on a connection of their own, and gives what comes back
    /// until the node closes or falls silent for the patience given.
    ///
    /// # Errors
    /// When no connection comes to be.
    pub async fn send_raw(&self, bytes: &[u8], patience: Duration) -> Result<Vec<u8>, NoAnswer> {
        let stream = TcpStream::connect(self.address).await.map_err(not_sent)?;
        let stream = timeout(CONNECT_TIMEOUT, self.tls.connect(self.name.clone(), stream));
        let mut stream = stream.await.map_err(not_sent)?.map_err(not_sent)?;
        let mut answer = vec![0; 64 << 10];
        let mut length = 0;
        // A node that hangs up in the middle of garbage is right to do so.
        if stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
            while length < answer.len() {
                match timeout(patience, stream.read(&mut answer[length..])).await {
                    Ok(Ok(read)) if read > 0 => length += read,
                    Ok(_) | Err(_) => break,
                }
            }
        }
        answer.truncate(length);
        Ok(answer)
    }

    /// Forgets all idle connections.
    pub fn hang_up(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(kept) if kept.is_ready() && !kept.is_closed() => return Ok(kept),
                Some(_) => {}
                None => break,
            }
        }
        let within = self.connects_within;
        timeout(within, self.connect())
            .await
            .map_err(|_| NoAnswer::NotSent(format!("no connection within {within:?}")))?
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        let stream = TcpStream::connect(self.address).await.map_err(not_sent)?;
        stream.set_nodelay(true).map_err(not_sent)?;
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(not_sent)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(not_sent)?;
        tokio::spawn(async move {
            // How a connection ends shows in the requests that were on it.
            connection.await.ok();
        });
        Ok(sender)
    }
}

fn not_sent(error: impl std::fmt::Display) -> NoAnswer {
    NoAnswer::NotSent(error.to_string())
}

fn unknown(error: impl std::fmt::Display) -> NoAnswer {
    NoAnswer::Unknown(error.to_string())
}

/// A request, independent of the node it goes to.
#[derive(Debug, Clone)]
pub struct Asked {
    method: Method,
    path: String,
    authorization: Option<String>,
    idempotency_key: Option<String>,
    is_local: bool,
    body: Bytes,
}

impl Asked {
    /// Any request.
    pub fn new(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let (path, body) = (path.into(), body.into());
        Self { method, path, authorization: None, idempotency_key: None, is_local: false, body }
    }

    /// The same, marked by a key that is its own: sent again it is carried out once at most.
    #[must_use]
    pub fn repeatable(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// The same, content with what the node itself holds.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.is_local = true;
        self
    }

    /// The same with an `Authorization` header.
    #[must_use]
    pub fn authorized(mut self, authorization: impl Into<String>) -> Self {
        self.authorization = Some(authorization.into());
        self
    }

    fn into_http(self, authority: &str) -> Result<Request<Full<Bytes>>, NoAnswer> {
        let mut request =
            Request::builder().method(self.method).uri(self.path).header(HOST, authority);
        if let Some(authorization) = self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(key) = self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if self.is_local {
            request = request.header("x-conclave-consistency", "local");
        }
        request.body(Full::new(self.body)).map_err(not_sent)
    }
}

/// An identity with its API key, and the access token that it got, with the key or otherwise.
pub struct Login {
    account: String,
    name: String,
    api_key: String,
    token: ArcSwapOption<String>,
}

impl Login {
    /// An identity that has not logged in yet.
    pub fn new(account: &str, login: &str, api_key: &str) -> Self {
        let (account, name, api_key) = (account.into(), login.into(), api_key.into());
        Self { account, name, api_key, token: ArcSwapOption::empty() }
    }

    /// The API key itself: a secret that no node may write down in the clear.
    pub fn expose_api_key(&self) -> &str {
        &self.api_key
    }

    /// The account it belongs to.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The request that trades the API key for an access token.
    pub fn authenticate(&self) -> Asked {
        let login = utf8_percent_encode(&self.name, SEGMENT);
        let path = format!("/authn/{}/{login}/authenticate", self.account);
        Asked::new(Method::POST, path, self.api_key.clone())
    }

    /// Keeps the access token of an answer to [`Self::authenticate`], or to another login, for [`Self::signed`].
    pub fn keep(&self, answer: &Answer) {
        let token = format!("Token token=\"{}\"", STANDARD.encode(&answer.body));
        self.token.store(Some(Arc::new(token)));
    }

    /// The request with the access token.
    #[must_use]
    pub fn signed(&self, request: Asked) -> Asked {
        match self.token.load().as_ref() {
            Some(token) => request.authorized(token.as_str()),
            None => request,
        }
    }

    /// The request that sets a secret.
    pub fn write(&self, variable: &str, value: impl Into<Bytes>) -> Asked {
        self.signed(Asked::new(Method::POST, self.secret_path(variable), value))
    }

    /// The request that reads a secret, its newest version or the one named.
    pub fn read(&self, variable: &str, version: Option<u32>) -> Asked {
        let mut path = self.secret_path(variable);
        if let Some(version) = version {
            path.push_str("?version=");
            path.push_str(&version.to_string());
        }
        self.signed(Asked::new(Method::GET, path, Bytes::new()))
    }

    /// The request that adds to the root policy.
    pub fn append_policy(&self, text: String) -> Asked {
        let path = format!("/policies/{}/policy/root", self.account);
        self.signed(Asked::new(Method::POST, path, text))
    }

    fn secret_path(&self, variable: &str) -> String {
        format!("/secrets/{}/variable/{}", self.account, utf8_percent_encode(variable, SEGMENT))
    }
}

/// The identities in whose names a load asks, by turn.
pub struct Bearers {
    first: Arc<Login>,
    others: Vec<Arc<Login>>,
    turn: AtomicUsize,
}

impl Bearers {
    /// One identity, and others.
    pub fn new(first: Arc<Login>, others: Vec<Arc<Login>>) -> Self {
        Self { first, others, turn: AtomicUsize::new(0) }
    }

    /// Whose turn it is; the next time it is another's.
    pub fn whose_turn(&self) -> &Login {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1);
        self.others.get(turn).unwrap_or(&self.first)
    }
}

impl From<Arc<Login>> for Bearers {
    fn from(only: Arc<Login>) -> Self {
        Self::new(only, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::{Bearers, Login};
    use std::sync::Arc;

    #[test]
    fn all_bearers_take_turns() {
        let login = |name| Arc::new(Login::new("a", name, ""));
        let bearers = Bearers::new(login("x"), vec![login("y"), login("z")]);
        let mut turns: Vec<_> = (0..6).map(|_| bearers.whose_turn().name.clone()).collect();
        turns.sort();
        assert_eq!(turns, ["x", "x", "y", "y", "z", "z"]);
        assert_eq!(Bearers::from(login("x")).whose_turn().name, "x");
    }
}
