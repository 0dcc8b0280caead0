//! What changes beside the recorded load: policy loads that grant and revoke, and new API keys. Once
//! a revocation is acknowledged, no later request of that role may succeed on any voter; once a new
//! API key is, the old one is worth nothing.
//!
//! A follower may lag. How long it still serves after a revocation is measured where it is asked to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::checker::Violation;
use crate::client::{Answer, Asked, Door, Login, NoAnswer};
use crate::process::cluster::Cluster;
use crate::process::shell::HarnessError;
use crate::rng::Rng;

/// The policy branch that all this happens in.
const BRANCH: &str = "turnover";
/// Hosts that are granted and revoked in turn.
const HOSTS: usize = 4;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(150);
/// Between two tries of one change while no leader answers.
const AGAIN: Duration = Duration::from_millis(30);
/// A change that is not acknowledged by then ends the turnover; liveness is judged elsewhere.
const CHANGE_PATIENCE: Duration = Duration::from_secs(20);
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// Between two looks at whether a follower still serves.
const FOLLOWER_EVERY: Duration = Duration::from_millis(5);
/// A follower that serves for longer than this has not heard of the revocation at all.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(10);

/// What came of a turnover.
#[derive(Debug, Default)]
pub struct Turned {
    /// Policies loaded.
    pub loads: u64,
    /// Revocations among them, each followed by requests that must fail.
    pub revocations: u64,
    /// API keys replaced.
    pub rotations: u64,
    /// Nanoseconds from a revocation's acknowledgement until the follower refused.
    pub follower: Vec<u64>,
    /// Requests that succeeded though they must not.
    pub violations: Vec<Violation>,
}

/// A turnover under way.
pub struct Turnover {
    stop: Arc<AtomicBool>,
    turned: Arc<Mutex<Turned>>,
    task: JoinHandle<()>,
}

/// One host and what it may be asked with.
struct Subject {
    login: String,
    key: String,
}

struct Rounds {
    admin: Arc<Login>,
    voters: Vec<Arc<Door>>,
    follower: Option<Arc<Door>>,
    subjects: Vec<Subject>,
    stop: Arc<AtomicBool>,
    turned: Arc<Mutex<Turned>>,
    rng: Rng,
}

