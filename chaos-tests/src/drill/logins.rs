//! Mixed logins: the load is carried by identities that log in by every way, and beside it all of them
//! log in all the time, at every place in turn; now and then with a bad proof.
//!
//! Whoever brings a good proof is let in, or told nothing while a fault is on, but never refused. A bad
//! proof lets nobody in. A follower that is not itself hurt answers at once, also without a leader; a
//! load balancer's clients are answered when they try again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::Options;
use super::proofs::{BRANCH, ISSUER, Proofs, SERVICE, Way};
use super::report::Report;
use crate::checker::Violation;
use crate::client::{Answer, Asked, Bearers, Door, Login, NoAnswer};
use crate::clients::{PAUSE_FIRST, PAUSE_MAX};
use crate::process::authority::Authority;
use crate::process::cluster::{ACCOUNT, Cluster, Shape};
use crate::process::directory::{BASE, Directory, PERSON, SEARCHER, SEARCHER_PASSWORD};
use crate::process::shell::HarnessError;
use crate::rng::Rng;
use crate::workload::RunClock;

/// The drills that know mixed logins.
pub(super) const DRILLS: [&str; 8] = [
    "leader-kill",
    "leader-pause",
    "leader-isolate",
    "restart-all",
    "power-cut",
    "failover",
    "hand-over",
    "jobs",
];
/// Between two logins.
const EVERY: Duration = Duration::from_millis(50);
/// Of a thousand proofs so many are bad: too few for the limits on failures.
const BAD_PER_THOUSAND: u64 = 100;
/// How long one try waits for its connection, and for its answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// Violations of a trial that are told; the others say the same.
const TOLD_MAX: usize = 5;

/// What became of the logins by one way.
#[derive(Debug, Clone, Serialize)]
pub struct LetIn {
    /// The way: `key`, `jwt`, `ldap` or `cert`.
    pub way: &'static str,
    /// Good proofs that were shown.
    pub tried: u64,
    /// Those for which a token came.
    pub let_in: u64,
    /// Those without any answer, or with one that says nothing of the proof.
    pub unanswered: u64,
    /// Those that were shown again, since the first time brought no answer; behind a load balancer.
    pub tried_again: u64,
    /// Bad proofs that were shown.
    pub bad_proofs: u64,
}

/// What a login was told in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// It got a token.
    LetIn,
    /// Its proof is worth nothing, or the request is.
    Refused(String),
    /// Nothing, or that nothing can be said now.
    Unanswered(String),
}

/// One login.
#[derive(Debug, Clone)]
struct Try {
    way: Way,
    /// A node's id; 0 for the load balancer.
    node: u64,
    is_good: bool,
    is_again: bool,
    /// When it was done with.
    ended: u64,
    told: Told,
}

/// The logins of a trial.
pub(super) struct Tries(Vec<Try>);

/// The usual shape; with mixed logins the nodes may call the directory.
pub(super) fn shape(options: &Options) -> Shape {
    let usual = Shape::default();
    let networks = "outbound_networks = [\"127.0.0.0/8\", \"10.99.0.0/16\"]\n";
    if options.mixed_logins { Shape { api: networks, ..usual } } else { usual }
}

/// What mixed logins need, where they are wanted.
pub(super) async fn set_up(
    options: &Options,
    cluster: &mut Cluster,
) -> Result<Option<Mixed>, HarnessError> {
    if options.mixed_logins { Mixed::set_up(cluster).await.map(Some) } else { Ok(None) }
}

/// Identities that log in by every way, and what makes them known. Dropping it ends the directory.
pub(super) struct Mixed {
    proofs: Arc<Proofs>,
    /// By way; what their tokens are kept in.
    logins: Vec<Arc<Login>>,
    /// Who shows the certificate that is to be believed, and who shows a stranger's.
    certified: Arc<rustls::ClientConfig>,
    strange: Arc<rustls::ClientConfig>,
    _directory: Directory,
}

