"""Whether a worker gets on with its tracks, however long they are: what its sign of life is made of.

A track of ten hours gives no event for hours, and a worker that hangs gives none either. The difference
is that the first finishes blocks, batches and files meanwhile, or computes, or waits for a store that has a
retry budget of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from splitfire_batch.stopwatch import DeviceClock

STORE_S = 600.0
"""Tracks that all wait for a store are given this long: more than its retries take before they give up."""
_AT_WORK = 0.05
"""CPU seconds per second: an idle process needs a fifth of it, the batch of a slow model many times it."""


class Pulse:
    """Compares what a worker has done with what it had done when it was last asked.

    Args:
        clock: hears of every step of every track.
        now: seconds on any clock that never goes back.
        cpu: CPU seconds of this process.
    """

    def __init__(
        self,
        clock: DeviceClock,
        now: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._now, self._cpu = clock, now, cpu
        self._n_steps, self._cpu_s = clock.n_steps, cpu()
        self._asked_at = self._advanced_at = now()

    def beats(self) -> bool:
        """Whether anything got on since the last call, or may still be waiting for a store."""
        now, n_steps, cpu_s = self._now(), self._clock.n_steps, self._cpu()
        if n_steps != self._n_steps or cpu_s - self._cpu_s > _AT_WORK * (now - self._asked_at):
            self._advanced_at = now
        self._asked_at, self._n_steps, self._cpu_s = now, n_steps, cpu_s
        if self._advanced_at == now:
            return True
        return self._clock.waits_for_store and now < self._advanced_at + STORE_S
