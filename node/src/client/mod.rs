//! The client side of the command line: the verbs that Conjur users know, over the public API.
//! Settings come from the environment and `.conjurrc` ([`settings`]), credentials from the
//! environment and `.netrc` ([`netrc`]); [`api`] speaks HTTPS.

pub mod api;
mod authenticators;
mod browser;
mod credentials;
mod device;
mod host_factories;
mod ids;
mod import;
pub(crate) mod input;
mod ldap_sync;
mod login;
pub mod netrc;
mod policies;
mod resources;
mod roles;
mod session;
pub mod settings;
mod variables;

pub use authenticators::{AuthenticatorArgs, AuthenticatorCommand, authenticator};
pub use credentials::{ChangePasswordArgs, HostCommand, RotateArgs, UserCommand, host, user};
pub use host_factories::{
    HostCreateArgs, HostfactoryCommand, HostsCommand, TokenArg, TokenCreateArgs, TokenRevokeArgs,
    TokensCommand, hostfactory,
};
pub use import::{ImportArgs, import};
pub use ldap_sync::{
    LdapSyncApplyArgs, LdapSyncArgs, LdapSyncCommand, LdapSyncShowArgs, ldap_sync,
};
pub use login::{AuthenticateArgs, InitArgs, LoginArgs, authenticate, init, login, logout, whoami};
pub use policies::{PolicyCommand, PolicyLoadArgs, PolicyShowArgs, policy};
pub use resources::{
    CheckArgs, ExistsArgs, IdArg, ListArgs, PermittedRolesArgs, PubkeysCommand, ResourceCommand,
    VerdictArgs, check, list, pubkeys, resource,
};
pub use roles::{GrantsArgs, MembershipsArgs, RoleCommand, role};
pub use variables::{VariableCommand, VariableGetArgs, VariableSetArgs, variable};
