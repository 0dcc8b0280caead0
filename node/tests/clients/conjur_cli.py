"""PyPI `conjur` 7.1.0, the Python command line of Conjur, as a person uses it: against the leader, a
standby, and for reading a follower, of the cluster that `conclave dev --run` provides. Run by
node/tests/clients.rs; every fact is an assertion."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

LEADER = os.environ["CONJUR_APPLIANCE_URL"]
KEY = os.environ["CONJUR_AUTHN_API_KEY"]
CERT = os.environ["CONJUR_CERT_FILE"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
CLI = str(pathlib.Path(sys.executable).with_name("conjur"))

NODES = json.loads((FOLDER / "nodes.json").read_text())
STANDBY = next(n["url"] for n in NODES if n["role"] == "voter" and n["url"] != LEADER)
FOLLOWER = next(n["url"] for n in NODES if n["role"] == "follower")


class Person:
    """Somebody with a home folder of their own."""

    def __init__(self, url):
        self.home = tempfile.mkdtemp()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CONJUR_")}
        self.env = {
            **clean,
            "HOME": self.home,
            # No keyring service runs here: logins go to ~/.netrc.
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "PYTHONWARNINGS": "ignore",
        }
        self("init", "-u", url, "-a", "dev", "-c", CERT)

    def __call__(self, *args, fails=False):
        done = subprocess.run(
            [CLI, *args], env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        said = f"conjur {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == fails, said
        return done.stderr + done.stdout if fails else done.stdout

    def file(self, name, text):
        path = pathlib.Path(self.home, name)
        path.write_text(text)
        return str(path)


def key_in(loaded, role):
    return loaded["created_roles"][f"dev:{role}"]["api_key"]


def everyday(name, url):
    """What is done every day, in a branch of its own."""
    me = Person(url)
    assert "uccessfully logged in" in me("login", "-i", "admin", "-p", KEY)
    who = json.loads(me("whoami"))
    assert (who["username"], who["account"]) == ("admin", "dev"), who

    # Policies, three ways.
    text = f"""
- !user {name}-user
- !policy
  id: {name}
  body:
  - !group readers
  - !host one
  - !variable a
  - !variable b
  - !variable
    id: with space
    annotations: {{description: annotated}}
  - !permit
    role: !group readers
    privileges: [read, execute]
    resources: [!variable a, !variable b]
  - !grant {{role: !group readers, member: !host one}}
