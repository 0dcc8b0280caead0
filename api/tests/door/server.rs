//! The listener, over a real socket: raw requests in, and a drain that lets the running one finish.

use std::time::Duration;

use conclave_api::serve_plain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::harness::House;

async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_requests_are_answered_or_refused_and_the_listener_drains() {
    let house = House::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let router = house.router.clone();
    let serving = tokio::spawn(serve_plain(listener, router, async {
        let _either_way = stopped.await;
    }));

    let get = "GET / HTTP/1.1\r\nhost: x\r\naccept: application/json\r\nconnection: close\r\n\r\n";
    let answer = exchange(address, get).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\"version\":\"1.24.0-"), "{answer}");
    let length = answer.lines().find(|line| line.starts_with("content-length")).unwrap().to_owned();

    let answer = exchange(address, &get.replace("GET", "HEAD")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(&length), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    // What could be read in two ways is read in none.
    for bad in [
        "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "GET / HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
        "GARBAGE\r\n\r\n",
    ] {
        let answer = exchange(address, bad).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let answer = exchange(address, &long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    // Who keeps a connection is told to go elsewhere before the end, and is asked back after a change of mind.
    let keep = "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    house.door.drain();
    let answer = exchange(address, keep).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"),
        "{answer}"
    );
    house.door.undrain();
    let answer = exchange(address, get).await;
    let again = exchange(address, &format!("{keep}{get}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(again.matches("HTTP/1.1 200 OK").count(), 2, "{again}");

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

/// Heads and bodies that could be read in two ways, or are too much.
const AMBIGUOUS: &[&str] = &[
    "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: x\r\nx y: z\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: x\r\nx: a\rb\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: x\r\n: a\r\n\r\n",
    "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /\x01 HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    "GET /\r\n\r\n",
    "G(T / HTTP/1.1\r\nhost: x\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0x3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3, 4\r\n\r\nabcd",
    "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\nabc",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nabc",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_readers_could_read_differently_is_read_by_none() {
    let house = House::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = house.router.clone();
    let serving = tokio::spawn(serve_plain(listener, router, std::future::pending()));
    let many = "x: y\r\n".repeat(200);
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let chunk = "POST /authn/demo/x/authenticate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
                 \r\nzz\r\nabc\r\n0\r\n\r\n";
    for bad in AMBIGUOUS.iter().copied().chain([many.as_str(), chunk]) {
        let answer = exchange(address, bad).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(answer.is_empty() || status.starts_with('4'), "{bad:?}: {answer}");
        assert!(!answer.contains("200 OK"), "{bad:?}: {answer}");
    }
    // A second request behind the first is no part of it, and gets an answer of its own or none.
    let smuggled = "POST /authn/demo/x/authenticate HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\n\
                    transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n\
                    GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = exchange(address, smuggled).await;
    assert!(!answer.contains("# metrics"), "{answer}");
    let get = "GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(exchange(address, get).await.starts_with("HTTP/1.1 200 OK"));
    serving.abort();
}
