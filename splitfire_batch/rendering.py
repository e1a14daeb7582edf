"""From estimates to written stems: one linked gain, encoding, levels, and what is not worth a file.

Only if some stem would exceed full scale, all stems of the track get the same gain, and the row says which.
A silent stem may be left out: the stem that is the mix minus the others then keeps what would have been in
it, and the sum of those that are written stays the mix.
Lossy formats are given floats, and what counts is what comes back from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from splitfire_batch.audio import (
    SILENT_DB,
    Encoded,
    LevelMeter,
    OutputFormat,
    PeakMeter,
    fits,
    sample_dtype,
    to_float,
)
from splitfire_batch.observations import Levels, Measurements
from splitfire_batch.records import StemFile
from splitfire_batch.separation import Separated
from splitfire_batch.stem_blocks import LOSSY_MARGIN, Array, RenderSettings, linked_gain, output_blocks
from splitfire_batch.stems import parts_of_mix
from splitfire_batch.stopwatch import Stopwatch

_MAX_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Rendered:
    """Stems as local files; `StemFile.path` is the file's name in the folder given to `render`."""

    stems: tuple[StemFile, ...]
    gain_db: float
    sum_residual_db: float | None


def render(separated: Separated, settings: RenderSettings, folder: Path, watch: Stopwatch) -> Rendered:
    """Write every stem of a track into `folder`: as they are, or again with a gain if one of them would clip.

    Which stems are silent shows only at the end. When one is to be left out, all are written anew without it;
    that an estimate is silent is known before.

    Raises:
        NoSpace: the folder's disk is full.
    """
    threshold = settings.skip_below_db
    if threshold is not None:
        quiet = [name for name, peak in separated.peaks.items() if peak < 10 ** (threshold / 20)]
        made_as_is = [recipe.stem for recipe in settings.recipes if recipe.minus is None]
        settings = replace(settings, skipped=frozenset(quiet) & frozenset(made_as_is))
    while True:
        rendered = _write(separated, settings, folder, 1.0, watch)
        if rendered is None:
            with watch.measure("encode"):
                gain = linked_gain(separated, settings)
            rendered = _write(separated, settings, folder, gain, watch)
            assert rendered  # noqa: S101 - the gain is made such that all fits
        if settings.output.is_lossy:
            rendered = _made_audible(rendered, separated, settings, folder, watch)
        silent = frozenset(stem.stem for stem in rendered.stems if stem.is_silent)
        if threshold is None or silent <= settings.skipped:
            return rendered
        settings = replace(settings, skipped=settings.skipped | silent)


def _made_audible(
    rendered: Rendered, separated: Separated, settings: RenderSettings, folder: Path, watch: Stopwatch
) -> Rendered:
    """Lossy stems, written with less gain until no decoder clips them; the residual is what one hears."""
    summed = frozenset(parts_of_mix(settings.recipes))
    files = {stem.stem: folder / stem.path for stem in rendered.stems if stem.path}
    if not files:  # all silent, and not wanted
        return rendered
    n_left = _MAX_ATTEMPTS
    while True:
        gain = 10 ** (rendered.gain_db / 20)
        with watch.measure("measure"):
            mix = partial(_mix_blocks, separated, gain)
            heard = settings.codecs.read_back(files, mix, summed)
        n_left -= 1
        if heard.peak <= 1 or not n_left:
            return replace(rendered, sum_residual_db=heard.residual_db if settings.sums_to_mix else None)
        lowered = _write(separated, settings, folder, gain * LOSSY_MARGIN / heard.peak, watch)
        assert lowered  # noqa: S101 - less than what has fitted
        rendered = lowered


def _mix_blocks(separated: Separated, gain: float) -> Iterator[Array]:
    return (to_float(mix) * gain for mix, _ in separated.blocks())


def _write(
    separated: Separated, settings: RenderSettings, folder: Path, gain: float, watch: Stopwatch
) -> Rendered | None:
    """Every stem with that gain; None as soon as one does not fit its format, files half written."""
    return settings.codecs.encode(partial(_write_once, separated, settings, folder, gain, watch))


