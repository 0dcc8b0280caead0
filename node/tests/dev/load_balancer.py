"""The cluster behind Debian's HAProxy with the files of `node/deploy/haproxy`: voters passed through,
followers behind a balancer that ends TLS. Run by `node/tests/dev.rs`; every fact is an assertion."""

import base64
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

from around import ACCOUNT, KEY, SECRET, address, balancer, nodes, provide

CERT = os.environ["CONJUR_CERT_FILE"]
DEPLOY = pathlib.Path(sys.argv[1])
SCRATCH = pathlib.Path(sys.argv[2])


def request(method, port, path, body=None, token=None, headers=(), tls=None):
    ask = urllib.request.Request(f"https://127.0.0.1:{port}{path}", data=body, method=method,
                                 headers=dict(headers))
    if token is not None:
        ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
    try:
        with urllib.request.urlopen(ask, context=tls or TLS, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, ssl.SSLError) as error:
        return 0, str(error).encode()


def until(what, attempt, seconds=20):
    """Tries until it gives something; that is how a client with retries sees a failover."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = attempt()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(what)


def wanted(status, *ask, **more):
    def attempt():
        found, body = request(*ask, **more)
        return body if found == status else None
    return attempt


TLS = ssl.create_default_context(cafile=CERT)
LOGIN = f"/authn/{ACCOUNT}/admin/authenticate"


def voters():
    by_name = {node["name"].upper(): node for node in nodes() if node["part"] != "follower"}
    with balancer(DEPLOY / "voters.cfg", SCRATCH, **{name: address(node) for name, node in by_name.items()}) as port:
        token = until("no login through the balancer", wanted(200, "POST", port, LOGIN, KEY.encode()))
        for number in range(20):
            status, body = request("POST", port, SECRET, f"value {number}".encode(), token)
            assert status == 201, (status, body)
        status, body = request("GET", port, SECRET, token=token)
        assert (status, body) == (200, b"value 19"), (status, body)

        # Any member tells how any other is; strangers' names are not dialled.
        leader = next(node for node in nodes() if node["part"] == "leader")
        for node in nodes():
            status, body = request("GET", port, f"/remote_health/{node['name']}")
            assert status == 200 and json.loads(body)["ok"], (node["name"], status, body)
        assert json.loads(request("GET", port, f"/remote_health/{leader['name']}")[1])["role"] == "leader"
        status, _ = request("GET", port, "/remote_health/127.0.0.1:22")
        assert status == 404, status

        os.kill(leader["pid"], signal.SIGKILL)
        killed = time.monotonic()
        until("no write after the leader's death", wanted(201, "POST", port, SECRET, b"after", token))
        print(f"writes through HAProxy {time.monotonic() - killed:.2f} s after the leader's death")
        for number in range(20):
            until("a read stays refused", wanted(200, "GET", port, SECRET, token=token))
        status, body = request("GET", port, f"/remote_health/{leader['name']}")
        assert status == 502 and not json.loads(body)["ok"], (status, body)


def followers():
    site = SCRATCH / "site.pem"
    subprocess.run(
        [provide("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
         str(SCRATCH / "site.key"), "-out", str(SCRATCH / "site.crt")],
        check=True, capture_output=True)
    site.write_bytes((SCRATCH / "site.crt").read_bytes() + (SCRATCH / "site.key").read_bytes())
    tls = ssl.create_default_context(cafile=str(SCRATCH / "site.crt"))
    follower = next(node for node in nodes() if node["part"] == "follower")
    with balancer(DEPLOY / "followers.cfg", SCRATCH, F1=address(follower), SITE_PEM=str(site)) as port:
        login = ("POST", port, LOGIN, KEY.encode())
        until("no login through the balancer", wanted(200, *login, tls=tls))
        for node in nodes():
            # One is dead already.
            if node["part"] != "follower" and node["pid"] is not None:
                os.kill(node["pid"], signal.SIGKILL)
        # Every voter is dead, and nothing is refused.
        for number in range(20):
            status, token = request(*login, tls=tls)
            assert status == 200, (number, status, token)
            status, body = request("GET", port, SECRET, token=token, tls=tls)
            assert (status, body) == (200, b"after"), (number, status, body)
        # The balancer says whose request it was, and who claims to be another is not believed.
        headers = {"X-Forwarded-For": "192.0.2.7"}
        status, body = request("GET", port, "/whoami", token=token, headers=headers, tls=tls)
        assert status == 200 and json.loads(body)["client_ip"] == "127.0.0.1", (status, body)
        status, _ = request("POST", port, SECRET, b"no", token, tls=tls)
        assert status == 405, status


voters()
followers()
