//! What a pod asks for at `authn-k8s`: the certificate request of its client, and whose name in which
//! pod it is. Pure.

use conclave_domain::id::{AccountName, RoleId};
use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::names::{is_label, is_name};
use crate::authn::{Denied, host_of};
use crate::error::Refusal;

/// Smallest RSA key that is certified, in bits, and the largest.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A pod, by its SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) pod: String,
}

impl PodName {
    /// Reads `spiffe://<any domain>/namespace/<namespace>/podname/<pod>`; `pod` may stand for `podname`.
    pub(super) fn of_uri(uri: &str) -> Option<Self> {
        let (_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let parts: Vec<&str> = path.split('/').collect();
        let ["namespace", namespace, "podname" | "pod", pod] = parts[..] else { return None };
        let is_sound = is_label(namespace) && is_name(pod);
        is_sound.then(|| Self { namespace: namespace.to_owned(), pod: pod.to_owned() })
    }

    /// The one among alternative names; none where there is another one beside it, of whatever kind.
    pub(super) fn of_names(names: &[GeneralName<'_>]) -> Option<(Self, String)> {
        let [GeneralName::URI(uri)] = names else { return None };
        Some((Self::of_uri(uri)?, (*uri).to_owned()))
    }
}

/// A certificate request that holds together.
pub(super) struct CertificateRequest {
    pub(super) pod: PodName,
    /// The SPIFFE id as it was written.
    pub(super) uri: String,
    /// The last part of the host's id, with dots for slashes.
    pub(super) common_name: String,
    pub(super) key: SubjectPublicKeyInfo,
}

impl CertificateRequest {
    /// Reads a request as PEM.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, Denied> {
        let unfit = |why: &'static str| Denied::new(format!("CONJ00022E {why}"));
        let unread = "The body is no certificate request";
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| unfit(unread))?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| unfit(unread))?;
        if !rest.is_empty() {
            return Err(unfit(unread));
        }
        let info = &request.certification_request_info;
        let size = match info.subject_pki.parsed() {
            Ok(PublicKey::RSA(key)) => RSA_BITS.contains(&key.key_size()),
            Ok(PublicKey::EC(_)) => true,
            _ => false,
        };
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).ok().filter(|_| size);
        let key = key.ok_or_else(|| unfit("The request's key is not one that is certified"))?;
        // Whoever asks has the key that is certified.
        request
            .verify_signature()
            .map_err(|_| unfit("The request is not signed with the key in it"))?;
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(found) = extension {
                names.extend(found.general_names.iter().cloned());
            }
        }
        let (pod, uri) = PodName::of_names(&names)
            .ok_or_else(|| unfit("The request has no SPIFFE id of a pod, or more than that"))?;
        let common_name = common_name(&info.subject).ok_or_else(|| {
            let refusal = Refusal::Empty(http::StatusCode::UNPROCESSABLE_ENTITY);
            Denied::with(refusal, "CONJ00058E The request has no common name, or several")
        })?;
        Ok(Self { pod, uri, common_name, key })
    }
}

/// The one common name of a subject.
pub(super) fn common_name(subject: &X509Name<'_>) -> Option<String> {
    let mut names = subject.iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    (names.next().is_none() && !name.is_empty()).then_some(name)
}

/// A host by the name that its certificates have: its login, with dots for slashes. A host with a dot
/// in its id has no such name, for it would be another one's.
pub(super) fn host_by_name(account: &AccountName, name: &str) -> Result<RoleId, Denied> {
    host_of(account, &name.replace('.', "/"))
}

/// The whole common name of a host, by what the header and the request say of it.
pub(super) fn full_name(prefix: Option<&str>, service: &str, common_name: &str) -> String {
    match prefix.map(|prefix| prefix.trim_matches('.')) {
        Some(prefix) if !prefix.is_empty() => format!("{prefix}.{common_name}"),
        _ => format!("host.conjur.authn-k8s.{service}.apps.{common_name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_read_from_ids_of_one_shape() {
        let read = |uri: &str| PodName::of_uri(uri).map(|found| (found.namespace, found.pod));
        let web = Some(("shop".to_owned(), "web-5d9".to_owned()));
        assert_eq!(read("spiffe://cluster.local/namespace/shop/podname/web-5d9"), web);
        assert_eq!(read("spiffe://other.example/namespace/shop/pod/web-5d9"), web);
        for bad in [
            "",
            "https://cluster.local/namespace/shop/podname/web",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe://cluster.local/namespace/shop",
            "spiffe://cluster.local/namespace/shop/podname/",
            "spiffe://cluster.local/namespace//podname/web",
            "spiffe://cluster.local/namespace/shop/podname/web/more",
            "spiffe://cluster.local/namespace/shop/podname/web?x=y",
            "spiffe://cluster.local/namespace/shop/podname/web%2f..",
            "spiffe://cluster.local/namespace/../podname/web",
            "spiffe://cluster.local/namespace/shop/podname/..",
            "spiffe://cluster.local/namespace/SHOP/podname/web",
            "spiffe://cluster.local/podname/web/namespace/shop",
            "spiffe://cluster.local/namespace/shop.other/podname/web",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_host_has_one_name_and_a_name_one_host() {
        let account = AccountName::new("demo").unwrap();
        let host = |name: &str| host_by_name(&account, name).ok().map(|host| host.to_string());
        assert_eq!(host("host.apps.web").as_deref(), Some("demo:host:apps/web"));
        assert_eq!(host("user.alice"), None);
        assert_eq!(host("web"), None);
        assert_eq!(host("host."), None);
        assert_eq!(full_name(Some("host.apps"), "s", "a.b.c"), "host.apps.a.b.c");
        assert_eq!(full_name(None, "s", "web"), "host.conjur.authn-k8s.s.apps.web");
        assert_eq!(full_name(Some(""), "s", "web"), "host.conjur.authn-k8s.s.apps.web");
    }
}
