"""PyPI `conjur-api` 0.2.0: every method of its `Client` that needs no other service, against the
leader and a standby, and those that read against a follower, of the cluster that `conclave dev --run`
provides. Run by node/tests/clients.rs; every fact is an assertion, and so is that no method of the
client is left out."""

import asyncio
import inspect
import json
import os
import pathlib
import tempfile

from conjur_api import Client
from conjur_api.errors.errors import HttpStatusError
from conjur_api.models import (
    ConjurConnectionInfo, CreateHostData, CreateTokenData, CredentialsData, ListMembersOfData,
    ListPermittedRolesData, SslVerificationMode,
)
from conjur_api.models.general.resource import Resource
from conjur_api.providers import AuthnAuthenticationStrategy, SimpleCredentialsProvider

LEADER = os.environ["CONJUR_APPLIANCE_URL"]
KEY = os.environ["CONJUR_AUTHN_API_KEY"]
CERT = os.environ["CONJUR_CERT_FILE"]
FOLDER = pathlib.Path(os.environ["CONCLAVE_DEV_DIR"])
NODES = json.loads((FOLDER / "nodes.json").read_text())
STANDBY = next(n["url"] for n in NODES if n["role"] == "voter" and n["url"] != LEADER)
FOLLOWER = next(n["url"] for n in NODES if n["role"] == "follower")

# Routes that the server does not have yet, by method.
WITHOUT_A_ROUTE = {"list_oidc_providers"}
CALLED = set()


class Watched:
    """A client that remembers which of its methods were called."""

    def __init__(self, url, login, key, password=None):
        provider = SimpleCredentialsProvider()
        provider.save(CredentialsData(
            username=login, password=password or key, api_key=key, machine=url
        ))
        self._client = Client(
            ConjurConnectionInfo(conjur_url=url, account="dev", cert_file=CERT),
            authn_strategy=AuthnAuthenticationStrategy(provider),
            ssl_verification_mode=SslVerificationMode.CA_BUNDLE,
            async_mode=True,
        )

    def __getattr__(self, name):
        CALLED.add(name)
        return getattr(self._client, name)


async def refused(status, awaitable):
    try:
        answer = await awaitable
    except HttpStatusError as error:
        assert error.status == status, (error.status, status)
        return
    raise AssertionError(f"not refused: {answer!r}")


def file(text):
    path = pathlib.Path(tempfile.mkdtemp(), "policy.yml")
    path.write_text(text)
    return str(path)


