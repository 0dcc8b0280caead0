"""Machines of clouds log in: with PyPI `conjur-api`'s own strategies for Amazon, Azure and Google, and at the
follower while every voter is silent. What stands for the clouds is in `standins.py`.

Run by `node/tests/clients.rs` with the program's path: the servers come first, since a node is told at its
start where clouds are. Then it runs itself against `conclave dev`. Every fact is an assertion."""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from standins import ACCOUNT_AT_AMAZON, MACHINES, Clouds

def outside(program):
    work = pathlib.Path(tempfile.mkdtemp())
    try:
        clouds = Clouds(work)
        environment = {**os.environ, "CONCLAVE_STS_URI": clouds.url,
                       "CONCLAVE_GOOGLE_URI": clouds.url,
                       "CONCLAVE_CLOUDS_CA_FILE": str(work / "ca.pem"),
                       "CLOUDS_URL": clouds.url,
                       "METADATA_URL": f"http://127.0.0.1:{clouds.metadata.server_port}"}
        ended = subprocess.run([program, "dev", "--run", sys.executable, __file__],
                               env=environment, check=False)
        assert ended.returncode == 0, ended.returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


if len(sys.argv) > 1:
    outside(sys.argv[1])
    sys.exit()

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
from around import ACCOUNT, CERT, FOLDER, header, request, set_up  # noqa: E402
from conjur_api import Client  # noqa: E402
from conjur_api.models import ConjurConnectionInfo, SslVerificationMode  # noqa: E402
from conjur_api.providers.aws_iam_authentication_strategy import (  # noqa: E402
    AWSIAMAuthenticationStrategy, build_signed_headers)
from conjur_api.providers.azure_authentication_strategy import (  # noqa: E402
    AzureAuthenticationStrategy)
from conjur_api.providers.gcp_authentication_strategy import (  # noqa: E402
    GCPAuthenticationStrategy)

URL = os.environ["CONJUR_APPLIANCE_URL"]
CLOUDS = os.environ["CLOUDS_URL"]
METADATA = os.environ["METADATA_URL"]
AUTHORITY = pathlib.Path(os.environ["CONCLAVE_CLOUDS_CA_FILE"]).read_text()
WEB = f"host/apps/{ACCOUNT_AT_AMAZON}/web"
OTHER = f"host/apps/{ACCOUNT_AT_AMAZON}/other"


def at_amazon_as(key):
    secret, session, _ = MACHINES[key]
    os.environ.update(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret,
                      AWS_SESSION_TOKEN=session)


def metadata(path, **headers):
    ask = urllib.request.Request(METADATA + path, headers=headers)
    with urllib.request.urlopen(ask, timeout=20) as answer:
        return answer.read()


POLICY = f"""
- !variable shared
- !policy
  id: apps
  body:
  - !host {ACCOUNT_AT_AMAZON}/web
  - !host {ACCOUNT_AT_AMAZON}/other
  - !host
    id: azure
    annotations:
      authn-azure/prod/subscription-id: sub-1
      authn-azure/prod/resource-group: web
      authn-azure/prod/system-assigned-identity: oid-1
  - !host
    id: azure-other
    annotations: {{authn-azure/subscription-id: sub-2, authn-azure/resource-group: web}}
  - !host
    id: google
    annotations:
      authn-gcp/project-id: acme
      authn-gcp/instance-name: web-1
      authn-jwt/gcp/google/compute_engine/project_id: acme
  - !group all
  - !grant
    role: !group all
    members: [!host {ACCOUNT_AT_AMAZON}/web, !host {ACCOUNT_AT_AMAZON}/other, !host azure,
      !host azure-other, !host google]
- !permit {{role: !group apps/all, privileges: [read, execute], resource: !variable shared}}
- !policy
  id: conjur/authn-iam/prod
  body: [!webservice , !webservice status]
- !policy
  id: conjur/authn-azure/prod
  body: [!webservice , !webservice status, !variable provider-uri, !variable ca-cert]
- !policy
  id: conjur/authn-gcp
  body: [!webservice , !webservice status]
- !policy
  id: conjur/authn-jwt/gcp
  body: [!webservice , !webservice status, !variable provider-uri, !variable ca-cert]
- !permit
  role: !group apps/all
  privileges: [read, authenticate]
  resources: [!webservice conjur/authn-iam/prod, !webservice conjur/authn-azure/prod,
    !webservice conjur/authn-gcp, !webservice conjur/authn-jwt/gcp]
"""
ADMIN, _ = set_up(URL, POLICY, {
    "shared": "the value",
    "conjur/authn-azure/prod/provider-uri": f"{CLOUDS}/tenant",
    "conjur/authn-azure/prod/ca-cert": AUTHORITY,
    "conjur/authn-jwt/gcp/provider-uri": CLOUDS,
    "conjur/authn-jwt/gcp/ca-cert": AUTHORITY,
}, ["authn-iam/prod", "authn-azure/prod", "authn-gcp", "authn-jwt/gcp"])


