//! The command line of simulations and drills. It is its own server binary: called with `conclave`
//! as the first argument it is the server and command line under test.
//!
//! Exit codes: 0 valid, 1 invalid (a promise was broken), 2 unknown (nothing was proved).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use conclave_chaos::drill::report::Verdict;
use conclave_chaos::{drill, sim};
use tokio::signal::unix::{SignalKind, signal};

/// Proves that Conclave keeps its promises when things break.
#[derive(Debug, Parser)]
#[command(
    name = "conclave-chaos",
    version,
    after_help = "\
Exit codes: 0 valid; 1 invalid, a promise was broken; 2 unknown, nothing was proved."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hurt a cluster of real processes. Drills: leader-kill, leader-pause, leader-isolate,
    /// restart-all, power-cut, calm, revocation, canary, disk-faults, garbage, certificates,
    /// failover, hand-over, upgrade, converge, audit, jobs.
    Drill(DrillArgs),
    /// Hurt simulated clusters: the same seed, the same run.
    Sim(SimArgs),
}

#[derive(Debug, Args)]
struct DrillArgs {
    /// Which drill.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(drill::NAMES))]
    name: String,
    /// How many faults.
    #[arg(long, default_value_t = 20)]
    trials: u32,
    /// Names the run: the same seed plans the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long a calm drill lasts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Writes a second of the drills failover and hand-over; of upgrade and jobs at most 100.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Faults of a failover drill, with commas between them; all without it. So many trials each.
    #[arg(long, value_delimiter = ',', value_parser =
        clap::builder::PossibleValuesParser::new(drill::failover::BLOWS))]
    faults: Vec<String>,
    /// By which ways is logged in: by API key, or `mixed` by an API key, a JWT, a directory's password and a
    /// client certificate in turn, of which some are bad, all the time beside a load of theirs. For leader-kill,
    /// leader-pause, leader-isolate, restart-all, power-cut, failover, hand-over and jobs.
    #[arg(long, value_name = "WAYS", default_value = "key", value_parser =
        clap::builder::PossibleValuesParser::new(["key", "mixed"]))]
    logins: String,
    /// The `conclave` that the nodes of an upgrade run at first, such as one of an earlier commit; without it
    /// all are restarted with the version that they have.
    #[arg(long, value_name = "PATH")]
    old_binary: Option<PathBuf>,
    /// Keep all cores busy during a calm drill.
    #[arg(long)]
    busy: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Keep data and logs of the nodes when the verdict is not valid.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct SimArgs {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Put a known bug in; the run is then expected to find it.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(sim::bug::NAMES))]
    bug: Option<String>,
    /// Print what the simulated nodes log, to standard error; for one seed. A filter as RUST_LOG
    /// takes it: `debug`, or `conclave_raft=debug,openraft=info`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let is_server = args.nth(1).is_some_and(|first| first == "conclave");
    if is_server {
        return conclave::main_with(std::iter::once(OsString::from("conclave")).chain(args));
    }
    conclave::install_crypto();
    match Cli::parse().command {
        Command::Drill(args) => drill_command(&args),
        Command::Sim(args) => sim_command(&args),
    }
}

fn drill_command(args: &DrillArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("conclave-chaos: no threads: {error}");
            return ExitCode::from(Verdict::Unknown.exit_code());
        }
    };
    let length = match args.name.as_str() {
        "calm" => format!("--seconds {}", args.seconds),
        "upgrade" => format!("--rate {}", args.rate),
        _ => format!("--trials {}", args.trials),
    };
    let mut replay = vec![format!(
        "cargo run --release -p conclave-chaos -- drill {} {length} --seed {}",
        args.name, args.seed
    )];
    if args.busy {
        replay.push("--busy".to_owned());
    }
    if let Some(path) = &args.old_binary {
        replay.push(format!("--old-binary {}", path.display()));
    }
    if args.name == "hand-over" {
        replay.push(format!("--rate {}", args.rate));
    }
    if args.name == "failover" {
        replay.push(format!("--rate {}", args.rate));
        if !args.faults.is_empty() {
            replay.push(format!("--faults {}", args.faults.join(",")));
        }
    }
    let mixed_logins = args.logins == "mixed";
    if mixed_logins {
        replay.push(format!("--logins {}", args.logins));
    }
    let replay = replay.join(" ");
    let options = drill::Options {
        trials: args.trials,
        seed: args.seed,
        seconds: args.seconds,
        rate: args.rate,
        faults: args.faults.clone(),
        old_binary: args.old_binary.clone(),
        mixed_logins,
        busy: args.busy,
        keep: args.keep,
        replay,
    };
    let report = runtime.block_on(async {
        // Dropping the drill ends its nodes and undoes its mounts and namespaces.
        tokio::select! {
            report = drill::run(&args.name, options) => Some(report),
            () = interrupted() => None,
        }
    });
    match report {
        Some(Ok(report)) => {
            if args.json {
                match serde_json::to_string_pretty(&report) {
                    Ok(text) => println!("{text}"),
                    Err(error) => eprintln!("conclave-chaos: {error}"),
                }
            } else {
                print!("{}", report.to_text());
            }
            ExitCode::from(report.verdict.exit_code())
        }
        Some(Err(error)) => {
            eprintln!("conclave-chaos: {error}");
            ExitCode::from(Verdict::Unknown.exit_code())
        }
        None => {
            eprintln!("conclave-chaos: interrupted; everything was cleaned up");
            ExitCode::from(Verdict::Unknown.exit_code())
        }
    }
}

/// Returns when the user or the system wants an end.
async fn interrupted() {
    let mut streams = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        streams.extend(signal(kind));
    }
    let waits = streams.iter_mut().map(|stream| Box::pin(stream.recv()));
    futures::future::select_all(waits).await;
}

fn sim_command(args: &SimArgs) -> ExitCode {
    if let Some(filter) = &args.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let report = match sim::run(args.from, args.seeds, args.bug.as_deref()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("conclave-chaos: {error}");
            return ExitCode::from(Verdict::Unknown.exit_code());
        }
    };
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("conclave-chaos: {error}"),
        }
    } else {
        print!("{}", report.to_text());
    }
    ExitCode::from(report.verdict.exit_code())
}
