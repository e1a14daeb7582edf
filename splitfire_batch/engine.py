"""The engine: one model on one device for any number of open tracks, each a stream.

Each open track calls `separate` in a thread of its own, with blocks of its mix. Its segments go to the
device in batches with those of all other tracks (`batching`), and come back to be blended in order. A track
holds a constant number of segments, whatever its length, and frames that no later segment can touch leave
at once.

Axes: G lanes (channel pairs of a track), S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from splitfire_batch.batching import Batcher, Busy, torch_threads
from splitfire_batch.blending import MixBuffer, OverlapAdd
from splitfire_batch.requests import Request, RequestQueue
from splitfire_batch.segments import Model, Segment, cpu_pack
from splitfire_batch.stopwatch import DeviceClock, Stopwatch
from splitfire_batch.transfer import open_transfer

_ENDLESS = 2**62
_HELD_SEGMENTS = 5
"""Segments' worth of mix and estimates that a track holds at most: two in flight, the rest in copies."""


class Engine:
    """Runs one model on its device for any number of open tracks.

    Args:
        model: the network with its segmentation.
        batch: full segments that go through the network together; default: 1 on a CPU, 8 on a GPU.
        packs_short: shorter segments go in larger batches: for many tracks at a time. Default: unless an
            empty slot costs as much as any other, as in a model that uses all cores of a CPU.
        in_turn: lets batches wait, and hears of them instead of `clock`: where models share a device.
    """

    def __init__(
        self,
        model: Model,
        batch: int | None = None,
        packs_short: bool | None = None,
        in_turn: Busy | None = None,
    ) -> None:
        is_cpu = model.device.type == "cpu"
        self.model = model
        self.batch = batch or (1 if is_cpu else 8)
        """Full segments in a batch."""
        self.n_servers = torch_threads() if model.is_for_one_core else 1
        """Batches that are computed at the same time."""
        self.clock = DeviceClock(os.cpu_count() or 1, self.n_servers)
        """Where the device's seconds go; the stopwatches of all tracks should tell it of their stages."""
        self.full_frames = model.segments(_ENDLESS)[0].n_frames
        """Frames of a segment that is not cut short by its track's end."""
        self._packs_short = not is_cpu or model.is_for_one_core if packs_short is None else packs_short
        packed = _cpu_size if is_cpu else _gpu_size
        apart = _cpu_size_of_full if model.is_for_one_core else _same_size
        size = packed if self._packs_short else apart
        size = _size_but_of_cut if model.is_of_any_length else size
        self._requests = RequestQueue(partial(size, self.batch, self.full_frames))
        self._look_ahead = self.n_servers + 1
        self._batcher = Batcher(self._requests, open_transfer(model), in_turn or self.clock, self.n_servers)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the device's threads once their queue is empty."""
        self._batcher.close()

    @property
    def busy_s(self) -> float:
        """Seconds the device has computed."""
        return self._batcher.busy_s

    @property
    def queue_bytes(self) -> int:
        """Bytes of audio in the batches that all tracks fill together."""
        return self._look_ahead * self.batch * self._segment_bytes(self.full_frames)

    def track_bytes(self, n_frames: int, n_lanes: int) -> int:
        """Bytes of audio that an open track holds at most, besides those of `queue_bytes`.

        Args:
            n_frames: its length at the model's rate; 0 when it is not known.
            n_lanes: G.
        """
        longest = self.model.segments(n_frames)[0].n_frames if n_frames else self.full_frames
        return _HELD_SEGMENTS * n_lanes * self._segment_bytes(longest)

    def _segment_bytes(self, n_frames: int) -> int:
        """Bytes of a segment and its estimates, in one lane."""
        return 4 * n_frames * self.model.n_channels * (1 + len(self.model.stems))

    def batch_size(self, n_frames: int) -> int:
        """How many segments of that length share a batch."""
        return self._requests.batch_size(n_frames)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know of the batches so far, one sentence per length of segments."""
        n_redone = getattr(self.model, "n_redone", 0)
        redone = f"so far {n_redone} segments were computed again in fp32, which fp16 had no numbers for"
        return (
            *(
                f"batch halved to {size} for segments of {n_frames} frames: the device is out of memory"
                for n_frames, size in sorted(self._requests.halved.items())
            ),
            *((redone,) if n_redone else ()),
        )

    @property
    def batch_label(self) -> str:
        """The batches that the estimates' last bits depend on: `batch8/packed`, `batch8/batch4@527360`."""
        halved = (f"/batch{size}@{frames}" for frames, size in sorted(self._requests.halved.items()))
        packed = "/packed" if self._packs_short else ""
        return f"batch{self.batch}{packed}{''.join(halved)}"

    def separate(
        self, blocks: Iterable[Tensor], watch: Stopwatch | None = None
    ) -> Generator[Tensor, None, None]:
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
        with self._requests.open_track():
            for frames in self._stream(chain([first], blocks), n_lanes, watch or Stopwatch()):
                if frames.shape[-1]:
                    yield frames.reshape(n_lanes, -1, n_channels, frames.shape[-1])

    def _stream(self, blocks: Iterable[Tensor], n_lanes: int, watch: Stopwatch) -> Iterator[Tensor]:
        """Send segments as their frames arrive, keep a few in flight, blend them in order."""
        mix = MixBuffer(n_lanes * self.model.n_channels)
        blend = OverlapAdd(n_lanes * len(self.model.stems), self.model.n_channels)
        in_flight: deque[tuple[Segment, list[Request]]] = deque()
        for segment in self._readable(blocks, mix):
            with watch.measure("blend"):
                lanes = mix.read(segment).reshape(n_lanes, self.model.n_channels, segment.n_frames)
            in_flight.append((segment, self._requests.send(lanes)))
            if len(in_flight) > max(1, self._look_ahead * self.batch // self._requests.n_open):
                self._blend_oldest(in_flight, blend, watch)
                yield blend.take(in_flight[0][0].lands.start)
        while in_flight:
            self._blend_oldest(in_flight, blend, watch)
            yield blend.take(in_flight[0][0].lands.start if in_flight else mix.n_frames)

    def _readable(self, blocks: Iterable[Tensor], mix: MixBuffer) -> Iterator[Segment]:
        """The track's segments, each as soon as `mix` can give it; what no later one needs is dropped."""
        n_read = 0
        for block in chain(blocks, [None]):
            if block is not None:
                mix.push(block.flatten(0, 1))
            segments = self.model.segments(mix.n_frames)
            while n_read < len(segments):
                mix.drop_before(segments[n_read].start - segments[n_read].n_back)
                if block is not None and segments[n_read].stop > mix.n_frames:
                    break
                yield segments[n_read]
                n_read += 1

    def _blend_oldest(
        self, in_flight: deque[tuple[Segment, list[Request]]], blend: OverlapAdd, watch: Stopwatch
    ) -> None:
        """Wait for the oldest segment in flight and add its estimates (G*S, C, L)."""
        segment, requests = in_flight.popleft()
        estimates = self._requests.receive(requests)
        watch.add("device", sum(request.seconds for request in requests))
        watch.add("wait_device", sum(request.waited_s for request in requests))
        with watch.measure("blend"):
            whole = torch.cat(estimates) if len(estimates) > 1 else estimates[0]
            blend.add(segment, whole, self.model.window(segment))


def _same_size(batch: int, full_frames: int, n_frames: int) -> int:  # noqa: ARG001
    return batch


def _size_but_of_cut(batch: int, full_frames: int, n_frames: int) -> int:
    """Lengths that may be any go alone: whatever shares their batch would be silence."""
    return batch if n_frames == full_frames else 1


def _gpu_size(batch: int, full_frames: int, n_frames: int) -> int:
    """As many as there are frames for in a batch of full segments."""
    return max(1, batch * full_frames // n_frames)


def _cpu_size(batch: int, full_frames: int, n_frames: int) -> int:
    return batch * cpu_pack(n_frames, full_frames)


def _cpu_size_of_full(batch: int, full_frames: int, n_frames: int) -> int:
    """Short ones go alone: in a batch they would make a pack, and have other bits than in a batch of one."""
    return batch if cpu_pack(n_frames, full_frames) == 1 else 1
