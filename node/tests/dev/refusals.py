"""Who may not come in is refused in time, and in the audit chain, with where it came from: a seed
that is replayed, has expired, was made for another part or is bound to other networks, a token that nobody issued,
and a node that was removed. Run by `node/tests/dev.rs` inside `conclave dev --run`."""

import json
import socket
import time

from around import FOLDER, WITHIN_S
from newcomers import (NOT_FOUND, REFUSED, SCRATCH, UNAVAILABLE, at_leader, blank, conclave, config_of, done, recorded,
                       serving, status, until)


def seed(name, role="follower", life_s=60):
    """As `cluster seed`, but the life may be any: one too short for a busy machine is asked for again."""
    def issued():
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(FOLDER / "n1" / "data" / "admin.sock"))
            ask = {"ask": "seed", "name": name, "role": role, "life_s": life_s}
            admin.sendall(json.dumps(ask).encode() + b"\n")
            answer = json.loads(admin.makefile().read())
        if answer.pop("answer") == "seed":
            return answer
        print(f"no seed for {name} yet: {answer}")
        return None
    return until(f"no seed for {name}", issued)


def write(seed, file):
    path = SCRATCH / file
    path.touch(0o600)
    path.write_text(json.dumps(seed))
    return path


def refused(what, name, seed, reason):
    began = time.monotonic()
    run = conclave("cluster", "join", "--seed", seed, on=name)
    took = time.monotonic() - began
    assert run.returncode != 0 and reason in run.stderr, (what, run.returncode, run.stdout, run.stderr)
    assert took < WITHIN_S, (what, took)
    recorded(what, f"{node_of(name)} tried to join", reason, '"failure"', "127.0.0.1")
    print(f"{what}: refused in {took:.2f} s: {reason}")


def node_of(folder):
    return folder.split("-")[0]


first = seed("f9")
file = write(first, "f9.seed")
blank("f9")
done("cluster", "join", "--seed", file, on="f9")
recorded("a join", "f9 joined", '"success"', "127.0.0.1")
blank("f9-again")
again = config_of("f9-again")
again.write_text(again.read_text().replace('"f9-again"', '"f9"'))
refused("a replayed seed", "f9-again", file, "unknown or already used")

short = write(seed("f8", life_s=1), "f8.seed")
time.sleep(1.1)
blank("f8")
refused("an expired seed", "f8", short, "expired")

wrong = seed("f7")
wrong["role"] = "voter"
blank("f7")
refused("a follower's seed that says voter", "f7", write(wrong, "f7.seed"), "issued for a follower")

other = seed("f6")
other["name"] = "f5"
blank("f5")
refused("a seed of another name", "f5", write(other, "f6.seed"), "issued for the node")

thief = dict(first, token="00" * 32, name="f4")
blank("f4")
refused("a stolen cluster key with a made-up token", "f4", write(thief, "f4.seed"), "unknown or already used")

# One bound to networks: not from elsewhere, and that does not use it up for those who come from there.
until("feature level", lambda: status()["level"] >= 2)
bound = SCRATCH / "f3.seed"
sloppy = conclave("cluster", "seed", "--name", "f3", "--role", "follower", "--cidr", "10.0.0.1/24", "--out", bound)
assert sloppy.returncode == 2 and "10.0.0.0/24" in sloppy.stderr and not bound.exists(), sloppy
networks = ["--cidr", "10.9.0.0/16", "--cidr", "192.0.2.7"]
done("cluster", "seed", "--name", "f3", "--role", "follower", *networks, "--out", bound)
recorded("a bound seed", "the operator issued a seed for the follower f3 at 10.9.0.0/16, 192.0.2.7")
blank("f3")
refused("a seed of other networks", "f3", bound, "issued for 10.9.0.0/16, 192.0.2.7/32, and this is 127.0.0.1")
bound.unlink()
done("cluster", "seed", "--name", "f3", "--role", "follower", *networks, "--cidr", "127.0.0.0/8", "--out", bound)
blank("f3-near")
near = config_of("f3-near")
near.write_text(near.read_text().replace('"f3-near"', '"f3"'))
done("cluster", "join", "--seed", bound, on="f3-near")
recorded("a join from there", "f3 joined from 127.0.0.1", '"success"')

# The one that was let in is removed while it runs, and keeps trying.
with serving("f9"):
    node = status("f9")["node_id"]

    def refused_to_itself():
        run = conclave("cluster", "remove", "f9", on="f9")
        # It may know of no leader yet, nor that it has become a member.
        assert run.returncode in (REFUSED, UNAVAILABLE, NOT_FOUND), run
        return run.returncode == REFUSED and run
    itself = until("f9 is not refused", refused_to_itself)
    assert "ask at a voter" in itself.stderr, itself
    removed = time.monotonic()
    at_leader("cluster", "remove", "f9")
    recorded("a removed node", f"node {node} is not a member of this cluster", "127.0.0.1")
    print(f"a removed node: in the audit chain {time.monotonic() - removed:.2f} s after its removal")
    recorded("the removal", "the operator removed f9", '"success"')
done("audit", "verify")
