//! Calls to servers that administrators name in policy: key servers, identity providers, directories.
//!
//! Who may set such a variable must not be able to turn this node against its neighbours. So: TLS
//! always; no proxy, no redirect; a name is resolved here, and addresses that stand for this very
//! machine or its link are refused unless the operator lists them; one deadline over everything, and a
//! bound on what is read.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Authorities in one pinned bundle.
const AUTHORITIES_MAX: usize = 256;

/// Why a call brought no answer. The text is for records, status and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// It is no URL that is called here.
    Url(&'static str),
    /// Pinned authorities that are none.
    Authorities(&'static str),
    /// Every address of the host is one that may not be called.
    Forbidden(IpAddr),
    /// The name could not be resolved, or the server not reached or not trusted.
    Unreachable(String),
    /// It took too long.
    Slow(Duration),
    /// Another answer than was asked for.
    Status(StatusCode),
    /// The answer is larger than is read, or broken.
    Answer(&'static str),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) | Self::Authorities(why) | Self::Answer(why) => f.write_str(why),
            Self::Forbidden(address) => {
                write!(f, "{address} is not among the addresses that may be called")
            }
            Self::Unreachable(why) => f.write_str(why),
            Self::Slow(limit) => write!(f, "no answer within {limit:?}"),
            Self::Status(status) => write!(f, "it answered {}", status.as_u16()),
        }
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// How other servers are called.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// The only networks that are called; when empty, all but what is local.
    networks: Vec<IpNet>,
    time_max: Duration,
    system: OnceLock<Arc<RootCertStore>>,
}

/// A URL taken apart: HTTPS, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    authority: String,
    path: String,
}

impl Target {
    /// Host and port, as a request names them.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Reads a URL that an administrator wrote.
    pub(crate) fn parse(url: &str) -> Result<Self, CallError> {
        let uri: Uri = url.trim().parse().map_err(|_| CallError::Url("it is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(CallError::Url("it does not start with https://"));
        }
        let authority = uri.authority().ok_or(CallError::Url("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(CallError::Url("it carries credentials"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(CallError::Url("it names no host"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(443),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned(),
        })
    }
}

impl Outbound {
    /// `networks` are the only ones to be called, or, when there are none, all that are not local.
    pub(crate) fn new(networks: Vec<IpNet>, time_max: Duration) -> Self {
        Self { networks, time_max, system: OnceLock::new() }
    }

