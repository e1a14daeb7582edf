"""Ctrl-C and SIGTERM drain a run: what was begun is finished and recorded, the next run does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from flows.signals import EXIT_INTERRUPTED, STOPPED_BY, draining
from splitfire_batch import retries
from tests.benchmarks.library import write_long_track
from tests.benchmarks.processes import tree
from tests.children import is_alive, wait_until
from tests.small_library import COMMAND, environment, run_main, write_tracks

N_TRACKS = 60
LONG = ("--model", "spleeter-2stems", "--open-tracks", "8", "--shard-s", "300")


@pytest.fixture(autouse=True)
def forget_signals() -> None:
    STOPPED_BY.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_for_an_orderly_end(number: signal.Signals) -> None:
    with draining() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert [number] == STOPPED_BY


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not() -> None:
    with draining():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


ENDLESS = """
import contextlib, signal, threading, time
from flows.signals import ending_at_once
pool = threading.Thread(target=time.sleep, args=(600,))
pool.start()
try:
    with ending_at_once(contextlib.nullcontext):
        print("working")
        signal.raise_signal(signal.SIGINT)
        pool.join()
finally:
    print("waiting")
"""


def test_a_few_files_are_ended_at_once_whatever_their_threads_are_at() -> None:
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (EXIT_INTERRUPTED, "working\n")
    assert done.stderr == "interrupted; files without stems have to be separated again\n"


@pytest.mark.slow
def test_ctrl_c_ends_separate_within_seconds_and_the_next_one_sweeps(tmp_path: Path) -> None:
    """The real model and an hour of audio; what it left is removed, and no stem is there in part."""
    song, scratch = tmp_path / "song.wav", tmp_path / "scratch"
    scratch.mkdir()
    write_long_track(song, 3600)
    command = [*COMMAND, "separate", "-o", str(tmp_path / "out"), "--scratch-dir", str(scratch)]
    variables = environment(tmp_path / "home")
    with subprocess.Popen([*command, str(song)], env=variables, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while not list(scratch.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(5)
        children = tree(process.pid)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == EXIT_INTERRUPTED
    wait_until(lambda: not any(map(is_alive, children)), 10)
    assert not list((tmp_path / "out").rglob("*.*"))
    assert list(scratch.iterdir())
    short = write_tracks(tmp_path / "in", 1) / "tone 00.wav"
    subprocess.run([*command, str(short)], env=variables, check=True)
    assert not list(scratch.iterdir())


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with draining():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_nothing_is_caught_and_nothing_breaks() -> None:
    heard = []

    def work() -> None:
        with draining() as stop:
            heard.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [(False, signal.getsignal(signal.SIGTERM))]


ROOT = Path(__file__).resolve().parents[1]
STOPPED = "stopped by SIGTERM; run the same command again to go on"
EARLY = """
import importlib.abc, signal, sys

class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "flows.local_run":
            signal.raise_signal(signal.SIGTERM)

sys.meta_path.insert(0, Interrupter())
from flows.cli import main
main()
"""
"""The command line, and SIGTERM just before it imports what takes seconds."""


def test_sigterm_before_anything_is_begun_says_that_the_run_may_be_done_again(tmp_path: Path) -> None:
    """At that point the process once ended with 143, as one that has no answer to the signal."""
    ended = subprocess.run(
        [sys.executable, "-c", EARLY, "run", "in", "out"],
        cwd=tmp_path,
        env=environment(tmp_path / "prefect") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (75, ""), ended.stderr
    assert ended.stderr == f"splitfire: {STOPPED}\n"


def test_sigterm_while_failed_tracks_are_looked_for_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(retries, "find_retries", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run_main(monkeypatch, capsys, "retry", tmp_path) == (75, "", f"splitfire: {STOPPED}\n")
    assert signal.getsignal(signal.SIGTERM) is before


def start_run(root: Path, *more: str, to: str | None = None) -> subprocess.Popen[str]:
    """A run with one track at a time, in a session of its own."""
    settings = ["--model", "passthrough", "--workers", "1", "--open-tracks", "1", "--shard-s", "1", "--json"]
    return subprocess.Popen(
        [*COMMAND, "run", str(root / "source"), to or str(root / "out"), *settings, *more],
        env=environment(root / "prefect"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_commit(run: subprocess.Popen[str], root: Path) -> None:
    while not list((root / "out").glob("_splitfire/parts/*/*/*.parquet")):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)


def wait_for_start(run: subprocess.Popen[str], root: Path) -> None:
    """Until a worker has been at its tracks for a second; each has a scratch folder."""
    n_seen = 0
    while n_seen < 20:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
        n_seen = n_seen + 1 if list((root / "scratch").glob("splitfire-*")) else 0


def end_of(run: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, report and talk of a run that is about to end."""
    out, err = run.communicate(timeout=120)
    assert out, err
    return run.returncode, json.loads(out), err


