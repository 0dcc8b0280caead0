//! Conclave: its own development cluster of three voters, each a process of this very program, with a policy
//! loaded through its own API. Nothing is tuned that `conclave dev` does not set.
//!
//! Clients are hosts that log in with their API keys and hold one token each; a group gives them their privileges,
//! so that a check walks a membership. All of them talk to the leader, as the peers' clients do.

use std::fmt::Write;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use conclave::dev::{ClusterOptions, DevCluster, Reexec};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::jwt::{self, Issuer};
use super::ldap::{self, Directory};
use super::{KEYS_PER_CLIENT, Running, Setting, Subject, Workload, must, value_of};
use crate::Fault;
use crate::load::Client;
use crate::process::Daemon;
use crate::scratch::Scratch;
use crate::tls::{self, SERVER_NAME};
use crate::wire::{Endpoint, Protocol, Request};

const NAME: &str = "conclave";
const VOTERS: u8 = 3;
/// Hosts, or people, in one policy load.
const HOSTS_PER_LOAD: usize = 512;

/// Starts a cluster and finds the way to its leader.
pub(crate) async fn begin(scratch: &Scratch) -> Result<(DevCluster, Door), Fault> {
    let mut options = ClusterOptions::loopback(VOTERS, 0, Reexec::current(vec!["conclave".into()]));
    options.folder = Some(scratch.folder(NAME)?);
    let cluster = DevCluster::start(options).await.map_err(|failure| failed(&failure))?;
    let leader = cluster.leader().await.ok_or_else(|| failed(&"no node leads"))?;
    let trust = tls::client_trusting(&cluster.cert_file())?;
    let url = cluster.url(leader);
    let address: SocketAddr = url
        .trim_start_matches("https://")
        .parse()
        .map_err(|_error| failed(&format!("{url} is not an address")))?;
    let endpoint = Endpoint { address, name: SERVER_NAME.to_owned(), tls: trust };
    let door = Door { endpoint, account: cluster.account().to_owned() };
    Ok((cluster, door))
}

pub(super) async fn start(setting: Setting, scratch: &Scratch) -> Result<Subject, Fault> {
    let (cluster, door) = begin(scratch).await?;
    let admin = door.log_in("admin", cluster.admin_key()).await?;
    let mut daemons = Vec::new();
    let clients = match setting.workload {
        Workload::Ldap => {
            let people = setting.hosts.max(setting.clients);
            let directory = Directory::start(people, setting.hash, scratch).await?;
            let clients = door.log_ins_by_directory(&admin, setting, people, &directory).await?;
            daemons.push(directory.daemon);
            clients
        }
        Workload::Authn => door.log_ins(&admin, setting).await?,
        Workload::Jwt => door.log_ins_by_token(&admin, setting).await?,
        Workload::Write | Workload::Read => door.secrets(&admin, setting).await?,
    };
    let of_cluster = (0..cluster.len()).filter_map(|index| cluster.pid(index));
    Ok(Subject {
        name: NAME,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        setup: "3 voters, fsync, TLS, audit of every decision, HTTP/1.1 to the leader",
        processes: of_cluster.chain(daemons.iter().map(Daemon::pid)).collect(),
        asked: daemons.iter().map(Daemon::pid).collect(),
        clients,
        counter: None,
        running: Running::Cluster(Box::new(cluster), daemons),
    })
}

fn failed(what: &impl std::fmt::Display) -> Fault {
    Fault::Server { name: NAME.to_owned(), what: what.to_string(), log: String::new() }
}

/// The API of one node, as its clients use it.
pub(crate) struct Door {
    endpoint: Endpoint,
    account: String,
}

/// An `Authorization` header.
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn header(&self) -> (&'static str, &str) {
        ("Authorization", &self.0)
    }
}

fn escaped(id: &str) -> String {
    utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()
}

