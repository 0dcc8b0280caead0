//! Data folders, records and commands that the tests share.

use std::path::Path;
use std::sync::Arc;

use conclave_domain::command::{self, Actor, Command, Envelope, LoadMode};
use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind};
use conclave_domain::records::{
    Digest, Fingerprint, JoinToken, Member, MemberRole, NewApiKey, RequestId, Revision, Sealed,
    SigningKey,
};
use conclave_domain::time::Timestamp;
use conclave_storage::memory::SimDisk;
use conclave_storage::{Datadir, Entry, EntryKind, FailPoints, Record, StateStore};

/// A data folder on a simulated disk, with fail points of its own.
pub(crate) fn simulated(disk: &SimDisk) -> (Datadir, FailPoints) {
    let points = FailPoints::new();
    let disk = Arc::new(disk.clone());
    let datadir = Datadir::on_disk(disk, Path::new("/node"), points.clone()).unwrap();
    (datadir, points)
}

/// A data folder on the real disk.
pub(crate) fn real(root: &Path) -> Datadir {
    Datadir::open(root, FailPoints::new()).unwrap()
}

/// A log entry that says what it is.
pub(crate) fn record(index: u64) -> Record {
    Record {
        index,
        log_id: format!("id-{index}").into_bytes().into(),
        payload: format!("payload of {index}").into_bytes().into(),
    }
}

/// Log entries of a range.
pub(crate) fn records(range: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    range.map(record).collect()
}

/// The name of an account.
pub(crate) fn account(name: &str) -> AccountName {
    AccountName::new(name).unwrap()
}

/// An id in the account `acme`.
pub(crate) fn id(kind: Kind, identifier: &str) -> Id {
    Id::new(account("acme"), kind, identifier).unwrap()
}

/// The variable that the secret tests write to.
pub(crate) fn variable() -> Id {
    id(Kind::Variable, "db/password")
}

fn api_key(byte: u8) -> NewApiKey {
    NewApiKey { sealed: Sealed(vec![byte; 40]), digest: Digest([byte; 32]) }
}

fn command_entry(index: u64, actor: Actor, body: Command) -> Entry {
    let mut request = [0; 16];
    request[..8].copy_from_slice(&index.to_be_bytes());
    let envelope = Envelope {
        request_id: RequestId(request),
        actor,
        at: Timestamp(1_700_000_000_000 + i64::try_from(index).unwrap()),
        client_ip: "192.0.2.7".to_owned(),
        body,
    };
    Entry {
        index,
        log_id: format!("id-{index}").into_bytes().into(),
        kind: EntryKind::Command(command::codec::encode(&envelope).into()),
    }
}

/// Raft's first entry.
pub(crate) fn membership(index: u64) -> Entry {
    let kind = EntryKind::Membership(format!("members at {index}").into_bytes().into());
    Entry { index, log_id: format!("id-{index}").into_bytes().into(), kind }
}

/// Creates the account `acme`.
pub(crate) fn create_account(index: u64) -> Entry {
    let signing_key =
        SigningKey { id: "kid".to_owned(), public: vec![1; 20], private: Sealed(vec![2; 60]) };
    let body =
        Command::CreateAccount { account: account("acme"), signing_key, admin_key: api_key(3) };
    command_entry(index, Actor::Node, body)
}

/// Declares the variable of [`variable`].
pub(crate) fn declare_variable(index: u64, based_on: Revision) -> Entry {
    let policy = id(Kind::Policy, "root");
    let changes = vec![Event::ResourceAdded {
        resource: variable(),
        owner: id(Kind::User, "admin"),
        policy: Some(policy.clone()),
    }];
    let body = Command::LoadPolicy {
        policy,
        mode: LoadMode::Append,
        text: "- !variable db/password".to_owned(),
        text_sha256: "00".repeat(32),
        changes,
        based_on,
    };
    command_entry(index, Actor::Role(id(Kind::User, "admin")), body)
}

/// Sets the variable of [`variable`] to a sealed value that names the entry.
pub(crate) fn set_secret(index: u64) -> Entry {
    let mut fingerprint = [0; 16];
    fingerprint[..8].copy_from_slice(&index.to_be_bytes());
    let body = Command::SetSecret {
        resource: variable(),
        value: Sealed(format!("sealed {index}").into_bytes()),
        fingerprint: Fingerprint(fingerprint),
    };
    command_entry(index, Actor::Role(id(Kind::User, "admin")), body)
}

/// Issues a join token of its own.
pub(crate) fn issue_token(index: u64) -> Entry {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&index.to_be_bytes());
    let token = JoinToken {
        name: format!("node-{index}"),
        role: MemberRole::Voter,
        expires_at: Timestamp(1_800_000_000_000),
        cidr: Vec::new(),
    };
    command_entry(index, Actor::Node, Command::IssueJoinToken { digest: Digest(digest), token })
}

/// Makes node 1 a member, the only one.
pub(crate) fn only_member(index: u64) -> Entry {
    let member = Member {
        name: "n1".to_owned(),
        role: MemberRole::Voter,
        node_key: [7; 32],
        peer_address: "192.0.2.7:7443".to_owned(),
        api_url: "https://192.0.2.7".to_owned(),
    };
    command_entry(index, Actor::Node, Command::RefoundCluster { node: 1, member })
}

/// Puts these records of node 1 into the audit chain, as its first.
pub(crate) fn append_audit(index: u64, records: &[&str]) -> Entry {
    let records = records.iter().map(|text| (*text).to_owned()).collect();
    let body = Command::AppendAudit { node: 1, first: 1, lost: 0, records };
    command_entry(index, Actor::Node, body)
}

/// Applies the entries that make the account and its variable; the next index is 4.
pub(crate) fn found(store: &StateStore) {
    store.apply(&[membership(0), create_account(1)]).unwrap();
    let revision = store.read(|view| view.state.account(&account("acme")).unwrap().revision);
    store.apply(&[declare_variable(2, revision), set_secret(3)]).unwrap();
    assert!(store.read(|view| view.state.secret(&variable()).is_some()), "the founding failed");
}

/// The revision after [`create_account`] alone, for replaying what [`found`] does.
pub(crate) fn founding_entries() -> Vec<Entry> {
    let disk = SimDisk::new(0);
    let (datadir, _) = simulated(&disk);
    let store = StateStore::open(&datadir).unwrap();
    store.apply(&[membership(0), create_account(1)]).unwrap();
    let revision = store.read(|view| view.state.account(&account("acme")).unwrap().revision);
    vec![membership(0), create_account(1), declare_variable(2, revision), set_secret(3)]
}