"""
    loaded = json.loads(me("policy", "load", "-b", "root", "-f", me.file("p.yml", text)))
    host_key = key_in(loaded, f"host:{name}/one")
    user_key = key_in(loaded, f"user:{name}-user")
    more = me.file("u.yml", "- !variable c\n- !delete {record: !variable b}\n")
    json.loads(me("policy", "update", "-b", name, "-f", more))
    assert f"dev:variable:{name}/c" in me("list", "-k", "variable")
    only = me.file("r.yml", "- !variable d\n")
    json.loads(me("policy", "replace", "-b", name, "-f", only))
    listed = json.loads(me("list", "-k", "variable", "-s", name))
    assert f"dev:variable:{name}/d" in listed and f"dev:variable:{name}/c" not in listed, listed
    bad = me.file("bad.yml", "- !nonsense x\n")
    assert "422" in me("policy", "load", "-b", "root", "-f", bad, fails=True)

    # Values, one and many.
    for var, value in (("a", "one"), ("a", "two"), ("with space", "v w"), ("d", "Grüße")):
        me("variable", "set", "-i", f"{name}/{var}", "-v", value)
    assert me("variable", "get", "-i", f"{name}/a").strip() == "two"
    assert me("variable", "get", "-i", f"{name}/a", "--version", "1").strip() == "one"
    assert me("variable", "get", "-i", f"{name}/with space").strip() == "v w"
    many = json.loads(me("variable", "get", "-i", f"{name}/a", f"{name}/d"))
    assert many == {f"{name}/a": "two", f"{name}/d": "Grüße"}, many
    assert "404" in me("variable", "get", "-i", f"{name}/none", fails=True)

    # Lists.
    assert len(json.loads(me("list", "-k", "variable", "-l", "2"))) == 2
    first, second = (json.loads(me("list", "-l", "1", "-o", str(n)))[0] for n in (0, 1))
    assert first < second, (first, second)
    inspected = json.loads(me("list", "-k", "host", "-i"))
    assert all("owner" in row for row in inspected)
    seen = json.loads(me("list", "-k", "variable", "-r", f"dev:host:{name}/one"))
    assert seen == [f"dev:variable:{name}/a"], seen
    members = json.loads(me("list", "-m", f"group:{name}/readers"))
    assert f"dev:host:{name}/one" in members, members
    roles = json.loads(me("list", "-pr", f"variable:{name}/a", "-p", "execute"))
    assert f"dev:host:{name}/one" in roles, roles

    # Keys and passwords.
    said = me("host", "rotate-api-key", "-i", f"{name}/one")
    assert "uccessfully rotated API key" in said, said
    rotated = said.split()[-1]
    assert rotated != host_key
    said = me("user", "rotate-api-key", "-i", f"{name}-user")
    assert user_key not in said
    user_key = said.split()[-1]
    host = Person(url)
    refused = host("login", "-i", f"host/{name}/one", "-p", host_key, fails=True)
    assert "401" in refused or "nauthorized" in refused, refused
    host("login", "-i", f"host/{name}/one", "-p", rotated)
    assert host("variable", "get", "-i", f"{name}/a").strip() == "two"
    assert "403" in host("variable", "set", "-i", f"{name}/a", "-v", "x", fails=True)
    assert "404" in host("variable", "get", "-i", f"{name}/d", fails=True)
    user = Person(url)
    user("login", "-i", f"{name}-user", "-p", user_key)
    assert "changed password" in user("user", "change-password", "-p", "Correct-Horse-9")
    user("user", "change-password", "-p", "weak", fails=True)
    user("user", "rotate-api-key")
    user("logout")
    user("login", "-i", f"{name}-user", "-p", "Correct-Horse-9")
    assert json.loads(user("whoami"))["username"] == f"{name}-user"

    me("logout")
    assert "log in" in me("whoami", fails=True).lower()


def host_factory(name, url):
    """Machines that enrol themselves."""
    me = Person(url)
    me("login", "-i", "admin", "-p", KEY)
    text = f"""
- !policy
  id: {name}
  body:
  - !layer servers
  - !host-factory {{id: factory, layers: [!layer servers]}}
"""
    me("policy", "load", "-b", "root", "-f", me.file("p.yml", text))
    made = json.loads(me(
        "hostfactory", "create", "token", "-i", f"{name}/factory",
        "--cidr", "127.0.0.0/8", "--duration-hours", "1",
    ))
    token = made[0]["token"]
    host = json.loads(me("hostfactory", "create", "host", "-i", f"{name}-box", "-t", token))
    machine = Person(url)
    machine("login", "-i", f"host/{name}-box", "-p", host["api_key"])
    assert json.loads(machine("whoami"))["username"] == f"host/{name}-box"
    assert "has been revoked" in me("hostfactory", "revoke", "token", "-t", token)
    me("hostfactory", "create", "host", "-i", f"{name}-other", "-t", token, fails=True)


def reading_a_follower():
    """A follower logs people in and serves values; writes are for voters."""
    me = Person(FOLLOWER)
    me("login", "-i", "admin", "-p", KEY)
    assert me("variable", "get", "-i", "leader/a").strip() == "two"
    many = json.loads(me("variable", "get", "-i", "leader/a", "standby/a"))
    assert many == {"leader/a": "two", "standby/a": "two"}, many
    assert "dev:variable:standby/a" in me("list", "-k", "variable")
    assert "405" in me("variable", "set", "-i", "leader/a", "-v", "x", fails=True)
    me("logout")


everyday("leader", LEADER)
everyday("standby", STANDBY)
host_factory("hf-leader", LEADER)
host_factory("hf-standby", STANDBY)
reading_a_follower()
print("all facts hold for the command line of PyPI conjur")
