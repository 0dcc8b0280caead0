//! The command line: what can be typed, and where it goes. The texts here are what `--help` teaches.

pub mod audit;
pub mod backup;
pub mod cert;
pub mod cluster;
pub mod config;
pub mod keys;
pub mod output;
pub(crate) mod progress;
pub mod unseal;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client;
use crate::dev;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::lifecycle;
use audit::AuditCommand;
use backup::{BackupCommand, RestoreArgs};
use cert::CertCommand;
use cluster::{AccountCommand, ClusterCommand};
use config::ConfigCommand;
use keys::KeysCommand;
use output::Output;
use unseal::UnsealArgs;

/// What `conclave` takes.
#[derive(Debug, Parser)]
#[command(
    name = "conclave",
    version,
    about = "Secrets and machine identity, replicated. Server and command line in one.",
    after_help = EXIT_CODES,
    after_long_help = concat!(
        "Try it on this machine (3 voters, 1 follower, a sample policy):\n",
        "  conclave dev\n\n",
        "Run a cluster:\n",
        "  conclave cluster init --config n1.toml --account acme     # on the first machine\n",
        "  conclave server --config n1.toml\n",
        "  conclave cluster seed --config n1.toml --name n2 --role voter --out n2.seed\n",
        "  conclave cluster join --config n2.toml --seed n2.seed     # on the second machine\n",
        "  conclave server --config n2.toml\n\n",
        "Use one, with the verbs of Conjur's command line:\n",
        "  conclave init -u https://conclave.example.com -a acme -c root.pem\n",
        "  conclave login -i admin\n",
        "  conclave policy load -b root -f policy.yml\n",
        "  conclave variable set -i app/db/password -f password.txt\n",
        "  conclave variable get -i app/db/password\n\n",
        "Exit codes: 0 done; 1 failed; 2 usage; 3 configuration or file; 4 not authenticated;\n",
        "5 forbidden; 6 not found; 7 refused by the server; 8 unavailable, try again;\n",
        "70 the node stopped on a fault; 141 the output was not read to its end.",
    ),
    arg_required_else_help = true
)]
pub struct Cli {
    /// Shape of results.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "SHAPE")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Names a node's configuration.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The node's configuration; without it, CONCLAVE_CONFIG says where it is.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM.
    Server(ServerArgs),
    /// Found, grow, watch and repair a cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// See, renew and rotate the certificates that the cluster issues to itself.
    #[command(subcommand)]
    Cert(CertCommand),
    /// Create, list and delete accounts.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Bring the passphrase to a node that waits for it.
    ///
    /// A node whose configuration says unseal.by = "passphrase" and no file waits after its start, and
    /// answers 503 until then. Speaks with the node on its own machine.
    #[command(after_help = "\
Examples:
  conclave unseal --config n1.toml                          asks for it
  conclave unseal --config n1.toml --passphrase-file -      first line of standard input")]
    Unseal(UnsealArgs),
    /// Check a configuration file, and have a running node read its own anew.
    #[command(
        subcommand,
        after_help = "\
Examples:
  conclave config check n1.toml && conclave config reload --config n1.toml"
    )]
    Config(ConfigCommand),
    /// Change and show the keys that values are sealed under.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Put the whole cluster into a file, and check such a file.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Make an empty data folder the first node of a new cluster, with all that a backup holds.
    #[command(after_help = "\
The new cluster has its own id: nodes, seeds and joins of the old one count for nothing in it. Clients go
on as they are, with their API keys and the root that they trust; what was changed or revoked after the
backup is as it was at the backup. The configuration is written as for `cluster init`.

  conclave restore --config n1.toml conclave-2026-11-22.backup
  conclave server --config n1.toml
  conclave cluster seed --config n1.toml --name n2 --role voter --out n2.seed      and so on

