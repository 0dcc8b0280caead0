//! `authn-cert`: whose certificates are believed and what they must say, and all that is refused, each
//! with its reason in the audit record. That a client has the key of what it shows, is the listener's
//! to see: the last test asks a real one.

use std::collections::HashMap;
use std::sync::Arc;

use conclave_api::{Certificates, ServerTls, key_holders};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{House, Reply};
use super::refusals;

type Authority = CertifiedIssuer<'static, KeyPair>;
type Chain = Vec<CertificateDer<'static>>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a usual certificate of a client says.
fn usual() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    params.distinguished_name.push(DnType::CommonName, "web");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names.push(uri("spiffe://acme.example/apps/web"));
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn uris(texts: &[&str]) -> CertificateParams {
    let mut params = usual();
    params.subject_alt_names = texts.iter().map(|text| uri(text)).collect();
    params
}

fn of(authority: &Authority, params: &CertificateParams) -> Chain {
    let key = KeyPair::generate().unwrap();
    vec![params.signed_by(&key, authority).unwrap().der().clone()]
}

const POLICY: &str = "
- !policy
  id: apps
  body:
  - !host {id: web, annotations: {authn-cert/mesh/common-name: web}}
  - !host
    id: all
    annotations:
      authn-cert/mesh/common-name: web
      authn-cert/mesh/dns-name: web.example
      authn-cert/mesh/spiffe-id: spiffe://acme.example/apps/web
      authn-cert/mesh/subject: 'O=Acme, CN=web'
  - !host {id: other, annotations: {authn-cert/mesh/common-name: other}}
  - !host {id: dns, annotations: {authn-cert/mesh/dns-name: other.example}}
  - !host {id: subject, annotations: {authn-cert/mesh/subject: CN=web}}
  - !host {id: spiffe, annotations: {authn-cert/mesh/spiffe-id: spiffe://acme.example/apps/other}}
  - !host {id: strange, annotations: {authn-cert/mesh/colour: red}}
  - !host plain
  - !host {id: fenced, restricted_to: [10.1.0.0/16], annotations: {authn-cert/mesh/common-name: web}}
  - !host {id: unentitled, annotations: {authn-cert/mesh/common-name: web}}
- !policy
  id: conjur/authn-cert/mesh
  body:
  - !webservice
  - !webservice status
  - !variable ca-cert
  - !variable trust-domain
- !policy
  id: conjur/authn-cert/empty
  body:
  - !webservice
  - !variable ca-cert
- !permit
  role: !host apps/web
  privileges: [read, authenticate]
  resources: [!webservice conjur/authn-cert/mesh, !webservice conjur/authn-cert/empty]
- !permit
  roles: [!host apps/all, !host apps/other, !host apps/dns, !host apps/subject, !host apps/spiffe,
    !host apps/strange, !host apps/plain, !host apps/fenced]
  privileges: [read, authenticate]
  resource: !webservice conjur/authn-cert/mesh
";

struct World {
    house: House,
    authority: Authority,
}

impl World {
    async fn new() -> Self {
        let house = House::with(|settings| {
            settings.failures_max = u32::MAX;
            settings.authenticators =
                vec!["authn-cert/mesh".to_owned(), "authn-cert/empty".to_owned()];
        });
        house.load("demo", POLICY).await;
        let world = Self { house, authority: authority("Acme") };
        world.set("ca-cert", &world.authority.pem()).await;
        world.set("trust-domain", "acme.example").await;
        world
    }

    async fn set(&self, variable: &str, value: &str) {
        let id = format!("conjur/authn-cert/mesh/{variable}");
        let uri = format!("/secrets/demo/variable/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        let reply = self.house.send_as("demo/admin", &Method::POST, &uri, value.to_owned()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    }

    async fn show(&self, chain: &Chain, host: Option<&str>) -> Reply {
        self.show_at("mesh", "192.0.2.7", &[], chain, host).await
    }

    async fn show_at(
        &self,
        service: &str,
        peer: &str,
        headers: &[(&str, &str)],
        chain: &Chain,
        host: Option<&str>,
    ) -> Reply {
        let login = host.map(|host| {
            format!("/{}", utf8_percent_encode(&format!("host/apps/{host}"), NON_ALPHANUMERIC))
        });
        let login = login.unwrap_or_default();
        let path = format!("/authn-cert/{service}/demo{login}/authenticate");
        let chain: Arc<[_]> = chain.clone().into();
        self.house.send_with(peer, chain, &Method::POST, &path, headers, "").await
    }

    fn refused(&self, what: &str, reply: &Reply, status: u16, reason: &str) {
        let record = self.house.records().pop().unwrap();
        assert_eq!(reply.status.as_u16(), status, "{what}: {record}");
        assert_eq!(reply.text(), "", "{what}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains(reason), "{what}: {message:?} does not tell {reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_of_certificates_are_let_in() {
    let world = World::new().await;
    let chain = of(&world.authority, &usual());
    // By the id in the certificate, and by what annotations of the one in the path want.
    for host in [None, Some("web"), Some("all")] {
        let reply = world.show(&chain, host).await;
        let record = world.house.records().pop().unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{host:?}: {record}");
        assert_eq!(record["user"], format!("demo:host:apps/{}", host.unwrap_or("web")));
    }
    // Through an authority in between, which is shown with it.
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let between = CertifiedIssuer::signed_by(params, key, &world.authority).unwrap();
    let mut chain = of(&between, &usual());
    chain.push(between.der().clone());
    assert_eq!(world.show(&chain, None).await.status, StatusCode::OK);
    // From a proxy that has ended TLS.
    let pem = of(&world.authority, &usual());
    let header = header(&pem[0]);
    let headers = [("x-ssl-client-certificate", header.as_str())];
    let reply = world.show_at("mesh", "10.9.1.1", &headers, &Chain::new(), Some("web")).await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply =
        world.house.send_as("demo/admin", &Method::GET, "/authn-cert/mesh/demo/status", "").await;
    assert_eq!(reply.text(), "{\"status\":\"ok\"}");
}

fn header(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is() {
    let world = World::new().await;
    let ours = &world.authority;
    let foreign = authority("Acme");
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = usual();
        change(&mut params);
        of(ours, &params)
    };
    let good = of(ours, &usual());
    let authority_itself = vec![ours.der().clone()];
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        vec![usual().self_signed(&key).unwrap().der().clone()]
    };
    let mut damaged = good[0].to_vec();
    let at = damaged.len() - 10;
    damaged[at] ^= 1;
    let mut longer = good[0].to_vec();
    longer.push(0);
    for (what, chain, reason) in [
        ("none", Chain::new(), "CONJ00009E"),
        ("of another authority of that name", of(&foreign, &usual()), "not believed"),
        ("its own authority", self_signed, "CONJ00015E The client certificate is not believed"),
        ("the authority itself", authority_itself, "not believed"),
        ("damaged", vec![damaged.into()], "not believed"),
        ("with something after it", vec![longer.into()], "not believed"),
        ("garbage", vec![CertificateDer::from(vec![1, 2, 3])], "not believed"),
        ("empty", vec![CertificateDer::from(Vec::new())], "not believed"),
        (
            "expired",
            changed(&|params| params.not_after = date_time_ymd(2023, 11, 1)),
            "not believed",
        ),
        (
            "of tomorrow",
            changed(&|params| params.not_before = date_time_ymd(2023, 12, 1)),
            "not believed",
        ),
        (
            "for servers",
            changed(&|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "not believed",
        ),
    ] {
        for host in [None, Some("web")] {
            let reply = world.show(&chain, host).await;
            world.refused(what, &reply, 401, reason);
        }
    }
    // Ids in certificates.
    for (what, texts, reason) in [
        ("no id", &[][..], "CONJ00081E"),
        (
            "two ids",
            &["spiffe://acme.example/apps/web", "spiffe://acme.example/apps/all"][..],
            "CONJ00081E",
        ),
        (
            "an id and an address",
            &["spiffe://acme.example/apps/web", "https://acme.example/"][..],
            "CONJ00081E",
        ),
        ("an address", &["https://acme.example/apps/web"][..], "CONJ00081E"),
        ("another domain", &["spiffe://evil.example/apps/web"][..], "another trust domain"),
        (
            "a domain that begins so",
            &["spiffe://acme.example.evil/apps/web"][..],
            "another trust domain",
        ),
        (
            "a domain with a port",
            &["spiffe://acme.example:443/apps/web"][..],
            "another trust domain",
        ),
        ("a domain in other case", &["spiffe://ACME.example/apps/web"][..], "another trust domain"),
        ("credentials", &["spiffe://x@acme.example/apps/web"][..], "another trust domain"),
        ("no path", &["spiffe://acme.example"][..], "CONJ00081E"),
        ("an empty path", &["spiffe://acme.example/"][..], "CONJ00082E"),
        ("an empty part", &["spiffe://acme.example/apps//web"][..], "CONJ00082E"),
        ("a part up", &["spiffe://acme.example/x/../apps/web"][..], "CONJ00082E"),
        ("an encoded part", &["spiffe://acme.example/apps%2Fweb"][..], "CONJ00082E"),
        ("a query", &["spiffe://acme.example/apps/web?x"][..], "CONJ00082E"),
        ("a trailing slash", &["spiffe://acme.example/apps/web/"][..], "CONJ00082E"),
        ("nobody", &["spiffe://acme.example/apps/nobody"][..], "CONJ00007E"),
        ("what annotations do not want", &["spiffe://acme.example/apps/other"][..], "CONJ00049E"),
    ] {
        let reply = world.show(&of(ours, &uris(texts)), None).await;
        world.refused(what, &reply, 401, reason);
    }
    // Annotations of the one in the path.
    for (host, reason) in [
        ("other", "common-name is not"),
        ("dns", "dns-name is not"),
        ("subject", "subject is not"),
        ("spiffe", "spiffe-id is not"),
        ("strange", "CONJ00069E"),
        ("plain", "CONJ00099E"),
        ("nobody", "CONJ00007E"),
        ("fenced", "CONJ00003E"),
    ] {
        let reply = world.show(&good, Some(host)).await;
        world.refused(host, &reply, 401, reason);
    }
    let reply = world.show(&good, Some("unentitled")).await;
    world.refused("unentitled", &reply, 403, "CONJ00006E");
    let two_names = changed(&|params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "x");
    });
    let reply = world.show(&two_names, Some("web")).await;
    world.refused("another name", &reply, 401, "common-name is not");

    // A header proves nothing unless a proxy that is trusted has written it.
    let text = header(&good[0]);
    let forged = [("x-ssl-client-certificate", text.as_str())];
    for peer in ["192.0.2.7", "127.0.0.1", "10.10.0.1"] {
        let reply = world.show_at("mesh", peer, &forged, &Chain::new(), Some("web")).await;
        world.refused(peer, &reply, 401, "not from a proxy");
        // Nor is it looked over for what was shown besides.
        let reply = world.show_at("mesh", peer, &forged, &good, Some("web")).await;
        world.refused(peer, &reply, 401, "not from a proxy");
    }
    let from_within = [forged[0], ("x-forwarded-for", "10.9.1.1")];
    let reply = world.show_at("mesh", "192.0.2.7", &from_within, &Chain::new(), Some("web")).await;
    world.refused("an address in a header", &reply, 401, "not from a proxy");
    let twice = [forged[0], forged[0]];
    let reply = world.show_at("mesh", "10.9.1.1", &twice, &Chain::new(), Some("web")).await;
    world.refused("two headers", &reply, 401, "CONJ00035E");
    for text in ["", "x", "%2D%2D%2D", "-----BEGIN CERTIFICATE-----"] {
        let headers = [("x-ssl-client-certificate", text)];
        let reply = world.show_at("mesh", "10.9.1.1", &headers, &Chain::new(), Some("web")).await;
        world.refused(text, &reply, 401, "CONJ00035E");
    }
    // What is not set, or not as it must be.
    let reply = world.show_at("empty", "192.0.2.7", &[], &good, Some("web")).await;
    world.refused("no authorities", &reply, 401, "CONJ00037E");
    world.set("ca-cert", "nonsense").await;
    let reply = world.show(&good, Some("web")).await;
    world.refused("nonsense", &reply, 401, "CONJ00079E");
    refusals::count(&world.house, "api/tests/door/cert.rs::nobody_else_is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_hands_over_only_certificates_whose_key_the_client_has() {
    let world = World::new().await;
    let (server_authority, certificate) = super::issuer::certificates();
    let served = Certificates { by_name: HashMap::new(), default: Some(certificate) };
    let tls = Arc::new(ServerTls::new(served, Some(key_holders())).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = world.house.router.clone();
    tokio::spawn(conclave_api::serve(listener, tls, router, std::future::pending()));

    let key = KeyPair::generate().unwrap();
    let leaf = usual().signed_by(&key, &world.authority).unwrap().der().clone();
    let other_key = KeyPair::generate().unwrap();
    let ask = async |key: Option<&KeyPair>| -> std::io::Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = server_authority.as_bytes();
        let found = <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(pem);
        roots.add(found.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match key {
            None => builder.with_no_client_auth(),
            Some(key) => {
                let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                let signer = provider.key_provider.load_private_key(der).unwrap();
                // Not checked against its key, so that a thief can be played.
                let shown = rustls::sign::CertifiedKey::new(vec![leaf.clone()], signer);
                builder.with_client_cert_resolver(Arc::new(Shows(Arc::new(shown))))
            }
        };
        let stream = tokio::net::TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        let request = "POST /authn-cert/mesh/demo/authenticate HTTP/1.1\r\nhost: x\r\n\
                       content-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask(Some(&key)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = ask(None).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    // With the certificate and without its key there is no connection at all.
    let stolen = ask(Some(&other_key)).await;
    assert!(stolen.as_ref().map_or(true, String::is_empty), "{stolen:?}");
}

#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
