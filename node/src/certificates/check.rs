//! The check of a cluster certificate: signed by the root at hand, alive, and naming what it has to
//! name. Pure; run on what was just issued and on what a seed file brings.

use std::net::IpAddr;

use conclave_domain::time::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::time::ASN1Time;

use super::CertificateError;

/// Checks `certificate_pem` against `root_pem`.
///
/// # Errors
/// The first thing found wrong.
pub fn cluster_certificate(
    root_pem: &str,
    certificate_pem: &str,
    names: &[String],
    now: Timestamp,
) -> Result<(), CertificateError> {
    let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
    let refused = |text: String| Err(CertificateError::Refused(text));

    let (_, root) = parse_x509_pem(root_pem.as_bytes()).map_err(|error| malformed(&error))?;
    let root = root.parse_x509().map_err(|error| malformed(&error))?;
    let (_, leaf) =
        parse_x509_pem(certificate_pem.as_bytes()).map_err(|error| malformed(&error))?;
    let leaf = leaf.parse_x509().map_err(|error| malformed(&error))?;

    if leaf.verify_signature(Some(root.public_key())).is_err() {
        return refused("it is not signed by this cluster's root".to_owned());
    }
    let at = ASN1Time::from_timestamp(now.seconds()).map_err(|error| malformed(&error))?;
    for (what, certificate) in [("root", &root), ("certificate", &leaf)] {
        let validity = certificate.validity();
        if !validity.is_valid_at(at) {
            return refused(format!(
                "the {what} is not valid now: only from {} to {}",
                validity.not_before, validity.not_after
            ));
        }
    }
    if !root.is_ca() || leaf.is_ca() {
        return refused("root and leaf are not a CA and a leaf".to_owned());
    }

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

/// The common name of a certificate.
///
/// # Errors
/// When the certificate cannot be read, or has none.
pub fn common_name(certificate_pem: &str) -> Result<String, CertificateError> {
    let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
    let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).map_err(|error| malformed(&error))?;
    let certificate = pem.parse_x509().map_err(|error| malformed(&error))?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.map(str::to_owned)
        .ok_or_else(|| CertificateError::Refused("it has no common name".to_owned()))
}