The backup opens with the master key of the node that made it, come by as that node came by it: put its
key file where node.master_key_file says, or name it with --backup-key-file; for a passphrase or an HSM
write the same [unseal], or name that node's configuration with --backup-config. The new node is sealed
as its own configuration says.")]
    Restore(RestoreArgs),
    /// Prove, show and export the audit trail.
    #[command(
        subcommand,
        after_help = "\
Examples:
  conclave audit verify --config n1.toml          exit code 1 and the first bad record, if there is one
  conclave audit tail -f
  conclave audit query --result failure --since 2026-11-22
  conclave audit export --out trail.jsonl
  conclave audit verify --file trail.jsonl --key 3b6a27bc…    anywhere, without a node"
    )]
    Audit(AuditCommand),
    /// Run a whole cluster on this machine, to try things or to test against.
    #[command(after_help = "\
Examples:
  conclave dev                              start, say how to reach it, run until Ctrl-C
  conclave dev --data ./dev                 keep state and ports from run to run
  conclave dev --voters 5 --followers 2
  conclave dev --run pytest tests/          run a command against it, end with its status")]
    Dev(DevArgs),
    /// Remember a server and an account in .conjurrc.
    Init(client::InitArgs),
    /// Log in and remember the API key in .netrc.
    #[command(after_help = "\
Examples:
  conclave login -i admin                          asks for the password or API key
  conclave login -i host/ci --password-file key    takes it from a file, - for standard input")]
    Login(client::LoginArgs),
    /// Forget the login.
    Logout,
    /// Who the server says is logged in.
    Whoami,
    /// Print an access token.
    #[command(after_help = "\
Example:
  curl --cacert root.pem -H \"$(conclave authenticate -H)\" https://localhost:8443/whoami")]
    Authenticate(client::AuthenticateArgs),
    /// Load and show policies.
    #[command(subcommand)]
    Policy(client::PolicyCommand),
    /// Read and write secret values.
    #[command(subcommand)]
    Variable(client::VariableCommand),
    /// List what the caller may see.
    #[command(after_help = "\
Examples:
  conclave list -k variable                       ids of one kind
  conclave list -s db -l 50 -o 100                found by words, a page of them
  conclave list -k host --count
  conclave list -r group:app/operators -i         whole documents, as a role sees them")]
    List(client::ListArgs),
    /// What is known of one resource.
    #[command(
        subcommand,
        after_help = "\
Examples:
  conclave resource show variable:app/db/password
  conclave resource exists host:app/web-01
  conclave resource permitted-roles variable:app/db/password execute"
    )]
    Resource(client::ResourceCommand),
    /// Whether a privilege is held: prints true or false.
    #[command(after_help = "\
Examples:
  conclave check variable:app/db/password execute
  conclave check variable:app/db/password execute -r host:app/web-01
  conclave check -e webservice:ci authenticate && ...      exit code 6 for false")]
    Check(client::CheckArgs),
    /// Who holds which role.
    #[command(
        subcommand,
        after_help = "\
Examples:
  conclave role members group:ops
  conclave role memberships host:app/web-01       all that it holds, itself too
  conclave role exists user:alice"
    )]
    Role(client::RoleCommand),
    /// API keys and passwords of users.
    #[command(subcommand)]
    User(client::UserCommand),
    /// API keys of hosts.
    #[command(subcommand)]
    Host(client::HostCommand),
    /// Machines that enrol themselves.
    #[command(subcommand)]
    Hostfactory(client::HostfactoryCommand),
    /// Public keys of users.
    #[command(subcommand)]
    Pubkeys(client::PubkeysCommand),
    /// Which authenticators let people and machines in.
    #[command(subcommand)]
    Authenticator(client::AuthenticatorCommand),
    /// Bring people and groups of a directory into a policy.
    #[command(
        subcommand,
        after_help = "\
Examples:
  conclave ldap-sync show corp                 what a run would change, as policy
  conclave ldap-sync apply corp
  conclave ldap-sync apply corp --force        though it takes away more than the guard allows
  conclave ldap-sync history corp"
    )]
    LdapSync(client::LdapSyncCommand),
    /// Bring in a tree of policies and a file of values; goes on where it was when run again.
    #[command(after_help = "\
