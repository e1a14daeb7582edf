"""What threads have freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a heap remembers."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


FREED_IN_THREADS = """
import threading
from splitfire_batch import heap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def use(kept):
    blocks = [bytes([1]) * 100_000 for _ in range(500)]  # 50 MB, in blocks too small for pages of their own
    kept.append(blocks[-1])  # the end of the arena stays in use, so that it cannot shrink by itself

before, kept = resident(), []
for _ in range(4):
    threads = [threading.Thread(target=use, args=(kept,)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
grown = resident() - before
heap.give_back()
print(grown, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, and glibc's allocator")
def test_freed_memory_of_threads_goes_back_to_the_system():
    grown, left = map(int, run(FREED_IN_THREADS).stdout.split())
    assert grown > 30e6
    assert left < 10e6  # sixteen blocks of 0.1 MB are kept


ARENAS = """
import ctypes, threading
from splitfire_batch import heap
heap.share_arenas()
kept, together = [], threading.Barrier(12)

def use():
    kept.append([bytes(1000) for _ in range(100)])
    together.wait()

threads = [threading.Thread(target=use) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()  # to stderr: "Arena 0:", "Arena 1:", ...
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_many_threads_share_two_arenas():
    told = run(ARENAS).stderr.splitlines()
    assert [line for line in told if line.startswith("Arena")] == ["Arena 0:", "Arena 1:"]
