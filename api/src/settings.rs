//! The door's settings, with their defaults in one place and one check over all of them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::id::{AccountName, Kind, RoleId};
use conclave_domain::policy::Rules;
use conclave_domain::policy::effective::Bounds;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::credentials::is_strong_password;
use crate::ports::{Part, Secret};

use crate::authn::{Target, misnamed, pinned};

/// How the door behaves. Durations and sizes are bounds, inclusive.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Settings {
    /// Version that `/` and `/info` report; clients parse it as semver and gate features on it.
    pub version: String,
    /// Name of this node, shown by `/info`.
    pub node_name: String,
    /// Authenticators in force whatever is switched in the state, as `authn-x/service`. Empty is the
    /// default `authn` alone, which in truth is always in force.
    pub authenticators: Vec<String>,
    /// Peers whose `X-Forwarded-For` is believed, beside loopback.
    pub trusted_proxies: Vec<IpNet>,
    /// Life of a user's access token, in seconds; at most five hours.
    pub user_token_seconds: u32,
    /// Life of a host's access token, in seconds; at most five hours.
    pub host_token_seconds: u32,
    /// Most resources in one list answer; 0 is no limit.
    pub resource_list_limit_max: usize,
    /// A follower older than this refuses to authenticate; so does a voter asked for its local view.
    pub staleness_max: Duration,
    /// A follower older than this calls itself degraded.
    pub staleness_degraded: Duration,
    /// A follower older than this answers 502 to `/health`, so that load balancers pass it by, though it
    /// would still serve; none: not for its age, before `staleness_max`.
    pub staleness_unwanted: Option<Duration>,
    /// Longest a request may take, from its header to its answer.
    pub request_time_max: Duration,
    /// Longest wait for the body of a request.
    pub body_time_max: Duration,
    /// Longest wait for the index that a client sent in `X-Conclave-Index`.
    pub index_wait_max: Duration,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// Largest policy text, in bytes.
    pub policy_bytes_max: usize,
    /// Requests in work at once; more are answered 503.
    pub requests_in_flight_max: usize,
    /// Tokens being signed at once.
    pub signing_parallel_max: usize,
    /// Logins waiting for a signature before more are answered 503.
    pub signing_queue_max: usize,
    /// Password hashes being computed at once.
    pub hashing_parallel_max: usize,
    /// Password checks waiting before more are answered 503.
    pub hashing_queue_max: usize,
    /// Failed authentications of one role from one address within `failure_window`, after which that
    /// pair is answered 429 until the window ends. Other addresses are not held up.
    pub failures_max: u32,
    /// The window of `failures_max`.
    pub failure_window: Duration,
    /// The only networks in which authenticators call servers that policy names: issuers of tokens,
    /// directories. When empty, all but this machine, its link and the like.
    pub outbound_networks: Vec<IpNet>,
    /// Longest a call of such a server may take.
    pub outbound_time_max: Duration,
    /// Whether `authn-jwt` takes tokens that do not say who issued them.
    pub jwt_missing_issuer_ignored: bool,
    /// Where `authn-iam` and `authn-gcp` ask.
    pub clouds: Clouds,
    /// What `authn-ldap` is told where policy says nothing.
    pub ldap: LdapFallback,
    /// What `authn-k8s` is told by where this node runs.
    pub kubernetes: Kubernetes,
    /// Whether hosts may enrol themselves with the tokens of host factories; without, those routes
    /// are not there.
    pub host_factories_enabled: bool,
    /// Whether there are issuers of dynamic secrets; without, their routes are not there.
    pub dynamic_secrets_enabled: bool,
    /// Accounts whose roles may be allowed to get seeds for followers, by their policy. A follower holds
    /// the data of all accounts; so when this is empty, the route is not there.
    pub seed_accounts: Vec<AccountName>,
    /// Whether `/metrics` answers.
    pub metrics: bool,
    /// The parts on which `/health` is good when all is well; on others it is 502, so that a load
    /// balancer finds the leader, or any voter, with the one check that it has.
    pub health_ok_for: Wanted,
    /// Whether a follower forwards writes to the leader in place of refusing them.
    pub forward_writes: bool,
    /// What policies may not say.
    pub policy_rules: Rules,
    /// How long a policy load waits for another one of the same account before it is answered 409.
    pub policy_wait_max: Duration,
    /// Whether the answer to an appended policy lists what the append left alone.
    pub ignored_changes_header: bool,
    /// How much of a policy in force is shown at most.
    pub effective_policy_max: Bounds,
    /// Passwords that new users get.
    pub user_passwords: UserPasswords,
}

/// Where clouds are asked: their own endpoints, unless a network has others.
#[derive(Debug, Clone)]
pub struct Clouds {
    /// Called in place of every endpoint of Amazon's Security Token Service, which requests go on naming;
    /// none: the endpoint that a client has signed for.
    pub sts_uri: Option<String>,
    /// The issuer of Google's identity tokens.
    pub google_uri: String,
    /// The authorities, as PEM, that the certificates of both may be of; those of the system without.
    pub authorities: Option<String>,
}