impl Turnover {
    /// Declares the branch with its hosts, whose API keys are replaced, and starts. With
    /// `with_follower` the follower's lag is measured: only in calm does it owe one.
    ///
    /// # Errors
    /// When the branch cannot be declared.
    pub async fn start(
        cluster: &Cluster,
        with_follower: bool,
        rng: Rng,
    ) -> Result<Self, HarnessError> {
        let doors: Result<Vec<_>, _> =
            cluster.voters().map(|position| cluster.door(position)).collect();
        // Doors of its own: a pool of connections that nobody else empties.
        let voters = doors?.iter().map(|door| Arc::new(door.renamed(door.node))).collect();
        let follower = match cluster.follower().filter(|_| with_follower) {
            Some(position) => Some(cluster.door(position)?),
            None => None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let turned = Arc::new(Mutex::new(Turned::default()));
        let mut rounds = Rounds {
            admin: Arc::clone(&cluster.login),
            voters,
            follower,
            subjects: Vec::new(),
            stop: Arc::clone(&stop),
            turned: Arc::clone(&turned),
            rng,
        };
        rounds.declare().await.map_err(|error| HarnessError(format!("turnover: {error}")))?;
        let task = tokio::spawn(rounds.run());
        Ok(Self { stop, turned, task })
    }

    /// How many revocations were made so far.
    pub fn revocations(&self) -> u64 {
        self.turned.lock().unwrap_or_else(PoisonError::into_inner).revocations
    }

    /// Ends after the round under way, and gives what came of it.
    pub async fn stop(self) -> Turned {
        self.stop.store(true, Ordering::SeqCst);
        // A panic in it has been reported where it happened.
        self.task.await.ok();
        std::mem::take(&mut *self.turned.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rounds {
    async fn declare(&mut self) -> Result<(), String> {
        let mut text = format!(
            "- !policy\n  id: {BRANCH}\n  body:\n  - !variable secret\n  - !group readers\n  \
             - !permit\n    role: !group readers\n    privileges: [read, execute]\n    \
             resource: !variable secret\n"
        );
        text.extend((0..HOSTS).map(|host| format!("  - !host h{host}\n")));
        self.done(self.admin.append_policy(text)).await?;
        let secret = format!("{BRANCH}/secret");
        self.done(self.admin.write(&secret, "only for members")).await?;
        for host in 0..HOSTS {
            let login = format!("host/{BRANCH}/h{host}");
            let key = self.rotate(host).await?;
            self.subjects.push(Subject { login, key });
        }
        Ok(())
    }

    async fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            let at = self.rng.index(self.subjects.len());
            if let Err(error) = self.round(at).await {
                // Not judged here: a cluster that takes no change fails its liveness elsewhere.
                eprintln!("turnover: {error}");
                // Of two tries of one rotation either may have been the last.
                if let Ok(key) = self.rotate(at).await {
                    self.subjects[at].key = key;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Grants, uses, revokes and re-keys one host.
    async fn round(&mut self, at: usize) -> Result<(), String> {
        self.membership(at, "grant").await?;
        let subject = self.login(at);
        subject.keep(&self.done(subject.authenticate()).await?);
        let read = subject.read(&format!("{BRANCH}/secret"), None);
        self.done(read.clone()).await?;

        self.membership(at, "revoke").await?;
        let acknowledged = Instant::now();
        self.turned().revocations += 1;
        for door in &self.voters {
            self.must_fail("a read after its role was revoked", door, read.clone()).await;
        }
        if let Some(follower) = self.follower.clone() {
            let lag = self.follower_lag(&follower, read, acknowledged).await;
            self.turned().follower.push(lag);
        }

        let old = self.login(at);
        self.subjects[at].key = self.rotate(at).await?;
        self.turned().rotations += 1;
        for door in &self.voters {
            self.must_fail("a login with the API key before the last", door, old.authenticate())
                .await;
        }
        self.done(self.login(at).authenticate()).await.map(drop)
    }

    fn login(&self, at: usize) -> Login {
        let subject = &self.subjects[at];
        Login::new(self.admin.account(), &subject.login, &subject.key)
    }

    async fn membership(&self, at: usize, tag: &str) -> Result<(), String> {
        let text =
            format!("- !{tag}\n  role: !group {BRANCH}/readers\n  member: !host {BRANCH}/h{at}\n");
        let path = format!("/policies/{}/policy/root", self.admin.account());
        self.done(self.admin.signed(Asked::new(Method::PATCH, path, text))).await?;
        self.turned().loads += 1;
        Ok(())
    }

    /// Replaces a host's API key; of several answers the last one counts.
    async fn rotate(&self, at: usize) -> Result<String, String> {
        let account = self.admin.account();
        let path = format!("/authn/{account}/api_key?role=host:{BRANCH}%2Fh{at}");
        let request = self.admin.signed(Asked::new(Method::PUT, path, Bytes::new()));
        Ok(self.done(request).await?.text())
    }

    /// Asks any voter, again and again, until one answers that it is done. Every request here may
    /// be carried out twice.
    async fn done(&self, request: Asked) -> Result<Answer, String> {
        let deadline = Instant::now() + CHANGE_PATIENCE;
        for door in self.voters.iter().cycle() {
            let answer = door.send(request.clone(), DEADLINE, || {}).await;
            match answer {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                other if Instant::now() >= deadline => return Err(words(&other)),
                Ok(_) | Err(_) => sleep(AGAIN).await,
            }
        }
        Err("there is no voter".to_owned())
    }

    /// Asks what must not succeed. A node that does not answer has not served it either.
    async fn must_fail(&self, what: &str, door: &Door, request: Asked) {
        if let Ok(answer) = door.send(request, DEADLINE, || {}).await
            && answer.status.is_success()
        {
            let detail = format!("{what} succeeded on node {}", door.node);
            self.turned().violations.push(Violation { invariant: "T8 revocation", detail });
        }
    }

    /// Nanoseconds since the acknowledgement until the follower refuses.
    async fn follower_lag(&self, follower: &Door, read: Asked, acknowledged: Instant) -> u64 {
        loop {
            let asked = acknowledged.elapsed();
            let serves = follower
                .send(read.clone(), DEADLINE, || {})
                .await
                .is_ok_and(|answer| answer.status.is_success());
            if !serves || asked > FOLLOWER_PATIENCE {
                // Up to the last look it may have served.
                return u64::try_from(asked.as_nanos()).unwrap_or(u64::MAX);
            }
            sleep(FOLLOWER_EVERY).await;
        }
    }

    fn turned(&self) -> std::sync::MutexGuard<'_, Turned> {
        self.turned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn words(answer: &Result<Answer, NoAnswer>) -> String {
    match answer {
        Ok(answer) => format!("{} {}", answer.status, answer.text()),
        Err(error) => error.to_string(),
    }
}
