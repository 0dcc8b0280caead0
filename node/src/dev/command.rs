//! `conclave dev`: starts a cluster, loads the sample policy through the public API, says how to
//! reach it, and keeps it running until Ctrl-C, or until the command of `--run` has ended. A node
//! that dies is started again after some seconds, so that `kill -9` shows failover and return.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::cluster::{ClusterOptions, DevCluster, NodeSnapshot, Reexec};
use crate::cli::output::{Output, line, note, table};
use crate::client::api::Api;
use crate::client::settings::replace_private_file;
use crate::clock::monotonic;
use crate::exit::{Context, Exit, Failure};

/// The policy that is loaded at the first start.
const SAMPLE_POLICY: &str = include_str!("../../deploy/sample-policy.yml");
/// A secret of the sample policy, with the value that it starts with.
const SAMPLE_SECRET: (&str, &str) = ("app/db/password", "correct horse battery staple");
/// How long a dead node stays down before it is started again.
const RESTART_AFTER: Duration = Duration::from_secs(5);
/// How often the nodes are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How long the sample policy is tried while leaders change.
const LOAD_DEADLINE: Duration = Duration::from_secs(15);

/// What `conclave dev` was asked for.
#[derive(Debug)]
pub struct CommandOptions {
    /// Keep everything here.
    pub data: Option<PathBuf>,
    /// How many nodes vote.
    pub voters: u8,
    /// How many nodes follow.
    pub followers: u8,
    /// Run this and end with its status.
    pub run: Vec<OsString>,
    /// Shape of the text.
    pub output: Output,
}

/// Runs `conclave dev`.
///
/// # Errors
/// When the cluster does not come up, or the command of `--run` cannot be started.
pub async fn command(options: CommandOptions) -> Result<ExitCode, Failure> {
    let mut terminated = signal(SignalKind::terminate()).context(Exit::Failed, "signals")?;
    let mut interrupted = signal(SignalKind::interrupt()).context(Exit::Failed, "signals")?;
    let stop = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    tokio::pin!(stop);

    let started = monotonic();
    let reexec = Reexec::current(Vec::new());
    let cluster_options = ClusterOptions {
        folder: options.data.clone(),
        ..ClusterOptions::loopback(options.voters, options.followers, reexec)
    };
    let cluster = tokio::select! {
        cluster = DevCluster::start(cluster_options) => cluster?,
        () = &mut stop => return Ok(ExitCode::from(130)),
    };
    let result = tokio::select! {
        result = attend(&cluster, &options, started.elapsed()) => result,
        () = &mut stop => {
            if options.run.is_empty() {
                note("\nStopping the cluster.");
                Ok(ExitCode::SUCCESS)
            } else {
                Ok(ExitCode::from(130))
            }
        }
    };
    cluster.stop().await;
    result
}

/// Everything between start and stop. Dropping the future ends the command of `--run`, too.
async fn attend(
    cluster: &DevCluster,
    options: &CommandOptions,
    took: Duration,
) -> Result<ExitCode, Failure> {
    load_sample(cluster).await?;
    let nodes = cluster.write_nodes_file().await?;
    if options.run.is_empty() {
        match options.output {
            Output::Text => line(welcome(cluster, &nodes, took, options).as_bytes())?,
            Output::Json => line(
                serde_json::to_string(&json!({
                    "folder": cluster.folder(),
                    "account": cluster.account(),
                    "login": "admin",
                    "api_key": cluster.admin_key(),
                    "cert_file": cluster.cert_file(),
                    "nodes": nodes,
                }))
                .context(Exit::Failed, "JSON")?
                .as_bytes(),
            )?,
        }
        return watch(cluster, true).await;
    }
    tokio::select! {
        status = run(cluster, &options.run) => Ok(exit_code(status?)),
        failure = watch(cluster, false) => failure,
    }
}

