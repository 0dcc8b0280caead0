//! The HTTPS listener: TLS chosen by server name from certificates that can be swapped while
//! connections live on, HTTP/1.1 and HTTP/2 on one port, bounded in time and number, drained on stop.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::client_certificates::KeyHolders;
use crate::limits::{
    CONNECTIONS_MAX, DRAIN_TIME_MAX, HANDSHAKE_TIME_MAX, HEADER_BYTES_MAX, HEADER_TIME_MAX,
    HEADERS_MAX, STREAMS_MAX,
};

/// The certificates that a listener presents, by server name.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By lower-case DNS name; a name starting with `*.` covers one label.
    pub by_name: HashMap<String, Arc<CertifiedKey>>,
    /// Presented to clients that name no server, or an unknown one.
    pub default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// The certificate for a server name.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.by_name.get(&name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        named.or(self.default.as_ref()).cloned()
    }
}

/// TLS for clients: 1.2 and up, certificates swapped by [`ServerTls::replace`].
pub struct ServerTls {
    certificates: Arc<Resolver>,
    config: Arc<rustls::ServerConfig>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Resolver(ArcSwap<Certificates>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(hello.server_name())
    }
}

impl ServerTls {
    /// Makes a listener's TLS. Clients are asked for a certificate where there is a verifier; it is
    /// shown to that and handed to the request as [`Peer::certificates`].
    ///
    /// # Errors
    /// When the crypto provider offers no protocol version in common with clients.
    pub fn new(
        certificates: Certificates,
        client_verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    ) -> Result<Self, rustls::Error> {
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(certificates)));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = match client_verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(resolver.clone());
        // Proxies may speak 1.0; who offers nothing else would not get past the handshake.
        config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
        // Early data can be replayed, and a replayed request would be carried out twice.
        config.max_early_data_size = 0;
        Ok(Self { certificates: resolver, config: Arc::new(config) })
    }

    /// Puts other certificates in force for new handshakes; open connections stay.
    pub fn replace(&self, certificates: Certificates) {
        self.certificates.0.store(Arc::new(certificates));
    }
}

/// Asks clients for a certificate, which they need not have, and makes sure that they have its key;
/// whether it is believed is for those to say who let in by certificates.
pub fn key_holders() -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
    Arc::new(KeyHolders::new())
}

/// Who is at the other end of the connection; an extension of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate chain it presented, as far as the listener's verifier has looked at it; empty
    /// without one.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Serves HTTPS until `shutdown` ends, then lets running requests finish, within bounds.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
) {
    run(listener, Some(tls), router, shutdown).await;
}

/// Serves plain HTTP; for loopback and for a proxy on the same machine that ends TLS.
pub async fn serve_plain(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
) {
    run(listener, None, router, shutdown).await;
}

async fn run(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
) {
    let graceful = Arc::new(GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let protocol = Arc::new(protocol());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // A place is taken before accepting, so that surplus connections wait in the backlog.
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = places.clone().acquire_owned() => match place {
                Ok(place) => place,
                Err(_closed) => break,
            },
        };
        let (stream, address) = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors or the like: wait, else the loop spins.
                    tracing::warn!(%error, "http.accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (tls, router, protocol) = (tls.clone(), router.clone(), protocol.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "http.nodelay");
            }
            match tls {
                None => {
                    let peer = Peer { address, certificates: Arc::default() };
                    converse(&protocol, stream, peer, router, watcher).await;
                }
                Some(tls) => {
                    let Some((stream, peer)) = handshake(&tls, stream, address).await else {
                        return;
                    };
                    converse(&protocol, stream, peer, router, watcher).await;
                }
            }
        });
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let drained = tokio::time::timeout(DRAIN_TIME_MAX, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::warn!(limit = ?DRAIN_TIME_MAX, "http.drain cut short");
        }
    }
}

/// HTTP/1.1 and HTTP/2 with every bound set.
fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(200)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

async fn handshake(
    tls: &ServerTls,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Peer)> {
    let accepting = TlsAcceptor::from(tls.config.clone()).accept(stream);
    match tokio::time::timeout(HANDSHAKE_TIME_MAX, accepting).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = chain.iter().map(|der| der.clone().into_owned()).collect();
            Some((stream, Peer { address, certificates }))
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "tls.handshake");
            None
        }
        Err(_elapsed) => {
            tracing::debug!(%address, limit = ?HANDSHAKE_TIME_MAX, "tls.handshake timed out");
            None
        }
    }
}

async fn converse<S>(
    protocol: &auto::Builder<TokioExecutor>,
    stream: S,
    peer: Peer,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = peer.address;
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = has_asked.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = protocol.serve_connection(TokioIo::new(stream), service);
    let mut conversation = std::pin::pin!(watcher.watch(connection.into_owned()));
    // The bound on a header's time begins with its first byte: this one is for who sends none.
    let silence = async {
        tokio::time::sleep(HEADER_TIME_MAX).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = &mut conversation => ended,
        () = silence => {
            tracing::debug!(%address, limit = ?HEADER_TIME_MAX, "http.connection asked nothing");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "http.connection");
    }
}
