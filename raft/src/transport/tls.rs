//! TLS between nodes: version 1.3, both ends with a certificate of the cluster's authority, all of
//! it exchangeable while connections live on.
//!
//! Chain, time, usage and signatures are judged by webpki, never here. What is fixed here: the name
//! asked for is not the address dialled (all voters share one certificate, and addresses change),
//! but one of the cluster's own names; and sessions are never resumed, so that each connection is
//! judged by the roots then in force.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::wire::Versions;

/// What peers must both speak: this and the version of the protocol.
const ALPN: &str = "conclave/";
/// The name put in the ClientHello. Which certificate answers does not depend on it.
pub(crate) const SNI: &str = "conclave.internal";

/// Certificate, key and trust of this node towards its peers.
pub struct TlsMaterial {
    /// The cluster certificate (or a follower's), leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
    /// The roots in force. During a rotation, the old and the new.
    pub roots: Vec<CertificateDer<'static>>,
    /// Names that the cluster's certificates carry, e.g. that of the voters' load balancer and that
    /// of each follower group. A peer's certificate must be valid for one of them.
    pub names: Vec<String>,
}

/// Why material cannot be used. What was in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate and key do not belong together, or one of them cannot be read.
    #[error("certificate and key: {0}")]
    Certificate(#[source] Error),
    /// A root cannot be read, or there is none.
    #[error("trusted roots: {0}")]
    Roots(String),
    /// No name, or one that is no DNS name.
    #[error("names of the cluster: {0}")]
    Names(String),
    /// The provider cannot do what QUIC asks for.
    #[error("TLS configuration: {0}")]
    Configuration(String),
}

/// TLS towards peers. Clones share what is in force.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    provider: Arc<CryptoProvider>,
    in_force: ArcSwap<Loaded>,
}

struct Loaded {
    certificate: Arc<CertifiedKey>,
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl Tls {
    /// Checks material and puts it in force.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(material: TlsMaterial) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let loaded = Loaded::new(material, &provider)?;
        Ok(Self(Arc::new(Shared { provider, in_force: ArcSwap::from_pointee(loaded) })))
    }

    /// Puts other material in force for all connections made from now on.
    ///
    /// # Errors
    /// [`TlsError`]; the old material then stays in force.
    pub fn reload(&self, material: TlsMaterial) -> Result<(), TlsError> {
        self.0.in_force.store(Arc::new(Loaded::new(material, &self.0.provider)?));
        Ok(())
    }

    pub(crate) fn server_config(&self, speaks: Versions) -> Result<quinn::ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.0.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Configuration(error.to_string()))?
            .with_client_cert_verifier(Arc::new(PeerVerifier(Arc::clone(&self.0))))
            .with_cert_resolver(Arc::new(Presenter(Arc::clone(&self.0))));
        config.alpn_protocols = offered(speaks);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let crypto = QuicServerConfig::try_from(config)
            .map_err(|error| TlsError::Configuration(error.to_string()))?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
    }

    pub(crate) fn client_config(&self, speaks: Versions) -> Result<quinn::ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.0.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Configuration(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerVerifier(Arc::clone(&self.0))))
            .with_client_cert_resolver(Arc::new(Presenter(Arc::clone(&self.0))));
        config.alpn_protocols = offered(speaks);
        config.resumption = Resumption::disabled();
        let crypto = QuicClientConfig::try_from(config)
            .map_err(|error| TlsError::Configuration(error.to_string()))?;
        Ok(quinn::ClientConfig::new(Arc::new(crypto)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Loaded {
    fn new(material: TlsMaterial, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in material.roots {
            roots.add(root).map_err(|error| TlsError::Roots(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|error| TlsError::Roots(error.to_string()))?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| TlsError::Roots(error.to_string()))?;
        let names = material
            .names
            .into_iter()
            .map(|name| {
                ServerName::try_from(name.clone())
                    .map_err(|_| TlsError::Names(format!("{name:?} is not a DNS name")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(TlsError::Names("there must be at least one".to_owned()));
        }
        let certificate = CertifiedKey::from_der(material.chain, material.key, provider)
            .map_err(TlsError::Certificate)?;
        Ok(Self { certificate: Arc::new(certificate), servers, clients, names })
    }

    /// Whether a certificate that already verified is one of the cluster's own.
    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let mut result = Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        for name in &self.names {
            result = verify_server_name(&parsed, name);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// Judges the other end's certificate by what is in force at that moment.
struct PeerVerifier(Arc<Shared>);

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerVerifier")
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let loaded = self.0.in_force.load();
        let mut result = Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        for name in &loaded.names {
            result = loaded.servers.verify_server_cert(
                end_entity,
                intermediates,
                name,
                ocsp_response,
                now,
            );
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.in_force.load().servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.in_force.load().servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let loaded = self.0.in_force.load();
        let verified = loaded.clients.verify_client_cert(end_entity, intermediates, now)?;
        loaded.check_name(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.in_force.load().clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.in_force.load().clients.supported_verify_schemes()
    }
}

/// Presents the certificate in force at that moment.
struct Presenter(Arc<Shared>);

impl fmt::Debug for Presenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presenter")
    }
}

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.in_force.load().certificate))
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.in_force.load().certificate))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The names under which versions are offered in a handshake, the preferred one first.
fn offered(speaks: Versions) -> Vec<Vec<u8>> {
    speaks.offered().map(|version| format!("{ALPN}{version}").into_bytes()).collect()
}

/// The version of the protocol that a handshake has agreed on.
pub(crate) fn agreed(connection: &quinn::Connection) -> Option<u8> {
    let data =
        connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    let name = String::from_utf8(data.protocol?).ok()?;
    name.strip_prefix(ALPN)?.parse().ok()
}

/// Whether a verified certificate is a follower's: its SPIFFE id has a path segment `follower`.
pub(crate) fn is_follower_certificate(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return true };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| {
        let GeneralName::URI(uri) = name else { return false };
        uri.starts_with("spiffe://") && uri.split('/').any(|segment| segment == "follower")
    })
}
