"""Rotation of a real PostgreSQL role's password by the cluster that `conclave dev --run` provides: due at
once, due again, forced, failing in sight, over TLS that is checked, and taken up by the next leader when
the first dies between the database's change and its own. Run by node/tests/clients.rs; every fact is an
assertion."""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

CONCLAVE = sys.argv[1]
URL = os.environ["CONJUR_APPLIANCE_URL"]
KEY = os.environ["CONJUR_AUTHN_API_KEY"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
TLS = ssl.create_default_context(cafile=os.environ["CONJUR_CERT_FILE"])
WORK = pathlib.Path(tempfile.mkdtemp())
FIRST = "the first one is set by hand"


def program(name):
    """One of PostgreSQL's own."""
    places = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else shutil.which(name)


if not program("initdb"):
    print("PostgreSQL is missing; asking apt-get for it", flush=True)
    # Left to itself, the package would start a server of its own.
    install = "apt-get install -qy --no-install-recommends"
    subprocess.run(["flock", "/tmp/conclave-tests-apt.lock", "sh", "-euc",
                    f"apt-get update -q; {install} postgresql-common; echo "
                    "'create_main_cluster = false' >> /etc/postgresql-common/createcluster.conf; "
                    f"{install} postgresql openssl"],
                   check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
assert program("initdb"), "this test needs PostgreSQL, and apt-get could not bring it"


def as_postgres(*command, **more):
    """PostgreSQL does not run as root."""
    who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    return subprocess.run([*who, *command], check=True, capture_output=True, text=True, timeout=90,
                          cwd=WORK, **more)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def certify():
    """An authority, and its certificate for the server."""
    run = lambda *words: as_postgres("openssl", *words)  # noqa: E731
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
        "-keyout", "ca.key", "-out", "ca.pem")
    run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", "server.key",
        "-out", "server.csr")
    (WORK / "names").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "names", "-out", "server.pem")
    return (WORK / "ca.pem").read_bytes()


os.chmod(WORK, 0o777)
PORT, DATA, LOG = free_port(), WORK / "pg", WORK / "log"
AUTHORITY = certify()
as_postgres(program("initdb"), "-D", str(DATA), "-U", "owner", "--auth-local=trust",
            "--auth-host=scram-sha-256")
as_postgres(program("pg_ctl"), "-D", str(DATA), "-w", "-l", str(LOG), "-o",
            f"-p {PORT} -k {WORK} -h 127.0.0.1 -c log_statement=all -c fsync=off -c ssl=on "
            f"-c ssl_cert_file={WORK}/server.pem -c ssl_key_file={WORK}/server.key", "start")
SERVER = int((DATA / "postmaster.pid").read_text().split()[0])


def log():
    return as_postgres("cat", str(LOG)).stdout


def stop():
    """Ends the server that was started here, by its pid."""
    try:
        os.kill(SERVER, signal.SIGINT)
        for _ in range(100):
            os.kill(SERVER, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        pass


def sql(statement):
    return as_postgres(program("psql"), "-h", str(WORK), "-p", str(PORT), "-U", "owner", "-d",
                       "postgres", "-Atc", statement).stdout.strip()


def opens(password):
    done = subprocess.run(
        [program("psql"), "-h", "127.0.0.1", "-p", str(PORT), "-U", "app role", "-d", "postgres",
         "-Atc", "select 1"], capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "PGPASSWORD": password})
    return done.returncode == 0


LED = set()


def nodes(part):
    rows = json.loads((FOLDER / "nodes.json").read_text())
    LED.update(node["name"] for node in rows if node["part"] == "leader")
    return [node for node in rows if node["part"] == part]


