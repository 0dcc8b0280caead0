//! The authority of a cluster: makes its roots and intermediates, and signs what nodes present. Keys
//! are in the clear here, and live only while something is to be signed.

use conclave_domain::time::Timestamp;
use rcgen::{Certificate, CertificateParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use super::template::{self, LeafRole, Life};
use super::{CertificateError, check};

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, and after it what leads to a root, without the root.
    pub certificate_pem: String,
    /// Its PKCS#8 key.
    pub key_pem: Zeroizing<String>,
}

impl Issued {
    fn new(certificate: &Certificate, links_pem: &str, key: &KeyPair) -> Self {
        Self {
            certificate_pem: certificate.pem() + links_pem,
            key_pem: Zeroizing::new(key.serialize_pem()),
        }
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<Certificate, CertificateError> {
        let own_key = KeyPair::from_pem(&self.key_pem)?;
        let signer = Issuer::from_ca_cert_pem(&self.certificate_pem, own_key)?;
        Ok(params.signed_by(key, &signer)?)
    }
}

/// Makes a certificate of nobody's, for a node that cannot open its own: its own key signs it, and no
/// client believes it.
///
/// # Errors
/// When the key or the certificate cannot be built.
pub fn throwaway(name: &str) -> Result<Issued, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = CertificateParams::new([format!("{name}.sealed.invalid")])?;
    Ok(Issued::new(&params.self_signed(&key)?, "", &key))
}

/// Makes a root.
///
/// # Errors
/// When the key or the certificate cannot be built.
pub fn make_root(
    cluster_id: &str,
    generation: u32,
    life: Life,
) -> Result<Issued, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = template::root(cluster_id, generation, life)?.self_signed(&key)?;
    Ok(Issued::new(&certificate, "", &key))
}

/// What `older` signs for the root of that generation that has followed it: PEM.
///
/// # Errors
/// As [`make_root`].
pub fn cross_sign(
    cluster_id: &str,
    generation: u32,
    root: &Issued,
    older: &Issued,
    life: Life,
) -> Result<String, CertificateError> {
    let key = KeyPair::from_pem(&root.key_pem)?;
    let params = template::followed_root(cluster_id, generation, life)?;
    Ok(older.sign(&params, &key)?.pem())
}

/// Makes an intermediate for one purpose under a root. `links_pem` leads from that root to an older
/// one; it is empty where there is none.
///
/// # Errors
/// As [`make_root`].
pub fn make_intermediate(
    cluster_id: &str,
    name: &str,
    generation: u32,
    root: &Issued,
    links_pem: &str,
    life: Life,
) -> Result<Issued, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = template::intermediate(cluster_id, name, generation, life)?;
    Ok(Issued::new(&root.sign(&params, &key)?, links_pem, &key))
}

/// Makes a request for an authority outside to sign: an intermediate with a fresh key.
///
/// # Errors
/// As [`make_root`].
pub fn make_request(cluster_id: &str, name: &str) -> Result<Issued, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = template::request(cluster_id, name).serialize_request(&key)?;
    Ok(Issued { certificate_pem: request.pem()?, key_pem: Zeroizing::new(key.serialize_pem()) })
}

/// Issues what nodes present, with a fresh key, and checks it against the roots.
///
/// # Errors
/// When a name cannot stand in a certificate, or what was signed fails its check.
pub fn make_leaf(
    cluster_id: &str,
    role: LeafRole,
    names: &[String],
    intermediate: &Issued,
    roots_pem: &str,
    life: Life,
    now: Timestamp,
) -> Result<Issued, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = template::leaf(cluster_id, role, names, life)?;
    let certificate = intermediate.sign(&params, &key)?;
    let issued = Issued::new(&certificate, &intermediate.certificate_pem, &key);
    check::cluster_certificate(roots_pem, &issued.certificate_pem, names, now)?;
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    struct Chain {
        root: Issued,
        leaf: Issued,
    }

    fn names() -> Vec<String> {
        ["localhost", "127.0.0.1", "n1.example.com"].map(str::to_owned).to_vec()
    }

    fn chain(cluster_id: &str) -> Chain {
        let root = make_root(cluster_id, 1, Life::of_root(NOW)).unwrap();
        let life = Life::of_intermediate(NOW);
        let ca = make_intermediate(cluster_id, "cluster-ca", 1, &root, "", life).unwrap();
        let leaf = leaf_under(cluster_id, &ca, &root.certificate_pem).unwrap();
        Chain { root, leaf }
    }

    fn leaf_under(id: &str, ca: &Issued, roots: &str) -> Result<Issued, CertificateError> {
        make_leaf(id, LeafRole::Voter, &names(), ca, roots, Life::of_leaf(NOW), NOW)
    }

    fn checked(roots: &str, leaf: &Issued, names: &[String], now: Timestamp) -> String {
        let result = check::cluster_certificate(roots, &leaf.certificate_pem, names, now);
        result.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[test]
    fn cluster_certificate_carries_every_name() {
        let Chain { root, leaf } = chain("c1");
        assert_eq!(checked(&root.certificate_pem, &leaf, &names(), NOW), "ok");
    }

    #[test]
    fn certificate_of_another_authority_is_refused() {
        let (ours, theirs) = (chain("c1"), chain("c2"));
        let answer = checked(&ours.root.certificate_pem, &theirs.leaf, &names(), NOW);
        assert!(answer.contains("not signed"), "{answer}");
    }

    #[test]
    fn missing_name_and_expired_life_are_refused() {
        let Chain { root, leaf } = chain("c1");
        let more = [names(), vec!["n2.example.com".to_owned()]].concat();
        let missing = checked(&root.certificate_pem, &leaf, &more, NOW);
        assert!(missing.contains("n2.example.com"), "{missing}");
        let later = Timestamp(NOW.0 + 31 * 86_400_000);
        let expired = checked(&root.certificate_pem, &leaf, &names(), later);
        assert!(expired.contains("not valid"), "{expired}");
    }

    #[test]
    fn a_leaf_without_its_intermediate_is_refused() {
        let Chain { root, leaf } = chain("c1");
        let end = leaf.certificate_pem.find("-----END CERTIFICATE-----\n").unwrap();
        let alone = Issued { certificate_pem: leaf.certificate_pem[..end + 26].to_owned(), ..leaf };
        let answer = checked(&root.certificate_pem, &alone, &[], NOW);
        assert!(answer.contains("not signed"), "{answer}");
    }

    #[test]
    fn after_a_root_has_been_followed_both_roots_lead_to_the_new_leaf() {
        let Chain { root: old, .. } = chain("c1");
        let new = make_root("c1", 2, Life::of_root(NOW)).unwrap();
        let cross = cross_sign("c1", 2, &new, &old, Life::of_root(NOW)).unwrap();
        let life = Life::of_intermediate(NOW);
        let ca = make_intermediate("c1", "cluster-ca", 2, &new, &cross, life).unwrap();
        let both = format!("{}{}", old.certificate_pem, new.certificate_pem);
        let leaf = leaf_under("c1", &ca, &both).unwrap();
        for roots in [&old.certificate_pem, &new.certificate_pem, &both] {
            assert_eq!(checked(roots, &leaf, &names(), NOW), "ok");
        }
    }

    #[test]
    fn renewal_is_due_around_two_thirds_of_life() {
        let life = Life::of_leaf(NOW);
        let length = life.not_after.0 - life.not_before.0;
        for chance in [0, 1, 32_000, u16::MAX] {
            let part = (life.renew_at(chance).0 - life.not_before.0) * 100 / length;
            assert!((61..=72).contains(&part), "{part} % of life with {chance}");
        }
    }
}