impl Mixed {
    /// Starts a directory, and makes the cluster believe in it, in an issuer, and in an authority.
    async fn set_up(cluster: &mut Cluster) -> Result<Self, HarnessError> {
        let directory = cluster.directory().await?;
        let (authority, stranger) =
            (Authority::create("clients' authority")?, Authority::create("stranger")?);
        let client = |authority: &Authority| {
            authority.issue(Way::Cert.name(), &["extendedKeyUsage=clientAuth"])
        };
        let certified = cluster.tls_showing(&client(&authority)?)?;
        let strange = cluster.tls_showing(&client(&stranger)?)?;

        cluster.log_in().await?;
        let login = &cluster.login;
        let load = || login.append_policy(policy(&directory));
        cluster.ask_leader("policy of mixed logins", load).await?;
        let path = format!("/authn/{ACCOUNT}/api_key?role=host:{BRANCH}%2F{}", Way::Key.name());
        let rotate = || login.signed(Asked::new(Method::PUT, path.clone(), Bytes::new()));
        let api_key = cluster.ask_leader("an API key", rotate).await?.text();
        let proofs = Proofs::new(&api_key)?;
        for (variable, value) in [
            ("authn-jwt/drill/public-keys", proofs.public_keys()?),
            ("authn-jwt/drill/issuer", ISSUER.to_owned()),
            ("authn-jwt/drill/token-app-property", "host".to_owned()),
            ("authn-jwt/drill/identity-path", BRANCH.to_owned()),
            ("authn-ldap/drill/bind-password", SEARCHER_PASSWORD.to_owned()),
            ("authn-ldap/drill/tls-ca-cert", directory.authority()?),
            ("authn-cert/drill/ca-cert", authority.pem()?),
        ] {
            let set = || login.write(&format!("conjur/{variable}"), value.clone());
            cluster.ask_leader(variable, set).await?;
        }
        for way in Way::ALL.into_iter().filter(|way| *way != Way::Key) {
            let path = format!("/authn-{}/{SERVICE}/{ACCOUNT}", way.name());
            let enable = || login.signed(Asked::new(Method::PATCH, path.clone(), "enabled=true"));
            cluster.ask_leader("an authenticator", enable).await?;
        }
        let identity = |way: Way| Arc::new(Login::new(ACCOUNT, &way.login(), ""));
        Ok(Self {
            proofs: Arc::new(proofs),
            logins: Way::ALL.map(identity).to_vec(),
            certified,
            strange,
            _directory: directory,
        })
    }

    /// Lets all of them use those secrets, and gets each a fresh token.
    async fn entitle(&self, cluster: &Cluster, secrets: &[Arc<str>]) -> Result<(), HarnessError> {
        if !secrets.is_empty() {
            let mut text = format!(
                "- !permit\n  role: !group {BRANCH}/bearers\n  \
                 privileges: [read, execute, update]\n  resources:\n"
            );
            text.extend(secrets.iter().map(|secret| format!("  - !variable {secret}\n")));
            let load = || cluster.login.append_policy(text.clone());
            cluster.ask_leader("permissions of mixed logins", load).await?;
        }
        let leader = cluster.door(cluster.wait_leader(None).await?)?;
        let place = self.place(&leader, Duration::ZERO);
        for (way, login) in Way::ALL.into_iter().zip(&self.logins) {
            let told = place.show(&self.proofs, login, way, true).await;
            if told != Told::LetIn {
                return Err(HarnessError(format!("a first login by {}: {told:?}", way.name())));
            }
        }
        Ok(())
    }

    /// Starts logging in at those doors, each with the patience with which what brings no answer is
    /// tried again.
    pub(super) fn start(&self, doors: &[(&Door, Duration)], clock: RunClock, rng: Rng) -> Logins {
        let shared = Arc::new(Shared {
            places: doors.iter().map(|(door, patience)| self.place(door, *patience)).collect(),
            proofs: Arc::clone(&self.proofs),
            logins: self.logins.clone(),
            clock,
            stop: AtomicBool::new(false),
        });
        let task = tokio::spawn(Arc::clone(&shared).run(rng));
        Logins { shared, task }
    }