impl Default for Clouds {
    fn default() -> Self {
        let google_uri = "https://accounts.google.com".to_owned();
        Self { sts_uri: None, google_uri, authorities: None }
    }
}

impl Clouds {
    /// What is wrong with them; nothing if they can be used.
    fn unfit(&self) -> Option<String> {
        let uris = [("sts_uri", self.sts_uri.as_deref()), ("google_uri", Some(&*self.google_uri))];
        for (name, uri) in uris {
            if let Some(Err(why)) = uri.map(Target::parse) {
                return Some(format!("{name} = {:?}: {why}", uri.unwrap_or_default()));
            }
        }
        let why = pinned(self.authorities.as_deref()?).err()?;
        Some(format!("their authorities: {why}"))
    }
}

/// A directory for services of `authn-ldap` whose policy does not say everything.
#[derive(Clone, Default)]
pub struct LdapFallback {
    /// Servers, as `ldap://` or `ldaps://` URLs apart by spaces.
    pub uri: Option<String>,
    /// Where entries of people are.
    pub base: Option<String>,
    /// Who searches.
    pub bind_dn: Option<String>,
    /// The searcher's password.
    pub bind_password: Option<Arc<Secret>>,
    /// The filter, with one `%s` for the login.
    pub filter: Option<String>,
    /// Whether a service may be configured to send passwords without TLS.
    pub plain_allowed: bool,
}

/// Without the password.
impl fmt::Debug for LdapFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdapFallback")
            .field("uri", &self.uri)
            .field("base", &self.base)
            .field("bind_dn", &self.bind_dn)
            .field("filter", &self.filter)
            .field("plain_allowed", &self.plain_allowed)
            .finish_non_exhaustive()
    }
}

/// The cluster of Kubernetes that this node is in, if it is, and what pods are told nowhere else.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// The account of hosts that ask for certificates, since those requests name none; without, it is
    /// the only one that has the service.
    pub account: Option<AccountName>,
    /// Where the cluster around this node is asked; none: where the service's variables say.
    pub api_url: Option<String>,
    /// The folder in which that cluster gives this node its token and the authorities.
    pub service_account: PathBuf,
    /// Longest wait for a command in a pod.
    pub exec_time_max: Duration,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            account: None,
            api_url: None,
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            exec_time_max: Duration::from_secs(5),
        }
    }
}

impl Kubernetes {
    /// What is wrong with it; nothing if it can be used.
    fn unfit(&self) -> Option<String> {
        let url = self.api_url.as_deref()?;
        let why = Target::parse(url).err()?;
        Some(format!("its API at {url:?}: {why}"))
    }
}

/// On nodes of which parts load balancers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// On the leader.
    pub leader: bool,
    /// On voters that do not lead.
    pub standby: bool,
    /// On followers.
    pub follower: bool,
}

impl Wanted {
    /// Everywhere.
    pub const ALL: Self = Self { leader: true, standby: true, follower: true };

    /// Whether on a node of this part.
    pub(crate) const fn contains(self, part: Part) -> bool {
        match part {
            Part::Leader => self.leader,
            Part::Standby | Part::Candidate => self.standby,
            Part::Follower => self.follower,
            // Never ready: that is said first.
            Part::Joining | Part::Stopped => true,
        }
    }
}

/// Passwords for users who are yet to come, by what the environment calls them: the identifier in
/// upper case, `_` for whatever is neither letter nor digit.
#[derive(Clone, Default)]
pub struct UserPasswords(Arc<Vec<(String, Secret)>>);

impl UserPasswords {
    /// Takes names and passwords.
    pub fn new(passwords: Vec<(String, Secret)>) -> Self {
        Self(Arc::new(passwords))
    }

    /// The password set for a user; nothing for any other role.
    pub(crate) fn of(&self, role: &RoleId) -> Option<Zeroizing<Vec<u8>>> {
        if self.0.is_empty() || role.kind() != Kind::User {
            return None;
        }
        let upper = role.identifier().to_uppercase();
        let name: String =
            upper.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let (_, password) = self.0.iter().find(|(known, _)| *known == name)?;
        Some(Zeroizing::new(password.expose_secret().to_vec()))
    }
}

