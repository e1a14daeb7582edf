"""`splitfire doctor --tune`: measures the model on this machine, keeps the best, and says what was found."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flows.settings import Settings
from splitfire_batch.audio import Resampler, channel_groups, open_audio, to_float, to_lanes
from splitfire_batch.calibration import Tuned, tune
from splitfire_batch.errors import ConfigError
from splitfire_batch.here import pick_device
from splitfire_batch.models import find_card
from splitfire_batch.models.fidelity import FLOORS_DB
from splitfire_batch.tuning import Trial, cache_file, device_name, keep

_BUSY = 0.5
"""Load per core above which a measurement says more about the neighbours."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What `tune_here` found."""

    model: str
    device: str
    torch: str
    load: float
    """Of others, per core, just before."""
    path: str
    """Where the best is kept."""
    results: tuple[Tuned, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON, which knows no infinity: a stem that equals fp32's has the SNR null."""
        record = asdict(self)
        for result, values in zip(self.results, record["results"], strict=True):
            values["best"] = [asdict(trial) for trial in result.best]
            for stem in values["fidelity"]:
                stem.update({name: None for name in ("snr_db", "level_db") if not math.isfinite(stem[name])})
        return record


def tune_here(settings: Settings, file: Path | None) -> Measured:
    """Measure each precision of this machine's device, and keep the best for the workers to come.

    Args:
        settings: model, device, and where weights may come from.
        file: audio to measure the distance from fp32 on; default: music made for it.

    Raises:
        ConfigError: no such file, or no place to keep the result.
        TrackError: the file cannot be decoded.
    """
    separation, device = settings.separation, pick_device(settings.runtime)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    music = None if file is None else _first_lane(file, find_card(separation.model).sample_rate)
    results = tuple(tune(separation, settings.runtime, device, music))
    try:
        for result in results:
            keep(replace(separation, precision=result.precision), device, result.best)
    except OSError as error:
        raise ConfigError(
            f"the result cannot be kept: {error}; set SPLITFIRE_CACHE to a folder that can be written"
        ) from error
    name = device_name(torch.device(device))
    return Measured(separation.model, name, torch.__version__, load, str(cache_file()), results)


def tune_lines(found: Measured) -> Iterator[str]:
    """The table a person reads; what will be used is marked."""
    yield f"{found.model} on {found.device}, torch {found.torch}"
    yield f"  {'precision':10} {'threads':>7} {'batch':>5}  {'layout':14} {'x real time':>11}"
    for result in found.results:
        yield from (_trial_line(result, trial) for trial in result.trials)
    if not any(result.trials for result in found.results):
        yield "  of an ensemble only the distance from fp32 is measured, not its speed"
    for result in found.results:
        yield from _fidelity_lines(result)
    if found.load > _BUSY:
        yield f"this machine was busy (load {found.load:.1f} per core); measure again when it is idle"
    yield f"* is used where batch and threads are not set; kept in {found.path}"


def _trial_line(result: Tuned, trial: Trial) -> str:
    way = trial.tuning
    mark = "*" if trial in result.best else " "
    layout = "channels last" if way.is_channels_last else "channels first"
    cells = f"{way.threads or '-':>7} {way.batch or '-':>5}  {layout:14} {trial.x_real_time:11.1f}"
    return f"{mark} {result.precision:10} {cells}"


def _fidelity_lines(result: Tuned) -> Iterator[str]:
    floor_db = FLOORS_DB[result.precision]
    if result.refusal:
        yield f"{result.precision} is refused: {result.refusal}"
    elif result.precision != "fp32":
        for stem in result.fidelity:
            verdict = "keeps" if stem.keeps(floor_db) else "misses"
            yield (
                f"{result.precision} {verdict} its floor of {floor_db:.0f} dB from fp32 with "
                f"{stem.snr_db:.1f} dB in {stem.stem}, which is {stem.level_db:+.0f} dB to the mix"
            )


def _first_lane(file: Path, sample_rate: int) -> Tensor:
    """The file's first channel pair (2, T) at that rate."""
    if not file.is_file():
        raise ConfigError(f"there is no file {file}")
    with open_audio(file) as decoder:
        source = decoder.format
        groups = channel_groups(source.n_channels, source.channel_mask)
        forth = Resampler(source.sample_rate, sample_rate, 2 * len(groups))
        parts = [forth.push(to_lanes(to_float(block), groups))[0] for block in decoder.blocks()]
    return torch.from_numpy(np.concatenate([*parts, forth.finish()[0]], axis=-1))
