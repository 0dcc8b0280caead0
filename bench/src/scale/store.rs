//! Growth in this process: the rules and the store of a node, without network and agreement.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use conclave_domain::command::{Actor, Command, Envelope, codec};
use conclave_domain::id::{AccountName, Id};
use conclave_domain::outcome;
use conclave_domain::policy::{LoadMode, LoadRequest, Rules, plan};
use conclave_domain::rbac;
use conclave_domain::records::{Digest, NewApiKey, RequestId, Sealed, SigningKey, Version};
use conclave_domain::time::Timestamp;
use conclave_storage::seal::{Keyring, RootKey, Secret, Vault};
use conclave_storage::{Datadir, Entry, EntryKind, FailPoints, StateStore};
use tokio::time::Instant;

use super::{HOSTS, Line, Lines, Point, SIZES, USERS, VARIABLES, broken, median, resident};
use crate::Fault;

const ACCOUNT: &str = "bench";
const VALUE_BYTES: usize = 64;
/// Commands applied together while filling.
const BATCH: usize = 512;
const RUN_FOR: Duration = Duration::from_millis(300);
const DEPTH: usize = 200;

/// Fills a store up to so many secrets, and measures at each size on the way.
pub(super) fn run(most: usize, folder: &Path, say: &impl Fn(String)) -> Result<Vec<Line>, Fault> {
    let mut house = House::open(folder)?;
    let mut lines = Lines::default();
    let mut policies = 0;
    house.load("root", &super::users())?;
    house.load("root", &super::chain(DEPTH))?;
    let mut before = (0, resident(&[std::process::id()]));
    for size in SIZES.into_iter().filter(|size| *size <= most) {
        let began = Instant::now();
        while policies * VARIABLES < size {
            house.load("root", &super::policy(policies))?;
            house.fill(policies)?;
            policies += 1;
        }
        say(format!("{size} secrets after {:.0} s more", began.elapsed().as_secs_f64()));
        let roles = policies * (HOSTS + 2) + USERS;
        let held = resident(&[std::process::id()]);
        let point = |value| Point { secrets: size, roles, value };
        let more = held.saturating_sub(before.1) as f64 / (size - before.0) as f64;
        lines.add("memory for each secret more", "bytes", point(more));
        before = (size, held);
        house.measure(policies, &mut lines, &point)?;
    }
    Ok(lines.finish())
}

struct House {
    account: AccountName,
    vault: Vault,
    store: StateStore,
    issued: u64,
    appended: usize,
}

impl House {
    fn open(folder: &Path) -> Result<Self, Fault> {
        let root = RootKey::generate().map_err(broken)?;
        let keyring = Keyring::generate().map_err(broken)?;
        let datadir = Datadir::open(folder, FailPoints::new()).map_err(broken)?;
        let mut house = Self {
            account: AccountName::new(ACCOUNT).map_err(broken)?,
            vault: Vault::new(&root, &keyring),
            store: StateStore::open(&datadir).map_err(broken)?,
            issued: 0,
            appended: 0,
        };
        let founding = Command::CreateAccount {
            account: house.account.clone(),
            signing_key: SigningKey {
                id: "00".repeat(32),
                public: vec![1; 294],
                private: Sealed(vec![2; 1200]),
            },
            admin_key: NewApiKey { sealed: Sealed(vec![7; 80]), digest: Digest([7; 32]) },
        };
        house.apply(vec![(Actor::Node, founding)])?;
        Ok(house)
    }

    fn id(&self, kind: &str, identifier: &str) -> Result<Id, Fault> {
        Id::parse(&format!("{}:{kind}:{identifier}", self.account), None).map_err(broken)
    }

