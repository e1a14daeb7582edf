"""Engine against the original Spleeter and against the matmul peak, on music, load time excluded.

Rounds are interleaved: matmul, ours, the original. Ours is the whole engine, STFT, masks and inverse STFT
included: with both estimates, as the original gives them (`residual = "drop"`), and with the one that the
default settings need, where accompaniment is the mix minus the vocals. 2.05 GFLOP is what a direct
computation of the two networks takes per second of stereo audio (multiplications and additions of the
convolutions, counted from their shapes). Winograd's takes fewer: the share of matmul compares time, not use.
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np
import soundfile
import torch

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.models import load_model
from tests.assets import music
from tests.benchmarks.original import N_PREFETCHED, Original

ROUNDS = 5
GFLOP_PER_SECOND = 2.05
SECONDS = 120


def main() -> None:
    """Print x real time of both, their ratio, and the share of the matmul peak."""
    mix = _mix()
    audio_s = len(mix) / 44_100
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    times: dict[str, list[float]] = {"both estimates": [], "default settings": [], "original Spleeter": []}
    peaks = []
    both = Engine(load_model(SeparationConfig(residual="drop"), "cpu"))
    default = Engine(load_model(SeparationConfig(), "cpu"))
    with both, default, Original(threads) as original:
        runs = (lambda: separate(both, mix), lambda: separate(default, mix), lambda: original.separate(mix))
        for run in (runs[0], runs[1], *[runs[2]] * N_PREFETCHED):
            run()
        for _ in range(ROUNDS):
            peaks.append(matmul_gflops())
            for run, seconds in zip(runs, times.values(), strict=True):
                seconds.append(run())
    _print(times, audio_s, statistics.median(peaks))
    print(f"{audio_s:.0f} s of music, {threads} threads, {ROUNDS} rounds")


def _print(times: dict[str, list[float]], audio_s: float, peak: float) -> None:
    print(f"{'':20} {'x real time':>12} {'':>15} {'GFLOP/s':>8} {'of matmul':>10} {'of original':>12}")
    original = times["original Spleeter"]
    for name, seconds in times.items():
        rate = audio_s / statistics.median(seconds)
        spread = f"{audio_s / max(seconds):.1f} to {audio_s / min(seconds):.1f}"
        ratio = statistics.median(their / our for our, their in zip(seconds, original, strict=True))
        flops = rate * GFLOP_PER_SECOND
        print(f"{name:20} {rate:12.1f} {spread:>15} {flops:8.1f} {flops / peak:10.0%} {ratio:12.2f}")
    print(f"{'matmul, float32':20} {'':12} {'':15} {peak:8.1f}")
    print("\nfloors, both estimates: 2.5 x the original, 50 % of matmul")


def matmul_gflops() -> float:
    """Rate of a float32 matrix product of 1,536, the best of a few."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    best = min(_timed(lambda: a @ b) for _ in range(8))
    return 2 * 1536**3 / best / 1e9


def _timed(work: object) -> float:
    begin = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - begin


def _mix() -> np.ndarray:
    samples, rate = soundfile.read(music()[1], dtype="float32", frames=SECONDS * 44_100)
    assert rate == 44_100
    return np.ascontiguousarray(samples)


def separate(engine: Engine, mix: np.ndarray) -> float:
    """Seconds from decoded blocks to blended estimates."""
    blocks = torch.from_numpy(mix.T.copy())[None].split(65_536, dim=-1)
    begin = time.perf_counter()
    n_frames = sum(frames.shape[-1] for frames in engine.separate(blocks))
    seconds = time.perf_counter() - begin
    assert n_frames == len(mix)
    return seconds
