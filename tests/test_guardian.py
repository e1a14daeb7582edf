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
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
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


BEFORE = f"""
import subprocess, sys, time
from flows.guardian import _LOOK_S, guarded
shell = ["sh", "-c", 'sleep 2; "$@" & echo $!; wait', "sh"]
before = subprocess.Popen([*shell, *{SLEEPER!r}], stdout=subprocess.PIPE, text=True)
with guarded():
    child = subprocess.Popen({SLEEPER!r}, env={{}})
    below = before.stdout.readline().strip()
    time.sleep(2 * _LOOK_S)
    print(child.pid, before.pid, below, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_what_was_there_before_the_run_and_what_it_starts_later_lives_on() -> None:
    run = subprocess.Popen([sys.executable, "-c", BEFORE], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    child, *strangers = [int(word) for word in run.stdout.readline().split()]
    run.send_signal(signal.SIGKILL)
    run.wait()
    try:
        assert wait_for(lambda: not is_running(child))
        time.sleep(1)
        assert [is_running(pid) for pid in strangers] == [True, True]
    finally:
        for pid in strangers:
            os.kill(pid, signal.SIGKILL)
        run.stdout.close()


FORKED = """
import os, time
from flows.guardian import guarded
with guarded():
    child = os.fork()  # has the pipe too, and neither the mark nor a parent that lives
    if not child:
        time.sleep(600)
    odd = os.fork()
    if not odd:
        open("/proc/self/comm", "wb").write(b"\\xff\\xfe")
        time.sleep(600)
    time.sleep(8)
    print(child, odd, flush=True)
    time.sleep(600)
"""


def test_a_forked_child_that_keeps_the_pipe_open_is_killed_too_whatever_its_name() -> None:
    run = subprocess.Popen([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    children = [int(word) for word in run.stdout.readline().split()]
    run.send_signal(signal.SIGKILL)
    # the zombie that nobody has waited for counts as gone as well
    try:
        assert wait_for(lambda: not any(map(is_running, children)))
    finally:
        for pid in filter(is_running, children):
            os.kill(pid, signal.SIGKILL)
        run.communicate()


def test_a_run_that_ends_well_is_not_kept_waiting_by_a_forked_child_that_has_the_pipe() -> None:
    with guarded():
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    assert is_running(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


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
