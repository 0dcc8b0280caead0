//! The door: what every request goes through, in one place.
//!
//! ```text
//! room and address → token → route → writes not here? → index seen → handler → audit → answer
//! ```
//! The order is part of the contract: an unknown path without a token is 401, not 404. Nothing is
//! answered before its records are in the spool; when they cannot be written, the answer is 503.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use axum::body::Body;
use conclave_domain::time::Timestamp;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::audit::{Deed, Record, Spool};
use crate::authn::{Outbound, Registry, is_from_nowhere};
use crate::client;
use crate::context::{Answer, Call};
use crate::credentials::{CredentialError, PasswordOffice, hex, random};
use crate::error::Refusal;
use crate::limits::{Failures, URI_BYTES_MAX, discard};
use crate::metrics::Meters;
use crate::ports::{Clock, Health, Part, Proposer, Seeds, StateStore, Vault, VaultSource};
use crate::read::patiently;
use crate::router::{Access, Auth, PathClass, ROUTES, Route, RouteTable, loggable};
use crate::routes::policies::turns::Turns;
use crate::server::Peer;
use crate::settings::{Settings, SettingsError};
use crate::token::{TokenError, TokenOffice, Verified};
use crate::wire::query::Query;

/// Names a request in answers and records; taken from the client or made here.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The newest log index that an answer depends on; sent back, the next answer is at least as new.
pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-conclave-index");
/// The media type of the v2 API.
pub(crate) const V2: &str = "application/x.secretsmgr.v2beta+json";
/// Longest request id taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 255;

/// Renders the metrics of the whole process as Prometheus text.
pub type MetricsText = dyn Fn() -> String + Send + Sync;

/// What a door is built from.
pub struct Parts {
    /// Where state is read.
    pub state: StateStore,
    /// Where commands go.
    pub proposer: Arc<dyn Proposer>,
    /// What opens sealed values; sealed itself until the node has its keyring.
    pub vaults: Arc<dyn VaultSource>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where audit records go.
    pub spool: Arc<Spool>,
    /// What `/metrics` answers; without it, that is a path like any that is not there.
    pub metrics_text: Option<Arc<MetricsText>>,
    /// Everything that can be set.
    pub settings: Settings,
}

/// Why a door could not be built.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The settings contradict themselves.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The decoy for unknown users could not be made.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The threads that sign tokens could not be started.
    #[error("token signers: {0}")]
    Signers(#[from] std::io::Error),
}

/// Untrusted bytes in, decisions and replies out.
pub struct Door {
    pub(crate) state: StateStore,
    pub(crate) proposer: Arc<dyn Proposer>,
    pub(crate) vaults: Arc<dyn VaultSource>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics_text: Option<Arc<MetricsText>>,
    settings: ArcSwap<Settings>,
    pub(crate) tokens: TokenOffice,
    pub(crate) passwords: PasswordOffice,
    pub(crate) failures: Failures,
    pub(crate) policy_turns: Turns,
    pub(crate) registry: Registry,
    pub(crate) meters: Meters,
    /// Set by the node while it leaves service: `/health` then says not ready.
    pub(crate) draining: ArcSwapOption<&'static str>,
    seeds: OnceLock<Arc<dyn Seeds>>,
    routes: RouteTable,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    /// Builds a door. Takes one password hash, some 25 ms.
    ///
    /// # Errors
    /// [`DoorError`], when the settings or the system's random source are bad.
    pub fn new(parts: Parts) -> Result<Arc<Self>, DoorError> {
        let Parts { state, proposer, vaults, clock, spool, metrics_text, settings } = parts;
        settings.check()?;
        let routes = RouteTable::new();
        Ok(Arc::new(Self {
            tokens: TokenOffice::new(settings.signing_parallel_max, settings.signing_queue_max)?,
            passwords: PasswordOffice::new(
                settings.hashing_parallel_max,
                settings.hashing_queue_max,
            )?,
            failures: Failures::new(settings.failures_max, settings.failure_window),
            policy_turns: Turns::default(),
            registry: Registry::new(
                &settings.authenticators,
                Outbound::new(settings.outbound_networks.clone(), settings.outbound_time_max),
                &settings.clouds,
            ),
            meters: Meters::new(ROUTES),
            places: Arc::new(Semaphore::new(settings.requests_in_flight_max)),
            draining: ArcSwapOption::empty(),
            seeds: OnceLock::new(),
            state,
            proposer,
            vaults,
            clock,
            spool,
            metrics_text,
            settings: ArcSwap::from_pointee(settings),
            routes,
        }))
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Puts other settings in force, for requests that come from now on. Of what the door was built
    /// from (places, queues, networks to call) nothing changes.
    ///
    /// # Errors
    /// When the settings contradict themselves; then the former ones stay.
    pub fn change_settings(&self, settings: Settings) -> Result<(), SettingsError> {
        settings.check()?;
        self.registry.put_in_force(&settings.authenticators);
        self.settings.store(Arc::new(settings));
        Ok(())
    }

    /// Makes `/health` say that this node is about to stop, so that load balancers turn away first.
    pub fn drain(&self) {
        self.draining.store(Some(Arc::new("draining")));
    }

    /// Makes `/health` forget what [`Self::drain`] said.
    pub fn undrain(&self) {
        self.draining.store(None);
    }

    /// Whether load balancers are told to turn away.
    pub fn is_draining(&self) -> bool {
        self.draining.load().is_some()
    }

    /// What is wrong with this node; nothing when it is well. One that has yet to be given its vote may be well.
    pub fn ailment(&self) -> Option<&'static str> {
        crate::routes::status::health::ailment(self)
    }

