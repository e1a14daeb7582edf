"""Whose turn it is to compute, where several models share the cores of a CPU."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from splitfire_batch.batching import Busy
from splitfire_batch.stopwatch import DeviceClock


class Turns:
    """Who may compute: of models that use all cores of a CPU one at a time, first come, first served.

    Two that compute at once would wait for each other's threads in every step.

    Args:
        n_cores: of the CPU that the members share; None where the device itself sees to it.
    """

    def __init__(self, n_cores: int | None) -> None:
        self.clock = DeviceClock(os.cpu_count() or 1, n_cores or 1)
        """Hears when anybody computes."""
        self._n_cores = self._n_free = n_cores or 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def of(self, is_for_one_core: bool) -> Busy:
        """The turns of a model."""
        return _Turn(self, min(1, self._n_cores) if is_for_one_core else self._n_cores)

    @contextmanager
    def busy(self, n: int) -> Iterator[None]:
        """Inside the block somebody computes on `n` of the cores; 0 for a device of its own."""
        mine = object()
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: self._waiting[0] is mine and self._n_free >= n)
            self._waiting.popleft()
            self._n_free -= n
            self._changed.notify_all()
        try:
            with ExitStack() as stack:
                for _ in range(max(1, n)):
                    stack.enter_context(self.clock.busy())
                yield
        finally:
            with self._changed:
                self._n_free += n
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Turn:
    turns: Turns
    n_cores: int

    def busy(self) -> AbstractContextManager[None]:
        """See `batching.Busy`."""
        return self.turns.busy(self.n_cores)
