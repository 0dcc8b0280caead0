//! What is known of the cluster's certificates, for operators: a row for each, with who has loaded it.
//!
//! The rows come from the state. Who has loaded what is no part of it: each member tells the leader
//! ([`Report`]) when that changes and every few seconds, and a new leader has heard from all of them
//! soon ([`Reports`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_domain::certificates::{
    CLUSTER, CertificateKey, CertificateRecord, Condition, EDGE_PREFIX, FOLLOWER_PREFIX, Origin,
    REQUEST_PREFIX, ROOT,
};
use conclave_domain::records::Member;
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::plan::{self, Acknowledged};
use super::{CertificateError, check};
use crate::folder::hex;

/// A renewal that is later than this is worth a word.
const OVERDUE_MS: i64 = 3_600_000;
/// A clock that is further from the others than this is worth a word.
const CLOCK_OFF_MS: i64 = 30_000;
/// So long after it was put in force everybody who is up has loaded a certificate.
const ROLLED_OUT_MS: i64 = 5 * 60_000;

/// What a request's PEM has that a certificate's has not.
const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----";
/// Where private keys are.
const STORAGE: &str = "replicated state, sealed under the keyring";

/// What a node has loaded into its listeners and endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it presents.
    pub certificate: CertificateKey,
    /// Generations of the roots that it trusts.
    pub roots: Vec<u32>,
    /// Names and generations of all that it can present.
    pub presentable: Vec<CertificateKey>,
    /// Hex SHA-256 of what it presents.
    pub fingerprint: String,
    /// When its life ends.
    pub not_after: Timestamp,
    /// Whether it is one that the node made for itself alone.
    pub stopgap: bool,
    /// When it was loaded.
    pub at: Timestamp,
}

/// What a member tells the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    name: String,
    generation: u32,
    fingerprint: String,
    roots: Vec<u32>,
    presentable: Vec<(String, u32)>,
    stopgap: bool,
    loaded_at: i64,
    /// The member's clock when it told, in milliseconds.
    clock: i64,
}

impl Report {
    /// The same, told at that time by the member's own clock.
    #[must_use]
    pub fn told_at(&self, clock: Timestamp) -> Self {
        Self { clock: clock.0, ..self.clone() }
    }
}

impl From<&Loaded> for Report {
    fn from(loaded: &Loaded) -> Self {
        Self {
            name: loaded.certificate.name.clone(),
            generation: loaded.certificate.generation,
            fingerprint: loaded.fingerprint.clone(),
            roots: loaded.roots.clone(),
            presentable: loaded
                .presentable
                .iter()
                .map(|key| (key.name.clone(), key.generation))
                .collect(),
            stopgap: loaded.stopgap,
            loaded_at: loaded.at.0,
            clock: loaded.at.0,
        }
    }
}

/// What all members have told.
#[derive(Debug, Default)]
pub struct Reports(Mutex<BTreeMap<u64, Told>>);

/// What one member told, when, and by how many milliseconds its clock was ahead of this node's.
#[derive(Debug)]
struct Told {
    report: Report,
    at: Instant,
    ahead: i64,
}

/// [`Reports`] at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Heard {
    /// By node id: what was told, and by how many milliseconds the member's clock is ahead of that of
    /// whoever heard it.
    pub members: BTreeMap<u64, (Report, i64)>,
}

impl Reports {
    /// Remembers what a member told, heard at that time by this node's clock.
    pub fn put(&self, node: u64, report: Report, heard: Timestamp) {
        let ahead = report.clock.saturating_sub(heard.0);
        self.lock().insert(node, Told { report, at: Instant::now(), ahead });
    }

