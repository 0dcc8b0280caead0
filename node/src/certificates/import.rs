//! The check of a certificate that is brought from outside: PEM in any order is put in order, and what
//! does not hold together, or would not hold before clients, is refused with the reason. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::time::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use super::check::{has_signed, malformed, pems};
use super::template::Life;
use super::{CertificateError, Issued};

/// Shorter RSA keys can be broken.
const RSA_BITS_MIN: usize = 2048;
/// A longer chain is a mistake.
const CHAIN_MAX: usize = 8;
/// Signatures over SHA-1 or MD5 can be forged.
const BROKEN_SIGNATURES: [&str; 4] =
    ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.10040.4.3"];

/// What was brought, in order and found good.
pub struct Imported {
    /// Leaf first, then what leads to the root, without the root; with the leaf's key.
    pub issued: Issued,
    /// The DNS names and addresses in it.
    pub names: Vec<String>,
    /// When its life begins.
    pub not_before: Timestamp,
    /// When its life ends.
    pub not_after: Timestamp,
    /// The subject of the root that it leads to.
    pub root: String,
}

/// An intermediate that an authority outside has signed.
pub struct Authority {
    /// It and what leads to the root, without the root, in order: PEM.
    pub chain_pem: String,
    /// The root: PEM.
    pub root_pem: String,
    /// The root's life.
    pub root_life: Life,
    /// Its own life.
    pub life: Life,
}

/// Checks what an authority outside has made of a request, as [`check`] does.
///
/// # Errors
/// As [`check`].
pub fn check_authority(
    chain_pem: &str,
    key_pem: &str,
    roots_pem: &str,
    now: Timestamp,
) -> Result<Authority, CertificateError> {
    let brought = certificates_only(chain_pem)?;
    let given_roots = certificates_only(roots_pem)?;
    let (parsed, roots) = (parsed(&brought)?, parsed(&given_roots)?);
    if parsed.is_empty() {
        return refused("there is no certificate in the chain");
    }
    let first = leaf_of_key(&parsed, key_pem).map_err(|_| {
        let text = "none of these was made of the request; ask for it to be signed again";
        CertificateError::Refused(text.to_owned())
    })?;
    let (path, root) = path_to_root(&parsed, &roots, first)?;
    let at = ASN1Time::from_timestamp(now.seconds()).map_err(|error| malformed(&error))?;
    for (depth, index) in path.iter().enumerate() {
        // Below the first stands what nodes present.
        check_one(&parsed[*index], depth + 1, at)?;
    }
    check_life(root, at)?;
    Ok(Authority {
        chain_pem: path.iter().map(|index| pem_text(&brought[*index])).collect(),
        root_pem: der_text(root.as_raw()),
        root_life: life_of(root),
        life: life_of(&parsed[first]),
    })
}

/// Whether clients and nodes that trust that root would take the chain for all of these names.
///
/// # Errors
/// What they would say.
pub fn judge(
    chain_pem: &str,
    root_pem: &str,
    names: &[String],
    now: Timestamp,
) -> Result<(), CertificateError> {
    let (chain, roots) = (certificates_only(chain_pem)?, certificates_only(root_pem)?);
    let roots = parsed(&roots)?;
    let Some(root) = roots.first() else { return refused("there is no root") };
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|pem| CertificateDer::from(pem.contents.as_slice())).collect();
    judge_as_clients_do(&chain, root, names, now)
}

