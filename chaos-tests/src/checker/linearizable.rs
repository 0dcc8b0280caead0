//! I1, second opinion: is there *any* order of the operations on one secret that explains what
//! clients saw and keeps to real time?
//!
//! Source: `fault-model` G2 and I1. The search is that of Wing and Gong ("Testing and verifying
//! concurrent objects", 1993) with Lowe's memo of configurations seen ("Testing for
//! linearizability", 2017): operations are linearized one at a time in an order consistent with
//! real time, and a pair (set of linearized operations, state) is never explored twice.
//!
//! It knows no version list. It is iterative, so that a long history cannot overflow the stack, and
//! bounded in steps: a history that exhausts the bound is [`Linearizability::Undecided`].
//!
//! A secret is a list of versions. Reads may ask for the last of them or for one by its number.
//! Writes of unknown fate may take effect at any time after they were sent, or never. Three facts
//! keep those from blowing up the search, and none of them loses a solution: a version number that
//! some answer told pins its value; a value that was read was written before that read returned;
//! and *silent* writes, unknown and never read, differ in nothing but the time they were sent, so
//! only the earliest of those left needs to be tried.

use std::collections::{HashMap, HashSet};

use crate::history::{Call, NEVER, Operation, Outcome, Value};

/// Steps after which a search gives up. A history of 2,000 operations needs a few thousand.
pub const STEPS_MAX: u64 = 1_000_000;

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linearizability {
    /// An order exists.
    Yes,
    /// No order exists.
    No,
    /// The bound was reached before either was shown.
    Undecided,
}

/// Searches for an order of the operations on one secret, within [`STEPS_MAX`] steps.
pub fn check(operations: &[Operation]) -> Linearizability {
    check_within(operations, STEPS_MAX)
}

/// Searches for an order of the operations on one secret, within so many steps.
pub fn check_within(operations: &[Operation], steps_max: u64) -> Linearizability {
    let operations: Vec<&Operation> = operations.iter().filter(|op| op.counts()).collect();
    let Some(mut search) = Search::new(&operations) else { return Linearizability::No };
    search.run(steps_max)
}

/// The number shared by all values that no answer tells apart.
const UNSEEN: u32 = u32::MAX;

/// What an operation does to the model, with values as small numbers.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write { value: u32, version: Option<u32> },
    Latest(Option<u32>),
    Version { number: u32, value: Option<u32> },
}

/// A list of versions, interned: states are equal exactly when their numbers are.
struct States {
    /// Of each state: its parent, its newest value, its length.
    nodes: Vec<(u32, u32, u32)>,
    children: HashMap<(u32, u32), u32>,
}

/// The state without versions.
const EMPTY: u32 = 0;

impl States {
    fn new() -> Self {
        Self { nodes: vec![(EMPTY, u32::MAX, 0)], children: HashMap::new() }
    }

    fn length(&self, state: u32) -> u32 {
        self.nodes[state as usize].2
    }

    fn latest(&self, state: u32) -> Option<u32> {
        let (_, value, length) = self.nodes[state as usize];
        (length > 0).then_some(value)
    }

    fn version(&self, mut state: u32, number: u32) -> Option<u32> {
        if number == 0 || number > self.length(state) {
            return None;
        }
        while self.length(state) > number {
            state = self.nodes[state as usize].0;
        }
        self.latest(state)
    }

    fn push(&mut self, state: u32, value: u32) -> u32 {
        let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let length = self.length(state) + 1;
        *self.children.entry((state, value)).or_insert_with(|| {
            self.nodes.push((state, value, length));
            next
        })
    }
}

/// A call or a return in the list of events, linked both ways so that an operation can be lifted
/// out and put back in constant time.
#[derive(Debug, Clone, Copy)]
struct Link {
    operation: usize,
    is_call: bool,
    time: u64,
    previous: usize,
    next: usize,
}

