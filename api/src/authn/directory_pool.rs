//! Connections to directories that are kept for the next question, since making one (TCP, StartTLS, TLS) takes
//! longer than asking. Each is one question's alone while it lasts. Those that search stay the searcher's, and
//! passwords are tried on others: so a login costs the directory one password to check, not the searcher's as well.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::directory::{Server, Session};

/// Questions of one service at once, and connections of one standing kept for one server: were fewer kept than are
/// in use at once, most questions would make theirs anew.
pub(super) const QUESTIONS_MAX: usize = 64;
/// Servers, as seen by services, and standings there that connections are kept for; others make theirs each time.
const PLACES_MAX: usize = 512;
/// How long one may wait for its next question: less than servers and firewalls usually have.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long one may last: what the server's certificate was proven by is looked at anew then, and whether the
/// searcher may still log in.
const LIFE_MAX: Duration = Duration::from_mins(10);

/// How long one may wait and be taken for good without being tried first.
const FRESH_MAX: Duration = Duration::from_secs(1);

/// What two questions must have in common to use the same connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) server: Server,
    /// Whose certificates are believed there.
    pub(crate) authorities: Option<String>,
    /// Who searches there, with the SHA-256 digest of the password by which the server knew that.
    pub(crate) searcher: Option<(String, [u8; 32])>,
}

/// Whom the server takes the other end of a connection for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    /// The searcher, or nobody in particular where there is none: no password was tried on it.
    Searcher,
    /// Whosever password was tried last, if it was right.
    Anybody,
}

struct Kept {
    session: Session,
    since: Instant,
}

/// The connections that wait.
#[derive(Default)]
pub(crate) struct Pool {
    kept: Mutex<HashMap<(Place, Standing), Vec<Kept>>>,
}

impl Pool {
    /// The connection that was used last, if it is not over; and whether that was so short a time ago that it
    /// will be good.
    pub(crate) fn take(&self, place: &Place, standing: Standing) -> Option<(Session, bool)> {
        let now = Instant::now();
        let mut kept = self.kept();
        prune(&mut kept, now);
        let Kept { session, since } = kept.get_mut(&(place.clone(), standing))?.pop()?;
        Some((session, now - since < FRESH_MAX))
    }

    /// Keeps a connection that has nothing under way.
    pub(crate) fn keep(&self, place: Place, standing: Standing, session: Session) {
        let now = Instant::now();
        let mut kept = self.kept();
        prune(&mut kept, now);
        let key = (place, standing);
        if kept.len() >= PLACES_MAX && !kept.contains_key(&key) {
            return;
        }
        let here = kept.entry(key).or_default();
        if here.len() < QUESTIONS_MAX {
            here.push(Kept { session, since: now });
        }
    }

    /// Ends all to this place.
    pub(crate) fn forget(&self, place: &Place) {
        self.kept().retain(|(of, _), _| of != place);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(Place, Standing), Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends those that are over, and forgets where there are none.
fn prune(kept: &mut HashMap<(Place, Standing), Vec<Kept>>, now: Instant) {
    kept.retain(|_, here| {
        here.retain_mut(|one| {
            let (idle, life) = (now - one.since, now - one.session.made);
            idle < IDLE_MAX && life < LIFE_MAX && !one.session.is_closed()
        });
        !here.is_empty()
    });
}
