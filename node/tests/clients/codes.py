"""People log in at an OpenID provider and bring its code, with PyPI `conjur-api`'s own strategy, and at the
follower while every voter is silent; and from a terminal, with `conclave login --oidc`, by its machine's
browser and by a code for any browser. The provider is npm's `oidc-provider`, which wants PKCE; its certificate is of an authority that only policy knows; what people do in a browser is done here by its
forms. Run by `node/tests/clients.rs` against `conclave dev` with the folder of the provider's packages;
every fact is an assertion."""

import asyncio
import html
import http.cookiejar
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from conjur_api import Client
from conjur_api.models import ConjurConnectionInfo, CredentialsData, SslVerificationMode
from conjur_api.models.general.credentials_data import OidcCodeDetail
from conjur_api.providers import SimpleCredentialsProvider
from conjur_api.providers.oidc_authentication_strategy import OidcAuthenticationStrategy

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
from around import ACCOUNT, CERT, FOLDER, free_port, header, request, set_up  # noqa: E402

from certificates import certificates  # noqa: E402

URL = os.environ["CONJUR_APPLIANCE_URL"]
WORK = pathlib.Path(tempfile.mkdtemp())
SECRET = "the client's: secret/+%"
BACK = f"http://127.0.0.1:{free_port()}/callback"
PORT = free_port()
certificates(WORK)
script = pathlib.Path(__file__).with_name("provider.mjs")
with (WORK / "provider.err").open("wb") as said:
    provider = subprocess.Popen(
        ["node", script, sys.argv[1], WORK, str(PORT), SECRET, BACK],
        stdout=subprocess.PIPE, stderr=said, text=True)


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def log_in_as(person, address):
    """A browser: fills in the provider's forms and goes where it is sent, until that is our client."""
    context = ssl.create_default_context(cafile=WORK / "ca.pem")
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        Stay, urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPCookieProcessor(jar))
    form = None
    for _ in range(20):
        try:
            with opener.open(address, data=form, timeout=20) as page:
                text = page.read().decode()
        except urllib.error.HTTPError as moved:
            assert moved.code in (302, 303), (address, moved.code, moved.read()[:500])
            address, form = urllib.parse.urljoin(address, moved.headers["Location"]), None
            if address.startswith(BACK):
                return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))
            continue
        action = re.search(r'<form[^>]*action="([^"]+)"', text)
        prompt = re.search(r'name="prompt" value="([^"]+)"', text)
        assert action and prompt, text[:2000]
        address = urllib.parse.urljoin(address, html.unescape(action.group(1)))
        fields = {"prompt": prompt.group(1), "login": person, "password": "any"}
        form = urllib.parse.urlencode(fields).encode()
    raise SystemExit("the browser is sent around in a circle")


def invitation(url):
    status, answer = request("GET", url, f"/authn-oidc/{ACCOUNT}/providers")
    assert status == 200, (status, answer)
    (entry,) = json.loads(answer)
    assert (entry["service_id"], entry["name"], entry["type"]) == ("idp", "Acme", "authn-oidc")
    return entry


def code_of(entry, person):
    back = log_in_as(person, entry["redirect_uri"])
    assert back["state"] == entry["state"], back
    return back["code"]


def authenticate(url, entry, code, **other):
    query = {"code": code, "nonce": entry["nonce"], "code_verifier": entry["code_verifier"], **other}
    path = f"/authn-oidc/idp/{ACCOUNT}/authenticate?{urllib.parse.urlencode(query)}"
    return request("GET", url, path)


async def through_conjur_api():
    """The public Python client, unchanged."""
    entry = invitation(URL)
    detail = OidcCodeDetail(code_of(entry, "carol"), entry["code_verifier"], entry["nonce"])
    credentials = SimpleCredentialsProvider()
    credentials.save(CredentialsData(machine=URL, username="carol", oidc_code_detail=detail))
    info = ConjurConnectionInfo(conjur_url=URL, account=ACCOUNT, cert_file=CERT, service_id="idp")
    client = Client(info, authn_strategy=OidcAuthenticationStrategy(credentials), async_mode=True,
                    ssl_verification_mode=SslVerificationMode.CA_BUNDLE)
    assert (await client.whoami())["username"] == "carol"
    assert await client.get("shared") == b"the value"


