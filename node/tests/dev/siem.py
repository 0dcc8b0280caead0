"""Audit records reach Debian's syslog-ng by RFC 5425, mutually authenticated: after it was away, killed
and stuck, and no request waits for it. Run by `node/tests/dev.rs` inside `conclave dev --run`; its
argument is a folder for files."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import around
from around import ACCOUNT, FOLDER, LOGIN, SECRET, authenticate, by_name, exchange, free_port, provide

SCRATCH = pathlib.Path(sys.argv[1])
RECEIVED = SCRATCH / "received.log"
SENDERS = ["n1", "f1"]
PATIENCE_S = 120

CONFIG = """@version: 3.35
options {{ keep-hostname(yes); stats-freq(0); }};
source nodes {{
  syslog(ip("127.0.0.1") port({port}) transport("tls")
    tls(key-file("{folder}/siem.key") cert-file("{folder}/siem.crt") ca-file("{folder}/ca.crt")
        peer-verify(required-trusted)));
}};
destination kept {{
  file("{folder}/received.log" template("${{PRIORITY}} ${{HOST}} ${{PROGRAM}} ${{PID}} ${{MSGID}} \
${{.SDATA.meta@43868.node}} ${{.SDATA.meta@43868.sequence}} ${{.SDATA.meta@43868.number}} \
${{.SDATA.action@43868.operation}} ${{MESSAGE}}\\n"));
}};
log {{ source(nodes); destination(kept); }};
"""

OUTPUT = """
[[audit.output]]
to = "syslog"
address = "localhost:{port}"
ca_file = "{folder}/{ca}.crt"
certificate_file = "{folder}/node.crt"
key_file = "{folder}/node.key"
"""


def openssl(*words):
    subprocess.run([provide("openssl"), *words], check=True, capture_output=True)


def authority(name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
            "-subj", f"/CN={name}", "-keyout", str(SCRATCH / f"{name}.key"), "-out", str(SCRATCH / f"{name}.crt"))


def certificate(name):
    extension = SCRATCH / f"{name}.ext"
    extension.write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(SCRATCH / f"{name}.key"), "-out", str(SCRATCH / f"{name}.csr"))
    openssl("x509", "-req", "-in", str(SCRATCH / f"{name}.csr"), "-CA", str(SCRATCH / "ca.crt"),
            "-CAkey", str(SCRATCH / "ca.key"), "-CAcreateserial", "-days", "1", "-extfile", str(extension),
            "-out", str(SCRATCH / f"{name}.crt"))


def until(what, holds):
    return around.until(what, holds, PATIENCE_S)


def read(name, count):
    """Request ids of that many reads, none of which may fail."""
    url = by_name()[name]["url"]
    _, token = authenticate(url)
    return {exchange(url, SECRET, token)[0] for _ in range(count)}


def ready(name):
    try:
        read(name, 1)
    except OSError:
        return False
    return True


def configure(name, text):
    """Adds to a node's configuration; the development cluster starts it again with that."""
    with (FOLDER / name / "conclave.toml").open("a") as file:
        file.write(text)
    pid = by_name()[name]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(f"{name} does not come back", lambda: by_name()[name]["pid"] not in (None, pid))
    until(f"{name} does not serve", lambda: ready(name))


@contextlib.contextmanager
def collector(port):
    (SCRATCH / "syslog-ng.conf").write_text(CONFIG.format(port=port, folder=SCRATCH))
    files = [f"{letter}{SCRATCH}/syslog-ng.{end}" for letter, end in
             [("--persist-file=", "persist"), ("--pidfile=", "pid"), ("--control=", "ctl"), ("--cfgfile=", "conf")]]
    with (SCRATCH / "syslog-ng.out").open("ab") as out:
        process = subprocess.Popen([provide("syslog-ng", "syslog-ng-core"), "--foreground", "--no-caps", "--stderr",
                                    *files], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)


def received():
    """Of each request, the places in the chain of its records; and the whole lines."""
    places, lines = {}, []
    text = RECEIVED.read_text(errors="replace") if RECEIVED.exists() else ""
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) > 8:
            lines.append(line)
            places.setdefault(words[3], set()).add(words[7])
    return places, lines


def arrive(asked):
    def all_there():
        places, _ = received()
        return all(one in places for one in asked)

    until(f"of {len(asked)} records some are missing", all_there)
    places, _ = received()
    # Sent again is well; another record of the same request is not.
    assert all(len(places[one]) == 1 for one in asked)


def main():
    preparation = [os.environ.get("CONCLAVE", "conclave"), "variable", "set", "-i", "app/db/password", "-f", "-"]
    subprocess.run(preparation, input=b"s3cret", check=True, stdout=subprocess.DEVNULL)
    for name in ["ca", "stranger"]:
        authority(name)
    for name in ["siem", "node"]:
        certificate(name)
    port = free_port()
    for name in SENDERS:
        configure(name, OUTPUT.format(port=port, folder=SCRATCH, ca="ca"))
    lines = SCRATCH / "n2.log"
    configure("n2", f'\n[[audit.output]]\nto = "file"\npath = "{lines}"\n')
    # A collector that is not whom the node trusts gets nothing.
    configure("n3", OUTPUT.format(port=port, folder=SCRATCH, ca="stranger"))

    # It is away at first.
    asked = {name: read(name, 20) for name in [*SENDERS, "n2", "n3"]}
    sent = asked["n1"] | asked["f1"]
    with collector(port) as process:
        arrive(sent)
        # It dies with the node's records in its hands.
        for name in SENDERS:
            sent |= read(name, 20)
        process.kill()
        process.wait(10)
        for name in SENDERS:
            sent |= read(name, 20)
    with collector(port) as process:
        arrive(sent)
        # It takes connections and nothing else: requests are answered as before.
        process.send_signal(signal.SIGSTOP)
        for name in SENDERS:
            start = time.monotonic()
            sent |= read(name, 100)
            print(f"100 reads on {name} beside a stuck collector: {time.monotonic() - start:.1f} s")
        process.send_signal(signal.SIGCONT)
        arrive(sent)
        checkpoint = "the cluster's checkpoints are missing"
        until(checkpoint, lambda: any(" audit-checkpoint " in line for line in received()[1]))

    places, kept = received()
    fetched = [line.split(" ", 9) for line in kept if line.split(" ")[3] in sent and " fetch " in line]
    assert fetched, kept[:3]
    makers = {}
    for priority, host, program, _, msgid, node, sequence, number, operation, message in fetched:
        assert (priority, program, msgid, operation) == ("info", "conjur", "fetch", "fetch"), kept[:3]
        assert host in SENDERS and int(sequence) > 0 and int(number) > 0, (host, sequence, number)
        assert makers.setdefault(host, int(node)) == int(node), (node, host)
        assert message == f"{ACCOUNT}:user:{LOGIN} fetched {ACCOUNT}:variable:app/db/password", message
    assert sorted(makers) == sorted(SENDERS) and len(set(makers.values())) == 2, makers
    assert not asked["n3"] & set(places), "an untrusted collector was told"
    until("the file lacks records", lambda: all(one in lines.read_text() for one in asked["n2"]))
    print(f"{len(sent)} records came to syslog-ng")


try:
    main()
except BaseException:
    print((SCRATCH / "syslog-ng.out").read_text(errors="replace")[-4000:], file=sys.stderr)
    raise
