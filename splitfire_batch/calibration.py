"""Measures how a model is run best on this machine: `splitfire doctor --tune`.

For each precision that the device has: how far it is from fp32, and how fast it is by memory layout, batch
and threads. Rounds are interleaved and medians taken, so that a busy minute slows all candidates alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitfire_batch.batching import Batcher
from splitfire_batch.config import Precision, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.machine import n_cores
from splitfire_batch.models import load_model, supply_of
from splitfire_batch.models.ensemble import Ensemble
from splitfire_batch.models.fidelity import Fidelity, excerpt, full_segment, measure
from splitfire_batch.models.precision import precisions
from splitfire_batch.requests import RequestQueue
from splitfire_batch.segments import Model
from splitfire_batch.stopwatch import DeviceClock
from splitfire_batch.transfer import open_transfer
from splitfire_batch.tuning import Trial, Tuning

ROUNDS = 5
BUDGET_S = 24.0
"""For batches and threads in all precisions together; at least one round is always measured."""
NEARLY = 0.97
"""A smaller batch is chosen if it is this close to the fastest: it pads less and holds less."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was measured for one precision."""

    precision: Precision
    fidelity: tuple[Fidelity, ...] = ()
    trials: tuple[Trial, ...] = ()
    refusal: str = ""
    """Why the precision cannot be used, if so."""

    @property
    def best(self) -> tuple[Trial, ...]:
        """The trial to use, for each number of threads."""
        return tuple(_best([t for t in self.trials if t.tuning.threads == n]) for n in self._threads)

    @property
    def _threads(self) -> list[int | None]:
        return list(dict.fromkeys(trial.tuning.threads for trial in self.trials))


def tune(
    separation: SeparationConfig, runtime: RuntimeConfig, device: str, music: Tensor | None = None
) -> Iterator[Tuned]:
    """Measure each precision that the device has, fp32 first; of an ensemble the fidelity alone.

    Args:
        separation: names the model.
        runtime: where the weights may come from.
        device: `cpu`, `cuda` or `cuda:<n>`.
        music: (C, T) at the model's rate, to measure the fidelity on; default: made here.

    Raises:
        ConfigError: the model cannot be had.
    """
    known, supply = precisions(torch.device(device)), supply_of(runtime)
    separation = replace(separation, stems=(), residual="drop")  # all estimates
    exact = load_model(replace(separation, precision="fp32"), device, supply)
    made = excerpt(full_segment(exact), exact.sample_rate)[: exact.n_channels]
    segment = made if music is None else _whole(music, full_segment(exact))
    for precision in known:
        wanted = replace(separation, precision=precision)
        try:
            first = load_model(wanted, device, supply, is_channels_last=False)
            last = exact if precision == "fp32" else load_model(wanted, device, supply)
        except ConfigError as error:
            yield Tuned(precision, refusal=str(error))
            continue
        trials: tuple[Trial, ...] = ()
        if not isinstance(first, Ensemble) and not isinstance(last, Ensemble):
            trials = _trials({True: last, False: first}, made, BUDGET_S / len(known))
        yield Tuned(precision, measure(last, exact, segment), trials)


def _whole(music: Tensor, n_frames: int) -> Tensor:
    """The middle of the music, repeated if it is shorter."""
    music = music.repeat(1, -(-n_frames // music.shape[-1]))
    start = (music.shape[-1] - n_frames) // 2
    return music[:, start : start + n_frames].contiguous()


def _trials(models: Mapping[bool, Model], segment: Tensor, budget_s: float) -> tuple[Trial, ...]:
    """First the layout, one segment at a time; then batches and threads in the faster one."""
    is_cpu = models[True].device.type == "cpu"
    counts = sorted({*(2**n for n in range(n_cores().bit_length())), n_cores()}) if is_cpu else [None]
    threads_before = torch.get_num_threads()
    try:
        layouts = [Tuning(1, counts[-1], is_last) for is_last in (True, False)]
        rounds = zip(*_seconds(models, layouts, segment, math.inf).values(), strict=True)
        # Elsewhere channels last is up to twice as fast: to lose its place it has to lose every round.
        is_last = any(last <= first for last, first in rounds)
        batches = (1, 2, 3, 4) if is_cpu else (1, 2, 4, 8, 16, 32)
        ways = [Tuning(batch, n, is_last) for n in counts for batch in batches]
        seconds = _seconds(models, ways, segment, budget_s)
    finally:
        torch.set_num_threads(threads_before)
    audio_s = segment.shape[-1] / models[True].sample_rate
    return tuple(
        Trial(way, (way.batch or 1) * audio_s / statistics.median(took)) for way, took in seconds.items()
    )


def _seconds(
    models: Mapping[bool, Model], ways: Sequence[Tuning], segment: Tensor, budget_s: float
) -> dict[Tuning, list[float]]:
    """Seconds of each way in interleaved rounds, after one to warm up; what does not fit is left out."""
    seconds: dict[Tuning, list[float]] = {way: [] for way in ways}
    begin = time.perf_counter()
    for number in range(1 + ROUNDS):
        for way in list(seconds):
            try:
                took_s = _one_call(models[way.is_channels_last], way, segment)
            except torch.OutOfMemoryError:
                del seconds[way]
                continue
            seconds[way] += [took_s] if number else []
        if number and time.perf_counter() - begin > budget_s:
            break
    return seconds


def _one_call(model: Model, way: Tuning, segment: Tensor) -> float:
    """Seconds of a batch, copies to and from the device left out."""
    if way.threads:
        torch.set_num_threads(way.threads)
    if model.is_for_one_core:
        return _on_cores(model, way, segment)
    segments = segment.expand(way.batch or 1, -1, -1).to(model.device, copy=True)
    is_cuda = model.device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(model.device)
    begin = time.perf_counter()
    model(segments)
    if is_cuda:
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - begin


def _on_cores(model: Model, way: Tuning, segment: Tensor) -> float:
    """Seconds of a batch, as the engine runs them: one on each core, all their memory already there."""
    n, batch = way.threads or torch.get_num_threads(), way.batch or 1
    requests = RequestQueue(lambda _: batch)
    batcher = Batcher(requests, open_transfer(model), DeviceClock(n), n)
    try:
        for _ in range(2):
            begin = time.perf_counter()
            requests.receive(requests.send([segment] * (n * batch)))
        return (time.perf_counter() - begin) / n
    finally:
        batcher.close()


def _best(trials: Sequence[Trial]) -> Trial:
    fastest = max(trial.x_real_time for trial in trials)
    near = [trial for trial in trials if trial.x_real_time >= NEARLY * fastest]
    return min(near, key=lambda trial: trial.tuning.batch or 0)
