//! The configuration as it is trusted: addresses, durations and paths, with every rule that spans
//! keys checked before any port opens. Defaults stand in [`defaults`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use conclave_domain::id::AccountName;
use conclave_domain::level;
use conclave_domain::policy::Rules;
use conclave_domain::policy::effective::Bounds;
use ipnet::IpNet;

use super::environment::{
    ACCOUNT, DYNAMIC_SECRETS, GOOGLE_URI, HOST_FACTORIES, JWT_ISSUER, STS_URI, ServerEnvironment,
};
use super::raw::{RawCluster, RawConfig, RawOutput, RawPolicy, RawRaft};
use super::syntax;
use super::unseal::{self, UnsealConfig};
use conclave_api::settings::{Clouds, Wanted};

/// The defaults, in one place; those of Raft are in its own crate. `node/deploy/conclave.toml`
/// shows the same numbers.
mod defaults {
    use std::time::Duration;

    pub(super) const MAX_STALENESS: Duration = Duration::from_mins(5);
    pub(super) const VOTERS_MIN: usize = 3;
    pub(super) const LOG_LEVEL: &str = "info";
    pub(super) const POLICY_LOAD_WAIT: Duration = Duration::from_secs(5);
}

/// Longest name of a node: it becomes a DNS label in certificates.
const NODE_NAME_BYTES_MAX: usize = 63;
/// More entries than this between snapshots would make restarts take minutes.
const SNAPSHOT_EVERY_MAX: u64 = 10_000_000;
/// A load that waits longer than this would run into the end of its request.
const POLICY_LOAD_WAIT_MAX: Duration = Duration::from_secs(25);
/// A member that is away for less than this may just be starting anew.
const REMOVE_DEAD_AFTER_MIN: Duration = Duration::from_secs(5);
/// An election that takes longer than this is a mistake of units.
const ELECTION_MAX: Duration = Duration::from_mins(1);

/// Why a configuration was refused: where, what stands there, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; pass --config FILE or set CONCLAVE_CONFIG")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML, lacks a key, or has one that does not exist.
    #[error("{path}: {message}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// The parser's own words, with line and column.
        message: String,
    },
    /// What is wrong, and where.
    #[error("{path}{}: {source}", line.map_or_else(String::new, |line| format!(", line {line}")))]
    At {
        /// Which file.
        path: PathBuf,
        /// The line of the key, where it stands in the file.
        line: Option<usize>,
        /// What is wrong.
        source: Box<Self>,
    },
    /// A key has a value of the wrong type.
    #[error("{key} = {value} is not valid: {fix}")]
    Type {
        /// The dotted key.
        key: String,
        /// What stands there, as it is written.
        value: String,
        /// What would be right.
        fix: String,
    },
    /// A key has a value that cannot be right.
    #[error("{key} = {value:?} is not valid: {fix}")]
    Value {
        /// The dotted key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What would be right.
        fix: String,
    },
}

pub(super) fn invalid(
    key: &'static str,
    value: impl fmt::Display,
    fix: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), fix: fix.into() }
}

/// The whole configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it stands in.
    pub file: PathBuf,
    /// This node.
    pub node: NodeConfig,
    /// Where its master key comes from.
    pub unseal: UnsealConfig,
    /// Speaking with other nodes.
    pub peer: PeerConfig,
    /// The HTTPS API.
    pub api: ApiConfig,
    /// Names in certificates.
    pub tls: TlsConfig,
    /// What the leader does about members by itself.
    pub cluster: ClusterConfig,
    /// Elections and snapshots.
    pub raft: RaftConfig,
    /// What followers promise.
    pub reads: ReadsConfig,
    /// What becomes of audit records.
    pub audit: AuditConfig,
    /// What policies may say, and how they are loaded and shown.
    pub policy: PolicyConfig,
    /// Logging.
    pub log: LogConfig,
}

/// Who this node is and where it keeps things.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The data folder.
    pub data: PathBuf,
}

