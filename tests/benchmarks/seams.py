"""Seams: our estimates against the original Spleeter's around every border of segments, and over the whole.

Raw estimates with `short_clip = "reference"`: of an instrumental piece, and of a song with a voice, looped.
Segments begin every 524,288 frames, 4,096 frames before the track, and share 3,072 frames; the SNR is taken
within half a second of the middle of each shared part. The masks' rounding scales with the mix, so where a
stem is far below it the SNR falls, at borders as anywhere: such places are counted and not judged. Whether
there is a seam at all says the last column: the error within 3,072 frames of the borders, over that within
half a second.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.models import load_model
from tests.benchmarks.library import RATE, blocks_of, looped_song, whole_music
from tests.benchmarks.original import Original

FLOOR_DB = 90
SILENCE_DB = -40
"""RMS, relative to full scale, below which a stem around a border counts as silent."""
MOST_EXCESS_DB = 3
_STRIDE, _LENGTH, _IN_FRONT = 524_288, 527_360, 4_096
_SHARED, _AROUND = _LENGTH - _STRIDE, RATE // 2


@dataclass(frozen=True, slots=True)
class Border:
    """How far a stem agrees with the original around one border."""

    snr_db: float
    level_db: float
    """RMS of the original there, relative to full scale."""

    @property
    def is_silent(self) -> bool:
        """Whether the SNR says nothing."""
        return self.level_db < SILENCE_DB


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one stem of a mix agrees with the original."""

    stem: str
    whole: Border
    borders: tuple[Border, ...]
    excess_db: float
    """Error right at the borders, relative to that around them."""

    @property
    def audible(self) -> list[Border]:
        """The borders to be judged."""
        return [border for border in self.borders if not border.is_silent]


def main() -> None:
    """Print the SNR of each stem: over the whole, and the least around a border."""
    print(f"{'':32} {'whole':>10} {'level':>9} {'worst border':>13} {'audible / all':>14} {'excess':>10}")
    for name, mix in mixes().items():
        for found in measure(mix):
            worst = f"{min(b.snr_db for b in found.audible):10.1f} dB" if found.audible else f"{'silent':>13}"
            whole = f"{found.whole.snr_db:7.1f} dB {found.whole.level_db:6.0f} dB"
            counts = f"{len(found.audible)} / {len(found.borders)}"
            print(
                f"{name:18}{found.stem:14} {whole} {worst} {counts:>14} {found.excess_db:7.1f} dB", flush=True
            )
    print(f"\nfloor {FLOOR_DB} dB around every border where the stem is not below {SILENCE_DB} dB;", end=" ")
    print(f"excess at most {MOST_EXCESS_DB} dB")


def mixes() -> dict[str, NDArray[np.float32]]:
    """At least three minutes each."""
    return {"instrumental": whole_music(), "song, looped": looped_song(190)}


def measure(mix: NDArray[np.float32]) -> list[Agreement]:
    """Agreement of every stem of a mix (frames, 2)."""
    with Engine(load_model(SeparationConfig(short_clip="reference", residual="drop"), "cpu")) as engine:
        estimates = torch.cat(list(engine.separate(blocks_of(mix))), dim=-1)[0].numpy()
        stems = engine.model.stems
    with Original(os.cpu_count() or 1) as original:
        theirs = original.estimates(mix)
    return [_agreement(stem, theirs[stem], ours.T) for stem, ours in zip(stems, estimates, strict=True)]


def borders(n_frames: int) -> list[int]:
    """Middles of the parts that two segments of a track share."""
    first = _STRIDE - _IN_FRONT + _SHARED // 2
    return list(range(first, n_frames, _STRIDE))


def _agreement(stem: str, wanted: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    middles = borders(len(wanted))
    around = [slice(middle - _AROUND, middle + _AROUND) for middle in middles]
    errors = np.square(wanted.astype(np.float64) - found)
    at, nearby = (
        np.mean(np.concatenate([errors[middle - reach : middle + reach] for middle in middles]))
        for reach in (_SHARED, _AROUND)
    )
    return Agreement(
        stem,
        _compared(wanted, found),
        tuple(_compared(wanted[part], found[part]) for part in around),
        float(10 * np.log10(at / nearby)),
    )


def _compared(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> Border:
    energy = np.mean(np.square(wanted, dtype=np.float64))
    error = np.mean((wanted.astype(np.float64) - found) ** 2)
    return Border(float(10 * np.log10(energy / error)), float(10 * np.log10(energy)))
