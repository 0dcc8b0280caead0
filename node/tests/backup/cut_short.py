"""Restoring from a backup, and recovering from a lost majority, are killed again and again, each time a little later,
on the same folder. Whatever was begun no server runs before it has come to its end, the text says what to do, and
the same command brings it there. Run by `node/tests/dev.rs`; its arguments are the program and a folder."""

import json
import signal
import subprocess
import time

from machines import CONCLAVE, WORK, Machine, found, intact, leads, level, run, until

KILLS = 4


def killed(machine, words, takes, look):
    """Runs a command to be killed after a fifth, two fifths, … of the time that it takes."""
    cut = 0
    for number in range(1, KILLS + 1):
        command = [CONCLAVE, *words, "--config", machine.config]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            process.wait(takes * number / (KILLS + 1))
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        assert code in (0, -signal.SIGKILL), code
        # Sooner done than the time before: there is nothing left to cut short.
        if code == 0:
            break
        cut += 1
        look()
    assert cut, "it was over before it could be killed"
    print(f"{words[0]}: killed {cut} times on the way", flush=True)
    return code == 0


def timed(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def serves(machine, host, value):
    machine.start()
    until("leadership", lambda: leads(machine))
    assert host.read(machine.url) == value
    assert [one["name"] for one in machine.status()["members"]] == [machine.name]


def restored(n1, host, backup):
    words = ["restore", backup, "--backup-key-file", n1.key]
    whole = Machine("r0")
    takes = timed(lambda: whole.run(*words))
    machine = Machine("r1")

    def look():
        if (machine.data / "node.json").exists():
            return
        if machine.data.exists() and any(machine.data.iterdir()):
            _, error = machine.run("server", code=3)
            assert "was being set up" in error and "the same command again" in error, error

    if not killed(machine, words, takes, look) and not (machine.data / "node.json").exists():
        machine.run(*words)
    serves(machine, host, b"worth keeping")
    assert len(intact(machine, "restore")) == 1
    machine.end()


def recovered(n1, n2, host):
    old = n1.status()["cluster_id"]
    for machine in [n1, n2]:
        machine.end(signal.SIGKILL)
    words = ["cluster", "recover", "--confirm", old]
    mark = n1.data / "recovering"
    safe = WORK / "as-it-was"
    copy(n1.data, safe)
    takes = timed(lambda: n1.run(*words))
    subprocess.run(["rm", "-r", n1.data], check=True)
    copy(safe, n1.data)
    begun = set()

    def look():
        if mark.exists():
            begun.add(mark.read_text())
            _, error = n1.run("server", code=3)
            assert "run it again" in error, error

    def now():
        return json.loads((n1.data / "node.json").read_text())["cluster_id"]

    # Killed after its last step and before it could say so, it has come to its end, too.
    if not killed(n1, words, takes, look) and (mark.exists() or now() == old):
        done, _ = n1.run(*words)
        begun.add(done["cluster_id"])
    begun.add(now())
    # All attempts were on the way to one and the same cluster.
    assert len(begun) == 1 and old not in begun, begun
    # Killed between the last two steps it has come to its end but for the mark, and is told so.
    mark.write_text(begun.copy().pop())
    _, error = n1.run("server", code=3)
    assert "run it again" in error, error
    _, error = n1.run(*words, code=7)
    assert "had come to its end" in error and "conclave server" in error and not mark.exists(), error
    serves(n1, host, b"worth keeping")
    assert n1.status()["cluster_id"] in begun
    assert intact(n1, "recover")


def copy(source, target):
    subprocess.run(["cp", "-a", source, target], check=True)


def main():
    n1, admin, host = found("n1")
    n2 = n1.bring_in("n2")
    level([n1, n2])
    admin.write(n1.url, b"worth keeping")
    level([n1, n2])
    backup = WORK / "n1.backup"
    n1.run("backup", "create", "--out", backup)
    restored(n1, host, backup)
    recovered(n1, n2, host)


run(main)
