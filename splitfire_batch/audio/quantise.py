"""From float samples to integers of a given depth: round to nearest, dither on request, never clip.

libsndfile's own conversion in WAV and AIFF rounds down, which shifts a stem by half a step and a sum of
four stems by two; so integers are made here and libsndfile only stores them. TPDF dither is the sum of
two uniform noises, triangular on (-1, 1) steps: the total error then has a mean and a variance that do
not depend on the signal (Lipshitz, Wannamaker & Vanderkooy 1992).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32] | NDArray[np.int64]

_FINE_BITS = 12
"""Noise comes in 2^-12 of a step; so do samples, to which it is added."""
NO_NOISE = (1 << _FINE_BITS) - 1
"""What a Dither draws where the noise is zero, half of the most."""
_FINE = float(1 << _FINE_BITS)
_ROOM = float(2**31 - 2 * NO_NOISE)
"""Samples and their noise fit 32 bits below; at 16 bits that is 24 dB over full scale."""
_CHUNK = 4096
"""Samples of noise that are made together, so that they do not depend on how many are asked for."""
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
        self._left = np.zeros(0, np.uint16)

    def draw(self, n: int) -> NDArray[np.uint16]:
        """The next n samples of noise, each the sum of two random numbers of 12 bits; NO_NOISE on average."""
        n_chunks = max(0, -(-(n - len(self._left)) // _CHUNK))
        words = self._source.random_raw(n_chunks * _CHUNK // 2).astype("<u8", copy=False).view("<u2")
        words >>= 16 - _FINE_BITS
        pairs = words.reshape(n_chunks, 2, _CHUNK)
        drawn = np.concatenate([self._left, (pairs[:, 0] + pairs[:, 1]).reshape(-1)])
        self._left = drawn[n:].copy()
        return drawn[:n]


def quantise(x: NDArray[np.floating], bits: int, gain: float = 1.0, dither: Dither | None = None) -> Integers:
    """x * gain * 2^(bits-1) + dither, to the nearest integer; neither clipped nor checked against full scale.

    Without dither in float64. With it in 2^-12 of a step, far below the noise: samples lose at most half of
    that, and float32 ones with a gain other than 1 at most 2^-8 of a step more, at full scale.

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
    scale = gain * float(1 << (bits - 1))
    if dither is not None:
        return _dithered(x, scale, dither)
    steps: NDArray[np.float64] = np.multiply(x, scale, dtype=np.float64)
    return _integers(np.rint(steps, out=steps))


def _dithered(x: NDArray[np.floating], scale: float, dither: Dither) -> Integers:
    """floor(x * scale + noise + 1/2), all in 2^-12 of a step: in 32 bits as long as they are enough."""
    with np.errstate(over="ignore"):  # it is infinite then, which is refused below
        fine = np.multiply(x, x.dtype.type(scale * _FINE))
    np.rint(fine, out=fine)
    noise = dither.draw(x.size).reshape(x.shape)
    offset = (1 << (_FINE_BITS - 1)) - NO_NOISE
    if -_ROOM < fine.min(initial=0.0) <= fine.max(initial=0.0) < _ROOM:
        integers: NDArray[np.int32] = fine.astype(np.int32)
        integers += noise
        integers += np.int32(offset)
        integers >>= np.int32(_FINE_BITS)
        return integers
    wide = fine.astype(np.float64)
    wide += noise
    wide += offset
    wide /= _FINE
    return _integers(np.floor(wide, out=wide))


def _integers(steps: NDArray[np.float64]) -> Integers:
    least, greatest = steps.min(initial=0.0), steps.max(initial=0.0)
    if not -(2.0**62) < least <= greatest < 2.0**62:
        raise ValueError("samples are NaN, infinite or absurdly large; nothing sensible can be written")
    if -_NARROW < least <= greatest < _NARROW:
        return steps.astype(np.int32)
    return steps.astype(np.int64)
