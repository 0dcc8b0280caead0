//! `conclave cluster …` and `conclave account …`: what the operator does on a node's own machine.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::ConfigArg;
use super::output::{Output, note, table};
use super::unseal::PassphraseArg;
use crate::admin::client;
use crate::admin::protocol::{MemberStatus, Request, Response, Status};
use crate::bootstrap;
use crate::client::input;
use crate::exit::{Exit, Failure};
use crate::join;
use crate::recover;
use crate::seed::{Seed, SeedRole};

/// What the operator does with a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Found a cluster on this machine: keys, certificates, first voter.
    Init(InitArgs),
    /// Issue a seed file, with which one node can join once.
    Seed(SeedArgs),
    /// Join a cluster with a seed file; then start `conclave server`.
    Join(JoinArgs),
    /// Where this node and its cluster stand.
    Status(ConfigArg),
    /// The members, with what they lag behind.
    Members(ConfigArg),
    /// Hand leadership to another voter, a chosen one if you like, without losing a request.
    TransferLeader(TransferArgs),
    /// Take this node out of service before it is stopped: load balancers and leadership turn away.
    ///
    /// For a restart or an upgrade of one node after the other: `cluster drain`, wait for as long as the
    /// load balancer takes to notice, restart the node, go on with the next. Requests that come all
    /// the same are served. A restart, or --undo, takes it back into service.
    Drain(DrainArgs),
    /// Remove a member: it is shut out at once.
    ///
    /// It cannot come back with the data that it has: empty its data folder and let it join anew. The
    /// leader hands over first (`cluster transfer-leader`).
    Remove(RemoveArgs),
    /// After the majority of the voters is lost for good: make this one stopped node a new cluster.
    #[command(after_help = "\
For a voter or a follower, stopped, with its data folder and its master key. What the lost voters had
committed and this node does not have is lost; the command says how far this node is, looks whether the
others are really gone, and refuses where a majority could still come together. Choose the survivor with
the highest index: `conclave cluster recover` without --confirm shows it and changes nothing.

  conclave cluster recover --config n3.toml                       says what there is, and asks
  conclave cluster recover --config n3.toml --confirm 4f1c…       with the id of the old cluster
  conclave server --config n3.toml
  conclave cluster seed --config n3.toml --name n4 --role voter --out n4.seed

Clients go on with their keys and the root that they trust. All other members of the old cluster have
to be wiped and to join anew, with new seeds.")]
    Recover(RecoverArgs),
    /// Digest of everything applied; equal on all members at equal index.
    StateHash(ConfigArg),
    /// Make a snapshot now, so that the log can be purged.
    Snapshot(ConfigArg),
}

/// Arguments of `cluster init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Create this account, too, and print its admin's API key.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// Arguments of `cluster seed`.
#[derive(Debug, Args)]
pub struct SeedArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The name that the joining node has in its configuration.
    #[arg(long)]
    name: String,
    /// The part that it will play.
    #[arg(long, value_enum)]
    role: SeedRole,
    /// Where to write the seed; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// For a follower: the name of the load balancer that its group stands behind.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// For a follower: more names under which clients reach it or its group.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,
    /// The node must join from here: an address, or a range of them. May be said several times; from anywhere
    /// without. It is the address that the voters see, so behind a NAT that of the NAT.
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    cidr: Vec<String>,
    /// Remove this member first, by name or id: the new node takes its place, and its name if you like.
    #[arg(long, value_name = "MEMBER")]
    replace: Option<String>,
    /// After so many minutes the seed is void.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
}

/// Arguments of `cluster join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The seed file; delete all copies afterwards.
    #[arg(long, value_name = "FILE")]
    seed: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// Arguments of `cluster transfer-leader`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Name or id of the voter to lead; without it the most caught-up one.
    #[arg(value_name = "VOTER", conflicts_with = "to")]
    voter: Option<String>,
    /// The same.
    #[arg(long, value_name = "VOTER")]
    to: Option<String>,
}

/// Arguments of `cluster drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Take it back into service.
    #[arg(long)]
    undo: bool,
}

