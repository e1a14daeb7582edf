"""Busy seconds per stage of one track.

A stage's time is what was spent inside it, waiting for other stages excluded. One stopwatch belongs to one
track; its stages may run in several threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from splitfire_batch.records import StageSeconds

Stage = Literal["fetch", "decode", "device", "encode", "store"]
Item = TypeVar("Item")


class Stopwatch:
    """Adds up seconds per stage."""

    def __init__(self) -> None:
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
            yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def timed(self, stage: Stage, items: Iterable[Item]) -> Iterator[Item]:
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