    fn place(&self, door: &Door, patience: Duration) -> Place {
        let own = |door: Door| door.patient(DEADLINE);
        Place {
            plain: own(door.renamed(door.node)),
            certified: own(door.secured_by(Arc::clone(&self.certified))),
            strange: own(door.secured_by(Arc::clone(&self.strange))),
            patience,
        }
    }
}

/// The identities of a load on those secrets: the administrator, and with mixed logins those that log
/// in by every way.
pub(super) async fn bearers(
    mixed: Option<&Mixed>,
    cluster: &Cluster,
    secrets: &[Arc<str>],
) -> Result<Bearers, HarnessError> {
    let admin = Arc::clone(&cluster.login);
    let Some(mixed) = mixed else { return Ok(admin.into()) };
    mixed.entitle(cluster, secrets).await?;
    Ok(Bearers::new(admin, mixed.logins.clone()))
}

/// Who is who, and what is asked about it.
fn policy(directory: &Directory) -> String {
    let url = directory.url();
    format!(
        "- !user {PERSON}
- !policy
  id: {BRANCH}
  body:
  - !group bearers
  - !host key
  - !host {{id: jwt, annotations: {{authn-jwt/{SERVICE}/team: {SERVICE}}}}}
  - !host {{id: cert, annotations: {{authn-cert/{SERVICE}/common-name: cert}}}}
- !grant
  role: !group {BRANCH}/bearers
  members: [!user {PERSON}, !host {BRANCH}/key, !host {BRANCH}/jwt, !host {BRANCH}/cert]
- !policy
  id: conjur/authn-jwt/{SERVICE}
  body:
  - !webservice
  - !variable public-keys
  - !variable issuer
  - !variable token-app-property
  - !variable identity-path
- !policy
  id: conjur/authn-ldap/{SERVICE}
  body:
  - !webservice
    annotations:
      ldap-authn/uri: {url}
      ldap-authn/base_dn: {BASE}
      ldap-authn/bind_dn: {SEARCHER}
  - !variable bind-password
  - !variable tls-ca-cert
- !policy
  id: conjur/authn-cert/{SERVICE}
  body:
  - !webservice
  - !variable ca-cert
- !permit
  role: !group {BRANCH}/bearers
  privileges: [read, authenticate]
  resources:
  - !webservice conjur/authn-jwt/{SERVICE}
  - !webservice conjur/authn-ldap/{SERVICE}
  - !webservice conjur/authn-cert/{SERVICE}
"
    )
}

/// Logins under way.
pub(super) struct Logins {
    shared: Arc<Shared>,
    task: JoinHandle<Vec<Try>>,
}

impl Logins {
    /// Begins no more, and waits for those under way.
    pub(super) async fn stop(self) -> Tries {
        self.shared.stop.store(true, Ordering::SeqCst);
        // A panic in it has been reported where it happened.
        Tries(self.task.await.unwrap_or_default())
    }
}

struct Shared {
    places: Vec<Place>,
    proofs: Arc<Proofs>,
    logins: Vec<Arc<Login>>,
    clock: RunClock,
    stop: AtomicBool,
}

impl Shared {
    async fn run(self: Arc<Self>, mut rng: Rng) -> Vec<Try> {
        let mut under_way = JoinSet::new();
        let start = Instant::now();
        for number in 0_u32.. {
            sleep_until(start + EVERY * number).await;
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let at = usize::try_from(number).unwrap_or_default();
            let (way, place) = (at % Way::ALL.len(), at / Way::ALL.len() % self.places.len());
            let is_good = !rng.chance(BAD_PER_THOUSAND);
            under_way.spawn(Arc::clone(&self).pursue(way, place, is_good));
        }
        let mut tries = Vec::new();
        while let Some(done) = under_way.join_next().await {
            tries.extend(done);
        }
        tries
    }

