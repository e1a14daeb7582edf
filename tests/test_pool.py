"""The pool on a real local Ray of two CPUs, with workers that only wait."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
import ray

from cluster import pool, seats
from cluster.actors import PoolSize, RemoteWorker
from cluster.fake_worker import FakeWorker
from cluster.pool import Halt, run_shards
from cluster.session import Node, connect, knock, pool_size, size_for
from splitfire_batch.config import RuntimeConfig
from splitfire_batch.errors import ConfigError, StorageError, TransientError
from splitfire_batch.records import (
    Committed,
    Draining,
    Outcome,
    PoolEvent,
    Quarantined,
    Returned,
    Shard,
    ShardDone,
    ShardEvent,
    StageSeconds,
    Started,
    Track,
)
from splitfire_batch.staff import Staff

Events = list[PoolEvent]
FEW = 2
"""In place of five, how often workers may be lost in a row: each takes Ray a process to start."""
TWO = PoolSize(workers=2, cpus=1, gpus=0, threads=1)
ONE = PoolSize(workers=1, cpus=1, gpus=0, threads=3)


@pytest.fixture(scope="session", autouse=True)
def local_ray() -> Iterator[None]:
    with connect(n_cpus=2):
        yield


@pytest.fixture(autouse=True)
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_OUTAGES", FEW)
    monkeypatch.setattr(seats, "MAX_FALSE_STARTS", FEW)


def make_shards(n_shards: int, n_tracks: int) -> list[Shard]:
    return [Shard(f"s{s}", tuple(make_track(f"s{s}t{t}") for t in range(n_tracks))) for s in range(n_shards)]


def make_track(track_id: str) -> Track:
    return Track(track_id, track_id, f"mem://{track_id}", track_id, 1, "", "{stem}.{ext}")


def ids(shards: Iterable[Shard]) -> list[str]:
    return sorted(track.track_id for shard in shards for track in shard.tracks)


def settled(events: Iterable[PoolEvent]) -> list[str]:
    """Tracks that were committed or given up, each as often as it was."""
    found = []
    for event in events:
        if isinstance(event, Committed):
            found += [outcome.track_id for outcome in event.outcomes]
        elif isinstance(event, Quarantined):
            found.append(event.track.track_id)
    return sorted(found)


def starts(events: Iterable[PoolEvent]) -> list[str]:
    return [event.track_id for event in events if isinstance(event, Started)]


def pids(events: Iterable[PoolEvent]) -> set[str | None]:
    return {outcome.message for event in events if isinstance(event, Committed) for outcome in event.outcomes}


def ends(pid: str | None, within_s: float = 10) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.kill(int(pid or 0), 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def both_up(folder: Path, **settings: Any) -> FakeWorker:
    """A worker that is there when another one is, too."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.02)
    return FakeWorker(**settings)


@dataclass(frozen=True, slots=True)
class Patient(FakeWorker):
    """A worker that begins shard s5 when a third process has come, which so finds some shards left."""

    folder: Path = Path()

    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        while shard.shard_id == "s5" and len(list(self.folder.iterdir())) < 3:
            time.sleep(0.02)
        yield from FakeWorker.run_shard(self, shard)


def three_up(folder: Path, track_s: float) -> FakeWorker:
    """A worker that is there when another one is, too, and waits for the third in between."""
    both_up(folder)
    return Patient(track_s=track_s, folder=folder)


def test_all_tracks_are_settled_once_and_both_actors_work(tmp_path: Path) -> None:
    shards = make_shards(8, 3)
    events = list(run_shards(shards, partial(both_up, tmp_path, track_s=0.2), TWO))
    assert settled(events) == ids(shards)
    assert len(pids(events)) == 2
    assert sum(isinstance(event, ShardDone) for event in events) == 8


def test_actors_are_gone_when_the_run_ends() -> None:
    events = list(run_shards(make_shards(1, 1), FakeWorker, ONE))
    (pid,) = pids(events)
    assert ends(pid)