/// Checks what an operator brings: the chain in any order, with or without its root; the leaf's key;
/// and roots that need not be in the chain. All PEM.
///
/// # Errors
/// The first thing that is wrong, in words that say what to do.
pub fn check(
    chain_pem: &str,
    key_pem: &str,
    roots_pem: &str,
    now: Timestamp,
) -> Result<Imported, CertificateError> {
    let brought = certificates_only(chain_pem)?;
    let given_roots = certificates_only(roots_pem)?;
    let (parsed, roots) = (parsed(&brought)?, parsed(&given_roots)?);
    if parsed.is_empty() {
        return refused("there is no certificate in the chain");
    }
    if parsed.len() > CHAIN_MAX {
        return refused(&format!("{} certificates are no chain", parsed.len()));
    }
    let leaf = leaf_of_key(&parsed, key_pem)?;
    let (path, root) = path_to_root(&parsed, &roots, leaf)?;
    let at = ASN1Time::from_timestamp(now.seconds()).map_err(|error| malformed(&error))?;
    for (depth, index) in path.iter().enumerate() {
        check_one(&parsed[*index], depth, at)?;
    }
    let stray = parsed.iter().enumerate().find(|(at, one)| {
        !path.contains(at) && !is_self_signed(one) && parsed[..*at].iter().all(|two| two != *one)
    });
    if let Some((_, stray)) = stray {
        return refused(&format!("{} is no part of the chain", stray.subject()));
    }
    check_life(root, at)?;
    if !root.is_ca() {
        return refused(&format!("the root {} is no CA", root.subject()));
    }
    let names = names_of(&parsed[leaf])?;
    let ders: Vec<CertificateDer<'_>> = path
        .iter()
        .map(|index| CertificateDer::from(brought[*index].contents.as_slice()))
        .collect();
    judge_as_clients_do(&ders, root, &names, now)?;
    let certificate_pem = path.iter().map(|index| pem_text(&brought[*index])).collect();
    let Life { not_before, not_after } = life_of(&parsed[leaf]);
    Ok(Imported {
        issued: Issued { certificate_pem, key_pem: Zeroizing::new(key_pem.to_owned()) },
        names,
        not_before,
        not_after,
        root: root.subject().to_string(),
    })
}

fn certificates_only(text: &str) -> Result<Vec<Pem>, CertificateError> {
    let found = pems(text)?;
    if found.is_empty() && !text.trim().is_empty() {
        return refused("it is not PEM: there is no line -----BEGIN CERTIFICATE-----");
    }
    for pem in &found {
        if pem.label.contains("PRIVATE KEY") {
            return refused("a private key stands among the certificates; give it as the key");
        }
        if pem.label != "CERTIFICATE" {
            return refused(&format!("a {:?} stands among the certificates", pem.label));
        }
    }
    Ok(found)
}

fn parsed(pems: &[Pem]) -> Result<Vec<X509Certificate<'_>>, CertificateError> {
    pems.iter().map(|pem| pem.parse_x509().map_err(|error| malformed(&error))).collect()
}

/// Where the certificate stands that the key belongs to.
fn leaf_of_key(chain: &[X509Certificate<'_>], key_pem: &str) -> Result<usize, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| {
        let locked = key_pem.contains("ENCRYPTED");
        let why =
            if locked { "it is encrypted; decrypt it first".to_owned() } else { error.to_string() };
        CertificateError::Refused(format!("the key cannot be read: {why}"))
    })?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| CertificateError::Refused(format!("the key cannot be used: {error}")))?;
    let public = key.public_key().ok_or_else(|| {
        CertificateError::Refused("the key does not tell its public half".to_owned())
    })?;
    let of_key = chain.iter().position(|one| one.public_key().raw == public.as_ref());
    of_key
        .map_or_else(|| refused(&format!("the key does not belong to {}", chain[0].subject())), Ok)
}

/// From the leaf to the last certificate before a root, and that root.
fn path_to_root<'a, 'b>(
    chain: &'a [X509Certificate<'b>],
    roots: &'a [X509Certificate<'b>],
    leaf: usize,
) -> Result<(Vec<usize>, &'a X509Certificate<'b>), CertificateError> {
    let mut path = vec![leaf];
    let mut last = &chain[leaf];
    if is_self_signed(last) {
        return refused("it is signed by itself; bring one that an authority has signed");
    }
    // What the operator calls a root ends the chain first; else what signed itself does.
    while path.len() <= chain.len() {
        let brought = chain.iter().filter(|one| is_self_signed(one));
        if let Some(root) = roots.iter().chain(brought).find(|root| has_signed(root, last)) {
            return Ok((path, root));
        }
        let next = (0..chain.len())
            .find(|index| !path.contains(index) && has_signed(&chain[*index], last));
        let Some(next) = next else { break };
        path.push(next);
        last = &chain[next];
    }
    let named = chain.iter().chain(roots).any(|one| one.subject() == last.issuer());
    if named {
        return refused(&format!(
            "{} says that {} has signed it, which is not so",
            last.subject(),
            last.issuer()
        ));
    }
    refused(&format!(
        "the issuer of {} is missing: add {} to the chain, or give it as a root",
        last.subject(),
        last.issuer()
    ))
}

