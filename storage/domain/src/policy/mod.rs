//! Policy text to events, in four steps: `tree` reads YAML into nodes with places, `parse` turns nodes
//! into typed statements, `resolve` turns statements into the rows that the text asks for, and
//! [`plan()`] compares those rows with the state and lists what has to change.
//!
//! Planning is pure and may be done at the door: a [`Plan`] names the revision it was made from, and
//! deciding refuses it when the account has moved on. Most of the work needs no state ([`prepare`]);
//! what does ([`Comparison`]) can be done in small pieces, so that nobody waits long for the state.

mod cidr;
pub mod dynamic;
pub mod effective;
mod error;
pub mod limits;
mod parse;
mod plan;
mod resolve;
mod scalar;
mod tree;

use std::collections::HashMap;

pub use cidr::parse as parse_range;
use ipnet::IpNet;

pub use crate::command::LoadMode;
use crate::event::Event;
use crate::id::{ResourceId, RoleId};
use crate::records::{Fingerprint, NewApiKey, Revision, Sealed, Version};
pub use error::{Code, InvalidObject, ParseRejection, Place, PolicyError, ResolveRejection};
pub use plan::{Comparison, Prepared, Step, owner_of_target, plan, prepare};

/// A wish to load one policy text.
#[derive(Debug, Clone, Copy)]
pub struct LoadRequest<'a> {
    /// The policy to load into: ids of the text are below it, rows are marked with it.
    pub policy: &'a ResourceId,
    /// How to treat what is there already.
    pub mode: LoadMode,
    /// The text as sent.
    pub text: &'a str,
    /// Who asks. What a load changes does not depend on it, only which issuers its dynamic secrets
    /// may name; deciding checks whether it may load at all.
    pub actor: &'a RoleId,
    /// What the operator allows.
    pub rules: Rules,
}

/// What the operator allows in policies, beyond what everybody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Users come to be at the top of the root policy only.
    pub users_in_root_only: bool,
    /// A host comes to be only when its annotation `authn/api-key` says `true`.
    pub hosts_ask_for_api_keys: bool,
    /// Variables below [`dynamic::BELOW`] get their values from issuers, and say from which.
    pub dynamic_secrets: bool,
}

/// What a load would change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The changes in order, without [`Event::PolicyLoaded`] and [`Event::CredentialCreated`].
    pub changes: Vec<Event>,
    /// The users and hosts that come to be and need an API key, in the order of `changes`, with the
    /// addresses they may authenticate from.
    pub credentials: Vec<(RoleId, Vec<IpNet>)>,
    /// Public keys named by the text: the resource (which exists once the plan is carried out) and
    /// the value that it should hold. Named again by each load: an equal value adds no version.
    pub public_keys: Vec<(ResourceId, String)>,
    /// The account's revision that the plan was made from.
    pub based_on: Revision,
    /// Remarks for the author of the text.
    pub warnings: Vec<String>,
    /// What the text says otherwise than it is and an append leaves alone.
    pub ignored: Vec<Ignored>,
}

/// A change that an append leaves alone without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// Another owner.
    Owner(ResourceId),
    /// Another value of an annotation.
    Annotation(ResourceId, String),
    /// Another admin option of a membership: the role and the member.
    AdminOption(RoleId, RoleId),
    /// Addresses of a role that another load declared.
    Restriction(RoleId),
}

impl std::fmt::Display for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Owner(id) => write!(f, "owner of {id}"),
            Self::Annotation(id, name) => write!(f, "annotation {name} of {id}"),
            Self::AdminOption(role, member) => write!(f, "admin option of {member} in {role}"),
            Self::Restriction(role) => write!(f, "restricted_to of {role}"),
        }
    }
}

impl Plan {
    /// As [`Plan::into_changes`], with an [`Event::SecretVersionAdded`] for each public key at the end.
    /// `seal` is asked once for each, in order. Deciding gives the versions their numbers, and leaves
    /// out those that change nothing.
    pub fn into_sealed_changes(
        mut self,
        keys: impl FnMut(&RoleId) -> NewApiKey,
        mut seal: impl FnMut(&ResourceId, &str) -> (Sealed, Fingerprint),
    ) -> Vec<Event> {
        let public_keys = std::mem::take(&mut self.public_keys);
        let mut changes = self.into_changes(keys);
        changes.extend(public_keys.into_iter().map(|(resource, value)| {
            let (sealed, fingerprint) = seal(&resource, &value);
            let (version, value) = (Version(1), Some(sealed));
            Event::SecretVersionAdded { resource, version, fingerprint, value }
        }));
        changes
    }

    /// The changes with an [`Event::CredentialCreated`] after the [`Event::RoleAdded`] of each role
    /// in `credentials`; `keys` is asked once for each of those, in order.
    pub fn into_changes(self, mut keys: impl FnMut(&RoleId) -> NewApiKey) -> Vec<Event> {
        let mut restrictions: HashMap<RoleId, Vec<IpNet>> = self.credentials.into_iter().collect();
        let mut changes = Vec::with_capacity(self.changes.len() + restrictions.len());
        for change in self.changes {
            let credential = if let Event::RoleAdded { role, .. } = &change {
                restrictions.remove(role).map(|restricted_to| Event::CredentialCreated {
                    role: role.clone(),
                    key: keys(role),
                    restricted_to,
                })
            } else {
                None
            };
            changes.push(change);
            changes.extend(credential);
        }
        changes
    }
}