/// The QUIC endpoint.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// UDP address to bind.
    pub listen: SocketAddr,
    /// Host and port that other nodes dial.
    pub advertise: String,
}

/// The HTTPS listener.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct ApiConfig {
    /// TCP address to bind.
    pub listen: SocketAddr,
    /// URL that clients and other nodes are told.
    pub url: String,
    /// Addresses or networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where programs of this machine may get tokens without credentials; none: nowhere.
    pub local_socket: Option<PathBuf>,
    /// TCP address where `/health` and its like are answered without TLS; none: nowhere.
    pub health_listen: Option<SocketAddr>,
    /// On nodes of which parts `/health` is good when all is well.
    pub health_ok_for: Wanted,
    /// Authenticators in force whatever is switched through the API.
    pub authenticators: Vec<String>,
    /// The account of hosts that ask `authn-k8s` for certificates; none: the only one with the service.
    pub account: Option<AccountName>,
    /// Whether host factories are there.
    pub host_factories_enabled: bool,
    /// Whether issuers of dynamic secrets are there.
    pub dynamic_secrets_enabled: bool,
    /// Accounts whose roles may be allowed to get seeds for followers.
    pub seed_accounts: Vec<AccountName>,
    /// The only networks in which authenticators call servers that policy names; when empty, all but
    /// what is local.
    pub outbound_networks: Vec<IpNet>,
    /// Where clouds are asked.
    pub clouds: CloudsConfig,
    /// Whether a service of `authn-ldap` may be configured to send passwords without TLS.
    pub ldap_plain_allowed: bool,
    /// Whether `authn-jwt` takes tokens that do not say who issued them.
    pub jwt_missing_issuer_ignored: bool,
}

/// Where the clouds of `authn-iam` and `authn-gcp` are asked, where that is not at their own endpoints.
#[derive(Debug, Clone)]
pub struct CloudsConfig {
    /// In place of the endpoints of Amazon's Security Token Service.
    pub sts_uri: Option<String>,
    /// The issuer of Google's identity tokens.
    pub google_uri: String,
    /// PEM file with the authorities that both may have certificates of; none: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// What the cluster certificate names when this node founds a cluster.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// DNS names and addresses; the first is the common name.
    pub names: Vec<String>,
}

/// What the leader does about members by itself; its own settings count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// A member not heard from for this long is removed; none: never.
    pub remove_dead_after: Option<Duration>,
    /// So many voters stay, whoever is dead.
    pub voters_min: usize,
    /// The newest feature level that this node is ready for. The cluster's never falls again: to keep the
    /// way back to an older version open after an upgrade, hold it down for a while.
    pub level_max: u32,
}

/// Timing of elections, and how often a snapshot is made.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest silence before a voter stands for election.
    pub election_min: Duration,
    /// Longest silence before a voter stands for election.
    pub election_max: Duration,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
}

impl RaftConfig {
    /// The settings of the node with this id.
    pub fn for_node(&self, node_id: u64) -> conclave_raft::Config {
        let every = self.snapshot_every;
        conclave_raft::Config {
            heartbeat: self.heartbeat,
            election_min: self.election_min,
            election_max: self.election_max,
            snapshot_every: every,
            // As Raft's own defaults: half, and one and a half times, the interval.
            entries_kept: every / 2,
            lag_for_snapshot: every.saturating_add((every / 2).max(1)),
            ..conclave_raft::Config::new(node_id)
        }
    }
}

/// What a follower serves.
#[derive(Debug, Clone)]
pub struct ReadsConfig {
    /// Older than this a follower refuses to authenticate.
    pub max_staleness: Duration,
    /// Older than this a follower answers 502 to `/health`; none: not for its age alone.
    pub unhealthy_after: Option<Duration>,
    /// Whether a follower forwards writes to the leader instead of answering 405.
    pub forward_writes: bool,
}

/// See DESIGN section 7 in the documentation: when an audit record counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditDurability {
    /// Written; fsynced within 100 ms.
    Os,
    /// Fsynced before the answer leaves.
    Disk,
    /// In the cluster's audit chain before the answer leaves.
    Quorum,
}

