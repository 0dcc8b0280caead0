//! What holds for any history: the same log gives the same state, nothing depends on the order in
//! which rows arrived, no row points into the void, remembered closures agree with fresh walks, and
//! codecs neither lose nor panic.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::collections::BTreeSet;

use conclave_domain::audit::{AuditCheckpoint, AuditRecord, AuditTexts, ChainVerifier, is_gap};
use conclave_domain::command::{Actor, Command, Envelope, LoadMode, Need, Proof};
use conclave_domain::decide::{JOIN_CIDRS_MAX, RESEALED_AT_ONCE_MAX, decide};
use conclave_domain::effect::{Effect, Row};
use conclave_domain::event::Event;
use conclave_domain::evolve::{Execution, REQUESTS_KEPT, answered, execute};
use conclave_domain::id::Id;
use conclave_domain::outcome::{Outcome, Rejection};
use conclave_domain::rbac;
use conclave_domain::records::{
    Annotation, Digest, Fingerprint, IssuerKey, JoinToken, MemberRole, MembershipKey,
    PermissionKey, RequestId, Resealed, Revision, SECRET_VERSIONS_KEPT, Sealed, SealedAt, Version,
    WrappedKeyring,
};
use conclave_domain::state::State;
use conclave_domain::time::{LogIndex, Timestamp};
use conclave_domain::{command, event, outcome};
use proptest::prelude::*;
use support::{
    account, api_key, as_history, envelope, envelopes, events, id, replies, signing_key,
};

/// The ids that generated histories play with.
const IDS: [&str; 14] = [
    "user:admin",
    "user:alice",
    "user:bob",
    "group:ops",
    "group:dev",
    "layer:app/web",
    "host:app/web",
    "host:app/db",
    "policy:root",
    "policy:app",
    "policy:app/sub",
    "variable:app/pw",
    "variable:app/key",
    "webservice:app/api",
];
const PRIVILEGES: [&str; 4] = ["read", "execute", "update", "create"];

/// A step of a history: numbers that pick among what is there when its turn comes.
#[derive(Debug, Clone)]
struct Step {
    what: u8,
    picks: [usize; 4],
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u8..16, any::<[usize; 4]>()).prop_map(|(what, picks)| Step { what, picks });
    prop::collection::vec(step, 1..most)
}

fn pick(ids: &[Id], at: usize) -> Id {
    ids[at % ids.len()].clone()
}

/// The command that a step stands for in a state, if it stands for one there.
fn command_of(state: &State, step: &Step) -> Option<Command> {
    let universe: Vec<Id> = IDS.iter().map(|text| id(text)).collect();
    let resources: Vec<Id> = state.resources(None, None).map(|(id, _)| id.clone()).collect();
    let roles: Vec<Id> = resources.iter().filter(|id| state.role(id).is_some()).cloned().collect();
    let [a, b, c, d] = step.picks;
    let any = pick(&universe, a);
    let resource = pick(&resources, a);
    let (role, other) = (pick(&roles, b), pick(&roles, c));
    let privilege = PRIVILEGES[d % PRIVILEGES.len()].to_owned();
    let policies: Vec<Id> = ["policy:root", "policy:app", "policy:app/sub"].map(id).to_vec();
    let target = Some(pick(&policies, d)).filter(|id| state.resource(id).is_some())?;
    let policy = Some(target.clone());
    let change = |change: Event| vec![change];
    let changes = match step.what {
        0..=3 => {
            if state.resource(&any).is_some() {
                return None;
            }
            let mut changes = Vec::new();
            if any.kind().is_role() {
                changes.push(Event::RoleAdded { role: any.clone(), policy: policy.clone() });
            }
            if any.kind().has_credentials() {
                let restricted_to = Vec::new();
                let key = api_key(7);
                changes.push(Event::CredentialCreated { role: any.clone(), key, restricted_to });
            }
            changes.push(Event::ResourceAdded { resource: any, owner: role, policy });
            changes
        }
        4 => change(Event::ResourceRemoved { resource }),
        5 => change(Event::OwnerChanged { resource, owner: role }),
        6 | 7 => {
            let key = MembershipKey { role, member: other, ownership: false };
            change(Event::MembershipAdded { key, admin_option: d % 2 == 0, policy })
        }
        8 => {
            let rows = state.members(&role);
            let (key, _) = rows.get(d % rows.len().max(1)).filter(|(key, _)| !key.ownership)?;
            change(Event::MembershipRemoved { key: key.clone() })
        }
        9 => {
            let key = PermissionKey { resource, role, privilege };
            change(Event::PermissionAdded { key, policy })
        }
        10 => change(Event::PermissionRemoved { key: PermissionKey { resource, role, privilege } }),
        11 => {
            let annotation = Annotation { value: privilege, policy };
            change(Event::AnnotationSet { resource, name: format!("name{}", d % 3), annotation })
        }
        12 | 13 => {
            let byte = b.to_le_bytes()[0] % 3;
            let value = Sealed(vec![byte]);
            let fingerprint = Fingerprint([byte; 16]);
            return Some(Command::SetSecret { resource, value, fingerprint });
        }
        14 => return Some(Command::AddMember { role, member: other }),
        _ => {
            let proof = Proof::Token;
            return Some(Command::RotateApiKey { role, key: api_key(d.to_le_bytes()[0]), proof });
        }
    };
    Some(Command::LoadPolicy {
        based_on: state.account(target.account())?.revision,
        policy: target,
        mode: LoadMode::Update,
        text: String::new(),
        text_sha256: String::new(),
        changes,
    })
}

