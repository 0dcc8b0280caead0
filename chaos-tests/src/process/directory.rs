//! A directory with one person in it: OpenLDAP's server, spoken to over TLS. Debian's package; installed
//! where it is missing.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::authority::Authority;
use super::shell::{HarnessError, provide, run, tied};

/// Below this all its entries are.
pub const BASE: &str = "dc=drill,dc=test";
/// Who searches.
pub const SEARCHER: &str = "cn=searcher,dc=drill,dc=test";
/// The searcher's password.
pub const SEARCHER_PASSWORD: &str = "searcher-Secret1!";
/// The person's login.
pub const PERSON: &str = "carol";
/// The person's password.
pub const PASSWORD: &str = "carol-Secret1!";
/// How long it may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A running directory. It ends when this is dropped.
#[derive(Debug)]
pub struct Directory {
    _process: Child,
    _folder: tempfile::TempDir,
    authority: Authority,
    listen: SocketAddr,
}

impl Directory {
    /// Starts it in that namespace, if any, and waits until it listens.
    ///
    /// # Errors
    /// When slapd is missing and cannot be had, or does not come up.
    pub async fn start(listen: SocketAddr, namespace: Option<&str>) -> Result<Self, HarnessError> {
        let program = provide("slapd")?;
        let authority = Authority::create("directory's authority")?;
        let address = format!("subjectAltName=IP:{}", listen.ip());
        let leaf = authority.issue("directory", &[&address, "extendedKeyUsage=serverAuth"])?;
        let folder = tempfile::tempdir()?;
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (config, entries, data, log) = (file("conf"), file("ldif"), file("data"), file("log"));
        std::fs::create_dir(&data)?;
        std::fs::write(&config, configuration(&data, &leaf.certificate, &leaf.key))?;
        std::fs::write(&entries, people())?;
        let shown = program.to_string_lossy();
        run(&[&*shown, "-T", "add", "-q", "-f", &config, "-l", &entries])?;
        let output = File::create(&log)?;
        let process = tied(&program, namespace)
            .args(["-d", "0", "-f", &config, "-h", &format!("ldaps://{listen}")])
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let directory = Self { _process: process, _folder: folder, authority, listen };
        let start = Instant::now();
        while let Err(error) = TcpStream::connect(listen).await {
            if start.elapsed() > START_PATIENCE {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(HarnessError(format!("slapd: {error}; it said: {}", said.trim())));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(directory)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("ldaps://{}", self.listen)
    }

    /// The authority that its certificate is of, as PEM.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn authority(&self) -> Result<String, HarnessError> {
        self.authority.pem()
    }
}

fn configuration(data: &str, certificate: &Path, key: &Path) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    format!(
        "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
         include /etc/ldap/schema/nis.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n\
         modulepath /usr/lib/ldap\nmoduleload back_mdb\n\
         TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n\
         database mdb\nsuffix \"{BASE}\"\ndirectory {data}\nmaxsize 16777216\nindex objectClass,uid eq\n\
         access to attrs=userPassword by anonymous auth by * none\n\
         access to * by dn.exact=\"{SEARCHER}\" read by anonymous auth by * none\n"
    )
}

fn people() -> String {
    format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: drill\ndc: drill\n\n\
         dn: {SEARCHER}\nobjectClass: simpleSecurityObject\nobjectClass: organizationalRole\n\
         cn: searcher\nuserPassword: {SEARCHER_PASSWORD}\n\n\
         dn: cn={PERSON},{BASE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n\
         cn: {PERSON}\nsn: x\nuid: {PERSON}\nuidNumber: 1000\ngidNumber: 1000\n\
         homeDirectory: /\nuserPassword: {PASSWORD}\n\n"
    )
}