/// What becomes of audit records.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// How durable a record is before the answer leaves.
    pub durability: AuditDurability,
    /// How long the chain keeps records; none keeps them for ever.
    pub retention: Option<Duration>,
    /// Where copies of this node's records go.
    pub outputs: Vec<AuditOutput>,
}

/// Where copies of a node's audit records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditOutput {
    /// Standard output of the node.
    Stdout,
    /// The end of a file.
    File(PathBuf),
    /// A collector that speaks RFC 5425; both sides show a certificate.
    Syslog(SyslogConfig),
}

/// A collector of syslog over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogConfig {
    /// Host and port; the host is also the name that its certificate must have.
    pub address: String,
    /// Certificates, one of which its certificate must come from.
    pub ca_file: PathBuf,
    /// The certificate that the node shows it.
    pub certificate_file: PathBuf,
    /// The key of that.
    pub key_file: PathBuf,
}

/// What policies may say, and how they are loaded and shown.
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// What they may not say.
    pub rules: Rules,
    /// Whether the answer to an append lists what it left alone.
    pub ignored_changes_header: bool,
    /// How long a load waits for another one of the same account.
    pub load_wait: Duration,
    /// How much of a policy in force is shown at most.
    pub effective_max: Bounds,
}

/// How the server logs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
    /// A level such as `info` for this program, libraries staying at errors only; or a whole filter
    /// such as `info,conclave_raft=debug`.
    pub level: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads and checks a configuration file. Relative paths in it start at the file's folder.
    ///
    /// # Errors
    /// What is wrong and how to right it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)?.overlaid(ServerEnvironment::read())
    }

    /// The configuration with what the environment says laid over it.
    ///
    /// # Errors
    /// A variable that is neither `true` nor `false` where one of them belongs, or no URL where one does.
    pub fn overlaid(mut self, environment: ServerEnvironment) -> Result<Self, ConfigError> {
        if let Some(names) = environment.authenticators {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            self.api.authenticators = names.map(str::to_owned).collect();
        }
        if let Some(name) = environment.account {
            self.api.account = Some(account(ACCOUNT, &name)?);
        }
        let clouds = &mut self.api.clouds;
        if let Some(uri) = cloud_uri(STS_URI, environment.sts_uri)? {
            clouds.sts_uri = Some(uri);
        }
        if let Some(uri) = cloud_uri(GOOGLE_URI, environment.google_uri)? {
            clouds.google_uri = uri;
        }
        clouds.ca_file = environment.clouds_ca_file.or(clouds.ca_file.take());
        let switches = [
            (HOST_FACTORIES, environment.host_factories, &mut self.api.host_factories_enabled),
            (DYNAMIC_SECRETS, environment.dynamic_secrets, &mut self.api.dynamic_secrets_enabled),
            (JWT_ISSUER, environment.jwt_issuer, &mut self.api.jwt_missing_issuer_ignored),
        ];
        for (name, said, switch) in switches {
            match said.as_deref().map(str::trim) {
                None => {}
                Some(text) if text.eq_ignore_ascii_case("true") => *switch = true,
                Some(text) if text.eq_ignore_ascii_case("false") => *switch = false,
                Some(text) => return Err(invalid(name, text, "write true or false")),
            }
        }
        Ok(self)
    }

    /// Checks a configuration text as if it stood in the file `path`.
    ///
    /// # Errors
    /// What is wrong and how to right it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig =
            toml::from_str(text).map_err(|error| syntax::refusal(text, path, &error))?;
        Self::check(raw, path).map_err(|error| {
            let line =
                if let ConfigError::Value { key, .. } = &error { line_of(text, key) } else { None };
            ConfigError::At { path: path.to_owned(), line, source: Box::new(error) }
        })
    }

    fn check(raw: RawConfig, path: &Path) -> Result<Self, ConfigError> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let name = checked_name(raw.node.name)?;
        let data = path_in(folder, "node.data", &raw.node.data)?;
        let master_key_file = raw.node.master_key_file.as_deref();
        let unseal = unseal::checked(raw.unseal, master_key_file, &data, folder)?;

        let peer_listen = address("peer.listen", &raw.peer.listen)?;
        let advertise = match raw.peer.advertise {
            Some(text) => host_and_port("peer.advertise", text)?,
            None if peer_listen.ip().is_unspecified() => {
                return Err(invalid(
                    "peer.advertise",
                    "",
                    "peer.listen binds every address, so say which host:port other nodes dial",
                ));
            }
            None => peer_listen.to_string(),
        };

        let api_listen = address("api.listen", &raw.api.listen)?;
        let url = match raw.api.url {
            Some(url) => checked_url(&url)?,
            None if api_listen.ip().is_unspecified() => {
                return Err(invalid(
                    "api.url",
                    "",
                    "api.listen binds every address, so say the https:// URL that clients use",
                ));
            }
            None => format!("https://{api_listen}"),
        };
        let trusted_proxies = raw
            .api
            .trusted_proxies
            .iter()
            .map(|text| network("api.trusted_proxies", text))
            .collect::<Result<_, _>>()?;
        let outbound_networks = raw
            .api
            .outbound_networks
            .iter()
            .map(|text| network("api.outbound_networks", text))
            .collect::<Result<_, _>>()?;
        let clouds_ca_file = raw.api.clouds_ca_file.as_deref().filter(|text| !text.is_empty());
        let clouds = CloudsConfig {
            sts_uri: cloud_uri("api.sts_uri", raw.api.sts_uri)?,
            google_uri: cloud_uri("api.google_uri", raw.api.google_uri)?
                .unwrap_or_else(|| Clouds::default().google_uri),
            ca_file: clouds_ca_file
                .map(|text| path_in(folder, "api.clouds_ca_file", text))
                .transpose()?,
        };
        let local_socket = match raw.api.local_socket.as_deref() {
            None | Some("") => None,
            Some(text) => Some(socket_path(folder, text)?),
        };

        let health_listen = match raw.api.health_listen.as_deref() {
            None | Some("") => None,
            Some(text) => Some(address("api.health_listen", text)?),
        };
        let seed_accounts = raw.api.seed_accounts.iter();
        let seed_accounts = seed_accounts
            .map(|name| account("api.seed_accounts", name))
            .collect::<Result<_, _>>()?;
        let hosts_account = raw.api.account.as_deref().filter(|name| !name.is_empty());
        let hosts_account = hosts_account.map(|name| account("api.account", name)).transpose()?;
        let health_ok_for = match raw.api.health_ok_for.as_deref() {
            None => Wanted::ALL,
            Some(parts) => wanted(parts)?,
        };

        let mut names = raw.tls.names;
        for name in &names {
            if name.is_empty() || name.len() > 253 || name.chars().any(|c| !is_name_char(c)) {
                return Err(invalid(
                    "tls.names",
                    name,
                    "write DNS names or IP addresses, such as \"conclave.example.com\"",
                ));
            }
        }
        if names.is_empty() {
            names = default_names(&advertise, &url);
        }

        let durability = match raw.audit.durability.as_deref() {
            None | Some("os") => AuditDurability::Os,
            Some("disk") => AuditDurability::Disk,
            Some("quorum") => AuditDurability::Quorum,
            Some(other) => {
                let remedy = "write \"os\", \"disk\" or \"quorum\"";
                return Err(invalid("audit.durability", other, remedy));
            }
        };
        let retention = match raw.audit.retention_days {
            Some(0) => {
                let remedy = "write a number of days, or leave it out to keep all";
                return Err(invalid("audit.retention_days", "0", remedy));
            }
            days => days.map(|days| Duration::from_hours(24) * days),
        };
        let mut outputs = Vec::new();
        for raw in raw.audit.output {
            let output = audit_output(folder, raw)?;
            if outputs.contains(&output) {
                let remedy = "name each output once";
                return Err(invalid("audit.output", format!("{output:?}"), remedy));
            }
            outputs.push(output);
        }
        let audit = AuditConfig { durability, retention, outputs };
        let format = match raw.log.format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => return Err(invalid("log.format", other, "write \"text\" or \"json\"")),
        };
        let level = raw.log.level.unwrap_or_else(|| defaults::LOG_LEVEL.to_owned());
        if let Err(error) = level.parse::<tracing_subscriber::filter::Targets>() {
            return Err(invalid(
                "log.level",
                level,
                format!(
                    "write a level such as \"info\", or \"info,conclave_raft=debug\" ({error})"
                ),
            ));
        }

        Ok(Self {
            file: path.to_owned(),
            node: NodeConfig { name, data },
            unseal,
            peer: PeerConfig { listen: peer_listen, advertise },
            api: ApiConfig {
                listen: api_listen,
                url,
                trusted_proxies,
                local_socket,
                health_listen,
                health_ok_for,
                authenticators: raw.api.authenticators,
                account: hosts_account,
                host_factories_enabled: raw.api.host_factories_enabled.unwrap_or(true),
                dynamic_secrets_enabled: raw.api.dynamic_secrets_enabled.unwrap_or(false),
                seed_accounts,
                outbound_networks,
                clouds,
                ldap_plain_allowed: raw.api.ldap_plain_allowed.unwrap_or(false),
                jwt_missing_issuer_ignored: raw
                    .api
                    .authn_jwt_ignore_missing_issuer_claim
                    .unwrap_or(false),
            },
            tls: TlsConfig { names },
            cluster: checked_cluster(&raw.cluster)?,
            raft: checked_raft(&raw.raft)?,
            reads: ReadsConfig {
                max_staleness: raw
                    .reads
                    .max_staleness_s
                    .map_or(defaults::MAX_STALENESS, Duration::from_secs),
                unhealthy_after: raw
                    .reads
                    .unhealthy_after_s
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs),
                forward_writes: raw.reads.forward_writes.unwrap_or(false),
            },
            audit,
            policy: checked_policy(&raw.policy)?,
            log: LogConfig { format, level },
        })
    }
}