/// Arguments of `cluster remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Name or id of the member.
    member: String,
}

/// Arguments of `cluster recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The id of the old cluster, instead of being asked for it.
    #[arg(long, value_name = "CLUSTER_ID")]
    confirm: Option<String>,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// What the operator does with accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Create an account: its signing key, its admin, its root policy. Prints the API key once.
    ///
    /// The account named ! stands above the others: its admin, and whoever it permits on
    /// `webservice:accounts` there, may list (read), create (execute) and delete (update) accounts
    /// over HTTPS.
    Create(AccountArgs),
    /// List the names of all accounts.
    List(ConfigArg),
    /// Delete an account with everything in it: roles, policies, secrets. Cannot be undone.
    Delete(DeleteArgs),
}

/// Arguments of `account delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    account: AccountArgs,
    /// Say the name again, so that no slip deletes an account.
    #[arg(long, value_name = "NAME")]
    confirm: String,
}

/// Arguments of `account create`.
#[derive(Debug, Args)]
pub struct AccountArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Its name.
    name: String,
}

/// Runs `conclave cluster …`.
///
/// # Errors
/// As the command says.
pub async fn cluster(command: ClusterCommand, output: Output) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init(args) => {
            let config = args.config.load()?;
            let given = args.passphrase.given(&config)?;
            let founded = bootstrap::init(&config, args.account.as_deref(), given).await?;
            output.show(&founded, || founded.to_text())
        }
        ClusterCommand::Join(args) => {
            let config = args.config.load()?;
            let joined =
                join::join(&config, &Seed::read(&args.seed)?, args.passphrase.given(&config)?)
                    .await?;
            output.show(&joined, || {
                format!(
                    "Joined cluster {} as {} {} (node {}).\nStart it: conclave server\nDelete {}.",
                    joined.cluster_id,
                    joined.role.as_str(),
                    joined.name,
                    joined.node_id,
                    args.seed.display()
                )
            })
        }
        ClusterCommand::Seed(args) => {
            let data = args.config.load()?.node.data;
            if let Some(member) = args.replace {
                done(client::ask(&data, &Request::Remove { member }).await?)?;
            }
            let from = args.cidr.join(", ");
            let request = Request::Seed {
                name: args.name.clone(),
                role: args.role,
                life_s: args.minutes * 60,
                group: args.group,
                names: args.names,
                cidr: args.cidr,
            };
            client::seed(&data, &request).await?.write(&args.out)?;
            output.show(&json!({ "seed": args.out, "minutes": args.minutes }), || {
                let from = if from.is_empty() { from } else { format!(" at {from}") };
                format!(
                    "Wrote {}: good once, for {} minutes, for the {} {}{from}.\n\
                     Take it there by a safe way, then: conclave cluster join --seed {}",
                    args.out.display(),
                    args.minutes,
                    args.role.as_str(),
                    args.name,
                    args.out.display()
                )
            })
        }
        ClusterCommand::Status(config) => {
            let status = client::status(&config.load()?.node.data).await?;
            output.show(&status, || status_text(&status))
        }
        ClusterCommand::Members(config) => {
            let status = client::status(&config.load()?.node.data).await?;
            output.show(&status.members, || members_text(&status))
        }
        ClusterCommand::TransferLeader(args) => {
            let data = args.config.load()?.node.data;
            let response =
                client::ask(&data, &Request::TransferLeader { to: args.voter.or(args.to) }).await?;
            if let Response::Leader { leader } = response {
                return output.show(&json!({ "leader": leader }), || {
                    leader.map_or_else(
                        || "Handed over; the new leader is not known yet".to_owned(),
                        |leader| format!("Node {leader} leads"),
                    )
                });
            }
            Err(response.into_failure())
        }
        ClusterCommand::Drain(DrainArgs { config, undo }) => {
            done(client::ask(&config.load()?.node.data, &Request::Drain { undo }).await?)?;
            output.show(&json!({ "draining": !undo }), || {
                let text = if undo {
                    "Back in service: /health is good again"
                } else {
                    "Out of service: /health says so, and another leads. Stop it once the load balancer \
                     has noticed"
                };
                text.to_owned()
            })
        }
        ClusterCommand::Remove(args) => {
            let data = args.config.load()?.node.data;
            let request = Request::Remove { member: args.member.clone() };
            done(client::ask(&data, &request).await?)?;
            output.show(&json!({ "removed": args.member }), || format!("Removed {}", args.member))
        }
        ClusterCommand::Recover(args) => recover(&args, output).await,
        ClusterCommand::StateHash(config) => {
            let hash = client::state_hash(&config.load()?.node.data).await?;
            output.show(&hash, || format!("{} at index {}", hash.state_hash, hash.applied))
        }
        ClusterCommand::Snapshot(config) => {
            done(client::ask(&config.load()?.node.data, &Request::Snapshot).await?)?;
            output.show(&json!({ "snapshot": true }), || "Snapshot made".to_owned())
        }
    }
}

