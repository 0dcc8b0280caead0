//! Where the secret comes from that opens a node: a file that only its owner may read, a systemd
//! credential, an open descriptor, or a person. Never the command line or the environment itself, which
//! others can read.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use conclave_storage::seal::Secret;
use zeroize::Zeroizing;

use crate::config::{SecretSource, environment};
use crate::exit::{Context, Exit, Failure};

/// Longest secret; what is longer is another file.
const BYTES_MAX: u64 = 4096;
/// Standard input, output and error are not handed over for secrets.
const DESCRIPTOR_MIN: u32 = 3;

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Descriptor(variable) => write!(f, "the descriptor that {variable} names"),
            Self::Typed => f.write_str("typed"),
        }
    }
}

impl SecretSource {
    /// The first line there. A descriptor is closed, so it is read once in the life of a process.
    ///
    /// # Errors
    /// Which key of the configuration leads nowhere, and what to do.
    pub(crate) fn line(&self, what: &str) -> Result<Secret, Failure> {
        let bytes = match self {
            Self::File(path) => private_file(path, what)?,
            Self::Credential(name) => credential(name)?,
            Self::Descriptor(variable) => descriptor(variable)?,
            Self::Typed => {
                return Err(Failure::new(Exit::Usage, format!("no {what} was given")));
            }
        };
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let text = format!("the {what} is empty: {self} holds nothing in its first line");
            return Err(Failure::new(Exit::Configuration, text));
        }
        Ok(Secret::new(line.to_vec()))
    }
}

fn private_file(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let shown = path.display();
    let file =
        File::open(path).context(Exit::Configuration, format_args!("{what} file {shown}"))?;
    let mode = file.metadata().context(Exit::Configuration, &shown)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let text =
            format!("{what} file {shown} is open to others (mode {mode:03o}): run chmod 600");
        return Err(Failure::new(Exit::Configuration, format!("{text} {shown}")));
    }
    whole(file, &format!("{what} file {shown}"))
}

fn credential(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let Some(folder) = environment::credentials_folder() else {
        let text = format!(
            "unseal.credential = {name:?}: the environment has no CREDENTIALS_DIRECTORY; have systemd \
             start the node, with LoadCredential={name}:/path or LoadCredentialEncrypted= in its unit"
        );
        return Err(Failure::new(Exit::Configuration, text));
    };
    let path = folder.join(name);
    let what = format!("unseal.credential = {name:?}: {}", path.display());
    whole(File::open(path).context(Exit::Configuration, &what)?, &what)
}

/// Reads what the descriptor holds that a variable names, and closes it. It is opened by its name among
/// those of this process, which works for pipes and files, and for nothing that the process has made
/// for itself: such a number is refused and stays open.
fn descriptor(variable: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let refuse = |why: &str| {
        let text = format!(
            "unseal.descriptor = {variable:?}: {why}; start the node with the secret behind an open \
             descriptor and its number in {variable}, such as {variable}=3 conclave server 3<FILE"
        );
        Failure::new(Exit::Configuration, text)
    };
    let number = environment::descriptor(variable).ok_or_else(|| refuse("it is not set"))?;
    let number: u32 = number.trim().parse().map_err(|_| refuse("it holds no number"))?;
    if number < DESCRIPTOR_MIN {
        return Err(refuse("it names standard input, output or error"));
    }
    let number = i32::try_from(number).map_err(|_| refuse("it holds no number"))?;
    let file = File::open(format!("/proc/self/fd/{number}"))
        .map_err(|error| refuse(&format!("descriptor {number} cannot be read ({error})")))?;
    let read = whole(file, &format!("descriptor {number}"));
    if let Err(error) = nix::unistd::close(number) {
        tracing::warn!(%error, number, "unseal.descriptor stays open");
    }
    read
}

fn whole(file: File, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // As large as it may become, so that it never moves.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4097));
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).context(Exit::Configuration, what)?;
    if bytes.len() as u64 > BYTES_MAX {
        let text = format!("{what} is longer than {BYTES_MAX} bytes, so it is no secret of a node");
        return Err(Failure::new(Exit::Configuration, text));
    }
    Ok(bytes)
}
