"""LDAP Sync as operators use it: the commands and what they end with, OpenLDAP's own directory, and a schedule
that outlives its leader. The profile is the one of `node/docs/ldap-sync.md`. Run by `node/tests/dev.rs` inside
`conclave dev --run` with the program's path; every fact is an assertion."""

import base64
import datetime
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from certificates import certificates
from directory import Slapd

sys.path.append(str(pathlib.Path(__file__).parent.parent / "dev"))
import around  # noqa: E402
from around import (  # noqa: E402
    ACCOUNT, FOLDER, KEY, WITHIN_S, by_name, free_port, header, nodes, provide, request)

CONCLAVE = sys.argv[1]
DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "ldap-sync.md"
WORK = pathlib.Path(tempfile.mkdtemp())
BASE = "dc=example,dc=org"
SEARCHER = "searcher-4711"
WEBSERVICE = f"{ACCOUNT}:webservice:conjur/ldap-sync/corp"
RUNS = "variable:conjur/ldap-sync/corp/runs"
MANY = [f"p{number:02}" for number in range(20)]
EVERY_S = 2
NOT_FOUND, REFUSED, UNAVAILABLE = 6, 7, 8  # Exit codes.
provide("curl")


def person(uid, number):
    return (f"dn: uid={uid},ou=people,{BASE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n"
            f"cn: {uid}\nsn: x\nuid: {uid}\nuidNumber: {number}\ngidNumber: 1\nhomeDirectory: /\n")


def members(uids):
    return "".join(f"member: uid={uid},ou=people,{BASE}\n" for uid in uids)


def group(name, uids):
    return f"dn: cn={name},{BASE}\nobjectClass: groupOfNames\ncn: {name}\n{members(uids)}\n"


def entries():
    """People, one of them with an id that cannot be one, two groups, and who searches."""
    units = "".join(f"dn: ou={name},{BASE}\nobjectClass: organizationalUnit\nou: {name}\n\n"
                    for name in ("people", "services"))
    searcher = (f"dn: cn=conclave,ou=services,{BASE}\nobjectClass: simpleSecurityObject\n"
                f"objectClass: organizationalRole\ncn: conclave\nuserPassword: {SEARCHER}\n\n")
    people = "".join(person(uid, 1000 + number) + "\n"
                     for number, uid in enumerate(["alice", "bob", *MANY, "a:b"]))
    return units + searcher + people + group("devs", ["alice", "bob", *MANY]) + group("ops", ["alice"])


def is_in_force(uid, is_so):
    """Whether the directory says that somebody may log in."""
    how = "delete: employeeType\n" if is_so else "replace: employeeType\nemployeeType: disabled\n"
    return f"dn: uid={uid},ou=people,{BASE}\nchangetype: modify\n{how}\n"


def until(what, holds):
    return around.until(what, holds, WITHIN_S + 30)


def a_voter():
    """Where requests go: to a voter that is there, the leader or not."""
    parts = ("leader", "standby")
    return until("no voter is there", lambda: next(
        (node["url"] for node in nodes() if node["part"] in parts and node["pid"]), None))


def conclave(*words, text=None, url=None, login=None):
    """Runs the program as the administrator, or as who has that login and API key."""
    who, key = login or ("admin", KEY)
    environment = {**os.environ, "CONJUR_APPLIANCE_URL": url or a_voter(), "CONJUR_AUTHN_LOGIN": who,
                   "CONJUR_AUTHN_API_KEY": key}
    return subprocess.run([CONCLAVE, *map(str, words)], input=text, capture_output=True, text=True,
                          env=environment, timeout=90, check=False)


def done(*words, **more):
    """What it says. What is worth a retry is tried again: a leader may have died just now."""
    end = time.monotonic() + WITHIN_S + 30
    while True:
        ended = conclave(*words, **more)
        if ended.returncode != UNAVAILABLE or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert ended.returncode == 0, (words, ended.stdout, ended.stderr)
    return ended.stdout


def refused(code, *words, **more):
    """Why the program did not do it: in words for people, and the same for programs."""
    ended = conclave(*words, **more)
    assert (ended.returncode, ended.stdout) == (code, ""), (words, ended)
    as_json = conclave(*words, "--output", "json", **more)
    assert (as_json.returncode, as_json.stdout) == (code, ""), (words, as_json)
    error = json.loads(as_json.stderr)["error"]
    assert error["exit"] == code and ended.stderr.startswith("conclave: "), (ended.stderr, error)
    return ended.stderr


