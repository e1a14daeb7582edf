"""`splitfire run` as an operator types it, its processes killed with -9, and the same command again.

Real Ray, Prefect, codec children and S3; no process may outlive a driver that was killed for more than
seconds. `test_kill_storm` kills hundreds of cheaper jobs.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.invariants import Findings, Objects, inspect, objects_at, settled
from tests.small_library import Library, write_tracks
from tests.test_two_runs import ACTOR, Run
from tests.trials import SETTLED, Counts

SEED = 515
N_KILLS = 6
GRACE_S = 15.0
"""In which everything that a killed driver had started must be gone."""
PART_S = 15.0
"""A finished track waits so long for its commit at most."""


def parts_in(objects: Objects) -> set[str]:
    return {path for path in objects.paths() if path.startswith("_splitfire/parts/")}


def wait_for_part(run: Run, objects: Objects, known: set[str], within_s: float = 240) -> float:
    """Return when there is a part that is not known, or the run is at its end; the seconds that it took."""
    begin = time.monotonic()
    while not parts_in(objects) - known and run.popen.poll() is None:
        assert time.monotonic() < begin + within_s, run.stderr
        time.sleep(0.1)
    return time.monotonic() - begin


def survivors_of(run: Run) -> list[int]:
    """Processes that are alive although their driver is not, after a grace of seconds."""
    give_up_at = time.monotonic() + GRACE_S
    while (left := run.family()) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return left


def victim_of(run: Run, chance: random.Random, is_actor_spared: bool) -> int:
    """The driver, an actor, or anything else that the run has started but the guardian.

    Only one that dies together with its driver leaves processes behind: the guardian is what ends them.
    A run loses one actor at most: the second may have a suspect alone, which would be given up for it.
    """
    kind = chance.choice(["driver", "driver", "actor", "any"])
    family = [pid for pid in run.family() if b"guardian.py" not in _command(pid)]
    if is_actor_spared:
        family = [pid for pid in family if ACTOR not in _command(pid)]
    if kind == "actor":
        family = [pid for pid in family if ACTOR in _command(pid)]
    return run.popen.pid if kind == "driver" or not family else chance.choice(family)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill(pid: int) -> bool:
    """Whether it was there to be killed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_command_whose_processes_are_killed_again_and_again_loses_nothing(
    kind: str, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, counts = random.Random(f"{SEED} {kind}"), Counts()
    folder = write_tracks(tmp_path / "source", 200, seconds=3.0)
    library = Library(folder, {file.name: 3 * 44_100 for file in folder.iterdir()})
    destination = str(tmp_path / "out") if kind == "folder" else f"{bucket}/out"
    objects, before, number, code = objects_at(destination), set[str](), 0, -1
    while code not in SETTLED:
        run, is_actor_spared = Run(tmp_path, f"run{number}", destination), False
        number += 1
        try:
            while counts.kills < N_KILLS and run.popen.poll() is None:
                if chance.random() < 0.7:  # else in the midst of its start
                    wait_for_part(run, objects, parts_in(objects))
                time.sleep(chance.uniform(0, 3))
                victim = victim_of(run, chance, is_actor_spared)
                is_actor_spared |= ACTOR in _command(victim)
                print(f"{run.popen.pid}: killing {victim}, {_command(victim)[:120]!r}")
                counts.kills += kill(victim)
                time.sleep(1)
            code = run.end(within_s=300)
            assert code in (*SETTLED, 75, -signal.SIGKILL), run.stderr
            left = survivors_of(run)
            counts.surviving += len(left)
            assert not left, [_command(pid) for pid in left]
        finally:
            run.close()
        counts.resumes += code not in SETTLED
        is_over = code in SETTLED
        found = inspect(objects, library.wanted, kind == "s3", is_complete=is_over)
        counts.add(replace(found, unreferenced=[]))
        assert before <= settled(objects)
        before = settled(objects)
        assert replace(found, redone=[], unreferenced=[], temporary=[]) == Findings(), str(found)
    counts.tracks = len(library.wanted)
    with capsys.disabled():
        print(f"\nkilled commands, {kind}: {counts}")
    assert counts.kills == N_KILLS
    assert counts.redone == 0


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_the_same_command_after_kill_9_of_the_driver_goes_on_within_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real model. A track is begun again only if it was in flight, or done in the last 15 s."""
    write_tracks(tmp_path / "source", 60, seconds=4.0)
    destination = tmp_path / "out"
    objects = objects_at(str(destination))
    real = ("--model", "spleeter-2stems", "--shard-s", "2")
    first = Run(tmp_path, "first", str(destination), *real)
    try:
        start_s = wait_for_part(first, objects, set())
        wait_for_part(first, objects, parts_in(objects))
        assert first.popen.poll() is None, first.stderr
        kill(first.popen.pid)
        killed_at = time.time()
        assert first.end() == -signal.SIGKILL
        left = survivors_of(first)
        assert not left, [_command(pid) for pid in left]
    finally:
        first.close()
    known, done = parts_in(objects), settled(objects, by="path")
    in_rows = {f"{Path(path).stem}_{stem}.wav" for path in done for stem in ("vocals", "accompaniment")}
    waiting = [file for file in destination.rglob("*.wav") if file.name not in in_rows]
    assert all(killed_at - file.stat().st_mtime < PART_S + 3 for file in waiting)

    second = Run(tmp_path, "second", str(destination), *real)
    try:
        resumed_s = wait_for_part(second, objects, known)
        assert resumed_s < 60 + start_s
        assert second.end(300) == 0, second.stderr
        assert second.report["n_done_before"] == len(done)
        assert second.report["n_done"] == 60 - len(done)
    finally:
        second.close()
    with capsys.disabled():
        print(
            f"\ndriver killed with -9: first commit of the first run after {start_s:.0f} s, of the second "
            f"after {resumed_s:.0f} s; {len(done)} of 60 were committed, {len(waiting) / 2:g} begun again"
        )
