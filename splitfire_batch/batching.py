"""The device's side of the engine: requests from all open tracks become batches of fixed shape.

A single thread owns an accelerator and takes batches from a `RequestQueue`; on a CPU there may be one for
each core. A partial batch is padded: shapes never depend on load, so an estimate does not depend on its
neighbours in the batch. On an accelerator the next batch is launched before the one under way is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

import torch

from splitfire_batch.errors import TrackError
from splitfire_batch.requests import Request, RequestQueue
from splitfire_batch.transfer import Receive, Transfer


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A batch that was launched."""

    batch: list[Request]
    receive: Receive
    begin: float


_STARTING = threading.Lock()
_START_S = 60.0


def torch_threads() -> int:
    """How many threads torch uses in the calling one, were it not that some batcher is just starting."""
    with _STARTING:
        return torch.get_num_threads()


class Busy(Protocol):
    """Hears when a device computes; it may let a batch wait until it is its turn."""

    def busy(self) -> AbstractContextManager[None]:
        """The device computes a batch inside the block."""


class Batcher:
    """Runs a model on what is requested, in batches, in threads of its own.

    Args:
        requests: where to take batches from.
        transfer: how batches get to the model; used by these threads only.
        clock: hears when the device computes.
        n_cores: of a CPU, each with a thread that computes batches of its own and in which torch uses no
            other thread.

    Raises:
        RuntimeError: the system has no more threads.
    """

    def __init__(self, requests: RequestQueue, transfer: Transfer, clock: Busy, n_cores: int = 1) -> None:
        self._requests, self._transfer, self._clock = requests, transfer, clock
        self._depth, self._finished_at = transfer.depth, 0.0
        self.busy_s = 0.0
        """Seconds the device has computed, on however many cores."""
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        if n_cores == 1:
            self._threads = [threading.Thread(target=self._serve, name="device", daemon=True)]
            self._threads[0].start()
        else:
            self._start_on_cores(n_cores)

    def close(self) -> None:
        """Stop the device's threads once its queue is empty."""
        self._requests.close()
        for thread in self._threads:
            thread.join()

    def _start_on_cores(self, n: int) -> None:
        """`torch.set_num_threads` holds for the thread that calls it, and for threads that use torch for the
        first time later on: so it is set back when all of ours have called it.
        """
        with _STARTING:
            n_threads, are_ready = torch.get_num_threads(), threading.Barrier(n + 1, timeout=_START_S)
            try:
                for number in range(n):
                    thread = threading.Thread(
                        target=self._serve_alone, args=(are_ready,), name=f"device-{number}", daemon=True
                    )
                    thread.start()
                    self._threads.append(thread)
                are_ready.wait()
            except BaseException:
                are_ready.abort()
                raise
            finally:
                torch.set_num_threads(n_threads)

    def _serve_alone(self, are_ready: threading.Barrier) -> None:
        torch.get_num_threads()  # the first use of torch, whatever it is, would set it back
        torch.set_num_threads(1)
        try:
            are_ready.wait()
        except threading.BrokenBarrierError:
            return  # another one could not start, and the caller knows
        self._serve()

    def _serve(self) -> None:
        """A device thread."""
        under_way: deque[_UnderWay] = deque()
        while (batch := self._requests.next_batch(is_patient=not under_way)) or under_way:
            with self._clock.busy():
                if batch:
                    self._start(batch, under_way)
                if under_way and (not batch or len(under_way) >= self._depth):
                    self._finish(under_way.popleft())

    def _start(self, batch: list[Request], under_way: deque[_UnderWay]) -> None:
        """Launch a batch, if need be after all others, or in parts."""
        began = time.monotonic()
        for request in batch:
            request.waited_s = began - request.since
        launched = self._launch(batch)
        if launched is None and under_way:
            self._depth = 1  # two do not fit the device; whether this one does is seen alone
            while under_way:
                self._finish(under_way.popleft())
            launched = self._launch(batch)
        if launched is None:
            self._halve(batch)
        else:
            under_way.append(launched)

    def _launch(self, batch: list[Request]) -> _UnderWay | None:
        """Start on a batch, padded to its fixed shape; None when the device is out of memory."""
        begin = time.perf_counter()
        segments = [request.segment for request in batch]
        try:
            receive = self._transfer.launch(segments, self._requests.batch_size(segments[0].shape[-1]))
        except torch.OutOfMemoryError:
            return None  # halved by the caller: while the exception lives, it keeps the model's tensors
        except Exception as error:  # noqa: BLE001 - the thread must live on; the track's own thread gets it
            receive = partial(_raise, error)
        return _UnderWay(batch, receive, begin)

    def _finish(self, item: _UnderWay) -> None:
        """Wait for a batch and hand out its estimates."""
        try:
            estimates = item.receive()
        except Exception as error:  # noqa: BLE001 - as above
            for request in item.batch:
                request.estimate.set_exception(error)
            return
        with self._lock:
            now = time.perf_counter()
            seconds = now - max(item.begin, self._finished_at)
            self._finished_at = now
            self.busy_s += seconds
        for request, estimate in zip(item.batch, estimates, strict=True):
            request.seconds = seconds / len(item.batch)
            request.estimate.set_result(estimate)

    def _halve(self, batch: list[Request]) -> None:
        """Out of device memory: this length goes in smaller batches from now on."""
        torch.cuda.empty_cache()
        n_frames = batch[0].segment.shape[-1]
        size = self._requests.batch_size(n_frames)
        if size == 1:
            why = f"one segment of {n_frames} frames does not fit the device"
            batch[0].estimate.set_exception(TrackError("OOM", why))
            return
        self._requests.halve(n_frames)
        while batch:
            n = self._requests.batch_size(n_frames)  # smaller each time a part is halved in its turn
            launched = self._launch(batch[:n])
            if launched is None:
                self._halve(batch[:n])
            else:
                self._finish(launched)
            batch = batch[n:]


def _raise(error: Exception) -> NoReturn:
    raise error
