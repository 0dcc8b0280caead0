//! Configuration: one TOML file, read once, turned from text ([`raw`]) into values that cannot be
//! wrong ([`checked`]); what of it changes while a node runs is in `reload`. The environment is read here
//! ([`environment`]) and nowhere else.

mod checked;
pub mod environment;
mod raw;
mod reload;
mod syntax;
mod unseal;

pub use checked::{
    ApiConfig, AuditConfig, AuditDurability, AuditOutput, CloudsConfig, ClusterConfig, Config,
    ConfigError, LogConfig, LogFormat, NodeConfig, PeerConfig, PolicyConfig, RaftConfig,
    ReadsConfig, SyslogConfig, TlsConfig, checked_name,
};
pub use reload::{Change, Reloaded, key_names};
pub use unseal::{Pkcs11Config, SecretSource, UnsealConfig};
