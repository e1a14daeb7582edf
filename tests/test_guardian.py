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
from flows.guardian import _LOOK_S, guarded
with guarded():
    forgetful = subprocess.Popen({SLEEPER!r}, env={{}})
    time.sleep(_LOOK_S + 1)
    child = subprocess.Popen({SLEEPER!r}, start_new_session=True)
    print(child.pid, forgetful.pid, flush=True)
    time.sleep(600)
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


def test_what_a_killed_run_started_is_killed_whatever_its_session_and_environment() -> None:
    other = subprocess.Popen(SLEEPER)
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    children = [int(word) for word in run.stdout.readline().split()]
    assert all(map(is_running, children))
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert wait_for(lambda: not any(map(is_running, children)))
    assert is_running(other.pid)
    other.kill()
    other.wait()


def test_a_run_that_ends_well_has_nothing_killed_and_leaves_no_guardian() -> None:
    with guarded():
        mark = os.environ[MARK]
        child = subprocess.Popen(SLEEPER)
        assert wait_for(lambda: bearers(mark) == {child.pid})
        with guarded():
            assert os.environ[MARK] == mark
    assert MARK not in os.environ
    assert is_running(child.pid)
    child.kill()
    child.wait()
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in mine if "guardian.py" in Path(f"/proc/{pid}/cmdline").read_text()]
