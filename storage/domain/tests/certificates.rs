//! The cluster's certificates as rows: who may install them, in which order, and what goes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use conclave_domain::certificates::{
    CLUSTER, CLUSTER_CA, Certificate, CertificateKey, Condition, Origin,
};
use conclave_domain::command::{Actor, Command};
use conclave_domain::effect::Effect;
use conclave_domain::evolve::execute;
use conclave_domain::outcome::{Outcome, Rejection, Reply};
use conclave_domain::records::RequestId;
use conclave_domain::state::State;
use conclave_domain::time::LogIndex;
use support::{certificate, certificate_key as key, envelope, failed, id};

/// A state to which commands are put one after the other.
struct World {
    state: State,
    index: u64,
}

impl World {
    /// A cluster with a root, an intermediate and what voters present.
    fn founded() -> Self {
        let mut world = Self { state: State::new(), index: 0 };
        let first = vec![
            (key("root", 1), certificate(None)),
            (key(CLUSTER_CA, 1), certificate(Some(key("root", 1)))),
            (key(CLUSTER, 1), certificate(Some(key(CLUSTER_CA, 1)))),
        ];
        assert_eq!(world.install(first), Ok(Outcome::Done));
        world
    }

    fn ask(&mut self, actor: Actor, body: Command) -> Reply {
        self.index += 1;
        let mut envelope = envelope(body);
        envelope.actor = actor;
        envelope.request_id = RequestId(u128::from(self.index).to_be_bytes());
        let rows = self.state.rows();
        let done = execute(&mut self.state, LogIndex(self.index), &envelope);
        let mut copy = State::from_rows(rows);
        for effect in &done.effects {
            copy.apply(effect);
        }
        assert_eq!(copy.rows(), self.state.rows(), "effects alone lead elsewhere");
        done.reply
    }

    fn install(&mut self, certificates: Vec<(CertificateKey, Certificate)>) -> Reply {
        self.ask(Actor::Node, Command::InstallCertificates { certificates })
    }

    fn newest(&self, name: &str) -> u32 {
        self.state.certificate(name).map_or(0, |(key, _)| key.generation)
    }

    fn keys(&self) -> Vec<String> {
        let names = self.state.certificates().map(|(key, _)| key);
        names.map(|key| format!("{}/{}", key.name, key.generation)).collect()
    }
}

#[test]
fn only_the_newest_of_a_name_is_kept_but_every_root() {
    let mut world = World::founded();
    let next = vec![
        (key("root", 2), certificate(None)),
        (key(CLUSTER, 2), certificate(Some(key(CLUSTER_CA, 1)))),
    ];
    assert_eq!(world.install(next), Ok(Outcome::Done));
    assert_eq!(world.keys(), ["cluster/2", "cluster-ca/1", "root/1", "root/2"]);
    let (newest, _) = world.state.certificate("root").unwrap();
    assert_eq!(*newest, key("root", 2));
}

#[test]
fn of_two_that_issue_the_same_generation_the_second_is_refused() {
    let mut world = World::founded();
    let next = || vec![(key(CLUSTER, 2), certificate(Some(key(CLUSTER_CA, 1))))];
    assert_eq!(world.install(next()), Ok(Outcome::Done));
    let exists = world.install(next());
    assert!(matches!(exists, Err(Rejection::Exists { .. })), "{exists:?}");
}

#[test]
fn what_can_never_be_is_refused() {
    let mut world = World::founded();
    let leaf = || certificate(Some(key(CLUSTER_CA, 1)));
    let lifeless = Certificate { not_after: leaf().not_before, ..leaf() };
    for malformed in [
        Vec::new(),
        vec![(key(CLUSTER, 3), leaf())],
        vec![(key(CLUSTER, 2), certificate(None))],
        vec![(key(CLUSTER, 2), certificate(Some(key(CLUSTER_CA, 2))))],
        vec![(key(CLUSTER, 2), leaf()), (key(CLUSTER, 2), leaf())],
        vec![(key(CLUSTER, 2), lifeless)],
    ] {
        let reply = world.install(malformed.clone());
        assert!(matches!(reply, Err(Rejection::Invalid(_))), "{malformed:?}: {reply:?}");
    }
    assert_eq!(world.keys(), ["cluster/1", "cluster-ca/1", "root/1"]);
}

