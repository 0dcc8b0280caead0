"""A directory for tests: OpenLDAP's, with a certificate of the test's own. It asks the package manager for
what is missing."""

import atexit
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.parse

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
from around import provide  # noqa: E402

provide("slapd")
provide("openssl")

EXAMPLE = """dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

"""


class Slapd:
    """Listens on localhost, below `dc=example,dc=org`, with ca.pem, server.pem and server.key of that
    folder. It ends with this process."""

    def __init__(self, work, entries):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.work, self.server = work, None
        # Whoever runs the test changes it, through a socket that asks the kernel who that is.
        self.local = "ldapi://" + urllib.parse.quote(str(work / "ldapi"), safe="")
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
rootdn "gidNumber={os.getgid()}+uidNumber={os.getuid()},cn=peercred,cn=external,cn=auth"
directory {work}/data
maxsize 16777216
access to attrs=userPassword by anonymous auth by * none
access to * by * read
""")
        subprocess.run([provide("slapadd", "slapd"), "-q", "-f", "slapd.conf"], check=True, cwd=work,
                       capture_output=True, input=(EXAMPLE + entries).encode(), timeout=60)
        self.start()
        atexit.register(self.kill)

    def start(self):
        """Starts it, and waits until it listens."""
        urls = f"ldap://127.0.0.1:{self.port} {self.local}"
        self.server = subprocess.Popen([provide("slapd"), "-d", "0", "-f", "slapd.conf", "-h", urls],
                                       cwd=self.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.server.poll() is None and time.monotonic() < end, "slapd does not start"
                time.sleep(0.02)

    def signal(self, number):
        self.server.send_signal(number)

    def kill(self):
        self.server.kill()
        self.server.wait()

    def change(self, ldif):
        """Changes it while it runs, one entry after the other."""
        self.carry_out(ldif, provide("ldapmodify", "ldap-utils"), "-Q", "-Y", "EXTERNAL", "-H", self.local)

    def change_offline(self, ldif):
        """Changes it while it does not run, all at once for whoever asks it."""
        self.carry_out(ldif, provide("slapmodify", "slapd"), "-f", "slapd.conf")

    def carry_out(self, ldif, *command):
        done = subprocess.run(command, input=ldif, capture_output=True, text=True, timeout=60, check=False,
                              cwd=self.work)
        assert done.returncode == 0, done.stderr


def directory(work, password):
    """One with one person in it, Carol; its port."""
    return Slapd(work, f"""dn: cn=Carol,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
cn: Carol
sn: A
uid: carol
uidNumber: 1000
gidNumber: 1000
homeDirectory: /
userPassword: {password}
""").port
