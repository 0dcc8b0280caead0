//! Bounds on what a client may take: connections, headers, bodies, time, requests in work, and
//! failed guesses. Bounds that an operator may want to move are in [`crate::settings`].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use conclave_domain::time::Timestamp;
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use crate::error::Refusal;

/// Connections open at once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Streams of one HTTP/2 connection open at once.
pub const STREAMS_MAX: u32 = 256;
/// Bytes of a request's header.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Headers of one request.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a request's path and query.
pub const URI_BYTES_MAX: usize = 16 << 10;
/// Time for a TLS handshake.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for the header of a request; also how long an HTTP/1.1 connection may idle.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(75);
/// Time for running requests to finish when the listener stops.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of a body that nobody wants, read all the same before the answer.
const UNWANTED_BYTES_MAX: usize = 32 << 20;
/// Time for reading a body that nobody wants.
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(1);

/// Reads and drops a body that nobody wants, within bounds. A client that still sends when its answer
/// comes may lose the answer: the connection or stream is reset before the client has read it.
pub(crate) async fn discard(mut body: Body, headers: &HeaderMap) {
    // Who asks before sending is simply not told to send.
    if http_body::Body::is_end_stream(&body) || headers.contains_key(EXPECT) {
        return;
    }
    let reading = async {
        let mut total = 0;
        while let Some(Ok(frame)) = body.frame().await {
            total += frame.data_ref().map_or(0, bytes::Bytes::len);
            if total > UNWANTED_BYTES_MAX {
                break;
            }
        }
    };
    let _read_or_given_up = tokio::time::timeout(UNWANTED_TIME_MAX, reading).await;
}

/// Reads a whole body into memory that is wiped, within bounds.
pub(crate) async fn read_body(
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let reading = async {
        let mut body = body;
        let announced = http_body::Body::size_hint(&body).lower();
        if announced > bytes_max as u64 {
            return Err(Refusal::TooLarge { bytes_max });
        }
        // Sized once, so that no half-filled buffer with part of a secret is left behind.
        let capacity = usize::try_from(announced).unwrap_or(0).max(256);
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_broken| Refusal::Empty(http::StatusCode::BAD_REQUEST))?;
            let Ok(data) = frame.into_data() else { continue };
            let needed = bytes.len() + data.len();
            if needed > bytes_max {
                return Err(Refusal::TooLarge { bytes_max });
            }
            if needed > bytes.capacity() {
                let mut grown = Zeroizing::new(Vec::with_capacity(needed.max(bytes.len() * 2)));
                grown.extend_from_slice(&bytes);
                bytes = grown;
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    match tokio::time::timeout(time_max, reading).await {
        Ok(read) => read,
        Err(_elapsed) => Err(Refusal::Empty(http::StatusCode::REQUEST_TIMEOUT)),
    }
}

/// Counts failed authentications by address and attempted role, so that guessing is slow from any
/// one place and nobody else is locked out by it.
pub(crate) struct Failures {
    shards: Vec<Mutex<HashMap<u64, Window>>>,
    hasher: RandomState,
    most: u32,
    window_ms: i64,
}

#[derive(Clone, Copy)]
struct Window {
    started: Timestamp,
    failures: u32,
}

/// One address may fail so many times as often as one pair, with roles of whatever names.
const ADDRESS_FACTOR: u32 = 10;
/// Stands for all roles; no role is called that.
const ANY_ROLE: &str = "";

/// Pairs remembered in one shard; beyond it finished windows are dropped, then all.
const PAIRS_MAX: usize = 4096;

impl Failures {
    pub(crate) fn new(failures_max: u32, window: Duration) -> Self {
        Self {
            shards: (0..16).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            most: failures_max,
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// How long this pair has to wait, when it, or its address with whatever roles, has failed too
    /// often.
    pub(crate) fn held_up(&self, from: IpAddr, role: &str, now: Timestamp) -> Option<Duration> {
        let of_pair = self.held_up_at(self.place(from, role), self.most, now);
        let most_of_address = self.most.saturating_mul(ADDRESS_FACTOR);
        of_pair.max(self.held_up_at(self.place(from, ANY_ROLE), most_of_address, now))
    }

    fn held_up_at(
        &self,
        (shard, key): (&Mutex<HashMap<u64, Window>>, u64),
        most: u32,
        now: Timestamp,
    ) -> Option<Duration> {
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let window = shard.get(&key)?;
        let left = self.window_ms - now.0.saturating_sub(window.started.0);
        let held = window.failures >= most && left > 0;
        held.then(|| Duration::from_millis(left.unsigned_abs()))
    }

    /// Counts one failure.
    pub(crate) fn failed(&self, from: IpAddr, role: &str, now: Timestamp) {
        self.failed_at(self.place(from, role), now);
        self.failed_at(self.place(from, ANY_ROLE), now);
    }

    fn failed_at(&self, (shard, key): (&Mutex<HashMap<u64, Window>>, u64), now: Timestamp) {
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= PAIRS_MAX && !shard.contains_key(&key) {
            shard.retain(|_, window| now.0.saturating_sub(window.started.0) <= self.window_ms);
            if shard.len() >= PAIRS_MAX {
                shard.clear();
            }
        }
        let window = shard.entry(key).or_insert(Window { started: now, failures: 0 });
        if now.0.saturating_sub(window.started.0) > self.window_ms {
            *window = Window { started: now, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
    }

    fn place(&self, from: IpAddr, role: &str) -> (&Mutex<HashMap<u64, Window>>, u64) {
        let key = self.hasher.hash_one((from, role));
        let shard = usize::try_from(key >> 60).unwrap_or(0);
        (&self.shards[shard % self.shards.len()], key)
    }
}
