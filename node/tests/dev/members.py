"""Members come, go and lead in ways that operators of such clusters complain about elsewhere. Requests run all the
while, and each is tried again until it is answered. Run by `node/tests/dev.rs` inside `conclave dev --voters 5
--followers 1 --run`; its argument names the complaint, or several."""

import contextlib
import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.parse

from around import AUTHENTICATE, KEY, SECRET, TLS, WITHIN_S, by_name, exchange, nodes
from newcomers import SCRATCH, blank, change, conclave, done, hand_over, leader, serving, status, until


class Load:
    """Writes and reads, at all members in turn; how often one failed, and whether one stayed unanswered."""

    def __init__(self, urls):
        self.urls, self.done, self.failed, self.asked, self.lost = urls, threading.Event(), 0, 0, []
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(3)]
        for thread in self.threads:
            thread.start()

    def run(self, turn):
        token = None
        while not self.done.is_set():
            turn += 1
            deadline = time.monotonic() + 15
            while True:
                url = self.urls[turn % len(self.urls)]
                try:
                    self.asked += 1
                    token = token or exchange(url, AUTHENTICATE, body=KEY.encode())[1]
                    exchange(url, SECRET, token, f"value {turn}".encode() if turn % 2 else None)
                    break
                except OSError:
                    self.failed, turn, token = self.failed + 1, turn + 1, None
                    if time.monotonic() > deadline:
                        self.lost.append(url)
                        break
                    time.sleep(0.05)
            time.sleep(0.01)

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join()
        assert not self.lost and self.asked > 20, (self.lost, self.asked)
        return f"{self.failed} of {self.asked} requests failed, none after a retry"


def voters():
    return [node for node in nodes() if node["role"] == "voter"]


def load(*without):
    return Load([node["url"] for node in voters() if node["name"] not in without])


def level():
    """Waits until all that run have applied the same and are the same."""
    def same():
        hashes = set()
        for node in nodes():
            run = conclave("cluster", "state-hash", "--output", "json", on=node["name"])
            if run.returncode:
                return False
            said = json.loads(run.stdout)
            hashes.add((said["applied"], said["state_hash"]))
        return len(hashes) == 1
    until("the members do not converge", same)


def failed_leader():
    """It is killed, comes back, and is a standby again: no operator does anything but to start it."""
    running = load()
    for _ in range(2):
        old = until("no leader", leader)
        term = status(old)["term"]
        os.kill(by_name()[old]["pid"], signal.SIGKILL)
        until(f"{old} is not back", lambda: by_name()[old]["part"] == "standby")
        new = until("no new leader", lambda: (name := leader()) and name != old and name)
        members = {member["name"]: member for member in status(new)["members"]}
        assert members[old]["votes"] and status(new)["term"] > term
        until(f"{old} lags", lambda: next(m for m in status(new)["members"] if m["name"] == old)["lag"] < 50)
    print(f"a failed leader rejoins: {running.stop()}")
    level()


def failback():
    """Leadership goes where the operator says, and back."""
    running = load()
    home = until("no leader", leader)
    for node in voters():
        if node["name"] == home:
            continue
        hand_over(node["name"])
        hand_over(home)
    said = running.stop()
    assert running.failed == 0, said
    print(f"failback to a chosen node: {said}")


