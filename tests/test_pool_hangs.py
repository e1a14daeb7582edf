"""Workers that hang, on a real local Ray: frozen processes, tracks without end, and runs that must stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from functools import partial

import pytest

from cluster.fake_worker import FakeWorker
from cluster.pool import Halt, run_shards
from cluster.roster import Patience
from splitfire_batch.records import Committed, Quarantined, Started
from tests.test_pool import ONE, TWO, Events, ends, ids, local_ray, make_shards, pids, settled

__all__ = ["local_ray"]
STALL_S = 3.0
QUICK = Patience(stall_s=STALL_S)


def test_a_track_that_freezes_its_worker_twice_is_given_up_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = make_shards(3, 3)
    make_worker = partial(FakeWorker, freezing=frozenset(["s0t1"]))
    events: Events = []
    frozen_at = []
    with caplog.at_level(logging.WARNING, "cluster.pool"):
        for event in run_shards(shards, make_worker, ONE, patience=QUICK):
            events.append(event)
            if isinstance(event, Started) and event.track_id == "s0t1":
                frozen_at.append(time.time())
    lost_at = [record.created for record in caplog.records if "worker_lost" in record.message]
    (given_up,) = [event for event in events if isinstance(event, Quarantined)]
    assert (given_up.track.track_id, given_up.track.attempts) == ("s0t1", 2)
    assert given_up.code == "WORKER_HUNG"
    assert "told nothing" in given_up.why
    assert settled(events) == ids(shards)
    for frozen, lost in zip(frozen_at, lost_at, strict=True):
        assert STALL_S - 1 < lost - frozen < STALL_S + 10


@pytest.mark.slow
def test_a_worker_that_is_frozen_from_outside_is_replaced_and_costs_no_track() -> None:
    shards = make_shards(4, 3)
    events: Events = []
    victim = None
    for event in run_shards(shards, partial(FakeWorker, track_s=0.5), TWO, patience=QUICK):
        events.append(event)
        if isinstance(event, Committed) and victim is None:
            victim = event.outcomes[0].message
            os.kill(int(victim or 0), signal.SIGSTOP)
    assert settled(events) == ids(shards)
    assert not any(isinstance(event, Quarantined) for event in events)
    assert ends(victim)


@pytest.mark.slow
def test_a_worker_that_beats_is_left_alone_however_long_its_track_takes() -> None:
    make_worker = partial(FakeWorker, track_s=2 * STALL_S, beat_s=0.5)
    events = list(run_shards(make_shards(1, 1), make_worker, ONE, patience=QUICK))
    assert settled(events) == ["s0t0"]
    assert len(pids(events)) == 1


def test_a_track_that_never_ends_is_dropped_when_a_stopped_run_has_waited_long_enough(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = threading.Event()
    make_worker = partial(FakeWorker, open_tracks=3, endless=frozenset(["s0t2"]), track_s=0.5)
    events: Events = []
    with caplog.at_level(logging.WARNING, "cluster.pool"):
        for event in run_shards(make_shards(3, 3), make_worker, ONE, Halt(stop), Patience(drain_s=2)):
            if not stop.is_set() and isinstance(event, Started) and event.track_id == "s0t2":
                stop.set()
                stopped_at = time.monotonic()
            events.append(event)
    assert 1.9 < time.monotonic() - stopped_at < 4
    assert settled(events) == ["s0t0", "s0t1"]
    assert "drain_over drain_s=2 dropped=1" in caplog.text
    assert ends(next(iter(pids(events))))
