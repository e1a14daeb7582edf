"""HTDemucs: the engine against the package's `apply_model`, and what the lean tail saves and changes.

Speed: the published network at full size with random weights, on music, float32, without loading. Rounds are
interleaved: the package, ours with the same segments (`tail = "reference"`), ours without those that cover
nothing new. The short clip is 6.5 s long: two segments, or one.

Tails: a small network, trained here for a minute on a song whose stems are known, separates the song's
beginning cut off at many places. How the two tails differ, and which of them is nearer to the stems, over the
second before the cut: all that the last segments touch.

Levels: the package's command line standardises the whole track first, which we leave out, since each segment
is standardised anyway. What that changes where the song is quieter and quieter, with the same small network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np
import soundfile
import torch
from demucs.apply import apply_model
from torch import Tensor

from splitfire_batch.engine import Engine
from tests.assets import musdb_song, music
from tests.demucs_networks import FOUR, FULL, SMALL, Network

RATE = 44_100
SHORT_S = 6.5
STEPS, BATCH = 400, 4
N_CUTS = 40
LEVELS_DB = (0, -20, -40, -60, -80, -100)
STREAMS = ("mix", *FOUR)


def main(options: Sequence[str] = ()) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks htdemucs")
    parser.add_argument("--seconds", type=float, default=29.0, help="of the longer piece of music")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="of training; 0: speeds only")
    chosen = parser.parse_args(options)
    if chosen.rounds:
        compare_speeds(chosen.seconds, chosen.rounds)
    if chosen.steps:
        song = _song()
        network = _trained(song, chosen.steps)
        compare_tails(network, song)
        compare_levels(network, song)


def compare_speeds(seconds: float, rounds: int) -> None:
    """Print x real time of all three for a long and a short clip."""
    mix, _ = soundfile.read(music()[0], dtype="float32", frames=int(max(seconds, SHORT_S) * RATE))
    whole = torch.from_numpy(mix.T.copy())[None]
    short = whole[..., : int(SHORT_S * RATE)]
    with Engine(FULL.model(tail="reference")) as full, Engine(FULL.model(tail="lean")) as lean:
        runs: dict[str, Callable[[Tensor], Any]] = {
            "apply_model": lambda x: apply_model(FULL.reference, x, shifts=0, split=True, overlap=0.25),
            "ours, reference": lambda x: list(full.separate([x])),
            "ours, lean": lambda x: list(lean.separate([x])),
        }
        for run in runs.values():
            run(short[..., : RATE * 5])
        for clip in (whole, short):
            times = {name: [] for name in runs}  # type: dict[str, list[tuple[float, float]]]
            for _ in range(rounds):
                for name, run in runs.items():
                    began = time.perf_counter(), time.process_time()
                    run(clip)
                    times[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            _print_speeds(clip.shape[2] / RATE, times)


def _print_speeds(audio_s: float, times: dict[str, list[tuple[float, float]]]) -> None:
    """By the clock, and by the processors' time, which other programs matter less to."""
    for name, each in times.items():
        pairs = list(zip(each, times["apply_model"], strict=True))
        by_clock, by_cpu = (statistics.median(their[i] / our[i] for our, their in pairs) for i in (0, 1))
        seconds = sorted(wall for wall, _ in each)
        print(
            f"{audio_s:5.1f} s  {name:16} {audio_s / statistics.median(seconds):6.2f} x real time "
            f"({audio_s / seconds[-1]:.2f} to {audio_s / seconds[0]:.2f}); of apply_model's speed "
            f"{by_clock:.2f} by the clock, {by_cpu:.2f} by processor time",
            flush=True,
        )


def compare_tails(network: Network, song: Tensor) -> None:
    """Print the difference of the tails, and the SDR of each."""
    models = {tail: network.model(tail=tail) for tail in ("reference", "lean")}
    length, stride = models["lean"]._length, models["lean"]._stride
    cuts = torch.linspace(stride + 1, length, N_CUTS // 2, dtype=torch.int64)
    cuts = torch.cat((cuts, cuts + 2 * stride))
    snrs, sdrs = [], {tail: [] for tail in models}  # type: tuple[list[float], dict[str, list[float]]]
    for n_frames in cuts.tolist():
        found = {tail: _separated(model, song[:1, :, :n_frames])[0] for tail, model in models.items()}
        end = slice(max(0, n_frames - RATE), n_frames)
        snrs.append(_ratio_db(found["reference"][..., end], found["lean"][..., end]))
        for tail, stems in found.items():
            sdrs[tail].append(_ratio_db(song[1:, :, end], stems[..., end]))
    gains = [lean - full for lean, full in zip(sdrs["lean"], sdrs["reference"], strict=True)]
    print(f"\n{N_CUTS} cuts; medians over the last second")
    for tail, values in sdrs.items():
        print(f"{tail:10} {statistics.median(values):6.2f} dB SDR")
    print(f"lean against reference: {statistics.median(snrs):.1f} dB SNR, at worst {min(snrs):.1f} dB")
    print(f"lean minus reference: {statistics.median(gains):+.3f} dB SDR, from {min(gains):+.3f} to "
          f"{max(gains):+.3f}, better in {sum(gain > 0 for gain in gains)} of {len(gains)}")  # fmt: skip


def compare_levels(network: Network, song: Tensor) -> None:
    """Print the difference that standardising the track first makes, and the SDR without and with it."""
    model = network.model(tail="reference")
    for level_db in LEVELS_DB:
        gain = 10 ** (level_db / 20)
        mix, stems = song[:1] * gain, song[1:] * gain
        mean, deviation = mix.mean(1).mean(), mix.mean(1).std()
        plain = _separated(model, mix)[0]
        first = _separated(model, (mix - mean) / (deviation + 1e-8))[0] * deviation + mean
        print(f"{level_db:4} dB: {_ratio_db(first, plain):5.1f} dB SNR between them; SDR "
              f"{_ratio_db(stems, plain):.3f} dB without, {_ratio_db(stems, first):.3f} dB with")  # fmt: skip


def _song() -> Tensor:
    """The mix and its stems (5, 2, T)."""
    streams = []
    for index in range(len(STREAMS)):
        with av.open(str(musdb_song())) as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=index)]
        streams.append(np.concatenate(frames, axis=1))
    n_frames = min(stream.shape[1] for stream in streams)
    return torch.from_numpy(np.stack([stream[:, :n_frames] for stream in streams])).float()


def _trained(song: Tensor, steps: int) -> Network:
    network = replace(SMALL, name="trained", kwargs={**SMALL.kwargs, "channels": 16, "segment": "1/2"})
    net, numbers = network.reference.train().requires_grad_(True), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    length, began = int(RATE / 2), time.perf_counter()
    for step in range(steps):
        starts = torch.randint(song.shape[2] - length, (BATCH,), generator=numbers).tolist()
        batch = torch.stack([song[:, :, start : start + length] for start in starts])
        loss = (net(batch[:, 0]) - batch[:, 1:]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, steps - 1):
            print(
                f"step {step}: mean error {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True
            )
    net.eval().requires_grad_(False)
    return network


def _separated(model: Any, mix: Tensor) -> Tensor:
    with Engine(model) as engine:
        return torch.cat(list(engine.separate([mix])), dim=3)


def _ratio_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))
