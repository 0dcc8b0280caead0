//! Keys of token issuers, fetched when they are needed and kept.
//!
//! A token signed with a key that is not known yet may be the first after a rotation, or a forgery: the
//! set is fetched anew, once for all who wait, and within a budget. Sets are renewed behind the backs
//! of those who use them, so that a key that its issuer has withdrawn is forgotten soon.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use conclave_domain::id::ResourceId;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::id_token::{Claims, Expected, KeySet, Unverified};
use super::outbound::{Outbound, Target, pinned};
use super::variables::Variables;
use super::{Denied, StatusError};
use crate::error::Refusal;

/// Largest document fetched, in bytes.
const DOCUMENT_BYTES_MAX: usize = 512 << 10;
/// Fetches within [`FETCHES_WINDOW`], for one service.
const FETCHES_MAX: usize = 10;
/// The window of [`FETCHES_MAX`].
const FETCHES_WINDOW: Duration = Duration::from_mins(5);
/// The pause after a failed fetch, doubled with each.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failed fetches.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Older sets are renewed in the background by who uses them.
const FRESH: Duration = Duration::from_mins(5);
/// Older sets are not used.
const AGE_MAX: Duration = Duration::from_hours(24);
/// Requests that wait for one service's keys.
const WAITING_MAX: usize = 128;
/// Services remembered; beyond it all are forgotten.
const SERVICES_MAX: usize = 4096;

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    /// A key set, or an OpenID provider that tells where its key set is.
    pub(crate) uri: String,
    /// Whether `uri` is a provider.
    pub(crate) is_provider: bool,
    /// The authorities that its certificate may be of; those of the system without.
    pub(crate) authorities: Option<String>,
}

impl Source {
    /// The OpenID provider that the variables `provider-uri` and `ca-cert` of a service name.
    pub(crate) fn provider(variables: &Variables) -> Result<Self, Denied> {
        let unfit = |why: &dyn std::fmt::Display| {
            Denied::new(format!("CONJ00011E The provider cannot be used: {why}"))
        };
        let uri = variables.required("provider-uri")?.trim().to_owned();
        Target::parse(&uri).map_err(|why| unfit(&why))?;
        let authorities = variables.filled("ca-cert").map(str::to_owned);
        if let Some(pem) = &authorities {
            pinned(pem).map_err(|why| unfit(&why))?;
        }
        Ok(Self { uri, is_provider: true, authorities })
    }
}

/// What an OpenID provider says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// As it calls itself.
    pub(crate) issuer: String,
    /// Where people are sent to log in; empty where it does not say.
    pub(crate) authorization: String,
    /// Where codes are exchanged for tokens; empty where it does not say.
    pub(crate) token: String,
    keys: String,
}

/// The keys of every service's issuer.
pub(crate) struct KeyCache {
    outbound: Arc<Outbound>,
    slots: Mutex<HashMap<ResourceId, Arc<Slot>>>,
}

struct Slot {
    source: Source,
    held: ArcSwapOption<Held>,
    /// One fetches, the others wait for what it brings.
    turn: tokio::sync::Mutex<()>,
    waiting: Semaphore,
    fetches: Mutex<Fetches>,
}

struct Held {
    keys: Arc<KeySet>,
    /// Nothing for those that are no providers.
    endpoints: Option<Arc<Endpoints>>,
    fetched_at: Instant,
}

#[derive(Default)]
struct Fetches {
    /// When each within the window began.
    begun: VecDeque<Instant>,
    failures: u32,
    /// What the last one failed with, and until when no other is made for that.
    failed: Option<(String, Instant)>,
}

