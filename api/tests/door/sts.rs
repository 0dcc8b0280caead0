//! What stands for Amazon's Security Token Service in the tests: a real HTTPS server that judges
//! signatures of version 4 by the keys it knows, and answers as the service does, in JSON to who asks for
//! it. Also what a client signs with. Tests have it answer otherwise, slowly or elsewhere if told so.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use axum::Router;
use axum::body::Body;
use conclave_api::{Certificates, ServerTls, serve};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::issuer::certificates;

/// The only question there is.
pub(crate) const QUERY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
/// What the clock of the service, and of every house, shows.
pub(crate) const DATE: &str = "20231114T221320Z";
/// The account of those who are known.
pub(crate) const ACCOUNT: &str = "123456789012";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// What is signed: the query, the signed headers in their order, and day, region and service.
pub(crate) struct Signed<'a> {
    pub(crate) query: &'a str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) date: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

impl Signed<'_> {
    pub(crate) fn signature(&self, secret: &str) -> String {
        let lines: Vec<String> =
            self.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let lines = lines.concat();
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let sha = |text: &[u8]| hex(digest::digest(&digest::SHA256, text).as_ref());
        let request = format!("GET\n/\n{}\n{lines}\n{}\n{}", self.query, names.join(";"), sha(b""));
        let day = &self.date[..8];
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.date, sha(request.as_bytes()));
        let key = mac(format!("AWS4{secret}").as_bytes(), day);
        let key = [self.region, self.service, "aws4_request"].iter().fold(key, |k, t| mac(&k, t));
        hex(&mac(&key, &text))
    }
}

/// The example that Amazon publishes.
#[test]
fn signatures_are_those_of_amazon() {
    let signed = Signed {
        query: "",
        headers: vec![
            ("host".to_owned(), "example.amazonaws.com".to_owned()),
            ("x-amz-date".to_owned(), "20150830T123600Z".to_owned()),
        ],
        date: "20150830T123600Z",
        region: "us-east-1",
        service: "service",
    };
    assert_eq!(
        signed.signature("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    );
}

/// Keys of somebody at Amazon.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) session: Option<&'static str>,
}

/// Those of the role `web`, as a machine has them.
pub(crate) const WEB: Keys =
    Keys { id: "ASIAWEB000000000000A", secret: "web-secret", session: Some("web-session") };
/// Those of the role `other`.
pub(crate) const OTHER: Keys =
    Keys { id: "ASIAOTHER0000000000A", secret: "other-secret", session: Some("other-session") };
/// Those of a user who is called as the role is.
pub(crate) const USER: Keys =
    Keys { id: "AKIAUSER00000000000A", secret: "user-secret", session: None };
/// Those of a role of the same name in another account.
pub(crate) const FOREIGN: Keys =
    Keys { id: "ASIAFOREIGN00000000A", secret: "foreign-secret", session: Some("f-session") };
/// Those of nobody.
pub(crate) const STRANGER: Keys =
    Keys { id: "ASIASTRANGER0000000A", secret: "strange", session: Some("strange-session") };

fn known() -> [(&'static Keys, String); 4] {
    let role = |account: &str, name: &str| {
        format!("arn:aws:sts::{account}:assumed-role/{name}/i-0123456789abcdef0")
    };
    [
        (&WEB, role(ACCOUNT, "web")),
        (&OTHER, role(ACCOUNT, "other")),
        (&USER, format!("arn:aws:iam::{ACCOUNT}:user/web")),
        (&FOREIGN, role("999999999999", "web")),
    ]
}

impl Keys {
    /// What a client hands over after signing for an endpoint.
    pub(crate) fn sign(&self, host: &str, region: &str) -> Map<String, Value> {
        self.sign_with(host, region, DATE, QUERY, &[])
    }

    /// The same with another time, question, or headers besides.
    pub(crate) fn sign_with(
        &self,
        host: &str,
        region: &str,
        date: &str,
        query: &str,
        more: &[(&str, &str)],
    ) -> Map<String, Value> {
        let mut headers =
            vec![("host".to_owned(), host.to_owned()), ("x-amz-date".to_owned(), date.to_owned())];
        headers.extend(self.session.map(|token| ("x-amz-security-token".to_owned(), token.into())));
        headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        headers.sort();
        let names: Vec<String> = headers.iter().map(|(name, _)| name.clone()).collect();
        let mut all: Map<String, Value> =
            headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let signed = Signed { query, headers, date, region, service: "sts" };
        let signature = signed.signature(self.secret);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}/{region}/sts/aws4_request, SignedHeaders={}, \
             Signature={signature}",
            self.id,
            &date[..8],
            names.join(";"),
        );
        all.insert("authorization".to_owned(), json!(authorization));
        all
    }
}

