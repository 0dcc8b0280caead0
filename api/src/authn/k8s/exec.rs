//! A file put into a container of a pod, by the way in which Kubernetes runs commands there: a
//! WebSocket whose messages begin with the number of a stream. The answer is yes only when the file is
//! where it belongs.
//!
//! ```text
//! 0 stdin, 1 stdout, 2 stderr, 3 how it ended, 255 (v5 only) the stream that ends
//! ```
//! Asked for are `v5.channel.k8s.io` and `v4.channel.k8s.io`, which tell on stream 3, as JSON, how the
//! command ended. Servers that know neither are asked again without a name; of theirs, stream 3 has a
//! text when it went wrong, and nothing else. So the script says itself, on stdout, when it is done.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, StatusCode};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::cluster::{Cluster, not_the_clients};
use super::request::PodName;
use crate::authn::Denied;
use crate::authn::outbound::{CallError, Outbound, Target};
use crate::credentials::{hex, random};
use crate::error::Refusal;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
const CLOSED: u8 = 255;
const V5: &str = "v5.channel.k8s.io";
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
/// Largest message that is read, and most that is kept of a stream.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const KEPT_BYTES_MAX: usize = 4 << 10;
/// The status with which the script ends when there is no folder for the file.
const NO_FOLDER: &str = "34";

/// Writes a certificate to where the client in a container waits for it. When this returns, the file is
/// there, whole, and was never there in part.
pub(super) async fn put(
    outbound: &Outbound,
    cluster: &Cluster,
    pod: &PodName,
    container: &str,
    pem: &str,
    time_max: Duration,
) -> Result<(), Denied> {
    let PodName { namespace, pod } = pod;
    // All of them are names that need no encoding.
    let target = cluster.target(&format!(
        "/api/v1/namespaces/{namespace}/pods/{pod}/exec?container={container}\
         &stdin=true&stdout=true&stderr=true&command=sh"
    ))?;
    let mut nonce = [0; 8];
    random(&mut nonce).map_err(|error| Refusal::Fault(error.to_string()))?;
    let mark = hex(&nonce);
    let script = script(pem, &mark);
    let running = async {
        let (mut socket, protocol) = connect(outbound, cluster, &target).await?;
        let ended = run(&mut socket, protocol.as_deref(), script, &mark).await;
        // Said for politeness: whether it is heard changes nothing.
        drop(socket.close(None).await);
        ended
    };
    match tokio::time::timeout(time_max, running).await {
        Ok(ended) => ended,
        Err(_elapsed) => Err(Denied::new(format!(
            "CONJ00033E The command in container '{container}' of pod '{pod}' has not ended within \
             {time_max:?}"
        ))),
    }
}

/// The script, for any POSIX shell. It needs `mv` and `rm` and nothing else; the client's own setting
/// says where the file belongs. It ends by itself, since stdin cannot be ended before `v5`.
///
/// Where every process of the container is of the user that the script runs as, the client is, too, and nobody else
/// has to read the file. Where one is not, or that cannot be seen, the client may be of any user.
fn script(pem: &str, mark: &str) -> String {
    debug_assert!(!pem.contains('\''), "PEM has no quotes");
    format!(
        "f=\"${{CONJUR_CLIENT_CERT_PATH:-/etc/conjur/ssl/client.pem}}\"\n\
         d=\"${{f%/*}}\"\n\
         if [ ! -d \"$d\" ]; then echo \"there is no folder $d\" >&2; exit {NO_FOLDER}; fi\n\
         if [ -d \"$f\" ]; then echo \"$f is a folder\" >&2; exit 1; fi\n\
         t=\"$f.tmp-{mark}\"\n\
         m=077\n\
         [ -e \"/proc/$$\" ] || m=022\n\
         for p in /proc/[0-9]*; do [ ! -e \"$p\" ] || [ -O \"$p\" ] || m=022; done\n\
         umask $m\n\
         if printf '%s' '{pem}' > \"$t\" && mv -f \"$t\" \"$f\"; then echo {mark}; exit 0; fi\n\
         rm -f \"$t\"\n\
         exit 1\n"
    )
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

fn not_opened(why: impl std::fmt::Display) -> Denied {
    Denied::new(format!("CONJ00071E No command can be run in the pod: {why}"))
}

/// The same where the client could not have avoided it.
fn theirs(error: &CallError, why: impl std::fmt::Display) -> Denied {
    Denied { refusal: not_the_clients(error), ..not_opened(why) }
}

/// What has come of a handshake. That the cluster is ill, or does not let this node run commands, is no fault of the
/// client's.
fn not_shaken(error: &Error) -> Denied {
    let is_theirs = |status: &StatusCode| {
        status.is_server_error()
            || matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    };
    let status = if let Error::Http(answer) = error { Some(answer.status()) } else { None };
    match status.filter(is_theirs) {
        Some(status) => theirs(&CallError::Status(status), error),
        None => not_opened(error),
    }
}

async fn connect(
    outbound: &Outbound,
    cluster: &Cluster,
    target: &Target,
) -> Result<(Socket, Option<String>), Denied> {
    match open(outbound, cluster, target, Some(PROTOCOLS)).await? {
        Ok(opened) => Ok(opened),
        // So say servers, old and new, that know none of the names.
        Err(Error::Http(answer))
            if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN) =>
        {
            open(outbound, cluster, target, None).await?.map_err(|error| not_shaken(&error))
        }
        Err(Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_))) => {
            open(outbound, cluster, target, None).await?.map_err(|error| not_shaken(&error))
        }
        Err(error) => Err(not_shaken(&error)),
    }
}

