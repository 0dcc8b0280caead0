//! The interface of a Kubernetes cluster, as tests need it: a real server with TLS of its own authority,
//! which wants a bearer token and rights, keeps objects, and runs commands in containers over a
//! WebSocket. A container is a folder; the command is a real shell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

pub(crate) const V5: &str = "v5.channel.k8s.io";
pub(crate) const V4: &str = "v4.channel.k8s.io";

/// What may go wrong with commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ill {
    /// The handshake is answered so.
    Refuses(u16),
    /// Nothing is ever run.
    Hangs,
    /// A message for a stream that there is none of.
    Strange,
    /// The connection ends before the command does.
    BreaksOff,
    /// It ends in order, and nobody says how.
    SaysNothing,
    /// A message larger than any is.
    Floods,
    /// The shell itself is missing.
    NoShell,
}

/// Whose processes are in containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Users {
    /// Whoever's are on this machine.
    #[default]
    Any,
    /// One user's.
    One,
    /// Of others beside the user that commands run as.
    Several,
}

/// How the cluster behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mood {
    /// Names of protocols that it knows, beside the one without a name.
    pub(crate) protocols: Vec<&'static str>,
    pub(crate) ill: Option<Ill>,
    pub(crate) users: Users,
    /// Every answer comes so late.
    pub(crate) late: Option<Duration>,
    /// What stands before every answer, in place of the object.
    pub(crate) answers: Option<(u16, String)>,
    /// Kinds of resources that the token has no right to.
    pub(crate) forbidden: BTreeSet<&'static str>,
}

struct Inner {
    folder: PathBuf,
    token: Mutex<String>,
    objects: Mutex<BTreeMap<String, Value>>,
    /// The tokens that it has given out: whose, and for whom.
    given: Mutex<BTreeMap<String, (String, Vec<String>)>>,
    mood: Mutex<Mood>,
    /// Everything that was asked, in order.
    asked: Mutex<Vec<String>>,
    /// What was spoken with each command.
    spoken: Mutex<Vec<String>>,
}

/// A running cluster.
pub(crate) struct Cluster {
    inner: Arc<Inner>,
    pub(crate) url: String,
    pub(crate) authority: String,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let (authority, certificate) = super::issuer::certificates();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let resolver = rustls::sign::SingleCertAndKey::from(certificate);
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mood = Mood { protocols: vec![V5, V4], ..Mood::default() };
        let inner = Arc::new(Inner {
            folder: folder.path().to_owned(),
            token: Mutex::new("the-token".to_owned()),
            objects: Mutex::default(),
            given: Mutex::default(),
            mood: Mutex::new(mood),
            asked: Mutex::default(),
            spoken: Mutex::default(),
        });
        let served = inner.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, inner) = (acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service =
                        hyper::service::service_fn(move |request| answer(inner.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    let _ended = connection.with_upgrades().await;
                });
            }
        });
        let url = format!("https://127.0.0.1:{}", address.port());
        Self { inner, url, authority, task, _folder: folder }
    }

    /// Makes an object be there.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.inner.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    /// Gives out a token of a service account, for some audiences.
    pub(crate) fn give(&self, token: &str, user: &str, audiences: &[&str]) {
        let audiences = audiences.iter().map(|&one| one.to_owned()).collect();
        self.inner.given.lock().unwrap().insert(token.to_owned(), (user.to_owned(), audiences));
    }

    /// Its pod is gone, and with it the token.
    pub(crate) fn take_back(&self, token: &str) {
        assert!(self.inner.given.lock().unwrap().remove(token).is_some(), "{token}");
    }

    /// Makes it be gone.
    pub(crate) fn delete(&self, path: &str) {
        assert!(self.inner.objects.lock().unwrap().remove(path).is_some(), "no {path}");
    }

    /// Changes an object.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        change(self.inner.objects.lock().unwrap().get_mut(path).unwrap());
    }

    /// Changes how it behaves.
    pub(crate) fn mood(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.inner.mood.lock().unwrap());
    }

    /// From now on another token is in force.
    pub(crate) fn set_token(&self, token: &str) {
        token.clone_into(&mut self.inner.token.lock().unwrap());
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.asked.lock().unwrap())
    }

    /// The names of the protocols that commands were run by, since the last time.
    pub(crate) fn spoken(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.spoken.lock().unwrap())
    }

    /// The folder in a container where its client waits for a certificate.
    pub(crate) fn folder(&self, pod: &str, container: &str) -> PathBuf {
        let folder = folder(&self.inner.folder, pod, container);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}

fn folder(root: &Path, pod: &str, container: &str) -> PathBuf {
    root.join(pod).join(container)
}

