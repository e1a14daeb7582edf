"""No process survives a run, not even one that is killed with -9.

Prefect's server notices only a parent that ends in good order, and Ray's agents take a minute to notice that
theirs is gone. So a small process of ours waits at the end of a pipe: when the run is gone without a word, it
kills what descends from it. Descendants are known by the run's mark in their environment, which children
inherit and some of Ray's overwrite, or because they were seen below the run while it lived.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "SPLITFIRE_RUN_MARK"
"""The variable in the environment of a run and its children; its value is the run's alone."""
_LOOK_S = 3.0
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
        [sys.executable, "-I", "-S", __file__, mark, str(os.getpid())],
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


def bearers(mark: str) -> set[int]:
    """Ids of the processes of this user that have the mark in their environment."""
    entry = f"{MARK}={mark}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def descendants(pid: int) -> dict[int, str]:
    """Ids of the processes below one, and when each began: an id may be used again."""
    stats = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found: dict[int, str] = {}
    below = {pid}
    while below:
        below = {child for child, (parent, _) in stats.items() if parent in below}
        found |= {child: stats[child][1] for child in below}
    return found


def _stat(pid: int) -> tuple[int, str]:
    """A process's parent, and when it began; of one that has ended, what is true of none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1, ""
    return int(words[1]), words[19]


def _watch(mark: str, pid: int) -> None:
    """Returns when the run says that it is done; if it is gone, its descendants are killed first."""
    seen: dict[int, str] = {}
    while not select.select([sys.stdin], [], [], _LOOK_S)[0]:
        seen = descendants(pid)
        seen.pop(os.getpid(), None)
    if sys.stdin.buffer.read():
        return
    for _ in range(_MAX_ROUNDS):
        orphans = {pid for pid, begin in seen.items() if _stat(pid)[1] == begin}
        left = orphans | bearers(mark)
        if not left:
            return
        for orphan in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(orphan, signal.SIGKILL)
        time.sleep(_AGAIN_S)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