/// The line where a key stands first, counted from 1; a key may be that of a section.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (section, name) = key.rsplit_once('.').unwrap_or((key, ""));
    let mut current = "";
    text.lines()
        .position(|line| {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[') {
                current =
                    header.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
                return current == key;
            }
            current == section && line.split_once('=').is_some_and(|(word, _)| word.trim() == name)
        })
        .map(|at| at + 1)
}

fn audit_output(folder: &Path, raw: RawOutput) -> Result<AuditOutput, ConfigError> {
    let file = |key: &'static str, given: Option<String>| match given {
        Some(given) => path_in(folder, key, &given),
        None => Err(invalid(key, "", "name a file")),
    };
    let named = [&raw.address, &raw.ca_file, &raw.certificate_file, &raw.key_file];
    let is_syslog = named.iter().any(|one| one.is_some());
    match raw.to.as_str() {
        "stdout" if raw.path.is_none() && !is_syslog => Ok(AuditOutput::Stdout),
        "file" if !is_syslog => Ok(AuditOutput::File(file("audit.output.path", raw.path)?)),
        "syslog" if raw.path.is_none() => Ok(AuditOutput::Syslog(SyslogConfig {
            address: host_and_port("audit.output.address", raw.address.unwrap_or_default())?,
            ca_file: file("audit.output.ca_file", raw.ca_file)?,
            certificate_file: file("audit.output.certificate_file", raw.certificate_file)?,
            key_file: file("audit.output.key_file", raw.key_file)?,
        })),
        other => Err(invalid(
            "audit.output.to",
            other,
            "write \"stdout\"; or \"file\" and path; or \"syslog\" and address, ca_file, \
             certificate_file and key_file",
        )),
    }
}