    /// Tries until there is an answer, or no patience left.
    async fn pursue(self: Arc<Self>, way: usize, place: usize, is_good: bool) -> Try {
        let (place, login, way) = (&self.places[place], &self.logins[way], Way::ALL[way]);
        let start = Instant::now();
        let mut pause = PAUSE_FIRST;
        let mut is_again = false;
        let told = loop {
            let told = place.show(&self.proofs, login, way, is_good).await;
            let is_over = start.elapsed() + pause > place.patience;
            if is_over || !matches!(told, Told::Unanswered(_)) {
                break told;
            }
            is_again = true;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        Try { way, node: place.plain.node, is_good, is_again, ended: self.clock.now(), told }
    }
}

/// Where is logged in: one door, for clients without a certificate and with one.
struct Place {
    plain: Door,
    certified: Door,
    strange: Door,
    patience: Duration,
}

impl Place {
    /// Shows one proof, and keeps the token that comes for it.
    async fn show(&self, proofs: &Proofs, login: &Login, way: Way, is_good: bool) -> Told {
        let door = match way {
            Way::Cert if is_good => &self.certified,
            Way::Cert => &self.strange,
            Way::Key | Way::Jwt | Way::Ldap => &self.plain,
        };
        let asked = match proofs.asked(way, is_good) {
            Ok(asked) => asked,
            Err(error) => return Told::Unanswered(error.to_string()),
        };
        let answer = door.send(asked, DEADLINE, || {}).await;
        let told = told(&answer);
        if let (Ok(answer), Told::LetIn, true) = (&answer, &told, is_good) {
            login.keep(answer);
        }
        told
    }
}

/// What an answer says of a proof.
fn told(answer: &Result<Answer, NoAnswer>) -> Told {
    match answer {
        Err(error) => Told::Unanswered(error.to_string()),
        Ok(answer) if answer.status.is_success() && !answer.body.is_empty() => Told::LetIn,
        Ok(answer) => match answer.status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Told::Unanswered(answer.words()),
            _ => Told::Refused(answer.words()),
        },
    }
}

impl Tries {
    /// Counts them and judges. `owed` says, by the node and the end of a login that was told nothing,
    /// whether it was owed an answer all the same.
    pub(super) fn report(&self, when: &str, owed: impl Fn(u64, u64) -> bool, report: &mut Report) {
        if report.logins.is_empty() {
            report.logins = Way::ALL.map(LetIn::none).to_vec();
        }
        for one in &self.0 {
            let of_way = report.logins.iter_mut().filter(|count| count.way == one.way.name());
            of_way.for_each(|count| count.add(one));
        }
        report.broken(self.violations(when, owed).into_iter().take(TOLD_MAX));
    }

    /// How many good proofs had to be shown again.
    pub(super) fn shown_again(&self) -> usize {
        self.0.iter().filter(|one| one.is_good && one.is_again).count()
    }

    fn violations(&self, when: &str, owed: impl Fn(u64, u64) -> bool) -> Vec<Violation> {
        let broken = |one: &Try| {
            let (invariant, said) = match &one.told {
                Told::Refused(said) if one.is_good => ("good proofs are let in", said.as_str()),
                Told::LetIn if !one.is_good => ("bad proofs let nobody in", "let in"),
                Told::Unanswered(said) if one.is_good && owed(one.node, one.ended) => {
                    ("logins are answered", said.as_str())
                }
                Told::LetIn | Told::Refused(_) | Told::Unanswered(_) => return None,
            };
            let (way, place) = (one.way.name(), place_name(one.node));
            Some(Violation { invariant, detail: format!("{when}: {way} at {place}: {said}") })
        };
        self.0.iter().filter_map(broken).collect()
    }
}

fn place_name(node: u64) -> String {
    if node == 0 { "the load balancer".to_owned() } else { format!("node {node}") }
}

impl LetIn {
    fn none(way: Way) -> Self {
        let way = way.name();
        Self { way, tried: 0, let_in: 0, unanswered: 0, tried_again: 0, bad_proofs: 0 }
    }

    fn add(&mut self, one: &Try) {
        if !one.is_good {
            self.bad_proofs += 1;
            return;
        }
        self.tried += 1;
        self.tried_again += u64::from(one.is_again);
        match one.told {
            Told::LetIn => self.let_in += 1,
            Told::Unanswered(_) => self.unanswered += 1,
            Told::Refused(_) => {}
        }
    }
}

