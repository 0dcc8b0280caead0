//! What goes into a certificate: pure, no keys, no clock. Names, usages and life of the root of the
//! authority and of the cluster certificate.

use std::net::IpAddr;

use conclave_domain::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::CertificateError;

/// How long a root of the authority lives.
const ROOT_LIFE: Duration = Duration::days(3650);
/// How long a cluster certificate lives.
const CLUSTER_LIFE: Duration = Duration::days(365);
/// Certificates start a little in the past, for clients whose clock is behind.
const BACKDATE: Duration = Duration::minutes(5);

/// The SPIFFE id that the cluster certificate carries: the trust domain is the cluster.
pub fn spiffe_id(cluster_id: &str) -> String {
    format!("spiffe://{cluster_id}.conclave/cluster/voter")
}

/// The self-signed root of a cluster's authority. It signs leaves only.
///
/// # Errors
/// When `now` is outside the years that certificates can say.
pub fn root(cluster_id: &str, now: Timestamp) -> Result<CertificateParams, CertificateError> {
    let mut params = dated(now, ROOT_LIFE)?;
    params.distinguished_name = subject("Conclave root", cluster_id);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The certificate that every node of the cluster presents, to clients and to its peers. The first
/// name is the common name; all of them are alternative names, addresses as addresses.
///
/// # Errors
/// When a name cannot stand in a certificate, or there is none.
pub fn cluster(
    cluster_id: &str,
    names: &[String],
    now: Timestamp,
) -> Result<CertificateParams, CertificateError> {
    let common = names
        .first()
        .ok_or_else(|| CertificateError::Refused("it would have no name".to_owned()))?;
    let mut params = dated(now, CLUSTER_LIFE)?;
    params.distinguished_name = subject(common, cluster_id);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.subject_alt_names.push(SanType::URI(spiffe_id(cluster_id).as_str().try_into()?));
    Ok(params)
}

fn dated(now: Timestamp, life: Duration) -> Result<CertificateParams, CertificateError> {
    let now = OffsetDateTime::from_unix_timestamp(now.seconds())
        .map_err(|error| CertificateError::Refused(format!("the clock is off: {error}")))?;
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    Ok(params)
}

fn subject(common_name: &str, cluster_id: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Conclave");
    name.push(DnType::OrganizationalUnitName, cluster_id);
    name.push(DnType::CommonName, common_name);
    name
}