fn checked_cluster(raw: &RawCluster) -> Result<ClusterConfig, ConfigError> {
    let remove_dead_after =
        raw.remove_dead_after_s.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    if let Some(after) = remove_dead_after.filter(|after| *after < REMOVE_DEAD_AFTER_MIN) {
        let least = REMOVE_DEAD_AFTER_MIN.as_secs();
        return Err(invalid(
            "cluster.remove_dead_after_s",
            after.as_secs(),
            format!("use at least {least}, or 0 for never: a restart is no death"),
        ));
    }
    let voters_min = raw.voters_min.unwrap_or(defaults::VOTERS_MIN);
    if voters_min == 0 {
        return Err(invalid("cluster.voters_min", 0, "a cluster needs at least 1 voter"));
    }
    let level_max = raw.feature_level_max.unwrap_or(level::NEWEST);
    if level_max > level::NEWEST {
        return Err(invalid(
            "cluster.feature_level_max",
            level_max,
            format!("this version knows no more than {}", level::NEWEST),
        ));
    }
    Ok(ClusterConfig { remove_dead_after, voters_min, level_max })
}

fn checked_policy(raw: &RawPolicy) -> Result<PolicyConfig, ConfigError> {
    let most = Bounds::default();
    let bounded = |key, given: Option<usize>, most: usize| match given {
        Some(given) if given > most => Err(invalid(key, given, format!("use at most {most}"))),
        given => Ok(given.unwrap_or(most)),
    };
    let load_wait = raw.load_wait_s.map_or(defaults::POLICY_LOAD_WAIT, Duration::from_secs);
    if load_wait > POLICY_LOAD_WAIT_MAX {
        return Err(invalid(
            "policy.load_wait_s",
            load_wait.as_secs(),
            format!(
                "use at most {}: a request is answered within 30",
                POLICY_LOAD_WAIT_MAX.as_secs()
            ),
        ));
    }
    Ok(PolicyConfig {
        rules: Rules {
            users_in_root_only: raw.users_in_root_only.unwrap_or(false),
            hosts_ask_for_api_keys: !raw.authn_api_key_default.unwrap_or(true),
            // The door knows whether it has issuers.
            ..Rules::default()
        },
        ignored_changes_header: raw.ignored_changes_header.unwrap_or(false),
        load_wait,
        effective_max: Bounds {
            depth: bounded("policy.effective_depth_max", raw.effective_depth_max, most.depth)?,
            rows: bounded("policy.effective_rows_max", raw.effective_rows_max, most.rows)?,
        },
    })
}

