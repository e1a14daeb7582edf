"""A shard goes through a worker: what it tells, in which order, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from splitfire_batch import telling
from splitfire_batch import worker as worker_module
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError, SplitfireError, TransientError
from splitfire_batch.manifest.ledger import read_parts
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.records import (
    Committed,
    Draining,
    Returned,
    Shard,
    ShardDone,
    ShardEvent,
    Started,
    Track,
)
from splitfire_batch.rendering import render
from splitfire_batch.storage import Store, open_store
from splitfire_batch.telling import PART_ROWS
from splitfire_batch.transfer import DeviceLost
from splitfire_batch.tuning import Trial, Tuning, keep
from splitfire_batch.worker import Worker, WorkerSpec
from tests.material import Gate, Shares, noise, track_of, write

CONTEXT = RunContext("run", "settings", "catalogue", "passthrough", "weights", "fp32")


def spec(folder: Path, is_immutable: bool = False, **runtime: object) -> WorkerSpec:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return WorkerSpec(
        destination=str(folder / "out"),
        separation=SeparationConfig(model="passthrough"),
        output=OutputConfig(),
        runtime=RuntimeConfig(scratch_dir=str(scratch), **runtime),  # type: ignore[arg-type]
        context=CONTEXT,
        is_immutable=is_immutable,
    )


@contextmanager
def a_worker(folder: Path, **settings: object) -> Iterator[Worker]:
    """A worker that writes into folder/out; afterwards no temporary file may be left."""
    worker = spec(folder, **settings)()  # type: ignore[arg-type]
    try:
        yield worker
    finally:
        worker.close()
    assert not list((folder / "scratch").iterdir())
    assert not list((folder / "out").rglob("*.tmp"))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracks of a few frames then cost next to nothing; a passthrough segment is ten seconds."""
    monkeypatch.setattr(worker_module, "load_model", lambda *_: Shares(segment_frames=500))


def tracks_of(folder: Path, n: int, first: int = 0) -> tuple[Track, ...]:
    """Tracks of the same few frames, under different ids and targets."""
    file = write(folder / "source" / "a.wav", noise(300))
    ids = [f"{i:016x}" for i in range(first, first + n)]
    return tuple(track_of(file, track_id, target=f"{track_id}_{{stem}}.{{ext}}") for track_id in ids)


def ids_of(committed: Sequence[ShardEvent]) -> list[str]:
    return [o.track_id for event in committed if isinstance(event, Committed) for o in event.outcomes]


def rows_in(folder: Path) -> list[dict[str, object]]:
    return read_parts(open_store(str(folder / "out"), {})).to_pylist()  # type: ignore[no-any-return]


def wait_for(is_true: Callable[[], bool], within_s: float = 20) -> None:
    give_up_at = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize("open_tracks", [1, 4])
@pytest.mark.usefixtures("small_segments")
def test_events_come_in_order_and_each_track_is_committed_once(tmp_path, open_tracks):
    tracks = tracks_of(tmp_path, 20)
    with a_worker(tmp_path, open_tracks=open_tracks) as worker:
        events = list(worker.run_shard(Shard("s", tracks)))
    ids = [track.track_id for track in tracks]
    started = [event.track_id for event in events if isinstance(event, Started)]
    assert sorted(started) == sorted(ids_of(events)) == ids
    where = {event.track_id: at for at, event in enumerate(events) if isinstance(event, Started)}
    for at, event in enumerate(events):
        for track_id in ids_of([event]):
            assert where[track_id] < at
    assert [type(event) for event in events].count(Draining) == 1
    assert events.index(Draining("s")) > max(where.values())
    assert isinstance(events[-1], ShardDone)
    assert all(event.shard_id == "s" for event in events)


@pytest.mark.usefixtures("small_segments")
def test_numerics_name_the_precision_and_compilation(tmp_path):
    settings = replace(spec(tmp_path, compile=True), separation=SeparationConfig(precision="bf16"))
    worker = settings()
    list(worker.run_shard(Shard("s", tracks_of(tmp_path, 1))))
    worker.close()
    assert [row["numerics"] for row in rows_in(tmp_path)] == ["cpu/bf16/batch1/threads1/compiled"]


