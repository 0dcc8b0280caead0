//! Interned ids: each id in use has one slot, found by a 32-bit handle, and rows refer to each other
//! by handle. A slot lives as long as some row refers to it.
//!
//! Handles depend on the order in which rows arrived, so nothing that leaves the state is ever
//! ordered by them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::id::{AccountName, Id};
use crate::records::{Annotation, Credential, PolicyVersion, Resource, Role, Secret};

/// Names a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Handle(NonZeroU32);

impl Handle {
    fn at(position: usize) -> Self {
        #[expect(clippy::expect_used, reason = "four billion ids do not fit into memory")]
        let number = u32::try_from(position + 1).ok().and_then(NonZeroU32::new).expect("few ids");
        Self(number)
    }

    fn position(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// All that is known about one id. Boxes keep the slot of a plain variable small.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The id itself; its texts are shared with every record that names it.
    pub(crate) id: Id,
    /// How many references rows hold to this slot.
    uses: u32,
    /// The resource's owner; set exactly when `resource` is.
    pub(crate) owner: Option<Handle>,
    pub(crate) role: Option<Box<Role>>,
    pub(crate) resource: Option<Box<Resource>>,
    /// Permission rows on this resource.
    pub(crate) grants: Vec<Grant>,
    /// By name, sorted.
    pub(crate) annotations: Vec<(Box<str>, Annotation)>,
    pub(crate) secret: Option<Box<Secret>>,
    pub(crate) as_role: Option<Box<AsRole>>,
    pub(crate) as_policy: Option<Box<AsPolicy>>,
}

/// One permission row of a resource.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) role: Handle,
    pub(crate) policy: Option<Handle>,
    pub(crate) privilege: Arc<str>,
}

/// What a membership row says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) admin_option: bool,
    pub(crate) policy: Option<Handle>,
}

/// What is known about an id as a role.
#[derive(Debug, Default)]
pub(crate) struct AsRole {
    /// Membership rows whose role this is, by member and ownership.
    pub(crate) members: BTreeMap<(Handle, bool), Link>,
    /// Membership rows whose member this is, by role and ownership.
    pub(crate) memberships: BTreeSet<(Handle, bool)>,
    /// Resources that it owns.
    pub(crate) owned: BTreeSet<Handle>,
    /// Resources that it has a permission row on.
    pub(crate) granted: BTreeSet<Handle>,
    /// Policy versions that it loaded.
    pub(crate) loaded: BTreeSet<(Handle, u32)>,
    pub(crate) credential: Option<Credential>,
}

impl AsRole {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
            && self.memberships.is_empty()
            && self.owned.is_empty()
            && self.granted.is_empty()
            && self.loaded.is_empty()
            && self.credential.is_none()
    }
}

/// What is known about an id as a policy: its texts, and the rows that loads into it declared.
#[derive(Debug, Default)]
pub(crate) struct AsPolicy {
    pub(crate) versions: BTreeMap<u32, PolicyVersion>,
    pub(crate) roles: BTreeSet<Handle>,
    pub(crate) resources: BTreeSet<Handle>,
    /// Role, member, ownership.
    pub(crate) memberships: BTreeSet<(Handle, Handle, bool)>,
    /// Resource, role, privilege.
    pub(crate) permissions: BTreeSet<(Handle, Handle, Arc<str>)>,
    /// Resource, name.
    pub(crate) annotations: BTreeSet<(Handle, Box<str>)>,
}

impl AsPolicy {
    fn is_empty(&self) -> bool {
        self.versions.is_empty()
            && self.roles.is_empty()
            && self.resources.is_empty()
            && self.memberships.is_empty()
            && self.permissions.is_empty()
            && self.annotations.is_empty()
    }
}

impl Slot {
    fn new(id: Id) -> Self {
        Self {
            id,
            uses: 0,
            owner: None,
            role: None,
            resource: None,
            grants: Vec::new(),
            annotations: Vec::new(),
            secret: None,
            as_role: None,
            as_policy: None,
        }
    }