def test_events_of_a_shard_keep_their_order() -> None:
    told = run_shards(make_shards(1, 4), FakeWorker, ONE)
    events = [event for event in told if not isinstance(event, Quarantined | Staff)]
    expected = list(FakeWorker(track_s=0).run_shard(make_shards(1, 4)[0]))
    assert [type(event) for event in events] == [type(event) for event in expected]
    assert starts(events) == starts(expected)


def test_the_next_shard_starts_when_the_one_before_drains() -> None:
    events = list(run_shards(make_shards(3, 2), partial(FakeWorker, track_s=0.5), ONE))
    draining = events.index(Draining("s0"))
    second = events.index(Started("s1", "s1t0"))
    done = next(i for i, event in enumerate(events) if isinstance(event, ShardDone))
    assert draining < second < done


def test_no_actor_has_more_than_two_shards() -> None:
    is_open: set[str] = set()
    most = 0
    for event in run_shards(make_shards(6, 2), partial(FakeWorker, track_s=0.1), ONE):
        if isinstance(event, Started):
            is_open.add(event.shard_id)
        elif isinstance(event, ShardDone):
            is_open.discard(event.shard_id)
        most = max(most, len(is_open))
    assert most == 2


def test_the_last_actor_gives_half_of_what_it_has_not_begun_to_one_that_is_idle(tmp_path: Path) -> None:
    """One long shard for two actors: it is split until nothing waits, and no track is done twice."""
    make_worker = partial(both_up, tmp_path, track_s=0.25, open_tracks=1, takes_turns=True)
    shards = make_shards(1, 12)
    events = list(run_shards([*shards, Shard("tiny", (make_track("tiny"),))], make_worker, TWO))
    assert settled(events) == sorted([*ids(shards), "tiny"])
    assert sorted(starts(events)) == settled(events)
    returned = [event for event in events if isinstance(event, Returned) and event.track_ids]
    assert returned
    by_process = Counter(o.message for e in events if isinstance(e, Committed) for o in e.outcomes)
    assert min(by_process.values()) >= 4


def test_a_worker_that_dies_while_it_gives_back_loses_no_track() -> None:
    make_worker = partial(
        FakeWorker, track_s=0.25, open_tracks=1, takes_turns=True, deadly=frozenset(["s0t2"])
    )
    shards = [*make_shards(1, 10), Shard("tiny", (make_track("tiny"),))]
    events = list(run_shards(shards, make_worker, TWO))
    assert settled(events) == ids(shards)
    (given_up,) = [event for event in events if isinstance(event, Quarantined)]
    assert given_up.track.track_id == "s0t2"


def test_it_is_told_what_each_worker_is_at() -> None:
    events = list(run_shards(make_shards(2, 6), partial(FakeWorker, track_s=0.4), ONE))
    told = [event.workers for event in events if isinstance(event, Staff)]
    assert all(len(workers) == 1 for workers in told)
    phases = [workers[0].phase for workers in told]
    assert phases[0] == "starting"
    assert "working" in phases
    busy = [workers[0] for workers in told if workers[0].phase == "working" and workers[0].n_in_flight]
    assert busy
    assert {str(worker.pid) for worker in busy} == pids(events)
    assert all(worker.path.startswith("s") and 1 <= worker.n_in_flight <= 4 for worker in busy)
    assert max(worker.n_settled for worker in busy) >= 2


def test_nothing_to_do_starts_no_actor() -> None:
    begin = time.monotonic()
    assert list(run_shards([], FakeWorker, TWO)) == []
    assert time.monotonic() - begin < 0.5  # an actor takes longer