/// A node's name, if it may be one.
///
/// # Errors
/// What would be right.
pub fn checked_name(name: String) -> Result<String, ConfigError> {
    let fits = !name.is_empty()
        && name.len() <= NODE_NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits {
        Ok(name)
    } else {
        Err(invalid(
            "node.name",
            name,
            format!("use 1 to {NODE_NAME_BYTES_MAX} letters, digits and inner hyphens"),
        ))
    }
}

pub(super) fn path_in(
    folder: &Path,
    key: &'static str,
    text: &str,
) -> Result<PathBuf, ConfigError> {
    if text.is_empty() || text.contains('\0') {
        return Err(invalid(key, text, "write a path"));
    }
    Ok(folder.join(text))
}

/// The system takes 108 bytes for the name of a socket, and it is made beside its place at first.
const SOCKET_BYTES_MAX: usize = 92;

fn socket_path(folder: &Path, text: &str) -> Result<PathBuf, ConfigError> {
    let path = path_in(folder, "api.local_socket", text)?;
    if path.as_os_str().len() >= SOCKET_BYTES_MAX {
        return Err(invalid(
            "api.local_socket",
            path.display(),
            format!("the name of a socket has less than {SOCKET_BYTES_MAX} bytes"),
        ));
    }
    Ok(path)
}

