//! Logging in at an OpenID provider with the browser of this machine (RFC 8252): the server says where the browser
//! has to go, the provider sends it back to a port of this machine with a code, and the server exchanges that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::api::{Api, Ask, Caller, Token, segment};
use crate::exit::{Context, Exit, Failure};

/// How long somebody has to log in.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long a browser may take to say what it wants, and how many bytes.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Connections at once: browsers open some that they may need.
const CONNECTIONS_MAX: usize = 16;

/// One of the providers that the server lists, with secrets of this login alone.
#[derive(Deserialize)]
struct Invitation {
    service_id: String,
    nonce: String,
    code_verifier: String,
    /// Conjur's servers send none; the nonce tells whose login it is there.
    state: Option<String>,
    /// Where the browser has to go.
    redirect_uri: String,
}

/// What the browser comes back with, to be told from what else may come.
struct Return {
    path: String,
    state: Option<String>,
}

/// What to say to a browser, and what its request brought.
struct Reply {
    status: &'static str,
    page: &'static str,
    outcome: Option<Result<Zeroizing<String>, Failure>>,
}

/// Logs in; `say` is told the line that somebody has to read.
///
/// # Errors
/// When the server lists no such provider, the provider does not send browsers to this machine, nobody logs in in
/// time, or the server refuses.
pub(super) async fn log_in(api: &Api, service: &str, say: impl Fn(&str)) -> Result<Token, Failure> {
    let mut invitation = invitation(api, service).await?;
    let nonce = Zeroizing::new(std::mem::take(&mut invitation.nonce));
    let verifier = Zeroizing::new(std::mem::take(&mut invitation.code_verifier));
    let (address, path) = way_back(service, &invitation.redirect_uri)?;
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let why = format!("the browser is to come back to {address}, which is not free: {error}");
        Failure::new(Exit::Failed, why)
    })?;
    say(&format!("Open this in a browser of this machine: {}", invitation.redirect_uri));
    let expected = Return { path, state: invitation.state.clone() };
    let code = timeout(PATIENCE, wait(&listener, Arc::new(expected))).await;
    let code = code.map_err(|_elapsed| {
        Failure::new(Exit::Unauthenticated, "nobody logged in in time; log in again")
    })??;
    let (service, account) = (segment(service), segment(api.account()));
    let path = format!("/authn-oidc/{service}/{account}/authenticate");
    let mut ask = Ask::new(Method::GET, path)
        .query("code", &code)
        .query("nonce", &nonce)
        .query("code_verifier", &verifier);
    if let Some(state) = &invitation.state {
        ask = ask.query("state", state);
    }
    api.token(ask).await
}

async fn invitation(api: &Api, service: &str) -> Result<Invitation, Failure> {
    let path = format!("/authn-oidc/{}/providers", segment(api.account()));
    let listed = api.ask(Caller::Nobody, Ask::new(Method::GET, path)).await?.success()?;
    let all: Vec<Invitation> =
        serde_json::from_slice(&listed).context(Exit::Failed, "the server's list of providers")?;
    let names: Vec<String> = all.iter().map(|one| one.service_id.clone()).collect();
    all.into_iter().find(|one| one.service_id == service).ok_or_else(|| {
        let why = format!(
            "the server lists no provider {service:?} for browsers (it lists {names:?}): the service must be in \
             force, with client-secret, claim-mapping and redirect-uri; for a code that is entered in any browser \
             pass --provider and --client-id"
        );
        Failure::new(Exit::NotFound, why)
    })
}

/// Where the provider will send the browser: an address of this machine, and the path there.
fn way_back(service: &str, authorization: &str) -> Result<(SocketAddr, String), Failure> {
    let unfit = |why: String| Failure::new(Exit::Configuration, why);
    // It goes to a terminal, so it must be plain.
    let is_plain = authorization.bytes().all(|byte| byte.is_ascii_graphic());
    let url = Url::parse(authorization).ok();
    let url = url.filter(|url| is_plain && url.scheme() == "https").ok_or_else(|| {
        unfit("the server sends browsers to an address that is no https:// URL".to_owned())
    })?;
    let back = url.query_pairs().find(|(name, _)| name == "redirect_uri");
    let back = back.map(|(_, value)| value.into_owned()).unwrap_or_default();
    let here = Url::parse(&back).ok().filter(|url| url.scheme() == "http").and_then(|url| {
        let ip = match url.host_str()? {
            "127.0.0.1" | "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
            "[::1]" => IpAddr::from(Ipv6Addr::LOCALHOST),
            _ => return None,
        };
        Some((SocketAddr::new(ip, url.port_or_known_default()?), url.path().to_owned()))
    });
    here.ok_or_else(|| {
        unfit(format!(
            "the redirect-uri of {service:?} is {back:?}, where browsers do not come to this program; it needs one \
             such as http://127.0.0.1:8888/callback"
        ))
    })
}

/// The code that the browser comes back with.
async fn wait(listener: &TcpListener, expected: Arc<Return>) -> Result<Zeroizing<String>, Failure> {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => {
                let (stream, _) = accepted.context(Exit::Failed, "the port of this machine")?;
                let expected = expected.clone();
                open.spawn(async move {
                    timeout(REQUEST_TIME_MAX, serve(stream, &expected)).await.ok().flatten()
                });
            }
            Some(served) = open.join_next() => {
                if let Ok(Some(outcome)) = served {
                    return outcome;
                }
            }
        }
    }
}

