//! Backups of nodes that have no key file: what opens them is what unsealed their node then, and the node
//! that is restored from one is sealed in a way of its own.

use crate::node::Node;
use crate::unseal::{PASSPHRASE, PIN, by_hsm, hex_key, token};

const TYPED: &str = "[unseal]\nby = \"passphrase\"\n";
const FROM_FILE: &str = "[unseal]\nby = \"passphrase\"\nfile = \"words\"\n";
const HANDED: &str = "[unseal]\nby = \"key\"\ndescriptor = \"CONCLAVE_MASTER_KEY_FD\"\n";
const WORDS: [&str; 2] = ["--passphrase-file", "words"];

fn opens_with_words(node: &Node) {
    node.until("a sealed answer", || node.health().0 == "502");
    node.done(&[&["unseal"], &WORDS[..]].concat());
}

/// A node in an empty folder that is made of a backup, and starts.
fn restored(unseal: &str, secrets: &[(&str, &str)], words: &[&str]) -> Node {
    let mut node = Node::new(unseal);
    for (name, text) in secrets {
        node.secret(name, text);
    }
    node.done(&[&["restore"], words].concat());
    node.start();
    if unseal == TYPED {
        opens_with_words(&node);
    }
    node.serves();
    node
}

#[test]
fn a_backup_opens_with_what_unsealed_its_node_and_what_is_restored_goes_its_own_way() {
    let mut node = Node::new(TYPED);
    token(&node);
    let key = hex_key();
    for (name, text) in [("pin", PIN), ("words", PASSPHRASE), ("handed", &key)] {
        node.secret(name, text);
    }
    node.secret("wrong", "incorrect horse battery staple");
    node.done(&[&["cluster", "init"], &WORDS[..]].concat());
    node.start();
    opens_with_words(&node);
    node.serves();

    // Three backups, each under another master key and another way to it.
    let [typed, sealed, handed] = ["typed", "sealed", "handed.backup"]
        .map(|name| node.path(name).to_string_lossy().into_owned());
    let create = |file: &str| node.done(&["backup", "create", "--out", file]);
    assert!(create(&typed).contains("(by passphrase)"));
    node.configure(&by_hsm("pin"));
    node.done(&["keys", "rewrap"]);
    assert!(create(&sealed).contains("(by pkcs11)"));
    let verified = node.done(&["backup", "verify", &sealed]);
    assert!(verified.contains("Intact") && verified.contains("(by pkcs11)"), "{verified}");
    let refused = node.refused(&["backup", "verify", &typed], 3);
    assert!(refused.contains("opens by \"passphrase\"") && refused.contains("goes by \"pkcs11\""));
    let hsm = node.path("conclave.toml").with_file_name("hsm.toml");
    std::fs::copy(node.path("conclave.toml"), &hsm).unwrap();
    let hsm = hsm.to_string_lossy().into_owned();
    node.configure(HANDED);
    node.done(&["keys", "rewrap"]);
    assert!(create(&handed).contains("(by key)"));
    node.kill();

    // What unseals the node now opens none of the earlier ones.
    let refused = node.refused(&["backup", "verify", &sealed], 3);
    assert!(refused.contains("opens by \"pkcs11\""), "{refused}");
    node.configure(FROM_FILE);
    assert!(node.done(&["backup", "verify", &typed]).contains("Intact"));

    // In the same way; the secret is asked for, or read, once.
    let words = ("words", PASSPHRASE);
    restored(TYPED, &[words], &[&[typed.as_str()], &WORDS[..]].concat());
    restored(HANDED, &[("handed", &key)], &[&handed]);
    // In another: its secret is named, or the configuration that leads to it.
    let file = node.path("words").to_string_lossy().into_owned();
    let wrong = node.path("wrong").to_string_lossy().into_owned();
    let other = Node::new("master_key_file = \"master.key\"");
    let refused = other.refused(&["restore", &typed, "--backup-key-file", &wrong], 3);
    assert!(refused.contains("bring the master key of n1"), "{refused}");
    let refused = other.refused(&["restore", &typed], 3);
    assert!(refused.contains("--backup-config"), "{refused}");
    let refused = other.refused(&["restore", &sealed, "--backup-key-file", &file], 3);
    assert!(refused.contains("is in an HSM"), "{refused}");
    assert!(!other.path("data/node.json").exists() && !other.path("master.key").exists());
    let by_file = "master_key_file = \"master.key\"";
    let keys = restored(by_file, &[], &[&typed, "--backup-key-file", &file]);
    assert!(keys.done(&["keys", "status"]).contains("unseal     key: file"));
    let tokens = format!("directories.tokendir = {}\n", node.path("tokens").display());
    let conf = ("softhsm2.conf", tokens.as_str());
    let from_hsm = ["--backup-config", hsm.as_str()];
    let keys = restored(FROM_FILE, &[words, conf], &[&[sealed.as_str()], &from_hsm[..]].concat());
    assert!(keys.done(&["keys", "status"]).contains("unseal     passphrase: file"));
    keys.holds_nowhere(PASSPHRASE);
}
