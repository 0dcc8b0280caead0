//! Garbage at every input of a live cluster: bytes that are no TLS, no HTTP, no policy, no QUIC;
//! paths and headers made to confuse. The nodes must answer each with an error that names the
//! fault or hang up, must neither panic nor end, and must go on serving.
//!
//! Source: `fault-model` section 8 (T8, T9, T10, T17, T18) and I13.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::report::Report;
use super::{Options, finish, fresh_secrets, put};
use crate::checker::Violation;
use crate::client::{Asked, NoAnswer};
use crate::process::cluster::{Cluster, Shape};
use crate::process::node::PEER_PORT;
use crate::process::shell::HarnessError;
use crate::rng::Rng;

/// How long to wait for what a node says to garbage.
const PATIENCE: Duration = Duration::from_millis(150);

/// Paths that confuse: encodings, dots, NUL, foreign kinds, bad numbers.
const PATHS: [&str; 24] = [
    "/secrets/chaos/variable/..%2f..%2fetc%2fpasswd",
    "/secrets/chaos/variable/%00",
    "/secrets/chaos/variable/%ff%fe",
    "/secrets/chaos/variable/%",
    "/secrets/chaos/variable/a?version=-1",
    "/secrets/chaos/variable/a?version=99999999999999999999",
    "/secrets/chaos/variable/a?version=",
    "/secrets/chaos/policy/root",
    "/secrets/cha%2fos/variable/a",
    "/secrets//variable/a",
    "/secrets?variable_ids=",
    "/secrets?variable_ids=a,b,c,,,",
    "/secrets?variable_ids=%ff",
    "/resources/chaos?limit=-1&offset=x",
    "/resources/chaos/host_factory/%2e%2e",
    "/roles/chaos/user/admin?members&kind[]=%00",
    "/roles/chaos/user/admin?all&graph&memberships",
    "/policies/chaos/policy/root?depth=99999999999",
    "/authn/chaos/%00/authenticate",
    "/authn/!/admin/login",
    "/whoami/%2F%2F;x=y",
    "/%2e%2e/%2e%2e/metrics",
    "/cluster/status?x=%F0%9F",
    "//////",
];

/// Policies that are none.
const POLICIES: [&str; 14] = [
    "",
    "\u{0}",
    "- !variable [",
    "- !user {id: a, id: b}",
    "- !unknown x",
    "- !policy\n  id: p\n  body:\n  - !user a\n   - !user b",
    "&a [*a, *a]",
    "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
     d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]",
    "- !grant {role: !group nobody, member: !user nobody}",
    "- !host {id: h, restricted_to: not-an-address}",
    "%TAG ! tag:x,2000:\n---\n- !user x",
    "- !permit\n  role: !user a\n  privileges: [read\n",
    "- !include other.yml",
    "- &x !user x\n- *y",
];

/// Runs the drill: as many rounds as trials, each with every kind of garbage at every node.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut cluster = Cluster::found(Shape::default()).await?;
    let names = fresh_secrets("garbage", 1);
    cluster.declare(&names).await?;
    put(&cluster, &names[0], "as it was").await?;
    let pids: Vec<_> = cluster.nodes.iter().map(crate::process::node::Node::pid).collect();

    for round in 0..options.trials {
        let mut rng = Rng::new(options.seed).fork(&format!("round {round}"));
        for position in 0..cluster.nodes.len() {
            let door = cluster.door(position)?;
            let peer = SocketAddr::new(cluster.nodes[position].place.address, PEER_PORT);
            throw_bytes(door.address(), &mut rng).await?;
            throw_datagrams(peer, &mut rng).await?;
            for request in raw_requests(&mut rng) {
                let answer = door.send_raw(&request, PATIENCE).await.unwrap_or_default();
                judge_status(&request, status_of(&answer), report);
            }
            for request in requests(&cluster, &mut rng) {
                let what = format!("{request:?}");
                match door.ask(request).await {
                    Ok(answer) => {
                        judge_status(what.as_bytes(), Some(answer.status.as_u16()), report);
                    }
                    Err(NoAnswer::NotSent(_)) => {}
                    Err(NoAnswer::Unknown(error)) => {
                        // Hanging up is an answer; silence is not.
                        if error.starts_with("no answer") {
                            report.broken([broken(format!("no answer to {what}"))]);
                        }
                    }
                }
            }
        }
        report.trials += 1;
    }

    for (node, pid) in cluster.nodes.iter_mut().zip(pids) {
        if let Some(status) = node.has_ended() {
            report.broken([broken(format!("{} ended: {status}", node.place.name))]);
        } else if node.pid() != pid {
            report.unclear(format!("{} has another process", node.place.name));
        }
    }
    cluster.wait_healthy().await?;
    for position in 0..cluster.nodes.len() {
        let answer = cluster.door(position)?.ask(cluster.login.read(&names[0], None)).await;
        if !answer.as_ref().is_ok_and(|answer| answer.body == "as it was") {
            report.broken([broken(format!("a secret is not as it was: {answer:?}"))]);
        }
    }
    put(&cluster, &names[0], "as it is").await?;
    report.acknowledged += 1;
    finish(cluster, options, report);
    Ok(())
}

