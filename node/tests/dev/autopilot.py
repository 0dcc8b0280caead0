"""What the leader does about members by itself: it gives no vote to who is not fit for it, and removes who has been
dead for long, never below the configured number of voters; all of it is shown and recorded. And a node is taken
out of service for a restart. Run by `node/tests/dev.rs` inside `conclave dev --voters 3 --followers 1 --run`."""

import os
import signal
import time
import urllib.error
import urllib.request

from around import TLS, by_name, nodes
from newcomers import SCRATCH, blank, change, conclave, done, leader, recorded, serving, status, until

VOTERS = ["n1", "n2", "n3"]
DEAD_S = 5


def health(node):
    try:
        with urllib.request.urlopen(node["url"] + "/health", context=TLS, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


# Out of service and back: load balancers and leadership turn away, and nothing else.
home = until("no leader", leader)
done("cluster", "drain", on=home)
assert health(by_name()[home]) == 502 and "out of service" in done("cluster", "status", on=home)
new = until("nobody else leads", lambda: (name := leader()) and name != home and name)
conclave("cluster", "transfer-leader", home, on=new)
until("a drained node keeps leadership", lambda: (name := leader()) and name != home and name)
done("cluster", "drain", "--undo", on=home)
assert health(by_name()[home]) == 200
recorded("the drain", "the operator took", "out of service", on=home)

change(VOTERS, lambda text: f"{text}\n[cluster]\nremove_dead_after_s = {DEAD_S}\n")
home = until("no leader", leader)
assert f"removes members not heard from for {DEAD_S} s" in done("cluster", "status", on=home)
recorded("the feature level", "the cluster went from feature level 0 to", on=home)

# With three voters none may go, however dead; as soon as a fourth has come, the dead one goes.
victim = next(name for name in VOTERS if name != home)
os.kill(by_name()[victim]["pid"], signal.SIGSTOP)
stopped = by_name()[victim]["pid"]
try:
    until("the silence is not shown", lambda: "silent" in done("cluster", "members", on=home))
    time.sleep(DEAD_S + 1)
    assert victim in {member["name"] for member in status(home)["members"]}, "below the least number of voters"
    blank("n9")
    file = SCRATCH / "n9.seed"
    done("cluster", "seed", "--name", "n9", "--role", "voter", "--out", file, on=home)
    done("cluster", "join", "--seed", file, on="n9")
    time.sleep(1)
    votes = {member["name"]: member["votes"] for member in status(home)["members"]}
    assert not votes["n9"], "a vote for who does not run"
    with serving("n9"):
        until("the dead stay", lambda: victim not in {one["name"] for one in status(home)["members"]}, 30)
        members = {member["name"]: member for member in status(home)["members"]}
        assert members["n9"]["votes"] and members["n9"]["seen"]["obstacle"] is None, members["n9"]
        recorded("the removal", "remove-dead", f"{victim} (node", on=home)
        print(f"{victim} was removed when n9 had its vote: {sorted(members)}")
        # A follower goes in any case.
        follower = next(node for node in nodes() if node["role"] == "follower")
        os.kill(follower["pid"], signal.SIGSTOP)
        try:
            until("the dead follower stays", lambda: follower["name"] not in {
                one["name"] for one in status(home)["members"]}, 30)
        finally:
            os.kill(follower["pid"], signal.SIGCONT)
        # To leave in good order: with n9 gone there would be two.
        assert sorted(one["name"] for one in status(home)["members"] if one["votes"]) == sorted(
            {*VOTERS, "n9"} - {victim})
finally:
    os.kill(stopped, signal.SIGCONT)