def document(*words, **more):
    return json.loads(done(*words, "--output", "json", **more))


def history():
    return document("ldap-sync", "history", "corp")


def load(text, how="load", branch="root"):
    file = WORK / "policy.yml"
    file.write_text(text)
    return done("policy", how, "-b", branch, "-f", file)


def logs_in(login, key, url=None):
    """Status, and the token where there is one."""
    path = f"/authn/{ACCOUNT}/{urllib.parse.quote(login, safe='')}/authenticate"
    return request("POST", url or a_voter(), path, key.encode())


def new_key(login):
    file = WORK / f"{login}.key"
    done("user", "rotate-api-key", "-i", login, "--key-file", file)
    return file.read_text().strip()


class Watch(threading.Thread):
    """Sees every run that is remembered, though only the last twenty are kept."""

    def __init__(self):
        super().__init__(daemon=True)
        self.runs, self.ended = {}, threading.Event()

    def run(self):
        token = None
        while not self.ended.wait(0.3):
            try:
                url = a_voter()
                token = token or logs_in("admin", KEY, url)[1]
                status, body = request("GET", url, f"/ldap-sync/{ACCOUNT}/corp/runs", None, header(token))
            except OSError:
                status = 0
            if status != 200:
                token = None
                continue
            self.runs.update((run["at"], run) for run in json.loads(body))

    def after(self, at, **wanted):
        """The first run after that time that is as wanted."""
        runs = sorted(run for run in self.runs.copy() if run > at)
        fit = (self.runs[run] for run in runs)
        return next((run for run in fit if all(run[name] == value for name, value in wanted.items())), None)

    def scheduled(self, at, **wanted):
        return until(lambda: (f"no run of the schedule after {at} with {wanted}",
                              [self.runs[run] for run in sorted(self.runs)[-5:]]),
                     lambda: self.after(at, by="schedule", **wanted))