#[test]
fn a_renewal_is_asked_for_fails_and_comes_true() {
    let mut world = World::founded();
    let mark = |generation, condition| Command::MarkCertificate {
        key: key(CLUSTER, generation),
        condition,
    };
    for condition in [Condition::Issuing, failed()] {
        assert_eq!(world.ask(Actor::Node, mark(1, condition.clone())), Ok(Outcome::Done));
        assert_eq!(world.state.certificate(CLUSTER).unwrap().1.condition, condition);
    }
    let next = vec![(key(CLUSTER, 2), certificate(Some(key(CLUSTER_CA, 1))))];
    assert_eq!(world.install(next), Ok(Outcome::Done));
    assert_eq!(world.state.certificate(CLUSTER).unwrap().1.condition, Condition::Ready);
    let late = world.ask(Actor::Node, mark(1, Condition::Issuing));
    assert!(matches!(late, Err(Rejection::Invalid(_))), "{late:?}");
}

#[test]
fn a_root_goes_when_another_followed_and_nothing_hangs_on_it() {
    let mut world = World::founded();
    let retire = |name: &str, generation| Command::RetireCertificate { key: key(name, generation) };
    for (name, generation) in [("root", 1), (CLUSTER_CA, 1), ("root", 7)] {
        let refused = world.ask(Actor::Node, retire(name, generation));
        assert!(matches!(refused, Err(Rejection::Invalid(_))), "{name}: {refused:?}");
    }
    assert_eq!(world.install(vec![(key("root", 2), certificate(None))]), Ok(Outcome::Done));
    let hangs = world.ask(Actor::Node, retire("root", 1));
    assert!(matches!(hangs, Err(Rejection::Invalid(_))), "{hangs:?}");
    let moved = vec![(key(CLUSTER_CA, 2), certificate(Some(key("root", 2))))];
    assert_eq!(world.install(moved), Ok(Outcome::Done));
    assert_eq!(world.ask(Actor::Node, retire("root", 1)), Ok(Outcome::Done));
    assert_eq!(world.keys(), ["cluster/1", "cluster-ca/2", "root/2"]);
}

#[test]
fn what_is_brought_from_outside_stands_at_the_edge_alone_and_goes_when_told() {
    let mut world = World::founded();
    let brought = || Certificate { origin: Origin::Imported, ..certificate(None) };
    for name in [CLUSTER, "follower/readers"] {
        let refused = world.install(vec![(key(name, world.newest(name) + 1), brought())]);
        assert!(matches!(refused, Err(Rejection::Invalid(_))), "{name}: {refused:?}");
    }
    assert_eq!(world.install(vec![(key("edge/shop", 1), brought())]), Ok(Outcome::Done));
    assert_eq!(world.install(vec![(key("edge/shop", 2), brought())]), Ok(Outcome::Done));
    assert_eq!(world.keys(), ["cluster/1", "cluster-ca/1", "edge/shop/2", "root/1"]);
    let remove = |generation| Command::RetireCertificate { key: key("edge/shop", generation) };
    let gone = world.ask(Actor::Node, remove(1));
    assert!(matches!(gone, Err(Rejection::Invalid(_))), "{gone:?}");
    assert_eq!(world.ask(Actor::Node, remove(2)), Ok(Outcome::Done));
    assert_eq!(world.keys(), ["cluster/1", "cluster-ca/1", "root/1"]);
}

