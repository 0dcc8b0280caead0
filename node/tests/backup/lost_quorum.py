"""Two of three voters are lost for good; the third becomes another cluster, for the clients the same one,
and grows again. Then its follower, too, becomes one, after all voters are lost. Run by
`node/tests/backup.rs`; its arguments are the program and a folder."""

import json
import signal

from machines import found, intact, leads, level, run, until


def main():
    n1, admin, host = found("n1")
    n2, n3, f1 = n1.bring_in("n2"), n1.bring_in("n3"), n1.bring_in("f1", "follower")
    level([n1, n2, n3, f1])
    admin.write(n1.url, b"before the loss")
    level([n1, n2, n3, f1])
    old = n1.status()["cluster_id"]

    # Not while it runs, and not while the others are a majority.
    _, error = n3.run("cluster", "recover", "--confirm", old, code=3)
    assert "in use by another process" in error, error
    n3.end()
    _, error = n3.run("cluster", "recover", "--confirm", old, code=7)
    assert "the majority is not lost: something answers for n1, n2" in error, error
    n1.end(signal.SIGKILL)
    _, error = n3.run("cluster", "recover", "--confirm", old, code=7)
    assert "something answers for n2" in error, error
    n2.end(signal.SIGKILL)
    # Not by a slip. It says what there is and what can be lost.
    for words in [[], ["--confirm", "0" * 32]]:
        _, error = n3.run("cluster", "recover", *words, code=2)
        assert "nothing was changed" in error and old in error and "is LOST" in error, error

    # Cut short it goes on under the same id, and runs in no cluster before.
    begun = "c0ffee" * 5 + "00"
    (n3.data / "recovering").write_text(begun)
    _, error = n3.run("server", code=3)
    assert "run it again" in error, error
    recovered, error = n3.run("cluster", "recover", "--confirm", old)
    assert recovered["cluster_id"] == begun and "does not answer" in error, error
    n3.start()
    until("leadership", lambda: leads(n3))
    assert host.read(n3.url) == b"before the loss"
    admin.write(n3.url, b"after the loss")
    status = n3.status()
    assert [one["name"] for one in status["members"]] == ["n3"], status["members"]

    # Those who come back find nobody: not the survivor, who is where it was, and who knows them no more.
    n1.start()
    new = [n3, n3.bring_in("n4"), n3.bring_in("n5")]
    level(new)
    for machine in new:
        assert host.read(machine.url) == b"after the loss"
    for machine in [n1, f1]:
        status = machine.status()
        assert status["cluster_id"] == old and status["applied"] < 1_000_000, status
    assert n1.status()["leader"] is None and host.read(f1.url) == b"before the loss"
    n1.end()

    # A second loss, of all voters: now the follower is the one that goes on.
    f1.end()
    recovered, _ = f1.run("cluster", "recover", "--confirm", old)
    assert recovered["cluster_id"] not in (old, begun), recovered
    f1.start()
    until("leadership", lambda: leads(f1))
    assert [one["votes"] for one in f1.status()["members"]] == [True]
    admin.write(f1.url, b"by the follower that was")
    g1 = f1.bring_in("g1", "follower")
    level([f1, g1])
    assert host.read(g1.url) == b"by the follower that was"

    # Nobody took anything from anybody.
    level(new)
    assert host.read(n3.url) == b"after the loss"
    for machine, other in [(new[1], begun), (g1, recovered["cluster_id"])]:
        records = intact(machine, "recover")
        assert len(records) == 1 and other in json.dumps(records[0]), records
    # The only voter has its majority, and one more is soon two.
    f1.end()
    _, error = f1.run("cluster", "recover", "--confirm", recovered["cluster_id"], code=7)
    assert "is a majority by itself" in error, error


run(main)