struct Search {
    steps: Vec<Step>,
    /// Position in `links` of each operation's return.
    returns: Vec<usize>,
    /// Link 0 is the head, the last link is the tail. Holds all operations but the silent ones.
    links: Vec<Link>,
    /// The silent writes and when they were sent, in that order.
    silent: Vec<(u64, usize)>,
    states: States,
    /// Version number of each value that some answer told: a write of it fits nowhere else.
    pinned: HashMap<u32, u32>,
    /// The same the other way round.
    holder: HashMap<u32, u32>,
    /// Operations in `links` that are not linearized yet.
    open: usize,
}

impl Search {
    /// None when two answers contradict each other, so that no order can exist.
    fn new(operations: &[&Operation]) -> Option<Self> {
        // When each value that was read had been written at the latest, and its number.
        let mut read: HashMap<&Value, (u64, u32)> = HashMap::new();
        for operation in operations {
            if let Outcome::Read(Some(value)) = &operation.outcome {
                let next = u32::try_from(read.len()).unwrap_or(UNSEEN);
                let seen = read.entry(value).or_insert((NEVER, next));
                seen.0 = seen.0.min(operation.returned);
            }
        }
        let mut unread = u32::try_from(read.len()).unwrap_or(UNSEEN);
        let mut steps = Vec::with_capacity(operations.len());
        for operation in operations {
            let number = |value: &Value| read.get(value).map_or(UNSEEN, |seen| seen.1);
            steps.push(match (&operation.call, &operation.outcome) {
                (Call::Write(value), Outcome::Written(version @ Some(_))) => {
                    // A told version makes even an unread value one of its own.
                    let value = read.get(value).map_or_else(
                        || {
                            unread += 1;
                            unread - 1
                        },
                        |seen| seen.1,
                    );
                    Step::Write { value, version: *version }
                }
                (Call::Write(value), _) => Step::Write { value: number(value), version: None },
                (Call::ReadLatest, Outcome::Read(value)) => {
                    Step::Latest(value.as_ref().map(number))
                }
                (Call::ReadVersion(version), Outcome::Read(value)) => {
                    Step::Version { number: *version, value: value.as_ref().map(number) }
                }
                (Call::ReadLatest | Call::ReadVersion(_), _) => return None,
            });
        }

        let (mut pinned, mut holder) = (HashMap::new(), HashMap::new());
        for step in &steps {
            let pin = match *step {
                Step::Write { value, version: Some(version) } => Some((value, version)),
                Step::Version { number, value: Some(value) } => Some((value, number)),
                Step::Write { .. } | Step::Latest(_) | Step::Version { .. } => None,
            };
            let Some((value, version)) = pin else { continue };
            if *pinned.entry(value).or_insert(version) != version
                || *holder.entry(version).or_insert(value) != value
            {
                return None;
            }
        }

        // At equal times calls come before returns: such operations count as concurrent.
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * operations.len());
        let mut silent = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            let returned = match &operation.call {
                Call::Write(value) => {
                    operation.returned.min(read.get(value).map_or(NEVER, |seen| seen.0))
                }
                Call::ReadLatest | Call::ReadVersion(_) => operation.returned,
            };
            if returned == NEVER {
                silent.push((operation.invoked, at));
            } else if returned < operation.invoked {
                return None;
            } else {
                events.push((operation.invoked, false, at));
                events.push((returned, true, at));
            }
        }
        events.sort_unstable();
        silent.sort_unstable();
        let open = events.len() / 2;

        let end = |is_call, time, previous, next| Link {
            operation: usize::MAX,
            is_call,
            time,
            previous,
            next,
        };
        let mut returns = vec![0; operations.len()];
        let mut links = vec![end(true, 0, 0, 1)];
        for (time, is_return, operation) in events {
            let here = links.len();
            if is_return {
                returns[operation] = here;
            }
            let (is_call, previous, next) = (!is_return, here - 1, here + 1);
            links.push(Link { operation, is_call, time, previous, next });
        }
        let tail = links.len();
        links.push(end(false, NEVER, tail - 1, tail));
        let states = States::new();
        Some(Self { steps, returns, links, silent, states, pinned, holder, open })
    }

    fn run(&mut self, steps_max: u64) -> Linearizability {
        let mut linearized = vec![0_u64; self.steps.len().div_ceil(64)];
        let mut seen: HashSet<(Box<[u64]>, u32)> = HashSet::new();
        // What was linearized so far: its call's link, or none for a silent write; the state before.
        let mut stack: Vec<(Option<usize>, u32)> = Vec::new();
        let mut state = EMPTY;
        let mut silent_used = 0;
        let mut at = self.links[0].next;
        let mut steps = 0;
        while self.open > 0 {
            steps += 1;
            if steps > steps_max {
                return Linearizability::Undecided;
            }
            let link = self.links[at];
            // At a return, the silent writes sent before it are what is left to try.
            let operation = if link.is_call {
                Some(link.operation)
            } else {
                let next = self.silent.get(silent_used).filter(|(sent, _)| *sent <= link.time);
                next.map(|(_, operation)| *operation)
            };
            if let Some(operation) = operation
                && let Some(after) = self.apply(state, operation)
            {
                flip(&mut linearized, operation);
                if seen.insert((linearized.clone().into_boxed_slice(), after)) {
                    stack.push((link.is_call.then_some(at), state));
                    state = after;
                    if link.is_call {
                        self.lift(at);
                    } else {
                        silent_used += 1;
                    }
                    at = self.links[0].next;
                    continue;
                }
                flip(&mut linearized, operation);
            }
            if link.is_call {
                at = link.next;
                continue;
            }
            // This branch is dead: undo up to the last choice that has alternatives left.
            loop {
                let Some((call, before)) = stack.pop() else { return Linearizability::No };
                state = before;
                if let Some(call) = call {
                    let operation = self.links[call].operation;
                    flip(&mut linearized, operation);
                    self.put_back(call);
                    // A read that fits changes nothing and binds nothing: not taking it is no
                    // alternative worth trying.
                    if matches!(self.steps[operation], Step::Write { .. }) {
                        at = self.links[call].next;
                        break;
                    }
                } else {
                    silent_used -= 1;
                    flip(&mut linearized, self.silent[silent_used].1);
                }
            }
        }
        Linearizability::Yes
    }

    /// The state after an operation, where the operation fits.
    fn apply(&mut self, state: u32, operation: usize) -> Option<u32> {
        match self.steps[operation] {
            Step::Write { value, .. } => {
                let version = self.states.length(state) + 1;
                // Invariant: UNSEEN is never pinned, so that unseen values fit where nobody is known.
                let fits = self.pinned.get(&value).is_none_or(|pin| *pin == version)
                    && self.holder.get(&version).is_none_or(|holder| *holder == value);
                fits.then(|| self.states.push(state, value))
            }
            Step::Latest(value) => (self.states.latest(state) == value).then_some(state),
            Step::Version { number, value } => {
                (self.states.version(state, number) == value).then_some(state)
            }
        }
    }

    /// Takes a call and its return out of the list.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        self.unlink(self.returns[self.links[call].operation]);
        self.open -= 1;
    }

    /// Undoes [`Self::lift`]; calls are put back in the opposite order.
    fn put_back(&mut self, call: usize) {
        self.relink(self.returns[self.links[call].operation]);
        self.relink(call);
        self.open += 1;
    }

    fn unlink(&mut self, at: usize) {
        let Link { previous, next, .. } = self.links[at];
        self.links[previous].next = next;
        self.links[next].previous = previous;
    }

    fn relink(&mut self, at: usize) {
        let Link { previous, next, .. } = self.links[at];
        self.links[previous].next = at;
        self.links[next].previous = at;
    }
}