def request(method, path, body=None, token=None, url=None):
    ask = urllib.request.Request((url or URL) + path, data=body, method=method)
    if token:
        ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
    try:
        with urllib.request.urlopen(ask, context=TLS, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


TOKEN = request("POST", "/authn/dev/admin/authenticate", KEY.encode())[1]


def secret(name):
    return "/secrets/dev/variable/" + urllib.parse.quote(name, safe="")


def value(name="db/password"):
    status, body = request("GET", secret(name), token=TOKEN)
    return body.decode() if status == 200 else ""


def versions(name="db/password"):
    path = "/resources/dev/variable/" + urllib.parse.quote(name, safe="")
    return json.loads(request("GET", path, token=TOKEN)[1])["secrets"]


def until(what, fact, seconds=90):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, f"{what}\n{status()}\n{log()[-2000:]}"
        time.sleep(0.2)


def status():
    """What `cluster status` says on the leader."""
    for node in nodes("leader"):
        config = str(FOLDER / node["name"] / "conclave.toml")
        return json.loads(subprocess.run(
            [CONCLAVE, "cluster", "status", "--config", config, "--output", "json"],
            check=True, capture_output=True, timeout=30).stdout)["rotations"]
    return []


def fails(name, words):
    """Whether the rotation of a variable is told to fail, in such words."""
    return any(r["resource"] == f"dev:variable:{name}" and words in (r["error"] or "")
               and r["failures"] for r in status())


def post(name, text, url=None):
    answer = request("POST", secret(name), text.encode(), TOKEN, url)
    assert answer[0] == 201, answer


def force(url=None):
    assert request("POST", secret("db/password") + "?expirations", b"", TOKEN, url)[0] == 201


class Way:
    """The way from the leader to the database. Kills the leader at the moment when the database has
    changed the password and the leader has not heard of it yet."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.armed, self.killed = threading.Event(), threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            here, _ = self.listener.accept()
            there = socket.create_connection(("127.0.0.1", PORT))
            for one, other, hears in ((here, there, False), (there, here, True)):
                threading.Thread(target=self.carry, args=(one, other, hears), daemon=True).start()

    def carry(self, one, other, hears):
        try:
            while data := one.recv(65536):
                if hears and b"ALTER ROLE\0" in data and self.armed.is_set():
                    self.armed.clear()
                    os.kill(nodes("leader")[0]["pid"], signal.SIGKILL)
                    self.killed.set()
                    return
                other.sendall(data)
        except OSError:
            pass
        finally:
            for end in (one, other):
                end.close()


def load(ttl):
    text = f"""
- !policy
  id: db
  body:
  - !variable url
  - !variable username
  - !variable ca-cert
  - !variable
    id: password
    annotations:
      rotation/rotator: postgresql/password
      rotation/ttl: {ttl}
      rotation/postgresql/password/length: "32"
- !policy
  id: odd
  body:
  - !variable
    id: password
    annotations: {{rotation/rotator: nonsense/here, rotation/ttl: P1D}}
"""
    answer = request("PATCH", "/policies/dev/policy/root", text.encode(), TOKEN)
    assert answer[0] == 201, answer


try:
    sql(f"create role \"app role\" login password '{FIRST}'")
    load("PT1H")
    address = f"127.0.0.1:{PORT}/postgres"
    post("db/url", address)
    post("db/username", "app role")
    assert opens(FIRST)

    # A server that no known authority vouches for is told nothing.
    post("db/password", FIRST)
    until("the stranger is refused", lambda: fails("db/password", "certificate"))
    assert opens(FIRST) and len(versions()) == 1 and value() == FIRST

    # Due at once: the database and the variable change together, and what was is void. What has been
    # mended by hand waits for no pause.
    post("db/ca-cert", AUTHORITY.decode())
    until("the first rotation", lambda: len(versions()) == 2)
    second = value()
    assert len(second) == 32 and second.isalnum() and opens(second) and not opens(FIRST)
    assert versions()[1]["expires_at"] and not versions()[0]["expires_at"], versions()
    assert not any(r["failures"] for r in status()), status()
    # No password is in the database's log, which has every statement.
    assert "ALTER ROLE" in log() and second not in log()

    # Forced.
    force()
    until("a forced rotation", lambda: len(versions()) == 3)
    third = value()
    assert third != second and opens(third) and not opens(second)

    # A rotator that is not there, and a database that is not there, are seen.
    post("odd/password", "x")
    until("the odd one fails", lambda: fails("odd/password", "no rotator"))
    post("db/url", "127.0.0.1:1/x?sslmode=disable")
    force()
    until("the failure is told", lambda: fails("db/password", "onnection refused"))
    text = request("GET", "/metrics", token=TOKEN, url=nodes("leader")[0]["url"])[1].decode()
    assert "conclave_rotation_failing 2" in text, text
    assert 'conclave_rotations_total{outcome="failure"}' in text, text
    # No way to the sockets of the leader's own machine.
    post("db/url", f"postgresql://{urllib.parse.quote(str(WORK), safe='')}:{PORT}/postgres")
    until("sockets are refused", lambda: fails("db/password", "a socket of the leader's machine"))
    trail = b"".join(p.read_bytes() for p in FOLDER.glob("n*/data/audit/*") if p.is_file())
    assert b"conclave rotated dev:variable:db/password" in trail
    assert b"conclave tried to rotate dev:variable:odd/password" in trail
    logs = {p.parent.name: p.read_bytes() for p in FOLDER.glob("n*/server.log")}
    # Only who leads rotates.
    assert {n for n, text in logs.items() if b"rotation." in text} <= LED != set(logs), LED
    assert b"rotation.failed" in b"".join(logs.values())
    told = trail + b"".join(logs.values()) + json.dumps(status()).encode()
    for kept in (FIRST, second, third, "app role", address):
        assert kept.encode() not in told, kept

    # And end when the reason has gone.
    post("db/url", address)
    until("it works again", lambda: len(versions()) == 4)
    assert opens(value())

    # The leader dies when the database has the new password and the log has not: the next leader
    # comes to the same one, finds it in force and commits it, without another change there.
    way = Way()
    post("db/url", f"127.0.0.1:{way.port}/postgres?sslmode=disable")
    before, changes, first = value(), log().count("ALTER ROLE"), nodes("leader")[0]["name"]
    other = nodes("standby")[0]["url"]
    way.armed.set()
    force()
    assert way.killed.wait(60), "the leader was not killed"
    assert not opens(before)
    URL = other
    until("another leads", lambda: nodes("leader") and nodes("leader")[0]["name"] != first)
    until("the next leader takes it up", lambda: value() not in ("", before))
    assert opens(value()) and len(versions()) == 5, versions()
    assert log().count("ALTER ROLE") == changes + 1, log()[-3000:]

    # What is due by its life is rotated without being asked.
    until("all are back", lambda: len(nodes("standby")) == 2)
    load("PT2S")
    force()
    until("by its life", lambda: versions()[-1]["version"] >= 8)
    print("all facts hold for rotation")
finally:
    stop()
    shutil.rmtree(WORK, ignore_errors=True)
