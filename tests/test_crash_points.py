"""A job that is cut off at any step of the commit protocol, and run again, loses nothing and doubles nothing.

Each crash is followed by a look at what it left, the same job again, and that job once more with nothing to
do. The gate takes a seeded part of all crashes, every step and moment in it; `make chaos` takes all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.crash_points import (
    EXIT_CODE,
    IN_BUCKET,
    IN_FOLDER,
    STEPS,
    Crash,
    read_journal,
    step_of,
    tracks_in,
)
from tests.forks import Forks, survivors
from tests.in_process_job import JobOrder
from tests.invariants import committed, inspect, objects_at
from tests.small_library import Library

SEED = 5


class Stage:
    """A place for many jobs, each with a destination of its own."""

    def __init__(self, forks: Forks, library: Library, kind: str, root: str, folder: Path) -> None:
        self.forks, self.library, self.kind = forks, library, kind
        self.is_bucket, self.is_immutable = "s3" in kind, "immutable" in kind
        self._root, self._folder, self._numbers = root, folder, count()

    def order(self) -> JobOrder:
        number = next(self._numbers)
        return JobOrder(
            source=str(self.library.folder),
            destination=f"{self._root}/out{number}",
            journal=str(self._folder / f"{number}.jsonl"),
            names="immutable" if self.is_immutable else "plain",
        )

    def prepare(self, order: JobOrder, has_history: bool) -> None:
        """With a history, an earlier run has done the first track: views and settings are there already."""
        if has_history:
            assert self.forks.run(replace(order, limit=1)) in (0, 3)
            Path(order.journal).unlink()

    def crashes(self, has_history: bool) -> list[Crash]:
        """Each operation of a job that nothing disturbs, cut off at each moment it has; in a seeded order."""
        order = self.order()
        self.prepare(order, has_history)
        assert self.forks.run(order, f"{order.journal}.log") in (0, 3), Path(
            f"{order.journal}.log"
        ).read_text()
        steps = Counter(event["step"] for event in read_journal(Path(order.journal)) if "op" in event)
        moments = IN_BUCKET if self.is_bucket else IN_FOLDER
        crashes = [
            Crash(step, nth, when)
            for step, n_times in sorted(steps.items())
            for nth in range(1, n_times + 1)
            for when in (IN_BUCKET if step == "probe" else moments)  # it writes nothing
        ]
        return random.Random(SEED).sample(crashes, len(crashes))

    def crash_and_resume(self, crash: Crash, has_history: bool) -> None:
        """The job with a crash, what it left, the job again, and once more."""
        order = self.order()
        self.prepare(order, has_history)
        log, journal = f"{order.journal}.log", Path(order.journal)
        objects = objects_at(order.destination)
        pid = self.forks.start(replace(order, crash=crash), log)
        assert self.forks.wait(pid) == EXIT_CODE, Path(log).read_text()
        assert survivors(pid) == []
        assert read_journal(journal)[-1]["step"] == crash.step
        left = inspect(objects, self.library.wanted, self.is_immutable, is_complete=False)
        assert (left.wrong, left.duplicate, left.redone) == ([], [], [])
        before = committed(objects)
        assert set(tracks_in(read_journal(journal), "committed")) <= before

        journal.unlink()
        assert self.forks.run(order, log) in (0, 3), Path(log).read_text()
        assert not before & set(tracks_in(read_journal(journal), "started"))
        found = inspect(objects, self.library.wanted, self.is_immutable)
        assert (found.lost, found.wrong, found.duplicate, found.redone) == ([], [], [], []), str(found)

        journal.unlink()
        assert self.forks.run(order, log) == 0, Path(log).read_text()
        again = read_journal(journal)
        assert tracks_in(again, "planned") == []
        assert [event["step"] for event in again if "op" in event and event["step"] != "probe"] == []


@pytest.fixture(params=["folder plain", "folder immutable", "s3 plain", "s3 immutable"])
def stage(request: pytest.FixtureRequest, forks: Forks, one_shot_library: Library, tmp_path: Path) -> Stage:
    root = request.getfixturevalue("bucket") if "s3" in request.param else str(tmp_path / "stems")
    return Stage(forks, one_shot_library, request.param, root, tmp_path)


def check_all(stage: Stage, crashes: list[Crash], has_history: bool) -> None:
    """Two at a time, for two cores."""
    with ThreadPoolExecutor(2) as pool:
        running = [(crash, pool.submit(stage.crash_and_resume, crash, has_history)) for crash in crashes]
        for crash, result in running:
            try:
                result.result()
            except AssertionError as error:
                raise AssertionError(f"crash {crash}: {error}") from error


def test_a_path_of_no_known_step_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to no step"):
        step_of("_splitfire/new/thing.json")


@pytest.mark.parametrize("stage", ["folder plain"], indirect=True)
def test_a_crash_at_every_moment_of_every_step_loses_nothing_in_a_folder(stage: Stage) -> None:
    by_moment = {(crash.step, crash.when): crash for crash in stage.crashes(has_history=True)}
    assert {step for step, _ in by_moment} == STEPS
    check_all(stage, list(by_moment.values()), has_history=True)


@pytest.mark.parametrize("stage", ["s3 immutable"], indirect=True)
def test_a_crash_at_every_step_loses_nothing_in_a_bucket(stage: Stage) -> None:
    by_step = {crash.step: crash for crash in stage.crashes(has_history=False)}
    assert set(by_step) == STEPS - {"probe"}
    check_all(stage, list(by_step.values()), has_history=False)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("has_history", [False, True], ids=["fresh", "history"])
def test_a_crash_anywhere_at_all_loses_nothing(
    stage: Stage, has_history: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = stage.crashes(has_history)
    check_all(stage, crashes, has_history)
    with capsys.disabled():
        print(f"\n{stage.kind}: {len(crashes)} crashes, every operation at every moment: 0 violations")
