//! The roles that a role holds, remembered until the membership graph moves under them.
//!
//! A remembered closure names the point in the graph's history at which it was right. When it is
//! asked for again, the few moves made since are looked at: those that began at a role outside the
//! closure cannot have touched it. So creating a host costs its own policy's owners a fresh walk and
//! nobody else anything.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use super::slots::{Handle, Slots};

/// How many moves of the graph are looked back at; older closures are walked afresh.
const MOVES_KEPT: usize = 1024;
/// How many handles all remembered closures may hold together: 32 MiB.
const HANDLES_KEPT: usize = 8 << 20;

/// A role and every role it holds; shared, with nothing between the pointer and the roles.
#[derive(Debug, Clone)]
pub(crate) struct Closure {
    /// Sorted, for search.
    roles: Arc<[Handle]>,
}

impl Closure {
    /// Whether the role is among them.
    pub(crate) fn contains(&self, role: Handle) -> bool {
        self.roles.binary_search(&role).is_ok()
    }

    /// All of them, in no telling order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Handle> {
        self.roles.iter().copied()
    }

    fn walk(slots: &Slots, role: Handle) -> Self {
        let mut seen = HashSet::from([role]);
        let mut pending = vec![role];
        while let Some(next) = pending.pop() {
            for held in slots[next].memberships() {
                if seen.insert(held) {
                    pending.push(held);
                }
            }
        }
        let mut roles: Vec<Handle> = seen.into_iter().collect();
        roles.sort_unstable();
        Self { roles: roles.into() }
    }
}

#[derive(Debug)]
struct Remembered {
    /// How many moves the graph had made when this was last known to be right.
    as_of: u64,
    closure: Closure,
}

#[derive(Debug, Default)]
struct Memo {
    by_role: HashMap<Handle, Remembered>,
    /// The handles in all of them, to bound memory.
    handles: usize,
}

/// The remembered closures and the graph's recent history.
#[derive(Debug, Default)]
pub(crate) struct Closures {
    memo: RwLock<Memo>,
    /// How many membership rows have ever come or gone.
    moves: u64,
    /// The members of the last rows that came or went, the newest last.
    recent: VecDeque<Handle>,
}

impl Closures {
    /// Takes note that a membership row of this member came or went.
    pub(crate) fn moved(&mut self, member: Handle) {
        self.moves += 1;
        if self.recent.len() == MOVES_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(member);
    }

    /// The closure of a role.
    pub(crate) fn of(&self, slots: &Slots, role: Handle) -> Closure {
        let remembered = {
            let memo = self.memo.read().unwrap_or_else(PoisonError::into_inner);
            memo.by_role.get(&role).map(|known| (known.as_of, known.closure.clone()))
        };
        let closure = match remembered {
            Some((as_of, closure)) if as_of == self.moves => return closure,
            Some((as_of, closure)) if self.untouched_since(as_of, &closure) => closure,
            _ => Closure::walk(slots, role),
        };
        self.remember(role, &closure);
        closure
    }

    /// Whether every move since then began outside the closure, and so left it as it was.
    fn untouched_since(&self, as_of: u64, closure: &Closure) -> bool {
        usize::try_from(self.moves - as_of).is_ok_and(|moves| {
            moves <= self.recent.len()
                && !self.recent.iter().rev().take(moves).any(|member| closure.contains(*member))
        })
    }

    fn remember(&self, role: Handle, closure: &Closure) {
        let mut memo = self.memo.write().unwrap_or_else(PoisonError::into_inner);
        if memo.handles + closure.roles.len() > HANDLES_KEPT {
            *memo = Memo::default();
        }
        memo.handles += closure.roles.len();
        let known = Remembered { as_of: self.moves, closure: closure.clone() };
        if let Some(before) = memo.by_role.insert(role, known) {
            memo.handles -= before.closure.roles.len();
        }
    }
}
