"""One Ray actor per device, and the driver's view of it; the only module that sends anything over Ray.

`SeparatorActor` holds a worker and streams its events. Ray keeps those sent before the process was killed;
only one told in the very last millisecond may be missing. `RemoteWorker` is the other end. Ray's
exceptions are translated here, into `Lost` when a process or a shard is gone, and back into ConfigError
when the worker says that the job is impossible.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from splitfire_batch.errors import ConfigError, SplitfireError, StorageError, TransientError
from splitfire_batch.escapes import lines
from splitfire_batch.records import Shard, ShardEvent

MAX_SHARDS = 2
"""Shard calls per actor: one whose last tracks are under way, and the next."""
_CONTROL_CALLS = 2
_CLOSE_S = 5.0

_log = logging.getLogger(__name__)


class ShardWorker(Protocol):
    """What does the work inside an actor; made there, called from several threads."""

    def run_shard(self, shard: Shard) -> Iterable[ShardEvent]:
        """Settle the tracks of a shard, telling of each; a second call may run beside the first."""

    def stop_admitting(self) -> None:
        """Begin no further track, in this shard or a later one; `run_shard` ends with those in flight."""

    def close(self) -> None:
        """End threads and children."""


MakeWorker = Callable[[], ShardWorker]
"""Makes a worker inside its actor; picklable, and holds no secret."""


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How many actors there are, and what each of them reserves."""

    workers: int
    cpus: float
    gpus: float
    threads: int
    """Threads of a worker's arithmetic; Ray would set OMP_NUM_THREADS to the reserved CPUs, often 1."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A call that did not end well. `is_death`: the process is gone; else the worker raised an exception."""

    why: str
    is_death: bool
    is_preempted: bool = False
    outage: SplitfireError | None = None
    """The worker's own words that a store or network failed it."""

    @property
    def is_blameless(self) -> bool:
        """Whether it is the fault neither of the tracks in flight nor of the worker."""
        return self.is_preempted or self.outage is not None


class SeparatorActor:
    """Runs in the actor's process. The worker is made by `start`, whose exceptions keep their type."""

    def __init__(self, make_worker: bytes, n_threads: int) -> None:
        # The pickle stays closed until now: opening it may import torch, whose OpenMP reads this once.
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
        self._make_worker = make_worker
        self._worker: ShardWorker | None = None

    def start(self) -> int:
        """Make the worker; returns the process id."""
        make_worker: MakeWorker = pickle.loads(self._make_worker)  # noqa: S301 - our own driver made it
        self._worker = make_worker()
        return os.getpid()

    @ray.method(num_returns="streaming")
    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        """The worker's events, as they come."""
        yield from self._started().run_shard(shard)

    def stop_admitting(self) -> None:
        """Pass on that no further track may begin."""
        self._started().stop_admitting()

    def close(self) -> None:
        """Let the worker end its threads and children."""
        self._started().close()

    def _started(self) -> ShardWorker:
        if self._worker is None:
            raise RuntimeError("start() comes first")
        return self._worker


class RemoteWorker:
    """An actor as the driver sees it: starting, then running up to MAX_SHARDS shards."""

    def __init__(self, make_worker: MakeWorker, size: PoolSize) -> None:
        actor_class: Any = ray.remote(SeparatorActor)
        self._actor: Any = actor_class.options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=MAX_SHARDS + _CONTROL_CALLS,
        ).remote(cloudpickle.dumps(make_worker), size.threads)  # type: ignore[no-untyped-call]
        self._starting: Any = self._actor.start.remote()
        self._streams: dict[Any, str] = {}
        self.pid: int | None = None
        """Process id on its node, once it has started."""

    @property
    def shard_ids(self) -> tuple[str, ...]:
        """Shards whose streams are still open."""
        return tuple(self._streams.values())

    def send(self, shard: Shard) -> None:
        """Begin a shard; its events come through `wait_for_news`."""
        self._streams[self._actor.run_shard.remote(shard)] = shard.shard_id

    def stop_admitting(self) -> None:
        """Ask the worker to begin no further track."""
        if self.pid is not None:
            self._actor.stop_admitting.remote()

    def ask_to_close(self) -> Any:
        """Let the worker end its threads and children; what Ray can wait for."""
        return self._actor.close.remote()

    def kill(self) -> None:
        """End the process now; its open streams will end as `Lost`."""
        if ray.is_initialized():
            ray.kill(self._actor)

    def pending(self) -> list[Any]:
        """What Ray can wait for."""
        return [self._starting] if self.pid is None else list(self._streams)

    def read(self, ready: Any) -> News | None:
        """One piece of news from a pending call that Ray said is ready; None if it only started.

        Raises:
            ConfigError: raised by the worker, for the whole run.
        """
        if ready is self._starting:
            return self._read_start()
        shard_id = self._streams[ready]
        try:
            return News(self, shard_id, ray.get(next(ready)))
        except StopIteration:
            del self._streams[ready]
            return News(self, shard_id, None)
        except RayError as error:
            del self._streams[ready]
            return News(self, shard_id, _lost(error))

    def _read_start(self) -> News | None:
        try:
            self.pid = ray.get(self._starting)
        except RayError as error:
            return News(self, None, _lost(error))
        return None


@dataclass(frozen=True, slots=True)
class News:
    """Something a worker told: an event, None at the end of a shard, or that all is lost.

    `shard_id` is None when the worker was lost before it could run a shard.
    """

    worker: RemoteWorker
    shard_id: str | None
    told: ShardEvent | Lost | None


def wait_for_news(workers: Sequence[RemoteWorker], timeout_s: float) -> Iterator[News]:
    """What is new from any worker, at most one piece per call; nothing if `timeout_s` pass in silence.

    Raises:
        ConfigError: raised by a worker, for the whole run.
    """
    owners = {pending: worker for worker in workers for pending in worker.pending()}
    if not owners:
        return
    ready, _ = ray.wait(list(owners), num_returns=1, timeout=timeout_s)
    if ready:  # whatever else is there by now: one round for many actors
        ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
    for pending in ready:
        news = owners[pending].read(pending)
        if news is not None:
            yield news


def close_all(workers: Sequence[RemoteWorker]) -> None:
    """Let started workers end their threads and children, for a few seconds at most."""
    closing = [worker.ask_to_close() for worker in workers if worker.pid is not None]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)


def _lost(error: RayError) -> Lost:
    """What a failed call means for the pool; a ConfigError is raised again as itself."""
    if not isinstance(error, RayTaskError):
        return Lost(
            " ".join(str(error).split()), is_death=True, is_preempted=getattr(error, "preempted", False)
        )
    cause = error.cause
    if isinstance(cause, ConfigError):
        raise cause from error
    _log.warning("worker_raised why=%s", lines(str(error)))  # its text is the traceback in the worker
    outage = cause if isinstance(cause, TransientError | StorageError) else None
    return Lost(f"{type(cause).__name__}: {cause}", is_death=False, outage=outage)
