"""A job's shards on Ray: what `splitfire_batch.job` is handed to have its work done here."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, current_thread, main_thread

from cluster.metrics import Metrics
from cluster.pool import Halt, run_shards
from cluster.roster import Patience
from cluster.session import connect, pool_size
from splitfire_batch.config import RuntimeConfig
from splitfire_batch.job import RunShards
from splitfire_batch.records import PoolEvent, Quarantined, Shard
from splitfire_batch.spec import WorkerSpec


@contextmanager
def on_ray(runtime: RuntimeConfig, stop: Event, abort: Event | None = None) -> Iterator[RunShards]:
    """A function that runs shards on a local Ray or the cluster that `runtime` names, while it is open.

    Args:
        runtime: address, number of workers, device, patience.
        stop: when set, tracks in flight may finish for `drain_s`, and no other begins.
        abort: when set, the actors are killed at once, and the events end.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with connect(runtime.ray):
        if current_thread() is main_thread():  # Ray took SIGTERM and would abort; its owner gets it back
            signal.signal(signal.SIGTERM, on_sigterm)
        size, halt = pool_size(runtime), Halt(stop, abort or Event())
        patience = Patience(runtime.drain_s, runtime.stall_s, may_grow=runtime.ray is not None)

        def run(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[PoolEvent]:
            here = replace(spec, device="cuda" if size.gpus else "cpu", threads=size.threads)
            metrics = Metrics()
            for event in run_shards(shards, here, size, halt, patience, spec.recorded):
                if isinstance(event, Quarantined):  # all else is told where it happens
                    metrics.note(event)
                yield event

        yield run
