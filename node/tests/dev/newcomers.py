"""What scripts on dev clusters share that add nodes of their own: configurations, joins, servers, and the operator's
commands."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import around
from around import FOLDER, WITHIN_S, by_name, free_port, nodes

SCRATCH = pathlib.Path(tempfile.mkdtemp())
CONCLAVE = os.environ["CONCLAVE"]
NOT_FOUND, REFUSED, UNAVAILABLE = 6, 7, 8  # Exit codes.


def config_of(name):
    """The configuration of a node of the dev cluster, or of a newcomer."""
    own = SCRATCH / name / "conclave.toml"
    return own if own.exists() else FOLDER / name / "conclave.toml"


def conclave(*words, on="n1"):
    return subprocess.run([CONCLAVE, *map(str, words), "--config", config_of(on)], capture_output=True, text=True,
                          check=False)


def done(*words, on="n1", seconds=60):
    """Its output. What says that it is worth a retry is tried again: a busy machine may be without a leader for a
    moment."""
    end = time.monotonic() + seconds
    while True:
        run = conclave(*words, on=on)
        if run.returncode != UNAVAILABLE or time.monotonic() > end:
            break
        print(f"{words} on {on}: {run.stderr}")
        time.sleep(0.2)
    assert run.returncode == 0, (words, on, run.stdout, run.stderr)
    return run.stdout


def status(on="n1"):
    return json.loads(done("cluster", "status", "--output", "json", on=on))


def until(what, attempt, seconds=60):
    return around.until(lambda: f"{what}: not within {seconds} s\n" + "".join(
        f"{name}: {conclave('cluster', 'status', on=name).stdout}\n" for name in ("n1", "n2")), attempt, seconds)


def leader():
    """The name of whoever leads, as any node says."""
    for node in nodes():
        run = conclave("cluster", "status", "--output", "json", on=node["name"])
        if run.returncode == 0 and json.loads(run.stdout)["part"] == "leader":
            return node["name"]
    return None


def at_leader(*words):
    """Does it at whoever leads; leadership may move in between."""
    def attempt():
        name = leader()
        if name is None:
            return None
        run = conclave(*words, on=name)
        if run.returncode:
            print(f"{words} at {name}: {run.stderr}")
        return run.returncode == 0
    return until(f"{words} is not done", attempt)


def hand_over(name):
    """Has it lead; it is not refused for long, since an heir that lags catches up."""
    def attempt():
        home = leader()
        if home not in (None, name):
            run = conclave("cluster", "transfer-leader", name, on=home)
            if run.returncode:
                print(f"{home} does not hand over to {name}: {run.stderr}")
        return leader() == name
    return until(f"{name} does not lead", attempt)


def blank(name, extra=""):
    """The configuration of a node that is not there yet."""
    place = SCRATCH / name
    place.mkdir(mode=0o700)
    api = free_port()
    (place / "conclave.toml").write_text(f"""
[node]
name = "{name}"
data = "data"
master_key_file = "master.key"
[peer]
listen = "127.0.0.1:{free_port()}"
[api]
listen = "127.0.0.1:{api}"
url = "https://127.0.0.1:{api}"
{extra}
""")


@contextlib.contextmanager
def serving(name):
    """A newcomer's server, for as long as this lasts."""
    with (SCRATCH / name / "server.log").open("ab") as log:
        server = subprocess.Popen([CONCLAVE, "server", "--config", config_of(name)], stdout=log, stderr=log)
        try:
            until(f"{name} does not answer", lambda: conclave("cluster", "status", on=name).returncode == 0)
            yield server
        finally:
            server.send_signal(signal.SIGCONT)
            server.kill()
            server.wait()


def change(names, edit):
    """Changes the configuration of nodes and starts them anew, all at once: the dev cluster starts those again that
    die."""
    before = by_name()
    for name in names:
        file = FOLDER / name / "conclave.toml"
        text = edit(file.read_text())
        assert text != file.read_text(), (name, text)
        file.write_text(text)
        os.kill(before[name]["pid"], signal.SIGKILL)

    def back():
        now = by_name()
        return all(now[name]["pid"] not in (None, before[name]["pid"])
                   and now[name]["part"] in ("leader", "standby", "follower") for name in names)
    until(f"{names} do not come back", back)


def recorded(what, *marks, on="n1"):
    """Waits until the audit chain has a record with all of these."""
    def found():
        lines = done("audit", "query", "--output", "json", on=on).splitlines()
        return next((line for line in lines if all(mark in line for mark in marks)), None)
    return until(f"{what} in the audit chain", found, WITHIN_S)
