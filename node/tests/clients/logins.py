"""Tokens of an issuer, people of a directory and holders of certificates log in: with PyPI
`conjur-api`'s own strategies, and at the follower while every voter is silent. The issuer shows its keys
over HTTPS, and the directory is OpenLDAP's, both with certificates of an authority that only policy
knows. Run by
`node/tests/clients.rs` against `conclave dev`; every fact is an assertion."""

import asyncio
import base64
import http.server
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from conjur_api import Client
from conjur_api.models import ConjurConnectionInfo, CredentialsData, SslVerificationMode
from conjur_api.providers import JWTAuthenticationStrategy, SimpleCredentialsProvider
from conjur_api.providers import cert_authentication_strategy as by_certificates
from conjur_api.providers.ldap_authentication_strategy import LdapAuthenticationStrategy

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
from around import ACCOUNT, CERT, FOLDER, header, request, set_up  # noqa: E402

from directory import directory  # noqa: E402

URL = os.environ["CONJUR_APPLIANCE_URL"]
WORK = pathlib.Path(tempfile.mkdtemp())
PASSWORD = "carol-Secret1!"


def run(*command, text=None):
    return subprocess.run(command, check=True, capture_output=True, input=text, cwd=WORK,
                          timeout=60).stdout


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# An authority, a certificate of it for both servers, and a key that signs tokens.
run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out",
    "ca.pem", "-days", "2", "-subj", "/CN=test authority")
run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out",
    "server.csr", "-subj", "/CN=localhost")
(WORK / "names").write_text("subjectAltName=DNS:localhost\n")
run("openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
    "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.pem")
run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "client.key", "-out",
    "client.csr", "-subj", "/O=Acme/CN=web")
(WORK / "names").write_text("subjectAltName=URI:spiffe://acme.example/web\n"
                            "extendedKeyUsage=clientAuth\n")
