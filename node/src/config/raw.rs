//! The configuration as it is written: plain TOML types, every unknown key refused. Nothing here is
//! trusted yet; see [`super::checked`].

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: RawNode,
    pub(super) unseal: Option<RawUnseal>,
    pub(super) peer: RawPeer,
    pub(super) api: RawApi,
    #[serde(default)]
    pub(super) tls: RawTls,
    #[serde(default)]
    pub(super) cluster: RawCluster,
    #[serde(default)]
    pub(super) raft: RawRaft,
    #[serde(default)]
    pub(super) reads: RawReads,
    #[serde(default)]
    pub(super) audit: RawAudit,
    #[serde(default)]
    pub(super) policy: RawPolicy,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: String,
    pub(super) data: String,
    pub(super) master_key_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUnseal {
    pub(super) by: String,
    pub(super) file: Option<String>,
    pub(super) credential: Option<String>,
    pub(super) descriptor: Option<String>,
    pub(super) module: Option<String>,
    pub(super) token: Option<String>,
    pub(super) key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) listen: String,
    pub(super) advertise: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApi {
    pub(super) listen: String,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) trusted_proxies: Vec<String>,
    pub(super) local_socket: Option<String>,
    pub(super) health_listen: Option<String>,
    pub(super) health_ok_for: Option<Vec<String>>,
    #[serde(default)]
    pub(super) authenticators: Vec<String>,
    pub(super) account: Option<String>,
    pub(super) host_factories_enabled: Option<bool>,
    pub(super) dynamic_secrets_enabled: Option<bool>,
    #[serde(default)]
    pub(super) seed_accounts: Vec<String>,
    #[serde(default)]
    pub(super) outbound_networks: Vec<String>,
    pub(super) sts_uri: Option<String>,
    pub(super) google_uri: Option<String>,
    pub(super) clouds_ca_file: Option<String>,
    pub(super) ldap_plain_allowed: Option<bool>,
    pub(super) authn_jwt_ignore_missing_issuer_claim: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    #[serde(default)]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) remove_dead_after_s: Option<u64>,
    pub(super) voters_min: Option<usize>,
    pub(super) feature_level_max: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRaft {
    pub(super) heartbeat_ms: Option<u64>,
    pub(super) election_min_ms: Option<u64>,
    pub(super) election_max_ms: Option<u64>,
    pub(super) snapshot_every: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReads {
    pub(super) max_staleness_s: Option<u64>,
    pub(super) unhealthy_after_s: Option<u64>,
    pub(super) forward_writes: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    pub(super) durability: Option<String>,
    pub(super) retention_days: Option<u32>,
    #[serde(default)]
    pub(super) output: Vec<RawOutput>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutput {
    pub(super) to: String,
    pub(super) path: Option<String>,
    pub(super) address: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) certificate_file: Option<String>,
    pub(super) key_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) users_in_root_only: Option<bool>,
    pub(super) authn_api_key_default: Option<bool>,
    pub(super) ignored_changes_header: Option<bool>,
    pub(super) load_wait_s: Option<u64>,
    pub(super) effective_depth_max: Option<usize>,
    pub(super) effective_rows_max: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
}
