//! The cluster's authority as replicated rows: roots, intermediates by purpose, and the certificates
//! that nodes present. Private keys are sealed; what is in a certificate is opaque here.
//!
//! Names: [`ROOT`]; `NAME-ca` for an intermediate ([`CLUSTER_CA`]); [`CLUSTER`] for what voters
//! present; `follower/GROUP` for what the followers of a group present; `edge/NAME` for what clients
//! get who ask for names of the operator's own, brought from outside; `request/NAME` for what waits to
//! be signed outside. Each name counts its own generations, from 1 and without a gap, so that of two
//! nodes that issue at the same time one is refused. Of all but roots only the newest generation is
//! kept; roots are trusted, every generation of them, until they are retired.

use std::collections::BTreeSet;

use crate::outcome::Rejection;
use crate::records::Sealed;
use crate::state::State;
use crate::time::Timestamp;

/// The name of roots.
pub const ROOT: &str = "root";
/// The name of the intermediate that signs what nodes present.
pub const CLUSTER_CA: &str = "cluster-ca";
/// The name of the certificate that voters present.
pub const CLUSTER: &str = "cluster";
/// What the names of certificates that followers present begin with.
pub const FOLLOWER_PREFIX: &str = "follower/";
/// What the names of certificates begin with that clients get for names of the operator's own.
pub const EDGE_PREFIX: &str = "edge/";
/// What the names of requests begin with that wait for an authority outside to sign them.
pub const REQUEST_PREFIX: &str = "request/";
/// The most certificates that one command installs.
const INSTALLED_MAX: usize = 64;

/// Names a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateKey {
    /// Its name; what it is for follows from it.
    pub name: String,
    /// Counts from 1.
    pub generation: u32,
}

impl CertificateKey {
    /// What its private key is sealed for.
    pub fn seal_label(&self) -> String {
        format!("key of the certificate {}/{}", self.name, self.generation)
    }
}

impl std::fmt::Display for CertificateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, generation {}", self.name, self.generation)
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The cluster signed it.
    Internal,
    /// It was brought from outside; who brought it renews it.
    Imported,
}

/// A certificate as it was issued; never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Where it comes from.
    pub origin: Origin,
    /// Who signed it; none for a root, and where nobody here did.
    pub issuer: Option<CertificateKey>,
    /// PEM: itself first, then what leads to a root, without the root.
    pub chain_pem: String,
    /// Its PKCS#8 private key, sealed.
    pub key: Sealed,
    /// The names that it was asked to carry; the first is its common name.
    pub names: Vec<String>,
    /// Those of the names that come from configuration, and not from members' addresses.
    pub configured: Vec<String>,
    /// The names of the nodes that present it, where they are not simply all voters.
    pub nodes: Vec<String>,
    /// The ids of the members that could open its key when it was issued.
    pub holders: Vec<u64>,
    /// When its life begins.
    pub not_before: Timestamp,
    /// When its life ends.
    pub not_after: Timestamp,
    /// When it is due for renewal.
    pub renew_at: Timestamp,
}

/// Where the renewal of a certificate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing to do before it is due.
    Ready,
    /// Its renewal was asked for; the leader is at it.
    Issuing,
    /// Its renewal failed and will be tried again.
    Failed {
        /// Why, in words.
        reason: String,
        /// How many times in a row.
        attempts: u32,
        /// Not before this.
        next_try: Timestamp,
    },
}

/// A certificate with what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRecord {
    /// What was issued.
    pub certificate: Certificate,
    /// When it was put in force.
    pub installed_at: Timestamp,
    /// Where its renewal stands.
    pub condition: Condition,
}

/// Whether these certificates may be put in force together, in this order.
///
/// # Errors
/// [`Rejection::Exists`] when another node was first, [`Rejection::Invalid`] for what can never be.
pub(crate) fn may_install(
    state: &State,
    certificates: &[(CertificateKey, Certificate)],
) -> Result<(), Rejection> {
    let invalid = |why: String| Err(Rejection::Invalid(why));
    if certificates.is_empty() || certificates.len() > INSTALLED_MAX {
        return invalid(format!("{} certificates at once", certificates.len()));
    }
    let mut brought = BTreeSet::new();
    for (key, certificate) in certificates {
        let newest = state.certificate(&key.name).map_or(0, |(newest, _)| newest.generation);
        if key.generation <= newest {
            return Err(Rejection::Exists { what: "certificate".to_owned(), id: key.to_string() });
        }
        if key.generation != newest + 1 || !brought.insert(key) {
            return invalid(format!("{key} does not follow generation {newest}"));
        }
        match &certificate.issuer {
            None if key.name == ROOT => {}
            None if certificate.origin == Origin::Imported
                && (key.name.starts_with(EDGE_PREFIX) || key.name.starts_with(REQUEST_PREFIX)) => {}
            None => return invalid(format!("{key} has no issuer")),
            Some(issuer) => {
                if !brought.contains(issuer) && state.certificate_of(issuer).is_none() {
                    return invalid(format!("{key} is signed by {issuer}, which is not in force"));
                }
            }
        }
        if certificate.not_after <= certificate.not_before {
            return invalid(format!("{key} has no life"));
        }
    }
    Ok(())
}

/// Whether this may go: a root that another has followed and an intermediate that is not the cluster's
/// own, where nothing hangs on them; what stands at the edge; and requests.
///
/// # Errors
/// [`Rejection::Invalid`], in words.
pub(crate) fn may_retire(state: &State, key: &CertificateKey) -> Result<(), Rejection> {
    let invalid = |why: String| Err(Rejection::Invalid(why));
    if state.certificate_of(key).is_none() {
        return invalid(format!("there is no certificate {key}"));
    }
    if key.name.starts_with(EDGE_PREFIX) || key.name.starts_with(REQUEST_PREFIX) {
        return Ok(());
    }
    let newest = state.certificate(&key.name).map_or(0, |(newest, _)| newest.generation);
    let is_spare = key.name != CLUSTER_CA && is_intermediate(state, key);
    if !is_spare && (key.name != ROOT || key.generation >= newest) {
        return invalid(format!("{key} is in use"));
    }
    let mut hanging = state
        .certificates()
        .filter(|(_, record)| record.certificate.issuer.as_ref() == Some(key))
        .map(|(issued, _)| issued);
    match hanging.next() {
        Some(issued) => invalid(format!("{issued} is still signed by {key}")),
        None => Ok(()),
    }
}

/// Whether it hangs on a root itself.
fn is_intermediate(state: &State, key: &CertificateKey) -> bool {
    let record = state.certificate_of(key);
    let issuer = record.and_then(|record| record.certificate.issuer.as_ref());
    issuer.is_some_and(|issuer| issuer.name == ROOT)
}
