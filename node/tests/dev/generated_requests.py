"""Requests that PyPI `schemathesis` makes up from the OpenAPI document, against the cluster that
`conclave dev --run` provides. No answer may be a fault, and none may be outside the document. Run by
`node/tests/dev.rs`; the seed is fixed, so that a failure comes again.

A refusal without a body needs no type, whatever documents others of its status have; so the body's
type and schema are looked at where there is one.

Twice: with everything made up, and with the names of things that are there, so that requests get past
the door."""

import base64
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

URL = os.environ["CONJUR_APPLIANCE_URL"]
ACCOUNT = os.environ["CONJUR_ACCOUNT"]
CERT = os.environ["CONJUR_CERT_FILE"]
EXAMPLES = os.environ.get("EXAMPLES", "12")

# What `conclave dev` has from the start.
NAMES = f'''
[parameters]
account = "{ACCOUNT}"
authenticator = "authn"
login = "admin"

[[operations]]
include-tag = "secrets"
parameters = {{ kind = "variable", identifier = "app/db/password" }}

[[operations]]
include-tag = "resources"
parameters = {{ kind = "variable", identifier = "app/db/password", privilege = "read" }}

[[operations]]
include-tag = "roles"
parameters = {{ kind = "policy", identifier = "app", member = "user:admin" }}

[[operations]]
include-tag = "policies"
parameters = {{ kind = "policy", identifier = "app" }}
'''

HOOKS = '''
import schemathesis
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance


@schemathesis.check
def no_fault(ctx, response, case):
    # The status of an authenticator that is not fit is told by 500 and 501, as clients know it.
    told = case.operation.path.endswith("/status") and response.status_code in (500, 501)
    assert response.status_code < 500 or told, f"a fault: {response.status_code}"


@schemathesis.check
def documented_body(ctx, response, case):
    if response.content:
        content_type_conformance(ctx, response, case)
        response_schema_conformance(ctx, response, case)
'''


def token():
    login = urllib.parse.quote(os.environ["CONJUR_AUTHN_LOGIN"], safe="")
    ask = urllib.request.Request(
        f"{URL}/authn/{ACCOUNT}/{login}/authenticate",
        data=os.environ["CONJUR_AUTHN_API_KEY"].encode(),
    )
    tls = ssl.create_default_context(cafile=CERT)
    with urllib.request.urlopen(ask, context=tls, timeout=10) as answer:
        return base64.b64encode(answer.read()).decode()


def run(folder, name, names):
    config = folder / f"{name}.toml"
    # The header is in a file, not among the arguments, which others on the machine can read.
    config.write_text(f"[headers]\nAuthorization = 'Token token=\"{token()}\"'\n{names}")
    config.chmod(0o600)
    tool = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [
        tool, "--config-file", config, "run", f"{URL}/openapi.json",
        "--tls-verify", CERT,
        "--phases", "examples,fuzzing",
        "--mode", "all",
        "--max-examples", EXAMPLES,
        "--seed", "20171114",
        "--no-shrink",
        "--continue-on-failure",
        "--suppress-health-check", "all",
        "--generation-database", "none",
        "--warnings", "off",
        "--checks", "no_fault,status_code_conformance,documented_body",
        # Says by 503 that a node does not lead.
        "--exclude-path", "/health/leader",
    ]
    environment = dict(os.environ, SCHEMATHESIS_HOOKS="hooks", PYTHONPATH=str(folder))
    return subprocess.run(command, env=environment, cwd=folder, check=False).returncode


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "hooks.py").write_text(HOOKS)
        sys.exit(run(folder, "strange", "") or run(folder, "known", NAMES))


main()
