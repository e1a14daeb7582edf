"""What a run has started ends with it, also if the run is killed with -9, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.guardian import MARK, bearers, guarded

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
RUN = f"""
import subprocess, sys, time
from flows.guardian import guarded
with guarded():
    child = subprocess.Popen({SLEEPER!r}, start_new_session=True)
    print(child.pid, flush=True)
    if sys.argv[1] == "stays":
        time.sleep(600)
child.kill()
"""


def wait_for(is_true: Callable[[], bool], within_s: float = 15) -> bool:
    deadline = time.monotonic() + within_s
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_true()


def is_running(pid: int) -> bool:
    """Whether it lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_children_of_a_killed_run_are_killed_even_those_in_sessions_of_their_own() -> None:
    other = subprocess.Popen(SLEEPER)
    run = subprocess.Popen([sys.executable, "-c", RUN, "stays"], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    child = int(run.stdout.readline())
    assert is_running(child)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert wait_for(lambda: not is_running(child))
    assert is_running(other.pid)
    other.kill()
    other.wait()


def test_a_run_that_ends_well_has_nothing_killed_and_leaves_no_guardian() -> None:
    with guarded():
        mark = os.environ[MARK]
        child = subprocess.Popen(SLEEPER)
        assert wait_for(lambda: bearers(mark) == [child.pid])
        with guarded():
            assert os.environ[MARK] == mark
    assert MARK not in os.environ
    assert is_running(child.pid)
    child.kill()
    child.wait()
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in mine if "guardian.py" in Path(f"/proc/{pid}/cmdline").read_text()]