type Answer = Result<Response<Full<Bytes>>, std::convert::Infallible>;

/// A refusal as Kubernetes writes it.
fn refusal(status: u16, reason: &str) -> Response<Full<Bytes>> {
    let document = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": status,
    });
    of(status, document.to_string())
}

fn of(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    inner.asked.lock().unwrap().push(format!("{} {path}", request.method()));
    let mood = inner.mood.lock().unwrap().clone();
    if let Some(late) = mood.late {
        tokio::time::sleep(late).await;
    }
    let wanted = format!("Bearer {}", inner.token.lock().unwrap());
    if request.headers().get("authorization").is_none_or(|sent| *sent != *wanted) {
        return Ok(refusal(401, "Unauthorized"));
    }
    if let Some((status, body)) = mood.answers {
        return Ok(of(status, body));
    }
    if path == "/apis" {
        let forbidden = mood.forbidden.contains("apis");
        let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []});
        return Ok(if forbidden { refusal(403, "Forbidden") } else { of(200, list.to_string()) });
    }
    if path == "/apis/authentication.k8s.io/v1/tokenreviews" && request.method() == "POST" {
        let forbidden = mood.forbidden.contains("tokenreviews");
        return Ok(if forbidden {
            refusal(403, "Forbidden")
        } else {
            review(&inner, request).await
        });
    }
    let kind = match path.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["api", "v1", "namespaces", _] => "namespaces",
        ["api", "v1", "namespaces", _, "pods", _, "exec"] => "pods/exec",
        ["api", "v1", "namespaces", _, kind, _] | ["apis", _, "v1", "namespaces", _, kind, _] => {
            kind
        }
        _ => return Ok(refusal(404, "NotFound")),
    };
    if mood.forbidden.contains(kind) {
        return Ok(refusal(403, "Forbidden"));
    }
    if kind == "pods/exec" {
        return Ok(exec(&inner, request, &path, &mood));
    }
    let found = inner.objects.lock().unwrap().get(&path).cloned();
    Ok(found.map_or_else(|| refusal(404, "NotFound"), |object| of(200, object.to_string())))
}

/// What is said of a token, as Kubernetes does: good for those of the audiences asked about that it is for.
async fn review(inner: &Inner, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    if review["kind"] != "TokenReview" || review["apiVersion"] != "authentication.k8s.io/v1" {
        return refusal(400, "BadRequest");
    }
    let token = review["spec"]["token"].as_str().unwrap().to_owned();
    let mut wanted: Vec<Value> =
        review["spec"]["audiences"].as_array().cloned().unwrap_or_default();
    if wanted.is_empty() {
        wanted.push(json!("https://kubernetes.default.svc"));
    }
    let given = inner.given.lock().unwrap().get(&token).cloned();
    review["status"] = match given {
        None => {
            json!({"user": {}, "error": "[invalid bearer token, service account token has been invalidated]"})
        }
        Some((user, audiences)) => {
            wanted.retain(|one| audiences.iter().any(|known| *one == **known));
            if wanted.is_empty() {
                json!({"user": {}, "error": "[invalid bearer token, token audiences are not wanted]"})
            } else {
                json!({"authenticated": true, "user": {"username": user, "uid": "u"}, "audiences": wanted})
            }
        }
    };
    of(201, review.to_string())
}

