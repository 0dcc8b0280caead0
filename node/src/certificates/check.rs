//! The check of what nodes present: a chain that leads to a trusted root, all of it alive, naming what
//! it has to name. Pure; run on what was just issued, and on what a seed file or the state brings.

use std::net::IpAddr;

use conclave_domain::time::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

use super::CertificateError;

/// Checks a chain, leaf first, against the roots; both are PEM, one certificate after the other.
///
/// # Errors
/// The first thing found wrong.
pub fn cluster_certificate(
    roots_pem: &str,
    chain_pem: &str,
    names: &[String],
    now: Timestamp,
) -> Result<(), CertificateError> {
    let (roots, chain) = (pems(roots_pem)?, pems(chain_pem)?);
    let (roots, chain) = (parsed(&roots)?, parsed(&chain)?);
    let Some(leaf) = chain.first() else { return refused("it is empty".to_owned()) };
    let at = ASN1Time::from_timestamp(now.seconds()).map_err(|error| malformed(&error))?;
    for (depth, certificate) in chain.iter().enumerate() {
        check_alive(certificate, at)?;
        if certificate.is_ca() != (depth > 0) {
            return refused(format!("{} is out of its place", certificate.subject()));
        }
        let root = roots.iter().find(|root| has_signed(root, certificate));
        if let Some(root) = root {
            check_alive(root, at)?;
            if !root.is_ca() {
                return refused(format!("the root {} is no CA", root.subject()));
            }
            return check_names(leaf, names);
        }
        if !chain.get(depth + 1).is_some_and(|next| has_signed(next, certificate)) {
            break;
        }
    }
    refused("it is not signed by this cluster's authority".to_owned())
}

pub(super) fn has_signed(signer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    signer.subject() == certificate.issuer()
        && certificate.verify_signature(Some(signer.public_key())).is_ok()
}

fn check_alive(certificate: &X509Certificate<'_>, at: ASN1Time) -> Result<(), CertificateError> {
    let validity = certificate.validity();
    if validity.is_valid_at(at) {
        return Ok(());
    }
    refused(format!(
        "{} is not valid now: only from {} to {}",
        certificate.subject(),
        validity.not_before,
        validity.not_after
    ))
}

fn check_names(leaf: &X509Certificate<'_>, names: &[String]) -> Result<(), CertificateError> {
    let alternative = leaf.subject_alternative_name().map_err(|error| malformed(&error))?;
    let carried = alternative.map(|extension| extension.value.general_names.as_slice());
    for name in names {
        let wanted_address = name.parse::<IpAddr>().ok();
        let found = carried.unwrap_or_default().iter().any(|general| {
            if let GeneralName::IPAddress(bytes) = general {
                return wanted_address.is_some_and(|address| match address {
                    IpAddr::V4(v4) => v4.octets().as_slice() == *bytes,
                    IpAddr::V6(v6) => v6.octets().as_slice() == *bytes,
                });
            }
            matches!(general, GeneralName::DNSName(dns) if *dns == name)
        });
        if !found {
            return refused(format!("it does not name {name}"));
        }
    }
    Ok(())
}

pub(super) fn pems(text: &str) -> Result<Vec<Pem>, CertificateError> {
    Pem::iter_from_buffer(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(&error))
}

fn parsed(pems: &[Pem]) -> Result<Vec<X509Certificate<'_>>, CertificateError> {
    pems.iter().map(|pem| pem.parse_x509().map_err(|error| malformed(&error))).collect()
}

pub(super) fn malformed(error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Malformed(error.to_string())
}

fn refused(text: String) -> Result<(), CertificateError> {
    Err(CertificateError::Refused(text))
}