run("openssl", "x509", "-req", "-in", "client.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
    "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "client.pem")
run("openssl", "genrsa", "-out", "token.key", "2048")
modulus = run("openssl", "rsa", "-in", "token.key", "-noout", "-modulus").decode().split("=")[1]
KEYS = {"keys": [{"kty": "RSA", "use": "sig", "kid": "k1", "alg": "RS256", "e": "AQAB",
                  "n": b64(bytes.fromhex(modulus.strip()))}]}
AUTHORITY = (WORK / "ca.pem").read_text()


def token_of(**claims):
    now = int(time.time())
    claims = {"iss": "https://idp.example", "aud": "conclave", "iat": now, "exp": now + 300,
              "sub": "web", "namespace": "prod", **claims}
    header = {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    message = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
    signature = run("openssl", "dgst", "-sha256", "-sign", "token.key", text=message.encode())
    return f"{message}.{b64(signature)}"


class Issuer(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Issuer.asked += 1
        body = json.dumps(KEYS).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


issuer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server_tls.load_cert_chain(WORK / "server.pem", WORK / "server.key")
issuer.socket = server_tls.wrap_socket(issuer.socket, server_side=True)
threading.Thread(target=issuer.serve_forever, daemon=True).start()

# A directory with one person in it.
LDAP_PORT = directory(WORK, PASSWORD)


POLICY = f"""
- !user carol
- !host
  id: apps/web
  annotations: {{authn-jwt/ci/namespace: prod, authn-cert/mesh/common-name: web}}
- !variable shared
- !permit {{roles: [!user carol, !host apps/web], privileges: [read, execute], resources: !variable shared}}
- !policy
  id: conjur/authn-jwt/ci
  body:
  - !webservice
  - !webservice status
  - !variable jwks-uri
  - !variable ca-cert
  - !variable issuer
  - !variable audience
  - !variable token-app-property
  - !variable identity-path
  - !permit {{role: !host /apps/web, privileges: [read, authenticate], resource: !webservice}}
- !policy
  id: conjur/authn-cert/mesh
  body:
  - !webservice
  - !webservice status
  - !variable ca-cert
  - !variable trust-domain
  - !variable identity-path
  - !permit {{role: !host /apps/web, privileges: [read, authenticate], resource: !webservice}}
- !policy
  id: conjur/authn-ldap/corp
  body:
  - !webservice
    annotations:
      ldap-authn/uri: ldap://localhost:{LDAP_PORT}
      ldap-authn/base_dn: dc=example,dc=org
  - !webservice status
  - !variable tls-ca-cert
  - !permit {{role: !user /carol, privileges: [read, authenticate], resource: !webservice}}
"""
ADMIN, API_KEYS = set_up(URL, POLICY, {
    "shared": "the value",
    "conjur/authn-jwt/ci/jwks-uri": f"https://localhost:{issuer.server_port}/keys",
    "conjur/authn-jwt/ci/ca-cert": AUTHORITY,
    "conjur/authn-jwt/ci/issuer": "https://idp.example",
    "conjur/authn-jwt/ci/audience": "conclave",
    "conjur/authn-jwt/ci/token-app-property": "sub",
    "conjur/authn-jwt/ci/identity-path": "apps",
    "conjur/authn-ldap/corp/tls-ca-cert": AUTHORITY,
    "conjur/authn-cert/mesh/ca-cert": AUTHORITY,
    "conjur/authn-cert/mesh/trust-domain": "acme.example",
    "conjur/authn-cert/mesh/identity-path": "apps",
}, ["authn-jwt/ci", "authn-ldap/corp", "authn-cert/mesh"])
CAROL = API_KEYS[f"{ACCOUNT}:user:carol"]


def client(service, strategy):
    info = ConjurConnectionInfo(conjur_url=URL, account=ACCOUNT, cert_file=CERT,
                                service_id=service)
    return Client(info, authn_strategy=strategy, async_mode=True,
                  ssl_verification_mode=SslVerificationMode.CA_BUNDLE)


def mend():
    """As it is published, its strategy for certificates asks nobody: it measures a body that it does not
    have, and encodes the login twice. That, and nothing else, is put right."""
    ask = by_certificates.invoke_endpoint

    async def mended(verb, endpoint, params, data, **rest):
        params = {name: value if name == "url" else urllib.parse.unquote(value)
                  for name, value in params.items()}
        return await ask(verb, endpoint, params, data or "", **rest)

    by_certificates.invoke_endpoint = mended


async def through_conjur_api():
    """The public Python client, unchanged but for `mend`."""
    by_token = client("ci", JWTAuthenticationStrategy(token_of()))
    assert (await by_token.whoami())["username"] == "host/apps/web"
    assert await by_token.get("shared") == b"the value"
    by_wrong_token = client("ci", JWTAuthenticationStrategy(token_of(namespace="dev")))
    try:
        await by_wrong_token.whoami()
        raise SystemExit("a token of another namespace was let in")
    except Exception as error:  # its own class, by what it wraps
        assert "401" in str(error), error

    for host in (None, "host/apps/web"):
        strategy = by_certificates.CertAuthenticationStrategy(
            str(WORK / "client.pem"), str(WORK / "client.key"), "mesh", host)
        by_certificate = client("mesh", strategy)
        assert (await by_certificate.whoami())["username"] == "host/apps/web"
        assert await by_certificate.get("shared") == b"the value"

    provider = SimpleCredentialsProvider()
    provider.save(CredentialsData(username="carol", password=PASSWORD, machine=URL))
    by_directory = client("corp", LdapAuthenticationStrategy(provider))
    assert await by_directory.login() == CAROL
    assert (await by_directory.whoami())["username"] == "carol"
    assert await by_directory.get("shared") == b"the value"


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
        by_token = (f"/authn-jwt/ci/{ACCOUNT}/authenticate", f"jwt={token_of()}".encode())
        by_password = (f"/authn-ldap/corp/{ACCOUNT}/carol/authenticate", PASSWORD.encode())
        for path_of, body in (by_token, by_password):
            status, token = request("POST", follower["url"], path_of, body)
            assert status == 200, (path_of, status, token)
            status, value = request("GET", follower["url"], path, None, header(token))
            assert (status, value) == (200, b"the value"), (path_of, status)
        path_of = f"/authn-cert/mesh/{ACCOUNT}/authenticate"
        status, answer = request("POST", follower["url"], path_of, b"")
        assert (status, answer) == (401, b""), (status, answer)
        shown = ssl.create_default_context(cafile=CERT)
        shown.load_cert_chain(WORK / "client.pem", WORK / "client.key")
        status, token = request("POST", follower["url"], path_of, b"", tls=shown)
        assert status == 200, (status, token)
        expired = f"jwt={token_of(exp=int(time.time()) - 1)}".encode()
        status, answer = request("POST", follower["url"], by_token[0], expired)
        assert status == 401 and b"CONJ00016E" in answer, (status, answer)
        status, answer = request("POST", follower["url"], by_password[0], b"wrong")
        assert (status, answer) == (401, b""), (status, answer)
    finally:
        for pid in voters:
            os.kill(pid, signal.SIGCONT)


mend()
asyncio.run(through_conjur_api())
at_the_follower()
shutil.rmtree(WORK, ignore_errors=True)
print("all facts hold")
