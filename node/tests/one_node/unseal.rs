//! The ways to a node's master key, on real processes: what opens again by itself after a restart, what
//! waits for a person or for an HSM and says so meanwhile, and the change from one way to another.

use std::process::{Command, Stdio};

use crate::node::{Node, get};
use crate::package::package;

pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
pub(crate) const PIN: &str = "471108";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A token of Debian's SoftHSM in the node's folder.
pub(crate) fn token(node: &Node) {
    let why = "this test keeps a master key in an HSM";
    package("softhsm2", &["softhsm2-util", "--version"], why);
    let tokens = node.path("tokens");
    std::fs::create_dir_all(&tokens).unwrap();
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(node.path("softhsm2.conf"), text).unwrap();
    let mut util = Command::new("softhsm2-util");
    util.args(["--init-token", "--free", "--label", "conclave", "--pin", PIN, "--so-pin", "4711"]);
    util.env("SOFTHSM2_CONF", node.path("softhsm2.conf")).stdout(Stdio::null());
    assert!(util.status().unwrap().success());
}

pub(crate) fn hex_key() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    conclave::folder::hex(&bytes)
}

pub(crate) fn by_hsm(pin_file: &str) -> String {
    format!(
        "[unseal]\nby = \"pkcs11\"\nmodule = \"{MODULE}\"\ntoken = \"conclave\"\nkey = \"n1\"\n\
         file = \"{pin_file}\"\n"
    )
}

/// Founds, starts, kills and starts again, with nobody there.
fn comes_back(node: &mut Node, secrets: &[&str]) {
    node.done(&["cluster", "init", "--account", "acme"]);
    for _ in 0..2 {
        node.start();
        node.serves();
        let status = node.done(&["keys", "status"]);
        assert!(status.contains("unseal     "), "{status}");
        node.kill();
    }
    for secret in secrets {
        node.holds_nowhere(secret);
    }
}

#[test]
fn restart_without_a_human_to_unseal() {
    let key = hex_key();
    // Each in a thread of its own, since they wait most of the time.
    std::thread::scope(|ways| {
        ways.spawn(|| {
            let mut node = Node::new("master_key_file = \"master.key\"");
            comes_back(&mut node, &[]);
            let key = std::fs::read_to_string(node.path("master.key")).unwrap();
            node.holds_nowhere(key.trim());
        });
        ways.spawn(|| {
            let mut node = Node::new("[unseal]\nby = \"passphrase\"\nfile = \"words\"\n");
            node.secret("words", PASSPHRASE);
            comes_back(&mut node, &[PASSPHRASE]);
        });
        ways.spawn(|| {
            let mut node = Node::new("[unseal]\nby = \"key\"\ncredential = \"master\"\n");
            node.secret("credentials/master", &key);
            comes_back(&mut node, &[&key]);
        });
        ways.spawn(|| {
            let section = "[unseal]\nby = \"key\"\ndescriptor = \"CONCLAVE_MASTER_KEY_FD\"\n";
            let mut node = Node::new(section);
            node.secret("handed", &key);
            comes_back(&mut node, &[&key]);
            // It was closed once it had been read.
            node.start();
            node.serves();
            let held = format!("/proc/{}/fd/3", node.child.as_ref().unwrap().id());
            let held = std::fs::read_link(held);
            assert!(!held.is_ok_and(|path| path.ends_with("handed")), "it is still open");
        });
        ways.spawn(|| {
            let mut node = Node::new(&by_hsm("pin"));
            token(&node);
            node.secret("pin", PIN);
            comes_back(&mut node, &[PIN]);
            assert!(node.done(&["--help"]).contains("unseal"));
        });
    });
}