    fn apply(&mut self, commands: Vec<(Actor, Command)>) -> Result<(), Fault> {
        let mut entries = Vec::with_capacity(commands.len());
        for (actor, body) in commands {
            self.issued += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&self.issued.to_be_bytes());
            let envelope = Envelope {
                request_id: RequestId(id),
                actor,
                // Time goes on, so that answers kept for repeated requests are dropped on the way.
                at: Timestamp(1_700_000_000_000 + i64::try_from(self.issued).unwrap_or(0)),
                client_ip: "127.0.0.1".to_owned(),
                body,
            };
            entries.push(Entry {
                index: self.issued,
                log_id: Bytes::from(vec![0; 24]),
                kind: EntryKind::Command(codec::encode(&envelope).into()),
            });
        }
        for reply in self.store.apply(&entries).map_err(broken)? {
            let reply = outcome::codec::decode(&reply).map_err(broken)?;
            reply.map_err(|rejection| broken(format!("{rejection:?}")))?;
        }
        Ok(())
    }

    /// Plans a text as the door does and applies the plan.
    fn load(&mut self, policy: &str, text: &str) -> Result<(), Fault> {
        let policy = self.id("policy", policy)?;
        let admin = rbac::admin_role(&self.account);
        let planned = self.plan(&policy, text)?;
        let based_on = planned.based_on;
        let mut number = 0_u64;
        let changes = planned.into_changes(|_role| {
            number += 1;
            let mut digest = [7; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            NewApiKey { sealed: Sealed(vec![7; 80]), digest: Digest(digest) }
        });
        let command = Command::LoadPolicy {
            policy,
            mode: LoadMode::Append,
            text: text.to_owned(),
            text_sha256: "00".repeat(32),
            changes,
            based_on,
        };
        self.apply(vec![(Actor::Role(admin), command)])
    }

    fn plan(&self, policy: &Id, text: &str) -> Result<conclave_domain::policy::Plan, Fault> {
        let admin = rbac::admin_role(&self.account);
        let (mode, rules) = (LoadMode::Append, Rules::default());
        let request = LoadRequest { policy, mode, text, actor: &admin, rules };
        self.store
            .read(|view| plan(view.state, &request))
            .map_err(|error| broken(format!("{error:?}")))
    }

    /// Gives every variable of a policy a value.
    fn fill(&mut self, policy: usize) -> Result<(), Fault> {
        let actor = Actor::Role(self.id("host", &format!("app{policy}/h0"))?);
        let mut commands = Vec::with_capacity(BATCH);
        for at in 0..VARIABLES {
            let resource = self.id("variable", &format!("app{policy}/v{at}"))?;
            let secret = Secret::new(vec![b'v'; VALUE_BYTES]);
            let value = self.vault.seal(&resource, &secret).map_err(broken)?;
            let fingerprint = self.vault.fingerprint(&resource, &secret);
            commands.push((actor.clone(), Command::SetSecret { resource, value, fingerprint }));
            if commands.len() == BATCH || at + 1 == VARIABLES {
                self.apply(std::mem::take(&mut commands))?;
            }
        }
        Ok(())
    }

    fn measure(
        &mut self,
        policies: usize,
        lines: &mut Lines,
        point: &impl Fn(f64) -> Point,
    ) -> Result<(), Fault> {
        // Pairs from all over, so that no cache of one policy helps.
        let mut pairs = Vec::new();
        for number in 0..1024_usize {
            let policy = number.wrapping_mul(7919) % policies;
            let host = self.id("host", &format!("app{policy}/h{}", number % HOSTS))?;
            let at = number.wrapping_mul(31) % VARIABLES;
            pairs.push((host, self.id("variable", &format!("app{policy}/v{at}"))?));
        }
        let check = each(|at| {
            let (host, variable) = &pairs[at % pairs.len()];
            let permit =
                self.store.read(|view| rbac::authorize(view.state, host, "execute", variable));
            permit.map(drop).map_err(|denial| broken(format!("{denial:?}")))
        })?;
        lines.add("permission check", "us", point(check));
        let read = each(|at| {
            let (host, variable) = &pairs[at % pairs.len()];
            let sealed = self.store.read(|view| {
                let permit = rbac::authorize(view.state, host, "execute", variable);
                permit.map(drop).map_err(|denial| broken(format!("{denial:?}")))?;
                view.secret_value(variable, Version(1)).map_err(broken)
            })?;
            let sealed = sealed.ok_or_else(|| broken("a value is missing"))?;
            self.vault.open(variable, &sealed).map(drop).map_err(broken)
        })?;
        lines.add("check, fetch and open a value", "us", point(read));
        let (deep, far) = (self.id("host", "deep/h")?, self.id("variable", "deep/v")?);
        let depth = each(|_| {
            let allowed =
                self.store.read(|view| rbac::is_allowed(view.state, &deep, "execute", &far));
            if allowed { Ok(()) } else { Err(broken("the chain is broken")) }
        })?;
        lines.add("permission check, depth 200", "us", point(depth));

        for (step, role) in [
            ("list 1,000 as admin", rbac::admin_role(&self.account)),
            (
                "list 1,000 as a host that sees them",
                self.id("host", &format!("app{}/h0", policies - 1))?,
            ),
        ] {
            let mut took = Vec::new();
            for _ in 0..5 {
                let began = Instant::now();
                let seen = self.store.read(|view| {
                    rbac::visible(view.state, &role, Some(&self.account), None).take(1_000).count()
                });
                took.push(began.elapsed().as_secs_f64() * 1e3);
                if seen < 1_000 {
                    return Err(broken(format!("{step}: only {seen}")));
                }
            }
            lines.add(step, "ms", point(median(took)));
        }

        let mut took = Vec::new();
        for _ in 0..5 {
            let text = super::variables(&format!("appended/{}/", self.appended), 100);
            self.appended += 1;
            let began = Instant::now();
            self.load("root", &text)?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        lines.add("append 100 lines", "ms", point(median(took)));
        let root = self.id("policy", "root")?;
        for (step, count) in [("plan 4,003 lines", 4_003), ("plan 40,003 lines", 40_003)] {
            let text = super::lines("planned", count);
            let began = Instant::now();
            self.plan(&root, &text)?;
            lines.add(step, "ms", point(began.elapsed().as_secs_f64() * 1e3));
        }
        Ok(())
    }
}

/// The median of a step's time in microseconds, over groups of 64 calls.
fn each(mut step: impl FnMut(usize) -> Result<(), Fault>) -> Result<f64, Fault> {
    const GROUP: usize = 64;
    let start = Instant::now();
    let mut at = 0;
    let mut took = Vec::new();
    while took.len() < 5 || start.elapsed() < RUN_FOR {
        let began = Instant::now();
        for _ in 0..GROUP {
            step(at)?;
            at += 1;
        }
        took.push(began.elapsed().as_secs_f64() * 1e6 / GROUP as f64);
    }
    Ok(median(took))
}