/// Runs `conclave account …`.
///
/// # Errors
/// As the command says.
pub async fn account(command: AccountCommand, output: Output) -> Result<(), Failure> {
    let args = match command {
        AccountCommand::Create(args) => args,
        AccountCommand::List(config) => {
            let names = client::accounts(&config.load()?.node.data).await?;
            return output.show(&names, || names.join("\n"));
        }
        AccountCommand::Delete(DeleteArgs { account, confirm }) => {
            if confirm != account.name {
                let message = format!("--confirm says {confirm}, the account is {}", account.name);
                return Err(Failure::new(Exit::Usage, message));
            }
            let data = account.config.load()?.node.data;
            let request = Request::DeleteAccount { name: account.name.clone() };
            done(client::ask(&data, &request).await?)?;
            return output.show(&json!({ "deleted": account.name }), || {
                format!("Account {} and everything in it is gone", account.name)
            });
        }
    };
    let account = client::create_account(&args.config.load()?.node.data, &args.name).await?;
    output.show(&account, || {
        format!(
            "Account {}: log in as {} with this API key, which is shown only now:\n{}",
            account.account, account.login, account.api_key
        )
    })
}

async fn recover(args: &RecoverArgs, output: Output) -> Result<(), Failure> {
    let config = args.config.load()?;
    let typed = args.passphrase.known(&config)?;
    let survivor = recover::look(&config, typed.as_ref())?;
    let account = &survivor.account;
    note(account.to_text());
    let cluster_id = account.cluster_id.clone();
    let confirmed = match &args.confirm {
        Some(id) => id.clone(),
        None if std::io::stdin().is_terminal() => {
            input::line("To go on, type the id of the old cluster: ")?
        }
        None => {
            let text = format!("nothing was changed; to go on, pass --confirm {cluster_id}");
            return Err(Failure::new(Exit::Usage, text));
        }
    };
    if confirmed != cluster_id {
        let text = format!("{confirmed} was confirmed, the cluster is {cluster_id}");
        return Err(Failure::new(Exit::Usage, format!("nothing was changed: {text}")));
    }
    let recovered = recover::recover(survivor).await?;
    output.show(&recovered, || {
        format!(
            "{} is the only node of the new cluster {}.\nStart it: conclave server\n\
             Wipe the data folders of all others, issue seeds, and let them join.\n\
             Clients go on as they are; they trust {}.",
            recovered.name,
            recovered.cluster_id,
            recovered.root_certificate.display()
        )
    })
}

fn done(response: Response) -> Result<(), Failure> {
    if matches!(response, Response::Done) { Ok(()) } else { Err(response.into_failure()) }
}