impl Door {
    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The account that everything is in.
    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// One request that must succeed.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        token: &Token,
        body: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        must(NAME, &self.endpoint, method, path, &[token.header()], body).await
    }

    fn authenticate_path(&self, login: &str) -> String {
        format!("/authn/{}/{}/authenticate", self.account, escaped(login))
    }

    pub(crate) async fn log_in(&self, login: &str, key: &str) -> Result<Token, Fault> {
        let path = self.authenticate_path(login);
        let token = must(NAME, &self.endpoint, "POST", &path, &[], key.as_bytes()).await?;
        Ok(Token(format!("Token token=\"{}\"", STANDARD.encode(token))))
    }

    /// Appends to the root policy; the API keys of the hosts that it made, by login.
    pub(crate) async fn load(
        &self,
        admin: &Token,
        policy: &str,
    ) -> Result<Vec<(String, String)>, Fault> {
        let path = format!("/policies/{}/policy/root", self.account);
        let headers = [admin.header(), ("Content-Type", "application/x-yaml")];
        let answer = must(NAME, &self.endpoint, "POST", &path, &headers, policy.as_bytes()).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let prefix = format!("{}:host:", self.account);
        let roles = answer.get("created_roles").and_then(Value::as_object);
        let keys = roles.into_iter().flatten().filter_map(|(role, created)| {
            let key = created.get("api_key")?.as_str()?;
            Some((format!("host/{}", role.strip_prefix(&prefix)?), key.to_owned()))
        });
        Ok(keys.collect())
    }

    /// A host and some variables of its own for each client; all hosts may use all variables.
    async fn secrets(&self, admin: &Token, setting: Setting) -> Result<Vec<Client>, Fault> {
        let keys = self.load(admin, &policy(setting.clients)).await?;
        let mut clients = Vec::with_capacity(keys.len());
        for (number, (login, key)) in keys.iter().enumerate() {
            let token = self.log_in(login, key).await?;
            let mut requests = Vec::with_capacity(KEYS_PER_CLIENT);
            for index in 0..KEYS_PER_CLIENT {
                let id = escaped(&format!("bench/v{number}-{index}"));
                let path = format!("/secrets/{}/variable/{id}", self.account);
                let value = value_of(setting.value_bytes, number as u64);
                must(NAME, &self.endpoint, "POST", &path, &[token.header()], &value).await?;
                let (method, body) = match setting.workload {
                    Workload::Read => ("GET", &b""[..]),
                    Workload::Write | Workload::Authn | Workload::Jwt | Workload::Ldap => {
                        ("POST", &value[..])
                    }
                };
                let request = Request::http1(method, SERVER_NAME, &path, &[token.header()], body);
                requests.push(if body.is_empty() { request } else { request.stamped() });
            }
            clients.push(self.client(requests));
        }
        Ok(clients)
    }

    /// Each client takes turns among hosts of its own, so that no two logins in one second are the same host's.
    async fn log_ins(&self, admin: &Token, setting: Setting) -> Result<Vec<Client>, Fault> {
        let mut requests = Vec::with_capacity(setting.hosts);
        let hosts = setting.hosts.max(setting.clients);
        for first in (0..hosts).step_by(HOSTS_PER_LOAD) {
            let last = hosts.min(first + HOSTS_PER_LOAD);
            for (login, key) in self.load(admin, &hosts_policy(first..last)).await? {
                let path = self.authenticate_path(&login);
                requests.push(Request::http1("POST", SERVER_NAME, &path, &[], key.as_bytes()));
            }
        }
        Ok(self.shared_out(requests, setting.clients))
    }

    /// As [`Door::log_ins`], but each host shows a JWT of its own. Its issuer's keys stand in a variable.
    async fn log_ins_by_token(
        &self,
        admin: &Token,
        setting: Setting,
    ) -> Result<Vec<Client>, Fault> {
        let issuer = Issuer::new()?;
        self.load(admin, &jwt::policy_of_service()).await?;
        for (variable, value) in issuer.variables()? {
            let id = escaped(&format!("conjur/authn-jwt/{}/{variable}", jwt::SERVICE));
            let path = format!("/secrets/{}/variable/{id}", self.account);
            self.call("POST", &path, admin, value.as_bytes()).await?;
        }
        let service = format!("/authn-jwt/{}/{}", jwt::SERVICE, self.account);
        self.call("PATCH", &service, admin, b"enabled=true").await?;
        let path = format!("{service}/authenticate");
        let hosts = setting.hosts.max(setting.clients);
        for first in (0..hosts).step_by(HOSTS_PER_LOAD) {
            let last = hosts.min(first + HOSTS_PER_LOAD);
            self.load(admin, &jwt::policy_of_hosts(first..last)).await?;
        }
        let mut requests = Vec::with_capacity(hosts);
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        for host in 0..hosts {
            let body = format!("jwt={}", issuer.token(host)?);
            requests.push(Request::http1("POST", SERVER_NAME, &path, &[form], body.as_bytes()));
        }
        Ok(self.shared_out(requests, setting.clients))
    }

    /// As [`Door::log_ins`], but each is a person with a password in a directory.
    async fn log_ins_by_directory(
        &self,
        admin: &Token,
        setting: Setting,
        people: usize,
        directory: &Directory,
    ) -> Result<Vec<Client>, Fault> {
        self.load(admin, &directory.policy_of_service()).await?;
        for first in (0..people).step_by(HOSTS_PER_LOAD) {
            let last = people.min(first + HOSTS_PER_LOAD);
            self.load(admin, &ldap::policy_of_users(first..last)).await?;
        }
        for (variable, value) in
            [("tls-ca-cert", directory.authority.as_str()), ("bind-password", ldap::PASSWORD)]
        {
            let id = escaped(&format!("conjur/authn-ldap/{}/{variable}", ldap::SERVICE));
            let path = format!("/secrets/{}/variable/{id}", self.account);
            self.call("POST", &path, admin, value.as_bytes()).await?;
        }
        let service = format!("/authn-ldap/{}/{}", ldap::SERVICE, self.account);
        self.call("PATCH", &service, admin, b"enabled=true").await?;
        let requests = (0..people).map(|person| {
            let path = format!("{service}/u{person}/authenticate");
            Request::http1("POST", SERVER_NAME, &path, &[], ldap::PASSWORD.as_bytes())
        });
        Ok(self.shared_out(requests.collect(), setting.clients))
    }

    /// Each client takes turns among its own.
    fn shared_out(&self, requests: Vec<Request>, clients: usize) -> Vec<Client> {
        let mut shares = vec![Vec::new(); clients];
        for (number, request) in requests.into_iter().enumerate() {
            shares[number % clients].push(request);
        }
        shares.into_iter().map(|requests| self.client(requests)).collect()
    }

    fn client(&self, requests: Vec<Request>) -> Client {
        Client { endpoint: self.endpoint.clone(), protocol: Protocol::Http1, requests }
    }
}

