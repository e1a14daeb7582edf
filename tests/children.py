"""Codec children in tests: made with hostile codecs, counted, and looked at from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from splitfire_batch.children import CodecLimits, InChildren
from tests.benchmarks.processes import tree

PATIENT = CodecLimits(1024, 60)
_others: set[int] = set()


@contextmanager
def in_children(limits: CodecLimits = PATIENT) -> Iterator[InChildren]:
    """Codecs whose processes are all gone afterwards."""
    _others.clear()
    _others.update(before := set(below()))
    codecs = InChildren(limits)
    try:
        yield codecs
    finally:
        codecs.close()
    wait_until(lambda: not set(below()) - before)


def below(pid: int | None = None) -> list[int]:
    """Every process below this one, or below another, that is not a zombie.

    Of this one only those that were not there when codecs were last made: a Ray, or an S3 server, of other
    tests.
    """
    found = [process for process in tree(pid or os.getpid())[1:] if is_alive(process)]
    return found if pid else [process for process in found if process not in _others]


def newer_than_now() -> Callable[[], list[int]]:
    """Every process below this one that is started from now on; others may have been left by other tests."""
    before = set(below())
    return lambda: [pid for pid in below() if pid not in before]


def is_alive(pid: int) -> bool:
    """Whether a process runs, sleeps or is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_true: Callable[[], bool], within_s: float = 20) -> None:
    """Fail if it does not become true."""
    give_up_at = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def peak_mb(pid: int) -> float:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
