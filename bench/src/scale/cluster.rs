//! Growth as clients see it: a cluster of three voters over HTTPS.

use std::time::Duration;

use tokio::time::Instant;

use super::{HOSTS, Line, Lines, Point, SIZES, USERS, VARIABLES, median, resident};
use crate::Fault;
use crate::scratch::Scratch;
use crate::subject::conclave::{Door, Token, begin};
use crate::wire::{Connection, Protocol, Reply, Request};

/// Policies in one load while filling.
const POLICIES_PER_LOAD: usize = 10;
const READS: usize = 1_000;

/// Fills a cluster up to so many variables, and measures at each size on the way.
pub(super) async fn run(
    most: usize,
    scratch: &Scratch,
    say: &impl Fn(String),
) -> Result<Vec<Line>, Fault> {
    let (cluster, door) = begin(scratch).await?;
    let pids: Vec<u32> = (0..cluster.len()).filter_map(|index| cluster.pid(index)).collect();
    let measured = async {
        let mut lines = Lines::default();
        let mut admin = door.log_in("admin", cluster.admin_key()).await?;
        texts(&door, &admin, &mut lines).await?;
        door.load(&admin, &super::users()).await?;
        let host = reader(&door, &admin).await?;
        let mut before = (0, resident(&pids));
        let mut policies = 0;
        for size in SIZES.into_iter().filter(|size| *size <= most) {
            let began = Instant::now();
            while policies * VARIABLES < size {
                let last = (size / VARIABLES).min(policies + POLICIES_PER_LOAD);
                let text: String = (policies..last).map(super::policy).collect();
                // A token lives eight minutes, and a million resources take longer.
                admin = door.log_in("admin", cluster.admin_key()).await?;
                door.load(&admin, &text).await?;
                policies = last;
            }
            say(format!("{size} in the cluster after {:.0} s more", began.elapsed().as_secs_f64()));
            let roles = policies * (HOSTS + 2) + USERS;
            let point = |value| Point { secrets: size, roles, value };
            let held = resident(&pids);
            let more = held.saturating_sub(before.1) as f64 / pids.len() as f64;
            let more = more / (size - before.0) as f64;
            lines.add("memory of a node for each resource more", "bytes", point(more));
            before = (size, held);
            measure(&door, &admin, &host, &mut lines, &point).await?;
        }
        Ok(lines.finish())
    };
    let measured = measured.await;
    cluster.stop().await;
    measured
}

/// Policies of many lines, loaded and tried, before anything else is there.
async fn texts(door: &Door, admin: &Token, lines: &mut Lines) -> Result<(), Fault> {
    for (load, dry, name, count) in [
        ("load 4,003 lines", "dry run of 4,003 lines", "short", 4_003),
        ("load 40,003 lines", "dry run of 40,003 lines", "long", 40_003),
    ] {
        let text = super::lines(name, count);
        let point = |began: Instant| Point {
            secrets: count,
            roles: 1,
            value: began.elapsed().as_secs_f64() * 1e3,
        };
        let began = Instant::now();
        let path = format!("/policies/{}/policy/root?dryRun=true", door.account());
        door.call("POST", &path, admin, text.as_bytes()).await?;
        lines.add(dry, "ms", point(began));
        let began = Instant::now();
        door.load(admin, &text).await?;
        lines.add(load, "ms", point(began));
    }
    Ok(())
}

/// A host that reads one value through its group.
struct Reader {
    login: String,
    key: String,
    path: String,
}

async fn reader(door: &Door, admin: &Token) -> Result<Reader, Fault> {
    let text = "- !policy\n  id: reading\n  body:\n  - !variable v\n  - !host h\n  - !group g\n  \
                - !grant {role: !group g, member: !host h}\n  \
                - !permit {role: !group g, privileges: [read, execute], resource: !variable v}\n";
    let keys = door.load(admin, text).await?;
    let (login, key) =
        keys.into_iter().next().ok_or_else(|| super::broken("the load made no host"))?;
    let path = format!("/secrets/{}/variable/reading%2Fv", door.account());
    door.call("POST", &path, admin, &[b'v'; 64]).await?;
    Ok(Reader { login, key, path })
}

async fn measure(
    door: &Door,
    admin: &Token,
    reader: &Reader,
    lines: &mut Lines,
    point: &impl Fn(f64) -> Point,
) -> Result<(), Fault> {
    let account = door.account();
    let token = door.log_in(&reader.login, &reader.key).await?;
    let reads = door.timed("GET", &reader.path, &token, READS).await?;
    lines.add("authenticated read, p50", "us", point(reads.as_secs_f64() * 1e6));
    let check = format!("/resources/{account}/variable/reading%2Fv?check=true&privilege=execute");
    let checks = door.timed("GET", &check, &token, READS).await?;
    lines.add("permission check, p50", "us", point(checks.as_secs_f64() * 1e6));
    for (step, path, count) in [
        ("list with limit 1,000", format!("/resources/{account}?limit=1000"), 5),
        (
            "list a kind that there is none of",
            format!("/resources/{account}?kind=webservice&limit=10"),
            5,
        ),
        ("count of all", format!("/resources/{account}?count=true"), 3),
    ] {
        let took = door.timed("GET", &path, admin, count).await?;
        lines.add(step, "ms", point(took.as_secs_f64() * 1e3));
    }
    let mut took = Vec::new();
    for turn in 0..5 {
        let size = point(0.0).secrets;
        let text = super::variables(&format!("appended/{size}/{turn}/"), 100);
        let began = Instant::now();
        door.load(admin, &text).await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    lines.add("append 100 lines", "ms", point(median(took)));
    Ok(())
}

impl Door {
    /// The median time of a request, one after the other on one connection.
    async fn timed(
        &self,
        method: &str,
        path: &str,
        token: &Token,
        count: usize,
    ) -> Result<Duration, Fault> {
        let failed = Fault::io(format!("{method} {path}"));
        let endpoint = self.endpoint();
        let opened = Connection::open(endpoint, Protocol::Http1).await;
        let mut connection = opened.map_err(failed)?;
        let mut request = Request::http1(method, &endpoint.name, path, &[token.header()], b"");
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            let reply = connection.exchange(&mut request).await;
            match reply.map_err(Fault::io(format!("{method} {path}")))? {
                Reply::Success => took.push(began.elapsed().as_secs_f64()),
                Reply::Failure(answer) => {
                    return Err(super::broken(format!("{method} {path}: {answer}")));
                }
            }
        }
        Ok(Duration::from_secs_f64(median(took)))
    }
}
