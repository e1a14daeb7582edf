"""The story of a shard: its tracks go through one device, and their rows into manifest parts.

A worker has one engine and a few threads. Each thread settles one track at a time, so that while one track
is on the device others are fetched, decoded, encoded and stored. Rows go out in parts, and a part's put
is what settles its tracks.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import torch

from splitfire_batch import heap
from splitfire_batch.errors import LeaseLost, TransientError
from splitfire_batch.lease import Guard
from splitfire_batch.manifest import write_part
from splitfire_batch.models import load_model
from splitfire_batch.records import (
    Committed,
    DeviceSeconds,
    Draining,
    Outcome,
    Shard,
    ShardDone,
    ShardEvent,
    StageSeconds,
    Started,
    Track,
    TrackRow,
)
from splitfire_batch.schema import to_table, with_usage
from splitfire_batch.settling import settle
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.transfer import DeviceLost
from splitfire_batch.tuning import find_tuning
from splitfire_batch.workbench import open_bench

PART_ROWS = 64
PART_S = 15.0
"""A part is written when it has this many rows, or its oldest row is this old, or the shard ends."""
COMMIT_PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""How long to wait before a part is put again: all its tracks hang on it."""

_log = logging.getLogger(__name__)


CPU_OPEN_TRACKS, GPU_OPEN_TRACKS = 16, 256
"""Defaults of RuntimeConfig.open_tracks."""


class _Dropped(Exception):
    """A track that was not begun because the worker is stopping."""


_News = Started | TrackRow | _Dropped | DeviceLost


class Worker:
    """Settles shards on one device. `run_shard` may be called from several threads.

    Raises:
        ConfigError: the model or a store cannot be opened, or the scratch folder not be used.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.device == "cpu":
            torch.set_num_threads(spec.threads)
        heap.share_arenas()
        runtime = spec.runtime
        self._tuning = find_tuning(spec.separation, runtime, spec.device, spec.threads)
        model = load_model(
            spec.separation,
            spec.device,
            runtime.weights_mirror,
            runtime.storage,
            runtime.compile,
            self._tuning.is_channels_last,
        )
        runtime = replace(runtime, batch=self._tuning.batch)
        bench = open_bench(model, spec.destination, spec.separation, spec.output, runtime, spec.is_immutable)
        self._bench = replace(bench, guard=Guard(bench.destination, spec.nonce))
        self._spec = spec
        self._context = replace(spec.context, device=_device_name(model.device))
        n_threads = CPU_OPEN_TRACKS if model.device.type == "cpu" else GPU_OPEN_TRACKS
        self._threads = ThreadPoolExecutor(runtime.open_tracks or n_threads, thread_name_prefix="track")
        self._is_stopping = threading.Event()

    def close(self) -> None:
        """End the threads; shards must have been run to their ends."""
        self._threads.shutdown(wait=True)
        self._bench.engine.close()

    def stop_admitting(self) -> None:
        """Begin no further track; those in flight are finished and recorded."""
        self._is_stopping.set()

    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        """Settle every track of a shard, and tell of each as it begins and once it is settled.

        Raises:
            SplitfireError: a part could not be stored; its tracks are not settled.
            DeviceLost: the device may be unusable; what was settled before is recorded.
        """
        usage = self._bench.engine.clock.usage()
        news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        for track in shard.tracks:
            self._threads.submit(self._begin, track, shard.shard_id, news)
        n_waiting = n_open = len(shard.tracks)
        rows: list[TrackRow] = []
        seconds: list[StageSeconds] = []
        while n_open:
            item = _next(news, rows)
            if isinstance(item, DeviceLost):
                if rows:
                    yield self._commit(shard, rows, *usage())
                raise item
            if isinstance(item, Started):
                yield item
            elif isinstance(item, TrackRow):
                rows.append(item)
                seconds.append(item.seconds)
            n_waiting -= isinstance(item, Started | _Dropped)
            n_open -= isinstance(item, TrackRow | _Dropped)
            if isinstance(item, Started) and n_waiting == 0:
                yield Draining(shard.shard_id)
            if rows and (len(rows) >= PART_ROWS or not n_open or not _patience_s(rows)):
                yield self._commit(shard, rows, *usage())
                rows = []
        wall_s, device = usage()
        yield ShardDone(shard.shard_id, wall_s, _total(seconds), device)

    def _begin(self, track: Track, shard_id: str, news: queue.SimpleQueue[_News]) -> None:
        """Runs in a thread of its own."""

        def begin() -> None:
            if self._is_stopping.is_set():
                raise _Dropped
            news.put(Started(shard_id, track.track_id))

        try:
            news.put(settle(track, self._bench, begin))
        except (_Dropped, DeviceLost) as error:
            news.put(error)

    def _commit(
        self, shard: Shard, rows: Sequence[TrackRow], wall_s: float, device: DeviceSeconds
    ) -> Committed:
        """Put a part; an outage of minutes need not cost the work of minutes."""
        context = replace(self._context, numerics=self._numerics())
        table = with_usage(to_table(rows, context, shard.shard_id), wall_s, device)
        for pause_s in (*COMMIT_PAUSES_S, None):
            try:
                self._bench.guard.check()
                write_part(self._bench.destination, table)
                break
            except LeaseLost:
                raise
            except TransientError as error:
                if pause_s is None:
                    raise
                _log.warning("part_waits shard=%s pause_s=%g why=%r", shard.shard_id, pause_s, str(error))
                time.sleep(pause_s)
        heap.give_back()
        return Committed(shard.shard_id, tuple(_outcome(row) for row in rows))

    def _numerics(self) -> str:
        """What the last bits depend on; batches may have been halved since the last part."""
        engine, spec = self._bench.engine, self._spec
        parts = [engine.model.device.type, spec.separation.precision, engine.batch_label]
        parts += [f"threads{spec.threads}"] if spec.device == "cpu" else []
        parts += [] if self._tuning.is_channels_last else ["channels_first"]
        parts += ["compiled"] if spec.runtime.compile else []
        return "/".join(parts)


def _next(news: queue.SimpleQueue[_News], rows: Sequence[TrackRow]) -> _News | None:
    """The next item; None when the oldest row has waited long enough to be written."""
    try:
        return news.get(timeout=_patience_s(rows) if rows else None)
    except queue.Empty:
        return None


def _patience_s(rows: Sequence[TrackRow]) -> float:
    """How long the oldest row may still wait for company; 0 when it is due."""
    return max(0.0, rows[0].finished_at + PART_S - time.time())


def _outcome(row: TrackRow) -> Outcome:
    source = row.source
    return Outcome(
        track_id=row.track.track_id,
        path=row.track.path,
        status=row.status,
        code=row.code,
        message=row.message,
        audio_s=source.n_frames / source.sample_rate if source else 0.0,
        n_bytes_out=sum(stem.n_bytes for stem in row.stems),
    )


def _total(seconds: Sequence[StageSeconds]) -> StageSeconds:
    names = [field.name for field in fields(StageSeconds)]
    return StageSeconds(**{name: sum(getattr(item, name) for item in seconds) for name in names})


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
