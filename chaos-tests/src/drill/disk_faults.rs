//! Damaged, foreign and old disks: a node that cannot trust its disk refuses to serve and says
//! what to do; it never answers from it. One standby is hurt at a time, the cluster goes on.
//!
//! Source: `fault-model` N17 and N18, storage rules of section 7.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::canary::files_below;
use super::report::Report;
use super::{Options, finish, fresh_secrets};
use crate::checker::{Violation, convergence};
use crate::process::cluster::{Cluster, Shape, status};
use crate::process::shell::{HarnessError, run as shell};
use crate::rng::Rng;

/// How long a node with a bad disk may take to refuse, or to show that it serves.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(20);
/// Writes between the old image and the present.
const WRITES_BETWEEN: usize = 60;

/// Words for a disk that is not as it was left, one of which the refusal must use.
const DAMAGE: [&str; 6] = ["corrupt", "damage", "checksum", "match", "changed", "older than"];
/// What there is to do about it, one of which the refusal must name.
const REMEDIES: [&str; 3] = ["join it again", "point the node at", "put the right one back"];

/// What a node did with its disk.
enum Answer {
    /// It ended, with these last words.
    Refused(String),
    /// It serves and is level with the others.
    Serves,
    /// Neither: it runs and does not get there.
    Hangs,
}

/// Runs the drill: wrong master key, old image, then as many flipped bits as trials.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let mut cluster = Cluster::found(Shape { snapshot_every: 100, ..Shape::default() }).await?;
    let mut rng = Rng::new(options.seed).fork("disk faults");
    write_some(&mut cluster, "before").await?;

    // A standby's keys exchanged for another's.
    let victim = standby(&cluster).await?;
    let other = cluster.voters().find(|other| *other != victim).unwrap_or(0);
    cluster.nodes[victim].stop().await?;
    let key = cluster.nodes[victim].place.folder.join("master.key");
    let right = std::fs::read(&key)?;
    let wrong = std::fs::read(cluster.nodes[other].place.folder.join("master.key"))?;
    std::fs::write(&key, wrong)?;
    match restart(&mut cluster, victim).await? {
        Answer::Refused(words) => must_name(&words, &["master"], "a wrong master key", report),
        Answer::Serves | Answer::Hangs => {
            report.broken([broken("a node with a wrong master key did not refuse".to_owned())]);
        }
    }
    cluster.nodes[victim].kill().await.ok();
    std::fs::write(&key, right)?;
    revive(&mut cluster, victim).await?;
    report.trials += 1;

    old_image(&mut cluster, report).await?;

    let mut refusals = 0;
    for number in 0..options.trials {
        let victim = standby(&cluster).await?;
        cluster.nodes[victim].stop().await?;
        let data = cluster.nodes[victim].place.data();
        let saved = copy_of(&data)?;
        let Some(place) = flip_bit(&data, &mut rng)? else {
            return Err(HarnessError::new("there is no file to flip a bit in"));
        };
        let mut has_served = false;
        match restart(&mut cluster, victim).await? {
            Answer::Refused(words) => {
                refusals += 1;
                must_name(&words, &DAMAGE, &place, report);
            }
            // The bit may have been in space that nothing reads. Then all must be as it was.
            Answer::Serves => {
                has_served = true;
                report.broken(convergence::check(&cluster.holdings().await?));
            }
            Answer::Hangs => {
                report.broken([broken(format!("{place}: the node neither serves nor refuses"))]);
            }
        }
        cluster.nodes[victim].kill().await.ok();
        // Once it has served, the copy is an old image, and would be refused as one.
        if !has_served {
            restore(&saved, &data)?;
        }
        revive(&mut cluster, victim).await?;
        report.trials += 1;
        eprintln!("disk-faults {}/{}: {place}", number + 1, options.trials);
    }
    if options.trials > 0 && refusals == 0 {
        report.unclear("no flipped bit was in a place that matters".to_owned());
    }
    cluster.wait_healthy().await?;
    report.broken(convergence::check(&cluster.holdings().await?));
    finish(cluster, options, report);
    Ok(())
}

/// N18: the node comes back with its whole disk as it was some time ago.
async fn old_image(cluster: &mut Cluster, report: &mut Report) -> Result<(), HarnessError> {
    let victim = standby(cluster).await?;
    let data = cluster.nodes[victim].place.data();
    cluster.nodes[victim].stop().await?;
    let old = copy_of(&data)?;
    revive(cluster, victim).await?;
    write_some(cluster, "between").await?;
    cluster.nodes[victim].stop().await?;
    let present = data.with_extension("present");
    std::fs::rename(&data, &present)?;
    restore(&old, &data)?;
    match restart(cluster, victim).await? {
        Answer::Refused(words) => must_name(&words, &["older", "old"], "an old disk image", report),
        Answer::Serves | Answer::Hangs => {
            report.broken([broken("a node with an old disk image did not refuse".to_owned())]);
        }
    }
    cluster.nodes[victim].kill().await.ok();
    restore(&present, &data)?;
    revive(cluster, victim).await?;
    report.trials += 1;
    Ok(())
}

