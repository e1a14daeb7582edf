"""From estimates to written stems: recipes, one linked gain, quantisation, encoding, levels.

For integer formats everything is computed in integers, so that the stems of a track sum to its mix exactly
whenever nothing had to be scaled and the output is at least as deep as the source. Only if some stem would
exceed full scale, all stems of the track get the same gain, and the row says which. Lossy formats are given
floats, and what counts is what comes back from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from splitfire_batch.audio import (
    Encoded,
    OutputFormat,
    StemWriter,
    dither_source,
    full_scale,
    quantise,
    read_back,
    source_bits,
    to_depth,
    to_float,
)
from splitfire_batch.records import StemFile
from splitfire_batch.separation import Separated
from splitfire_batch.stems import Recipe, needed_estimates

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
"""Blocks (n, C) by stem or estimate."""

_LOSSY_MARGIN = 0.99
"""A codec's overshoot changes with the gain: so much lower than it seems to need, to be done in one go."""
_MAX_ATTEMPTS = 8


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


@dataclass(frozen=True, slots=True)
class Rendered:
    """Stems as local files; `StemFile.path` is the file's name in the folder given to `render`."""

    stems: tuple[StemFile, ...]
    gain_db: float
    sum_residual_db: float | None


def render(separated: Separated, settings: RenderSettings, folder: Path) -> Rendered:
    """Write every stem of a track into `folder`: as they are, or again with a gain if one of them would clip.

    Raises:
        NoSpace: the folder's disk is full.
    """
    rendered = _write(separated, settings, folder, 1.0)
    if not rendered:
        rendered = _write(separated, settings, folder, _linked_gain(separated, settings))
    assert rendered  # noqa: S101 - the gain is made such that all fits
    return _made_audible(rendered, separated, settings, folder) if settings.output.is_lossy else rendered


def _made_audible(
    rendered: Rendered, separated: Separated, settings: RenderSettings, folder: Path
) -> Rendered:
    """Lossy stems, written with less gain until no decoder clips them; the residual is what one hears."""
    summed = frozenset(stem.stem for stem in rendered.stems if stem.stem != "instrumental")
    for _ in range(_MAX_ATTEMPTS):
        gain = 10 ** (rendered.gain_db / 20)
        files = {stem.stem: folder / stem.path for stem in rendered.stems}
        heard = read_back(files, (to_float(mix) * gain for mix, _ in separated.blocks()), summed)
        if heard.peak <= 1:
            break
        lowered = _write(separated, settings, folder, gain * _LOSSY_MARGIN / heard.peak)
        assert lowered  # noqa: S101 - less than what has fitted
        rendered = lowered
    return replace(rendered, sum_residual_db=heard.residual_db if settings.sums_to_mix else None)


def _write(separated: Separated, settings: RenderSettings, folder: Path, gain: float) -> Rendered | None:
    """Every stem with that gain; None as soon as one does not fit its format, files half written."""
    out = settings.output
    files = {recipe.stem: folder / f"{recipe.stem}.{out.ext}" for recipe in settings.recipes}
    levels = {stem: _Level(out.bits) for stem in files}
    residual = _Level(out.bits)
    with ExitStack() as stack:
        writers = {stem: stack.enter_context(StemWriter(path, out)) for stem, path in files.items()}
        for mix, stems in _output_blocks(separated, settings, gain):
            for stem, block in stems.items():
                levels[stem].add(block)
                if levels[stem].clips or (out.is_lossy and (levels[stem].peak_db or -1) > 0):
                    return None
                writers[stem].write(block)
            if settings.sums_to_mix:
                difference = -mix.astype(np.float64)
                for stem, block in stems.items():
                    if stem != "instrumental":
                        difference += block
                residual.add(difference)
        encoded = {stem: writer.close() for stem, writer in writers.items()}
    return Rendered(
        stems=tuple(_stem_file(path, out, encoded[stem], levels[stem]) for stem, path in files.items()),
        gain_db=20 * math.log10(gain),
        sum_residual_db=residual.rms_db if settings.sums_to_mix else None,
    )