def test_a_worker_runs_as_was_measured_for_its_threads_and_numerics_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    settings = spec(tmp_path)
    keep(settings.separation, "cpu", [Trial(Tuning(3, settings.threads, False), 1.0)])
    worker = settings()
    list(worker.run_shard(Shard("s", tracks_of(tmp_path, 1))))
    worker.close()
    assert [row["numerics"] for row in rows_in(tmp_path)] == ["cpu/fp32/batch3/threads1/channels_first"]


def test_the_passthrough_model_runs_through_the_spec(tmp_path):
    with a_worker(tmp_path) as worker:
        (*_, done) = worker.run_shard(Shard("s", tracks_of(tmp_path, 2)))
    assert done.seconds.device > 0
    assert done.wall_s > 0
    assert {row["numerics"] for row in rows_in(tmp_path)} == {"cpu/fp32/batch1/threads1"}


@pytest.mark.usefixtures("small_segments")
def test_a_failed_track_is_committed_like_any_other(tmp_path):
    good, gone = tracks_of(tmp_path, 2)
    (tmp_path / "source" / "gone.wav").touch()
    gone = track_of(tmp_path / "source" / "gone.wav", gone.track_id)
    with a_worker(tmp_path) as worker:
        events = list(worker.run_shard(Shard("s", (gone, good))))
    outcomes = [o for event in events if isinstance(event, Committed) for o in event.outcomes]
    found = {o.track_id: (o.status, o.code, o.n_bytes_out > 0, o.audio_s > 0) for o in outcomes}
    assert found == {
        gone.track_id: ("failed", "EMPTY", False, False),
        good.track_id: ("done", None, True, True),
    }
    assert {row["track_id"]: row["code"] for row in rows_in(tmp_path)} == {
        gone.track_id: "EMPTY",
        good.track_id: None,
    }


@pytest.mark.usefixtures("small_segments")
def test_rows_can_be_read_in_parts_while_the_shard_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(telling, "PART_S", 600.0)  # only the number of rows counts
    tracks = tracks_of(tmp_path, 2 * PART_ROWS + 5)
    sizes = []
    with a_worker(tmp_path) as worker:
        for event in worker.run_shard(Shard("s", tracks)):
            if isinstance(event, Committed):
                sizes.append(len(event.outcomes))
                rows = rows_in(tmp_path)
                assert len(rows) == sum(sizes)
                assert {o.track_id for o in event.outcomes} <= {row["track_id"] for row in rows}
    assert sizes == [PART_ROWS, PART_ROWS, 5]
    stems = [stem["path"] for row in rows_in(tmp_path) for stem in row["stems"]]
    assert len(stems) == 2 * len(tracks)
    assert set(stems) == {path.name for path in (tmp_path / "out").glob("*.wav")}


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Gate]]:
    """Makes the worker's model wait at a gate after so many batches."""
    gates = []

    def make(n: int, segment_frames: int = 500) -> Gate:
        gates.append(Gate(n))
        model = Shares(segment_frames=segment_frames, before=gates[-1])
        monkeypatch.setattr(worker_module, "load_model", lambda *_: model)
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


def test_a_row_does_not_wait_for_a_slow_neighbour(tmp_path, gated, monkeypatch):
    monkeypatch.setattr(telling, "PART_S", 0.2)
    gate = gated(1)
    tracks = tracks_of(tmp_path, 2)
    with a_worker(tmp_path, open_tracks=1) as worker:
        events = worker.run_shard(Shard("s", tracks))
        first = next(event for event in events if isinstance(event, Committed))  # the other is at the gate
        assert ids_of([first]) == [tracks[0].track_id]
        gate.open()
        assert ids_of(list(events)) == [tracks[1].track_id]


def test_stop_admitting_finishes_what_is_in_flight_and_begins_nothing(tmp_path, gated):
    gate = gated(0)
    tracks = tracks_of(tmp_path, 6)
    with a_worker(tmp_path, open_tracks=2) as worker:
        events = worker.run_shard(Shard("s", tracks))
        seen = [next(events), next(events)]
        worker.stop_admitting()
        gate.open()
        seen += events
        assert list(worker.run_shard(Shard("later", tracks)))[-1].shard_id == "later"
    started = [event.track_id for event in seen if isinstance(event, Started)]
    assert sorted(started) == sorted(ids_of(seen)) == [track.track_id for track in tracks[:2]]
    assert isinstance(seen[-1], ShardDone)
    assert len(rows_in(tmp_path)) == 2


