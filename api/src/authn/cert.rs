//! `authn-cert`: a client certificate says who it is, by its SPIFFE id or by what annotations of the
//! role in the path want of it. Whose certificates are believed, policy says, service by service: the
//! listener only makes sure that the key belongs to the certificate.

use std::sync::Arc;

use conclave_domain::id::{ResourceId, RoleId};
use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::outbound::pinned;
use super::variables::Variables;
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, annotations_of, role_of};
use crate::context::Call;

const NAME: &str = "authn-cert";
const VARIABLES: [&str; 3] = ["ca-cert", "trust-domain", "identity-path"];
/// Where a proxy that ended TLS puts the certificate that it was shown, as percent-encoded PEM.
const HEADER: &str = "x-ssl-client-certificate";
/// Longest chain looked at.
const CHAIN_MAX: usize = 8;

pub(crate) struct Cert;

impl Authenticator for Cert {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move { Verdict::from(check(call, attempt)) })
    }

    fn status<'a>(
        &'a self,
        call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(async move { Ok(Service::read(call, webservice).map(drop)?) })
    }
}

/// A service as its variables configure it.
struct Service {
    verifier: Arc<dyn ClientCertVerifier>,
    trust_domain: Option<String>,
    identity_path: String,
}

impl Service {
    fn read(call: &mut Call, webservice: &ResourceId) -> Result<Self, Denied> {
        let variables = Variables::read(call, webservice, &VARIABLES)?;
        let unfit = |why: &dyn std::fmt::Display| {
            Denied::new(format!("CONJ00079E 'ca-cert' cannot be used: {why}"))
        };
        let roots = pinned(variables.required("ca-cert")?).map_err(|why| unfit(&why))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|why| unfit(&why))?;
        let trust_domain = variables.optional("trust-domain")?.map(|name| name.trim().to_owned());
        let identity_path = variables.optional("identity-path")?.unwrap_or_default();
        let identity_path = identity_path.trim().trim_matches('/').to_owned();
        Ok(Self { verifier, trust_domain, identity_path })
    }
}

/// What a certificate says of who holds it.
#[derive(Debug, Default)]
struct Says {
    subject: String,
    common_name: Vec<String>,
    dns_name: Vec<String>,
    uri: Vec<String>,
}

fn check(call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
    let webservice = attempt.webservice()?;
    let service = Service::read(call, &webservice)?;
    let chain = shown(call)?;
    let (leaf, others) =
        chain.split_first().ok_or(Denied::new("CONJ00009E No client certificate was shown"))?;
    let now = u64::try_from(call.now.0 / 1000).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    service.verifier.verify_client_cert(leaf, others, now).map_err(|why| {
        Denied::new(format!("CONJ00015E The client certificate is not believed: {why}"))
    })?;
    let says = read(leaf).ok_or(Denied::new("CONJ00035E The client certificate cannot be read"))?;
    let account = attempt.account()?;
    let prefix = format!("authn-cert/{}/", attempt.service.as_deref().unwrap_or_default());
    let Some(login) = attempt.login.as_deref() else {
        let path = spiffe_path(&service, &says)?;
        let role = if service.identity_path.is_empty() {
            role_of(account, &format!("host/{path}"))?
        } else {
            role_of(account, &format!("host/{}/{path}", service.identity_path))?
        };
        // The id is the proof; annotations may want more.
        let wanted = annotations_of(call, &role, &prefix)?;
        return agree(&says, &wanted).map(|()| role.clone()).map_err(|why| why.of(&role));
    };
    let role = role_of(account, login)?;
    let wanted = annotations_of(call, &role, &prefix)?;
    if wanted.is_empty() {
        let why = "CONJ00099E No annotation says what its certificate must hold";
        return Err(Denied::new(why).of(&role));
    }
    agree(&says, &wanted).map(|()| role.clone()).map_err(|why| why.of(&role))
}

/// The chain that was shown: in the handshake, or to a proxy that is trusted.
pub(super) fn shown(call: &Call) -> Result<Vec<CertificateDer<'static>>, Denied> {
    let by_proxy = call.headers.get_all(HEADER).iter().collect::<Vec<_>>();
    if by_proxy.is_empty() {
        return Ok(call.certificates.iter().take(CHAIN_MAX).cloned().collect());
    }
    // Whoever else could write that header could be anybody, programs of this machine included.
    let settings = call.door.settings();
    let mut proxies = settings.trusted_proxies.iter();
    if !proxies.any(|network| network.contains(&call.peer_ip.to_canonical())) {
        return Err(Denied::new("CONJ00015E A certificate in a header, and not from a proxy"));
    }
    let unfit = || Denied::new("CONJ00035E The certificate in the header cannot be read");
    let [header] = by_proxy[..] else { return Err(unfit()) };
    let pem: Vec<u8> = percent_encoding::percent_decode(header.as_bytes()).collect();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).take(CHAIN_MAX).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(unfit)
}

/// The path of the one SPIFFE id, in the trust domain of the service.
fn spiffe_path<'a>(service: &Service, says: &'a Says) -> Result<&'a str, Denied> {
    let refused = |why: &'static str| Denied::new(why);
    let domain = service.trust_domain.as_deref().ok_or_else(|| {
        refused("CONJ00098E Neither trust-domain is set nor does the path say who it is")
    })?;
    // A certificate with a SPIFFE id has that and no other URI.
    let [uri] = &says.uri[..] else {
        return Err(refused("CONJ00081E The client certificate has no SPIFFE id, or several"));
    };
    let rest = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    match rest {
        Some((named, path)) if named == domain => {
            let is_sound = |part: &str| {
                !part.is_empty()
                    && part != "."
                    && part != ".."
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            };
            if path.split('/').all(is_sound) {
                Ok(path)
            } else {
                Err(refused("CONJ00082E The client certificate's SPIFFE id is none"))
            }
        }
        Some(_) => Err(refused("CONJ00082E The client certificate is of another trust domain")),
        None => Err(refused("CONJ00081E The client certificate has no SPIFFE id")),
    }
}

/// Whether a certificate is what annotations want.
fn agree(says: &Says, wanted: &[(String, String)]) -> Result<(), Denied> {
    for (name, value) in wanted {
        let has = |values: &[String]| values.iter().any(|one| one == value);
        let agrees = match name.as_str() {
            "subject" => says.subject == *value,
            "common-name" => says.common_name.len() == 1 && has(&says.common_name),
            "dns-name" => has(&says.dns_name),
            "spiffe-id" => says.uri.len() == 1 && has(&says.uri),
            _ => {
                let why = format!("CONJ00069E Annotation '{name}' is nothing of a certificate");
                return Err(Denied::new(why));
            }
        };
        if !agrees {
            let why =
                format!("CONJ00049E The certificate's {name} is not what its annotation says");
            return Err(Denied::new(why));
        }
    }
    Ok(())
}

fn read(leaf: &CertificateDer<'_>) -> Option<Says> {
    let (rest, certificate) = X509Certificate::from_der(leaf).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut says = Says { subject: certificate.subject().to_string(), ..Says::default() };
    for name in certificate.subject().iter_common_name() {
        says.common_name.push(name.as_str().ok()?.to_owned());
    }
    if let Some(names) = certificate.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            if let GeneralName::DNSName(name) = name {
                says.dns_name.push((*name).to_owned());
            } else if let GeneralName::URI(uri) = name {
                says.uri.push((*uri).to_owned());
            }
        }
    }
    Some(says)
}
