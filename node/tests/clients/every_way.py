"""Every way of logging in, through HAProxy with the files of `node/deploy/haproxy` and without: at the voters,
at the follower, and at the follower after `kill -9` of every voter. Run by `node/tests/dev.rs` with the
program's path and the folder of those files; it starts what stands for clouds and issuers, and then
itself against `conclave dev`. Every fact is an assertion."""

import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from standins import ACCOUNT_AT_AMAZON, CLIENT, CLUSTER_TOKEN, MACHINES, Clouds

WORK = pathlib.Path(os.environ.get("EVERY_WAY_WORK") or tempfile.mkdtemp())
RESOURCE_OF_MACHINE = ("/subscriptions/sub-1/resourcegroups/web/providers/"
                       "Microsoft.Compute/virtualMachines/vm-1")


def outside(program, files):
    try:
        clouds = Clouds(WORK)
        environment = {**os.environ, "CONCLAVE_STS_URI": clouds.url,
                       "CONCLAVE_GOOGLE_URI": clouds.url,
                       "CONCLAVE_CLOUDS_CA_FILE": str(WORK / "ca.pem"),
                       "CLOUDS_URL": clouds.url, "HAPROXY_FILES": files,
                       "SIGNER_URL": f"http://127.0.0.1:{clouds.metadata.server_port}",
                       "EVERY_WAY_WORK": str(WORK)}
        ended = subprocess.run([program, "dev", "--run", sys.executable, __file__],
                               env=environment, check=False)
        assert ended.returncode == 0, ended.returncode
    finally:
        shutil.rmtree(WORK, ignore_errors=True)


if len(sys.argv) > 1:
    outside(*sys.argv[1:])
    sys.exit()

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
from around import (  # noqa: E402
    ACCOUNT, CERT, FOLDER, KEY, address, balancer, header, nodes, request, set_up, until)
from conjur_api.providers.aws_iam_authentication_strategy import (  # noqa: E402
    build_signed_headers)

from directory import directory  # noqa: E402

CLOUDS = os.environ["CLOUDS_URL"]
FILES = pathlib.Path(os.environ["HAPROXY_FILES"])
AUTHORITY = (WORK / "ca.pem").read_text()
PASSWORD = "carol-Secret1!"
SECRET = f"/secrets/{ACCOUNT}/variable/shared"
AMAZON = f"host/apps/{ACCOUNT_AT_AMAZON}/web"
# Whose certificates are the proof.
CERTIFIED = {f"/authn-cert/mesh/{ACCOUNT}/authenticate": "client",
             f"/authn-k8s/dev/{ACCOUNT}/host%2Fapps%2Fpod/authenticate": "pod"}


def trusting(file, who=None):
    context = ssl.create_default_context(cafile=file)
    if who:
        context.load_cert_chain(WORK / f"{who}.pem", WORK / f"{who}.key")
    return context


def signed(what="sign", claims=None, **more):
    query = urllib.parse.urlencode({"claims": json.dumps(claims), **more})
    with urllib.request.urlopen(f"{os.environ['SIGNER_URL']}/{what}?{query}", timeout=20) as answer:
        return answer.read().decode()


def by_code(url, tls, **changes):
    """Carol comes back from her provider with a code; what the node answers."""
    status, answer = request("GET", url, f"/authn-oidc/{ACCOUNT}/providers", tls=tls)
    assert status == 200, (url, status, answer)
    (entry,) = [one for one in json.loads(answer) if one["service_id"] == "people"]
    asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(entry["redirect_uri"]).query))
    claims = {"iss": CLOUDS, "aud": CLIENT[0], "preferred_username": "carol",
              "nonce": asked["nonce"], **changes}
    code = signed("code", claims, challenge=asked["code_challenge"])
    query = {"code": code, "state": asked["state"],
             **{name: entry[name] for name in ("nonce", "code_verifier")}}
    path = f"/authn-oidc/people/{ACCOUNT}/authenticate?{urllib.parse.urlencode(query)}"
    return request("GET", url, path, tls=tls)