fn is_self_signed(one: &X509Certificate<'_>) -> bool {
    one.subject() == one.issuer() && one.verify_signature(None).is_ok()
}

fn check_one(
    one: &X509Certificate<'_>,
    depth: usize,
    at: ASN1Time,
) -> Result<(), CertificateError> {
    let subject = one.subject();
    check_life(one, at)?;
    let algorithm = one.signature_algorithm.algorithm.to_id_string();
    if BROKEN_SIGNATURES.contains(&algorithm.as_str()) {
        return refused(&format!("{subject} is signed over SHA-1 or MD5"));
    }
    if let Ok(PublicKey::RSA(key)) = one.public_key().parsed()
        && key.key_size() < RSA_BITS_MIN
    {
        let bits = key.key_size();
        return refused(&format!("the RSA key of {subject} has {bits} bits, not {RSA_BITS_MIN}"));
    }
    let usage = one.key_usage().map_err(|error| malformed(&error))?.map(|usage| usage.value);
    if depth > 0 {
        let basic = one.basic_constraints().map_err(|error| malformed(&error))?;
        let Some(basic) = basic.filter(|basic| basic.value.ca) else {
            return refused(&format!("{subject} signs others, and is no CA"));
        };
        // Between it and the leaf stand the intermediates before it.
        let below = u32::try_from(depth - 1).unwrap_or(u32::MAX);
        if basic.value.path_len_constraint.is_some_and(|most| most < below) {
            return refused(&format!("{subject} may not have {below} authorities below it"));
        }
        if usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return refused(&format!("the key of {subject} may not sign certificates"));
        }
        return Ok(());
    }
    if one.is_ca() {
        return refused(&format!("{subject} is a CA; nodes present what an authority has issued"));
    }
    if usage.is_some_and(|usage| !usage.digital_signature()) {
        return refused(&format!("the key of {subject} may not sign handshakes"));
    }
    let extended = one.extended_key_usage().map_err(|error| malformed(&error))?;
    if extended.is_some_and(|extended| !extended.value.server_auth && !extended.value.any) {
        return refused(&format!("{subject} is not for servers"));
    }
    Ok(())
}

fn check_life(one: &X509Certificate<'_>, at: ASN1Time) -> Result<(), CertificateError> {
    let life = one.validity();
    if at > life.not_after {
        return refused(&format!("{} has expired on {}", one.subject(), life.not_after));
    }
    if at < life.not_before {
        return refused(&format!("{} is not valid before {}", one.subject(), life.not_before));
    }
    Ok(())
}

fn names_of(leaf: &X509Certificate<'_>) -> Result<Vec<String>, CertificateError> {
    let alternative = leaf.subject_alternative_name().map_err(|error| malformed(&error))?;
    let general = alternative.map(|extension| extension.value.general_names.as_slice());
    let names: Vec<String> = general.unwrap_or_default().iter().filter_map(text_of).collect();
    if names.is_empty() {
        return refused("it has no subject alternative name; clients heed no other");
    }
    Ok(names)
}

fn text_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some(dns.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|four| Ipv4Addr::from(four).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|all| Ipv6Addr::from(all).to_string()),
        },
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