/// Variables, a group that may use them, and hosts in the group.
fn policy(clients: usize) -> String {
    let mut text = String::from("- !policy\n  id: bench\n  body:\n  - &variables\n");
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{words}");
    };
    for client in 0..clients {
        for index in 0..KEYS_PER_CLIENT {
            line(format_args!("    - !variable v{client}-{index}"));
        }
    }
    line(format_args!("  - !group clients"));
    line(format_args!("  - !permit"));
    line(format_args!("    role: !group clients"));
    line(format_args!("    privileges: [read, execute, update]"));
    line(format_args!("    resource: *variables"));
    for client in 0..clients {
        line(format_args!("  - !host h{client}"));
    }
    line(format_args!("  - !grant\n    role: !group clients\n    members:"));
    for client in 0..clients {
        line(format_args!("    - !host h{client}"));
    }
    text
}

fn hosts_policy(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::from("- !policy\n  id: bench\n  body:\n");
    for number in numbers {
        let _ = writeln!(text, "  - !host h{number}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_each_thing_once_where_it_is_made() {
        let text = policy(2);
        assert_eq!(text.matches("!variable v1-3").count(), 1);
        assert_eq!(text.matches("- !host h1").count(), 2);
        assert_eq!(hosts_policy(5..7).lines().count(), 5);
    }

    #[test]
    fn logins_are_escaped_as_one_path_segment() {
        assert_eq!(escaped("host/bench/h1"), "host%2Fbench%2Fh1");
    }
}
