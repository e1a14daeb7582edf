"""No process survives a run, not even one that is killed with -9.

Prefect's server notices only a parent that ends in good order, and Ray's agents take a minute to notice that
theirs is gone. So a small process of ours waits at the end of a pipe: when the run is gone without a word, it
kills everything that has the run's mark in its environment, which children inherit.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "SPLITFIRE_RUN_MARK"
"""The variable in the environment of a run and its children; its value is the run's alone."""
_AGAIN_S = 0.3
_MAX_ROUNDS = 20
"""What is being started may appear only after others were killed."""


@contextmanager
def guarded() -> Iterator[None]:
    """Processes that are started inside the block end if this one is killed; inside another it does nothing.

    Only where there is /proc; elsewhere they are left to Ray and Prefect.
    """
    if MARK in os.environ or not Path("/proc/self/environ").exists():
        yield
        return
    mark = secrets.token_hex(16)
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # neither Ctrl-C nor what kills the run's group is meant for it
    )
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]
        with suppress(OSError):  # it was killed: then there is nobody to tell
            watcher.communicate(b"done")


def bearers(mark: str) -> list[int]:
    """Ids of the processes of this user that have the mark in their environment."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _watch(mark: str) -> None:
    """Returns when the run says that it is done; if it is gone, its children are killed first."""
    if sys.stdin.buffer.read():
        return
    for _ in range(_MAX_ROUNDS):
        pids = bearers(mark)
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_AGAIN_S)


if __name__ == "__main__":
    _watch(sys.argv[1])