/// Loads the sample policy and a first secret value, once in a cluster's life.
async fn load_sample(cluster: &DevCluster) -> Result<(), Failure> {
    if cluster.policy_loaded() {
        return Ok(());
    }
    replace_private_file(&cluster.folder().join("policy.yml"), SAMPLE_POLICY.as_bytes())?;
    let deadline = Instant::now() + LOAD_DEADLINE;
    loop {
        let result = try_load_sample(cluster).await;
        match result {
            Ok(()) => return cluster.keep_policy_loaded(),
            Err(failure) if failure.exit == Exit::Unavailable && Instant::now() < deadline => {
                sleep(WATCH_EVERY).await;
            }
            Err(failure) => {
                return Err(Failure::new(
                    failure.exit,
                    format!("the sample policy was not loaded: {failure}"),
                ));
            }
        }
    }
}

async fn try_load_sample(cluster: &DevCluster) -> Result<(), Failure> {
    let leader = cluster.leader().await.unwrap_or(0);
    let api = Api::new(&cluster.url(leader), cluster.account(), Some(&cluster.cert_file()))?;
    let token = api.authenticate("admin", cluster.admin_key()).await?;
    let text = Zeroizing::new(SAMPLE_POLICY.as_bytes().to_vec());
    let loaded = api.load_policy(&token, Method::POST, "root", text, false).await?;
    let created = loaded.success()?;
    // The answer is the only place where the keys of the new users and hosts are ever shown.
    let path = cluster.folder().join("created_roles.json");
    if !path.exists() || created.len() > 64 {
        replace_private_file(&path, &created)?;
    }
    let (id, value) = SAMPLE_SECRET;
    api.set_secret(&token, id, value.as_bytes()).await
}

/// Watches the nodes: says when one dies or the leader changes, starts dead ones again, and keeps
/// `nodes.json` current. Never returns but on failure.
async fn watch(cluster: &DevCluster, aloud: bool) -> Result<ExitCode, Failure> {
    let mut before = cluster.nodes().await;
    let mut down_since: Vec<Option<Instant>> = vec![None; cluster.len()];
    loop {
        sleep(WATCH_EVERY).await;
        for (index, since) in down_since.iter_mut().enumerate() {
            if cluster.pid(index).is_some() {
                *since = None;
                continue;
            }
            match *since {
                None => {
                    *since = Some(Instant::now());
                    if aloud {
                        note(format_args!(
                            "{} is down; starting it again in {} s",
                            cluster.name(index),
                            RESTART_AFTER.as_secs()
                        ));
                    }
                }
                Some(since) if since.elapsed() >= RESTART_AFTER => cluster.launch(index)?,
                Some(_) => {}
            }
        }
        let now = cluster.nodes().await;
        if now != before {
            cluster.write_nodes_file().await?;
            if aloud {
                tell_changes(&before, &now);
            }
            before = now;
        }
    }
}

fn tell_changes(before: &[NodeSnapshot], now: &[NodeSnapshot]) {
    for (before, now) in before.iter().zip(now) {
        let pid = now.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        if now.part == "leader" && before.part != "leader" {
            note(format_args!("{} leads now (pid {pid})", now.name));
        } else if before.pid != now.pid && now.pid.is_some() {
            note(format_args!("{} is back (pid {pid})", now.name));
        }
    }
}

/// Runs the command of `--run` with the environment that Conjur's clients read.
async fn run(cluster: &DevCluster, words: &[OsString]) -> Result<ExitStatus, Failure> {
    let leader = cluster.leader().await.unwrap_or(0);
    let mut command = tokio::process::Command::new(&words[0]);
    command
        .args(&words[1..])
        .env("CONJUR_APPLIANCE_URL", cluster.url(leader))
        .env("CONJUR_ACCOUNT", cluster.account())
        .env("CONJUR_AUTHN_LOGIN", "admin")
        .env("CONJUR_AUTHN_API_KEY", cluster.admin_key())
        .env("CONJUR_CERT_FILE", cluster.cert_file())
        .env("CONCLAVE_DEV_DIR", cluster.folder())
        .kill_on_drop(true);
    let what = words[0].to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot run {what}: {error}")))?;
    child.wait().await.context(Exit::Failed, what)
}

