"""Whether written stems sum to their source: sum(stems) = mix * 10^(gain_db/20), sample by sample.

A stem made as the mix minus others closes a sum with them. Integer stems then add up to the mix itself, or,
if a gain or a smaller depth made it necessary, to the mix rounded once: half a step off at most, one and a
half where that rounding was dithered. Float stems lose half a unit in the last place per subtraction. Only a
lossy source leaves room for its decoder, which may differ between versions and processors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from splitfire_batch.audio import Decoder, decoded_scale, open_audio, source_bits, to_depth, to_float
from splitfire_batch.stems import Recipe

Array = np.ndarray[Any, Any]

_SLACK_STEPS = 1e-4  # of float64 in mix * gain, at 32 bit
_DECODER_LEVEL = 2.0**-22  # lossy sources: two steps of 24 bit, four float32 units at full scale


@dataclass(frozen=True, slots=True)
class Sum:
    """What a sum of stems should be."""

    gain_db: float
    is_dithered: bool
    """Whether the job allowed dither at 16 bit."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a sum is from the mix. Levels are dB relative to full scale, None for exactly zero."""

    worst: float
    """Of one sample, |sum - mix * gain|: in steps of the stems' depth; float stems in full scales."""
    allowed: float
    """What that sample may be off, in the same unit."""
    frame: int
    """Where: the frame that exceeds what it may by most."""
    residual_db: float | None
    """RMS of sum - mix * gain."""
    residual_tolerance_db: float | None
    """How far that may be from what the job measured; None where decoding the source is not reproducible."""

    @property
    def is_null(self) -> bool:
        """Whether every sample is within what it may be off."""
        return self.worst <= self.allowed

    def repeats(self, recorded_db: float | None) -> bool:
        """Whether the RMS is what the job measured: where dither hides a wrong step, this still shows it."""
        if self.residual_tolerance_db is None:
            return True
        if self.residual_db is None or recorded_db is None:
            return self.residual_db == recorded_db
        return abs(self.residual_db - recorded_db) <= self.residual_tolerance_db


def sums_of(recipes: Sequence[Recipe]) -> tuple[tuple[str, ...], ...]:
    """The written stems that must sum to the mix: none, or several sets."""
    estimates = {recipe.stem for recipe in recipes if recipe.minus is None}
    return tuple(
        (recipe.stem, *recipe.minus)
        for recipe in recipes
        if recipe.minus is not None and estimates.issuperset(recipe.minus)
    )


def null_test(source: Path, stems: Sequence[Path], wanted: Sum, scratch_dir: Path | None = None) -> Deviation:
    """Add the stems up, and compare with the source; all files are read block by block.

    Args:
        source: a local file.
        stems: local files, all of the same integer depth, or all float.
        wanted: how the stems were made.
        scratch_dir: for copies of sources that do not say their length; default: the system's.

    Raises:
        TrackError: a file cannot be decoded.
        ValueError: source and stems differ in frames or channels, or the stems in depth.
    """
    with ExitStack() as stack:
        files = (open_audio(path, scratch_dir=scratch_dir) for path in (source, *stems))
        mix, *parts = (stack.enter_context(file) for file in files)
        (bits,) = {part.bits for part in parts}
        measure = _Measure(bits)
        for block, *others in _side_by_side([mix, *parts]):
            if bits is None:
                exact = to_float(block).astype(np.float64)
                total = np.sum([other.astype(np.float64) for other in others], axis=0)
                allowed = 2.0**-23 * (np.abs(exact) + np.sum(np.abs(others), axis=0))
            else:
                exact, rounding = _in_steps(block, mix.bits, bits, wanted)
                total = np.sum([to_depth(other, bits).astype(np.int64) for other in others], axis=0)
                allowed = np.full(block.shape, rounding)
            measure.add(total - exact, allowed + _decoder_slack(mix, bits))
    return measure.deviation(_is_exact(mix))


def _side_by_side(decoders: Sequence[Decoder]) -> Iterator[tuple[Array, ...]]:
    """Blocks of all files, frame by frame alike."""
    for blocks in zip_longest(*(decoder.blocks() for decoder in decoders)):
        shapes = {None if block is None else block.shape for block in blocks}
        if len(shapes) > 1:
            raise ValueError(f"the files differ in frames or channels: blocks of {shapes}")
        yield blocks


def _in_steps(block: Array, depth: int | None, bits: int, wanted: Sum) -> tuple[Array, float]:
    """The mix times the gain in steps of `bits`, and how far a sum may be from it."""
    if depth is not None and depth <= bits and wanted.gain_db == 0:
        return to_depth(block, bits).astype(np.int64), 0.0
    factor = 10 ** (wanted.gain_db / 20) * 2.0 ** (bits - 1) / decoded_scale(block.dtype)
    dither = 1.0 if wanted.is_dithered and bits == 16 else 0.0
    return block.astype(np.float64) * factor, 0.5 + dither + _SLACK_STEPS


def _decoder_slack(mix: Decoder, bits: int | None) -> float:
    if _is_exact(mix):
        return 0.0
    return _DECODER_LEVEL * (2.0 ** (bits - 1) if bits else 1.0)


def _is_exact(mix: Decoder) -> bool:
    subtype = mix.format.subtype
    return source_bits(subtype) is not None or subtype in ("FLOAT", "DOUBLE")


class _Measure:
    """The worst sample and the RMS of a residual that comes in blocks."""

    def __init__(self, bits: int | None) -> None:
        # float64 keeps a product to 2^-53: the deeper the stems, the more of a step that is
        self._tolerance_db = 1e-9 * 2.0 ** ((bits or 24) - 16)
        self._full_scale = 2.0 ** (bits - 1) if bits else 1.0
        self._excess, self._worst, self._allowed, self._frame = -math.inf, 0.0, 0.0, 0
        self._energy, self._n_samples, self._n_frames = 0.0, 0, 0

    def add(self, residual: Array, allowed: Array) -> None:
        """The next blocks (n, C)."""
        size = np.abs(residual)
        excess = size - allowed
        at = int(excess.argmax())
        if excess.flat[at] > self._excess:
            self._excess = float(excess.flat[at])
            self._worst, self._allowed = float(size.flat[at]), float(allowed.flat[at])
            self._frame = self._n_frames + at // residual.shape[1]
        values = residual.reshape(-1).astype(np.float64, copy=False)
        self._energy += float(np.einsum("i,i->", values, values))
        self._n_samples += values.size
        self._n_frames += len(residual)

    def deviation(self, is_exact_source: bool) -> Deviation:
        """What was found."""
        power = self._energy / max(1, self._n_samples) / self._full_scale**2
        residual_db = 10 * math.log10(power) if power > 0 else None
        tolerance_db = self._tolerance_db if is_exact_source else None
        return Deviation(self._worst, self._allowed, self._frame, residual_db, tolerance_db)