/// A log under construction, and the state that it leads to.
struct History {
    state: State,
    log: Vec<Envelope>,
}

impl History {
    fn new() -> Self {
        let mut history = Self { state: State::new(), log: Vec::new() };
        let create = Command::CreateAccount {
            account: account("demo"),
            signing_key: signing_key("k1"),
            admin_key: api_key(1),
        };
        history.carry_out(Actor::Node, create).reply.unwrap();
        history
    }

    fn carry_out(&mut self, actor: Actor, body: Command) -> Execution {
        let number = self.log.len() as u64 + 1;
        let mut request_id = [0; 16];
        request_id[..8].copy_from_slice(&number.to_le_bytes());
        let envelope = Envelope {
            request_id: RequestId(request_id),
            actor,
            at: Timestamp(i64::try_from(number).unwrap() * 1000),
            ..envelope(body)
        };
        let execution = execute(&mut self.state, LogIndex(number), &envelope);
        self.log.push(envelope);
        execution
    }

    fn step(&mut self, step: &Step) {
        if let Some(command) = command_of(&self.state, step) {
            let actor = match step.picks[1] % 3 {
                0 => Actor::Node,
                1 => Actor::Role(id("user:admin")),
                _ => Actor::Role(id("user:alice")),
            };
            self.carry_out(actor, command);
        }
    }

    fn of(steps: &[Step]) -> Self {
        let mut history = Self::new();
        for step in steps {
            history.step(step);
        }
        history
    }
}

fn replay(log: &[Envelope]) -> State {
    let mut state = State::new();
    for (envelope, index) in log.iter().zip(1..) {
        execute(&mut state, LogIndex(index), envelope);
    }
    state
}

fn load(rows: impl IntoIterator<Item = Row>) -> State {
    let mut state = State::new();
    for row in rows {
        state.apply(&Effect::put(row));
    }
    state
}

/// The closure by a walk over rows, for comparison.
fn walked(state: &State, role: &Id) -> Vec<Id> {
    let mut seen = BTreeSet::from([role.clone()]);
    let mut pending = vec![role.clone()];
    while let Some(next) = pending.pop() {
        for (key, _) in state.memberships(&next) {
            if seen.insert(key.role.clone()) {
                pending.push(key.role);
            }
        }
    }
    seen.into_iter().collect()
}

