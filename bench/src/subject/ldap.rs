//! A directory, OpenLDAP's, with people who have passwords there: as the counterpart of Conclave's `authn-ldap`,
//! and alone, asked by simple binds, as the ceiling of what logins through Conclave can reach.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpStream;

use super::{Hash, Running, Setting, Subject, until_ready};
use crate::load::Client;
use crate::process::{self, Daemon, free_ports};
use crate::scratch::Scratch;
use crate::tls::{self, Material, SERVER_NAME};
use crate::wire::{Endpoint, Protocol, Request};
use crate::{Fault, install};

const NAME: &str = "slapd";
/// The webservice's name.
pub(super) const SERVICE: &str = "bench";
const BASE: &str = "dc=bench,dc=example";
/// What all of them have.
pub(super) const PASSWORD: &str = "bench-Secret1!";

/// A running directory.
pub(super) struct Directory {
    /// Its process.
    pub(super) daemon: Daemon,
    /// Its authority's certificate.
    pub(super) authority: String,
    port: u16,
    endpoint: Endpoint,
}

impl Directory {
    /// With so many people, `u0`, `u1` and on; TLS from the first byte.
    pub(super) async fn start(people: usize, hash: Hash, scratch: &Scratch) -> Result<Self, Fault> {
        let program = install::slapd()?;
        let folder = scratch.folder(NAME)?;
        let material = Material::create(&folder)?;
        let [port] = free_ports()?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(Fault::path("write", &path))
        };
        let data = folder.join("data");
        std::fs::create_dir(&data).map_err(Fault::path("make", &data))?;
        write("slapd.conf", &configuration(&folder))?;
        write("people.ldif", &entries(people, &hashed(hash)?))?;
        let path = program.to_string_lossy();
        let (conf, ldif) = (folder.join("slapd.conf"), folder.join("people.ldif"));
        let (conf, ldif) = (conf.to_string_lossy(), ldif.to_string_lossy());
        process::output_of(&path, &["-T", "add", "-q", "-f", &conf, "-l", &ldif])
            .ok_or_else(|| Fault::Usage("slapadd refused the people".to_owned()))?;
        let uri = format!("ldaps://127.0.0.1:{port}");
        let arguments = ["-d", "0", "-f", &conf, "-h", &uri].map(str::to_owned);
        let mut daemons = vec![Daemon::start(NAME, &folder, &program, &arguments)?];
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until_ready(&mut daemons, async || TcpStream::connect(address).await.is_ok()).await?;
        let authority =
            std::fs::read_to_string(&material.ca).map_err(Fault::path("read", &material.ca))?;
        let name = SERVER_NAME.to_owned();
        let endpoint = Endpoint { address, name, tls: tls::client_trusting(&material.ca)? };
        let daemon = daemons.swap_remove(0);
        Ok(Self { daemon, authority, port, endpoint })
    }

    /// The webservice by which it is asked, one of its people being who searches, and a group that may log in
    /// by that.
    pub(super) fn policy_of_service(&self) -> String {
        let port = self.port;
        format!(
            "- !policy
  id: conjur/authn-ldap/{SERVICE}
  body:
  - !webservice
    annotations:
      ldap-authn/uri: ldaps://{SERVER_NAME}:{port}
      ldap-authn/base_dn: {BASE}
      ldap-authn/bind_dn: cn=u0,{BASE}
  - !variable bind-password
  - !variable tls-ca-cert
  - !group people
  - !permit
    role: !group people
    privileges: [read, authenticate]
    resource: !webservice
"
        )
    }
}

/// Some of its people, as users in that group.
pub(super) fn policy_of_users(numbers: std::ops::Range<usize>) -> String {
    let (mut users, mut members) = (String::new(), String::new());
    for number in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(users, "- !user u{number}");
        let _ = writeln!(members, "  - !user u{number}");
    }
    format!(
        "{users}- !grant\n  role: !group conjur/authn-ldap/{SERVICE}/people\n  members:\n{members}"
    )
}

/// The directory alone, each client binding as people of its own.
pub(super) async fn start(setting: Setting, scratch: &Scratch) -> Result<Subject, Fault> {
    let people = setting.hosts.max(setting.clients);
    let directory = Directory::start(people, setting.hash, scratch).await?;
    let mut shares = vec![Vec::new(); setting.clients];
    for person in 0..people {
        let request = Request::bind(&format!("cn=u{person},{BASE}"), PASSWORD);
        shares[person % setting.clients].push(request);
    }
    let endpoint = directory.endpoint;
    let client =
        |requests| Client { endpoint: endpoint.clone(), protocol: Protocol::Ldap, requests };
    let clients = shares.into_iter().map(client).collect();
    Ok(Subject {
        name: NAME,
        version: version(),
        setup: match setting.hash {
            Hash::Ssha => "simple binds on kept TLS connections, passwords by SSHA: a ceiling",
            Hash::Argon2 => "simple binds on kept TLS connections, passwords by Argon2: a ceiling",
        },
        processes: vec![directory.daemon.pid()],
        asked: Vec::new(),
        clients,
        counter: None,
        running: Running::Daemons(vec![directory.daemon]),
    })
}

fn version() -> String {
    let query = ["-W", "-f", "${Version}", "slapd"];
    process::output_of("dpkg-query", &query).unwrap_or_default()
}

/// The password as the directory keeps it.
fn hashed(hash: Hash) -> Result<String, Fault> {
    let scheme = match hash {
        Hash::Ssha => "{SSHA}",
        Hash::Argon2 => "{ARGON2}",
    };
    let modules = ["-o", "module-path=/usr/lib/ldap", "-o", "module-load=argon2.so"];
    let arguments = [&modules[..], &["-n", "-h", scheme, "-s", PASSWORD]].concat();
    process::output_of("slappasswd", &arguments)
        .ok_or_else(|| Fault::Usage(format!("slappasswd does not know {scheme}")))
}

fn configuration(folder: &Path) -> String {
    let here = folder.display();
    format!(
        "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
         include /etc/ldap/schema/nis.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n\
         modulepath /usr/lib/ldap\nmoduleload back_mdb\nmoduleload argon2\n\
         TLSCACertificateFile {here}/ca.pem\nTLSCertificateFile {here}/server.pem\n\
         TLSCertificateKeyFile {here}/server.key\n\
         database mdb\nsuffix \"{BASE}\"\ndirectory {here}/data\nmaxsize 1073741824\nindex objectClass,uid eq\n\
         access to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n"
    )
}

fn entries(people: usize, password: &str) -> String {
    let mut text = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: bench\ndc: bench\n\n"
    );
    for person in 0..people {
        let _ = write!(
            text,
            "dn: cn=u{person},{BASE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n\
             cn: u{person}\nsn: x\nuid: u{person}\nuidNumber: 1000\ngidNumber: 1000\n\
             homeDirectory: /\nuserPassword: {password}\n\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_person_is_entered_once() {
        let text = entries(3, "{SSHA}x");
        assert_eq!(text.matches("\nuid: u2\n").count(), 1);
        assert_eq!(text.matches("userPassword: {SSHA}x\n").count(), 3);
        assert_eq!(policy_of_users(1..3).matches("- !user u2\n").count(), 2);
    }
}
