"""What a worker tells of a shard, with threads that only report."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from itertools import islice
from threading import Event
from types import SimpleNamespace

import pytest

from splitfire_batch import telling
from splitfire_batch.records import Beat, Committed, TrackRow
from splitfire_batch.telling import Telling
from tests.test_manifest import row


def put(rows: Sequence[TrackRow]) -> Future[Committed]:
    assert all(isinstance(row, TrackRow) for row in rows)
    done: Future[Committed] = Future()
    done.set_result(Committed("s", ()))
    return done


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_row_waits_no_longer_and_no_shorter_when_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    """One of two tracks is done; the clock was an hour ahead or behind when its row was made."""
    monkeypatch.setattr(telling, "PART_S", 1.0)
    monkeypatch.setattr(telling, "BEAT_S", 0.05)
    beating = SimpleNamespace(beats=lambda: True)
    told = Telling("s", 2, put, beating, Event())  # type: ignore[arg-type]
    told.report(row(at=telling.time.time() + ahead_s))
    events = list(islice(told.events(), 40))
    at = next((n for n, event in enumerate(events) if isinstance(event, Committed)), None)
    assert at is not None
    assert at >= 2
    assert all(isinstance(event, Beat) for event in events[:at])
