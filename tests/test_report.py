"""What the events of a run add up to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from splitfire_batch import report
from splitfire_batch.forecast import Usage
from splitfire_batch.report import Tally
from splitfire_batch.staff import WorkerState

WORKING = WorkerState("a1b2c3d4", 77, "working")


def test_workers_are_held_from_the_beginning_and_work_from_the_first_track(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(report, "time", clock)
    tally = Tally(2, 60.0, begin=100.0)
    now = 110.0
    tally.hear()  # nobody was told of yet: one
    tally.workers = (WORKING, WORKING)
    now = 120.0
    tally.hear()
    tally.begin_work()
    now = 130.0
    tally.hear()
    tally.workers = (WORKING,)
    now = 150.0
    tally.hear()
    held_s = 10 + 2 * 10 + 2 * 10 + 20
    assert tally.usage() == Usage(n_workers=2, held_s=held_s, working_s=2 * 10 + 20, start_s=20.0)


def test_a_run_that_did_nothing_held_nothing() -> None:
    assert Tally(0, 0.0).usage() == Usage()
