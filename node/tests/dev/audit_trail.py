"""Nodes die under load, and every answer that released a secret is in the audit chain, once. Run by
`node/tests/dev.rs` inside `conclave dev --run`; its argument is the program."""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

from around import FOLDER, SECRET, authenticate, by_name, exchange, nodes

CONCLAVE = sys.argv[1]

KILLS = 6
THREADS = 6
PATIENCE_S = 90

chance = random.Random(int(os.environ.get("SEED", time.time_ns() % 2**32)))
members = nodes()
urls = [node["url"] for node in members]
released = []
done = threading.Event()


def reader():
    """Logs in and reads, at whatever node answers."""
    while not done.is_set():
        url = random.choice(urls)
        try:
            request_id, token = authenticate(url)
            released.append((request_id, "authenticate"))
            for _ in range(20):
                request_id, _ = exchange(url, SECRET, token)
                released.append((request_id, "fetch"))
            request_id, _ = exchange(url, SECRET, token, b"an0ther")
            released.append((request_id, "update"))
        except OSError:
            time.sleep(0.05)


def audit(name, *words):
    """Runs `conclave audit` on a node; answers its status and output."""
    run = subprocess.run(
        [CONCLAVE, "audit", *words, "--config", FOLDER / name / "conclave.toml"],
        capture_output=True,
        check=False,
    )
    return run.returncode, run.stdout, run.stderr


def kill_one(part):
    """kill -9 of a node of that part, or of any; the development cluster starts it again."""
    alive = [node for node in by_name().values() if node["pid"]]
    node = chance.choice([node for node in alive if part in (None, node["part"])] or alive)
    os.kill(node["pid"], signal.SIGKILL)
    print(f"killed {node['name']}, {node['part']}", flush=True)
    deadline = time.monotonic() + PATIENCE_S
    while by_name()[node["name"]]["pid"] in (None, node["pid"]):
        assert time.monotonic() < deadline, f"{node['name']} does not come back"
        time.sleep(0.1)


def chain(name):
    """How often each request is in the chain as a node has it."""
    status, out, error = audit(name, "query", "--limit", "1000000000", "--output", "json")
    if status != 0:
        print(error.decode(), flush=True)
        return collections.Counter()
    records = (json.loads(line)["record"] for line in out.splitlines())
    return collections.Counter(
        (record.get("request_id"), record.get("operation")) for record in records
    )


def main():
    preparation = [CONCLAVE, "variable", "set", "-i", "app/db/password", "-f", "-"]
    subprocess.run(preparation, input=b"s3cret", check=True, stdout=subprocess.DEVNULL)
    threads = [threading.Thread(target=reader) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for turn in range(KILLS):
        time.sleep(chance.uniform(1, 2))
        kill_one("leader" if turn % 3 == 0 else None)
    time.sleep(2)
    done.set()
    for thread in threads:
        thread.join()

    told = collections.Counter(released)
    assert len(told) > 100, f"only {len(told)} answers came"
    deadline = time.monotonic() + PATIENCE_S
    for node in members:
        while True:
            found = chain(node["name"])
            missing = [one for one in told if found[one] == 0]
            if not missing:
                break
            assert time.monotonic() < deadline, f"{len(missing)} of {len(told)} are missing"
            time.sleep(0.5)
        twice = [one for one in told if found[one] != 1]
        assert not twice, twice[:5]
    for node in members:
        status, out, error = audit(node["name"], "verify", "--output", "json")
        assert status == 0, error.decode()
        finding = json.loads(out)
        assert finding["intact"] and finding["chain"]["gaps"] == 0, finding

    # An export proves itself anywhere, and shows where it was touched.
    trail = FOLDER / "trail.jsonl"
    status, _, error = audit(members[0]["name"], "export", "--out", str(trail))
    assert status == 0, error.decode()
    offline = [CONCLAVE, "audit", "verify", "--file", trail, "--key", finding["chain"]["key"]]
    assert subprocess.run(offline, check=False, capture_output=True).returncode == 0
    lines = trail.read_bytes().split(b"\n")
    number = len(lines) // 2
    lines[number] = lines[number].replace(b'"result":"success"', b'"result":"failure"')
    trail.write_bytes(b"\n".join(lines))
    broken = subprocess.run(offline, check=False, capture_output=True)
    assert broken.returncode == 1 and f"record {number}:".encode() in broken.stderr, broken
    print(f"{len(told)} answers, each in the chain once")


try:
    main()
finally:
    done.set()
