"""No process survives a run, not even one that is killed with -9.

Prefect's server notices only a parent that ends in good order, and Ray's agents take a minute to notice that
theirs is gone. So a small process of ours waits at the end of a pipe: when the run is gone without a word, it
kills what descends from it. Descendants are known by the run's mark in their environment, which children
inherit and some of Ray's overwrite, or because they were seen below the run while it lived; what was there
before the run began, and what descends from that, is none of its.
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
    earlier = [f"{pid}:{begin}" for pid, begin in descendants(os.getpid()).items()]
    me = f"{os.getpid()}:{_stat(os.getpid())[1]}"
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark, me, *earlier],
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


def descendants(pid: int, without: frozenset[tuple[int, str]] = frozenset()) -> dict[int, str]:
    """Ids of the processes below one, and when each began: an id may be used again.

    Args:
        pid: the one.
        without: processes, with when they began, that are left out with all that is below them.
    """
    stats = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found: dict[int, str] = {}
    below = {pid}
    while below:
        children = {child: begin for child, (parent, begin) in stats.items() if parent in below}
        below = {child for child, begin in children.items() if (child, begin) not in without}
        found |= {child: children[child] for child in below}
    return found


def _stat(pid: int) -> tuple[int, str]:
    """A process's parent, and when it began; of one that has ended, what is true of none."""
    try:
        # in bytes: a process may have any name
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return -1, ""
    return (-1, "") if words[0] == b"Z" else (int(words[1]), words[19].decode())


def _watch(mark: str, run: tuple[int, str], earlier: frozenset[tuple[int, str]]) -> None:
    """Returns when the run says that it is done; if it is gone, its descendants are killed first."""
    seen: dict[int, str] = {}
    # the pipe stays open as long as any child has it that was forked, so its end is not the only sign
    while not _has_word(_LOOK_S):
        found = descendants(run[0], earlier)
        if _stat(run[0])[1] != run[1]:
            break
        seen = found
        seen.pop(os.getpid(), None)
    if _has_word(0) and os.read(sys.stdin.fileno(), 1):
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


def _has_word(within_s: float) -> bool:
    """Whether the run has said something, or closed the pipe."""
    return bool(select.select([sys.stdin], [], [], within_s)[0])


def _process(text: str) -> tuple[int, str]:
    pid, _, begin = text.partition(":")
    return int(pid), begin


if __name__ == "__main__":
    _watch(sys.argv[1], _process(sys.argv[2]), frozenset(map(_process, sys.argv[3:])))
