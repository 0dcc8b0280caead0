//! What is refused is told, with where it came from: to whoever registered a service.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use conclave_raft::{
    Attempt, CallError, Lane, NodeRole, Peer, PeerIdentity, Refused, Service, ServiceError, Tls,
    Transport, Urgency,
};
use futures::future::BoxFuture;

use crate::identity::{intruder, told};
use crate::support::{Cluster, NAME, tag};

/// Collects what was refused.
#[derive(Default)]
struct Collector(Mutex<Vec<Refused>>);

impl Service for Collector {
    fn call(
        &self,
        _from: PeerIdentity,
        _kind: u8,
        _body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async { Err(ServiceError("no".to_owned())) })
    }

    fn refused(&self, refused: Refused) {
        self.0.lock().unwrap().push(refused);
    }
}

impl Collector {
    /// Waits for a refusal of that member and attempt; it must come within five seconds, and say from
    /// where.
    async fn wait(&self, member: Option<u64>, attempt: Attempt) -> Refused {
        for _ in 0..500 {
            let found = self
                .0
                .lock()
                .unwrap()
                .iter()
                .find(|one| (one.member, one.attempt) == (member, attempt))
                .cloned();
            if let Some(found) = found {
                let loopback = IpAddr::from([127, 0, 0, 1]);
                assert_eq!(found.address.map(|address| address.ip()), Some(loopback), "{found:?}");
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{member:?} {attempt:?} was not told: {:?}", self.0.lock().unwrap());
    }
}

/// A call for votes in the name of a node: version, tag, term, node, committed, no last entry, no transfer.
fn ballot(term: u64, node: u64) -> Bytes {
    let mut bytes = vec![1, 1];
    bytes.extend_from_slice(&term.to_be_bytes());
    bytes.extend_from_slice(&node.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0]);
    bytes.into()
}

/// A heartbeat of a leader: version, vote, nothing before, nothing committed, age, no entries.
fn heartbeat(term: u64, node: u64) -> Bytes {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&term.to_be_bytes());
    bytes.extend_from_slice(&node.to_be_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_asks_for_votes_or_appends_is_refused_and_told_of() {
    let mut cluster = Cluster::start(1).await;
    let follower = cluster.add(NodeRole::Follower).await;
    let known: Vec<_> = cluster.node(1).handle().members().members.values().cloned().collect();
    let collector = Arc::new(Collector::default());
    cluster.node(1).handle().set_service(collector.clone());
    let to = Peer { id: 1, address: cluster.node(1).address.to_string() };
    let term = cluster.node(1).handle().status().term;

    // Once with the certificate of a follower, once with one that says voter: the list decides then.
    for (role, reason) in [("follower", "certificate has no vote"), ("voter", "is no voter here")] {
        let tls = Tls::new(cluster.authority.material(NAME, role)).unwrap();
        cluster.node_mut(follower).stop().await;
        cluster.node_mut(follower).start(tls, &known).await;
        let quic = cluster.node(follower).running.as_ref().unwrap().quic.clone();
        let patience = Duration::from_secs(5);
        let answer = quic.call(&to, Urgency::High, ballot(term + 9, follower), patience).await;
        // A refusal, tag 7, and forbidden, tag 6: no vote.
        assert_eq!(answer.unwrap()[..3], [1, 7, 6]);
        let refused = collector.wait(Some(follower), Attempt::Vote).await;
        assert!(refused.reason.contains(reason), "{refused:?}");

        let mut pipe = quic.open(&to, Lane::Append).await.unwrap();
        pipe.outgoing.send(heartbeat(term + 9, follower)).await.unwrap();
        let answer = tokio::time::timeout(patience, pipe.incoming.recv()).await.unwrap();
        assert!(!matches!(answer, Some(Ok(_))), "an append was answered: {answer:?}");
        let refused = collector.wait(Some(follower), Attempt::Append).await;
        assert!(refused.reason.contains(reason), "{refused:?}");
        // In the name of the leader it is no better.
        let answer = quic.call(&to, Urgency::High, ballot(term + 9, 1), patience).await;
        assert_eq!(answer.unwrap()[..3], [1, 7, 6]);
        collector.0.lock().unwrap().clear();
    }
    let status = cluster.node(1).handle().status();
    assert_eq!((status.leader, status.term), (Some(1), term), "the leader was disturbed");
    drop(cluster.write(1, tag()).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_and_a_stolen_certificate_without_a_node_key_are_refused_and_told_of() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let collector = Arc::new(Collector::default());
    cluster.node(leader).handle().set_service(collector.clone());
    let removed = (1..=3).find(|id| *id != leader).unwrap();
    cluster.node(leader).handle().remove(removed).await.unwrap();
    let refused = |result: Result<Vec<u8>, CallError>| match result {
        Err(CallError::Unreachable { reason, .. } | CallError::Broken { reason, .. }) => reason,
        other => panic!("was let in: {other:?}"),
    };
    // Its certificate is the cluster's, and in order; its key is on the list no more.
    let call = cluster.node(removed).handle().call(leader, 9, Vec::new(), Duration::from_secs(2));
    drop(refused(call.await));
    let noted = collector.wait(Some(removed), Attempt::Connect).await;
    assert!(noted.reason.contains("is not a member") && noted.in_doubt, "{noted:?}");

    // Whoever has the certificate and its key, and not the node's own, is nobody.
    let mut thief = intruder(&cluster, removed, cluster.authority.tls()).await;
    drop(refused(thief.handle().call(leader, 9, Vec::new(), Duration::from_secs(2)).await));
    let standby = (1..=3).find(|id| *id != leader && *id != removed).unwrap();
    let mut impostor = intruder(&cluster, standby, cluster.authority.tls()).await;
    told(&impostor, leader, "has not proven its node key").await;
    let noted = collector.wait(Some(standby), Attempt::Connect).await;
    assert!(!noted.in_doubt, "{noted:?}");
    drop(cluster.write(leader, tag()).await);
    thief.stop().await;
    impostor.stop().await;
    cluster.stop().await;
}