def test_a_killed_actor_costs_nothing_but_a_second_try_of_what_was_in_flight(tmp_path: Path) -> None:
    shards = make_shards(12, 4)
    events: Events = []
    victim = None
    for event in run_shards(shards, partial(three_up, tmp_path, track_s=0.3), TWO):
        events.append(event)
        if isinstance(event, Committed) and victim is None:
            victim = event.outcomes[0].message
            os.kill(int(victim or 0), 9)
    again = [track_id for track_id in ids(shards) if starts(events).count(track_id) > 1]
    assert settled(events) == ids(shards)
    assert 1 <= len(again) <= 4  # what FakeWorker opens at once, in at most two shards
    assert not any(isinstance(event, Quarantined) for event in events)
    assert len(pids(events)) == 3


def test_a_track_that_kills_its_worker_twice_is_given_up_and_no_other() -> None:
    shards = make_shards(3, 4)
    make_worker = partial(FakeWorker, deadly=frozenset(["s1t1"]))
    events = list(run_shards(shards, make_worker, TWO))
    (given_up,) = [event for event in events if isinstance(event, Quarantined)]
    assert (given_up.track.track_id, given_up.track.attempts) == ("s1t1", 2)
    assert "died" in given_up.why
    assert settled(events) == ids(shards)
    assert starts(events).count("s1t1") == 2


def test_a_suspect_runs_with_nothing_beside_it() -> None:
    make_worker = partial(FakeWorker, track_s=0.1, deadly=frozenset(["s0t0"]))
    in_flight: set[str] = set()
    n_beside = None
    for event in run_shards(make_shards(3, 3), make_worker, ONE):
        if isinstance(event, Started):
            in_flight.add(event.track_id)
            if "-retry" in event.shard_id and event.track_id == "s0t0":
                n_beside = len(in_flight - {"s0t0", "s0t1", "s0t2"})
        elif isinstance(event, Committed):
            in_flight -= {outcome.track_id for outcome in event.outcomes}
    assert n_beside == 0


def test_an_exception_in_the_worker_is_charged_like_a_crash_and_keeps_its_message() -> None:
    shards = make_shards(2, 3)
    events = list(run_shards(shards, partial(FakeWorker, raising=frozenset(["s0t0"])), TWO))
    (given_up,) = [event for event in events if isinstance(event, Quarantined)]
    assert given_up.track.track_id == "s0t0"
    assert given_up.why == "RuntimeError: asked to raise on s0t0"
    assert settled(events) == ids(shards)


def refuse() -> FakeWorker:
    raise ConfigError("model: found 'nonesuch', known are others")


def test_a_config_error_in_the_actor_is_a_config_error_here() -> None:
    with pytest.raises(ConfigError, match="nonesuch"):
        list(run_shards(make_shards(2, 1), refuse, TWO))


def break_down() -> FakeWorker:
    raise OSError("libmissing.so: cannot open")


def test_actors_that_never_come_up_end_the_run_with_their_own_words() -> None:
    with pytest.raises(TransientError, match=r"libmissing\.so"):
        list(run_shards(make_shards(2, 1), break_down, ONE))


@dataclass(frozen=True)
class _Storeless(FakeWorker):
    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        yield Started(shard.shard_id, shard.tracks[0].track_id)
        raise TransientError("the store is away")


def test_a_store_that_stays_away_ends_the_run_with_its_error_and_blames_no_track() -> None:
    events: Events = []
    with pytest.raises(TransientError, match=r"^the store is away$"):
        events.extend(run_shards(make_shards(2, 2), _Storeless, ONE))
    assert not any(isinstance(event, Quarantined) for event in events)
    assert len(starts(events)) == FEW


@dataclass(frozen=True)
class _Hiccups(FakeWorker):
    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        if "-retry" not in shard.shard_id:
            yield Started(shard.shard_id, shard.tracks[0].track_id)
            raise StorageError("mem://parts", "refused for a moment")
        yield from FakeWorker.run_shard(self, shard)


@pytest.mark.slow
def test_a_store_that_fails_now_and_then_ends_no_run_and_charges_no_track(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "MAX_OUTAGES", 4)
    shards = make_shards(5, 1)
    events = list(run_shards(shards, _Hiccups, ONE))
    assert settled(events) == ids(shards)
    assert not any(isinstance(event, Quarantined) for event in events)