fn flip(set: &mut [u64], member: usize) {
    set[member / 64] ^= 1 << (member % 64);
}

#[cfg(test)]
mod tests {
    use super::{Linearizability, check, check_within};
    use crate::history::build::{r, rv, u, w, wv};
    use crate::history::{Call, NEVER, Operation, Outcome, Promise};
    use crate::rng::Rng;

    fn accepts(operations: &[Operation]) {
        assert_eq!(check(operations), Linearizability::Yes, "{operations:#?}");
    }

    fn refuses(operations: &[Operation]) {
        assert_eq!(check(operations), Linearizability::No, "{operations:#?}");
    }

    #[test]
    fn good_histories_are_accepted() {
        accepts(&[]);
        accepts(&[r(1, 2, ""), w(3, 4, "a"), r(5, 6, "a"), rv(5, 6, 1, "a"), rv(5, 6, 2, "")]);
        // Concurrent writes in either order.
        accepts(&[w(1, 9, "a"), w(2, 8, "b"), r(10, 11, "a")]);
        accepts(&[w(1, 9, "a"), w(2, 8, "b"), r(10, 11, "b")]);
        // A read during a write sees old or new.
        accepts(&[w(1, 2, "a"), w(3, 9, "b"), r(4, 5, "a"), r(6, 7, "b")]);
        // An unknown write shows late, or never.
        accepts(&[u(1, "x"), w(2, 3, "a"), r(4, 5, "a"), r(6, 7, "x")]);
        accepts(&[u(1, "x"), w(2, 3, "a"), r(4, 5, "a")]);
        accepts(&[wv(1, 9, "a", 2), wv(2, 8, "b", 1)]);
    }

