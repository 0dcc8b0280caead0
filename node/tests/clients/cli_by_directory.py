"""PyPI `conjur` 7.1.0, the Python command line of Conjur, for a person whose password only a directory knows.
It speaks with the default authenticator alone, so HAProxy leads its logins to the directory's, by the line
that `node/deploy/haproxy/followers.cfg` has for that. Run by `node/tests/clients.rs` against `conclave dev`,
with that file's path; every fact is an assertion."""

import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
from around import ACCOUNT, KEY, address, balancer, by_name, set_up  # noqa: E402

from certificates import certificates  # noqa: E402
from directory import directory  # noqa: E402

URL = os.environ["CONJUR_APPLIANCE_URL"]
FILE = pathlib.Path(sys.argv[1])
CLI = str(pathlib.Path(sys.executable).with_name("conjur"))
WORK = pathlib.Path(tempfile.mkdtemp())
PASSWORD = "carol-Secret1!"


def everybody_is_known():
    certificates(WORK)
    both = (WORK / "server.pem").read_bytes() + (WORK / "server.key").read_bytes()
    (WORK / "both.pem").write_bytes(both)
    port = directory(WORK, PASSWORD)
    policy = f"""
- !user carol
- !variable shared
- !permit {{role: !user carol, privileges: [read, execute], resource: !variable shared}}
- !policy
  id: conjur/authn-ldap/corp
  body:
  - !webservice
    annotations:
      ldap-authn/uri: ldap://localhost:{port}
      ldap-authn/base_dn: dc=example,dc=org
  - !webservice status
  - !variable tls-ca-cert
  - !permit {{role: !user /carol, privileges: [read, authenticate], resource: !webservice}}
"""
    values = {"shared": "the value", "conjur/authn-ldap/corp/tls-ca-cert": (WORK / "ca.pem").read_text()}
    set_up(URL, policy, values, ["authn-ldap/corp"])


def leading_logins_to_the_directory():
    """HAProxy's file with its line for that in force."""
    text = FILE.read_text()
    line = "    # http-request replace-path ^/authn/([^/]+)/login$ /authn-ldap/corp/\\1/login\n"
    assert text.count(line) == 1, text
    file = WORK / "by_directory.cfg"
    file.write_text(text.replace(line, line.replace("# ", "")))
    return file


def serves(url):
    context = ssl.create_default_context(cafile=WORK / "ca.pem")
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", context=context, timeout=5):
                return
        except OSError:
            assert time.monotonic() < end, "HAProxy finds nobody"
            time.sleep(0.05)


def person(url):
    """Somebody with a home folder of their own; a function that runs the command line."""
    home = tempfile.mkdtemp(dir=WORK)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CONJUR_")}
    # No keyring service runs here: logins go to ~/.netrc.
    env = {**clean, "HOME": home, "PYTHONWARNINGS": "ignore",
           "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}

    def conjur(*words, fails=False):
        done = subprocess.run([CLI, *words], env=env, capture_output=True, text=True, timeout=60,
                              check=False)
        said = f"conjur {words[0]}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == fails, said
        return done.stderr + done.stdout if fails else done.stdout

    conjur("init", "-u", url, "-a", ACCOUNT, "-c", str(WORK / "ca.pem"))
    return conjur


everybody_is_known()
with balancer(leading_logins_to_the_directory(), WORK, F1=address(by_name()["n1"]),
              SITE_PEM=str(WORK / "both.pem")) as port:
    serves(f"https://localhost:{port}")
    carol = person(f"https://localhost:{port}")
    wrong = carol("login", "-i", "carol", "-p", "wrong", fails=True)
    assert "401" in wrong or "nauthorized" in wrong, wrong
    # The directory does not know administrators' passwords, nor are they asked for there.
    wrong = carol("login", "-i", "admin", "-p", KEY, fails=True)
    assert "401" in wrong or "nauthorized" in wrong, wrong
    assert "uccessfully logged in" in carol("login", "-i", "carol", "-p", PASSWORD)
    who = json.loads(carol("whoami"))
    assert (who["username"], who["account"]) == ("carol", ACCOUNT), who
    assert carol("variable", "get", "-i", "shared").strip() == "the value"
    missing = carol("variable", "get", "-i", "other", fails=True)
    assert "404" in missing, missing
shutil.rmtree(WORK, ignore_errors=True)
print("all facts hold")