    /// What was heard within that time.
    pub fn heard(&self, within: Duration) -> Heard {
        let mut told = self.lock();
        told.retain(|_, told| told.at.elapsed() < within);
        let members = told.iter().map(|(node, told)| (*node, (told.report.clone(), told.ahead)));
        Heard { members: members.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// By how many milliseconds the middle one of all clocks is ahead of that of whoever heard them.
    pub fn middle_clock(&self) -> i64 {
        let mut ahead: Vec<i64> = self.members.values().map(|(_, ahead)| *ahead).collect();
        ahead.sort_unstable();
        ahead.get(ahead.len() / 2).copied().unwrap_or_default()
    }
}

impl Acknowledged for Heard {
    fn trusts(&self, node: u64, root: &CertificateKey) -> bool {
        self.members.get(&node).is_some_and(|(report, _)| report.roots.contains(&root.generation))
    }

    fn presents(&self, node: u64, certificate: &CertificateKey) -> bool {
        self.members.get(&node).is_some_and(|(report, _)| {
            !report.stopgap
                && report.name == certificate.name
                && report.generation == certificate.generation
        })
    }
}

/// One certificate, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its name in the cluster.
    pub name: String,
    /// Counts its generations.
    pub revision: u32,
    /// Name and generation of who signed it, itself for a root; the subject of who did outside.
    pub issuer: String,
    /// `authority`, `client`, `server` or `client and server`.
    pub usage: String,
    /// The subject.
    pub subject: String,
    /// DNS names and addresses that it was issued for.
    pub names: Vec<String>,
    /// Algorithm of its key.
    pub key_algorithm: String,
    /// Serial number, hex.
    pub serial: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// Begin of its life.
    pub not_before: String,
    /// End of its life.
    pub not_after: String,
    /// When it will be renewed.
    pub renew_at: String,
    /// Seconds that are left of its life.
    pub seconds_left: i64,
    /// `Ready`, `Issuing`, `Expiring`, `Expired`, `Failed` or `Superseded`.
    pub state: String,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// Where the private key is.
    pub storage: String,
    /// When it was put in force.
    pub installed_at: String,
    /// `internal`: issued by the cluster itself; `imported`: brought from outside.
    pub origin: String,
    /// Who presents it or trusts it.
    pub consumers: Vec<Consumer>,
    /// The chain, PEM.
    pub pem: String,
}

/// A member that uses a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its name.
    pub node: String,
    /// Whether it has loaded this very certificate.
    pub loaded: bool,
    /// What it presents, hex SHA-256, where it is known; for roots and at the edge, this one if it
    /// has it.
    pub fingerprint: Option<String>,
    /// When it loaded that.
    pub loaded_at: Option<String>,
}

/// A member whose clock is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Its name.
    pub node: String,
    /// By how many seconds it is ahead of the middle one of all clocks.
    pub seconds_ahead: i64,
}

/// The members whose clocks are off.
pub fn clocks(state: &State, heard: &Heard) -> Vec<Clock> {
    let middle = heard.middle_clock();
    let off = heard.members.iter().filter_map(|(id, (_, ahead))| {
        let ahead = ahead.saturating_sub(middle);
        let member = state.member_nodes().get(id)?;
        let (node, seconds_ahead) = (member.name.clone(), ahead / 1000);
        (ahead.abs() > CLOCK_OFF_MS).then_some(Clock { node, seconds_ahead })
    });
    off.collect()
}

/// A row for each certificate in the state.
///
/// # Errors
/// When a certificate in the state cannot be read.
pub fn rows(state: &State, heard: &Heard, now: Timestamp) -> Result<Vec<Row>, CertificateError> {
    let rows = state.certificates().map(|(key, record)| {
        let is_request = record.certificate.chain_pem.contains(REQUEST);
        if is_request { Ok(request(key, record, now)) } else { row(state, key, record, heard, now) }
    });
    rows.collect()
}

fn row(
    state: &State,
    key: &CertificateKey,
    record: &CertificateRecord,
    heard: &Heard,
    now: Timestamp,
) -> Result<Row, CertificateError> {
    let certificate = &record.certificate;
    let pems = check::pems(&certificate.chain_pem)?;
    let pem = pems
        .first()
        .ok_or_else(|| CertificateError::Malformed(format!("{key} has no certificate")))?;
    let parsed = pem.parse_x509().map_err(|error| check::malformed(&error))?;
    let fingerprint = hex_sha256(&pem.contents);
    let consumers = consumers(state, key, &fingerprint, heard);
    let (state_word, reason) = state_of(state, key, record, &consumers, now);
    Ok(Row {
        name: key.name.clone(),
        revision: key.generation,
        issuer: match &certificate.issuer {
            Some(issuer) => issuer.to_string(),
            None if certificate.origin == Origin::Internal => key.to_string(),
            None => parsed.issuer().to_string(),
        },
        usage: usage(&parsed).to_owned(),
        subject: parsed.subject().to_string(),
        names: certificate.names.clone(),
        key_algorithm: algorithm(&parsed),
        serial: parsed.raw_serial_as_string().replace(':', ""),
        not_before: date(certificate.not_before),
        not_after: date(certificate.not_after),
        renew_at: date(certificate.renew_at),
        installed_at: date(record.installed_at),
        seconds_left: (certificate.not_after.0 - now.0).div_euclid(1000),
        state: state_word.to_owned(),
        reason,
        storage: STORAGE.to_owned(),
        origin: match certificate.origin {
            Origin::Internal => "internal",
            Origin::Imported => "imported",
        }
        .to_owned(),
        consumers,
        fingerprint,
        pem: certificate.chain_pem.clone(),
    })
}

