//! Simulated clients: they do what the door does for a request. Writes are commands with a request
//! id, proposed through any node and tried again under the same id where that is safe; reads take a
//! barrier on the node they ask. All is recorded.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use conclave_domain::command::{Actor, Command, Envelope, codec as command_codec};
use conclave_domain::id::{Id, ResourceId, RoleId};
use conclave_domain::outcome::{self, Outcome as Done};
use conclave_domain::records::{Fingerprint, RequestId, Sealed, Version};
use conclave_domain::time::Timestamp;
use conclave_raft::{NodeRole, ProposeError};
use conclave_storage::state::StateStore;
use tokio::time::{Instant, sleep};

use super::machine::{Machine, Running};
use super::trace::Trace;
use crate::history::{Call, History, NEVER, Operation, Outcome, Promise, Value};
use crate::rng::Rng;
use crate::workload::WRITES_PER_SECRET;

/// How often a write is tried under one request id.
const TRIES_MAX: u64 = 3;
/// How many writes a healed cluster may refuse before it counts as broken.
const PROOF_TRIES_MAX: u64 = 5;
/// How often a follower is asked when it has started, and the time between.
const FIRST_WORDS: u64 = 40;
const FIRST_WORDS_EVERY: Duration = Duration::from_millis(3);
/// How many secrets, the last ones that were written, most reads are about.
const RECENT: usize = 5;
/// The clocks of the simulated world start here.
const WALL_START_MS: i64 = 1_700_000_000_000;

/// What clients share; everything runs in one thread.
pub struct World {
    /// The machines, by id from 1.
    pub machines: RefCell<Vec<Machine>>,
    /// What clients saw.
    pub history: RefCell<History>,
    /// The secrets, and how many writes each has had.
    pub secrets: RefCell<Vec<(Arc<str>, usize)>>,
    /// Who writes.
    pub admin: RoleId,
    /// When the simulation began.
    pub start: Instant,
    /// The digest of all that happens.
    pub trace: Trace,
}

impl World {
    /// Nanoseconds since the simulation began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }

    /// Milliseconds since the simulation began.
    pub fn now_ms(&self) -> u64 {
        self.now() / 1_000_000
    }

    /// The process of a machine and the time on its wall, while it runs.
    fn running(&self, at: usize) -> Option<(Running, Timestamp)> {
        let machines = self.machines.borrow();
        let machine = machines.get(at)?;
        let elapsed = i64::try_from(self.now_ms()).unwrap_or(0);
        let wall = Timestamp(WALL_START_MS + elapsed + machine.skew_ms);
        machine.running.clone().map(|running| (running, wall))
    }

    /// The command that sets a secret.
    fn set_secret(&self, secret: &str, value: &str, request: RequestId, at: Timestamp) -> Vec<u8> {
        let mut fingerprint = [0; 16];
        // Values are unique in their first bytes; a collision would only keep a version.
        for (place, byte) in fingerprint.iter_mut().zip(value.bytes()) {
            *place = byte;
        }
        command_codec::encode(&Envelope {
            request_id: request,
            actor: Actor::Role(self.admin.clone()),
            at,
            client_ip: "192.0.2.1".to_owned(),
            body: Command::SetSecret {
                resource: variable(&self.admin, secret),
                value: Sealed(value.as_bytes().to_vec()),
                fingerprint: Fingerprint(fingerprint),
            },
        })
    }

    /// A secret with room for one more write; the few first ones with room are used side by side.
    fn for_write(&self, rng: &mut Rng) -> Option<Arc<str>> {
        let mut secrets = self.secrets.borrow_mut();
        let mut open: Vec<&mut (Arc<str>, usize)> =
            secrets.iter_mut().filter(|(_, writes)| *writes < WRITES_PER_SECRET).take(4).collect();
        let at = rng.index(open.len());
        let (name, writes) = open.get_mut(at)?;
        *writes += 1;
        Some(Arc::clone(name))
    }

