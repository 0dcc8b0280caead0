//! What holds of every policy text: no text is too odd to be answered, none is too greedy to be
//! refused in time, a second load changes nothing, and no load leaves a row that hangs in the air.

use std::fmt::Write as _;

use conclave_domain::command::LoadMode;
use conclave_domain::effect::Row;
use conclave_domain::id::Id;
use conclave_domain::policy::effective::{Bounds, effective, to_yaml};
use conclave_domain::policy::{ParseRejection, PolicyError, ResolveRejection, limits};
use conclave_domain::state::State;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::world::{World, id, short};

const MODES: [LoadMode; 3] = [LoadMode::Append, LoadMode::Update, LoadMode::Replace];
const POLICIES: [&str; 3] = ["root", "a", "a/b"];

/// Pieces that texts of policies are made of, and some that break them.
const PIECES: [&str; 62] = [
    "- ",
    "\n- ",
    "\n  ",
    "\n    ",
    "\n",
    " ",
    "!user",
    "!host",
    "!group",
    "!layer",
    "!policy",
    "!variable",
    "!webservice",
    "!host-factory",
    "!grant",
    "!permit",
    "!revoke",
    "!deny",
    "!delete",
    "!member",
    "!role",
    "!resource",
    "!!str",
    "!",
    "id: ",
    "owner: ",
    "body:",
    "annotations:",
    "restricted_to: ",
    "role: ",
    "roles: ",
    "member: ",
    "members: ",
    "privilege: ",
    "resource: ",
    "record: ",
    "layers: ",
    "kind: ",
    "admin: ",
    "public_key: ",
    "account: ",
    "alice",
    "a/b",
    "../x",
    "/y",
    "..",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    "&x ",
    "*x",
    "'",
    "\"",
    "10.0.0.0/8",
    "yes",
    "---\n",
    "|",
    "é",
    "\t",
];

fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => vec(select(PIECES.as_slice()), 0..60).prop_map(|pieces| pieces.concat()),
        1 => ".{0,120}",
        1 => "[ -~\n]{0,200}",
    ]
}

/// A record's kind and place among a few, so that texts meet each other's records.
fn record() -> impl Strategy<Value = (&'static str, &'static str)> {
    (
        select(["user", "host", "group", "layer", "policy", "variable", "webservice"].as_slice()),
        select(["a", "b", "c", "a/b", "a/c"].as_slice()),
    )
}

fn role() -> impl Strategy<Value = (&'static str, &'static str)> {
    record().prop_filter("a role", |(kind, _)| !matches!(*kind, "variable" | "webservice"))
}

/// A statement, written as one line.
fn statement() -> impl Strategy<Value = String> {
    let owner = || prop::option::weighted(0.3, role());
    prop_oneof![
        6 => (record(), owner(), 0..4u8).prop_map(|((kind, name), owner, extra)| {
            let mut text = format!("!{kind} {{ id: {name}");
            if let Some((kind, name)) = owner {
                write!(text, ", owner: !{kind} {name}").unwrap();
            }
            if extra & 1 != 0 {
                write!(text, ", annotations: {{ n{extra}: v{extra} }}").unwrap();
            }
            if extra & 2 != 0 && matches!(kind, "user" | "host") {
                write!(text, ", restricted_to: 10.{extra}.0.0/16").unwrap();
            }
            text + " }"
        }),
        2 => (role(), role(), any::<bool>()).prop_map(|((k, n), (mk, mn), admin)| {
            format!("!grant {{ role: !{k} {n}, member: {{ role: !{mk} {mn}, admin: {admin} }} }}")
        }),
        2 => (role(), record()).prop_map(|((k, n), (rk, rn))| {
            format!("!permit {{ role: !{k} {n}, privilege: [ read, go ], resource: !{rk} {rn} }}")
        }),
    ]
}

fn deletion() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => record().prop_map(|(k, n)| format!("!delete {{ record: !{k} {n} }}")),
        1 => (role(), role()).prop_map(|((k, n), (mk, mn))| {
            format!("!revoke {{ role: !{k} {n}, member: !{mk} {mn} }}")
        }),
        1 => (role(), record()).prop_map(|((k, n), (rk, rn))| {
            format!("!deny {{ role: !{k} {n}, privilege: read, resource: !{rk} {rn} }}")
        }),
    ]
}