/// What waits to be signed outside.
fn request(key: &CertificateKey, record: &CertificateRecord, now: Timestamp) -> Row {
    let certificate = &record.certificate;
    Row {
        name: key.name.clone(),
        revision: key.generation,
        issuer: String::new(),
        usage: "authority".to_owned(),
        subject: String::new(),
        names: Vec::new(),
        key_algorithm: "ECDSA P-256".to_owned(),
        serial: String::new(),
        fingerprint: String::new(),
        not_before: date(certificate.not_before),
        not_after: date(certificate.not_after),
        renew_at: date(certificate.renew_at),
        // It does not expire: it becomes a certificate, or goes.
        seconds_left: i64::MAX,
        state: "Issuing".to_owned(),
        reason: Some("waits to be signed: conclave cert import cluster-ca".to_owned()),
        storage: STORAGE.to_owned(),
        installed_at: date(record.installed_at.min(now)),
        origin: "imported".to_owned(),
        consumers: Vec::new(),
        pem: certificate.chain_pem.clone(),
    }
}

fn consumers(
    state: &State,
    key: &CertificateKey,
    fingerprint: &str,
    heard: &Heard,
) -> Vec<Consumer> {
    let is_leaf = key.name.starts_with(FOLLOWER_PREFIX) || key.name == CLUSTER;
    let uses = |member: &Member| {
        let presented = plan::presented_by(state, member);
        key.name == ROOT
            || key.name.starts_with(EDGE_PREFIX)
            || is_leaf && presented.is_some_and(|(own, _)| own == key)
    };
    let members = state.member_nodes().iter().filter(|(_, member)| uses(member));
    let consumer = |(id, member): (&u64, &Member)| {
        let report = heard.members.get(id).map(|(report, _)| report);
        let loaded = if key.name == ROOT {
            heard.trusts(*id, key)
        } else if !is_leaf {
            let is_it = |(name, generation): &(String, u32)| {
                *name == key.name && *generation == key.generation
            };
            report.is_some_and(|report| report.presentable.iter().any(is_it))
        } else {
            report.is_some_and(|report| report.fingerprint == fingerprint)
        };
        Consumer {
            node: member.name.clone(),
            loaded,
            fingerprint: if is_leaf {
                report.map(|report| report.fingerprint.clone())
            } else {
                loaded.then(|| fingerprint.to_owned())
            },
            loaded_at: report.map(|report| date(Timestamp(report.loaded_at))),
        }
    };
    members.map(consumer).collect()
}

fn state_of(
    state: &State,
    key: &CertificateKey,
    record: &CertificateRecord,
    consumers: &[Consumer],
    now: Timestamp,
) -> (&'static str, Option<String>) {
    let certificate = &record.certificate;
    if now >= certificate.not_after {
        return ("Expired", None);
    }
    if state.certificate(&key.name).is_some_and(|(newest, _)| newest != key) {
        return ("Superseded", Some("trusted until nothing hangs on it".to_owned()));
    }
    if key.name.starts_with(REQUEST_PREFIX) {
        return ("Issuing", Some("waits until all members trust its root".to_owned()));
    }
    if certificate.origin == Origin::Imported && now >= certificate.renew_at {
        let what = match &certificate.issuer {
            None if key.name != ROOT => "bring another: conclave cert import",
            None | Some(_) => "have another signed: conclave cert request",
        };
        return ("Expiring", Some(what.to_owned()));
    }
    match &record.condition {
        Condition::Failed { reason, attempts, next_try } => {
            let text = format!("{reason} ({attempts} times; next try {})", date(*next_try));
            ("Failed", Some(text))
        }
        Condition::Issuing => ("Issuing", None),
        Condition::Ready if now.0 - certificate.renew_at.0 > OVERDUE_MS => {
            ("Expiring", Some("its renewal is overdue".to_owned()))
        }
        Condition::Ready => ("Ready", not_loaded(record, consumers, now)),
    }
}

/// Who should have loaded it by now and has not said so.
fn not_loaded(
    record: &CertificateRecord,
    consumers: &[Consumer],
    now: Timestamp,
) -> Option<String> {
    let without = consumers.iter().filter(|consumer| !consumer.loaded);
    let without: Vec<&str> = without.map(|consumer| consumer.node.as_str()).collect();
    let is_late = now.0 - record.installed_at.0 > ROLLED_OUT_MS;
    (is_late && !without.is_empty()).then(|| format!("not loaded by {}", without.join(", ")))
}