impl KeyCache {
    pub(crate) fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, slots: Mutex::default() }
    }

    /// The keys of a service's issuer, fetched anew if the one wanted is not among those known. It
    /// may still not be there.
    pub(crate) async fn keys(
        &self,
        service: &ResourceId,
        source: &Source,
        wanted: &str,
    ) -> Result<Arc<KeySet>, Denied> {
        let slot = self.slot(service, source);
        if let Some(held) = slot.usable(wanted) {
            if held.fetched_at.elapsed() > FRESH {
                renew(slot, self.outbound.clone());
            }
            return Ok(held.keys.clone());
        }
        let came_at = Instant::now();
        let _place = slot.waiting.try_acquire().map_err(|_| overloaded())?;
        let _turn = slot.turn.lock().await;
        // Whoever had the turn before may have brought what is wanted, or shown that it is not there.
        let known = slot.held.load_full();
        if let Some(held) = &known
            && (held.fetched_at >= came_at || slot.usable(wanted).is_some())
        {
            return Ok(held.keys.clone());
        }
        match slot.fetch(&self.outbound).await {
            Ok(keys) => Ok(keys),
            // Without a fetch the set known is the last word: a token of no known key is refused.
            Err(_) if known.as_ref().is_some_and(|held| held.fetched_at.elapsed() < AGE_MAX) => {
                known.map(|held| held.keys.clone()).ok_or_else(overloaded)
            }
            Err(Unfetched::Failed(why)) => Err(Denied::new(format!("CONJ00087E {why}"))),
            Err(Unfetched::TooOften) => Err(overloaded()),
        }
    }

    /// What a service's provider says of itself.
    pub(crate) async fn endpoints(
        &self,
        service: &ResourceId,
        source: &Source,
    ) -> Result<Arc<Endpoints>, Denied> {
        let slot = self.slot(service, source);
        let known = || slot.held.load_full().filter(|held| held.fetched_at.elapsed() < AGE_MAX);
        let held = if let Some(held) = known() {
            held
        } else {
            let _place = slot.waiting.try_acquire().map_err(|_| overloaded())?;
            let _turn = slot.turn.lock().await;
            if known().is_none() {
                match slot.fetch(&self.outbound).await {
                    Ok(_keys) => {}
                    Err(Unfetched::Failed(why)) => {
                        return Err(Denied::new(format!("CONJ00011E {why}")));
                    }
                    Err(Unfetched::TooOften) => return Err(overloaded()),
                }
            }
            known().ok_or_else(overloaded)?
        };
        if held.fetched_at.elapsed() > FRESH {
            renew(slot.clone(), self.outbound.clone());
        }
        held.endpoints.clone().ok_or_else(|| Denied::new("CONJ00011E It is no provider"))
    }

    /// What a token says, once a key of a service's issuer has signed it and its registered claims
    /// are as expected.
    pub(crate) async fn claims(
        &self,
        service: &ResourceId,
        source: &Source,
        token: &str,
        expected: &Expected<'_>,
    ) -> Result<Claims, Denied> {
        let unverified = Unverified::parse(token)?;
        let keys = self.keys(service, source, &unverified.key_id).await?;
        let claims = unverified.verify(&keys)?;
        expected.check(&claims)?;
        Ok(claims)
    }

    /// As [`KeyCache::try_source`], for the status of a service whose tokens are of a provider.
    pub(crate) async fn try_provider(
        &self,
        service: &ResourceId,
        source: &Source,
    ) -> Result<(), StatusError> {
        let fetched = self.try_source(service, source).await;
        Ok(fetched.map_err(|why| Denied::new(format!("CONJ00011E {why}")))?)
    }

    /// Fetches the keys now, whatever is known, as far as the budget goes.
    pub(crate) async fn try_source(
        &self,
        service: &ResourceId,
        source: &Source,
    ) -> Result<(), String> {
        let slot = self.slot(service, source);
        let _turn = slot.turn.lock().await;
        match slot.fetch(&self.outbound).await {
            Ok(_keys) => Ok(()),
            Err(Unfetched::Failed(why)) => Err(why),
            Err(Unfetched::TooOften) if slot.held.load().is_some() => Ok(()),
            Err(Unfetched::TooOften) => Err("the keys were asked for too often".to_owned()),
        }
    }

    fn slot(&self, service: &ResourceId, source: &Source) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(service)
            && slot.source == *source
        {
            return slot.clone();
        }
        if slots.len() >= SERVICES_MAX {
            slots.clear();
        }
        let slot = Arc::new(Slot {
            source: source.clone(),
            held: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::default(),
            waiting: Semaphore::new(WAITING_MAX),
            fetches: Mutex::default(),
        });
        slots.insert(service.clone(), slot.clone());
        slot
    }
}

fn overloaded() -> Denied {
    let refusal = Refusal::unavailable("too many requests wait for keys");
    Denied::with(refusal, "CONJ00044E Too many requests wait for the issuer's keys")
}

/// Why there are no new keys.
enum Unfetched {
    Failed(String),
    TooOften,
}

impl Slot {
    fn usable(&self, wanted: &str) -> Option<Arc<Held>> {
        let held = self.held.load_full()?;
        (held.fetched_at.elapsed() < AGE_MAX && held.keys.has(wanted)).then_some(held)
    }

