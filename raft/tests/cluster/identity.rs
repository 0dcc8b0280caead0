//! Who gets in: only members that prove their node key, under a certificate of the cluster's
//! authority. Everybody else is refused, and disturbs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_raft::{
    CallError, Identity, KnownMember, NodeKey, NodeRole, PeerIdentity, SERVICE_JOIN, Service,
    ServiceError, Tls, Who, join_call,
};
use futures::future::BoxFuture;

use crate::support::{Authority, CLUSTER, Cluster, NAME, Node, tag};

/// A node that thinks it is member `id`, with a member list that tells it where the real ones are.
pub(crate) async fn intruder(cluster: &Cluster, id: u64, tls: Tls) -> Node {
    let mut node = Node::new(id, NodeRole::Voter);
    let mut known: Vec<KnownMember> =
        cluster.node(1).handle().members().members.values().cloned().collect();
    known.retain(|member| member.id != id);
    known.push(KnownMember { id, info: node.info(), voter: true });
    node.start(tls, &known).await;
    node
}

async fn refusal(node: &Node, to: u64) -> String {
    let call = node.handle().call(to, 9, Vec::new(), Duration::from_secs(2));
    match call.await {
        Err(CallError::Unreachable { reason, .. } | CallError::Broken { reason, .. }) => reason,
        other => panic!("was let in: {other:?}"),
    }
}

/// It is refused, and told why. A line may end before the words have come, on a machine that does much else: then
/// it asks again.
pub(crate) async fn told(node: &Node, to: u64, why: &str) {
    let mut heard = Vec::new();
    while heard.len() < 20 {
        let text = refusal(node, to).await;
        if text.contains(why) {
            return;
        }
        heard.push(text);
    }
    panic!("was not told {why:?}: {heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_proven_members_get_in() {
    let cluster = Cluster::start(2).await;

    let mut foreign_key = intruder(&cluster, 2, cluster.authority.tls()).await;
    told(&foreign_key, 1, "has not proven its node key").await;

    let mut unknown = intruder(&cluster, 77, cluster.authority.tls()).await;
    told(&unknown, 1, "node 77 is not a member").await;

    // A certificate of another authority; it trusts ours, we do not trust it.
    let mut material = Authority::new().material(NAME, "voter");
    material.roots = cluster.authority.material(NAME, "voter").roots;
    let mut other_authority = intruder(&cluster, 2, Tls::new(material).unwrap()).await;
    drop(refusal(&other_authority, 1).await);

    // Ours, but for another name than the cluster's.
    let mut material = cluster.authority.material("elsewhere.test", "voter");
    material.names = vec![NAME.to_owned()];
    let mut other_name = intruder(&cluster, 2, Tls::new(material).unwrap()).await;
    drop(refusal(&other_name, 1).await);

    // None of it has disturbed anybody.
    drop(cluster.write(1, tag()).await);
    drop(cluster.write(2, tag()).await);
    for node in [&mut foreign_key, &mut unknown, &mut other_authority, &mut other_name] {
        node.stop().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_exchanged_while_everything_runs() {
    let cluster = Cluster::start(2).await;
    let new_authority = Authority::new();
    let old_root = cluster.authority.material(NAME, "voter").roots;
    let new_root = new_authority.material(NAME, "voter").roots;
    let both = [old_root.clone(), new_root.clone()].concat();
    let tls = |id: u64| cluster.node(id).running.as_ref().unwrap().tls.clone();
    // Trust both, then use the new, then drop the old: as a rotation does.
    for id in [1, 2] {
        let mut material = cluster.authority.material(NAME, "voter");
        material.roots = both.clone();
        tls(id).reload(material).unwrap();
    }
    for id in [1, 2] {
        let mut material = new_authority.material(NAME, "voter");
        material.roots = both.clone();
        tls(id).reload(material).unwrap();
    }
    for id in [1, 2] {
        tls(id).reload(new_authority.material(NAME, "voter")).unwrap();
    }
    drop(cluster.write(1, tag()).await);
    drop(cluster.write(2, tag()).await);
    let mut late = intruder(&cluster, 2, cluster.authority.tls()).await;
    drop(refusal(&late, 1).await);
    late.stop().await;
    // Material that does not fit leaves the old in force.
    let mut broken = new_authority.material(NAME, "voter");
    broken.key = new_authority.material(NAME, "voter").key;
    assert!(tls(1).reload(broken).is_err());
    drop(cluster.write(2, tag()).await);
    cluster.stop().await;
}

struct Desk;

impl Service for Desk {
    fn call(
        &self,
        from: PeerIdentity,
        kind: u8,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            match (kind, from.who) {
                (SERVICE_JOIN, Who::Joiner(key)) if body == b"let me in" => Ok(key.to_vec()),
                (9, Who::Member(id)) => Ok(vec![u8::try_from(id).unwrap()]),
                _ => Err(ServiceError("no".to_owned())),
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_may_only_ask_to_join_and_members_may_call() {
    let cluster = Cluster::start(2).await;
    for node in cluster.running() {
        node.handle().set_service(Arc::new(Desk));
    }
    let answer = cluster.node(1).handle().call(2, 9, Vec::new(), Duration::from_secs(2)).await;
    assert_eq!(answer.unwrap(), [1]);

    let (key, _) = NodeKey::generate().unwrap();
    let identity =
        Identity { cluster: CLUSTER, node_id: 0, key: key.clone(), standing: Bytes::new() };
    let dead = "127.0.0.1:1".to_owned();
    let peers = [dead, cluster.node(1).address.to_string()];
    let patience = Duration::from_secs(3);
    let tls = cluster.authority.tls();
    let answer = join_call(&tls, identity.clone(), &peers, b"let me in".to_vec(), patience).await;
    assert_eq!(answer.unwrap(), key.public());
    let answer = join_call(&tls, identity.clone(), &peers, b"please".to_vec(), patience).await;
    assert!(matches!(answer, Err(CallError::Refused { .. })), "{answer:?}");

    let stranger = Identity { cluster: [0; 16], ..identity };
    let answer = join_call(&tls, stranger, &peers[1..], b"let me in".to_vec(), patience).await;
    assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_datagrams_disturb_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.node(leader).handle().status().term;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..4000_usize {
        let bytes: Vec<u8> = (0..round % 1200)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                (noise >> 32) as u8
            })
            .collect();
        for node in cluster.running() {
            drop(socket.send_to(&bytes, node.address));
        }
        if round % 500 == 0 {
            drop(cluster.write(1 + (round as u64 / 500) % 3, tag()).await);
        }
    }
    let status = cluster.node(leader).handle().status();
    assert_eq!((status.leader, status.term), (Some(leader), term), "an election was provoked");
    cluster.stop().await;
}