fn usage(certificate: &X509Certificate<'_>) -> &'static str {
    let Ok(Some(extended)) = certificate.extended_key_usage() else { return "authority" };
    match (extended.value.client_auth, extended.value.server_auth) {
        (true, true) => "client and server",
        (true, false) => "client",
        (false, true) => "server",
        (false, false) => "other",
    }
}

fn algorithm(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::EC(point)) => format!("ECDSA P-{}", point.key_size()),
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(_) | Err(_) => "other".to_owned(),
    }
}

/// Hex SHA-256 of the first certificate of a chain.
///
/// # Errors
/// When there is none.
pub fn fingerprint(chain_pem: &str) -> Result<String, CertificateError> {
    let pems = check::pems(chain_pem)?;
    let first = pems.first().ok_or_else(|| CertificateError::Malformed("no certificate".into()))?;
    Ok(hex_sha256(&first.contents))
}

fn hex_sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// A moment as people and programs read it.
pub(crate) fn date(at: Timestamp) -> String {
    let instant = OffsetDateTime::from_unix_timestamp(at.seconds());
    instant.ok().and_then(|instant| instant.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use conclave_domain::effect::{Effect, Row as StateRow};
    use conclave_domain::records::MemberRole;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const HOUR_MS: i64 = 3_600_000;

    fn report(clock: Timestamp) -> Report {
        Report {
            name: CLUSTER.to_owned(),
            generation: 2,
            fingerprint: "aa".to_owned(),
            roots: vec![1],
            presentable: vec![("edge/shop".to_owned(), 3)],
            stopgap: false,
            loaded_at: clock.0,
            clock: clock.0,
        }
    }

    /// What a leader has heard whose own clock is right, from members whose clocks are off by so much.
    fn heard(off: &[i64]) -> Heard {
        let reports = Reports::default();
        for (id, off) in (1..).zip(off) {
            reports.put(id, report(Timestamp(NOW.0 + off)), NOW);
        }
        reports.heard(Duration::from_mins(1))
    }

    #[test]
    fn the_middle_clock_is_that_of_the_many() {
        let cases: [(&[i64], i64); 5] = [
            (&[], 0),
            (&[0], 0),
            (&[0, HOUR_MS, -3], 0),
            // It is the leader whose clock is off.
            (&[0, HOUR_MS, HOUR_MS + 5], HOUR_MS),
            (&[0, -HOUR_MS, -HOUR_MS, 7, -HOUR_MS], -HOUR_MS),
        ];
        for (off, middle) in cases {
            assert_eq!(heard(off).middle_clock(), middle, "{off:?}");
        }
    }

    #[test]
    fn members_whose_clocks_are_off_are_named() {
        let mut state = State::new();
        for (id, name) in [(1, "n1"), (2, "n2"), (3, "n3")] {
            let member = Member {
                name: name.to_owned(),
                role: MemberRole::Voter,
                node_key: [1; 32],
                peer_address: String::new(),
                api_url: String::new(),
            };
            state.apply(&Effect::put(StateRow::Member(id, member)));
        }
        assert_eq!(clocks(&state, &heard(&[0, 900, -900])), []);
        let n2 = Clock { node: "n2".to_owned(), seconds_ahead: 3600 };
        assert_eq!(clocks(&state, &heard(&[0, HOUR_MS, 0])), [n2]);
    }

    #[test]
    fn what_was_told_is_acknowledged_as_it_was_told() {
        let heard = heard(&[0]);
        let key = |name: &str, generation| CertificateKey { name: name.to_owned(), generation };
        assert!(heard.trusts(1, &key(ROOT, 1)) && !heard.trusts(1, &key(ROOT, 2)));
        assert!(heard.presents(1, &key(CLUSTER, 2)) && !heard.presents(1, &key(CLUSTER, 1)));
        assert!(!heard.trusts(2, &key(ROOT, 1)), "nothing was heard of it");
        let reports = Reports::default();
        reports.put(1, Report { stopgap: true, ..report(NOW) }, NOW);
        let alone = reports.heard(Duration::from_mins(1));
        assert!(!alone.presents(1, &key(CLUSTER, 2)), "it presents one of its own making");
        assert_eq!(reports.heard(Duration::ZERO).members.len(), 0, "it was too long ago");
    }
}
