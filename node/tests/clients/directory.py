"""A directory for tests: OpenLDAP's, with one person in it, Carol, and a certificate of the test's own. It
asks the package manager for what is missing."""

import atexit
import os
import shutil
import socket
import subprocess

if not (os.path.exists("/usr/sbin/slapd") and shutil.which("openssl")):
    print("slapd or openssl is missing; asking apt-get for them", flush=True)
    install = "apt-get update -q && apt-get install -qy --no-install-recommends slapd openssl"
    subprocess.run(["flock", "/tmp/conclave-tests-apt.lock", "sh", "-euc", install], check=True,
                   env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"})


def directory(work, password):
    """Starts it on localhost, below `dc=example,dc=org`, with ca.pem, server.pem and server.key of that
    folder; its port. It ends with this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (work / "data").mkdir()
    (work / "slapd.conf").write_text(f"""
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile {work}/ca.pem
TLSCertificateFile {work}/server.pem
TLSCertificateKeyFile {work}/server.key
database mdb
suffix "dc=example,dc=org"
directory {work}/data
maxsize 16777216
access to attrs=userPassword by anonymous auth by * none
access to * by * read
""")
    people = f"""dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=Carol,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
cn: Carol
sn: A
uid: carol
uidNumber: 1000
gidNumber: 1000
homeDirectory: /
userPassword: {password}
"""
    subprocess.run(["/usr/sbin/slapadd", "-q", "-f", "slapd.conf"], check=True, cwd=work,
                   capture_output=True, input=people.encode(), timeout=60)
    slapd = subprocess.Popen(["/usr/sbin/slapd", "-d", "0", "-f", "slapd.conf", "-h",
                              f"ldap://127.0.0.1:{port}"], cwd=work, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    atexit.register(slapd.kill)
    return port
