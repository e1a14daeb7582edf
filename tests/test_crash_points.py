"""A job that is cut off at any step of the commit protocol, and run again, loses nothing and doubles nothing.

Each crash is followed by a look at what it left, the same job again, and that job once more with nothing to
do. The gate takes a seeded part of all crashes, every step and moment in it; `make chaos` takes all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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
)
from tests.forks import Forks
from tests.in_process_job import JobOrder
from tests.small_library import Library
from tests.trials import SETTLED, Trial

SEED = 5


class Stage:
    """A place for many jobs, each with a destination of its own."""

    def __init__(self, forks: Forks, library: Library, kind: str, root: str, folder: Path) -> None:
        self.kind, self.is_bucket = kind, "s3" in kind
        self._forks, self._library = forks, library
        self._root, self._folder, self._numbers = root, folder, count()

    def trial(self, has_history: bool) -> Trial:
        """With a history, an earlier run has done the first track: views and settings are there already."""
        number = next(self._numbers)
        order = JobOrder(
            source=str(self._library.folder),
            destination=f"{self._root}/out{number}",
            journal=str(self._folder / f"{number}.jsonl"),
            names="immutable" if "immutable" in self.kind else "plain",
        )
        trial = Trial(self._forks, self._library, order)
        if has_history:
            pid = trial.start(limit=1)
            assert self._forks.wait(pid) in SETTLED, trial.told()
            trial.look(pid)
        return trial

    def crashes(self, has_history: bool) -> list[Crash]:
        """Each operation of a job that nothing disturbs, cut off at each moment it has; in a seeded order."""
        trial = self.trial(has_history)
        assert self._forks.run(trial.order, trial.log) in SETTLED, trial.told()
        journal = read_journal(Path(trial.order.journal))
        moments = IN_BUCKET if self.is_bucket else IN_FOLDER
        crashes = [
            Crash(step, nth, when)
            for step, n_times in sorted(Counter(event["step"] for event in journal if "op" in event).items())
            for nth in range(1, n_times + 1)
            for when in (IN_BUCKET if step == "probe" else moments)  # it writes nothing
        ]
        return random.Random(SEED).sample(crashes, len(crashes))

    def crash_and_resume(self, crash: Crash, has_history: bool) -> None:
        """The job with a crash, what it left, the job again, and once more."""
        trial = self.trial(has_history)
        pid = trial.start(crash=crash)
        assert self._forks.wait(pid) == EXIT_CODE, trial.told()
        assert read_journal(Path(trial.order.journal))[-1]["step"] == crash.step
        trial.look(pid)
        trial.resume()
        trial.idle()


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
