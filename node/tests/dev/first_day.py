"""What a client does on its first day, with PyPI `conjur-api` and plain HTTPS, against the cluster
that `conclave dev --run` provides. Run by `node/tests/dev.rs`; every fact is an assertion."""

import asyncio
import base64
import json
import os
import pathlib
import signal
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

from conjur_api import Client
from conjur_api.models import ConjurConnectionInfo, CredentialsData, SslVerificationMode
from conjur_api.providers import AuthnAuthenticationStrategy, SimpleCredentialsProvider

URL = os.environ["CONJUR_APPLIANCE_URL"]
ACCOUNT = os.environ["CONJUR_ACCOUNT"]
LOGIN = os.environ["CONJUR_AUTHN_LOGIN"]
KEY = os.environ["CONJUR_AUTHN_API_KEY"]
CERT = os.environ["CONJUR_CERT_FILE"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])

TLS = ssl.create_default_context(cafile=CERT)


def nodes():
    return json.loads((FOLDER / "nodes.json").read_text())


def part(name):
    return next(node for node in nodes() if node["part"] == name)


def request(method, url, path, body=None, token=None, headers=()):
    """One exchange: status and body, whatever the status."""
    ask = urllib.request.Request(url + path, data=body, method=method, headers=dict(headers))
    if token is not None:
        ask.add_header("Authorization", f'Token token="{base64.b64encode(token).decode()}"')
    try:
        with urllib.request.urlopen(ask, context=TLS, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def authenticate(url, login, key):
    path = f"/authn/{ACCOUNT}/{urllib.parse.quote(login, safe='')}/authenticate"
    return request("POST", url, path, key.encode())


def token_of(url, login, key):
    status, token = authenticate(url, login, key)
    assert status == 200, status
    return token


def secret_path(identifier):
    return f"/secrets/{ACCOUNT}/variable/{urllib.parse.quote(identifier, safe='')}"


async def through_conjur_api():
    """The public Python client, unchanged."""
    info = ConjurConnectionInfo(conjur_url=URL, account=ACCOUNT, cert_file=CERT)
    credentials = CredentialsData(
        username=LOGIN, password=KEY, api_key=KEY, machine=URL
    )
    provider = SimpleCredentialsProvider()
    provider.save(credentials)
    client = Client(
        info,
        authn_strategy=AuthnAuthenticationStrategy(provider),
        ssl_verification_mode=SslVerificationMode.CA_BUNDLE,
        async_mode=True,
    )
    assert await client.login() == KEY
    me = await client.whoami()
    assert me["username"] == "admin" and me["account"] == ACCOUNT, me

    policy = FOLDER / "policy.yml"
    loaded = await client.update_policy_file("root", str(policy))
    assert loaded["version"] >= 2, loaded

    await client.set("app/db/url", "postgres://db.example.com/app")
    assert await client.get("app/db/url") == b"postgres://db.example.com/app"
    values = await client.get_many("app/db/url", "app/db/password")
    assert values["app/db/url"] == b"postgres://db.example.com/app" or \
        values["app/db/url"] == "postgres://db.example.com/app", values
    listed = await client.list({"kind": "variable"})
    assert f"{ACCOUNT}:variable:app/db/url" in listed, listed


def through_https():
    """What the client library has no words for."""
    token = token_of(URL, LOGIN, KEY)

    for value in (bytes(range(256)), os.urandom(64 * 1024), "Grüße\n".encode()):
        status, _ = request("POST", URL, secret_path("app/tls/certificate"), value, token)
        assert status == 201, status
        status, read = request("GET", URL, secret_path("app/tls/certificate"), token=token)
        assert (status, read) == (200, value), (status, len(read), len(value))

    ids = ",".join(
        urllib.parse.quote(f"{ACCOUNT}:variable:{name}", safe="")
        for name in ("app/db/url", "app/db/password")
    )
    status, body = request("GET", URL, f"/secrets?variable_ids={ids}", token=token)
    assert status == 200 and len(json.loads(body)) == 2, (status, body)

    # 401: no token; a token that is none; a wrong key.
    assert request("GET", URL, "/whoami") == (401, b"Authorization missing")
    assert request("GET", URL, "/whoami", token=b"{}")[0] == 401
    assert authenticate(URL, "admin", "not-the-key") == (401, b"")

    # Alice sees the application's secrets and may not read them; Bob cannot even see them.
    created = json.loads((FOLDER / "created_roles.json").read_text())["created_roles"]
    keys = {role["id"].split(":")[2]: role["api_key"] for role in created.values()}
    alice = token_of(URL, "alice", keys["alice"])
    bob = token_of(URL, "bob", keys["bob"])
    host = token_of(URL, "host/app/web-01", keys["app/web-01"])
    password = secret_path("app/db/password")
    assert request("GET", URL, password, token=alice) == (403, b"")
    status, body = request("GET", URL, password, token=bob)
    assert status == 404 and b"CONJ00076E" in body, (status, body)
    assert request("GET", URL, password, token=host)[0] == 200
    assert request("POST", URL, password, b"x", token=host) == (403, b"")

    # 404 for what is not there, 422 for what cannot be understood.
    status, body = request("GET", URL, secret_path("no/such/thing"), token=token)
    assert status == 404 and b"CONJ00076E" in body, (status, body)
    assert request("POST", URL, password, b"", token=token)[0] == 422
    status, body = request(
        "POST", URL, f"/policies/{ACCOUNT}/policy/root", b"- !nonsense x\n", token
    )
    error = json.loads(body)["error"]
    assert status == 422 and error["code"] == "policy_invalid", (status, body)
    assert error["innererror"]["line"] == 1, body
    return token


def through_the_leaders_death(token):
    """kill -9: nothing acknowledged is lost, and somebody else answers at once."""
    leader, follower = part("leader"), part("follower")
    value = os.urandom(32).hex().encode()
    assert request("POST", leader["url"], secret_path("app/db/password"), value, token)[0] == 201
    began = time.monotonic()
    os.kill(leader["pid"], signal.SIGKILL)

    # The follower has what was acknowledged as soon as it has heard of it, and logs people in.
    for _ in range(100):
        status, read = request("GET", follower["url"], secret_path("app/db/password"), token=token)
        assert status == 200, status
        if read == value:
            break
        time.sleep(0.05)
    assert read == value, (read, value)
    assert authenticate(follower["url"], LOGIN, KEY)[0] == 200
    status, _ = request("POST", follower["url"], secret_path("app/db/password"), b"x", token)
    assert status == 405, status

    standby = next(
        node for node in nodes() if node["role"] == "voter" and node["name"] != leader["name"]
    )
    while True:
        try:
            status, read = request(
                "GET", standby["url"], secret_path("app/db/password"), token=token
            )
        except OSError as error:
            status, read = 0, repr(error)
        if status == 200:
            break
        assert time.monotonic() - began < 60, (status, read)
        time.sleep(0.02)
    assert read == value, (read, value)
    status, _ = request("POST", standby["url"], secret_path("app/db/password"), b"after", token)
    assert status == 201, status
    print(f"read and written again {time.monotonic() - began:.2f} s after the kill")

    # The dead node is started again and comes back with what it missed.
    while True:
        now = next(node for node in nodes() if node["name"] == leader["name"])
        if now["pid"] not in (None, leader["pid"]) and now["part"] in ("standby", "leader"):
            break
        assert time.monotonic() - began < 60, now
        time.sleep(0.1)
    status, read = request("GET", now["url"], secret_path("app/db/password"), token=token)
    assert (status, read) == (200, b"after"), (status, read)


asyncio.run(through_conjur_api())
through_the_leaders_death(through_https())
print("all facts hold")
