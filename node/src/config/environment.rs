//! The environment, read in one place: what people set for Conjur clients, and a default for
//! `--config`. Nothing else in the program reads variables.

use std::ffi::OsString;
use std::path::PathBuf;

use zeroize::Zeroizing;

#[expect(clippy::disallowed_methods, reason = "this module is the one reader of the environment")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    let value: Option<OsString> = std::env::var_os(name);
    value.filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The configuration file that `CONCLAVE_CONFIG` names.
pub fn config_file() -> Option<PathBuf> {
    path("CONCLAVE_CONFIG")
}

/// The folder of credentials that systemd has made for this process.
pub fn credentials_folder() -> Option<PathBuf> {
    path("CREDENTIALS_DIRECTORY")
}

/// What a variable holds that the configuration names: the number of an open descriptor.
pub fn descriptor(variable: &str) -> Option<String> {
    text(variable)
}

/// What stands before the name of a user for whom a password is set.
const USER_PASSWORD: &str = "CONJUR_PASSWORD_";

/// Passwords for users who are yet to come: what follows `CONJUR_PASSWORD_`, and the value.
pub fn user_passwords() -> Vec<(String, Zeroizing<String>)> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| {
        let name = name.into_string().ok()?.strip_prefix(USER_PASSWORD)?.to_owned();
        let value = Zeroizing::new(value.into_string().ok()?);
        (!name.is_empty() && !value.is_empty()).then_some((name, value))
    })
    .collect()
}

/// A directory for services of `authn-ldap` whose policy does not say everything, as Conjur is told it.
pub struct LdapEnvironment {
    /// `LDAP_URI`.
    pub uri: Option<String>,
    /// `LDAP_BASE`.
    pub base: Option<String>,
    /// `LDAP_BINDDN`.
    pub bind_dn: Option<String>,
    /// `LDAP_BINDPW`.
    pub bind_password: Option<Zeroizing<String>>,
    /// `LDAP_FILTER`.
    pub filter: Option<String>,
}

impl LdapEnvironment {
    /// Reads it.
    pub fn read() -> Self {
        Self {
            uri: text("LDAP_URI"),
            base: text("LDAP_BASE"),
            bind_dn: text("LDAP_BINDDN"),
            bind_password: text("LDAP_BINDPW").map(Zeroizing::new),
            filter: text("LDAP_FILTER"),
        }
    }
}

/// What Kubernetes tells whoever runs in a cluster of it, and what Conjur is told of such clusters.
pub struct KubernetesEnvironment {
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, where both are there: the cluster's API.
    pub api_url: Option<String>,
    /// [`EXEC_TIMEOUT`], in seconds.
    pub exec_timeout: Option<String>,
}

/// The longest wait for a command in a pod, in seconds.
pub const EXEC_TIMEOUT: &str = "KUBE_EXEC_COMMAND_TIMEOUT";

impl KubernetesEnvironment {
    /// Reads it.
    pub fn read() -> Self {
        let host = text("KUBERNETES_SERVICE_HOST");
        let port = text("KUBERNETES_SERVICE_PORT");
        Self {
            api_url: host.zip(port).map(|(host, port)| kubernetes_url(&host, &port)),
            exec_timeout: text(EXEC_TIMEOUT),
        }
    }
}

/// The API of a cluster, by its address and port.
fn kubernetes_url(host: &str, port: &str) -> String {
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    if is_v6 { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

/// Overrides `api.account`.
pub const ACCOUNT: &str = "CONJUR_ACCOUNT";
/// Overrides `api.host_factories_enabled`.
pub const HOST_FACTORIES: &str = "CONJUR_HOST_FACTORIES_ENABLED";
/// Overrides `api.dynamic_secrets_enabled`.
pub const DYNAMIC_SECRETS: &str = "CONJUR_FEATURE_DYNAMIC_SECRETS_ENABLED";
/// Overrides `api.authn_jwt_ignore_missing_issuer_claim`.
pub const JWT_ISSUER: &str = "CONJUR_AUTHN_JWT_IGNORE_MISSING_ISSUER_CLAIM";
/// Overrides `api.sts_uri`.
pub const STS_URI: &str = "CONCLAVE_STS_URI";
/// Overrides `api.google_uri`.
pub const GOOGLE_URI: &str = "CONCLAVE_GOOGLE_URI";
/// Overrides `api.clouds_ca_file`.
const CLOUDS_CA_FILE: &str = "CONCLAVE_CLOUDS_CA_FILE";

/// What a server is told by its environment, in the words that people set for Conjur. Each value wins
/// over the configuration file.
#[derive(Debug, Default)]
pub struct ServerEnvironment {
    /// `CONJUR_AUTHENTICATORS`: comma list of authenticators in force.
    pub authenticators: Option<String>,
    /// [`ACCOUNT`].
    pub account: Option<String>,
    /// [`HOST_FACTORIES`].
    pub host_factories: Option<String>,
    /// [`DYNAMIC_SECRETS`].
    pub dynamic_secrets: Option<String>,
    /// [`JWT_ISSUER`].
    pub jwt_issuer: Option<String>,
    /// [`STS_URI`].
    pub sts_uri: Option<String>,
    /// [`GOOGLE_URI`].
    pub google_uri: Option<String>,
    /// `CONCLAVE_CLOUDS_CA_FILE`.
    pub clouds_ca_file: Option<PathBuf>,
}

impl ServerEnvironment {
    /// Reads it.
    pub fn read() -> Self {
        Self {
            authenticators: text("CONJUR_AUTHENTICATORS"),
            account: text(ACCOUNT),
            host_factories: text(HOST_FACTORIES),
            dynamic_secrets: text(DYNAMIC_SECRETS),
            jwt_issuer: text(JWT_ISSUER),
            sts_uri: text(STS_URI),
            google_uri: text(GOOGLE_URI),
            clouds_ca_file: path(CLOUDS_CA_FILE),
        }
    }
}

/// What a client is told by its environment. Each value wins over the file of the same meaning.
pub struct ClientEnvironment {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `CONJURRC`: the file to use instead of `~/.conjurrc`.
    pub conjurrc: Option<PathBuf>,
    /// `CONJUR_NETRC_PATH`: the file to use instead of `~/.netrc`.
    pub netrc: Option<PathBuf>,
    /// `CONJUR_APPLIANCE_URL`.
    pub appliance_url: Option<String>,
    /// `CONJUR_ACCOUNT`.
    pub account: Option<String>,
    /// `CONJUR_CERT_FILE`.
    pub cert_file: Option<PathBuf>,
    /// `CONJUR_AUTHN_LOGIN`.
    pub login: Option<String>,
    /// `CONJUR_AUTHN_API_KEY`.
    pub api_key: Option<Zeroizing<String>>,
}

impl ClientEnvironment {
    /// Reads it.
    pub fn read() -> Self {
        Self {
            home: path("HOME"),
            conjurrc: path("CONJURRC"),
            netrc: path("CONJUR_NETRC_PATH"),
            appliance_url: text("CONJUR_APPLIANCE_URL"),
            account: text(ACCOUNT),
            cert_file: path("CONJUR_CERT_FILE"),
            login: text("CONJUR_AUTHN_LOGIN"),
            api_key: text("CONJUR_AUTHN_API_KEY").map(Zeroizing::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_asked_at_its_address_of_either_family() {
        assert_eq!(kubernetes_url("10.96.0.1", "443"), "https://10.96.0.1:443");
        assert_eq!(kubernetes_url("fd00::1", "6443"), "https://[fd00::1]:6443");
        assert_eq!(kubernetes_url("api.example", "443"), "https://api.example:443");
    }
}
