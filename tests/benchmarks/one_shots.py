"""One-shots: samples of sonic-pi and hydrogen, a seeded 100 or all 834, file by file, against the original.

Both get decoded stereo arrays at 44.1 kHz, one process, one loaded model, one file after the other: the
original as its `Separator.separate` does it, ours through the engine with `short_clip = "adaptive"`.
`--all` takes every file, once.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.models import load_model
from tests.benchmarks.engine import separate
from tests.benchmarks.library import one_shot_files
from tests.benchmarks.original import Original

N_FILES = 100
ROUNDS = 3


def main(arguments: Sequence[str] = ()) -> None:
    """Print seconds and files per second of both, and their ratio."""
    parser = argparse.ArgumentParser(prog="one_shots")
    parser.add_argument("--all", action="store_true", help="all files in one round")
    takes_all = parser.parse_args(arguments).all
    files = one_shot_files()
    chosen = files if takes_all else random.Random(1).sample(files, N_FILES)
    n_rounds = 1 if takes_all else ROUNDS
    mixes = [_stereo(path) for path in chosen]
    audio_s = sum(len(mix) for mix in mixes) / 44_100
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    model = load_model(SeparationConfig(), "cpu")
    ours, theirs = [], []
    with Engine(model) as engine, Original(threads) as original:
        for mix in mixes[:5]:
            separate(engine, mix)
        for _ in range(n_rounds):
            ours.append(sum(separate(engine, mix) for mix in mixes))
            theirs.append(sum(original.separate(mix) for mix in mixes))
    print(f"{'':24} {'seconds':>9} {'files/s':>9} {'x real time':>12}")
    for name, times in (("splitfire engine", ours), ("original Spleeter", theirs)):
        median = statistics.median(times)
        print(f"{name:24} {median:9.1f} {len(mixes) / median:9.2f} {audio_s / median:12.1f}")
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    print(f"\nratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); floor 10")
    print(
        f"{len(mixes)} of {len(files)} files, {audio_s:.0f} s of audio, {threads} threads, {n_rounds} rounds"
    )


def _stereo(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]
    return np.ascontiguousarray(soxr.resample(samples, rate, 44_100))