def test_what_a_worker_gives_back_it_does_not_begin(tmp_path, gated):
    gate = gated(0)
    tracks = tracks_of(tmp_path, 7)
    with a_worker(tmp_path, open_tracks=1) as worker:
        events = worker.run_shard(Shard("s", tracks))
        seen = [next(events)]
        worker.give_back("s")
        worker.give_back("a shard that ended long ago")
        gate.open()
        seen += events
    (back,) = [event for event in seen if isinstance(event, Returned)]
    ids = [track.track_id for track in tracks]
    assert list(back.track_ids) == ids[4:]
    started = [event.track_id for event in seen if isinstance(event, Started)]
    assert started == ids_of(seen) == ids[:4]
    assert [type(event) for event in seen].count(Draining) >= 1
    assert isinstance(seen[-1], ShardDone)
    assert len(rows_in(tmp_path)) == 4


@pytest.fixture
def one_fits(gated: Callable[..., Gate]) -> Gate:
    """Each track needs more than a megabyte of audio; the first stands at a closed gate."""
    return gated(0, segment_frames=20_000)


def test_tracks_begin_only_as_memory_allows(tmp_path, one_fits):
    tracks = tracks_of(tmp_path, 4)
    with a_worker(tmp_path, open_tracks=4, audio_mb=1) as worker:
        events = worker.run_shard(Shard("s", tracks))
        assert isinstance(next(events), Started)
        wait_for(lambda: worker._bench.budget.n_waiting == 3)
        one_fits.open()
        told = list(events)
    assert sum(isinstance(event, Started) for event in told) == 3
    last = max(at for at, event in enumerate(told) if isinstance(event, Started))
    assert told[last + 1] == Draining("s")
    assert sorted(ids_of(told)) == [track.track_id for track in tracks]
    waits = sorted(row["wait_memory_s"] for row in rows_in(tmp_path))
    assert waits[0] == 0
    assert waits[1] > 0


def test_a_track_that_is_encoded_leaves_device_and_memory_to_the_next(tmp_path, monkeypatch):
    """The first track is not encoded before the second one was on the device; memory has room for one."""
    second_is_separated, computed = threading.Event(), []

    def count(_: Tensor) -> None:
        computed.append(1)
        if len(computed) == 2:
            second_is_separated.set()

    def patient_render(*args: Any) -> Any:
        assert second_is_separated.wait(30)
        return render(*args)

    model = Shares(segment_frames=20_000, before=count)
    monkeypatch.setattr(worker_module, "load_model", lambda *_: model)
    monkeypatch.setattr("splitfire_batch.settling.render", patient_render)
    with a_worker(tmp_path, open_tracks=2, audio_mb=4) as worker:
        list(worker.run_shard(Shard("s", tracks_of(tmp_path, 2))))
    assert [row["status"] for row in rows_in(tmp_path)] == ["done", "done"]


def test_stop_admitting_does_not_begin_what_waits_for_memory(tmp_path, one_fits):
    tracks = tracks_of(tmp_path, 4)
    with a_worker(tmp_path, open_tracks=4, audio_mb=1) as worker:
        events = worker.run_shard(Shard("s", tracks))
        started = next(events)
        wait_for(lambda: worker._bench.budget.n_waiting == 3)
        worker.stop_admitting()
        one_fits.open()
        told = list(events)
    assert ids_of(told) == [started.track_id]
    assert not any(isinstance(event, Started) for event in told)


def test_two_shards_share_the_memory_of_their_worker(tmp_path, one_fits):
    tracks = tracks_of(tmp_path, 2)
    with a_worker(tmp_path, open_tracks=4, audio_mb=1) as worker:
        first = worker.run_shard(Shard("one", tracks[:1]))
        assert isinstance(next(first), Started)
        told: list[ShardEvent] = []
        second = threading.Thread(target=lambda: told.extend(worker.run_shard(Shard("two", tracks[1:]))))
        second.start()
        wait_for(lambda: worker._bench.budget.n_waiting == 1)
        assert told == []
        one_fits.open()
        assert ids_of(list(first)) == [tracks[0].track_id]
        second.join(30)
    assert ids_of(told) == [tracks[1].track_id]