/// What was not tried enough to prove anything.
pub(super) fn doubts(found: &[LetIn]) -> Vec<String> {
    let silent = |way: Way| found.iter().all(|count| count.way != way.name() || count.let_in == 0);
    let nobody = |way: Way| format!("nobody was let in by {}", way.name());
    let mut doubts: Vec<String> =
        Way::ALL.into_iter().filter(|way| silent(*way)).map(nobody).collect();
    if found.iter().all(|count| count.bad_proofs == 0) {
        doubts.push("no bad proof was tried".to_owned());
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::{LetIn, Told, Tries, Try, Way, doubts, told};
    use crate::client::{Answer, NoAnswer};
    use crate::drill::report::{Report, Verdict};
    use http::StatusCode;

    fn one(way: Way, node: u64, is_good: bool, told: Told) -> Try {
        Try { way, node, is_good, is_again: false, ended: 10, told }
    }

    fn judged(tries: Vec<Try>, owed: bool) -> Report {
        let mut report = Report::new("x", 1, String::new());
        Tries(tries).report("trial 0", |_, _| owed, &mut report);
        report
    }

    #[test]
    fn an_answer_that_says_nothing_of_a_proof_is_none() {
        let answer = |status, body: &'static str| {
            told(&Ok(Answer { status, body: body.into(), request_id: None, reason: None }))
        };
        assert_eq!(answer(StatusCode::OK, "{}"), Told::LetIn);
        assert!(matches!(answer(StatusCode::OK, ""), Told::Refused(_)));
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND] {
            assert!(matches!(answer(status, ""), Told::Refused(_)), "{status}");
        }
        for status in [502, 503, 504].map(|code| StatusCode::from_u16(code).unwrap()) {
            assert!(matches!(answer(status, ""), Told::Unanswered(_)), "{status}");
        }
        assert!(matches!(told(&Err(NoAnswer::NotSent(String::new()))), Told::Unanswered(_)));
    }

    #[test]
    fn a_good_proof_that_is_refused_is_found() {
        let refused = || Told::Refused("401 Unauthorized".to_owned());
        let report = judged(vec![one(Way::Ldap, 2, true, refused())], false);
        assert_eq!(report.verdict, Verdict::Invalid);
        let found = "good proofs are let in: trial 0: ldap at node 2: 401 Unauthorized";
        assert_eq!(report.reasons, [found]);
        let report = judged(vec![one(Way::Ldap, 2, false, refused())], true);
        assert_eq!(report.verdict, Verdict::Valid, "a bad one may be");
    }

    #[test]
    fn a_bad_proof_that_lets_in_is_found() {
        let report = judged(vec![one(Way::Jwt, 0, false, Told::LetIn)], false);
        let found = "bad proofs let nobody in: trial 0: jwt at the load balancer: let in";
        assert_eq!(report.reasons, [found]);
    }

    #[test]
    fn silence_is_counted_and_is_a_fault_where_an_answer_was_owed() {
        let silent = || vec![one(Way::Cert, 4, true, Told::Unanswered("503".to_owned()))];
        let report = judged(silent(), false);
        assert_eq!(report.verdict, Verdict::Valid);
        let count: &LetIn = &report.logins[3];
        assert_eq!((count.way, count.tried, count.unanswered, count.let_in), ("cert", 1, 1, 0));
        assert_eq!(judged(silent(), true).reasons.len(), 1);
    }

    #[test]
    fn a_way_by_which_nobody_came_in_proves_nothing() {
        let all = Way::ALL.map(|way| one(way, 1, true, Told::LetIn)).to_vec();
        let bad = one(Way::Key, 1, false, Told::Refused("401".to_owned()));
        let enough = judged([all.clone(), vec![bad]].concat(), true);
        assert!(doubts(&enough.logins).is_empty());
        let too_few = judged(all[1..].to_vec(), true);
        assert_eq!(doubts(&too_few.logins), ["nobody was let in by key", "no bad proof was tried"]);
    }
}