def client(service, strategy):
    info = ConjurConnectionInfo(conjur_url=URL, account=ACCOUNT, cert_file=CERT,
                                service_id=service)
    return Client(info, authn_strategy=strategy, async_mode=True,
                  ssl_verification_mode=SslVerificationMode.CA_BUNDLE)


async def let_in(service, strategy, host):
    by = client(service, strategy)
    assert (await by.whoami())["username"] == host
    assert await by.get("shared") == b"the value"


async def refused(service, strategy, why):
    try:
        await client(service, strategy).whoami()
    except Exception as error:  # its own class, by what it wraps
        assert "401" in str(error), (why, error)
    else:
        raise SystemExit(f"{why} was let in")


async def through_conjur_api():
    """The public Python client, unchanged."""
    at_amazon_as("ASIAWEB0000000000000")
    for region in ("us-east-1", "eu-central-1", "global"):
        await let_in("prod", AWSIAMAuthenticationStrategy(WEB, "prod", region), WEB)
    await refused("prod", AWSIAMAuthenticationStrategy(OTHER, "prod"), "another role")
    os.environ["AWS_SECRET_ACCESS_KEY"] = "wrong"
    await refused("prod", AWSIAMAuthenticationStrategy(WEB, "prod"), "a wrong secret")
    at_amazon_as("ASIAOTHER00000000000")
    await let_in("prod", AWSIAMAuthenticationStrategy(OTHER, "prod"), OTHER)

    azure = AzureAuthenticationStrategy("host/apps/azure", imds_base_url=METADATA)
    await let_in("prod", azure, "host/apps/azure")
    other = AzureAuthenticationStrategy("host/apps/azure-other", imds_base_url=METADATA)
    await refused("prod", other, "another subscription")

    # Its strategy for Google is one of authn-jwt.
    identity = f"{METADATA}/identity"
    google = GCPAuthenticationStrategy("host/apps/google", gcp_identity_url=identity)
    await let_in("gcp", google, "host/apps/google")
    other = GCPAuthenticationStrategy("host/apps/azure", gcp_identity_url=identity)
    await refused("gcp", other, "a host without annotations")


def by_hand(url):
    """Each by its own route, at any node."""
    at_amazon_as("ASIAWEB0000000000000")
    azure = json.loads(metadata("/metadata/identity/oauth2/token?api-version=1&resource=x",
                                Metadata="true"))["access_token"]
    audience = urllib.parse.quote(f"conjur/{ACCOUNT}/host/apps/google", safe="")
    google = metadata(f"/identity?format=full&audience={audience}",
                      **{"Metadata-Flavor": "Google"}).decode()
    login = urllib.parse.quote(WEB, safe="")
    for path, body in (
            (f"/authn-iam/prod/{ACCOUNT}/{login}/authenticate",
             build_signed_headers("eu-central-1")),
            (f"/authn-azure/prod/{ACCOUNT}/host%2Fapps%2Fazure/authenticate", f"jwt={azure}"),
            (f"/authn-gcp/{ACCOUNT}/authenticate", f"jwt={google}")):
        status, token = request("POST", url, path, body.encode())
        assert status == 200, (path, status, token)
        secret = f"/secrets/{ACCOUNT}/variable/shared"
        status, value = request("GET", url, secret, None, header(token))
        assert (status, value) == (200, b"the value"), (path, status)
        # A letter of the signature changed.
        broken = body.replace("Signature=", "Signature=0", 1)
        broken = broken if broken != body else body[:-9] + body[-8:]
        status, answer = request("POST", url, path, broken.encode())
        assert (status, answer) == (401, b""), (path, status, answer)


def at_the_follower():
    """Every voter is silent, and the follower lets in by itself."""
    nodes = json.loads((FOLDER / "nodes.json").read_text())
    follower = next(node for node in nodes if node["role"] == "follower")
    path = f"/secrets/{ACCOUNT}/variable/shared"
    for _ in range(200):
        status, _ = request("GET", follower["url"], path, None, ADMIN)
        if status == 200:
            break
        time.sleep(0.05)
    voters = [node["pid"] for node in nodes if node["role"] == "voter"]
    for pid in voters:
        os.kill(pid, signal.SIGSTOP)
    try:
        by_hand(follower["url"])
    finally:
        for pid in voters:
            os.kill(pid, signal.SIGCONT)


asyncio.run(through_conjur_api())
by_hand(URL)
at_the_follower()
print("all facts hold")