def by_hand(url):
    entry = invitation(url)
    code = code_of(entry, "carol")
    status, token = authenticate(url, entry, code)
    assert status == 200, (status, token)
    status, value = request("GET", url, f"/secrets/{ACCOUNT}/variable/shared", None, header(token))
    assert (status, value) == (200, b"the value"), status
    # A code once, only with its verifier, and only for who asked.
    assert authenticate(url, entry, code) == (400, b"")
    entry, other = invitation(url), invitation(url)
    for what, differs, expected in (("code_verifier", other["code_verifier"], 400),
                                    ("nonce", other["nonce"], 401)):
        answer = authenticate(url, entry, code_of(entry, "carol"), **{what: differs})
        assert answer == (expected, b""), (what, answer)
    # Somebody whom policy does not know, and who may not.
    assert authenticate(url, entry, code_of(entry, "mallory")) == (400, b"")
    assert authenticate(url, entry, code_of(entry, "dave")) == (403, b"")


def confirm(address, person):
    """A browser: opens the address that the terminal shows, fills in all forms, and confirms or refuses."""
    context = ssl.create_default_context(cafile=WORK / "ca.pem")
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    fields = None
    for _ in range(10):
        body = fields and urllib.parse.urlencode(fields).encode()
        try:
            with opener.open(address, data=body, timeout=20) as page:
                text, address = page.read().decode(), page.url
        except urllib.error.HTTPError as error:
            assert fields and "abort" in fields, (address, error.code)
            return
        if fields and "abort" in fields:
            return
        action = re.search(r'<form[^>]*action="([^"]+)"', text)
        if action is None:
            assert "Success" in text, text[:2000]
            return
        address = urllib.parse.urljoin(address, html.unescape(action.group(1)))
        inputs = re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', text)
        fields = {name: html.unescape(value) for name, value in inputs}
        if fields.get("prompt") == "login":
            fields.update(login=person, password="any")
        if person is None and "confirm" in fields:
            fields["abort"] = fields.pop("confirm")
    raise SystemExit("the browser is sent around in a circle")


def visit(address):
    """What a browser is answered that comes to the terminal's port."""
    try:
        with urllib.request.urlopen(address, timeout=20) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def by_browser(program, environment):
    """Somebody logs in with the browser of the terminal's machine."""
    def begin(service="idp"):
        login = subprocess.Popen([program, "login", "--oidc", service], env=environment, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = login.stderr.readline().strip()
        return login, said.removeprefix("Open this in a browser of this machine: ")

    login, address = begin()
    assert address.startswith(f"https://localhost:{PORT}/"), (address, login.communicate())
    # A connection that says nothing, requests for something else, and one of who has no part in it.
    with socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(BACK).port)):
        assert visit(urllib.parse.urljoin(BACK, "/favicon.ico"))[0] == 404
        assert visit(f"{BACK}?code=x&state=another")[0] == 400
        # The port is taken, which is told.
        second = subprocess.run([program, "login", "--oidc", "idp"], env=environment, text=True,
                                capture_output=True, check=False, timeout=60)
        assert second.returncode == 1 and "not free" in second.stderr, second
        back = log_in_as("carol", address)
        status, page = visit(f"{BACK}?{urllib.parse.urlencode(back)}")
    assert status == 200 and "terminal" in page, (status, page)
    said, also = login.communicate(timeout=60)
    assert login.returncode == 0 and "Logged in as carol" in said, (said, also)
    # Whom policy does not let in; who changes their mind; a service that is not for browsers.
    login, address = begin()
    visit(f"{BACK}?{urllib.parse.urlencode(log_in_as('dave', address))}")
    assert login.communicate(timeout=60) and login.returncode == 5, login.returncode
    login, address = begin()
    state = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))["state"]
    assert visit(f"{BACK}?error=access_denied&state={state}")[0] == 200
    _, also = login.communicate(timeout=60)
    assert login.returncode == 4 and "refused in the browser" in also, also
    login, said = begin("terminal")
    assert login.wait(60) == 6 and "lists no provider \"terminal\"" in said and "idp" in said, said


