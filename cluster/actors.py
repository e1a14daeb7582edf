"""One Ray actor per device, and the driver's view of it; the only module that sends anything over Ray.

`SeparatorActor` holds a worker and streams its events. Ray keeps those sent before the process was killed;
only one told in the very last millisecond may be missing. `RemoteWorker` is the other end; what Ray's
exceptions mean is said in `losses`.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from cluster.losses import Lost, read_error
from cluster.metrics import Metrics
from splitfire_batch.importing import uncollected
from splitfire_batch.masking import mask_logs
from splitfire_batch.records import Shard, ShardEvent

MAX_SHARDS = 2
"""Shard calls per actor: one whose last tracks are under way, and the next."""
_CONTROL_CALLS = 2
_CLOSE_S = 5.0


class ShardWorker(Protocol):
    """What does the work inside an actor; made there, called from several threads."""

    def run_shard(self, shard: Shard) -> Iterable[ShardEvent]:
        """Settle the tracks of a shard, telling of each; a second call may run beside the first."""

    def stop_admitting(self) -> None:
        """Begin no further track, in this shard or a later one; `run_shard` ends with those in flight."""

    def give_back(self, shard_id: str) -> None:
        """Tell by Returned which tracks of a shard will not begin here, perhaps none of it."""

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes of audio in memory now, by where they wait."""

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
    grows: bool = False
    """As many more as nodes that join have room for."""


class SeparatorActor:
    """Runs in the actor's process. The worker is made by `start`, whose exceptions keep their type."""

    def __init__(self, make_worker: bytes, n_threads: int) -> None:
        # The pickle stays closed until now: opening it may import torch, whose OpenMP reads this once.
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
        self._make_worker = make_worker
        self._worker: ShardWorker | None = None
        self._metrics = Metrics()

    def where(self) -> tuple[int, str]:
        """The process id, and the id of the node."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def start(self) -> None:
        """Make the worker."""
        mask_logs()
        with uncollected():  # opening the pickle imports torch and more
            make_worker: MakeWorker = pickle.loads(self._make_worker)  # noqa: S301 - our own driver made it
        self._worker = make_worker()

    @ray.method(num_returns="streaming")
    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        """The worker's events, as they come."""
        worker = self._started()
        for event in worker.run_shard(shard):
            self._metrics.note(event)
            self._metrics.hold(worker.held_bytes())
            yield event

    def stop_admitting(self) -> None:
        """Pass on that no further track may begin."""
        self._started().stop_admitting()

    def give_back(self, shard_id: str) -> None:
        """Pass on that somebody else could do some of a shard."""
        self._started().give_back(shard_id)

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
        self._finding: Any = self._actor.where.remote()
        self._starting: Any = self._actor.start.remote()
        self._asking: Any = None
        self._streams: dict[Any, str] = {}
        self.has_started = False
        """It can be sent shards."""
        self.pid: int | None = None
        """Process id on its node, once there is a process."""
        self.node_id: str | None = None

    @property
    def shard_ids(self) -> tuple[str, ...]:
        """Shards whose streams are still open."""
        return tuple(self._streams.values())

    def send(self, shard: Shard) -> None:
        """Begin a shard; its events come through `wait_for_news`."""
        self._streams[self._actor.run_shard.remote(shard)] = shard.shard_id

    def stop_admitting(self) -> None:
        """Ask the worker to begin no further track."""
        if self.has_started:
            self._actor.stop_admitting.remote()

    def give_back(self, shard_id: str) -> None:
        """Ask for some of a shard's tracks that have not begun."""
        self._actor.give_back.remote(shard_id)

    def ask_to_close(self) -> Any:
        """Let the worker end its threads and children; what Ray can wait for."""
        return self._actor.close.remote()

    def ask(self) -> None:
        """Call the actor, to learn from News whether it lives; its streams cannot be relied on any more.

        Nothing is done before the last call is answered: an answer may take longer than we wait to ask again.
        """
        if self._asking is None:
            self._asking = self._actor.where.remote()

    def kill(self) -> None:
        """End the process now; its open streams will end as `Lost`."""
        if ray.is_initialized():
            ray.kill(self._actor)

    def pending(self) -> list[Any]:
        """What Ray can wait for."""
        if self._asking is not None:
            return [self._asking, *self._streams]
        if self.has_started:
            return list(self._streams)
        return [self._finding if self.pid is None else self._starting]

    def read(self, ready: Any) -> News | None:
        """One piece of news from a pending call that Ray said is ready; None if it only started.

        Raises:
            ConfigError: raised by the worker, for the whole run.
        """
        if ready not in self._streams:
            return self._read_control(ready)
        shard_id = self._streams[ready]
        try:
            return News(self, shard_id, ray.get(next(ready)))
        except StopIteration:
            del self._streams[ready]
            return News(self, shard_id, None)
        except RayError as error:
            del self._streams[ready]
            return News(self, shard_id, read_error(error))

    def _read_control(self, ready: Any) -> News | None:
        if is_answer := ready is self._asking:
            self._asking = None
        try:
            found = ray.get(ready)
        except RayError as error:
            return News(self, None, read_error(error))
        if is_answer:
            return News(self, None, Lost("connection", "the connection to the worker was lost"))
        if ready is self._finding:
            self.pid, self.node_id = found
        else:
            self.has_started = True
        return None


@dataclass(frozen=True, slots=True)
class News:
    """Something a worker told: an event, None at the end of a shard, or that all is lost.

    `shard_id` is None when it is about no shard: the worker was lost while it started, or this is what came
    of asking whether it lives.
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
    closing = [worker.ask_to_close() for worker in workers if worker.has_started]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
