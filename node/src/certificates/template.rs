//! What goes into a certificate: pure, no keys, no clock. Names, usages and life of roots,
//! intermediates, and what nodes present.

use std::net::IpAddr;

use conclave_domain::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::CertificateError;

const DAY_MS: i64 = 24 * 60 * 60_000;
/// How long a root lives.
const ROOT_LIFE_MS: i64 = 3650 * DAY_MS;
/// How long an intermediate lives.
const INTERMEDIATE_LIFE_MS: i64 = 1095 * DAY_MS;
/// How long what nodes present lives.
const LEAF_LIFE_MS: i64 = 30 * DAY_MS;
/// Certificates start in the past: a node or client whose clock is behind by less than that takes them,
/// and those of a leader whose clock is ahead by less than that are taken by everybody.
pub const BACKDATE_MS: i64 = DAY_MS;

/// What a leaf is presented as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafRole {
    /// A voter of the cluster.
    Voter,
    /// A follower of the cluster: whoever presents it has no vote.
    Follower,
}

/// From when to when a certificate is good, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

impl Life {
    /// Of a root made now.
    pub fn of_root(now: Timestamp) -> Self {
        Self::new(now, ROOT_LIFE_MS)
    }

    /// Of an intermediate made now.
    pub fn of_intermediate(now: Timestamp) -> Self {
        Self::new(now, INTERMEDIATE_LIFE_MS)
    }

    /// Of what nodes present, made now.
    pub fn of_leaf(now: Timestamp) -> Self {
        Self::new(now, LEAF_LIFE_MS)
    }

    fn new(now: Timestamp, length: i64) -> Self {
        let whole = |at: i64| Timestamp(Timestamp(at).seconds() * 1000);
        Self { not_before: whole(now.0 - BACKDATE_MS), not_after: whole(now.0 + length) }
    }

    /// The same life, ending with its signer's at the latest.
    #[must_use]
    pub fn within(self, signer: Self) -> Self {
        Self { not_after: self.not_after.min(signer.not_after), ..self }
    }

    /// When another should be brought in the place of one from outside: a month before its end, or
    /// with a third of its life left where that is shorter.
    pub fn replace_at(self) -> Timestamp {
        let ahead = ((self.not_after.0 - self.not_before.0) / 3).min(30 * DAY_MS);
        Timestamp(self.not_after.0 - ahead)
    }

    /// When renewal is due: after two thirds, give or take a twentieth, so that not everything is
    /// due at once. `chance` is any number.
    pub fn renew_at(self, chance: u16) -> Timestamp {
        let length = self.not_after.0 - self.not_before.0;
        let jitter = length / 10 * i64::from(chance) / i64::from(u16::MAX) - length / 20;
        Timestamp(self.not_before.0 + length / 3 * 2 + jitter)
    }
}

/// The SPIFFE id of a role: the trust domain is the cluster.
pub fn spiffe_id(cluster_id: &str, role: LeafRole) -> String {
    let role = match role {
        LeafRole::Voter => "voter",
        LeafRole::Follower => "follower",
    };
    format!("spiffe://{cluster_id}.conclave/cluster/{role}")
}

/// The name that every certificate of a cluster's nodes carries and that peers ask for. No resolver
/// knows it, and it stays whatever load balancers and nodes are called.
pub fn peer_name(cluster_id: &str) -> String {
    format!("{cluster_id}.conclave.internal")
}

/// A root. Below it there may be a root that has followed it, an intermediate, and a leaf.
///
/// # Errors
/// When its life is outside the years that certificates can say.
pub fn root(
    cluster_id: &str,
    generation: u32,
    life: Life,
) -> Result<CertificateParams, CertificateError> {
    authority(&format!("Conclave root {generation}"), cluster_id, life, 2)
}

/// What a root signs for the one that follows it, so that who trusts only the older one is led on.
///
/// # Errors
/// As [`root`].
pub fn followed_root(
    cluster_id: &str,
    generation: u32,
    life: Life,
) -> Result<CertificateParams, CertificateError> {
    let mut params = authority(&format!("Conclave root {generation}"), cluster_id, life, 1)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// An intermediate for one purpose.
///
/// # Errors
/// As [`root`].
pub fn intermediate(
    cluster_id: &str,
    name: &str,
    generation: u32,
    life: Life,
) -> Result<CertificateParams, CertificateError> {
    let mut params = authority(&format!("Conclave {name} {generation}"), cluster_id, life, 0)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What an authority outside is asked to sign: an intermediate. Its life is for that authority to say.
pub fn request(cluster_id: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("Conclave {name}"), cluster_id);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What nodes present, to clients and to their peers. The first name is the common name; all of them
/// are alternative names, addresses as addresses.
///
/// # Errors
/// When a name cannot stand in a certificate, or there is none.
pub fn leaf(
    cluster_id: &str,
    role: LeafRole,
    names: &[String],
    life: Life,
) -> Result<CertificateParams, CertificateError> {
    let common = names
        .first()
        .ok_or_else(|| CertificateError::Refused("it would have no name".to_owned()))?;
    let mut params = dated(life)?;
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
    params.subject_alt_names.push(SanType::DnsName(peer_name(cluster_id).as_str().try_into()?));
    params.subject_alt_names.push(SanType::URI(spiffe_id(cluster_id, role).as_str().try_into()?));
    Ok(params)
}

fn authority(
    common_name: &str,
    cluster_id: &str,
    life: Life,
    below: u8,
) -> Result<CertificateParams, CertificateError> {
    let mut params = dated(life)?;
    params.distinguished_name = subject(common_name, cluster_id);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn dated(life: Life) -> Result<CertificateParams, CertificateError> {
    let date = |at: Timestamp| {
        OffsetDateTime::from_unix_timestamp(at.seconds())
            .map_err(|error| CertificateError::Refused(format!("the clock is off: {error}")))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(life.not_before)?;
    params.not_after = date(life.not_after)?;
    Ok(params)
}

fn subject(common_name: &str, cluster_id: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Conclave");
    name.push(DnType::OrganizationalUnitName, cluster_id);
    name.push(DnType::CommonName, common_name);
    name
}
