"""Ansible's `cyberark.conjur` collection, unchanged: its lookup plugin against the leader, a standby and
a follower of the cluster that `conclave dev --run` provides. Run by node/tests/clients.rs with the
folder that holds the collection; every fact is an assertion."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

COLLECTIONS = sys.argv[1]
LEADER = os.environ["CONJUR_APPLIANCE_URL"]
CERT = os.environ["CONJUR_CERT_FILE"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
NODES = json.loads((FOLDER / "nodes.json").read_text())
STANDBY = next(n["url"] for n in NODES if n["role"] == "voter" and n["url"] != LEADER)
FOLLOWER = next(n["url"] for n in NODES if n["role"] == "follower")
CREATED = json.loads((FOLDER / "created_roles.json").read_text())["created_roles"]
HOST_KEY = CREATED["dev:host:app/web-01"]["api_key"]

PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
  - ansible.builtin.assert:
      that:
      - lookup('cyberark.conjur.conjur_variable', 'app/db/password') == 'correct horse battery staple'
      fail_msg: another value
  - ansible.builtin.assert:
      that:
      - lookup('ansible.builtin.file', lookup('cyberark.conjur.conjur_variable', 'app/db/password',
          as_file=True)) == 'correct horse battery staple'
  - ansible.builtin.debug:
      msg: "{{ lookup('cyberark.conjur.conjur_variable', 'app/db/url') }}"
    register: unset
    ignore_errors: true
  - ansible.builtin.assert:
      that: unset is failed
"""


def play(home, env, fails=False):
    book = pathlib.Path(home, "book.yml")
    book.write_text(PLAY)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CONJUR_")}
    env = {
        **clean, **env, "HOME": home, "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS,
        "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "LC_ALL": "C.UTF-8",
    }
    playbook = str(pathlib.Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [playbook, str(book)], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode != 0) == fails, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


for url in (LEADER, STANDBY, FOLLOWER):
    # By environment variables.
    play(tempfile.mkdtemp(), {
        "CONJUR_APPLIANCE_URL": url, "CONJUR_ACCOUNT": "dev", "CONJUR_CERT_FILE": CERT,
        "CONJUR_AUTHN_LOGIN": "host/app/web-01", "CONJUR_AUTHN_API_KEY": HOST_KEY,
    })

# By the files that the collection's role leaves on a machine.
home = tempfile.mkdtemp()
pathlib.Path(home, "conjur.conf").write_text(
    f"account: dev\nappliance_url: {STANDBY}\ncert_file: {CERT}\n"
)
identity = pathlib.Path(home, "conjur.identity")
identity.write_text(f"machine {STANDBY}/authn\n login host/app/web-01\n password {HOST_KEY}\n")
identity.chmod(0o600)
FILES = {
    "CONJUR_CONFIG_FILE": f"{home}/conjur.conf", "CONJUR_IDENTITY_FILE": str(identity),
    # The plugin asks for this one before it reads its file.
    "CONJUR_CERT_FILE": CERT,
}
play(home, FILES)
# A wrong key is told as such.
identity.write_text(f"machine {STANDBY}/authn\n login host/app/web-01\n password wrong\n")
assert "401" in play(home, FILES, fails=True)
print("all facts hold for Ansible's lookup")
