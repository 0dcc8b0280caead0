//! etcd: three members on loopback, TLS with certificates on both sides for clients and peers, fsync as always.
//!
//! Clients speak gRPC to the leader, as etcd's own benchmark does; its JSON gateway would cost the server a second
//! decoding. Each client has a connection of its own.

use std::net::SocketAddr;

use super::{
    Counter, KEYS_PER_CLIENT, Running, Setting, Subject, Workload, must, until_ready, value_of,
};
use crate::load::Client;
use crate::process::{Daemon, free_ports};
use crate::scratch::Scratch;
use crate::tls::{Material, SERVER_NAME};
use crate::wire::{Endpoint, Protocol, Request, put_message, range_message};
use crate::{Fault, install, process};

const NAME: &str = "etcd";
const MEMBERS: usize = 3;
const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

pub(super) async fn start(setting: Setting, scratch: &Scratch) -> Result<Subject, Fault> {
    let path = match setting.workload {
        Workload::Write => PUT,
        Workload::Read => RANGE,
        other @ (Workload::Authn | Workload::Jwt | Workload::Ldap) => {
            let text = format!("etcd has no workload `{other}` to compare with");
            return Err(Fault::Usage(text));
        }
    };
    let program = install::etcd()?;
    let folder = scratch.folder(NAME)?;
    let material = Material::create(&folder)?;
    let found = free_ports::<{ 2 * MEMBERS }>()?;
    let ports: Vec<(u16, u16)> = found.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let cluster: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("m{number}=https://127.0.0.1:{peer}"))
        .collect();
    let file = |path: &std::path::Path| path.display().to_string();
    let (ca, certificate, key) =
        (file(&material.ca), file(&material.certificate), file(&material.key));
    let mut daemons = Vec::new();
    for (number, (client, peer)) in ports.iter().enumerate() {
        let member = format!("m{number}");
        let client_url = format!("https://127.0.0.1:{client}");
        let peer_url = format!("https://127.0.0.1:{peer}");
        let arguments = [
            ("--name", member.as_str()),
            ("--data-dir", &file(&folder.join(&member))),
            ("--listen-client-urls", &client_url),
            ("--advertise-client-urls", &client_url),
            ("--listen-peer-urls", &peer_url),
            ("--initial-advertise-peer-urls", &peer_url),
            ("--initial-cluster", &cluster.join(",")),
            ("--initial-cluster-state", "new"),
            ("--trusted-ca-file", &ca),
            ("--cert-file", &certificate),
            ("--key-file", &key),
            ("--peer-trusted-ca-file", &ca),
            ("--peer-cert-file", &certificate),
            ("--peer-key-file", &key),
            ("--logger", "zap"),
            ("--log-level", "error"),
        ];
        let mut arguments: Vec<String> =
            arguments.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        arguments.push("--client-cert-auth".to_owned());
        arguments.push("--peer-client-cert-auth".to_owned());
        daemons.push(Daemon::start(&member, &folder, &program, &arguments)?);
    }
    let plain = material.client(b"http/1.1")?;
    let endpoints: Vec<Endpoint> = ports
        .iter()
        .map(|(client, _)| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], *client)),
            name: SERVER_NAME.to_owned(),
            tls: plain.clone(),
        })
        .collect();
    let mut leader = None;
    until_ready(&mut daemons, async || {
        leader = find_leader(&endpoints).await;
        leader.is_some()
    })
    .await?;
    let leader = leader.unwrap_or_else(|| endpoints[0].clone());
    let endpoint = Endpoint { tls: material.client(b"h2")?, ..leader };

    let clients = (0..setting.clients).map(|client| {
        let requests = (0..KEYS_PER_CLIENT).map(|index| {
            let key = format!("bench/c{client}-{index}");
            match setting.workload {
                Workload::Read => Request::grpc(&range_message(key.as_bytes())),
                Workload::Write | Workload::Authn | Workload::Jwt | Workload::Ldap => {
                    let value = value_of(setting.value_bytes, client as u64);
                    Request::grpc(&put_message(key.as_bytes(), &value)).stamped()
                }
            }
        });
        Client {
            endpoint: endpoint.clone(),
            protocol: Protocol::Grpc { path },
            requests: requests.collect(),
        }
    });
    let clients: Vec<Client> = clients.collect();
    if setting.workload == Workload::Read {
        fill(&endpoint, setting).await?;
    }
    let version = process::output_of(&program.to_string_lossy(), &["--version"])
        .and_then(|text| text.lines().next().map(|line| line.replace("etcd Version: ", "")))
        .unwrap_or_default();
    Ok(Subject {
        name: NAME,
        version,
        setup: "3 members, fsync, TLS with client and peer certificates, gRPC to the leader",
        processes: daemons.iter().map(Daemon::pid).collect(),
        asked: Vec::new(),
        clients,
        counter: Some(Counter { endpoints, metric: "etcd_disk_wal_fsync_duration_seconds_count" }),
        running: Running::Daemons(daemons),
    })
}

/// The member that leads, once all are healthy.
async fn find_leader(endpoints: &[Endpoint]) -> Option<Endpoint> {
    let mut leader = None;
    for endpoint in endpoints {
        must(NAME, endpoint, "GET", "/health", &[], b"").await.ok()?;
        let metrics = must(NAME, endpoint, "GET", "/metrics", &[], b"").await.ok()?;
        if super::sample(&String::from_utf8_lossy(&metrics), "etcd_server_is_leader") == Some(1.0) {
            leader = Some(endpoint.clone());
        }
    }
    leader
}

/// Writes each key that will be read.
async fn fill(endpoint: &Endpoint, setting: Setting) -> Result<(), Fault> {
    let mut connection = crate::wire::Connection::open(endpoint, Protocol::Grpc { path: PUT })
        .await
        .map_err(Fault::io("cannot connect to etcd"))?;
    for client in 0..setting.clients {
        for index in 0..KEYS_PER_CLIENT {
            let key = format!("bench/c{client}-{index}");
            let value = value_of(setting.value_bytes, client as u64);
            let mut request = Request::grpc(&put_message(key.as_bytes(), &value));
            connection.exchange(&mut request).await.map_err(Fault::io("cannot fill etcd"))?;
        }
    }
    Ok(())
}