/// Answers one request; with what it brought, if that ends the waiting.
async fn serve(
    mut stream: TcpStream,
    expected: &Return,
) -> Option<Result<Zeroizing<String>, Failure>> {
    let mut head = Zeroizing::new(vec![0; REQUEST_BYTES_MAX]);
    let mut length = 0;
    while !head[..length].windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut head[length..]).await {
            Ok(count) if count > 0 => length += count,
            // It went away, or says too much.
            _ => return None,
        }
    }
    let line = head[..length].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let reply = judge(std::str::from_utf8(line).unwrap_or_default(), expected);
    let page = format!("<!doctype html><title>Conclave</title><p>{}</p>\n", reply.page);
    let answer = format!(
        "HTTP/1.1 {}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{page}",
        reply.status,
        page.len()
    );
    // Whether the browser hears of it changes nothing.
    let _heard = stream.write_all(answer.as_bytes()).await;
    let _closed = stream.shutdown().await;
    reply.outcome
}

/// What a request's first line means (RFC 6749, 4.1.2). Any program of the machine can send one.
fn judge(line: &str, expected: &Return) -> Reply {
    let nothing = |status, page| Reply { status, page, outcome: None };
    let target = line.strip_prefix("GET /").and_then(|rest| rest.split(' ').next());
    let url = target.and_then(|target| Url::parse(&format!("http://127.0.0.1/{target}")).ok());
    let Some(url) = url.filter(|url| url.path() == expected.path) else {
        return nothing("404 Not Found", "Nothing is here.");
    };
    let field = |name: &str| {
        let found = url.query_pairs().find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
    };
    if expected.state.is_some() && field("state") != expected.state {
        return nothing("400 Bad Request", "This belongs to another login.");
    }
    if let Some(error) = field("error") {
        let failure = if error == "access_denied" {
            Failure::new(Exit::Unauthenticated, "the login was refused in the browser")
        } else {
            // As debug text, since the provider's words may hold anything.
            let words = field("error_description").unwrap_or(error);
            Failure::new(Exit::Refused, format!("the provider says {words:?}"))
        };
        let page = "The login has failed. This page can be closed.";
        return Reply { status: "200 OK", page, outcome: Some(Err(failure)) };
    }
    match field("code") {
        Some(code) => Reply {
            status: "200 OK",
            page: "The login goes on in the terminal. This page can be closed.",
            outcome: Some(Ok(Zeroizing::new(code))),
        },
        None => nothing("400 Bad Request", "A code is missing."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_come_back_to_this_machine_only() {
        let of = |back: &str| {
            let address = format!("https://idp/auth?client_id=x&redirect_uri={}", segment(back));
            way_back("idp", &address)
        };
        for (back, address, path) in [
            ("http://127.0.0.1:8888/callback", "127.0.0.1:8888", "/callback"),
            ("http://localhost:9/", "127.0.0.1:9", "/"),
            ("http://[::1]:9/a/b", "[::1]:9", "/a/b"),
            ("http://127.0.0.1/x", "127.0.0.1:80", "/x"),
        ] {
            let (at, found) = of(back).unwrap();
            assert_eq!((at.to_string().as_str(), found.as_str()), (address, path), "{back}");
        }
        for back in
            ["https://127.0.0.1:8888/x", "http://conclave.example/x", "http://0.0.0.0:1/", ""]
        {
            let failure = of(back).unwrap_err();
            assert!(failure.message.contains("http://127.0.0.1:8888/callback"), "{failure}");
        }
        for address in ["http://idp/?redirect_uri=http://127.0.0.1:1/", "https://i\u{1b}dp/", "x"] {
            assert!(way_back("idp", address).is_err(), "{address:?}");
        }
    }

    #[test]
    fn only_the_answer_that_was_waited_for_ends_the_waiting() {
        let expected = Return { path: "/back".to_owned(), state: Some("s t".to_owned()) };
        let code = |line: &str| {
            judge(line, &expected)
                .outcome
                .map(|found| found.map(|code| code.to_string()).map_err(|failure| failure.exit))
        };
        assert_eq!(code("GET /back?code=a%2Fb&state=s+t HTTP/1.1"), Some(Ok("a/b".to_owned())));
        for (query, exit) in [
            ("error=access_denied", Exit::Unauthenticated),
            ("error=server_error&error_description=x", Exit::Refused),
        ] {
            let line = format!("GET /back?state=s%20t&{query} HTTP/1.1");
            assert_eq!(code(&line), Some(Err(exit)), "{query}");
        }
        for line in [
            "GET /back?code=a&state=other HTTP/1.1",
            "GET /back?code=a HTTP/1.1",
            "GET /back?error=access_denied HTTP/1.1",
            "GET /back?code=&state=s+t HTTP/1.1",
            "GET /back?state=s+t HTTP/1.1",
            "GET /favicon.ico HTTP/1.1",
            "GET /back/?code=a&state=s+t HTTP/1.1",
            "POST /back?code=a&state=s+t HTTP/1.1",
            "GET http://elsewhere/back?code=a&state=s+t HTTP/1.1",
            "",
        ] {
            assert_eq!(code(line), None, "{line}");
        }
    }
}
