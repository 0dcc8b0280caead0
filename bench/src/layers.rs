//! Single layers in this process, without network: how long one step of a write or a read takes on one processor.
//!
//! The state is small but shaped like a real one: a policy with variables, a group that may use them, and hosts in
//! the group; the actor reaches its privilege through its membership.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use conclave_domain::command::{Actor, Command, Envelope, codec};
use conclave_domain::decide::decide;
use conclave_domain::evolve::execute;
use conclave_domain::id::{AccountName, ResourceId, RoleId};
use conclave_domain::policy::{LoadMode, LoadRequest, Rules, plan};
use conclave_domain::rbac;
use conclave_domain::records::{Digest, NewApiKey, RequestId, Sealed, SigningKey};
use conclave_domain::state::State;
use conclave_domain::time::{LogIndex, Timestamp};
use conclave_storage::seal::{Keyring, RootKey, Secret, Vault};
use conclave_storage::{Datadir, Entry, EntryKind, FailPoints, LogStore, Record, StateStore};
use tokio::time::Instant;

use crate::Fault;

const ACCOUNT: &str = "bench";
const VARIABLES: usize = 256;
const HOSTS: usize = 64;
const VALUE_BYTES: usize = 256;
const RUN_FOR: Duration = Duration::from_millis(600);
/// Commands applied together, as when many clients wait.
const BATCH: usize = 64;

/// One measured step.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// Which.
    pub layer: &'static str,
    /// Repetitions per second.
    pub per_s: f64,
    /// Microseconds each.
    pub us_each: f64,
}

/// Measures all of them, with data in `folder`.
pub fn run(folder: &Path) -> Result<Vec<Row>, Fault> {
    let mut bench = Bench::new()?;
    let mut rows = bench.bombs()?;
    rows.extend(bench.rules()?);
    rows.extend(bench.sealing()?);
    rows.extend(bench.keeping(&folder.join("layers"))?);
    Ok(rows)
}