def _write_once(
    separated: Separated, settings: RenderSettings, folder: Path, gain: float, watch: Stopwatch
) -> Rendered | None:
    """See `_write`."""
    out = settings.output
    files = {recipe.stem: folder / f"{recipe.stem}.{out.ext}" for recipe in settings.recipes}
    written = [stem for stem in files if stem not in settings.skipped]
    meters = {stem: _meter(out, settings.measure) for stem in files}
    parts = [stem for stem in parts_of_mix(settings.recipes) if stem in written]
    residual, dtype = _Residual(out.bits), sample_dtype(out.bits)
    paths = {stem: files[stem] for stem in written}
    has_md5 = settings.measure != "none"
    with settings.codecs.open_stems(paths, out, settings.inserts, separated.n_frames, has_md5) as writer:
        for mix, stems in watch.timed("encode", output_blocks(separated, settings, gain)):
            if not all(_fits(block, out) for block in stems.values()):
                return None
            with watch.measure("encode"):
                if settings.sums_to_mix:
                    residual.add(mix, [stems[stem] for stem in parts])
                stored = {stem: block.astype(dtype, copy=False) for stem, block in stems.items()}
            with watch.measure("measure"):
                for stem, block in stored.items():
                    meters[stem].add(block)
            with watch.measure("encode"):
                writer.write(stored)
        with watch.measure("encode"):
            encoded = writer.close()
        watch.add("encode", writer.extra_s)
    for stem in settings.skipped:  # a run before this one may have written it
        files[stem].unlink(missing_ok=True)
    with watch.measure("measure"):
        levels = {stem: meter.levels() for stem, meter in meters.items()}
    return Rendered(
        stems=tuple(
            _stem_file(path, settings, separated.n_frames, encoded.get(stem), levels[stem])
            for stem, path in files.items()
        ),
        gain_db=20 * math.log10(gain),
        sum_residual_db=residual.rms_db if settings.sums_to_mix else None,
    )


def _meter(out: OutputFormat, measure: Measurements) -> LevelMeter | PeakMeter:
    scale = 1.0 if out.bits is None else 2.0 ** (out.bits - 1)
    if measure == "none":
        return PeakMeter(scale)
    return LevelMeter(out.sample_rate, out.n_channels, out.bits, scale, measure == "all")


def _fits(block: Array, out: OutputFormat) -> bool:
    """Whether every sample fits the format; lossy ones are given nothing beyond full scale."""
    if out.bits is not None:
        return fits(block, out.bits)
    return not out.is_lossy or bool(block.min(initial=0) >= -1 and block.max(initial=0) <= 1)


def _stem_file(
    path: Path, settings: RenderSettings, n_frames: int, encoded: Encoded | None, levels: Levels
) -> StemFile:
    out, threshold = settings.output, settings.skip_below_db
    is_quiet = levels.peak_db is None or levels.peak_db < (SILENT_DB if threshold is None else threshold)
    return StemFile(
        stem=path.stem,
        path=path.name if encoded else None,
        container=out.container,
        subtype=out.subtype,
        sample_rate=out.sample_rate,
        n_channels=out.n_channels,
        n_frames=encoded.n_frames if encoded else n_frames,
        n_bytes=encoded.n_bytes if encoded else 0,
        sha256=encoded.sha256 if encoded else None,
        pcm_md5=encoded.pcm_md5 if encoded else None,
        levels=levels,
        is_silent=is_quiet or path.stem in settings.skipped,
        preserved_chunks=encoded.inserted if encoded else (),
    )


class _Residual:
    """RMS of what the sum of stems lacks of the mix or has too much, dB relative to full scale."""

    def __init__(self, bits: int | None) -> None:
        self._scale = 1.0 if bits is None else 2.0 ** (bits - 1)
        self._energy, self._n = 0.0, 0

    def add(self, mix: Array, stems: Sequence[Array]) -> None:
        self._n += mix.size
        difference = mix if mix.dtype.kind == "i" else mix.astype(np.float64)
        *others, last = stems or [np.zeros_like(mix)]
        for block in others:
            difference = difference - block
        if not np.array_equal(difference, last):
            exact = np.subtract(difference, last, dtype=np.float64)
            self._energy += float(np.einsum("ij,ij->", exact, exact))  # a BLAS would wake threads for it

    @property
    def rms_db(self) -> float | None:
        """None when it is exactly zero."""
        return 10 * math.log10(self._energy / self._n / self._scale**2) if self._energy > 0 else None
