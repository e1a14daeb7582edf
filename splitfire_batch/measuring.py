"""What is measured of a track beside its stems' own levels: the source, the vocals, shares of the energy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from splitfire_batch.audio import (
    LevelMeter,
    decoded_scale,
    pcm_bytes,
    peak_levels,
    sample_dtype,
    source_bits,
    to_depth,
    to_float,
)
from splitfire_batch.observations import Levels, Measurements
from splitfire_batch.records import StemFile
from splitfire_batch.separation import Separated


def measure_source(separated: Separated, measure: Measurements) -> tuple[Levels, str | None]:
    """The levels of the mix as it was decoded, and the MD5 of its PCM data.

    Args:
        separated: a whole track.
        measure: what is wanted: the MD5, loudness and true peak only for "all", nothing but the sample peak,
            which is known, for "none".

    Returns:
        The MD5 is that of FLAC's STREAMINFO for the same integers; that of 32-bit floats for other sources.
    """
    if measure == "none":
        return peak_levels(separated.mix_peak), None
    source, is_full = separated.source, measure == "all"
    bits = source_bits(source.subtype)
    full_scale = decoded_scale(np.dtype(sample_dtype(bits)))
    meter = LevelMeter(source.sample_rate, source.n_channels, bits, full_scale, is_full)
    md5 = hashlib.md5(usedforsecurity=False)
    for mix in separated.mix_blocks():
        meter.add(mix)
        if is_full:
            md5.update(pcm_bytes(mix if bits is None else to_depth(mix, bits), bits))
    return meter.levels(), md5.hexdigest() if is_full else None


def vocals_share_db(separated: Separated) -> float:
    """The vocals' part of the energy of the vocals and of the mix without them; -inf for silence.

    With two stems that is what `with_energy_shares` says of the vocals.
    """
    vocals = rest = 0.0
    for mix, estimates in separated.blocks():
        vocals += _energy(estimates["vocals"])
        rest += _energy(to_float(mix) - estimates["vocals"])
    return 10 * math.log10(vocals / (vocals + rest)) if vocals else -math.inf


def with_energy_shares(stems: Sequence[StemFile], whole: Sequence[str]) -> tuple[StemFile, ...]:
    """The stems, each with its part of the energy of those that make up the whole mix together, if any do.

    Args:
        stems: as they were written.
        whole: as `stems.whole_of` gives it.
    """
    energies = {stem.stem: _power(stem.levels.rms_db) for stem in stems}
    total = sum(energies[name] for name in whole)
    return tuple(replace(stem, energy_share_db=_share_db(energies[stem.stem], total)) for stem in stems)


def _share_db(energy: float, total: float) -> float | None:
    return 10 * math.log10(energy / total) if energy and total else None


def _power(level_db: float | None) -> float:
    return 0.0 if level_db is None else float(10 ** (level_db / 10))


def _energy(block: np.ndarray) -> float:
    return float(np.einsum("nc,nc->", block, block, dtype=np.float64))
