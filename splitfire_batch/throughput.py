"""How fast this installation is: what its earlier runs measured, kept beside the weights for the next plans.

Each entry of the file is for one model, its weights, what of the settings changes its work, a place (this
machine's processor, or a cluster's address), and the devices that worked there. It holds sums over tracks of
like length. A new run counts twice as much as the one before, so that a machine that has changed is known
soon. Where nothing was measured, what `doctor --tune` measured of the model alone is taken, or else the
figure that the registry states; `Throughput.source` says which.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.forecast import LengthClass, Usage
from splitfire_batch.machine import cpu_name, n_cores
from splitfire_batch.models import find_card, weights_id
from splitfire_batch.models.strides import segment_s
from splitfire_batch.models.weights import cache_folder
from splitfire_batch.packing import MIN_COST

UTILISATION, START_S = 0.8, 20.0
"""Of a worker's time the device's part, and seconds until the first track begins, where nobody measured."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast devices are, and how well they are kept busy."""

    seconds_per_cost: dict[int, float]
    """Device-seconds of one unit of cost, by number of the length class; of at least one class."""
    utilisation: float
    """Device-seconds in a second of a worker, in (0, 1]."""
    start_s: float
    source: str
    is_measured: bool
    n_workers: int | None = None
    """Of the last run."""
    devices: tuple[str, ...] = ()
    """Those that were measured."""

    def device_s(self, tracks: LengthClass, full_s: float) -> float:
        """Device-seconds of tracks; a class of which nothing is known is taken to be like the next one.

        Args:
            tracks: of a class.
            full_s: seconds of audio in a full segment.
        """
        nearest = min(self.seconds_per_cost, key=lambda number: (abs(number - tracks.number), -number))
        return self.seconds_per_cost[nearest] * _cost(tracks, full_s)


def find_throughput(separation: SeparationConfig, runtime: RuntimeConfig, n_workers: int) -> Throughput:
    """What is known of the speed of `n_workers` workers with these settings."""
    key, threads = _key(separation, runtime), _threads(runtime, n_workers)
    entries = [entry for entry in _read() if entry.items() >= key.items() and _fits(entry, runtime)]
    if not entries:
        return _unmeasured(separation, runtime, threads)
    best = max(entries, key=lambda entry: (entry["threads"] == threads, entry["last_run"]))
    full_s = segment_s(find_card(separation.model), separation)
    # a CPU's device is all the threads of a worker: twice as many take half the time
    factor = best["threads"] / threads if best["devices"] == ["cpu"] and threads and best["threads"] else 1.0
    classes = [LengthClass(**item) for item in best["classes"]]
    day = f"{best['last_run'][:4]}-{best['last_run'][4:6]}-{best['last_run'][6:8]}"
    where = f"on the cluster {runtime.ray}" if runtime.ray else "on this machine"
    runs = "1 run" if best["n_runs"] == 1 else f"{best['n_runs']} runs"
    return Throughput(
        {item.number: factor * item.device_s / _cost(item, full_s) for item in classes},
        min(1.0, max(0.05, sum(item.device_s for item in classes) / best["working_s"])),
        best["start_s"],
        f"measured in {runs} {where} ({', '.join(best['devices'])}), last on {day}",
        is_measured=True,
        n_workers=best["n_workers"],
        devices=tuple(best["devices"]),
    )


def keep_throughput(separation: SeparationConfig, runtime: RuntimeConfig, usage: Usage, run_id: str) -> None:
    """Add what a run measured to what is known; a file that cannot be written is told of in the log."""
    if not (usage.working_s > 0 and any(item.device_s > 0 for item in usage.classes)):
        return
    key = _key(separation, runtime)
    key |= {"devices": list(usage.devices), "threads": usage.threads}
    entries = _read()
    old = next((entry for entry in entries if entry.items() >= key.items()), None)
    rest = [entry for entry in entries if entry is not old]
    start_s = usage.start_s if old is None else (old["start_s"] + usage.start_s) / 2
    entry = {
        **key,
        "last_run": run_id,
        "n_runs": 1 + (old["n_runs"] if old else 0),
        "n_workers": usage.n_workers,
        "working_s": usage.working_s + (old["working_s"] / 2 if old else 0),
        "start_s": start_s,
        "classes": [asdict(item) for item in _merged(usage.classes, old["classes"] if old else [])],
    }
    try:
        _write([*rest, entry])
    except OSError as error:
        _log.warning("throughput_not_kept path=%s why=%r", throughput_file(), str(error))


