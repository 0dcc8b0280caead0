//! Which policy texts go into which branch, and in what order: as a manifest says, or else as the
//! folders lie. A text in the top folder goes into `root`, one in `app/db/` into the branch `app/db`;
//! outer folders come first, and in a folder the texts come by name.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Method;

use super::values::at;
use super::yaml::{self, Body, Node};
use crate::exit::{Context, Exit, Failure};

/// A manifest of this name in the top folder is taken without being asked for.
pub(super) const MANIFEST: &str = "conclave-import.yml";
/// Deepest folder that is looked into.
const DEPTH_MAX: usize = 32;

/// How a text is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// Adds only (POST).
    Load,
    /// Adds, changes, and removes what the text names (PATCH).
    Update,
    /// Makes the branch what the text declares (PUT).
    Replace,
}

impl Mode {
    /// The HTTP method.
    pub(super) fn method(self) -> Method {
        match self {
            Self::Load => Method::POST,
            Self::Update => Method::PATCH,
            Self::Replace => Method::PUT,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        <Self as clap::ValueEnum>::from_str(text, false).ok()
    }
}

/// One text and where it goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The file.
    pub(super) file: PathBuf,
    /// Its name in messages and in the journal: relative to the top folder.
    pub(super) name: String,
    /// The policy that it is loaded into.
    pub(super) branch: String,
    /// How.
    pub(super) mode: Mode,
}

/// The steps of a folder without a manifest.
///
/// # Errors
/// When a folder cannot be read, or holds no policy text at all.
pub(super) fn from_folders(top: &Path, mode: Mode, skip: &[PathBuf]) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    walk(top, &mut Vec::new(), mode, skip, &mut steps)?;
    steps.sort_by(|a, b| {
        let depth = |step: &Step| step.name.matches('/').count();
        depth(a).cmp(&depth(b)).then_with(|| a.name.cmp(&b.name))
    });
    if steps.is_empty() {
        return Err(Failure::new(
            Exit::Configuration,
            format!("{} holds no .yml or .yaml file", top.display()),
        ));
    }
    Ok(steps)
}

fn walk(
    folder: &Path,
    names: &mut Vec<String>,
    mode: Mode,
    skip: &[PathBuf],
    steps: &mut Vec<Step>,
) -> Result<(), Failure> {
    let entries = fs::read_dir(folder).context(Exit::Configuration, folder.display())?;
    for entry in entries {
        let entry = entry.context(Exit::Configuration, folder.display())?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            return Err(Failure::new(
                Exit::Configuration,
                format!("{}: the name is not UTF-8", path.display()),
            ));
        };
        let is_text = path.extension().is_some_and(|end| end == "yml" || end == "yaml");
        if name.starts_with('.') || skip.iter().any(|known| is_same(known, &path)) {
            continue;
        }
        let kind = entry.file_type().context(Exit::Configuration, path.display())?;
        // A link to a folder could lead round in a circle; a link to a text is that text.
        if kind.is_dir() {
            if names.len() >= DEPTH_MAX {
                return Err(Failure::new(
                    Exit::Configuration,
                    format!("{}: folders nested too deep", path.display()),
                ));
            }
            names.push(name);
            walk(&path, names, mode, skip, steps)?;
            names.pop();
        } else if is_text && path.is_file() {
            let branch = if names.is_empty() { "root".to_owned() } else { names.join("/") };
            let mut full = names.clone();
            full.push(name);
            steps.push(Step { file: path, name: full.join("/"), branch, mode });
        }
    }
    Ok(())
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The steps that a manifest lists.
///
/// # Errors
/// What is wrong with it, with file and line.
pub(super) fn from_manifest(
    path: &Path,
    top: &Path,
    text: &str,
    mode: Mode,
) -> Result<Vec<Step>, Failure> {
    let wrong = |line: usize, why: &str| at(path, line, why);
    let root = yaml::read(text).map_err(|(line, why)| wrong(line, &why))?;
    let root = root.ok_or_else(|| wrong(1, "wanted `policies:`"))?;
    let Body::Map(pairs) = root.body else { return Err(wrong(root.line, "wanted `policies:`")) };
    let mut steps = Vec::new();
    for (key, value) in pairs {
        match (key.text(), value.body) {
            (Some("policies"), Body::List(items)) => {
                for item in items {
                    steps.push(step(path, top, mode, item)?);
                }
            }
            (Some("policies"), _) => return Err(wrong(value.line, "wanted a list of policies")),
            (other, _) => {
                let name = other.unwrap_or("that");
                return Err(wrong(key.line, &format!("there is no key {name}; wanted `policies`")));
            }
        }
    }
    Ok(steps)
}

