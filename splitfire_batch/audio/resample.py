"""Sample-rate conversion of streams, by soxr.

The result does not depend, bit for bit, on how the stream was cut into blocks, and has no delay: frame 0
comes out as frame 0. soxr's HQ keeps 20 bits and the band to 0.91 of the lower Nyquist frequency; VHQ costs
twice as much to gain what no separation model can use.
"""

from __future__ import annotations

import math

import numpy as np
import soxr
from numpy.typing import NDArray

QUALITY = soxr.HQ


class Resampler:
    """Converts `n_signals` parallel signals of one track, pushed block by block."""

    def __init__(self, rate_in: int, rate_out: int, n_signals: int) -> None:
        self._lanes: tuple[int, ...] = (n_signals,)
        self._n_signals = n_signals
        self._stream: soxr.ResampleStream | None = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, n_signals, "float32", QUALITY)
        self.n_frames = 0
        """Frames given out so far."""

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """The frames that are ready after `block`, perhaps none; `block` itself when the rates agree.

        Args:
            block: (..., n), float32; the leading axes hold `n_signals` signals, the same in each call.

        Returns:
            (..., m), float32.
        """
        if block.dtype != np.float32 or math.prod(block.shape[:-1]) != self._n_signals:
            raise ValueError(
                f"a block has shape {block.shape} of {block.dtype}, wanted (..., n) of float32 "
                f"with {self._n_signals} signals"
            )
        self._lanes = block.shape[:-1]
        return self._count(self._convert(block, is_last=False))

    def finish(self, n_frames: int | None = None) -> NDArray[np.float32]:
        """The frames still inside; call it once, after the last block.

        Args:
            n_frames: wanted length of the whole output; the rest is cut or padded with zeros to it.
                None for soxr's own, round(n * rate_out / rate_in).

        Returns:
            (..., m), float32; leading axes as pushed.

        Raises:
            ValueError: more than `n_frames` frames were given out before.
        """
        tail = self._convert(np.zeros((*self._lanes, 0), dtype=np.float32), is_last=True)
        if n_frames is None:
            return self._count(tail)
        wanted = n_frames - self.n_frames
        if wanted < 0:
            raise ValueError(f"{self.n_frames} frames were given out, wanted {n_frames} in all")
        missing = wanted - tail.shape[-1]
        if missing > 0:
            tail = np.concatenate([tail, np.zeros((*self._lanes, missing), dtype=np.float32)], axis=-1)
        return self._count(tail[..., :wanted])

    def _convert(self, block: NDArray[np.float32], is_last: bool) -> NDArray[np.float32]:
        """Through soxr, which wants frames first."""
        if self._stream is None:
            return block
        frames = np.ascontiguousarray(block.reshape(self._n_signals, block.shape[-1]).T)
        out = self._stream.resample_chunk(frames, last=is_last)
        return np.ascontiguousarray(out.T, dtype=np.float32).reshape(*self._lanes, out.shape[0])

    def _count(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        self.n_frames += out.shape[-1]
        return out