    /// From now on seeds come from there. The first to be named stays.
    pub fn issue_seeds_with(&self, seeds: Arc<dyn Seeds>) {
        if self.seeds.set(seeds).is_err() {
            tracing::error!("the door has somebody who issues seeds already");
        }
    }

    pub(crate) fn seeds(&self) -> Option<Arc<dyn Seeds>> {
        self.seeds.get().cloned()
    }

    /// How this node is, for other members that ask.
    pub fn health(&self) -> Health {
        crate::routes::status::health::of(self)
    }

    /// The vault, or a refusal while this node is sealed.
    pub(crate) fn vault(&self) -> Result<Arc<Vault>, Refusal> {
        self.vaults.vault().ok_or(Refusal::unavailable("this node is sealed"))
    }

    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let may_be_last = parts.version < Version::HTTP_2;
        // Both share what they are cloned from.
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        let request_id = request_id(&parts.headers);
        let peer = parts.extensions.get::<Peer>();
        let peer_ip = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.address.ip());
        let certificates = peer.map(|peer| peer.certificates.clone()).unwrap_or_default();
        let mut visit = Visit {
            client_ip: client::address(peer_ip, &parts.headers, &self.settings().trusted_proxies),
            request_id,
            now: self.clock.now(),
            index: 0,
            route: None,
        };
        let (mut response, records) = match self.places.clone().try_acquire_owned() {
            Err(_full) => {
                let refusal = Refusal::unavailable("too many requests are in work");
                (refusal.into_response(), Vec::new())
            }
            Ok(_place) => {
                let inner = Inner {
                    method: parts.method,
                    path: parts.uri.path().to_owned(),
                    query: parts.uri.query().unwrap_or_default().to_owned(),
                    headers: parts.headers,
                    body,
                    peer_ip,
                    certificates,
                    started,
                };
                self.clone().admit(&mut visit, inner).await
            }
        };
        if let Err(error) = self.spool.append(&records).await {
            // What was decided stays unsaid.
            response = Refusal::unavailable(error.to_string()).into_response();
        }
        let index = visit.index.max(self.state.applied_index());
        stamp(&mut response, &visit.request_id, index, is_head);
        if may_be_last && self.is_draining() {
            // Whoever keeps connections goes elsewhere with the next request, before this node ends. HTTP/2 has
            // its own way of saying so, which cuts off nobody.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.meters.request(visit.route, response.status(), started.elapsed());
        log(&visit, &method, loggable(uri.path()), response.status(), started.elapsed());
        response
    }

    /// The way up to the handler. What is refused here is recorded here.
    async fn admit(
        self: Arc<Self>,
        visit: &mut Visit,
        inner: Inner,
    ) -> (Response<Body>, Vec<Record>) {
        if let Err(error) = self.spool.check() {
            return (Refusal::unavailable(error.to_string()).into_response(), Vec::new());
        }
        if inner.path.len() + inner.query.len() > URI_BYTES_MAX {
            return (Refusal::Empty(StatusCode::URI_TOO_LONG).into_response(), Vec::new());
        }
        // Which of two would count is for nobody to guess, a proxy in front least of all.
        let is_sent_twice = |name: HeaderName| inner.headers.get_all(name).iter().nth(1).is_some();
        if is_sent_twice(AUTHORIZATION) || is_sent_twice(HOST) {
            discard(inner.body, &inner.headers).await;
            return (Refusal::Empty(StatusCode::BAD_REQUEST).into_response(), Vec::new());
        }
        let has_metrics = self.settings().metrics && self.metrics_text.is_some();
        let class = PathClass::of(&inner.method, &inner.path, has_metrics);
        let principal = match self.authenticate(class, &inner.headers, visit) {
            Ok(principal) => principal,
            // Who has yet to hear of an account cannot tell that its tokens are bad.
            Err(TokenError::Invalid) if self.proposer.part() == Part::Joining => {
                discard(inner.body, &inner.headers).await;
                let refusal = Refusal::unavailable("this node is joining; ask another member");
                return (refusal.into_response(), Vec::new());
            }
            Err(error) => {
                discard(inner.body, &inner.headers).await;
                return visit.refuse_token(error, &inner.headers);
            }
        };
        // The route is looked for only now: who has no token learns nothing of what exists.
        let found = self.routes.find(&inner.method, &inner.path, &inner.query);
        let is_there = |route: &Route| {
            route.feature.is_none_or(|feature| feature.is_enabled(&self.settings()))
        };
        let Some((place, route, params)) = found.filter(|(_, route, _)| is_there(route)) else {
            discard(inner.body, &inner.headers).await;
            return (Refusal::UNROUTED.into_response(), Vec::new());
        };
        visit.route = Some(place);
        if route.auth == Auth::Token && principal.is_none() {
            discard(inner.body, &inner.headers).await;
            return visit.refuse_token(TokenError::Missing, &inner.headers);
        }
        let mut call = Call {
            door: self.clone(),
            route,
            method: inner.method,
            path: inner.path,
            params,
            query: Query::parse(&inner.query),
            headers: inner.headers,
            body: Some(inner.body),
            client_ip: visit.client_ip,
            peer_ip: inner.peer_ip,
            certificates: inner.certificates,
            request_id: visit.request_id.clone(),
            now: visit.now,
            deadline: inner.started + self.settings().request_time_max,
            principal,
            deeds: Vec::new(),
            reason: None,
            token_seconds: None,
            index: 0,
        };
        if route.access == Access::Read {
            let (response, records) = perform(&mut call).await;
            visit.index = call.index;
            return (response, records);
        }
        // What changes something goes on to its end though the client may have gone, and with it all that follows
        // here; so its records are kept in there.
        let task = tokio::spawn(async move {
            let (mut response, records) = perform(&mut call).await;
            if let Err(error) = call.door.spool.append(&records).await {
                response = Refusal::unavailable(error.to_string()).into_response();
            }
            (response, call.index)
        });
        match task.await {
            Ok((response, index)) => {
                visit.index = index;
                (response, Vec::new())
            }
            Err(error) => {
                let refusal = Refusal::Fault(format!("a handler broke off: {error}"));
                tracing::error!(%error, request_id = %visit.request_id, "http.handler");
                (refusal.into_response(), Vec::new())
            }
        }
    }

    /// Checks the token that came with a request, as its path's class wants it.
    fn authenticate(
        &self,
        class: PathClass,
        headers: &HeaderMap,
        visit: &Visit,
    ) -> Result<Option<Arc<Verified>>, TokenError> {
        if class == PathClass::Open {
            return Ok(None);
        }
        let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let header = header.filter(|header| crate::token::is_token(header));
        match (header, class) {
            (None, PathClass::Optional) => Ok(None),
            (None, _) => Err(TokenError::Missing),
            (Some(header), _) => {
                let keys = |key_id: &str| {
                    patiently(&self.state, |view| {
                        let (name, account) = view.state.account_by_key_id(key_id)?;
                        Some((name.clone(), account.signing_key.public.clone()))
                    })
                };
                let caller = self.tokens.check(header, visit.now, visit.client_ip, keys)?;
                // Whoever is let in from nowhere has been disabled since.
                let is_disabled = patiently(&self.state, |view| {
                    view.state.credential(&caller.role).is_some_and(is_from_nowhere)
                });
                if is_disabled { Err(TokenError::Invalid) } else { Ok(Some(caller)) }
            }
        }
    }
}

