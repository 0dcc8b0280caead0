"""The data key is rotated again and again under load: no request fails, on any node and without a
second try, and everything ends up under the newest key. Run by `node/tests/dev.rs` inside
`conclave dev --run`; its argument is the program."""

import base64
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

CONCLAVE = sys.argv[1]
ACCOUNT = os.environ["CONJUR_ACCOUNT"]
LOGIN = os.environ["CONJUR_AUTHN_LOGIN"]
KEY = os.environ["CONJUR_AUTHN_API_KEY"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
TLS = ssl.create_default_context(cafile=os.environ["CONJUR_CERT_FILE"])

ROTATIONS = 4
PATIENCE_S = 90

nodes = json.loads((FOLDER / "nodes.json").read_text())
failures = []
counts = {"logins": 0, "reads": 0, "writes": 0}
done = threading.Event()


def exchange(url, path, token=None, body=None):
    ask = urllib.request.Request(url + path, data=body)
    if token is not None:
        ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
    with urllib.request.urlopen(ask, context=TLS, timeout=10) as answer:
        return answer.read(), answer.headers["X-Conclave-Index"]


def worker(node):
    """Logs in with the API key, writes where that can be done, and reads what it wrote."""
    url = node["url"]
    writes = node["part"] != "follower"
    path = f"/secrets/{ACCOUNT}/variable/{urllib.parse.quote('app/db/password', safe='')}"
    number = 0
    try:
        while not done.is_set():
            token, _ = exchange(url, f"/authn/{ACCOUNT}/{LOGIN}/authenticate", body=KEY.encode())
            counts["logins"] += 1
            for _ in range(10):
                if writes:
                    number += 1
                    exchange(url, path, token, f"{node['name']} {number}".encode())
                    counts["writes"] += 1
                exchange(url, path, token)
                counts["reads"] += 1
    except OSError as error:
        failures.append(f"{node['name']}: {error}")


def keys(name, word):
    folder = FOLDER / name / "conclave.toml"
    command = [CONCLAVE, "keys", word, "--config", folder, "--output", "json"]
    run = subprocess.run(command, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return json.loads(run.stdout)


def resealed(generation):
    """Waits until the leader knows everything to lie under the newest key."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for node in json.loads((FOLDER / "nodes.json").read_text()):
            status = keys(node["name"], "status")
            if status["generation"] == generation and (status["resealing"] or {}).get("complete"):
                return
        assert time.monotonic() < deadline, status
        time.sleep(0.2)


def main():
    preparation = [CONCLAVE, "variable", "set", "-i", "app/db/password", "-f", "-"]
    subprocess.run(preparation, input=b"s3cret", check=True, stdout=subprocess.DEVNULL)
    threads = [threading.Thread(target=worker, args=(node,)) for node in nodes for _ in range(2)]
    for thread in threads:
        thread.start()
    # Each from another voter: any of them can have it done.
    voters = [node for node in nodes if node["part"] != "follower"]
    for turn in range(ROTATIONS):
        rotated = keys(voters[turn % len(voters)]["name"], "rotate")
        assert rotated["generation"] == turn + 2, rotated
        time.sleep(1)
    resealed(ROTATIONS + 1)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert min(counts.values()) > 10, counts

    hashes = set()
    for node in nodes:
        status = keys(node["name"], "status")
        assert status["generations"] == list(range(1, ROTATIONS + 2)), status
        hashes.add(status["root_key"])
    assert len(hashes) == 1, hashes
    print(f"{ROTATIONS} rotations, {counts}, none failed")


try:
    main()
finally:
    done.set()
