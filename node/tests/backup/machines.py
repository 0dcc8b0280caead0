"""Machines of this test alone: each a folder with a configuration and, now and then, a process of
`conclave server`; and clients of them. Shared by the scripts beside it."""

import base64
import json
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

CONCLAVE = sys.argv[1]
ACCOUNT = "acme"
WORK = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[2]))
PATIENCE_S = 90
UNAVAILABLE = 8  # The exit code that says: worth a retry.
VARIABLE = f"/secrets/{ACCOUNT}/variable/app%2Fpassword"

machines = []


def free_port(kind):
    with socket.socket(type=kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, holds):
    """Waits until a condition holds, and answers what it answered."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.1)


class Machine:
    """One node's place."""

    def __init__(self, name):
        self.name, self.process = name, None
        self.home = WORK / name
        self.home.mkdir()
        self.config, self.data = self.home / "conclave.toml", self.home / "data"
        self.key = self.home / "master.key"
        self.peer = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        api = free_port(socket.SOCK_STREAM)
        self.url = f"https://localhost:{api}"
        self.config.write_text(
            f'[node]\nname = "{name}"\ndata = "data"\nmaster_key_file = "master.key"\n'
            f'[peer]\nlisten = "{self.peer}"\n'
            f'[api]\nlisten = "127.0.0.1:{api}"\nurl = "{self.url}"\n'
            '[tls]\nnames = ["localhost"]\n'
            # Nothing here is about failover: a busy machine is no reason for an election.
            "[raft]\nheartbeat_ms = 100\nelection_min_ms = 600\nelection_max_ms = 1200\n"
        )
        machines.append(self)

    def run(self, *words, code=0):
        """Runs a command with this configuration; answers its output and its errors."""
        command = [CONCLAVE, *words, "--config", self.config, "--output", "json"]
        end = time.monotonic() + PATIENCE_S
        while True:
            run = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
            error = run.stderr.decode()
            # A busy machine may be without a leader for a moment.
            if run.returncode != UNAVAILABLE or code == UNAVAILABLE or time.monotonic() > end:
                break
            time.sleep(0.2)
        assert run.returncode == code, f"{words}: {run.returncode}, not {code}: {error}"
        return json.loads(run.stdout) if run.stdout.strip() else None, error

    def start(self):
        log = open(self.home / "server.log", "ab")
        command = [CONCLAVE, "server", "--end-with-stdin", "--config", self.config]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        until(f"{self.name}'s start", lambda: (self.status() or {}).get("sealed") is False)
        return self

    def end(self, how=signal.SIGTERM):
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE_S)
            self.process.stdin.close()
            self.process = None

    def status(self):
        assert self.process.poll() is None, (self.home / "server.log").read_text()[-2000:]
        command = [CONCLAVE, "cluster", "status", "--config", self.config, "--output", "json"]
        run = subprocess.run(command, capture_output=True, check=False)
        return json.loads(run.stdout) if run.returncode == 0 else None

    def seed(self, other, role="voter"):
        seed = other.home / "seed"
        names = ["--names", "localhost"] if role == "follower" else []
        self.run("cluster", "seed", "--name", other.name, "--role", role, "--out", seed, *names)
        return seed

    def bring_in(self, name, role="voter"):
        """A new machine joins by a seed of this one's."""
        other = Machine(name)
        other.run("cluster", "join", "--seed", self.seed(other, role))
        return other.start()


def leads(machine):
    status = machine.status()
    return status and status["leader"] == status["node_id"]


def level(members):
    """Waits until all are members, voters vote, and all have applied the same."""

    def holds():
        seen = set()
        for machine in members:
            status = machine.status()
            if not status or status["leader"] is None or len(status["members"]) != len(members):
                return False
            if any(one["votes"] != (one["role"] == "voter") for one in status["members"]):
                return False
            seen.add(json.dumps(machine.run("cluster", "state-hash")[0]["state_hash"]))
        return len(seen) == 1

    until("the same state everywhere", holds)


class Client:
    """Somebody with an API key and a root to trust."""

    def __init__(self, root, login, key):
        self.tls = ssl.create_default_context(cafile=root)
        self.login, self.key = login, key

    def ask(self, url, path, body=None, token=None):
        ask = urllib.request.Request(url + path, data=body)
        if token is not None:
            ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
        with urllib.request.urlopen(ask, context=self.tls, timeout=20) as answer:
            return answer.read()

    def token(self, url):
        login = urllib.parse.quote(self.login, safe="")
        return self.ask(url, f"/authn/{ACCOUNT}/{login}/authenticate", self.key.encode())

    def read(self, url):
        return self.patiently(lambda: self.ask(url, VARIABLE, token=self.token(url)))

    def write(self, url, value):
        self.patiently(lambda: self.ask(url, VARIABLE, value, self.token(url)))

    def patiently(self, ask):
        """Asks again while nobody can answer, as clients do."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def found(name):
    """A cluster of one, with a variable and a host that may read it; answers the machine, the
    administrator and the host."""
    machine = Machine(name)
    founded, _ = machine.run("cluster", "init", "--account", ACCOUNT)
    machine.start()
    root = WORK / "root.pem"
    root.write_bytes(pathlib.Path(founded["root_certificate"]).read_bytes())
    until("leadership", lambda: leads(machine))
    admin = Client(root, "admin", founded["account"]["api_key"])
    policy = (
        b"- !variable app/password\n- !host app/web\n"
        b"- !permit {role: !host app/web, privileges: [read, execute], resource: !variable app/password}\n"
    )
    path = f"/policies/{ACCOUNT}/policy/root"
    loaded = json.loads(admin.ask(machine.url, path, policy, admin.token(machine.url)))
    key = loaded["created_roles"][f"{ACCOUNT}:host:app/web"]["api_key"]
    return machine, admin, Client(root, "host/app/web", key)


class Load:
    """Requests to every machine until it ends; none is tried twice."""

    def __init__(self, admin, host, readers, writers, value):
        self.done, self.failed, self.count = threading.Event(), [], 0
        self.threads = [
            threading.Thread(target=self.go, args=(admin, host, machine.url, machine in writers, value))
            for machine in readers
        ]
        for thread in self.threads:
            thread.start()

    def go(self, admin, host, url, writes, value):
        number = 0
        try:
            while not self.done.is_set():
                token = host.token(url)
                master = admin.token(url) if writes else None
                for _ in range(10):
                    number += 1
                    if writes:
                        admin.ask(url, VARIABLE, value + f" {url} {number}".encode(), master)
                    host.ask(url, VARIABLE, token=token)
                    self.count += 1
        except OSError as error:
            self.failed.append(f"{url}: {error}")

    def end(self):
        self.done.set()
        for thread in self.threads:
            thread.join()
        assert not self.failed, self.failed
        return self.count


def intact(machine, operation):
    """The audit chain proves itself, and says what was done once."""
    finding, _ = machine.run("audit", "verify")
    assert finding["intact"] and finding["chain"]["gaps"] == 0, finding
    words = [CONCLAVE, "audit", "query", "--config", machine.config, "--output", "json"]
    query = [*words, "--operation", operation, "--limit", "1000000"]

    def records():
        run = subprocess.run(query, capture_output=True, check=True)
        return [json.loads(line)["record"] for line in run.stdout.splitlines()]

    return until(f"the record of {operation}", records)


def run(main):
    try:
        main()
    finally:
        for machine in machines:
            machine.end(signal.SIGKILL)