def proofs():
    """Each authenticator's path with a proof that is good and one that is not, but for those of certificates and
    codes."""
    key, (secret, session, _) = next(iter(MACHINES.items()))
    os.environ.update(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret,
                      AWS_SESSION_TOKEN=session)
    amazon = build_signed_headers("eu-central-1")
    jwt = {"iss": CLOUDS, "aud": "conclave", "sub": "web", "namespace": "prod"}
    oidc = {"iss": CLOUDS, "aud": "conclave", "preferred_username": "carol"}
    azure = {"iss": f"{CLOUDS}/tenant/", "aud": "x", "oid": "oid-1",
             "xms_mirid": RESOURCE_OF_MACHINE}
    machine = {"instance_name": "web-1", "project_id": "acme", "zone": "europe-west3-a"}
    google = {"iss": CLOUDS, "aud": f"conjur/{ACCOUNT}/host/apps/google", "sub": "1",
              "google": {"compute_engine": machine}}
    return {
        f"/authn/{ACCOUNT}/admin/authenticate": (KEY, KEY[:-1]),
        f"/authn-ldap/corp/{ACCOUNT}/carol/authenticate": (PASSWORD, "wrong"),
        f"/authn-jwt/ci/{ACCOUNT}/authenticate":
            (f"jwt={signed(claims=jwt)}", f"jwt={signed(claims={**jwt, 'namespace': 'dev'})}"),
        f"/authn-oidc/idp/{ACCOUNT}/authenticate":
            (f"id_token={signed(claims=oidc)}",
             f"id_token={signed(claims={**oidc, 'aud': 'another'})}"),
        f"/authn-iam/prod/{ACCOUNT}/{urllib.parse.quote(AMAZON, safe='')}/authenticate":
            (amazon, amazon.replace("Signature=", "Signature=0", 1)),
        f"/authn-azure/prod/{ACCOUNT}/host%2Fapps%2Fazure/authenticate":
            (f"jwt={signed(claims=azure)}", f"jwt={signed(claims={**azure, 'oid': 'oid-2'})}"),
        f"/authn-gcp/{ACCOUNT}/authenticate":
            (f"jwt={signed(claims=google)}",
             f"jwt={signed(claims={**google, 'iss': 'https://evil'})}"),
    }


def reads(url, path, answer, tls):
    """A login is answered with a token that reads a secret."""
    status, token = answer
    assert status == 200, (url, path, status, token)
    status, value = request("GET", url, SECRET, None, header(token), tls)
    assert (status, value) == (200, b"the value"), (url, path, status, value)


def everybody_logs_in(url, file=CERT, are_certificates_seen=True):
    """All of them are let in there and read a secret, and with a bad proof none is. At a balancer with a
    certificate of its own no client can say by a header that a certificate is its own."""
    plain = trusting(file)
    for path, (good, bad) in proofs().items():
        reads(url, path, request("POST", url, path, good.encode(), tls=plain), plain)
        answer = request("POST", url, path, bad.encode(), tls=plain)
        assert answer == (401, b""), (url, path, answer)
    reads(url, "a code", by_code(url, plain), plain)
    answer = by_code(url, plain, nonce="of another login")
    assert answer == (401, b""), (url, answer)
    for path, who in CERTIFIED.items():
        shown = trusting(file, who)
        # Whoever has somebody's certificate, which is no secret, may not say it is theirs.
        pem = urllib.parse.quote((WORK / f"{who}.pem").read_text())
        claimed = {"X-SSL-Client-Certificate": pem}
        attempts = [({}, plain)] if file == CERT else [({}, plain), (claimed, plain)]
        if are_certificates_seen:
            reads(url, path, request("POST", url, path, b"", tls=shown), plain)
        else:
            attempts += [(claimed, shown), ({}, shown)]
        for headers, tls in attempts:
            answer = request("POST", url, path, b"", headers, tls)
            assert answer == (401, b""), (url, path, headers, answer)


def all_in_force(url):
    variables = {
        "authn-jwt/ci": {"provider-uri": CLOUDS, "ca-cert": AUTHORITY, "audience": "conclave",
                         "token-app-property": "sub", "identity-path": "apps"},
        "authn-oidc/idp": {"provider-uri": CLOUDS, "ca-cert": AUTHORITY, "client-id": "conclave",
                           "id-token-user-property": "preferred_username"},
        "authn-ldap/corp": {"tls-ca-cert": AUTHORITY},
        "authn-cert/mesh": {"ca-cert": AUTHORITY, "trust-domain": "acme.example",
                            "identity-path": "apps"},
        "authn-iam/prod": {},
        "authn-azure/prod": {"provider-uri": f"{CLOUDS}/tenant", "ca-cert": AUTHORITY},
        "authn-gcp": {},
        "authn-oidc/people": {"provider-uri": CLOUDS, "ca-cert": AUTHORITY, "client-id": CLIENT[0],
                              "client-secret": CLIENT[1], "claim-mapping": "preferred_username",
                              "redirect-uri": "https://ui.example/callback"},
        "authn-k8s/dev": {"ca/cert": AUTHORITY, "ca/key": (WORK / "ca.key").read_text(),
                          "kubernetes/api-url": f"{CLOUDS}/k8s", "kubernetes/ca-cert": AUTHORITY,
                          "kubernetes/service-account-token": CLUSTER_TOKEN},
    }
    policy = f"""
- !user carol
- !variable shared
- !policy
  id: apps
  body:
  - !host {ACCOUNT_AT_AMAZON}/web
  - !host
    id: web
    annotations: {{authn-jwt/ci/namespace: prod}}
  - !host
    id: azure
    annotations:
      authn-azure/prod/subscription-id: sub-1
      authn-azure/prod/resource-group: web
      authn-azure/prod/system-assigned-identity: oid-1
  - !host
    id: google
    annotations: {{authn-gcp/project-id: acme, authn-gcp/instance-name: web-1}}
  - !host
    id: pod
    annotations: {{authn-k8s/dev/namespace: shop, authn-k8s/dev/service-account: web}}
- !group all
- !grant
  role: !group all
  members: [!user carol, !host apps/{ACCOUNT_AT_AMAZON}/web, !host apps/web, !host apps/azure,
    !host apps/google, !host apps/pod]
- !permit {{role: !group all, privileges: [read, execute], resource: !variable shared}}
"""
    for service, names in variables.items():
        annotations = ""
        if service == "authn-ldap/corp":
            uri = f"ldap://localhost:{directory(WORK, PASSWORD)}"
            annotations = (f"\n    annotations: {{ldap-authn/uri: \"{uri}\", "
                           "ldap-authn/base_dn: \"dc=example,dc=org\"}")
        declared = "".join(f"\n  - !variable {name}" for name in names)
        policy += f"""
- !policy
  id: conjur/{service}
  body:
  - !webservice{annotations}
  - !webservice status{declared}
- !permit
  role: !group all
  privileges: [read, authenticate]
  resource: !webservice conjur/{service}
"""
    values = {f"conjur/{service}/{name}": value
              for service, names in variables.items() for name, value in names.items()}
    return set_up(url, policy, {"shared": "the value", **values}, variables)[0]