    async fn fetch(&self, outbound: &Outbound) -> Result<Arc<KeySet>, Unfetched> {
        let began = Instant::now();
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner).begin(began)?;
        let outcome = fetch(outbound, &self.source).await;
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok((keys, endpoints)) => {
                let (keys, endpoints) = (Arc::new(keys), endpoints.map(Arc::new));
                let held = Held { keys: keys.clone(), endpoints, fetched_at: began };
                self.held.store(Some(Arc::new(held)));
                fetches.failures = 0;
                fetches.failed = None;
                Ok(keys)
            }
            Err(why) => {
                let pause = PAUSE_MIN.saturating_mul(1 << fetches.failures.min(8)).min(PAUSE_MAX);
                fetches.failures += 1;
                fetches.failed = Some((why.clone(), Instant::now() + pause));
                tracing::warn!(uri = ?self.source.uri, %why, "authn.keys");
                Err(Unfetched::Failed(why))
            }
        }
    }
}

impl Fetches {
    /// Takes one fetch out of the budget.
    fn begin(&mut self, now: Instant) -> Result<(), Unfetched> {
        while self.begun.front().is_some_and(|begun| now - *begun > FETCHES_WINDOW) {
            self.begun.pop_front();
        }
        if let Some((why, until)) = &self.failed
            && now < *until
        {
            return Err(Unfetched::Failed(why.clone()));
        }
        if self.begun.len() >= FETCHES_MAX {
            return Err(Unfetched::TooOften);
        }
        self.begun.push_back(now);
        Ok(())
    }
}

/// Fetches the keys anew unless somebody does already.
fn renew(slot: Arc<Slot>, outbound: Arc<Outbound>) {
    tokio::spawn(async move {
        let Ok(_turn) = slot.turn.try_lock() else { return };
        let is_stale = |held: Arc<Held>| held.fetched_at.elapsed() > FRESH;
        if slot.held.load_full().is_some_and(is_stale) {
            // What it brings is in the slot; that it failed is in the log.
            let _kept = slot.fetch(&outbound).await;
        }
    });
}

async fn fetch(
    outbound: &Outbound,
    source: &Source,
) -> Result<(KeySet, Option<Endpoints>), String> {
    let authorities = source.authorities.as_deref();
    let endpoints = if source.is_provider {
        Some(discover(outbound, &source.uri, authorities).await?)
    } else {
        None
    };
    let uri = endpoints.as_ref().map_or(&source.uri, |endpoints| &endpoints.keys);
    let about = |why: &dyn std::fmt::Display| format!("Keys of '{uri}' cannot be fetched: {why}");
    let document =
        outbound.get(uri, authorities, DOCUMENT_BYTES_MAX).await.map_err(|why| about(&why))?;
    let keys = KeySet::parse(&document).map_err(|why| about(&why))?;
    Ok((keys, endpoints))
}

/// Asks an OpenID provider where its keys and all else are. It must call itself as it was called.
async fn discover(
    outbound: &Outbound,
    uri: &str,
    authorities: Option<&str>,
) -> Result<Endpoints, String> {
    let base = uri.trim().trim_end_matches('/');
    let about = |why: &dyn std::fmt::Display| format!("Provider '{base}' cannot be used: {why}");
    let address = format!("{base}/.well-known/openid-configuration");
    let document =
        outbound.get(&address, authorities, DOCUMENT_BYTES_MAX).await.map_err(|why| about(&why))?;
    let document: Value =
        serde_json::from_slice(&document).map_err(|_| about(&"its configuration is no JSON"))?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let issuer = text("issuer").filter(|issuer| issuer.trim_end_matches('/') == base);
    let issuer = issuer.ok_or_else(|| about(&"its configuration is of another issuer"))?;
    let keys = text("jwks_uri").ok_or_else(|| about(&"its configuration names no jwks_uri"))?;
    let place = |name: &str| text(name).unwrap_or_default().to_owned();
    Ok(Endpoints {
        issuer: issuer.to_owned(),
        authorization: place("authorization_endpoint"),
        token: place("token_endpoint"),
        keys: keys.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_ten_times_in_300_seconds_and_then_again() {
        let mut fetches = Fetches::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for number in 0..10 {
            assert!(fetches.begin(at(number)).is_ok(), "{number}");
        }
        for seconds in [9, 10, 299, 300] {
            assert!(matches!(fetches.begin(at(seconds)), Err(Unfetched::TooOften)), "{seconds}");
        }
        // Each place is free again when its own time is over.
        assert!(fetches.begin(at(301)).is_ok());
        assert!(matches!(fetches.begin(at(301)), Err(Unfetched::TooOften)));
        assert!(fetches.begin(at(302)).is_ok());
    }
}