fn broken(detail: String) -> Violation {
    Violation { invariant: "garbage is refused", detail }
}

/// A server error on garbage means that nobody thought of it. 503 is the cluster's own word.
fn judge_status(request: &[u8], status: Option<u16>, report: &mut Report) {
    if let Some(status @ 500..=599) = status
        && status != 503
        && status != 501
    {
        let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
        report.broken([broken(format!("{status} to {shown:?}"))]);
    }
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.get(..12)?).ok()?;
    line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

fn noise(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes.fill_with(|| rng.next_u64().to_le_bytes()[0]);
    bytes
}

/// Bytes that are no TLS, and TLS that goes wrong after its first record header.
async fn throw_bytes(address: SocketAddr, rng: &mut Rng) -> Result<(), HarnessError> {
    let length = rng.index(4096) + 1;
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    hello.extend(noise(rng, 505));
    for bytes in [noise(rng, length), hello, b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0x16, 0x03]] {
        let mut stream = TcpStream::connect(address).await?;
        // The node may hang up first.
        timeout(PATIENCE, stream.write_all(&bytes)).await.map(Result::ok).ok();
    }
    Ok(())
}

/// Datagrams of noise, and noise behind the first bytes of QUIC's long and short headers.
async fn throw_datagrams(peer: SocketAddr, rng: &mut Rng) -> Result<(), HarnessError> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    for _ in 0..30 {
        let length = rng.index(1400) + 1;
        let mut datagram = noise(rng, length);
        let header: &[u8] = match rng.below(5) {
            0 => &[0xc3, 0, 0, 0, 1, 8],
            1 => &[0xff, 0xff, 0xff, 0xff, 0xff, 20],
            2 => &[0xe0, 0, 0, 0, 1, 255],
            3 => &[0x40],
            _ => &[],
        };
        let covered = header.len().min(datagram.len());
        datagram[..covered].copy_from_slice(&header[..covered]);
        socket.send_to(&datagram, peer).await?;
    }
    socket.send_to(&[], peer).await?;
    Ok(())
}

/// HTTP that is none, over good TLS.
fn raw_requests(rng: &mut Rng) -> Vec<Vec<u8>> {
    let length = rng.index(2048) + 1;
    let mut huge = b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec();
    for number in 0..2_000 {
        huge.extend(format!("X-{number}: {number}\r\n").bytes());
    }
    huge.extend(b"\r\n");
    let mut long_line = b"GET /".to_vec();
    long_line.resize(200_000, b'a');
    long_line.extend(b" HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut deep = b"GET ".to_vec();
    for _ in 0..2_000 {
        deep.extend(b"/a");
    }
    deep.extend(b" HTTP/1.1\r\nHost: x\r\n\r\n");
    let fixed: [&[u8]; 10] = [
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /secrets/chaos/variable/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /secrets/chaos/variable/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /authn/chaos/admin/authenticate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"GET /whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Token token=\"\"\r\n\r\n",
        b"GET /whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Token token=\"e30=\"\r\n\r\n",
        b"GET /whoami HTTP/1.1\r\nHost: x\r\nAuthorization: \xff\xfe\r\nX: a\x00b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\xff\xff\xff\xff\xff\xff",
    ];
    let mut requests: Vec<Vec<u8>> = fixed.iter().map(|bytes| bytes.to_vec()).collect();
    requests.extend([huge, long_line, deep, noise(rng, length)]);
    requests
}

/// Well-formed requests with senseless content, with and without a token.
fn requests(cluster: &Cluster, rng: &mut Rng) -> Vec<Asked> {
    let login = &cluster.login;
    let mut requests = Vec::new();
    let methods =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
    for path in PATHS {
        let method = rng.pick(&methods).cloned().unwrap_or(Method::GET);
        let length = rng.index(300);
        let request = Asked::new(method, path, noise(rng, length));
        requests.push(if rng.chance(700) { login.signed(request) } else { request });
        requests.push(login.signed(Asked::new(Method::GET, path, Bytes::new())));
    }
    let path = format!("/policies/{}/policy/root", login.account());
    for policy in POLICIES {
        requests.push(login.signed(Asked::new(Method::POST, &*path, policy)));
    }
    let mut nested = String::new();
    for depth in 0..3_000 {
        nested.push_str(&" ".repeat(depth % 50));
        nested.push_str("- [");
    }
    requests.push(login.signed(Asked::new(Method::POST, &*path, nested)));
    requests.push(login.signed(Asked::new(Method::POST, &*path, "[".repeat(5_000))));
    let length = rng.index(5_000);
    requests.push(login.signed(Asked::new(Method::POST, &*path, noise(rng, length))));
    for token in [
        "",
        "Token",
        "Token token=",
        "Token token=\"%%%\"",
        "Basic x",
        "Bearer a.b.c",
        "Basic Og==",
    ] {
        requests.push(Asked::new(Method::GET, "/whoami", Bytes::new()).authorized(token));
        let path = format!("/authn/{}/login", login.account());
        requests.push(Asked::new(Method::GET, path, Bytes::new()).authorized(token));
    }
    let path = format!("/authn/{}/admin/authenticate", login.account());
    let length = rng.index(10_000);
    requests.push(Asked::new(Method::POST, path, noise(rng, length)));
    requests
}
