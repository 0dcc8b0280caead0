//! Short texts that would become huge, and long ones that say nothing: none takes much memory.
//!
//! Memory is that of this process, which does nothing else, as the kernel counts it (`VmHWM`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;

use conclave_domain::command::{Actor, Command, Envelope, LoadMode};
use conclave_domain::evolve::execute;
use conclave_domain::id::{AccountName, Id};
use conclave_domain::policy::{LoadRequest, Rules, plan};
use conclave_domain::records::{Digest, NewApiKey, RequestId, Sealed, SigningKey};
use conclave_domain::state::State;
use conclave_domain::time::{LogIndex, Timestamp};

/// What reading may take beside the text itself.
const KIB_MAX: u64 = 64 << 10;

/// Aliases of aliases, each level ten of the one before.
fn aliases(item: &str, levels: usize) -> String {
    let mut text = format!("- &a0 [ {item} ]\n");
    for level in 1..levels {
        let alias = format!("*a{}", level - 1);
        writeln!(text, "- &a{level} [ {} ]", [alias.as_str(); 10].join(", ")).unwrap();
    }
    text
}

fn names(tag: &str, count: usize) -> String {
    (0..count).map(|n| format!("!{tag} {tag}{n}")).collect::<Vec<_>>().join(", ")
}

/// A name, and what makes the text.
type Bomb = (&'static str, fn() -> String);

const BOMBS: [Bomb; 13] = [
    ("aliases of records", || aliases("!variable v", 30)),
    ("aliases of values", || {
        format!("- !permit\n  privileges:\n{}", aliases("read", 30).replace("- &", "  - &"))
    }),
    ("lists that multiply", || {
        let (groups, users) = (names("group", 1000), names("user", 1000));
        format!("- !grant\n  roles: [ {groups} ]\n  members: [ {users} ]\n")
    }),
    ("nested lists", || "[".repeat(1 << 20)),
    ("nested pairs", || "{a: ".repeat(1 << 18)),
    ("nested blocks", || "- ".repeat(1 << 19)),
    ("keys of keys", || "? ".repeat(1 << 19)),
    ("one long value", || format!("- !variable {}", "v".repeat(2 << 20))),
    ("one long tag", || format!("- !{} v", "t".repeat(2 << 20))),
    ("one long anchor", || format!("- &{} !variable v", "a".repeat(2 << 20))),
    ("comments", || "#\n".repeat(1 << 20)),
    ("documents", || "---\n".repeat(1 << 20)),
    ("blank lines in quotes", || format!("- \"{}\"", "\n".repeat(2 << 20))),
];

/// The most memory that this process has had, in KiB.
fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// A state with an account, into which policies can be planned.
fn world() -> State {
    let mut state = State::new();
    let account = AccountName::new("acct").unwrap();
    let signing_key = SigningKey { id: "k".into(), public: vec![1], private: Sealed(vec![2]) };
    let admin_key = NewApiKey { sealed: Sealed(vec![3]), digest: Digest([4; 32]) };
    let envelope = Envelope {
        request_id: RequestId([0; 16]),
        actor: Actor::Node,
        at: Timestamp(0),
        client_ip: String::new(),
        body: Command::CreateAccount { account, signing_key, admin_key },
    };
    execute(&mut state, LogIndex(1), &envelope).reply.unwrap();
    state
}

#[test]
fn no_text_takes_much_memory() {
    let state = world();
    let policy = Id::parse("acct:policy:root", None).unwrap();
    let actor = Id::parse("acct:user:admin", None).unwrap();
    for (name, text) in BOMBS {
        let text = text();
        // The high-water mark begins anew (proc(5)).
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = high_water();
        let (mode, rules) = (LoadMode::Append, Rules::default());
        let request = LoadRequest { policy: &policy, mode, text: &text, actor: &actor, rules };
        let answer = plan(&state, &request);
        let kib = high_water() - before;
        let answer = answer.err().map_or_else(|| "taken".to_owned(), |error| error.to_string());
        println!("{name}: {kib} KiB for {} bytes: {answer:.100}", text.len());
        assert!(kib <= KIB_MAX, "{name} took {kib} KiB: {answer:.100}");
    }
}