def _stem_file(path: Path, out: OutputFormat, encoded: Encoded, level: _Level) -> StemFile:
    return StemFile(
        stem=path.stem,
        path=path.name,
        container=out.container,
        subtype=out.subtype,
        sample_rate=out.sample_rate,
        n_channels=out.n_channels,
        n_frames=encoded.n_frames,
        n_bytes=encoded.n_bytes,
        sha256=encoded.sha256,
        pcm_md5=encoded.pcm_md5,
        peak_db=level.peak_db,
        rms_db=level.rms_db,
    )


def float_blocks(separated: Separated, recipes: Sequence[Recipe]) -> Iterator[tuple[Array, Arrays]]:
    """The mix and the stems, block by block, float32, never scaled."""
    needed = needed_estimates(recipes)
    for decoded, estimates in separated.blocks():
        mix = to_float(decoded)
        yield mix, _cooked(recipes, mix, {name: estimates[name] for name in needed})


def _output_blocks(
    separated: Separated, settings: RenderSettings, gain: float
) -> Iterator[tuple[Array, Arrays]]:
    """The mix times the gain, and the stems as they will be written, in steps of the output's depth."""
    if settings.output.bits is not None:
        return _integer_blocks(separated, settings, gain, settings.output.bits)
    blocks, factor = float_blocks(separated, settings.recipes), np.float32(gain)
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
        dithers = {name: dither_source(settings.track_id, name) for name in audible}
    for decoded, estimates in separated.blocks():
        parts = {name: quantise(estimates[name], bits, gain, dithers.get(name)) for name in names}
        if is_exact:
            mix = to_depth(decoded, bits).astype(np.int64)
            yield mix, _cooked(settings.recipes, mix, parts)
            continue
        exact = _to_double(decoded)
        rounded = quantise(exact, bits, gain, dithers.get("mix"))
        yield exact * (gain / step), _cooked(settings.recipes, rounded, parts)


def _to_double(decoded: Array) -> Array:
    """A decoded block, full scale = 1, without the rounding of 32-bit integers to float32."""
    return decoded * 2.0**-31 if decoded.dtype == np.int32 else decoded.astype(np.float64)


def _cooked(recipes: Sequence[Recipe], mix: Array, parts: Arrays) -> Arrays:
    """Each recipe's stem: the part of its name, or the mix minus parts."""
    stems = {}
    for recipe in recipes:
        if recipe.minus is None:
            stems[recipe.stem] = parts[recipe.stem]
            continue
        stems[recipe.stem] = mix.copy()
        for name in recipe.minus:
            stems[recipe.stem] -= parts[name]
    return stems


def _linked_gain(separated: Separated, settings: RenderSettings) -> float:
    """What brings the loudest of all stems just below full scale."""
    lowest = highest = 0.0
    for _, stems in _output_blocks(separated, settings, 1.0):
        for block in stems.values():
            lowest, highest = min(lowest, float(block.min())), max(highest, float(block.max()))
    if settings.output.bits is None:
        return _LOSSY_MARGIN / max(-lowest, highest)
    greatest = full_scale(settings.output.bits)[1]
    # A stem is a sum of at most so many rounded parts, each off by 1.5 steps at worst (0.5 by rounding, 1 by
    # dither): downwards where its peak was found here, upwards where it will be written.
    margin = 2 * 1.5 * (len(separated.peaks) + 1)
    return (greatest - margin) / max(-lowest, highest)


class _Level:
    """Peak and RMS of blocks, in dB relative to full scale; None for digital silence."""

    def __init__(self, bits: int | None) -> None:
        self._scale = 1.0 if bits is None else 2.0 ** (bits - 1)
        self._range: tuple[float, float] = full_scale(bits) if bits else (-math.inf, math.inf)
        self._lowest = self._highest = self._energy = 0.0
        self._n = 0

    def add(self, block: Array) -> None:
        self._lowest = min(self._lowest, float(block.min(initial=0)))
        self._highest = max(self._highest, float(block.max(initial=0)))
        values = block.reshape(-1).astype(np.float64, copy=False)
        self._energy += float(values @ values)
        self._n += values.size

    @property
    def clips(self) -> bool:
        """Whether a sample does not fit the format."""
        return not (self._range[0] <= self._lowest and self._highest <= self._range[1])

    @property
    def peak_db(self) -> float | None:
        peak = max(-self._lowest, self._highest) / self._scale
        return 20 * math.log10(peak) if peak > 0 else None

    @property
    def rms_db(self) -> float | None:
        return 10 * math.log10(self._energy / self._n / self._scale**2) if self._energy > 0 else None