async def all_methods(name, url):
    me = Watched(url, "admin", KEY)
    assert await me.login() == KEY
    token, _expires = await me.authenticate()
    assert set(json.loads(token)) == {"protected", "payload", "signature"}
    assert (await me.whoami())["username"] == "admin"
    assert tuple(int(n) for n in (await me.server_version()).split("-")[0].split(".")) >= (1, 21, 1)

    text = f"""
- !user {name}-user
- !policy
  id: {name}
  body:
  - !group readers
  - !host one
  - !variable a
  - !variable b
  - !permit {{role: !group readers, privileges: [read, execute], resources: [!variable a]}}
  - !grant {{role: !group readers, member: !host one}}
"""
    path = file(text)
    dry = await me.load_policy_file("root", path, dry_run=True)
    assert dry["status"] == "Valid YAML", dry
    assert not await me.resource_exists("policy", name)
    loaded = await me.load_policy_file("root", path)
    keys = {role: made["api_key"] for role, made in loaded["created_roles"].items()}
    assert set(keys) == {f"dev:host:{name}/one", f"dev:user:{name}-user"}, keys
    await me.update_policy_file(name, file("- !delete {record: !variable b}\n- !variable c\n"))
    assert not await me.resource_exists("variable", f"{name}/b")
    await me.replace_policy_file(name, file("- !variable d\n"))
    assert await me.resource_exists("variable", f"{name}/d")
    assert not await me.resource_exists("variable", f"{name}/c")

    await me.set(f"{name}/a", "one")
    await me.set(f"{name}/a", "two")
    await me.set(f"{name}/d", "x")
    assert await me.get(f"{name}/a") == b"two"
    assert await me.get(f"{name}/a", "1") == b"one"
    many = await me.get_many(f"{name}/a", f"{name}/d")
    assert {k: v if isinstance(v, str) else v.decode() for k, v in many.items()} == {
        f"{name}/a": "two", f"{name}/d": "x"
    }, many
    await refused(404, me.get(f"{name}/none"))

    listed = await me.list({"kind": "variable", "search": name})
    assert set(listed) == {f"dev:variable:{name}/a", f"dev:variable:{name}/d"}, listed
    assert len(await me.list({"limit": 3, "offset": 1})) == 3
    assert await me.list({"kind": "variable", "role": f"dev:host:{name}/one"}) == [
        f"dev:variable:{name}/a"
    ]
    resource = await me.get_resource("variable", f"{name}/a")
    assert [row["version"] for row in resource["secrets"]] == [1, 2], resource
    assert (await me.get_role("host", f"{name}/one"))["id"] == f"dev:host:{name}/one"
    assert await me.role_exists("host", f"{name}/one")
    assert not await me.role_exists("host", f"{name}/nobody")
    held = await me.role_memberships("host", f"{name}/one")
    assert f"dev:group:{name}/readers" in held, held
    direct = await me.role_memberships("host", f"{name}/one", direct=True)
    assert direct == [f"dev:group:{name}/readers"], direct
    asked = ListMembersOfData(identifier=f"{name}/readers")
    asked.resource = Resource("group", f"{name}/readers")
    members = await me.list_members_of_role(asked)
    assert f"dev:host:{name}/one" in members, members
    permitted = await me.list_permitted_roles(
        ListPermittedRolesData(kind="variable", identifier=f"{name}/a", privilege="execute")
    )
    assert f"dev:host:{name}/one" in permitted, permitted
    role = f"dev:host:{name}/one"
    assert await me.check_privilege("variable", f"{name}/a", "execute")
    assert await me.check_privilege("variable", f"{name}/a", "execute", role)
    assert not await me.check_privilege("variable", f"{name}/d", "execute", role)
    found = await me.find_resources_by_identifier(f"{name}/a")
    assert [str(one) for one in found] == [str(Resource("variable", f"{name}/a"))], found
    one = await me.find_resource_by_identifier(f"{name}/a")
    assert (one.kind, one.identifier) == ("variable", f"{name}/a"), one

    fresh = await me.rotate_other_api_key(Resource("host", f"{name}/one"))
    await refused(401, Watched(url, f"host/{name}/one", keys[role]).authenticate())
    host = Watched(url, f"host/{name}/one", fresh)
    assert await host.get(f"{name}/a") == b"two"
    await refused(403, host.set(f"{name}/a", "x"))
    await refused(404, host.get(f"{name}/d"))
    login, old = f"{name}-user", keys[f"dev:user:{name}-user"]
    user = Watched(url, login, old)
    new = await user.rotate_personal_api_key(login, old)
    await refused(401, Watched(url, login, old).authenticate())
    user = Watched(url, login, new)
    await user.change_personal_password(login, new, "Correct-Horse-9")
    assert await Watched(url, login, new, "Correct-Horse-9").login() == new

    await me.update_policy_file("root", file(f"""
- !layer {name}-servers
- !host-factory {{id: {name}-factory, layers: [!layer {name}-servers]}}
"""))
    made = await me.create_token(
        CreateTokenData(host_factory=f"{name}-factory", cidr="127.0.0.0/8", days=1)
    )
    token = made[0]["token"]
    box = await me.create_host(CreateHostData(host_id=f"{name}-box", token=token))
    assert (await Watched(url, f"host/{name}-box", box["api_key"]).whoami())["account"] == "dev"
    assert await me.revoke_token(token) == 204
    await refused(401, me.create_host(CreateHostData(host_id=f"{name}-no", token=token)))
    await me.update_policy_file("root", file(f"""
- !policy
  id: conjur/authn-jwt/{name}
  body: [!webservice]
"""))
    await me.set_authenticator_state(f"authn-jwt/{name}", True)
    await me.set_authenticator_state(f"authn-jwt/{name}", False)


async def reading_a_follower():
    me = Watched(FOLLOWER, "admin", KEY)
    assert await me.login() == KEY
    assert await me.get("leader/a") == b"two"
    assert len(await me.get_many("leader/a", "standby/a")) == 2
    assert await me.check_privilege("variable", "leader/a", "execute", "dev:host:leader/one")
    assert "dev:variable:standby/a" in await me.list({"kind": "variable"})
    await refused(405, me.set("leader/a", "x"))


async def main():
    await all_methods("leader", LEADER)
    await all_methods("standby", STANDBY)
    await reading_a_follower()
    methods = {
        name for name, thing in inspect.getmembers(Client)
        if inspect.iscoroutinefunction(thing) and not name.startswith("_")
    }
    # This one's answer is a document of Enterprise, asked for by server_version.
    left_out = methods - CALLED - WITHOUT_A_ROUTE - {"get_server_info"}
    assert not left_out, left_out


asyncio.run(main())
print("all facts hold for conjur-api")
