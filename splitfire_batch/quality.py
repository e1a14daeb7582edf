"""What deserves a second look: flags that a row's own numbers raise, with the limits in one table.

Only what is measured raises a flag. Other lengths than the source's, or samples that are no numbers, are no
flags: such a track has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from splitfire_batch.audio import source_bits
from splitfire_batch.observations import Levels
from splitfire_batch.records import TrackRow

CLIPPED_RUN = 3
MAX_DC = 0.01
MIN_DC_S = 0.4
MIN_SIDE_RATIO = 1e-4
MAX_RESIDUAL_DB = -20.0
_FLOATS = ("FLOAT", "DOUBLE")


@dataclass(frozen=True, slots=True)
class Flag:
    """When a flag is raised, and why there."""

    is_raised: Callable[[TrackRow], bool]
    meaning: str
    reason: str


def _is_clipped(levels: Levels | None) -> bool:
    return levels is not None and (levels.clipped_run or 0) >= CLIPPED_RUN


def _has_dc(row: TrackRow) -> bool:
    if not row.source or not row.levels:
        return False
    is_long = row.source.n_frames >= MIN_DC_S * row.source.sample_rate
    return is_long and abs(row.levels.dc_offset or 0.0) > MAX_DC


def _is_nearly_mono(row: TrackRow) -> bool:
    ratio = row.levels.side_ratio if row.levels else None
    return ratio is not None and ratio < MIN_SIDE_RATIO


def _is_lossy(row: TrackRow) -> bool:
    subtype = row.source.subtype if row.source else "FLOAT"
    return source_bits(subtype) is None and subtype not in _FLOATS


def _has_high_residual(row: TrackRow) -> bool:
    if row.sum_residual_db is None or not row.levels or row.levels.rms_db is None:
        return False
    return row.sum_residual_db > row.levels.rms_db + (row.gain_db or 0.0) + MAX_RESIDUAL_DB


FLAGS = {
    "input_clipped": Flag(
        lambda row: _is_clipped(row.levels),
        f"{CLIPPED_RUN} or more samples of the source in a row are at full scale",
        "normalising to full scale leaves one such sample, or two side by side",
    ),
    "clipped": Flag(
        lambda row: any(_is_clipped(stem.levels) for stem in row.stems),
        f"{CLIPPED_RUN} or more samples of a stem in a row are at full scale, or beyond it in a float format",
        "as for the source",
    ),
    "silent_all": Flag(
        lambda row: bool(row.stems) and all(stem.is_silent for stem in row.stems),
        "every stem is silent",
        "`is_silent` says from where",
    ),
    "residual_high": Flag(
        _has_high_residual,
        f"what the sum of the stems lacks of the mix is above {MAX_RESIDUAL_DB:.0f} dB of it",
        "more than 1 % of the energy is in no stem, or a lossy format has lost it",
    ),
    "dc": Flag(
        _has_dc,
        f"the mean of a channel of the source is off zero by more than {MAX_DC:.0%} of full scale",
        f"it clicks at the cuts; shorter than {MIN_DC_S} s, a drum alone may have such a mean",
    ),
    "nearly_mono": Flag(
        _is_nearly_mono,
        f"the channels' difference holds less than {MIN_SIDE_RATIO:.2%} of the energy",
        "40 dB below the sum: a mono recording in two channels, with noise or coding errors between them",
    ),
    "lossy_source": Flag(
        _is_lossy,
        "the source was coded with loss",
        "its codec says so; what was transcoded to PCM before is not seen",
    ),
}
"""In the order in which rows list them."""


def qc_flags(row: TrackRow) -> tuple[str, ...]:
    """The keys of FLAGS that a row's numbers raise."""
    return tuple(name for name, flag in FLAGS.items() if flag.is_raised(row))
