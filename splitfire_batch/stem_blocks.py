"""The stems of a track, block by block, as they will be written: recipes and quantisation.

For integer formats everything is computed in integers, so that the stems of a track sum to its mix exactly
whenever nothing had to be scaled and the output is at least as deep as the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splitfire_batch.audio import (
    Dither,
    Insert,
    OutputFormat,
    decoded_scale,
    full_scale,
    quantise,
    source_bits,
    to_depth,
    to_float,
)
from splitfire_batch.children import Codecs, Inline
from splitfire_batch.observations import Measurements
from splitfire_batch.separation import Separated
from splitfire_batch.stems import Recipe, needed_estimates

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
"""Blocks (n, C) by stem or estimate."""
LOSSY_MARGIN = 0.99
"""A codec's overshoot changes with the gain: so much lower than it seems to need, to be done in one go."""


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """How the stems of one track are made and written."""

    recipes: tuple[Recipe, ...]
    output: OutputFormat
    dither: bool
    track_id: str
    """Seeds the dither."""
    sums_to_mix: bool
    """Whether the stems are to add up to the mix; only then the residual is measured."""
    measure: Measurements = "all"
    """What is measured of them."""
    skip_below_db: float | None = None
    """Stems whose peak stays below are not written."""
    skipped: frozenset[str] = frozenset()
    """Stems that are not written; only measured."""
    codecs: Codecs = field(default_factory=Inline)
    """Who encodes them."""
    inserts: Mapping[str, Sequence[Insert]] = field(default_factory=dict)
    """By stem: chunks to be written before its samples."""


def float_blocks(
    separated: Separated, recipes: Sequence[Recipe], skipped: frozenset[str] = frozenset()
) -> Iterator[tuple[Array, Arrays]]:
    """The mix and the stems, block by block, float32, never scaled."""
    needed = needed_estimates(recipes)
    for decoded, estimates in separated.blocks():
        mix = to_float(decoded)
        yield mix, _cooked(recipes, mix, {name: estimates[name] for name in needed}, skipped)


def output_blocks(
    separated: Separated, settings: RenderSettings, gain: float
) -> Iterator[tuple[Array, Arrays]]:
    """The mix times the gain, and the stems as they will be written, in steps of the output's depth."""
    if settings.output.bits is not None:
        return _integer_blocks(separated, settings, gain, settings.output.bits)
    blocks, factor = float_blocks(separated, settings.recipes, settings.skipped), np.float32(gain)
    if gain == 1.0:
        return blocks
    return ((mix * factor, {name: block * factor for name, block in stems.items()}) for mix, stems in blocks)


def _integer_blocks(
    separated: Separated, settings: RenderSettings, gain: float, bits: int
) -> Iterator[tuple[Array, Arrays]]:
    """Quantised: the mix by a shift where that is exact, all else by rounding, dithered at 16 bit."""
    depth = source_bits(separated.source.subtype)
    is_exact = gain == 1.0 and depth is not None and depth <= bits
    step = 2.0 ** (1 - bits)
    names = needed_estimates(settings.recipes)
    dithers = {}
    if settings.dither and bits == 16:
        # what rounds to silence stays silent
        peaks = {**separated.peaks, "mix": separated.mix_peak}
        audible = [name for name in (*names, "mix") if peaks[name] * gain >= step / 2]
        dithers = {name: Dither(settings.track_id, name) for name in audible}
    for decoded, estimates in separated.blocks():
        parts = {name: quantise(estimates[name], bits, gain, dithers.get(name)) for name in names}
        if is_exact:
            mix = to_depth(decoded, bits).astype(np.int32 if bits < 32 else np.int64, copy=False)
            yield mix, _cooked(settings.recipes, mix, parts, settings.skipped)
            continue
        exact = _to_double(decoded)
        rounded = quantise(exact, bits, gain, dithers.get("mix"))
        yield exact * (gain / step), _cooked(settings.recipes, rounded, parts, settings.skipped)


def _to_double(decoded: Array) -> Array:
    """A decoded block, full scale = 1, without the rounding of 32-bit integers to float32."""
    return np.multiply(decoded, 1 / decoded_scale(decoded.dtype), dtype=np.float64)


def _cooked(recipes: Sequence[Recipe], mix: Array, parts: Arrays, skipped: frozenset[str]) -> Arrays:
    """Each recipe's stem: the part of its name, or the mix minus the parts that are not skipped."""
    stems = {}
    for recipe in recipes:
        if recipe.minus is None:
            stems[recipe.stem] = parts[recipe.stem]
            continue
        stem = mix
        for name in recipe.minus:
            if name not in skipped:
                stem = stem - parts[name]
        stems[recipe.stem] = stem
    return stems


def linked_gain(separated: Separated, settings: RenderSettings) -> float:
    """What brings the loudest of all stems just below full scale."""
    lowest = highest = 0.0
    for _, stems in output_blocks(separated, settings, 1.0):
        for block in stems.values():
            lowest, highest = min(lowest, float(block.min())), max(highest, float(block.max()))
    if settings.output.bits is None:
        return LOSSY_MARGIN / max(-lowest, highest)
    greatest = full_scale(settings.output.bits)[1]
    # A stem is a sum of at most so many rounded parts, each off by 1.5 steps at worst (0.5 by rounding, 1 by
    # dither, and what its float32 lacks): downwards where its peak was found here, upwards where it will be
    # written.
    margin = 2 * 1.51 * (len(separated.peaks) + 1)
    return (greatest - margin) / max(-lowest, highest)
