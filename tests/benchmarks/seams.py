"""Seams: our estimates against the original Spleeter's around every border of segments, and over the whole.

Raw estimates with `short_clip = "reference"` of a whole piece of music. Segments begin every 524,288 frames,
4,096 frames before the track, and share 3,072 frames; the SNR is taken within half a second of the middle of
each shared part, per stem.
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
from tests.benchmarks.library import RATE, blocks_of, whole_music
from tests.benchmarks.original import Original

FLOOR_DB = 90
_STRIDE, _LENGTH, _IN_FRONT = 524_288, 527_360, 4_096
_AROUND = RATE // 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one stem agrees with the original, in dB SNR."""

    stem: str
    whole_db: float
    borders_db: tuple[float, ...]
    levels_db: tuple[float, ...]
    """RMS of the original around each border, relative to full scale."""


def main() -> None:
    """Print the SNR of each stem: whole, and the least around a border."""
    found = measure(whole_music())
    print(f"{'':16} {'whole track':>12} {'worst border':>13} {'its level':>10} {'borders':>8}")
    for each in found:
        worst = int(np.argmin(each.borders_db))
        figures = f"{each.whole_db:9.1f} dB {each.borders_db[worst]:10.1f} dB {each.levels_db[worst]:7.0f} dB"
        print(f"{each.stem:16} {figures} {len(each.borders_db):8}")
    print(f"\nfloor {FLOOR_DB} dB around every border")


def measure(mix: NDArray[np.float32]) -> list[Agreement]:
    """Agreement of every stem of a mix (frames, 2)."""
    with Engine(load_model(SeparationConfig(short_clip="reference"), "cpu")) as engine:
        estimates = torch.cat(list(engine.separate(blocks_of(mix))), dim=-1)[0].numpy()
        stems = engine.model.stems
    with Original(os.cpu_count() or 1) as original:
        theirs = original.estimates(mix)
    return [_agreement(stem, theirs[stem], ours.T) for stem, ours in zip(stems, estimates, strict=True)]


def borders(n_frames: int) -> list[int]:
    """Middles of the parts that two segments of a track share."""
    first = _STRIDE - _IN_FRONT + (_LENGTH - _STRIDE) // 2
    return list(range(first, n_frames, _STRIDE))


def _agreement(stem: str, wanted: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    parts = [slice(border - _AROUND, border + _AROUND) for border in borders(len(wanted))]
    levels = (10 * np.log10(np.mean(np.square(wanted[part], dtype=np.float64))) for part in parts)
    return Agreement(
        stem,
        snr_db(wanted, found),
        tuple(snr_db(wanted[part], found[part]) for part in parts),
        tuple(float(level) for level in levels),
    )


def snr_db(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """10 log10 of the energy of `wanted` over that of the difference."""
    difference = wanted.astype(np.float64) - found
    return float(10 * np.log10(np.sum(np.square(wanted, dtype=np.float64)) / np.sum(difference**2)))
