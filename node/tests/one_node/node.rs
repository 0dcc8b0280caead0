//! One node as a real process, founded in a folder of its own, with whatever it may be handed over.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::package::package;

/// A cluster of one node in a folder of its own.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    pub(crate) api: u16,
    health: u16,
    peer: u16,
    pub(crate) child: Option<Child>,
}

impl Node {
    pub(crate) fn new(unseal: &str) -> Self {
        package("curl", &["curl", "--version"], "this test asks over HTTPS");
        // Held until all three are known, so that they differ.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [free(), free(), free()];
        let [api, health, peer] = ports.each_ref().map(|one| one.local_addr().unwrap().port());
        let node = Self { folder: tempfile::tempdir().unwrap(), api, health, peer, child: None };
        node.configure(unseal);
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration; `unseal` is `master_key_file = …` or a section of its own.
    pub(crate) fn configure(&self, unseal: &str) {
        self.configure_with(unseal, "");
    }

    /// The same, with more sections.
    pub(crate) fn configure_with(&self, unseal: &str, more: &str) {
        let Self { api, health, peer, .. } = self;
        let (in_node, section) =
            if unseal.starts_with("master_key_file") { (unseal, "") } else { ("", unseal) };
        let text = format!(
            "[node]\nname = \"n1\"\ndata = \"data\"\n{in_node}\n{section}\n[api]\n\
             listen = \"127.0.0.1:{api}\"\nurl = \"https://localhost:{api}\"\n\
             health_listen = \"127.0.0.1:{health}\"\n[peer]\nlisten = \"127.0.0.1:{peer}\"\n\
             [tls]\nnames = [\"localhost\"]\n{more}"
        );
        std::fs::write(self.path("conclave.toml"), text).unwrap();
    }

    /// Puts lines into the section `[api]` of the configuration.
    pub(crate) fn in_api(&self, lines: &str) {
        let path = self.path("conclave.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace("[api]\n", &format!("[api]\n{lines}\n"))).unwrap();
    }

    /// What the server has logged since its start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A file that only its owner may read.
    pub(crate) fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let mut chmod = Command::new("chmod");
        assert!(chmod.arg("600").arg(&path).status().unwrap().success());
        path
    }

    /// A command with the secrets that a unit of systemd, or whoever starts it, would hand over.
    fn command(&self, words: &[&str]) -> Command {
        self.by(&[], words)
    }

    /// The same, run by another program.
    fn by(&self, runner: &[&str], words: &[&str]) -> Command {
        // The shell opens the descriptor and becomes the program.
        let hand_over = "test -e handed && exec \"$0\" \"$@\" 3<handed; exec \"$0\" \"$@\"";
        let shell = ["sh", "-c", hand_over, env!("CARGO_BIN_EXE_conclave")];
        let mut all = runner.iter().chain(&shell).chain(words);
        let mut command = Command::new(all.next().unwrap());
        command.args(all);
        command.args(["--config", "conclave.toml"]).current_dir(self.folder.path());
        command.env("CREDENTIALS_DIRECTORY", self.path("credentials"));
        command.env("CONCLAVE_MASTER_KEY_FD", "3");
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        // A server that starts where it should not must end all the same.
        self.by(&["timeout", "60"], words).output().unwrap()
    }

    /// Runs a command on a terminal and types these lines; answers how it ended, and what the screen showed.
    pub(crate) fn typed(&self, words: &[&str], lines: &[&str]) -> (Option<i32>, String) {
        package("python3", &["python3", "--version"], "this test types on a terminal");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/one_node/terminal.py");
        let lines = self.secret("typed", &lines.join("\n"));
        let mut command = self.by(&["python3", script], words);
        let output = command.stdin(std::fs::File::open(lines).unwrap()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.is_empty(), "{words:?}: {error}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    pub(crate) fn done(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that ends with this code.
    pub(crate) fn refused(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        error
    }

    pub(crate) fn start(&mut self) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        self.child = Some(self.command(&["server"]).stderr(log).spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Becomes the admin that `cluster init` has told of, and makes a secret.
    pub(crate) fn log_in(&self, founded: &str) {
        let founded: serde_json::Value = serde_json::from_str(founded).unwrap();
        let key = founded["account"]["api_key"].as_str().unwrap();
        let header = |more: &str| self.secret("curl", &format!("insecure\nsilent\n{more}"));
        header("header = \"Accept-Encoding: base64\"\n");
        let (_, token) = self.send("authn/acme/admin/authenticate", key);
        header(&format!("header = \"Authorization: Token token=\\\"{}\\\"\"\n", token.trim()));
        let (status, body) = self.send("policies/acme/policy/root", "- !variable v\n");
        assert_eq!(status, "201", "{body}");
        assert_eq!(self.send("secrets/acme/variable/v", "a value").0, "201");
    }

    /// Status and body of a POST by whoever has logged in.
    pub(crate) fn send(&self, path: &str, body: &str) -> (String, String) {
        let body = self.secret("body", body);
        self.curl(path, &["--data-binary".as_ref(), format!("@{}", body.display()).as_ref()])
    }

    fn curl(&self, path: &str, more: &[&std::ffi::OsStr]) -> (String, String) {
        let mut curl = Command::new("curl");
        curl.arg("-K").arg(self.path("curl")).args(["--max-time", "5", "-w", "\n%{http_code}"]);
        curl.args(more).arg(format!("https://127.0.0.1:{}/{path}", self.api));
        let text = String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }

    /// Does something while the secret is read again and again; answers the statuses of those reads, too.
    pub(crate) fn while_reading<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<String>) {
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let reader = threads.spawn(|| {
                let mut answers = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    answers.push(self.curl("secrets/acme/variable/v", &[]).0);
                }
                answers
            });
            // Also where the work panics, since the reader is waited for all the same.
            let told = Told(&done);
            let result = work();
            drop(told);
            (result, reader.join().unwrap())
        })
    }

    pub(crate) fn health(&self) -> (String, String) {
        get(&format!("http://127.0.0.1:{}/health", self.health))
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..600 {
            if holds() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("{what} did not come true; health {:?}, log {}", self.health(), self.log());
    }

    pub(crate) fn serves(&self) {
        self.until("service", || self.health().0 == "200");
    }

    /// Whether these bytes are in no file of the data folder.
    pub(crate) fn holds_nowhere(&self, secret: &str) {
        let mut grep = Command::new("grep");
        let found = grep.args(["-rlF", "--", secret]).arg(self.path("data")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{secret} lies in the data folder");
    }
}

struct Told<'a>(&'a AtomicBool);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Status and body of a request, with its header; nobody's certificate is asked for.
pub(crate) fn get(url: &str) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sk", "-i", "--max-time", "5", "-w", "\n%{http_code}", url]);
    let text = String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