    /// Roles that this one holds directly.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = Handle> {
        self.as_role.iter().flat_map(|side| side.memberships.iter().map(|(role, _)| *role))
    }

    /// Roles that hold this one directly.
    pub(crate) fn members(&self) -> impl Iterator<Item = Handle> {
        self.as_role.iter().flat_map(|side| side.members.keys().map(|(member, _)| *member))
    }

    /// Its side as a role, made on first touch.
    pub(crate) fn role_side(&mut self) -> &mut AsRole {
        self.as_role.get_or_insert_default()
    }

    /// Its side as a policy, made on first touch.
    pub(crate) fn policy_side(&mut self) -> &mut AsPolicy {
        self.as_policy.get_or_insert_default()
    }

    /// Drops a side that has become empty.
    fn trim(&mut self) {
        self.as_role.take_if(|side| side.is_empty());
        self.as_policy.take_if(|side| side.is_empty());
    }
}

/// The slots, and the way from an id to its handle.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    all: Vec<Slot>,
    free: Vec<Handle>,
    /// By the hash of the slot's id. It holds no ids of its own: four bytes a slot stay in the
    /// processor's caches for longer than forty, and the slot is needed next in any case.
    by_id: HashTable<Handle>,
    hasher: RandomState,
    /// One text per account name, shared by all its ids; counted in ids.
    accounts: BTreeMap<AccountName, usize>,
}

impl Slots {
    /// The handle of an id that some row refers to.
    pub(crate) fn find(&self, id: &Id) -> Option<Handle> {
        let is_it = |handle: &Handle| self[*handle].id == *id;
        self.by_id.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// The slot of an id that some row refers to.
    pub(crate) fn slot(&self, id: &Id) -> Option<&Slot> {
        self.find(id).map(|handle| &self[handle])
    }

    /// Every slot in use, in no telling order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.all.iter().filter(|slot| slot.uses > 0)
    }

    /// Adds a reference to an id, with a slot if it has none yet.
    pub(crate) fn acquire(&mut self, id: &Id) -> Handle {
        let handle = self.find(id).unwrap_or_else(|| self.open(id));
        self[handle].uses += 1;
        handle
    }

    /// Gives a reference back; the last one frees the slot.
    pub(crate) fn release(&mut self, handle: Handle) {
        let slot = &mut self[handle];
        slot.trim();
        slot.uses -= 1;
        if slot.uses == 0 {
            let id = slot.id.clone();
            let hash = self.hasher.hash_one(&id);
            if let Ok(entry) = self.by_id.find_entry(hash, |other| *other == handle) {
                entry.remove();
            }
            self.free.push(handle);
            if let Some(ids) = self.accounts.get_mut(id.account()) {
                *ids -= 1;
                if *ids == 0 {
                    self.accounts.remove(id.account());
                }
            }
        }
    }

    fn open(&mut self, id: &Id) -> Handle {
        let account = match self.accounts.get_key_value(id.account()) {
            Some((shared, _)) => shared.clone(),
            None => id.account().clone(),
        };
        *self.accounts.entry(account.clone()).or_default() += 1;
        let id = id.sharing(account);
        let hash = self.hasher.hash_one(&id);
        let slot = Slot::new(id);
        let handle = if let Some(handle) = self.free.pop() {
            self[handle] = slot;
            handle
        } else {
            self.all.push(slot);
            Handle::at(self.all.len() - 1)
        };
        let (all, hasher) = (&self.all, &self.hasher);
        let rehash = |other: &Handle| hasher.hash_one(&all[other.position()].id);
        self.by_id.insert_unique(hash, handle, rehash);
        handle
    }
}

impl Index<Handle> for Slots {
    type Output = Slot;
    fn index(&self, handle: Handle) -> &Slot {
        &self.all[handle.position()]
    }
}

impl IndexMut<Handle> for Slots {
    fn index_mut(&mut self, handle: Handle) -> &mut Slot {
        &mut self.all[handle.position()]
    }
}
