//! One keep-alive TLS connection with one request in flight.
//!
//! The generator shares its processors with the servers, so a request costs it as little as can be: bytes are
//! built beforehand, each request is one TLS record, and of an answer only what decides success is read.

mod grpc;
mod http1;
mod ldap;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use grpc::{put_message, range_message};
pub use http1::Response;

/// How many digits a stamp has.
pub const STAMP_DIGITS: usize = 16;

/// Where and how to connect.
#[derive(Clone)]
pub struct Endpoint {
    /// Loopback address.
    pub address: SocketAddr,
    /// The name that the server's certificate must carry, also sent as `Host`.
    pub name: String,
    /// Trust, client certificate and ALPN.
    pub tls: Arc<ClientConfig>,
}

impl Endpoint {
    async fn dial(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.name.clone()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    /// One request on a connection of its own, with the whole answer; for setting servers up.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let request = Request::http1(method, &self.name, path, headers, body);
        http1::Http1::new(self.dial().await?).exchange_whole(&request.bytes).await
    }
}

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, keep-alive.
    Http1,
    /// Unary gRPC over HTTP/2, to this one method.
    Grpc {
        /// `/package.Service/Method`.
        path: &'static str,
    },
    /// Simple binds of LDAP.
    Ldap,
}

/// A request ready to be sent many times.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
    stamp_at: Option<usize>,
}

impl Request {
    /// An HTTP/1.1 request. `Host` and `Content-Length` are added.
    pub fn http1(
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        let mut field = |name: &str, value: &str| {
            for text in [name, ": ", value, "\r\n"] {
                head.push_str(text);
            }
        };
        for (name, value) in headers {
            field(name, value);
        }
        if !body.is_empty() || method != "GET" {
            field("Content-Length", &body.len().to_string());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, stamp_at: None }
    }

    /// A unary gRPC request with an encoded message.
    pub fn grpc(message: &[u8]) -> Self {
        Self { bytes: grpc::frames(message), stamp_at: None }
    }

    /// A simple bind of LDAP.
    pub fn bind(dn: &str, password: &str) -> Self {
        Self { bytes: ldap::bind(dn, password), stamp_at: None }
    }

    /// Lets each sending differ: the last 16 bytes are overwritten with a count before each exchange.
    ///
    /// A server may skip a write of bytes that it already holds, so values must not repeat.
    #[must_use]
    pub fn stamped(mut self) -> Self {
        self.stamp_at = self.bytes.len().checked_sub(STAMP_DIGITS);
        self
    }

    /// Writes `count` over the stamp, in hexadecimal digits. Without a stamp nothing happens.
    pub fn stamp(&mut self, count: u64) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let Some(at) = self.stamp_at else { return };
        for (place, byte) in self.bytes[at..].iter_mut().rev().enumerate() {
            *byte = DIGITS[(count >> (4 * place) & 0xf) as usize];
        }
    }
}

/// Whether an exchange did what was asked, and what the server said if not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Success,
    /// Refused, with a status and the beginning of the body.
    Failure(String),
}

/// An open connection.
pub enum Connection {
    /// See [`Protocol::Http1`].
    Http1(http1::Http1),
    /// See [`Protocol::Grpc`].
    Grpc(grpc::Grpc),
    /// See [`Protocol::Ldap`].
    Ldap(ldap::Ldap),
}

impl Connection {
    /// Connects and completes the TLS handshake (and HTTP/2's preface).
    pub async fn open(endpoint: &Endpoint, protocol: Protocol) -> io::Result<Self> {
        let stream = endpoint.dial().await?;
        Ok(match protocol {
            Protocol::Http1 => Self::Http1(http1::Http1::new(stream)),
            Protocol::Ldap => Self::Ldap(ldap::Ldap::new(stream)),
            Protocol::Grpc { path } => {
                Self::Grpc(grpc::Grpc::start(stream, &endpoint.name, path).await?)
            }
        })
    }

    /// Sends one request and waits for the end of its answer.
    pub async fn exchange(&mut self, request: &mut Request) -> io::Result<Reply> {
        match self {
            Self::Http1(connection) => connection.exchange(&request.bytes).await,
            Self::Grpc(connection) => connection.exchange(&mut request.bytes).await,
            Self::Ldap(connection) => connection.exchange(&request.bytes).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_request_is_byte_for_byte_what_it_should_be() {
        let request = Request::http1("POST", "localhost", "/secrets/a", &[("X-A", "b")], b"value");
        assert_eq!(
            String::from_utf8_lossy(&request.bytes),
            "POST /secrets/a HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\nContent-Length: 5\r\n\r\nvalue"
        );
        let get = Request::http1("GET", "h", "/", &[], b"");
        assert_eq!(get.bytes, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[test]
    fn a_stamp_changes_only_the_last_sixteen_bytes() {
        let mut request = Request::http1("POST", "h", "/", &[], &[b'v'; 32]).stamped();
        let before = request.bytes.clone();
        request.stamp(0xbeef);
        let at = before.len() - STAMP_DIGITS;
        assert_eq!(request.bytes[..at], before[..at]);
        assert_eq!(&request.bytes[at..], b"000000000000beef");
    }
}
