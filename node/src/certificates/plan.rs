//! Which certificates are due: pure questions to the state, asked by the leader's job, by a node that
//! loads what it presents, and by who issues a seed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use conclave_domain::certificates::{
    CLUSTER, CLUSTER_CA, Certificate, CertificateKey, CertificateRecord, Condition,
    FOLLOWER_PREFIX, Origin, REQUEST_PREFIX, ROOT,
};
use conclave_domain::records::{Member, MemberRole};
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use rustls_pki_types::DnsName;

use super::template::LeafRole;

/// A new root is used though a member has not loaded it once it has been in force for so long; who
/// missed it is led on by the older root.
const LAGGARDS_AFTER_MS: i64 = 5 * 60_000;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Issue the next generation of what nodes present, or of an intermediate.
    Issue {
        /// Its name.
        name: String,
        /// Why, in words.
        why: &'static str,
    },
    /// Publish another root, for everybody to load before anything hangs on it.
    PublishRoot,
    /// Hang all intermediates on this root.
    UseRoot(CertificateKey),
    /// Trust this root no longer.
    Retire(CertificateKey),
}

/// What members have said they loaded.
pub trait Acknowledged {
    /// Whether the member trusts this root.
    fn trusts(&self, node: u64, root: &CertificateKey) -> bool;
    /// Whether the member presents this certificate.
    fn presents(&self, node: u64, certificate: &CertificateKey) -> bool;
}

/// The step that is due, if any. `configured` are the names in this leader's configuration.
pub fn next_step(
    state: &State,
    configured: &[String],
    acknowledged: &impl Acknowledged,
    now: Timestamp,
) -> Option<Step> {
    let (newest_root, root) = state.certificate(ROOT)?;
    let in_rotation = state.certificates().filter(|(key, _)| key.name == ROOT).count() > 1;
    if in_rotation {
        if let Some(step) = rotation_step(state, newest_root, root, acknowledged, now) {
            return Some(step);
        }
    } else if why_due(root, now).is_some() && is_ours_to_follow(root) {
        return Some(Step::PublishRoot);
    }
    if let Some(done) = request_done(state) {
        return Some(Step::Retire(done));
    }
    let issue = |key: &CertificateKey, why| Step::Issue { name: key.name.clone(), why };
    let mut below = issued_here(state);
    below.find_map(|(key, record)| {
        if is_intermediate(record) {
            return why_due(record, now).map(|why| issue(key, why));
        }
        let why =
            why_due(record, now).or_else(|| why_outdated(state, key, record, configured, now));
        why.map(|why| issue(key, why))
    })
}

fn rotation_step(
    state: &State,
    newest: &CertificateKey,
    root: &CertificateRecord,
    acknowledged: &impl Acknowledged,
    now: Timestamp,
) -> Option<Step> {
    let members = || state.member_nodes().keys();
    let below = || state.certificates().filter(|(key, _)| key.name != ROOT);
    let is_ours = root.certificate.origin == Origin::Internal;
    if !below().any(|(_, record)| record.certificate.issuer.as_ref() == Some(newest)) {
        let everybody = members().all(|node| acknowledged.trusts(*node, newest));
        // Nothing leads on to or from a root from outside: for that, all members are waited for.
        let ours_alone = state
            .certificates()
            .filter(|(key, _)| key.name == ROOT)
            .all(|(_, root)| root.certificate.origin == Origin::Internal);
        let waited = ours_alone && now.0 - root.installed_at.0 >= LAGGARDS_AFTER_MS;
        return (everybody || waited).then(|| Step::UseRoot(newest.clone()));
    }
    let mut spare = below().filter(|(key, record)| {
        let issuer = record.certificate.issuer.as_ref();
        !is_ours
            && key.name != CLUSTER_CA
            && is_intermediate(record)
            && issuer.is_some_and(|issuer| issuer != newest)
    });
    if let Some((key, _)) = spare.next() {
        return Some(Step::Retire(key.clone()));
    }
    // Only when every leaf in use hangs on the new root may the older ones go.
    let reissued = issued_here(state)
        .filter(|(_, record)| !is_intermediate(record))
        .all(|(_, record)| is_of_newest_issuer(state, &record.certificate));
    let presented = state.member_nodes().iter().all(|(node, member)| {
        presented_by(state, member).is_some_and(|(key, _)| acknowledged.presents(*node, key))
    });
    let oldest = state.certificates().map(|(key, _)| key).find(|key| key.name == ROOT)?;
    (reissued && presented).then(|| Step::Retire(oldest.clone()))
}

