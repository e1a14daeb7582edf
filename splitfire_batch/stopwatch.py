"""Where the seconds go: a track's, stage by stage, and the device's, busy or idle and for want of what.

A stage's time is what was spent inside it, waiting for other stages excluded. One stopwatch belongs to one
track; its stages may run in several threads. One clock belongs to a device and hears of every track's stages.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Literal, TypeVar

from splitfire_batch.records import DeviceSeconds, StageSeconds

Stage = Literal[
    "fetch", "decode", "device", "blend", "measure", "encode", "store", "wait_memory", "wait_device"
]
Item = TypeVar("Item")

_USES_CORES = ("decode", "blend", "measure", "encode")
_WORK = ("fetch", *_USES_CORES, "store")


class DeviceClock:
    """Tells what a device's seconds were spent on, or what the open tracks were still busy with.

    An idle second is shared among the stages of the tracks that are at work. But when tracks wait for memory
    while cores have nothing to do, memory is to blame, for with more of it they could be at work.

    Args:
        n_cores: threads that can be at work at the same time.
        n_servers: batches that the device computes at the same time; with fewer it is only partly busy.
    """

    def __init__(self, n_cores: int, n_servers: int = 1) -> None:
        self._n_cores, self._n_servers = n_cores, n_servers
        self._lock = threading.Lock()
        self._since = time.perf_counter()
        self._n_busy = 0
        self._at_work: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self.n_steps = 0
        """Batches and stages that have begun or ended: it stands still when everything does."""

    @property
    def waits_for_store(self) -> bool:
        """Whether a track is being fetched or stored and none is anywhere else."""
        with self._lock:
            n_elsewhere = self._n_busy + sum(self._at_work[stage] for stage in _USES_CORES)
            return not n_elsewhere and self._at_work["fetch"] + self._at_work["store"] > 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The device computes a batch inside the block."""
        self._change(busy_step=1)
        try:
            yield
        finally:
            self._change(busy_step=-1)

    @contextmanager
    def at_work(self, stage: Stage) -> Iterator[None]:
        """A track is at that stage inside the block."""
        self._change(stage, 1)
        try:
            yield
        finally:
            self._change(stage, -1)

    def usage(self) -> Callable[[], tuple[float, DeviceSeconds]]:
        """A function that tells the seconds since now: those on the wall, and what they were spent on."""
        begin, before = self._read()

        def since() -> tuple[float, DeviceSeconds]:
            end, after = self._read()
            return end - begin, DeviceSeconds(**{name: after[name] - before[name] for name in after})

        return since

    def _read(self) -> tuple[float, dict[str, float]]:
        with self._lock:
            self._charge()
            return self._since, {field.name: self._seconds[field.name] for field in fields(DeviceSeconds)}

    def _change(self, stage: Stage | None = None, step: int = 0, busy_step: int = 0) -> None:
        with self._lock:
            self._charge()
            self.n_steps += 1
            if stage:
                self._at_work[stage] += step
            self._n_busy += busy_step

    def _charge(self) -> None:
        """Account for the time since the last change."""
        now = time.perf_counter()
        elapsed_s, self._since = now - self._since, now
        busy_s = elapsed_s * min(1.0, self._n_busy / self._n_servers)
        self._seconds["busy"] += busy_s
        elapsed_s -= busy_s
        n_on_cores = sum(self._at_work[stage] for stage in _USES_CORES)
        if self._at_work["wait_memory"] and n_on_cores < self._n_cores:
            self._seconds["memory"] += elapsed_s
            return
        n_at_work = sum(self._at_work[stage] for stage in _WORK)
        for stage in _WORK:
            if self._at_work[stage]:
                self._seconds[stage] += elapsed_s * self._at_work[stage] / n_at_work


class Stopwatch:
    """Adds up seconds per stage, and tells the device's clock of them where it is given."""

    def __init__(self, clock: DeviceClock | None = None) -> None:
        self._clock = clock or DeviceClock(1)
        self._lock = threading.Lock()
        self._seconds: dict[Stage, float] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        """Count `seconds` for `stage`."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Count the time spent inside the block."""
        begin = time.perf_counter()
        try:
            with self._clock.at_work(stage):
                yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def timed(self, stage: Stage, items: Iterable[Item]) -> Generator[Item, None, None]:
        """The items, with the time it takes to make each counted."""
        iterator = iter(items)
        while True:
            with self.measure(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def seconds(self) -> StageSeconds:
        """What has been counted so far."""
        with self._lock:
            return StageSeconds(**self._seconds)