/// What the service does to whom it would say yes.
#[derive(Clone)]
pub(crate) enum Mood {
    Itself,
    Status(u16),
    Redirect(String),
    Says(String),
    Slow(Duration),
}

/// A running service.
pub(crate) struct Sts {
    pub(crate) url: String,
    /// The authority that its certificate is of.
    pub(crate) authority: String,
    pub(crate) mood: Arc<Mutex<Mood>>,
    /// For which hosts it was asked, and whatever else stood in the requests.
    pub(crate) asked: Arc<Mutex<Vec<HeaderMap>>>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Sts {
    pub(crate) async fn start() -> Self {
        let (authority, certificate) = certificates();
        let served = Certificates { by_name: HashMap::new(), default: Some(certificate) };
        let tls = Arc::new(ServerTls::new(served, None).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let mood = Arc::new(Mutex::new(Mood::Itself));
        let asked: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let (moods, counted) = (mood.clone(), asked.clone());
        let router = Router::new().fallback(move |request: Request<Body>| {
            counted.lock().unwrap().push(request.headers().clone());
            let mood = moods.lock().unwrap().clone();
            answer(request, mood)
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let until = async move {
            let _gone = stopped.await;
        };
        tokio::spawn(serve(listener, tls, router, until));
        Self { url, authority, mood, asked, _stop: stop }
    }

    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// The answer for somebody.
pub(crate) fn identity(account: &str, arn: &str) -> String {
    let result =
        json!({"Account": account, "Arn": arn, "UserId": "AROAEXAMPLE:i-0123456789abcdef0"});
    let metadata = json!({"RequestId": "01234567-89ab-cdef-0123-456789abcdef"});
    json!({"GetCallerIdentityResponse": {"GetCallerIdentityResult": result,
        "ResponseMetadata": metadata}})
    .to_string()
}

async fn answer(request: Request<Body>, mood: Mood) -> Response<Body> {
    let of = |status: u16, body: String| {
        let status = StatusCode::from_u16(status).unwrap();
        Response::builder().status(status).body(Body::from(body)).unwrap()
    };
    match mood {
        Mood::Itself => {}
        Mood::Status(status) => return of(status, "{}".to_owned()),
        Mood::Says(text) => return of(200, text),
        Mood::Redirect(to) => {
            let mut response = of(302, String::new());
            response.headers_mut().insert("location", to.parse().unwrap());
            return response;
        }
        Mood::Slow(pause) => tokio::time::sleep(pause).await,
    }
    match judge(&request) {
        Err(why) => of(403, json!({"Error": {"Code": why}}).to_string()),
        Ok((account, arn)) => {
            if request.headers().get("accept").is_some_and(|value| value == "application/json") {
                of(200, identity(&account, &arn))
            } else {
                of(200, format!("<GetCallerIdentityResponse><Arn>{arn}</Arn>"))
            }
        }
    }
}

fn judge(request: &Request<Body>) -> Result<(String, String), &'static str> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if request.method() != http::Method::GET || request.uri().path() != "/" {
        return Err("MalformedRequest");
    }
    let authorization = text("authorization").ok_or("MissingAuthenticationToken")?;
    let field = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}="))?;
        Some(rest.split(',').next().unwrap().trim())
    };
    let credential = field("Credential").ok_or("IncompleteSignature")?;
    let [id, day, region, service, _] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err("IncompleteSignature");
    };
    let all = known();
    let (keys, arn) = all.iter().find(|(keys, _)| keys.id == id).ok_or("InvalidClientTokenId")?;
    if keys.session != text("x-amz-security-token") {
        return Err("InvalidClientTokenId");
    }
    let date = text("x-amz-date").ok_or("IncompleteSignature")?;
    if &date[..8] != day {
        return Err("SignatureDoesNotMatch");
    }
    let names = field("SignedHeaders").ok_or("IncompleteSignature")?;
    let headers: Option<Vec<_>> = names
        .split(';')
        .map(|name| Some((name.to_owned(), text(name)?.trim().to_owned())))
        .collect();
    // As the service does, whatever of its own is not signed is refused.
    let is_signed = |name: &http::HeaderName| names.split(';').any(|known| known == name.as_str());
    if request.headers().keys().any(|name| name.as_str().starts_with("x-amz-") && !is_signed(name))
    {
        return Err("AccessDenied");
    }
    let signed = Signed {
        query: request.uri().query().unwrap_or_default(),
        headers: headers.ok_or("SignatureDoesNotMatch")?,
        date,
        region,
        service,
    };
    if Some(signed.signature(keys.secret).as_str()) != field("Signature") {
        return Err("SignatureDoesNotMatch");
    }
    let partition = if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    };
    let arn = arn.replacen("arn:aws:", &format!("arn:{partition}:"), 1);
    Ok((arn.split(':').nth(4).unwrap().to_owned(), arn))
}
