//! The audit chain of a real node: who may write to it, and what is in it once.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

#[path = "audit/pretender.rs"]
mod pretender;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use conclave::clock::SystemClock;
use conclave::compose::Node;
use conclave::config::Config;
use conclave::jobs;
use conclave::join::join;
use conclave::peer_service::{PeerService, SERVICE_AUDIT};
use conclave::seed::{Seed, SeedRole};
use conclave::seeding::{self, Wanted};
use conclave_api::audit::{Outcome, Record, Severity, SpoolError, SpoolReader};
use conclave_domain::audit::{AuditTexts, ChainVerifier};
use conclave_domain::command::{self, Actor, Envelope, codec};
use conclave_domain::records::RequestId;
use conclave_domain::time::{Clock, Timestamp};
use conclave_raft::{PeerIdentity, Service, Who};

fn batch(node: u64, first: u64, records: &[&str]) -> Vec<u8> {
    let texts = AuditTexts::packed(records);
    codec::encode(&Envelope {
        request_id: RequestId([0; 16]),
        actor: Actor::Node,
        at: Timestamp(0),
        client_ip: String::new(),
        body: command::Command::ChainAudit { node, first, lost: 0, texts },
    })
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come true");
}

/// Writes the configuration of a node. Nobody else is given its port meanwhile: it is of the ephemeral ones.
fn configured(folder: &Path, name: &str, audit: &str) -> PathBuf {
    let path = folder.join("conclave.toml");
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "[node]\nname = \"{name}\"\ndata = \"data\"\nmaster_key_file = \"master.key\"\n\
         [api]\nlisten = \"127.0.0.1:0\"\nurl = \"https://localhost:1\"\n\
         [peer]\nlisten = \"{peer}\"\n[audit]\n{audit}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// A cluster of one node, whose jobs do not run. `audit` is that section of its configuration;
/// `prepare` sees its spool's folder before it starts.
async fn alone(audit: &str, prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, Arc<Node>) {
    let folder = tempfile::tempdir().unwrap();
    let path = configured(folder.path(), "n1", audit);
    let mut init = Command::new(env!("CARGO_BIN_EXE_conclave"));
    init.args(["cluster", "init", "--config"]).arg(&path);
    assert!(init.output().unwrap().status.success());
    let spool = folder.path().join("data/audit");
    std::fs::create_dir_all(&spool).unwrap();
    prepare(&spool);
    let config = Config::load(&path).unwrap();
    let node = Arc::new(Node::build(&config, None).await.unwrap());
    until("leadership", || node.core.raft.status().leader == Some(1)).await;
    (folder, node)
}

fn record(at: Timestamp) -> Record {
    Record {
        at,
        request_id: "r".to_owned(),
        message_id: "fetch",
        operation: "fetch".into(),
        outcome: Outcome::Success,
        severity: Severity::Info,
        user: None,
        authenticator: None,
        service: None,
        subject: Vec::new(),
        client_ip: "::1".to_owned(),
        policy: None,
        message: "m".to_owned(),
    }
}

/// Proves the chain that a node has.
fn verified(node: &Node) -> ChainVerifier {
    let head = node.core.state.read(|view| view.state.audit_head());
    let mut verifier = ChainVerifier::new(head.first, head.base);
    for (number, record) in node.core.state.audit_records(0, 100, 1 << 20).unwrap() {
        verifier.take(number, &record, conclave_storage::seal::is_signed).unwrap();
    }
    verifier.finish(head.last, &head.hash).unwrap();
    verifier
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_records_are_forgotten_and_lost_ones_are_named() {
    // The spool begins with number 5: four records are lost for good.
    let (_folder, node) = alone("retention_days = 1", |spool| {
        let line = |number| format!("{{\"seq\":{number},\"at\":\"2001-01-01T00:00:00.000Z\"}}\n");
        std::fs::write(spool.join("spool-000000000000001-000000000005.jsonl"), line(5) + &line(6))
            .unwrap();
    })
    .await;
    let ship = tokio::spawn(jobs::ship(node.clone()));
    let head = || node.core.state.read(|view| view.state.audit_head());
    until("the gap and two records", || head().last == 3).await;
    assert_eq!(verified(&node).gaps(), 1);
    let records = node.core.state.audit_records(1, 10, 1 << 20).unwrap();
    assert!(records[0].1.text.contains("\"from\":1,\"to\":4"), "{}", records[0].1.text);
    node.spool.append(&[record(Timestamp(0)), record(SystemClock.now())]).await.unwrap();
    until("two more", || head().last == 5).await;

    // What is older than a day goes once it is vouched for; what is left verifies from there.
    let tend = tokio::spawn(jobs::tend(node.clone()));
    until("the end of the old ones", || head().first == 5).await;
    assert!(head().checkpointed >= 5);
    assert_eq!(verified(&node).gaps(), 0);
    // The files that are in the chain whole are gone, too; the newest stays open.
    node.spool.append(&[record(SystemClock.now())]).await.unwrap();
    until("deletion", || std::fs::read_dir(&node.audit_folder).unwrap().count() == 1).await;
    ship.abort();
    tend.abort();
    node.core.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_quorum_an_answer_waits_for_the_chain() {
    let (_folder, node) = alone("durability = \"quorum\"", |_| {}).await;
    let waiting = {
        let node = node.clone();
        tokio::spawn(async move { node.spool.append(&[record(SystemClock.now())]).await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished() && node.spool.status().synced == 1);
    let ship = tokio::spawn(jobs::ship(node.clone()));
    waiting.await.unwrap().unwrap();
    assert_eq!(node.core.state.read(|view| view.state.audit_head().last), 1);
    // Where nothing comes there any more, the request is refused.
    ship.abort();
    let refused = node.spool.append(&[record(SystemClock.now())]).await;
    assert_eq!(refused, Err(SpoolError::Unchained));
    node.core.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_in_anothers_name_is_refused_and_recorded() {
    let (_folder, node) = alone("", |_| {}).await;
    let core = &node.core;
    let service = PeerService::new(
        core.raft.clone(),
        core.state.clone(),
        core.root_key.clone(),
        Some(node.spool.clone()),
        core.reports.clone(),
    );
    let address = Some("10.0.0.7:7443".parse().unwrap());
    let member = |id| PeerIdentity { who: Who::Member(id), follower_certificate: id != 1, address };

    // Member 7 writes in the name of node 1, sends what is no batch, and is no member of the log.
    let forged = service.call(member(7), SERVICE_AUDIT, batch(1, 1, &["{}"])).await;
    assert!(forged.unwrap_err().0.contains("in the name of node 1"));
    let other = codec::encode(&Envelope {
        body: command::Command::RemoveMemberNode { node: 1 },
        ..codec::decode(&batch(1, 1, &[])).unwrap()
    });
    assert!(service.call(member(1), SERVICE_AUDIT, other).await.is_err());
    assert!(service.call(member(1), SERVICE_AUDIT, b"noise".to_vec()).await.is_err());
    assert!(service.call(member(7), SERVICE_AUDIT, batch(7, 1, &["{}"])).await.is_err());
    let joiner = PeerIdentity { who: Who::Joiner([7; 32]), follower_certificate: true, address };
    assert!(service.call(joiner, SERVICE_AUDIT, batch(7, 1, &["{}"])).await.is_err());
    assert_eq!(core.state.read(|view| view.state.audit_head().last), 0);

    // The forgery is a record of the leader's own, with where it came from.
    until("a record", || node.spool.status().last == 1).await;
    let record = SpoolReader::new(node.audit_folder.clone()).read(1, 1).unwrap();
    assert!(record.records[0].contains("node 7 sent audit records in the name of node 1"));
    assert!(record.records[0].contains("\"client_ip\":\"10.0.0.7\""), "{}", record.records[0]);

    // The leader's own records come by themselves, once, and are vouched for.
    let ship = tokio::spawn(jobs::ship(node.clone()));
    let tend = tokio::spawn(jobs::tend(node.clone()));
    let head = || core.state.read(|view| view.state.audit_head());
    until("a checkpoint", || head().checkpointed == 1).await;
    until("news of it", || node.spool.status().chained == 1).await;
    // Sent again, by whatever went wrong, it is passed over.
    let again = service.call(member(1), SERVICE_AUDIT, batch(1, 1, &["{}"])).await;
    assert_eq!(again.unwrap(), 1_u64.to_be_bytes());
    assert_eq!(head().last, 2);
    let verifier = verified(&node);
    assert_eq!((verifier.checkpoints(), verifier.gaps()), (1, 0));
    ship.abort();
    tend.abort();
    node.core.stop().await;
}

/// A seed for the follower f1.
async fn seed_of_f1(node: &Arc<Node>) -> Seed {
    let wanted = Wanted {
        name: "f1".to_owned(),
        role: SeedRole::Follower,
        life: Duration::from_mins(1),
        group: None,
        names: Vec::new(),
        cidr: Vec::new(),
    };
    seeding::issue(node, Actor::Node, String::new(), wanted).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_batch_over_the_wire_is_refused_and_in_the_chain_with_its_source() {
    let (_folder, node) = alone("", |_| {}).await;
    let ship = tokio::spawn(jobs::ship(node.clone()));
    let membership = tokio::spawn(jobs::membership(node.clone()));
    let seed = seed_of_f1(&node).await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config::load(&configured(folder.path(), "f1", "")).unwrap();
    let joined = join(&config, &seed, None).await.unwrap();
    let follower = Node::build(&config, None).await.unwrap();
    until("the follower to follow", || follower.core.raft.leader() == Some(1)).await;

    // It is a member, with its own key and certificate, and speaks for the leader.
    let patience = Duration::from_secs(30);
    let forged = batch(1, 1, &["{\"forged\":true}"]);
    let answer = follower.core.raft.call(1, SERVICE_AUDIT, forged, patience).await;
    assert!(answer.unwrap_err().to_string().contains("in the name of node 1"));
    let chain = || node.core.state.audit_records(1, 100, 1 << 20).unwrap();
    let marks = [
        format!("f1 (node {}) from 127.0.0.1 was refused: append-audit", joined.node_id),
        "\"client_ip\":\"127.0.0.1\"".to_owned(),
    ];
    let is_it = |text: &str| marks.iter().all(|mark| text.contains(mark));
    until("the record", || chain().iter().any(|(_, record)| is_it(&record.text))).await;
    assert!(!chain().iter().any(|(_, record)| record.text.contains("forged")));
    drop(verified(&node));
    ship.abort();
    membership.abort();
    follower.core.stop().await;
    node.core.stop().await;
}