def throughput_file() -> Path:
    """`throughput.json`, beside the folder of the weights."""
    return cache_folder().parent / "throughput.json"


def _cost(tracks: LengthClass, full_s: float) -> float:
    """Of all tracks together, as `packing.cost_of` has it."""
    return tracks.audio_s / full_s + MIN_COST * tracks.n_tracks


def _merged(new: Sequence[LengthClass], old: Sequence[dict[str, Any]]) -> list[LengthClass]:
    """Sums of both, the old ones halved."""
    classes = {item.number: item for item in new}
    for values in old:
        before = LengthClass(**values)
        now = classes.get(before.number, LengthClass(before.number, 0, 0.0))
        classes[before.number] = LengthClass(
            before.number,
            now.n_tracks + -(-before.n_tracks // 2),
            now.audio_s + before.audio_s / 2,
            now.device_s + before.device_s / 2,
        )
    return [classes[number] for number in sorted(classes)]


def _unmeasured(separation: SeparationConfig, runtime: RuntimeConfig, threads: int | None) -> Throughput:
    card = find_card(separation.model)
    speed = card.x_real_time
    source = (
        f"stated in the registry, {speed:g} x real time for a worker with two CPU cores and no GPU: a run of "
        "some tracks (--limit 20) measures this installation"
    )
    if runtime.ray is None and (cache_folder().parent / "tune.json").exists():
        from splitfire_batch.tuning import tuned_speed  # it brings torch

        tuned = tuned_speed(separation, runtime.device, threads)
        if tuned:
            speed, source = tuned, "measured of the model alone by splitfire doctor --tune"
    per_cost = segment_s(card, separation) / speed
    return Throughput({0: per_cost}, UTILISATION, START_S, source, is_measured=False)


def _key(separation: SeparationConfig, runtime: RuntimeConfig) -> dict[str, Any]:
    """What has to be alike for a measurement to count."""
    card = find_card(separation.model)
    return {
        "model": card.name,
        "weights": weights_id(card)[:16],
        "precision": separation.precision,
        "stems": sorted(separation.stems),
        "short_clip": separation.short_clip,
        "tail": separation.tail,
        "overlap": separation.overlap,
        "place": runtime.ray or cpu_name(),
        "cores": None if runtime.ray else n_cores(),
    }


def _threads(runtime: RuntimeConfig, n_workers: int) -> int | None:
    """Of a worker; None on a cluster, whose nodes nobody has seen yet."""
    return runtime.threads or (None if runtime.ray else max(1, n_cores() // max(1, n_workers)))


def _fits(entry: dict[str, Any], runtime: RuntimeConfig) -> bool:
    """Whether the devices are of the kind that is asked for."""
    is_cpu = entry["devices"] == ["cpu"]
    return runtime.device == "auto" or is_cpu == (runtime.device == "cpu")


def _read() -> list[dict[str, Any]]:
    """The file's entries; none, with a warning, if it is damaged."""
    path = throughput_file()
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            _check(entry)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("throughput_ignored path=%s why=%r; it is made anew by the next run", path, str(error))
        return []
    return entries


def _check(entry: dict[str, Any]) -> None:
    """Raise TypeError or ValueError for an entry that cannot be used."""
    kinds = {
        "last_run": str,
        "n_runs": int,
        "n_workers": int,
        "working_s": float,
        "start_s": float,
        "threads": int | None,
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(entry[name], kind)]
    classes = [LengthClass(**item) for item in entry["classes"]]
    if wrong or not isinstance(entry["devices"], list) or not entry["working_s"] > 0 or not classes:
        raise ValueError(f"an entry is not as it was written: {', '.join(wrong) or 'devices or classes'}")
    if not all(item.audio_s >= 0 and item.n_tracks > 0 and item.device_s >= 0 for item in classes):
        raise ValueError("an entry has a class without tracks, or of negative length")
    if not all(isinstance(item.number, int) for item in classes):
        raise TypeError("an entry has a class whose number is none")


def _write(entries: Sequence[dict[str, Any]]) -> None:
    path = throughput_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        whole.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        whole.replace(path)
