"""The data key is rotated again and again under load: no request fails, on any node and without a
second try, and everything ends up under the newest key. Run by `node/tests/dev.rs` inside
`conclave dev --run`; its argument is the program."""

import json
import subprocess
import sys
import threading
import time

from around import FOLDER, SECRET, authenticate, exchange, nodes

CONCLAVE = sys.argv[1]

ROTATIONS = 4
PATIENCE_S = 90

members = nodes()
failures = []
counts = {"logins": 0, "reads": 0, "writes": 0}
done = threading.Event()


def worker(node):
    """Logs in with the API key, writes where that can be done, and reads what it wrote."""
    url = node["url"]
    writes = node["part"] != "follower"
    number = 0
    try:
        while not done.is_set():
            _, token = authenticate(url)
            counts["logins"] += 1
            for _ in range(10):
                if writes:
                    number += 1
                    exchange(url, SECRET, token, f"{node['name']} {number}".encode())
                    counts["writes"] += 1
                exchange(url, SECRET, token)
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
        for node in nodes():
            status = keys(node["name"], "status")
            if status["generation"] == generation and (status["resealing"] or {}).get("complete"):
                return
        assert time.monotonic() < deadline, status
        time.sleep(0.2)


def main():
    preparation = [CONCLAVE, "variable", "set", "-i", "app/db/password", "-f", "-"]
    subprocess.run(preparation, input=b"s3cret", check=True, stdout=subprocess.DEVNULL)
    threads = [threading.Thread(target=worker, args=(node,)) for node in members for _ in range(2)]
    for thread in threads:
        thread.start()
    # Each from another voter: any of them can have it done.
    voters = [node for node in members if node["part"] != "follower"]
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
    for node in members:
        status = keys(node["name"], "status")
        assert status["generations"] == list(range(1, ROTATIONS + 2)), status
        hashes.add(status["root_key"])
    assert len(hashes) == 1, hashes
    print(f"{ROTATIONS} rotations, {counts}, none failed")


try:
    main()
finally:
    done.set()
