//! A cluster lives: it commits, forwards, loses its leader, hands over, grows, shrinks, restarts.

use std::time::Duration;

use conclave_raft::{ChangeError, LEAP, NodeRole, NodeState, refound};
use conclave_storage::failpoint::POINTS;
use conclave_storage::{Datadir, FailPoints, LogStore, StateStore};
use tokio::time::Instant;

use crate::support::{Cluster, tag};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_takes_a_write_and_all_apply_it() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.add(NodeRole::Follower).await;
    let mut last = 0;
    for id in 1..=4 {
        let tag = tag();
        let committed = cluster.write(id, tag).await;
        assert!(committed.index > last, "places in the log grow");
        last = committed.index;
        assert!(!committed.reply.is_empty());
        let seen = cluster.node(id).handle().read_barrier().await.unwrap();
        assert!(seen >= committed.index && cluster.holds(id, tag));
    }
    cluster.converge().await;
    let hashes: Vec<_> = cluster.running().map(|node| node.state().state_hash().unwrap()).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");

    let status = cluster.node(follower).handle().status();
    assert_eq!(status.state, NodeState::Follower);
    assert!(status.age.is_some_and(|age| age < Duration::from_secs(2)), "{:?}", status.age);
    let leader = cluster.leader().await;
    let status = cluster.node(leader).handle().status();
    assert_eq!(status.members.len(), 4);
    assert_eq!(status.members.iter().filter(|member| member.voter).count(), 3);
    assert!(status.age.is_some_and(|age| age < Duration::from_secs(2)), "{:?}", status.age);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_reads_on_a_standby_share_rounds_and_see_every_write_before_them() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let standby = (1..=3).find(|id| *id != leader).unwrap();
    for _ in 0..20 {
        let tag = tag();
        let committed = cluster.write(leader, tag).await;
        let reads = (0..16).map(|_| {
            let handle = cluster.node(standby).handle().clone();
            async move { handle.read_barrier().await.unwrap() }
        });
        let seen = futures::future::join_all(reads).await;
        assert!(seen.iter().all(|seen| *seen >= committed.index));
        assert!(cluster.holds(standby, tag));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let first = tag();
    let old = cluster.leader().await;
    drop(cluster.write(old, first).await);
    cluster.node_mut(old).stop().await;
    let stopped = Instant::now();
    let second = tag();
    let survivor = cluster.running().next().unwrap().id;
    drop(cluster.write(survivor, second).await);
    println!("first write {:?} after the leader was stopped", stopped.elapsed());
    let new = cluster.leader().await;
    assert_ne!(new, old);

    let known = cluster.node(new).handle().members().members.values().cloned().collect::<Vec<_>>();
    let tls = cluster.authority.tls();
    cluster.node_mut(old).start(tls, &known).await;
    cluster.converge().await;
    assert!(cluster.holds(old, first) && cluster.holds(old, second));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_losing_a_write() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let target = (1..=3).find(|id| *id != old).unwrap();
    let writer = {
        let handles: Vec<_> = cluster.running().map(|node| node.handle().clone()).collect();
        tokio::spawn(async move {
            let mut tags = Vec::new();
            for round in 0..60_usize {
                let tag = tag();
                while handles[round % 3].propose(crate::support::command(tag)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                tags.push(tag);
            }
            tags
        })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    let bystander = cluster.node((1..=3).find(|id| ![old, target].contains(id)).unwrap()).handle();
    let before = bystander.reign();
    assert_eq!(before.leader, Some(old));
    let new = cluster.node(old).handle().transfer_leader(Some(target)).await.unwrap();
    println!("hand-over took {:?}", started.elapsed());
    assert_eq!(new, target);
    bystander.next_reign(before).await;
    let after = bystander.reign();
    assert_eq!(after.leader, Some(target));
    assert!(after.term > before.term, "{after:?} after {before:?}");
    assert_eq!(
        cluster.node(old).handle().transfer_leader(None).await,
        Err(ChangeError::NotLeader { leader: Some(target) })
    );
    let tags = writer.await.unwrap();
    cluster.converge().await;
    for id in 1..=3 {
        assert!(tags.iter().all(|tag| cluster.holds(id, *tag)), "node {id} lacks a write");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_follower_gets_a_snapshot() {
    let mut cluster = Cluster::start(1).await;
    let mut tags = Vec::new();
    for _ in 0..300 {
        let tag = tag();
        drop(cluster.write(1, tag).await);
        tags.push(tag);
    }
    let made = cluster.node(1).handle().snapshot(Duration::from_secs(20)).await.unwrap();
    assert!(made > 0);
    let purged = |cluster: &Cluster| cluster.node(1).handle().status().purged;
    for _ in 0..500 {
        if purged(&cluster).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(purged(&cluster).is_some(), "the log still starts at its beginning");
    let follower = cluster.add(NodeRole::Follower).await;
    cluster.converge().await;
    assert!(tags.iter().all(|tag| cluster.holds(follower, *tag)));
    let status = cluster.node(follower).handle().status();
    assert!(status.snapshot.is_some(), "came by entries, not by snapshot: {status:?}");
    let age = || cluster.node(follower).handle().status().age;
    for _ in 0..500 {
        if age().is_some_and(|age| age < Duration::from_secs(2)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(age().is_some_and(|age| age < Duration::from_secs(2)), "{:?}", age());

    // What came by snapshot survives a restart, and entries go on from there.
    let known = cluster.node(1).handle().members().members.values().cloned().collect::<Vec<_>>();
    cluster.node_mut(follower).stop().await;
    let tls = cluster.authority.tls();
    cluster.node_mut(follower).start(tls, &known).await;
    let after = tag();
    drop(cluster.write(1, after).await);
    cluster.converge().await;
    assert!(cluster.holds(follower, tags[0]) && cluster.holds(follower, after));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_shut_out_and_its_vote_is_gone() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let removed = (1..=3).find(|id| *id != leader).unwrap();
    cluster.node(leader).handle().remove(removed).await.unwrap();
    let members = cluster.node(leader).handle().members();
    assert!(!members.members.contains_key(&removed));
    drop(cluster.write(leader, tag()).await);

    // It may never have heard of it, and calls elections; nobody listens.
    let term = cluster.node(leader).handle().status().term;
    for _ in 0..5 {
        cluster.node(removed).handle().elect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let status = cluster.node(leader).handle().status();
    assert_eq!((status.state, status.term), (NodeState::Leader, term));
    let call = cluster.node(removed).handle();
    assert!(call.call(leader, 9, Vec::new(), Duration::from_secs(1)).await.is_err());

    cluster.node_mut(removed).stop().await;
    drop(cluster.write(leader, tag()).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_commits_nothing_and_says_so_honestly() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node_mut(id).stop().await;
    }
    let handle = cluster.node(leader).handle().clone();
    assert!(handle.read_barrier().await.is_err());
    let applied = handle.applied_index();
    assert!(handle.propose(crate::support::command(tag())).await.is_err());
    assert_eq!(handle.applied_index(), applied);
    drop(handle);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_voter_restarts_and_serves_again() {
    let mut cluster = Cluster::start(1).await;
    let first = tag();
    drop(cluster.write(1, first).await);
    assert_eq!(
        cluster.node(1).handle().remove(1).await,
        Err(ChangeError::LastVoter(1)),
        "the last voter stays"
    );
    cluster.node_mut(1).stop().await;
    let tls = cluster.authority.tls();
    cluster.node_mut(1).start(tls, &[]).await;
    cluster.leader().await;
    assert!(cluster.holds(1, first));
    drop(cluster.write(1, tag()).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_founded_anew_is_alone_with_all_that_its_disk_had_and_grows_again() {
    let mut cluster = Cluster::start(3).await;
    let tags: Vec<u64> = (0..60).map(|_| tag()).collect();
    for tag in &tags {
        cluster.write(1, *tag).await;
    }
    cluster.converge().await;
    for id in 1..=3 {
        cluster.node_mut(id).stop().await;
    }
    let node = cluster.node(3);
    // Cut short at any durable step it is done again, by whoever opens the disk next; and so it is when it had
    // come to its end.
    let (mut before, mut cut) = (None, Vec::new());
    for point in POINTS.iter().map(Some).chain([None, None]) {
        let points = FailPoints::new();
        let datadir = Datadir::open(node.folder.path(), points.clone()).unwrap();
        let (log, state) =
            (LogStore::open(&datadir).unwrap().0, StateStore::open(&datadir).unwrap());
        before = before.or(log.last().map(|(index, _)| index));
        if let Some(point) = point {
            points.arm(&format!("{point}=err")).unwrap();
        }
        match refound(&log, &state, Some(3), node.info()) {
            Ok(id) => {
                assert_eq!(id, 3);
                assert_eq!((state.applied_index() - before.unwrap()) % LEAP, 0);
                assert_eq!(log.last().unwrap().0, state.applied_index());
            }
            Err(fault) => cut.push(format!("{}: {fault}", point.unwrap())),
        }
    }
    assert!(cut.len() >= 8, "{cut:?}");
    let before = before.unwrap();
    let tls = cluster.authority.tls();
    cluster.node_mut(3).start(tls, &[]).await;
    assert_eq!(cluster.leader().await, 3);
    assert!(tags.iter().all(|tag| cluster.holds(3, *tag)));
    let later = tag();
    let committed = cluster.write(3, later).await;
    assert!(committed.index > before + 2 * LEAP, "{committed:?}");
    let members = cluster.node(3).handle().status().members;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [3]);

    // The joiner gets a snapshot: the log has nothing of what was before.
    let voter = cluster.add(NodeRole::Voter).await;
    let follower = cluster.add(NodeRole::Follower).await;
    cluster.converge().await;
    for id in [voter, follower] {
        assert!(tags.iter().chain([&later]).all(|tag| cluster.holds(id, *tag)));
    }
    cluster.node_mut(3).stop().await;
    let tls = cluster.authority.tls();
    cluster.node_mut(3).start(tls, &[]).await;
    cluster.write(3, tag()).await;
    cluster.converge().await;
    let hashes: Vec<_> = cluster.running().map(|node| node.state().state_hash().unwrap()).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    cluster.stop().await;
}