/// A line for each request: what failed always, what went well when asked for. Without the query,
/// which clients put more into than ids.
fn log(visit: &Visit, method: &Method, path: &str, status: StatusCode, took: Duration) {
    let (request_id, ip, status) = (&visit.request_id, visit.client_ip, status.as_u16());
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if status >= 400 {
        tracing::info!(%request_id, %ip, %method, path, status, ms, "http.request");
    } else {
        tracing::debug!(%request_id, %ip, %method, path, status, ms, "http.request");
    }
}

/// What is known of a request before it has a route.
struct Visit {
    client_ip: IpAddr,
    request_id: String,
    now: Timestamp,
    index: u64,
    /// Its route's place in the table.
    route: Option<usize>,
}

/// The pieces of a request.
struct Inner {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Body,
    peer_ip: IpAddr,
    certificates: Arc<[CertificateDer<'static>]>,
    started: Instant,
}

impl Visit {
    fn refuse_token(
        &self,
        error: TokenError,
        headers: &HeaderMap,
    ) -> (Response<Body>, Vec<Record>) {
        let refusal = Refusal::from(error);
        let deed = Deed {
            message_id: "authn",
            operation: "validate-token".into(),
            user: Some("not-found".into()),
            tried: "failed to validate an access token".into(),
            ..Deed::default()
        };
        let ip = self.client_ip.to_string();
        let record = deed.record(self.now, &self.request_id, &ip, Some(&refusal.reason()));
        // Clients of the v2 API get no text.
        let is_v2 = headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes() == V2.as_bytes());
        let is_silent = is_v2 && error == TokenError::Missing;
        let refusal = if is_silent { Refusal::UNAUTHENTICATED } else { refusal };
        (refusal.into_response(), vec![record])
    }
}

