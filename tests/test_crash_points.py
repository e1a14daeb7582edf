"""A job that is cut off at any step of the commit protocol, and run again, loses nothing and doubles nothing.

Each crash is followed by a look at what it left, the same job again, and that job once more with nothing to
do. The gate takes a seeded part of all crashes, every step and moment in it; `make chaos` takes all of them.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from splitfire_batch.storage import open_store
from tests.crash_points import (
    EXIT_CODE,
    STEPS,
    Crash,
    moments,
    read_journal,
    step_of,
)
from tests.forks import Forks
from tests.in_process_job import JobOrder
from tests.small_library import Library, write_registry
from tests.trials import SETTLED, Trial

SEED = 5
ONLY_IN_FOLDERS = {"probe", "leftover removed"}
IN_GATE = {"weights", "lease taken", "stem", "part", "view switch"}
ONLY_WITH_HISTORY = {"check mark", "snapshot removed", "stem removed"}


class Stage:
    """A place for many jobs, each with a destination of its own."""

    def __init__(self, forks: Forks, library: Library, kind: str, root: str, folder: Path) -> None:
        self.kind, self.is_bucket = kind, "s3" in kind
        self._forks, self._library = forks, library
        self._root, self._folder, self._numbers = root, folder, count()
        self._old: Trial | None = None
        self._registry = write_registry(folder)

    def trial(self, has_history: bool) -> Trial:
        """A job that was never run, or one with a history of runs."""
        trial = self._new_trial()
        if has_history and self.is_bucket:
            self._make_history(trial)
        elif has_history:
            old = self._history()
            copy_of_links(Path(old.order.destination), Path(trial.order.destination))
            trial.before = old.before
        return trial

    def _new_trial(self) -> Trial:
        number = next(self._numbers)
        order = JobOrder(
            source=str(self._library.folder),
            destination=f"{self._root}/out{number}",
            journal=str(self._folder / f"{number}.jsonl"),
            names="immutable" if "immutable" in self.kind else "plain",
            runtime={"registry": str(self._registry)},
            model="weighed",
            offers_weights=True,
            environment={"SPLITFIRE_CACHE": str(self._folder / "cache")},
        )
        return Trial(self._forks, self._library, order)

    def _history(self) -> Trial:
        """Made once; folders are copied by links, so that files keep their times and inodes."""
        if self._old is None:
            self._old = self._new_trial()
            self._make_history(self._old)
        return self._old

    def _make_history(self, trial: Trial) -> None:
        """Runs that did two tracks, a run that was cut off, and a stem that no row names.

        Their workers were on the driver's machine, so no weights lie there yet.
        """
        for limit in (1, 2):
            pid = trial.start(limit=limit, offers_weights=False)
            assert self._forks.wait(pid) in SETTLED, trial.told()
            trial.look(pid)
        orphan = b"of an attempt whose stems came out otherwise"
        name = f"passthrough/gone_vocals-{hashlib.sha256(orphan).hexdigest()[:16]}.wav"
        open_store(trial.order.destination, {}).write(name, orphan)
        pid = trial.start(crash=Crash("stem", 3, "after" if self.is_bucket else "torn"), offers_weights=False)
        assert self._forks.wait(pid) == EXIT_CODE, trial.told()
        trial.look(pid)

    def crashes(self, has_history: bool) -> list[Crash]:
        """Each operation of a job that nothing disturbs, cut off at each moment it has; in a seeded order."""
        trial = self.trial(has_history)
        assert self._forks.run(replace(trial.order, vacuums=True), trial.log) in SETTLED, trial.told()
        journal = read_journal(Path(trial.order.journal))
        times = Counter(event["step"] for event in journal if "op" in event)
        times["lease renewed"] = min(times["lease renewed"], 1)  # as often as the clock will have it
        crashes = [
            Crash(step, nth, when)
            for step, n_times in sorted(times.items())
            for nth in range(1, n_times + 1)
            for when in moments(step, self.is_bucket)
        ]
        return random.Random(SEED).sample(crashes, len(crashes))

    def crash_and_resume(self, crash: Crash, has_history: bool) -> None:
        """The job and a vacuum, with a crash; what it left; both again; and the job once more."""
        trial = self.trial(has_history)
        pid = trial.start(crash=crash, vacuums=True)
        assert self._forks.wait(pid) == EXIT_CODE, trial.told()
        begun = [
            (event["step"], event["nth"])
            for event in read_journal(Path(trial.order.journal))
            if "op" in event
        ]
        assert (crash.step, crash.nth) in begun
        trial.look(pid)
        trial.resume()
        trial.idle()


def copy_of_links(folder: Path, to: Path) -> None:
    """Files are replaced and never changed, so two trees may share them; but not the one that is locked."""

    def copy(file: str, to: str) -> None:
        (shutil.copy2 if file.endswith("lease.json") else os.link)(file, to)

    shutil.copytree(folder, to, copy_function=copy)


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
    with pytest.raises(ValueError, match="is no step"):
        step_of("write", "_splitfire/new/thing.json")


@pytest.mark.parametrize("stage", ["folder plain"], indirect=True)
def test_a_crash_at_every_step_loses_nothing_in_a_folder(stage: Stage) -> None:
    """At one of the moments of each step; `make chaos` takes all of them."""
    chosen = {crash.step: crash for crash in stage.crashes(has_history=True)}
    assert set(chosen) == STEPS
    check_all(stage, list(chosen.values()), has_history=True)


@pytest.mark.parametrize("stage", ["s3 immutable"], indirect=True)
def test_a_crash_at_every_step_loses_nothing_in_a_bucket(stage: Stage) -> None:
    """Where only the driver writes and the folder's test has been, `make chaos` must do."""
    by_step = {crash.step: crash for crash in stage.crashes(has_history=False)}
    assert set(by_step) == STEPS - ONLY_IN_FOLDERS - ONLY_WITH_HISTORY
    check_all(stage, [by_step[step] for step in sorted(IN_GATE)], has_history=False)


def test_a_run_that_was_cut_off_and_then_replaced_takes_nothing_back(
    forks: Forks, one_shot_library: Library, tmp_path: Path
) -> None:
    """Under plain names: none of its rows counts any more, and its stems were written over since."""
    wanted = one_shot_library.wanted
    name, other = [path for path, expected in wanted.items() if isinstance(expected, int)][:2]
    source = tmp_path / "library"
    source.mkdir()
    shutil.copy(one_shot_library.folder / name, source / name)
    library = Library(source, {name: wanted[name]})
    order = JobOrder(str(source), str(tmp_path / "out"), str(tmp_path / "job.jsonl"), "plain")
    trial = Trial(forks, library, order)
    pid = trial.start(crash=Crash("failures", 1, "before"))
    assert forks.wait(pid) == EXIT_CODE, trial.told()
    trial.look(pid)
    shutil.copy(one_shot_library.folder / other, source / name)
    library.wanted[name] = wanted[other]
    trial.before = set()
    trial.resume()
    trial.idle()
    trial.idle()


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("has_history", [False, True], ids=["fresh", "history"])
def test_a_crash_anywhere_at_all_loses_nothing(
    stage: Stage, has_history: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes = stage.crashes(has_history)
    check_all(stage, crashes, has_history)
    with capsys.disabled():
        print(f"\n{stage.kind}: {len(crashes)} crashes, every operation at every moment: 0 violations")
