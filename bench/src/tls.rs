//! Certificates for the peers, made for one run, and what the generator trusts.
//!
//! One small authority signs one certificate that is server and client at once, as the peers' clusters need it.
//! Keys are ECDSA P-256, as Conclave's own listeners use.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::Fault;

/// The name in the certificate, beside 127.0.0.1.
pub const SERVER_NAME: &str = "localhost";

/// Files of one authority and its one certificate.
pub struct Material {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

fn wrong(what: impl std::fmt::Display) -> Fault {
    Fault::Tls(what.to_string())
}

impl Material {
    /// Makes it in `folder`.
    pub fn create(folder: &Path) -> Result<Self, Fault> {
        let ca_key = KeyPair::generate().map_err(wrong)?;
        let mut ca = CertificateParams::new(Vec::new()).map_err(wrong)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        ca.distinguished_name.push(DnType::CommonName, "benchmark authority");
        let ca_certificate = ca.self_signed(&ca_key).map_err(wrong)?;
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().map_err(wrong)?;
        let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = CertificateParams::new(names).map_err(wrong)?;
        leaf.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = leaf.signed_by(&key, &issuer).map_err(wrong)?;

        let material = Self {
            ca: folder.join("ca.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
        };
        for (path, text) in [
            (&material.ca, ca_certificate.pem()),
            (&material.certificate, certificate.pem()),
            (&material.key, key.serialize_pem()),
        ] {
            fs::write(path, text).map_err(Fault::path("write", path))?;
        }
        Ok(material)
    }

    /// A client that trusts this authority and presents this certificate.
    pub fn client(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, Fault> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .map_err(wrong)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(wrong)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(wrong)?;
        let mut config = builder(&self.ca)?.with_client_auth_cert(chain, key).map_err(wrong)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }
}

/// An HTTP/1.1 client without a certificate that trusts the authorities in a PEM file.
pub fn client_trusting(ca: &Path) -> Result<Arc<ClientConfig>, Fault> {
    let mut config = builder(ca)?.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn builder(
    ca: &Path,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(wrong)? {
        roots.add(certificate.map_err(wrong)?).map_err(wrong)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_root_certificates(roots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_material_makes_a_client() {
        let folder = tempfile::tempdir().unwrap();
        let material = Material::create(folder.path()).unwrap();
        assert_eq!(material.client(b"h2").unwrap().alpn_protocols, [b"h2".to_vec()]);
        assert!(client_trusting(&material.ca).is_ok());
        assert!(client_trusting(&folder.path().join("none.pem")).is_err());
    }
}
