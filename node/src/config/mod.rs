//! Configuration: one TOML file, read once, turned from text ([`raw`]) into values that cannot be
//! wrong ([`checked`]). The environment is read here ([`environment`]) and nowhere else.

mod checked;
pub mod environment;
mod raw;

pub use checked::{
    ApiConfig, AuditConfig, AuditDurability, AuditOutput, CloudsConfig, ClusterConfig, Config,
    ConfigError, LogConfig, LogFormat, NodeConfig, PeerConfig, PolicyConfig, RaftConfig,
    ReadsConfig, SyslogConfig, TlsConfig, checked_name,
};