/// Every row refers only to what is there.
fn check_references(state: &State) {
    let role = |id: &Id| assert!(state.role(id).is_some(), "no role {id}");
    let resource = |id: &Id| assert!(state.resource(id).is_some(), "no resource {id}");
    let policy = |id: &Option<Id>| {
        if let Some(id) = id {
            resource(id);
        }
    };
    for row in state.rows() {
        match row {
            Row::Role(id, record) => {
                resource(&id);
                policy(&record.policy);
            }
            Row::Resource(id, record) => {
                role(&record.owner);
                policy(&record.policy);
                if id.kind().is_role() && id != record.owner {
                    role(&id);
                    let key = MembershipKey { role: id, member: record.owner, ownership: true };
                    assert!(state.membership(&key).is_some(), "no {key:?}");
                }
            }
            Row::Membership(key, record) => {
                role(&key.role);
                role(&key.member);
                policy(&record.policy);
                if key.ownership {
                    assert_eq!(state.resource(&key.role).unwrap().owner, key.member);
                }
            }
            Row::Permission(key, record) => {
                resource(&key.resource);
                role(&key.role);
                policy(&record.policy);
            }
            Row::Annotation(id, _, record) => {
                resource(&id);
                policy(&record.policy);
            }
            Row::Credential(id, _) => role(&id),
            Row::SecretVersion(id, ..) => resource(&id),
            Row::PolicyVersion(id, _, record) => {
                resource(&id);
                role(&record.role);
            }
            Row::Account(..)
            | Row::SecretValue(..)
            | Row::Keyring(_)
            | Row::JoinToken(..)
            | Row::Member(..)
            | Row::Answered(..)
            | Row::Issuer(..)
            | Row::AuditBlock(..)
            | Row::AuditHead(_)
            | Row::AuditSource(..)
            | Row::Certificate(..)
            | Row::Level(_) => {}
            Row::HostFactoryToken(_, token) => assert!(state.resource(&token.factory).is_some()),
            Row::AuthenticatorConfig(id, _) => assert!(state.resource(&id).is_some()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_same_log_twice_gives_the_same_state(steps in steps(60)) {
        let history = History::of(&steps);
        prop_assert_eq!(replay(&history.log).rows(), history.state.rows());
    }

    #[test]
    fn resources_come_in_pages_as_they_come_at_once(steps in steps(60)) {
        let state = History::of(&steps).state;
        let at_once: Vec<&Id> = state.resources(None, None).map(|(id, _)| id).collect();
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<&Id> = state.resources_after(after).take(3).map(|(id, _)| id).collect();
            paged.extend(page.iter().copied());
            after = page.last().copied();
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(paged, at_once);
    }

    #[test]
    fn effects_alone_rebuild_the_state(steps in steps(60)) {
        let mut history = History::new();
        let mut copy = load(history.state.rows());
        for step in &steps {
            if let Some(command) = command_of(&history.state, step) {
                for effect in history.carry_out(Actor::Node, command).effects {
                    copy.apply(&effect);
                }
            }
        }
        prop_assert_eq!(copy.rows(), history.state.rows());
    }

    #[test]
    fn an_excerpt_says_what_the_whole_does(
        (steps, picks) in (steps(60), prop::collection::vec(any::<usize>(), 1..4))
    ) {
        let whole = History::of(&steps).state;
        let ids: BTreeSet<Id> = picks.iter().map(|at| id(IDS[at % IDS.len()])).collect();
        let part = State::from_rows(whole.rows_about(&ids));
        for one in &ids {
            prop_assert_eq!(part.role(one), whole.role(one));
            prop_assert_eq!(part.resource(one), whole.resource(one));
            prop_assert_eq!(part.credential(one), whole.credential(one));
            prop_assert!(part.annotations(one).eq(whole.annotations(one)));
            prop_assert_eq!(part.permissions(one), whole.permissions(one));
            prop_assert_eq!(part.permissions_of(one), whole.permissions_of(one));
            prop_assert_eq!(part.members(one), whole.members(one));
            prop_assert_eq!(part.memberships(one), whole.memberships(one));
            for (other, _) in part.resources(None, None) {
                let seen = rbac::is_visible(&whole, one, other);
                prop_assert_eq!(rbac::is_visible(&part, one, other), seen, "{} {}", one, other);
            }
        }
    }

    #[test]
    fn decisions_do_not_depend_on_the_order_of_rows(
        (steps, next, swaps) in (steps(40), steps(10), any::<Vec<(usize, usize)>>())
    ) {
        let mut history = History::of(&steps);
        let mut rows = history.state.rows();
        for (one, other) in swaps {
            let count = rows.len();
            rows.swap(one % count, other % count);
        }
        let mut shuffled = History { state: load(rows), log: history.log.clone() };
        for step in &next {
            let Some(command) = command_of(&history.state, step) else { continue };
            let actor = Actor::Role(id(IDS[step.picks[3] % 3]));
            let one = history.carry_out(actor.clone(), command.clone());
            let other = shuffled.carry_out(actor, command);
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(history.state.rows(), shuffled.state.rows());
    }

    #[test]
    fn no_row_points_into_the_void(steps in steps(80)) {
        let mut history = History::new();
        for step in &steps {
            history.step(step);
            check_references(&history.state);
        }
    }

    #[test]
    fn remembered_closures_agree_with_fresh_walks(steps in steps(80)) {
        let mut history = History::new();
        for step in &steps {
            history.step(step);
            for text in IDS {
                let role = id(text);
                prop_assert_eq!(rbac::closure(&history.state, &role), walked(&history.state, &role));
            }
        }
    }

    #[test]
    fn checks_agree_with_the_rule_in_words(steps in steps(60)) {
        let history = History::of(&steps);
        let state = &history.state;
        for role in IDS.map(id) {
            let seen = |resource: &Id| rbac::is_visible(state, &role, resource);
            let sifted = state.resources(None, None).filter(|(resource, _)| seen(resource));
            prop_assert!(sifted.eq(rbac::visible(state, &role, None, None)));
        }
        for (resource, record) in state.resources(None, None) {
            let rows = state.permissions(resource);
            for role in IDS.map(id).iter().filter(|role| state.role(role).is_some()) {
                let held = walked(state, role);
                let owns = held.contains(&record.owner);
                let sees = owns || rows.iter().any(|(key, _)| held.contains(&key.role));
                prop_assert_eq!(rbac::is_visible(state, role, resource), sees);
                for privilege in PRIVILEGES {
                    let row = |key: &PermissionKey| {
                        key.privilege == privilege && held.contains(&key.role)
                    };
                    let may = owns || rows.iter().any(|(key, _)| row(key));
                    prop_assert_eq!(rbac::is_allowed(state, role, privilege, resource), may);
                    prop_assert_eq!(rbac::authorize(state, role, privilege, resource).is_ok(), may);
                    let listed = rbac::permitted_roles(state, privilege, resource).contains(role);
                    prop_assert_eq!(listed, may);
                }
            }
        }
    }

    #[test]
    fn a_rejected_command_changes_nothing_but_the_memory_of_it(steps in steps(60)) {
        let mut history = History::new();
        for step in &steps {
            let Some(command) = command_of(&history.state, step) else { continue };
            let before = history.state.rows();
            let actor = Actor::Role(id("user:nobody"));
            prop_assert!(history.carry_out(actor, command).reply.is_err());
            let mut after = history.state.rows();
            after.retain(|row| before.contains(row));
            prop_assert_eq!(after, before);
            history.step(step);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in any::<Vec<u8>>(), first in 0_u8..3) {
        if let Some(version) = bytes.first_mut() {
            *version = first;
        }
        prop_assert!(command::codec::decode(&bytes).is_err() || !bytes.is_empty());
        prop_assert!(event::codec::decode(&bytes).is_err() || !bytes.is_empty());
        prop_assert!(outcome::codec::decode(&bytes).is_err() || !bytes.is_empty());
    }

    #[test]
    fn damaged_bytes_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = command::codec::encode(which.get(&envelopes()));
        let place = at.index(bytes.len());
        bytes[place] = byte;
        // Bytes that still make sense must mean what they then say.
        if let Ok(envelope) = command::codec::decode(&bytes) {
            let again = command::codec::decode(&command::codec::encode(&envelope));
            prop_assert_eq!(again, Ok(envelope));
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(
        text in "\\PC{0,40}",
        bytes in any::<Vec<u8>>(),
        number in any::<u64>(),
        at in any::<i64>(),
        request in any::<[u8; 16]>(),
        which in any::<prop::sample::Index>(),
    ) {
        let mut envelope = which.get(&envelopes()).clone();
        envelope.request_id = RequestId(request);
        envelope.at = Timestamp(at);
        envelope.client_ip.clone_from(&text);
        if let Command::LoadPolicy { text: policy_text, based_on, changes, .. } = &mut envelope.body {
            policy_text.clone_from(&text);
            *based_on = Revision(number);
            *changes = events();
        }
        if let Command::SetSecret { value, .. } = &mut envelope.body {
            *value = Sealed(bytes);
        }
        let encoded = command::codec::encode(&envelope);
        prop_assert_eq!(command::codec::decode(&encoded), Ok(envelope));

        let mut event = which.get(&events()).clone();
        if let Event::AnnotationSet { annotation, name, .. } = &mut event {
            annotation.value.clone_from(&text);
            *name = text.clone();
        }
        let decoded = event::codec::decode(&event::codec::encode(&event));
        prop_assert_eq!(decoded, Ok(as_history(&event)));

        let mut reply = which.get(&replies()).clone();
        if let Err(Rejection::Invalid(why)) = &mut reply {
            *why = text;
        }
        prop_assert_eq!(outcome::codec::decode(&outcome::codec::encode(&reply)), Ok(reply));
    }
}

#[test]
fn a_chain_of_a_thousand_roles_and_a_ring_are_walked() {
    let mut state = State::new();
    let name = |number: usize| id(&format!("group:g{number}"));
    let link = |role: usize, member: usize| {
        let key = MembershipKey { role: name(role), member: name(member), ownership: false };
        let record = conclave_domain::records::Membership { admin_option: false, policy: None };
        Effect::put(Row::Membership(key, record))
    };
    for number in 0..1000 {
        state.apply(&link(number + 1, number));
    }
    assert!(rbac::holds(&state, &name(0), &name(1000)));
    assert!(!rbac::holds(&state, &name(1000), &name(0)));
    state.apply(&link(0, 1000));
    assert!(rbac::holds(&state, &name(1000), &name(0)));
    assert_eq!(rbac::closure(&state, &name(500)).len(), 1001);
}

#[test]
fn a_retry_is_answered_like_the_first_try() {
    let mut history = History::new();
    let role = id("group:ops");
    let policy = Some(id("policy:root"));
    let load = |based_on| Command::LoadPolicy {
        policy: id("policy:root"),
        mode: LoadMode::Append,
        text: "- !group ops".to_owned(),
        text_sha256: String::new(),
        changes: vec![
            Event::RoleAdded { role: role.clone(), policy: policy.clone() },
            Event::ResourceAdded {
                resource: role.clone(),
                owner: id("user:admin"),
                policy: policy.clone(),
            },
        ],
        based_on,
    };
    let admin = Actor::Role(id("user:admin"));
    let stale = history.carry_out(admin.clone(), load(Revision(7)));
    let current = Revision(1);
    assert_eq!(stale.reply, Err(Rejection::Stale { planned: Revision(7), current }));
    assert_eq!(stale.effects, []);

    let first = history.carry_out(admin, load(current));
    assert_eq!(first.reply, Ok(Outcome::PolicyLoaded { version: 1 }));
    let before = history.state.rows();
    let retry = history.log.last().unwrap().clone();
    let second = execute(&mut history.state, LogIndex(99), &retry);
    assert_eq!((second.reply, second.replayed), (first.reply, true));
    assert_eq!((second.events, second.effects), (Vec::new(), Vec::new()));
    assert_eq!(history.state.rows(), before);
}

#[test]
fn only_so_many_answers_are_remembered_and_the_oldest_go_first() {
    let mut state = State::new();
    let request = |number: u64| {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&(u64::MAX - number).to_be_bytes());
        RequestId(bytes)
    };
    let count = REQUESTS_KEPT as u64 + 3;
    for number in 1..=count {
        for effect in answered(&state, LogIndex(number), request(number), vec![1]) {
            state.apply(&effect);
        }
    }
    assert_eq!(state.answered_len(), REQUESTS_KEPT);
    assert!(state.answered(&request(3)).is_none());
    assert_eq!(state.answered(&request(4)).unwrap().index, LogIndex(4));
    assert_eq!(state.answered(&request(count)).unwrap().index, LogIndex(count));
}

#[test]
fn secret_versions_count_on_and_the_oldest_go() {
    let mut history = History::new();
    let resource = id("variable:pw");
    let changes = vec![Event::ResourceAdded {
        resource: resource.clone(),
        owner: id("user:admin"),
        policy: Some(id("policy:root")),
    }];
    let load = |changes: Vec<Event>, based_on| Command::LoadPolicy {
        policy: id("policy:root"),
        mode: LoadMode::Update,
        text: String::new(),
        text_sha256: String::new(),
        changes,
        based_on,
    };
    history.carry_out(Actor::Node, load(changes.clone(), Revision(1))).reply.unwrap();
    let revision = history.state.account(&account("demo")).unwrap().revision;
    let set = |value: u8| Command::SetSecret {
        resource: resource.clone(),
        value: Sealed(vec![value]),
        fingerprint: Fingerprint([value; 16]),
    };
    for value in 1..=25 {
        let reply = history.carry_out(Actor::Node, set(value)).reply;
        let version = Version(u32::from(value));
        assert_eq!(reply, Ok(Outcome::SecretSet { version, added: true }));
    }
    let again = history.carry_out(Actor::Node, set(25));
    assert_eq!(again.reply, Ok(Outcome::SecretSet { version: Version(25), added: false }));
    assert_eq!(again.events, []);
    let kept: Vec<u32> =
        history.state.secret(&resource).unwrap().versions.keys().map(|one| one.0).collect();
    assert_eq!(kept.len(), SECRET_VERSIONS_KEPT);
    assert_eq!((kept[0], kept[19]), (6, 25));
    // Values do not move the revision; what loads make does.
    assert_eq!(history.state.account(&account("demo")).unwrap().revision, revision);

    let removal = vec![Event::ResourceRemoved { resource: resource.clone() }];
    let removed = history.carry_out(Actor::Node, load(removal, revision));
    let values = |effect: &&Effect| {
        matches!(effect, Effect::Delete(conclave_domain::effect::RowKey::SecretValue(..)))
    };
    assert_eq!(removed.effects.iter().filter(values).count(), SECRET_VERSIONS_KEPT);
    let revision = history.state.account(&account("demo")).unwrap().revision;
    history.carry_out(Actor::Node, load(changes, revision)).reply.unwrap();
    let reply = history.carry_out(Actor::Node, set(1)).reply;
    assert_eq!(reply, Ok(Outcome::SecretSet { version: Version(1), added: true }));
}

#[test]
fn plans_of_the_api_need_a_privilege_and_keep_to_their_account() {
    let mut history = History::new();
    let needed = |privilege: &str, resource: &str| Need {
        privilege: privilege.to_owned(),
        resource: id(resource),
    };
    let ask = |history: &mut History, actor: &str, needs: Vec<Need>, changes: Vec<Event>| {
        let based_on = history.state.account(&account("demo")).unwrap().revision;
        let account = account("demo");
        let body = Command::ChangeAccount { account, needs, changes, based_on };
        history.carry_out(Actor::Role(id(actor)), body).reply
    };
    let root = || vec![needed("create", "policy:root")];
    let branch = |name: &str| {
        vec![
            Event::RoleAdded { role: id(name), policy: None },
            Event::ResourceAdded { resource: id(name), owner: id("policy:root"), policy: None },
        ]
    };
    assert_eq!(ask(&mut history, "user:admin", root(), branch("policy:app")), Ok(Outcome::Done));
    // Without a privilege, with one that the actor lacks, and from an older state.
    let free = ask(&mut history, "user:admin", Vec::new(), branch("policy:b"));
    assert!(matches!(free, Err(Rejection::Invalid(_))), "{free:?}");
    let stranger = ask(&mut history, "user:eve", root(), branch("policy:b"));
    assert!(matches!(stranger, Err(Rejection::NotFound { .. })), "{stranger:?}");
    let stale = Command::ChangeAccount {
        account: account("demo"),
        needs: root(),
        changes: branch("policy:b"),
        based_on: Revision(1),
    };
    let stale = history.carry_out(Actor::Role(id("user:admin")), stale).reply;
    assert!(matches!(stale, Err(Rejection::Stale { .. })), "{stale:?}");
    // Changes that no route makes, or of what stays.
    for change in [
        Event::RoleAdded { role: id("other:user:eve"), policy: None },
        Event::RoleAdded { role: id("variable:x"), policy: None },
        Event::ResourceRemoved { resource: id("policy:root") },
        Event::OwnerChanged { resource: id("user:admin"), owner: id("policy:app") },
        Event::ApiKeyRotated { role: id("user:admin"), key: api_key(1) },
        Event::PasswordChanged { role: id("user:admin"), password_hash: String::new() },
        Event::AuthenticatorToggled { webservice: id("policy:app"), enabled: true },
        Event::HostFactoryTokenRevoked { digest: Digest([4; 32]) },
        Event::MemberRemoved { node: 1 },
        Event::IssuerRemoved {
            key: IssuerKey { account: account("other"), issuer: "aws".to_owned() },
        },
    ] {
        let reply = ask(&mut history, "user:admin", root(), vec![change.clone()]);
        assert!(matches!(reply, Err(Rejection::Invalid(_))), "{change:?}: {reply:?}");
    }
}

#[test]
fn malformed_plans_are_refused() {
    let mut history = History::new();
    let policy = Some(id("policy:root"));
    let malformed = [
        Event::RoleAdded { role: id("other:user:eve"), policy: policy.clone() },
        Event::RoleAdded { role: id("user:eve"), policy: None },
        Event::RoleAdded { role: id("variable:eve"), policy: policy.clone() },
        Event::ResourceRemoved { resource: id("other:variable:x") },
        Event::PasswordChanged { role: id("user:admin"), password_hash: String::new() },
        Event::ApiKeyRotated { role: id("user:admin"), key: api_key(1) },
        Event::MemberRemoved { node: 1 },
        Event::AccountDeleted { account: account("demo") },
        Event::SecretVersionAdded {
            resource: id("variable:pw"),
            version: Version(1),
            fingerprint: Fingerprint([0; 16]),
            value: Some(Sealed(vec![1])),
        },
    ];
    for change in malformed {
        let body = support::load_of(change.clone()).body;
        let reply = history.carry_out(Actor::Node, body).reply;
        assert!(matches!(reply, Err(Rejection::Invalid(_))), "{change:?}: {reply:?}");
    }
}

#[test]
fn join_tokens_admit_once_and_only_whom_they_name() {
    use conclave_domain::records::FOUNDER;
    use conclave_domain::records::MemberRole::{Follower, Voter};
    let mut history = History::new();
    let admit = |token: Option<u8>, member: conclave_domain::records::Member| {
        Command::AdmitMember { token: token.map(|seed| Digest([seed; 32])), member }
    };
    let first = history.carry_out(Actor::Node, admit(None, support::member("one", Voter)));
    assert_eq!(first.reply, Ok(Outcome::MemberAdmitted { node: FOUNDER }));
    let refused = |history: &mut History, token, member| {
        let reply = history.carry_out(Actor::Node, admit(token, member)).reply;
        match reply {
            Err(Rejection::JoinTokenRefused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let without = refused(&mut history, None, support::member("second", Voter));
    assert_eq!(without, "only the first member of a cluster needs none");

    let token = support::join_token("second");
    let issue = Command::IssueJoinToken { digest: Digest([3; 32]), token };
    history.carry_out(Actor::Node, issue).reply.unwrap();
    let second = || support::member("second", Follower);
    assert_eq!(refused(&mut history, Some(4), second()), "unknown or already used");
    assert_eq!(
        refused(&mut history, Some(3), support::member("third", Follower)),
        "issued for the node \"second\""
    );
    assert_eq!(
        refused(&mut history, Some(3), support::member("second", Voter)),
        "issued for a follower"
    );
    let admitted = history.carry_out(Actor::Node, admit(Some(3), second())).reply;
    assert!(matches!(admitted, Ok(Outcome::MemberAdmitted { .. })));
    // The answer may have been lost: the same node, by its key, is told the same again.
    assert_eq!(history.carry_out(Actor::Node, admit(Some(3), second())).reply, admitted);
    let thief = conclave_domain::records::Member { node_key: [9; 32], ..second() };
    assert_eq!(refused(&mut history, Some(3), thief), "unknown or already used");
    let last = history.carry_out(Actor::Node, Command::RemoveMemberNode { node: FOUNDER }).reply;
    assert!(matches!(last, Err(Rejection::Invalid(_))), "{last:?}");
}

#[test]
fn a_bound_join_token_admits_from_its_networks_only_and_is_not_used_up_by_others() {
    let mut history = History::new();
    let founder = support::member("one", MemberRole::Voter);
    history
        .carry_out(Actor::Node, Command::AdmitMember { token: None, member: founder })
        .reply
        .unwrap();
    let digest = Digest([3; 32]);
    let token = support::bound_join_token("two");
    let crowd = vec![token.cidr[0]; JOIN_CIDRS_MAX + 1];
    let crowded = JoinToken { cidr: crowd, ..token.clone() };
    let issue = |token| Command::IssueJoinToken { digest, token };
    let refused = history.carry_out(Actor::Node, issue(crowded)).reply;
    assert!(matches!(&refused, Err(Rejection::Invalid(why)) if why.contains("33 address ranges")));
    history.carry_out(Actor::Node, issue(token)).reply.unwrap();

    let mut from = |number: u8, client_ip: &str| {
        let member = support::member("two", MemberRole::Follower);
        let envelope = Envelope {
            request_id: RequestId([number; 16]),
            client_ip: client_ip.to_owned(),
            actor: Actor::Node,
            ..envelope(Command::AdmitMember { token: Some(digest), member })
        };
        execute(&mut history.state, LogIndex(100 + u64::from(number)), &envelope).reply
    };
    for (number, address) in ["10.0.1.1", "::1", "", "nonsense"].into_iter().enumerate() {
        let refused = from(u8::try_from(number).unwrap(), address);
        let Err(Rejection::JoinTokenRefused(why)) = &refused else { panic!("{refused:?}") };
        let shown = if address.is_empty() { "an unknown address" } else { address };
        assert_eq!(*why, format!("issued for 10.0.0.0/24, 2001:db8::/32, and this is {shown}"));
    }
    let admitted = from(9, "2001:db8::7");
    assert_eq!(admitted, Ok(Outcome::MemberAdmitted { node: 109 }));
}

#[test]
fn what_is_sealed_anew_is_still_the_one_that_was_meant() {
    let mut history = History::new();
    let mut reseal = |at: SealedAt| {
        let values = vec![Resealed { at, sealed: Sealed(vec![42]) }];
        let execution = history.carry_out(Actor::Node, Command::Reseal { values });
        assert_eq!(execution.reply, Ok(Outcome::Done));
        let account = history.state.account(&account("demo")).unwrap();
        let credential = history.state.credential(&id("user:admin")).unwrap();
        [&account.signing_key.private, &credential.api_key].map(|one| one.0 == [42])
    };
    let (demo, admin) = (account("demo"), id("user:admin"));
    assert_eq!(reseal(SealedAt::SigningKey(demo.clone(), "k0".to_owned())), [false, false]);
    assert_eq!(reseal(SealedAt::SigningKey(demo, "k1".to_owned())), [true, false]);
    assert_eq!(reseal(SealedAt::ApiKey(admin.clone(), api_key(2).digest)), [true, false]);
    assert_eq!(reseal(SealedAt::ApiKey(admin.clone(), api_key(1).digest)), [true, true]);
    let never_set = SealedAt::Secret(id("variable:v"), Version(1), Fingerprint([0; 16]));
    assert_eq!(reseal(never_set), [true, true]);

    let one = Resealed { at: SealedAt::ApiKey(admin, api_key(1).digest), sealed: Sealed(vec![1]) };
    let values = vec![one; RESEALED_AT_ONCE_MAX + 1];
    let reply = history.carry_out(Actor::Node, Command::Reseal { values }).reply;
    assert!(matches!(reply, Err(Rejection::Invalid(_))), "{reply:?}");
}

#[test]
fn data_keys_come_one_after_the_other() {
    let mut history = History::new();
    let mut install = |generation| {
        let keyring = WrappedKeyring { generation, wrapped: Sealed(vec![1]) };
        history.carry_out(Actor::Node, Command::InstallKeyring { keyring }).reply.is_ok()
    };
    assert_eq!(
        [1, 1, 3, 2, 2, 1, 3].map(&mut install),
        [true, false, false, true, false, false, true]
    );
}

#[test]
fn a_role_issues_seeds_for_followers_once_the_cluster_knows_of_it_and_levels_only_rise() {
    let mut history = History::new();
    let change = |at: u64, changes| Command::LoadPolicy {
        policy: id("policy:root"),
        mode: LoadMode::Append,
        text: String::new(),
        text_sha256: String::new(),
        changes,
        based_on: Revision(at),
    };
    let service = id("webservice:conjur/seed-generation");
    let owner = id("user:admin");
    let policy = Some(id("policy:root"));
    let revision = history.state.account(&account("demo")).unwrap().revision.0;
    let added = Event::ResourceAdded { resource: service, owner, policy };
    history.carry_out(Actor::Role(id("user:admin")), change(revision, vec![added])).reply.unwrap();
    let issue = |history: &mut History, number: u8, role| {
        let expires_at = Timestamp(i64::MAX);
        let token = JoinToken { name: format!("f{number}"), role, expires_at, cidr: Vec::new() };
        let command = Command::IssueJoinToken { digest: Digest([number; 32]), token };
        history.carry_out(Actor::Role(id("user:admin")), command).reply
    };
    // Below the level a role is answered as it ever was.
    let early = issue(&mut history, 1, MemberRole::Follower);
    assert!(
        matches!(&early, Err(Rejection::Invalid(why)) if why.contains("operator")),
        "{early:?}"
    );
    let mut raise =
        |to| history.carry_out(Actor::Node, Command::RaiseLevel { level: to }).reply.is_ok();
    assert_eq!([1, 1, 0, 2].map(&mut raise), [true, false, false, true]);
    assert_eq!(history.state.level(), 2);
    assert_eq!(issue(&mut history, 2, MemberRole::Follower), Ok(Outcome::Done));
    let voter = issue(&mut history, 3, MemberRole::Voter);
    assert!(
        matches!(&voter, Err(Rejection::Invalid(why)) if why.contains("followers")),
        "{voter:?}"
    );
    let stranger = Command::IssueJoinToken {
        digest: Digest([4; 32]),
        token: JoinToken {
            name: "f4".to_owned(),
            role: MemberRole::Follower,
            expires_at: Timestamp(i64::MAX),
            cidr: Vec::new(),
        },
    };
    let stranger = history.carry_out(Actor::Role(id("host:nobody")), stranger).reply;
    assert!(matches!(stranger, Err(Rejection::NotFound { .. })), "{stranger:?}");
}

#[test]
fn only_the_operator_touches_members_and_keys() {
    let history = History::new();
    for envelope in envelopes() {
        let operator_only = matches!(
            envelope.body,
            Command::InstallKeyring { .. }
                | Command::IssueJoinToken { .. }
                | Command::AdmitMember { .. }
                | Command::RemoveMemberNode { .. }
                | Command::SweepHostFactoryTokens
                | Command::RotateSecret { .. }
                | Command::AppendAudit { .. }
                | Command::ChainAudit { .. }
                | Command::CheckpointAudit { .. }
                | Command::TrimAudit { .. }
                | Command::InstallCertificates { .. }
                | Command::MarkCertificate { .. }
                | Command::RetireCertificate { .. }
                | Command::Reseal { .. }
                | Command::RefoundCluster { .. }
                | Command::RaiseLevel { .. }
        );
        let asked = Envelope { actor: Actor::Role(id("user:admin")), ..envelope };
        let decision = decide(&history.state, LogIndex(9), &asked);
        let refused = matches!(&decision, Err(Rejection::Invalid(why)) if why.contains("operator"));
        assert_eq!(refused, operator_only, "{decision:?}");
        let about_accounts =
            matches!(asked.body, Command::CreateAccount { .. } | Command::DeleteAccount { .. });
        if about_accounts {
            // Only who holds a right over accounts as such.
            assert!(matches!(decision, Err(Rejection::Forbidden { .. })), "{decision:?}");
        }
    }
}

/// A chain as nodes' batches made it: numbers, records, and where it ends.
fn audit_chain(batches: &[(u8, usize, usize)]) -> (Vec<(u64, AuditRecord)>, State) {
    let mut history = History::new();
    let member = support::member("one", MemberRole::Voter);
    history.carry_out(Actor::Node, Command::AdmitMember { token: None, member }).reply.unwrap();
    let mut chain = Vec::new();
    for (what, back, count) in batches {
        let known = history.state.audit_source(1);
        let head = history.state.audit_head();
        let body = if *what == 0 && head.last > head.checkpointed {
            let checkpoint =
                AuditCheckpoint { number: head.last, hash: head.hash, ..support::checkpoint() };
            Command::CheckpointAudit { checkpoint }
        } else {
            // Sent again from some way back, or with some lost, or both at once out of order.
            let first = (known + 1).saturating_sub(*back as u64).max(1);
            let first = if *what == 1 { known + 3 } else { first };
            let text = |n: usize| format!("{{\"seq\":{}}}", first + n as u64);
            let lost = if *what == 1 { 2 } else { 0 };
            let texts = AuditTexts::packed(&(0..*count).map(text).collect::<Vec<_>>());
            Command::ChainAudit { node: 1, first, lost, texts }
        };
        for effect in history.carry_out(Actor::Node, body).effects {
            if let Effect::Put(row) = effect
                && let Row::AuditBlock(last, block) = *row
            {
                chain.extend(block.records(last));
            }
        }
    }
    (chain, history.state)
}

/// Walks a chain; answers the first record that is not as it was.
fn first_bad(chain: &[(u64, AuditRecord)], state: &State) -> Result<(), u64> {
    let head = state.audit_head();
    let mut verifier = ChainVerifier::new(head.first, head.base);
    let walked = chain.iter().try_for_each(|(number, record)| {
        verifier.take(*number, record, |_| true).map_err(|broken| broken.number)
    });
    walked.and_then(|()| verifier.finish(head.last, &head.hash).map_err(|broken| broken.number))
}

fn batches() -> impl Strategy<Value = Vec<(u8, usize, usize)>> {
    prop::collection::vec((0_u8..8, 0_usize..5, 1_usize..6), 3..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_an_audit_chain_is_found_where_it_was_done(
        batches in batches(),
        what in 0_u8..8,
        at in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
    ) {
        let (mut chain, state) = audit_chain(&batches);
        prop_assert_eq!(first_bad(&chain, &state), Ok(()));
        let at = at.index(chain.len());
        let number = chain[at].0;
        let mut expected = number;
        let record = &mut chain[at].1;
        match what {
            0 => {
                let place = other.index(record.text.len());
                let mut bytes = record.text.clone().into_bytes();
                bytes[place] ^= 1;
                record.text = String::from_utf8(bytes).unwrap();
            }
            1 => record.node ^= 1 << other.index(64),
            2 => record.sequence ^= 1 << other.index(64),
            3 => record.hash.0[other.index(32)] ^= 0x80,
            4 => {
                chain.remove(at);
            }
            5 => chain.truncate(at),
            6 => {
                let second = other.index(chain.len());
                if second == at {
                    return Ok(());
                }
                chain.swap(at, second);
                expected = number.min(chain[at].0);
            }
            _ => {
                let again = chain[at].clone();
                chain.insert(at + 1, again);
                expected = number + 1;
            }
        }
        prop_assert_eq!(first_bad(&chain, &state), Err(expected));
    }

    #[test]
    fn an_audit_chain_has_each_record_once(batches in batches()) {
        let (chain, state) = audit_chain(&batches);
        let mut last = 0;
        for (_, record) in chain.iter().filter(|(_, record)| record.node == 1) {
            if is_gap(&record.text) {
                prop_assert_eq!(record.sequence, last + 2);
            } else {
                prop_assert_eq!(record.sequence, last + 1);
                prop_assert_eq!(&record.text, &format!("{{\"seq\":{}}}", record.sequence));
            }
            last = record.sequence;
        }
        prop_assert_eq!(last, state.audit_source(1));
        prop_assert_eq!(chain.len() as u64, state.audit_head().last);
    }
}
