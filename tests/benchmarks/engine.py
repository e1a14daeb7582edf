"""Engine against the original Spleeter and against the matmul peak, on music, load time excluded.

Rounds are interleaved: matmul, ours, the original. Ours is the whole engine, STFT, masks and inverse STFT
included; 2.05 GFLOP is what the two networks need per second of stereo audio (multiplications and additions
of the convolutions, counted from their shapes).
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
from tests.benchmarks.original import Original

ROUNDS = 5
GFLOP_PER_SECOND = 2.05
SECONDS = 120


def main() -> None:
    """Print x real time of both, their ratio, and the share of the matmul peak."""
    mix = _mix()
    audio_s = len(mix) / 44_100
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    model = load_model(SeparationConfig(), "cpu")
    ours, theirs, peaks = [], [], []
    with Engine(model) as engine, Original(threads) as original:
        _separate(engine, mix[: 30 * 44_100])
        for _ in range(2):  # it prefetches: a call may answer for the array of the call before
            original.separate(mix)
        for _ in range(ROUNDS):
            peaks.append(matmul_gflops())
            ours.append(_separate(engine, mix))
            theirs.append(original.separate(mix))
    peak = statistics.median(peaks)
    our_rate, their_rate = (audio_s / statistics.median(times) for times in (ours, theirs))
    print(f"{'':24} {'x real time':>12} {'GFLOP/s':>9}")
    for name, times in (("splitfire engine", ours), ("original Spleeter", theirs)):
        rate = audio_s / statistics.median(times)
        spread = f"{audio_s / max(times):.1f} to {audio_s / min(times):.1f}"
        print(f"{name:24} {rate:12.1f} {rate * GFLOP_PER_SECOND:9.1f}   ({spread})")
    print(f"{'matmul peak, float32':24} {'':12} {peak:9.1f}")
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    print(f"\nratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); floor 2.5")
    print(f"share of the matmul peak {our_rate * GFLOP_PER_SECOND / peak:.0%}; floor 50 %")
    print(
        f"{audio_s:.0f} s of music, {threads} threads, {ROUNDS} rounds; original {their_rate:.1f} x real time"
    )


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


def _separate(engine: Engine, mix: np.ndarray) -> float:
    """Seconds from decoded blocks to blended estimates."""
    blocks = torch.from_numpy(mix.T.copy())[None].split(65_536, dim=-1)
    begin = time.perf_counter()
    n_frames = sum(frames.shape[-1] for frames in engine.separate(blocks))
    seconds = time.perf_counter() - begin
    assert n_frames == len(mix)
    return seconds