    #[test]
    fn a_stale_read_is_refused() {
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), r(5, 6, "a")]);
        refuses(&[w(1, 2, "a"), r(3, 4, "")]);
        refuses(&[w(1, 2, "a"), rv(3, 4, 1, "")]);
        // New then old, though both reads are within the write.
        refuses(&[w(1, 2, "a"), w(3, 20, "b"), r(5, 6, "b"), r(7, 8, "a")]);
    }

    #[test]
    fn a_lost_write_is_refused() {
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), r(5, 6, "b"), rv(7, 8, 1, "b")]);
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), w(5, 6, "c"), rv(7, 8, 2, "c")]);
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), rv(7, 8, 2, "")]);
    }

    #[test]
    fn a_reused_version_is_refused() {
        refuses(&[w(1, 2, "a"), rv(3, 4, 1, "a"), w(5, 6, "b"), rv(7, 8, 1, "b")]);
        refuses(&[wv(1, 2, "a", 1), wv(3, 4, "b", 1)]);
        refuses(&[wv(1, 2, "a", 1), wv(3, 4, "b", 3)]);
    }

    #[test]
    fn a_phantom_is_refused() {
        refuses(&[w(1, 2, "a"), r(3, 4, "ghost")]);
        refuses(&[r(1, 2, "later"), w(3, 4, "later")]);
    }

    #[test]
    fn writes_out_of_real_time_order_are_refused() {
        refuses(&[w(1, 2, "a"), w(3, 4, "b"), rv(5, 6, 1, "b"), rv(5, 6, 2, "a")]);
        // An unknown write may come late but not before it was sent.
        refuses(&[w(1, 2, "a"), u(3, "x"), w(5, 6, "b"), rv(7, 8, 1, "x")]);
    }

    #[test]
    fn a_search_beyond_its_bound_is_undecided() {
        let operations: Vec<_> = (0..20).map(|n| w(1, 100, &n.to_string())).collect();
        assert_eq!(check_within(&operations, 3), Linearizability::Undecided);
    }

    #[test]
    fn a_long_history_is_decided_within_the_bound() {
        // 2,000 operations: bursts of eight concurrent writes, some of unknown fate, and reads.
        let mut operations = Vec::new();
        let mut versions: Vec<String> = Vec::new();
        for burst in 0..200_u64 {
            let start = burst * 100;
            for n in 0..5 {
                let value = format!("{burst}-{n}");
                operations.push(w(start + n, start + 60 - n, &value));
                versions.push(value);
            }
            operations.push(u(start, &format!("{burst}-lost")));
            for n in 0..4 {
                let latest = versions.last().expect("a burst has just been written");
                operations.push(r(start + 70 + n, start + 80, latest));
            }
        }
        assert_eq!(operations.len(), 2000);
        accepts(&operations);
        // And with the scan of all versions at the end.
        for (at, value) in versions.iter().enumerate() {
            let version = u32::try_from(at + 1).expect("a thousand versions");
            operations.push(rv(1_000_000, 1_000_001, version, value));
        }
        accepts(&operations);
        operations.push(r(1_000_002, 1_000_003, &versions[500]));
        refuses(&operations);
    }

    /// Tries every order of every subset that holds all finished operations.
    fn brute_force(operations: &[Operation], done: u32, versions: &mut Vec<String>) -> bool {
        let finished = |at: usize| operations[at].returned != NEVER;
        if (0..operations.len()).all(|at| done & (1 << at) != 0 || !finished(at)) {
            return true;
        }
        for at in 0..operations.len() {
            let operation = &operations[at];
            let is_minimal = (0..operations.len()).all(|other| {
                done & (1 << other) != 0 || operations[other].returned >= operation.invoked
            });
            if done & (1 << at) != 0 || !is_minimal {
                continue;
            }
            let none = None;
            match (&operation.call, &operation.outcome) {
                (Call::Write(value), outcome) => {
                    let told = match outcome {
                        Outcome::Written(Some(version)) => Some(*version as usize),
                        Outcome::Written(None)
                        | Outcome::Read(_)
                        | Outcome::Failed
                        | Outcome::Unknown => None,
                    };
                    versions.push(value.to_string());
                    if told.is_none_or(|told| told == versions.len())
                        && brute_force(operations, done | 1 << at, versions)
                    {
                        return true;
                    }
                    versions.pop();
                }
                (call, Outcome::Read(value)) => {
                    let found = match call {
                        Call::ReadVersion(number) => {
                            versions.get((*number as usize).wrapping_sub(1))
                        }
                        Call::Write(_) | Call::ReadLatest => versions.last(),
                    };
                    let wanted = value.as_ref().map(ToString::to_string);
                    if found.or(none) == wanted.as_ref()
                        && brute_force(operations, done | 1 << at, versions)
                    {
                        return true;
                    }
                }
                _ => unreachable!("only operations that count are generated"),
            }
        }
        false
    }

    #[test]
    fn agrees_with_brute_force_on_random_histories() {
        let (mut yes, mut no) = (0, 0);
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let count = rng.between(1, 6);
            let value = |n: u64| if n == 0 { None } else { Some(format!("v{n}").as_str().into()) };
            let operations: Vec<Operation> = (0..count)
                .map(|n| {
                    let invoked = rng.below(12);
                    let mut returned = invoked + rng.below(8);
                    let (call, outcome) = match rng.below(10) {
                        0..=2 => (
                            Call::Write(format!("v{}", n + 1).as_str().into()),
                            Outcome::Written(None),
                        ),
                        3 => {
                            let version = u32::try_from(rng.between(1, 3)).unwrap();
                            let value = format!("v{}", n + 1);
                            (Call::Write(value.as_str().into()), Outcome::Written(Some(version)))
                        }
                        4 => {
                            returned = NEVER;
                            (Call::Write(format!("v{}", n + 1).as_str().into()), Outcome::Unknown)
                        }
                        5..=7 => (Call::ReadLatest, Outcome::Read(value(rng.below(count + 1)))),
                        _ => {
                            let version = u32::try_from(rng.between(1, 3)).unwrap();
                            (Call::ReadVersion(version), Outcome::Read(value(rng.below(count + 1))))
                        }
                    };
                    let (secret, promise) = ("s".into(), Promise::Linearizable);
                    Operation { secret, node: 1, call, outcome, promise, invoked, returned }
                })
                .collect();
            let expected = brute_force(&operations, 0, &mut Vec::new());
            *(if expected { &mut yes } else { &mut no }) += 1;
            let found = check(&operations);
            let wanted = if expected { Linearizability::Yes } else { Linearizability::No };
            assert_eq!(found, wanted, "seed {seed}: {operations:#?}");
        }
        assert!(yes > 2_000 && no > 2_000, "both kinds are tried: {yes} good, {no} bad");
    }
}
