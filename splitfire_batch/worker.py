"""The story of a shard: its tracks go through one device, and their rows into manifest parts.

A worker has one engine and a few threads. Each thread settles one track at a time, so that while one track
is on the device others are fetched, decoded, encoded and stored. Rows go out in parts, and a part's put
is what settles its tracks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from splitfire_batch import heap
from splitfire_batch.admission import Admission
from splitfire_batch.errors import LeaseLost, TransientError
from splitfire_batch.lease import Guard
from splitfire_batch.manifest.ledger import write_part
from splitfire_batch.manifest.outcomes import outcome_of
from splitfire_batch.manifest.schema import to_table, with_usage
from splitfire_batch.models import load_model, supply_of_worker
from splitfire_batch.models.registry import add_cards
from splitfire_batch.pulse import Pulse
from splitfire_batch.records import (
    Committed,
    DeviceSeconds,
    Returned,
    Shard,
    ShardDone,
    ShardEvent,
    Track,
    TrackRow,
)
from splitfire_batch.settling import settle
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.stems import with_judged
from splitfire_batch.telling import Dropped, Telling
from splitfire_batch.tuning import find_tuning
from splitfire_batch.workbench import OUTAGE_S, open_bench

COMMIT_PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""How long to wait before a part is put again: all its tracks hang on it."""

_log = logging.getLogger(__name__)


CPU_OPEN_TRACKS, GPU_OPEN_TRACKS = 16, 256
"""Defaults of RuntimeConfig.open_tracks."""


class Worker:
    """Settles shards on one device. `run_shard` may be called from several threads.

    Raises:
        ConfigError: the model or a store cannot be opened, or the scratch folder not be used.
        TransientError: what has the weights does not answer.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        if spec.device == "cpu":
            torch.set_num_threads(spec.threads)
        heap.share_arenas()
        runtime = spec.runtime
        add_cards(spec.cards, runtime.registry or "")
        self._tuning = find_tuning(spec.separation, runtime, spec.device, spec.threads)
        model = load_model(
            with_judged(spec.separation, spec.output),
            spec.device,
            supply_of_worker(runtime, spec.weights, OUTAGE_S),
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
        self._putting = ThreadPoolExecutor(thread_name_prefix="part")
        self._is_stopping = threading.Event()
        self._open: dict[str, tuple[Telling, Admission]] = {}

    def close(self) -> None:
        """End the threads; shards must have been run to their ends."""
        self._threads.shutdown(wait=True)
        self._putting.shutdown(wait=True)
        self._bench.close()

    def stop_admitting(self) -> None:
        """Begin no further track; those in flight are finished, and recorded soon after."""
        self._is_stopping.set()
        for telling, _ in list(self._open.values()):
            telling.report(None)

    def give_back(self, shard_id: str) -> None:
        """Tell of tracks of a shard that have not begun, half of what is left of it, and do not begin them.

        Nothing is told of a shard that has come to its end.
        """
        if opened := self._open.get(shard_id):
            telling, admission = opened
            admission.give_back(lambda track_ids: telling.report(Returned(shard_id, track_ids)))

    def held_bytes(self) -> dict[str, int]:
        """Bytes of audio in memory now, by where they wait: all of it is in the shares of open tracks."""
        return {"open tracks": self._bench.budget.n_held}

    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        """Settle every track of a shard, and tell of each as it begins and once it is settled.

        Raises:
            SplitfireError: a part could not be stored; its tracks are not settled.
            Exception: a track did not come to a row, as when the device may be unusable (DeviceLost); what
                was settled before is recorded.
        """
        clock = self._bench.engine.clock
        usage = clock.usage()

        def put(rows: Sequence[TrackRow]) -> Committed:
            with clock.at_work("store"):
                return self._commit(shard, rows, *usage())

        telling = Telling(
            shard.shard_id,
            len(shard.tracks),
            lambda rows: self._putting.submit(put, rows),
            Pulse(clock),
            self._is_stopping,
        )
        admission = Admission(shard.tracks)
        self._open[shard.shard_id] = telling, admission
        try:
            for track in shard.tracks:
                self._threads.submit(self._begin, track, telling, admission)
            yield from telling.events()
        finally:
            del self._open[shard.shard_id]
        wall_s, device = usage()
        yield ShardDone(shard.shard_id, wall_s, telling.seconds(), device)

    def _begin(self, track: Track, telling: Telling, admission: Admission) -> None:
        """Runs in a thread of its own."""

        def begin() -> None:
            if self._is_stopping.is_set() or not admission.admit(track.track_id):
                raise Dropped
            telling.begin(track.track_id)

        try:
            telling.report(settle(track, self._bench, begin))
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word ends no shard
            telling.report(error)

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
        return Committed(shard.shard_id, tuple(outcome_of(row) for row in rows))

    def _numerics(self) -> str:
        """What the last bits depend on; batches may have been halved since the last part."""
        engine, spec = self._bench.engine, self._spec
        parts = [engine.model.device.type, spec.separation.precision, engine.batch_label]
        parts += [f"threads{spec.threads}"] if spec.device == "cpu" else []
        parts += [] if self._tuning.is_channels_last else ["channels_first"]
        parts += ["compiled"] if spec.runtime.compile else []
        return "/".join(parts)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
