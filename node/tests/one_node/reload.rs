//! Another configuration for a node that runs: what is in force at once, what wants a restart, and what a
//! wrong file does not do.

use std::process::Command;

use crate::node::{Node, get};

const START: &str = "master_key_file = \"master.key\"";

fn started(more: &str) -> Node {
    let mut node = Node::new(START);
    node.configure_with(START, more);
    node.done(&["cluster", "init", "--account", "acme"]);
    node.start();
    node.serves();
    node
}

fn hang_up(node: &Node) {
    // The shell's own: not every machine has the program.
    let kill = format!("kill -HUP {}", node.child.as_ref().unwrap().id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[test]
fn a_reload_changes_what_it_can_and_names_the_rest() {
    let node = started("");
    assert_eq!(node.done(&["config", "reload"]).trim(), "Nothing has changed");
    assert_eq!(node.health().0, "200");
    node.configure_with(
        START,
        "[log]\nlevel = \"debug\"\nformat = \"json\"\n[raft]\nheartbeat_ms = 40\n\
         [[audit.output]]\nto = \"file\"\npath = \"trail\"\n",
    );
    node.in_api("health_ok_for = [\"follower\"]\nhost_factories_enabled = false");
    let said = node.done(&["config", "reload"]);
    let row =
        |key: &str| said.lines().find(|line| line.starts_with(key)).unwrap_or(&said).to_owned();
    for (key, told) in [
        ("log.level", "\"info\" "),
        ("log.level", "\"debug\" "),
        ("log.level", "in force"),
        ("log.format", "after a restart"),
        ("raft.heartbeat_ms", "50 "),
        ("raft.heartbeat_ms", "after a restart"),
        ("api.health_ok_for", "in force"),
        ("api.host_factories_enabled", "in force"),
        ("audit.output", "in force"),
    ] {
        assert!(row(key).contains(told), "{key}: {said}");
    }
    // And so it is, without a restart.
    assert_eq!(node.health().0, "502");
    let https = format!("https://127.0.0.1:{}", node.api);
    get(&format!("{https}/authenticators"));
    node.until("a line of level debug", || node.log().contains("DEBUG"));
    node.until("a record in the file", || {
        std::fs::read_to_string(node.path("trail")).is_ok_and(|text| text.contains("conjur"))
    });
    // Said again as long as it is so.
    let again = node.done(&["config", "reload", "--output", "json"]);
    assert!(again.contains("\"applied\": []") && again.contains("raft.heartbeat_ms"), "{again}");

    // Back, by signal.
    node.configure_with(START, "");
    hang_up(&node);
    node.until("service", || node.health().0 == "200");
    let query = ["audit", "query", "--operation", "reload-configuration", "--output", "json"];
    node.until("four records", || node.done(&query).lines().count() == 4);
    assert!(node.done(&query).contains("api.health_ok_for"), "{}", node.done(&query));
}

#[test]
fn a_wrong_file_changes_nothing_and_the_text_has_line_and_key() {
    let node = started("");
    let wrong = [
        ("[api]", "[api]\nhealth_ok_for = [\"boss\"]", "api.health_ok_for = \"boss\" is not valid"),
        ("[api]", "[api]\ncolour = 1", "unknown field `colour`"),
        ("[api]", "[api]\nauthenticators = [\"authn-none\"]", "authn-none"),
        ("[api]", "[api", "line 6"),
    ];
    let good = std::fs::read_to_string(node.path("conclave.toml")).unwrap();
    for (before, after, said) in wrong {
        let level = "[log]\nlevel = \"trace\"\n";
        std::fs::write(node.path("conclave.toml"), good.replace(before, after) + level).unwrap();
        let text = node.refused(&["config", "check"], 3);
        assert!(text.contains(said) && text.contains("conclave.toml"), "{text}");
        hang_up(&node);
    }
    // The command line cannot read it either; where it can, the node says what is wrong.
    let text = good.replace(
        "[tls]",
        "[[audit.output]]\nto = \"syslog\"\naddress = \"siem:6514\"\n\
         ca_file = \"no.pem\"\ncertificate_file = \"n.pem\"\nkey_file = \"n.key\"\n[tls]",
    );
    std::fs::write(node.path("conclave.toml"), text + "[log]\nlevel = \"trace\"\n").unwrap();
    let text = node.refused(&["config", "reload"], 3);
    assert!(text.contains("audit.output") && text.contains("no.pem"), "{text}");
    std::fs::write(node.path("conclave.toml"), &good).unwrap();
    let changed = node.log().matches("reload changed nothing").count();
    assert!(changed >= 2, "{}", node.log());
    assert!(!node.log().contains("TRACE"), "{}", node.log());
    assert_eq!(node.done(&["config", "reload"]).trim(), "Nothing has changed");
    assert!(node.done(&["config", "check"]).contains("is in order"));
    let failures = ["audit", "query", "--operation", "reload-configuration", "--result", "failure"];
    node.until("records of it", || node.done(&failures).lines().count() >= 2);
}

#[test]
fn the_load_balancers_name_changes_by_a_reload() {
    let node = started("");
    let named = || node.done(&["cert", "show", "cluster", "--output", "json"]);
    assert!(!named().contains("secrets.example.com"));
    let text = std::fs::read_to_string(node.path("conclave.toml")).unwrap();
    let text = text.replace("names = [", "names = [\"secrets.example.com\", ");
    std::fs::write(node.path("conclave.toml"), text).unwrap();
    let said = node.done(&["config", "reload"]);
    assert!(said.contains("tls.names") && said.contains("in force"), "{said}");
    node.until("the common name", || named().contains("CN=secrets.example.com"));
    assert_eq!(node.health().0, "200");
}

#[test]
fn why_a_login_failed_is_in_the_log_and_not_in_the_answer() {
    let mut node = Node::new(START);
    node.configure_with(START, "");
    let founded = node.done(&["cluster", "init", "--account", "acme", "--output", "json"]);
    node.start();
    node.serves();
    node.log_in(&founded);
    let (status, body) = node.send("authn-jwt/none/acme/authenticate", "jwt=x");
    assert_eq!((status.as_str(), body.as_str()), ("401", ""));
    let told = || {
        node.log().lines().any(|line| {
            line.contains("authn.refused")
                && line.contains("CONJ00004E 'authn-jwt/none' is not enabled")
        })
    };
    node.until("the reason in the log", told);
}

#[test]
fn a_node_does_not_start_with_an_authenticator_that_is_none() {
    let mut node = Node::new(START);
    node.configure_with(START, "");
    node.done(&["cluster", "init", "--account", "acme"]);
    node.in_api("authenticators = [\"authn-jtw/ci\"]");
    let text = node.refused(&["server"], 3);
    assert!(text.contains("there is no authenticator \"authn-jtw\"; there are authn, "), "{text}");
    assert!(node.child.take().is_none(), "it was never started");
}
