//! An authority of certificates, made on the spot by openssl, and what it issues.

use std::path::{Path, PathBuf};

use super::shell::{HarnessError, provide, run};

/// Every certificate has a key of its own.
const NEW_KEY: [&str; 7] =
    ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];

/// A certificate and its key, in files that last as long as the authority.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// An authority with its files.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
    own: Issued,
}

impl Authority {
    /// An authority of that name.
    ///
    /// # Errors
    /// When openssl cannot be had or refuses.
    pub fn create(name: &str) -> Result<Self, HarnessError> {
        let folder = tempfile::tempdir()?;
        let own = files(&folder, "authority");
        make(name, &own, &[], &["keyUsage=critical,keyCertSign"])?;
        Ok(Self { folder, own })
    }

    /// Its own certificate, as PEM.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn pem(&self) -> Result<String, HarnessError> {
        Ok(std::fs::read_to_string(&self.own.certificate)?)
    }

    /// A certificate with that common name and those extensions.
    ///
    /// # Errors
    /// When openssl refuses.
    pub fn issue(&self, name: &str, extensions: &[&str]) -> Result<Issued, HarnessError> {
        let issued = files(&self.folder, name);
        let (certificate, key) = (shown(&self.own.certificate), shown(&self.own.key));
        let by = ["-CA", &certificate, "-CAkey", &key];
        let mut all = vec!["basicConstraints=critical,CA:FALSE"];
        all.extend(extensions);
        make(name, &issued, &by, &all)?;
        Ok(issued)
    }
}

fn files(folder: &tempfile::TempDir, name: &str) -> Issued {
    let file = |ending: &str| folder.path().join(format!("{name}.{ending}"));
    Issued { certificate: file("pem"), key: file("key") }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn make(name: &str, into: &Issued, by: &[&str], extensions: &[&str]) -> Result<(), HarnessError> {
    let (program, subject) = (shown(&provide("openssl")?), format!("/CN={name}"));
    let (certificate, key) = (shown(&into.certificate), shown(&into.key));
    let mut words = vec![program.as_str(), "req", "-x509"];
    words.extend(by);
    words.extend(NEW_KEY);
    words.extend(["-subj", &subject, "-keyout", &key, "-out", &certificate]);
    words.extend(extensions.iter().flat_map(|extension| ["-addext", *extension]));
    run(&words).map(drop)
}
