"""Backups are made on every kind of member under load, and one of them becomes another cluster, for the
clients the same one: restored, grown, restarted as a whole, read with the keys and the root of before.
Run by `node/tests/backup.rs`; its arguments are the program and a folder."""

import json
import signal

from machines import WORK, Load, Machine, found, intact, leads, level, run, until

CANARY = b"c4nary-value"


def stop_all(members):
    for machine in members:
        machine.process.send_signal(signal.SIGTERM)
    for machine in members:
        machine.end()


def main():
    n1, admin, host = found("n1")
    n2, f1 = n1.bring_in("n2"), n1.bring_in("f1", "follower")
    old = [n1, n2, f1]
    level(old)
    admin.write(n1.url, CANARY)
    late = Machine("late")
    old_seed = json.loads(n1.seed(late).read_text())

    load = Load(admin, host, readers=old, writers=[n1, n2], value=CANARY)
    backups = {}
    for machine in old:
        before = machine.status()["applied"]
        path = WORK / f"{machine.name}.backup"
        made, _ = machine.run("backup", "create", "--out", path)
        assert made["backup"]["index"] >= before and made["backup"]["level"], made
        verified, _ = machine.run("backup", "verify", path)
        assert verified["intact"] and path.stat().st_mode & 0o777 == 0o600
        for field in ["cluster_id", "index", "bytes", "made_at", "node", "root_key", "master_key"]:
            assert verified["backup"][field] == made["backup"][field], field
        assert made["backup"]["bytes"] == path.stat().st_size
        backups[machine] = path
        n1.run("backup", "create", "--out", path, code=3)
    # However slow the machine: there was a load.
    until("the load", lambda: load.failed or load.count > 50)
    count = load.end()
    print(f"{count} requests during {len(backups)} backups, none failed", flush=True)
    intact(n1, "backup")

    # Nothing of it can be read, and whatever was done to it is noticed.
    path = backups[f1]
    content = path.read_bytes()
    for canary in [CANARY, b"PRIVATE KEY", b"app/password", b"BEGIN", f1.key.read_bytes().strip()]:
        assert canary not in content, canary
    _, error = n1.run("backup", "verify", path, code=3)
    assert "bring the master key of f1" in error, error
    for damage, code in [(content[:-1], 1), (content[:200], 1), (b"noise", 3), (content + b"x", 1)]:
        damaged = WORK / "damaged.backup"
        damaged.write_bytes(damage)
        assert not f1.run("backup", "verify", damaged, code=code)[0]["intact"]

    # Where something lies already it is not restored to, nor without the key.
    f1.run("restore", path, code=3)
    r1 = Machine("r1")
    _, error = r1.run("restore", path, code=3)
    assert "--backup-key-file" in error, error
    key = ["--backup-key-file", f1.key]
    r1.data.mkdir()
    (r1.data / "something").touch()
    _, error = r1.run("restore", path, *key, code=3)
    assert "is not empty" in error, error
    (r1.data / "something").unlink()
    (WORK / "damaged.backup").write_bytes(content[:-100])
    r1.run("restore", WORK / "damaged.backup", *key, code=1)
    restored, _ = r1.run("restore", path, *key)
    _, error = r1.run("restore", path, *key, code=3)
    assert "holds a node already" in error, error
    r1.start()
    until("leadership", lambda: leads(r1))
    status = r1.status()
    assert status["cluster_id"] == restored["cluster_id"] != old_seed["cluster_id"]
    assert [one["name"] for one in status["members"]] == ["r1"], status["members"]
    # No place in the log, and so no node's id, means something else in the old cluster.
    assert status["node_id"] > n1.status()["applied"] + 500_000_000, status["node_id"]

    # For clients it is the same: the host's key, the root, the value as of the backup.
    assert host.read(r1.url).startswith(CANARY)
    admin.write(r1.url, b"after the restore")

    # A seed of the old cluster opens nothing here, not even with the new one's address.
    seed = late.home / "forged"
    for cluster in [old_seed["cluster_id"], restored["cluster_id"]]:
        seed.write_text(json.dumps(old_seed | {"peers": [r1.peer], "cluster_id": cluster}))
        seed.chmod(0o600)
        late.run("cluster", "join", "--seed", seed, code=8)

    new = [r1, r1.bring_in("n2-again"), r1.bring_in("f1-again", "follower")]
    level(new)
    stop_all(new)
    for machine in new:
        machine.start()
    level(new)
    for machine in new:
        until("reads", lambda: host.read(machine.url) == b"after the restore")
    admin.write(new[1].url, b"after the restart")
    level(new)
    assert host.read(new[2].url) == b"after the restart"
    records = intact(new[2], "restore")
    assert len(records) == 1 and restored["cluster_id"] in records[0]["message"], records

    # The old one knows nothing of it.
    level(old)
    assert host.read(f1.url).startswith(CANARY)


run(main)