async fn open(
    outbound: &Outbound,
    cluster: &Cluster,
    target: &Target,
    protocols: Option<&'static str>,
) -> Result<Result<(Socket, Option<String>), Error>, Denied> {
    let stream = outbound.secure(target, Some(&cluster.authorities), &[b"http/1.1"]).await;
    let stream = stream.map_err(|error| theirs(&error, &error))?;
    let mut request = Request::builder()
        .uri(format!("wss://{}{}", target.authority(), target.path()))
        .header(HOST, target.authority())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .body(())
        .map_err(not_opened)?;
    request.headers_mut().extend(cluster.headers()?);
    if let Some(names) = protocols {
        let names = HeaderValue::from_static(names);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, names);
    }
    let bounds = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(bounds)).await;
    Ok(opened.map(|(socket, answer)| {
        let named = answer.headers().get(SEC_WEBSOCKET_PROTOCOL);
        (socket, named.and_then(|name| name.to_str().ok()).map(str::to_owned))
    }))
}

async fn run(
    socket: &mut Socket,
    protocol: Option<&str>,
    script: String,
    mark: &str,
) -> Result<(), Denied> {
    let mut broken = None;
    let mut message = vec![STDIN];
    message.extend(script.into_bytes());
    let mut messages = vec![Message::Binary(message.into())];
    if protocol == Some(V5) {
        messages.push(Message::Binary(Bytes::from_static(&[CLOSED, STDIN])));
    }
    for message in messages {
        // Who does not listen any more may have said why.
        broken = broken.or(socket.send(message).await.err());
    }
    let (mut stdout, mut stderr, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(message) = socket.next().await {
        let message = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => text.into(),
            Ok(Message::Close(_)) => break,
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            Err(error) => {
                broken = broken.or(Some(error));
                break;
            }
        };
        let Some((&stream, bytes)) = message.split_first() else { continue };
        let kept = match stream {
            STDOUT => &mut stdout,
            STDERR => &mut stderr,
            ENDED => &mut ended,
            CLOSED if protocol == Some(V5) => continue,
            other => {
                return Err(Denied::new(format!("CONJ00073E A message for stream {other}")));
            }
        };
        let room = KEPT_BYTES_MAX.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        match stream {
            ENDED if !ended.is_empty() => {
                if let Some(status) = Ended::read(&ended) {
                    return status.judge(&stderr);
                }
                if protocol.is_none() {
                    return Err(failed(&readable(&ended), &readable(&stderr)));
                }
            }
            // Servers without a name for what they speak do not say that all went well.
            STDOUT if protocol.is_none() && is_done(&stdout, mark) => return Ok(()),
            _ => {}
        }
    }
    let why = broken.map_or_else(
        || "it ended without saying how".to_owned(),
        |error| format!("the connection broke off: {error}"),
    );
    Err(failed(&why, &readable(&stderr)))
}

/// Whether the script has said that the file is there.
fn is_done(stdout: &[u8], mark: &str) -> bool {
    stdout.split(|&byte| byte == b'\n').any(|line| line == mark.as_bytes())
}

/// How a command ended, as Kubernetes says it.
#[derive(Debug, Deserialize)]
struct Ended {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Ended {
    fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn judge(&self, stderr: &[u8]) -> Result<(), Denied> {
        if self.status == "Success" {
            return Ok(());
        }
        let mut causes = self.details.causes.iter();
        if causes.any(|cause| cause.reason == "ExitCode" && cause.message == NO_FOLDER) {
            return Err(Denied::new(format!("CONJ00034E {}", readable(stderr))));
        }
        Err(failed(&readable(self.message.as_bytes()), &readable(stderr)))
    }
}

fn failed(why: &str, stderr: &str) -> Denied {
    let beside = if stderr.is_empty() { String::new() } else { format!(" ({stderr})") };
    Denied::new(format!("CONJ00072E The command in the pod failed: {why}{beside}"))
}

/// What a stream had, as it may stand in a record.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(300).collect()
}
