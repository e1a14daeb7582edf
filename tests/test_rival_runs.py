"""Runs on one destination that know nothing of each other, or sleep while another takes over: no harm done.

Each run is a job in a process of its own, frozen with SIGSTOP at a random event or let go at the same time.
`test_two_runs` does the same through the command line, once.
"""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.forks import Forks, has_ended
from tests.in_process_job import JobOrder
from tests.small_library import Library
from tests.trials import SETTLED, Trial

SEED = 505
HELD, TEMPORARY = 75, 75
_EVENTS = 50
"""About as many as a whole job has."""


def a_trial(forks: Forks, library: Library, root: str, folder: Path, names: str = "immutable") -> Trial:
    order = JobOrder(
        source=str(library.folder),
        destination=f"{root}/out{len(list(folder.iterdir()))}",
        journal=str(folder / f"{len(list(folder.iterdir()))}.jsonl"),
        names=names,
        expire_s=2.0,
    )
    return Trial(forks, library, order)


def freeze(trial: Trial, order: JobOrder, n_events: int) -> int | None:
    """A run that stops in the midst after so many events; None if it was at its end before."""
    journal = Path(order.journal)
    pid = trial.forks.start(order, trial.log)
    while not has_ended(pid, within_s=0.001):
        if journal.exists() and journal.read_bytes().count(b"\n") >= n_events:
            os.kill(pid, signal.SIGSTOP)
            return pid
    trial.forks.wait(pid)
    return None


def a_frozen_run_does_no_harm(trial: Trial, n_events: int, has_lease: bool) -> None:
    """It sleeps, another run does everything, and it wakes."""
    first = replace(trial.order, journal=f"{trial.order.journal}.first", runtime={"lease": has_lease})
    pid = freeze(trial, first, n_events)
    second = replace(trial.order, runtime={"lease": has_lease})
    assert trial.forks.run(second, trial.log) in SETTLED, trial.told()
    if pid is not None:
        os.kill(pid, signal.SIGCONT)
        code = trial.forks.wait(pid)
        assert code in (*SETTLED, TEMPORARY), trial.told()
        if has_lease:
            assert code == TEMPORARY or n_events <= 1, trial.told()
    trial.check_after_rivals()


@pytest.mark.parametrize(
    "has_lease", [True, pytest.param(False, marks=pytest.mark.chaos)], ids=["lease", "no lease"]
)
def test_a_frozen_run_that_wakes_after_another_finished_does_no_harm(
    has_lease: bool, forks: Forks, one_shot_library: Library, bucket: str, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} {has_lease}")
    trial = a_trial(forks, one_shot_library, bucket, tmp_path)
    a_frozen_run_does_no_harm(trial, chance.randrange(10, _EVENTS // 2), has_lease)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_runs_frozen_anywhere_do_no_harm(
    forks: Forks, one_shot_library: Library, bucket: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    for number in range(30):
        trial = a_trial(forks, one_shot_library, bucket, tmp_path)
        a_frozen_run_does_no_harm(trial, chance.randrange(_EVENTS), has_lease=number % 2 == 0)


@pytest.mark.slow
def test_two_runs_at_once_without_a_lease_both_end_and_the_tables_are_right(
    forks: Forks, one_shot_library: Library, bucket: str, tmp_path: Path
) -> None:
    trial = a_trial(forks, one_shot_library, bucket, tmp_path)
    orders = [
        replace(trial.order, journal=f"{trial.order.journal}.{name}", runtime={"lease": False})
        for name in ("first", "second")
    ]
    pids = [forks.start(order, trial.log) for order in orders]
    assert all(forks.wait(pid) in SETTLED for pid in pids), trial.told()
    trial.check_after_rivals()


@pytest.mark.parametrize("names", ["plain", "immutable"])
def test_a_second_run_refuses_while_the_first_is_there_even_frozen(
    names: str, forks: Forks, one_shot_library: Library, tmp_path: Path
) -> None:
    """On a folder the lock is the process's own: it holds as long as there is the process."""
    trial = a_trial(forks, one_shot_library, str(tmp_path / "stems"), tmp_path, names)
    pid = freeze(trial, trial.order, 12)
    assert pid is not None
    assert forks.run(replace(trial.order, journal=f"{trial.order.journal}.second"), trial.log) == HELD
    assert "is held by" in trial.told()
    assert f"process {pid} " in trial.told()
    os.kill(pid, signal.SIGCONT)
    assert forks.wait(pid) in SETTLED, trial.told()
    trial.resume()
    trial.idle()
