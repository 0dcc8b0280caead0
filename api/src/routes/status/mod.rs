//! What this server is and how it is: `/`, `/health`, `/info`, `/metrics`, `/openapi.json`,
//! `/authenticators`, `/whoami`. Nothing here names members, addresses or secrets to strangers.

pub(crate) mod authenticators;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod metrics;
pub(crate) mod openapi;
pub(crate) mod root;
pub(crate) mod whoami;
