"""Several networks at the same time, each on its share of torch's threads.

On a CPU that is faster than one after the other on all threads: convolutions are so small that the threads
would often wait for each other, and each core keeps its own images in its cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Net = TypeVar("Net")
Result = TypeVar("Result")


class SideBySide:
    """Threads for `n` networks; they are made at the first call and end with this object."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._n_threads = 0
        self._pool: ThreadPoolExecutor | None = None

    def map(self, work: Callable[[Net], Result], nets: Sequence[Net]) -> list[Result]:
        """What `work` gives for each network, in order; with one torch thread, one after the other."""
        n_threads = torch.get_num_threads()
        if n_threads == 1 or self._n == 1:
            return [work(net) for net in nets]
        if self._pool is None or n_threads != self._n_threads:
            self._pool, self._n_threads = _pool(n_threads, self._n), n_threads
        return list(self._pool.map(work, nets))


def _pool(n_threads: int, n_nets: int) -> ThreadPoolExecutor:
    """A pool whose threads share torch's threads among them.

    `torch.set_num_threads` holds for the thread that calls it, and for threads that use torch for the first
    time later on: so it is set back when all threads of the pool have called it.
    """
    n_workers = min(n_threads, n_nets)
    pool = ThreadPoolExecutor(n_workers, "net", initializer=_take, initargs=(max(1, n_threads // n_nets),))
    are_ready = threading.Barrier(n_workers)
    for ready in [pool.submit(are_ready.wait) for _ in range(n_workers)]:
        ready.result()
    torch.set_num_threads(n_threads)
    return pool


def _take(n_threads: int) -> None:
    """Set the calling thread's share; the first use of torch, whatever it is, would set it back."""
    torch.get_num_threads()
    torch.set_num_threads(n_threads)