#[test]
fn a_node_that_waits_for_its_passphrase_says_so_and_opens_when_it_comes() {
    let mut node = Node::new("[unseal]\nby = \"passphrase\"\n");
    node.secret("words", PASSPHRASE);
    node.secret("short", "secret");
    node.secret("wrong", "incorrect horse battery staple");
    let init = ["cluster", "init", "--passphrase-file"];
    let error = node.refused(&[&init[..], &["short"]].concat(), 7);
    assert!(error.contains("6 characters") && error.contains("at least 12"), "{error}");
    node.done(&[&init[..], &["words"]].concat());
    node.start();
    node.until("a sealed answer", || node.health().0 == "502");
    let (_, body) = node.health();
    assert!(body.contains("\"sealed\":true") && body.contains("passphrase"), "{body}");
    let https = format!("https://127.0.0.1:{}", node.api);
    let (status, answer) = get(&format!("{https}/secrets/acme/variable/x"));
    let reason = "x-conclave-reason: this node is sealed: it waits for its passphrase";
    assert!(status == "503" && answer.contains(reason), "{status} {answer}");
    assert_eq!(get(&format!("{https}/health/live")).0, "200");
    assert_eq!(get(&format!("{https}/health/leader")).0, "503");
    let status = node.done(&["cluster", "status"]);
    assert!(status.contains("part       sealed (it waits for its passphrase"), "{status}");
    let refused = node.refused(&["keys", "status"], 8);
    assert!(refused.contains("conclave unseal"), "{refused}");

    let unseal = ["unseal", "--passphrase-file"];
    let refused = node.refused(&[&unseal[..], &["wrong"]].concat(), 7);
    assert!(refused.contains("that is not the passphrase of this node"), "{refused}");
    assert_eq!(node.health().0, "502");
    let said = node.done(&[&unseal[..], &["words"]].concat());
    assert!(said.contains("n1 is unsealed"), "{said}");
    node.serves();
    let status = node.done(&["keys", "status"]);
    assert!(status.contains("unseal     passphrase: typed"), "{status}");
    let again = node.done(&[&unseal[..], &["words"]].concat());
    assert!(again.contains("has its master key already"), "{again}");
    node.holds_nowhere(PASSPHRASE);
}

#[test]
fn a_passphrase_that_is_typed_on_a_terminal_is_not_shown() {
    let mut node = Node::new("[unseal]\nby = \"passphrase\"\n");
    let init = ["cluster", "init"];
    let (code, shown) = node.typed(&init, &[PASSPHRASE, "a slip of the fingers"]);
    assert!(code == Some(2) && shown.contains("the two are not the same"), "{code:?} {shown}");
    let (code, shown) = node.typed(&init, &[PASSPHRASE, PASSPHRASE]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.starts_with("New passphrase of n1: ") && shown.contains("Again: "), "{shown}");
    assert!(!shown.contains(PASSPHRASE), "{shown}");
    node.start();
    node.until("a sealed answer", || node.health().0 == "502");
    let (code, shown) = node.typed(&["unseal"], &["incorrect horse battery staple"]);
    assert!(code == Some(7) && shown.contains("that is not the passphrase"), "{code:?} {shown}");
    let (code, shown) = node.typed(&["unseal"], &[PASSPHRASE]);
    assert!(code == Some(0) && shown.contains("n1 is unsealed"), "{code:?} {shown}");
    assert!(shown.starts_with("Passphrase of n1: ") && !shown.contains(PASSPHRASE), "{shown}");
    node.serves();
    node.holds_nowhere(PASSPHRASE);
    assert!(!node.log().contains(PASSPHRASE));
}

