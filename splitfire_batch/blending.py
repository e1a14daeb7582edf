"""From a mix to the segments that are read of it, and from their estimates back to one signal per stem.

Both ways are streaming: they hold only the frames that some segment still needs, whatever the track's
length, and give the same result, bit for bit, however the track was cut into blocks.

Axes: S stems, C channels, T frames, L frames of a segment.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from splitfire_batch.segments import Segment


class MixBuffer:
    """The part of a mix that segments still have to read."""

    def __init__(self, n_channels: int) -> None:
        self._n_channels = n_channels
        self._blocks: deque[Tensor] = deque()
        self._blocks_start = 0
        self._start = 0
        self.n_frames = 0
        """Frames pushed so far, those already dropped included."""

    def push(self, block: Tensor) -> None:
        """Append a block (C, n), float32; it is kept, not copied."""
        if block.ndim != 2 or block.shape[0] != self._n_channels:
            raise ValueError(f"a block has shape {tuple(block.shape)}, wanted ({self._n_channels}, n)")
        self._blocks.append(block)
        self.n_frames += block.shape[1]

    def read(self, segment: Segment) -> Tensor:
        """The segment's frames (C, L), a copy; outside of what was pushed it is filled as it says.

        Raises:
            ValueError: frames of it were dropped.
        """
        is_tiled = segment.fill == "tile" and 0 < self.n_frames < segment.stop
        if is_tiled and self._start:
            raise ValueError(f"{segment} repeats the track, of which {self._start} frames were dropped")
        if max(segment.start, 0) < self._start:
            raise ValueError(f"{segment} begins before frame {self._start}, the first one still held")
        if is_tiled:
            first = segment.start % self.n_frames
            n_times = -(-(first + segment.n_frames) // self.n_frames)
            tiles = torch.cat(list(self._blocks), dim=1).repeat(1, n_times)
            return tiles[:, first : first + segment.n_frames].contiguous()
        if segment.fill == "reflect" and (segment.start < 0 or segment.stop > self.n_frames > 0):
            return self._mirrored(segment)
        out = torch.empty((self._n_channels, segment.n_frames))
        out[:, : max(0, -segment.start)] = 0
        out[:, max(0, self.n_frames - segment.start) :] = 0
        self._copy(out, segment.start)
        return out

    def drop_before(self, frame: int) -> None:
        """Forget the frames before `frame`."""
        self._start = max(self._start, min(frame, self.n_frames))
        while self._blocks and self._blocks_start + self._blocks[0].shape[1] <= self._start:
            self._blocks_start += self._blocks.popleft().shape[1]

    def _mirrored(self, segment: Segment) -> Tensor:
        """A segment that runs past an end of the track: there the track goes back, and forth again."""
        places = torch.arange(segment.start, segment.stop)
        period = max(1, 2 * (self.n_frames - 1))
        places = (places % period).minimum(-places % period)
        oldest = int(places.min())
        if oldest < self._start:
            raise ValueError(f"{segment} is mirrored back to frame {oldest}, before the first one still held")
        held = torch.cat(list(self._blocks), dim=1)
        return held[:, places - self._blocks_start]

    def _copy(self, out: Tensor, start: int) -> None:
        """Write the frames from `start` on into `out` (C, n), as far as both go."""
        position = self._blocks_start - start
        for block in self._blocks:
            first, last = max(0, position), min(out.shape[1], position + block.shape[1])
            if first < last:
                out[:, first:last] = block[:, first - position : last - position]
            position += block.shape[1]


class OverlapAdd:
    """Blends overlapping estimates into one signal per stem, and lets finished frames go.

    Each frame is sum(w * y) / sum(w) over the segments that cover it, or their plain sum where the model
    has no window. Segments are added in ascending order, so the result cannot depend on batches, and a gap
    before one of them can never be filled. Sums are made where the newest estimate lies: a segment that
    shares little with its neighbours is never copied.
    """

    def __init__(self, n_stems: int, n_channels: int) -> None:
        self._sum = torch.zeros((n_stems, n_channels, 0))
        self._weight = torch.zeros(0)
        self._start = 0

    def add(self, segment: Segment, estimate: Tensor, window: Tensor | None) -> None:
        """Add what lands of an estimate (S, C, L) of a segment; `window` is (n,) over just that, or None.

        The estimate is the blend's from then on: it may be written to.

        Raises:
            ValueError: a frame before the segment lands is covered by no segment.
        """
        start = segment.lands.start
        self._check_covered(start)
        skip = max(0, self._start - start)
        position = start + skip - self._start
        with torch.inference_mode():  # for estimates that were made in it
            estimate = estimate[..., segment.landing]
            if window is not None:
                estimate *= window
                self._weight = _added(self._weight, window[skip:].clone(), position)
            self._sum = _added(self._sum, estimate[..., skip:], position)

    def take(self, stop: int) -> Tensor:
        """Frames up to `stop`, which no later segment may touch: (S, C, n), never seen again.

        Raises:
            ValueError: a frame is covered by no segment.
        """
        self._check_covered(stop)
        n = max(0, stop - self._start)  # the next segment, too, may begin before the track
        out, rest = self._sum[..., :n], self._sum[..., n:]
        self._sum = rest.clone() if n else rest  # what is left may be little, and would keep all of it alive
        if self._weight.numel():
            with torch.inference_mode():
                out /= self._weight[:n]
            self._weight = self._weight[n:].clone()
        self._start += n
        return out

    def _check_covered(self, stop: int) -> None:
        end = self._start + self._sum.shape[2]
        if stop > end:
            raise ValueError(f"frames {end} to {stop} are in no segment")


def _added(held: Tensor, new: Tensor, position: int) -> Tensor:
    """Sum of `held` (..., m) and of `new` (..., n) that lies `position` frames further on."""
    n_shared = min(held.shape[-1] - position, new.shape[-1])
    new[..., :n_shared] += held[..., position : position + n_shared]
    around = held[..., :position], new, held[..., position + n_shared :]
    parts = [part for part in around if part.shape[-1]]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else new