def from_a_terminal():
    """This program's own command line, in a home of its own."""
    program = os.readlink(f"/proc/{os.getppid()}/exe")
    home = WORK / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("CONJUR_AUTHN_")} | {"HOME": str(home)}
    by_browser(program, environment)
    words = [program, "login", "--oidc", "terminal", "--provider", f"https://localhost:{PORT}",
             "--client-id", "terminal", "--provider-ca", WORK / "ca.pem"]
    logins = []
    for person in ("carol", "dave", None):
        login = subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        shown = login.stderr.readline()
        code = re.search(r" and enter the code (\S+)$", shown.strip())
        address = re.match(r"or open (https://\S+)$", login.stderr.readline().strip())
        assert code and address and code.group(1) in address.group(1), shown
        logins.append((login, address.group(1), person))
    for _, address, person in logins:
        confirm(address, person)
    ended = [(*login.communicate(timeout=60), login.returncode) for login, _, _ in logins]
    said, _, status = ended[0]
    assert status == 0 and "Logged in as carol" in said, ended
    # Whom policy does not let in, and who has refused.
    assert ended[1][2] == 5, ended
    assert ended[2][2] == 4 and "refused in the browser" in ended[2][1], ended

    def run(*verb):
        return subprocess.run([program, *verb], env=environment, text=True, capture_output=True,
                              check=False, timeout=60)
    assert "carol" in run("whoami").stdout
    assert run("variable", "get", "-i", "shared").stdout == "the value"
    kept = home / ".netrc"
    assert kept.stat().st_mode & 0o777 == 0o600 and "login [oidc]" in kept.read_text()
    keyless = run("user", "rotate-api-key")
    assert keyless.returncode == 4 and "OpenID provider" in keyless.stderr, keyless
    assert run("logout").returncode == 0 and run("whoami").returncode == 4


def at_the_follower(admin):
    """Every voter is silent, and the follower lets in by itself."""
    nodes = json.loads((FOLDER / "nodes.json").read_text())
    follower = next(node for node in nodes if node["role"] == "follower")
    path = f"/secrets/{ACCOUNT}/variable/shared"
    for _ in range(200):
        status, _ = request("GET", follower["url"], path, None, admin)
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


def everything():
    if provider.stdout.readline() != "listening\n":
        raise SystemExit(f"the provider did not start: {(WORK / 'provider.err').read_text()}")
    variables = {
        "provider-uri": f"https://localhost:{PORT}",
        "ca-cert": (WORK / "ca.pem").read_text(),
        "client-id": "conclave",
        "client-secret": SECRET,
        "claim-mapping": "preferred_username",
        "redirect-uri": BACK,
        "name": "Acme",
    }
    terminal = {
        "provider-uri": f"https://localhost:{PORT}",
        "ca-cert": (WORK / "ca.pem").read_text(),
        "client-id": "terminal",
        "id-token-user-property": "preferred_username",
    }
    declared = "".join(f"\n  - !variable {name}" for name in variables)
    also = "".join(f"\n  - !variable {name}" for name in terminal)
    policy = f"""
- !user carol
- !user dave
- !variable shared
- !permit {{role: !user carol, privileges: [read, execute], resource: !variable shared}}
- !policy
  id: conjur/authn-oidc/idp
  body:
  - !webservice
  - !webservice status{declared}
- !policy
  id: conjur/authn-oidc/terminal
  body:
  - !webservice
  - !webservice status{also}
- !permit
  role: !user carol
  privileges: [read, authenticate]
  resources: [!webservice conjur/authn-oidc/idp, !webservice conjur/authn-oidc/terminal]
"""
    values = {f"conjur/authn-oidc/idp/{name}": value for name, value in variables.items()}
    values |= {f"conjur/authn-oidc/terminal/{name}": value for name, value in terminal.items()}
    services = ["authn-oidc/terminal", "authn-oidc/idp"]
    admin, _ = set_up(URL, policy, {"shared": "the value", **values}, services)
    asyncio.run(through_conjur_api())
    by_hand(URL)
    from_a_terminal()
    at_the_follower(admin)


try:
    everything()
finally:
    provider.terminate()
    provider.wait()
    shutil.rmtree(WORK, ignore_errors=True)
print("all facts hold")
