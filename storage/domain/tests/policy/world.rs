//! A small world to load policies into: one account, loads carried out as the log would, and every
//! event and row written as one line of text.

use conclave_domain::command::{Actor, Command, Envelope, LoadMode};
use conclave_domain::effect::Row;
use conclave_domain::event::Event;
use conclave_domain::evolve::execute;
use conclave_domain::id::{AccountName, Id};
use conclave_domain::outcome::Outcome;
use conclave_domain::policy::{LoadRequest, Plan, PolicyError, Rules, plan};
use conclave_domain::records::{
    Digest, Fingerprint, IssuerKey, MembershipKey, NewApiKey, PermissionKey, RequestId, Sealed,
    SigningKey,
};
use conclave_domain::state::State;
use conclave_domain::time::{LogIndex, Timestamp};

/// The account that everything is in.
pub(crate) const ACCOUNT: &str = "acct";

/// An id of the account.
pub(crate) fn id(text: &str) -> Id {
    Id::parse(text, Some(&AccountName::new(ACCOUNT).unwrap())).unwrap()
}

/// An id without its account where that goes without saying.
pub(crate) fn short(id: &Id) -> String {
    match id.account().as_str() {
        ACCOUNT => format!("{}:{}", id.kind(), id.identifier()),
        _ => id.to_string(),
    }
}

/// The mode that a word names.
pub(crate) fn mode(word: &str) -> LoadMode {
    match word {
        "append" => LoadMode::Append,
        "update" => LoadMode::Update,
        "replace" => LoadMode::Replace,
        other => panic!("no load mode {other:?}"),
    }
}

/// A state, and the log that leads to it.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) rules: Rules,
    /// Who asks for loads.
    pub(crate) actor: Id,
    index: u64,
}

impl World {
    /// A world with a fresh account.
    pub(crate) fn new() -> Self {
        let (state, rules, actor) = (State::new(), Rules::default(), id("user:admin"));
        let mut world = Self { state, rules, actor, index: 0 };
        let account = AccountName::new(ACCOUNT).unwrap();
        let signing_key =
            SigningKey { id: "kid".to_owned(), public: vec![1], private: Sealed(vec![2]) };
        world
            .execute(
                Actor::Node,
                Command::CreateAccount { account, signing_key, admin_key: key(0) },
            )
            .unwrap();
        world
    }

    /// Carries out a command as the next log entry.
    pub(crate) fn execute(
        &mut self,
        actor: Actor,
        body: Command,
    ) -> Result<(Vec<Event>, Outcome), String> {
        self.index += 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&self.index.to_be_bytes());
        let envelope = Envelope {
            request_id: RequestId(request),
            actor,
            at: Timestamp(1_000 * i64::try_from(self.index).unwrap()),
            client_ip: "127.0.0.1".to_owned(),
            body,
        };
        let execution = execute(&mut self.state, LogIndex(self.index), &envelope);
        match execution.reply {
            Ok(outcome) => Ok((execution.events, outcome)),
            Err(rejection) => Err(rejection.to_string()),
        }
    }

    /// Plans a load without carrying it out.
    pub(crate) fn plan(
        &self,
        policy: &Id,
        mode: LoadMode,
        text: &str,
    ) -> Result<Plan, PolicyError> {
        let (actor, rules) = (&self.actor, self.rules);
        plan(&self.state, &LoadRequest { policy, mode, text, actor, rules })
    }

    /// Makes an issuer.
    pub(crate) fn issuer(&mut self, name: &str, max_ttl: u32) {
        let account = AccountName::new(ACCOUNT).unwrap();
        let key = IssuerKey { account: account.clone(), issuer: name.to_owned() };
        let data = Some(Sealed(vec![3]));
        let command = Command::ChangeAccount {
            account: account.clone(),
            needs: Vec::new(),
            changes: vec![Event::IssuerSet { key, kind: "aws".to_owned(), max_ttl, data }],
            based_on: self.state.account(&account).unwrap().revision,
        };
        self.execute(Actor::Node, command).unwrap();
    }

    /// Plans a load and carries it out, as a node: `user:admin` may have lost its rights to roles that
    /// own each other. Answers the plan and what happened.
    pub(crate) fn load(
        &mut self,
        policy: &Id,
        mode: LoadMode,
        text: &str,
    ) -> Result<(Plan, Vec<Event>), PolicyError> {
        let plan = self.plan(policy, mode, text)?;
        let mut seed = 0;
        let changes = plan.clone().into_sealed_changes(
            |_| {
                seed += 1;
                key(seed)
            },
            |_, value| (Sealed(value.as_bytes().to_vec()), fingerprint(value)),
        );
        let command = Command::LoadPolicy {
            policy: policy.clone(),
            mode,
            text: text.to_owned(),
            text_sha256: "0".repeat(64),
            changes,
            based_on: plan.based_on,
        };
        let (mut events, _) =
            self.execute(Actor::Node, command).expect("a plan made from the state in force");
        assert!(matches!(events.pop(), Some(Event::PolicyLoaded { .. })));
        Ok((plan, events))
    }

    /// All rows that a load can make, one line each, sorted; what a fresh account has is left out.
    pub(crate) fn rows(&self) -> Vec<String> {
        let fresh = World::new();
        let fresh: Vec<Row> = fresh.state.rows();
        let mut lines: Vec<String> = self
            .state
            .rows()
            .iter()
            .filter(|row| !fresh.contains(row))
            .filter_map(row_line)
            .collect();
        lines.sort_unstable();
        lines
    }
}

