//! Which keys change while a node runs, and which want a restart. Every key that a configuration has is
//! listed here once, as it can be shown: no value of the configuration is a secret.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checked::{
    ApiConfig, AuditConfig, AuditDurability, AuditOutput, ClusterConfig, Config, LogConfig,
    LogFormat, ReadsConfig,
};

/// A key whose value is another now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The dotted key.
    pub key: String,
    /// What stood there.
    pub from: String,
    /// What stands there now.
    pub to: String,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is in force now.
    pub applied: Vec<Change>,
    /// What will be after a restart.
    pub needs_restart: Vec<Change>,
}

impl Config {
    /// What differs between this configuration, which is in force, and one that was read anew.
    pub fn changes(&self, new: &Self) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for (old, new) in keys(self).into_iter().zip(keys(new)) {
            if old.value == new.value {
                continue;
            }
            let change = Change { key: old.name.to_owned(), from: old.value, to: new.value };
            let place = if old.live { &mut reloaded.applied } else { &mut reloaded.needs_restart };
            place.push(change);
        }
        reloaded
    }

    /// This configuration with those values of another that change while a node runs.
    #[must_use]
    pub fn with_live_values_of(&self, new: &Self) -> Self {
        Self {
            file: self.file.clone(),
            node: self.node.clone(),
            unseal: self.unseal.clone(),
            peer: self.peer.clone(),
            api: ApiConfig {
                listen: self.api.listen,
                url: self.api.url.clone(),
                local_socket: self.api.local_socket.clone(),
                health_listen: self.api.health_listen,
                outbound_networks: self.api.outbound_networks.clone(),
                clouds: self.api.clouds.clone(),
                ..new.api.clone()
            },
            tls: new.tls.clone(),
            cluster: ClusterConfig { level_max: self.cluster.level_max, ..new.cluster.clone() },
            raft: self.raft.clone(),
            reads: ReadsConfig { forward_writes: self.reads.forward_writes, ..new.reads.clone() },
            audit: AuditConfig { durability: self.audit.durability, ..new.audit.clone() },
            policy: new.policy.clone(),
            log: LogConfig { format: self.log.format, level: new.log.level.clone() },
        }
    }
}

/// A key as it can be shown.
struct Key {
    name: &'static str,
    value: String,
    live: bool,
}

/// The names of all keys, in the order of the sample.
pub fn key_names(config: &Config) -> Vec<&'static str> {
    keys(config).into_iter().map(|key| key.name).collect()
}

fn keys(config: &Config) -> Vec<Key> {
    let Config { file: _, node, unseal, peer, api, tls, cluster, raft, reads, audit, policy, log } =
        config;
    let live = |name, value: String| Key { name, value, live: true };
    let fixed = |name, value: String| Key { name, value, live: false };
    vec![
        fixed("node.name", text(&node.name)),
        fixed("node.data", text(node.data.display())),
        // The way, not the secret. It changes by `conclave keys rewrap`.
        fixed("unseal", text(unseal)),
        fixed("peer.listen", text(peer.listen)),
        fixed("peer.advertise", text(&peer.advertise)),
        fixed("api.listen", text(api.listen)),
        fixed("api.url", text(&api.url)),
        live("api.trusted_proxies", list(&api.trusted_proxies)),
        fixed("api.local_socket", optional(api.local_socket.as_ref().map(|path| path.display()))),
        fixed("api.health_listen", optional(api.health_listen)),
        live("api.health_ok_for", wanted(api)),
        live("api.authenticators", list(&api.authenticators)),
        live("api.account", optional(api.account.as_ref())),
        live("api.host_factories_enabled", api.host_factories_enabled.to_string()),
        live("api.dynamic_secrets_enabled", api.dynamic_secrets_enabled.to_string()),
        live("api.seed_accounts", list(&api.seed_accounts)),
        fixed("api.outbound_networks", list(&api.outbound_networks)),
        fixed("api.sts_uri", optional(api.clouds.sts_uri.as_ref())),
        fixed("api.google_uri", text(&api.clouds.google_uri)),
        fixed(
            "api.clouds_ca_file",
            optional(api.clouds.ca_file.as_ref().map(|path| path.display())),
        ),
        live("api.ldap_plain_allowed", api.ldap_plain_allowed.to_string()),
        live(
            "api.authn_jwt_ignore_missing_issuer_claim",
            api.jwt_missing_issuer_ignored.to_string(),
        ),
        live("tls.names", list(&tls.names)),
        live("cluster.remove_dead_after_s", seconds(cluster.remove_dead_after)),
        live("cluster.voters_min", cluster.voters_min.to_string()),
        fixed("cluster.feature_level_max", cluster.level_max.to_string()),
        fixed("raft.heartbeat_ms", millis(raft.heartbeat)),
        fixed("raft.election_min_ms", millis(raft.election_min)),
        fixed("raft.election_max_ms", millis(raft.election_max)),
        fixed("raft.snapshot_every", raft.snapshot_every.to_string()),
        live("reads.max_staleness_s", reads.max_staleness.as_secs().to_string()),
        live("reads.unhealthy_after_s", seconds(reads.unhealthy_after)),
        fixed("reads.forward_writes", reads.forward_writes.to_string()),
        fixed("audit.durability", text(durability(audit.durability))),
        live("audit.retention_days", days(audit.retention)),
        live("audit.output", list(&audit.outputs.iter().map(output).collect::<Vec<_>>())),
        live("policy.users_in_root_only", policy.rules.users_in_root_only.to_string()),
        live("policy.authn_api_key_default", (!policy.rules.hosts_ask_for_api_keys).to_string()),
        live("policy.ignored_changes_header", policy.ignored_changes_header.to_string()),
        live("policy.load_wait_s", policy.load_wait.as_secs().to_string()),
        live("policy.effective_depth_max", policy.effective_max.depth.to_string()),
        live("policy.effective_rows_max", policy.effective_max.rows.to_string()),
        fixed("log.format", text(if log.format == LogFormat::Json { "json" } else { "text" })),
        live("log.level", text(&log.level)),
    ]
}

fn text(value: impl std::fmt::Display) -> String {
    format!("{:?}", value.to_string())
}

fn list<T: std::fmt::Display>(values: &[T]) -> String {
    let quoted: Vec<String> = values.iter().map(text).collect();
    format!("[{}]", quoted.join(", "))
}

fn optional(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| text(""), text)
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Seconds, where none is 0.
fn seconds(duration: Option<Duration>) -> String {
    duration.map_or(0, |duration| duration.as_secs()).to_string()
}

fn days(retention: Option<Duration>) -> String {
    retention.map_or_else(|| "none".to_owned(), |life| (life.as_secs() / 86_400).to_string())
}

fn wanted(api: &ApiConfig) -> String {
    let wanted = api.health_ok_for;
    let parts =
        [("leader", wanted.leader), ("standby", wanted.standby), ("follower", wanted.follower)];
    let named: Vec<&str> = parts.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    list(&named)
}

const fn durability(durability: AuditDurability) -> &'static str {
    match durability {
        AuditDurability::Os => "os",
        AuditDurability::Disk => "disk",
        AuditDurability::Quorum => "quorum",
    }
}

/// An output with the files that it names.
fn output(output: &AuditOutput) -> String {
    match output {
        AuditOutput::Stdout => "stdout".to_owned(),
        AuditOutput::File(path) => format!("file {}", path.display()),
        AuditOutput::Syslog(syslog) => format!(
            "syslog {} (ca {}, certificate {}, key {})",
            syslog.address,
            syslog.ca_file.display(),
            syslog.certificate_file.display(),
            syslog.key_file.display()
        ),
    }
}