#[test]
fn an_hsm_that_is_away_is_waited_for_and_a_wrong_pin_is_not_tried_again() {
    let mut node = Node::new(&by_hsm("pin"));
    token(&node);
    node.secret("pin", PIN);
    node.done(&["cluster", "init"]);
    let (here, away) = (node.path("tokens"), node.path("away"));
    std::fs::rename(&here, &away).unwrap();
    std::fs::create_dir(&here).unwrap();
    node.start();
    node.until("a sealed answer", || node.health().0 == "502");
    let (_, body) = node.health();
    assert!(body.contains("its HSM does not answer"), "{body}");
    let status = node.done(&["cluster", "status"]);
    assert!(
        status.contains("no token labelled \\\"conclave\\\"")
            || status.contains("no token labelled \"conclave\""),
        "{status}"
    );
    std::fs::remove_dir(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    node.serves();
    node.kill();

    // One that is wrong would lock the token when it is tried again and again: the node ends.
    node.secret("pin", "000000");
    let error = node.refused(&["server"], 3);
    assert!(error.contains("refuses the PIN (Login: PinIncorrect)"), "{error}");
    assert!(error.contains("pin") && !error.contains("000000"), "{error}");
    node.secret("pin", PIN);
    node.configure(&by_hsm("pin").replace("\"n1\"", "\"other\""));
    let error = node.refused(&["server"], 3);
    assert!(error.contains("no key labelled \"other\"") && error.contains("unseal.key"), "{error}");
    node.configure(&by_hsm("pin").replace(MODULE, "/usr/lib/none.so"));
    let error = node.refused(&["server"], 3);
    assert!(error.contains("unseal.module = \"/usr/lib/none.so\" cannot be loaded"), "{error}");
}

#[test]
fn the_way_to_the_master_key_changes_while_the_node_runs() {
    let mut node = Node::new("master_key_file = \"old.key\"");
    token(&node);
    node.secret("pin", PIN);
    node.secret("words", PASSPHRASE);
    node.secret("handed", &hex_key());
    let founded = node.done(&["cluster", "init", "--account", "acme", "--output", "json"]);
    node.start();
    node.serves();
    node.log_in(&founded);
    let error = node.refused(&["keys", "rewrap"], 7);
    assert!(error.contains("leads to the master key that is in force"), "{error}");
    let ways = [
        ("master_key_file = \"new.key\"", "key: file"),
        ("[unseal]\nby = \"passphrase\"\nfile = \"words\"", "passphrase: file"),
        (&by_hsm("pin"), "pkcs11: token \"conclave\", key \"n1\", PIN: file"),
        ("[unseal]\nby = \"key\"\ndescriptor = \"CONCLAVE_MASTER_KEY_FD\"", "key: the descriptor"),
        ("[unseal]\nby = \"passphrase\"", "passphrase: typed"),
        ("master_key_file = \"old.key\"", "key: file"),
    ];
    let mut before = "master_key_file = \"old.key\"";
    let mut requests = 0;
    for (way, told) in ways {
        node.configure(way);
        let words = ["keys", "rewrap", "--passphrase-file", "words"];
        let (status, answers) = node.while_reading(|| node.done(&words));
        assert!(status.contains(&format!("unseal     {told}")), "{status}");
        assert!(answers.iter().all(|answer| answer == "200"), "{told}: {answers:?}");
        requests += answers.len();
        // What opened it before does so no longer, and the text says what to do.
        node.kill();
        if !before.ends_with("\"passphrase\"") {
            node.configure(before);
            let output = node.run(&["server"]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{before} opens it still");
            let says = error.contains("keys rewrap") || error.contains("this is master key");
            assert!(says, "{error}");
        }
        node.configure(way);
        node.start();
        if told.ends_with("typed") {
            node.until("a sealed answer", || node.health().0 == "502");
            node.done(&["unseal", "--passphrase-file", "words"]);
        }
        node.serves();
        before = way;
    }
    println!("{requests} requests during {} changes of the master key, none failed", ways.len());
    let query = ["audit", "query", "--operation", "rewrap-master-key"];
    // One for each way, and the refused one.
    node.until("records of it", || node.done(&query).lines().count() == 7);
    for secret in [PASSPHRASE, PIN] {
        node.holds_nowhere(secret);
    }
}

#[test]
fn what_is_wrong_with_a_secrets_place_is_said() {
    let node = Node::new("[unseal]\nby = \"passphrase\"\nfile = \"words\"\n");
    let init = ["cluster", "init"];
    let error = node.refused(&init, 3);
    assert!(error.contains("passphrase file") && error.contains("words"), "{error}");
    std::fs::write(node.path("words"), PASSPHRASE).unwrap();
    let mut chmod = Command::new("chmod");
    assert!(chmod.arg("644").arg(node.path("words")).status().unwrap().success());
    let error = node.refused(&init, 3);
    assert!(error.contains("open to others (mode 644)") && error.contains("chmod 600"), "{error}");
    node.secret("words", "\n");
    assert!(node.refused(&init, 3).contains("is empty"));
    node.configure("[unseal]\nby = \"key\"\ncredential = \"master\"\n");
    let error = node.refused(&init, 3);
    assert!(
        error.contains("unseal.credential = \"master\"") && error.contains("credentials"),
        "{error}"
    );
    node.configure("[unseal]\nby = \"key\"\ndescriptor = \"CONCLAVE_MASTER_KEY_FD\"\n");
    let error = node.refused(&init, 3);
    assert!(error.contains("descriptor 3 cannot be read") && error.contains("3<FILE"), "{error}");
    assert!(!node.path("data/node.json").exists());
}
