//! A part of the state that says of a few ids what the whole does, for looking ahead without a copy of
//! everything.

use std::collections::{BTreeSet, HashSet};

use super::{Handle, State};
use crate::effect::{Effect, Row};
use crate::id::Id;

impl State {
    /// The rows that speak of `ids`, secrets and policy texts aside, and those that tell whether
    /// whatever these rows name is visible to one of them. [`State::from_rows`] makes a state of
    /// them. What it takes grows with what is said of `ids`, not with the state.
    pub fn rows_about(&self, ids: &BTreeSet<Id>) -> Vec<Row> {
        let accounts = self.accounts.iter();
        let mut rows: Vec<Row> =
            accounts.map(|(name, account)| Row::Account(name.clone(), account.clone())).collect();
        let known: HashSet<Handle> = ids.iter().filter_map(|id| self.slots.find(id)).collect();
        let mut named: HashSet<Handle> = HashSet::new();
        let mut held: HashSet<Handle> = HashSet::new();
        for handle in &known {
            let slot = &self.slots[*handle];
            let id = &slot.id;
            rows.extend(slot.annotations.iter().map(|(name, annotation)| {
                Row::Annotation(id.clone(), name.to_string(), annotation.clone())
            }));
            named.extend(slot.owner);
            named.extend(slot.grants.iter().map(|grant| grant.role));
            let Some(side) = &slot.as_role else { continue };
            rows.extend(side.credential.clone().map(|one| Row::Credential(id.clone(), one)));
            let members = self.members(id).into_iter();
            rows.extend(members.map(|(key, row)| Row::Membership(key, row)));
            let permissions = self.permissions_of(id).into_iter();
            rows.extend(permissions.map(|(key, row)| Row::Permission(key, row)));
            named.extend(side.members.keys().map(|(member, _)| *member));
            named.extend(side.granted.iter());
            held.extend(self.closure_of(*handle).iter());
        }
        // Who is held by whom decides what is seen, so every chain upwards is there whole.
        for handle in &held {
            let memberships = self.memberships(&self.slots[*handle].id).into_iter();
            rows.extend(memberships.map(|(key, row)| Row::Membership(key, row)));
        }
        named.extend(held);
        named.extend(known);
        for handle in named {
            let slot = &self.slots[handle];
            rows.extend(slot.role.iter().map(|one| Row::Role(slot.id.clone(), (**one).clone())));
            let resource = slot.resource.iter();
            rows.extend(resource.map(|one| Row::Resource(slot.id.clone(), (**one).clone())));
            rows.extend(slot.grants.iter().map(|grant| {
                let (key, record) = self.permission_row(slot, grant);
                Row::Permission(key, record)
            }));
        }
        rows
    }

    /// A state of these rows and no others.
    pub fn from_rows(rows: Vec<Row>) -> Self {
        let mut state = Self::new();
        for row in rows {
            state.apply(&Effect::put(row));
        }
        state
    }
}