    /// A secret that has been written, and how often at most.
    fn for_read(&self, rng: &mut Rng) -> Option<(Arc<str>, usize)> {
        let secrets = self.secrets.borrow();
        let used: Vec<_> = secrets.iter().filter(|(_, writes)| *writes > 0).collect();
        let recent = used.len().saturating_sub(RECENT);
        let at = if rng.chance(200) { rng.index(used.len()) } else { recent + rng.index(RECENT) };
        used.get(at).map(|(name, writes)| (Arc::clone(name), *writes))
    }

    fn record(&self, operation: Operation) {
        let mut numbers = [operation.node, operation.invoked, operation.returned, 0];
        numbers[3] = match operation.outcome {
            Outcome::Written(_) => 1,
            Outcome::Read(_) => 2,
            Outcome::Failed => 3,
            Outcome::Unknown => 4,
        };
        self.trace.event(self.now_ms(), &operation.secret, &numbers, b"");
        self.history.borrow_mut().push(operation);
    }

    /// Writes a secret; whether that was acknowledged.
    async fn write(&self, rng: &mut Rng, number: u64, machines: usize) -> bool {
        let Some(secret) = self.for_write(rng) else { return false };
        let value: Value = format!("{:08x}{number:06}", rng.below(1 << 32)).as_str().into();
        let request = RequestId(rng.bytes());
        let mut invoked = None;
        let mut node = 0;
        // Once a try may have happened, a later refusal says nothing about that one.
        let mut in_doubt = false;
        let mut outcome = Outcome::Failed;
        for attempt in 0..TRIES_MAX {
            if attempt > 0 {
                sleep(Duration::from_millis(rng.between(5, 120))).await;
            }
            let at = rng.index(machines);
            let Some((running, wall)) = self.running(at) else { continue };
            node = at as u64 + 1;
            invoked.get_or_insert(self.now());
            let command = self.set_secret(&secret, &value, request, wall);
            match running.handle.propose(command).await {
                Ok(committed) => {
                    outcome = match outcome::codec::decode(&committed.reply) {
                        Ok(Ok(Done::SecretSet { version, .. })) => {
                            Outcome::Written(Some(version.0))
                        }
                        // A rejection is deterministic: no try of this request happened.
                        Ok(Err(_)) => Outcome::Failed,
                        Ok(Ok(_)) | Err(_) => Outcome::Unknown,
                    };
                    in_doubt = false;
                    break;
                }
                Err(ProposeError::Unknown | ProposeError::Fault(_)) => in_doubt = true,
                Err(
                    ProposeError::NoLeader { .. }
                    | ProposeError::Overloaded { .. }
                    | ProposeError::TooLarge { .. }
                    | ProposeError::Forbidden
                    | ProposeError::Closed,
                ) => {}
            }
        }
        if in_doubt {
            outcome = Outcome::Unknown;
        }
        let returned = if outcome == Outcome::Unknown { NEVER } else { self.now() };
        let invoked = invoked.unwrap_or_else(|| self.now());
        let is_written = matches!(outcome, Outcome::Written(_));
        let (call, promise) = (Call::Write(value), Promise::Linearizable);
        self.record(Operation { secret, node, call, outcome, promise, invoked, returned });
        is_written
    }

    /// Records what a follower shows right now of the secrets that are being written, as clients
    /// would that ask at this very moment.
    pub fn witness(&self, at: usize) {
        let Some((running, _)) = self.running(at) else { return };
        if self.machines.borrow()[at].role != NodeRole::Follower || running.handle.age().is_none() {
            return;
        }
        let secrets = self.secrets.borrow();
        let used: Vec<_> = secrets.iter().filter(|(_, writes)| *writes > 0).collect();
        for (secret, _) in used.iter().rev().take(RECENT) {
            let now = self.now();
            self.record(Operation {
                secret: Arc::clone(secret),
                node: at as u64 + 1,
                call: Call::ReadLatest,
                outcome: look(&running.state, &variable(&self.admin, secret), &Call::ReadLatest),
                promise: Promise::Prefix,
                invoked: now,
                returned: now,
            });
        }
    }

