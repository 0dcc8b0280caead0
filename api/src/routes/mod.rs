//! What each route does: a folder for each resource, a file for each verb. The table that leads here
//! is in [`crate::router`].

pub(crate) mod accounts;
pub(crate) mod audit;
pub(crate) mod authn;
pub(crate) mod host_factories;
pub(crate) mod issuers;
pub(crate) mod ldap_sync;
pub(crate) mod policies;
pub(crate) mod public_keys;
pub(crate) mod resources;
pub(crate) mod roles;
pub(crate) mod secrets;
pub(crate) mod seeds;
pub(crate) mod status;
pub(crate) mod v2;
