"""Segments that wait for the device, and which of them make the next batch.

Requests wait in a queue per segment length; a full batch is taken at once, a partial one as soon as no open
track could add to it; after 50 ms it is due like a full one, and the oldest that is due is taken first. The
size of a batch never depends on load.

Axes: S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from torch import Tensor

_LINGER_S = 0.05


class Request:
    """One segment (C, L) on its way through the device; `seconds` is its share of the batch's time.

    It has `waited_s` for its batch to begin.
    """

    __slots__ = ("estimate", "is_begun", "seconds", "segment", "since", "waited_s")

    def __init__(self, segment: Tensor) -> None:
        self.segment = segment
        self.estimate: Future[Tensor] = Future()
        self.seconds = self.waited_s = 0.0
        self.is_begun = False
        self.since = time.monotonic()


class RequestQueue:
    """Where track threads leave segments and wait for estimates, and the device thread takes batches.

    Args:
        planned_size: how many segments of a length in frames share a batch, if the device has the memory.
    """

    def __init__(self, planned_size: Callable[[int], int]) -> None:
        self._planned_size = planned_size
        self._batch_sizes: dict[int, int] = {}
        self._queues: dict[int, deque[Request]] = {}
        self._awaited: list[list[Request]] = []
        self.n_open = 0
        """Tracks that may send more requests."""
        self._is_closed = False
        self._changed = threading.Condition()

    def close(self) -> None:
        """Accept no more requests; those that wait are still given out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def batch_size(self, n_frames: int) -> int:
        """How many segments of that length share a batch."""
        return self._batch_sizes.get(n_frames) or self._planned_size(n_frames)

    @property
    def halved(self) -> dict[int, int]:
        """Segment lengths in frames whose batches did not fit the device, and what their size is now."""
        return self._batch_sizes.copy()

    def halve(self, n_frames: int) -> None:
        """Segments of that length go in batches of half their size from now on."""
        self._batch_sizes[n_frames] = self.batch_size(n_frames) // 2

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

    def next_batch(self, is_patient: bool) -> list[Request] | None:
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
                    batch = [queue.popleft() for _ in range(min(size, len(queue)))]
                    for request in batch:
                        request.is_begun = True
                    return batch
                self._changed.wait(patience_s)

    def _is_due(self, queue: deque[Request]) -> bool:
        """Full, or overdue: else a partial batch would starve while another length keeps full ones coming."""
        is_full = len(queue) >= self.batch_size(queue[0].segment.shape[-1])
        return is_full or time.monotonic() >= queue[0].since + _LINGER_S

    def _patience_s(self, oldest: Request) -> float:
        """How long a partial batch may wait for more; 0 when no open track can add to it."""
        n_stalled = 0
        for requests in self._awaited:
            undone = [request for request in requests if not request.estimate.done()]
            n_stalled += bool(undone) and not any(request.is_begun for request in undone)
        if self._is_closed or n_stalled >= self.n_open:
            return 0.0
        return max(0.0, oldest.since + _LINGER_S - time.monotonic())
