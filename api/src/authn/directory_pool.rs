//! Connections to directories that are kept for the next question, since making one (TCP, StartTLS, TLS) takes
//! longer than asking. Each is one question's alone while it lasts, and every question begins by saying anew who
//! searches, so nothing of the one before is left.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::directory::{Server, Session};

/// Questions to directories at once, over all of them, and connections kept for one server: were fewer kept
/// than are in use at once, most questions would make theirs anew.
pub(super) const QUESTIONS_MAX: usize = 64;
/// Servers, as seen by services, that connections are kept for; others make theirs each time.
const PLACES_MAX: usize = 256;
/// How long one may wait for its next question: less than servers and firewalls usually have.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long one may last: what the server's certificate was proven by is looked at anew then.
const LIFE_MAX: Duration = Duration::from_mins(10);

/// What two questions must have in common to use the same connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) server: Server,
    /// Whose certificates are believed there.
    pub(crate) authorities: Option<String>,
}

struct Kept {
    session: Session,
    made: Instant,
    since: Instant,
}

/// The connections that wait.
#[derive(Default)]
pub(crate) struct Pool {
    kept: Mutex<HashMap<Place, Vec<Kept>>>,
}

impl Pool {
    /// The connection that was used last, if it is still good; and when it was made.
    pub(crate) fn take(&self, place: &Place) -> Option<(Session, Instant)> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        prune(&mut kept, Instant::now());
        let Kept { session, made, .. } = kept.get_mut(place)?.pop()?;
        Some((session, made))
    }

    /// Keeps a connection that has nothing under way.
    pub(crate) fn keep(&self, place: Place, session: Session, made: Instant) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        prune(&mut kept, now);
        if kept.len() >= PLACES_MAX && !kept.contains_key(&place) {
            return;
        }
        let here = kept.entry(place).or_default();
        if here.len() < QUESTIONS_MAX {
            here.push(Kept { session, made, since: now });
        }
    }
}

/// Ends those that are over, and forgets where there are none.
fn prune(kept: &mut HashMap<Place, Vec<Kept>>, now: Instant) {
    kept.retain(|_, here| {
        here.retain_mut(|one| {
            let (idle, life) = (now - one.since, now - one.made);
            idle < IDLE_MAX && life < LIFE_MAX && !one.session.is_closed()
        });
        !here.is_empty()
    });
}
