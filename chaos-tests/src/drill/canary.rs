//! I12: no secret in the clear. A thousand secrets with random values are set, read,
//! snapshotted and backed up; then every file and every metric of every node is searched for them, raw, in hex
//! and in base64.
//!
//! The search proves itself first: it must find a canary planted in a file of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use conclave::admin::client as admin;
use conclave::admin::protocol::Request;
use futures::{StreamExt as _, stream};
use http::{Method, StatusCode};

use super::report::Report;
use super::{Options, finish, fresh_secrets};
use crate::checker::Violation;
use crate::client::Asked;
use crate::process::cluster::{Cluster, Shape};
use crate::process::shell::HarnessError;
use crate::rng::Rng;

/// How many secrets are set.
const CANARIES: usize = 1_000;
/// So many equal bytes in a row are a leak, even if the rest of the value is missing.
const LEAK_BYTES_MIN: usize = 16;
/// The search looks up this many bytes at each position.
const KEY_BYTES: usize = 8;

/// Runs the drill.
pub(super) async fn run(options: &Options, report: &mut Report) -> Result<(), HarnessError> {
    let shape = Shape { snapshot_every: 400, ..Shape::default() };
    let mut cluster = Cluster::found(shape).await?;
    let mut rng = Rng::new(options.seed).fork("canaries");
    let names = fresh_secrets("canary", CANARIES);
    let values: Vec<String> = names.iter().map(|_| hex(&rng.bytes::<24>())).collect();
    // Values of hex digits in mixed case: a canary must survive neither recoding nor folding.
    cluster.declare(&names).await?;
    let leader = cluster.door(cluster.wait_leader(None).await?)?;
    let (login, door) = (&cluster.login, &leader);
    let writes = stream::iter(names.iter().zip(&values))
        .map(|(name, value)| async move { door.ask(login.write(name, value.clone())).await });
    let answers: Vec<_> = writes.buffer_unordered(16).collect().await;
    let refused = answers
        .iter()
        .find(|answer| !answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::CREATED));
    if let Some(refused) = refused {
        return Err(HarnessError(format!("setting canaries: {refused:?}")));
    }
    report.acknowledged += answers.len() as u64;

    cluster.wait_healthy().await?;
    let mut places: Vec<(String, Bytes)> = Vec::new();
    for position in 0..cluster.nodes.len() {
        let door = cluster.door(position)?;
        for (name, value) in names.iter().zip(&values).step_by(17) {
            let answer = door.ask(cluster.login.read(name, None)).await;
            if !answer.is_ok_and(|answer| answer.body == value.as_bytes()) {
                report.unclear(format!("node {} did not give {name} back", door.node));
            }
        }
        let data = cluster.nodes[position].place.data();
        admin::ask(&data, &Request::Snapshot).await?;
        // Beside the data, where it is searched like all else.
        let backup = cluster.nodes[position].place.folder.join("canary.backup");
        conclave::backup::create(&data, &backup, |_, _| {}).await?;
        let metrics = Asked::new(Method::GET, "/metrics", Bytes::new());
        let metrics = door.ask(cluster.login.signed(metrics)).await;
        let metrics = metrics.map_err(|error| HarnessError(format!("metrics: {error}")))?;
        places.push((format!("metrics of node {}", door.node), metrics.body));
    }

    let mut needles = Needles::default();
    for (name, value) in names.iter().zip(&values) {
        needles.add(name, value.as_bytes());
    }
    needles.add("the administrator's API key", cluster.login.expose_api_key().as_bytes());
    control(&needles, &values[0])?;

    // Once as the nodes run, and once after they have flushed and ended.
    search(&cluster, &needles, places, report)?;
    for node in &mut cluster.nodes {
        node.stop().await?;
    }
    search(&cluster, &needles, Vec::new(), report)?;
    report.trials = 1;
    finish(cluster, options, report);
    Ok(())
}

