"""Automation joins a follower with nothing but its own API key and the balancer's address: the seed comes over
HTTPS through Debian's HAProxy, from whichever voter answers; it is good once; and the follower serves. Run by
`node/tests/dev.rs` inside `conclave dev --run`; its argument is the folder of HAProxy's files."""

import json
import pathlib
import sys
import urllib.error
import urllib.parse

from around import ACCOUNT, SECRET, TLS, address, authenticate, balancer, exchange, nodes
from newcomers import SCRATCH, at_leader, blank, change, conclave, done, recorded, serving, status, until

DEPLOY = pathlib.Path(sys.argv[1])
VOTERS = [node["name"] for node in nodes() if node["part"] != "follower"]
POLICY = b"""
- !policy
  id: conjur/seed-generation
  body:
  - !webservice
  - !group consumers
  - !permit {role: !group consumers, privilege: execute, resource: !webservice}
- !host automation
- !host idler
- !grant {role: !group conjur/seed-generation/consumers, member: !host automation}
"""


def ask(url, path, token=None, form=None):
    try:
        return 200, exchange(url, path, token, form)[1]
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def logged_in(url):
    try:
        return authenticate(url)
    except OSError:
        return None


change(VOTERS, lambda text: text.replace("[api]\n", f'[api]\nseed_accounts = ["{ACCOUNT}"]\n'))
until("no leader", lambda: any(node["part"] == "leader" for node in nodes()))
by_address = {node["name"].upper(): address(node) for node in nodes() if node["name"] in VOTERS}
with balancer(DEPLOY / "voters.cfg", SCRATCH, **by_address) as port:
    url = f"https://localhost:{port}"
    _, token = until("no login through the balancer", lambda: logged_in(url))
    until("feature level", lambda: status()["level"] >= 1)
    _, answer = exchange(url, f"/policies/{ACCOUNT}/policy/root", token, POLICY)
    keys = {role.rsplit("/", 1)[-1].rsplit(":", 1)[-1]: made["api_key"]
            for role, made in json.loads(answer)["created_roles"].items()}
    tokens = {}
    for host, key in keys.items():
        path = f"/authn/{ACCOUNT}/{urllib.parse.quote('host/' + host, safe='')}/authenticate"
        tokens[host] = exchange(url, path, body=key.encode())[1]

    path = f"/configuration/{ACCOUNT}/seed/follower"
    form = b"follower_hostname=followers.example.com&name=f9"
    code, _ = ask(url, path, tokens["idler"], form)
    assert code == 404, code
    code, seed = ask(url, path, tokens["automation"], form)
    assert code == 200, (code, seed)
    file = SCRATCH / "f9.seed"
    file.touch(0o600)
    file.write_bytes(seed)
    recorded("the seed", "was given a seed for the follower f9", '"success"', f"{ACCOUNT}:host:automation")
    recorded("the refusal", "tried to get a seed for the follower f9", '"failure"', f"{ACCOUNT}:host:idler")

    blank("f9")
    done("cluster", "join", "--seed", file, on="f9")
    blank("f8")
    again = json.loads(seed)
    again["name"] = "f8"
    file.write_text(json.dumps(again))
    assert conclave("cluster", "join", "--seed", file, on="f8").returncode != 0, "a seed was good twice"
    with serving("f9"):
        mine = until("f9 is no follower", lambda: status("f9")["part"] == "follower" and status("f9"))
        _, token = authenticate(url)
        exchange(url, SECRET, token, b"seen by the newcomer")
        TLS.check_hostname = False  # It is asked by its address; its certificate is its group's.
        until("f9 does not serve", lambda: ask(mine["api_url"], SECRET, token)[1] == b"seen by the newcomer")
    at_leader("cluster", "remove", "f9")
