//! Policy text to events, in four steps: `tree` reads YAML into nodes with places, `parse` turns nodes
//! into typed statements, `resolve` turns statements into the rows that the text asks for, and
//! [`plan()`] compares those rows with the state and lists what has to change.
//!
//! Planning is pure and may be done at the door: a [`Plan`] names the revision it was made from, and
//! deciding refuses it when the account has moved on.

mod cidr;
pub mod effective;
mod error;
pub mod limits;
mod parse;
mod plan;
mod resolve;
mod scalar;
mod tree;

use std::collections::HashMap;

use ipnet::IpNet;

pub use crate::command::LoadMode;
use crate::event::Event;
use crate::id::{ResourceId, RoleId};
use crate::records::{Fingerprint, NewApiKey, Revision, Sealed, Version};
pub use error::{Code, InvalidObject, ParseRejection, Place, PolicyError, ResolveRejection};
pub use plan::plan;

/// A wish to load one policy text.
#[derive(Debug, Clone, Copy)]
pub struct LoadRequest<'a> {
    /// The policy to load into: ids of the text are below it, rows are marked with it.
    pub policy: &'a ResourceId,
    /// How to treat what is there already.
    pub mode: LoadMode,
    /// The text as sent.
    pub text: &'a str,
    /// Who asks. What a load changes does not depend on it; deciding checks what it may.
    pub actor: &'a RoleId,
}

/// What a load would change.
#[derive(Debug, Clone, PartialEq, Eq)]
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