/// The last word: webpki's, which knows name constraints and all else that clients look at.
fn judge_as_clients_do(
    path: &[CertificateDer<'_>],
    root: &X509Certificate<'_>,
    names: &[String],
    now: Timestamp,
) -> Result<(), CertificateError> {
    let refuse = |error: &dyn std::fmt::Display| CertificateError::Refused(error.to_string());
    let mut store = RootCertStore::empty();
    let der = CertificateDer::from(root.as_raw().to_vec());
    store.add(der).map_err(|error| refuse(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| refuse(&error))?;
    let seconds = u64::try_from(now.seconds()).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let Some((leaf, others)) = path.split_first() else { return refused("it is empty") };
    for name in names {
        // A wildcard stands for any one label.
        let asked = name.replacen('*', "any", 1);
        let asked = ServerName::try_from(asked).map_err(|_| {
            CertificateError::Refused(format!("the name {name:?} in it is no name of a host"))
        })?;
        verifier
            .verify_server_cert(leaf, others, &asked, &[], at)
            .map_err(|error| CertificateError::Refused(format!("for {name}: {error}")))?;
    }
    Ok(())
}

fn life_of(one: &X509Certificate<'_>) -> Life {
    let life = one.validity();
    Life {
        not_before: Timestamp(life.not_before.timestamp() * 1000),
        not_after: Timestamp(life.not_after.timestamp() * 1000),
    }
}

fn pem_text(pem: &Pem) -> String {
    der_text(&pem.contents)
}

fn der_text(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn refused<T>(text: &str) -> Result<T, CertificateError> {
    Err(CertificateError::Refused(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
        Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    };
    use time::OffsetDateTime;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const DAY_S: i64 = 86_400;

    /// What is done to a good certificate to make it a bad one.
    type Change = Box<dyn Fn(&mut CertificateParams)>;

    /// A certificate with its key and what it was made from.
    struct Signed {
        params: CertificateParams,
        key: KeyPair,
        pem: String,
    }

    fn params(name: &str, below: Option<u8>) -> CertificateParams {
        let date =
            |days: i64| OffsetDateTime::from_unix_timestamp(NOW.seconds() + days * DAY_S).unwrap();
        let names = if below.is_some() { Vec::new() } else { vec![name.to_owned()] };
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date(-1), date(90));
        params.use_authority_key_identifier_extension = true;
        if let Some(below) = below {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        } else {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        params
    }

    fn sign(params: CertificateParams, by: Option<&Signed>) -> Signed {
        let key = KeyPair::generate().unwrap();
        let pem = match by {
            None => params.self_signed(&key).unwrap().pem(),
            Some(by) => {
                let issuer = Issuer::from_params(&by.params, &by.key);
                params.signed_by(&key, &issuer).unwrap().pem()
            }
        };
        Signed { params, key, pem }
    }

    /// Root, intermediate and leaf of a company.
    fn company() -> [Signed; 3] {
        with(|_| {}, |_| {})
    }

    fn with(
        intermediate: impl Fn(&mut CertificateParams),
        leaf: impl Fn(&mut CertificateParams),
    ) -> [Signed; 3] {
        let root = sign(params("company root", Some(1)), None);
        let mut middle = params("company issuing", Some(0));
        intermediate(&mut middle);
        let middle = sign(middle, Some(&root));
        let mut last = params("shop.example.com", None);
        leaf(&mut last);
        let last = sign(last, Some(&middle));
        [root, middle, last]
    }

    /// What is answered to these, with the key of the last.
    fn answer(chain: &[&Signed], roots: &[&Signed]) -> String {
        let text = |all: &[&Signed]| all.iter().map(|one| one.pem.as_str()).collect::<String>();
        let key = chain.last().unwrap().key.serialize_pem();
        match check(&text(chain), &key, &text(roots), NOW) {
            Ok(imported) => format!("ok: {}", imported.names.join(" ")),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_chain_is_put_in_order_and_may_bring_its_root() {
        let [root, middle, leaf] = company();
        let good = "ok: shop.example.com";
        assert_eq!(answer(&[&middle, &leaf], &[&root]), good);
        assert_eq!(answer(&[&root, &middle, &leaf], &[]), good);
        let chain = format!("{}{}{}", middle.pem, root.pem, leaf.pem);
        let imported = check(&chain, &leaf.key.serialize_pem(), "", NOW).unwrap();
        let ordered = format!("{}{}", leaf.pem, middle.pem).replace("\r\n", "\n");
        assert_eq!(imported.issued.certificate_pem, ordered);
        assert!(imported.root.contains("company root"));
        assert!(imported.not_before < NOW && NOW < imported.not_after);
    }

    #[test]
    fn what_does_not_hold_together_is_refused_with_the_reason() {
        let [root, middle, leaf] = company();
        let [other_root, other_middle, _] = company();
        let alone = sign(params("shop.example.com", None), None);
        let cases: [(&[&Signed], &[&Signed], &str); 7] = [
            (
                &[&leaf],
                &[&root],
                "the issuer of CN=shop.example.com is missing: add CN=company issuing",
            ),
            (&[&middle, &leaf], &[], "the issuer of CN=company issuing is missing"),
            (
                &[&middle, &leaf],
                &[&other_root],
                "says that CN=company root has signed it, which is not so",
            ),
            (&[&other_middle, &leaf], &[&root], "says that CN=company issuing has signed it"),
            (&[&other_middle, &middle, &leaf], &[&root], "is no part of the chain"),
            (&[&alone], &[], "signed by itself"),
            (&[&leaf, &middle], &[&root], "is a CA"),
        ];
        for (chain, roots, reason) in cases {
            let answer = answer(chain, roots);
            assert!(answer.contains(reason), "{reason:?} expected: {answer}");
        }
        let chain = format!("{}{}", leaf.pem, middle.pem);
        let key = leaf.key.serialize_pem();
        let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let stranger = KeyPair::generate().unwrap().serialize_pem();
        let both = chain.clone() + &key;
        let cases = [
            (chain.as_str(), stranger.as_str(), "the key does not belong to CN=shop.example.com"),
            (&chain, &locked, "it is encrypted"),
            (&both, &key, "a private key stands among the certificates"),
            ("", &key, "no certificate in the chain"),
            ("not PEM", &key, "it is not PEM"),
        ];
        for (chain, key, reason) in cases {
            let answer = check(chain, key, &root.pem, NOW).map(|_| ()).unwrap_err().to_string();
            assert!(answer.contains(reason), "{reason:?} expected: {answer}");
        }
    }

    #[test]
    fn what_clients_would_refuse_is_refused_before() {
        let days =
            |days: i64| OffsetDateTime::from_unix_timestamp(NOW.seconds() + days * DAY_S).unwrap();
        let none = || -> Change { Box::new(|_| {}) };
        let cases: [(Change, Change, &str); 8] = [
            (none(), Box::new(move |leaf| leaf.not_after = days(-1)), "has expired on"),
            (none(), Box::new(move |leaf| leaf.not_before = days(1)), "is not valid before"),
            (Box::new(move |ca| ca.not_after = days(-1)), none(), "CN=company issuing has expired"),
            (
                none(),
                Box::new(|leaf| leaf.subject_alt_names.clear()),
                "no subject alternative name",
            ),
            (Box::new(|ca| ca.is_ca = IsCa::ExplicitNoCa), none(), "signs others, and is no CA"),
            (
                Box::new(|ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign]),
                none(),
                "may not sign certificates",
            ),
            (
                none(),
                Box::new(|leaf| {
                    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                }),
                "is not for servers",
            ),
            (
                Box::new(|ca| {
                    ca.name_constraints = Some(NameConstraints {
                        permitted_subtrees: vec![GeneralSubtree::DnsName("other.org".to_owned())],
                        excluded_subtrees: Vec::new(),
                    });
                }),
                none(),
                "for shop.example.com",
            ),
        ];
        for (intermediate, leaf, reason) in cases {
            let [root, middle, leaf] = with(intermediate, leaf);
            let answer = answer(&[&middle, &leaf], &[&root]);
            assert!(answer.contains(reason), "{reason:?} expected: {answer}");
        }
    }
}
