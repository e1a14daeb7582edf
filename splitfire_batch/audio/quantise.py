"""From float samples to integers of a given depth: round to nearest, dither on request, never clip.

libsndfile's own conversion in WAV and AIFF rounds down, which shifts a stem by half a step and a sum of
four stems by two; so integers are made here and libsndfile only stores them. TPDF dither is the sum of
two uniform noises, triangular on (-1, 1) steps: the total error then has a mean and a variance that do
not depend on the signal (Lipshitz, Wannamaker & Vanderkooy 1992).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def full_scale(bits: int) -> tuple[int, int]:
    """The least and the greatest integer of `bits` bits: (-2^(bits-1), 2^(bits-1) - 1)."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def quantise(
    x: NDArray[np.floating], bits: int, gain: float = 1.0, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """rint(x * gain * 2^(bits-1) + dither), in float64; neither clipped nor checked against full scale.

    The dither of a sample depends on how many were drawn before it, not on how a signal is cut into blocks.

    Args:
        x: any shape, full scale = 1.
        bits: 2 to 32.
        gain: factor for all stems of the track.
        rng: source of TPDF dither, see `dither_source`; None for plain rounding.

    Returns:
        Right-justified integers, same shape; they may lie outside `full_scale(bits)`.

    Raises:
        ValueError: a sample is NaN, infinite or absurd (2^62 steps).
    """
    steps: NDArray[np.float64] = np.multiply(x, gain * float(1 << (bits - 1)), dtype=np.float64)
    if rng is not None:
        noise = rng.random((*x.shape, 2))
        steps += noise[..., 0] - noise[..., 1]
    np.rint(steps, out=steps)
    if not -(2.0**62) < steps.min(initial=0.0) <= steps.max(initial=0.0) < 2.0**62:
        raise ValueError("samples are NaN, infinite or absurdly large; nothing sensible can be written")
    return steps.astype(np.int64)


def to_int(x: NDArray[np.floating], bits: int, rng: np.random.Generator | None = None) -> NDArray[np.int32]:
    """`quantise` without gain, for samples that must fit; dither stays inside full scale.

    Raises:
        ValueError: a sample does not fit or is not a number; choose a gain first.
    """
    least, greatest = full_scale(bits)
    steps = quantise(x, bits)
    if steps.size and not (least <= steps.min() and steps.max() <= greatest):
        raise ValueError(
            f"samples from {steps.min()} to {steps.max()} do not fit into {bits} bit, wanted {least} to "
            f"{greatest}; apply one gain to all stems of the track first"
        )
    if rng is not None:
        steps = np.clip(quantise(x, bits, rng=rng), least, greatest)
    return steps.astype(np.int32)


def dither_source(track_id: str, stem: str) -> np.random.Generator:
    """The dither of one stem of one track: the same on every machine, unlike that of any other stem."""
    digest = hashlib.sha256(f"{track_id}\0{stem}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