def store_is_away() -> FakeWorker:
    raise TransientError("the store is away")


def test_workers_that_cannot_start_without_the_store_end_the_run_with_its_error() -> None:
    with pytest.raises(TransientError, match=r"^the store is away$"):
        list(run_shards(make_shards(2, 1), store_is_away, ONE))


def test_the_driver_says_what_was_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cluster.pool"):
        list(run_shards(make_shards(1, 1), _Buggy, ONE))
    assert "track_bug track=s0t0 why='ZeroDivisionError (here.py:1, f)'" in caplog.text


@dataclass(frozen=True)
class _Buggy(FakeWorker):
    def _settle(self, track: Track) -> Outcome:
        why = "ZeroDivisionError (here.py:1, f)"
        return Outcome(track.track_id, track.path, "failed", "INTERNAL", why, 0.0, 0)


@dataclass(frozen=True)
class _Forgetful(FakeWorker):
    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        yield ShardDone(shard.shard_id, 0.0, StageSeconds())


def test_a_worker_that_settles_nothing_does_not_run_for_ever() -> None:
    with pytest.raises(TransientError, match="1 tracks unsettled"):
        list(run_shards(make_shards(1, 1), _Forgetful, ONE))


def test_stop_lets_tracks_in_flight_finish_and_begins_no_other() -> None:
    stop = threading.Event()
    events: Events = []
    for event in run_shards(make_shards(4, 20), partial(FakeWorker, track_s=0.3), TWO, Halt(stop)):
        events.append(event)
        if isinstance(event, Committed):
            stop.set()
    assert settled(events) == sorted(starts(events))
    assert 0 < len(starts(events)) < 80


def test_a_stop_before_the_start_begins_no_track() -> None:
    stop = threading.Event()
    stop.set()
    assert list(run_shards(make_shards(2, 2), FakeWorker, ONE, Halt(stop))) == []


def test_an_abort_kills_the_actors_and_ends_the_events_at_once() -> None:
    abort = threading.Event()
    events = run_shards(make_shards(1, 4), partial(FakeWorker, track_s=60), ONE, Halt(abort=abort))
    assert any(isinstance(event, Started) for event in events)
    begin = time.monotonic()
    abort.set()
    assert not any(isinstance(event, Committed | Quarantined) for event in events)
    assert time.monotonic() - begin < 3


def test_after_an_abort_no_actor_is_left() -> None:
    abort = threading.Event()
    found = []
    for event in run_shards(make_shards(4, 20), partial(FakeWorker, track_s=0.3), ONE, Halt(abort=abort)):
        if isinstance(event, Committed):
            found.append(event)
            abort.set()
    (pid,) = pids(found)
    assert ends(pid)


def test_closing_the_iterator_kills_the_actors() -> None:
    events = run_shards(make_shards(4, 20), partial(FakeWorker, track_s=0.3), ONE)
    (pid,) = pids(islice((event for event in events if isinstance(event, Committed)), 1))
    events.close()  # type: ignore[attr-defined]
    assert ends(pid)


@dataclass(frozen=True)
class _Teller(FakeWorker):
    """Tells its environment."""

    told: str = field(default_factory=lambda: os.environ.get("OMP_NUM_THREADS", "unset"))

    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        yield Started(self.told, shard.shard_id)


def test_the_actor_has_the_threads_it_was_given() -> None:
    worker = RemoteWorker(_Teller, ONE)
    try:
        stream = worker._actor.start.remote()
        ray.get(stream)
        event = ray.get(next(worker._actor.run_shard.remote(make_shards(1, 1)[0])))
    finally:
        worker.kill()
    assert event.shard_id == str(ONE.threads)