/// For a person.
pub fn text(rows: &[Row]) -> String {
    rows.iter()
        .map(|row| format!("{:<34} {:>12.0}/s {:>10.2} us", row.layer, row.per_s, row.us_each))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Repeats a step for a while. `count` is how many units one call does.
fn timed(
    layer: &'static str,
    count: usize,
    mut step: impl FnMut(u64) -> Result<(), Fault>,
) -> Result<Row, Fault> {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < RUN_FOR {
        // Looking at the clock costs as much as a cheap step, so it is done once in a few.
        for _ in 0..8 {
            step(calls)?;
            calls += 1;
        }
    }
    let per_s = (calls * count as u64) as f64 / start.elapsed().as_secs_f64();
    Ok(Row { layer, per_s, us_each: 1e6 / per_s })
}

fn broken(what: impl std::fmt::Display) -> Fault {
    Fault::Usage(format!("layer: {what}"))
}

/// A small account, and what makes commands for it.
struct Bench {
    account: AccountName,
    vault: Vault,
    state: State,
    /// The commands that made the state, encoded.
    founding: Vec<Bytes>,
    issued: u64,
}

impl Bench {
    fn new() -> Result<Self, Fault> {
        let root = RootKey::generate().map_err(broken)?;
        let keyring = Keyring::generate().map_err(broken)?;
        let mut bench = Self {
            account: AccountName::new(ACCOUNT).map_err(broken)?,
            vault: Vault::new(&root, &keyring),
            state: State::new(),
            founding: Vec::new(),
            issued: 0,
        };
        let key = NewApiKey { sealed: Sealed(vec![7; 80]), digest: Digest([7; 32]) };
        bench.found(
            Actor::Node,
            Command::CreateAccount {
                account: bench.account.clone(),
                signing_key: SigningKey {
                    id: "00".repeat(32),
                    public: vec![1; 294],
                    private: Sealed(vec![2; 1200]),
                },
                admin_key: key.clone(),
            },
        )?;
        let admin = rbac::admin_role(&bench.account);
        let policy = rbac::root_policy(&bench.account);
        let text = policy_text();
        let (mode, rules) = (LoadMode::Append, Rules::default());
        let request = LoadRequest { policy: &policy, mode, text: &text, actor: &admin, rules };
        let plan = plan(&bench.state, &request).map_err(|error| broken(format!("{error:?}")))?;
        let based_on = plan.based_on;
        let mut number = 0_u8;
        let changes = plan.into_changes(|_role| {
            number = number.wrapping_add(1);
            NewApiKey { sealed: Sealed(vec![number; 80]), digest: Digest([number; 32]) }
        });
        bench.found(
            Actor::Role(admin),
            Command::LoadPolicy {
                policy,
                mode: LoadMode::Append,
                text,
                text_sha256: "00".repeat(32),
                changes,
                based_on,
            },
        )?;
        Ok(bench)
    }

    fn envelope(&mut self, actor: Actor, body: Command) -> Envelope {
        self.issued += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.issued.to_be_bytes());
        Envelope {
            request_id: RequestId(id),
            actor,
            at: Timestamp(1_700_000_000_000),
            client_ip: "127.0.0.1".to_owned(),
            body,
        }
    }

    fn found(&mut self, actor: Actor, body: Command) -> Result<(), Fault> {
        let envelope = self.envelope(actor, body);
        let index = LogIndex(self.issued);
        execute(&mut self.state, index, &envelope)
            .reply
            .map_err(|rejection| broken(format!("{rejection:?}")))?;
        self.founding.push(codec::encode(&envelope).into());
        Ok(())
    }

    fn variable(number: u64) -> Result<ResourceId, Fault> {
        let text = format!("{ACCOUNT}:variable:app/v{}", number % VARIABLES as u64);
        ResourceId::parse(&text, None).map_err(broken)
    }

    fn host(&self, number: u64) -> Result<RoleId, Fault> {
        RoleId::from_login(&self.account, &format!("host/app/h{}", number % HOSTS as u64))
            .map_err(broken)
    }

    fn set_secret(&mut self, number: u64) -> Result<Envelope, Fault> {
        let resource = Self::variable(number)?;
        let secret = Secret::new(value(number));
        let value = self.vault.seal(&resource, &secret).map_err(broken)?;
        let fingerprint = self.vault.fingerprint(&resource, &secret);
        let actor = Actor::Role(self.host(number)?);
        Ok(self.envelope(actor, Command::SetSecret { resource, value, fingerprint }))
    }

    fn rules(&mut self) -> Result<Vec<Row>, Fault> {
        let envelope = self.set_secret(3)?;
        let bytes = codec::encode(&envelope);
        let (host, variable) = (self.host(3)?, Self::variable(3)?);
        let state = &mut self.state;
        let mut rows = vec![
            timed("decode a command", 1, |_| codec::decode(&bytes).map(drop).map_err(broken))?,
            timed("authorize through a group", 1, |_| {
                let permit = rbac::authorize(state, &host, "execute", &variable);
                permit.map(drop).map_err(|denial| broken(format!("{denial:?}")))
            })?,
            timed("decide a write", 1, |call| {
                let events = decide(state, LogIndex(100 + call), &envelope);
                events.map(drop).map_err(|rejection| broken(format!("{rejection:?}")))
            })?,
        ];
        let commands =
            (0..4096).map(|number| self.set_secret(number)).collect::<Result<Vec<_>, _>>()?;
        let mut state = State::new();
        std::mem::swap(&mut state, &mut self.state);
        let mut replays = commands.into_iter().cycle();
        rows.push(timed("decide, evolve and apply in memory", 1, |call| {
            let Some(mut envelope) = replays.next() else { return Ok(()) };
            envelope.request_id.0[8..].copy_from_slice(&call.to_be_bytes());
            let done = execute(&mut state, LogIndex(1000 + call), &envelope);
            done.reply.map(drop).map_err(|rejection| broken(format!("{rejection:?}")))
        })?);
        Ok(rows)
    }

    /// Policy texts that want to become much more than they are: how long it takes to refuse them.
    fn bombs(&self) -> Result<Vec<Row>, Fault> {
        let policy = rbac::root_policy(&self.account);
        let admin = rbac::admin_role(&self.account);
        let mut aliases = String::from("- &a0 [!variable x]\n");
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(9);
            aliases.extend(["- &a", &level.to_string(), " [", &before, "]\n"]);
        }
        let mut permits = String::from("- !permit\n  privileges: [");
        permits.push_str(&"p, ".repeat(1_000));
        permits.push_str("]\n  role: !user admin\n  resources:\n");
        permits.extend((0..5_000).map(|at| format!("  - !variable v{at}\n")));
        let texts = [
            ("refuse aliases of aliases", aliases),
            ("refuse 1 MiB of brackets", "[".repeat(1 << 20)),
            ("refuse 1 MiB of one word", format!("- !variable {}", "a".repeat(1 << 20))),
            ("refuse 5 M permits", permits),
        ];
        let mut rows = Vec::new();
        let (mode, rules) = (LoadMode::Append, Rules::default());
        for (layer, text) in texts {
            let request = LoadRequest { policy: &policy, mode, text: &text, actor: &admin, rules };
            rows.push(timed(layer, 1, |_| match plan(&self.state, &request) {
                Ok(_) => Err(broken(format!("{layer}: it was planned"))),
                Err(_refused) => Ok(()),
            })?);
        }
        Ok(rows)
    }

    fn sealing(&mut self) -> Result<Vec<Row>, Fault> {
        let variable = Self::variable(3)?;
        let secret = Secret::new(value(3));
        let sealed = self.vault.seal(&variable, &secret).map_err(broken)?;
        Ok(vec![
            timed("seal 256 bytes", 1, |_| {
                self.vault.seal(&variable, &secret).map(drop).map_err(broken)
            })?,
            timed("open 256 bytes", 1, |_| {
                self.vault.open(&variable, &sealed).map(drop).map_err(broken)
            })?,
            timed("fingerprint 256 bytes", 1, |_| {
                std::hint::black_box(self.vault.fingerprint(&variable, &secret));
                Ok(())
            })?,
        ])
    }

    fn keeping(&mut self, folder: &Path) -> Result<Vec<Row>, Fault> {
        let datadir = Datadir::open(folder, FailPoints::new()).map_err(broken)?;
        let store = StateStore::open(&datadir).map_err(broken)?;
        let (log, _) = LogStore::open(&datadir).map_err(broken)?;
        let mut index = 0;
        let mut entry = |command: Bytes| {
            index += 1;
            Entry { index, log_id: Bytes::from(vec![0; 24]), kind: EntryKind::Command(command) }
        };
        let founding: Vec<Entry> = self.founding.iter().cloned().map(&mut entry).collect();
        store.apply(&founding).map_err(broken)?;

        let mut next = 0;
        let mut rows = Vec::new();
        for (layer, count) in [("apply one write", 1), ("apply a write, 64 at a time", BATCH)] {
            rows.push(timed(layer, count, |_| {
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    next += 1;
                    entries.push(entry(codec::encode(&self.set_secret(next)?).into()));
                }
                store.apply(&entries).map(drop).map_err(broken)
            })?);
        }
        let payload = Bytes::from(vec![0x5a; 450]);
        let mut index = 0;
        for (layer, count) in
            [("append and fsync one entry", 1), ("append and fsync, 64 at a time", BATCH)]
        {
            rows.push(timed(layer, count, |_| {
                let records: Vec<Record> = (0..count)
                    .map(|_| {
                        index += 1;
                        Record { index, log_id: Bytes::from(vec![0; 24]), payload: payload.clone() }
                    })
                    .collect();
                log.append(&records).map_err(broken)?;
                log.sync().map_err(broken)
            })?);
        }
        Ok(rows)
    }
}

fn value(number: u64) -> Vec<u8> {
    let mut bytes = vec![b'v'; VALUE_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn policy_text() -> String {
    let mut text = String::from("- !policy\n  id: app\n  body:\n  - &variables\n");
    text.extend((0..VARIABLES).map(|number| format!("    - !variable v{number}\n")));
    text.push_str("  - !group users\n  - !permit\n    role: !group users\n");
    text.push_str("    privileges: [read, execute, update]\n    resource: *variables\n");
    text.extend((0..HOSTS).map(|number| format!("  - !host h{number}\n")));
    text.push_str("  - !grant\n    role: !group users\n    members:\n");
    text.extend((0..HOSTS).map(|number| format!("    - !host h{number}\n")));
    text
}