/// A root from outside is followed only when that is asked for.
fn is_ours_to_follow(root: &CertificateRecord) -> bool {
    root.certificate.origin == Origin::Internal || root.condition == Condition::Issuing
}

/// The request that has become the cluster's intermediate, while it is still there.
fn request_done(state: &State) -> Option<CertificateKey> {
    let (key, request) = state.certificate(&format!("{REQUEST_PREFIX}{CLUSTER_CA}"))?;
    let (_, signed) = state.certificate(CLUSTER_CA)?;
    (request.certificate.chain_pem == signed.certificate.chain_pem).then(|| key.clone())
}

/// What the cluster signed, without its roots.
fn issued_here(state: &State) -> impl Iterator<Item = (&CertificateKey, &CertificateRecord)> {
    state
        .certificates()
        .filter(|(key, record)| key.name != ROOT && record.certificate.origin == Origin::Internal)
}

/// Whether it signs others: what hangs on a root itself.
fn is_intermediate(record: &CertificateRecord) -> bool {
    record.certificate.issuer.as_ref().is_some_and(|issuer| issuer.name == ROOT)
}

fn is_of_newest_issuer(state: &State, certificate: &Certificate) -> bool {
    let Some(issuer) = &certificate.issuer else { return false };
    state.certificate(&issuer.name).is_some_and(|(newest, _)| newest == issuer)
}

fn why_due(record: &CertificateRecord, now: Timestamp) -> Option<&'static str> {
    match &record.condition {
        Condition::Issuing => Some("it was asked for"),
        Condition::Failed { next_try, .. } if now >= *next_try => Some("it is tried again"),
        Condition::Ready if now >= record.certificate.renew_at => Some("it is due"),
        Condition::Failed { .. } | Condition::Ready => None,
    }
}

fn why_outdated(
    state: &State,
    key: &CertificateKey,
    record: &CertificateRecord,
    configured: &[String],
    now: Timestamp,
) -> Option<&'static str> {
    if matches!(record.condition, Condition::Failed { next_try, .. } if now < next_try) {
        return None;
    }
    let certificate = &record.certificate;
    if !is_of_newest_issuer(state, certificate) {
        return Some("its issuer has been followed by another");
    }
    let wanted = wanted(state, &key.name, certificate, configured);
    if wanted.names.iter().any(|name| !certificate.names.contains(name)) {
        return Some("it lacks a name");
    }
    (wanted.holders != certificate.holders).then_some("who holds its key has changed")
}

/// What a leaf should say.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// All names, the common name first.
    pub names: Vec<String>,
    /// Those that come from configuration.
    pub configured: Vec<String>,
    /// The ids of the members that present it.
    pub holders: Vec<u64>,
    /// The part that they play.
    pub role: LeafRole,
}

/// What the leaf of that name should say now, given what it says.
pub fn wanted(
    state: &State,
    name: &str,
    certificate: &Certificate,
    configured: &[String],
) -> Wanted {
    let role = if name.starts_with(FOLLOWER_PREFIX) { LeafRole::Follower } else { LeafRole::Voter };
    // A leader's configuration names the voters' load balancer, not that of a group of followers.
    let added = if name == CLUSTER { configured } else { &[] };
    // Its first name is the common name, so that the balancer gets another name by a change of the file.
    let configured = union(added, &certificate.configured);
    let holders: Vec<(&u64, &Member)> = state
        .member_nodes()
        .iter()
        .filter(|(_, member)| presented_by(state, member).is_some_and(|(key, _)| key.name == name))
        .collect();
    let hosts: BTreeSet<String> = holders
        .iter()
        .flat_map(|(_, member)| hosts(&member.api_url, &member.peer_address))
        .collect();
    Wanted {
        names: union(&configured, &hosts.into_iter().collect::<Vec<_>>()),
        configured,
        holders: holders.into_iter().map(|(id, _)| *id).collect(),
        role,
    }
}

/// What a member presents: a follower what a seed promised it, everybody else the cluster
/// certificate.
pub fn presented_by<'a>(
    state: &'a State,
    member: &Member,
) -> Option<(&'a CertificateKey, &'a CertificateRecord)> {
    presented_as(state, member.role, &member.name)
}

/// As [`presented_by`], for a node that need not be a member yet.
pub fn presented_as<'a>(
    state: &'a State,
    role: MemberRole,
    node: &str,
) -> Option<(&'a CertificateKey, &'a CertificateRecord)> {
    let promised = |record: &CertificateRecord| {
        record.certificate.nodes.iter().any(|promised| promised == node)
    };
    let own = state
        .certificates()
        .filter(|(key, _)| role == MemberRole::Follower && key.name.starts_with(FOLLOWER_PREFIX))
        .filter(|(_, record)| promised(record))
        .last();
    own.or_else(|| state.certificate(CLUSTER))
}

