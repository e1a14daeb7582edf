"""From float samples to integers of a given depth: round to nearest, dither on request, never clip.

libsndfile's own conversion in WAV and AIFF rounds down, which shifts a stem by half a step and a sum of
four stems by two; so integers are made here and libsndfile only stores them. TPDF dither is the sum of
two uniform noises, triangular on (-1, 1) steps: the total error then has a mean and a variance that do
not depend on the signal (Lipshitz, Wannamaker & Vanderkooy 1992).
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32] | NDArray[np.int64]

_HALF = 0xFFFF
"""The greatest 16-bit number, and the mean of the sum of two random ones."""
_NARROW = 2.0**27
"""Steps up to which 32 bits are enough for sums of a mix and stems: at 24 bits 24 dB over full scale."""


def full_scale(bits: int) -> tuple[int, int]:
    """The least and the greatest integer of `bits` bits: (-2^(bits-1), 2^(bits-1) - 1)."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def fits(block: NDArray[Any], bits: int) -> bool:
    """Whether all samples, of any type, lie between the integers of `full_scale`."""
    least, greatest = full_scale(bits)
    return bool(least <= block.min(initial=0) and block.max(initial=0) <= greatest)


class Dither:
    """TPDF noise for one stem of one track: the same on every machine, unlike that of any other stem.

    The noise of a sample depends on how many were drawn before it, not on how a signal is cut into blocks.
    """

    def __init__(self, track_id: str, stem: str) -> None:
        digest = hashlib.sha256(f"{track_id}\0{stem}".encode()).digest()
        self._source = np.random.SFC64(int.from_bytes(digest[:16], "little"))
        self._left = np.zeros(0, np.uint32)

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """The next samples of noise, in steps: both halves of 32 random bits, added; multiples of 2^-16."""
        n = math.prod(shape)
        words = self._source.random_raw((n - len(self._left) + 1) // 2).astype("<u8", copy=False).view("<u4")
        if len(self._left):
            words = np.concatenate([self._left, words])
        words, self._left = words[:n], words[n:].copy()
        sums = (words >> np.uint32(16)) + (words & np.uint32(_HALF))
        noise = sums.astype(np.float64).reshape(shape)
        noise -= _HALF  # so that their mean is zero
        noise *= 2.0**-16
        return noise


def quantise(x: NDArray[np.floating], bits: int, gain: float = 1.0, dither: Dither | None = None) -> Integers:
    """rint(x * gain * 2^(bits-1) + dither), in float64; neither clipped nor checked against full scale.

    Args:
        x: any shape, full scale = 1.
        bits: 2 to 32.
        gain: factor for all stems of the track.
        dither: what is added before rounding; None for plain rounding.

    Returns:
        Right-justified integers, same shape; they may lie outside `full_scale(bits)`. They are 32-bit ones if
        all lie within 2^27 steps.

    Raises:
        ValueError: a sample is NaN, infinite or absurd (2^62 steps).
    """
    steps: NDArray[np.float64] = np.multiply(x, gain * float(1 << (bits - 1)), dtype=np.float64)
    if dither is not None:
        steps += dither.draw(x.shape)
    np.rint(steps, out=steps)
    least, greatest = steps.min(initial=0.0), steps.max(initial=0.0)
    if not -(2.0**62) < least <= greatest < 2.0**62:
        raise ValueError("samples are NaN, infinite or absurdly large; nothing sensible can be written")
    if -_NARROW < least <= greatest < _NARROW:
        return steps.astype(np.int32)
    return steps.astype(np.int64)