/// Names only.
impl fmt::Debug for UserPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The Conjur release whose interface this door keeps.
pub const CONJUR_VERSION: &str = "1.24.0";
/// Longest life of an access token, in seconds.
pub const TOKEN_SECONDS_MAX: u32 = 5 * 3600;

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            version: format!("{CONJUR_VERSION}-{}", env!("CARGO_PKG_VERSION")),
            node_name: String::new(),
            authenticators: Vec::new(),
            trusted_proxies: Vec::new(),
            user_token_seconds: 480,
            host_token_seconds: 480,
            resource_list_limit_max: 1000,
            staleness_max: Duration::from_mins(5),
            staleness_degraded: Duration::from_secs(3),
            staleness_unwanted: None,
            request_time_max: Duration::from_secs(30),
            body_time_max: Duration::from_secs(10),
            index_wait_max: Duration::from_secs(5),
            body_bytes_max: 1 << 20,
            policy_bytes_max: 16 << 20,
            requests_in_flight_max: 4096,
            signing_parallel_max: cores,
            signing_queue_max: 2048,
            hashing_parallel_max: (cores / 2).max(1),
            hashing_queue_max: 64,
            failures_max: 50,
            failure_window: Duration::from_secs(10),
            outbound_networks: Vec::new(),
            outbound_time_max: Duration::from_secs(5),
            jwt_missing_issuer_ignored: false,
            clouds: Clouds::default(),
            ldap: LdapFallback::default(),
            kubernetes: Kubernetes::default(),
            host_factories_enabled: true,
            dynamic_secrets_enabled: false,
            seed_accounts: Vec::new(),
            metrics: true,
            health_ok_for: Wanted::ALL,
            forward_writes: false,
            policy_rules: Rules::default(),
            policy_wait_max: Duration::from_secs(5),
            ignored_changes_header: false,
            effective_policy_max: Bounds::default(),
            user_passwords: UserPasswords::default(),
        }
    }
}

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A token may not live that long.
    #[error("token life of {given} s is over the limit of {TOKEN_SECONDS_MAX} s")]
    TokenLife {
        /// What was asked for.
        given: u32,
    },
    /// No authenticator is called that.
    #[error("authenticators: {why}")]
    Authenticator {
        /// What is wrong with the name.
        why: String,
    },
    /// Clouds could not be asked.
    #[error("clouds: {why}")]
    Clouds {
        /// What is wrong.
        why: String,
    },
    /// The cluster around this node could not be asked.
    #[error("Kubernetes: {why}")]
    Kubernetes {
        /// What is wrong.
        why: String,
    },
    /// A bound that must be positive is zero.
    #[error("{name} must be positive")]
    Zero {
        /// Which.
        name: &'static str,
    },
    /// A password for a user to come is too weak to be one.
    #[error("the password set for {name} does not meet the complexity requirements")]
    WeakPassword {
        /// Whose.
        name: String,
    },
    /// More of a policy would be shown than can be.
    #[error("a policy in force is shown {given} deep or long at most, not over {allowed}")]
    EffectivePolicy {
        /// What was asked for.
        given: usize,
        /// What is possible.
        allowed: usize,
    },
    /// A follower would refuse before it warns.
    #[error("staleness_degraded {degraded:?} is over staleness_max {max:?}")]
    Staleness {
        /// When it warns.
        degraded: Duration,
        /// When it refuses.
        max: Duration,
    },
}

impl Settings {
    /// Checks every bound against the others.
    ///
    /// # Errors
    /// The first thing found wrong, with the numbers.
    pub fn check(&self) -> Result<(), SettingsError> {
        for given in [self.user_token_seconds, self.host_token_seconds] {
            if given > TOKEN_SECONDS_MAX {
                return Err(SettingsError::TokenLife { given });
            }
        }
        if let Some(why) = self.authenticators.iter().find_map(|name| misnamed(name)) {
            return Err(SettingsError::Authenticator { why });
        }
        if let Some(why) = self.clouds.unfit() {
            return Err(SettingsError::Clouds { why });
        }
        if let Some(why) = self.kubernetes.unfit() {
            return Err(SettingsError::Kubernetes { why });
        }
        let positive = [
            ("requests_in_flight_max", self.requests_in_flight_max),
            ("signing_parallel_max", self.signing_parallel_max),
            ("hashing_parallel_max", self.hashing_parallel_max),
            ("body_bytes_max", self.body_bytes_max),
            ("policy_bytes_max", self.policy_bytes_max),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(SettingsError::Zero { name });
            }
        }
        for (name, password) in self.user_passwords.0.iter() {
            let is_strong =
                std::str::from_utf8(password.expose_secret()).is_ok_and(is_strong_password);
            if !is_strong {
                return Err(SettingsError::WeakPassword { name: name.clone() });
            }
        }
        let (asked, most) = (self.effective_policy_max, Bounds::default());
        for (given, allowed) in [(asked.depth, most.depth), (asked.rows, most.rows)] {
            if given > allowed {
                return Err(SettingsError::EffectivePolicy { given, allowed });
            }
        }
        if self.staleness_degraded > self.staleness_max {
            return Err(SettingsError::Staleness {
                degraded: self.staleness_degraded,
                max: self.staleness_max,
            });
        }
        Ok(())
    }
}
