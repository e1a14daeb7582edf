"""The engine: segments of all open tracks fill batches, and estimates become signals again.

One engine owns one device. Each open track calls `separate` in a thread of its own, with blocks of its mix;
its segments wait in a queue per segment length, and a single device thread takes them from there in batches
of one fixed shape per length. A partial batch is padded and run as soon as no open track could add to it,
or after 50 ms. A track holds a constant number of segments, whatever its length, and frames that no later
segment can touch leave at once.

Shapes never depend on load, so a segment's estimate does not depend on its neighbours in the batch.

Axes: G lanes (channel pairs of a track), B batch, S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor

from splitfire_batch.errors import TrackError
from splitfire_batch.segments import MixBuffer, Model, OverlapAdd, Segment
from splitfire_batch.stopwatch import Stopwatch

_LINGER_S = 0.05
_ENDLESS = 2**62


class _Request:
    """One segment (C, L) on its way through the device."""

    __slots__ = ("estimate", "seconds", "segment", "since")

    def __init__(self, segment: Tensor) -> None:
        self.segment = segment
        self.estimate: Future[Tensor] = Future()
        self.seconds = 0.0
        self.since = time.monotonic()


class Engine:
    """Runs one model on its device for any number of open tracks.

    Args:
        model: the network with its segmentation.
        batch: full segments that go through the network together; shorter segments go in
            proportionally larger batches.
    """

    def __init__(self, model: Model, batch: int = 1) -> None:
        self.model = model
        self.busy_s = 0.0
        """Seconds the device has computed."""
        self._batch_frames = batch * model.segments(_ENDLESS)[0].n_frames
        self._depth = 2 * batch
        self._batch_sizes: dict[int, int] = {}
        self._queues: dict[int, deque[_Request]] = {}
        self._awaited: list[list[_Request]] = []
        self._n_open = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the device thread once its queue is empty."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def batch_size(self, n_frames: int) -> int:
        """How many segments of that length share a batch."""
        return self._batch_sizes.get(n_frames) or max(1, self._batch_frames // n_frames)

    def separate(self, blocks: Iterable[Tensor], watch: Stopwatch | None = None) -> Iterator[Tensor]:
        """Finished frames of every stem, as soon as they are final.

        Args:
            blocks: the mix in pieces (G, C, n) at the model's rate, float32, any n; G must not change.
            watch: gets the track's share of the device's seconds.

        Yields:
            (G, S, C, n), float32, on the CPU; together as many frames as the blocks had.

        Raises:
            TrackError: OOM, with a batch of one segment.
            RuntimeError: the engine was closed.
        """
        blocks = iter(blocks)
        first = next(blocks, None)
        if first is None:
            return
        n_lanes, n_channels = first.shape[:2]
        with self._opened():
            for frames in self._stream(chain([first], blocks), n_lanes, watch or Stopwatch()):
                if frames.shape[-1]:
                    yield frames.reshape(n_lanes, -1, n_channels, frames.shape[-1])

    def _stream(self, blocks: Iterable[Tensor], n_lanes: int, watch: Stopwatch) -> Iterator[Tensor]:
        """Send segments as their frames arrive, keep a few in flight, blend them in order."""
        mix = MixBuffer(n_lanes * self.model.n_channels)
        blend = OverlapAdd(n_lanes * len(self.model.stems), self.model.n_channels)
        in_flight: deque[tuple[Segment, list[_Request]]] = deque()
        for segment in self._readable(blocks, mix):
            in_flight.append((segment, self._send(mix.read(segment))))
            if len(in_flight) > self._depth:
                self._blend_oldest(in_flight, blend, watch)
                yield blend.take(in_flight[0][0].start)
        while in_flight:
            self._blend_oldest(in_flight, blend, watch)
            yield blend.take(in_flight[0][0].start if in_flight else mix.n_frames)

    def _readable(self, blocks: Iterable[Tensor], mix: MixBuffer) -> Iterator[Segment]:
        """The track's segments, each as soon as `mix` can give it; what no later one needs is dropped."""
        n_read = 0
        for block in chain(blocks, [None]):
            if block is not None:
                mix.push(block.flatten(0, 1))
            segments = self.model.segments(mix.n_frames)
            while n_read < len(segments) and (block is None or segments[n_read].stop <= mix.n_frames):
                yield segments[n_read]
                n_read += 1
                if n_read < len(segments):
                    mix.drop_before(segments[n_read].start)

    def _blend_oldest(
        self, in_flight: deque[tuple[Segment, list[_Request]]], blend: OverlapAdd, watch: Stopwatch
    ) -> None:
        segment, requests = in_flight.popleft()
        blend.add(segment, self._receive(requests, watch), self.model.window(segment.n_frames))

    def _send(self, segment: Tensor) -> list[_Request]:
        """Queue a segment (G*C, L), each lane as a request of its own."""
        lanes = segment.reshape(-1, self.model.n_channels, segment.shape[-1])
        requests = [_Request(lane) for lane in lanes]
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the engine is closed; nobody would compute this segment")
            self._queues.setdefault(segment.shape[-1], deque()).extend(requests)
            self._changed.notify_all()
        return requests

    def _receive(self, requests: list[_Request], watch: Stopwatch) -> Tensor:
        """Wait for a segment's estimates (G*S, C, L)."""
        with self._changed:
            self._awaited.append(requests)
            self._changed.notify_all()
        try:
            estimates = [request.estimate.result() for request in requests]
        finally:
            with self._changed:
                self._awaited.remove(requests)
        watch.add("device", sum(request.seconds for request in requests))
        return torch.cat(estimates)

    @contextmanager
    def _opened(self) -> Iterator[None]:
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
        while (batch := self._next_batch()) is not None:
            self._run(batch)

    def _next_batch(self) -> list[_Request] | None:
        """Wait for a batch worth running; None when the engine is closed."""
        with self._changed:
            while True:
                queues = [queue for queue in self._queues.values() if queue]
                if not queues and self._is_closed:
                    return None
                queues.sort(key=lambda queue: queue[0].since)
                full = [q for q in queues if len(q) >= self.batch_size(q[0].segment.shape[-1])]
                patience_s = self._patience_s(queues[0][0]) if queues else None
                if full or patience_s == 0:
                    queue = (full or queues)[0]
                    size = self.batch_size(queue[0].segment.shape[-1])
                    return [queue.popleft() for _ in range(min(size, len(queue)))]
                self._changed.wait(patience_s)

    def _patience_s(self, oldest: _Request) -> float:
        """How long a partial batch may wait for more; 0 when no open track can add to it."""
        n_stalled = sum(any(not r.estimate.done() for r in requests) for requests in self._awaited)
        if self._is_closed or n_stalled >= self._n_open:
            return 0.0
        return max(0.0, oldest.since + _LINGER_S - time.monotonic())

    def _run(self, batch: list[_Request]) -> None:
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
        for request, estimate in zip(batch, estimates[: len(batch)], strict=True):
            request.seconds = seconds / len(batch)
            request.estimate.set_result(estimate)

    def _estimate(self, segments: list[Tensor], size: int) -> Tensor:
        padded = torch.zeros((size, *segments[0].shape))
        torch.stack(segments, out=padded[: len(segments)])
        estimates = self.model(padded.to(self.model.device)).cpu()
        wanted = (size, len(self.model.stems), *segments[0].shape)
        if estimates.shape != wanted:
            raise ValueError(f"{self.model.name} gave shape {tuple(estimates.shape)}, wanted {wanted}")
        return estimates

    def _halve(self, batch: list[_Request], size: int) -> None:
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