fn broken(detail: String) -> Violation {
    Violation { invariant: "bad disks are refused", detail }
}

fn must_name(words: &str, wanted: &[&str], what: &str, report: &mut Report) {
    eprintln!("disk-faults: {what}: refused: {words}");
    let lower = words.to_lowercase();
    if !wanted.iter().any(|wanted| lower.contains(wanted)) {
        let detail = format!("{what}: the refusal does not say what is wrong: {words:?}");
        report.broken([broken(detail)]);
    }
    if !REMEDIES.iter().any(|remedy| lower.contains(remedy)) {
        let detail = format!("{what}: the refusal does not say what to do: {words:?}");
        report.broken([broken(detail)]);
    }
}

/// A voter that does not lead.
async fn standby(cluster: &Cluster) -> Result<usize, HarnessError> {
    let leader = cluster.wait_leader(None).await?;
    cluster
        .voters()
        .find(|position| *position != leader)
        .ok_or_else(|| HarnessError::new("there is no standby"))
}

/// Starts a node and waits until it ends or is level.
async fn restart(cluster: &mut Cluster, victim: usize) -> Result<Answer, HarnessError> {
    let log = cluster.nodes[victim].place.log();
    let before = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    cluster.nodes[victim].start()?;
    let start = Instant::now();
    while start.elapsed() < REFUSAL_PATIENCE {
        if cluster.nodes[victim].has_ended().is_some() {
            cluster.nodes[victim].reap().await?;
            let text = std::fs::read(&log)?;
            let new = text.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
            let new = String::from_utf8_lossy(new);
            let words: Vec<&str> = new.lines().rev().take(4).collect();
            return Ok(Answer::Refused(words.into_iter().rev().collect::<Vec<_>>().join(" | ")));
        }
        let leader = cluster.wait_leader(None).await?;
        let leader = status(cluster.nodes[leader].place.data()).await;
        let ours = status(cluster.nodes[victim].place.data()).await;
        if let (Some(leader), Some(ours)) = (leader, ours)
            && ours.applied == leader.last_log
            && ours.leader == Some(leader.node_id)
        {
            return Ok(Answer::Serves);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(Answer::Hangs)
}

/// Starts a node whose disk is right again and waits for health.
async fn revive(cluster: &mut Cluster, victim: usize) -> Result<(), HarnessError> {
    cluster.nodes[victim].start()?;
    cluster.wait_healthy().await.map(drop)
}

async fn write_some(cluster: &mut Cluster, part: &str) -> Result<(), HarnessError> {
    let names = fresh_secrets(part, WRITES_BETWEEN);
    cluster.declare(&names).await?;
    let leader = cluster.door(cluster.wait_leader(None).await?)?;
    for name in &names {
        let answer = leader.ask(cluster.login.write(name, format!("{part} {name}"))).await;
        if !answer.as_ref().is_ok_and(|answer| answer.status.is_success()) {
            return Err(HarnessError(format!("setting {name}: {answer:?}")));
        }
    }
    cluster.wait_healthy().await.map(drop)
}

fn copy_of(data: &Path) -> Result<PathBuf, HarnessError> {
    let copy = data.with_extension("copy");
    shell(&["rm", "-rf", &copy.to_string_lossy()])?;
    shell(&["cp", "-a", &data.to_string_lossy(), &copy.to_string_lossy()])?;
    Ok(copy)
}

/// Puts a copy in the place of a data folder; the copy is used up.
fn restore(copy: &Path, data: &Path) -> Result<(), HarnessError> {
    shell(&["rm", "-rf", &data.to_string_lossy()])?;
    Ok(std::fs::rename(copy, data)?)
}

/// Flips one random bit of a random file, favouring none by its size; says where.
fn flip_bit(data: &Path, rng: &mut Rng) -> Result<Option<String>, HarnessError> {
    let files: Vec<PathBuf> = files_below(data)?
        .into_iter()
        // What is not read back cannot be verified: text logs of the database, locks, spooled
        // audit records, and the options file that the database only writes.
        .filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let path = file.to_string_lossy();
            !(name.starts_with("LOG")
                || name == "LOCK"
                || name.starts_with("OPTIONS")
                || path.contains("/audit/"))
        })
        .filter(|file| std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0))
        .collect();
    let Some(file) = rng.pick(&files) else { return Ok(None) };
    let mut bytes = std::fs::read(file)?;
    let at = rng.index(bytes.len());
    let bit = rng.below(8);
    bytes[at] ^= 1 << bit;
    std::fs::write(file, &bytes)?;
    let name = file.strip_prefix(data).unwrap_or(file).display();
    Ok(Some(format!("bit {bit} of byte {at} of {} in {name}", bytes.len())))
}