#[test]
fn an_intermediate_that_nothing_hangs_on_may_go_but_not_the_clusters_own() {
    let mut world = World::founded();
    let spare = vec![(key("edge-ca", 1), certificate(Some(key("root", 1))))];
    assert_eq!(world.install(spare), Ok(Outcome::Done));
    let retire = |name: &str| Command::RetireCertificate { key: key(name, 1) };
    for name in [CLUSTER_CA, CLUSTER] {
        let refused = world.ask(Actor::Node, retire(name));
        assert!(matches!(refused, Err(Rejection::Invalid(_))), "{name}: {refused:?}");
    }
    assert_eq!(world.ask(Actor::Node, retire("edge-ca")), Ok(Outcome::Done));
    let request = Certificate { origin: Origin::Imported, ..certificate(None) };
    assert_eq!(world.install(vec![(key("request/cluster-ca", 1), request)]), Ok(Outcome::Done));
    assert_eq!(world.ask(Actor::Node, retire("request/cluster-ca")), Ok(Outcome::Done));
    assert_eq!(world.keys(), ["cluster/1", "cluster-ca/1", "root/1"]);
}

#[test]
fn roles_touch_no_certificate() {
    let mut world = World::founded();
    let admin = || Actor::Role(id("user:admin"));
    let next = vec![(key(CLUSTER, 2), certificate(Some(key(CLUSTER_CA, 1))))];
    for command in [
        Command::InstallCertificates { certificates: next },
        Command::MarkCertificate { key: key(CLUSTER, 1), condition: Condition::Issuing },
        Command::RetireCertificate { key: key("root", 1) },
    ] {
        let refused = world.ask(admin(), command);
        assert!(matches!(refused, Err(Rejection::Invalid(_))), "{refused:?}");
    }
}

#[test]
fn certificates_load_from_rows_in_any_order() {
    let world = World::founded();
    let mut copy = State::new();
    for row in world.state.rows().into_iter().rev() {
        copy.apply(&Effect::put(row));
    }
    assert_eq!(copy.rows(), world.state.rows());
}

#[test]
fn a_cluster_founded_anew_is_one_member_and_what_others_held_is_void() {
    use conclave_domain::records::MemberRole::{Follower, Voter};
    use conclave_domain::records::{Digest, JoinToken, Member};
    let mut world = World::founded();
    let member = |name: &str, role| support::member(name, role);
    let admit = |member| Command::AdmitMember { token: None, member };
    let follower = format!("{}readers", conclave_domain::certificates::FOLLOWER_PREFIX);
    assert!(world.ask(Actor::Node, admit(member("one", Voter))).is_ok());
    let token = JoinToken { name: "two".to_owned(), ..support::join_token("two") };
    for seed in [3, 4] {
        let digest = Digest([seed; 32]);
        let issue = Command::IssueJoinToken { digest, token: token.clone() };
        assert_eq!(world.ask(Actor::Node, issue), Ok(Outcome::Done));
    }
    let two = Member { role: token.role, node_key: [9; 32], ..member("two", Follower) };
    let admitted = Command::AdmitMember { token: Some(Digest([3; 32])), member: two };
    assert!(world.ask(Actor::Node, admitted).is_ok());
    let made = (key(&follower, 1), certificate(Some(key(CLUSTER_CA, 1))));
    assert_eq!(world.install(vec![made]), Ok(Outcome::Done));
    assert_eq!((world.state.member_nodes().len(), world.newest(&follower)), (2, 1));

    let again = |node, member| Command::RefoundCluster { node, member };
    let alone = world.ask(Actor::Node, again(900, member("late", Follower)));
    assert!(matches!(alone, Err(Rejection::Invalid(_))), "{alone:?}");
    let other = world.ask(Actor::Role(id("user:admin")), again(900, member("late", Voter)));
    assert!(matches!(other, Err(Rejection::Invalid(_))), "{other:?}");
    assert_eq!(world.state.member_nodes().len(), 2);

    // Once, or again after a crash: one voter, under its old name or a new one.
    for name in ["two", "late", "late"] {
        let done = world.ask(Actor::Node, again(900, member(name, Voter)));
        assert_eq!(done, Ok(Outcome::Done));
        let members: Vec<_> = world.state.member_nodes().iter().collect();
        assert_eq!(members, [(&900, &member(name, Voter))]);
        assert_eq!(world.state.join_tokens().count(), 0);
        assert_eq!(world.keys(), ["cluster/1", "cluster-ca/1", "root/1"]);
    }
}