def test_a_shard_tells_what_the_device_did_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "load_model", lambda *_: Shares(before=lambda _: time.sleep(0.02)))
    with a_worker(tmp_path) as worker:
        for shard in ("first", "second"):
            (*_, done) = worker.run_shard(Shard(shard, tracks_of(tmp_path, 5)))
            assert 5 * 0.02 <= done.device.busy <= sum(dataclasses.astuple(done.device)) <= done.wall_s
            assert done.seconds.device <= done.device.busy
            assert done.seconds.wait_device > 0  # five segments at once, one after the other
    usages = []
    for part in (tmp_path / "out").rglob("parts/**/*.parquet"):
        usages.append(json.loads(pq.read_schema(part).metadata[b"splitfire.usage"]))
        assert 5 * 0.02 <= usages[-1]["busy"] <= usages[-1]["wall_s"]
    assert len(usages) == 2


def test_two_shards_run_at_once(tmp_path, gated):
    """With every track of the first shard at the gate, one of the second is begun."""
    gate = gated(0)
    tracks = tracks_of(tmp_path, 6)
    shards = [Shard("one", tracks[:3]), Shard("two", tracks[3:])]
    events: dict[str, list[ShardEvent]] = {"one": [], "two": []}

    def run(shard: Shard) -> None:
        for event in worker.run_shard(shard):
            events[shard.shard_id].append(event)

    with a_worker(tmp_path, open_tracks=4) as worker:
        threads = [threading.Thread(target=run, args=(shard,)) for shard in shards]
        for thread, shard, n_open in zip(threads, shards, (3, 1), strict=True):
            thread.start()
            told = events[shard.shard_id]
            wait_for(lambda told=told, n=n_open: sum(isinstance(event, Started) for event in told) == n)
        assert not ids_of(events["one"])
        gate.open()
        for thread in threads:
            thread.join(60)
    for shard in shards:
        told = events[shard.shard_id]
        assert sorted(ids_of(told)) == [track.track_id for track in shard.tracks]
        assert {event.shard_id for event in told} == {shard.shard_id}
    by_shard = {(row["shard_id"], row["track_id"]) for row in rows_in(tmp_path)}
    assert by_shard == {(shard.shard_id, track.track_id) for shard in shards for track in shard.tracks}
    assert {row["status"] for row in rows_in(tmp_path)} == {"done"}


@pytest.mark.usefixtures("small_segments")
def test_an_empty_shard_is_done_at_once(tmp_path):
    with a_worker(tmp_path) as worker:
        assert isinstance(next(worker.run_shard(Shard("s", ()))), ShardDone)


@pytest.mark.usefixtures("small_segments")
def test_immutable_names_end_in_the_hash_of_the_bytes(tmp_path):
    with a_worker(tmp_path, is_immutable=True) as worker:
        list(worker.run_shard(Shard("s", tracks_of(tmp_path, 1))))
    (row,) = rows_in(tmp_path)
    for stem in row["stems"]:
        assert stem["path"].endswith(f"-{stem['sha256'][:16]}.wav")
        assert (tmp_path / "out" / stem["path"]).is_file()


@pytest.mark.usefixtures("small_segments")
def test_a_part_that_cannot_be_stored_ends_the_shard_with_an_error(tmp_path):
    (tmp_path / "out" / "_splitfire").mkdir(parents=True)
    (tmp_path / "out" / "_splitfire" / "parts").write_text("a file where a folder should be")
    with a_worker(tmp_path) as worker, pytest.raises(SplitfireError, match="parts"):
        list(worker.run_shard(Shard("s", tracks_of(tmp_path, 2))))


@dataclass
class _Away:
    """A store whose first writes of parts find nobody."""

    store: Store
    n_times: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def write(self, path: str, data: bytes | Path) -> None:
        if path.startswith("_splitfire/") and self.n_times:
            self.n_times -= 1
            raise TransientError("the store is away")
        self.store.write(path, data)


def with_store_away(worker: Worker, n_times: int) -> None:
    store = _Away(worker._bench.destination, n_times)
    worker._bench = replace(worker._bench, destination=store)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_segments")
