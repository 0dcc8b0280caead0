//! The door, tried from outside: a router over the real rules and the real state store, in memory,
//! with agreement played by one thread.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod audit;
mod azure;
mod cert;
mod compatibility;
mod examples;
mod fuzz;
mod gcp;
mod harness;
mod host_factories;
mod iam;
mod issuer;
mod jwt;
mod k8s;
mod kubernetes;
mod ldap;
mod ldap_entries;
mod ldap_keys;
mod ldap_sync;
mod load;
mod matrix;
mod negative;
mod oidc;
mod oidc_code;
mod openapi;
#[path = "../../../node/tests/support/package.rs"]
mod package;
mod policies;
mod properties;
mod refusals;
mod scenario;
mod seeds;
mod server;
mod sts;
mod token_review;
mod tokens;
mod values;
mod walk;