/// Answers a handshake and runs the command once it is through.
fn exec(
    inner: &Arc<Inner>,
    request: Request<Incoming>,
    path: &str,
    mood: &Mood,
) -> Response<Full<Bytes>> {
    if let Some(Ill::Refuses(status)) = mood.ill {
        return refusal(status, "so it is");
    }
    let pod = path.trim_end_matches("/exec");
    let Some(object) = inner.objects.lock().unwrap().get(pod).cloned() else {
        return refusal(404, "NotFound");
    };
    let query = request.uri().query().unwrap_or_default();
    let has =
        |name: &str, value: &str| query.split('&').any(|part| part == format!("{name}={value}"));
    let container = query.split('&').find_map(|part| part.strip_prefix("container=")).unwrap_or("");
    let named = |value: &Value| value["name"] == container;
    let is_there = ["containers", "initContainers"]
        .iter()
        .any(|list| object["spec"][*list].as_array().is_some_and(|list| list.iter().any(named)));
    if !is_there || !has("command", "sh") || !has("stdin", "true") || !has("stdout", "true") {
        return refusal(400, "BadRequest");
    }
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    if !header("upgrade").eq_ignore_ascii_case("websocket")
        || header("sec-websocket-version") != "13"
    {
        return refusal(400, "Upgrade request required");
    }
    let asked: Vec<&str> = header("sec-websocket-protocol")
        .split(',')
        .map(str::trim)
        .filter(|n| !n.is_empty())
        .collect();
    let chosen = asked.iter().find_map(|name| mood.protocols.iter().find(|known| *known == name));
    if !asked.is_empty() && chosen.is_none() {
        // As servers answer that know none of the names: without a document.
        return of(403, "");
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let headers = response.headers_mut();
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("sec-websocket-accept", accept.parse().unwrap());
    if let Some(name) = chosen {
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(name));
    }
    inner.spoken.lock().unwrap().push(chosen.copied().unwrap_or_default().to_owned());
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let waits_in = folder(&inner.folder, &name, container);
    let (protocol, ill, users) = (chosen.copied(), mood.ill, mood.users);
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let stream = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        run(socket, protocol, &waits_in, ill, users).await;
    });
    response
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The shell of a container with such processes.
fn shell(users: Users) -> Command {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let alone = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut command = match users {
        Users::Any => return Command::new("sh"),
        // Who may not be somebody else sees the processes of others on this machine.
        Users::Several if !is_root => return Command::new("sh"),
        Users::One | Users::Several => Command::new("unshare"),
    };
    if !is_root {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(alone).arg("sh");
    if users == Users::Several {
        // Somebody else's process, as long as the shell lives.
        let more = "setpriv --reuid 65534 --clear-groups sleep 60 & \
                    until [ ! -O /proc/$! ]; do :; done; sh; s=$?; kill $!; exit $s";
        command.args(["-c", more]);
    }
    command
}

/// One command, with frames as Kubernetes sends them.
async fn run(
    socket: Socket,
    protocol: Option<&'static str>,
    waits_in: &Path,
    ill: Option<Ill>,
    users: Users,
) {
    let (mut send, mut receive) = socket.split();
    let mut say = async |stream: u8, bytes: &[u8]| {
        let message = [&[stream], bytes].concat();
        let _gone = send.send(Message::Binary(message.into())).await;
    };
    // Streams are opened by a message without content.
    for stream in [1, 2, 3] {
        say(stream, b"").await;
    }
    match ill {
        Some(Ill::Hangs | Ill::Strange | Ill::Floods) => {
            if ill == Some(Ill::Strange) {
                say(9, b"?").await;
            } else if ill == Some(Ill::Floods) {
                say(1, &vec![b'x'; 1 << 20]).await;
            }
            while receive.next().await.is_some_and(|message| message.is_ok()) {}
            return;
        }
        Some(Ill::BreaksOff) => return,
        Some(Ill::NoShell) => {
            let text = "exec: \"sh\": executable file not found in $PATH: unknown";
            if protocol.is_some() {
                let status = json!({"metadata": {}, "status": "Failure", "message": text,
                    "reason": "InternalError", "code": 500});
                say(3, status.to_string().as_bytes()).await;
            } else {
                say(3, text.as_bytes()).await;
            }
            let _gone = send.close().await;
            return;
        }
        Some(Ill::SaysNothing) => {
            let _gone = send.close().await;
            return;
        }
        Some(Ill::Refuses(_)) | None => {}
    }
    let mut child = shell(users)
        .env("CONJUR_CLIENT_CERT_PATH", waits_in.join("client.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let feed = async {
        while let Some(Ok(message)) = receive.next().await {
            let Message::Binary(bytes) = message else { continue };
            match (bytes.first(), bytes.get(1..)) {
                (Some(0), Some(text)) => {
                    if let Some(stdin) = &mut stdin {
                        let _gone = stdin.write_all(text).await;
                    }
                }
                // The end of stdin is known to the fifth version alone.
                (Some(255), Some([0])) if protocol == Some(V5) => stdin = None,
                other => panic!("no frame of this protocol: {other:?}"),
            }
        }
    };
    let work = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        tokio::try_join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err)).unwrap();
        (out, err, child.wait().await.unwrap())
    };
    let (out, err, status) = tokio::select! {
        ended = work => ended,
        () = feed => return,
    };
    say(2, &err).await;
    say(1, &out).await;
    let code = status.code().unwrap();
    match (protocol, code) {
        (Some(_), 0) => say(3, br#"{"metadata":{},"status":"Success"}"#).await,
        (Some(_), code) => {
            let status = json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            });
            say(3, status.to_string().as_bytes()).await;
        }
        (None, 0) => {}
        (None, code) => {
            let text = format!("command terminated with non-zero exit code: exit status {code}");
            say(3, text.as_bytes()).await;
        }
    }
    let _gone = send.close().await;
}