def two_of_five():
    """Two voters are lost with their disks at the same time, and replaced in one order; then the two that came in
    their place, in the other."""
    # As behind a load balancer: nobody is sent to a node that does not answer.
    running = load("n4", "n5")
    hand_over("n1")
    stopped = [by_name()[name]["pid"] for name in ("n4", "n5")]
    for pid in stopped:
        # Not killed: the dev cluster would start them again.
        os.kill(pid, signal.SIGSTOP)

    def replace(old, new):
        blank(new)
        file = SCRATCH / f"{new}.seed"
        done("cluster", "seed", "--replace", old, "--name", new, "--role", "voter", "--out", file)
        done("cluster", "join", "--seed", file, on=new)
        server = newcomers.enter_context(serving(new))
        until(f"{new} does not vote", lambda: new in voting())
        return server

    def voting():
        return [member["name"] for member in status()["members"] if member["votes"]]

    try:
        with contextlib.ExitStack() as newcomers:
            servers = [replace("n4", "m4"), replace("n5", "m5")]
            for server in servers:
                server.kill()
            replace("m5", "o5")
            replace("m4", "o4")
            assert sorted(voting()) == ["n1", "n2", "n3", "o4", "o5"], voting()
            print(f"two of five lost and replaced, twice: {running.stop()}")
            until("the members do not converge", lambda: len({
                done("cluster", "state-hash", on=name) for name in ("n1", "n2", "n3", "o4", "o5")}) == 1)
            # Who goes of itself hears from nobody that it has been cut off, and does not wait for that.
            done("cluster", "remove", "o5", on="o5")
            until("o5 stays", lambda: "o5" not in [member["name"] for member in status()["members"]])
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def stale_follower():
    """A follower that hears nothing any more says so within five seconds, and not when it hears again."""
    follower = next(node for node in nodes() if node["role"] == "follower")
    change([follower["name"]], lambda text: text + "\n[reads]\nunhealthy_after_s = 3\n")

    def health():
        connection = http.client.HTTPSConnection(urllib.parse.urlparse(follower["url"]).netloc, context=TLS, timeout=2)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except OSError:
            return 0, {}

    until("the follower is not healthy", lambda: health()[0] == 200)
    pids = [node["pid"] for node in voters()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        until("the follower says that it is well", lambda: health()[0] == 502)
        took = time.monotonic() - began
        assert took <= WITHIN_S and health()[1]["degraded"], (took, health())
        # It may serve still, and does.
        exchange(follower["url"], AUTHENTICATE, body=KEY.encode())
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until("the follower is not healthy again", lambda: health()[0] == 200)
    print(f"a follower without replication: /health is 502 after {took:.2f} s")


def one_leader():
    """Leaders are paused and killed while all are asked whether they lead: who says yes was the only one who could."""
    yes, stop = [], threading.Event()

    def ask(node):
        place = urllib.parse.urlparse(node["url"]).netloc
        while not stop.is_set():
            connection = http.client.HTTPSConnection(place, context=TLS, timeout=3)
            try:
                connection.connect()
                while not stop.is_set():
                    began = time.monotonic()
                    connection.request("GET", "/health/leader")
                    answer = connection.getresponse()
                    said = json.loads(answer.read())
                    if answer.status == 200:
                        yes.append((began, time.monotonic(), said["term"], node["name"]))
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.02)
            finally:
                connection.close()

    threads = [threading.Thread(target=ask, args=(node,)) for node in voters()]
    for thread in threads:
        thread.start()
    for number in range(4):
        name = until("no leader", leader)
        pid = by_name()[name]["pid"]
        if number % 2:
            os.kill(pid, signal.SIGKILL)
            until("the old one is not back", lambda: (by_name()[name]["pid"] or pid) != pid)
        else:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.kill(pid, signal.SIGCONT)
        until("no leader", leader)
    stop.set()
    for thread in threads:
        thread.join()
    by_term = {}
    for _, _, term, name in yes:
        assert by_term.setdefault(term, name) == name, f"{name} and {by_term[term]} in term {term}"
    assert len(by_term) >= 2, by_term
    # Whoever said yes before another was asked does not belong to a later term.
    newest, ended = 0, sorted(yes, key=lambda one: one[1])
    at = 0
    for began, _, term, name in sorted(yes):
        while at < len(ended) and ended[at][1] < began:
            newest = max(newest, ended[at][2])
            at += 1
        assert term >= newest, f"{name} said that it leads in term {term}, after one of term {newest} had said so"
    print(f"{len(yes)} times yes in terms {sorted(by_term)}, never of two")


for complaint in sys.argv[1:]:
    globals()[complaint]()
