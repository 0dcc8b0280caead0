"""The local issuance socket of one node: off unless configured, closed to others, one question and one
token. Run by node/tests/clients.rs with the program; every fact is an assertion."""

import base64
import json
import os
import pathlib
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

CONCLAVE = sys.argv[1]
FOLDER = pathlib.Path(tempfile.mkdtemp())
SOCKET = FOLDER / "local.sock"


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PEER, API = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
URL = f"https://127.0.0.1:{API}"
TEXT = f"""
[node]
name = "n1"
data = "data"
master_key_file = "master.key"
[peer]
listen = "127.0.0.1:{PEER}"
[tls]
names = ["localhost", "127.0.0.1"]
[api]
listen = "127.0.0.1:{API}"
"""


def configure(more):
    path = FOLDER / "n1.toml"
    path.write_text(TEXT + more)
    return str(path)


def started(config, ready):
    server = subprocess.Popen([CONCLAVE, "server", "--config", config],
                              stderr=open(FOLDER / "log", "ab"))
    for _ in range(600):
        if ready():
            return server
        assert server.poll() is None, (FOLDER / "log").read_text()
        time.sleep(0.05)
    raise AssertionError((FOLDER / "log").read_text())


def whoami(token):
    ask = urllib.request.Request(URL + "/whoami")
    ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
    context = ssl.create_default_context(cafile=str(FOLDER / "data/tls/root.pem"))
    try:
        with urllib.request.urlopen(ask, context=context, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError:
        return 0, None


def ask(line):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(SOCKET))
        stream.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        answer = b""
        while chunk := stream.recv(65536):
            answer += chunk
    assert answer.endswith(b"\n") and answer.count(b"\n") == 1, answer
    return answer[:-1]


def payload(token):
    return json.loads(base64.urlsafe_b64decode(json.loads(token)["payload"]))


config = configure("")
subprocess.run([CONCLAVE, "cluster", "init", "--config", config, "--account", "acme"],
               check=True, stdout=subprocess.DEVNULL, timeout=60)

# Not asked for, it is not there.
server = started(config, lambda: whoami(b"{}")[0] == 401)
assert not SOCKET.exists()
server.send_signal(signal.SIGTERM)
assert server.wait(30) == 0

# What is there and is no socket is left alone.
SOCKET.write_text("precious")
config = configure('local_socket = "local.sock"\n')
refused = subprocess.run([CONCLAVE, "server", "--config", config], capture_output=True, timeout=60,
                         check=False)
assert refused.returncode == 3 and b"local_socket" in refused.stderr, refused
assert SOCKET.read_text() == "precious"
SOCKET.unlink()

server = started(config, SOCKET.exists)
assert stat.S_IMODE(os.stat(SOCKET).st_mode) == 0o600
assert sorted(p.name for p in FOLDER.iterdir() if p.name.startswith(".")) == []
for _ in range(200):
    token = ask({"account": "acme", "sub": "admin"})
    if token:
        break
    time.sleep(0.05)
status, me = whoami(token)
assert (status, me["username"], me["account"]) == (200, "admin", "acme"), (status, me)
assert payload(token)["exp"] - payload(token)["iat"] == 480

# An expiry and addresses of one's own; both count.
now = int(time.time())
token = ask({"account": "acme", "sub": "admin", "exp": now + 3600, "cidr": ["127.0.0.0/8"]})
assert payload(token)["exp"] == now + 3600 and payload(token)["cidr"] == ["127.0.0.0/8"]
assert whoami(token)[0] == 200
elsewhere = ask({"account": "acme", "sub": "admin", "cidr": ["10.0.0.0/8", "::/0"]})
assert whoami(elsewhere)[0] == 403

# A role that is not there gets a token that is good for nothing; what is no question gets none.
ghost = ask({"account": "acme", "sub": "host/no/such"})
assert payload(ghost)["sub"] == "host/no/such"
for bad in (
    b"\n", b"nonsense\n", b"{}\n", b"\xff\n", b'{"account":"acme"}\n',
    {"account": "nobody", "sub": "admin"},
    {"account": "acme", "sub": "admin", "exp": now - 1},
    {"account": "acme", "sub": "admin", "exp": now + 10**6},
    {"account": "acme", "sub": "admin", "exp": "tomorrow"},
    {"account": "acme", "sub": "admin", "cidr": ["10.0.0.1/8x"]},
    {"account": "acme", "sub": "admin", "role": "root"},
    b'{"account":"acme","sub":"' + b"a" * 20000 + b'"}\n',
):
    assert ask(bad) == b"", bad

# Each is in the audit trail, and no token is in the log.
trail = b"".join(p.read_bytes() for p in (FOLDER / "data/audit").iterdir() if p.is_file())
assert b"acme:user:admin successfully authenticated with authenticator authn-local" in trail
assert b"acme:host:no/such" in trail and b"failed to authenticate with authenticator" in trail
signature = json.loads(token)["signature"].encode()
assert signature not in trail and signature not in (FOLDER / "log").read_bytes()

server.send_signal(signal.SIGTERM)
assert server.wait(30) == 0
assert not SOCKET.exists()
print("all facts hold for the local socket")