fn step(path: &Path, top: &Path, mode: Mode, item: Node) -> Result<Step, Failure> {
    let wrong = |line: usize, why: &str| at(path, line, why);
    let Body::Map(pairs) = item.body else {
        return Err(wrong(item.line, "wanted `branch:` and `file:`"));
    };
    let (mut branch, mut file, mut mode) = (None, None, mode);
    for (key, value) in pairs {
        let text = value.text().map(str::to_owned);
        match (key.text(), text) {
            (Some("branch"), Some(text)) => branch = Some(text),
            (Some("file"), Some(text)) => file = Some((text, value.line)),
            (Some("mode"), Some(text)) => {
                mode = Mode::parse(&text)
                    .ok_or_else(|| wrong(value.line, "mode is load, update or replace"))?;
            }
            (Some(name @ ("branch" | "file" | "mode")), None) => {
                return Err(wrong(key.line, &format!("{name} has no value")));
            }
            (name, _) => {
                let name = name.unwrap_or("that");
                return Err(wrong(
                    key.line,
                    &format!("there is no key {name}; wanted branch, file, mode"),
                ));
            }
        }
    }
    let branch = branch.ok_or_else(|| wrong(item.line, "branch is missing"))?;
    let (name, line) = file.ok_or_else(|| wrong(item.line, "file is missing"))?;
    let file = top.join(&name);
    if !file.is_file() {
        return Err(wrong(line, &format!("there is no file {}", file.display())));
    }
    Ok(Step { file, name, branch, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_branches_and_outer_ones_come_first() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("app/db")).unwrap();
        for name in ["z.yml", "app/db/a.yaml", "app/b.yml", "app/a.yml", ".hidden.yml", "notes.md"]
        {
            fs::write(top.path().join(name), "- !user x\n").unwrap();
        }
        let steps = from_folders(top.path(), Mode::Load, &[]).unwrap();
        let got: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.branch.as_str())).collect();
        assert_eq!(
            got,
            [
                ("z.yml", "root"),
                ("app/a.yml", "app"),
                ("app/b.yml", "app"),
                ("app/db/a.yaml", "app/db"),
            ]
        );
    }

    #[test]
    fn manifests_are_refused_with_their_line() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("a.yml"), "- !user x\n").unwrap();
        let read = |text: &str| from_manifest(Path::new("m.yml"), top.path(), text, Mode::Load);
        let good = read("policies:\n- branch: root\n  file: a.yml\n  mode: replace\n").unwrap();
        assert_eq!((good[0].branch.as_str(), good[0].mode), ("root", Mode::Replace));
        let cases = [
            ("policies:\n- branch: root\n  file: b.yml\n", "m.yml:3: there is no file"),
            ("policies:\n- branch: root\n", "m.yml:2: file is missing"),
            ("policies:\n- branch: root\n  file: a.yml\n  mode: x\n", "m.yml:4: mode is"),
            ("steps: []\n", "m.yml:1: there is no key steps"),
        ];
        for (text, wanted) in cases {
            let message = read(text).unwrap_err().message;
            assert!(message.contains(wanted), "{text:?}: {message}");
        }
    }
}
