//! The authority of an `authn-k8s` service: gives pods certificates for three days, and tells whether
//! one that is shown is of it.

use std::sync::Arc;
use std::time::Duration;

use conclave_domain::time::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::request::{CertificateRequest, PodName, common_name};
use crate::authn::variables::Variables;
use crate::authn::{Denied, pinned};
use crate::credentials::random;
use crate::error::Refusal;

/// Life of a certificate.
const LIFE: Duration = Duration::from_hours(72);
/// By how much it is valid earlier, for clocks that go behind.
const BACKDATED: Duration = Duration::from_mins(5);

/// Whose certificates a service believes. The first certificate of `ca/cert` is the one that signs;
/// others may stand after it while one takes over from another.
pub(super) struct Authority {
    verifier: Arc<dyn ClientCertVerifier>,
    signer: CertificateDer<'static>,
}

fn unfit(why: impl std::fmt::Display) -> Denied {
    Denied::new(format!("CONJ00155E Variable 'ca/cert' cannot be used: {why}"))
}

fn unfit_key(why: &str) -> Denied {
    Denied::new(format!("CONJ00156E Variable 'ca/key' cannot be used: {why}"))
}

impl Authority {
    pub(super) fn read(variables: &Variables) -> Result<Self, Denied> {
        let pem = variables.required("ca/cert")?;
        let roots = pinned(pem).map_err(unfit)?;
        let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
        let signer = certificates.next().and_then(Result::ok);
        let signer = signer.ok_or_else(|| unfit("it holds no certificate"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(unfit)?;
        Ok(Self { verifier, signer })
    }

    /// What a certificate of this authority says; the reason where it is of another one, or has expired.
    pub(super) fn check(&self, leaf: &CertificateDer<'_>, now: Timestamp) -> Result<Says, Denied> {
        let seconds = u64::try_from(now.0 / 1000).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        if let Err(why) = self.verifier.verify_client_cert(leaf, &[], now) {
            let has_expired = matches!(
                &why,
                rustls::Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                )
            );
            return Err(Denied::new(if has_expired {
                "CONJ00032E The client certificate has expired".to_owned()
            } else {
                format!("CONJ00030E The client certificate is not believed: {why}")
            }));
        }
        let unread = || Denied::new("CONJ00030E The client certificate cannot be read");
        let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| unread())?;
        if !rest.is_empty() {
            return Err(unread());
        }
        let common_name = common_name(certificate.subject()).ok_or_else(|| {
            let refusal = Refusal::Empty(http::StatusCode::UNPROCESSABLE_ENTITY);
            Denied::with(refusal, "CONJ00059E The client certificate has no common name")
        })?;
        let names = certificate.subject_alternative_name().map_err(|_| unread())?;
        let names = names.map_or(&[][..], |names| &names.value.general_names[..]);
        let (pod, _) = PodName::of_names(names).ok_or_else(|| {
            Denied::new("CONJ00022E The client certificate has no SPIFFE id of a pod")
        })?;
        Ok(Says { common_name, pod })
    }

    /// The signing half, which must belong to the certificate, in its time.
    pub(super) fn signing(self, variables: &Variables, now: Timestamp) -> Result<Signer, Denied> {
        let pem = Zeroizing::new(variables.required("ca/key")?.to_owned());
        let key = KeyPair::from_pem(&pem).map_err(|_| unfit_key("it holds no private key"))?;
        let (_, certificate) =
            X509Certificate::from_der(&self.signer).map_err(|_| unfit("it cannot be read"))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(unfit_key("it does not belong to the certificate in 'ca/cert'"));
        }
        let seconds = now.seconds();
        let validity = certificate.validity();
        let is_valid =
            validity.not_before.timestamp() <= seconds && seconds < validity.not_after.timestamp();
        if !is_valid {
            return Err(unfit("the certificate is not valid now"));
        }
        let issuer = Issuer::from_ca_cert_der(&self.signer, key).map_err(unfit)?;
        Ok(Signer { authority: self, issuer, now })
    }
}

/// What a certificate that is believed says.
#[derive(Debug)]
pub(super) struct Says {
    pub(super) common_name: String,
    pub(super) pod: PodName,
}

/// What signs.
pub(super) struct Signer {
    authority: Authority,
    issuer: Issuer<'static, KeyPair>,
    now: Timestamp,
}

impl Signer {
    /// A certificate as PEM: of the name, for the key and the pod of the request, and nothing else that
    /// stood in it.
    pub(super) fn sign(&self, request: &CertificateRequest, name: &str) -> Result<String, Denied> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let uri = request.uri.as_str().try_into().map_err(unfit)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let mut serial = [0_u8; 20];
        random(&mut serial).map_err(|error| Refusal::Fault(error.to_string()))?;
        // A positive number, without a zero in front.
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let now = OffsetDateTime::from_unix_timestamp(self.now.seconds())
            .map_err(|error| Refusal::Fault(error.to_string()))?;
        params.not_before = now - BACKDATED;
        params.not_after = now + LIFE;
        let certificate = params.signed_by(&request.key, &self.issuer).map_err(unfit)?;
        // What will be believed of it is seen before it leaves.
        self.authority.check(certificate.der(), self.now)?;
        Ok(certificate.pem())
    }
}
