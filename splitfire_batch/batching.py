"""The device's side of the engine: requests from all open tracks become batches of fixed shape.

A single thread owns the device. Requests wait in a queue per segment length; a full batch runs at once, a
partial one is padded and runs as soon as no open track could add to it; after 50 ms it is due like a full
one, and the oldest that is due runs first. Shapes never depend on load, so an estimate does not depend on its
neighbours in the batch.

Axes: B batch, S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import torch
from torch import Tensor

from splitfire_batch.errors import TrackError
from splitfire_batch.segments import Model
from splitfire_batch.stopwatch import DeviceClock

_LINGER_S = 0.05
_ENDLESS = 2**62


class DeviceLost(RuntimeError):
    """The model raised on an accelerator, which may be unusable from then on: only a new process helps."""


class Request:
    """One segment (C, L) on its way through the device; `seconds` is its share of the batch's time.

    It has `waited_s` for its batch to begin.
    """

    __slots__ = ("estimate", "seconds", "segment", "since", "waited_s")

    def __init__(self, segment: Tensor) -> None:
        self.segment = segment
        self.estimate: Future[Tensor] = Future()
        self.seconds = self.waited_s = 0.0
        self.since = time.monotonic()


class Batcher:
    """Runs a model on whatever segments are sent, in batches.

    Args:
        model: called by the device thread only.
        batch: full segments that go through the network together.
        packs_short: shorter segments go in proportionally larger batches.
        clock: hears when the device computes.
    """

    def __init__(self, model: Model, batch: int, packs_short: bool, clock: DeviceClock | None = None) -> None:
        self._model, self._clock = model, clock or DeviceClock(1)
        self._batch, self._packs_short = batch, packs_short
        self.full_frames = model.segments(_ENDLESS)[0].n_frames
        """Frames of a segment that is not cut short by the track's end."""
        self._batch_sizes: dict[int, int] = {}
        self._queues: dict[int, deque[Request]] = {}
        self._awaited: list[list[Request]] = []
        self.n_open = 0
        """Tracks that may send more requests."""
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
        packed = self._batch * self.full_frames // n_frames if self._packs_short else self._batch
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
            self.n_open += 1
        try:
            yield
        finally:
            with self._changed:
                self.n_open -= 1
                self._changed.notify_all()

    def _serve(self) -> None:
        """The device thread."""
        while (batch := self._next_batch()) is not None:
            began = time.monotonic()
            for request in batch:
                request.waited_s = began - request.since
            with self._clock.busy():
                self._run(batch)

    def _next_batch(self) -> list[Request] | None:
        """Wait for a batch worth running; None when the engine is closed."""
        with self._changed:
            while True:
                queues = [queue for queue in self._queues.values() if queue]
                if not queues and self._is_closed:
                    return None
                queues.sort(key=lambda queue: queue[0].since)
                due = [queue for queue in queues if self._is_due(queue)]
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
        if self._is_closed or n_stalled >= self.n_open:
            return 0.0
        return max(0.0, oldest.since + _LINGER_S - time.monotonic())

    def _run(self, batch: list[Request]) -> None:
        """Compute one batch, padded to its fixed shape, and hand out the estimates."""
        begin, estimates = time.perf_counter(), None
        size = self.batch_size(batch[0].segment.shape[-1])
        try:
            estimates = self._estimate([request.segment for request in batch], size)
        except torch.OutOfMemoryError:
            pass  # halved below: while the exception lives, its traceback keeps the model's tensors
        except Exception as error:  # noqa: BLE001 - the thread must live on; the track's own thread gets it
            for request in batch:
                request.estimate.set_exception(error)
            return
        if estimates is None:
            self._halve(batch, size)
            return
        seconds = time.perf_counter() - begin
        self.busy_s += seconds
        for request, estimate in zip(batch, estimates, strict=True):
            request.seconds = seconds / len(batch)
            request.estimate.set_result(estimate)

    def _estimate(self, segments: list[Tensor], size: int) -> list[Tensor]:
        """The estimates, each in memory of its own: none keeps those of slower tracks, nor padding, alive."""
        padded = torch.zeros((size, *segments[0].shape))
        torch.stack(segments, out=padded[: len(segments)])
        with self._on_device():
            estimates = self._model(padded.to(self._model.device))
        wanted = (size, len(self._model.stems), *segments[0].shape)
        if estimates.shape != wanted:
            raise ValueError(f"{self._model.name} gave shape {tuple(estimates.shape)}, wanted {wanted}")
        with self._on_device():
            return [estimate.to("cpu", copy=size > 1) for estimate in estimates[: len(segments)]]

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """What an accelerator raises, every later call may raise again."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if self._model.device.type == "cpu":
                raise
            why = f"{self._model.name} on {self._model.device}: {type(error).__name__}: {error}"
            raise DeviceLost(why) from error

    def _halve(self, batch: list[Request], size: int) -> None:
        """Out of device memory: this length goes in smaller batches from now on."""
        torch.cuda.empty_cache()
        n_frames = batch[0].segment.shape[-1]
        if size == 1:
            why = f"one segment of {n_frames} frames does not fit the device"
            batch[0].estimate.set_exception(TrackError("OOM", why))
            return
        self._batch_sizes[n_frames] = size // 2
        while batch:
            n = self.batch_size(n_frames)  # smaller each time a part is halved in its turn
            self._run(batch[:n])
            batch = batch[n:]
