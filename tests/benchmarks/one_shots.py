"""One-shots: samples of sonic-pi and hydrogen, a seeded 100 or all 833, against the original, file by file.

Both get decoded stereo arrays at 44.1 kHz, in one process with one loaded model. The original takes one file
after the other, which is all that its `Separator.separate` can do. Ours is the engine with default settings
and as many open tracks as a worker has, the longest first as in a plan, so that its batches are full; and, to
tell what batches bring, the engine with one track at a time. `--all` takes every file, once.

The last line is what a network would reach that does nothing but its multiplications, counted directly, at
the rate of a matrix product: no STFT, no masks, nothing between layers.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.models import load_model
from splitfire_batch.models.spleeter import FFT_FRAMES, HOP
from splitfire_batch.segments import Model
from splitfire_batch.worker import CPU_OPEN_TRACKS
from tests.benchmarks.engine import GFLOP_PER_SECOND, matmul_gflops, separate
from tests.benchmarks.library import one_shot_files
from tests.benchmarks.original import Original

N_FILES = 100
ROUNDS = 5
PASSES = 3
"""Of ours in a round: one takes a tenth of the original's time, so chance has more of a part in it."""


def main(arguments: Sequence[str] = ()) -> None:
    """Print seconds and files per second of both, and their ratio."""
    parser = argparse.ArgumentParser(prog="one_shots")
    parser.add_argument("--all", action="store_true", help="all files in one round")
    takes_all = parser.parse_args(arguments).all
    files = one_shot_files()
    chosen = files if takes_all else random.Random(1).sample(files, N_FILES)
    n_rounds = 1 if takes_all else ROUNDS
    mixes = sorted((_stereo(path) for path in chosen), key=len, reverse=True)
    audio_s = sum(len(mix) for mix in mixes) / 44_100
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    model = load_model(SeparationConfig(), "cpu")
    ours, singly, theirs, peaks = [], [], [], []
    alone = Engine(model, packs_short=False)
    with Engine(model) as engine, alone, Original(threads) as original:
        _together(engine, mixes[::10])
        for _ in range(n_rounds):
            peaks.append(matmul_gflops())
            ours.append(
                statistics.median(_together(engine, mixes) for _ in range(1 if takes_all else PASSES))
            )
            singly.append(sum(separate(alone, mix) for mix in mixes))
            theirs.append(sum(original.separate(mix) for mix in mixes))
    print(f"{'':32} {'seconds':>9} {'files/s':>9} {'x real time':>12} {'ratio':>6}")
    names = (
        f"engine, {CPU_OPEN_TRACKS} open tracks",
        "engine, one at a time",
        "original Spleeter, one at a time",
    )
    for name, times in zip(names, (ours, singly, theirs), strict=True):
        median = statistics.median(times)
        ratio = statistics.median(their / our for our, their in zip(times, theirs, strict=True))
        print(f"{name:32} {median:9.1f} {len(mixes) / median:9.2f} {audio_s / median:12.1f} {ratio:6.2f}")
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    print(f"\nratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); floor 10")
    gflop = sum(_gflop(model, len(mix)) for mix in mixes)
    bound = statistics.median(their * peak / gflop for their, peak in zip(theirs, peaks, strict=True))
    print(
        f"{gflop:.0f} GFLOP at {statistics.median(peaks):.0f} GFLOP/s of matmul: {bound:.2f} x the original"
    )
    print(
        f"{len(mixes)} of {len(files)} files, {audio_s:.0f} s of audio, {threads} threads, {n_rounds} rounds"
    )


def _gflop(model: Model, n_frames: int) -> float:
    """Of a direct computation of both networks, for the columns that a track's segments have."""
    segments = model.segments(n_frames)
    own_frames = sum(segment.n_frames - FFT_FRAMES + HOP for segment in segments)
    return GFLOP_PER_SECOND * own_frames / 44_100


def _together(engine: Engine, mixes: Sequence[np.ndarray]) -> float:
    """Seconds for all, with as many tracks open as a worker has."""
    with ThreadPoolExecutor(CPU_OPEN_TRACKS) as threads:
        begin = time.perf_counter()
        list(threads.map(lambda mix: separate(engine, mix), mixes))
        return time.perf_counter() - begin


def _stereo(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]
    return np.ascontiguousarray(soxr.resample(samples, rate, 44_100))
