"""Ansible's `cyberark.conjur.conjur_host_identity` role, unchanged: it enrols this machine as a host at a
standby of the cluster that `conclave dev --run` provides, and the collection's lookup then reads a secret
with the files that the role has left. Run by node/tests/clients.rs with the folder that holds the
collection; every fact is an assertion.

The role writes to /etc and /usr/local, so it runs in a mount namespace of its own, with both overlaid:
this machine keeps what it has. Where there are no such namespaces, the test says so and ends.

Left out: the role's last two steps download the programs summon and summon-conjur from GitHub. They skip
that where the files are there; here, empty ones are."""

import base64
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

COLLECTIONS = sys.argv[1]
INSIDE = sys.argv[2:] == ["inside"]
LEADER = os.environ["CONJUR_APPLIANCE_URL"]
CERT = os.environ["CONJUR_CERT_FILE"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
NODES = json.loads((FOLDER / "nodes.json").read_text())
STANDBY = next(n["url"] for n in NODES if n["role"] == "voter" and n["url"] != LEADER)
TLS = ssl.create_default_context(cafile=CERT)

POLICY = """
- !policy
  id: fleet
  body:
  - !variable password
  - !layer
  - !host-factory
    id: factory
    layers: [!layer]
  - !permit
    role: !layer
    privileges: [read, execute]
    resource: !variable password
"""

ROLE = """
- hosts: localhost
  connection: local
  roles:
  - role: cyberark.conjur.conjur_host_identity
"""

LOOKUP = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
  - ansible.builtin.assert:
      that: lookup('cyberark.conjur.conjur_variable', 'fleet/password') == 'of the fleet'
      fail_msg: another value
"""


def skip(reason):
    print(f"skipped, nothing shown: {reason}")
    sys.exit(0)


def outside():
    """Brings what the role needs, so that it installs nothing itself, and goes inside."""
    if os.getuid() != 0:
        skip("the role needs root")
    overlay = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", """
        mount -t tmpfs none "$1"
        for place in etc usr/local; do
            mkdir -p "$1/$place/upper" "$1/$place/work"
            mount -t overlay overlay -o "lowerdir=/$place,upperdir=$1/$place/upper,workdir=$1/$place/work" "/$place"
        done
        shift; exec "$@" """, "sh"]
    work = tempfile.mkdtemp()
    try:
        trial = subprocess.run([*overlay, work, "true"], capture_output=True, text=True, check=False)
        if trial.returncode != 0:
            skip(f"no overlay in a mount namespace here: {trial.stderr.strip()}")
        apt = shutil.which("apt-get")
        if not apt:
            skip("the role's packages are installed with apt-get here, which is missing")
        has = subprocess.run(["/usr/bin/python3", "-c", "import apt"], check=False, capture_output=True)
        if has.returncode != 0 or not shutil.which("c_rehash") or not pathlib.Path(
                "/etc/ssl/certs/ca-certificates.crt").exists():
            install = "apt-get update -q && apt-get install -qy --no-install-recommends "
            subprocess.run(["flock", "/tmp/conclave-tests-apt.lock",
                            "sh", "-c", install + "python3-apt ca-certificates openssl"], check=True,
                           env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        inside = [sys.executable, __file__, COLLECTIONS, "inside"]
        return subprocess.run([*overlay, work, *inside], check=False).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


def request(method, path, body=None, authorization=None, kind="application/x-www-form-urlencoded"):
    ask = urllib.request.Request(LEADER + path, data=body, method=method)
    ask.add_header("Content-Type", kind)
    if authorization:
        ask.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(ask, context=TLS, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def log_in(login, key):
    name = urllib.parse.quote(login, safe="")
    status, token = request("POST", f"/authn/dev/{name}/authenticate", key.encode())
    assert status == 200, (login, status)
    return f'Token token="{base64.b64encode(token).decode()}"'


def play(text, variables=None, **more):
    home = tempfile.mkdtemp()
    book = pathlib.Path(home, "book.yml")
    book.write_text(text)
    given = pathlib.Path(home, "variables.json")
    given.write_text(json.dumps(variables or {}))
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("CONJUR_")},
        "HOME": home, "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS, "LC_ALL": "C.UTF-8",
        "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable, **more,
    }
    playbook = str(pathlib.Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run([playbook, str(book), "-e", f"@{given}"], env=env, capture_output=True,
                          text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def inside():
    """Enrols, reads, enrols no second time, and takes everything away again."""
    for stub in ("/usr/local/bin/summon", "/usr/local/lib/summon/summon-conjur"):
        pathlib.Path(stub).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(stub).touch()
    admin = log_in("admin", os.environ["CONJUR_AUTHN_API_KEY"])
    assert request("POST", "/policies/dev/policy/root", POLICY.encode(), admin, "text/x-yaml")[0] == 201
    path = "/secrets/dev/variable/fleet%2Fpassword"
    assert request("POST", path, b"of the fleet", admin)[0] == 201
    status, tokens = request("POST", "/host_factory_tokens", b"host_factory=dev:host_factory:fleet/factory"
                             b"&expiration=2100-01-01T00:00:00Z&count=1", admin)
    assert status == 200, (status, tokens)

    identity = pathlib.Path("/etc/conjur.identity")
    assert not identity.exists()
    variables = {
        "conjur_account": "dev", "conjur_appliance_url": STANDBY, "conjur_host_name": "fleet/web-01",
        "conjur_host_factory_token": json.loads(tokens)[0]["token"],
        "conjur_ssl_certificate": pathlib.Path(CERT).read_text(), "conjur_validate_certs": True,
    }
    told = play(ROLE, variables)
    assert "failed=0" in told, told

    # What it left: settings, the root certificate, and an identity that only root and its group read.
    settings = pathlib.Path("/etc/conjur.conf").read_text()
    assert f"appliance_url: {STANDBY}" in settings and "account: dev" in settings, settings
    assert pathlib.Path("/etc/conjur.pem").read_text().strip() == pathlib.Path(CERT).read_text().strip()
    assert identity.stat().st_mode & 0o777 == 0o640
    words = identity.read_text().split()
    assert words[:2] == ["machine", f"{STANDBY}/authn"] and words[3] == "host/fleet/web-01", words[:4]

    # It is the host's identity: it logs in, is of the layer, and reads what the layer may read.
    host = log_in(words[3], words[5])
    assert json.loads(request("GET", "/whoami", None, host)[1])["username"] == "host/fleet/web-01"
    assert request("GET", path, None, host) == (200, b"of the fleet")
    members = json.loads(request("GET", "/roles/dev/layer/fleet?members", None, admin)[1])
    assert "dev:host:fleet/web-01" in [one["member"] for one in members], members
    resource = json.loads(request("GET", "/resources/dev/host/fleet%2Fweb-01", None, admin)[1])
    assert {"name": "authn/api-key", "value": "true"}.items() <= resource["annotations"][0].items()

    # The collection's lookup finds everything in the places where the role has put it; it asks for the
    # certificate before it reads the settings.
    play(LOOKUP, CONJUR_CERT_FILE="/etc/conjur.pem")

    # Asked again, the role leaves the identity alone: the key it has still works.
    told = play(ROLE, variables)
    assert identity.read_text().split() == words, "a new identity"
    assert log_in(words[3], words[5])

    # And takes it away when asked to.
    play(ROLE, {**variables, "state": "absent"})
    left = [p for p in ("conjur.conf", "conjur.identity", "conjur.pem") if pathlib.Path("/etc", p).exists()]
    assert not left, left
    print("all facts hold for Ansible's role")


if INSIDE:
    inside()
else:
    sys.exit(outside())