def members(session: int) -> list[str]:
    """Command lines of the processes in a session, whatever their groups: those of Ray have their own."""
    listed = subprocess.run(["ps", "-eo", "sess=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [args for number, *args_of in lines for args in args_of if number == str(session)]


def rows(root: Path) -> list[str]:
    """The track_id of every committed row, as often as it was committed."""
    parts = (root / "out").glob("_splitfire/parts/*/*/*.parquet")
    return [row for part in parts for row in pyarrow.parquet.read_table(part)["track_id"].to_pylist()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_stopped_keeps_what_it_began_and_later_runs_do_the_rest(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", N_TRACKS, seconds=3.0)

    run = start_run(tmp_path)
    wait_for_commit(run, tmp_path)
    os.killpg(run.pid, signal.SIGINT)  # what Ctrl-C sends: to every process of the terminal
    code, first, err = end_of(run)
    assert code == 130, err
    assert 0 < first["n_done"] < N_TRACKS
    assert first["n_unsettled"] == N_TRACKS - first["n_done"]
    assert len(rows(tmp_path)) == first["n_done"]
    assert "Traceback" not in err
    assert members(run.pid) == []

    n_parts = len(list((tmp_path / "out").glob("_splitfire/parts/*/*/*.parquet")))
    run = start_run(tmp_path)
    while len(list((tmp_path / "out").glob("_splitfire/parts/*/*/*.parquet"))) == n_parts:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGTERM)  # what a scheduler sends
    code, second, err = end_of(run)
    assert code == 75, err
    assert second["n_done_before"] == first["n_done"]
    assert second["n_unsettled"] > 0
    assert members(run.pid) == []

    code, third, err = end_of(start_run(tmp_path))
    assert code == 0, err
    assert third["n_done_before"] + third["n_done"] == N_TRACKS
    assert len(rows(tmp_path)) == len(set(rows(tmp_path))) == N_TRACKS
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 2 * N_TRACKS


@pytest.mark.slow
def test_sigterm_while_prefect_starts_leaves_no_process_behind(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", 1)
    run = start_run(tmp_path)
    while not any("flows.server_process" in args for args in members(run.pid)):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (75, ""), err
    assert err.splitlines()[-1].startswith("splitfire: stopped by SIGTERM")
    assert members(run.pid) == []


def actors_of(run: subprocess.Popen[str]) -> list[int]:
    """Process ids of the Ray actors that this run, and no other, has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    processes = [line.split(None, 2) for line in listed.stdout.splitlines()]
    raylets = {pid for pid, parent, *_ in processes if parent == str(run.pid)}
    return [
        int(pid)
        for pid, parent, *args in processes
        if parent in raylets and args[0].startswith("ray::SeparatorActor")
    ]


@pytest.mark.slow
def test_a_killed_worker_costs_no_track_and_stdout_is_the_report_alone(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", 20, seconds=3.0)
    run = start_run(tmp_path)
    wait_for_commit(run, tmp_path)
    (actor,) = actors_of(run)
    os.kill(actor, signal.SIGKILL)
    code, report, err = end_of(run)
    assert (code, report["n_done"]) == (0, 20), err
    assert len(rows(tmp_path)) == len(set(rows(tmp_path))) == 20
    assert members(run.pid) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_drops_a_long_track_in_time_and_keeps_the_short_ones(tmp_path: Path) -> None:
    """The real model; what is finished must be in a part although nothing else forces one for 15 s."""
    (tmp_path / "scratch").mkdir()
    write_tracks(tmp_path / "source", 4, seconds=3.0)
    write_tracks(tmp_path / "long", 1, seconds=1800.0).rename(tmp_path / "source" / "long")
    run = start_run(tmp_path, *LONG, "--drain-s", "25", "--scratch-dir", str(tmp_path / "scratch"))
    wait_for_start(run, tmp_path)
    begin = time.monotonic()
    os.kill(run.pid, signal.SIGTERM)
    code, report, err = end_of(run)
    took_s = time.monotonic() - begin
    assert code == 75, err
    assert (report["n_done"], report["n_failed"], report["n_unsettled"]) == (4, 0, 1)
    assert len(rows(tmp_path)) == 4
    assert "drain_over drain_s=25 dropped=1" in err
    assert took_s < 60  # 25 s and a few where nothing else runs; other tests may take the cores
    assert members(run.pid) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_process_outlives_a_run_that_is_killed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", N_TRACKS, seconds=3.0)
    run = start_run(tmp_path)
    wait_for_commit(run, tmp_path)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 30
    while members(run.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert members(run.pid) == []
    code, report, err = end_of(start_run(tmp_path))
    assert code == 0, err
    assert report["n_done_before"] + report["n_done"] == N_TRACKS
    assert report["n_done_before"] > 0
    assert len(rows(tmp_path)) == len(set(rows(tmp_path))) == N_TRACKS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    write_tracks(tmp_path / "source", 1, seconds=1800.0)
    run = start_run(tmp_path, *LONG, "--scratch-dir", str(tmp_path / "scratch"))
    wait_for_start(run, tmp_path)
    os.killpg(run.pid, signal.SIGINT)
    time.sleep(1)
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, ""), err
    assert members(run.pid) == []