fn key(seed: u8) -> NewApiKey {
    NewApiKey { sealed: Sealed(vec![seed]), digest: Digest([seed; 32]) }
}

/// A stand-in for the keyed digest of a value.
pub(crate) fn fingerprint(value: &str) -> Fingerprint {
    let mut bytes = [0; 16];
    for (at, byte) in value.bytes().enumerate() {
        bytes[at % 16] ^= byte;
    }
    Fingerprint(bytes)
}

fn membership(key: &MembershipKey) -> String {
    let ownership = if key.ownership { " as owner" } else { "" };
    format!("{} to {}{ownership}", short(&key.role), short(&key.member))
}

fn permission(key: &PermissionKey) -> String {
    format!("{} {} to {}", key.privilege, short(&key.resource), short(&key.role))
}

fn nets(nets: &[impl ToString]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// An event as a line of text.
pub(crate) fn event_line(event: &Event) -> String {
    match event {
        Event::RoleAdded { role, .. } => format!("+ role {}", short(role)),
        Event::RoleRemoved { role } => format!("- role {}", short(role)),
        Event::ResourceAdded { resource, owner, .. } => {
            format!("+ resource {} of {}", short(resource), short(owner))
        }
        Event::OwnerChanged { resource, owner } => {
            format!("~ resource {} of {}", short(resource), short(owner))
        }
        Event::ResourceRemoved { resource } => format!("- resource {}", short(resource)),
        Event::MembershipAdded { key, admin_option, .. } => {
            let admin = if *admin_option { " with admin" } else { "" };
            format!("+ grant {}{admin}", membership(key))
        }
        Event::MembershipRemoved { key } => format!("- grant {}", membership(key)),
        Event::PermissionAdded { key, .. } => format!("+ permit {}", permission(key)),
        Event::PermissionRemoved { key } => format!("- permit {}", permission(key)),
        Event::AnnotationSet { resource, name, annotation } => {
            format!("+ annotation {} {name:?} {:?}", short(resource), annotation.value)
        }
        Event::AnnotationRemoved { resource, name } => {
            format!("- annotation {} {name:?}", short(resource))
        }
        Event::CredentialCreated { role, restricted_to, .. } => {
            format!("+ key {} {}", short(role), nets(restricted_to)).trim_end().to_owned()
        }
        Event::RestrictionChanged { role, restricted_to } => {
            format!("~ key {} {}", short(role), nets(restricted_to)).trim_end().to_owned()
        }
        Event::SecretVersionAdded { resource, version, .. } => {
            format!("+ value {} {}", short(resource), version.0)
        }
        other => panic!("no event of a load: {other:?}"),
    }
}

fn by(policy: Option<&Id>) -> String {
    policy.map_or_else(|| "by the API".to_owned(), |policy| format!("by {}", policy.identifier()))
}

fn row_line(row: &Row) -> Option<String> {
    Some(match row {
        Row::Role(id, row) => format!("role {} {}", short(id), by(row.policy.as_ref())),
        Row::Resource(id, row) => {
            format!("resource {} of {} {}", short(id), short(&row.owner), by(row.policy.as_ref()))
        }
        Row::Membership(key, row) => {
            let admin = if row.admin_option && !key.ownership { " with admin" } else { "" };
            format!("grant {}{admin} {}", membership(key), by(row.policy.as_ref()))
        }
        Row::Permission(key, row) => {
            format!("permit {} {}", permission(key), by(row.policy.as_ref()))
        }
        Row::Annotation(id, name, row) => {
            format!("annotation {} {name:?} {:?} {}", short(id), row.value, by(row.policy.as_ref()))
        }
        Row::Credential(id, row) => {
            format!("key {} {}", short(id), nets(&row.restricted_to)).trim_end().to_owned()
        }
        Row::SecretVersion(id, version, _) => format!("value {} {}", short(id), version.0),
        _ => return None,
    })
}