def answers(status, *ask, **more):
    """Whether a request is answered so; one that is not answered at all is not."""
    try:
        return request(*ask, **more)[0] == status
    except OSError:
        return False


def trust_the_proxy(node):
    """The follower believes what a balancer on this machine says of its clients."""
    file = FOLDER / node["name"] / "conclave.toml"
    text = file.read_text()
    assert text.count("[api]\n") == 1, text
    file.write_text(text.replace("[api]\n", '[api]\ntrusted_proxies = ["127.0.0.1/32"]\n'))
    os.kill(node["pid"], signal.SIGHUP)


def everything():
    admin = all_in_force(os.environ["CONJUR_APPLIANCE_URL"])
    by_name = {node["name"].upper(): node for node in nodes()}
    follower = by_name["F1"]
    until("the follower has it all", lambda: answers(200, "GET", follower["url"], SECRET, None, admin))
    trust_the_proxy(follower)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
         str(WORK / "site.key"), "-out", str(WORK / "site.crt")], check=True, capture_output=True)
    # With the lines of the file that hand clients' certificates on.
    text = (FILES / "followers.cfg").read_text()
    for off in ('    bind "${BIND}" ssl', "    # bind ", "    # http-request set-header X-SSL"):
        assert text.count(off) == 1, off
        text = text.replace(off, off.replace("    bind", "    # no bind") if "# " not in off
                            else off.replace("# ", ""))
    handing = WORK / "handing.cfg"
    handing.write_text(text)
    site = WORK / "site.pem"
    site.write_bytes((WORK / "site.crt").read_bytes() + (WORK / "site.key").read_bytes())
    voters = {name: address(by_name[name]) for name in ("N1", "N2", "N3")}
    alone = {name: address(follower) for name in voters}
    (WORK / "passed").mkdir()
    with (balancer(FILES / "voters.cfg", WORK, **voters) as to_voters,
          balancer(FILES / "voters.cfg", WORK / "passed", **alone) as to_follower,
          balancer(FILES / "followers.cfg", WORK, F1=address(follower), SITE_PEM=str(site)) as ended,
          balancer(handing, WORK, F1=address(follower), SITE_PEM=str(site)) as handed):
        to_voters, to_follower, ended, handed = (
            f"https://127.0.0.1:{port}" for port in (to_voters, to_follower, ended, handed))
        for url, file in ((to_voters, CERT), (to_follower, CERT), (ended, site), (handed, site)):
            until(f"{url} serves",
                  lambda u=url, f=file: answers(200, "GET", u, "/health", tls=trusting(f)))
        claimed = {"X-Forwarded-For": "192.0.2.7", **admin}
        until("the follower believes who its clients are",
              lambda: json.loads(request("GET", follower["url"], "/whoami", None, claimed)[1])
              ["client_ip"] == "192.0.2.7")

        def at_the_follower():
            everybody_logs_in(follower["url"])
            everybody_logs_in(to_follower)
            everybody_logs_in(ended, site, are_certificates_seen=False)
            everybody_logs_in(handed, site)

        everybody_logs_in(to_voters)
        at_the_follower()
        for name in voters:
            os.kill(by_name[name]["pid"], signal.SIGKILL)
        until("every voter is dead",
              lambda: all(node["pid"] is None for node in nodes() if node["name"] != "f1"))
        at_the_follower()
        until("the voters' balancer has nobody",
              lambda: not answers(200, "GET", to_voters, "/health"))


everything()
print("all facts hold")
