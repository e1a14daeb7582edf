"""Segments: where a model reads a track, and how its estimates become one signal again.

A segment is an excerpt of fixed length. The model decides where its segments lie (`Model.segments`); the
engine reads them and blends their estimates (`blending`).

Axes: B batch, S stems, C channels, T frames, L frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

import torch
from torch import Tensor

Fill = Literal["zeros", "tile", "reflect"]
_CPU_PACKS = {7: 4, 3: 2}


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one segment reads, frames [start, start + n_frames), and which part of its estimate lands.

    Frames before and after the track are zeros. With `fill = "tile"` a segment that runs past the track's end
    reads the track in a circle: after its end comes its beginning, and before its beginning its end. With
    "reflect" the track is mirrored at its ends, each end frame once, as often as it takes. What lands outside
    the track is cut off.
    """

    start: int
    n_frames: int
    fill: Fill = "zeros"
    n_lead: int = 0
    """Frames at its beginning that are context only: their estimate lands nowhere."""
    n_landing: int | None = None
    """Frames after the lead whose estimate lands; None for all of them."""
    n_back: int = 0
    """Frames before `start` that it may read all the same, when it is mirrored at the track's end."""

    @property
    def stop(self) -> int:
        """First frame after the segment."""
        return self.start + self.n_frames

    @property
    def lands(self) -> slice:
        """Frames of the track on which its estimate lands."""
        start = self.start + self.n_lead
        return slice(start, self.stop if self.n_landing is None else start + self.n_landing)

    @property
    def landing(self) -> slice:
        """The same frames, counted within the segment."""
        return slice(self.lands.start - self.start, self.lands.stop - self.start)


class Model(Protocol):
    """A loaded network with its segmentation, ready to call. The engine knows nothing else of a model."""

    @property
    def name(self) -> str:
        """The registry's name."""

    @property
    def sample_rate(self) -> int:
        """Hz, of mixes and estimates."""

    @property
    def n_channels(self) -> int:
        """Channels of a segment."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the estimates, in order."""

    @property
    def device(self) -> torch.device:
        """Where `__call__` wants its segments."""

    @property
    def is_for_one_core(self) -> bool:
        """Whether a call uses one core of the CPU well: the engine then runs one batch on each of its cores.

        Such a model may be called by several threads at a time, and silent segments, with which batches are
        padded, cost it little.
        """

    @property
    def is_of_any_length(self) -> bool:
        """Whether a segment that its track's end cuts has whatever length is left.

        Hardly two tracks share such a length, so it goes alone: a batch of it would be padding.
        """

    def segments(self, n_frames: int) -> Sequence[Segment]:
        """Segments of a track of `n_frames` frames, by ascending start; lazy and cheap to ask for.

        Prefix law: a segment that ends within the first `n_frames` frames is the same for every longer
        track, so it can be computed before the track's end is known. Every frame is covered.
        """

    def window(self, segment: Segment) -> Tensor | None:
        """Weights (n,) over the frames on which a segment lands, all > 0; the blend is sum(w * y) / sum(w).

        None: the estimates already carry their window and are simply summed.
        """

    def __call__(self, segments: Tensor) -> Tensor:
        """Estimates (B, S, C, L) of segments (B, C, L), float32, on `device`."""


@dataclass(frozen=True, slots=True)
class LazySegments(Sequence[Segment]):
    """`n` segments, each made when it is asked for."""

    n: int
    make: Callable[[int], Segment]

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        if isinstance(index, slice):
            return [self.make(i) for i in range(*index.indices(self.n))]
        if not 0 <= index < self.n:
            raise IndexError(index)
        return self.make(index)


def uniform_segments(n_frames: int, length: int, stride: int) -> LazySegments:
    """Segments of one length every `stride` frames from frame 0, the last one running past the end."""
    n = 1 + max(0, -(-(n_frames - length) // stride))
    return LazySegments(n, lambda index: Segment(index * stride, length))


def cpu_pack(length: int, full_length: int) -> int:
    """How many segments of that length share a batch or more on a CPU; both in frames, or in STFT columns.

    Four are at most a seventh, two at most a third of a full one: more would gain little, and slots that stay
    empty are not quite free. Networks compute larger batches in packs of so many, which makes no bit differ.
    """
    return next((n for part, n in _CPU_PACKS.items() if length * part <= full_length), 1)
