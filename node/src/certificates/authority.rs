//! The authority of a cluster: makes its root, signs the cluster certificate. Every certificate is
//! checked before it leaves ([`super::check`]).

use conclave_domain::time::Timestamp;
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use super::{CertificateError, check, template};

/// A certificate with its key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its PKCS#8 key.
    pub key_pem: Zeroizing<String>,
}

/// A cluster's root with its key. Lives only while something is to be signed.
pub struct Authority {
    root: Issued,
}

impl Authority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// When the key or the certificate cannot be built.
    pub fn found(cluster_id: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = template::root(cluster_id, now)?.self_signed(&key)?;
        Ok(Self {
            root: Issued {
                certificate_pem: certificate.pem(),
                key_pem: Zeroizing::new(key.serialize_pem()),
            },
        })
    }

    /// Takes up the authority again from its certificate and key.
    pub fn resume(certificate_pem: String, key_pem: Zeroizing<String>) -> Self {
        Self { root: Issued { certificate_pem, key_pem } }
    }

    /// The root: certificate and key.
    pub fn root(&self) -> &Issued {
        &self.root
    }

    /// Issues the cluster certificate for `names` with a fresh key.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or what was signed fails its check.
    pub fn issue_cluster_certificate(
        &self,
        cluster_id: &str,
        names: &[String],
        now: Timestamp,
    ) -> Result<Issued, CertificateError> {
        let root_key = KeyPair::from_pem(&self.root.key_pem)?;
        let signer = Issuer::from_ca_cert_pem(&self.root.certificate_pem, root_key)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = template::cluster(cluster_id, names, now)?.signed_by(&key, &signer)?;
        let issued = Issued {
            certificate_pem: certificate.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        };
        check::cluster_certificate(
            &self.root.certificate_pem,
            &issued.certificate_pem,
            names,
            now,
        )?;
        Ok(issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn names() -> Vec<String> {
        ["localhost", "127.0.0.1", "n1.example.com"].map(str::to_owned).to_vec()
    }

    #[test]
    fn cluster_certificate_carries_every_name() {
        let authority = Authority::found("c1", NOW).unwrap();
        let issued = authority.issue_cluster_certificate("c1", &names(), NOW).unwrap();
        let root = &authority.root().certificate_pem;
        check::cluster_certificate(root, &issued.certificate_pem, &names(), NOW).unwrap();
    }

    #[test]
    fn certificate_of_another_authority_is_refused() {
        let ours = Authority::found("c1", NOW).unwrap();
        let theirs = Authority::found("c2", NOW).unwrap();
        let issued = theirs.issue_cluster_certificate("c2", &names(), NOW).unwrap();
        let root = &ours.root().certificate_pem;
        let error = check::cluster_certificate(root, &issued.certificate_pem, &names(), NOW);
        assert!(error.unwrap_err().to_string().contains("not signed"));
    }

    #[test]
    fn missing_name_and_expired_life_are_refused() {
        let authority = Authority::found("c1", NOW).unwrap();
        let issued = authority.issue_cluster_certificate("c1", &names(), NOW).unwrap();
        let root = &authority.root().certificate_pem;
        let more = [names(), vec!["n2.example.com".to_owned()]].concat();
        let missing = check::cluster_certificate(root, &issued.certificate_pem, &more, NOW);
        assert!(missing.unwrap_err().to_string().contains("n2.example.com"));
        let later = Timestamp(NOW.0 + 400 * 86_400_000);
        let expired = check::cluster_certificate(root, &issued.certificate_pem, &names(), later);
        assert!(expired.unwrap_err().to_string().contains("not valid"));
    }
}