    async fn read(&self, rng: &mut Rng, at: usize) {
        let Some((secret, writes)) = self.for_read(rng) else { return };
        let Some((running, _)) = self.running(at) else { return };
        let role = self.machines.borrow()[at].role;
        let call = if rng.chance(600) {
            Call::ReadLatest
        } else {
            let version = rng.between(1, writes as u64);
            Call::ReadVersion(u32::try_from(version).unwrap_or(1))
        };
        let node = at as u64 + 1;
        let promise = match role {
            NodeRole::Voter => Promise::Linearizable,
            // Through all lives of its process: what it has shown it never takes back.
            NodeRole::Follower => Promise::Prefix,
        };
        let invoked = self.now();
        let may_answer = match promise {
            Promise::Linearizable => running.handle.read_barrier().await.is_ok(),
            // As at the door: it answers once it has been level since it started.
            Promise::Prefix => running.handle.age().is_some(),
        };
        let outcome = if may_answer {
            look(&running.state, &variable(&self.admin, &secret), &call)
        } else {
            Outcome::Failed
        };
        let returned = self.now();
        self.record(Operation { secret, node, call, outcome, promise, invoked, returned });
    }
}

/// The full id of a variable in the admin's account.
pub fn variable(admin: &RoleId, name: &str) -> ResourceId {
    let account = admin.account().clone();
    Id::new(account, conclave_domain::id::Kind::Variable, name).unwrap_or_else(|_| admin.clone())
}

/// Reads a secret from one view.
fn look(state: &StateStore, id: &ResourceId, call: &Call) -> Outcome {
    let found = state.read(|view| {
        let versions = &view.state.secret(id)?.versions;
        let version = match call {
            Call::ReadVersion(number) => Version(*number),
            Call::ReadLatest | Call::Write(_) => *versions.keys().next_back()?,
        };
        versions.contains_key(&version).then(|| view.secret_value(id, version))
    });
    match found {
        None => Outcome::Read(None),
        Some(Ok(Some(value))) => Outcome::Read(Some(text(&value))),
        // A version without its value is a lost write; a value that nobody wrote shows it.
        Some(Ok(None)) => Outcome::Read(Some("version without value".into())),
        Some(Err(_)) => Outcome::Failed,
    }
}

/// A sealed value as clients know it: simulated doors do not seal.
pub fn text(value: &Sealed) -> Value {
    String::from_utf8_lossy(&value.0).as_ref().into()
}

/// Makes one write succeed, in a few tries; whether it did.
pub async fn prove(world: &World, mut rng: Rng) -> bool {
    let machines = world.machines.borrow().len();
    for number in 0..PROOF_TRIES_MAX {
        if world.write(&mut rng, 99_000_000 + number, machines).await {
            return true;
        }
    }
    false
}

/// Asks a follower again and again from the moment it has started, when it may know least.
pub async fn question(world: Rc<World>, at: usize) {
    for _ in 0..FIRST_WORDS {
        world.witness(at);
        sleep(FIRST_WORDS_EVERY).await;
    }
}

/// One client: thinks, asks, and asks again until told to stop.
pub async fn run(world: Rc<World>, mut rng: Rng, number: u64, stop: Rc<RefCell<bool>>) {
    let machines = world.machines.borrow().len();
    for turn in 0_u64.. {
        sleep(Duration::from_millis(rng.between(4, 60))).await;
        if *stop.borrow() {
            return;
        }
        if rng.chance(450) {
            world.write(&mut rng, number * 100_000 + turn, machines).await;
        } else {
            let at = rng.index(machines);
            world.read(&mut rng, at).await;
        }
    }
}
