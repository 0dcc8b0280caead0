"""Runs a command on a terminal of its own, as a person does: waits for each prompt and until nothing that is typed
would be shown, and types the next line of standard input. Prints what the screen showed and ends as the command did.
Run by `node/tests/one_node/unseal.rs`; its arguments are the command."""

import os
import pty
import select
import sys
import termios
import time

PATIENCE_S = 60

lines = sys.stdin.read().splitlines()
child, screen = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
shown = b""


def read():
    """Takes what has come to the screen; False once nobody writes there any more."""
    global shown
    if select.select([screen], [], [], 0.05)[0]:
        try:
            shown += os.read(screen, 4096)
        except OSError:
            return False
    return True


def echoes():
    return termios.tcgetattr(screen)[3] & termios.ECHO != 0


seen = 0
for line in lines:
    end = time.monotonic() + PATIENCE_S
    while len(shown) == seen or not shown.endswith(b": ") or echoes():
        assert read() and time.monotonic() < end, f"no prompt: {shown!r}"
    seen = len(shown)
    os.write(screen, line.encode() + b"\n")
while read():
    pass
sys.stdout.write(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
