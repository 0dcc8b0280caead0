//! What is measured. A subject is started for one round, fresh, and gone at its end, so that what stands idle
//! costs the other nothing and both work on stores of the same age.

pub(crate) mod conclave;
mod etcd;
mod jwt;
mod ldap;
mod nginx;
mod openbao;

use std::fmt;
use std::time::Duration;

use ::conclave::dev::DevCluster;
use tokio::time::Instant;

use crate::Fault;
use crate::load::Client;
use crate::process::Daemon;
use crate::scratch::Scratch;
use crate::wire::Endpoint;

/// Distinct keys that each client writes or reads in turn.
const KEYS_PER_CLIENT: usize = 4;
/// How long a server may take until it serves.
const READY_MAX: Duration = Duration::from_mins(1);

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// A new version of a secret, through the leader of three voters, on disk at a majority before the answer.
    Write,
    /// One secret, by a client that holds an access token.
    Read,
    /// An API key for an access token, each time another host's.
    Authn,
    /// An issuer's JWT for an access token, each time another host's.
    Jwt,
    /// A directory's password for an access token, each time another person's.
    Ldap,
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Authn => "authn",
            Self::Jwt => "jwt",
            Self::Ldap => "ldap",
        })
    }
}

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// etcd, three members.
    Etcd,
    /// OpenBao, one node with integrated storage.
    Openbao,
    /// nginx, which answers from memory without asking who is there: a ceiling, not a rival.
    Nginx,
}

/// How a directory keeps passwords, each with the cost that its server gives it by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Hash {
    /// One round of SHA-1 with a salt: what OpenLDAP does unless told otherwise. It costs nothing to speak of.
    Ssha,
    /// Argon2, made to be costly.
    Argon2,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrant {
    /// Conclave.
    Conclave,
    /// Conclave once more, whose clients log in with API keys.
    ApiKeys,
    /// The directory that Conclave asks, asked without it.
    Directory,
    /// A peer.
    Peer(Peer),
}

/// What all entrants have in common.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What is asked.
    pub workload: Workload,
    /// Connections, one request in flight on each.
    pub clients: usize,
    /// Bytes of a secret.
    pub value_bytes: usize,
    /// Hosts that log in.
    pub hosts: usize,
    /// How the directory keeps passwords.
    pub hash: Hash,
}

/// A running server with clients ready to load it.
pub struct Subject {
    /// Its name in reports.
    pub name: &'static str,
    /// Its version, by its own word.
    pub version: String,
    /// What sort of set-up it is, in a few words for the report.
    pub setup: &'static str,
    /// Its processes; descendants are found from these.
    pub processes: Vec<u32>,
    /// Those of them that are servers which it asks.
    pub asked: Vec<u32>,
    /// What the load sends.
    pub clients: Vec<Client>,
    /// Where it counts the fsyncs of its log, if it has metrics for that.
    counter: Option<Counter>,
    /// Stops it when it goes.
    running: Running,
}

impl Subject {
    /// Starts an entrant in a folder of its own.
    pub async fn start(
        entrant: Entrant,
        setting: Setting,
        scratch: &Scratch,
    ) -> Result<Self, Fault> {
        match entrant {
            Entrant::Conclave => conclave::start(setting, scratch).await,
            Entrant::ApiKeys => {
                let setting = Setting { workload: Workload::Authn, ..setting };
                let subject = conclave::start(setting, scratch).await?;
                Ok(Self { name: "conclave-api-keys", ..subject })
            }
            Entrant::Directory => ldap::start(setting, scratch).await,
            Entrant::Peer(Peer::Etcd) => etcd::start(setting, scratch).await,
            Entrant::Peer(Peer::Openbao) => openbao::start(setting, scratch).await,
            Entrant::Peer(Peer::Nginx) => nginx::start(setting, scratch).await,
        }
    }

    /// Fsyncs of all its servers' logs since they started, if they count them.
    pub async fn fsyncs(&self) -> Option<f64> {
        match &self.running {
            Running::Daemons(_) => self.counter.as_ref()?.read().await,
            Running::Cluster(cluster, _) => {
                let mut sum = 0;
                for index in 0..cluster.len() {
                    sum += cluster.status(index).await.ok()?.log_fsyncs;
                }
                Some(sum as f64)
            }
        }
    }

    /// Stops it and waits until its processes are gone.
    pub async fn stop(self) {
        match self.running {
            Running::Daemons(daemons) => drop(daemons),
            Running::Cluster(cluster, daemons) => {
                cluster.stop().await;
                drop(daemons);
            }
        }
    }
}

/// What must live as long as a server does; when it goes, so do the processes.
enum Running {
    Daemons(Vec<Daemon>),
    /// With the servers that it asks.
    Cluster(Box<DevCluster>, Vec<Daemon>),
}

/// A counter in Prometheus' text format, summed over servers.
struct Counter {
    /// Who is asked.
    endpoints: Vec<Endpoint>,
    /// The metric's name.
    metric: &'static str,
}

impl Counter {
    /// The sum now; none if any server does not tell.
    async fn read(&self) -> Option<f64> {
        let mut sum = 0.0;
        for endpoint in &self.endpoints {
            let answer = endpoint.call("GET", "/metrics", &[], b"").await.ok()?;
            sum += sample(&answer.text(), self.metric)?;
        }
        Some(sum)
    }
}

/// The sum of a metric over its labels.
fn sample(text: &str, metric: &str) -> Option<f64> {
    let mut found = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(metric) else { continue };
        if !rest.starts_with(['{', ' ']) {
            continue;
        }
        let value: f64 = rest.rsplit(' ').next()?.parse().ok()?;
        *found.get_or_insert(0.0) += value;
    }
    found
}

/// Asks again every few milliseconds until `ready` says yes, or the server ends, or time is up.
async fn until_ready(
    daemons: &mut [Daemon],
    mut ready: impl AsyncFnMut() -> bool,
) -> Result<(), Fault> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        if ready().await {
            return Ok(());
        }
        for daemon in daemons.iter_mut() {
            daemon.check()?;
        }
        if let (true, Some(daemon)) = (Instant::now() >= deadline, daemons.first()) {
            return Err(daemon.fault("was not ready in time"));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// One set-up request that must be answered 2xx.
async fn must(
    name: &str,
    endpoint: &Endpoint,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<u8>, Fault> {
    let answer = endpoint
        .call(method, path, headers, body)
        .await
        .map_err(Fault::io(format!("{name}: {method} {path}")))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    Err(Fault::Answer {
        name: name.to_owned(),
        request: format!("{method} {path}"),
        status: answer.status,
        body: answer.text().chars().take(400).collect(),
    })
}

/// Text that does not compress well and needs no escaping in JSON, the same in every run.
fn value_of(bytes: usize, seed: u64) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // splitmix64: a generator of a few lines is enough for filler.
    let mut state = seed;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            LETTERS[((mixed ^ (mixed >> 31)) & 63) as usize]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels_and_not_mixed_with_longer_names() {
        let text = "# HELP a b\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4.5\na_total_more 9\nb 1e3\n";
        assert_eq!(sample(text, "a_total"), Some(7.5));
        assert_eq!(sample(text, "b"), Some(1000.0));
        assert_eq!(sample(text, "c"), None);
    }

    #[test]
    fn values_have_their_size_and_differ_by_seed() {
        assert_eq!(value_of(256, 1).len(), 256);
        assert_ne!(value_of(64, 1), value_of(64, 2));
        assert!(value_of(256, 3).iter().all(u8::is_ascii_graphic));
    }
}
