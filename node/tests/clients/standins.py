"""What stands for clouds and issuers in tests: one HTTPS server with a certificate of an authority that only
the operator knows, which judges signatures of version 4 with botocore's own code, shows the keys of
tokens, exchanges codes, and has a pod as the interface of Kubernetes shows it; and one HTTP server that gives
a machine its tokens, as metadata servers do, and codes. Needs the packages that PyPI `conjur-api` brings."""

import base64
import hashlib
import http.server
import json
import secrets
import ssl
import threading
import time
import urllib.parse

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from certificates import certificates

ACCOUNT_AT_AMAZON = "123456789012"
MACHINES = {"ASIAWEB0000000000000": ("secret-of-web", "session-of-web", "web"),
            "ASIAOTHER00000000000": ("secret-of-other", "session-of-other", "other")}
RESOURCE = ("/subscriptions/sub-1/resourcegroups/web/providers/Microsoft.Compute/"
            "virtualMachines/vm-1")


CLIENT = ("conclave", "the client's: secret/+%")
CLUSTER_TOKEN = "token-of-the-node"
POD = {"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1"},
       "spec": {"serviceAccountName": "web", "containers": [{"name": "authenticator"}]},
       "status": {"phase": "Running"}}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Clouds:
    """The servers, and what they sign with."""

    def __init__(self, work):
        self.codes = {}
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificates(work)
        self.https = self.start(self.answer_https)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(work / "server.pem", work / "server.key")
        self.https.socket = context.wrap_socket(self.https.socket, server_side=True)
        self.url = f"https://localhost:{self.https.server_port}"
        self.metadata = self.start(self.answer_metadata)
        for server in (self.https, self.metadata):
            threading.Thread(target=server.serve_forever, daemon=True).start()

    @staticmethod
    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = answer(self)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def answer_https(self, request):
        path = request.path.split("?")[0]
        if path == "/":
            return self.answer_sts(request)
        if path == "/keys":
            numbers = self.key.public_key().public_numbers()
            n = numbers.n.to_bytes(256, "big")
            keys = [{"kty": "RSA", "use": "sig", "kid": "k1", "e": "AQAB", "n": b64(n)}]
            return 200, json.dumps({"keys": keys}).encode()
        if path == "/token":
            return self.exchange(request)
        if path.startswith("/k8s/"):
            if request.headers["Authorization"] != f"Bearer {CLUSTER_TOKEN}":
                return 401, b"{}"
            shop = "/k8s/api/v1/namespaces/shop"
            known = {"/k8s/apis": {"groups": []}, f"{shop}/pods/web-1": POD,
                     f"{shop}/serviceaccounts/web": {"metadata": {"name": "web"}}}
            return (200, json.dumps(known[path]).encode()) if path in known else (404, b"{}")
        for issuer in (self.url, f"{self.url}/tenant/"):
            base = issuer.rstrip("/")[len(self.url):]
            if path == f"{base}/.well-known/openid-configuration":
                document = {"issuer": issuer, "jwks_uri": f"{self.url}/keys",
                            "authorization_endpoint": f"{self.url}/auth",
                            "token_endpoint": f"{self.url}/token"}
                return 200, json.dumps(document).encode()
        return 404, b""

    def exchange(self, request):
        """A code for a token, once, for the client that it was given for and who has its verifier."""
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        form = dict(urllib.parse.parse_qsl(body))
        scheme, _, pair = request.headers["Authorization"].partition(" ")
        client = tuple(urllib.parse.unquote(part)
                       for part in base64.b64decode(pair).decode().split(":", 1))
        claims, challenge = self.codes.pop(form["code"], ({}, ""))
        proof = b64(hashlib.sha256(form["code_verifier"].encode()).digest())
        if (scheme, client, proof) != ("Basic", CLIENT, challenge):
            return 400, b'{"error": "invalid_grant"}'
        return 200, json.dumps({"token_type": "Bearer", "id_token": self.token(**claims)}).encode()

    @staticmethod
    def answer_sts(request):
        """Who am I?, as the Security Token Service answers it."""
        authorization = request.headers.get("Authorization", "")
        fields = dict(part.strip().split("=", 1)
                      for part in authorization.partition(" ")[2].split(",") if "=" in part)
        key, _, region, service, _ = fields.get("Credential", "////").split("/")
        if key not in MACHINES or service != "sts":
            return 403, b'{"Error": {"Code": "InvalidClientTokenId"}}'
        secret, session, role = MACHINES[key]
        headers = {name: request.headers[name] for name in fields["SignedHeaders"].split(";")}
        date = request.headers["X-Amz-Date"]
        url = f"https://{request.headers['Host']}{request.path}"
        signed = AWSRequest(method="GET", url=url, headers=headers)
        signed.context["timestamp"] = date
        signer = SigV4Auth(Credentials(key, secret, session), service, region)
        text = signer.string_to_sign(signed, signer.canonical_request(signed))
        wrong = signer.signature(text, signed) != fields["Signature"]
        if wrong or request.headers["X-Amz-Security-Token"] != session:
            return 403, b'{"Error": {"Code": "SignatureDoesNotMatch"}}'
        arn = f"arn:aws:sts::{ACCOUNT_AT_AMAZON}:assumed-role/{role}/i-0123"
        result = {"Account": ACCOUNT_AT_AMAZON, "Arn": arn, "UserId": "AROA:i-0123"}
        answer = {"GetCallerIdentityResponse": {"GetCallerIdentityResult": result}}
        return 200, json.dumps(answer).encode()

    def answer_metadata(self, request):
        """What a machine is given that asks for its own tokens; and what an issuer signs."""
        address = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        if address.path == "/sign":
            return 200, self.token(**json.loads(query["claims"])).encode()
        if address.path == "/code":
            code = secrets.token_urlsafe()
            self.codes[code] = json.loads(query["claims"]), query["challenge"]
            return 200, code.encode()
        if address.path == "/metadata/identity/oauth2/token":
            assert request.headers["Metadata"] == "true" and query["api-version"]
            token = self.token(iss=f"{self.url}/tenant/", aud=query["resource"], oid="oid-1",
                               xms_mirid=RESOURCE)
            return 200, json.dumps({"access_token": token}).encode()
        if address.path == "/identity":
            assert request.headers["Metadata-Flavor"] == "Google" and query["format"] == "full"
            machine = {"instance_name": "web-1", "project_id": "acme", "zone": "europe-west3-a"}
            return 200, self.token(
                iss=self.url, aud=query["audience"], sub="1134", email_verified=True,
                email="web@acme.iam.gserviceaccount.com",
                google={"compute_engine": machine}).encode()
        return 404, b""

    def token(self, **claims):
        now = int(time.time())
        header = {"alg": "RS256", "typ": "JWT", "kid": "k1"}
        claims = {"iat": now, "exp": now + 300, **claims}
        message = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
        signature = self.key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{message}.{b64(signature)}"
