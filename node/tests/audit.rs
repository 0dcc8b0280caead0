//! The audit chain of a real node: who may write to it, and what is in it once.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use conclave::compose::Node;
use conclave::config::Config;
use conclave::jobs;
use conclave::peer_service::{PeerService, SERVICE_AUDIT};
use conclave_api::audit::SpoolReader;
use conclave_domain::audit::ChainVerifier;
use conclave_domain::command::{self, Actor, Envelope, codec};
use conclave_domain::records::RequestId;
use conclave_domain::time::Timestamp;
use conclave_raft::{PeerIdentity, Service, Who};

fn batch(node: u64, first: u64, records: &[&str]) -> Vec<u8> {
    let records = records.iter().map(|text| (*text).to_owned()).collect();
    codec::encode(&Envelope {
        request_id: RequestId([0; 16]),
        actor: Actor::Node,
        at: Timestamp(0),
        client_ip: String::new(),
        body: command::Command::AppendAudit { node, first, lost: 0, records },
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_in_anothers_name_is_refused_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conclave.toml");
    let text = format!(
        "[node]\nname = \"n1\"\ndata = \"data\"\nmaster_key_file = \"master.key\"\n\
         [api]\nlisten = \"127.0.0.1:0\"\nurl = \"https://localhost:1\"\n\
         [peer]\nlisten = \"127.0.0.1:0\"\nadvertise = \"127.0.0.1:{}\"\n",
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    );
    std::fs::write(&path, text).unwrap();
    let mut init = Command::new(env!("CARGO_BIN_EXE_conclave"));
    init.args(["cluster", "init", "--config"]).arg(&path);
    assert!(init.output().unwrap().status.success());
    let config = Config::load(&path).unwrap();
    let node = Arc::new(Node::build(&config, None).await.unwrap());
    let core = &node.core;
    until("leadership", || core.raft.status().leader == Some(1)).await;
    let service = PeerService::new(
        core.raft.clone(),
        core.state.clone(),
        core.root_key.clone(),
        Some(node.spool.clone()),
        core.reports.clone(),
    );
    let member = |id| PeerIdentity { who: Who::Member(id), follower_certificate: id != 1 };

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
    let joiner = PeerIdentity { who: Who::Joiner([7; 32]), follower_certificate: true };
    assert!(service.call(joiner, SERVICE_AUDIT, batch(7, 1, &["{}"])).await.is_err());
    assert_eq!(core.state.read(|view| view.state.audit_head().last), 0);

    // The forgery is a record of the leader's own.
    let record = SpoolReader::new(node.audit_folder.clone()).read(1, 1).unwrap();
    assert!(record.records[0].contains("node 7 sent audit records in the name of node 1"));

    // The leader's own records come by themselves, once, and are vouched for.
    let ship = tokio::spawn(jobs::ship(node.clone()));
    let tend = tokio::spawn(jobs::tend(node.clone()));
    let head = || core.state.read(|view| view.state.audit_head());
    until("a checkpoint", || head().checkpointed == 1).await;
    until("news of it", || node.spool.status().chained == 1).await;
    // Sent again, by whatever went wrong, it is passed over.
    let again = service.call(member(1), SERVICE_AUDIT, batch(1, 1, &["{}"])).await;
    assert_eq!(again.unwrap(), 1_u64.to_be_bytes());
    let head = head();
    assert_eq!(head.last, 2);
    let mut verifier = ChainVerifier::new(head.first, head.base);
    for (number, record) in core.state.audit_records(0, 10, 1 << 20).unwrap() {
        verifier.take(number, &record, conclave_storage::seal::is_signed).unwrap();
    }
    verifier.finish(head.last, &head.hash).unwrap();
    assert_eq!((verifier.checkpoints(), verifier.gaps()), (1, 0));
    ship.abort();
    tend.abort();
    node.core.stop().await;
}