/// A text of statements; each record that another statement names comes before it or not at all.
fn text(with_deletions: bool) -> impl Strategy<Value = String> {
    let deletions = if with_deletions { 0..3usize } else { 0..1 };
    (vec(statement(), 0..12), vec(deletion(), deletions)).prop_map(|(statements, deletions)| {
        let mut text = String::new();
        for line in statements.iter().chain(&deletions) {
            writeln!(text, "- {line}").unwrap();
        }
        if text.is_empty() { "--- []\n".to_owned() } else { text }
    })
}

/// Drops statements until the text is taken, so that most texts do something.
fn load_what_fits(world: &mut World, policy: &str, mode: LoadMode, text: &str) -> Option<String> {
    let policy = id(&format!("policy:{policy}"));
    world.state.resource(&policy)?;
    let mut lines: Vec<&str> = text.lines().collect();
    loop {
        let text = if lines.is_empty() { "--- []".to_owned() } else { lines.join("\n") };
        match world.load(&policy, mode, &text) {
            Ok(_) => return Some(text),
            Err(error) => {
                let line = error.place().map_or(lines.len(), |place| place.line as usize);
                if lines.is_empty() {
                    return None;
                }
                lines.remove(line.clamp(1, lines.len()) - 1);
            }
        }
    }
}

/// A world with policies to load into.
fn two_policies() -> World {
    let mut world = World::new();
    let text = "- !policy a\n- !policy a/b\n";
    world.load(&id("policy:root"), LoadMode::Append, text).unwrap();
    world
}

