//! An issuer of signed tokens, as tests need it: keys of its own, and a real HTTPS server with a
//! certificate of its own authority that shows them, slowly, wrongly or too often if told so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conclave_api::{Certificates, ServerTls, serve};
use http::{Request, Response, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A key that signs tokens.
pub(crate) struct Key {
    pub(crate) id: &'static str,
    pair: RsaKeyPair,
}

impl Key {
    /// The public half, as it stands in key sets.
    pub(crate) fn jwk(&self) -> Value {
        let n = URL_SAFE_NO_PAD.encode(self.modulus());
        json!({"kty": "RSA", "use": "sig", "kid": self.id, "n": n, "e": "AQAB"})
    }

    /// The modulus, for those who would use it as a shared secret.
    pub(crate) fn modulus(&self) -> Vec<u8> {
        // In PKCS#1: two headers and a zero, 256 bytes of modulus, and the exponent 65537.
        let der = self.pair.public_key().as_ref();
        assert_eq!((der.len(), &der[265..]), (270, &[2, 3, 1, 0, 1][..]));
        der[9..265].to_vec()
    }

    /// A token with this header and these claims, signed as the header says.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(header, &claims.to_string())
    }

    /// As [`Key::sign`], with claims as they stand.
    pub(crate) fn sign_text(&self, header: &Value, claims: &str) -> String {
        let message = message(header, claims);
        let how: &'static dyn RsaEncoding = match header["alg"].as_str() {
            Some("RS384") => &RSA_PKCS1_SHA384,
            Some("RS512") => &RSA_PKCS1_SHA512,
            _ => &RSA_PKCS1_SHA256,
        };
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        self.pair.sign(how, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of this key with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "RS256", "typ": "JWT", "kid": self.id}), claims)
    }
}

/// Header and claims of a token, without a signature.
pub(crate) fn message(header: &Value, claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}", encode(&header.to_string()), encode(claims))
}

/// Three keys: the one that is in use, the next, and somebody else's. Slow to make, so made once.
pub(crate) fn keys() -> &'static [Key; 3] {
    static KEYS: OnceLock<[Key; 3]> = OnceLock::new();
    KEYS.get_or_init(|| {
        ["first", "second", "foreign"]
            .map(|id| Key { id, pair: RsaKeyPair::generate(KeySize::Rsa2048).unwrap() })
    })
}

/// What is answered at a path.
#[derive(Clone)]
pub(crate) enum Says {
    Json(Value),
    Status(u16),
    Redirect(String),
    Long(usize),
    Compressed,
    After(Duration, Value),
    By(Judge),
}

/// Answers a request by its `Authorization` header and its body, with a status and a document.
pub(crate) type Judge = Arc<dyn Fn(&str, &str) -> (u16, Value) + Send + Sync>;

/// A running server.
pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    /// `https://localhost:port`.
    pub(crate) url: String,
    /// The authority that its certificate is of.
    pub(crate) authority: String,
    answers: Arc<Mutex<HashMap<String, Says>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// The certificate of an authority, and a certificate of it for `localhost` with its key.
pub(crate) fn certificates() -> (String, Arc<CertifiedKey>) {
    let (authority, chain, key) = authority_and_leaf(&["localhost", "127.0.0.1"]);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(vec![chain], key, &provider).unwrap();
    (authority, Arc::new(certified))
}

fn authority_and_leaf(
    names: &[&str],
) -> (String, rustls::pki_types::CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (authority.pem(), leaf.der().clone(), key)
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let (authority, certificate) = certificates();
        let served = Certificates { by_name: HashMap::new(), default: Some(certificate) };
        let tls = Arc::new(ServerTls::new(served, None).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Arc<Mutex<HashMap<String, Says>>> = Arc::default();
        let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (known, counted) = (answers.clone(), asked.clone());
        let router = Router::new().fallback(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            *counted.lock().unwrap().entry(path.clone()).or_default() += 1;
            let says = known.lock().unwrap().get(&path).cloned();
            answer(request, says)
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let until = async move {
            let _gone = stopped.await;
        };
        tokio::spawn(serve(listener, tls, router, until));
        let url = format!("https://localhost:{}", address.port());
        Self { address, url, authority, answers, asked, _stop: stop }
    }

    /// Sets what is answered at a path.
    pub(crate) fn says(&self, path: &str, says: Says) {
        self.answers.lock().unwrap().insert(path.to_owned(), says);
    }

    /// Shows these keys at `/keys`, and there the provider's configuration says they are.
    pub(crate) fn shows(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.says("/keys", Says::Json(json!({"keys": keys})));
        self.says(
            "/.well-known/openid-configuration",
            Says::Json(json!({"issuer": self.url, "jwks_uri": format!("{}/keys", self.url)})),
        );
    }

    /// How often a path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or_default()
    }
}

async fn answer(request: Request<Body>, says: Option<Says>) -> Response<Body> {
    let of = |status: u16, body: Body| {
        Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap()
    };
    match says {
        None => of(404, Body::empty()),
        Some(Says::Json(value)) => of(200, Body::from(value.to_string())),
        Some(Says::Status(status)) => of(status, Body::from("{}")),
        Some(Says::Redirect(to)) => {
            let mut response = of(302, Body::empty());
            response.headers_mut().insert("location", to.parse().unwrap());
            response
        }
        Some(Says::Long(bytes)) => of(200, Body::from(vec![b' '; bytes])),
        Some(Says::Compressed) => {
            let mut response = of(200, Body::from("{}"));
            response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            response
        }
        Some(Says::By(judge)) => {
            let header = request.headers().get("authorization").cloned();
            let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
            let header = header.as_ref().map_or("", |value| value.to_str().unwrap());
            let (status, value) = judge(header, std::str::from_utf8(&body).unwrap());
            of(status, Body::from(value.to_string()))
        }
        Some(Says::After(pause, value)) => {
            tokio::time::sleep(pause).await;
            of(200, Body::from(value.to_string()))
        }
    }
}