fn cloud_uri(key: &'static str, text: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let host = text.strip_prefix("https://").unwrap_or_default();
    if host.is_empty() || host.contains(['?', '#', '@']) || host.chars().any(char::is_whitespace) {
        return Err(invalid(key, text, "write a URL such as \"https://sts.example.com\""));
    }
    Ok(Some(text))
}

fn account(key: &'static str, name: &str) -> Result<AccountName, ConfigError> {
    AccountName::new(name)
        .map_err(|error| invalid(key, name, format!("write the name of an account ({error})")))
}

fn wanted(parts: &[String]) -> Result<Wanted, ConfigError> {
    const KEY: &str = "api.health_ok_for";
    let mut wanted = Wanted { leader: false, standby: false, follower: false };
    for part in parts {
        match part.as_str() {
            "leader" => wanted.leader = true,
            "standby" => wanted.standby = true,
            "follower" => wanted.follower = true,
            other => {
                return Err(invalid(KEY, other, "write \"leader\", \"standby\" or \"follower\""));
            }
        }
    }
    if parts.is_empty() {
        let hint = "name at least one of \"leader\", \"standby\" and \"follower\": with none, no load \
                    balancer would ever choose this node";
        return Err(invalid(KEY, "[]", hint));
    }
    Ok(wanted)
}

fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse()
        .map_err(|_| invalid(key, text, "write an IP address and a port, such as \"0.0.0.0:8443\""))
}

fn network(key: &'static str, text: &str) -> Result<IpNet, ConfigError> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        invalid(key, text, "write addresses or networks, such as \"10.0.0.7\" or \"10.0.0.0/8\"")
    })
}

fn host_and_port(key: &'static str, text: String) -> Result<String, ConfigError> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if fits {
        Ok(text)
    } else {
        Err(invalid(key, text, "write host:port, such as \"n1.example.com:7443\""))
    }
}

fn checked_url(url: &str) -> Result<String, ConfigError> {
    let url = url.trim_end_matches('/').to_owned();
    let host = url.strip_prefix("https://").unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(invalid("api.url", url, "write an https:// URL"));
    }
    Ok(url)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '*')
}

/// Without `tls.names` the certificate names what this node advertises.
fn default_names(advertise: &str, url: &str) -> Vec<String> {
    let host = url.trim_start_matches("https://");
    let host = host.split('/').next().unwrap_or_default();
    let mut names = Vec::new();
    for address in [host, advertise] {
        let name = match address.parse::<SocketAddr>() {
            Ok(socket) => socket.ip().to_string(),
            Err(_) => address.rsplit_once(':').map_or(address, |(name, _)| name).to_owned(),
        };
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Takes what is written over the defaults; the rules among the values are Raft's own.
fn checked_raft(raw: &RawRaft) -> Result<RaftConfig, ConfigError> {
    let default = conclave_raft::Config::new(1);
    let millis = |value: Option<u64>, default| value.map_or(default, Duration::from_millis);
    let raft = RaftConfig {
        heartbeat: millis(raw.heartbeat_ms, default.heartbeat),
        election_min: millis(raw.election_min_ms, default.election_min),
        election_max: millis(raw.election_max_ms, default.election_max),
        snapshot_every: raw.snapshot_every.unwrap_or(default.snapshot_every),
    };
    if raft.election_max > ELECTION_MAX {
        let value = raft.election_max.as_millis();
        return Err(invalid("raft.election_max_ms", value, "use 60000 or less"));
    }
    if raft.heartbeat > raft.election_max {
        let fix = format!("use less than raft.election_max_ms, which is {:?}", raft.election_max);
        return Err(invalid("raft.heartbeat_ms", raft.heartbeat.as_millis(), fix));
    }
    if raft.snapshot_every > SNAPSHOT_EVERY_MAX {
        let fix = format!("use {SNAPSHOT_EVERY_MAX} or less");
        return Err(invalid("raft.snapshot_every", raft.snapshot_every, fix));
    }
    let value = format!("{raft:?}");
    raft.for_node(1).check().map_err(|error| invalid("raft", value, error.to_string()))?;
    Ok(raft)
}
