"""The device's side of the engine: requests from all open tracks become batches of fixed shape.

A single thread owns the device. Requests wait in a queue per segment length; a full batch runs at once, a
partial one is padded and runs as soon as no open track could add to it; after 50 ms it is due like a full
one, and the oldest that is due runs first. Shapes never depend on load, so an estimate does not depend on its
neighbours in the batch. On an accelerator the next batch is launched before the one under way is waited for.

Axes: B batch, S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from splitfire_batch.errors import TrackError
from splitfire_batch.segments import Model
from splitfire_batch.transfer import Receive, Transfer, open_transfer

_LINGER_S = 0.05
_ENDLESS = 2**62


class Request:
    """One segment (C, L) on its way through the device; `seconds` is its share of the batch's time."""

    __slots__ = ("estimate", "seconds", "segment", "since")

    def __init__(self, segment: Tensor) -> None:
        self.segment = segment
        self.estimate: Future[Tensor] = Future()
        self.seconds = 0.0
        self.since = time.monotonic()


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A batch that was launched."""

    batch: list[Request]
    receive: Receive
    begin: float


class Batcher:
    """Runs a model on whatever segments are sent, in batches.

    Args:
        model: called by the device thread only.
        batch: full segments that go through the network together.
        packs_short: shorter segments go in proportionally larger batches.
        transfer: how batches get to the model; default: as its device wants it.
    """

    def __init__(self, model: Model, batch: int, packs_short: bool, transfer: Transfer | None = None) -> None:
        self._model = model
        self._transfer = transfer or open_transfer(model)
        self._depth, self._finished_at = self._transfer.depth, 0.0
        self._batch, self._packs_short = batch, packs_short
        self._full_frames = model.segments(_ENDLESS)[0].n_frames
        self._batch_sizes: dict[int, int] = {}
        self._queues: dict[int, deque[Request]] = {}
        self._awaited: list[list[Request]] = []
        self._n_open = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self.busy_s = 0.0
        """Seconds the device has computed."""
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the device thread once its queue is empty."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def batch_size(self, n_frames: int) -> int:
        """How many segments of that length share a batch."""
        packed = self._batch * self._full_frames // n_frames if self._packs_short else self._batch
        return self._batch_sizes.get(n_frames) or max(1, packed)

    @property
    def halved(self) -> dict[int, int]:
        """Segment lengths in frames whose batches did not fit the device, and what their size is now."""
        return self._batch_sizes.copy()

    def send(self, segments: Iterable[Tensor]) -> list[Request]:
        """Queue segments (C, L) of one length, one request each.

        Raises:
            RuntimeError: the batcher was closed.
        """
        requests = [Request(segment) for segment in segments]
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the engine is closed; nobody would compute this segment")
            self._queues.setdefault(requests[0].segment.shape[-1], deque()).extend(requests)
            self._changed.notify_all()
        return requests

    def receive(self, requests: list[Request]) -> list[Tensor]:
        """Wait for estimates (S, C, L), on the CPU.

        Raises:
            TrackError: OOM, with a batch of one segment.
            DeviceLost: the model raised on an accelerator; on a CPU its exception comes as it is.
        """
        with self._changed:
            self._awaited.append(requests)
            self._changed.notify_all()
        try:
            return [request.estimate.result() for request in requests]
        finally:
            with self._changed:
                self._awaited.remove(requests)

    @contextmanager
    def open_track(self) -> Iterator[None]:
        """While it is open, more requests may come: a partial batch may be worth a short wait."""
        with self._changed:
            self._n_open += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_open -= 1
                self._changed.notify_all()

    def _serve(self) -> None:
        """The device thread."""
        under_way: deque[_UnderWay] = deque()
        while (batch := self._next_batch(is_patient=not under_way)) or under_way:
            if batch:
                self._start(batch, under_way)
            if under_way and (not batch or len(under_way) >= self._depth):
                self._finish(under_way.popleft())

    def _start(self, batch: list[Request], under_way: deque[_UnderWay]) -> None:
        """Launch a batch, if need be after all others, or in parts."""
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

    def _next_batch(self, is_patient: bool) -> list[Request] | None:
        """Wait for a batch worth running; None when the engine is closed, or at once if not patient.

        Unless patient something is under way, and tracks that wait for it may soon complete a batch.
        """
        with self._changed:
            while True:
                queues = [queue for queue in self._queues.values() if queue]
                if not queues and self._is_closed:
                    return None
                queues.sort(key=lambda queue: queue[0].since)
                due = [queue for queue in queues if self._is_due(queue)]
                if not due and not is_patient:
                    return None
                patience_s = self._patience_s(queues[0][0]) if queues else None
                if due or patience_s == 0:
                    queue = (due or queues)[0]
                    size = self.batch_size(queue[0].segment.shape[-1])
                    return [queue.popleft() for _ in range(min(size, len(queue)))]
                self._changed.wait(patience_s)

    def _is_due(self, queue: deque[Request]) -> bool:
        """Full, or overdue: else a partial batch would starve while another length keeps full ones coming."""
        is_full = len(queue) >= self.batch_size(queue[0].segment.shape[-1])
        return is_full or time.monotonic() >= queue[0].since + _LINGER_S

    def _patience_s(self, oldest: Request) -> float:
        """How long a partial batch may wait for more; 0 when no open track can add to it."""
        n_stalled = sum(any(not r.estimate.done() for r in requests) for requests in self._awaited)
        if self._is_closed or n_stalled >= self._n_open:
            return 0.0
        return max(0.0, oldest.since + _LINGER_S - time.monotonic())

    def _launch(self, batch: list[Request]) -> _UnderWay | None:
        """Start on a batch, padded to its fixed shape; None when the device is out of memory."""
        begin = time.perf_counter()
        segments = [request.segment for request in batch]
        try:
            receive = self._transfer.launch(segments, self.batch_size(segments[0].shape[-1]))
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
        size = self.batch_size(n_frames)
        if size == 1:
            why = f"one segment of {n_frames} frames does not fit the device"
            batch[0].estimate.set_exception(TrackError("OOM", why))
            return
        self._batch_sizes[n_frames] = size // 2
        while batch:
            n = self.batch_size(n_frames)  # smaller each time a part is halved in its turn
            launched = self._launch(batch[:n])
            if launched is None:
                self._halve(batch[:n])
            else:
                self._finish(launched)
            batch = batch[n:]


def _raise(error: Exception) -> NoReturn:
    raise error