/// The roots that are trusted, oldest first: PEM.
pub fn roots_pem(state: &State) -> String {
    let roots = state.certificates().filter(|(key, _)| key.name == ROOT);
    roots.map(|(_, record)| record.certificate.chain_pem.as_str()).collect()
}

/// The hosts in a member's addresses that a certificate can name.
pub fn hosts(api_url: &str, peer_address: &str) -> Vec<String> {
    let authority = api_url.split_once("://").map_or(api_url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let names = [authority, peer_address].into_iter().map(host).filter(|name| can_be_named(name));
    names.map(str::to_ascii_lowercase).collect()
}

fn host(address: &str) -> &str {
    let bare = match address.rsplit_once(':') {
        _ if address.parse::<IpAddr>().is_ok() => address,
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => address,
    };
    bare.trim_start_matches('[').trim_end_matches(']')
}

fn can_be_named(name: &str) -> bool {
    match name.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified(),
        Err(_) => DnsName::try_from(name).is_ok(),
    }
}

fn union(first: &[String], more: &[String]) -> Vec<String> {
    let mut names = first.to_vec();
    for name in more {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use conclave_domain::effect::{Effect, Row, RowKey};
    use conclave_domain::records::Sealed;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const LATER: Timestamp = Timestamp(2_000_000);

    fn key(name: &str, generation: u32) -> CertificateKey {
        CertificateKey { name: name.to_owned(), generation }
    }

    fn put(state: &mut State, key: CertificateKey, issuer: Option<CertificateKey>) {
        let is_leaf = key.name == CLUSTER || key.name.starts_with(FOLLOWER_PREFIX);
        let names = if is_leaf { vec!["lb".to_owned(), "n1".to_owned()] } else { Vec::new() };
        let certificate = Certificate {
            origin: Origin::Internal,
            issuer,
            chain_pem: String::new(),
            key: Sealed(Vec::new()),
            configured: names.iter().take(1).cloned().collect(),
            names,
            nodes: Vec::new(),
            holders: if key.name == CLUSTER { vec![1] } else { Vec::new() },
            not_before: Timestamp(0),
            not_after: Timestamp(3_000_000),
            renew_at: LATER,
        };
        let record =
            CertificateRecord { certificate, installed_at: NOW, condition: Condition::Ready };
        state.apply(&Effect::put(Row::Certificate(key, record)));
    }

    fn member(state: &mut State, id: u64, name: &str, role: MemberRole) {
        let member = Member {
            name: name.to_owned(),
            role,
            node_key: [1; 32],
            peer_address: format!("{name}:7443"),
            api_url: format!("https://{name}:8443"),
        };
        state.apply(&Effect::put(Row::Member(id, member)));
    }

    fn cluster() -> State {
        let mut state = State::new();
        put(&mut state, key(ROOT, 1), None);
        put(&mut state, key(CLUSTER_CA, 1), Some(key(ROOT, 1)));
        put(&mut state, key(CLUSTER, 1), Some(key(CLUSTER_CA, 1)));
        member(&mut state, 1, "n1", MemberRole::Voter);
        state
    }

    /// Says yes to everything, or to nothing.
    struct All(bool);

    impl Acknowledged for All {
        fn trusts(&self, _: u64, _: &CertificateKey) -> bool {
            self.0
        }
        fn presents(&self, _: u64, _: &CertificateKey) -> bool {
            self.0
        }
    }

    fn step(state: &State, now: Timestamp) -> Option<Step> {
        next_step(state, &["lb".to_owned()], &All(true), now)
    }

    fn mark(state: &mut State, key: &CertificateKey, condition: Condition) {
        let record = CertificateRecord { condition, ..state.certificate_of(key).unwrap().clone() };
        state.apply(&Effect::put(Row::Certificate(key.clone(), record)));
    }

    /// Generation 2 in the place of generation 1.
    fn follow(state: &mut State, name: &str, issuer: CertificateKey) {
        state.apply(&Effect::Delete(RowKey::Certificate(key(name, 1))));
        put(state, key(name, 2), Some(issuer));
    }

    fn issue(name: &str, why: &'static str) -> Step {
        Step::Issue { name: name.to_owned(), why }
    }

    #[test]
    fn nothing_is_due_in_a_fresh_cluster() {
        assert_eq!(step(&cluster(), NOW), None);
        assert_eq!(step(&State::new(), NOW), None);
    }

    #[test]
    fn a_voter_that_came_or_went_calls_for_another_certificate() {
        let mut state = cluster();
        member(&mut state, 5, "n2", MemberRole::Voter);
        assert_eq!(step(&state, NOW), Some(issue(CLUSTER, "it lacks a name")));
        let wanted = wanted(
            &state,
            CLUSTER,
            &state.certificate(CLUSTER).unwrap().1.certificate,
            &["lb".to_owned(), "other".to_owned()],
        );
        assert_eq!(wanted.names, ["lb", "other", "n1", "n2"]);
        let renamed = ["other".to_owned()];
        let certificate = &state.certificate(CLUSTER).unwrap().1.certificate;
        let wanted = super::wanted(&state, CLUSTER, certificate, &renamed);
        assert_eq!(wanted.names, ["other", "lb", "n1", "n2"]);
        assert_eq!((wanted.holders.as_slice(), wanted.role), (&[1, 5][..], LeafRole::Voter));

        let mut state = cluster();
        member(&mut state, 5, "n1", MemberRole::Voter);
        assert_eq!(step(&state, NOW), Some(issue(CLUSTER, "who holds its key has changed")));
    }

    #[test]
    fn followers_present_what_their_seed_promised() {
        let mut state = cluster();
        let group = key("follower/readers", 1);
        put(&mut state, group.clone(), Some(key(CLUSTER_CA, 1)));
        let mut record = state.certificate_of(&group).unwrap().clone();
        record.certificate.nodes = vec!["f1".to_owned()];
        state.apply(&Effect::put(Row::Certificate(group.clone(), record)));
        let presents = |role, name| presented_as(&state, role, name).unwrap().0.name.clone();
        assert_eq!(presents(MemberRole::Follower, "f1"), group.name);
        assert_eq!(presents(MemberRole::Follower, "f2"), CLUSTER);
        assert_eq!(presents(MemberRole::Voter, "f1"), CLUSTER);
        member(&mut state, 9, "f1", MemberRole::Follower);
        assert_eq!(step(&state, NOW), Some(issue(&group.name, "it lacks a name")));
    }

    #[test]
    fn what_is_due_or_asked_for_is_renewed_and_failures_wait() {
        let mut state = cluster();
        assert_eq!(step(&state, LATER), Some(Step::PublishRoot));
        mark(&mut state, &key(CLUSTER, 1), Condition::Issuing);
        assert_eq!(step(&state, NOW), Some(issue(CLUSTER, "it was asked for")));
        let failed = |next_try| Condition::Failed { reason: String::new(), attempts: 1, next_try };
        mark(&mut state, &key(CLUSTER, 1), failed(LATER));
        member(&mut state, 5, "n2", MemberRole::Voter);
        assert_eq!(step(&state, NOW), None);
        mark(&mut state, &key(CLUSTER, 1), failed(NOW));
        assert_eq!(step(&state, NOW), Some(issue(CLUSTER, "it is tried again")));
    }

    #[test]
    fn a_root_is_published_acknowledged_used_and_followed() {
        let mut state = cluster();
        mark(&mut state, &key(ROOT, 1), Condition::Issuing);
        assert_eq!(step(&state, NOW), Some(Step::PublishRoot));
        put(&mut state, key(ROOT, 2), None);
        assert_eq!(next_step(&state, &[], &All(false), NOW), None);
        let waited = Timestamp(NOW.0 + LAGGARDS_AFTER_MS);
        assert_eq!(next_step(&state, &[], &All(false), waited), Some(Step::UseRoot(key(ROOT, 2))));
        assert_eq!(step(&state, NOW), Some(Step::UseRoot(key(ROOT, 2))));
        follow(&mut state, CLUSTER_CA, key(ROOT, 2));
        let followed = "its issuer has been followed by another";
        assert_eq!(step(&state, NOW), Some(issue(CLUSTER, followed)));
        follow(&mut state, CLUSTER, key(CLUSTER_CA, 2));
        assert_eq!(next_step(&state, &[], &All(false), waited), None);
        assert_eq!(step(&state, NOW), Some(Step::Retire(key(ROOT, 1))));
    }

    #[test]
    fn hosts_are_what_a_certificate_can_name() {
        let cases = [
            ("https://n1.example.com:8443", "10.0.0.1:7443", &["n1.example.com", "10.0.0.1"][..]),
            ("https://[::1]:8443/api", "n2:7443", &["::1", "n2"]),
            ("https://0.0.0.0:8443", "N3", &["n3"]),
            ("https://spa ce", "", &[]),
        ];
        for (url, peer, expected) in cases {
            assert_eq!(hosts(url, peer), expected, "{url} {peer}");
        }
    }
}
