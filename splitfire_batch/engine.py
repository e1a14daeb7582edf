"""The engine: one model on one device for any number of open tracks, each a stream.

Each open track calls `separate` in a thread of its own, with blocks of its mix. Its segments go to the
device in batches with those of all other tracks (`batching`), and come back to be blended in order. A track
holds a constant number of segments, whatever its length, and frames that no later segment can touch leave
at once.

Axes: G lanes (channel pairs of a track), S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from splitfire_batch.batching import Batcher, Request
from splitfire_batch.segments import MixBuffer, Model, OverlapAdd, Segment
from splitfire_batch.stopwatch import Stopwatch


class Engine:
    """Runs one model on its device for any number of open tracks.

    Args:
        model: the network with its segmentation.
        batch: full segments that go through the network together; default: 1 on a CPU, 8 on a GPU.
        packs_short: shorter segments go in proportionally larger batches; default: on a GPU. On a CPU a
            slot that holds only padding costs as much as any other.
    """

    def __init__(self, model: Model, batch: int | None = None, packs_short: bool | None = None) -> None:
        is_cpu = model.device.type == "cpu"
        self.model = model
        self.batch = batch or (1 if is_cpu else 8)
        """Full segments in a batch."""
        self._batcher = Batcher(model, self.batch, not is_cpu if packs_short is None else packs_short)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the device thread once its queue is empty."""
        self._batcher.close()

    @property
    def busy_s(self) -> float:
        """Seconds the device has computed."""
        return self._batcher.busy_s

    def batch_size(self, n_frames: int) -> int:
        """How many segments of that length share a batch."""
        return self._batcher.batch_size(n_frames)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know of the batches so far, one sentence per length of segments."""
        return tuple(
            f"batch halved to {size} for segments of {n_frames} frames: the device is out of memory"
            for n_frames, size in sorted(self._batcher.halved.items())
        )

    @property
    def batch_label(self) -> str:
        """The batches that the estimates' last bits depend on: `batch8`, or `batch8/batch4@527360`."""
        halved = (f"/batch{size}@{frames}" for frames, size in sorted(self._batcher.halved.items()))
        return f"batch{self.batch}{''.join(halved)}"

    def separate(self, blocks: Iterable[Tensor], watch: Stopwatch | None = None) -> Iterator[Tensor]:
        """Finished frames of every stem, as soon as they are final.

        Args:
            blocks: the mix in pieces (G, C, n) at the model's rate, float32, any n; G must not change.
            watch: gets the track's share of the device's seconds.

        Yields:
            (G, S, C, n), float32, on the CPU; together as many frames as the blocks had.

        Raises:
            TrackError: OOM, with a batch of one segment.
            DeviceLost: the model raised on an accelerator.
            RuntimeError: the engine was closed.
        """
        blocks = iter(blocks)
        first = next(blocks, None)
        if first is None:
            return
        n_lanes, n_channels = first.shape[:2]
        with self._batcher.open_track():
            for frames in self._stream(chain([first], blocks), n_lanes, watch or Stopwatch()):
                if frames.shape[-1]:
                    yield frames.reshape(n_lanes, -1, n_channels, frames.shape[-1])

    def _stream(self, blocks: Iterable[Tensor], n_lanes: int, watch: Stopwatch) -> Iterator[Tensor]:
        """Send segments as their frames arrive, keep a few in flight, blend them in order."""
        mix = MixBuffer(n_lanes * self.model.n_channels)
        blend = OverlapAdd(n_lanes * len(self.model.stems), self.model.n_channels)
        in_flight: deque[tuple[Segment, list[Request]]] = deque()
        for segment in self._readable(blocks, mix):
            lanes = mix.read(segment).reshape(n_lanes, self.model.n_channels, segment.n_frames)
            in_flight.append((segment, self._batcher.send(lanes)))
            if len(in_flight) > 2 * self.batch:
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
        self, in_flight: deque[tuple[Segment, list[Request]]], blend: OverlapAdd, watch: Stopwatch
    ) -> None:
        """Wait for the oldest segment in flight and add its estimates (G*S, C, L)."""
        segment, requests = in_flight.popleft()
        received = self._batcher.receive(requests)
        estimates = torch.cat(received) if len(received) > 1 else received[0]
        watch.add("device", sum(request.seconds for request in requests))
        blend.add(segment, estimates, self.model.window(segment.n_frames))