    /// A connection to where a target is, covered by TLS.
    pub(crate) async fn secure(
        &self,
        target: &Target,
        authorities: Option<&str>,
        protocols: &[&[u8]],
    ) -> Result<TlsStream<TcpStream>, CallError> {
        let config = self.tls(authorities, protocols).await?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| CallError::Url("its host is no name for a certificate"))?;
        let stream = self.connect(&target.host, target.port).await?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| CallError::Unreachable(format!("TLS: {error}")))
    }

    /// Fetches a document of at most so many bytes. Only 200 is an answer.
    pub(crate) async fn get(
        &self,
        url: &str,
        authorities: Option<&str>,
        bytes_max: usize,
    ) -> Result<Bytes, CallError> {
        self.ask(&Target::parse(url)?, HeaderMap::new(), None, authorities, bytes_max).await
    }

    /// As [`Outbound::get`], with headers that win over the usual ones, and posting what is given, to which 201 is an
    /// answer, too.
    pub(crate) async fn ask(
        &self,
        target: &Target,
        headers: HeaderMap,
        posted: Option<Bytes>,
        authorities: Option<&str>,
        bytes_max: usize,
    ) -> Result<Bytes, CallError> {
        let calling = self.ask_within(target, headers, posted, authorities, bytes_max);
        match tokio::time::timeout(self.time_max, calling).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(CallError::Slow(self.time_max)),
        }
    }

    async fn ask_within(
        &self,
        target: &Target,
        headers: HeaderMap,
        posted: Option<Bytes>,
        authorities: Option<&str>,
        bytes_max: usize,
    ) -> Result<Bytes, CallError> {
        let stream = self.secure(target, authorities, &[b"http/1.1"]).await?;
        let broken = |_: hyper::Error| CallError::Answer("its answer broke off");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with this call, whatever becomes of it.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let is_post = posted.is_some();
        let method = if is_post { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(&target.path)
            .header(HOST, &target.authority)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, "conclave")
            .body(Full::new(posted.unwrap_or_default()))
            .map_err(|_| CallError::Url("it cannot stand in a request"))?;
        request.headers_mut().extend(headers);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if status != StatusCode::OK && !(is_post && status == StatusCode::CREATED) {
            return Err(CallError::Status(answer.status()));
        }
        if answer.headers().contains_key(CONTENT_ENCODING) {
            return Err(CallError::Answer("its answer is compressed, which was not asked for"));
        }
        let body = Limited::new(answer.into_body(), bytes_max).collect().await;
        let body = body.map_err(|_| CallError::Answer("its answer is too long or broke off"))?;
        Ok(body.to_bytes())
    }

    /// A connection to a host, at one of its addresses that may be called.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, CallError> {
        let mut last = CallError::Unreachable(format!("{host} has no address"));
        let mut tried = 0;
        for address in resolve(host, port).await? {
            if !self.may_call(address.ip()) {
                if tried == 0 {
                    last = CallError::Forbidden(address.ip());
                }
                continue;
            }
            if tried == ADDRESSES_MAX {
                break;
            }
            tried += 1;
            // A dead address must not use up the time of one that lives.
            let patience = self.time_max / 2;
            match tokio::time::timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = CallError::Unreachable(format!("{address}: {error}")),
                Err(_elapsed) => last = CallError::Slow(patience),
            }
        }
        Err(last)
    }

    /// Whether an address may be called.
    pub(crate) fn may_call(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.networks.is_empty() {
            !is_local(address)
        } else {
            self.networks.iter().any(|network| network.contains(&address))
        }
    }

    /// TLS as a client, with pinned authorities or those of the system.
    pub(crate) async fn tls(
        &self,
        authorities: Option<&str>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, CallError> {
        let roots = match authorities {
            Some(pem) => Arc::new(pinned(pem)?),
            None => self.system_roots().await?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| CallError::Unreachable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    async fn system_roots(&self) -> Result<Arc<RootCertStore>, CallError> {
        if let Some(roots) = self.system.get() {
            return Ok(roots.clone());
        }
        let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        let loaded = loaded.map_err(|error| CallError::Unreachable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.certs);
        if roots.is_empty() {
            return Err(CallError::Authorities("this system has no authorities; set ca-cert"));
        }
        Ok(self.system.get_or_init(|| Arc::new(roots)).clone())
    }

    /// When a call that starts now has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.time_max
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, CallError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(CallError::Unreachable(format!("{host}: {error}"))),
    }
}

/// The authorities in a PEM bundle, of which there must be one at least.
pub(crate) fn pinned(pem: &str) -> Result<RootCertStore, CallError> {
    let mut roots = RootCertStore::empty();
    for (count, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let unfit = CallError::Authorities("ca-cert holds something that is no certificate");
        if count == AUTHORITIES_MAX {
            return Err(CallError::Authorities("ca-cert holds too many certificates"));
        }
        let certificate = certificate.map_err(|_| unfit.clone())?;
        roots.add(certificate).map_err(|_| unfit)?;
    }
    if roots.is_empty() {
        return Err(CallError::Authorities("ca-cert holds no certificate"));
    }
    Ok(roots)
}

/// Whether an address stands for this machine, its link, everybody or nobody, or for what clouds
/// answer instances with.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || matches!(v4.octets(), [0 | 240..=255, ..] | [100, 100, 100, 200])
        }
        IpAddr::V6(v6) => {
            let embedded = match v6.segments() {
                // NAT64 and 6to4 lead to an IPv4 address.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                    let [a, b] = high.to_be_bytes();
                    let [c, d] = low.to_be_bytes();
                    Some(Ipv4Addr::new(a, b, c, d))
                }
                _ => None,
            };
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
                || embedded.is_some_and(|v4| is_local(IpAddr::V4(v4)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(networks: &[&str]) -> Outbound {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Outbound::new(networks, Duration::from_secs(5))
    }

    #[test]
    fn what_is_local_is_not_called_unless_the_operator_says_so() {
        let by_default = outbound(&[]);
        for denied in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ] {
            assert!(!by_default.may_call(denied.parse().unwrap()), "{denied}");
        }
        for allowed in ["10.1.2.3", "192.0.2.7", "2001:db8::1", "fd12::1", "64:ff9b::c000:207"] {
            assert!(by_default.may_call(allowed.parse().unwrap()), "{allowed}");
        }
        let listed = outbound(&["127.0.0.0/8", "10.0.0.0/8"]);
        for (address, may) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.0.2.7", false),
            ("::1", false),
        ] {
            assert_eq!(listed.may_call(address.parse().unwrap()), may, "{address}");
        }
    }

    #[test]
    fn only_plain_https_urls_are_called() {
        let target = Target::parse("https://[2001:db8::1]:8443/keys?a=b").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("2001:db8::1", 8443));
        assert_eq!(target.path, "/keys?a=b");
        assert_eq!(Target::parse(" https://idp.example ").unwrap().path, "/");
        for bad in [
            "http://idp.example/keys",
            "file:///etc/passwd",
            "https://user:secret@idp.example/",
            "https:///keys",
            "idp.example/keys",
            "ldap://idp.example",
            "",
        ] {
            assert!(matches!(Target::parse(bad), Err(CallError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn pinned_authorities_must_be_certificates() {
        for bad in
            ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            assert!(matches!(pinned(bad), Err(CallError::Authorities(_))), "{bad}");
        }
    }
}
