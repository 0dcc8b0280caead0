//! Members of different versions: they speak the newest version of the protocol that both know, and where
//! there is none, they say so and disturb nobody.

use std::time::Duration;

use conclave_raft::{CallError, NodeRole, Versions};

use crate::support::{Cluster, Node, tag};

/// What two members speak with each other, as the first sees it.
async fn spoken(node: &Node, with: u64) -> u8 {
    for _ in 0..500 {
        if let Some(version) = node.handle().protocols().get(&with) {
            return *version;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("node {} speaks nothing with node {with}", node.id);
}

/// Starts a node anew, as its next version would.
async fn upgrade(cluster: &mut Cluster, id: u64, versions: Versions) {
    let known: Vec<_> = cluster.node(id).handle().members().members.values().cloned().collect();
    let tls = cluster.authority.tls();
    let node = cluster.node_mut(id);
    node.stop().await;
    node.versions = versions;
    node.start(tls, &known).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_two_versions_speak_the_newest_that_both_know_while_one_after_the_other_is_upgraded()
 {
    let both = Versions { newest: Versions::OURS.newest + 1, ..Versions::OURS };
    let mut cluster = Cluster::start(3).await;
    let mut follower = Node::new(4, NodeRole::Follower);
    follower.versions = both;
    cluster.add_node(follower).await;
    for id in [1, 2, 3] {
        // Whoever is not upgraded yet is spoken with as ever.
        let leader = cluster.leader().await;
        for with in (id..=3).filter(|with| *with != leader) {
            assert_eq!(spoken(cluster.node(leader), with).await, Versions::OURS.newest);
        }
        upgrade(&mut cluster, id, both).await;
        drop(cluster.write(id, tag()).await);
    }
    // All are upgraded; connections from before have ended with the processes that held them.
    let leader = cluster.leader().await;
    for with in (1..=4).filter(|with| *with != leader) {
        assert_eq!(spoken(cluster.node(leader), with).await, both.newest);
    }
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_version_in_common_is_told_so_and_the_others_go_on() {
    let beyond = Versions { oldest: Versions::OURS.newest + 1, newest: Versions::OURS.newest + 1 };
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let alien = (1..=3).find(|id| *id != leader).unwrap();
    upgrade(&mut cluster, alien, beyond).await;
    let call = cluster.node(alien).handle().call(leader, 9, Vec::new(), Duration::from_secs(5));
    let Err(CallError::Unreachable { reason, .. }) = call.await else { panic!("was let in") };
    assert!(reason.contains("no version of the peer protocol in common"), "{reason}");
    let term = cluster.node(leader).handle().status().term;
    drop(cluster.write(leader, tag()).await);
    assert_eq!(cluster.node(leader).handle().status().term, term);
    // As soon as it speaks what the others speak, it is one of them again.
    upgrade(&mut cluster, alien, Versions { oldest: 1, ..beyond }).await;
    let after = tag();
    drop(cluster.write(alien, after).await);
    cluster.converge().await;
    assert!(cluster.holds(alien, after));
    cluster.stop().await;
}