/// Runs the handler and turns what it set out to do into records of how that went.
async fn perform(call: &mut Call) -> (Response<Body>, Vec<Record>) {
    let outcome = handle(call).await;
    if let Some(unread) = call.body.take() {
        discard(unread, &call.headers).await;
    }
    let refused = outcome.as_ref().err().map(|refusal| match call.reason.take() {
        Some(reason) => reason.into_owned(),
        None => refusal.reason().into_owned(),
    });
    if refused.is_some() && call.deeds.is_empty() && call.route.auth != Auth::Open {
        let route = call.route;
        call.deeds.push(Deed {
            message_id: route.message_id,
            operation: route.operation.into(),
            user: Some(call.user()),
            subject: vec![("path".into(), call.path.clone())],
            tried: format!("{} failed to {}", call.user(), route.operation),
            ..Deed::default()
        });
    }
    let ip = call.client_ip.to_string();
    let deeds = std::mem::take(&mut call.deeds);
    let records = deeds
        .into_iter()
        .map(|deed| deed.record(call.now, &call.request_id, &ip, refused.as_deref()))
        .collect();
    let response = match outcome {
        Ok(answer) => answer.into_response(),
        Err(refusal) => {
            if let Refusal::Fault(text) = &refusal {
                tracing::error!(error = %text, request_id = %call.request_id, "http.fault");
            }
            if call.route.is_v2() {
                refusal.into_v2_response(crate::routes::v2::media_type(call))
            } else {
                refusal.into_response()
            }
        }
    };
    (response, records)
}

async fn handle(call: &mut Call) -> Result<Answer, Refusal> {
    let part = call.door.proposer.part();
    if call.route.access == Access::Write
        && part == Part::Follower
        && !call.door.settings().forward_writes
    {
        let leader = call.door.proposer.status().leader_url;
        return Err(Refusal::ReadOnly { leader });
    }
    let seen: Option<u64> = call.header(INDEX.as_str()).and_then(|text| text.trim().parse().ok());
    // What anybody may ask is about this node as it is now: nobody makes it wait.
    if let Some(seen) = seen.filter(|_| call.route.auth != Auth::Open) {
        call.wait_for_seen(seen).await?;
    }
    let (handler, deadline) = (call.route.handler, call.deadline);
    if call.route.access == Access::Write {
        // Writes bound their own waiting, so that a committed one is not recorded as undone.
        return handler(call).await;
    }
    match tokio::time::timeout_at(deadline, handler(call)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(Refusal::unavailable("the request took too long")),
    }
}

/// The id that a client sent, when it can stand in a header, a log and a record; else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable = |text: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic())
    };
    if let Some(sent) = sent.filter(usable) {
        return sent.to_owned();
    }
    let mut bytes = [0_u8; 16];
    if random(&mut bytes).is_err() {
        return "-".to_owned();
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = hex(&bytes);
    for at in [8, 13, 18, 23] {
        text.insert(at, '-');
    }
    text
}

/// Headers that every answer carries; for HEAD the length without the body.
fn stamp(response: &mut Response<Body>, request_id: &str, index: u64, is_head: bool) {
    if is_head {
        let length = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        *response.body_mut() = Body::empty();
        if response.status() != StatusCode::NO_CONTENT {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(INDEX, HeaderValue::from(index));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
}
