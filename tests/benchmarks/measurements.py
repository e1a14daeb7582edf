"""Measurements: CPU-seconds that each meter takes for a minute of stereo music, against pyloudnorm.

Signals are the two pieces of music, and one of them driven hard against full scale, where true peak has the
most to look for; each in blocks as the pipeline hands them over. Times are the least of some rounds, of the
CPU and not of the wall, since on a worker all cores have other work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pyloudnorm
import soundfile

from splitfire_batch.audio.k_weighting import STEP_FRAMES
from splitfire_batch.audio.levels import LevelMeter
from splitfire_batch.audio.loudness import LoudnessMeter
from splitfire_batch.audio.true_peak import TruePeakMeter
from splitfire_batch.separation import BLOCK_FRAMES
from tests.assets import music

RATE = 44_100
SECONDS = 60
ROUNDS = 3
FLOOR_S = 0.15
"""At most so many CPU-seconds for all measurements of a signal, per minute."""


def main() -> None:
    """Print a table of meters and signals, and the ratio to pyloudnorm."""
    signals = _signals()
    print(f"{'CPU-seconds per audio minute':32}" + "".join(f"{name:>14}" for name in signals))
    found = {}
    for meter, measure in METERS.items():
        found[meter] = [_least(measure, samples) for samples in signals.values()]
        print(f"{meter:32}" + "".join(f"{seconds:14.3f}" for seconds in found[meter]))
    ours, theirs = found["all measurements"], found["pyloudnorm, loudness alone"]
    ratios = "".join(f"{their / our:14.1f}" for our, their in zip(ours, theirs, strict=True))
    print(f"{'pyloudnorm / all of ours':32}{ratios}")
    print(f"\nall measurements at most {max(ours):.3f}; the limit is {FLOOR_S}")


def _signals() -> dict[str, np.ndarray]:
    """A minute of stereo each, float32."""
    pieces = [soundfile.read(path, frames=SECONDS * RATE, dtype="float32")[0] for path in music()]
    names = [path.stem for path in music()]
    return dict(zip(names, pieces, strict=True)) | {"driven hard": np.clip(pieces[0] * 8, -1, 1)}


def _least(measure: Callable[[np.ndarray], object], samples: np.ndarray) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        measure(samples)
        times.append(time.process_time() - begin)
    return min(times) * 60 * RATE / len(samples)


def _blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Whole blocks (2, n), float64."""
    for start in range(0, len(samples) - BLOCK_FRAMES, 2 * STEP_FRAMES):
        yield np.ascontiguousarray(samples[start : start + 2 * STEP_FRAMES].T, np.float64)


def _loudness(samples: np.ndarray) -> object:
    meter = LoudnessMeter(RATE, 2)
    for block in _blocks(samples):
        meter.add(block)
    return meter.integrated(), meter.range()


def _true_peak(samples: np.ndarray) -> object:
    meter = TruePeakMeter(2)
    for block in _blocks(samples):
        meter.add(block)
    return meter.peak()


def _levels(is_full: bool) -> Callable[[np.ndarray], object]:
    def measure(samples: np.ndarray) -> object:
        meter = LevelMeter(RATE, 2, None, 1.0, is_full)
        for start in range(0, len(samples), BLOCK_FRAMES):
            meter.add(samples[start : start + BLOCK_FRAMES])
        return meter.levels()

    return measure


def _pyloudnorm(has_range: bool) -> Callable[[np.ndarray], object]:
    def measure(samples: np.ndarray) -> object:
        meter, doubles = pyloudnorm.Meter(RATE, filter_class="DeMan"), samples.astype(np.float64)
        loudness = meter.integrated_loudness(doubles)
        return loudness, meter.loudness_range(doubles) if has_range else None

    return measure


METERS: dict[str, Callable[[np.ndarray], object]] = {
    "loudness and range": _loudness,
    "true peak": _true_peak,
    'measure = "basic"': _levels(is_full=False),
    "all measurements": _levels(is_full=True),
    "pyloudnorm, loudness alone": _pyloudnorm(has_range=False),
    "pyloudnorm, loudness and range": _pyloudnorm(has_range=True),
}
