"""What the scripts inside `conclave dev --run` share: the cluster around them, requests to its nodes,
and programs of Debian's packages."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ACCOUNT = os.environ["CONJUR_ACCOUNT"]
LOGIN = os.environ["CONJUR_AUTHN_LOGIN"]
KEY = os.environ["CONJUR_AUTHN_API_KEY"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
CERT = os.environ["CONJUR_CERT_FILE"]
TLS = ssl.create_default_context(cafile=CERT)
WITHIN_S = int(os.environ.get("CONCLAVE_WITHIN_S", "60"))
SECRET = f"/secrets/{ACCOUNT}/variable/app%2Fdb%2Fpassword"
AUTHENTICATE = f"/authn/{ACCOUNT}/{LOGIN}/authenticate"


def nodes():
    """The nodes as they are now."""
    return json.loads((FOLDER / "nodes.json").read_text())


def by_name():
    return {node["name"]: node for node in nodes()}


def exchange(url, path, token=None, body=None):
    """Request id and body of a good answer."""
    ask = urllib.request.Request(url + path, data=body)
    if token is not None:
        ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
    with urllib.request.urlopen(ask, context=TLS, timeout=10) as answer:
        return answer.headers["X-Request-Id"], answer.read()


def authenticate(url):
    """Request id and token."""
    return exchange(url, AUTHENTICATE, body=KEY.encode())


def request(method, url, path, body=None, headers=(), tls=TLS):
    """Status and body of whatever answer comes."""
    ask = urllib.request.Request(url + path, data=body, method=method, headers=dict(headers))
    try:
        with urllib.request.urlopen(ask, context=tls, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def header(token):
    """The header that bears a token."""
    return {"Authorization": f'Token token="{base64.b64encode(token).decode()}"'}


def set_up(url, policy, values, services):
    """Loads a policy as the administrator, sets variables, and puts authenticators in force, which must then
    say that they are well. The administrator's header, and the keys of the roles that were created."""
    status, token = request("POST", url, AUTHENTICATE, KEY.encode())
    assert status == 200, status
    admin = header(token)
    status, answer = request("POST", url, f"/policies/{ACCOUNT}/policy/root", policy.encode(), admin)
    assert status == 201, (status, answer)
    keys = {role: made["api_key"] for role, made in json.loads(answer)["created_roles"].items()}
    for name, value in values.items():
        path = f"/secrets/{ACCOUNT}/variable/{urllib.parse.quote(name, safe='')}"
        status, answer = request("POST", url, path, value.encode(), admin)
        assert status == 201, (name, status, answer)
    for service in services:
        status, answer = request("PATCH", url, f"/{service}/{ACCOUNT}", b"enabled=true", admin)
        assert status == 204, (service, status, answer)
        status, answer = request("GET", url, f"/{service}/{ACCOUNT}/status", None, admin)
        assert (status, json.loads(answer)) == (200, {"status": "ok"}), (service, answer)
    return admin, keys


def until(what, holds, seconds=20):
    """Waits until it gives something, and gives that. `what` is missing else: words, or what finds them then."""
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.05)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def provide(program, package=None):
    """The program's path, from Debian's package (of the same name) where it is missing."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    if shutil.which(program, path=path) is None:
        package = package or program
        print(f"{program} is missing; asking apt-get for {package}", file=sys.stderr)
        install = f"apt-get update -q && apt-get install -qy --no-install-recommends {package}"
        subprocess.run(["flock", "/tmp/conclave-tests-apt.lock", "sh", "-c", install], check=True,
                       env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"), stdout=subprocess.DEVNULL)
    return shutil.which(program, path=path)


def address(node):
    url = urllib.parse.urlparse(node["url"])
    return f"127.0.0.1:{url.port}"


@contextlib.contextmanager
def balancer(file, scratch, **variables):
    """HAProxy with one of the files of `node/deploy/haproxy`; the port where it listens."""
    port = free_port()
    environment = dict(os.environ, BIND=f"127.0.0.1:{port}", CLUSTER_CA=CERT,
                       CLUSTER_NAME="localhost", **variables)
    said = scratch / f"{file.name}.log"
    log = said.open("wb")
    process = subprocess.Popen([provide("haproxy"), "-f", str(file)], env=environment, stdout=log,
                               stderr=subprocess.STDOUT)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)
        log.close()
        if sys.exc_info()[0] is not None:
            print(said.read_text(errors="replace")[-4000:], file=sys.stderr)