/// As shells count: the status, or 128 and the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// How a shell calls this program: by its name where that finds it, else by its path.
fn program() -> String {
    const NAME: &str = "conclave";
    let Ok(me) = std::env::current_exe().and_then(std::fs::canonicalize) else {
        return NAME.to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path)
        .find_map(|folder| std::fs::canonicalize(folder.join(NAME)).ok());
    if first.as_ref() == Some(&me) { NAME.to_owned() } else { me.display().to_string() }
}

fn welcome(
    cluster: &DevCluster,
    nodes: &[NodeSnapshot],
    took: Duration,
    options: &CommandOptions,
) -> String {
    let mut rows = vec![["NAME", "ROLE", "PART", "PID", "API"].map(str::to_owned).to_vec()];
    for node in nodes {
        rows.push(vec![
            node.name.clone(),
            node.role.as_str().to_owned(),
            node.part.clone(),
            node.pid.map_or_else(String::new, |pid| pid.to_string()),
            node.url.clone(),
        ]);
    }
    let leader = nodes.iter().find(|node| node.part == "leader").or_else(|| nodes.first());
    let other = nodes.iter().find(|node| node.part == "standby").or(leader);
    let follower = nodes.iter().find(|node| node.part == "follower");
    let (url, pid) = leader.map_or((String::new(), String::new()), |node| {
        (node.url.clone(), node.pid.unwrap_or_default().to_string())
    });
    let other_url = other.map_or(String::new(), |node| node.url.clone());
    let folder = cluster.folder().display();
    let cert = cluster.cert_file();
    let cert = cert.display();
    let account = cluster.account();
    let key = cluster.admin_key();
    let (secret, value) = SAMPLE_SECRET;
    let escaped = crate::client::api::segment(secret);
    let program = program();

    let mut text = format!(
        "{} and {} are up ({:.1} s). Ctrl-C stops them{}.\n\n",
        count(options.voters, "voter"),
        count(options.followers, "follower"),
        took.as_secs_f64(),
        if options.data.is_some() { "; the data stays" } else { " and removes their data" }
    );
    for row in table(&rows).lines() {
        text.push_str("  ");
        text.push_str(row);
        text.push('\n');
    }
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "
Everything is in {folder}: nodes.json (kept current), root.pem, policy.yml (loaded),
created_roles.json (API keys of its users and hosts), and a folder for each node.

Log in (paste this; the command line and every Conjur client then know where to go):

  export CONJUR_APPLIANCE_URL={url} CONJUR_ACCOUNT={account} CONJUR_CERT_FILE={cert}
  export CONJUR_AUTHN_LOGIN=admin CONJUR_AUTHN_API_KEY={key}

Try:

  {program} whoami
  {program} list -k variable
  {program} variable get -i {secret}

The same with curl, first a token, then a write and a read:

  TOKEN=$(curl -sf --cacert {cert} --data {key} {url}/authn/{account}/admin/authenticate | base64 -w0)
  curl -sf --cacert {cert} -H \"Authorization: Token token=\\\"$TOKEN\\\"\" --data '{value}' {url}/secrets/{account}/variable/{escaped}
  curl -sf --cacert {cert} -H \"Authorization: Token token=\\\"$TOKEN\\\"\" {url}/secrets/{account}/variable/{escaped}

Kill the leader and read from another node; it comes back by itself after {} s:

  kill -9 {pid}
  curl -sf --cacert {cert} -H \"Authorization: Token token=\\\"$TOKEN\\\"\" {other_url}/secrets/{account}/variable/{escaped}
",
        RESTART_AFTER.as_secs(),
    );
    if let Some(follower) = follower {
        let _ = write!(
            text,
            "
Followers answer reads and logins even with every voter down: {}
",
            follower.url
        );
    }
    text
}

fn count(number: u8, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