/// Searches all files of all nodes, and the places given.
fn search(
    cluster: &Cluster,
    needles: &Needles,
    places: Vec<(String, Bytes)>,
    report: &mut Report,
) -> Result<(), HarnessError> {
    let mut leaks: Vec<String> = Vec::new();
    let mut searched = 0_usize;
    for (place, bytes) in places {
        searched += bytes.len();
        leaks.extend(needles.find(&bytes).map(|name| format!("{name} in {place}")));
    }
    for node in &cluster.nodes {
        let mut files = files_below(&node.place.folder)?;
        files.push(node.place.log());
        for file in files {
            // A file may be gone since it was listed: databases delete what they replaced.
            let Ok(bytes) = std::fs::read(&file) else { continue };
            searched += bytes.len();
            let found = needles.find(&bytes);
            leaks.extend(found.map(|name| format!("{name} in {}", file.display())));
        }
    }
    if searched < 1 << 20 {
        report.unclear(format!("only {searched} bytes were there to be searched"));
    }
    eprintln!("canary: searched {} MiB", searched >> 20);
    report.broken(
        leaks
            .into_iter()
            .map(|detail| Violation { invariant: "I12 no secret in the clear", detail }),
    );
    Ok(())
}

/// Proves that the search finds what it should.
fn control(needles: &Needles, value: &str) -> Result<(), HarnessError> {
    let forms =
        [value.to_owned(), hex(value.as_bytes()), STANDARD_NO_PAD.encode(format!("x{value}"))];
    for form in forms {
        let planted = format!("some text before {form} and after");
        if needles.find(planted.as_bytes()).is_none() {
            return Err(HarnessError(format!("the search does not find {form}")));
        }
    }
    Ok(())
}

/// All regular files below a folder.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// One form of a canary, and the canary's name.
type Form = (Vec<u8>, Arc<str>);

/// The canaries in all their forms, found by their first bytes.
#[derive(Default)]
struct Needles {
    forms: HashMap<[u8; KEY_BYTES], Vec<Form>>,
}

impl Needles {
    fn add(&mut self, name: &str, value: &[u8]) {
        let upper = hex(value).to_uppercase().into_bytes();
        let mut forms = vec![value.to_vec(), hex(value).into_bytes(), upper];
        // In base64 a value looks different at each of three alignments; the characters that it
        // shares with its neighbours are left out.
        for shift in 0..3 {
            let mut shifted = vec![0; shift];
            shifted.extend_from_slice(value);
            let encoded = STANDARD_NO_PAD.encode(&shifted).into_bytes();
            let start = (shift * 8).div_ceil(6);
            forms.push(encoded[start..encoded.len() - 1].to_vec());
        }
        for form in forms {
            if let Some(key) = form.first_chunk::<KEY_BYTES>() {
                self.forms.entry(*key).or_default().push((form, name.into()));
            }
        }
    }

    /// The first canary in these bytes.
    fn find(&self, bytes: &[u8]) -> Option<Arc<str>> {
        bytes.windows(KEY_BYTES).enumerate().find_map(|(at, window)| {
            let key: &[u8; KEY_BYTES] = window.try_into().ok()?;
            let hit = |(form, _): &&(Vec<u8>, Arc<str>)| {
                let length = form.len().min(LEAK_BYTES_MIN);
                bytes[at..].starts_with(&form[..length])
            };
            self.forms.get(key)?.iter().find(hit).map(|(_, name)| Arc::clone(name))
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::{Needles, control};

    #[test]
    fn a_canary_is_found_in_every_form() {
        let mut needles = Needles::default();
        needles.add("bird", b"0a1b2c3d4e5f60718293");
        control(&needles, "0a1b2c3d4e5f60718293").expect("all forms are found");
        assert!(needles.find(b"0a1b2c3d4e5f6071 the rest was cut off").is_some());
        assert!(needles.find(b"nothing to be found here at all, not even 0a1b2c3d").is_none());
    }
}