def test_pool_size_follows_the_connected_ray() -> None:
    assert pool_size(RuntimeConfig(workers=2)) == PoolSize(2, 1, 0, 1)
    assert pool_size(RuntimeConfig()) == PoolSize(1, 2, 0, 2)


@pytest.mark.parametrize("n_cpus", [1, 2, 7, 16])
@pytest.mark.parametrize("n_gpus", [0, 1, 3])
@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_all_actors_fit_into_the_cluster_together(n_cpus: int, n_gpus: int, workers: int | None) -> None:
    size = size_for(RuntimeConfig(workers=workers), [Node(n_cpus, n_gpus)])
    assert size.workers * size.cpus <= n_cpus
    assert size.workers * size.gpus <= n_gpus
    assert size.threads >= 1
    if workers is None and n_gpus:
        assert (size.workers, size.gpus) == (n_gpus, 1)


def test_asking_for_gpus_where_there_are_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        size_for(RuntimeConfig(device="cuda"), [Node(2)])
    with pytest.raises(ConfigError, match="--workers"):
        size_for(RuntimeConfig(device="cuda", ray="10.0.0.1:6379"), [Node(2)])


def test_a_cluster_without_gpus_grows_for_the_workers_that_are_asked_for() -> None:
    asked = RuntimeConfig(device="cuda", ray="10.0.0.1:6379", workers=64)
    assert size_for(asked, [Node(0)]) == PoolSize(64, 1, 1, 1)


def test_workers_of_a_cluster_that_grows_do_not_share_the_gpus_that_are_there() -> None:
    asked = RuntimeConfig(device="cuda", ray="10.0.0.1:6379", workers=8)
    assert size_for(asked, [Node(0), Node(8, 1), Node(8, 1)]) == PoolSize(8, 8, 1, 8)
    shared = RuntimeConfig(device="auto", ray="10.0.0.1:6379", workers=4)
    assert size_for(shared, [Node(8, 1), Node(8, 1)]) == PoolSize(4, 4, 0.5, 4)


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([Node(16), Node(4, 1)], "auto", None, PoolSize(1, 4, 1, 4)),
        ([Node(32, 4), Node(4, 1)], "auto", None, PoolSize(5, 4, 1, 4)),
        ([Node(0, 2), Node(16)], "auto", None, PoolSize(2, 0, 1, 1)),
        ([Node(8, 1), Node(8, 1), Node(8, 1)], "auto", 5, PoolSize(5, 4, 0.5, 4)),
        ([Node(16), Node(4, 1)], "cpu", None, PoolSize(10, 2, 0, 2)),
        ([Node(4), Node(4)], "auto", 1, PoolSize(1, 4, 0, 4)),
        ([Node(16), Node(3)], "auto", 3, PoolSize(3, 5, 0, 5)),
        ([Node(0), Node(8)], "auto", None, PoolSize(4, 2, 0, 2)),
        ([Node(1), Node(1)], "auto", None, PoolSize(2, 1, 0, 1)),
        ([Node(0)], "auto", None, PoolSize(1, 1, 0, 1)),
    ],
)
def test_every_actor_fits_on_one_node(
    nodes: list[Node], device: Literal["auto", "cpu"], workers: int | None, expected: PoolSize
) -> None:
    assert size_for(RuntimeConfig(device=device, workers=workers), nodes) == expected


def test_connecting_twice_leaves_the_first_ray_running() -> None:
    with connect():
        pass
    assert ray.is_initialized()


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", ":6379", "head:port"])
def test_an_address_that_is_no_host_and_port_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        knock(address)


def test_a_cluster_that_does_not_answer_is_a_transient_error_at_once() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # taken, and nobody listens
        begin = time.monotonic()
        with pytest.raises(TransientError, match="no Ray cluster answers"):
            knock(f"127.0.0.1:{unheard.getsockname()[1]}")
    assert time.monotonic() - begin < 6


def test_a_cluster_that_answers_is_found() -> None:
    knock(ray.get_runtime_context().gcs_address)
