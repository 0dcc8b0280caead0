//! From PEM to what listeners and endpoints take: the TLS of a node towards its peers and towards
//! clients.

use std::sync::Arc;

use conclave_api::server::Certificates;
use conclave_raft::transport::TlsMaterial;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificates::Issued;
use crate::certificates::template::peer_name;
use crate::exit::{Context, Exit, Failure};

/// TLS between nodes, from the trusted roots and what this node presents.
///
/// # Errors
/// When one of them cannot be read.
pub(crate) fn peer_material(
    cluster_id: &str,
    roots_pem: &str,
    issued: &Issued,
) -> Result<TlsMaterial, Failure> {
    let (chain, key) = chain_and_key(issued)?;
    let roots = certificates(roots_pem)?;
    Ok(TlsMaterial { chain, key, roots, names: vec![peer_name(cluster_id)] })
}

/// TLS towards clients: `own` for whoever names no server or an unknown one, and for the names of
/// each of the others that one.
///
/// # Errors
/// When certificate and key do not belong together.
pub(crate) fn server_certificates(
    own: &Issued,
    others: &[(Vec<String>, Issued)],
) -> Result<Certificates, Failure> {
    let mut certificates =
        Certificates { default: Some(Arc::new(certified(own)?)), ..Certificates::default() };
    for (names, issued) in others {
        let certified = Arc::new(certified(issued)?);
        for name in names {
            certificates.by_name.insert(name.to_ascii_lowercase(), certified.clone());
        }
    }
    Ok(certificates)
}

fn certified(issued: &Issued) -> Result<CertifiedKey, Failure> {
    let (chain, key) = chain_and_key(issued)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).context(Exit::Fault, "a certificate in tls/ is damaged; put the right one back from another member, or empty the data folder and join it again")
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context(Exit::Fault, "a certificate in tls/ is damaged; put the right one back from another member, or empty the data folder and join it again")
}

fn chain_and_key(
    issued: &Issued,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())
        .context(Exit::Fault, "key of the certificate")?;
    Ok((certificates(&issued.certificate_pem)?, key))
}