def test_a_part_waits_for_a_store_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "COMMIT_PAUSES_S", (0.01, 0.02))
    tracks = tracks_of(tmp_path, 2)
    with a_worker(tmp_path) as worker:
        with_store_away(worker, n_times=2)
        events = list(worker.run_shard(Shard("s", tracks)))
    assert sorted(ids_of(events)) == [track.track_id for track in tracks]
    assert len(rows_in(tmp_path)) == 2


@pytest.mark.usefixtures("small_segments")
def test_a_store_that_stays_away_ends_the_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "COMMIT_PAUSES_S", (0.01, 0.02))
    with a_worker(tmp_path) as worker:
        with_store_away(worker, n_times=3)
        with pytest.raises(TransientError, match="away"):
            list(worker.run_shard(Shard("s", tracks_of(tmp_path, 2))))


@pytest.mark.usefixtures("small_segments")
def test_a_track_without_an_end_ends_the_shard_after_what_was_settled_is_recorded(tmp_path, monkeypatch):
    """A bug outside of what becomes a row must not keep the worker waiting for ever."""
    first, second = tracks_of(tmp_path, 2)
    true_settle = worker_module.settle

    def settle(track, bench, begin):
        if track is second:
            begin()
            raise KeyError("no share")
        return true_settle(track, bench, begin)

    monkeypatch.setattr(worker_module, "settle", settle)
    told: queue.SimpleQueue[object] = queue.SimpleQueue()

    def run_shard() -> None:
        try:
            for event in worker.run_shard(Shard("s", (first, second))):
                told.put(event)
        except KeyError as error:
            told.put(error)

    with a_worker(tmp_path, open_tracks=1) as worker:
        threading.Thread(target=run_shard, daemon=True).start()
        events = [told.get(timeout=20)]
        while not isinstance(events[-1], KeyError):
            events.append(told.get(timeout=20))
    assert ids_of(events[:-1]) == [first.track_id]
    assert [row["track_id"] for row in rows_in(tmp_path)] == [first.track_id]


def test_a_lost_device_ends_the_shard_after_what_was_settled_is_recorded(tmp_path, monkeypatch):
    n_batches = 0

    def break_down(_: Tensor) -> None:
        nonlocal n_batches
        n_batches += 1
        if n_batches > 1:
            raise RuntimeError("illegal memory access")

    class OnAccelerator(Shares):
        device = torch.device("meta")

        def __call__(self, segments: Tensor) -> Tensor:
            return super().__call__(torch.zeros(segments.shape))

    model = OnAccelerator(segment_frames=500, before=break_down)
    monkeypatch.setattr(worker_module, "load_model", lambda *_: model)
    tracks = tracks_of(tmp_path, 3)
    told = []
    with a_worker(tmp_path, open_tracks=1) as worker, pytest.raises(DeviceLost, match="illegal memory"):
        told.extend(worker.run_shard(Shard("s", tracks)))
    assert [row["track_id"] for row in rows_in(tmp_path)] == [tracks[0].track_id]


def test_numerics_name_the_batch_that_was_really_used(tmp_path, monkeypatch):
    def refuse_three(segments: Tensor) -> None:
        if len(segments) > 2:
            raise torch.OutOfMemoryError

    model = Shares(segment_frames=500, before=refuse_three)
    monkeypatch.setattr(worker_module, "load_model", lambda *_: model)
    with a_worker(tmp_path, batch=4) as worker:
        list(worker.run_shard(Shard("s", tracks_of(tmp_path, 1))))
    (row,) = rows_in(tmp_path)
    assert row["numerics"] == "cpu/fp32/batch4/batch2@500/threads1"
    assert [warning[:17] for warning in row["warnings"]] == ["batch halved to 2"]


def test_a_missing_scratch_folder_stops_the_worker_before_it_starts(tmp_path):
    made = spec(tmp_path)
    (tmp_path / "scratch").rmdir()
    with pytest.raises(ConfigError, match="scratch_dir"):
        made()


def test_an_unknown_model_stops_the_worker_before_it_starts(tmp_path):
    bad = spec(tmp_path)
    with pytest.raises(ConfigError, match="no-such-model"):
        WorkerSpec(
            bad.destination,
            SeparationConfig(model="no-such-model"),
            bad.output,
            bad.runtime,
            bad.context,
            is_immutable=False,
        )()