/// Every row's ends are there, and every user and host has its credentials.
fn hangs_together(state: &State) -> Result<(), String> {
    let role = |id: &Id, row: &Row| match state.role(id) {
        Some(_) => Ok(()),
        None => Err(format!("no role {} for {row:?}", short(id))),
    };
    let resource = |id: &Id, row: &Row| match state.resource(id) {
        Some(_) => Ok(()),
        None => Err(format!("no resource {} for {row:?}", short(id))),
    };
    for row in state.rows() {
        let policy = match &row {
            Row::Role(id, record) => {
                resource(id, &row)?;
                if id.kind().has_credentials() && state.credential(id).is_none() {
                    return Err(format!("no credentials for {}", short(id)));
                }
                record.policy.clone()
            }
            Row::Resource(id, record) => {
                role(&record.owner, &row)?;
                if id.kind().is_role() {
                    role(id, &row)?;
                }
                record.policy.clone()
            }
            Row::Membership(key, record) => {
                role(&key.role, &row)?;
                role(&key.member, &row)?;
                let owner = state.resource(&key.role).map(|resource| &resource.owner);
                if key.ownership && owner != Some(&key.member) {
                    return Err(format!("no owner: {row:?}"));
                }
                record.policy.clone()
            }
            Row::Permission(key, record) => {
                resource(&key.resource, &row)?;
                role(&key.role, &row)?;
                record.policy.clone()
            }
            Row::Annotation(id, _, record) => {
                resource(id, &row)?;
                record.policy.clone()
            }
            Row::Credential(id, _) => {
                role(id, &row)?;
                None
            }
            _ => None,
        };
        if let Some(policy) = policy {
            resource(&policy, &row)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_text_gets_an_answer(text in odd_text(), mode in select(MODES.as_slice())) {
        let mut world = World::new();
        match world.load(&id("policy:root"), mode, &text) {
            Ok(_) => {}
            Err(PolicyError::EmptyText) => prop_assert!(text.trim().is_empty()),
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                let lines = u32::try_from(text.split(['\n', '\r']).count()).unwrap();
                // One past the last line is where a text ends.
                prop_assert!(error.place().is_none_or(|at| (1..=lines + 1).contains(&at.line)));
            }
        }
        prop_assert_eq!(hangs_together(&world.state), Ok(()));
    }

    #[test]
    fn a_second_load_changes_nothing(
        before in vec((select(POLICIES.as_slice()), select(MODES.as_slice()), text(true)), 0..4),
        policy in select(POLICIES.as_slice()),
        mode in select(MODES.as_slice()),
        text in text(false),
    ) {
        let mut world = two_policies();
        for (policy, mode, text) in before {
            load_what_fits(&mut world, policy, mode, &text);
        }
        if let Some(text) = load_what_fits(&mut world, policy, mode, &text) {
            let again = world.plan(&id(&format!("policy:{policy}")), mode, &text).unwrap();
            prop_assert_eq!(&again.changes, &[], "{}", text);
            prop_assert_eq!(&again.credentials, &[]);
        }
    }

    #[test]
    fn the_policy_in_force_loads_again_and_changes_nothing(
        loads in vec((select(POLICIES.as_slice()), select(MODES.as_slice()), text(true)), 1..6),
    ) {
        let mut world = two_policies();
        for (policy, mode, text) in loads {
            load_what_fits(&mut world, policy, mode, &text);
        }
        for (policy, parent, modes) in [
            ("root", "root", &MODES[..]),
            // A replace would take away what stands beside it.
            ("a", "root", &MODES[..2]),
            ("a/b", "a", &MODES[..2]),
        ] {
            let (policy, parent) =
                (id(&format!("policy:{policy}")), id(&format!("policy:{parent}")));
            if world.state.resource(&policy).is_none() || world.state.resource(&parent).is_none() {
                continue;
            }
            let nodes = effective(&world.state, &policy, Bounds::default()).unwrap();
            let text = to_yaml(&nodes);
            for mode in modes {
                let plan = match world.plan(&parent, *mode, &text) {
                    // Two loads can make roles own each other, which no one text can say.
                    Err(PolicyError::Resolve { rejection: ResolveRejection::Cycle(..), .. }) => {
                        continue;
                    }
                    plan => plan,
                };
                let plan = plan.map_err(|error| {
                    TestCaseError::fail(format!("{error} {:?}\n{text}", error.place()))
                })?;
                prop_assert_eq!(&plan.changes, &[], "{:?} {}\n{}", mode, policy, text);
                prop_assert_eq!(&plan.credentials, &[], "{:?} {}\n{}", mode, policy, text);
            }
            if policy == parent {
                let mut fresh = World::new();
                if fresh.load(&parent, LoadMode::Append, &text).is_ok() {
                    let again = effective(&fresh.state, &policy, Bounds::default()).unwrap();
                    prop_assert_eq!(to_yaml(&again), text);
                }
            }
        }
    }

    #[test]
    fn any_words_survive_the_policy_in_force(words in vec("\\PC{1,12}|[ -~]{1,12}|.{1,12}", 1..4)) {
        let mut text = String::new();
        for (at, word) in words.iter().enumerate() {
            let word = word.replace(['\\', '"', '\n', '\r', '\0'], "~").replace("..", "--");
            let word: String = word.chars().filter(|c| !c.is_control()).collect();
            writeln!(text, "- !variable {{ id: \"v{at}{word}\", annotations: {{ \"{word}-\": \"{word}\" }} }}")
                .unwrap();
        }
        let mut world = World::new();
        let root = id("policy:root");
        if world.load(&root, LoadMode::Append, &text).is_ok() {
            let nodes = effective(&world.state, &root, Bounds::default()).unwrap();
            let again = to_yaml(&nodes);
            let plan = world.plan(&root, LoadMode::Replace, &again);
            let plan = plan.map_err(|error| TestCaseError::fail(format!("{error}\n{again}")))?;
            prop_assert_eq!(plan.changes, vec![], "{}", again);
        }
    }

    #[test]
    fn no_load_leaves_a_row_in_the_air(
        loads in vec((select(POLICIES.as_slice()), select(MODES.as_slice()), text(true)), 1..8),
    ) {
        let mut world = two_policies();
        for (policy, mode, text) in loads {
            if let Some(text) = load_what_fits(&mut world, policy, mode, &text) {
                let verdict = hangs_together(&world.state);
                prop_assert_eq!(verdict, Ok(()), "{:?} {} {}", mode, policy, text);
            }
        }
    }

    #[test]
    fn replace_leaves_what_a_fresh_load_would_make(
        first in text(false),
        second in text(false),
    ) {
        let (mut replaced, mut fresh) = (World::new(), World::new());
        load_what_fits(&mut replaced, "root", LoadMode::Replace, &first);
        let text = load_what_fits(&mut replaced, "root", LoadMode::Replace, &second).unwrap();
        fresh.load(&id("policy:root"), LoadMode::Append, &text).unwrap();
        prop_assert_eq!(replaced.rows(), fresh.rows(), "{}\n{}", first, text);
    }
}

fn refused(text: &str) -> ParseRejection {
    match World::new().plan(&id("policy:root"), LoadMode::Append, text) {
        Err(PolicyError::Parse { rejection, .. }) => rejection,
        other => panic!("not refused by the parser: {other:?}"),
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "- &a0 [ !variable v ]\n".to_owned();
    for level in 1..30 {
        let alias = format!("*a{}", level - 1);
        writeln!(text, "- &a{level} [ {} ]", [alias.as_str(); 10].join(", ")).unwrap();
    }
    let multiplied =
        |rejection| matches!(rejection, ParseRejection::AliasesMultiply(100_000..102_000));
    assert!(multiplied(refused(&text)));
    // The same where values are expected.
    let mut lines: Vec<String> = text.lines().map(|line| line.replace("- &", "  - &")).collect();
    lines.insert(0, "- !permit\n  privileges:".to_owned());
    let text = lines.join("\n").replace("!variable v", "read");
    assert!(multiplied(refused(&text)));
}

#[test]
fn a_list_that_is_named_once_and_used_by_hundreds_is_no_bomb() {
    let mut text = "- &secrets
"
    .to_owned();
    for number in 0..100 {
        writeln!(text, "  - !variable v{number}").unwrap();
    }
    for number in 0..400 {
        let group = format!("group g{number}");
        writeln!(
            text,
            "- !{group}\n- !permit\n  role: !{group}\n  privilege: read\n  resource: *secrets"
        )
        .unwrap();
    }
    World::new().plan(&id("policy:root"), LoadMode::Append, &text).unwrap();
}

#[test]
fn lists_that_multiply_are_refused() {
    let names =
        |tag: &str| (0..1_000).map(|n| format!("!{tag} {tag}{n}")).collect::<Vec<_>>().join(", ");
    let text =
        format!("- !grant\n  roles: [ {} ]\n  members: [ {} ]\n", names("group"), names("user"));
    assert_eq!(refused(&text), ParseRejection::TooManyRows);
}

#[test]
fn deep_nesting_is_refused() {
    let levels = 100_000;
    let lists = "- ".repeat(levels);
    let flow = "[".repeat(levels);
    let mappings = "{a: ".repeat(levels);
    for text in [lists, format!("- {flow}"), format!("- {mappings}")] {
        assert_eq!(refused(&text), ParseRejection::TooDeep);
    }
    let mut policies = String::new();
    for level in 0..limits::DEPTH_MAX {
        let indent = "  ".repeat(level);
        writeln!(policies, "{indent}- !policy\n{indent}  id: p\n{indent}  body:").unwrap();
    }
    assert_eq!(refused(&policies), ParseRejection::TooDeep);
}

#[test]
fn nesting_within_bounds_is_taken() {
    let nested = |levels: usize| {
        let mut text = String::new();
        for level in 0..levels {
            let indent = "  ".repeat(level);
            writeln!(text, "{indent}- !policy\n{indent}  id: p\n{indent}  body:").unwrap();
        }
        writeln!(text, "{}- !user u", "  ".repeat(levels)).unwrap();
        text
    };
    let text = nested(limits::DEPTH_MAX / 2 - 1);
    let plan = World::new().plan(&id("policy:root"), LoadMode::Append, &text).unwrap();
    assert_eq!(plan.credentials.len(), 1);
    // An alias adds the depth of what it names to its own.
    let deep = limits::DEPTH_MAX - 10;
    let text = format!(
        "- &a {}!user u{}\n- {}*a{}\n",
        "[".repeat(deep),
        "]".repeat(deep),
        "[".repeat(deep),
        "]".repeat(deep)
    );
    assert_eq!(refused(&text), ParseRejection::TooDeep);
}

#[test]
fn long_texts_and_values_are_refused() {
    assert_eq!(refused(&" x".repeat(limits::TEXT_BYTES_MAX)), ParseRejection::TooLong);
    let value = "x".repeat(limits::SCALAR_BYTES_MAX + 1);
    let text = format!("- !user\n  id: u\n  annotations: {{ a: {value} }}");
    assert_eq!(refused(&text), ParseRejection::ScalarTooLong);
    let id_too_long = format!("- !user {}", "x".repeat(5_000));
    let error = World::new().plan(&id("policy:root"), LoadMode::Append, &id_too_long).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn a_chain_of_owners_may_be_as_long_as_the_text() {
    let mut text = String::new();
    for n in 0..20_000 {
        writeln!(text, "- !group {{ id: g{n}, owner: !group g{} }}", n + 1).unwrap();
    }
    writeln!(text, "- !group g20000").unwrap();
    let plan = World::new().plan(&id("policy:root"), LoadMode::Append, &text).unwrap();
    assert_eq!(plan.changes.len(), 2 * 20_001);
}
