//! Which server and account a client speaks with: the environment first, then `.conjurrc`, a flat
//! YAML file (`account`, `appliance_url`, `cert_file`, `netrc_path`).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};

use crate::config::environment::ClientEnvironment;
use crate::exit::{Context, Exit, Failure};

/// Where a client's files are when nothing else is said: the home folder.
const CONJURRC: &str = ".conjurrc";
const NETRC: &str = ".netrc";

/// What a client needs to know before its first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server's URL, without a slash at the end.
    pub appliance_url: String,
    /// The account.
    pub account: String,
    /// PEM file with the roots to trust.
    pub cert_file: Option<PathBuf>,
    /// Where the login is remembered.
    pub netrc: PathBuf,
}

/// The contents of a `.conjurrc`. Keys of other clients are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conjurrc {
    /// `account`.
    pub account: Option<String>,
    /// `appliance_url`.
    pub appliance_url: Option<String>,
    /// `cert_file`.
    pub cert_file: Option<String>,
    /// `netrc_path`.
    pub netrc_path: Option<String>,
}

impl Conjurrc {
    /// Parses the file's text.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut key: Option<String> = None;
        let mut depth = 0_u32;
        for event in Parser::new_from_str(text) {
            let (event, span) = event
                .map_err(|error| format!("line {}: {}", error.marker().line(), error.info()))?;
            match event {
                Event::MappingStart(..) | Event::SequenceStart(..) => {
                    if depth == 0 && !matches!(event, Event::MappingStart(..)) {
                        return Err(format!("line {}: wanted `key: value`", span.start.line()));
                    }
                    depth += 1;
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    depth = depth.saturating_sub(1);
                    if depth == 1 {
                        key = None;
                    }
                }
                Event::Scalar(value, ..) if depth == 1 => match key.take() {
                    None => key = Some(value.into_owned()),
                    Some(key) => found.set(&key, value.into_owned()),
                },
                Event::Scalar(_, _, _, _) if depth == 0 => {
                    return Err(format!("line {}: wanted `key: value`", span.start.line()));
                }
                Event::Alias(_) if depth <= 1 => {
                    return Err(format!("line {}: aliases have no place here", span.start.line()));
                }
                Event::Scalar(..)
                | Event::Alias(_)
                | Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
            }
        }
        Ok(found)
    }

    fn set(&mut self, key: &str, value: String) {
        let value = Some(value).filter(|value| !value.is_empty());
        match key {
            "account" => self.account = value,
            "appliance_url" => self.appliance_url = value,
            "cert_file" => self.cert_file = value,
            "netrc_path" => self.netrc_path = value,
            _ => {}
        }
    }

    /// The file's text, as the Conjur command line writes it.
    pub fn to_text(&self) -> String {
        let mut text = String::from("---\n");
        let rows = [
            ("account", &self.account),
            ("appliance_url", &self.appliance_url),
            ("cert_file", &self.cert_file),
            ("netrc_path", &self.netrc_path),
        ];
        for (key, value) in rows {
            if let Some(value) = value {
                let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                text.extend([key, ": \"", &escaped, "\"\n"]);
            }
        }
        text
    }
}

/// The `.conjurrc` in force.
///
/// # Errors
/// When neither `CONJURRC` nor `HOME` says where it is.
pub fn conjurrc_path(environment: &ClientEnvironment) -> Result<PathBuf, Failure> {
    environment
        .conjurrc
        .clone()
        .or_else(|| environment.home.as_ref().map(|home| home.join(CONJURRC)))
        .ok_or_else(|| {
            Failure::new(
                Exit::Configuration,
                "set HOME or CONJURRC: there is no place for .conjurrc",
            )
        })
}

impl Settings {
    /// Gathers the settings in force.
    ///
    /// # Errors
    /// When a file is malformed, or the URL or account is nowhere to be found.
    pub fn load(environment: &ClientEnvironment) -> Result<Self, Failure> {
        let file = match conjurrc_path(environment) {
            Ok(path) => read_conjurrc(&path)?,
            Err(_) => Conjurrc::default(),
        };
        let wanted = |what: &str, variable: &str| {
            Failure::new(
                Exit::Configuration,
                format!("no {what}: run `conclave init -u URL -a ACCOUNT`, or set {variable}"),
            )
        };
        let appliance_url = environment
            .appliance_url
            .clone()
            .or(file.appliance_url)
            .ok_or_else(|| wanted("server URL", "CONJUR_APPLIANCE_URL"))?;
        let account = environment
            .account
            .clone()
            .or(file.account)
            .ok_or_else(|| wanted("account", "CONJUR_ACCOUNT"))?;
        let netrc = environment
            .netrc
            .clone()
            .or_else(|| file.netrc_path.map(PathBuf::from))
            .or_else(|| environment.home.as_ref().map(|home| home.join(NETRC)))
            .ok_or_else(|| {
                Failure::new(
                    Exit::Configuration,
                    "set HOME or CONJUR_NETRC_PATH: there is no place for .netrc",
                )
            })?;
        Ok(Self {
            appliance_url: appliance_url.trim_end_matches('/').to_owned(),
            account,
            cert_file: environment.cert_file.clone().or_else(|| file.cert_file.map(PathBuf::from)),
            netrc,
        })
    }
}

fn read_conjurrc(path: &Path) -> Result<Conjurrc, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Conjurrc::parse(&text).map_err(|message| {
            Failure::new(Exit::Configuration, format!("{}: {message}", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Conjurrc::default()),
        Err(error) => {
            Err(Failure::new(Exit::Configuration, format!("{}: {error}", path.display())))
        }
    }
}

/// Replaces a private file in one step: written beside it with mode 0600, then renamed over it.
///
/// # Errors
/// When the folder cannot be written.
pub fn replace_private_file(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let what = path.display().to_string();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().context(Exit::Configuration, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conjurrc_reads_back_what_it_writes() {
        let written = Conjurrc {
            account: Some("dev".to_owned()),
            appliance_url: Some("https://localhost:8443".to_owned()),
            cert_file: Some("/home/a \"b\"/ca.pem".to_owned()),
            netrc_path: None,
        };
        assert_eq!(Conjurrc::parse(&written.to_text()), Ok(written));
    }

    #[test]
    fn foreign_keys_are_passed_over() {
        let text = "---\nplugins: [a, b]\nother: {account: no}\naccount: yes\n";
        assert_eq!(Conjurrc::parse(text).unwrap().account.as_deref(), Some("yes"));
    }

    #[test]
    fn a_list_is_no_conjurrc() {
        assert!(Conjurrc::parse("- a\n- b\n").unwrap_err().contains("line 1"));
    }
}