def now():
    """As runs are dated."""
    at = datetime.datetime.now(datetime.timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def moment(at):
    return datetime.datetime.fromisoformat(at.replace("Z", "+00:00"))


def example(port):
    """The document's profile, for the directory of this test: its first server is away."""
    lines = DOCUMENT.read_text().splitlines()
    first = lines.index("    - !policy")
    last = next(at for at in range(first, len(lines)) if lines[at] and not lines[at].startswith("    "))
    text = "\n".join(line[4:] for line in lines[first:last])
    for there, here in (("ldap://dc1.example.com ldap://dc2.example.com",
                         f"ldap://localhost:{free_port()} ldap://localhost:{port}"),
                        ("dc=example,dc=com", BASE)):
        assert there in text, text
        text = text.replace(there, here)
    return text + "\n"


def schedule(every):
    load("- !webservice\n  id: conjur/ldap-sync/corp\n  owner: !policy conjur/ldap-sync/corp\n"
         f"  annotations:\n    ldap-sync/schedule: {every}\n", "update")


def not_in_order(slapd):
    """A profile that cannot be used says why and what to do, and so does its schedule."""
    load(example(slapd.port))
    first = until("the schedule does not begin", history)[0]
    assert (first["by"], first["outcome"]) == ("schedule", "failed"), first
    password = "set the variable conjur/ldap-sync/corp/bind-password"
    assert "ldap-sync/bind_dn is set" in first["reason"] and password in first["reason"], first
    assert f"schedule  failed: {first['reason']}" in done("ldap-sync", "history", "corp")
    for words in (("show",), ("show", "--whole"), ("apply",), ("apply", "--force")):
        assert first["reason"] in refused(REFUSED, "ldap-sync", words[0], "corp", *words[1:])
    refused(NOT_FOUND, "ldap-sync", "show", "nowhere")
    wrong = "- !policy\n  id: conjur/ldap-sync/wrong\n  body:\n  - !webservice\n    annotations:\n"
    load(wrong + "      ldap-sync/usre_filter: (uid=x)\n")
    assert "there is no setting ldap-sync/usre_filter" in refused(REFUSED, "ldap-sync", "show", "wrong")
    assert "declare a variable `runs`" in refused(REFUSED, "ldap-sync", "history", "wrong")
    done("variable", "set", "-i", "conjur/ldap-sync/corp/bind-password", "-f", "-", text=SEARCHER)
    # Whose certificates to believe is not said yet.
    assert f"localhost:{slapd.port}: " in refused(UNAVAILABLE, "ldap-sync", "show", "corp")
    done("variable", "set", "-i", "conjur/ldap-sync/corp/tls-ca-cert", "-f", WORK / "ca.pem")


def slow_directory():
    """Eight servers that say nothing, and a run that waits for them; it hears from the server when that gives up."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    url = f"ldap://localhost:{silent.getsockname()[1]}"
    load("- !policy\n  id: conjur/ldap-sync/slow\n  body:\n  - !webservice\n    annotations:\n"
         f"      ldap-sync/uri: {' '.join([url] * 8)}\n      ldap-sync/base_dn: {BASE}\n")
    ended = []
    running = threading.Thread(target=lambda: ended.append(conclave("ldap-sync", "apply", "slow")), daemon=True)
    running.start()

    def told():
        with silent:
            running.join(90)
        assert ended and ended[0].returncode == UNAVAILABLE, ended
        assert "504 Gateway Timeout. the directory: it did not give all in time" in ended[0].stderr, ended

    return told


def without_an_answer(slapd):
    """The directory is silent, and then away."""
    slapd.signal(signal.SIGSTOP)
    for verb in ("show", "apply"):
        assert f"localhost:{slapd.port}: " in refused(UNAVAILABLE, "ldap-sync", verb, "corp"), verb
    slapd.signal(signal.SIGCONT)
    slapd.kill()
    for verb in ("show", "apply"):
        assert f"localhost:{slapd.port}: " in refused(UNAVAILABLE, "ldap-sync", verb, "corp"), verb
    status, events = stream(a_voter())
    assert status == 200 and events[-1]["ok"] is False, (status, events)
    assert events[-1]["error"]["message"].startswith("the directory: "), events
    slapd.start()
    last = history()[0]
    assert last["outcome"] == "failed" and last["reason"].startswith("the directory: "), last


def by_hand():
    """What a run would do, doing it, and that there is nothing more to do then."""
    people, groups = 22, 2
    totals = f"# {people} users and {groups} groups; {people + groups} created, 0 updated, 0 disabled"
    text = done("ldap-sync", "show", "corp")
    assert text.startswith('- !user\n  id: "alice"\n') and totals in text, text
    assert f"# + {ACCOUNT}:user:alice@ldap-sync-corp\n# +" in text, text
    assert f"# left out: uid=a:b,ou=people,{BASE}: " in text, text
    draft = document("ldap-sync", "show", "corp")
    assert text.startswith(draft["changes"]) and draft["changes"] == draft["policy"], draft
    assert (draft["people"], draft["groups"], len(draft["created"])) == (people, groups, people + groups)
    assert done("list", "-k", "group", "-s", "ldap-sync", "--count").strip() == "0"
    told = done("ldap-sync", "apply", "corp")
    assert told == ("applied: 24 created, 0 updated, 0 removed, of 22 users and 2 groups; 1 left out\n"), told
    again = document("ldap-sync", "apply", "corp")
    assert again["outcome"] == "unchanged" and "policy_version" not in again, again
    told = done("ldap-sync", "apply", "corp")
    assert told.startswith("unchanged: 0 created, 0 updated, 0 removed, "), told
    text = done("ldap-sync", "show", "corp")
    assert text.startswith("# left out: ") and "; 0 created, 0 updated" in text, text
    assert done("ldap-sync", "show", "corp", "--whole").startswith(draft["policy"])
    devs = done("role", "members", "group:ldap-sync/corp/devs").split()
    assert set(devs) >= {f"{ACCOUNT}:user:{uid}@ldap-sync-corp" for uid in ("alice", "bob", *MANY)}, devs
    outcomes = [run["outcome"] for run in history()]
    assert outcomes[:3] == ["unchanged", "unchanged", "applied"], outcomes
    lines = done("ldap-sync", "history", "corp").splitlines()
    assert len(lines) == len(outcomes) and lines[2].endswith(
        "applied: 24 created, 0 updated, 0 removed, of 22 users and 2 groups; 1 left out"), lines
    return draft["policy"]


def stream(url, name="corp"):
    """The events that curl is given. Its token comes by standard input, as all that is secret."""
    token = base64.b64encode(logs_in("admin", KEY)[1]).decode()
    settings = "\n".join([f'cacert = "{os.environ["CONJUR_CERT_FILE"]}"', "silent", "no-buffer",
                          'header = "Accept: text/event-stream"', r'write-out = "\n%{http_code} %{content_type}"',
                          fr'header = "Authorization: Token token=\"{token}\""',
                          f'url = "{url}/ldap-sync/policy?config_name={name}"'])
    ended = subprocess.run(["curl", "--config", "-"], input=settings, capture_output=True, text=True,
                           timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    *events, tail = ended.stdout.split("\n\n")
    status, _, media_type = tail.rpartition("\n")[2].partition(" ")
    if status == "200":
        assert media_type == "text/event-stream" and all(one.startswith("data: ") for one in events), events
    return int(status), [json.loads(one.removeprefix("data: ")) for one in events]


def as_events(policy):
    """What Conjur's clients ask for, at the leader, a standby and the follower."""
    for node in nodes():
        status, events = stream(node["url"])
        assert status == 200 and events[0]["severity"] == "info", (node, events)
        assert any(one.get("severity") == "warn" and "uid=a:b," in one["message"] for one in events), events
        assert events[-1] == {"ok": True, "policy": policy}, (node, events)
    assert stream(a_voter(), "nowhere")[0] == 422


def who_leaves_and_comes_back(slapd, watch):
    """A person disabled in the directory holds nothing here until the directory says otherwise."""
    load("- !permit {role: !group ldap-sync/corp/devs, privileges: [read, execute], resource: "
         "!variable app/db/password}\n")
    done("variable", "set", "-i", "app/db/password", "-f", "-", text="s3cret")
    alice, bob = ((login, new_key(login)) for login in ("alice@ldap-sync-corp", "bob@ldap-sync-corp"))
    follower = next(node["url"] for node in nodes() if node["role"] == "follower")
    secret = f"/secrets/{ACCOUNT}/variable/app%2Fdb%2Fpassword"

    def reads(token, url):
        return request("GET", url, secret, None, header(token))[0] == 200

    tokens = [logs_in(*one)[1] for one in (alice, bob)]
    assert all(reads(token, a_voter()) for token in tokens)
    until("the follower has them", lambda: logs_in(*alice, follower)[0] == 200 and reads(tokens[0], follower))
    assert "404 Not Found" in refused(NOT_FOUND, "ldap-sync", "show", "corp", login=alice)
    schedule(f"PT{EVERY_S}S")
    at = watch.scheduled(now(), outcome="unchanged")["at"]
    slapd.change(is_in_force("alice", False))
    gone = watch.scheduled(at, outcome="applied")
    assert (gone["created"], gone["removed"], gone["people"]) == (0, 1, 21), gone
    assert logs_in(*alice) == (401, b""), "alice logs in"
    assert not reads(tokens[0], a_voter()) and reads(tokens[1], a_voter())
    until("the follower lets alice in", lambda: logs_in(*alice, follower)[0] == 401)
    assert logs_in(*bob)[0] == logs_in(*bob, follower)[0] == 200
    assert "401" in refused(4, "whoami", login=alice)
    told = document("resource", "show", "user:alice@ldap-sync-corp")["annotations"]
    assert {one["name"]: one["value"] for one in told}["ldap-sync/disabled"] == "true", told
    slapd.change(is_in_force("alice", True))
    back = watch.scheduled(gone["at"], outcome="applied")
    status, token = logs_in(*alice)
    assert status == 200 and reads(token, a_voter()), (status, back)
    until("the follower does not let alice in", lambda: logs_in(*alice, follower)[0] == 200)
    watch.scheduled(back["at"], outcome="unchanged")


def leader():
    return until("nobody leads", lambda: next((node for node in nodes() if node["part"] == "leader"), None))


def leader_dies(slapd, watch):
    """Whoever leads next goes on: nobody has to ask."""
    dead = leader()
    before = set(watch.runs)
    os.kill(dead["pid"], signal.SIGKILL)
    killed = now()
    slapd.change(f"dn: uid=dora,ou=people,{BASE}\nchangetype: add\n"
                 + person("dora", 2000).split("\n", 1)[1] + "\n"
                 + f"dn: cn=devs,{BASE}\nchangetype: modify\nadd: member\n" + members(["dora"]))
    run = watch.scheduled(killed, outcome="applied")
    assert (run["created"], run["people"]) == (1, 23), run
    assert logs_in("dora@ldap-sync-corp", new_key("dora@ldap-sync-corp"))[0] == 200
    kept = {run["at"] for run in history()}
    assert kept & before, "the history does not reach back to the dead leader"
    until("the dead one is not back", lambda: by_name()[dead["name"]]["pid"] not in (None, dead["pid"]))
    watch.scheduled(run["at"], outcome="unchanged")


def guarded(slapd, watch):
    """A schedule never takes away more than the guard allows; a person may. All of them leave at once, while the
    directory is away."""
    login = f"{MANY[0]}@ldap-sync-corp"
    key = new_key(login)
    slapd.kill()
    away = watch.scheduled(now(), outcome="failed")
    slapd.change_offline("".join(is_in_force(uid, False) for uid in MANY[:5]))
    slapd.start()
    stopped = watch.scheduled(away["at"], outcome="stopped")
    why = stopped["reason"]
    for part in ("disable 5 of 23 users", login, "ldap-sync/guard_percent = 10", "ldap-sync apply corp --force"):
        assert part in why, why
    watch.scheduled(stopped["at"], outcome="stopped")
    assert logs_in(login, key)[0] == 200
    assert f"# guard: {why}" in done("ldap-sync", "show", "corp")
    assert document("ldap-sync", "show", "corp")["guard"] == why
    assert why in refused(REFUSED, "ldap-sync", "apply", "corp")
    told = done("ldap-sync", "apply", "corp", "--force")
    assert told.startswith("applied: 0 created, ") and ", 5 removed, of 18 users" in told, told
    assert logs_in(login, key) == (401, b"")
    watch.scheduled(now(), outcome="unchanged")


def recorded():
    """The records of runs, as the leader has the chain."""
    config = FOLDER / leader()["name"] / "conclave.toml"
    lines = done("audit", "query", "--operation", "run", "--subject", WEBSERVICE, "--limit", 1_000_000,
                 "--output", "json", "--config", config)
    return [json.loads(line) for line in lines.splitlines()]


def none_is_lost_or_doubled(watch):
    """The history is whole, the schedule was kept, and every run is in the audit chain, once."""
    schedule("P1D")
    last = document("ldap-sync", "apply", "corp")["at"]
    until("the last run is not in the history", lambda: last in watch.runs)
    watch.ended.set()
    watch.join()
    runs = [watch.runs[at] for at in sorted(watch.runs)]
    versions = document("resource", "show", RUNS)["secrets"]
    newest = max(version["version"] for version in versions)
    assert newest == len(runs), (newest, len(runs))
    assert [run["at"] for run in history()] == [run["at"] for run in reversed(runs)][:20]

    def chain():
        times = sorted(row["record"]["at"] for row in recorded())
        return set(watch.runs) <= set(times) and times

    times = until("runs are in no record", chain)
    gaps = [moment(late["at"]) - moment(early["at"]) for early, late in zip(runs, runs[1:])
            if early["by"] == late["by"] == "schedule"]
    assert min(gaps).total_seconds() >= EVERY_S, min(gaps)
    assert max(gaps).total_seconds() <= EVERY_S + 1 + WITHIN_S, max(gaps)
    assert len(times) == len(set(times)), "a run is recorded twice"
    # A leader may die between the record of a run and its place in the history.
    assert len(set(times) - set(watch.runs)) <= 1, set(times) - set(watch.runs)
    rows = recorded()
    makers = {row["node"] for row in rows if row["record"]["message"].startswith("conclave ")}
    assert len(makers) >= 2, "one node alone ran the schedule"
    outcomes = {row["record"]["at"]: row["record"]["result"] for row in rows}
    for run in runs:
        good = run["outcome"] in ("applied", "unchanged")
        assert outcomes[run["at"]] == ("success" if good else "failure"), (run, outcomes[run["at"]])
    finding = document("audit", "verify", "--config", FOLDER / leader()["name"] / "conclave.toml")
    assert finding["intact"] and finding["chain"]["gaps"] == 0, finding
    print(f"{len(runs)} runs of {len(makers)} leaders, {min(gaps)} to {max(gaps)} apart")


def everything():
    certificates(WORK)
    slapd = Slapd(WORK, entries())
    watch = Watch()
    try:
        not_in_order(slapd)
        slow_directory_gives_up = slow_directory()
        watch.start()
        policy = by_hand()
        as_events(policy)
        without_an_answer(slapd)
        who_leaves_and_comes_back(slapd, watch)
        slow_directory_gives_up()
        leader_dies(slapd, watch)
        guarded(slapd, watch)
        none_is_lost_or_doubled(watch)
    finally:
        watch.ended.set()
        slapd.kill()
        shutil.rmtree(WORK, ignore_errors=True)


everything()
print("all facts hold")
