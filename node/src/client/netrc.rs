//! The `.netrc` file: where a login is remembered. `machine <url>/authn login <login> password <key>`,
//! as other Conjur clients read and write it. Entries of other programs are kept as they stand.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::settings::replace_private_file;
use crate::exit::{Context, Exit, Failure};

/// In place of a login: what is remembered is an access token, in base64, of somebody who has logged in at
/// an OpenID provider.
pub const TOKEN: &str = "[oidc]";

/// A remembered login.
pub struct Entry {
    /// The login: `alice` or `host/app`; or [`TOKEN`].
    pub login: String,
    /// The API key, or the access token.
    pub api_key: Zeroizing<String>,
}

/// The machine name under which a server's login is kept.
pub fn machine(appliance_url: &str) -> String {
    format!("{}/authn", appliance_url.trim_end_matches('/'))
}

/// Finds a machine's login in the text of a `.netrc`.
pub fn find(text: &str, machine: &str) -> Option<Entry> {
    let mut words = text.split_whitespace();
    let (mut here, mut login, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" => {
                if here {
                    break;
                }
                here = words.next() == Some(machine);
            }
            "default" if here => break,
            "login" if here => login = words.next(),
            "password" if here => password = words.next(),
            _ => {}
        }
    }
    Some(Entry { login: login?.to_owned(), api_key: Zeroizing::new(password?.to_owned()) })
}

/// The text with every entry of `machine` taken out.
pub fn without(text: &str, machine: &str) -> Zeroizing<String> {
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    let mut here = false;
    for line in text.split_inclusive('\n') {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("machine") => here = words.next() == Some(machine),
            Some("default" | "macdef") => here = false,
            _ => {}
        }
        if !here {
            kept.push_str(line);
        }
    }
    kept
}

/// The text with the login of `machine` put in, in place of any before.
pub fn with(text: &str, machine: &str, entry: &Entry) -> Zeroizing<String> {
    let mut text = without(text, machine);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("machine ");
    text.push_str(machine);
    text.push_str("\n  login ");
    text.push_str(&entry.login);
    text.push_str("\n  password ");
    text.push_str(&entry.api_key);
    text.push('\n');
    text
}

/// Reads a `.netrc`; an absent one is empty. Refuses one that others can read.
///
/// # Errors
/// When it cannot be read, or is open to others.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Err(Failure::new(
            Exit::Configuration,
            format!(
                "{} can be read by others than its owner; run: chmod 600 {}",
                path.display(),
                path.display()
            ),
        )),
        Ok(_) => Ok(Zeroizing::new(
            std::fs::read_to_string(path).context(Exit::Configuration, path.display())?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Zeroizing::default()),
        Err(error) => Err(error).context(Exit::Configuration, path.display()),
    }
}

/// Writes a `.netrc`, mode 0600.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    replace_private_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(login: &str) -> Entry {
        Entry { login: login.to_owned(), api_key: Zeroizing::new("k1".to_owned()) }
    }

    #[test]
    fn a_login_is_found_again_and_others_are_kept() {
        let before = "machine example.com login bob password x\n";
        let text = with(before, "https://h/authn", &entry("alice"));
        assert_eq!(find(&text, "https://h/authn").unwrap().login, "alice");
        assert_eq!(find(&text, "example.com").unwrap().login, "bob");
        let text = with(&text, "https://h/authn", &entry("host/app"));
        assert_eq!(find(&text, "https://h/authn").unwrap().login, "host/app");
        assert_eq!(*without(&text, "https://h/authn"), before);
    }

    #[test]
    fn half_an_entry_is_none() {
        assert!(find("machine a login b", "a").is_none());
        assert!(find("machine", "a").is_none());
    }
}