Folders are branches: policies/base.yml goes into root, policies/app/hosts.yml into app. Or a manifest
says so, policies/conclave-import.yml:
  policies:
  - {branch: root, file: base.yml}
  - {branch: app, file: app/hosts.yml, mode: replace}

Values are pairs of id and value; what is no text stands as base64:
  app/db/password: correct horse
  app/tls/key: {base64: LS0tLS1CRUdJTg==}

Examples:
  conclave import -d policies --check                      read and check everything, send nothing
  conclave import -d policies -v values.yml
  conclave import -v values.json")]
    Import(client::ImportArgs),
}

/// Arguments of `server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// End when standard input is closed, so that a parent's death ends this process, too.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Keep everything in this folder; without it a temporary one is used and removed.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many nodes vote.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    voters: u8,
    /// How many nodes follow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=9))]
    followers: u8,
    /// Run this command with the CONJUR_* variables set; end with its status.
    #[arg(
        long,
        num_args = 1..,
        allow_hyphen_values = true,
        trailing_var_arg = true,
        value_name = "CMD"
    )]
    run: Vec<OsString>,
}

/// Runs what was typed.
///
/// # Errors
/// As the command says.
pub async fn run(cli: Cli) -> Result<std::process::ExitCode, Failure> {
    let output = cli.output;
    match cli.command {
        Command::Server(args) => {
            lifecycle::serve(&args.config.load()?, args.end_with_stdin).await?;
        }
        Command::Cluster(command) => cluster::cluster(command, output).await?,
        Command::Cert(command) => return cert::cert(command, output).await,
        Command::Account(command) => cluster::account(command, output).await?,
        Command::Unseal(args) => unseal::unseal(args, output).await?,
        Command::Config(command) => config::config(command, output).await?,
        Command::Keys(command) => keys::keys(command, output).await?,
        Command::Backup(command) => backup::backup(command, output).await?,
        Command::Restore(args) => backup::restore(args, output).await?,
        Command::Audit(command) => audit::audit(command, output).await?,
        Command::Dev(args) => {
            let options = dev::CommandOptions {
                data: args.data,
                voters: args.voters,
                followers: args.followers,
                run: args.run,
                output,
            };
            return dev::command(options).await;
        }
        Command::Init(args) => client::init(args, output)?,
        Command::Login(args) => client::login(args, output).await?,
        Command::Logout => client::logout(output)?,
        Command::Whoami => client::whoami(output).await?,
        Command::Authenticate(args) => client::authenticate(args, output).await?,
        Command::Policy(command) => client::policy(command, output).await?,
        Command::Variable(command) => client::variable(command, output).await?,
        Command::List(args) => client::list(args, output).await?,
        Command::Resource(command) => client::resource(command, output).await?,
        Command::Check(args) => client::check(args, output).await?,
        Command::Role(command) => client::role(command, output).await?,
        Command::User(command) => client::user(command, output).await?,
        Command::Host(command) => client::host(command, output).await?,
        Command::Hostfactory(command) => client::hostfactory(command, output).await?,
        Command::Pubkeys(command) => client::pubkeys(command, output).await?,
        Command::Authenticator(command) => client::authenticator(command, output).await?,
        Command::LdapSync(command) => client::ldap_sync(command, output).await?,
        Command::Import(args) => client::import(args, output).await?,
    }
    Ok(std::process::ExitCode::SUCCESS)
}

/// Parses a command line; the first argument is the program's name.
///
/// # Errors
/// Text and exit code of clap: for `--help` and `--version`, too.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(args)
}

/// Ends with a failure: its text to standard error, in the shape that was asked for.
pub fn fail(output: Output, failure: &Failure) -> std::process::ExitCode {
    match output {
        // Who reads no more wants to hear nothing of it either.
        _ if failure.exit == Exit::Unread => {}
        Output::Text => output::note(format_args!("conclave: {failure}")),
        Output::Json => output::note(serde_json::json!({
            "error": { "exit": failure.exit as u8, "message": failure.message }
        })),
    }
    let exit: Exit = failure.exit;
    exit.into()
}

impl Cli {
    /// The shape of results that was asked for.
    pub fn output(&self) -> Output {
        self.output
    }
}