fn status_text(status: &Status) -> String {
    let leader = status.leader.map_or_else(
        || "none known".to_owned(),
        |id| match status.members.iter().find(|member| member.id == id) {
            Some(member) => format!("{} (node {id})", member.name),
            None => format!("node {id}"),
        },
    );
    format!(
        "cluster    {}\nnode       {} (node {})\npart       {}{}\nleader     {leader}\nterm       {}\n\
         log        last {}, committed {}, applied {}, snapshot {}\n{}\n{}",
        status.cluster_id,
        status.name,
        status.node_id,
        status.part,
        if status.sealed {
            sealed_text(status)
        } else if status.draining {
            " (out of service: conclave cluster drain --undo)".to_owned()
        } else {
            String::new()
        },
        status.term,
        status.last_log,
        status.committed,
        status.applied,
        status.snapshot,
        level_text(status) + &rotations_text(status),
        members_text(status)
    )
}

/// Why the node is sealed.
fn sealed_text(status: &Status) -> String {
    match &status.sealed_reason {
        Some(why) if status.part == "sealed" => format!(" ({why})"),
        Some(why) => format!(" (sealed: {why})"),
        None => " (sealed)".to_owned(),
    }
}

/// What the cluster may use, and who keeps it from more; what the leader does about the dead.
fn level_text(status: &Status) -> String {
    let mut text = format!("features   level {}", status.level);
    if status.level < status.level_max {
        let behind = status.members.iter().filter_map(|member| {
            let seen = member.seen.as_ref()?;
            (seen.level < status.level_max).then(|| format!("{} ({})", member.name, seen.level))
        });
        let behind: Vec<String> = behind.collect();
        text.extend([format!(" of {}, waits for {}", status.level_max, behind.join(", "))]);
    }
    let after = status.remove_dead_after_s.filter(|_| status.part == "leader");
    if let Some(after) = after {
        text.extend([format!("\nautopilot  removes members not heard from for {after} s")]);
    }
    text + "\n"
}

/// How a member is, as far as whoever leads has heard.
fn condition(member: &MemberStatus) -> String {
    const SILENT_MS: u64 = 5_000;
    match &member.seen {
        None => "-".to_owned(),
        Some(seen) if seen.silent_ms >= SILENT_MS => format!("silent {} s", seen.silent_ms / 1000),
        Some(seen) if seen.version.is_empty() => "not heard yet".to_owned(),
        Some(seen) => seen.obstacle.clone().unwrap_or_else(|| "ok".to_owned()),
    }
}

/// One line on rotations, where there are any, and one for each that fails.
fn rotations_text(status: &Status) -> String {
    let failing: Vec<_> = status.rotations.iter().filter(|one| one.failures > 0).collect();
    if status.rotations.is_empty() {
        return String::new();
    }
    let mut text =
        format!("rotations  {} known, {} failing\n", status.rotations.len(), failing.len());
    for one in failing {
        let error = one.error.as_deref().unwrap_or_default();
        text.extend([format!("  {} failed {} times: {error}\n", one.resource, one.failures)]);
    }
    text
}

fn members_text(status: &Status) -> String {
    let mut rows = vec![
        ["ID", "NAME", "ROLE", "VOTES", "LAG", "STATE", "VERSION", "PEER ADDRESS", "API"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for member in &status.members {
        let lag = member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        let mark = if status.leader == Some(member.id) { " (leader)" } else { "" };
        rows.push(vec![
            member.id.to_string(),
            format!("{}{mark}", member.name),
            member.role.as_str().to_owned(),
            if member.votes { "yes" } else { "no" }.to_owned(),
            lag,
            condition(member),
            member.seen.as_ref().map_or_else(|| "-".to_owned(), |seen| seen.version.clone()),
            member.peer_address.clone(),
            member.api_url.clone(),
        ]);
    }
    table(&rows)
}

impl ConfigArg {
    /// Reads the configuration that the command line or `CONCLAVE_CONFIG` names.
    ///
    /// # Errors
    /// When there is none, or it is wrong.
    pub fn load(&self) -> Result<crate::config::Config, Failure> {
        let path =
            self.config.clone().or_else(crate::config::environment::config_file).ok_or_else(
                || Failure::new(Exit::Configuration, "pass --config FILE or set CONCLAVE_CONFIG"),
            )?;
        crate::config::Config::load(&path).map_err(|error| Failure::new(Exit::Configuration, error))
    }
}
