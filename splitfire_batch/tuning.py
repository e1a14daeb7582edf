"""Which batch, threads and memory layout a model is run with on this machine, as measured by `calibration`.

The measurements lie in a small file beside the cached weights. Each entry is for one model, its weights, a
device, a version of torch, a precision and a number of cores, so that nothing measured elsewhere is taken
over. What is chosen changes stems by rounding only, and is named in every row's numerics.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.machine import cpu_name, n_cores
from splitfire_batch.models import find_card, weights_id
from splitfire_batch.models.weights import cache_folder

_log = logging.getLogger(__name__)

_ENGINE = 2
"""Raised by hand when batches come to be run in another way, and other ones are best."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a model is run."""

    batch: int | None = None
    """Full segments in a batch; None for the engine's default."""
    threads: int | None = None
    """Of a CPU's arithmetic; None for torch's default."""
    is_channels_last: bool = True


@dataclass(frozen=True, slots=True)
class Trial:
    """How fast the model alone is in one way."""

    tuning: Tuning
    x_real_time: float


def find_tuning(
    separation: SeparationConfig, runtime: RuntimeConfig, device: str, threads: int | None = None
) -> Tuning:
    """How to run a model here: as the settings say, else as was measured, else by default.

    A file that cannot be read, or was made with another torch, weights or device, is passed over with a
    warning.

    Args:
        separation: names model and precision.
        runtime: `batch` wins over what was measured.
        device: `cpu`, `cuda` or `cuda:<n>`.
        threads: those that were given to this process; None to choose the best.
    """
    here = _setup(separation, device)
    alike = [e for e in _read(cache_file()) if all(e[name] == here[name] for name in ("model", "precision"))]
    ours = [entry for entry in alike if entry.items() >= here.items()]
    if alike and not ours:
        _log.warning("tuning_stale path=%s hint='run splitfire doctor --tune again'", cache_file())
    fitting = [entry for entry in ours if threads is None or entry["threads"] in (threads, None)]
    if not fitting:
        return Tuning(runtime.batch, threads)
    best = max(fitting, key=lambda entry: float(entry["x_real_time"]))  # type: ignore[arg-type]
    found = Tuning(best["batch"], best["threads"], best["is_channels_last"])  # type: ignore[arg-type]
    return replace(found, batch=runtime.batch or found.batch, threads=threads or found.threads)


def tuned_speed(separation: SeparationConfig, device: str, threads: int | None) -> float | None:
    """Seconds of audio that the model alone separates in one here, as was measured; None if nobody has.

    Args:
        separation: names model and precision.
        device: `cpu`, `cuda`, or `auto`.
        threads: of a worker; None for any number.
    """
    is_cuda = device != "cpu" and torch.cuda.is_available()
    here = _setup(separation, "cuda" if is_cuda else "cpu")
    ours = [entry for entry in _read(cache_file()) if entry.items() >= here.items()]
    fitting = [entry for entry in ours if is_cuda or threads in (None, entry["threads"])]
    return max((float(entry["x_real_time"]) for entry in fitting), default=None)  # type: ignore[arg-type]


def keep(separation: SeparationConfig, device: str, trials: Sequence[Trial]) -> Path:
    """Write the chosen trials of a model and precision into the file, in place of earlier ones.

    Raises:
        OSError: the file cannot be written.
    """
    path, setup = cache_file(), _setup(separation, device)
    entries = [entry for entry in _read(path) if not entry.items() >= setup.items()]
    entries += [{**setup, **asdict(trial.tuning), "x_real_time": trial.x_real_time} for trial in trials]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        whole.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        whole.replace(path)
    return path


def cache_file() -> Path:
    """`tune.json`, beside the folder of the weights."""
    return cache_folder().parent / "tune.json"


def device_name(device: torch.device) -> str:
    """What the machine calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def _setup(separation: SeparationConfig, device: str) -> dict[str, object]:
    """What has to be alike for a measurement to count."""
    card = find_card(separation.model)
    return {
        "model": card.name,
        "weights": weights_id(card)[:16],
        "device": device_name(torch.device(device)),
        "torch": torch.__version__,
        "precision": separation.precision,
        "cores": n_cores(),
        "engine": _ENGINE,
    }


def _read(path: Path) -> list[dict[str, object]]:
    """The file's entries; none, with a warning, if it is damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kinds = {
            "model": str,
            "precision": str,
            "batch": int,
            "threads": int | None,
            "is_channels_last": bool,
            "x_real_time": float,
        }
        if any(not isinstance(entry[name], kind) for entry in entries for name, kind in kinds.items()):
            raise TypeError("an entry has a value of another type")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("tuning_ignored path=%s why=%r; run splitfire doctor --tune again", path, str(error))
        return []
    return list(entries)
